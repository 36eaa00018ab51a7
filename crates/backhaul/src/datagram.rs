use bytes::{Bytes, BytesMut};

use crate::ranges::MAX_RANGES;
use crate::wire::{get_varint, put_varint};
use crate::{Error, Ranges};

/// What stands in the place of a subscription in a heartbeat; subscriptions count from 1.
const HEARTBEAT: u64 = 0;

/// What is said in datagrams: it repeats itself, so a lost one costs nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Datagram {
    /// From a receiver: what it has.
    Received(Received),
    /// From a sender: it is there, and this is its clock in microseconds since some time that
    /// never changes while the link lasts.
    Heartbeat(u64),
}

impl Datagram {
    /// The datagram's bytes.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        match self {
            Self::Received(received) => {
                put_varint(&mut out, received.subscription);
                received.ranges.encode(&mut out);
            }
            Self::Heartbeat(clock) => {
                put_varint(&mut out, HEARTBEAT);
                put_varint(&mut out, *clock);
            }
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
        Ok(match get_varint(input)? {
            HEARTBEAT => Self::Heartbeat(get_varint(input)?),
            subscription => {
                Self::Received(Received { subscription, ranges: Ranges::decode(input)? })
            }
        })
    }
}

/// A receiver's report: numbers of a subscription's publication that it has.
///
/// Reports repeat what earlier ones said; ranges that everybody has long known of are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// The subscription.
    pub subscription: u64,
    /// The numbers.
    pub ranges: Ranges,
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
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = Datagram::decode(bytes.into());
        }
    }

    #[test]
    fn a_heartbeat_is_no_report() {
        let heartbeat = Datagram::Heartbeat(1_234_567);
        assert_eq!(Datagram::decode(heartbeat.encode()), Ok(heartbeat));
    }

    #[test]
    fn a_report_is_bounded_and_says_the_newest() {
        let mut collector = Collector::default();
        for number in 0..1_000 {
            assert!(collector.insert(number * 2));
        }
        let ranges = collector.take_report().unwrap();
        assert_eq!(collector.take_report(), None);
        let report = Datagram::Received(Received { subscription: 1, ranges }).encode();
        let Ok(Datagram::Received(report)) = Datagram::decode(report) else {
            panic!("it is a report");
        };
        assert_eq!(report.ranges.len(), MAX_RANGES);
        assert!(report.ranges.contains(1_998));
    }
}
