//! Where on its track's line a sample stands.

use super::track::Track;

/// How far a sound may be from where counting puts it, in milliseconds, before it is believed.
const RESYNC_MS: i64 = 60;

/// Turns timestamps in milliseconds into times of a track.
///
/// A picture stands where its timestamp says. Sounds have no gaps: each follows the one before it by
/// what that one lasts, since timestamps in milliseconds would tear them apart, unless it is
/// 60 ms from where its timestamp puts it.
#[derive(Clone, Debug, Default)]
pub struct Timing {
    /// The last sample's time.
    last: Option<i64>,
    /// Where the next sound stands, if it follows at once.
    next: Option<i64>,
}

impl Timing {
    /// The time of a track, in its own units, for a timestamp in milliseconds.
    pub fn scaled(track: &Track, timestamp_ms: i64) -> i64 {
        let scaled = i128::from(timestamp_ms) * i128::from(track.timescale()) / 1_000;
        scaled.clamp(i128::from(i64::MIN / 2), i128::from(i64::MAX / 2)) as i64
    }

    /// Where the next sample stands, in the track's units: after the one before it.
    pub fn place(&mut self, track: &Track, timestamp_ms: i64, data: &[u8]) -> i64 {
        let told = Self::scaled(track, timestamp_ms);
        let lasts = track.sample_length(data);
        let counted = self.next.filter(|next| {
            let off = next.abs_diff(told);
            off <= Self::scaled(track, RESYNC_MS).unsigned_abs()
        });
        let least = self.last.map_or(i64::MIN, |last| last + 1);
        let place = counted.unwrap_or(told).max(least);
        self.last = Some(place);
        self.next = lasts.map(|lasts| place + i64::from(lasts));
        place
    }
}
