//! The players of a studio, and how long tags wait here until each of them takes them.
//!
//! A player's task keeps its own figures and tells them to the others once in a while: with hundreds
//! of players, memory that both touch at each tag costs more than the figures are worth.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::status::{PlayerStatus, Spread};

/// Writes that are remembered of a player: some seconds of one that keeps up.
const WRITES: usize = 256;
/// How long a write says something of now.
const WINDOW: Duration = Duration::from_secs(10);
/// Players of a feed that the status lists: it is asked for often.
const LISTED: usize = 100;

/// The players of all feeds.
#[derive(Debug, Default)]
pub struct Players(Mutex<HashMap<String, Vec<Arc<Viewer>>>>);

/// A player's place among those of its feed; dropping it gives it up.
#[derive(Debug)]
pub struct Seat {
    players: Arc<Players>,
    feed: String,
    viewer: Arc<Viewer>,
}

/// Tags that are handed to a player's socket at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// When the oldest of them entered the hub; where the player is kept behind, when it was due.
    pub arrival: Instant,
    /// How many they are.
    pub tags: u32,
}

#[derive(Debug)]
struct Viewer {
    peer: SocketAddr,
    client: String,
    since: Instant,
    queue: Mutex<Queue>,
}

/// What was told of a player last.
#[derive(Debug, Default)]
struct Queue {
    /// The last writes, oldest first.
    writes: VecDeque<Write>,
    /// What the socket had not taken yet.
    pending: Option<Batch>,
    skipped: u64,
}

/// The figures of a player as its own task has them.
#[derive(Debug)]
pub struct Waits<'a> {
    viewer: &'a Viewer,
    since: Instant,
    /// Writes that were not told yet, oldest first.
    writes: Vec<Write>,
    /// What the socket has not taken yet.
    pending: Option<Batch>,
    /// Whether `pending` was told.
    is_told: bool,
}

/// A write of the past, in 12 bytes.
#[derive(Clone, Copy, Debug)]
struct Write {
    /// Milliseconds since the player came.
    at_ms: u32,
    wait_us: u32,
    tags: u32,
}

impl Players {
    /// A place for a player that was let in; `client` is what it calls itself, fit for a log.
    pub fn enter(self: &Arc<Self>, feed: &str, peer: SocketAddr, client: String) -> Seat {
        let since = Instant::now();
        let viewer = Arc::new(Viewer { peer, client, since, queue: Mutex::default() });
        self.lock().entry(feed.to_owned()).or_default().push(viewer.clone());
        Seat { players: self.clone(), feed: feed.to_owned(), viewer }
    }

    /// The players of a feed, those that wait longest first, at most 100; and how long tags wait
    /// for whoever is worst among all.
    pub fn of(&self, feed: &str, now: Instant) -> (Vec<PlayerStatus>, Option<Spread>) {
        let viewers = self.lock().get(feed).cloned().unwrap_or_default();
        let mut players: Vec<_> = viewers.iter().map(|viewer| viewer.status(now)).collect();
        let spreads = players.iter().filter_map(|player| player.queue_ms);
        let worst = spreads.reduce(|a, b| Spread { p50: a.p50.max(b.p50), p99: a.p99.max(b.p99) });
        let p99 = |player: &PlayerStatus| player.queue_ms.map_or(-1.0, |queue| queue.p99);
        // Those that are alike stay in the order in which they came.
        players.sort_by(|a, b| p99(b).total_cmp(&p99(a)));
        players.truncate(LISTED);
        (players, worst)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Vec<Arc<Viewer>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Figures of the player, to be kept by its task.
    pub fn waits(&self) -> Waits<'_> {
        let viewer = &self.viewer;
        Waits { viewer, since: viewer.since, writes: Vec::new(), pending: None, is_told: false }
    }
}

impl Waits<'_> {
    /// The socket has taken everything by now.
    pub fn left(&mut self, now: Instant, skipped: u64) {
        let Some(batch) = self.pending.take() else { return };
        self.writes.push(Write::new(batch, self.since, now));
        // Whoever knows that it waits would see it wait on.
        if self.is_told || self.writes.len() == WRITES {
            self.tell(skipped);
        }
    }

    /// The socket gets this now.
    pub fn queue(&mut self, batch: Batch) {
        self.pending = Some(batch);
    }

    /// Tells what there is, to be seen by [`Players::of`]; `skipped` tags were left out so far,
    /// because the player was too late.
    pub fn tell(&mut self, skipped: u64) {
        let mut queue = self.viewer.lock();
        queue.skipped = skipped;
        queue.pending = self.pending;
        self.is_told = self.pending.is_some();
        let over = (queue.writes.len() + self.writes.len()).saturating_sub(WRITES);
        queue.writes.drain(..over);
        queue.writes.extend(self.writes.drain(..));
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut feeds = self.players.lock();
        if let Some(viewers) = feeds.get_mut(&self.feed) {
            viewers.retain(|viewer| !Arc::ptr_eq(viewer, &self.viewer));
            if viewers.is_empty() {
                feeds.remove(&self.feed);
            }
        }
    }
}

impl Write {
    fn new(batch: Batch, since: Instant, now: Instant) -> Self {
        let short = |number: u128| u32::try_from(number).unwrap_or(u32::MAX);
        Self {
            at_ms: short(now.saturating_duration_since(since).as_millis()),
            wait_us: short(now.saturating_duration_since(batch.arrival).as_micros()),
            tags: batch.tags,
        }
    }
}

impl Viewer {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn status(&self, now: Instant) -> PlayerStatus {
        let queue = self.lock();
        let (mut writes, skipped): (Vec<_>, _) =
            (queue.writes.iter().copied().collect(), queue.skipped);
        // A player that stands still writes nothing that could say so.
        writes.extend(queue.pending.map(|batch| Write::new(batch, self.since, now)));
        drop(queue);
        let connected = now.saturating_duration_since(self.since);
        let oldest = connected.saturating_sub(WINDOW).as_millis();
        writes.retain(|write| u128::from(write.at_ms) >= oldest);
        PlayerStatus {
            address: self.peer.to_string(),
            client: self.client.clone(),
            connected_s: connected.as_secs_f64(),
            queue_ms: spread(&mut writes),
            skipped_tags: skipped,
        }
    }
}

/// How long tags waited: each as long as the oldest in its write.
fn spread(writes: &mut [Write]) -> Option<Spread> {
    writes.sort_unstable_by_key(|write| write.wait_us);
    let all: u64 = writes.iter().map(|write| u64::from(write.tags)).sum();
    let at = |share: f64| {
        let mut left = (all as f64 * share).ceil() as u64;
        let write = writes.iter().find(|write| {
            left = left.saturating_sub(write.tags.into());
            left == 0
        });
        write.map(|write| f64::from(write.wait_us) / 1_000.0)
    };
    at(0.5).zip(at(0.99)).map(|(p50, p99)| Spread { p50, p99 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn enter(players: &Arc<Players>, port: u16) -> Seat {
        players.enter("camera", ([10, 0, 0, 7], port).into(), "VLC".into())
    }

    fn queue(players: &Players, now: Instant) -> Option<(f64, f64)> {
        players.of("camera", now).0[0].queue_ms.map(|Spread { p50, p99 }| (p50, p99))
    }

    #[test]
    fn a_queue_is_what_tags_waited_lately() {
        let players = Arc::new(Players::default());
        let seat = enter(&players, 1);
        let mut waits = seat.waits();
        let start = seat.viewer.since;
        assert_eq!(queue(&players, start), None);
        // 90 tags that waited 2 ms each, and ten in one write after 300 ms.
        let mut now = start;
        for _ in 0..90 {
            waits.queue(Batch { arrival: now, tags: 1 });
            now += ms(2);
            waits.left(now, 0);
        }
        waits.queue(Batch { arrival: now, tags: 10 });
        now += ms(300);
        waits.left(now, 4);
        assert_eq!(queue(&players, now), None, "nothing was told");
        waits.tell(4);
        // Nothing is on its way: an idle player has no queue.
        waits.left(now + ms(50), 4);
        assert_eq!(queue(&players, now), Some((2.0, 300.0)));
        let player = &players.of("camera", now).0[0];
        assert_eq!((player.address.as_str(), player.client.as_str()), ("10.0.0.7:1", "VLC"));
        assert_eq!((player.skipped_tags, player.connected_s), (4, 0.48));
        assert_eq!(queue(&players, now + WINDOW + ms(1)), None, "that was long ago");
    }

    #[test]
    fn a_player_that_stands_still_has_a_queue_that_grows() {
        let players = Arc::new(Players::default());
        let seat = enter(&players, 1);
        let mut waits = seat.waits();
        let now = Instant::now();
        waits.queue(Batch { arrival: now, tags: 3 });
        waits.tell(0);
        assert_eq!(queue(&players, now + ms(700)), Some((700.0, 700.0)));
        assert_eq!(queue(&players, now + ms(1_900)), Some((1_900.0, 1_900.0)));
        let later = now + ms(20_000);
        assert_eq!(queue(&players, later), Some((20_000.0, 20_000.0)));
        // It goes on: that is to be seen at once.
        waits.left(now + ms(2_000), 0);
        assert_eq!(queue(&players, now + ms(2_900)), Some((2_000.0, 2_000.0)));
    }

    #[test]
    fn the_worst_are_listed_first_and_there_are_bounds() {
        let players = Arc::new(Players::default());
        let seats: Vec<_> = (0..150).map(|port| enter(&players, port)).collect();
        let now = Instant::now();
        for (seat, wait) in seats.iter().zip(0..150) {
            let mut waits = seat.waits();
            // The first one gets nothing.
            for number in 0..if wait > 0 { 2 * WRITES + 9 } else { 0 } {
                waits.queue(Batch { arrival: now - ms(wait), tags: 1 });
                waits.left(now, 0);
                assert!(waits.writes.len() < WRITES);
                if number % 100 == 0 {
                    waits.tell(0);
                }
                assert!(seat.viewer.lock().writes.len() <= WRITES);
            }
        }
        let (list, worst) = players.of("camera", now);
        assert_eq!(worst, Some(Spread { p50: 149.0, p99: 149.0 }));
        assert_eq!(list.len(), LISTED);
        assert_eq!((&*list[0].address, &*list[99].address), ("10.0.0.7:149", "10.0.0.7:50"));
        assert_eq!(players.of("other", now), (vec![], None));
        drop(seats);
        assert_eq!(players.of("camera", now), (vec![], None));
        assert!(players.lock().is_empty());
    }
}
