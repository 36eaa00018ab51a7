//! An encoder, and the tags that it sends.

use std::time::{Duration, Instant};

use bytes::Bytes;
use hub::{Feed, Publisher};
use media::{PublicationId, Tag, Track};

pub(crate) const A: PublicationId = PublicationId([1; 16]);
pub(crate) const B: PublicationId = PublicationId([2; 16]);

pub(crate) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(crate) fn header() -> Tag {
    Tag::new(Track::Video, 0, Bytes::from_static(&[0x17, 0, 0, 0, 0, 1]))
}

pub(crate) fn audio_header() -> Tag {
    Tag::new(Track::Audio, 0, Bytes::from_static(&[0xaf, 0, 0x12, 0x10]))
}

pub(crate) fn metadata() -> Tag {
    Tag::new(Track::Data, 0, Bytes::from_static(b"\x02\x00\x0aonMetaData\x05"))
}

pub(crate) fn video(timestamp: i64, is_key: bool) -> Tag {
    let first = if is_key { 0x17 } else { 0x27 };
    Tag::new(Track::Video, timestamp, Bytes::from(vec![first, 1, 0, 0, 0, 9, 9, 9]))
}

pub(crate) fn audio(timestamp: i64) -> Tag {
    Tag::new(Track::Audio, timestamp, Bytes::from_static(&[0xaf, 1, 0x21]))
}

/// An encoder: 25 frames a second, as many audio tags, a keyframe every `gop` frames.
pub(crate) struct Encoder {
    pub(crate) publisher: Publisher,
    pub(crate) start: Instant,
    pub(crate) frame: u64,
    pub(crate) gop: u64,
}

impl Encoder {
    pub(crate) fn start(feed: &Feed, id: PublicationId, now: Instant, gop: u64) -> Self {
        let mut publisher = feed.publish(id, now).unwrap();
        for tag in [metadata(), header(), audio_header()] {
            publisher.push(tag, now).unwrap();
        }
        Self { publisher, start: now, frame: 0, gop }
    }

    pub(crate) fn now(&self) -> Instant {
        self.start + ms(self.frame * 40)
    }

    pub(crate) fn run(&mut self, frames: u64) {
        for _ in 0..frames {
            let timestamp = (self.frame * 40) as i64;
            let is_key = self.frame.is_multiple_of(self.gop);
            self.publisher.push(video(timestamp, is_key), self.now()).unwrap();
            self.publisher.push(audio(timestamp), self.now()).unwrap();
            self.frame += 1;
        }
    }
}
