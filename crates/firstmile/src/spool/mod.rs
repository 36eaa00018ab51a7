//! The relay's spool: what a studio missed, in memory and then on disk.
//!
//! ```text
//!   hub: ring | spool --> Shelves (queue, index) --> writer thread --> segment files, sealed
//!          |         \         |                                           |
//!          +----------+--------+---------------- Spool::read --------------+
//! ```
//!
//! Memory is the hub's. What leaves it goes to blocks, which one thread writes. The live feed never
//! waits for the disk: what it is too slow for, or has no room for, is given up and counted.

mod block;
mod segments;
mod shelves;
mod writer;

use std::io;
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hub::{Feed, Kept, Leaving, Overflow};
use media::{Position, PublicationId, Tag};

use block::Cipher;
use segments::Segments;
use shelves::{Named, Piece, Shelves};

/// How long the writer may take to tidy up when the relay stops.
const FAREWELL: Duration = Duration::from_secs(1);
/// The disk's rate is taken for too low so long after tags were given up.
const SLOW_TIME: Duration = Duration::from_secs(30);

/// The bounds of a spool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// How long tags stay in memory, if its budget has room: the hub's `Limits::spool`.
    pub memory: Duration,
    /// Bytes on the disk; 0 for none.
    pub disk: u64,
    /// How long tags are kept, memory and disk together.
    pub disk_time: Duration,
    /// Bytes of that disk that are left to others.
    pub keep_free: u64,
    /// Bytes that may wait to be written; the oldest give way.
    pub pending: usize,
}

/// The past of all of a relay's feeds. Clones are handles to the same.
#[derive(Clone, Debug)]
pub struct Spool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bounds: Bounds,
    disk: Option<Arc<Disk>>,
}

/// What the writer, the feeds and the readers share.
#[derive(Debug)]
struct Disk {
    directory: PathBuf,
    bounds: Bounds,
    cipher: Cipher,
    state: Mutex<State>,
    /// Told when there is something for the writer, and when it has ended.
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    shelves: Shelves,
    figures: Figures,
    is_stopped: bool,
    has_ended: bool,
}

/// The spool's disk, in figures.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Bytes in files.
    pub disk_bytes: u64,
    /// The bound of that now; 0 without a disk.
    pub disk_limit: u64,
    /// Bytes that wait to be written.
    pub pending_bytes: usize,
    /// Tags that were given up before they reached the disk, since the start.
    pub dropped_tags: u64,
    /// Whether some were given up a moment ago: the disk is too slow, or fails.
    pub is_dropping: bool,
    /// Why the disk cannot be written now.
    pub error: Option<String>,
}

/// What was found of a range of numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The tags, in order of their numbers.
    pub tags: Vec<(Position, Tag)>,
    /// The numbers that are gone for good, in order.
    pub gone: Vec<RangeInclusive<u64>>,
    /// The number to ask for next: each one before it is in `tags` or in `gone`. It is beyond the
    /// range if all of it was answered; within it, there is more, now or once it was pushed.
    pub next: u64,
}

impl Spool {
    /// A spool whose files are in `directory`, a directory of its own.
    ///
    /// # Errors
    ///
    /// If the system makes no thread. A directory that cannot be written is no error: it is
    /// tried again, and [`Spool::figures`] tells.
    pub fn open(directory: PathBuf, bounds: Bounds) -> io::Result<Self> {
        if bounds.disk == 0 {
            // What was left when there was a disk is of no use either.
            if directory.exists() {
                let _ = Segments::new(&directory, 0, bounds.disk_time).clean();
            }
            return Ok(Self(Arc::new(Inner { bounds, disk: None })));
        }
        let disk = Arc::new(Disk {
            directory,
            cipher: Cipher::random(),
            state: Mutex::new(State {
                shelves: Shelves::new(bounds.pending),
                figures: Figures { disk_limit: bounds.disk, ..Figures::default() },
                is_stopped: false,
                has_ended: false,
            }),
            changed: Condvar::new(),
            bounds: bounds.clone(),
        });
        let writer = writer::Writer::new(disk.clone());
        std::thread::Builder::new().name("spool".into()).spawn(move || writer.run())?;
        Ok(Self(Arc::new(Inner { bounds, disk: Some(disk) })))
    }

    /// Where a feed's tags go when they leave memory; `None` if there is no disk.
    pub fn overflow(&self, feed: u64, owner: u64) -> Option<Arc<dyn Overflow>> {
        let disk = self.0.disk.clone()?;
        disk.lock().shelves.add(feed, owner);
        Some(Arc::new(Shelf { disk, feed }))
    }

    /// The tags of a publication with these numbers, until they take about `max_bytes`; at least
    /// one if there is one. Less than a block (256 KiB) at a time costs the same as a block.
    ///
    /// # Errors
    ///
    /// If the disk cannot be read now: ask again later.
    pub async fn read(
        &self,
        feed: &Feed,
        publication: PublicationId,
        numbers: RangeInclusive<u64>,
        max_bytes: usize,
    ) -> io::Result<Found> {
        let first = *numbers.start();
        // Memory first: a tag goes to the shelves before it leaves memory.
        let memory = feed.spooled(publication, numbers.clone(), max_bytes);
        let end = numbers.end().saturating_add(1).min(memory.edge.unwrap_or(u64::MAX));
        let in_memory = memory.tags.first().map_or(end, |(position, _)| position.number);
        let mut found = Found::from(first);
        if first < in_memory {
            let older = first..in_memory;
            found = match &self.0.disk {
                Some(disk) => disk.read(feed.serial(), publication, older, max_bytes).await?,
                None => found.finish(in_memory),
            };
            if found.next < in_memory {
                return Ok(found);
            }
        }
        let mut room = max_bytes.saturating_sub(bytes(&found.tags));
        for (position, tag) in memory.tags {
            if room == 0 && !found.tags.is_empty() {
                return Ok(found);
            }
            room = room.saturating_sub(tag.body.len().max(1));
            found.take(position, tag);
        }
        if memory.more { Ok(found) } else { Ok(found.finish(end)) }
    }

    /// The publications of a feed of which there are tags, the oldest first, on air or over.
    pub fn kept(&self, feed: &Feed) -> Vec<Kept> {
        // Memory first, as above; what is on air before it, so that no end is told too early.
        let on_air = feed.publication();
        let memory = feed.kept();
        let mut kept = match &self.0.disk {
            Some(disk) => disk.lock().shelves.kept(feed.serial()),
            None => Vec::new(),
        };
        for kept in &mut kept {
            kept.ended = on_air != Some(kept.publication);
        }
        for here in memory {
            match kept.iter_mut().find(|kept| kept.publication == here.publication) {
                Some(kept) => (kept.last, kept.ended) = (kept.last.max(here.last), here.ended),
                None => kept.push(here),
            }
        }
        kept
    }

    /// How long an outage costs nothing if `bytes_per_second` come in for all feeds and the hub's
    /// memory has this bound.
    pub fn survives(&self, bytes_per_second: f64, memory_bytes: usize) -> Duration {
        let seconds = |bytes: f64| Duration::try_from_secs_f64(bytes / bytes_per_second.max(1.0));
        let at_most = |bytes: f64, time: Duration| seconds(bytes).unwrap_or(time).min(time);
        let bounds = &self.0.bounds;
        let memory = at_most(memory_bytes as f64, bounds.memory);
        let figures = self.figures();
        if figures.error.is_some() || figures.is_dropping || bounds.disk == 0 {
            return memory;
        }
        let rest = bounds.disk_time.saturating_sub(memory);
        memory + at_most(figures.disk_limit as f64, rest)
    }

    /// The disk, in figures.
    pub fn figures(&self) -> Figures {
        let Some(disk) = &self.0.disk else { return Figures::default() };
        let state = disk.lock();
        let (dropped_tags, last) = state.shelves.dropped();
        Figures {
            pending_bytes: state.shelves.pending(),
            dropped_tags,
            is_dropping: last.is_some_and(|last| last.elapsed() < SLOW_TIME),
            ..state.figures.clone()
        }
    }

    /// What someone should look at.
    pub fn alarm(&self) -> Option<String> {
        let (figures, disk) = (self.figures(), self.0.disk.as_ref()?);
        let place = disk.directory.display();
        if let Some(error) = figures.error {
            return Some(format!(
                "the spool cannot be written to {place} ({error}): an outage that is longer than \
                 memory lasts costs a part of the record; make room, or set spool.disk"
            ));
        }
        figures.is_dropping.then(|| {
            format!(
                "the disk of {place} is too slow for the spool, {} tags were given up: an outage \
                 costs a part of the record",
                figures.dropped_tags
            )
        })
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let Some(disk) = &self.disk else { return };
        let mut state = disk.lock();
        state.is_stopped = true;
        disk.changed.notify_all();
        // A disk that hangs is left to the next start.
        let is_busy = |state: &mut State| !state.has_ended;
        let ended = disk.changed.wait_timeout_while(state, FAREWELL, is_busy);
        drop(ended);
    }
}

impl Disk {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is whole after every call.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn read(
        self: &Arc<Self>,
        feed: u64,
        publication: PublicationId,
        numbers: Range<u64>,
        max_bytes: usize,
    ) -> io::Result<Found> {
        let (pieces, end) = self.lock().shelves.find(feed, publication, numbers.clone(), max_bytes);
        if pieces.iter().all(|piece| matches!(piece, Piece::Here(_))) {
            return self.collect(publication, numbers.start..end, pieces, max_bytes);
        }
        let disk = self.clone();
        let read = move || disk.collect(publication, numbers.start..end, pieces, max_bytes);
        tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?
    }

    /// Reads what is on the disk and puts the pieces together.
    fn collect(
        &self,
        publication: PublicationId,
        numbers: Range<u64>,
        pieces: Vec<Piece>,
        max_bytes: usize,
    ) -> io::Result<Found> {
        let mut found = Found::from(numbers.start);
        let mut room = max_bytes;
        for piece in pieces {
            let tags = match piece {
                Piece::Here(tags) => Arc::unwrap_or_clone(tags),
                Piece::Disk { serial, spot } => match segments::read(&self.directory, spot) {
                    // What was damaged, or has just been removed, does not come back.
                    Ok(sealed) => self.open_block(publication, serial, sealed).unwrap_or_default(),
                    Err(error) if is_gone(&error) => Vec::new(),
                    Err(_) if !found.tags.is_empty() => return Ok(found),
                    Err(error) => return Err(error),
                },
            };
            let is_asked = |(position, _): &Named| numbers.contains(&position.number);
            for (position, tag) in tags.into_iter().filter(is_asked) {
                if room == 0 && !found.tags.is_empty() {
                    return Ok(found);
                }
                room = room.saturating_sub(tag.body.len().max(1));
                found.take(position, tag);
            }
        }
        Ok(found.finish(numbers.end))
    }

    fn open_block(&self, of: PublicationId, serial: u64, sealed: Vec<u8>) -> Option<Vec<Named>> {
        block::decode(of, self.cipher.open(serial, sealed)?)
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof)
}

fn bytes(tags: &[Named]) -> usize {
    tags.iter().map(|(_, tag)| tag.body.len().max(1)).sum()
}

impl Found {
    /// Nothing yet, of a range that begins there.
    fn from(next: u64) -> Self {
        Self { next, ..Self::default() }
    }

    /// Adds a tag; what lies before it is gone.
    fn take(&mut self, position: Position, tag: Tag) {
        if position.number < self.next {
            return;
        }
        self.lose(position.number);
        self.tags.push((position, tag));
        self.next = position.number.saturating_add(1);
    }

    /// All up to `end` was looked for: what is not there is gone.
    fn finish(mut self, end: u64) -> Self {
        self.lose(end);
        self
    }

    fn lose(&mut self, end: u64) {
        if self.next < end {
            let lost = self.next..=end - 1;
            match self.gone.last_mut() {
                Some(last) if *last.end() + 1 == *lost.start() => *last = *last.start()..=end - 1,
                _ => self.gone.push(lost),
            }
            self.next = end;
        }
    }
}

/// One feed's way out of memory.
#[derive(Debug)]
struct Shelf {
    disk: Arc<Disk>,
    feed: u64,
}

impl Overflow for Shelf {
    fn put(&self, tag: Leaving) {
        let is_closed = self.disk.lock().shelves.put(self.feed, tag);
        if is_closed {
            self.disk.changed.notify_all();
        }
    }
}

impl Drop for Shelf {
    fn drop(&mut self) {
        self.disk.lock().shelves.forget(self.feed);
    }
}

#[cfg(test)]
mod tests;
