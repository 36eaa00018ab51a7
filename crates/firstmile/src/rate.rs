//! How often something may happen: a bucket that fills with time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tracing::warn;

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

/// Log lines of one peer at once; then one a second.
const LINES: f64 = 128.0;

/// The log lines that one peer can cause. Clones are the same.
#[derive(Clone, Debug)]
pub struct Lines(Arc<Mutex<Said>>);

#[derive(Debug)]
struct Said {
    bucket: Bucket,
    /// Lines are left out.
    is_quiet: bool,
}

impl Default for Lines {
    fn default() -> Self {
        let bucket = Bucket::full(LINES, Instant::now());
        Self(Arc::new(Mutex::new(Said { bucket, is_quiet: false })))
    }
}

impl Lines {
    /// Whether a line may be written now. The log says when lines are left out.
    pub fn may_say(&self) -> bool {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let may_say = said.bucket.take(1.0, 1.0, LINES, Instant::now());
        let was_quiet = std::mem::replace(&mut said.is_quiet, !may_say);
        drop(said);
        if !may_say && !was_quiet {
            warn!("this peer causes too many log lines: some are left out");
        }
        may_say
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn lines_of_a_peer_are_bounded() {
        let lines = Lines::default();
        let said = (0..10_000).filter(|_| lines.clone().may_say()).count();
        assert!((LINES as usize..LINES as usize + 10).contains(&said), "{said}");
    }

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
