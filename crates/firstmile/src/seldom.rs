//! Log lines that strangers can cause, each at most once a second.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Between two lines that say the same.
const PAUSE: Duration = Duration::from_secs(1);

/// Says when a line may be written, and how often it was left out before.
///
/// It remembers every line: they are our own words, and few.
#[derive(Debug, Default)]
pub struct Seldom {
    last: Mutex<HashMap<String, (Instant, u64)>>,
}

impl Seldom {
    /// `None` if this line was written a moment ago; else how often it was left out since.
    pub fn now(&self, line: &str, now: Instant) -> Option<u64> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((at, left_out)) = last.get_mut(line) else {
            last.insert(line.to_owned(), (now, 0));
            return Some(0);
        };
        if now.saturating_duration_since(*at) < PAUSE {
            *left_out += 1;
            return None;
        }
        *at = now;
        Some(std::mem::take(left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_a_second_and_the_rest_is_counted() {
        let (seldom, start) = (Seldom::default(), Instant::now());
        assert_eq!(seldom.now("a", start), Some(0));
        assert_eq!(seldom.now("a", start + PAUSE / 2), None);
        assert_eq!(seldom.now("b", start + PAUSE / 2), Some(0));
        assert_eq!(seldom.now("a", start + PAUSE / 2), None);
        assert_eq!(seldom.now("a", start + PAUSE), Some(2));
        assert_eq!(seldom.now("a", start + 2 * PAUSE), Some(0));
    }
}
