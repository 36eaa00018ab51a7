//! A feed's tags as segments for browsers, on one line that rises whatever its publications do.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::BufMut;
use hub::Item;
use hub::clock::Clock;
use media::{Codec, PublicationId, Role, Tag};

use super::wire::{Frame, Generation, Header, Kind, TrackState};
use crate::mp4::{Payload, Run, Sample, Timing, Track, fragment_head, init_segment, payload};

/// Where the line begins: what is shown before its decoding stays above 0.
const BASE_MS: i64 = 1_000;
/// How long a picture waits for the next one, which tells how long it lasts: browsers drop what
/// follows a step of more than twice the last duration.
const HOLD: Duration = Duration::from_millis(100);
/// How long a picture lasts whose successor did not come in time: 0.7 s of 90 kHz.
const LONG: u32 = 63_000;
/// How long the sound of a new publication waits for its picture's header. A track that comes
/// later makes browsers start anew.
const PICTURE_WAIT: Duration = Duration::from_millis(500);

/// Turns the tags of one feed into frames. It has no I/O; time is an argument.
#[derive(Debug)]
pub(super) struct Muxer {
    clock: Clock,
    /// An instant, and the milliseconds since 1970 at it.
    epoch: (Instant, f64),
    publication: Option<PublicationId>,
    /// When it was first heard of.
    since: Instant,
    video: Line,
    audio: Line,
    held: Option<Held>,
    generation: Arc<Generation>,
    /// Whether the next frame belongs to a new generation.
    is_new: bool,
    /// Numbers the fragments.
    sequence: u32,
}

/// What is known of a track.
#[derive(Debug, Default)]
enum Line {
    /// Nothing yet.
    #[default]
    Unknown,
    /// It cannot be shown, and why.
    Useless(TrackState),
    Known(Track, Timing),
}

impl Line {
    fn state(&self, name: impl Fn(&Track) -> String) -> Option<TrackState> {
        match self {
            Self::Unknown => None,
            Self::Useless(state) => Some(state.clone()),
            Self::Known(track, _) => Some(TrackState {
                name: name(track),
                mime: Some(track.mime()),
                size: track.resolution().map(|size| (size.width, size.height)),
                why: None,
            }),
        }
    }

    fn init(&self, kind: Kind, generation: u32) -> Option<bytes::Bytes> {
        let Self::Known(track, _) = self else { return None };
        let segment = init_segment(std::slice::from_ref(track));
        let header = Header {
            kind,
            is_start: false,
            is_init: true,
            generation,
            shown_ms: 0.0,
            arrived_ms: 0.0,
        };
        let mut message = header.message(segment.len());
        message.put_slice(&segment);
        Some(message.freeze())
    }
}

/// A picture that waits for the next one.
#[derive(Debug)]
struct Held {
    sample: Sample,
    header: Header,
    generation: Arc<Generation>,
    since: Instant,
}

impl Muxer {
    pub(super) fn new(now: Instant) -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            clock: Clock::default(),
            epoch: (now, since_1970.as_secs_f64() * 1_000.0),
            publication: None,
            since: now,
            video: Line::Unknown,
            audio: Line::Unknown,
            held: None,
            generation: Arc::default(),
            is_new: true,
            sequence: 0,
        }
    }

    /// The tracks as they are now.
    pub(super) fn generation(&self) -> &Arc<Generation> {
        &self.generation
    }

    /// When [`expire`](Self::expire) has something to do.
    pub(super) fn due(&self) -> Option<Instant> {
        self.held.as_ref().map(|held| held.since + HOLD)
    }

    /// Gives a picture away that has waited long enough.
    pub(super) fn expire(&mut self, now: Instant, out: &mut Vec<Frame>) {
        if let Some(held) = self.held.take_if(|held| held.since + HOLD <= now) {
            self.finish(held, LONG, out);
        }
    }

    /// Takes the feed's next tag, and appends what is ready.
    pub(super) fn take(&mut self, item: &Item, now: Instant, out: &mut Vec<Frame>) {
        let tag = &item.tag;
        let kind = match tag.track {
            media::Track::Video => Kind::Video,
            media::Track::Audio => Kind::Audio,
            media::Track::Data => return,
        };
        if !tag.tracks.has_main() {
            return;
        }
        if self.publication != Some(item.position.publication) {
            self.publication = Some(item.position.publication);
            self.since = now;
            self.video = Line::Unknown;
            self.audio = Line::Unknown;
            self.is_new = true;
        }
        match tag.role {
            Role::SequenceHeader => self.configure(kind, tag),
            Role::Keyframe | Role::Frame => self.frame(kind, item, now, out),
            Role::Supplement | Role::Metadata | Role::Other => {}
        }
    }

    fn line(&mut self, kind: Kind) -> &mut Line {
        match kind {
            Kind::Video => &mut self.video,
            Kind::Audio => &mut self.audio,
        }
    }

    fn configure(&mut self, kind: Kind, tag: &Tag) {
        let new = match Track::from_header(tag) {
            Some(track) => {
                if matches!(self.line(kind), Line::Known(known, _) if *known == track) {
                    return;
                }
                Line::Known(track, Timing::default())
            }
            None => useless(tag.codec, "what the encoder says of it makes no sense"),
        };
        *self.line(kind) = new;
        self.is_new = true;
    }

    fn frame(&mut self, kind: Kind, item: &Item, now: Instant, out: &mut Vec<Frame>) {
        let tag = &item.tag;
        if matches!(self.line(kind), Line::Unknown) {
            if !tag.codec.is_some_and(has_place) {
                *self.line(kind) = useless(tag.codec, "no browser plays it");
                self.is_new = true;
                self.renew(None, out);
            } else if let Some(track) = Track::from_header(tag) {
                // MP3 has no header of its own.
                *self.line(kind) = Line::Known(track, Timing::default());
                self.is_new = true;
            }
        }
        let Some(payload) = payload(tag) else { return };
        let is_early = now.saturating_duration_since(self.since) < PICTURE_WAIT;
        if kind == Kind::Audio && is_early && matches!(self.video, Line::Unknown) {
            return;
        }
        if kind == Kind::Video && payload.is_keyframe {
            self.complete(&payload);
        }
        let time = self.clock.map(item.position.publication, tag.track, item.timestamp) + BASE_MS;
        let Line::Known(track, timing) = self.line(kind) else { return };
        let dts = timing.place(track, time, &payload.data);
        let scale = track.timescale();
        let composition = Timing::scaled(track, payload.composition_ms.into());
        let duration = track.sample_length(&payload.data).unwrap_or(scale / 50);
        let has_start = kind == Kind::Video || !matches!(self.video, Line::Known(..));
        let dts = u64::try_from(dts).unwrap_or(0);
        self.renew((kind == Kind::Video).then_some(dts), out);
        let header = Header {
            kind,
            is_start: payload.is_keyframe && has_start,
            is_init: false,
            generation: self.generation.number,
            shown_ms: (dts as i64 + composition) as f64 * 1_000.0 / f64::from(scale),
            arrived_ms: self.unix_ms(item.arrival),
        };
        let sample = Sample {
            dts,
            duration,
            composition: i32::try_from(composition).unwrap_or(0),
            is_keyframe: payload.is_keyframe,
            data: payload.data,
        };
        let generation = self.generation.clone();
        let new = Held { sample, header, generation, since: now };
        if kind == Kind::Audio {
            self.finish(new, duration, out);
        } else if let Some(held) = self.held.replace(new) {
            let next = self.held.as_ref().map_or(0, |new| new.sample.dts);
            let lasts = next.saturating_sub(held.sample.dts);
            self.finish(held, u32::try_from(lasts).unwrap_or(u32::MAX), out);
        }
    }

    /// Learns what only a keyframe tells.
    fn complete(&mut self, keyframe: &Payload) {
        if let Line::Known(track, _) = &mut self.video
            && track.resolution().is_none()
        {
            let completed = track.clone().completed_by(keyframe);
            self.is_new |= completed != *track;
            *track = completed;
        }
    }

    /// Makes a new generation of what the tracks are now, if it is time for one. What is held
    /// belongs to the one before, and lasts until `next` if that is known.
    fn renew(&mut self, next: Option<u64>, out: &mut Vec<Frame>) {
        if !std::mem::take(&mut self.is_new) {
            return;
        }
        if let Some(held) = self.held.take() {
            let lasts = next.map_or(LONG.into(), |next| next.saturating_sub(held.sample.dts));
            self.finish(held, u32::try_from(lasts).unwrap_or(u32::MAX), out);
        }
        let number = self.generation.number + 1;
        let name = |codec: &str| people_say(codec).to_owned();
        self.generation = Arc::new(Generation {
            number,
            video: self.video.state(|track| name(track.codec())),
            audio: self.audio.state(|track| name(track.codec())),
            video_init: self.video.init(Kind::Video, number),
            audio_init: self.audio.init(Kind::Audio, number),
        });
    }

    fn finish(&mut self, held: Held, duration: u32, out: &mut Vec<Frame>) {
        self.sequence = self.sequence.wrapping_add(1);
        let Held { sample, header, generation, .. } = held;
        let sample = Sample { duration: duration.max(1), ..sample };
        let samples = std::slice::from_ref(&sample);
        let head = fragment_head(self.sequence, &[Run { track_id: 1, samples }]);
        let mut message = header.message(head.len() + sample.data.len());
        message.put_slice(&head);
        message.put_slice(&sample.data);
        let (kind, is_start) = (header.kind, header.is_start);
        out.push(Frame { kind, is_start, generation, message: message.freeze() });
    }

    fn unix_ms(&self, at: Instant) -> f64 {
        let (instant, unix_ms) = self.epoch;
        let after = at.saturating_duration_since(instant).as_secs_f64();
        let before = instant.saturating_duration_since(at).as_secs_f64();
        unix_ms + (after - before) * 1_000.0
    }
}

fn useless(codec: Option<Codec>, why: &str) -> Line {
    let name = codec.map_or_else(|| "unknown".to_owned(), |codec| codec.to_string());
    Line::Useless(TrackState { name, mime: None, size: None, why: Some(why.to_owned()) })
}

/// Whether a codec may be in an MP4 file, with a header or, MP3, without.
fn has_place(codec: Codec) -> bool {
    match codec {
        Codec::FlvVideo(id) => matches!(id, 7 | 12),
        Codec::FlvAudio(id) => matches!(id, 2 | 10 | 14),
        Codec::FourCc(fourcc) => {
            let known =
                [b"avc1", b"hvc1", b"av01", b"vp08", b"vp09", b"mp4a", b"Opus", b"fLaC", b".mp3"];
            known.contains(&&fourcc)
        }
    }
}

/// A codec's name for people by its name for browsers.
fn people_say(codec: &str) -> &str {
    match codec.split('.').next().unwrap_or_default() {
        "avc1" => "H.264",
        "hvc1" => "H.265",
        "av01" => "AV1",
        "vp08" => "VP8",
        "vp09" => "VP9",
        "opus" => "Opus",
        "flac" => "FLAC",
        "mp4a" if codec == "mp4a.6B" => "MP3",
        "mp4a" if codec == "mp4a.40.2" => "AAC",
        "mp4a" => "HE-AAC",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use media::{Position, flv};
    use proptest::prelude::*;

    use super::*;

    const CLIP: &[u8] = include_bytes!("../../../../../assets/clip.flv");
    const A: PublicationId = PublicationId([1; 16]);
    const B: PublicationId = PublicationId([2; 16]);

    fn clip() -> Vec<Tag> {
        flv::Reader::new(Bytes::from_static(CLIP)).unwrap().map(Result::unwrap).collect()
    }

    fn item(publication: PublicationId, tag: &Tag, arrival: Instant) -> Item {
        let position = Position { publication, number: 0, previous: None };
        Item { position, tag: tag.clone(), arrival, timestamp: tag.timestamp, due: arrival }
    }

    /// What a segment's boxes say: decoding time, duration, composition offset.
    fn times(frame: &Frame) -> (u64, u32, i32) {
        let at = |name: &[u8]| {
            frame.message.windows(4).position(|window| window == name).expect("a box") + 4
        };
        let read = |at: usize| u32::from_be_bytes(frame.message[at..at + 4].try_into().unwrap());
        let (tfdt, trun) = (at(b"tfdt") + 4, at(b"trun") + 4);
        let time = u64::from(read(tfdt)) << 32 | u64::from(read(tfdt + 4));
        (time, read(trun + 8), read(trun + 20) as i32)
    }

    fn mux(
        muxer: &mut Muxer,
        publication: PublicationId,
        tags: &[Tag],
        start: Instant,
    ) -> Vec<Frame> {
        let mut out = Vec::new();
        for tag in tags {
            let now = start + Duration::from_millis(tag.timestamp.unsigned_abs());
            muxer.take(&item(publication, tag, now), now, &mut out);
        }
        out
    }

    fn of(frames: &[Frame], kind: Kind) -> Vec<&Frame> {
        frames.iter().filter(|frame| frame.kind == kind).collect()
    }

    /// Whether each frame begins where the one before it ended.
    #[track_caller]
    fn assert_gapless(frames: &[&Frame]) {
        for two in frames.windows(2) {
            let (time, lasts, _) = times(two[0]);
            assert_eq!(times(two[1]).0, time + u64::from(lasts));
        }
    }

    #[test]
    fn a_clip_becomes_two_gapless_tracks() {
        let now = Instant::now();
        let mut muxer = Muxer::new(now);
        let frames = mux(&mut muxer, A, &clip(), now);
        let (video, audio) = (of(&frames, Kind::Video), of(&frames, Kind::Audio));
        assert_eq!(video.len(), 299, "the last one waits for its successor");
        assert_eq!(video.iter().filter(|frame| frame.is_start).count(), 5);
        assert!(audio.iter().all(|frame| !frame.is_start) && audio.len() > 400);
        assert_gapless(&video);
        assert_gapless(&audio);
        assert_eq!(times(audio[0]).1, 1_024);
        let generation = muxer.generation();
        assert_eq!(generation.number, 1);
        let video = generation.video.as_ref().unwrap();
        assert_eq!(video.mime.as_deref(), Some("video/mp4; codecs=\"avc1.64001E\""));
        assert_eq!((video.name.as_str(), video.size), ("H.264", Some((640, 360))));
        assert_eq!(generation.audio.as_ref().unwrap().name, "AAC");
        // 10 s are over: the last frame has a long duration then.
        let mut out = Vec::new();
        let due = muxer.due().unwrap();
        muxer.expire(due - Duration::from_millis(1), &mut out);
        assert!(out.is_empty());
        muxer.expire(due, &mut out);
        assert_eq!((out.len(), times(&out[0]).1), (1, 63_000));
        assert_eq!(muxer.due(), None);
    }

    #[test]
    fn the_line_goes_on_over_a_restart() {
        let now = Instant::now();
        let mut muxer = Muxer::new(now);
        let clip = clip();
        let mut frames = mux(&mut muxer, A, &clip, now);
        frames.extend(mux(&mut muxer, B, &clip, now + Duration::from_secs(20)));
        assert_eq!(muxer.generation().number, 2);
        let video = of(&frames, Kind::Video);
        assert_eq!(video.len(), 599);
        assert_gapless(&video[..300]);
        assert_gapless(&video[300..]);
        for kind in [Kind::Video, Kind::Audio] {
            assert!(of(&frames, kind).is_sorted_by(|one, next| times(one).0 < times(next).0));
        }
        let step = times(video[300]).0 - times(video[299]).0;
        assert!(step < 9_000, "a frame or two later: {step}");
        let numbers: Vec<_> = video.iter().map(|frame| frame.generation.number).collect();
        assert_eq!((numbers[299], numbers[300]), (1, 2), "a frame stays with its own generation");
    }

    #[test]
    fn what_browsers_cannot_play_is_said() {
        let now = Instant::now();
        let mut muxer = Muxer::new(now);
        let vp6 = Tag::new(media::Track::Video, 0, Bytes::from_static(&[0x14, 1, 2]));
        assert!(mux(&mut muxer, A, &[vp6], now).is_empty());
        let video = muxer.generation().video.clone().unwrap();
        assert_eq!((video.name.as_str(), video.mime), ("VP6", None));
        // The sound is played all the same, and is where viewers start.
        let sound: Vec<_> =
            clip().into_iter().filter(|tag| tag.track == media::Track::Audio).collect();
        let frames = mux(&mut muxer, A, &sound, now);
        assert!(frames.len() > 400 && frames.iter().all(|frame| frame.is_start));
        assert!(muxer.generation().audio_init.is_some());
    }

    #[test]
    fn generations_follow_each_other() {
        let now = Instant::now();
        let mut muxer = Muxer::new(now);
        let mut frames = mux(&mut muxer, A, &clip()[..60], now);
        let odd = Tag::new(media::Track::Video, 0, Bytes::from_static(b"\x91<b>!abc"));
        frames.extend(mux(&mut muxer, B, &[odd], now));
        // The last picture of the first one has not waited for anything.
        assert_eq!((muxer.due(), muxer.generation().number), (None, 2));
        assert_eq!(of(&frames, Kind::Video).last().unwrap().generation.number, 1);
        assert_eq!(muxer.generation().video.as_ref().unwrap().name, "<b>!");
        frames.extend(mux(&mut muxer, A, &clip(), now));
        assert!(frames.is_sorted_by_key(|frame| frame.generation.number));
    }

    proptest! {
        /// Encoders are strangers: whatever they send, it stays a line that rises.
        #[test]
        fn any_tags_are_taken(bodies in proptest::collection::vec(
            (any::<bool>(), any::<u16>(), any::<i16>(), proptest::collection::vec(any::<u8>(), 0..40)),
            1..60,
        )) {
            let now = Instant::now();
            let mut muxer = Muxer::new(now);
            let clip = clip();
            let mut out = Vec::new();
            for (is_video, which, step, body) in bodies {
                let track = if is_video { media::Track::Video } else { media::Track::Audio };
                let tag = match which % 3 {
                    // Good headers and frames between bad ones.
                    0 => Tag { timestamp: i64::from(step), ..clip[usize::from(which) % clip.len()].clone() },
                    _ => Tag::new(track, i64::from(step), Bytes::from(body)),
                };
                muxer.take(&item(A, &tag, now), now, &mut out);
                muxer.expire(now + HOLD, &mut out);
            }
            for kind in [Kind::Video, Kind::Audio] {
                let frames = of(&out, kind);
                let lines = frames.windows(2).filter(|two| {
                    two[0].generation.number == two[1].generation.number
                });
                for two in lines {
                    prop_assert!(times(two[0]).0 < times(two[1]).0);
                }
            }
        }
    }
}
