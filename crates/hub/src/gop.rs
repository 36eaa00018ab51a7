use media::{Position, Tag, Track};

/// Intervals that are remembered: encoders put keyframes into cuts, too.
const RECENT: usize = 3;
/// A longer interval is a new origin of the timestamps, or a camera that nobody moves: no figure.
const MAX_INTERVAL: i64 = 600_000;
/// A first GOP that is longer than this is told of before it ends: some have no end.
const LONG: i64 = 3_000;

/// Measures how far apart an encoder's keyframes are, by its own clock.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Gop {
    /// Number of the last video tag.
    last: Option<u64>,
    /// Timestamp of the last keyframe, if everything since then is here.
    keyframe: Option<i64>,
    /// The last intervals in milliseconds; 0 for none.
    recent: [i64; RECENT],
    /// How long the present GOP is so far.
    open: i64,
}

impl Gop {
    /// Takes note of a tag.
    pub(crate) fn observe(&mut self, position: &Position, tag: &Tag) {
        if tag.track != Track::Video {
            return;
        }
        let before = self.last.replace(position.number);
        // Where something was skipped, keyframes may be among it.
        if position.previous != before {
            (self.keyframe, self.open) = (None, 0);
        }
        if tag.is_header() || !tag.tracks.has_main() {
            return;
        }
        if let Some(keyframe) = self.keyframe {
            self.open = tag.timestamp.saturating_sub(keyframe);
        }
        if !tag.is_keyframe() {
            return;
        }
        if (1..=MAX_INTERVAL).contains(&self.open) {
            self.recent.rotate_right(1);
            self.recent[0] = self.open;
        }
        (self.keyframe, self.open) = (Some(tag.timestamp), 0);
    }

    /// The longest of the last intervals in milliseconds; the present one if it is longer.
    pub(crate) fn interval(&self) -> Option<i64> {
        let known = self.recent.into_iter().max().filter(|known| *known > 0);
        let open = Some(self.open).filter(|open| (LONG..=MAX_INTERVAL).contains(open));
        known.max(open)
    }
}

#[cfg(test)]
mod tests {
    use media::PublicationId;

    use super::*;

    struct Encoder {
        gop: Gop,
        number: u64,
        previous: Option<u64>,
        timestamp: i64,
    }

    impl Encoder {
        fn new() -> Self {
            Self { gop: Gop::default(), number: 0, previous: None, timestamp: 5_000 }
        }

        /// A GOP of so many frames, 100 ms each; those of `lost` do not come.
        fn gop(&mut self, frames: u64, lost: std::ops::Range<u64>) {
            for frame in 0..frames {
                let body: &'static [u8] = if frame == 0 {
                    b"\x17\x01\0\0\0\x09\x09\x09"
                } else {
                    b"\x27\x01\0\0\0\x09\x09\x09"
                };
                let tag = Tag::new(Track::Video, self.timestamp, body.into());
                let publication = PublicationId([1; 16]);
                let (number, previous) = (self.number, self.previous.replace(self.number));
                if !lost.contains(&frame) {
                    self.gop.observe(&Position { publication, number, previous }, &tag);
                }
                self.number += 1;
                self.timestamp += 100;
            }
        }
    }

    #[test]
    fn the_interval_is_that_of_the_last_keyframes() {
        let mut encoder = Encoder::new();
        encoder.gop(20, 0..0);
        assert_eq!(encoder.gop.interval(), None);
        encoder.gop(20, 0..0);
        assert_eq!(encoder.gop.interval(), Some(2_000));
        // A cut in the picture.
        encoder.gop(3, 0..0);
        encoder.gop(20, 0..0);
        assert_eq!(encoder.gop.interval(), Some(2_000));
        for _ in 0..4 {
            encoder.gop(100, 0..0);
        }
        assert_eq!(encoder.gop.interval(), Some(10_000));
    }

    #[test]
    fn a_gop_without_end_is_told_of() {
        let mut encoder = Encoder::new();
        encoder.gop(30, 0..0);
        assert_eq!(encoder.gop.interval(), None);
        encoder.gop(52, 0..1);
        assert_eq!(encoder.gop.interval(), None, "its keyframe was lost");
        encoder.gop(52, 0..0);
        assert_eq!(encoder.gop.interval(), Some(5_100));
    }

    #[test]
    fn what_was_skipped_says_nothing_of_the_encoder() {
        let mut encoder = Encoder::new();
        encoder.gop(20, 0..0);
        encoder.gop(20, 0..0);
        encoder.gop(20, 5..20);
        encoder.gop(20, 0..20);
        encoder.gop(20, 0..0);
        encoder.gop(20, 0..0);
        assert_eq!(encoder.gop.interval(), Some(2_000));
    }
}
