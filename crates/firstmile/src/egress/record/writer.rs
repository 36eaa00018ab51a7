//! The one thread that writes journals.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use media::PublicationId;
use tracing::{info, warn};

use super::format::{FileHead, Kind, RECORD_HEAD, RecordHead};
use super::index::{Index, SUMMARY, Summary};
use super::state::{Job, RECORD_COST, State};
use super::{Shared, files};
use crate::config::value::Size;
use crate::platform;

/// Time between two writes: a kill costs no more than this, and a wake-up is shared by many tags.
const PACE: Duration = Duration::from_millis(20);
/// Time between two syncs, which is what a power cut costs, and between two looks at the disk.
const TICK: Duration = Duration::from_secs(1);
/// Bytes written at a time.
const WRITE: usize = 1 << 20;
/// Files that are open at a time; the one that was used longest ago is closed.
const MAX_OPEN: usize = 64;

/// Writes until the recorder is closed.
pub(super) fn run(shared: &Shared) {
    let mut writer =
        Writer { shared, files: HashMap::new(), turn: 0, ticked: None, room: 0, is_failing: false };
    while let Some(jobs) = writer.wait() {
        if writer.ticked.is_none_or(|ticked| ticked.elapsed() >= TICK) {
            writer.tick();
        }
        let is_idle = jobs.is_empty();
        writer.work(jobs);
        if !is_idle {
            writer.pause();
        }
    }
    writer.finish();
}

struct Writer<'a> {
    shared: &'a Shared,
    files: HashMap<PublicationId, Open>,
    /// Counts the uses of files.
    turn: u64,
    ticked: Option<Instant>,
    /// Bytes that may be written before the next look at the disk.
    room: u64,
    /// The last write failed; tags are refused until the next tick.
    is_failing: bool,
}

/// A journal that is being written.
struct Open {
    file: File,
    /// Bytes of whole records.
    len: u64,
    is_dirty: bool,
    buffer: Vec<u8>,
    /// The records in the buffer.
    pending: Vec<RecordHead>,
    used: u64,
    /// What its records' checksums begin with.
    seed: u32,
}

impl Writer<'_> {
    /// Waits for something to do: jobs, or none when it is time for a tick. `None` at the end.
    fn wait(&self) -> Option<Vec<Job>> {
        let mut state = self.shared.lock();
        loop {
            if !state.queue.is_empty() {
                return Some(state.queue.drain(..).collect());
            }
            if state.is_stopping {
                return None;
            }
            let is_busy = !state.is_ready || self.files.values().any(|open| open.is_dirty);
            if !is_busy {
                state = match self.shared.work.wait(state) {
                    Ok(state) => state,
                    Err(poisoned) => poisoned.into_inner(),
                };
                continue;
            }
            let since = self.ticked.map_or(TICK, |ticked| ticked.elapsed());
            let Some(left) = TICK.checked_sub(since).filter(|left| !left.is_zero()) else {
                return Some(Vec::new());
            };
            state = match self.shared.work.wait_timeout(state, left) {
                Ok((state, _)) => state,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    /// Lets some tags gather.
    fn pause(&self) {
        let state = self.shared.lock();
        if !state.is_stopping {
            let _ = self.shared.stop.wait_timeout(state, PACE);
        }
    }

    /// Makes what was written safe, and looks how much room there is.
    fn tick(&mut self) {
        self.ticked = Some(Instant::now());
        let mut failed = None;
        for open in self.files.values_mut().filter(|open| open.is_dirty) {
            match open.file.sync_data() {
                Ok(()) => open.is_dirty = false,
                Err(error) => failed = Some(error),
            }
        }
        if let Some(error) = failed {
            // What the system has lost it does not say: the files are opened anew.
            self.files.clear();
            self.shared.lock().raise(trouble(&self.shared.dir, &error));
        }
        let free = platform::free_space(&self.shared.dir);
        let keep = self.shared.keep_free;
        self.room = free.map_or(u64::MAX, |free| free.saturating_sub(keep));
        let was_failing = std::mem::take(&mut self.is_failing);
        let mut state = self.shared.lock();
        let was_ready = std::mem::replace(&mut state.is_ready, self.room > 0);
        if self.room == 0 {
            let dir = self.shared.dir.display();
            state.raise(format!(
                "nothing is recorded: less than {} is free on the disk of {dir}",
                Size(keep)
            ));
        } else if !was_ready && !was_failing {
            state.alarm = None;
            info!("recording goes on: there is room on the disk again");
        }
    }

    fn work(&mut self, jobs: Vec<Job>) {
        let cost = |job: &Job| match job {
            Job::Record { body, .. } => body.len() + RECORD_COST,
            Job::Seal(_) | Job::Empty { .. } => 0,
        };
        let cost: usize = jobs.iter().map(cost).sum();
        let mut records: HashMap<_, usize> = HashMap::new();
        for job in jobs {
            match job {
                Job::Record { publication, head, body } => {
                    *records.entry(publication).or_default() += 1;
                    self.record(publication, head, &body);
                }
                Job::Seal(publication) => self.seal(publication),
                Job::Empty { publication, tags } => self.empty(publication, tags),
            }
        }
        let publications: Vec<_> = self.files.keys().copied().collect();
        for publication in publications {
            self.flush(publication);
        }
        self.close_some();
        let mut state = self.shared.lock();
        state.queued -= cost;
        for (publication, count) in records {
            if let Some(index) = state.journals.get_mut(&publication) {
                // One that was taken away in between began anew.
                index.unwritten = index.unwritten.saturating_sub(count);
            }
        }
    }

    fn record(&mut self, publication: PublicationId, head: RecordHead, body: &Bytes) {
        let size = body.len() as u64;
        if head.kind == Kind::Tag && (self.is_failing || self.room < size) {
            self.room = 0;
            return self.take_back(publication, &[head]);
        }
        self.room = self.room.saturating_sub(size);
        let open = match self.open(publication) {
            Ok(Some(open)) => open,
            Ok(None) => return,
            Err(error) => {
                self.fail(&error);
                return self.take_back(publication, &[head]);
            }
        };
        head.with_body(body).encode(open.seed, &mut open.buffer);
        open.buffer.extend_from_slice(body);
        open.pending.push(head);
        if open.buffer.len() >= WRITE {
            self.flush(publication);
        }
    }

    /// The file of a publication, opened or made; `None` if somebody took it away.
    fn open(&mut self, publication: PublicationId) -> io::Result<Option<&mut Open>> {
        self.turn += 1;
        if !self.files.contains_key(&publication) {
            let state = self.shared.lock();
            let Some(index) = state.journals.get(&publication) else {
                return Ok(None);
            };
            let (head, len) = (index.head.clone(), index.file_len);
            drop(state);
            let path = self.shared.path(&head);
            let opened = if len == 0 { create(&path, &head.encode()) } else { reopen(&path, len) };
            let (file, len) = match opened {
                Err(error) if len > 0 && is_taken_away(&error) => {
                    warn!(%error, "given up: somebody else has changed {}", path.display());
                    self.shared.lock().journals.remove(&publication);
                    return Ok(None);
                }
                opened => opened?,
            };
            if let Some(index) = self.shared.lock().journals.get_mut(&publication) {
                index.file_len = len;
            }
            let (buffer, pending) = (Vec::new(), Vec::new());
            let seed = head.seed();
            let open = Open { file, len, is_dirty: true, buffer, pending, used: 0, seed };
            self.files.insert(publication, open);
        }
        let open = self.files.get_mut(&publication).expect("it was opened just now");
        open.used = self.turn;
        Ok(Some(open))
    }

    /// Writes what is gathered for a file.
    fn flush(&mut self, publication: PublicationId) {
        let Some(open) = self.files.get_mut(&publication).filter(|open| !open.buffer.is_empty())
        else {
            return;
        };
        if let Err(error) = open.file.write_all(&open.buffer) {
            let pending = std::mem::take(&mut open.pending);
            // A part may be there; it is cut off when the file is opened again.
            self.files.remove(&publication);
            self.fail(&error);
            return self.take_back(publication, &pending);
        }
        open.len += open.buffer.len() as u64;
        open.is_dirty = true;
        open.buffer.clear();
        open.buffer.shrink_to(WRITE);
        open.pending.clear();
        let len = open.len;
        let mut state = self.shared.lock();
        if let Some(index) = state.journals.get_mut(&publication) {
            index.file_len = len;
        }
        if state.is_ready && state.alarm.take().is_some() {
            info!("the recorder writes again");
        }
    }

    /// Says what is wrong with the disk; tags are refused until the next tick.
    fn fail(&mut self, error: &io::Error) {
        self.is_failing = true;
        let mut state = self.shared.lock();
        state.is_ready = false;
        state.raise(trouble(&self.shared.dir, error));
    }

    /// Makes holes of records that were not written.
    fn take_back(&self, publication: PublicationId, heads: &[RecordHead]) {
        let mut state = self.shared.lock();
        if self.room == 0 || self.is_failing {
            state.is_ready = false;
        }
        let State { feeds, journals, .. } = &mut *state;
        let Some(index) = journals.get_mut(&publication) else { return };
        heads.iter().for_each(|head| index.take_back(head));
        if let Some(feed) = feeds.get_mut(&index.head.feed) {
            feed.dropped += heads.iter().filter(|head| head.kind == Kind::Tag).count() as u64;
        }
    }

    /// Closes a journal to which nothing can come with what it amounts to: the next start need
    /// not read it.
    fn seal(&mut self, publication: PublicationId) {
        self.flush(publication);
        let state = self.shared.lock();
        let index = state.journals.get(&publication);
        let Some(index) = index.filter(|index| index.is_complete() && !index.is_sealed()) else {
            return;
        };
        let (summary, end) = (index.summary(), index.ended().unwrap_or_default());
        drop(state);
        let body = summary.encode();
        let head = RecordHead::sealed(end, &body);
        let Ok(Some(open)) = self.open(publication) else { return };
        head.encode(open.seed, &mut open.buffer);
        open.buffer.extend_from_slice(&body);
        self.flush(publication);
        let mut state = self.shared.lock();
        if let Some(index) = state.journals.get_mut(&publication)
            && self.files.contains_key(&publication)
        {
            let sealed = Index::sealed(index.head.clone(), end, summary, index.file_len);
            state.insert(sealed);
        }
    }

    /// Puts what a journal amounts to in its place: files have what it had, or nobody wants it. It
    /// stays known, so that its relay is not asked for it again.
    ///
    /// With `tags`, only if it has exactly so many; without, it amounts to nothing.
    fn empty(&mut self, publication: PublicationId, tags: Option<u64>) {
        self.flush(publication);
        let state = self.shared.lock();
        let index = state.journals.get(&publication);
        let may_go = |index: &&Index| match tags {
            Some(tags) => index.is_complete() && index.summary().tags == tags,
            None => index.ended().is_some(),
        };
        let Some(index) = index.filter(may_go).filter(|index| !index.is_emptied()) else { return };
        let (head, end) = (index.head.clone(), index.ended().unwrap_or_default());
        let summary = tags.map_or(Summary::default(), |_| index.summary());
        drop(state);
        // Whoever has it open keeps its room on the disk.
        self.files.remove(&publication);
        let emptied = emptied(&head, end, summary);
        match files::replace(&self.shared.path(&head), &emptied) {
            Ok(()) => {
                let len = emptied.len() as u64;
                self.shared.lock().insert(Index::sealed(head, end, summary, len));
            }
            Err(error) => self.fail(&error),
        }
    }

    /// Keeps the number of open files in bounds.
    fn close_some(&mut self) {
        while self.files.len() > MAX_OPEN {
            let oldest = self.files.iter().min_by_key(|(_, open)| open.used);
            let Some(publication) = oldest.map(|(publication, _)| *publication) else { return };
            if let Some(open) = self.files.remove(&publication)
                && let Err(error) = open.file.sync_data()
            {
                self.fail(&error);
            }
        }
    }

    /// The end: seals what is complete, and makes everything safe.
    fn finish(&mut self) {
        let state = self.shared.lock();
        let is_done = |index: &Index| index.is_complete() && !index.is_sealed();
        let done = state.journals.values().filter(|index| is_done(index) && index.file_len > 0);
        let done: Vec<_> = done.map(|index| index.head.publication).collect();
        drop(state);
        for publication in done {
            self.seal(publication);
            self.close_some();
        }
        self.tick();
        self.shared.lock().is_ready = false;
    }
}

/// A journal that has nothing but what it amounts to.
fn emptied(head: &FileHead, end: u64, summary: Summary) -> Vec<u8> {
    let mut content = head.encode();
    let body = summary.encode();
    RecordHead::sealed(end, &body).encode(head.seed(), &mut content);
    content.extend_from_slice(&body);
    content
}

/// Bytes of a journal that has nothing but what it amounts to.
pub(super) fn emptied_len(head: &FileHead) -> u64 {
    (head.encode().len() + RECORD_HEAD + SUMMARY) as u64
}

fn trouble(dir: &Path, error: &io::Error) -> String {
    format!("recordings cannot be written to {}: {error}", dir.display())
}

/// A new journal. One of this name that could not be read is moved aside, never overwritten.
fn create(path: &Path, head: &[u8]) -> io::Result<(File, u64)> {
    let dir = path.parent().unwrap_or(Path::new("."));
    platform::create_private_dir(dir)?;
    let new = || platform::private_file().write(true).create_new(true).open(path);
    let mut file = match new() {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let aside = path.with_extension("damaged");
            warn!("an unreadable recording is kept as {}", aside.display());
            fs::rename(path, aside)?;
            new()?
        }
        other => other?,
    };
    let written = file.write_all(head).and_then(|()| platform::sync_dir(dir));
    if let Err(error) = written {
        // The next attempt starts anew.
        let _ = fs::remove_file(path);
        return Err(error);
    }
    Ok((file, head.len() as u64))
}

/// Whether a file is not what this writer has left.
fn is_taken_away(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::UnexpectedEof)
}

/// A journal to go on with; what a failed write has left is cut off.
fn reopen(path: &Path, len: u64) -> io::Result<(File, u64)> {
    let mut file = fs::OpenOptions::new().write(true).open(path)?;
    if file.metadata()?.len() < len {
        return Err(io::Error::new(ErrorKind::UnexpectedEof, "a recording became shorter"));
    }
    file.set_len(len)?;
    file.seek(SeekFrom::Start(len))?;
    Ok((file, len))
}
