//! A set of numbers, kept as ranges.

use std::collections::BTreeMap;

/// A set of numbers as ranges in ascending order, neither overlapping nor adjacent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ranges {
    /// First to last number, both included.
    ranges: BTreeMap<u64, u64>,
    /// Numbers in it.
    count: u64,
}

impl Ranges {
    /// Whether `number` is in the set.
    pub(super) fn contains(&self, number: u64) -> bool {
        self.ranges.range(..=number).next_back().is_some_and(|(_, last)| *last >= number)
    }

    /// Adds the numbers from `first` to `last`, both included.
    pub(super) fn insert(&mut self, first: u64, last: u64) {
        let (mut first, mut last) = (first, last.max(first));
        let touching = last.saturating_add(1);
        while let Some((&start, &end)) = self.ranges.range(..=touching).next_back() {
            if end.saturating_add(1) < first {
                break;
            }
            self.take(start);
            (first, last) = (first.min(start), last.max(end));
        }
        self.put(first, last);
    }

    /// Takes `number` out.
    pub(super) fn remove(&mut self, number: u64) {
        let Some((&start, &end)) = self.ranges.range(..=number).next_back() else { return };
        if end < number {
            return;
        }
        self.take(start);
        if start < number {
            self.put(start, number - 1);
        }
        if number < end {
            self.put(number + 1, end);
        }
    }

    /// How many numbers are in the set; it stops at the most that a `u64` holds.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// How many ranges there are.
    pub(super) fn len(&self) -> usize {
        self.ranges.len()
    }

    /// The highest number.
    pub(super) fn last(&self) -> Option<u64> {
        self.ranges.last_key_value().map(|(_, last)| *last)
    }

    /// What is not in the set from `first` to `last`, both included, in ascending order.
    pub(super) fn gaps(&self, first: u64, last: u64) -> impl Iterator<Item = (u64, u64)> {
        let begin = self.ranges.range(..first).next_back().map_or(first, |(start, _)| *start);
        let mut ranges = self.ranges.range(begin..);
        let mut next = Some(first).filter(|first| *first <= last);
        std::iter::from_fn(move || {
            loop {
                let from = next.filter(|from| *from <= last)?;
                match ranges.next() {
                    Some((&start, &end)) if start <= last => {
                        next = end.checked_add(1).map(|after| after.max(from));
                        if start > from {
                            return Some((from, start - 1));
                        }
                    }
                    _ => {
                        next = None;
                        return Some((from, last));
                    }
                }
            }
        })
    }

    fn put(&mut self, first: u64, last: u64) {
        self.count = self.count.saturating_add((last - first).saturating_add(1));
        self.ranges.insert(first, last);
    }

    fn take(&mut self, first: u64) {
        if let Some(last) = self.ranges.remove(&first) {
            self.count = self.count.saturating_sub((last - first).saturating_add(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn they_are_a_set(
            steps in proptest::collection::vec((any::<bool>(), 0u64..50, 0u64..8), 0..60),
            first in 0u64..60,
            length in 0u64..60,
        ) {
            let mut ranges = Ranges::default();
            let mut model = BTreeSet::new();
            for (is_insert, number, length) in steps {
                if is_insert {
                    ranges.insert(number, number + length);
                    model.extend(number..=number + length);
                } else {
                    ranges.remove(number);
                    model.remove(&number);
                }
            }
            for number in 0..70 {
                prop_assert_eq!(ranges.contains(number), model.contains(&number));
            }
            prop_assert_eq!(ranges.count(), model.len() as u64);
            prop_assert_eq!(ranges.last(), model.last().copied());
            let gaps: Vec<_> = ranges.gaps(first, first + length).collect();
            let listed: Vec<u64> = gaps.iter().flat_map(|(from, to)| *from..=*to).collect();
            let missing = (first..=first + length).filter(|number| !model.contains(number));
            prop_assert_eq!(listed, missing.collect::<Vec<_>>());
            prop_assert!(gaps.windows(2).all(|two| two[0].1 + 1 < two[1].0));
        }
    }

    #[test]
    fn the_highest_numbers_are_no_trouble() {
        let mut ranges = Ranges::default();
        ranges.insert(u64::MAX - 1, u64::MAX);
        ranges.insert(0, 0);
        assert_eq!(ranges.gaps(0, u64::MAX).collect::<Vec<_>>(), [(1, u64::MAX - 2)]);
        ranges.insert(0, u64::MAX);
        assert_eq!(ranges.len(), 1);
        assert_eq!(ranges.gaps(0, u64::MAX).count(), 0);
    }
}
