//! The recorder: a journal of every recorded publication, in which each tag is written as it
//! arrives, live or late.
//!
//! ```text
//!   tap (hub), ingest/backhaul --append--> index --queue--> writer --> DIR/FEED/PUBLICATION.journal
//!                              <--wanted-- (ranges)                      | filer, export
//!                                                                        v
//!                                                            DIR/FEED/NAME.mp4 (or .flv)
//! ```
//!
//! Nobody waits for the disk: a tag that the disk has no time or no room for is dropped, counted,
//! and a hole like any other. Holes wait on disk. A journal is read again after any crash.

mod crc;
mod disk;
mod export;
mod feed;
mod filer;
mod files;
mod film;
mod flv;
mod format;
mod index;
mod line;
mod ranges;
mod scan;
mod share;
mod shelf;
mod state;
pub mod tap;
mod walk;
mod writer;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;
use tracing::warn;

pub use disk::list;
pub use export::{ExportError, Exported, export};
pub use feed::{FeedRecorder, Unfinished};
pub use filer::OnAir;
pub use film::{Mark, Part};
pub use format::Source;
pub use scan::JournalError;
pub use shelf::{Opened, ShelfError};

use crate::config::record::{Record, RecordFormat};
use crate::platform;
use crate::secret::FeedName;
use crate::status::{Recording, RecordingInfo};
use format::{FileHead, unix_ms};
use index::Index;
use state::{FeedState, State, switch_on};

/// All recordings of a studio. Clones are handles to the same.
#[derive(Clone, Debug)]
pub struct Recorder(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    /// Bytes that stay free on the disk.
    keep_free: u64,
    state: Mutex<State>,
    /// Wakes the writer.
    work: Condvar,
    /// Wakes it early at the end.
    stop: Condvar,
    /// Told when feeds are switched.
    switched: watch::Sender<()>,
    writer: Mutex<Option<JoinHandle<()>>>,
    filer: Mutex<Option<JoinHandle<()>>>,
}

impl Recorder {
    /// Opens the journals that are in `dir`, and repairs what a crash has left; `keep_free` bytes
    /// stay free on its disk. Where the directory cannot be used, nothing is recorded and
    /// [`alarm`](Self::alarm) says why: live feeds do not depend on it.
    pub fn open(dir: &Path, keep_free: u64) -> Self {
        let mut state = State { is_ready: true, ..State::default() };
        let found = platform::create_private_dir(dir).and_then(|()| disk::find(dir, &mut state));
        let is_usable = found.is_ok();
        if let Err(error) = found {
            let alarm = format!("nothing is recorded: cannot use {}: {error}", dir.display());
            warn!("{alarm}");
            state.alarm = Some(alarm);
            state.is_ready = false;
        }
        let shared = Arc::new(Shared {
            dir: dir.to_owned(),
            keep_free,
            state: Mutex::new(state),
            work: Condvar::new(),
            stop: Condvar::new(),
            switched: watch::Sender::new(()),
            writer: Mutex::default(),
            filer: Mutex::default(),
        });
        if is_usable {
            let writer = shared.clone();
            let spawned = std::thread::Builder::new()
                .name("recorder".into())
                .spawn(move || writer::run(&writer));
            match spawned {
                Ok(handle) => *lock(&shared.writer) = Some(handle),
                Err(error) => {
                    let mut state = shared.lock();
                    state.is_ready = false;
                    state.alarm = Some(format!("nothing is recorded: {error}"));
                }
            }
        }
        Self(shared)
    }

    /// Makes files of journals from now on. `on_air` says which publication of a feed goes on,
    /// and is asked once a second.
    pub fn make_files(&self, record: &Record, on_air: OnAir) {
        if record.format == RecordFormat::Journal || lock(&self.0.writer).is_none() {
            return;
        }
        let (shared, settings) = (self.0.clone(), filer::Settings::of(record, on_air));
        let filing = std::thread::Builder::new().name("files".into()).spawn(move || {
            let run = AssertUnwindSafe(|| filer::run(&shared, settings));
            // The journals go on, and the next start makes files of them.
            if catch_unwind(run).is_err() {
                let alarm = "no files are made of recordings any more, because of a fault in \
                             firstmile: restart the studio when nothing is on air. Nothing is lost";
                tracing::error!("{alarm}");
                shared.lock().files_alarm = Some(alarm.into());
            }
        });
        match filing {
            Ok(handle) => *lock(&self.0.filer) = Some(handle),
            Err(error) => {
                let alarm = format!("no files are made of recordings: {error}");
                self.0.lock().files_alarm = Some(alarm);
            }
        }
    }

    /// Where the journals are.
    pub fn dir(&self) -> &Path {
        &self.0.dir
    }

    /// Says which feeds are recorded, and since when; all others are not.
    pub fn set_recorded(&self, feeds: impl IntoIterator<Item = (FeedName, SystemTime)>) {
        let mut recorded: HashMap<_, _> =
            feeds.into_iter().map(|(feed, since)| (feed, unix_ms(since))).collect();
        let mut state = self.0.lock();
        let State { feeds, journals, .. } = &mut *state;
        for (name, feed) in feeds.iter_mut() {
            match recorded.remove(name) {
                None => feed.since = None,
                Some(since) if feed.since.is_none() => switch_on(name, feed, since, journals),
                Some(_) => {}
            }
        }
        for (name, since) in recorded {
            let mut feed = FeedState::default();
            switch_on(&name, &mut feed, since, journals);
            feeds.insert(name, feed);
        }
        drop(state);
        self.0.switched.send_replace(());
    }

    /// The way to record this feed; `None` while it is not recorded.
    pub fn feed(&self, name: &str) -> Option<FeedRecorder> {
        let feed: FeedName = name.parse().ok()?;
        let is_recorded = self.0.lock().is_recorded(&feed);
        is_recorded.then(|| FeedRecorder::new(self.0.clone(), feed))
    }

    /// What keeps the recorder from its work.
    pub fn alarm(&self) -> Option<String> {
        self.0.lock().alarm()
    }

    /// What there is of each feed that is recorded or has recordings.
    pub fn status(&self) -> BTreeMap<FeedName, Recording> {
        let state = self.0.lock();
        let mut all: BTreeMap<_, Recording> = BTreeMap::new();
        for (name, feed) in &state.feeds {
            let on = feed.since.is_some();
            let alarm = state.alarm().filter(|_| on);
            let recording = Recording { on, dropped: feed.dropped, alarm, ..Recording::default() };
            all.insert(name.clone(), recording);
        }
        for index in state.journals.values().filter(|index| state.is_shown(index)) {
            let summary = index.summary();
            let recording = all.entry(index.head.feed.clone()).or_default();
            recording.publications += 1;
            recording.bytes = recording.bytes.saturating_add(summary.bytes);
            recording.gone = recording.gone.saturating_add(summary.gone);
            recording.missing = recording.missing.saturating_add(index.missing());
        }
        all
    }

    /// Every publication that is recorded, oldest first.
    pub fn list(&self) -> Vec<RecordingInfo> {
        let state = self.0.lock();
        let shown = state.journals.values().filter(|index| state.is_shown(index));
        let of = |index: &Index| {
            let told = state.files.get(&index.head.publication);
            (index.file_len > 0, disk::info_of(&self.0.dir, index, told))
        };
        let all: Vec<_> = shown.map(of).collect();
        drop(state);
        // Whoever needs the room takes files away.
        let what_is_there = |(has_file, mut info): (bool, RecordingInfo)| {
            info.files.retain(|file| info.path.with_file_name(&file.name).exists());
            let is_there = !has_file || info.path.exists();
            (is_there && (info.journal || !info.files.is_empty())).then_some(info)
        };
        let mut all: Vec<_> = all.into_iter().filter_map(what_is_there).collect();
        all.sort_by(disk::oldest_first);
        all
    }

    /// Writes what is queued, and stops. Waits for the disk; for files that take longer than some
    /// seconds it does not wait: they are made at the next start.
    pub fn close(&self) {
        self.0.lock().is_stopping = true;
        self.0.work.notify_all();
        self.0.stop.notify_all();
        if let Some(writer) = lock(&self.0.writer).take() {
            let _ = writer.join();
        }
        self.0.lock().is_filed = true;
        self.0.stop.notify_all();
        if let Some(filer) = lock(&self.0.filer).take() {
            let patience = Instant::now() + filer::LAST + Duration::from_secs(1);
            while !filer.is_finished() && Instant::now() < patience {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }

    /// Waits for the next time that feeds are switched.
    fn switched(&self) -> watch::Receiver<()> {
        self.0.switched.subscribe()
    }

    /// The feeds that are recorded, and how often each was switched on.
    fn recorded(&self) -> Vec<(FeedName, u64)> {
        let state = self.0.lock();
        let on = state.feeds.iter().filter(|(_, feed)| feed.since.is_some());
        on.map(|(name, feed)| (name.clone(), feed.generation)).collect()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Where the journal of a publication is.
    fn path(&self, head: &FileHead) -> PathBuf {
        disk::path(&self.dir, head)
    }
}

/// Locks, whoever panicked before: what is known of a journal is whole after every statement.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
