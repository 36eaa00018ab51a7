use std::time::{Duration, Instant};

/// What is begun with, in bytes a second: 1 Mb/s.
const FIRST_RATE: f64 = 125_000.0;
/// Bounds of the rate: so slow that it harms nobody, and what a link of 1 Gb/s has.
const LEAST_RATE: f64 = 16_000.0;
const MOST_RATE: f64 = 125_000_000.0;
/// How much later than at best a live report may come before backfill gives way.
const TOLERANCE: Duration = Duration::from_millis(40);
/// The same before it pauses.
const TROUBLE: Duration = Duration::from_millis(150);
/// How often the rate is thought over.
const INTERVAL: Duration = Duration::from_millis(100);
/// Growth in one interval, if all that was allowed was used: double in half a second.
const GROWTH: f64 = 1.15;
/// How long the best delay is remembered: the way may change.
const WINDOW: Duration = Duration::from_secs(15);
/// What may be sent at once, as time.
const BURST: f64 = 0.03;

/// How fast backfill may go beside live media: as fast as it can without making it late.
///
/// Nobody knows what a link has to spare until it is tried. The rate grows while the reports of
/// live tags come as promptly as at best, is halved when they slow down, and nothing is sent while
/// they are very late.
#[derive(Debug)]
pub struct Spare {
    rate: f64,
    credit: f64,
    credited: Instant,
    judged: Instant,
    /// The worst live delay since the rate was judged.
    delay: Option<Duration>,
    /// The best delay of the present and the previous window.
    best: [Option<Duration>; 2],
    window: Instant,
    was_used_up: bool,
    is_paused: bool,
}

impl Spare {
    /// Begins at `now`.
    pub fn new(now: Instant) -> Self {
        Self {
            rate: FIRST_RATE,
            credit: 0.0,
            credited: now,
            judged: now,
            delay: None,
            best: [None; 2],
            window: now,
            was_used_up: false,
            is_paused: false,
        }
    }

    /// A live tag's report came after this time.
    pub fn on_live(&mut self, delay: Duration, now: Instant) {
        self.delay = self.delay.max(Some(delay));
        if now.saturating_duration_since(self.window) > WINDOW {
            self.window = now;
            self.best = [None, self.best[0]];
        }
        self.best[0] = Some(self.best[0].map_or(delay, |best| best.min(delay)));
    }

    /// Whether something may be sent now.
    pub fn allows(&mut self, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.judged);
        if since > 2 * INTERVAL {
            // Nothing was to be sent meanwhile: how it went then says nothing of now.
            (self.delay, self.judged, self.is_paused) = (None, now, false);
        } else if since >= INTERVAL {
            self.judge(now);
        }
        let elapsed = now.saturating_duration_since(self.credited).as_secs_f64();
        self.credited = now;
        self.credit = (self.credit + elapsed * self.rate).min(self.rate * BURST);
        let is_allowed = !self.is_paused && self.credit > 0.0;
        self.was_used_up |= self.credit <= 0.0;
        is_allowed
    }

    /// Takes note of what was sent.
    pub fn spend(&mut self, bytes: usize) {
        self.credit -= bytes as f64;
    }

    /// Bytes a second that are allowed now.
    pub fn rate(&self) -> f64 {
        self.rate
    }

    fn judge(&mut self, now: Instant) {
        self.judged = now;
        let best = self.best.into_iter().flatten().min().unwrap_or_default();
        let growth = self.delay.take().map_or(Duration::ZERO, |delay| delay - best);
        self.is_paused = growth > TROUBLE;
        if growth > TOLERANCE {
            self.rate = (self.rate / 2.0).max(LEAST_RATE);
        } else if self.was_used_up {
            self.rate = (self.rate * GROWTH).min(MOST_RATE);
        }
        self.was_used_up = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Backfill of chunks of 16 kB on a link that carries `capacity` bytes a second and live
    /// media of `live`; returns bytes sent in the last of `seconds`, and the worst delay then.
    fn simulate(spare: &mut Spare, start: Instant, capacity: f64, live: f64) -> (f64, Duration) {
        let (mut queue, mut sent, mut worst) = (0.0f64, 0.0, Duration::ZERO);
        for ms in 0..20_000u64 {
            let now = start + Duration::from_millis(ms);
            queue = (queue + live / 1_000.0 - capacity / 1_000.0).max(0.0);
            let delay = Duration::from_millis(60) + Duration::from_secs_f64(queue / capacity);
            if ms % 25 == 0 {
                spare.on_live(delay, now);
            }
            while spare.allows(now) {
                spare.spend(16_000);
                queue += 16_000.0;
                if ms >= 19_000 {
                    sent += 16_000.0;
                }
            }
            if ms >= 10_000 {
                worst = worst.max(delay);
            }
        }
        (sent, worst)
    }

    #[test]
    fn takes_what_is_spare_and_does_not_make_live_late() {
        let start = Instant::now();
        let (sent, worst) = simulate(&mut Spare::new(start), start, 2_500_000.0, 625_000.0);
        assert!(sent > 500_000.0, "{sent} bytes of 1,875,000 spare in the last second");
        assert!(worst < Duration::from_millis(60 + 150), "{worst:?}");
    }

    #[test]
    fn gives_way_when_live_is_late() {
        let start = Instant::now();
        let mut spare = Spare::new(start);
        spare.on_live(Duration::from_millis(60), start);
        let late = |spare: &mut Spare, ms: u64| {
            let now = start + Duration::from_millis(ms);
            spare.on_live(Duration::from_millis(400), now);
            spare.allows(now)
        };
        assert!(!late(&mut spare, 100));
        assert!(spare.rate() < FIRST_RATE);
        (2..100).for_each(|tick| assert!(!late(&mut spare, tick * 100), "paused"));
        assert!(spare.rate() >= LEAST_RATE);
        let now = start + Duration::from_secs(11);
        spare.on_live(Duration::from_millis(70), now);
        assert!(spare.allows(now), "and goes on when live is in time");
    }
}
