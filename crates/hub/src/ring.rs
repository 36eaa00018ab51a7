use std::collections::VecDeque;
use std::time::Instant;

use media::{Position, PublicationId, Tag};

use crate::Limits;
use crate::headers::Headers;

/// One tag in the ring.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) position: Position,
    pub(crate) tag: Tag,
    pub(crate) arrival: Instant,
}

/// A feed's recent tags, across publications, in the order of their arrival.
///
/// Every entry has a *serial*, which goes on for the life of the feed. The ring holds the newest
/// GOP and what is younger than [`Limits::keep`]; the hard bounds hold for GOPs of any length.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    entries: VecDeque<Entry>,
    /// Serial of the first entry.
    front: u64,
    bytes: usize,
    /// Serials of the keyframes in the ring.
    keyframes: VecDeque<u64>,
    /// The headers in force just before the first entry.
    front_headers: Headers,
}

impl Ring {
    /// Serial of the first entry.
    pub(crate) fn front(&self) -> u64 {
        self.front
    }

    /// Serial of the entry that comes next.
    pub(crate) fn end(&self) -> u64 {
        self.front + self.entries.len() as u64
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The entry with this serial; `None` if it is gone or not there yet.
    pub(crate) fn entry(&self, serial: u64) -> Option<&Entry> {
        self.entries.get(usize::try_from(serial.checked_sub(self.front)?).ok()?)
    }

    /// Entries with their serials, from `serial` on.
    pub(crate) fn range(&self, serial: u64) -> impl DoubleEndedIterator<Item = (u64, &Entry)> {
        let from = serial.max(self.front);
        let skip = (from - self.front) as usize;
        self.entries.range(skip.min(self.entries.len())..).enumerate().map(
            // Enumerate counts from the first one taken.
            move |(index, entry)| (from + index as u64, entry),
        )
    }

    pub(crate) fn newest_keyframe(&self) -> Option<u64> {
        self.keyframes.back().copied()
    }

    /// Appends an entry. Returns whether the bounds of bytes or tags cost an older one.
    pub(crate) fn push(&mut self, entry: Entry, limits: &Limits) -> bool {
        let now = entry.arrival;
        if entry.tag.is_keyframe() {
            self.keyframes.push_back(self.end());
        }
        self.bytes += entry.tag.body.len();
        self.entries.push_back(entry);
        let is_overrun = self.is_overrun(limits) && self.entries.len() > 1;
        while self.is_front_spare(now, limits) {
            self.pop_front();
        }
        is_overrun
    }

    /// Forgets the oldest GOP; of the only one, and where there are none, the older half.
    pub(crate) fn give_up_gop(&mut self) {
        let next = self.keyframes.iter().find(|keyframe| **keyframe > self.front);
        let half = self.front + self.entries.len().div_ceil(2) as u64;
        let end = next.copied().unwrap_or(half);
        while self.front < end {
            self.pop_front();
        }
    }

    /// Forgets every entry; serials go on.
    pub(crate) fn clear(&mut self) {
        self.front = self.end();
        *self = Self { front: self.front, ..Self::default() };
    }

    /// The headers of the publication of the entry at `serial` that are in force there.
    pub(crate) fn headers_at(&self, serial: u64, publication: PublicationId) -> Headers {
        let mut headers = self.front_headers.clone();
        for (at, entry) in self.range(self.front).take_while(|(at, _)| *at < serial) {
            headers.note(at, entry);
        }
        headers.keep_only(publication);
        headers
    }

    fn is_overrun(&self, limits: &Limits) -> bool {
        self.bytes > limits.max_bytes || self.entries.len() > limits.max_tags
    }

    fn is_front_spare(&self, now: Instant, limits: &Limits) -> bool {
        let Some(first) = self.entries.front() else {
            return false;
        };
        let age = now.saturating_duration_since(first.arrival);
        let is_over = self.is_overrun(limits) || age > limits.max_age;
        let has_newer_gop = self.keyframes.back().is_none_or(|keyframe| *keyframe > self.front);
        // The last entry stays whatever its size: a ring that cannot hold one tag is no ring.
        self.entries.len() > 1 && (is_over || has_newer_gop && age > limits.keep)
    }

    fn pop_front(&mut self) {
        let Some(entry) = self.entries.pop_front() else {
            return;
        };
        self.bytes -= entry.tag.body.len();
        if self.keyframes.front() == Some(&self.front) {
            self.keyframes.pop_front();
        }
        self.front_headers.note(self.front, &entry);
        self.front += 1;
    }
}
