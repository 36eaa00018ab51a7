//! How often something may happen: a bucket that fills with time.

use std::time::Instant;

/// Allowance that grows by so many a second up to a bound, and that every event takes from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    /// A full bucket.
    pub(crate) fn full(bound: f64, now: Instant) -> Self {
        Self { left: bound, at: now }
    }

    /// Takes `count` if there is as much; else nothing.
    pub(crate) fn take(&mut self, count: f64, per_second: f64, bound: f64, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + elapsed * per_second).min(bound);
        self.at = self.at.max(now);
        let is_enough = self.left >= count;
        if is_enough {
            self.left -= count;
        }
        is_enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn fills_with_time_up_to_its_bound() {
        let start = Instant::now();
        let mut bucket = Bucket::full(3.0, start);
        assert!((0..3).all(|_| bucket.take(1.0, 2.0, 3.0, start)));
        assert!(!bucket.take(1.0, 2.0, 3.0, start));
        let later = start + Duration::from_millis(500);
        assert!(bucket.take(1.0, 2.0, 3.0, later));
        assert!(!bucket.take(1.0, 2.0, 3.0, later));
        let much_later = later + Duration::from_secs(60);
        assert!(!bucket.take(4.0, 2.0, 3.0, much_later));
        assert!(bucket.take(3.0, 2.0, 3.0, much_later));
        // A clock that seems to go back gives nothing.
        assert!(!bucket.take(1.0, 2.0, 3.0, start));
    }
}
