//! What the recorder knows, under its one lock.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use media::PublicationId;
use tracing::warn;

use super::files::Told;
use super::format::{RecordHead, Source};
use super::index::Index;
use super::share::Share;
use crate::secret::FeedName;

/// What a record costs in the queue beside its body.
pub(super) const RECORD_COST: usize = 128;
/// Publications in the directory: years of them, and it bounds the memory of their index.
pub(super) const MAX_JOURNALS: usize = 1 << 16;

#[derive(Debug, Default)]
pub(super) struct State {
    /// Feeds that are recorded, or were since the start.
    pub(super) feeds: BTreeMap<FeedName, FeedState>,
    pub(super) journals: HashMap<PublicationId, Index>,
    /// What journals have become.
    pub(super) files: HashMap<PublicationId, Told>,
    /// Deleted publications of which files may be in the making.
    pub(super) doomed: HashSet<PublicationId>,
    pub(super) shares: HashMap<Source, Arc<Share>>,
    pub(super) queue: VecDeque<Job>,
    /// Bytes in the queue and in the writer's hands.
    pub(super) queued: usize,
    pub(super) is_stopping: bool,
    /// All is written: those who make files do what is left, and stop.
    pub(super) is_filed: bool,
    /// Whether the disk takes tags now.
    pub(super) is_ready: bool,
    pub(super) alarm: Option<String>,
    /// Why no file is made of some recording.
    pub(super) files_alarm: Option<String>,
    /// Something of a relay was not recorded, as it has too much already.
    pub(super) is_crowded: bool,
}

#[derive(Debug, Default)]
pub(super) struct FeedState {
    /// Milliseconds since 1970 since when it is recorded.
    pub(super) since: Option<i64>,
    /// How often it was switched on.
    pub(super) generation: u64,
    /// Tags that were not written because of the disk.
    pub(super) dropped: u64,
}

/// What the writer has to do.
#[derive(Debug)]
pub(super) enum Job {
    Record {
        publication: PublicationId,
        head: RecordHead,
        body: Bytes,
    },
    Seal(PublicationId),
    /// To put what a journal amounts to in its place; with `tags`, if it has so many.
    Empty {
        publication: PublicationId,
        tags: Option<u64>,
    },
}

impl State {
    pub(super) fn is_recorded(&self, feed: &FeedName) -> bool {
        self.feeds.get(feed).is_some_and(|feed| feed.since.is_some())
    }

    /// Whether people see a publication: it has something, and was not deleted.
    pub(super) fn is_shown(&self, index: &Index) -> bool {
        let is_doomed = self.doomed.contains(&index.head.publication);
        index.has_records() && !index.is_deleted() && !is_doomed
    }

    /// What a source takes.
    pub(super) fn share(&mut self, source: &Source) -> Arc<Share> {
        if let Some(share) = self.shares.get(source) {
            return share.clone();
        }
        self.shares.entry(source.clone()).or_default().clone()
    }

    /// Takes a publication, in the place of what was known of it.
    pub(super) fn insert(&mut self, mut index: Index) {
        let share = self.share(&index.head.source);
        index.charge(share);
        self.journals.insert(index.head.publication, index);
    }

    /// Whether there is room for another publication of this source. A relay may not have more than
    /// what is left for all others.
    pub(super) fn has_room(&mut self, source: &Source) -> bool {
        let left = MAX_JOURNALS.saturating_sub(self.journals.len());
        let has_room = match source {
            Source::Here => left > 0,
            Source::Relay(_) => self.share(source).journals() < left,
        };
        if !has_room && left > 0 {
            self.is_crowded = true;
        }
        has_room
    }

    /// What keeps the recorder from its work.
    pub(super) fn alarm(&self) -> Option<String> {
        let full = || {
            (self.journals.len() >= MAX_JOURNALS).then(|| {
                format!(
                    "there are {MAX_JOURNALS} recordings: nothing new is recorded until some are \
                     moved away and the studio is started again"
                )
            })
        };
        let crowded = || {
            self.is_crowded.then(|| {
                "one relay has filled half of the room for recordings: nothing new of it is recorded \
                 until some are moved away and the studio is started again"
                    .to_owned()
            })
        };
        self.alarm.clone().or_else(full).or_else(crowded).or_else(|| self.files_alarm.clone())
    }

    /// Says what is wrong, in the log once.
    pub(super) fn raise(&mut self, alarm: String) {
        if self.alarm.as_ref() != Some(&alarm) {
            warn!("{alarm}");
            self.alarm = Some(alarm);
        }
    }

    pub(super) fn push(&mut self, publication: PublicationId, head: RecordHead, body: Bytes) {
        self.queued += body.len() + RECORD_COST;
        if let Some(index) = self.journals.get_mut(&publication) {
            index.unwritten += 1;
        }
        self.queue.push_back(Job::Record { publication, head, body });
    }

    /// Applies and writes a record without a body.
    pub(super) fn mark(&mut self, publication: PublicationId, head: RecordHead) {
        let Some(index) = self.journals.get_mut(&publication) else { return };
        let _ = index.apply(&head);
        self.push(publication, head, Bytes::new());
    }

    /// Asks the writer to empty a journal; with `tags`, only if it has so many.
    pub(super) fn empty(&mut self, publication: PublicationId, tags: Option<u64>) {
        let is_asked = self.queue.iter().any(
            |job| matches!(job, Job::Empty { publication: other, .. } if *other == publication),
        );
        if !is_asked {
            self.queue.push_back(Job::Empty { publication, tags });
        }
    }

    /// Marks what is missing from `first` to `last` as gone.
    pub(super) fn gone(&mut self, publication: PublicationId, first: u64, last: u64) {
        let Some(index) = self.journals.get(&publication) else { return };
        let holes: Vec<_> = index.open(first, last).collect();
        for (first, last) in holes {
            self.mark(publication, RecordHead::gone(first, last));
        }
    }

    /// Marks what is missing of an ended publication from here as gone: there is nobody to ask.
    pub(super) fn give_up(&mut self, publication: PublicationId) {
        let Some(index) = self.journals.get(&publication) else { return };
        if let Some(last) = index.ended().filter(|_| index.is_from_here())
            && let Some(last) = last.checked_sub(1)
        {
            self.gone(publication, 0, last);
        }
    }
}

pub(super) fn switch_on(
    name: &FeedName,
    feed: &mut FeedState,
    since: i64,
    journals: &mut HashMap<PublicationId, Index>,
) {
    feed.since = Some(since);
    feed.generation += 1;
    for index in journals.values_mut().filter(|index| index.head.feed == *name) {
        index.is_paused = index.highest().is_some() && index.last_arrival < since;
    }
}
