use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::budget::{Budget, Memory};
use crate::feed::{Feed, Limits, Snapshot, lock};
use crate::spool::Backing;

/// Feeds by name, made when they are first asked for.
#[derive(Debug)]
pub struct Hub<K> {
    limits: Limits,
    budget: Arc<Budget>,
    backing: Option<Arc<dyn Backing<K>>>,
    feeds: Mutex<HashMap<K, Feed>>,
}

impl<K: Eq + Hash> Hub<K> {
    /// An empty hub whose feeds have these bounds.
    pub fn new(limits: Limits) -> Self {
        let budget = Arc::new(Budget::new(limits.total_bytes));
        Self { limits, budget, backing: None, feeds: Mutex::default() }
    }

    /// As [`new`](Self::new); whose the feeds are, and where their tags go when they leave memory,
    /// says `backing`.
    pub fn backed(limits: Limits, backing: Arc<dyn Backing<K>>) -> Self {
        Self { backing: Some(backing), ..Self::new(limits) }
    }

    /// The feed of this name.
    pub fn feed(&self, name: K) -> Feed {
        let mut feeds = lock(&self.feeds);
        let new = |name: &K| {
            let serial = Feed::next_serial();
            let (owner, overflow) = match &self.backing {
                Some(backing) => (backing.owner(name), backing.overflow(name, serial)),
                None => (serial, None),
            };
            Feed::within(self.limits.clone(), self.budget.clone(), serial, owner, overflow)
        };
        feeds.entry(name).or_insert_with_key(new).clone()
    }

    /// The feed of this name, if it was made.
    pub fn find(&self, name: &K) -> Option<Feed> {
        lock(&self.feeds).get(name).cloned()
    }

    /// How much memory the rings of its feeds take.
    pub fn memory(&self) -> Memory {
        self.budget.memory()
    }

    /// What the feed of this name is doing; it is not made for that.
    pub fn snapshot(&self, name: &K, now: Instant) -> Snapshot {
        self.find(name).unwrap_or_else(|| Feed::new(self.limits.clone())).snapshot(now)
    }

    /// Frees the memory of feeds whose last publication is over and no longer held.
    pub fn sweep(&self, now: Instant) {
        let feeds: Vec<_> = lock(&self.feeds).values().cloned().collect();
        feeds.iter().for_each(|feed| feed.sweep(now));
    }

    /// Forgets the feed; its publisher is cut and its subscribers end.
    pub fn remove(&self, name: &K) {
        let feed = lock(&self.feeds).remove(name);
        if let Some(feed) = feed {
            feed.close();
        }
    }
}
