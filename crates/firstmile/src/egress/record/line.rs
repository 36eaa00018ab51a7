//! The timestamps of an exported file.

use media::{Tag, TrackSet};

/// A step back of the timestamps beyond this is a new time base, as for players.
const MAX_STEP_BACK: i64 = 5_000;
/// The shortest and the longest pause where the time base changes, if the times of arrival say no
/// better: one frame, and what an encoder takes to start anew.
const NEW_BASE_AFTER: (i64, i64) = (33, 10_000);
/// A file whose first timestamp is below 0 or from here on begins at 0 instead: players read 31
/// or 32 bits.
const LATE_START: i64 = 1 << 31;

/// The file's timestamps: the publication's own, as long as they make a line.
#[derive(Clone, Debug, Default)]
pub(super) struct Line {
    offset: Option<i64>,
    /// The last timestamp of each track.
    last: TrackSet<Option<i64>>,
    first: i64,
    high: i64,
    /// The time base's highest timestamp, and when that tag came.
    newest: (i64, i64),
}

impl Line {
    /// The highest timestamp so far.
    pub(super) fn now(&self) -> i64 {
        self.high
    }

    /// Milliseconds from the lowest to the highest.
    pub(super) fn length(&self) -> u64 {
        self.high.abs_diff(self.first)
    }

    /// Where a frame stands that came at `arrival`.
    pub(super) fn map(&mut self, tag: &Tag, arrival: i64) -> i64 {
        let timestamp = tag.timestamp;
        let offset = match self.offset {
            None => {
                let is_usual = (0..LATE_START).contains(&timestamp);
                let offset = if is_usual { 0 } else { timestamp.saturating_neg() };
                self.first = timestamp.saturating_add(offset);
                self.high = self.first;
                self.newest = (timestamp, arrival);
                offset
            }
            Some(_) if timestamp < self.newest.0.saturating_sub(MAX_STEP_BACK) => {
                // The encoder's clock was set back: the file goes on by the time of day.
                let (least, most) = NEW_BASE_AFTER;
                let pause = arrival.saturating_sub(self.newest.1).clamp(least, most);
                self.newest = (timestamp, arrival);
                self.high.saturating_add(pause).saturating_sub(timestamp)
            }
            Some(offset) => offset,
        };
        self.offset = Some(offset);
        if timestamp > self.newest.0 {
            self.newest = (timestamp, arrival);
        }
        let mapped = timestamp.saturating_add(offset).max(0);
        self.first = self.first.min(mapped);
        // Those of one track never go back; further tracks in it have their own order.
        let least = self.last[tag.track].filter(|_| tag.tracks.has_main()).unwrap_or(mapped);
        let mapped = mapped.max(least);
        self.last[tag.track] = Some(mapped);
        self.high = self.high.max(mapped);
        mapped
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use media::Track;

    use super::*;

    fn map(line: &mut Line, track: Track, timestamp: i64, arrival: i64) -> i64 {
        line.map(&Tag::new(track, timestamp, Bytes::from_static(&[0x27, 1, 0])), arrival)
    }

    #[test]
    fn timestamps_stay_unless_they_go_back() {
        let mut line = Line::default();
        assert_eq!(map(&mut line, Track::Video, 1_000, 0), 1_000);
        assert_eq!(map(&mut line, Track::Audio, 990, 0), 990);
        assert_eq!(map(&mut line, Track::Video, 1_040, 40), 1_040);
        assert_eq!(map(&mut line, Track::Video, 1_020, 60), 1_040);
        assert_eq!(map(&mut line, Track::Video, 91_000, 90_000), 91_000, "a hole keeps its length");
        assert_eq!(map(&mut line, Track::Video, 0, 92_000), 93_000, "a clock that was set");
        assert_eq!(map(&mut line, Track::Audio, 40, 92_040), 93_040);
        assert_eq!(line.length(), 92_050);
    }

    #[test]
    fn odd_starts_begin_at_0() {
        for start in [-5, 1 << 31, 1 << 40, i64::MIN, i64::MAX] {
            let mut line = Line::default();
            let first = map(&mut line, Track::Video, start, 0);
            assert!((0..2).contains(&first), "{start}: {first}");
            assert!(map(&mut line, Track::Video, start.saturating_add(40), 0) <= 41);
        }
    }
}
