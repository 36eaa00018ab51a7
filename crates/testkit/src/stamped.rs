//! Media that can be counted and timed: every frame carries its number and when it was captured.

use std::time::Duration;

use bytes::{BufMut, BytesMut};
use media::{Role, Tag, Track};

/// Video frames per second.
pub const FPS: u64 = 30;
/// From one AAC frame of 44.1 kHz to the next.
pub const AUDIO_PERIOD: Duration = Duration::from_nanos(1_000_000_000 * 1024 / 44_100);
/// How many times as large as another frame a keyframe is.
const KEY_WEIGHT: usize = 5;
/// `17 01 000000`, the length of a NAL unit, and its type.
const VIDEO_STAMP: usize = 10;
/// `af 01`, and the start of a data stream element (ISO/IEC 14496-3, table 4.10): byte aligned, 16
/// bytes long.
const AUDIO_STAMP: usize = 4;
const DATA_STREAM_ELEMENT: [u8; 2] = [0b1000_0001, STAMP as u8];
/// The moment and the number.
const STAMP: usize = 8 + 8;
/// What both are masked with, so that they do not look like the start code of a NAL unit.
const MASK: u64 = 0xa5a5_a5a5_a5a5_a5a5;

/// What a frame says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Video or audio.
    pub track: Track,
    /// Counted on each track from 0, without a hole.
    pub number: u64,
    /// When it was captured, in nanoseconds of the encoder's clock.
    pub at: u64,
}

impl Stamp {
    /// The stamp of a frame of a [`Source`]; `None` for headers and metadata.
    pub fn of(tag: &Tag) -> Option<Self> {
        if !matches!(tag.role, Role::Keyframe | Role::Frame) {
            return None;
        }
        let from = match tag.track {
            Track::Video => VIDEO_STAMP,
            Track::Audio => AUDIO_STAMP,
            Track::Data => return None,
        };
        let stamp = tag.body.get(from..from + STAMP)?;
        let number =
            |bytes: &[u8]| MASK ^ u64::from_be_bytes(bytes.try_into().expect("eight bytes"));
        Some(Self { track: tag.track, number: number(&stamp[8..]), at: number(&stamp[..8]) })
    }
}

/// Writes a stamp.
pub(crate) fn put_stamp(body: &mut BytesMut, at: u64, number: u64) {
    body.put_u64(at ^ MASK);
    body.put_u64(number ^ MASK);
}

/// Writes a stamp that AAC decoders pass over.
pub(crate) fn put_audio_stamp(body: &mut BytesMut, at: u64, number: u64) {
    body.put_slice(&DATA_STREAM_ELEMENT);
    put_stamp(body, at, number);
}

/// How much a [`Source`] makes.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Of the video.
    pub kbps: usize,
    /// Seconds from one keyframe to the next.
    pub gop: u64,
    /// Bytes of an audio frame.
    pub audio: usize,
}

impl Shape {
    /// Bytes of a video frame that is no keyframe.
    fn frame(self) -> usize {
        let gop_bytes = self.kbps * 1000 / 8 * self.gop as usize;
        let units = self.gop as usize * FPS as usize - 1 + KEY_WEIGHT;
        (gop_bytes / units).max(VIDEO_STAMP + STAMP)
    }
}

/// Makes the frames of one encoder, audio and video in the order of their capture.
#[derive(Debug)]
pub struct Source {
    shape: Shape,
    video: u64,
    audio: u64,
    filler: Vec<u8>,
}

impl Source {
    /// Starts with a keyframe.
    pub fn new(shape: Shape) -> Self {
        let filler = vec![0xa5; (shape.frame() * KEY_WEIGHT).max(shape.audio)];
        Self { shape, video: 0, audio: 0, filler }
    }

    /// The sequence headers, to be sent first. Their pictures are not those of the frames, which
    /// nobody decodes.
    pub fn headers() -> Vec<Tag> {
        let mut tags = crate::fixture::tags(&crate::fixture::clip());
        tags.retain(Tag::is_header);
        tags
    }

    /// When the next frame is captured, from the start of the source.
    pub fn due(&self) -> Duration {
        self.video_due().min(self.audio_due())
    }

    fn video_due(&self) -> Duration {
        Duration::from_nanos(self.video * 1_000_000_000 / FPS)
    }

    fn audio_due(&self) -> Duration {
        Duration::from_nanos(AUDIO_PERIOD.as_nanos() as u64 * self.audio)
    }

    fn is_key(&self) -> bool {
        self.video.is_multiple_of(FPS * self.shape.gop)
    }

    /// The next frame, with this moment in it.
    pub fn make(&mut self, at: u64) -> Tag {
        let timestamp = self.due().as_millis() as i64;
        let mut body = BytesMut::new();
        let (track, size) = match self.video_due() <= self.audio_due() {
            true => {
                let is_key = self.is_key();
                let size = self.shape.frame() * if is_key { KEY_WEIGHT } else { 1 };
                body.reserve(size);
                body.put_slice(if is_key { &[0x17, 1, 0, 0, 0] } else { &[0x27, 1, 0, 0, 0] });
                body.put_u32((size - 9) as u32);
                body.put_u8(if is_key { 0x65 } else { 0x41 });
                put_stamp(&mut body, at, self.video);
                self.video += 1;
                (Track::Video, size)
            }
            false => {
                body.put_slice(&[0xaf, 1]);
                put_audio_stamp(&mut body, at, self.audio);
                self.audio += 1;
                (Track::Audio, self.shape.audio)
            }
        };
        body.put_slice(&self.filler[..size.saturating_sub(body.len())]);
        Tag::new(track, timestamp, body.freeze())
    }

    /// Leaves out what was captured before `now` and the rest of its GOP, as an encoder does that
    /// had nobody to send it to.
    pub fn skip(&mut self, now: Duration) {
        while self.video_due() < now || !self.is_key() {
            self.video += 1;
        }
        while self.audio_due() < self.video_due() {
            self.audio += 1;
        }
    }
}

/// Counts the frames of one encoder as they come in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Frames that came again.
    pub doubled: u64,
    /// Frames that came after one of their track that was made later.
    pub reordered: u64,
    tracks: [Seen; 2],
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Seen {
    first: u64,
    /// One for each number from `first` on.
    numbers: Vec<bool>,
}

impl Ledger {
    /// Counts a frame.
    ///
    /// # Panics
    ///
    /// If its number is absurd: a frame of a [`Source`] has none beyond a week.
    pub fn enter(&mut self, stamp: Stamp) {
        assert!(stamp.number < 7 * 24 * 3600 * 50, "{stamp:?} is none of ours");
        let Some(seen) = self.tracks.get_mut(stamp.track as usize) else { return };
        if seen.numbers.is_empty() {
            seen.first = stamp.number;
        }
        let Some(place) = stamp.number.checked_sub(seen.first) else {
            self.reordered += 1;
            return;
        };
        let place = place as usize;
        match seen.numbers.get_mut(place) {
            Some(true) => self.doubled += 1,
            Some(was) => {
                *was = true;
                self.reordered += 1;
            }
            None => {
                seen.numbers.resize(place, false);
                seen.numbers.push(true);
            }
        }
    }

    /// Frames of a track that came, each counted once.
    pub fn count(&self, track: Track) -> u64 {
        self.seen(track).map_or(0, |seen| seen.numbers.iter().filter(|came| **came).count() as u64)
    }

    /// Frames of a track that are missing between the first and the last that came.
    pub fn missing(&self, track: Track) -> u64 {
        self.seen(track).map_or(0, |seen| seen.numbers.len() as u64) - self.count(track)
    }

    fn seen(&self, track: Track) -> Option<&Seen> {
        self.tracks.get(track as usize)
    }
}

/// Nanoseconds of a clock that all processes of this machine share.
pub fn now() -> u64 {
    #[cfg(unix)]
    {
        use rustix::time::{ClockId, clock_gettime};
        let time = clock_gettime(ClockId::Monotonic);
        time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
    }
    #[cfg(not(unix))]
    {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(0, |since| since.as_nanos() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { kbps: 5000, gop: 2, audio: 350 };

    #[test]
    fn reads_back_its_stamps() {
        let mut source = Source::new(SHAPE);
        let mut next = [0, 0];
        for at in 0..1000 {
            let tag = source.make(at);
            let number = next[tag.track as usize];
            assert_eq!(Stamp::of(&tag), Some(Stamp { track: tag.track, number, at }));
            next[tag.track as usize] += 1;
        }
        assert!(Source::headers().iter().all(|tag| Stamp::of(tag).is_none()));
    }

    #[test]
    fn makes_what_its_shape_says() {
        let mut source = Source::new(SHAPE);
        let mut tags = Vec::new();
        while source.due() < Duration::from_secs(10) {
            let due = source.due().as_millis() as i64;
            tags.push(source.make(0));
            assert_eq!(tags.last().unwrap().timestamp, due);
        }
        let of = |track| tags.iter().filter(move |tag| tag.track == track);
        let bytes: usize = of(Track::Video).map(|tag| tag.body.len()).sum();
        assert!((6_200_000..6_260_000).contains(&bytes), "{bytes}");
        assert_eq!(of(Track::Video).count(), 300);
        assert_eq!(of(Track::Audio).count(), 431);
        assert!(of(Track::Audio).all(|tag| tag.body.len() == 350));
        let keys: Vec<_> =
            of(Track::Video).enumerate().filter(|(_, tag)| tag.is_keyframe()).collect();
        assert_eq!(keys.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [0, 60, 120, 180, 240]);
        assert!((97_000..99_000).contains(&keys[0].1.body.len()));
    }

    #[test]
    fn goes_on_with_a_keyframe_of_the_present() {
        let mut source = Source::new(SHAPE);
        (0..10).for_each(|_| drop(source.make(0)));
        source.skip(Duration::from_millis(4500));
        let tag = source.make(0);
        assert!(tag.is_keyframe());
        assert_eq!(tag.timestamp, 6000);
        assert!(source.due() >= Duration::from_secs(6));
    }

    #[test]
    fn counts_what_is_missing_doubled_and_out_of_order() {
        let mut ledger = Ledger::default();
        let video = |number| Stamp { track: Track::Video, number, at: 0 };
        for number in [3, 4, 5, 5, 9, 7, 7, 10, 1] {
            ledger.enter(video(number));
        }
        ledger.enter(Stamp { track: Track::Audio, number: 0, at: 0 });
        assert_eq!(ledger.count(Track::Video), 6, "3, 4, 5, 7, 9, 10");
        assert_eq!(ledger.missing(Track::Video), 2, "6 and 8");
        assert_eq!(ledger.doubled, 2);
        assert_eq!(ledger.reordered, 2, "7 after 9, 1 after 10");
        assert_eq!((ledger.count(Track::Audio), ledger.missing(Track::Audio)), (1, 0));
    }

    #[test]
    fn the_clock_goes_on() {
        let before = now();
        std::thread::sleep(Duration::from_millis(2));
        assert!(now() > before);
    }
}
