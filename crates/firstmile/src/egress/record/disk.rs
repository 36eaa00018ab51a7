//! The directory of journals: `DIR/FEED/PUBLICATION.journal`.

use std::cmp::Ordering;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use media::PublicationId;
use tracing::{info, warn};

use super::files::{Document, Told};
use super::format::{FileHead, RecordHead, Source, unix_ms};
use super::index::Index;
use super::scan::{self, JournalError};
use super::state::{Job, MAX_JOURNALS, State};
use crate::secret::FeedName;
use crate::status::{RecordingInfo, RecordingState};

/// What the files' names end with.
const EXTENSION: &str = "journal";
/// How long, in milliseconds since it began, a deleted recording is remembered: relays keep what
/// they have for a day at most, and a publication may be long.
const FORGOTTEN_AFTER: i64 = 14 * 24 * 3_600 * 1_000;

/// Finds the journals in the directory.
pub(super) fn find(dir: &Path, state: &mut State) -> io::Result<()> {
    for path in journals(dir)? {
        if state.journals.len() >= MAX_JOURNALS {
            warn!("{} has more recordings than the {MAX_JOURNALS} that are read", dir.display());
            break;
        }
        let found = match load(dir, &path) {
            Ok(found) => found,
            Err(error) => {
                warn!(%error, "left alone: {}", path.display());
                continue;
            }
        };
        let (file, scan::Found { index, damaged, torn }) = (path.display(), found);
        if damaged > 0 {
            warn!(bytes = damaged, "{file} is damaged: what stood there is missing again");
        }
        if torn > 0 {
            info!(bytes = torn, "{file} ends in the middle of a record: cut off");
            if let Err(error) = repair(&path, index.file_len) {
                warn!(%error, "left alone: cannot repair {file}");
                continue;
            }
        }
        let publication = index.head.publication;
        if index.is_deleted() {
            Document::remove(&path);
        }
        if is_forgotten(&index) {
            // No relay keeps it any more.
            let _ = fs::remove_file(&path);
            continue;
        }
        if let Some(document) = Document::read(&path) {
            state.files.insert(publication, document.told());
        }
        let is_over_here = index.is_from_here() && index.ended().is_none();
        let end = index.highest().map_or(0, |highest| highest + 1);
        state.insert(index);
        if is_over_here {
            // The encoder's connection went with the process.
            state.mark(publication, RecordHead::ended(end));
            state.give_up(publication);
        }
        if state.journals[&publication].is_complete() && !state.journals[&publication].is_sealed() {
            state.queue.push_back(Job::Seal(publication));
        }
    }
    Ok(())
}

/// Every recording in a directory, oldest first, as it is on disk now.
///
/// # Errors
///
/// If the directory cannot be read.
pub fn list(dir: &Path) -> io::Result<Vec<RecordingInfo>> {
    let paths = if dir.exists() { journals(dir)? } else { Vec::new() };
    let found = paths.iter().filter_map(|path| Some((path, load(dir, path).ok()?.index)));
    let found = found.filter(|(_, index)| !index.is_deleted());
    let info = |(path, index): (&PathBuf, Index)| {
        let told = Document::read(path).map(|document| document.told());
        info_of(dir, &index, told.as_ref())
    };
    let mut all: Vec<_> = found.map(info).collect();
    all.sort_by(oldest_first);
    Ok(all)
}

/// The order of lists.
pub(super) fn oldest_first(a: &RecordingInfo, b: &RecordingInfo) -> Ordering {
    let key = |info: &RecordingInfo| (info.started_ms, info.feed.clone(), info.publication.clone());
    key(a).cmp(&key(b))
}

/// The paths of what may be journals.
fn journals(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for feed in fs::read_dir(dir)? {
        let feed = feed?;
        let is_feed =
            feed.file_name().to_str().is_some_and(|name| name.parse::<FeedName>().is_ok());
        if !is_feed || !feed.file_type()?.is_dir() {
            continue;
        }
        for entry in fs::read_dir(feed.path())? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == EXTENSION) {
                paths.push(path);
            }
        }
    }
    paths.sort();
    Ok(paths)
}

/// Reads a journal that must be the one that its name says.
fn load(dir: &Path, file: &Path) -> Result<scan::Found, JournalError> {
    let found = scan::load(file)?;
    if path(dir, &found.index.head) == file { Ok(found) } else { Err(JournalError::NotAJournal) }
}

/// Whether a deleted recording need not be known any more.
fn is_forgotten(index: &Index) -> bool {
    let age = unix_ms(SystemTime::now()).saturating_sub(index.head.started);
    index.is_deleted() && age > FORGOTTEN_AFTER
}

fn repair(path: &Path, len: u64) -> io::Result<()> {
    let file = fs::OpenOptions::new().write(true).open(path)?;
    file.set_len(len)?;
    file.sync_all()
}

pub(super) fn path(dir: &Path, head: &FileHead) -> PathBuf {
    let name = format!("{}.{EXTENSION}", hex(head.publication));
    dir.join(head.feed.as_str()).join(name)
}

pub(super) fn hex(publication: PublicationId) -> String {
    publication.0.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What people are told of a publication.
pub(super) fn info_of(dir: &Path, index: &Index, told: Option<&Told>) -> RecordingInfo {
    let summary = index.summary();
    let missing = index.missing();
    let complete = index.is_complete() && index.unwritten == 0;
    let has_files = told.is_some_and(|told| told.complete && told.tags == summary.tags);
    let known = summary.tags.saturating_add(missing).max(1);
    RecordingInfo {
        feed: index.head.feed.to_string(),
        publication: hex(index.head.publication),
        relay: match &index.head.source {
            Source::Here => None,
            Source::Relay(name) => Some(name.clone()),
        },
        started_ms: index.head.started,
        length_ms: summary.length_ms(),
        bytes: summary.bytes,
        tags: summary.tags,
        missing,
        gone: summary.gone,
        progress: if missing == 0 { 1.0 } else { summary.tags as f64 / known as f64 },
        complete,
        state: match (index.ended(), missing) {
            (None, _) => RecordingState::Recording,
            (Some(_), 1..) => RecordingState::Filling,
            (Some(_), 0) if has_files => RecordingState::Whole,
            (Some(_), 0) => RecordingState::Ended,
        },
        files: told.map(|told| told.files.clone()).unwrap_or_default(),
        journal: !index.is_emptied(),
        path: path(dir, &index.head),
    }
}
