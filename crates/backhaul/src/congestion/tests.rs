//! The window on simulated ways, in virtual time.

use std::collections::BTreeMap;

use super::*;

const MTU: u64 = 1_452;
const FIRST_WINDOW: u64 = 240_000;
/// As the transport acknowledges: the fourth packet at once, fewer after a while.
const ACK_EVERY: usize = 4;
const ACK_DELAY: Duration = Duration::from_millis(5);
/// Bytes of a burst of the transport's pacing.
const BURST: f64 = 14_520.0;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn us(us: u64) -> Duration {
    Duration::from_micros(us)
}

/// A way: bytes per second, time without a queue there and back, bytes that fit in the queue, and how
/// many of a thousand packets are lost.
#[derive(Clone, Copy, Debug)]
struct Path {
    rate: f64,
    round_trip: Duration,
    queue: u64,
    loss: u64,
    /// Until then 400 of a thousand are lost.
    burst_until: Option<Instant>,
}

const MBIT: f64 = 125_000.0;

impl Path {
    fn new(mbit: f64, round_trip: Duration) -> Self {
        Self { rate: mbit * MBIT, round_trip, queue: 1 << 20, loss: 0, burst_until: None }
    }
}

/// What keeps a sender from sending more.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pace {
    Media,
    Window,
    Tokens,
}

#[derive(Clone, Copy)]
struct Packet {
    at: Instant,
    bytes: u64,
}

/// A sender, its way, and a receiver that acknowledges.
struct World {
    bbr: Bbr,
    path: Path,
    now: Instant,
    /// Bytes to be sent: there is always more, or what was given.
    backlog: Option<u64>,
    next: u64,
    in_flight: BTreeMap<u64, Packet>,
    bytes_in_flight: u64,
    tokens: f64,
    paced_at: Instant,
    free_at: Instant,
    arriving: BTreeMap<(Instant, u64), ()>,
    arrived: Vec<u64>,
    ack_at: Option<Instant>,
    acks: BTreeMap<(Instant, u64), Vec<u64>>,
    smooth: Duration,
    random: u64,
    sent: u64,
    lost: u64,
    delivered: u64,
    /// The longest wait in the queue.
    queued: Duration,
}

impl World {
    fn new(path: Path) -> Self {
        let now = Instant::now();
        Self {
            bbr: Bbr::new(FIRST_WINDOW, MTU),
            path,
            now,
            backlog: None,
            next: 0,
            in_flight: BTreeMap::new(),
            bytes_in_flight: 0,
            tokens: BURST,
            paced_at: now,
            free_at: now,
            arriving: BTreeMap::new(),
            arrived: Vec::new(),
            ack_at: None,
            acks: BTreeMap::new(),
            smooth: ms(100),
            random: 1,
            sent: 0,
            lost: 0,
            delivered: 0,
            queued: Duration::ZERO,
        }
    }

    /// One of a thousand, by a generator of its own: every run is the same.
    fn dice(&mut self) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.random >> 33) % 1_000
    }

    /// Sends what window and pacing let through; returns what it was that set the pace.
    fn send(&mut self) -> Pace {
        let window = self.bbr.window();
        let pace = 1.25 * window as f64 / self.smooth.as_secs_f64();
        let since = (self.now - self.paced_at).as_secs_f64();
        self.tokens = (self.tokens + pace * since).min(BURST.max(pace * 0.002));
        self.paced_at = self.now;
        let mut burst = 0;
        let pace = loop {
            let bytes = self.backlog.unwrap_or(MTU).min(MTU);
            if bytes == 0 {
                break Pace::Media;
            }
            if self.bytes_in_flight + MTU >= window {
                break Pace::Window;
            }
            if self.tokens < bytes as f64 {
                break Pace::Tokens;
            }
            self.tokens -= bytes as f64;
            self.backlog = self.backlog.map(|backlog| backlog - bytes);
            burst += bytes;
            self.transmit(bytes);
        };
        if burst > 0 {
            self.bbr.on_sent(self.now, burst);
        }
        pace
    }

    fn transmit(&mut self, bytes: u64) {
        let (number, at) = (self.next, self.now);
        self.next += 1;
        self.sent += bytes;
        self.bytes_in_flight += bytes;
        self.in_flight.insert(number, Packet { at, bytes });
        let wait = self.free_at.saturating_duration_since(self.now);
        let is_full = wait.as_secs_f64() * self.path.rate > self.path.queue as f64;
        let is_burst = self.path.burst_until.is_some_and(|until| self.now < until);
        if is_full || self.dice() < if is_burst { 400 } else { self.path.loss } {
            return;
        }
        self.queued = self.queued.max(wait);
        let through = Duration::from_secs_f64(bytes as f64 / self.path.rate);
        self.free_at = self.free_at.max(self.now) + through;
        self.arriving.insert((self.free_at + self.path.round_trip / 2, number), ());
    }

    fn acknowledge(&mut self) {
        self.ack_at = None;
        let numbers = std::mem::take(&mut self.arrived);
        let newest = *numbers.last().expect("something has arrived");
        self.acks.insert((self.now + self.path.round_trip / 2, newest), numbers);
    }

    fn acknowledged(&mut self, numbers: &[u64], is_media: bool) {
        let newest = numbers.iter().max().copied().unwrap_or_default();
        for number in numbers {
            let Some(packet) = self.in_flight.remove(number) else { continue };
            self.bbr.on_packet_acked(packet.at, packet.bytes);
            self.delivered += packet.bytes;
            self.bytes_in_flight -= packet.bytes;
            self.smooth = (self.smooth * 7 + (self.now - packet.at)) / 8;
        }
        self.bbr.on_acked(self.now, self.bytes_in_flight, is_media);
        let later = self.in_flight.split_off(&newest.saturating_sub(3));
        let lost = std::mem::replace(&mut self.in_flight, later);
        self.lose(&lost);
    }

    fn lose(&mut self, lost: &BTreeMap<u64, Packet>) {
        let bytes = lost.values().map(|packet| packet.bytes).sum();
        if bytes > 0 {
            self.lost += bytes;
            self.bytes_in_flight -= bytes;
            self.backlog = self.backlog.map(|backlog| backlog + bytes);
            self.bbr.on_lost(bytes);
        }
    }

    /// When something happens next.
    fn next(&self, pace: Pace) -> Option<Instant> {
        let arriving = self.arriving.first_key_value().map(|(&(at, _), ())| at);
        let acks = self.acks.first_key_value().map(|(&(at, _), _)| at);
        let tokens = (pace == Pace::Tokens).then(|| self.now + us(200));
        [arriving, acks, tokens, self.ack_at].into_iter().flatten().min()
    }

    /// Goes on for a time.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let mut pace = self.send();
            let next = self.next(pace);
            if next.is_none() && self.bytes_in_flight > 0 {
                // All of it is lost: the transport sends again after a while.
                let lost = std::mem::take(&mut self.in_flight);
                self.lose(&lost);
                pace = self.send();
            }
            self.now = next.unwrap_or(end).min(end);
            while let Some((&(at, number), ())) = self.arriving.first_key_value() {
                if at > self.now {
                    break;
                }
                self.arriving.remove(&(at, number));
                self.arrived.push(number);
                self.ack_at.get_or_insert(at + ACK_DELAY);
                if self.arrived.len() >= ACK_EVERY {
                    self.acknowledge();
                }
            }
            if self.ack_at.is_some_and(|at| at <= self.now) {
                self.acknowledge();
            }
            while let Some((&key, _)) = self.acks.first_key_value() {
                if key.0 > self.now {
                    break;
                }
                let numbers = self.acks.remove(&key).expect("it is the first");
                self.acknowledged(&numbers, pace == Pace::Media);
            }
            if self.now == end {
                return;
            }
        }
    }

    /// Share of the way's rate that was used in this time.
    fn share(&mut self, time: Duration) -> f64 {
        let before = self.delivered;
        self.run(time);
        (self.delivered - before) as f64 / (self.path.rate * time.as_secs_f64())
    }

    /// Live media at 30 frames a second, every sixtieth ten times as large.
    fn live(&mut self, mbit: f64, seconds: u64) {
        let frame = mbit * MBIT / 30.0 / (69.0 / 60.0);
        for number in 0..seconds * 30 {
            let size = if number % 60 == 0 { 10.0 * frame } else { frame };
            self.backlog = Some(self.backlog.unwrap_or_default() + size as u64);
            self.run(us(33_333));
        }
    }
}

#[test]
fn a_way_is_filled_whatever_its_length_and_rate() {
    for (mbit, round_trip) in
        [(5.0, ms(20)), (5.0, ms(300)), (100.0, ms(60)), (300.0, ms(1)), (300.0, us(100))]
    {
        let mut world = World::new(Path::new(mbit, round_trip));
        world.run(ms(2_000));
        let share = world.share(ms(3_000));
        assert!(share > 0.9, "{mbit} Mb/s, {round_trip:?}: {share:.2}");
    }
}

#[test]
fn a_window_that_has_become_small_grows_again() {
    for round_trip in [us(100), ms(1), ms(4), ms(30)] {
        let mut world = World::new(Path::new(2.0, round_trip));
        world.run(ms(10_000));
        assert!(world.bbr.window() < 60_000, "{round_trip:?}: {}", world.bbr.window());
        world.path.rate = 250.0 * MBIT;
        world.run(ms(3_000));
        let share = world.share(ms(1_000));
        assert!(share > 0.85, "{round_trip:?}: {share:.2}");
    }
}

#[test]
fn random_loss_does_not_slow_it_down() {
    for loss in [2, 20, 50] {
        let path = Path { loss, ..Path::new(8.0, ms(60)) };
        let mut world = World::new(path);
        world.run(ms(2_000));
        let share = world.share(ms(8_000));
        assert!(share > 0.88, "{loss}: {share:.2}");
    }
}

#[test]
fn the_queue_is_short_again_soon_after_the_way_has_become_slow() {
    for (mbit, slow) in
        [(12.0, 2.5), (12.0, 4.0), (16.0, 3.0), (20.0, 2.5), (20.0, 3.0), (20.0, 4.0)]
    {
        for round_trip in [20, 40, 60] {
            let mut world = World::new(Path::new(mbit, ms(round_trip)));
            world.run(ms(5_000));
            world.path.rate = slow * MBIT;
            world.run(ms(5_000));
            world.queued = Duration::ZERO;
            let share = world.share(ms(5_000));
            assert!(share > 0.85, "{mbit} to {slow} Mb/s, {round_trip} ms: {share:.2}");
            let queued = world.queued;
            assert!(queued < ms(150), "{mbit} to {slow} Mb/s, {round_trip} ms: {queued:?}");
        }
    }
}

/// What one way loses depends on how packets fall together: the mean of many tells.
#[test]
fn a_way_with_a_short_queue_loses_little() {
    let mut losses = Vec::new();
    for tenths in 50..=70 {
        for round_trip in [40, 60, 80] {
            let path =
                Path { queue: 20_000, ..Path::new(f64::from(tenths) / 10.0, ms(round_trip)) };
            let mut world = World::new(path);
            world.run(ms(3_000));
            (world.sent, world.lost) = (0, 0);
            let share = world.share(ms(10_000));
            assert!(share > 0.85, "{path:?}: {share:.2}");
            losses.push(world.lost as f64 / world.sent as f64);
        }
    }
    let mean = losses.iter().sum::<f64>() / losses.len() as f64;
    assert!(mean < 0.05, "{mean:.3} lost: {losses:.2?}");
}

#[test]
fn a_way_that_has_become_longer_is_filled_again() {
    let mut world = World::new(Path::new(20.0, ms(30)));
    world.run(ms(3_000));
    world.path.round_trip = ms(250);
    world.run(ms(4_000));
    let share = world.share(ms(3_000));
    assert!(share > 0.85, "{share:.2}");
}

#[test]
fn a_burst_of_loss_while_the_way_becomes_longer_costs_little() {
    let mut world = World::new(Path::new(12.0, ms(100)));
    world.run(ms(3_000));
    world.path.round_trip = ms(190);
    world.path.burst_until = Some(world.now + ms(190));
    world.run(ms(1_000));
    let share = world.share(ms(5_000));
    assert!(share > 0.85, "{share:.2}");
}

#[test]
fn a_rate_at_which_every_keyframe_is_lost_is_forgotten() {
    let mut world = World::new(Path { queue: 60_000, ..Path::new(35.0, ms(60)) });
    world.run(ms(3_000));
    world.backlog = Some(0);
    world.live(5.0, 4);
    world.path.rate = 8.0 * MBIT;
    world.live(5.0, 24);
    (world.sent, world.lost) = (0, 0);
    world.live(5.0, 12);
    let lost = world.lost as f64 / world.sent as f64;
    assert!(lost < 0.04, "{lost:.3} lost");
}

#[test]
fn a_few_packets_that_get_lost_do_not_make_the_way_full() {
    let mut world = World::new(Path { loss: 30, ..Path::new(8.0, ms(30)) });
    world.run(ms(1_500));
    world.backlog = Some(0);
    for second in 0..30 {
        world.live(1.0, 1);
        assert!(world.bbr.round >= world.bbr.lossy_until, "second {second}");
    }
}

#[test]
fn to_measure_the_round_trip_anew_costs_little() {
    for (mbit, round_trip) in [(50.0, ms(1)), (200.0, ms(6)), (10.0, ms(200))] {
        let mut world = World::new(Path::new(mbit, round_trip));
        world.run(ms(3_000));
        let part = ms(50).max(2 * round_trip);
        let parts = ms(20_000).as_millis() / part.as_millis();
        let least = (0..parts).map(|_| world.share(part)).fold(1.0, f64::min);
        assert!(least > 0.6, "{mbit} Mb/s, {round_trip:?}: {least:.2}");
    }
}

#[test]
fn live_media_never_makes_the_way_look_slow() {
    let mut world = World::new(Path::new(20.0, ms(80)));
    world.backlog = Some(0);
    world.live(5.0, 5);
    let before = world.bbr.rate();
    world.live(0.1, 40);
    assert!(world.bbr.rate() >= before);
    // A keyframe goes as fast as the way lets it.
    world.queued = Duration::ZERO;
    world.backlog = Some(150_000);
    world.run(ms(80 + 150_000 / 2_500 + 40));
    assert_eq!((world.backlog, world.bytes_in_flight), (Some(0), 0));
}

#[test]
fn live_media_is_not_held_up_while_the_round_trip_is_measured_anew() {
    let mut world = World::new(Path::new(12.0, ms(150)));
    world.backlog = Some(0);
    world.live(5.0, 5);
    for second in 5..35 {
        world.live(5.0, 1);
        let late = world.backlog.unwrap_or_default() as f64 / (5.0 * MBIT);
        assert!(late < 0.05, "second {second}: {late:.3} s wait");
    }
}

#[test]
fn what_cannot_be_is_no_harm() {
    let (mut bbr, now) = (Bbr::new(0, MTU), Instant::now());
    assert_eq!(bbr.window(), LEAST_PACKETS * MTU);
    // Of packets that were never sent, in no order, all at once, and none at all.
    bbr.on_packet_acked(now + ms(10), u64::from(u32::MAX));
    bbr.on_packet_acked(now, 0);
    bbr.on_acked(now, 0, false);
    bbr.on_acked(now, u64::from(u32::MAX), true);
    bbr.on_lost(u64::from(u32::MAX));
    for number in 0..3 * MAX_SENT as u64 {
        bbr.on_sent(now + us(number), MTU);
    }
    assert_eq!(bbr.sent.len(), MAX_SENT);
    bbr.on_packet_acked(now + us(3 * MAX_SENT as u64 - 1), MTU);
    bbr.on_acked(now + us(3 * MAX_SENT as u64 - 1), 0, false);
    bbr.on_mtu(65_527);
    assert!(bbr.window() >= LEAST_PACKETS * 65_527 && bbr.sent.len() == 1);
}
