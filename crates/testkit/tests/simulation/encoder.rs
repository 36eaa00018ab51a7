//! Encoders, and a note of all that they have sent.

use std::collections::HashMap;
use std::time::Instant;

use bytes::{BufMut, BytesMut};
use hub::{Feed, Publisher};
use media::{Position, PublicationId, Tag, Track};

/// What an encoder sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Sound, and pictures in GOPs of so many frames.
    Pictures { gop: u64 },
    /// Sound alone.
    Sound,
    /// Pictures that are refreshed in passing: there is no keyframe but the first.
    NoKeyframes,
}

/// Milliseconds between frames, and between packets of sound.
pub(crate) const FRAME: u64 = 40;
const PACKET: u64 = 25;
const KEYFRAME_BYTES: usize = 6_000;
const FRAME_BYTES: usize = 1_200;
const SOUND_BYTES: usize = 24;

/// One tag as the encoder sent it.
#[derive(Debug)]
pub(crate) struct Sent {
    pub(crate) tag: Tag,
    pub(crate) previous: Option<u64>,
    pub(crate) ms: u64,
    /// The number of the header in force at a frame.
    pub(crate) header: Option<u64>,
}

/// One publication: its tags by their numbers.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) feed: usize,
    pub(crate) kind: Kind,
    /// Which run of the relay had it.
    pub(crate) relay: u64,
    pub(crate) began: u64,
    pub(crate) tags: Vec<Sent>,
}

/// What all encoders have sent, to compare with.
#[derive(Debug, Default)]
pub(crate) struct Story(pub(crate) HashMap<PublicationId, Told>);

impl Story {
    pub(crate) fn of(&self, publication: PublicationId) -> &Told {
        &self.0[&publication]
    }

    pub(crate) fn tag(&self, publication: PublicationId, number: u64) -> &Sent {
        &self.of(publication).tags[number as usize]
    }
}

/// Publications in the order in which they began.
pub(crate) fn name(serial: u16) -> PublicationId {
    let mut name = [0; 16];
    name[..2].copy_from_slice(&serial.to_be_bytes());
    PublicationId(name)
}

pub(crate) struct Encoder {
    pub(crate) publisher: Publisher,
    pub(crate) kind: Kind,
    next_frame: u64,
    next_packet: u64,
    frames: u64,
    header: Option<u64>,
}

impl Encoder {
    /// `None` if the relay does not take it now.
    pub(crate) fn start(
        (index, feed): (usize, &Feed),
        publication: PublicationId,
        (kind, relay): (Kind, u64),
        (now, ms): (Instant, u64),
        story: &mut Story,
    ) -> Option<Self> {
        let publisher = feed.publish(publication, now).ok()?;
        let told = Told { feed: index, kind, relay, began: ms, tags: Vec::new() };
        story.0.insert(publication, told);
        let (next_frame, next_packet) = (ms, ms);
        let mut it = Self { publisher, kind, next_frame, next_packet, frames: 0, header: None };
        it.push(Track::Data, b"\x02\x00\x0aonMetaData\x05", 0, (now, ms), story);
        if kind != Kind::Sound {
            it.change_picture((now, ms), story);
        }
        it.push(Track::Audio, &[0xaf, 0, 0x12, 0x10], 0, (now, ms), story);
        Some(it)
    }

    fn push(
        &mut self,
        track: Track,
        head: &[u8],
        length: usize,
        (now, ms): (Instant, u64),
        story: &mut Story,
    ) -> Option<u64> {
        let mut body = BytesMut::from(head);
        let told = story.0.get_mut(&self.publisher.publication()).expect("it was told");
        if length > 0 {
            // No two bodies are the same.
            body.put_u64(told.tags.len() as u64);
            body.resize(length, self.publisher.publication().0[1]);
        }
        let tag = Tag::new(track, ms as i64, body.freeze());
        let position = self.publisher.push(tag.clone(), now).ok()?;
        let Position { number, previous, .. } = position;
        assert_eq!(number, told.tags.len() as u64);
        let header = self.header.filter(|_| track == Track::Video && length > 0);
        told.tags.push(Sent { tag, previous, ms, header });
        Some(number)
    }

    /// A new sequence header, and a new GOP.
    pub(crate) fn change_picture(&mut self, at: (Instant, u64), story: &mut Story) {
        if self.kind != Kind::Sound {
            let version = self.frames as u8;
            self.header = self.push(Track::Video, &[0x17, 0, 0, 0, 0, version], 0, at, story);
            self.frames = 0;
        }
    }

    /// Sends what is due; `false` once it was closed.
    pub(crate) fn tick(
        &mut self,
        (now, ms): (Instant, u64),
        is_silent: bool,
        story: &mut Story,
    ) -> bool {
        if is_silent {
            (self.next_frame, self.next_packet) = (ms, ms);
            return self.publisher.cut().is_none();
        }
        if ms >= self.next_frame {
            let is_key = match self.kind {
                Kind::Pictures { gop } => Some(self.frames.is_multiple_of(gop)),
                Kind::NoKeyframes => Some(self.frames == 0),
                Kind::Sound => None,
            };
            if let Some(is_key) = is_key {
                let first = if is_key { 0x17 } else { 0x27 };
                let length = if is_key { KEYFRAME_BYTES } else { FRAME_BYTES };
                self.push(Track::Video, &[first, 1, 0, 0, 0], length, (now, ms), story);
            }
            self.frames += 1;
            self.next_frame += FRAME;
        }
        if ms >= self.next_packet {
            self.push(Track::Audio, &[0xaf, 1], SOUND_BYTES, (now, ms), story);
            self.next_packet += PACKET;
        }
        self.publisher.cut().is_none()
    }
}
