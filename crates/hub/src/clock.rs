//! One monotonic clock for a player, whatever the publications behind a feed do.

use media::{PublicationId, Track, TrackSet};

/// A step of the timestamps beyond this, either way, is no pause or interleaving but a new time
/// base: the encoder's clock was set, or the live edge skipped an outage.
const MAX_STEP: i64 = 5_000;
/// One frame at 30 fps, until the feed has shown its own interval.
const DEFAULT_INTERVAL: i64 = 33;

/// Maps timestamps of any publication to one line that starts at 0 and never goes backwards.
///
/// Both tracks share one offset, so lip sync and composition times stay as they were. When the
/// publication changes, or its timestamps step by more than five seconds, the line goes on one
/// frame later.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    epoch: Option<Epoch>,
    /// The last value given on each track.
    last: TrackSet<i64>,
    /// The highest value given.
    high: i64,
    interval: Option<i64>,
}

#[derive(Clone, Copy, Debug)]
struct Epoch {
    publication: PublicationId,
    offset: i64,
    /// The last timestamp seen, on any track.
    last: i64,
    /// Whether the next tag begins another.
    is_over: bool,
}

impl Clock {
    /// The highest time given so far, in milliseconds.
    pub fn now(&self) -> i64 {
        self.high
    }

    /// The player's time in milliseconds of a tag with `timestamp`.
    pub fn map(&mut self, publication: PublicationId, track: Track, timestamp: i64) -> i64 {
        let offset = self.offset(publication, timestamp);
        let mapped = (timestamp + offset).max(self.last[track]);
        let step = mapped - self.last[track];
        if track == Track::Video && (1..=500).contains(&step) {
            self.interval = Some(step);
        }
        self.last[track] = mapped;
        self.high = self.high.max(mapped);
        mapped
    }

    /// As [`map`](Self::map), for a tag of a track beside the main ones: it keeps its distance to
    /// them, even where it is not in step.
    pub fn map_further(&mut self, publication: PublicationId, timestamp: i64) -> i64 {
        let mapped = (timestamp + self.offset(publication, timestamp)).max(0);
        self.high = self.high.max(mapped);
        mapped
    }

    /// Goes on one frame later, whatever the next timestamp is.
    pub fn splice(&mut self) {
        if let Some(epoch) = &mut self.epoch {
            epoch.is_over = true;
        }
    }

    fn offset(&mut self, publication: PublicationId, timestamp: i64) -> i64 {
        let is_same_line = |epoch: &Epoch| {
            epoch.publication == publication
                && !epoch.is_over
                && (timestamp - epoch.last).abs() <= MAX_STEP
        };
        let offset = match &self.epoch {
            Some(epoch) if is_same_line(epoch) => epoch.offset,
            Some(_) => self.high + self.interval.unwrap_or(DEFAULT_INTERVAL) - timestamp,
            None => -timestamp,
        };
        self.epoch = Some(Epoch { publication, offset, last: timestamp, is_over: false });
        offset
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PublicationId = PublicationId([1; 16]);
    const B: PublicationId = PublicationId([2; 16]);

    #[test]
    fn starts_at_zero_with_a_common_offset() {
        let mut clock = Clock::default();
        assert_eq!(clock.map(A, Track::Video, 5_000), 0);
        assert_eq!(clock.map(A, Track::Audio, 4_990), 0, "before the start is the start");
        assert_eq!(clock.map(A, Track::Audio, 5_013), 13);
        assert_eq!(clock.map(A, Track::Video, 5_040), 40);
    }

    #[test]
    fn goes_on_one_frame_later_in_a_new_publication() {
        let mut clock = Clock::default();
        clock.map(A, Track::Video, 100);
        clock.map(A, Track::Video, 140);
        assert_eq!(clock.map(B, Track::Video, 77_777), 80);
        assert_eq!(clock.map(B, Track::Audio, 77_780), 83);
    }

    #[test]
    fn takes_a_wild_step_for_a_new_time_base() {
        let mut clock = Clock::default();
        clock.map(A, Track::Video, 0);
        clock.map(A, Track::Video, 40);
        assert_eq!(clock.map(A, Track::Video, 4_295_007), 80);
        assert_eq!(clock.map(A, Track::Video, 40), 120);
        assert_eq!(clock.map(A, Track::Video, 1_040), 1_120, "a pause of a second is a pause");
    }

    #[test]
    fn goes_on_one_frame_later_when_it_is_told_to() {
        let mut clock = Clock::default();
        clock.splice();
        assert_eq!(clock.map(A, Track::Video, 1_000), 0);
        assert_eq!(clock.map(A, Track::Video, 1_040), 40);
        clock.splice();
        assert_eq!(clock.map(A, Track::Video, 500), 80);
        assert_eq!(clock.map(A, Track::Audio, 510), 90);
    }

    #[test]
    fn never_goes_backwards_on_a_track() {
        let mut clock = Clock::default();
        clock.map(A, Track::Audio, 0);
        clock.map(A, Track::Audio, 100);
        assert_eq!(clock.map(A, Track::Audio, 60), 100);
        assert_eq!(clock.map(A, Track::Video, 60), 60, "the other track is its own line");
    }

    #[test]
    fn a_further_track_keeps_its_distance() {
        let mut clock = Clock::default();
        clock.map(A, Track::Audio, 1_000);
        assert_eq!(clock.map(A, Track::Audio, 1_021), 21);
        assert_eq!(clock.map_further(A, 1_010), 10);
        assert_eq!(clock.map_further(A, 1_050), 50);
        assert_eq!(clock.map(A, Track::Audio, 1_042), 42);
    }
}
