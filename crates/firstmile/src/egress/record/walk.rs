//! The tags of a journal in the order of their numbers, up to the first hole that may still be
//! filled. What comes later is read when it is there.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use media::{Tag, Track, TrackSet};

use super::format::{FileHead, Kind, RecordHead};
use super::index::Index;
use super::scan::{JournalError, Reader};

/// What comes next.
#[derive(Debug)]
pub(super) enum Step {
    /// A tag.
    Tag(RecordHead, Tag),
    /// So many numbers that will never come.
    Hole(u64),
    /// Nothing more now; with the hole, first and last number included, that may still be filled.
    End(Option<(u64, u64)>),
}

pub(super) struct Walk {
    reader: Reader,
    index: Index,
    /// Number and place of each tag that is still to come: some 30 bytes each, which is as much as
    /// a hundredth of what they stand for.
    waiting: BTreeMap<u64, u64>,
    /// The lowest number that is still to come.
    next: u64,
    /// Tags that came after they were passed over.
    late: u64,
    /// The first tag of each kind.
    first: TrackSet<Option<(u64, u64)>>,
    /// The first metadata.
    metadata: Option<(u64, u64)>,
    has_keyframes: bool,
}

impl Walk {
    /// Reads what a file has now.
    pub(super) fn of(journal: &Path) -> Result<Self, JournalError> {
        let mut walk = Self::new(Reader::open(journal)?);
        walk.read()?;
        Ok(walk)
    }

    /// Reads what a file that is being written has in its first `len` bytes: whole records.
    pub(super) fn of_first(journal: &Path, len: u64) -> Result<Self, JournalError> {
        let mut walk = Self::new(Reader::open(journal)?);
        walk.reader.limit(len)?;
        walk.read()?;
        Ok(walk)
    }

    /// Reads on, as far as the file's first `len` bytes.
    pub(super) fn go_on(&mut self, len: u64) -> Result<(), JournalError> {
        self.reader.limit(len)?;
        self.read()
    }

    fn new(reader: Reader) -> Self {
        Self {
            index: Index::new(reader.head().clone()),
            reader,
            waiting: BTreeMap::new(),
            next: 0,
            late: 0,
            first: TrackSet::default(),
            metadata: None,
            has_keyframes: false,
        }
    }

    fn read(&mut self) -> Result<(), JournalError> {
        while let Some((at, head)) = self.reader.next()? {
            if self.index.apply(&head).is_err() || head.kind != Kind::Tag {
                continue;
            }
            let place = (head.number, at);
            if head.number < self.next {
                self.late += 1;
                continue;
            }
            self.waiting.insert(head.number, at);
            self.has_keyframes |= head.is_keyframe();
            let earlier = |kept: Option<(u64, u64)>| Some(kept.map_or(place, |k| k.min(place)));
            if head.is_metadata() {
                self.metadata = earlier(self.metadata);
            } else if let Some(track) = head.track() {
                self.first[track] = earlier(self.first[track]);
            }
        }
        Ok(())
    }

    /// What comes next; after an end, again once there is more.
    pub(super) fn step(&mut self) -> Result<Step, JournalError> {
        let Some((&number, &at)) = self.waiting.first_key_value() else {
            let last = self.index.ended().and_then(|end| end.checked_sub(1));
            let last = last.filter(|last| self.next <= *last);
            let hole = last.and_then(|last| self.index.open(self.next, last).next());
            return Ok(Step::End(hole));
        };
        if number > self.next {
            if let Some(hole) = self.index.open(self.next, number - 1).next() {
                return Ok(Step::End(Some(hole)));
            }
            let first = std::mem::replace(&mut self.next, number);
            // What is older than the first tag of interest is no hole.
            if let Some(from) = self.index.from().filter(|from| number > *from) {
                return Ok(Step::Hole(number - first.max(from)));
            }
        }
        self.waiting.pop_first();
        self.next = number + 1;
        Ok(match self.tag_at(at)? {
            Some((head, tag)) => Step::Tag(head, tag),
            // Damaged since it was written: a hole that stays.
            None => Step::Hole(1),
        })
    }

    /// What the file says of its publication.
    pub(super) fn head(&self) -> &FileHead {
        &self.index.head
    }

    /// Tags that came after they were passed over: a walk from the beginning would find them.
    pub(super) fn late(&self) -> u64 {
        self.late
    }

    /// Whether the part that was read has a keyframe.
    pub(super) fn has_keyframes(&self) -> bool {
        self.has_keyframes
    }

    /// Whether the part that was read has tags of this kind.
    pub(super) fn has(&self, track: Track) -> bool {
        self.first[track].is_some()
    }

    /// The first tag of a kind.
    pub(super) fn first_of(&mut self, track: Track) -> Result<Option<Tag>, JournalError> {
        let place = self.first[track];
        self.tag_of(place)
    }

    /// The first metadata.
    pub(super) fn first_metadata(&mut self) -> Result<Option<Tag>, JournalError> {
        let place = self.metadata;
        self.tag_of(place)
    }

    fn tag_of(&mut self, place: Option<(u64, u64)>) -> Result<Option<Tag>, JournalError> {
        let Some((_, at)) = place else { return Ok(None) };
        Ok(self.tag_at(at)?.map(|(_, tag)| tag))
    }

    fn tag_at(&mut self, at: u64) -> Result<Option<(RecordHead, Tag)>, JournalError> {
        let Some((head, body)) = self.reader.tag(at)? else { return Ok(None) };
        let Some(track) = head.track() else { return Ok(None) };
        let tag = Tag::new(track, head.timestamp, Bytes::from(body));
        Ok(Some((head, tag)))
    }
}
