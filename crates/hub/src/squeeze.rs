//! Catching up with the live edge: a GOP's video in the last milliseconds before it.

use std::collections::VecDeque;

use media::video::{composition_time, with_composition_time};
use media::{Tag, Track};

use crate::ring::Ring;

/// The times of the frames of a joined GOP, squeezed towards the live edge.
///
/// Frames are decoded one millisecond apart, the last one at its own time. Those that should have
/// been shown before the edge are shown one millisecond apart too, in the order in which they are
/// shown; without that, B-frames make players show pictures out of order. What is shown at or
/// after the edge keeps its time, among the live frames that follow.
#[derive(Debug)]
pub(crate) struct Squeeze {
    /// Serial where the live edge was at the join.
    until: u64,
    /// Decoding and showing time of each frame to come, in milliseconds.
    times: VecDeque<(i64, i64)>,
}

impl Squeeze {
    /// The squeeze for a join at the entry `target`, with the live edge at `until`.
    pub(crate) fn new(ring: &Ring, target: u64, until: u64) -> Self {
        let before_edge = ring.range(target).take_while(|(serial, _)| *serial < until);
        let frames = before_edge.map(|(_, entry)| &entry.tag);
        let frames = frames.filter(|tag| tag.track == Track::Video && !tag.is_header());
        let times = frames.map(|tag| {
            let composition = composition_time(tag).unwrap_or(0);
            (tag.timestamp, tag.timestamp + i64::from(composition))
        });
        Self { until, times: squeeze(&times.collect::<Vec<_>>()) }
    }

    /// Whether the entry is one that was there at the join.
    pub(crate) fn covers(&self, serial: u64) -> bool {
        serial < self.until
    }

    /// The time of the next frame, and the frame with its composition time set to fit.
    pub(crate) fn next(&mut self, tag: &Tag) -> (i64, Tag) {
        let Some((decode, show)) = self.times.pop_front() else {
            return (tag.timestamp, tag.clone());
        };
        let composition = i32::try_from(show - decode).unwrap_or(0);
        (decode, with_composition_time(tag, composition))
    }
}

/// Squeezes decoding and showing times.
fn squeeze(times: &[(i64, i64)]) -> VecDeque<(i64, i64)> {
    let Some(edge) = times.iter().map(|(decode, _)| *decode).max() else { return VecDeque::new() };
    let mut before_edge: Vec<_> =
        times.iter().map(|(_, show)| *show).filter(|show| *show < edge).collect();
    before_edge.sort_unstable();
    let count = before_edge.len() as i64;
    let first = edge - (times.len() as i64 - 1);
    let squeezed = times.iter().zip(0..).map(|(&(decode, show), index)| {
        let decode = decode.max(first + index);
        let rank = before_edge.partition_point(|other| *other < show) as i64;
        let show = if show < edge { show.max(edge - count + rank) } else { show };
        (decode, show.max(decode))
    });
    squeezed.collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn without_b_frames_all_times_are_a_millisecond_apart() {
        let times: Vec<_> = (0..100).map(|frame| (frame * 40, frame * 40)).collect();
        let squeezed = squeeze(&times);
        let expected: Vec<_> = (0..100).map(|frame| 3_960 - 99 + frame).map(|t| (t, t)).collect();
        assert_eq!(squeezed, expected);
    }

    proptest! {
        /// Groups of a P-frame and up to three B-frames that are shown before it.
        #[test]
        fn the_order_of_showing_stays(groups in proptest::collection::vec(0usize..4, 2..40)) {
            let mut times = Vec::new();
            let (mut decode, mut shown) = (0i64, 0i64);
            for b_frames in groups {
                let mut push = |show| {
                    times.push((decode, show + 80));
                    decode += 40;
                };
                push(shown + b_frames as i64 * 40);
                (0..b_frames as i64).for_each(|frame| push(shown + frame * 40));
                shown += (b_frames as i64 + 1) * 40;
            }
            let squeezed = squeeze(&times);
            let edge = times.iter().map(|(decode, _)| *decode).max().unwrap();
            let decoded: Vec<_> = squeezed.iter().map(|(decode, _)| *decode).collect();
            prop_assert!(decoded.windows(2).all(|two| two[0] < two[1]));
            prop_assert!(edge - decoded[0] < times.len() as i64);
            let mut order: Vec<_> = (0..times.len()).collect();
            order.sort_by_key(|index| times[*index].1);
            // Frames decoded in the last milliseconds may be shown together, never out of order.
            let shown: Vec<_> = order.iter().map(|index| squeezed[*index].1).collect();
            prop_assert!(shown.is_sorted(), "{shown:?}");
            prop_assert!(squeezed.iter().all(|(decode, show)| show >= decode));
        }
    }
}
