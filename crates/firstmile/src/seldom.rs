//! Log lines that strangers can cause, at most one a second.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Between two lines.
const PAUSE: Duration = Duration::from_secs(1);

/// Says when a line may be written, and how many were left out before it.
#[derive(Debug, Default)]
pub struct Seldom {
    last: Mutex<(Option<Instant>, u64)>,
}

impl Seldom {
    /// `None` if a line was written a moment ago; else how many were left out since.
    pub fn now(&self, now: Instant) -> Option<u64> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.0.is_some_and(|at| now.saturating_duration_since(at) < PAUSE) {
            last.1 += 1;
            return None;
        }
        last.0 = Some(now);
        Some(std::mem::take(&mut last.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_a_second_and_the_rest_is_counted() {
        let (seldom, start) = (Seldom::default(), Instant::now());
        assert_eq!(seldom.now(start), Some(0));
        assert_eq!(seldom.now(start + PAUSE / 2), None);
        assert_eq!(seldom.now(start + PAUSE / 2), None);
        assert_eq!(seldom.now(start + PAUSE), Some(2));
        assert_eq!(seldom.now(start + 2 * PAUSE), Some(0));
    }
}
