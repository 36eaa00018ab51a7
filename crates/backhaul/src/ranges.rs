//! Sets of numbers, as they are on the wire.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};

use crate::Error;
use crate::wire::{get_varint, put_varint};

/// Ranges of a set on the wire: what a few lost streams leave. What is beyond waits for the next
/// message.
pub(crate) const MAX_RANGES: usize = 64;

/// A set of numbers, as ranges in ascending order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges {
    /// First to last number, both included; neither overlapping nor adjacent.
    ranges: BTreeMap<u64, u64>,
}

impl Ranges {
    /// Adds `number`; `false` if it was there already.
    pub fn insert(&mut self, number: u64) -> bool {
        if self.contains(number) {
            return false;
        }
        self.insert_range(number, number);
        true
    }

    /// Adds the numbers from `first` to `last`, both included.
    pub fn insert_range(&mut self, mut first: u64, mut last: u64) {
        if first > last {
            return;
        }
        let reach = last.saturating_add(1);
        while let Some((&start, &end)) = self.ranges.range(..=reach).next_back()
            && end.saturating_add(1) >= first
        {
            self.ranges.remove(&start);
            (first, last) = (first.min(start), last.max(end));
        }
        self.ranges.insert(first, last);
    }

    /// Whether `number` is in the set.
    pub fn contains(&self, number: u64) -> bool {
        self.ranges.range(..=number).next_back().is_some_and(|(_, last)| *last >= number)
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// How many ranges there are.
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// The highest number.
    pub fn last(&self) -> Option<u64> {
        self.ranges.last_key_value().map(|(_, last)| *last)
    }

    /// The ranges, first and last number included, in ascending order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (u64, u64)> {
        self.ranges.iter().map(|(first, last)| (*first, *last))
    }

    /// The numbers from `first` to `last` that are not in the set.
    pub fn missing(&self, first: u64, last: u64) -> Self {
        let mut missing = Self::default();
        let mut next = first;
        let before = self.ranges.range(..first).next_back().map(|(first, last)| (*first, *last));
        let inside = self.ranges.range(first..=last.max(first)).map(|(f, l)| (*f, *l));
        for (start, end) in before.into_iter().chain(inside) {
            if start > next {
                missing.insert_range(next, (start - 1).min(last));
            }
            match end.checked_add(1) {
                Some(after) => next = next.max(after),
                None => return missing,
            }
        }
        missing.insert_range(next, last);
        missing
    }

    /// The numbers that are in both sets.
    pub fn intersection(&self, other: &Self) -> Self {
        let common = self.iter().flat_map(|(first, last)| {
            // What is not missing there.
            other.missing(first, last).missing(first, last).ranges
        });
        common.collect()
    }

    /// The lowest ranges, as many as a message carries.
    pub fn lowest(&self) -> Self {
        Self { ranges: self.iter().take(MAX_RANGES).collect() }
    }

    /// The lowest ranges, at most as many as a message carries, with those in one that at most
    /// `gap` numbers part: what is between is there already, and costs less than another range.
    pub fn coarse(&self, gap: u64) -> Self {
        let mut coarse: Vec<(u64, u64)> = Vec::new();
        for (first, last) in self.iter() {
            let is_full = coarse.len() == MAX_RANGES;
            match coarse.last_mut() {
                Some(before) if first - before.1 <= gap.saturating_add(1) => before.1 = last,
                _ if is_full => break,
                _ => coarse.push((first, last)),
            }
        }
        Self { ranges: coarse.into_iter().collect() }
    }

    /// Forgets the lowest ranges beyond `keep` of them.
    pub(crate) fn trim(&mut self, keep: usize) {
        while self.ranges.len() > keep {
            self.ranges.pop_first();
        }
    }

    /// Appends count, then from the highest range down: its last number (or the gap to the range
    /// above), and its length less one. Where there are more than a message carries, the highest.
    pub(crate) fn encode(&self, out: &mut BytesMut) {
        let count = self.ranges.len().min(MAX_RANGES);
        put_varint(out, count as u64);
        let mut above = None;
        for (first, last) in self.iter().rev().take(count) {
            put_varint(out, above.map_or(last, |above: u64| above - last));
            put_varint(out, last - first);
            above = Some(first);
        }
    }

    pub(crate) fn decode(input: &mut Bytes) -> Result<Self, Error> {
        let count = get_varint(input)?;
        if count > MAX_RANGES as u64 {
            return Err(Error::Limit("a set of numbers has too many ranges"));
        }
        let mut ranges = Self::default();
        let mut above: Option<u64> = None;
        for _ in 0..count {
            let value = get_varint(input)?;
            let last = match above {
                None => Some(value),
                Some(above) if value >= 2 => above.checked_sub(value),
                Some(_) => None,
            };
            let length = get_varint(input)?;
            let range = last.and_then(|last| Some((last.checked_sub(length)?, last)));
            let (first, last) = range.ok_or(Error::Malformed("ranges of numbers overlap"))?;
            ranges.ranges.insert(first, last);
            above = Some(first);
        }
        Ok(ranges)
    }
}

impl FromIterator<(u64, u64)> for Ranges {
    /// The union of ranges, first and last number included.
    fn from_iter<I: IntoIterator<Item = (u64, u64)>>(ranges: I) -> Self {
        let mut set = Self::default();
        ranges.into_iter().for_each(|(first, last)| set.insert_range(first, last));
        set
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn set(ranges: &Ranges) -> BTreeSet<u64> {
        ranges.iter().flat_map(|(first, last)| first..=last).collect()
    }

    proptest! {
        #[test]
        fn ranges_are_a_set(
            numbers in proptest::collection::vec((0u64..60, 0u64..6), 0..40),
            from in 0u64..60,
            length in 0u64..60,
        ) {
            let mut ranges = Ranges::default();
            let mut model = BTreeSet::new();
            for (number, length) in numbers {
                if length == 0 {
                    prop_assert_eq!(ranges.insert(number), model.insert(number));
                } else {
                    ranges.insert_range(number, number + length);
                    model.extend(number..=number + length);
                }
            }
            prop_assert_eq!(set(&ranges), model.clone());
            for number in 0..70 {
                prop_assert_eq!(ranges.contains(number), model.contains(&number));
            }
            let apart = |pair: &[(u64, u64)]| pair[0].1 + 1 < pair[1].0;
            let all: Vec<_> = ranges.iter().collect();
            prop_assert!(all.windows(2).all(apart), "neither overlapping nor adjacent");
            let missing: BTreeSet<u64> =
                (from..=from + length).filter(|number| !model.contains(number)).collect();
            prop_assert_eq!(set(&ranges.missing(from, from + length)), missing);
            let window: Ranges = [(from, from + length)].into_iter().collect();
            let common: BTreeSet<u64> = model.range(from..=from + length).copied().collect();
            prop_assert_eq!(&set(&ranges.intersection(&window)), &common);
            prop_assert_eq!(set(&window.intersection(&ranges)), common);
            let coarse = set(&ranges.coarse(2));
            prop_assert!(coarse.is_superset(&model));
            let mut encoded = BytesMut::new();
            ranges.encode(&mut encoded);
            prop_assert_eq!(Ranges::decode(&mut encoded.freeze()), Ok(ranges));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = Ranges::decode(&mut bytes.into());
        }
    }

    #[test]
    fn the_ends_of_the_numbers_are_no_trap() {
        let mut ranges = Ranges::default();
        ranges.insert_range(u64::MAX - 1, u64::MAX);
        ranges.insert_range(0, 3);
        assert!(ranges.contains(u64::MAX));
        assert_eq!(ranges.missing(0, u64::MAX).iter().collect::<Vec<_>>(), [(4, u64::MAX - 2)]);
        ranges.insert_range(0, u64::MAX);
        assert!(ranges.missing(0, u64::MAX).is_empty());
        assert_eq!(ranges.len(), 1);
    }

    #[test]
    fn a_coarse_set_is_short() {
        let every_third: Ranges = (0..1_000).map(|number| (number * 3, number * 3)).collect();
        assert_eq!(every_third.coarse(2).len(), 1);
        let coarse = every_third.coarse(1);
        assert_eq!(coarse.len(), MAX_RANGES);
        assert_eq!(coarse.iter().next(), Some((0, 0)), "the lowest come first");
    }
}
