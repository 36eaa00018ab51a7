//! A publication for a link that may be too slow for it: what is heard goes before what is seen.

use std::sync::Arc;
use std::time::{Duration, Instant};

use media::PublicationId;

use crate::bell::Bell;
use crate::cursor::{Cursor, Item, Join, Policy, Resume, Takes};
use crate::feed::Feed;

/// A publication in two lanes, each a cursor into the feed's ring: video, and all the rest.
///
/// Each lane gives its tags in order. Where the video skips, the rest skips to the same instant,
/// if it has not got there already. A publication that is over can be read as long as the ring
/// holds it.
#[derive(Debug)]
pub struct Lanes {
    feed: Feed,
    publication: PublicationId,
    video: Cursor,
    rest: Cursor,
    skipped: u64,
}

/// One of the lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Audio and script data.
    Rest,
    /// Video.
    Video,
}

impl Feed {
    /// Reads one publication behind what came through before, skipping when more than `budget`
    /// late.
    pub fn lanes(&self, resume: &Resume, budget: Duration) -> Lanes {
        let policy = Policy { join: Join::Publication, max_delay: budget, verbatim: true };
        let cursor = |takes| Cursor::lane(takes, policy, resume.clone());
        Lanes {
            feed: self.clone(),
            publication: resume.publication,
            video: cursor(Takes::Video),
            rest: cursor(Takes::Rest),
            skipped: 0,
        }
    }

    /// Has `bell` rung for `key` at every change, and once now.
    pub fn ring(&self, bell: &Arc<Bell>, key: usize) -> Ringing {
        self.bells().add(bell, key);
        Ringing { feed: self.clone(), bell: bell.clone(), key }
    }
}

/// A feed that rings a bell; dropping it ends that.
#[derive(Debug)]
pub struct Ringing {
    feed: Feed,
    bell: Arc<Bell>,
    key: usize,
}

impl Drop for Ringing {
    fn drop(&mut self) {
        self.feed.bells().remove(&self.bell, self.key);
    }
}

impl Lanes {
    /// Appends a lane's tags to `out`, at least one if there is one and about `max_bytes` at most.
    pub fn poll(&mut self, lane: Lane, now: Instant, out: &mut Vec<Item>, max_bytes: usize) {
        let inner = self.feed.lock();
        let view = inner.view(self.feed.limits(), now);
        match lane {
            Lane::Rest => {
                self.rest.poll(&view, out, max_bytes);
            }
            Lane::Video => {
                self.video.poll(&view, out, max_bytes);
                if let Some(target) = self.video.take_jump() {
                    self.rest.follow(target, &view);
                }
            }
        }
        drop(inner);
        let skipped = self.video.take_skipped() + self.rest.take_skipped();
        self.skipped += skipped;
        self.feed.count_skipped(skipped);
    }

    /// Whether there will be no more: the publication is over, and all that the ring has of it was
    /// given.
    pub fn is_over(&self) -> bool {
        let inner = self.feed.lock();
        let is_on_air = inner.publication() == Some(self.publication);
        let end = inner.ring_end();
        [&self.video, &self.rest].into_iter().all(|lane| lane.is_through(end, is_on_air))
    }

    /// Whether its encoder has ended the publication itself.
    pub fn was_stopped(&self) -> bool {
        self.feed.was_stopped(self.publication)
    }

    /// Whether video will skip when it is asked for: what was taken before is old.
    pub fn will_skip(&self, now: Instant) -> bool {
        let inner = self.feed.lock();
        self.video.will_skip(&inner.view(self.feed.limits(), now))
    }

    /// The way was interrupted: what is late now is skipped as if it were beyond the budget.
    pub fn recover(&mut self) {
        self.video.recover();
        self.rest.recover();
    }

    /// Tags that were skipped.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }
}
