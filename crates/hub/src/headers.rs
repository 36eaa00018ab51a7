use media::enhanced::{TrackIds, Tracks};
use media::{PublicationId, Track, TrackSet};

use crate::ring::Entry;

/// Headers kept of each kind, audio and video: sixteen languages, or eight renditions with their
/// colours. Those of further tracks go out as they come, and are not there for who joins later.
const MAX_HEADERS: usize = 16;
/// Bytes in a kept header of other tracks than the main one alone: decoder configurations have some hundred.
const MAX_FURTHER_BYTES: usize = 64 << 10;

/// A header and the serial of the entry it came in.
#[derive(Clone, Debug)]
pub(crate) struct Header {
    pub(crate) serial: u64,
    pub(crate) entry: Entry,
    /// The tracks whose header of this role it still is.
    ids: TrackIds,
}

/// The headers in force: of each track of audio and video the latest sequence header and the
/// latest supplement, and the latest metadata.
#[derive(Clone, Debug, Default)]
pub(crate) struct Headers(TrackSet<Vec<Header>>);

impl Headers {
    /// Takes note of `entry` if it is a header.
    pub(crate) fn note(&mut self, serial: u64, entry: &Entry) {
        let tag = &entry.tag;
        if !tag.is_header() {
            return;
        }
        let headers = &mut self.0[tag.track];
        if headers
            .first()
            .is_some_and(|h| h.entry.position.publication != entry.position.publication)
        {
            headers.clear();
        }
        let ids = TrackIds::of(tag);
        headers.retain_mut(|header| {
            if header.entry.tag.role == tag.role {
                header.ids.remove(&ids);
            }
            !header.ids.is_empty()
        });
        if tag.tracks != Tracks::Main && tag.body.len() > MAX_FURTHER_BYTES {
            return;
        }
        if headers.len() >= MAX_HEADERS {
            if !tag.tracks.has_main() {
                return;
            }
            headers.remove(0);
        }
        headers.push(Header { serial, entry: entry.clone(), ids });
    }

    /// Forgets the headers of other publications.
    pub(crate) fn keep_only(&mut self, publication: PublicationId) {
        for track in Track::ALL {
            self.0[track].retain(|header| header.entry.position.publication == publication);
        }
    }

    /// The headers of a kind, in the order in which they came.
    pub(crate) fn of(&self, track: Track) -> &[Header] {
        &self.0[track]
    }
}
