use std::fmt;
use std::ops::{Index, IndexMut};

use crate::Track;

/// Names one encoder session on a feed: 128 random bits, never reused, restarts included.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicationId(pub [u8; 16]);

impl fmt::Display for PublicationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Eight hex digits tell publications apart in a log.
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PublicationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicationId({self})")
    }
}

/// The place of a tag in its publication, given once where the tag enters.
///
/// Numbers start at 0 and count every tag of the publication, whatever its track. `previous` is
/// the number of the tag before it on its own track, so a receiver knows at once whether that
/// track has a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Position {
    /// The encoder session that the tag belongs to.
    pub publication: PublicationId,
    /// The tag's number in its publication.
    pub number: u64,
    /// The number of the tag before it on the same track; `None` for the track's first tag.
    pub previous: Option<u64>,
}

/// One value for each [`Track`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrackSet<T>([T; 3]);

impl<T> TrackSet<T> {
    /// Each track with its value.
    pub fn iter(&self) -> impl Iterator<Item = (Track, &T)> {
        Track::ALL.into_iter().zip(&self.0)
    }
}

impl<T> Index<Track> for TrackSet<T> {
    type Output = T;

    fn index(&self, track: Track) -> &T {
        &self.0[track as usize]
    }
}

impl<T> IndexMut<Track> for TrackSet<T> {
    fn index_mut(&mut self, track: Track) -> &mut T {
        &mut self.0[track as usize]
    }
}
