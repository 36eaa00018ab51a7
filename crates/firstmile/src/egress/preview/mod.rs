//! The dashboard's previews: feeds as fragmented MP4 for browsers, without decoding a picture.
//!
//! ```text
//!   hub --Subscriber--> task: Muxer, Meter --> Log <-- Viewer (a cursor) --> WebSocket
//! ```
//!
//! A feed has one task while somebody watches it, and none otherwise: it muxes once for all. A
//! feed knows nothing of it: the task reads as any player does, is not counted among them, and
//! skips when it is late.

mod log;
mod meter;
mod mux;
mod wire;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use hub::{Feed, Join, Policy};
use tokio::sync::{Notify, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

pub use self::log::Next;
pub use self::wire::{Message, Mode};

use self::log::{Cursor, Log};
use self::meter::Meter;
use self::mux::Muxer;

/// Bytes taken from the hub at a time.
const BATCH: usize = 1 << 20;
/// How the task reads: the newest GOP as it was, and not later than this afterwards.
const POLICY: Policy =
    Policy { join: Join::Smooth, max_delay: Duration::from_secs(1), verbatim: false };
/// Sound older than this has been heard: it comes with the GOP at the start.
const FRESH: Duration = Duration::from_millis(300);
/// How long the last words to viewers may take when the node stops.
const CLOSE: Duration = Duration::from_secs(1);
/// How often a feed is looked at that says nothing.
const TICK: Duration = Duration::from_secs(1);

/// All feeds that are watched, and how many watch.
#[derive(Debug)]
pub struct Previews {
    per_feed: usize,
    total: usize,
    watched: Mutex<Watched>,
    dropped: Arc<AtomicU64>,
    shutdown: CancellationToken,
    /// Told when somebody leaves.
    left: Notify,
}

#[derive(Debug, Default)]
struct Watched {
    /// By the feed's serial: one that was removed and added again is another one.
    feeds: HashMap<u64, Weak<Shared>>,
    viewers: usize,
}

/// Why nobody more can watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// This feed has as many viewers as it may have.
    #[error("too many watch this feed")]
    Feed,
    /// All feeds together have.
    #[error("too many previews are open")]
    Node,
}

/// What the viewers of a feed share; its task ends with it.
#[derive(Debug)]
struct Shared {
    log: Mutex<Log>,
    changed: watch::Sender<()>,
    /// Written under the lock of [`Watched`].
    viewers: AtomicUsize,
    _task: DropGuard,
}

impl Shared {
    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the log and tells the viewers.
    fn change(&self, change: impl FnOnce(&mut Log)) {
        change(&mut self.log());
        self.changed.send_replace(());
    }
}

impl Previews {
    /// Nobody watches yet; at most `per_feed` will watch one feed, and `total` all together.
    pub fn new(per_feed: usize, total: usize) -> Self {
        Self {
            per_feed,
            total,
            watched: Mutex::default(),
            dropped: Arc::default(),
            shutdown: CancellationToken::new(),
            left: Notify::new(),
        }
    }

    /// A viewer of this feed.
    ///
    /// # Errors
    ///
    /// [`Full`] if too many watch already.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn watch(self: &Arc<Self>, feed: &Feed, mode: Mode) -> Result<Viewer, Full> {
        let mut watched = self.lock();
        if watched.viewers >= self.total {
            return Err(Full::Node);
        }
        watched.feeds.retain(|_, shared| shared.strong_count() > 0);
        let shared = match watched.feeds.get(&feed.serial()).and_then(Weak::upgrade) {
            Some(shared) => shared,
            None => {
                let shared = start(feed.clone(), &self.shutdown);
                watched.feeds.insert(feed.serial(), Arc::downgrade(&shared));
                shared
            }
        };
        if shared.viewers.load(Ordering::Relaxed) >= self.per_feed {
            return Err(Full::Feed);
        }
        shared.viewers.fetch_add(1, Ordering::Relaxed);
        watched.viewers += 1;
        drop(watched);
        let changed = shared.changed.subscribe();
        let cursor = Cursor::new(mode, Instant::now());
        Ok(Viewer { previews: self.clone(), shared, changed, cursor })
    }

    /// Those who watch, all feeds together.
    pub fn viewers(&self) -> usize {
        self.lock().viewers
    }

    /// Pictures that were left out because a viewer was too slow, since the start.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Ends all previews, and those to come; waits for a moment until nobody watches.
    pub async fn close(&self) {
        self.shutdown.cancel();
        let all_left = async {
            loop {
                let left = self.left.notified();
                if self.viewers() == 0 {
                    return;
                }
                left.await;
            }
        };
        let _ = tokio::time::timeout(CLOSE, all_left).await;
    }

    fn lock(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One who watches a feed.
#[derive(Debug)]
pub struct Viewer {
    previews: Arc<Previews>,
    shared: Arc<Shared>,
    changed: watch::Receiver<()>,
    cursor: Cursor,
}

impl Viewer {
    /// Appends what there is for the viewer now, some hundred kilobytes at most.
    pub fn poll(&mut self, now: Instant, out: &mut Vec<Message>) -> Next {
        self.changed.mark_unchanged();
        let before = self.cursor.dropped();
        let next = self.cursor.poll(&self.shared.log(), now, out);
        self.previews.dropped.fetch_add(self.cursor.dropped() - before, Ordering::Relaxed);
        next
    }

    /// Starts anew with more or less than before.
    pub fn set_mode(&mut self, mode: Mode, now: Instant) {
        self.cursor.set_mode(mode, now);
    }

    /// Waits for something new since the last poll. Cancel safe.
    pub async fn changed(&mut self) {
        // The sender lives as long as this viewer.
        let _ = self.changed.changed().await;
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        let mut watched = self.previews.lock();
        watched.viewers -= 1;
        self.shared.viewers.fetch_sub(1, Ordering::Relaxed);
        self.previews.left.notify_waiters();
    }
}

fn start(feed: Feed, shutdown: &CancellationToken) -> Arc<Shared> {
    let stop = shutdown.child_token();
    let shared = Arc::new(Shared {
        log: Mutex::new(Log::new()),
        changed: watch::Sender::new(()),
        viewers: AtomicUsize::new(0),
        _task: stop.clone().drop_guard(),
    });
    let weak = Arc::downgrade(&shared);
    tokio::spawn(async move {
        let _end = End(weak.clone());
        run(&feed, &weak, &stop).await;
    });
    shared
}

/// Tells the viewers when their task ends, even by a fault.
struct End(Weak<Shared>);

impl Drop for End {
    fn drop(&mut self) {
        if let Some(shared) = self.0.upgrade() {
            shared.change(Log::end_all);
        }
    }
}

/// Muxes the feed's tags until nobody watches, the feed is removed, or the node stops.
async fn run(feed: &Feed, shared: &Weak<Shared>, stop: &CancellationToken) {
    let mut subscriber = feed.follow(POLICY);
    let mut muxer = Muxer::new(Instant::now());
    let mut meter = Meter::new({
        let shared = shared.clone();
        move |text| {
            if let Some(shared) = shared.upgrade() {
                shared.change(|log| log.set_level(text));
            }
        }
    });
    let (mut items, mut frames) = (Vec::new(), Vec::new());
    while !feed.is_closed() {
        let now = Instant::now();
        let next = subscriber.poll(now, &mut items, BATCH);
        let generation = muxer.generation().number;
        let mut mute = None;
        for item in items.drain(..) {
            muxer.take(&item, now, &mut frames);
            if item.tag.is_header() || now.saturating_duration_since(item.arrival) < FRESH {
                mute = meter.take(&item.tag).or(mute);
            }
        }
        muxer.expire(now, &mut frames);
        let is_new = muxer.generation().number != generation;
        if is_new || mute.is_some() || !frames.is_empty() {
            let Some(shared) = shared.upgrade() else { return };
            shared.change(|log| {
                frames.drain(..).for_each(|frame| log.push(frame, now));
                if is_new {
                    log.set_generation(muxer.generation());
                }
                mute.into_iter().for_each(|text| log.set_level(text));
            });
        }
        if next == hub::Next::Tags {
            // A ring may hold a lot at the start.
            tokio::task::yield_now().await;
            continue;
        }
        let due = muxer.due().unwrap_or(now + TICK);
        tokio::select! {
            () = stop.cancelled() => return,
            () = subscriber.changed() => {}
            () = tokio::time::sleep_until(due.into()) => {}
        }
    }
}

#[cfg(test)]
mod tests;
