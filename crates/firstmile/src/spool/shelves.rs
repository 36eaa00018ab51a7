//! What has left memory: tags on their way to the disk, and where on it the others are.
//!
//! ```text
//!   put --> open block of the feed --> queue --> the writer --> a spot on the disk
//! ```
//!
//! A tag can be read wherever it is. No I/O happens here: all of it is behind one lock that is
//! held for a few tags' work.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hub::{Kept, Leaving};
use media::{Position, PublicationId, Tag};

/// A block is closed at this size: few writes, and an index of some tens of bytes for each.
const BLOCK_BYTES: usize = 256 << 10;
/// Or when its tags came over so long a time.
const BLOCK_TIME: Duration = Duration::from_secs(2);
/// Or when so many seconds passed since it was opened: its encoder may have stopped.
const BLOCK_TICKS: u64 = 4;
/// What a tag costs beside its body.
const TAG_COST: usize = 128;
/// Blocks that one read looks at; the reader asks again.
const MAX_PIECES: usize = 64;

/// A tag and its name.
pub(super) type Named = (Position, Tag);

/// Where a block is on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    pub(super) segment: u64,
    pub(super) offset: u64,
    pub(super) length: u32,
}

/// A block that waits to be written.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) serial: u64,
    pub(super) feed: u64,
    pub(super) owner: u64,
    pub(super) publication: PublicationId,
    pub(super) tags: Arc<Vec<Named>>,
    /// When its last tag came.
    pub(super) newest: Instant,
    cost: usize,
}

/// Where a part of what was asked for is.
#[derive(Debug)]
pub(super) enum Piece {
    Here(Arc<Vec<Named>>),
    Disk { serial: u64, spot: Spot },
}

/// What has left memory.
#[derive(Debug)]
pub(super) struct Shelves {
    feeds: HashMap<u64, Shelf>,
    queue: VecDeque<Job>,
    /// Bytes in open blocks and the queue, and their bound.
    pending: usize,
    max_pending: usize,
    next_serial: u64,
    ticks: u64,
    dropped: u64,
    last_drop: Option<Instant>,
}

/// One feed's.
#[derive(Debug)]
struct Shelf {
    owner: u64,
    open: Option<Open>,
    /// The publications, the oldest first.
    runs: VecDeque<Run>,
}

#[derive(Debug)]
struct Run {
    publication: PublicationId,
    started: Instant,
    blocks: VecDeque<Block>,
}

#[derive(Debug)]
struct Block {
    serial: u64,
    first: u64,
    last: u64,
    oldest: Instant,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Queue(Arc<Vec<Named>>),
    Disk(Spot),
}

/// A block that still grows; it has a tag at least.
#[derive(Debug)]
struct Open {
    tags: Vec<Named>,
    cost: usize,
    started: Instant,
    oldest: Instant,
    newest: Instant,
    /// When it was opened.
    tick: u64,
}

impl Shelves {
    pub(super) fn new(max_pending: usize) -> Self {
        Self {
            feeds: HashMap::new(),
            queue: VecDeque::new(),
            pending: 0,
            max_pending,
            next_serial: 0,
            ticks: 0,
            dropped: 0,
            last_drop: None,
        }
    }

    /// Makes room for a feed.
    pub(super) fn add(&mut self, feed: u64, owner: u64) {
        let shelf = Shelf { owner, open: None, runs: VecDeque::new() };
        self.feeds.insert(feed, shelf);
    }

    /// Forgets a feed and all of its tags.
    pub(super) fn forget(&mut self, feed: u64) {
        if let Some(Shelf { open: Some(open), .. }) = self.feeds.remove(&feed) {
            self.pending -= open.cost;
        }
        let (pending, is_other) = (&mut self.pending, |job: &Job| job.feed != feed);
        self.queue.retain(|job| {
            *pending -= if is_other(job) { 0 } else { job.cost };
            is_other(job)
        });
    }

    /// Takes a tag of a feed. Returns whether another block is there to be written.
    pub(super) fn put(&mut self, feed: u64, leaving: Leaving) -> bool {
        let Leaving { position, tag, arrival, started } = leaving;
        let follows = |open: &Open| {
            let last = &open.tags[open.tags.len() - 1].0;
            last.publication == position.publication
                && last.number < position.number
                && arrival.saturating_duration_since(open.oldest) < BLOCK_TIME
        };
        let serial = self.next_serial;
        let Some(shelf) = self.feeds.get_mut(&feed) else { return false };
        if shelf.open.as_ref().is_some_and(|open| !follows(open)) {
            self.close(feed);
        }
        let Some(shelf) = self.feeds.get_mut(&feed) else { return false };
        let cost = tag.body.len() + TAG_COST;
        let open = shelf.open.get_or_insert_with(|| Open {
            tags: Vec::new(),
            cost: 0,
            started,
            oldest: arrival,
            newest: arrival,
            tick: self.ticks,
        });
        open.tags.push((position, tag));
        open.cost += cost;
        open.newest = arrival;
        self.pending += cost;
        // Blocks that still grow cannot be given up: where they take much, they stay small.
        let is_tight = self.pending > self.max_pending / 2 && self.queue.is_empty();
        if open.cost >= BLOCK_BYTES || is_tight {
            self.close(feed);
        }
        self.keep_bound();
        self.next_serial > serial
    }

    /// A second has passed.
    pub(super) fn tick(&mut self) {
        self.ticks += 1;
        let is_old = |shelf: &Shelf| {
            shelf.open.as_ref().is_some_and(|open| self.ticks - open.tick >= BLOCK_TICKS)
        };
        let old = self.feeds.iter().filter(|(_, shelf)| is_old(shelf)).map(|(feed, _)| *feed);
        for feed in old.collect::<Vec<_>>() {
            self.close(feed);
        }
    }

    /// The block to write next; it stays until it [was written](Self::written).
    pub(super) fn next(&self) -> Option<Job> {
        self.queue.front().cloned()
    }

    /// The block is on the disk now.
    pub(super) fn written(&mut self, job: &Job, spot: Spot) {
        // It may have been given up while it was written.
        if self.queue.front().is_none_or(|front| front.serial != job.serial) {
            return;
        }
        self.queue.pop_front();
        self.pending -= job.cost;
        if let Some(block) = self.block(job) {
            block.place = Place::Disk(spot);
        }
    }

    /// The block can never be written.
    pub(super) fn give_up(&mut self, job: &Job) {
        if self.queue.front().is_some_and(|front| front.serial == job.serial) {
            self.drop_oldest();
        }
    }

    /// A segment of this owner is no more, and none before it.
    pub(super) fn lose(&mut self, owner: u64, segment: u64) {
        for shelf in self.feeds.values_mut().filter(|shelf| shelf.owner == owner) {
            let is_lost = |block: &Block| matches!(&block.place, Place::Disk(spot) if spot.segment <= segment);
            for run in &mut shelf.runs {
                while run.blocks.front().is_some_and(is_lost) {
                    run.blocks.pop_front();
                }
            }
            shelf.runs.retain(|run| !run.blocks.is_empty());
        }
    }

    /// Where the tags of a publication with these numbers are, in order, until they cost about
    /// `max_bytes`; and the number up to which that is the whole answer.
    pub(super) fn find(
        &self,
        feed: u64,
        publication: PublicationId,
        numbers: Range<u64>,
        max_bytes: usize,
    ) -> (Vec<Piece>, u64) {
        let mut pieces = Vec::new();
        let Some(shelf) = self.feeds.get(&feed) else { return (pieces, numbers.end) };
        let mut cost = 0;
        for run in shelf.runs.iter().filter(|run| run.publication == publication) {
            let from = run.blocks.partition_point(|block| block.last < numbers.start);
            for block in run.blocks.range(from..) {
                if block.first >= numbers.end {
                    break;
                }
                if cost >= max_bytes || pieces.len() >= MAX_PIECES {
                    return (pieces, block.first);
                }
                pieces.push(match &block.place {
                    Place::Queue(tags) => {
                        cost += tags.iter().map(|(_, tag)| tag.body.len()).sum::<usize>();
                        Piece::Here(tags.clone())
                    }
                    Place::Disk(spot) => {
                        cost += spot.length as usize;
                        Piece::Disk { serial: block.serial, spot: *spot }
                    }
                });
            }
        }
        if let Some(open) = &shelf.open {
            if cost >= max_bytes && open.tags[0].0.publication == publication {
                return (pieces, open.tags[0].0.number.min(numbers.end));
            }
            let tags = open.tags.iter().filter(|(position, _)| {
                position.publication == publication && numbers.contains(&position.number)
            });
            pieces.push(Piece::Here(Arc::new(tags.cloned().collect())));
        }
        (pieces, numbers.end)
    }

    /// The publications of a feed of which there are tags, the oldest first; `ended` is not known.
    pub(super) fn kept(&self, feed: u64) -> Vec<Kept> {
        let Some(shelf) = self.feeds.get(&feed) else { return Vec::new() };
        let runs = shelf.runs.iter().filter_map(|run| {
            let (first, last) = (run.blocks.front()?, run.blocks.back()?);
            Some(Kept {
                publication: run.publication,
                first: first.first,
                last: last.last,
                started: run.started,
                oldest: first.oldest,
                ended: false,
            })
        });
        let mut kept: Vec<_> = runs.collect();
        let Some(open) = &shelf.open else { return kept };
        let (first, last) = (open.tags[0].0, open.tags[open.tags.len() - 1].0);
        match kept.last_mut().filter(|kept| kept.publication == first.publication) {
            Some(kept) => kept.last = last.number,
            None => kept.push(Kept {
                publication: first.publication,
                first: first.number,
                last: last.number,
                started: open.started,
                oldest: open.oldest,
                ended: false,
            }),
        }
        kept
    }

    /// Bytes on their way to the disk.
    pub(super) fn pending(&self) -> usize {
        self.pending
    }

    /// Tags that were given up before they reached the disk, and when that was last.
    pub(super) fn dropped(&self) -> (u64, Option<Instant>) {
        (self.dropped, self.last_drop)
    }

    /// Closes the feed's open block and puts it into the queue.
    fn close(&mut self, feed: u64) {
        let Some(shelf) = self.feeds.get_mut(&feed) else { return };
        let Some(open) = shelf.open.take() else { return };
        let Open { tags, cost, started, oldest, newest, .. } = open;
        let serial = self.next_serial;
        self.next_serial += 1;
        let (first, last) = (tags[0].0, tags[tags.len() - 1].0.number);
        let publication = first.publication;
        let tags = Arc::new(tags);
        let place = Place::Queue(tags.clone());
        let block = Block { serial, first: first.number, last, oldest, place };
        let is_known = shelf.runs.back().is_some_and(|run| {
            let follows = run.blocks.back().is_none_or(|before| before.last < first.number);
            run.publication == publication && follows
        });
        if !is_known {
            shelf.runs.push_back(Run { publication, started, blocks: VecDeque::new() });
        }
        if let Some(run) = shelf.runs.back_mut() {
            run.blocks.push_back(block);
        }
        let owner = shelf.owner;
        self.queue.push_back(Job { serial, feed, owner, publication, tags, newest, cost });
        self.keep_bound();
    }

    /// The oldest blocks give way: what is left is whole up to now.
    fn keep_bound(&mut self) {
        while self.pending > self.max_pending && self.drop_oldest() {}
    }

    /// Gives up the block that waits longest; `false` if none does.
    fn drop_oldest(&mut self) -> bool {
        let Some(job) = self.queue.pop_front() else { return false };
        self.pending -= job.cost;
        self.dropped += job.tags.len() as u64;
        self.last_drop = Some(Instant::now());
        let Some(shelf) = self.feeds.get_mut(&job.feed) else { return true };
        for run in &mut shelf.runs {
            if let Ok(index) = run.blocks.binary_search_by_key(&job.serial, |block| block.serial) {
                run.blocks.remove(index);
            }
        }
        shelf.runs.retain(|run| !run.blocks.is_empty());
        true
    }

    fn block(&mut self, job: &Job) -> Option<&mut Block> {
        let shelf = self.feeds.get_mut(&job.feed)?;
        let runs = shelf.runs.iter_mut().filter(|run| run.publication == job.publication);
        runs.rev().find_map(|run| {
            let index = run.blocks.binary_search_by_key(&job.serial, |block| block.serial);
            run.blocks.get_mut(index.ok()?)
        })
    }
}
