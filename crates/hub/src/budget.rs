use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::feed::Shared;

/// What a spool gives up at a time, so that not every tag has to look for the largest. More would
/// flood the disk.
const SLICE: usize = 256 << 10;

/// The memory that the rings of a hub share.
///
/// A feed accounts for its ring after each change. The one that finds the total exceeded has the
/// spools give up their oldest tags, then the rings their oldest GOPs. The largest feed of the
/// owner who takes most goes first: who is modest loses nothing.
#[derive(Debug)]
pub(crate) struct Budget {
    total: usize,
    used: AtomicUsize,
    trimmed: AtomicU64,
    overruns: AtomicU64,
    feeds: Mutex<Vec<Weak<Shared>>>,
}

/// How much memory the rings of a hub take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Bytes in all rings and spools.
    pub used: usize,
    /// Bytes in all spools.
    pub spooled: usize,
    /// The bound of that: [`Limits::total_bytes`](crate::Limits::total_bytes).
    pub total: usize,
    /// GOPs that were given up for the bound on all rings.
    pub trimmed: u64,
    /// Tags that came into a ring that was at its own bound of bytes or tags.
    pub overruns: u64,
}

impl Budget {
    pub(crate) fn new(total: usize) -> Self {
        Self {
            total,
            used: AtomicUsize::new(0),
            trimmed: AtomicU64::new(0),
            overruns: AtomicU64::new(0),
            feeds: Mutex::default(),
        }
    }

    pub(crate) fn register(&self, feed: Weak<Shared>) {
        let mut feeds = self.feeds.lock().unwrap_or_else(PoisonError::into_inner);
        feeds.retain(|feed| feed.strong_count() > 0);
        feeds.push(feed);
    }

    pub(crate) fn memory(&self) -> Memory {
        Memory {
            used: self.used.load(Ordering::Relaxed),
            spooled: self.alive().iter().map(|feed| feed.spool_bytes()).sum(),
            total: self.total,
            trimmed: self.trimmed.load(Ordering::Relaxed),
            overruns: self.overruns.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn change(&self, before: usize, after: usize) {
        if after >= before {
            self.used.fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.used.fetch_sub(before - after, Ordering::Relaxed);
        }
    }

    pub(crate) fn count_overrun(&self) {
        self.overruns.fetch_add(1, Ordering::Relaxed);
    }

    /// Makes room if the total is exceeded; the caller holds no feed's lock. So all take no more than
    /// the total and a tag for each publisher.
    pub(crate) fn enforce(&self) {
        if self.used.load(Ordering::Relaxed) <= self.total {
            return;
        }
        // One at a time. Whoever does not wait for it may have come when the other had looked for the
        // last time, and leave too much behind.
        let guard = self.feeds.lock().unwrap_or_else(PoisonError::into_inner);
        let feeds: Vec<_> = guard.iter().filter_map(Weak::upgrade).collect();
        while self.used.load(Ordering::Relaxed) > self.total {
            let Some(feed) = largest(&feeds, Shared::spool_bytes) else { break };
            feed.give_up_spool(SLICE);
        }
        if self.used.load(Ordering::Relaxed) <= self.total {
            return;
        }
        // Some room at once, so that not every tag has to look for it.
        let target = self.total - self.total / 8;
        while self.used.load(Ordering::Relaxed) > target {
            let Some(feed) = largest(&feeds, Shared::ring_bytes) else { return };
            feed.give_up_gop();
            self.trimmed.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn alive(&self) -> Vec<Arc<Shared>> {
        let feeds = self.feeds.lock().unwrap_or_else(PoisonError::into_inner);
        feeds.iter().filter_map(Weak::upgrade).collect()
    }
}

/// The feed with most `bytes` of the owner with most; `None` if nobody has any.
fn largest(feeds: &[Arc<Shared>], bytes: impl Fn(&Shared) -> usize) -> Option<&Arc<Shared>> {
    let mut owners: HashMap<u64, usize> = HashMap::new();
    for feed in feeds {
        *owners.entry(feed.owner()).or_default() += bytes(feed);
    }
    let largest = feeds.iter().max_by_key(|feed| (owners[&feed.owner()], bytes(feed)));
    largest.filter(|feed| bytes(feed) > 0)
}
