use std::time::{Duration, Instant};

/// How long a minimum is remembered: long enough to see past a congested minute, short enough
/// that the drift of two clocks (under 100 ppm) stays below 6 ms.
const WINDOW: Duration = Duration::from_secs(30);

/// Measures how far an encoder falls behind its own clock.
///
/// The difference between arrival time and timestamp has an unknown constant part; its growth
/// over the smallest value of the last minute is delay that the way here added.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pace {
    origin: Option<Instant>,
    window_start: Option<Instant>,
    previous_min: Option<i64>,
    min: Option<i64>,
    latest: i64,
}

impl Pace {
    /// Takes note of a tag with `timestamp` (ms) that arrived `now`.
    pub(crate) fn observe(&mut self, timestamp: i64, now: Instant) {
        let origin = *self.origin.get_or_insert(now);
        let window_start = *self.window_start.get_or_insert(now);
        let offset = now.saturating_duration_since(origin).as_millis() as i64 - timestamp;
        if now.saturating_duration_since(window_start) > WINDOW {
            self.window_start = Some(now);
            self.previous_min = self.min.take();
        }
        self.min = Some(self.min.map_or(offset, |min| min.min(offset)));
        self.latest = offset;
    }

    /// Milliseconds that the latest tag came later than the promptest one of the last minute.
    pub(crate) fn growth(&self) -> i64 {
        let min = [self.min, self.previous_min].into_iter().flatten().min();
        min.map_or(0, |min| self.latest - min)
    }
}
