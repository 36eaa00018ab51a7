use std::sync::atomic::Ordering;
use std::time::Instant;

use tokio::sync::watch;

use super::Feed;
use crate::cursor::{Cursor, Item, Next};

/// A cursor into a feed.
///
/// It skips when the next tag is older than [`Policy::max_delay`](crate::Policy::max_delay): to the newest keyframe ahead
/// of it that the ring holds, audio to the same instant; without keyframes (audio only, intra
/// refresh) by time. Sequence headers and metadata in force at the target come first. What is
/// skipped is counted.
#[derive(Debug)]
pub struct Subscriber {
    pub(super) feed: Feed,
    pub(super) changed: watch::Receiver<()>,
    pub(super) cursor: Cursor,
    /// When the next tag is due that is there already.
    pub(super) due: Option<Instant>,
    /// Whether the last poll left something that could be had at once.
    pub(super) has_more: bool,
    pub(super) skipped: u64,
    /// Whether it is one of the feed's subscribers, and not the node itself.
    pub(super) is_counted: bool,
}

impl Subscriber {
    /// Appends tags to `out`, at least one if there is one and about `max_bytes` at most.
    pub fn poll(&mut self, now: Instant, out: &mut Vec<Item>, max_bytes: usize) -> Next {
        self.changed.mark_unchanged();
        let inner = self.feed.lock();
        if inner.is_closed {
            return Next::Ended;
        }
        let view = inner.view(&self.feed.0.limits, now);
        let next = self.cursor.poll(&view, out, max_bytes);
        self.due = self.cursor.due(&view);
        self.has_more = self.due.is_none() && self.cursor.has_more(&view);
        drop(inner);
        let skipped = self.cursor.take_skipped();
        self.skipped += skipped;
        if self.is_counted {
            self.feed.count_skipped(skipped);
        }
        next
    }

    /// Tags that this subscriber has skipped.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// When to poll again though nothing changes: the next tag is there, and not due yet.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Whether a poll may find something now, the passing of time aside.
    pub fn has_news(&self) -> bool {
        // The sender lives as long as the feed that this subscriber holds.
        self.has_more || self.changed.has_changed().unwrap_or(true)
    }

    /// Waits for a change since the last poll. Cancel safe.
    pub async fn changed(&mut self) {
        // As above, there is no error.
        let _ = self.changed.changed().await;
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        if self.is_counted {
            self.feed.0.subscribers.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
