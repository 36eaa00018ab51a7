//! What a feed keeps behind its live part, for those who missed it.
//!
//! The ring and the spool are one buffer: what the live part gives up stays in memory for
//! [`Limits::spool`](crate::Limits::spool), as far as the hub's budget has room. What leaves memory
//! goes to an [`Overflow`].

use std::fmt::Debug;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Instant;

use media::{Position, PublicationId, Tag};

use crate::Feed;

/// What a hub is told about its feeds by the one who runs it.
pub trait Backing<K>: Debug + Send + Sync {
    /// Whose feed it is: the feeds of one owner share what the owner gets of the memory.
    fn owner(&self, name: &K) -> u64;

    /// Where the tags of a new feed go when they leave memory; `serial` is [`Feed::serial`].
    fn overflow(&self, name: &K, serial: u64) -> Option<Arc<dyn Overflow>>;
}

/// Where a feed's tags go when they leave memory, in order.
pub trait Overflow: Debug + Send + Sync {
    /// Takes a tag.
    ///
    /// It is called under the feed's lock, so that a tag is always in one place or in the other:
    /// it must neither wait nor call the feed.
    fn put(&self, tag: Leaving);
}

/// A tag that leaves memory.
#[derive(Clone, Debug)]
pub struct Leaving {
    /// Its name.
    pub position: Position,
    /// The tag.
    pub tag: Tag,
    /// When it entered this hub.
    pub arrival: Instant,
    /// When its publication began.
    pub started: Instant,
}

/// Tags of the past.
#[derive(Clone, Debug, Default)]
pub struct Spooled {
    /// The tags that memory has, in order of their numbers.
    pub tags: Vec<(Position, Tag)>,
    /// Whether memory has more of what was asked for, which would have cost too much.
    pub more: bool,
    /// The number of the publication's next tag; `None` if it is not on air.
    pub edge: Option<u64>,
}

/// A publication of which tags are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Which one.
    pub publication: PublicationId,
    /// The first number that is there.
    pub first: u64,
    /// The last number that is there.
    pub last: u64,
    /// When the publication began.
    pub started: Instant,
    /// When the first tag that is there came.
    pub oldest: Instant,
    /// Whether it is no longer on air.
    pub ended: bool,
}

impl Feed {
    /// Tags of a publication by their numbers, on air or over, until they cost about `max_bytes`;
    /// at least one if there is one. Only for feeds whose publishers give the numbers themselves
    /// ([`Publisher::push`](crate::Publisher::push)): they rise.
    pub fn spooled(
        &self,
        publication: PublicationId,
        numbers: RangeInclusive<u64>,
        max_bytes: usize,
    ) -> Spooled {
        let inner = self.lock();
        let on_air = inner.on_air.as_ref().filter(|on_air| on_air.publication == publication);
        let edge = on_air.map(|on_air| on_air.edge);
        let (tags, more) = inner.ring.find(publication, &numbers, max_bytes);
        Spooled { tags, more, edge }
    }

    /// The publications of which memory has tags, the oldest first.
    pub fn kept(&self) -> Vec<Kept> {
        let inner = self.lock();
        let on_air = inner.on_air.as_ref().map(|on_air| on_air.publication);
        let kept = inner.ring.kept();
        kept.map(|kept| Kept { ended: Some(kept.publication) != on_air, ..kept }).collect()
    }
}
