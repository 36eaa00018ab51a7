//! What the viewers of one feed share, and a viewer's place in it.
//!
//! A viewer is a cursor, as a player is in the hub: one that is slow costs no memory. What it is
//! too late for is left out up to a keyframe.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::wire::{Frame, Generation, Kind, Message, Mode, Told};

/// What is kept of a feed: more than this, and the newest GOP cannot be joined, only the next.
const MAX_BYTES: usize = 8 << 20;
/// The same in time.
const MAX_AGE: Duration = Duration::from_secs(10);
/// The same in frames: 10 s of 120 pictures and 100 packets of sound a second.
const MAX_FRAMES: usize = 2_200;
/// What is kept beside the newest GOP, for those who are somewhat late.
const KEEP: Duration = Duration::from_millis(1_500);
/// How old a frame may be when a viewer gets it, or how long it may take for what there was when
/// it came.
const MAX_DELAY: Duration = Duration::from_millis(1_500);
/// Bytes that a viewer takes at a time: what waits here can still be left out.
const BATCH: usize = 256 << 10;

/// The frames of a feed since its newest keyframe, and some before.
#[derive(Debug)]
pub(super) struct Log {
    frames: VecDeque<Kept>,
    /// Number of the first frame that is kept.
    first: u64,
    /// Pictures so far.
    pictures: u64,
    bytes: usize,
    /// Number of the newest frame to start at.
    start: Option<u64>,
    generation: Arc<Generation>,
    /// The latest word about the sound, and how many there were.
    level: (u64, String),
    /// Nothing comes any more.
    is_over: bool,
}

#[derive(Debug)]
struct Kept {
    at: Instant,
    /// Pictures before it.
    pictures: u64,
    frame: Frame,
}

impl Log {
    pub(super) fn new() -> Self {
        Self {
            frames: VecDeque::new(),
            first: 0,
            pictures: 0,
            bytes: 0,
            start: None,
            generation: Arc::default(),
            level: (0, String::new()),
            is_over: false,
        }
    }

    pub(super) fn push(&mut self, frame: Frame, now: Instant) {
        if frame.is_start {
            self.start = Some(self.end());
        }
        self.bytes += frame.message.len();
        self.generation = frame.generation.clone();
        let pictures = self.pictures;
        self.pictures += u64::from(frame.kind == Kind::Video);
        self.frames.push_back(Kept { at: now, pictures, frame });
        self.trim(now);
    }

    /// The tracks are these now, whether or not something of them came.
    pub(super) fn set_generation(&mut self, generation: &Arc<Generation>) {
        self.generation = generation.clone();
    }

    pub(super) fn set_level(&mut self, text: String) {
        self.level = (self.level.0 + 1, text);
    }

    pub(super) fn end_all(&mut self) {
        self.is_over = true;
    }

    fn trim(&mut self, now: Instant) {
        let keep_from = self.start.unwrap_or(u64::MAX);
        while let Some(Kept { at, frame, .. }) = self.frames.front() {
            let age = now.saturating_duration_since(*at);
            let is_over = self.bytes > MAX_BYTES || age > MAX_AGE || self.frames.len() > MAX_FRAMES;
            if !is_over && (self.first >= keep_from || age <= KEEP) {
                return;
            }
            self.bytes -= frame.message.len();
            self.frames.pop_front();
            if self.start == Some(self.first) {
                self.start = None;
            }
            self.first += 1;
        }
    }

    fn end(&self) -> u64 {
        self.first + self.frames.len() as u64
    }

    fn get(&self, number: u64) -> Option<&Kept> {
        self.frames.get(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    /// Pictures before the frame of this number.
    fn pictures_before(&self, number: u64) -> u64 {
        self.get(number).map_or(self.pictures, |kept| kept.pictures)
    }
}

/// What a viewer is to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// There is something, and possibly more.
    More,
    /// There is nothing now.
    Wait,
    /// Nothing comes any more.
    Over,
}

/// Why a cursor lets no frame pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gate {
    Open,
    /// It has just come.
    Joining,
    /// It was too late.
    Behind,
}

/// A viewer's place in a log.
#[derive(Debug)]
pub(super) struct Cursor {
    mode: Mode,
    is_joined: bool,
    next: u64,
    /// Pictures before that one.
    pictures: u64,
    gate: Gate,
    /// Before this nothing was asked of it.
    since: Instant,
    /// The generation that was announced.
    generation: Option<u32>,
    level: u64,
    /// Pictures that were left out.
    dropped: u64,
    /// How many of them it was told of.
    told: u64,
}

impl Cursor {
    pub(super) fn new(mode: Mode, now: Instant) -> Self {
        Self {
            mode,
            is_joined: false,
            next: 0,
            pictures: 0,
            gate: Gate::Open,
            since: now,
            generation: None,
            level: 0,
            dropped: 0,
            told: 0,
        }
    }

    /// Pictures that were left out because the viewer was too slow.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Starts anew with another mode.
    pub(super) fn set_mode(&mut self, mode: Mode, now: Instant) {
        let (level, dropped, told) = (self.level, self.dropped, self.told);
        *self = Self { level, dropped, told, ..Self::new(mode, now) };
    }

    /// Appends what the viewer gets now.
    pub(super) fn poll(&mut self, log: &Log, now: Instant, out: &mut Vec<Message>) -> Next {
        let before = out.len();
        if !self.is_joined {
            self.join(log, now, out);
        }
        if self.next < log.first {
            self.jump(log, now);
        }
        let mut bytes = 0;
        while let Some(Kept { at, frame, .. }) = log.get(self.next).filter(|_| bytes < BATCH) {
            if now.saturating_duration_since((*at).max(self.since)) > MAX_DELAY {
                self.jump(log, now);
                continue;
            }
            self.step_to(self.next + 1, log);
            if !self.takes(frame) || self.is_shut(frame) {
                continue;
            }
            if self.told < self.dropped {
                self.told = self.dropped;
                out.push(Told::Behind { dropped: self.dropped }.message());
            }
            self.announce(&frame.generation, out);
            bytes += frame.message.len();
            out.push(Message::Segment(frame.message.clone()));
        }
        if self.next == log.end() {
            self.announce(&log.generation, out);
        }
        if self.level != log.level.0 {
            self.level = log.level.0;
            out.push(Message::Text(log.level.1.clone()));
        }
        match (out.len() > before, log.is_over) {
            (true, _) => Next::More,
            (false, true) => Next::Over,
            (false, false) => Next::Wait,
        }
    }

    fn join(&mut self, log: &Log, now: Instant, out: &mut Vec<Message>) {
        self.is_joined = true;
        self.since = now;
        self.step_to(log.start.unwrap_or(log.end()), log);
        self.gate = if log.start.is_some() { Gate::Open } else { Gate::Joining };
        self.announce(&log.generation, out);
        if self.gate == Gate::Joining && self.mode != Mode::Levels {
            out.push(Told::Waiting.message());
        }
    }

    fn takes(&self, frame: &Frame) -> bool {
        match self.mode {
            Mode::Levels => false,
            Mode::Stills => frame.kind == Kind::Video && frame.is_start,
            Mode::Picture => frame.kind == Kind::Video,
            Mode::Full => true,
        }
    }

    /// Whether a frame is none that the viewer can make something of.
    fn is_shut(&mut self, frame: &Frame) -> bool {
        if self.gate != Gate::Open && !frame.is_start {
            let is_missed = self.gate == Gate::Behind && frame.kind == Kind::Video;
            self.dropped += u64::from(is_missed);
            return true;
        }
        self.gate = Gate::Open;
        false
    }

    /// Leaves out what it is too late for, up to a frame to start at.
    fn jump(&mut self, log: &Log, now: Instant) {
        let start = log.start.filter(|start| *start > self.next);
        let target = start.unwrap_or(log.end());
        let before = self.pictures;
        self.step_to(target, log);
        if matches!(self.mode, Mode::Picture | Mode::Full) {
            self.dropped += self.pictures - before;
        }
        self.since = now;
        self.gate = if start.is_some() { Gate::Open } else { Gate::Behind };
    }

    fn step_to(&mut self, number: u64, log: &Log) {
        self.next = number;
        self.pictures = log.pictures_before(number);
    }

    fn announce(&mut self, generation: &Generation, out: &mut Vec<Message>) {
        if self.generation != Some(generation.number) {
            self.generation = Some(generation.number);
            generation.announce(self.mode, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    struct Feed {
        log: Log,
        generation: Arc<Generation>,
        now: Instant,
        pictures: u64,
    }

    impl Feed {
        fn new() -> Self {
            let video = Bytes::from_static(b"init");
            let generation =
                Generation { number: 1, video_init: Some(video), ..Default::default() };
            let generation = Arc::new(generation);
            Self { log: Log::new(), generation, now: Instant::now(), pictures: 0 }
        }

        /// Pictures 40 ms apart, each with a packet of sound; every `gop`th is a keyframe.
        fn run(&mut self, pictures: u64, gop: u64, size: usize) {
            for _ in 0..pictures {
                let is_start = self.pictures.is_multiple_of(gop);
                for (kind, is_start) in [(Kind::Video, is_start), (Kind::Audio, false)] {
                    let name = if kind == Kind::Video { b'v' } else { b'a' };
                    let mut message = format!("{}{}", name as char, self.pictures).into_bytes();
                    message.resize(message.len().max(size), b' ');
                    let (generation, message) = (self.generation.clone(), message.into());
                    self.log.push(Frame { kind, is_start, generation, message }, self.now);
                }
                self.pictures += 1;
                self.now += Duration::from_millis(40);
            }
        }

        fn poll(&self, cursor: &mut Cursor) -> Vec<String> {
            let mut out = Vec::new();
            while cursor.poll(&self.log, self.now, &mut out) == Next::More {}
            out.iter().map(word).collect()
        }
    }

    fn word(message: &Message) -> String {
        match message {
            Message::Text(text) => {
                let value: serde_json::Value = serde_json::from_str(text).unwrap();
                value["type"].as_str().unwrap().to_owned()
            }
            Message::Segment(bytes) => std::str::from_utf8(bytes).unwrap().trim().to_owned(),
        }
    }

    #[test]
    fn one_that_comes_gets_the_newest_gop_and_what_follows() {
        let mut feed = Feed::new();
        feed.run(14, 4, 0);
        let mut cursor = Cursor::new(Mode::Picture, feed.now);
        assert_eq!(feed.poll(&mut cursor), ["feed", "init", "v12", "v13"]);
        feed.run(1, 4, 0);
        assert_eq!(feed.poll(&mut cursor), ["v14"]);
        assert!(feed.poll(&mut cursor).is_empty());
        cursor.set_mode(Mode::Full, feed.now);
        let full = ["feed", "init", "v12", "a12", "v13", "a13", "v14", "a14"];
        assert_eq!(feed.poll(&mut cursor), full);
        cursor.set_mode(Mode::Stills, feed.now);
        assert_eq!(feed.poll(&mut cursor), ["feed", "init", "v12"]);
        feed.run(6, 4, 0);
        assert_eq!(feed.poll(&mut cursor), ["v16", "v20"]);
        cursor.set_mode(Mode::Levels, feed.now);
        feed.log.set_level(r#"{"type":"level"}"#.into());
        assert_eq!(feed.poll(&mut cursor), ["feed", "level"]);
        feed.run(6, 4, 0);
        assert!(feed.poll(&mut cursor).is_empty());
        assert_eq!(cursor.dropped(), 0);
    }

    #[test]
    fn without_a_keyframe_it_waits_for_one() {
        let mut feed = Feed::new();
        feed.pictures = 1;
        feed.run(3, 8, 0);
        let mut cursor = Cursor::new(Mode::Full, feed.now);
        assert_eq!(feed.poll(&mut cursor), ["feed", "init", "waiting"]);
        feed.run(6, 8, 0);
        assert_eq!(feed.poll(&mut cursor), ["v8", "a8", "v9", "a9"]);
        assert_eq!(cursor.dropped(), 0, "it has missed nothing that it could have had");
    }

    #[test]
    fn one_that_is_late_goes_on_at_the_newest_keyframe() {
        let mut feed = Feed::new();
        feed.run(1, 25, 0);
        let mut cursor = Cursor::new(Mode::Picture, feed.now);
        assert_eq!(feed.poll(&mut cursor), ["feed", "init", "v0"]);
        // 3 s without a word from it.
        feed.run(75, 25, 0);
        assert_eq!(feed.poll(&mut cursor)[..2], ["behind", "v75"]);
        assert_eq!(cursor.dropped(), 74);
    }

    #[test]
    fn one_that_is_late_in_a_long_gop_waits_for_the_next() {
        let mut feed = Feed::new();
        feed.run(1, 100, 0);
        let mut cursor = Cursor::new(Mode::Picture, feed.now);
        feed.poll(&mut cursor);
        feed.run(50, 100, 0);
        assert!(feed.poll(&mut cursor).is_empty());
        assert_eq!(cursor.dropped(), 50);
        feed.run(51, 100, 0);
        assert_eq!(feed.poll(&mut cursor), ["behind", "v100", "v101"]);
        assert_eq!(cursor.dropped(), 99);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut feed = Feed::new();
        feed.run(1_000, 10_000, 0);
        assert!(feed.log.frames.len() <= 2 * 250 + 2, "{}", feed.log.frames.len());
        assert_eq!(feed.log.start, None);
        let mut feed = Feed::new();
        feed.run(200, 10_000, 100_000);
        assert!(feed.log.bytes <= MAX_BYTES);
        let mut cursor = Cursor::new(Mode::Picture, feed.now);
        assert_eq!(feed.poll(&mut cursor), ["feed", "init", "waiting"]);
        // A GOP of a second: hardly more than what is kept of the one before it.
        let mut feed = Feed::new();
        feed.run(500, 25, 0);
        assert!(feed.log.frames.len() <= 2 * 40, "{}", feed.log.frames.len());
    }

    #[test]
    fn a_new_generation_is_announced_before_its_frames() {
        let mut feed = Feed::new();
        feed.run(2, 4, 0);
        let mut cursor = Cursor::new(Mode::Picture, feed.now);
        assert_eq!(feed.poll(&mut cursor).len(), 4);
        feed.generation = Arc::new(Generation { number: 2, ..Default::default() });
        feed.pictures = 4;
        feed.run(1, 4, 0);
        assert_eq!(feed.poll(&mut cursor), ["feed", "v4"]);
        let changed = Generation { number: 3, ..Default::default() };
        feed.log.set_generation(&Arc::new(changed));
        assert_eq!(feed.poll(&mut cursor), ["feed"]);
        feed.log.end_all();
        assert_eq!(cursor.poll(&feed.log, feed.now, &mut Vec::new()), Next::Over);
    }
}
