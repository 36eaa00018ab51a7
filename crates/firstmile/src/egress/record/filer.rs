//! The one thread that makes files of journals, while they grow and once they are complete.
//!
//! ```text
//!   journal --Walk--> Film --> FEED/NAME.mp4 (grows)        FLV: in one go, when complete
//!      complete, not on air:   document says so, synced --> the writer empties the journal
//! ```
//!
//! A crash at any point costs nothing: what is not said to be complete is made anew of its journal.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use media::PublicationId;
use tracing::{info, warn};

use super::disk::hex;
use super::export::{ExportError, unfinished};
use super::files::{Document, Filed, free_name};
use super::film::{Film, FilmError, Split};
use super::format::{FileHead, Source};
use super::index::Index;
use super::scan::JournalError;
use super::walk::{Step, Walk};
use super::{Shared, flv, lock};
use crate::config::record::{NamePattern, Record, RecordFormat};
use crate::config::value::Size;
use crate::platform;
use crate::secret::FeedName;

/// Time between two looks at the journals: what a file lags behind.
const PACE: Duration = Duration::from_secs(1);
/// Longest work on one recording at a time: others wait for it, and so does the end.
const TURN: Duration = Duration::from_millis(500);
/// How long a recording has to be complete before its file is: what was said to have ended without
/// being told may go on.
const SETTLED: Duration = Duration::from_secs(2);
/// Recordings that are made into files at a time, and those among them that are complete; each has
/// two files open.
const MAX_OPEN: usize = 32;
const MAX_COMPLETE: usize = 64;
/// Room on the disk that is left to journals, beside what stays free: a file can be made later.
const FOR_JOURNALS: u64 = 512 << 20;
/// Time until what failed is tried again.
const AGAIN: Duration = Duration::from_secs(30);
/// How long the end may wait for files.
pub(super) const LAST: Duration = Duration::from_secs(3);

/// Which publication of a feed is on air.
pub type OnAir = Arc<dyn Fn(&str) -> Option<PublicationId> + Send + Sync>;

/// What files are to be made, and how.
pub(super) struct Settings {
    pub(super) format: RecordFormat,
    pub(super) keep_journal: bool,
    pub(super) name: NamePattern,
    pub(super) split: Split,
    pub(super) on_air: OnAir,
}

impl Settings {
    pub(super) fn of(record: &Record, on_air: OnAir) -> Self {
        Self {
            format: record.format,
            keep_journal: record.keep_journal,
            name: record.name.clone(),
            split: Split { time: record.split_time, bytes: record.split_bytes },
            on_air,
        }
    }
}

/// Makes files until the recorder is closed.
pub(super) fn run(shared: &Shared, settings: Settings) {
    let mut filer = Filer {
        shared,
        settings,
        open: HashMap::new(),
        complete: HashMap::new(),
        failed: HashMap::new(),
        no_film: HashSet::new(),
    };
    loop {
        let is_busy = filer.turn(false);
        let state = shared.lock();
        if state.is_filed {
            break;
        }
        if !is_busy {
            let _ = shared.stop.wait_timeout(state, PACE);
        }
    }
    // What has ended with the program.
    let started = Instant::now();
    while filer.turn(true) && started.elapsed() < LAST {}
}

struct Filer<'a> {
    shared: &'a Shared,
    settings: Settings,
    open: HashMap<PublicationId, Filing>,
    /// Since when recordings are complete.
    complete: HashMap<PublicationId, Instant>,
    /// What failed, and when.
    failed: HashMap<PublicationId, Instant>,
    /// Recordings that MP4 has no place for: nothing is done for them until they are complete.
    no_film: HashSet<PublicationId>,
}

/// A recording that is being made into files.
struct Filing {
    walk: Walk,
    film: Film,
    names: Names,
    /// Bytes of the journal that were read.
    read: u64,
    /// It waits at a hole, or at the journal's end.
    is_idle: bool,
    is_on_air: bool,
}

/// The names of a recording's files, which are written down before the files are made.
type Names = Arc<Mutex<Vec<Filed>>>;

/// What there is to do for a recording.
struct Task {
    head: FileHead,
    path: PathBuf,
    /// Whole records of its journal.
    len: u64,
    tags: u64,
    is_complete: bool,
    /// It was switched off, and its encoder is there: it goes on when it is switched on again.
    is_paused: bool,
    is_on_air: bool,
}

enum Outcome {
    /// There is more to do at once.
    More,
    /// Nothing more now.
    Idle,
    /// The files are whole.
    Done(Document),
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("cannot read its journal")]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Film(#[from] FilmError),
    #[error(transparent)]
    Export(#[from] ExportError),
    #[error("cannot write its document")]
    Document(#[from] io::Error),
    #[error("there is no room for it: less than {0} is free on the disk")]
    Room(Size),
}

impl Filer<'_> {
    /// Works on every recording once; whether there is more to do at once.
    fn turn(&mut self, is_last: bool) -> bool {
        self.clear_away();
        let tasks = self.tasks(is_last);
        if tasks.is_empty() {
            if self.failed.is_empty() {
                self.shared.lock().files_alarm = None;
            }
            return false;
        }
        let keep = self.shared.keep_free.saturating_add(FOR_JOURNALS);
        if platform::free_space(&self.shared.dir).is_some_and(|free| free <= keep) {
            self.shared.lock().files_alarm = Some(format!(
                "no files are made of recordings: less than {} is free on the disk of {}",
                Size(keep),
                self.shared.dir.display()
            ));
            return false;
        }
        let mut is_busy = false;
        let mut alarm = None;
        for task in tasks {
            let publication = task.head.publication;
            match self.work(&task) {
                Ok(Outcome::More) => is_busy = true,
                Ok(Outcome::Idle) => {}
                Ok(Outcome::Done(document)) => {
                    let names: Vec<_> = document.files.iter().map(|file| &file.name).collect();
                    info!(feed = %task.head.feed, %publication, files = ?names, "recorded");
                    self.open.remove(&publication);
                }
                Err(error) => {
                    let error = anyhow::Error::from(error);
                    let text = format!(
                        "no file is made of the recording {} of {}: {error:#}",
                        &hex(publication)[..8],
                        task.head.feed
                    );
                    warn!("{text}");
                    alarm = Some(text);
                    self.open.remove(&publication);
                    self.failed.insert(publication, Instant::now());
                }
            }
        }
        self.failed.retain(|_, at| at.elapsed() < AGAIN);
        let mut state = self.shared.lock();
        if alarm.is_some() || self.failed.is_empty() {
            state.files_alarm = alarm;
        }
        is_busy
    }

    /// Removes what was made of recordings that were deleted meanwhile.
    fn clear_away(&mut self) {
        let state = self.shared.lock();
        let path = |publication: &PublicationId| {
            Some((*publication, self.shared.path(&state.journals.get(publication)?.head)))
        };
        let is_emptied = |publication: &&PublicationId| {
            state.journals.get(publication).is_none_or(Index::is_emptied)
        };
        let over: Vec<_> = state.doomed.iter().filter(is_emptied).copied().collect();
        let paths: Vec<_> = over.iter().filter_map(path).collect();
        drop(state);
        for (publication, path) in paths {
            // Its document may have been removed before the last of them was made.
            let begun = self.open.remove(&publication).map(|filing| filing.names);
            for file in begun.iter().flat_map(|names| lock(names).clone()) {
                let _ = fs::remove_file(path.with_file_name(&file.name));
            }
            Document::remove(&path);
        }
        let mut state = self.shared.lock();
        for publication in over {
            state.doomed.remove(&publication);
            state.files.remove(&publication);
        }
    }

    /// The recordings that there is something to do for: those that can be completed first.
    fn tasks(&mut self, is_last: bool) -> Vec<Task> {
        let now = Instant::now();
        let state = self.shared.lock();
        let of_interest = |index: &&Index| index.file_len > 0 && !index.is_emptied();
        let feeds = state.journals.values().filter(of_interest);
        let feeds: BTreeSet<_> = feeds.map(|index| index.head.feed.clone()).collect();
        drop(state);
        // Who is asked has locks of its own.
        let live = |feed: FeedName| {
            let live = (self.settings.on_air)(feed.as_str());
            (feed, live)
        };
        let on_air: BTreeMap<_, _> = feeds.into_iter().map(live).collect();
        let state = self.shared.lock();
        let mut tasks = Vec::new();
        let mut emptied = Vec::new();
        self.complete.retain(|publication, _| state.journals.contains_key(publication));
        self.no_film.retain(|publication| state.journals.contains_key(publication));
        let gone = |publication: &PublicationId| !state.journals.contains_key(publication);
        let taken_away: Vec<_> = self.open.keys().copied().filter(gone).collect();
        for publication in taken_away {
            self.open.remove(&publication);
        }
        for (publication, index) in &state.journals {
            let is_doomed = state.doomed.contains(publication);
            let is_left = is_doomed || self.failed.contains_key(publication);
            if index.file_len == 0 || index.is_emptied() || is_left {
                continue;
            }
            let told = state.files.get(publication);
            let tags = index.summary().tags;
            let is_complete = index.is_complete() && index.unwritten == 0;
            if !is_complete {
                self.complete.remove(publication);
            }
            if let Some(told) = told.filter(|told| told.complete && told.tags == tags) {
                if is_complete && told.left_out == 0 && !self.settings.keep_journal {
                    let path = self.shared.path(&index.head);
                    let files = told.files.iter().map(|file| path.with_file_name(&file.name));
                    emptied.push((*publication, tags, files.collect::<Vec<_>>()));
                }
                continue;
            }
            let is_open = self.open.contains_key(publication);
            // Nothing has come since it was read to an open hole, before the program was started.
            let is_known = told.is_some_and(|told| told.journal_bytes == index.file_len);
            let is_for_later =
                self.settings.format != RecordFormat::Mp4 || self.no_film.contains(publication);
            if !is_complete && (is_known && !is_open || is_for_later) {
                continue;
            }
            if self
                .open
                .get(publication)
                .is_some_and(|open| open.is_idle && open.read == index.file_len && !is_complete)
            {
                continue;
            }
            let ends_here = is_last && index.head.source == Source::Here;
            let Some(live) = on_air.get(&index.head.feed) else { continue };
            let is_on_air = *live == Some(*publication) && !ends_here;
            let since = *self.complete.entry(*publication).or_insert(now);
            let is_settled = ends_here || now.duration_since(since) >= SETTLED;
            tasks.push(Task {
                head: index.head.clone(),
                path: self.shared.path(&index.head),
                len: index.file_len,
                tags,
                is_complete: is_complete && is_settled && !is_on_air,
                is_paused: is_complete && is_settled && is_on_air,
                is_on_air,
            });
            if !is_complete {
                self.complete.remove(publication);
            }
        }
        if self.settings.format == RecordFormat::Journal {
            tasks.clear();
        }
        drop(state);
        // Where a file was taken away, the journal may be all that is left.
        emptied.retain(|(_, _, files)| files.iter().all(|file| file.exists()));
        let has_work = !emptied.is_empty();
        let mut state = self.shared.lock();
        for (publication, tags, _) in emptied {
            state.empty(publication, Some(tags));
        }
        drop(state);
        if has_work {
            self.shared.work.notify_all();
        }
        // Complete ones need their place only once.
        tasks.sort_by_key(|task| (!task.is_complete, !task.is_on_air, Reverse(task.head.started)));
        tasks
    }

    fn work(&mut self, task: &Task) -> Result<Outcome, Failure> {
        let publication = task.head.publication;
        if self.settings.format == RecordFormat::Flv {
            return self.flv(task);
        }
        if self.no_film.contains(&publication) {
            self.remove_files(task, &[]);
            return self.flv(task);
        }
        if !self.open.contains_key(&publication) && !self.make_room(task) {
            return Ok(Outcome::Idle);
        }
        let filing = match self.open.remove(&publication) {
            Some(filing) => filing,
            None => self.begin(task)?,
        };
        match self.go_on(task, filing) {
            // It becomes an FLV, all at once.
            Err(Failure::Film(FilmError::Codec(_) | FilmError::Restless)) => {
                self.no_film.insert(publication);
                if !task.is_complete {
                    return Ok(Outcome::Idle);
                }
                self.remove_files(task, &[]);
                self.flv(task)
            }
            other => other,
        }
    }

    /// Whether another recording can be worked on; one that waits for what is missing gives its place.
    fn make_room(&mut self, task: &Task) -> bool {
        let most = if task.is_complete { MAX_COMPLETE } else { MAX_OPEN };
        if self.open.len() < most {
            return true;
        }
        let mut waits = self.open.iter().filter(|(_, open)| open.is_idle && !open.is_on_air);
        let waits = waits.next().map(|(name, _)| *name);
        let waits = waits.filter(|_| task.is_complete || task.is_on_air);
        waits.is_some_and(|name| self.open.remove(&name).is_some())
    }

    /// Begins the files of a recording, in the place of those that were begun before.
    fn begin(&self, task: &Task) -> Result<Filing, Failure> {
        let walk = Walk::of_first(&task.path, task.len)?;
        let names = Names::default();
        let place = {
            let (head, path) = (task.head.clone(), task.path.clone());
            let (names, pattern) = (names.clone(), self.settings.name.clone());
            let before = Document::read(&path).unwrap_or_default().files;
            let before: Vec<_> = before.into_iter().map(|file| file.name).collect();
            Box::new(move |part, started| {
                let mut names = lock(&names);
                let name = free_name(&pattern, &head, &path, (part, started), &before, &names);
                let named = Filed { name: format!("{name}.mp4"), ..Filed::default() };
                let file = path.with_file_name(&named.name);
                names.push(named);
                // Before the file is made: every file has an owner. The old names stay until then.
                let old = before.iter().filter(|old| names.iter().all(|file| file.name != **old));
                let old = old.map(|name| Filed { name: name.clone(), ..Filed::default() });
                let files = names.iter().cloned().chain(old).collect();
                Document { files, ..Document::default() }.write(&path)?;
                platform::private_file().write(true).create(true).truncate(true).open(file)
            })
        };
        let film = Film::new(task.head.started, self.settings.split, place);
        Ok(Filing { walk, film, names, read: task.len, is_idle: false, is_on_air: false })
    }

    fn go_on(&mut self, task: &Task, mut filing: Filing) -> Result<Outcome, Failure> {
        let publication = task.head.publication;
        filing.is_idle = false;
        filing.is_on_air = task.is_on_air;
        if filing.read != task.len {
            filing.walk.go_on(task.len)?;
            filing.read = task.len;
        }
        let started = Instant::now();
        let hole = loop {
            match filing.walk.step()? {
                Step::Tag(head, tag) => {
                    filing.film.tag(&head, &tag, filing.walk.has_keyframes())?;
                }
                Step::Hole(tags) => filing.film.hole(tags),
                Step::End(hole) => break hole,
            }
            if started.elapsed() >= TURN {
                self.tell(publication, &filing.document(0, false));
                self.open.insert(publication, filing);
                return Ok(Outcome::More);
            }
        };
        if !task.is_complete || hole.is_some() {
            filing.is_idle = true;
            // Who downloads it now is to have all of it.
            let caught_up = task.is_paused && hole.is_none() && filing.film.catch_up()?;
            let mut document = filing.document(0, false);
            if caught_up {
                document.write(&task.path)?;
            }
            if !task.is_on_air && hole.is_some() {
                // The next start need not read it again to come as far.
                document.journal_bytes = task.len;
                document.write(&task.path)?;
            }
            self.tell(publication, &document);
            self.open.insert(publication, filing);
            return Ok(Outcome::Idle);
        }
        if filing.walk.late() > 0 {
            // What came after it was passed over belongs into the files, too.
            return Ok(Outcome::More);
        }
        let Filing { film, names, .. } = filing;
        let left_out = film.left_out();
        let parts = film.finish()?;
        let names = std::mem::take(&mut *lock(&names));
        let files: Vec<_> =
            names.into_iter().zip(parts).map(|(file, part)| Filed { part, ..file }).collect();
        self.complete(task, files, left_out).map(Outcome::Done)
    }

    /// The whole recording as an FLV.
    fn flv(&mut self, task: &Task) -> Result<Outcome, Failure> {
        if !task.is_complete {
            return Ok(Outcome::Idle);
        }
        // It is written in one go.
        let room = self.shared.keep_free.saturating_add(FOR_JOURNALS).saturating_add(task.len);
        if platform::free_space(&self.shared.dir).is_some_and(|free| free <= room) {
            return Err(Failure::Room(Size(room)));
        }
        let before = Document::read(&task.path).unwrap_or_default().files;
        let before: Vec<_> = before.into_iter().map(|file| file.name).collect();
        let place = (1, task.head.started);
        let name = free_name(&self.settings.name, &task.head, &task.path, place, &before, &[]);
        let name = format!("{name}.flv");
        let mut file = Filed { name, ..Filed::default() };
        let named = Document { files: vec![file.clone()], ..Document::default() };
        named.write(&task.path)?;
        let path = task.path.with_file_name(&file.name);
        let exported = flv::export(&task.path, &path)?;
        fs::File::open(&path).and_then(|file| file.sync_all())?;
        file.part.started_ms = task.head.started;
        file.part.length_ms = exported.length_ms;
        file.part.bytes = exported.bytes;
        file.part.frames = exported.tags;
        self.complete(task, vec![file], 0).map(Outcome::Done)
    }

    /// Writes down that the files are whole.
    fn complete(&self, task: &Task, files: Vec<Filed>, left_out: u64) -> Result<Document, Failure> {
        let names: Vec<_> = files.iter().map(|file| file.name.clone()).collect();
        self.remove_files(task, &names);
        let dir = task.path.parent().unwrap_or(Path::new("."));
        platform::sync_dir(dir)?;
        let document =
            Document { complete: true, tags: task.tags, left_out, files, journal_bytes: 0 };
        document.write(&task.path)?;
        self.tell(task.head.publication, &document);
        Ok(document)
    }

    /// Removes files of earlier attempts but these.
    fn remove_files(&self, task: &Task, but: &[String]) {
        let before = Document::read(&task.path).unwrap_or_default().files;
        for file in before.into_iter().filter(|file| !but.contains(&file.name)) {
            let path = task.path.with_file_name(&file.name);
            let _ = fs::remove_file(unfinished(&path));
            let _ = fs::remove_file(path);
        }
    }

    fn tell(&self, publication: PublicationId, document: &Document) {
        let mut state = self.shared.lock();
        if state.journals.contains_key(&publication) {
            state.files.insert(publication, document.told());
        }
    }
}

impl Filing {
    fn document(&self, tags: u64, complete: bool) -> Document {
        let names = lock(&self.names);
        let files = names.iter().zip(self.film.parts());
        let files = files.map(|(file, part)| Filed { part: part.clone(), ..file.clone() });
        let left_out = self.film.left_out();
        Document { complete, tags, journal_bytes: 0, left_out, files: files.collect() }
    }
}

#[cfg(test)]
mod tests;
