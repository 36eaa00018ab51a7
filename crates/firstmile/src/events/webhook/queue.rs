//! The events that wait for one hook.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::Event;

/// A bounded queue that gives up its oldest, as what is new matters more.
#[derive(Debug)]
pub(super) struct Queue {
    most: usize,
    inner: Mutex<Inner>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    events: VecDeque<Arc<Event>>,
    /// Given up since the last one was taken, and in all.
    missed: u64,
    left_out: u64,
}

impl Queue {
    pub(super) fn new(most: usize) -> Self {
        Self { most, inner: Mutex::default(), filled: Notify::new() }
    }

    pub(super) fn push(&self, event: Arc<Event>) {
        let mut inner = self.lock();
        if inner.events.len() >= self.most {
            inner.events.pop_front();
            inner.missed += 1;
            inner.left_out += 1;
        }
        inner.events.push_back(event);
        drop(inner);
        self.filled.notify_one();
    }

    /// Waits for the oldest; with it, how many were given up before it.
    pub(super) async fn pop(&self) -> (Arc<Event>, u64) {
        loop {
            if let Some(popped) = self.try_pop() {
                return popped;
            }
            // What came in between has left a permit.
            self.filled.notified().await;
        }
    }

    fn try_pop(&self) -> Option<(Arc<Event>, u64)> {
        let mut inner = self.lock();
        let event = inner.events.pop_front()?;
        Some((event, std::mem::take(&mut inner.missed)))
    }

    /// How many wait, and how many were given up in all.
    pub(super) fn figures(&self) -> (usize, u64) {
        let inner = self.lock();
        (inner.events.len(), inner.left_out)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{About, Kind, Severity};

    fn event(id: u64) -> Arc<Event> {
        let (kind, severity, about) = (Kind::Live, Severity::Info, About::default());
        Arc::new(Event { id, time: String::new(), kind, severity, about, text: String::new() })
    }

    #[tokio::test]
    async fn the_oldest_gives_way_and_is_counted() {
        let queue = Queue::new(3);
        (1..=5).for_each(|id| queue.push(event(id)));
        assert_eq!(queue.figures(), (3, 2));
        let (first, missed) = queue.pop().await;
        assert_eq!((first.id, missed), (3, 2));
        let (second, missed) = queue.pop().await;
        assert_eq!((second.id, missed), (4, 0));
    }
}
