//! The test clip over and over, with a stamp in each frame that decoders pass over.

use std::time::Duration;

use bytes::{BufMut, BytesMut};
use media::{Tag, Track};

use crate::fixture;
use crate::stamped::{put_audio_stamp, put_stamp};

/// `17 01 000000`: the header of a legacy AVC tag.
const VIDEO_HEADER: usize = 5;
/// `af 01`: of an AAC tag.
const AUDIO_HEADER: usize = 2;
/// A type that H.264 leaves to others (table 7-1).
const UNSPECIFIED_NAL: u8 = 24;

/// Makes the frames of one encoder like a [`Source`](crate::stamped::Source), but pictures and sound
/// can be decoded.
#[derive(Clone, Debug)]
pub struct Film {
    tags: Vec<Tag>,
    /// Milliseconds of one round.
    length: i64,
    next: usize,
    round: i64,
    numbers: [u64; 2],
}

impl Film {
    /// The clip from its start; [`Source::headers`](crate::stamped::Source::headers) are its headers.
    ///
    /// # Panics
    ///
    /// If the clip is not there.
    pub fn new() -> Self {
        let mut tags = fixture::tags(&fixture::clip());
        tags.retain(|tag| tag.track != Track::Data && !tag.is_header());
        let last = tags.iter().map(|tag| tag.timestamp).max().unwrap_or_default();
        // A picture at 30 a second.
        Self { tags, length: last + 33, next: 0, round: 0, numbers: [0; 2] }
    }

    /// When the next frame is captured, from the start of the film.
    pub fn due(&self) -> Duration {
        Duration::from_millis(self.timestamp().unsigned_abs())
    }

    fn timestamp(&self) -> i64 {
        self.tags[self.next].timestamp + self.round * self.length
    }

    /// The next frame, with this moment in it.
    pub fn make(&mut self, at: u64) -> Tag {
        let (frame, timestamp) = (self.tags[self.next].clone(), self.timestamp());
        let number = &mut self.numbers[frame.track as usize];
        let mut body = BytesMut::with_capacity(frame.body.len() + 32);
        match frame.track {
            Track::Video => {
                body.put_slice(&frame.body[..VIDEO_HEADER]);
                body.put_u32(1 + 16);
                body.put_u8(UNSPECIFIED_NAL);
                put_stamp(&mut body, at, *number);
                body.put_slice(&frame.body[VIDEO_HEADER..]);
            }
            Track::Audio | Track::Data => {
                body.put_slice(&frame.body[..AUDIO_HEADER]);
                put_audio_stamp(&mut body, at, *number);
                body.put_slice(&frame.body[AUDIO_HEADER..]);
            }
        }
        *number += 1;
        self.next += 1;
        if self.next == self.tags.len() {
            (self.next, self.round) = (0, self.round + 1);
        }
        Tag::new(frame.track, timestamp, body.freeze())
    }
}

impl Default for Film {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::process::require;
    use crate::stamped::{Source, Stamp};

    #[test]
    fn every_frame_has_its_stamp_and_goes_on_after_the_end() {
        let mut film = Film::new();
        let (mut next, mut last) = ([0, 0], Duration::ZERO);
        for at in 0..2_000 {
            assert!(film.due() >= last);
            last = film.due();
            let tag = film.make(at);
            let number = next[tag.track as usize];
            assert_eq!(Stamp::of(&tag), Some(Stamp { track: tag.track, number, at }));
            next[tag.track as usize] += 1;
        }
        assert!(last > Duration::from_secs(20), "{last:?}");
    }

    #[test]
    fn decoders_see_the_clip() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("film.flv");
        let mut film = Film::new();
        let mut tags = Source::headers();
        while film.due() < Duration::from_secs(8) {
            tags.push(film.make(1_795_418_024_477_000_000));
        }
        fixture::write(&path, &tags);
        let hashes = |path: &std::path::Path| {
            require("ffmpeg");
            let mut ffmpeg = Command::new("ffmpeg");
            ffmpeg.args(["-nostdin", "-v", "error", "-xerror", "-t", "7", "-i"]).arg(path);
            let done = ffmpeg.args(["-f", "framehash", "-"]).output().unwrap();
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
            let text = String::from_utf8(done.stdout).unwrap();
            let lines = text.lines().filter(|line| !line.starts_with('#'));
            // Timestamps of sound are in milliseconds here, so only what is heard counts.
            let hash = |line: &str| line.rsplit(", ").next().unwrap().to_owned();
            lines.map(hash).collect::<Vec<_>>()
        };
        let (film, clip) = (hashes(&path), hashes(&fixture::clip()));
        assert!(film.len() > 400, "{}", film.len());
        assert_eq!(film, clip);
    }
}
