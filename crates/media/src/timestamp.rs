/// Turns wrapping 32-bit timestamps into a line of `i64` milliseconds.
///
/// RTMP timestamps wrap after 49 days and 17 hours and are compared by serial arithmetic
/// (RTMP 1.0 §4). Each value is taken as the one nearest to the last, so a step backwards (audio
/// and video interleaved out of order) stays a small step backwards.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unwrapper {
    last: Option<i64>,
}

impl Unwrapper {
    /// The unwrapped value of `timestamp`; the first one is taken as it is.
    pub fn unwrap(&mut self, timestamp: u32) -> i64 {
        let unwrapped = match self.last {
            None => i64::from(timestamp),
            // Truncation to u32 and the cast to i32 are the serial arithmetic.
            Some(last) => last + i64::from(timestamp.wrapping_sub(last as u32) as i32),
        };
        self.last = Some(unwrapped);
        unwrapped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goes_on_across_the_wrap_and_back() {
        let mut clock = Unwrapper::default();
        assert_eq!(clock.unwrap(u32::MAX - 9), i64::from(u32::MAX) - 9);
        assert_eq!(clock.unwrap(10), i64::from(u32::MAX) + 11);
        assert_eq!(clock.unwrap(u32::MAX), i64::from(u32::MAX));
        assert_eq!(clock.unwrap(30), i64::from(u32::MAX) + 31);
    }

    #[test]
    fn steps_backwards_below_zero_stay_small() {
        let mut clock = Unwrapper::default();
        assert_eq!(clock.unwrap(5), 5);
        assert_eq!(clock.unwrap(u32::MAX), -1);
    }
}
