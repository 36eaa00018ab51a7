//! The bytes of a journal file.
//!
//! ```text
//!   file    = head record*
//!   head    = "fmjourn1" length:u16 content crc:u32
//!   record  = "fmr1" kind:u8 flags:u8 length:u32 number:u64 other:u64 timestamp:i64 arrival:i64
//!             body-crc:u32 head-crc:u32 body
//! ```
//!
//! Numbers are big-endian. The checksum of a record's head begins with that of the publication's
//! name and of a secret in the file's head. A relay chooses names and bodies: without the secret, no
//! body of its own can hold a record that is taken for one of this file.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Buf, BufMut};
use media::{Position, PublicationId, Role, Tag, Track};

use super::crc::crc32;
use crate::secret::FeedName;

const FILE_MAGIC: &[u8; 8] = b"fmjourn1";
/// What a record begins with, so that the next one is found after a damage.
pub(super) const RECORD_MAGIC: &[u8; 4] = b"fmr1";
/// Bytes of a record's head.
pub(super) const RECORD_HEAD: usize = 50;
/// Most bytes of a file's head: names of 255 bytes, and more than enough for the rest.
pub(super) const MAX_FILE_HEAD: usize = 1_024;
/// Largest body: the most that the doors can be set to, and that an FLV tag has room for.
pub(super) const MAX_BODY: usize = (1 << 24) - 1;
/// Numbers end here: the backhaul's have 62 bits.
pub(super) const MAX_NUMBER: u64 = (1 << 62) - 1;
/// No tag before this one on its track.
const NO_PREVIOUS: u64 = u64::MAX;

const IS_HEADER: u8 = 1 << 2;
const IS_KEYFRAME: u8 = 1 << 3;
const IS_METADATA: u8 = 1 << 4;
const TRACK: u8 = 0b11;

/// Where a publication comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// An encoder at the studio's own door: what is missing here is nowhere else.
    Here,
    /// A relay, by its name: it may have what is missing.
    Relay(String),
}

/// What a journal says of its publication before the first tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FileHead {
    pub(super) feed: FeedName,
    pub(super) publication: PublicationId,
    /// Milliseconds since 1970 when the publication began.
    pub(super) started: i64,
    /// Whether recording was on when it began, and all of it is wanted.
    pub(super) wants_all: bool,
    pub(super) source: Source,
    /// Known to nobody else, so that nobody else makes records.
    pub(super) secret: u64,
}

impl FileHead {
    pub(super) fn encode(&self) -> Vec<u8> {
        let source = match &self.source {
            Source::Here => "",
            Source::Relay(name) => name,
        };
        let source = if source.len() > 255 { "a relay" } else { source };
        let mut content = Vec::with_capacity(64);
        content.put_slice(&self.publication.0);
        content.put_i64(self.started);
        content.put_u8(u8::from(self.wants_all));
        content.put_u8(u8::from(self.source != Source::Here));
        for text in [self.feed.as_str(), source] {
            content.put_u8(text.len() as u8);
            content.put_slice(text.as_bytes());
        }
        content.put_u64(self.secret);
        let mut out = FILE_MAGIC.to_vec();
        out.put_u16(content.len() as u16);
        out.put_slice(&content);
        let crc = crc32(0, &out);
        out.put_u32(crc);
        out
    }

    /// Reads what a file begins with; also how many bytes that is.
    pub(super) fn decode(bytes: &[u8]) -> Option<(Self, usize)> {
        let mut rest = bytes.strip_prefix(FILE_MAGIC)?;
        let length = usize::from(rest.try_get_u16().ok()?);
        let end = FILE_MAGIC.len() + 2 + length;
        let (checked, mut after) = bytes.split_at_checked(end)?;
        if after.try_get_u32().ok()? != crc32(0, checked) {
            return None;
        }
        let content = &mut &rest[..length];
        let mut publication = [0; 16];
        content.try_copy_to_slice(&mut publication).ok()?;
        let started = content.try_get_i64().ok()?;
        let wants_all = content.try_get_u8().ok()? != 0;
        let is_from_relay = content.try_get_u8().ok()? != 0;
        let feed = text(content)?.parse().ok()?;
        let source = text(content)?;
        let source = if is_from_relay { Source::Relay(source) } else { Source::Here };
        let secret = content.try_get_u64().ok()?;
        let publication = PublicationId(publication);
        Some((Self { feed, publication, started, wants_all, source, secret }, end + 4))
    }

    /// What the checksums of records' heads begin with.
    pub(super) fn seed(&self) -> u32 {
        crc32(crc32(0, &self.publication.0), &self.secret.to_be_bytes())
    }
}

fn text(input: &mut &[u8]) -> Option<String> {
    let length = usize::from(input.try_get_u8().ok()?);
    let (text, rest) = input.split_at_checked(length)?;
    *input = rest;
    String::from_utf8(text.to_vec()).ok()
}

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A tag; the body is its own.
    Tag,
    /// There are no numbers from `number` on.
    Ended,
    /// The numbers from `number` to `other` will never come.
    Gone,
    /// Nothing more will come; the body is a summary, and the file ends here.
    Sealed,
}

/// What stands before a record's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RecordHead {
    pub(super) kind: Kind,
    flags: u8,
    /// Bytes of the body.
    pub(super) length: u32,
    pub(super) number: u64,
    other: u64,
    /// Milliseconds on the publication's line.
    pub(super) timestamp: i64,
    /// Milliseconds since 1970 when it came.
    pub(super) arrival: i64,
    body_crc: u32,
}

impl RecordHead {
    /// The record of a tag; [`with_body`](Self::with_body) completes it.
    pub(super) fn tag(position: Position, tag: &Tag, arrival: SystemTime) -> Self {
        let track = match tag.track {
            Track::Audio => 0,
            Track::Video => 1,
            Track::Data => 2,
        };
        let flag = |is: bool, flag: u8| if is { flag } else { 0 };
        Self {
            kind: Kind::Tag,
            flags: track
                | flag(tag.is_header(), IS_HEADER)
                | flag(tag.is_keyframe(), IS_KEYFRAME)
                | flag(tag.role == Role::Metadata, IS_METADATA),
            length: tag.body.len() as u32,
            number: position.number,
            other: position.previous.unwrap_or(NO_PREVIOUS),
            timestamp: tag.timestamp,
            arrival: unix_ms(arrival),
            body_crc: 0,
        }
    }

    /// With the body's checksum, which takes its time.
    pub(super) fn with_body(self, body: &[u8]) -> Self {
        Self { body_crc: crc32(0, body), ..self }
    }

    /// The record of the publication's end: there are numbers below `end` only.
    pub(super) fn ended(end: u64) -> Self {
        Self::mark(Kind::Ended, end, 0)
    }

    /// The record of a hole that stays.
    pub(super) fn gone(first: u64, last: u64) -> Self {
        Self::mark(Kind::Gone, first, last)
    }

    /// The last record.
    pub(super) fn sealed(end: u64, summary: &[u8]) -> Self {
        let length = summary.len() as u32;
        Self { length, ..Self::mark(Kind::Sealed, end, 0) }.with_body(summary)
    }

    fn mark(kind: Kind, number: u64, other: u64) -> Self {
        let arrival = unix_ms(SystemTime::now());
        Self { kind, flags: 0, length: 0, number, other, timestamp: 0, arrival, body_crc: 0 }
    }

    pub(super) fn track(&self) -> Option<Track> {
        match self.flags & TRACK {
            0 => Some(Track::Audio),
            1 => Some(Track::Video),
            2 => Some(Track::Data),
            _ => None,
        }
    }

    /// Of a tag: the number of the one before it on its track.
    pub(super) fn previous(&self) -> Option<u64> {
        Some(self.other).filter(|previous| *previous != NO_PREVIOUS)
    }

    /// Of a hole that stays: its last number.
    pub(super) fn last(&self) -> u64 {
        self.other
    }

    pub(super) fn is_header(&self) -> bool {
        self.flags & IS_HEADER != 0
    }

    pub(super) fn is_keyframe(&self) -> bool {
        self.flags & IS_KEYFRAME != 0
    }

    pub(super) fn is_metadata(&self) -> bool {
        self.flags & IS_METADATA != 0
    }

    /// Whether `body` is what was written.
    pub(super) fn fits(&self, body: &[u8]) -> bool {
        body.len() == self.length as usize && crc32(0, body) == self.body_crc
    }

    pub(super) fn encode(&self, seed: u32, out: &mut Vec<u8>) {
        let at = out.len();
        out.put_slice(RECORD_MAGIC);
        out.put_u8(match self.kind {
            Kind::Tag => 1,
            Kind::Ended => 2,
            Kind::Gone => 3,
            Kind::Sealed => 4,
        });
        out.put_u8(self.flags);
        out.put_u32(self.length);
        out.put_u64(self.number);
        out.put_u64(self.other);
        out.put_i64(self.timestamp);
        out.put_i64(self.arrival);
        out.put_u32(self.body_crc);
        let crc = crc32(seed, &out[at..]);
        out.put_u32(crc);
    }

    pub(super) fn decode(bytes: &[u8; RECORD_HEAD], seed: u32) -> Option<Self> {
        let (checked, mut crc) = bytes.split_at(RECORD_HEAD - 4);
        let mut input = checked.strip_prefix(RECORD_MAGIC)?;
        if crc.get_u32() != crc32(seed, checked) {
            return None;
        }
        let kind = match input.get_u8() {
            1 => Kind::Tag,
            2 => Kind::Ended,
            3 => Kind::Gone,
            4 => Kind::Sealed,
            _ => return None,
        };
        let head = Self {
            kind,
            flags: input.get_u8(),
            length: input.get_u32(),
            number: input.get_u64(),
            other: input.get_u64(),
            timestamp: input.get_i64(),
            arrival: input.get_i64(),
            body_crc: input.get_u32(),
        };
        let is_sane = head.length as usize <= MAX_BODY
            && head.number <= MAX_NUMBER
            && (kind != Kind::Tag || head.track().is_some())
            && (kind != Kind::Gone || (head.number..=MAX_NUMBER).contains(&head.other));
        is_sane.then_some(head)
    }
}

/// Milliseconds since 1970.
pub(super) fn unix_ms(time: SystemTime) -> i64 {
    let ms = |length: Duration| i64::try_from(length.as_millis()).unwrap_or(i64::MAX);
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => ms(since),
        Err(before) => -ms(before.duration()),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn heads_come_back_whole_or_not_at_all() {
        for source in [Source::Here, Source::Relay("berlin".into())] {
            let head = FileHead {
                feed: "roof-2".parse().unwrap(),
                publication: PublicationId([7; 16]),
                started: 1_700_000_000_123,
                wants_all: true,
                source,
                secret: 12,
            };
            let mut bytes = head.encode();
            assert_eq!(FileHead::decode(&bytes), Some((head, bytes.len())));
            for cut in 0..bytes.len() {
                assert_eq!(FileHead::decode(&bytes[..cut]), None);
            }
            bytes[12] ^= 1;
            assert_eq!(FileHead::decode(&bytes), None);
        }
    }

    #[test]
    fn a_record_belongs_to_its_publication() {
        let publication = PublicationId([7; 16]);
        let position = Position { publication, number: 9, previous: Some(7) };
        let tag = Tag::new(Track::Video, -5, Bytes::from_static(&[0x17, 1, 0, 0, 0, 1]));
        let head = RecordHead::tag(position, &tag, SystemTime::now()).with_body(&tag.body);
        assert!(head.is_keyframe() && !head.is_header() && head.fits(&tag.body));
        let mut bytes = Vec::new();
        head.encode(77, &mut bytes);
        let mut bytes: [u8; RECORD_HEAD] = bytes.try_into().unwrap();
        assert_eq!(RecordHead::decode(&bytes, 77), Some(head));
        assert_eq!((head.previous(), head.track()), (Some(7), Some(Track::Video)));
        assert_eq!(RecordHead::decode(&bytes, 78), None);
        bytes[20] ^= 0x80;
        assert_eq!(RecordHead::decode(&bytes, 77), None);
    }
}
