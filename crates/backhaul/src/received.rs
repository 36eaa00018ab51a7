use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};

use crate::Error;
use crate::wire::{get_varint, put_varint};

/// Ranges in a report: what a few lost streams leave. More holes than that are reported later.
const MAX_RANGES: usize = 64;

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
        let mut first = number;
        let mut last = number;
        if let Some((&before, &end)) = self.ranges.range(..number).next_back()
            && end + 1 == number
        {
            first = before;
        }
        if let Some(end) = number.checked_add(1).and_then(|next| self.ranges.remove(&next)) {
            last = end;
        }
        self.ranges.insert(first, last);
        true
    }

    /// Whether `number` is in the set.
    pub fn contains(&self, number: u64) -> bool {
        self.ranges.range(..=number).next_back().is_some_and(|(_, last)| *last >= number)
    }

    /// The ranges, first and last number included, in ascending order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (u64, u64)> {
        self.ranges.iter().map(|(first, last)| (*first, *last))
    }

    /// Forgets the lowest ranges beyond `keep` of them.
    fn trim(&mut self, keep: usize) {
        while self.ranges.len() > keep {
            self.ranges.pop_first();
        }
    }
}

/// A receiver's report: numbers of a subscription's publication that it has.
///
/// Reports repeat what earlier ones said, so a lost one costs nothing; ranges that everybody has
/// long known of are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// The subscription.
    pub subscription: u64,
    /// The numbers.
    pub ranges: Ranges,
}

impl Received {
    /// The datagram: subscription, count, then from the highest range down: its last number (or
    /// the gap to the range before), and its length less one.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        put_varint(&mut out, self.subscription);
        let count = self.ranges.ranges.len().min(MAX_RANGES);
        put_varint(&mut out, count as u64);
        let mut above = None;
        for (first, last) in self.ranges.iter().rev().take(count) {
            put_varint(&mut out, above.map_or(last, |above: u64| above - last));
            put_varint(&mut out, last - first);
            above = Some(first);
        }
        out.freeze()
    }

    /// Reads a datagram.
    ///
    /// # Errors
    ///
    /// [`Error`] if it makes no sense.
    pub fn decode(mut input: Bytes) -> Result<Self, Error> {
        let input = &mut input;
        let subscription = get_varint(input)?;
        let count = get_varint(input)?;
        if count > MAX_RANGES as u64 {
            return Err(Error::Limit("a report has too many ranges"));
        }
        let mut ranges = Ranges::default();
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
            let (first, last) = range.ok_or(Error::Malformed("a report's ranges overlap"))?;
            ranges.ranges.insert(first, last);
            above = Some(first);
        }
        Ok(Self { subscription, ranges })
    }
}

/// Collects what was received, and makes reports of it.
#[derive(Debug, Default)]
pub(crate) struct Collector {
    ranges: Ranges,
    is_changed: bool,
}

impl Collector {
    /// Adds `number`; `false` if it was there already.
    pub(crate) fn insert(&mut self, number: u64) -> bool {
        let is_new = self.ranges.insert(number);
        self.is_changed |= is_new;
        // Twice what a report holds, so that a hole that closes late is still seen.
        self.ranges.trim(2 * MAX_RANGES);
        is_new
    }

    /// The ranges, if there are new ones since the last call.
    pub(crate) fn take_report(&mut self) -> Option<Ranges> {
        std::mem::take(&mut self.is_changed).then(|| self.ranges.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranges_are_a_set(numbers in proptest::collection::vec(0u64..60, 0..80)) {
            let mut ranges = Ranges::default();
            let mut model = BTreeSet::new();
            for number in numbers {
                prop_assert_eq!(ranges.insert(number), model.insert(number));
            }
            for number in 0..60 {
                prop_assert_eq!(ranges.contains(number), model.contains(&number));
            }
            let apart = |pair: &[(u64, u64)]| pair[0].1 + 1 < pair[1].0;
            let all: Vec<_> = ranges.iter().collect();
            prop_assert!(all.windows(2).all(apart), "neither overlapping nor adjacent");
            let report = Received { subscription: 9, ranges };
            prop_assert_eq!(Received::decode(report.encode()), Ok(report));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = Received::decode(bytes.into());
        }
    }

    #[test]
    fn a_report_is_bounded_and_says_the_newest() {
        let mut collector = Collector::default();
        for number in 0..1_000 {
            assert!(collector.insert(number * 2));
        }
        let ranges = collector.take_report().unwrap();
        assert_eq!(collector.take_report(), None);
        let report = Received::decode(Received { subscription: 1, ranges }.encode()).unwrap();
        assert_eq!(report.ranges.iter().count(), MAX_RANGES);
        assert!(report.ranges.contains(1_998));
    }
}
