//! One feed's way into the recorder.

use std::collections::HashMap;
use std::sync::{Arc, MutexGuard};
use std::time::SystemTime;

use media::{Position, PublicationId, Tag};

use super::Shared;
use super::format::{FileHead, MAX_BODY, MAX_NUMBER, RecordHead, Source, unix_ms};
use super::index::{Index, Refused};
use super::state::{RECORD_COST, State};
use crate::secret::FeedName;

/// Bytes on their way to the disk: some seconds of several feeds, for a disk that hesitates.
const MAX_QUEUED: usize = 32 << 20;
/// Publications of one source that were announced and of which nothing has come.
const MAX_EMPTY: usize = 1_024;

/// One feed's way into the recorder. Clones are handles to the same.
#[derive(Clone, Debug)]
pub struct FeedRecorder {
    shared: Arc<Shared>,
    feed: FeedName,
}

/// A publication that is not complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// Which.
    pub publication: PublicationId,
    /// Where it comes from.
    pub source: Source,
    /// Its numbers end before this one, if that is known.
    pub ended: Option<u64>,
    /// The highest number that is there or gone.
    pub highest: Option<u64>,
    /// The lowest holes that may still be filled, first and last number included.
    pub wanted: Vec<(u64, u64)>,
}

impl FeedRecorder {
    pub(super) fn new(shared: Arc<Shared>, feed: FeedName) -> Self {
        Self { shared, feed }
    }

    /// Makes a publication known: it began at `started`. Calling it again changes nothing.
    ///
    /// Of one that began after recording was switched on, all is wanted; of another, what follows
    /// the first tag that arrives.
    pub fn begin(&self, publication: PublicationId, started: SystemTime, source: Source) {
        let mut state = self.shared.lock();
        let Some(since) = state.feeds.get(&self.feed).and_then(|feed| feed.since) else { return };
        if state.journals.contains_key(&publication) {
            return;
        }
        if state.share(&source).journals() >= MAX_EMPTY {
            let is_empty = |index: &Index| !index.has_records() && index.head.source == source;
            if state.journals.values().filter(|index| is_empty(index)).count() >= MAX_EMPTY {
                state.journals.retain(|_, index| !is_empty(index));
            }
        }
        if !state.has_room(&source) {
            // The alarm says so.
            return;
        }
        let started = unix_ms(started);
        let wants_all = started >= since;
        let feed = self.feed.clone();
        let head =
            FileHead { feed, publication, started, wants_all, source, secret: rand::random() };
        state.insert(Index::new(head));
    }

    /// Takes a tag of a publication that has begun, at once and without waiting.
    ///
    /// What is there already changes nothing. What the disk has no time or room for is dropped and
    /// counted.
    pub fn append(&self, position: Position, tag: &Tag, arrival: SystemTime) {
        let head = RecordHead::tag(position, tag, arrival);
        let mut state = self.shared.lock();
        let cost = tag.body.len() + RECORD_COST;
        let is_taken = state.is_ready
            && state.queued + cost <= MAX_QUEUED
            && tag.body.len() <= MAX_BODY
            && position.number <= MAX_NUMBER;
        let State { feeds, journals, .. } = &mut *state;
        let Some(feed) = feeds.get_mut(&self.feed).filter(|feed| feed.since.is_some()) else {
            return;
        };
        let Some(index) = self.index(journals, position.publication) else { return };
        if index.has(position.number) {
            return;
        }
        if !is_taken {
            feed.dropped += 1;
            return;
        }
        let unwanted = (index.is_paused && !tag.is_header()).then(|| index.resume(position.number));
        match index.apply(&head) {
            Ok(()) => {}
            Err(Refused::Double) => return,
            Err(Refused::Holes) => {
                feed.dropped += 1;
                return;
            }
        }
        if let Some((first, last)) = unwanted.flatten() {
            state.gone(position.publication, first, last);
        }
        state.push(position.publication, head, tag.body.clone());
        self.wake(state);
    }

    /// Says that there are no numbers from `end` on. What is missing of a publication from here
    /// is gone.
    pub fn ended(&self, publication: PublicationId, end: u64) {
        let end = end.min(MAX_NUMBER);
        let mut state = self.shared.lock();
        let Some(index) = self.index(&mut state.journals, publication) else { return };
        if !index.is_sealed() && index.ended() != Some(end) && (end > 0 || index.has_records()) {
            state.mark(publication, RecordHead::ended(end));
            state.give_up(publication);
            self.wake(state);
        }
    }

    /// Says that these numbers, first and last included, will never come.
    pub fn gone(&self, publication: PublicationId, ranges: &[(u64, u64)]) {
        let mut state = self.shared.lock();
        if self.index(&mut state.journals, publication).is_some() {
            for (first, last) in ranges {
                state.gone(publication, *first, (*last).min(MAX_NUMBER));
            }
            self.wake(state);
        }
    }

    /// The numbers below `below` that are missing and may still come: the lowest of them, as
    /// ranges with first and last number included. Nothing while the disk takes nothing.
    pub fn wanted(&self, publication: PublicationId, below: u64) -> Vec<(u64, u64)> {
        let mut state = self.shared.lock();
        if !state.is_ready || !state.is_recorded(&self.feed) {
            return Vec::new();
        }
        let index = self.index(&mut state.journals, publication);
        index.map(|index| index.wanted(below)).unwrap_or_default()
    }

    /// Where a publication comes from that has begun here, at any time, of whatever feed.
    pub fn source(&self, publication: PublicationId) -> Option<Source> {
        let state = self.shared.lock();
        state.journals.get(&publication).map(|index| index.head.source.clone())
    }

    /// Whether the publication has begun here, at any time.
    pub fn is_known(&self, publication: PublicationId) -> bool {
        self.index(&mut self.shared.lock().journals, publication).is_some()
    }

    /// The feed's publications that are not complete, with what is missing.
    pub fn publications(&self) -> Vec<Unfinished> {
        let state = self.shared.lock();
        let all = state.journals.values();
        let mine = all.filter(|index| index.head.feed == self.feed && !index.is_complete());
        let unfinished = |index: &Index| Unfinished {
            publication: index.head.publication,
            source: index.head.source.clone(),
            ended: index.ended(),
            highest: index.highest(),
            wanted: index.wanted(index.ended().unwrap_or(index.highest().map_or(0, |n| n + 1))),
        };
        mine.map(unfinished).collect()
    }

    /// Whether the publication comes from the studio's own door.
    pub(super) fn is_from_here(&self, publication: PublicationId) -> bool {
        let mut state = self.shared.lock();
        self.index(&mut state.journals, publication).is_some_and(|index| index.is_from_here())
    }

    /// The index of a publication of this feed.
    fn index<'a>(
        &self,
        journals: &'a mut HashMap<PublicationId, Index>,
        publication: PublicationId,
    ) -> Option<&'a mut Index> {
        journals.get_mut(&publication).filter(|index| index.head.feed == self.feed)
    }

    fn wake(&self, state: MutexGuard<'_, State>) {
        let has_work = !state.queue.is_empty();
        drop(state);
        if has_work {
            self.shared.work.notify_one();
        }
    }
}
