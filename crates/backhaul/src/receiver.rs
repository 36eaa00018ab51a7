use std::collections::BTreeMap;

use media::{Track, TrackSet};

use crate::datagram::Collector;
use crate::{Error, Ranges, Skip};

/// Tags that may wait for others: some seconds of a feed, while a lost packet comes again.
const MAX_HELD: usize = 4_096;
/// Skips that may wait for the tags before them.
const MAX_SKIPS: usize = 64;

/// What became of a tag that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// Keep its body: it will be released, or dropped, by [`Receiver::poll`].
    Kept,
    /// Drop its body: it was there before, or the live edge has passed it by.
    Late,
}

/// What to do with a kept body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// The track's next tag: pass it on.
    Tag(Track, u64),
    /// A skip has passed it by: drop it.
    Drop(Track, u64),
}

/// Puts one publication's tags in order, each track by itself; outlives links.
///
/// A tag is released once the tag before it on its track was released or skipped; only the
/// sender moves a track's edge across a hole. The caller keeps the bodies.
#[derive(Debug, Default)]
pub struct Receiver {
    tracks: TrackSet<Order>,
    received: Collector,
}

/// The order of one track.
#[derive(Debug, Default)]
struct Order {
    /// The track's edge: the last number released or skipped.
    edge: Option<u64>,
    /// Numbers that wait, and the number before each on its track.
    held: BTreeMap<u64, Option<u64>>,
    /// Skips that wait, by where they start.
    skips: BTreeMap<Option<u64>, u64>,
}

impl Receiver {
    /// Goes on with another sender: what the one before has skipped may come after all.
    pub fn resume(&mut self) {
        Track::ALL.into_iter().for_each(|track| self.tracks[track].skips.clear());
    }

    /// Numbers that were received and wait for others.
    pub fn held(&self) -> Ranges {
        let held = self.tracks.iter().flat_map(|(_, order)| order.held.keys());
        held.map(|number| (*number, *number)).collect()
    }

    /// Each track's last number that was released or skipped.
    pub fn edges(&self) -> TrackSet<Option<u64>> {
        let mut edges = TrackSet::default();
        for track in Track::ALL {
            edges[track] = self.tracks[track].edge;
        }
        edges
    }

    /// Takes note of a tag.
    ///
    /// # Errors
    ///
    /// [`Error::Limit`] if too many tags wait for one that does not come.
    pub fn on_tag(
        &mut self,
        track: Track,
        number: u64,
        previous: Option<u64>,
    ) -> Result<Arrival, Error> {
        let order = &mut self.tracks[track];
        // The one that the others wait for is always welcome, and what finds no room may come again.
        if order.held.len() >= MAX_HELD && previous > order.edge {
            return Err(Error::Limit("too many tags wait for one that does not come"));
        }
        let is_new = self.received.insert(number);
        if !is_new || Some(number) <= order.edge || order.held.contains_key(&number) {
            return Ok(Arrival::Late);
        }
        order.held.insert(number, previous);
        Ok(Arrival::Kept)
    }

    /// Takes note of a hole.
    ///
    /// # Errors
    ///
    /// [`Error`] if the hole makes no sense, or too many wait.
    pub fn on_skip(&mut self, skip: &Skip) -> Result<(), Error> {
        if skip.from >= Some(skip.to) {
            return Err(Error::Malformed("a skip goes backwards"));
        }
        let skips = &mut self.tracks[skip.track].skips;
        if skips.len() >= MAX_SKIPS {
            return Err(Error::Limit("too many skips wait for tags that do not come"));
        }
        let to = skips.entry(skip.from).or_insert(skip.to);
        *to = skip.to.max(*to);
        Ok(())
    }

    /// What to do next with a kept body; call until `None` after every tag and skip.
    pub fn poll(&mut self) -> Option<Release> {
        Track::ALL.into_iter().find_map(|track| self.tracks[track].poll(track))
    }

    /// What was received, if that changed since the last call.
    pub fn take_report(&mut self) -> Option<Ranges> {
        self.received.take_report()
    }
}

impl Order {
    fn poll(&mut self, track: Track) -> Option<Release> {
        loop {
            if let Some((&number, &previous)) = self.held.first_key_value() {
                let is_passed = Some(number) <= self.edge;
                if is_passed || previous <= self.edge {
                    self.held.pop_first();
                    self.edge = self.edge.max(Some(number));
                    let release = if is_passed { Release::Drop } else { Release::Tag };
                    return Some(release(track, number));
                }
            }
            let (&from, &to) = self.skips.first_key_value()?;
            if from > self.edge {
                return None;
            }
            self.skips.pop_first();
            self.edge = self.edge.max(Some(to));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn drain(receiver: &mut Receiver) -> Vec<Release> {
        std::iter::from_fn(|| receiver.poll()).collect()
    }

    fn skip(from: Option<u64>, to: u64) -> Skip {
        Skip { subscription: 1, track: Track::Video, from, to }
    }

    #[test]
    fn what_waits_outlives_the_link() {
        let mut receiver = Receiver::default();
        receiver.on_tag(Track::Video, 0, None).unwrap();
        receiver.on_tag(Track::Video, 6, Some(4)).unwrap();
        receiver.on_tag(Track::Audio, 5, Some(3)).unwrap();
        receiver.on_skip(&skip(Some(2), 4)).unwrap();
        assert_eq!(drain(&mut receiver), [Release::Tag(Track::Video, 0)]);
        assert_eq!(receiver.held().iter().collect::<Vec<_>>(), [(5, 6)]);
        receiver.resume();
        for (number, previous) in [(2, Some(0)), (4, Some(2))] {
            assert_eq!(receiver.on_tag(Track::Video, number, previous), Ok(Arrival::Kept));
        }
        let released = [2, 4, 6].map(|number| Release::Tag(Track::Video, number));
        assert_eq!(drain(&mut receiver), released, "the skip of before is forgotten");
    }

    #[test]
    fn tags_wait_for_the_one_before_on_their_track_alone() {
        let mut receiver = Receiver::default();
        assert_eq!(receiver.on_tag(Track::Video, 4, Some(2)), Ok(Arrival::Kept));
        assert_eq!(receiver.on_tag(Track::Audio, 3, None), Ok(Arrival::Kept));
        assert_eq!(drain(&mut receiver), [Release::Tag(Track::Audio, 3)]);
        assert_eq!(receiver.on_tag(Track::Video, 2, None), Ok(Arrival::Kept));
        assert_eq!(
            drain(&mut receiver),
            [Release::Tag(Track::Video, 2), Release::Tag(Track::Video, 4)]
        );
        assert_eq!(receiver.on_tag(Track::Video, 4, Some(2)), Ok(Arrival::Late), "twice");
    }

    #[test]
    fn a_skip_moves_the_edge_once_the_tags_before_it_are_there() {
        let mut receiver = Receiver::default();
        receiver.on_skip(&skip(Some(1), 7)).unwrap();
        assert_eq!(receiver.on_tag(Track::Video, 8, Some(7)), Ok(Arrival::Kept));
        assert_eq!(drain(&mut receiver), []);
        assert_eq!(receiver.on_tag(Track::Video, 1, None), Ok(Arrival::Kept));
        assert_eq!(
            drain(&mut receiver),
            [Release::Tag(Track::Video, 1), Release::Tag(Track::Video, 8)]
        );
        assert_eq!(receiver.on_tag(Track::Video, 5, Some(1)), Ok(Arrival::Late));
    }

    #[test]
    fn a_skip_from_the_start_joins_in_the_middle() {
        let mut receiver = Receiver::default();
        receiver.on_skip(&skip(None, 99)).unwrap();
        receiver.on_tag(Track::Video, 100, Some(99)).unwrap();
        assert_eq!(drain(&mut receiver), [Release::Tag(Track::Video, 100)]);
    }

    #[test]
    fn a_kept_tag_that_a_skip_passes_by_is_dropped() {
        let mut receiver = Receiver::default();
        receiver.on_tag(Track::Video, 5, Some(3)).unwrap();
        receiver.on_skip(&skip(None, 9)).unwrap();
        assert_eq!(drain(&mut receiver), [Release::Drop(Track::Video, 5)]);
        assert_eq!(receiver.edges()[Track::Video], Some(9));
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut receiver = Receiver::default();
        let mut send = |number| receiver.on_tag(Track::Audio, number, Some(number - 1));
        assert!((2..2 + MAX_HELD as u64).all(|number| send(number).is_ok()));
        assert!(matches!(send(9_999), Err(Error::Limit(_))));
        assert!(receiver.on_skip(&skip(Some(9), 9)).is_err());
    }

    proptest! {
        /// Whatever the order of arrival, each track comes out in order and whole.
        #[test]
        fn any_arrival_order_releases_everything_in_order(
            order in Just((0u64..60).collect::<Vec<_>>()).prop_shuffle(),
            twice in proptest::collection::vec(0usize..60, 0..20),
        ) {
            let track = |number: u64| if number.is_multiple_of(3) { Track::Video } else { Track::Audio };
            let previous = |number: u64| {
                (0..number).rev().find(|before| track(*before) == track(number))
            };
            let mut receiver = Receiver::default();
            let mut released: TrackSet<Vec<u64>> = TrackSet::default();
            let arrivals = order.iter().copied().chain(twice.iter().map(|index| order[*index]));
            for number in arrivals {
                receiver.on_tag(track(number), number, previous(number)).unwrap();
                for release in drain(&mut receiver) {
                    let Release::Tag(track, number) = release else { panic!("{release:?}") };
                    released[track].push(number);
                }
            }
            for track_id in [Track::Audio, Track::Video] {
                let whole: Vec<_> = (0..60).filter(|number| track(*number) == track_id).collect();
                prop_assert_eq!(&released[track_id], &whole);
            }
        }
    }
}
