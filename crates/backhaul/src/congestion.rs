//! How much may be in flight on a way, by what it delivers: BBR for live media, without I/O.
//!
//! The model is BBR's (draft-cardwell-iccrg-bbr-congestion-control-00): the window is a multiple of the
//! rate that the way delivers times its round trip, and a lost packet is no sign of anything by
//! itself. The rate is estimated as in draft-cheng-iccrg-delivery-rate-estimation-00. What differs is
//! for the sake of live media and of the transport, which paces by the window:
//!
//! - A sender of live media mostly has nothing more to send. Rounds in which it was the media that set
//!   the pace may raise the estimate and never lower it, however many there are.
//! - Where the way sets the pace, the estimate forgets after ten rounds, or three if they are long: a
//!   mobile network loses most of its rate within a second.
//! - The window gives way when much is lost: there is no pacing at the rate that would keep a way with
//!   short queues from losing half.
//! - A way shorter than 5 ms counts as that long: on it a program's own sleep is most of the round trip.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Growth per round until the way is full: 2 / ln 2 (section 4.3.2.1).
const STARTUP_GAIN: f64 = 2.885;
/// Of what the way holds, in flight: acknowledgements that come late or together stop nothing
/// (section 4.2.3.2).
const GAIN: f64 = 2.0;
/// The same while the way loses much: little more than it holds.
const LOSSY_GAIN: f64 = 1.25;
/// Unless its round trips have become this much longer, through no queue of ours: then it holds as much more.
const LONGER: f64 = 1.5;
/// Share of a round's bytes beyond which it is full, and does not just lose some, and how many packets
/// at least: random loss of mobile networks is far below.
const HEAVY_LOSS: f64 = 0.15;
const HEAVY_PACKETS: u64 = 8;
/// Rounds that a heavy loss is remembered.
const LOSSY_ROUNDS: u64 = 30;
/// The way is full when the rate has grown by less than this for [`FULL_ROUNDS`] (section 4.3.2.2).
const FULL_GROWTH: f64 = 1.25;
const FULL_ROUNDS: u32 = 3;
/// Rounds whose rates are remembered (section 4.1.1.3), and of them those that are however old they are.
const ROUNDS: usize = 10;
const SURE_ROUNDS: usize = 3;
/// How long the other ones are.
const MEMORY: Duration = Duration::from_secs(1);
/// How long the shortest round trip is believed, and for how long the way's queue is then emptied to
/// measure anew, if it was the way that set the pace (sections 4.1.2, 4.3.5).
const ROUND_TRIP_MEMORY: Duration = Duration::from_secs(10);
const PROBE: Duration = Duration::from_millis(200);
/// Of what the way holds, in flight meanwhile.
const PROBE_GAIN: f64 = 0.75;
/// A queue of our own makes round trips twice as long. What is this much longer for [`LONG_ROUNDS`] is
/// measured anew at once: the way is another one, or much slower.
const LONG: f64 = 2.5;
const LONG_ROUNDS: u32 = 3;
/// Shorter round trips count as this long.
const LEAST_ROUND_TRIP: Duration = Duration::from_millis(5);
/// Packets that may be in flight whatever was measured: the peer acknowledges several at once.
const LEAST_PACKETS: u64 = 16;
/// Bytes that may be in flight whatever was measured.
const MOST_WINDOW: f64 = (256 << 20) as f64;
/// Smaller packets tell of no rate: most are acknowledgements, which are not acknowledged.
const LEAST_BYTES: u64 = 200;
/// Packets sent at different times of which is known how much had been delivered by then.
const MAX_SENT: usize = 8_192;
/// Acknowledgements that come together count for the window as far as they are within this.
const MOST_AGGREGATION: Duration = Duration::from_millis(100);

/// What is known of a way, and the window that follows from it. Times must not run backwards.
#[derive(Clone, Debug)]
pub struct Bbr {
    mtu: u64,
    initial_window: u64,
    window: u64,
    /// Bytes that were acknowledged, and when the last were.
    delivered: u64,
    delivered_at: Option<Instant>,
    /// When the packet was sent that was acknowledged last: where the next sample's sending begins.
    first_sent_at: Option<Instant>,
    /// What was sent when, the oldest first.
    sent: VecDeque<Sent>,
    /// Nothing is in flight.
    is_idle: bool,
    /// Until more than this is delivered, samples tell of the media and not of the way.
    media_until: Option<u64>,
    batch: Batch,
    rates: Rates,
    round_end: u64,
    round: u64,
    full: Full,
    round_trip: RoundTrip,
    aggregation: Aggregation,
    lost_in_round: u64,
    delivered_before_round: u64,
    lossy_until: u64,
}

/// How things were when a packet was sent.
#[derive(Clone, Copy, Debug)]
struct Sent {
    at: Instant,
    first_sent_at: Instant,
    delivered: u64,
    delivered_at: Instant,
    is_media: bool,
}

/// Packets that are acknowledged together.
#[derive(Clone, Copy, Debug, Default)]
struct Batch {
    bytes: u64,
    /// The youngest of them of which is known how things were.
    newest: Option<Sent>,
    newest_sent_at: Option<Instant>,
}

/// Whether the rate still grows.
#[derive(Clone, Copy, Debug, Default)]
struct Full {
    is_reached: bool,
    rate: f64,
    rounds: u32,
}

/// The largest rates (bytes/s) of the latest rounds in which the way set the pace.
#[derive(Clone, Debug, Default)]
struct Rates {
    /// The round that is going on comes last.
    rounds: VecDeque<(Instant, f64)>,
    is_limited: bool,
    /// The largest of this round, whatever set the pace.
    best: f64,
}

/// The way's round trip without a queue of ours.
#[derive(Clone, Copy, Debug, Default)]
struct RoundTrip {
    shortest: Option<Duration>,
    /// Since when it is believed.
    since: Option<Instant>,
    /// The shortest since then, or since the probe began.
    recent: Option<Duration>,
    probe_until: Option<Instant>,
    /// The shortest of this round, and how many were long so far.
    in_round: Option<Duration>,
    long_rounds: u32,
    /// The shortest of the round before.
    last_round: Option<Duration>,
    /// Whether the way has set the pace since then.
    was_limited: bool,
}

/// Bytes that were acknowledged beyond what the rate explains.
#[derive(Clone, Debug, Default)]
struct Aggregation {
    since: Option<Instant>,
    bytes: u64,
    /// By round, the latest last.
    most: VecDeque<(u64, u64)>,
}

impl Bbr {
    /// A way of which nothing is known, with packets of `mtu` bytes. Until more is known
    /// `initial_window` bytes may be in flight.
    pub fn new(initial_window: u64, mtu: u64) -> Self {
        let window = initial_window.max(LEAST_PACKETS * mtu);
        Self {
            mtu,
            initial_window: window,
            window,
            delivered: 0,
            delivered_at: None,
            first_sent_at: None,
            sent: VecDeque::new(),
            is_idle: true,
            media_until: None,
            batch: Batch::default(),
            rates: Rates::default(),
            round_end: 0,
            round: 0,
            full: Full::default(),
            round_trip: RoundTrip::default(),
            aggregation: Aggregation::default(),
            lost_in_round: 0,
            delivered_before_round: 0,
            lossy_until: 0,
        }
    }

    /// Packets of `bytes` in all were sent.
    pub fn on_sent(&mut self, now: Instant, bytes: u64) {
        if bytes < LEAST_BYTES {
            return;
        }
        if std::mem::take(&mut self.is_idle) {
            (self.first_sent_at, self.delivered_at) = (Some(now), Some(now));
        }
        if self.sent.back().is_some_and(|last| last.at == now) {
            return;
        }
        if self.sent.len() == MAX_SENT {
            self.sent.pop_front();
        }
        self.sent.push_back(Sent {
            at: now,
            first_sent_at: self.first_sent_at.unwrap_or(now),
            delivered: self.delivered,
            delivered_at: self.delivered_at.unwrap_or(now),
            is_media: self.media_until.is_some_and(|until| self.delivered <= until),
        });
    }

    /// A packet of `bytes` that was sent at `sent` is acknowledged; [`on_acked`](Self::on_acked)
    /// follows when all were told that are acknowledged together.
    pub fn on_packet_acked(&mut self, sent: Instant, bytes: u64) {
        self.delivered += bytes;
        self.batch.bytes += bytes;
        self.batch.newest_sent_at = self.batch.newest_sent_at.max(Some(sent));
        let at = self.sent.partition_point(|known| known.at < sent);
        if let Some(known) = self.sent.get(at).filter(|known| known.at == sent) {
            self.batch.newest = Some(*known);
            // What was sent earlier and comes later says less.
            self.sent.drain(..at);
        }
    }

    /// All of an acknowledgement was told; `in_flight` bytes are left. `is_media` says that there
    /// was nothing more to send: the media sets the pace.
    pub fn on_acked(&mut self, now: Instant, in_flight: u64, is_media: bool) {
        self.is_idle = in_flight == 0;
        // What is measured with a window that is small on purpose is not the way's rate either.
        if is_media || self.round_trip.probe_until.is_some() {
            self.media_until = Some(self.delivered + in_flight);
        }
        let batch = std::mem::take(&mut self.batch);
        if let Some(sent) = batch.newest_sent_at {
            self.round_trip.observe(now.saturating_duration_since(sent), now);
        }
        if batch.bytes == 0 {
            return;
        }
        self.delivered_at = Some(now);
        if let Some(newest) = batch.newest {
            if newest.delivered >= self.round_end {
                self.start_round(now);
            }
            self.first_sent_at = Some(newest.at);
            self.sample(&newest, now);
        }
        let most = (self.rate() * MOST_AGGREGATION.as_secs_f64()) as u64;
        let extra = self.aggregation.observe(batch.bytes, self.rate(), self.round, now).min(most);
        self.grow(batch.bytes, extra);
    }

    /// Packets of `bytes` in all are lost.
    pub fn on_lost(&mut self, bytes: u64) {
        self.lost_in_round += bytes;
    }

    /// The way takes packets of another size.
    pub fn on_mtu(&mut self, mtu: u64) {
        self.mtu = mtu;
        self.window = self.window.max(self.least_window());
    }

    /// Bytes that may be in flight.
    pub fn window(&self) -> u64 {
        match self.round_trip.probe_until {
            Some(_) => self.window.min(self.target(PROBE_GAIN)),
            None => self.window,
        }
    }

    /// Bytes per second that the way delivers as far as is known; 0 when nothing is.
    pub fn rate(&self) -> f64 {
        self.rates.largest()
    }

    fn least_window(&self) -> u64 {
        LEAST_PACKETS * self.mtu
    }

    fn start_round(&mut self, now: Instant) {
        self.round += 1;
        self.round_end = self.delivered;
        let delivered = self.delivered - self.delivered_before_round;
        let lost = std::mem::take(&mut self.lost_in_round);
        self.delivered_before_round = self.delivered;
        let is_heavy = lost as f64 > HEAVY_LOSS * (lost + delivered) as f64
            && lost >= HEAVY_PACKETS * self.mtu;
        if is_heavy {
            self.lossy_until = self.round + LOSSY_ROUNDS;
        }
        if self.rates.start_round(now, is_heavy) {
            self.full.observe(self.rate());
            self.round_trip.end_limited_round(now);
        } else {
            self.round_trip.end_round(now);
        }
    }

    /// Takes note of the rate at which the newest packet's predecessors were delivered.
    fn sample(&mut self, newest: &Sent, now: Instant) {
        let sending = newest.at.saturating_duration_since(newest.first_sent_at);
        let acknowledging = now.saturating_duration_since(newest.delivered_at);
        let interval = sending.max(acknowledging);
        // Acknowledgements that were held back and came at once tell of no rate.
        let least = self.round_trip.shortest.unwrap_or_default();
        if interval.is_zero() || interval < least {
            return;
        }
        let rate = (self.delivered - newest.delivered) as f64 / interval.as_secs_f64();
        self.rates.observe(rate, !newest.is_media);
    }

    /// What the way holds, times `gain`.
    fn target(&self, gain: f64) -> u64 {
        let Some(shortest) = self.round_trip.shortest.filter(|_| self.rate() > 0.0) else {
            return self.initial_window;
        };
        let round_trip = shortest.max(LEAST_ROUND_TRIP).as_secs_f64();
        ((gain * self.rate() * round_trip).min(MOST_WINDOW) as u64).max(self.least_window())
    }

    fn grow(&mut self, acked: u64, extra: u64) {
        if self.round_trip.probe_until.is_some() {
            return;
        }
        let grown = self.window + acked;
        self.window = if self.full.is_reached {
            let lossy = || (LOSSY_GAIN * self.round_trip.longer()).min(GAIN);
            let gain = if self.round < self.lossy_until { lossy() } else { GAIN };
            grown.min(self.target(gain) + extra)
        } else {
            let target = (self.target(STARTUP_GAIN) + extra).max(self.initial_window);
            grown.min(target).max(self.window)
        };
    }
}

impl Rates {
    /// A round begins: if the way set the pace in the one before, that one is remembered by itself,
    /// which is what it returns. One with heavy losses was the way's doing, whatever there was to send.
    fn start_round(&mut self, now: Instant, is_heavy: bool) -> bool {
        let best = std::mem::take(&mut self.best);
        if is_heavy && best > 0.0 {
            self.observe(best, true);
            self.best = 0.0;
        }
        let was_limited = std::mem::take(&mut self.is_limited);
        if !was_limited && !self.rounds.is_empty() {
            return false;
        }
        self.rounds.push_back((now, 0.0));
        let is_old = |&(at, _): &(Instant, f64)| now.saturating_duration_since(at) > MEMORY;
        // The one that has just begun is not counted.
        while self.rounds.len() > ROUNDS + 1
            || self.rounds.len() > SURE_ROUNDS + 1 && self.rounds.front().is_some_and(is_old)
        {
            self.rounds.pop_front();
        }
        was_limited
    }

    fn observe(&mut self, rate: f64, is_limited: bool) {
        self.best = self.best.max(rate);
        let is_new = is_limited || rate > self.largest();
        if let Some((_, largest)) = self.rounds.back_mut().filter(|_| is_new) {
            *largest = largest.max(rate);
        }
        self.is_limited |= is_limited;
    }

    fn largest(&self) -> f64 {
        self.rounds.iter().fold(0.0, |largest, &(_, rate)| rate.max(largest))
    }
}

impl Full {
    fn observe(&mut self, rate: f64) {
        if rate >= FULL_GROWTH * self.rate {
            (self.rate, self.rounds) = (rate, 0);
            return;
        }
        self.rounds += 1;
        self.is_reached |= self.rounds >= FULL_ROUNDS;
    }
}

impl RoundTrip {
    fn observe(&mut self, sample: Duration, now: Instant) {
        let least = |known: Option<Duration>| Some(known.map_or(sample, |known| known.min(sample)));
        (self.recent, self.in_round) = (least(self.recent), least(self.in_round));
        if self.shortest.is_none_or(|shortest| sample <= shortest) {
            self.believe(sample, now);
        } else if self.probe_until.is_some_and(|until| now >= until) {
            self.believe(self.recent.unwrap_or(sample), now);
        }
    }

    fn believe(&mut self, round_trip: Duration, now: Instant) {
        (self.shortest, self.since) = (Some(round_trip), Some(now));
        (self.recent, self.probe_until) = (None, None);
        (self.long_rounds, self.was_limited) = (0, false);
    }

    /// How many times longer round trips are than the shortest, if that is no queue of ours.
    fn longer(&self) -> f64 {
        let shortest = self.shortest.unwrap_or_default().max(LEAST_ROUND_TRIP).as_secs_f64();
        let longer = self.last_round.unwrap_or_default().as_secs_f64() / shortest;
        if longer > LONGER { longer } else { 1.0 }
    }

    /// The media has set the pace: what was measured is the way's own.
    fn end_round(&mut self, now: Instant) {
        self.last_round = self.in_round.take().or(self.last_round);
        self.long_rounds = 0;
        if self.is_old(now) && !self.was_limited && self.probe_until.is_none() {
            self.believe(self.recent.or(self.shortest).unwrap_or_default(), now);
        } else {
            self.measure_old(now);
        }
    }

    fn end_limited_round(&mut self, now: Instant) {
        self.was_limited = true;
        self.last_round = self.in_round.or(self.last_round);
        let (Some(shortest), Some(in_round)) = (self.shortest, self.in_round.take()) else {
            return;
        };
        let is_long = in_round > shortest.max(LEAST_ROUND_TRIP).mul_f64(LONG);
        self.long_rounds = if is_long { self.long_rounds + 1 } else { 0 };
        if self.long_rounds >= LONG_ROUNDS {
            self.probe(in_round, now);
        }
        self.measure_old(now);
    }

    fn is_old(&self, now: Instant) -> bool {
        let age = self.since.map(|since| now.saturating_duration_since(since));
        age.is_some_and(|age| age > ROUND_TRIP_MEMORY)
    }

    fn measure_old(&mut self, now: Instant) {
        if self.is_old(now) {
            self.probe(self.recent.unwrap_or_default(), now);
        }
    }

    /// What is sent from now on until the queue is empty is measured.
    fn probe(&mut self, round_trip: Duration, now: Instant) {
        if self.probe_until.is_none() {
            (self.probe_until, self.recent) = (Some(now + round_trip + PROBE), None);
        }
    }
}

impl Aggregation {
    /// Bytes beyond what `rate` explains, the most of the latest rounds.
    fn observe(&mut self, acked: u64, rate: f64, round: u64, now: Instant) -> u64 {
        let since = *self.since.get_or_insert(now);
        let mut expected = (rate * now.saturating_duration_since(since).as_secs_f64()) as u64;
        if self.bytes <= expected {
            (self.since, self.bytes, expected) = (Some(now), 0, 0);
        }
        self.bytes += acked;
        let extra = self.bytes - expected.min(self.bytes);
        while self.most.back().is_some_and(|&(_, before)| before <= extra) {
            self.most.pop_back();
        }
        self.most.push_back((round, extra));
        while self.most.front().is_some_and(|&(at, _)| at + ROUNDS as u64 <= round) {
            self.most.pop_front();
        }
        self.most.front().map_or(0, |&(_, most)| most)
    }
}

#[cfg(test)]
mod tests;
