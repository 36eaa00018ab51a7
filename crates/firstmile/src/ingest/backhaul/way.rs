use std::time::{Duration, Instant};

/// How long the best values are remembered: the way may change, and clocks drift (under 100 ppm:
/// 3 ms in this time).
const WINDOW: Duration = Duration::from_secs(30);

/// Measures how long the way from the relay takes, by its heartbeats.
///
/// Nobody knows the difference of the two clocks. What a heartbeat was later than the promptest one
/// of the last minute was added by the way; the promptest one took half the shortest round trip.
#[derive(Debug, Default)]
pub(super) struct Way {
    first: Option<Instant>,
    window: Option<Instant>,
    /// Clock difference in microseconds and round trip at their lowest, in this window and the one
    /// before.
    best: [Option<(i64, Duration)>; 2],
    latest: i64,
}

impl Way {
    /// Takes note of a heartbeat that left at `clock` (µs) of the relay's and arrived `now`.
    pub(super) fn on_heartbeat(&mut self, clock: u64, rtt: Duration, now: Instant) {
        let first = *self.first.get_or_insert(now);
        let window = self.window.get_or_insert(now);
        let arrived = now.saturating_duration_since(first).as_micros() as i64;
        self.latest = arrived.saturating_sub(i64::try_from(clock).unwrap_or(i64::MAX));
        if now.saturating_duration_since(*window) > WINDOW {
            *window = now;
            self.best = [None, self.best[0]];
        }
        let (offset, least_rtt) = self.best[0].unwrap_or((self.latest, rtt));
        self.best[0] = Some((offset.min(self.latest), least_rtt.min(rtt)));
    }

    /// How long the way takes now, one way; `None` before the first heartbeat.
    pub(super) fn delay(&self) -> Option<Duration> {
        let best = self.best.into_iter().flatten();
        let (offset, rtt) = best.reduce(|a, b| (a.0.min(b.0), a.1.min(b.1)))?;
        let growth = self.latest.saturating_sub(offset).max(0) as u64;
        Some(rtt / 2 + Duration::from_micros(growth))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_seen_though_clocks_differ() {
        let (mut way, start) = (Way::default(), Instant::now());
        assert_eq!(way.delay(), None);
        let ms = Duration::from_millis;
        for beat in 0..50u64 {
            // The relay's clock is at 7 s when the first one leaves.
            let late = if beat < 40 { beat % 3 } else { 200 };
            let now = start + ms(beat * 100 + late);
            way.on_heartbeat(7_000_000 + beat * 100_000, ms(60 + late), now);
            let expected = ms(30 + late);
            assert_eq!(way.delay(), Some(expected), "heartbeat {beat}");
        }
    }

    #[test]
    fn a_wild_clock_is_no_trap() {
        let (mut way, start) = (Way::default(), Instant::now());
        for (beat, clock) in [u64::MAX, 0, 1 << 62, 5].into_iter().enumerate() {
            way.on_heartbeat(clock, Duration::ZERO, start + Duration::from_secs(beat as u64 * 40));
            assert!(way.delay().is_some());
        }
    }
}
