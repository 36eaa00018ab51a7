//! What one source takes of the recorder, so that it leaves something for the others.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Ranges of all publications of one source: a relay may send nothing but every second number of many
/// publications. Each costs some 32 bytes.
const MAX_RANGES: usize = 1 << 18;

/// What all publications of one source take. Counted under the recorder's lock.
#[derive(Debug, Default)]
pub(super) struct Share {
    journals: AtomicUsize,
    ranges: AtomicUsize,
}

impl Share {
    /// Publications of the source.
    pub(super) fn journals(&self) -> usize {
        self.journals.load(Ordering::Relaxed)
    }
}

/// What one publication takes of its source's share; given back when it is dropped.
#[derive(Debug, Default)]
pub(super) struct Charge {
    share: Option<Arc<Share>>,
    ranges: usize,
}

impl Charge {
    /// Charges a publication to its source.
    pub(super) fn of(share: Arc<Share>) -> Self {
        share.journals.fetch_add(1, Ordering::Relaxed);
        Self { share: Some(share), ranges: 0 }
    }

    /// It has so many ranges now.
    pub(super) fn set(&mut self, ranges: usize) {
        let before = std::mem::replace(&mut self.ranges, ranges);
        if let Some(share) = &self.share {
            share.ranges.fetch_add(ranges, Ordering::Relaxed);
            share.ranges.fetch_sub(before, Ordering::Relaxed);
        }
    }

    /// Whether the source has as many ranges as it may.
    pub(super) fn is_used_up(&self) -> bool {
        let ranges = |share: &Arc<Share>| share.ranges.load(Ordering::Relaxed);
        self.share.as_ref().is_some_and(|share| ranges(share) >= MAX_RANGES)
    }
}

impl Clone for Charge {
    /// A copy to look at, which counts for nobody.
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.set(0);
        if let Some(share) = &self.share {
            share.journals.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use bytes::Bytes;
    use media::{Position, PublicationId, Tag, Track};

    use super::super::format::{FileHead, RecordHead, Source};
    use super::super::index::{Index, Refused};
    use super::super::state::{MAX_JOURNALS, State};
    use super::*;

    fn index(number: u64, source: &Source) -> Index {
        let mut name = [0; 16];
        name[..8].copy_from_slice(&number.to_be_bytes());
        Index::new(FileHead {
            feed: "camera".parse().unwrap(),
            publication: PublicationId(name),
            started: 0,
            wants_all: true,
            source: source.clone(),
            secret: 1,
        })
    }

    fn tag(number: u64) -> RecordHead {
        let publication = PublicationId([1; 16]);
        let position = Position { publication, number, previous: None };
        RecordHead::tag(position, &Tag::new(Track::Audio, 0, Bytes::new()), SystemTime::now())
    }

    #[test]
    fn a_relay_leaves_room_for_the_others() {
        let mut state = State::default();
        let [busy, other] = ["busy", "other"].map(|name| Source::Relay(name.to_owned()));
        let mut taken = 0;
        while state.has_room(&busy) {
            state.insert(index(taken, &busy));
            taken += 1;
        }
        assert_eq!(taken as usize, MAX_JOURNALS / 2);
        assert!(state.has_room(&other) && state.has_room(&Source::Here));
        assert!(state.alarm().expect("it is told").contains("one relay"));
        let first = index(0, &busy).head.publication;
        state.journals.remove(&first);
        assert!(state.has_room(&busy), "what is gone is given back");
    }

    #[test]
    fn holes_of_a_relay_are_bounded_over_all_its_publications() {
        let mut state = State::default();
        let [busy, other] = ["busy", "other"].map(|name| Source::Relay(name.to_owned()));
        let mut taken = 0;
        'all: for number in 0.. {
            let new = index(number, &busy);
            let publication = new.head.publication;
            state.insert(new);
            let new = state.journals.get_mut(&publication).expect("it was put there");
            for hole in 0..40_000 {
                match new.apply(&tag(2 * hole)) {
                    Ok(()) => taken += 1,
                    Err(refused) => {
                        assert_eq!(refused, Refused::Holes);
                        assert_eq!(new.apply(&tag(1)), Ok(()), "what closes a hole is taken");
                        break 'all;
                    }
                }
            }
        }
        assert_eq!(taken, MAX_RANGES);
        let new = index(1 << 32, &other);
        let publication = new.head.publication;
        state.insert(new);
        let new = state.journals.get_mut(&publication).expect("it was put there");
        assert!((0..100).all(|hole| new.apply(&tag(2 * hole)).is_ok()));
        state.journals.retain(|name, _| *name == publication);
        assert_eq!(state.share(&busy).ranges.load(Ordering::Relaxed), 0);
    }
}
