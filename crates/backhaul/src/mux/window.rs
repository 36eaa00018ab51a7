//! How much may be on its way: enough to fill it, and little more, so that what is more important can
//! overtake what waits.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::Error;

/// Bytes on their way until something is known of it: a keyframe.
const FIRST: u64 = 240_000;
/// Bytes that have arrived before the way is known.
const KNOWN_AFTER: u64 = 128 << 10;
/// Bounds of what is on its way. With less it does not grow again; more is 100 Mb/s over 1.3 s.
const LEAST: u64 = 32 << 10;
const MOST: u64 = 16 << 20;
/// How long what is on its way may wait there, beside the shortest round trip that was seen.
const SLACK: Duration = Duration::from_millis(75);
/// What waits here beside it, as time: until it is sent, it can still be given up.
const BACKLOG: Duration = Duration::from_millis(50);
/// How long the highest rate counts, at least; ten round trips where those are long.
const RATE_SPAN: Duration = Duration::from_secs(1);
/// How long the shortest round trip counts.
const TRIP_SPAN: Duration = Duration::from_secs(30);
/// A shortest round trip that has grown by this may be the queue that we make ourselves: then little
/// is sent for a moment, so that it is seen.
const GROWN: Duration = Duration::from_millis(25);
const DRAIN: Duration = Duration::from_millis(250);
/// Writes that are remembered until they have arrived; more are taken together.
const MAX_FLIGHTS: usize = 1_024;

/// Measures a way by the peer's reports of what it has received.
#[derive(Debug)]
pub(super) struct Window {
    sent: u64,
    delivered: u64,
    delivered_at: Instant,
    flights: VecDeque<Flight>,
    /// What was sent before this was all that there was to send.
    limited_to: u64,
    /// Bytes a second at best, in this span and the one before.
    rates: [Option<f64>; 2],
    rates_since: Instant,
    /// The shortest round trip, in the same way.
    trips: [Option<Duration>; 2],
    trips_since: Instant,
    drain_until: Option<Instant>,
}

/// One write on its way.
#[derive(Clone, Copy, Debug)]
struct Flight {
    end: u64,
    at: Instant,
    delivered: u64,
    delivered_at: Instant,
    is_limited: bool,
}

impl Window {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            sent: 0,
            delivered: 0,
            delivered_at: now,
            flights: VecDeque::new(),
            limited_to: 0,
            rates: [None; 2],
            rates_since: now,
            trips: [None; 2],
            trips_since: now,
            drain_until: None,
        }
    }

    /// Bytes on their way.
    pub(super) fn in_flight(&self) -> u64 {
        self.sent - self.delivered
    }

    /// Bytes that may be sent now.
    pub(super) fn room(&self, now: Instant) -> u64 {
        self.size(now).saturating_sub(self.in_flight())
    }

    /// Bytes that may be on their way.
    pub(super) fn size(&self, now: Instant) -> u64 {
        if self.drain_until.is_some_and(|until| now < until) {
            return LEAST;
        }
        match self.rate().zip(self.trip()) {
            Some((rate, trip)) if self.delivered >= KNOWN_AFTER => {
                ((rate * (trip + SLACK).as_secs_f64()) as u64).clamp(LEAST, MOST)
            }
            _ => FIRST,
        }
    }

    /// Bytes that may wait to be sent.
    pub(super) fn backlog(&self) -> u64 {
        let rate = self.rate().filter(|_| self.delivered >= KNOWN_AFTER);
        rate.map_or(FIRST, |rate| ((rate * BACKLOG.as_secs_f64()) as u64).clamp(LEAST, MOST))
    }

    /// Takes note of a write, and whether more waits that could have been sent.
    pub(super) fn on_sent(&mut self, bytes: usize, has_more: bool, now: Instant) {
        if bytes == 0 {
            return;
        }
        if self.in_flight() == 0 {
            // The time in which there was nothing to send does not count.
            self.delivered_at = now;
        }
        self.sent += bytes as u64;
        let (delivered, delivered_at) = (self.delivered, self.delivered_at);
        let is_limited = delivered < self.limited_to;
        let flight = Flight { end: self.sent, at: now, delivered, delivered_at, is_limited };
        let is_full = self.flights.len() >= MAX_FLIGHTS;
        match self.flights.back_mut().filter(|_| is_full) {
            Some(last) => last.end = self.sent,
            None => self.flights.push_back(flight),
        }
        if !has_more {
            self.limited_to = self.sent;
        }
    }

    /// The peer has received so many bytes; returns whether that is news.
    ///
    /// # Errors
    ///
    /// If that is more than was sent, or less than it said before.
    pub(super) fn on_received(&mut self, total: u64, now: Instant) -> Result<bool, Error> {
        if total > self.sent || total < self.delivered {
            return Err(Error::Misbehaved("it has received what was not sent"));
        }
        if total == self.delivered {
            return Ok(false);
        }
        (self.delivered, self.delivered_at) = (total, now);
        let mut last = None;
        while let Some(flight) = self.flights.front().filter(|flight| flight.end <= total) {
            last = Some(*flight);
            self.flights.pop_front();
        }
        if let Some(flight) = last {
            self.on_trip(now.saturating_duration_since(flight.at), now);
            let time = now.saturating_duration_since(flight.delivered_at);
            let rate = (total - flight.delivered) as f64 / time.as_secs_f64().max(0.001);
            self.on_rate(rate, flight.is_limited, now);
        }
        Ok(true)
    }

    fn on_trip(&mut self, trip: Duration, now: Instant) {
        if now.saturating_duration_since(self.trips_since) > TRIP_SPAN {
            let [recent, before] = self.trips;
            let has_grown = recent.zip(before).is_some_and(|(now, then)| now > then + GROWN);
            self.drain_until = has_grown.then(|| now + DRAIN + trip);
            self.trips = [None, recent];
            self.trips_since = now;
        }
        self.trips[0] = Some(self.trips[0].map_or(trip, |least| least.min(trip)));
    }

    fn on_rate(&mut self, rate: f64, is_limited: bool, now: Instant) {
        let span = RATE_SPAN.max(10 * self.trip().unwrap_or_default());
        if now.saturating_duration_since(self.rates_since) > span {
            self.rates = [None, self.rates[0].or(self.rates[1])];
            self.rates_since = now;
        }
        // Where there was no more to send, the way may be faster than what was seen of it.
        if !is_limited || self.rate().is_none_or(|best| rate > best) {
            self.rates[0] = Some(self.rates[0].map_or(rate, |best| best.max(rate)));
        }
    }

    fn rate(&self) -> Option<f64> {
        self.rates.into_iter().flatten().reduce(f64::max)
    }

    fn trip(&self) -> Option<Duration> {
        self.trips.into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A way with a queue, which takes as long as it takes.
    struct Way {
        window: Window,
        now: Instant,
        /// Bytes a second, and the round trip of what does not wait.
        rate: f64,
        trip: Duration,
        /// When what was sent is reported, how much that is then, and when it was sent.
        queue: VecDeque<(Instant, u64, Instant)>,
        free_at: Instant,
    }

    impl Way {
        fn new(rate: f64, trip: Duration) -> Self {
            let now = Instant::now();
            let (window, queue) = (Window::new(now), VecDeque::new());
            Self { window, now, rate, trip, queue, free_at: now }
        }

        /// Is given all that the window allows, or so many bytes every 10 ms. Returns the rate that was
        /// reached, and the longest that anything was on its way, both in the last two seconds.
        fn drive(&mut self, most: Option<u64>, ms: u32) -> (f64, Duration) {
            let (mut before, mut worst) = (0, Duration::ZERO);
            for step in 0..ms {
                self.now += MS;
                if step + 2_000 == ms {
                    (before, worst) = (self.window.delivered, Duration::ZERO);
                }
                while let Some(&(at, end, sent)) = self.queue.front().filter(|it| it.0 <= self.now)
                {
                    self.queue.pop_front();
                    self.window.on_received(end, self.now).unwrap();
                    worst = worst.max(at - sent);
                }
                let wanted = most.map_or(u64::MAX, |most| if step % 10 == 0 { most } else { 0 });
                loop {
                    let bytes = self.window.room(self.now).min(wanted).min(16 << 10);
                    self.window.on_sent(bytes as usize, most.is_none(), self.now);
                    let takes = Duration::from_secs_f64(bytes as f64 / self.rate);
                    self.free_at = self.free_at.max(self.now) + takes;
                    if bytes > 0 {
                        let at = self.free_at + self.trip;
                        self.queue.push_back((at, self.window.sent, self.now));
                    }
                    if bytes == 0 || most.is_some() {
                        break;
                    }
                }
            }
            ((self.window.delivered - before) as f64 / 2.0, worst)
        }
    }

    #[test]
    fn it_fills_a_way_and_lets_little_wait_in_it() {
        for (rate, trip) in [(125_000.0, 20), (625_000.0, 60), (2_500_000.0, 100)] {
            let mut way = Way::new(rate, trip * MS);
            let (reached, worst) = way.drive(None, 7_000);
            assert!(reached > 0.9 * rate, "{reached} of {rate}");
            let least = Duration::from_secs_f64(LEAST as f64 / rate);
            let bound = (way.trip + SLACK + 30 * MS).max(way.trip + least);
            assert!(worst < bound, "{worst:?} at {rate}");
        }
    }

    #[test]
    fn a_way_that_got_slower_is_followed() {
        let mut way = Way::new(2_500_000.0, 50 * MS);
        way.drive(None, 3_000);
        way.rate = 250_000.0;
        let (reached, worst) = way.drive(None, 8_000);
        assert!(reached > 0.9 * way.rate, "{reached}");
        assert!(worst < 250 * MS, "{worst:?}");
    }

    #[test]
    fn a_way_that_got_faster_or_longer_is_followed() {
        let mut way = Way::new(250_000.0, 50 * MS);
        way.drive(None, 3_000);
        way.rate = 2_500_000.0;
        let (reached, _) = way.drive(None, 8_000);
        assert!(reached > 0.9 * way.rate, "{reached}");
        // As long as the shortest round trip counts, it is slower.
        way.trip = 400 * MS;
        let (reached, _) = way.drive(None, 100_000);
        assert!(reached > 0.8 * way.rate, "{reached}");
    }

    #[test]
    fn what_there_was_to_send_is_no_bound_on_the_rate() {
        let mut way = Way::new(2_500_000.0, 50 * MS);
        way.drive(None, 3_000);
        let size = way.window.size(way.now);
        way.drive(Some(1_000), 20_000);
        let later = way.window.size(way.now);
        assert!(later > size / 2, "{later} was {size}");
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let now = Instant::now();
        let mut window = Window::new(now);
        window.on_sent(100, false, now);
        assert!(window.on_received(101, now).is_err());
        assert_eq!(window.on_received(60, now), Ok(true));
        assert_eq!(window.on_received(60, now), Ok(false));
        assert!(window.on_received(59, now).is_err());
        for _ in 0..10_000 {
            window.on_sent(1, false, now);
        }
        assert!(window.flights.len() <= MAX_FLIGHTS);
        assert_eq!(window.on_received(10_100, now), Ok(true));
    }
}
