//! MP4 files made of a recording's tags, in one part or several.
//!
//! A part is a fragmented MP4: whatever has been written of it plays. It ends where the codec, its
//! configuration or the pictures' size changes, and where it is as long or as large as it may be;
//! then at a keyframe. A hole that stays is a picture that stands still: timestamps keep its length.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::time::{Duration, UNIX_EPOCH};

use media::{Codec, Role, Tag, Track as Kind, TrackSet};
use serde::{Deserialize, Serialize};

use super::format::RecordHead;
use super::line::Line;
use crate::mp4::{self, Entry, Movie, Payload, Run, Sample, Timing, Track};

/// A fragment is as long as this, or ends at a keyframe when it is a quarter as long.
const FRAGMENT_MS: i64 = 2_000;
/// A fragment is written when it has so many bytes.
const FRAGMENT_BYTES: usize = 8 << 20;
/// The same in frames, each of which costs some hundred bytes: an encoder whose clock stands still
/// may send frames of one byte.
const FRAGMENT_FRAMES: usize = 1 << 14;
/// How long the last picture is shown if nothing says better.
const LAST_PICTURE_MS: i64 = 40;
/// Stretches of a part that are listed as missing, and of all parts together; more of them are too
/// many to look at, and they stand in the recording's document.
const MAX_MARKS: usize = 1_000;
const MAX_ALL_MARKS: usize = 50_000;
/// Parts that begin because a configuration is new: each is a file, and an encoder may send another
/// configuration with every frame.
const MAX_CHANGES: u32 = 500;
/// Parts of one recording; the last one is not split any more. Fewer than a document may name.
const MAX_PARTS: usize = 60_000;

/// Where a part ends before its recording does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Split {
    /// At the first keyframe from here on.
    pub time: Option<Duration>,
    /// At the first keyframe from this size on.
    pub bytes: Option<u64>,
}

/// One file of a recording.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// When its first frame came, in milliseconds since 1970.
    pub started_ms: i64,
    /// From the recording's beginning to the part's, in milliseconds.
    pub offset_ms: u64,
    /// How long it is, in milliseconds.
    pub length_ms: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// Frames of video and audio in it.
    pub frames: u64,
    /// What it lacks.
    pub marks: Vec<Mark>,
}

/// A stretch that never came: the last picture before it stands until the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Where it begins in the part, in milliseconds.
    pub at_ms: u64,
    /// How long it is, in milliseconds.
    pub length_ms: u64,
    /// Tags that are missing.
    pub tags: u64,
}

/// Why a recording is no MP4.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FilmError {
    /// The codec has no place in it.
    #[error("MP4 has no place for {0}")]
    Codec(Codec),
    /// It would be a heap of small files.
    #[error("its configuration changes too often for MP4")]
    Restless,
    /// The file cannot be written.
    #[error("cannot write the file")]
    Write(#[from] io::Error),
}

/// Makes the file of a part: of its number, from 1, and when it began, in milliseconds since 1970.
pub(super) type Place = Box<dyn FnMut(u32, i64) -> io::Result<File> + Send>;

/// Writes the parts of one recording.
pub(super) struct Film {
    place: Place,
    split: Split,
    /// When the recording began, in milliseconds since 1970.
    began: i64,
    line: Line,
    /// Timestamp of the recording's first frame.
    first: Option<i64>,
    /// The last number of each track that was there.
    last: TrackSet<Option<u64>>,
    /// Whether video waits for a keyframe.
    gate: bool,
    lanes: [Lane; 2],
    open: Option<Open>,
    /// A hole that no frame has followed yet: where it begins, and tags.
    hole: Option<(i64, u64)>,
    /// Holes in what waits: from, to, tags.
    marks: Vec<(i64, i64, u64)>,
    /// Marks so far, of all parts.
    all_marks: usize,
    left_out: u64,
    /// Parts that ended because of a new configuration.
    changes: u32,
    parts: Vec<Part>,
}

/// A track, and what of it is not written yet.
#[derive(Default)]
struct Lane {
    /// What `announced` is a header of.
    coding: Option<[u8; 4]>,
    /// As its header says.
    announced: Option<Track>,
    /// With what a keyframe has told.
    track: Option<Track>,
    timing: Timing,
    /// Frames with their times on the recording's line; the last one's duration is not known.
    waiting: Vec<(i64, Sample)>,
    bytes: usize,
    /// The last duration.
    usual: u32,
}

/// The part that is being written.
struct Open {
    file: File,
    tracks: Vec<(usize, Track)>,
    /// Where the part's times begin on the recording's line, in milliseconds.
    base: i64,
    /// Its end so far.
    end: i64,
    sequence: u32,
    entries: Vec<Entry>,
    part: Part,
}

impl Open {
    fn mark(&mut self, from: i64, to: i64, tags: u64) {
        let at_ms = u64::try_from(from.saturating_sub(self.base)).unwrap_or(0);
        let length_ms = u64::try_from(to.saturating_sub(from)).unwrap_or(0);
        if self.part.marks.len() < MAX_MARKS {
            self.part.marks.push(Mark { at_ms, length_ms, tags });
        }
    }
}

const VIDEO: usize = 0;
const AUDIO: usize = 1;

impl Film {
    /// For a recording that began at `began`, in milliseconds since 1970.
    pub(super) fn new(began: i64, split: Split, place: Place) -> Self {
        Self {
            place,
            split,
            began,
            line: Line::default(),
            first: None,
            last: TrackSet::default(),
            gate: false,
            lanes: Default::default(),
            open: None,
            hole: None,
            marks: Vec::new(),
            all_marks: 0,
            left_out: 0,
            changes: 0,
            parts: Vec::new(),
        }
    }

    /// Tags of further tracks, and frames without a header, which are in no part.
    pub(super) fn left_out(&self) -> u64 {
        self.left_out
    }

    /// The parts so far, the one that is being written included.
    pub(super) fn parts(&self) -> impl Iterator<Item = &Part> {
        self.parts.iter().chain(self.open.iter().map(|open| &open.part))
    }

    /// Writes everything that has come, though more may: the last frames get their usual durations.
    /// Returns whether there was anything to write.
    ///
    /// # Errors
    ///
    /// As [`tag`](Self::tag).
    pub(super) fn catch_up(&mut self) -> Result<bool, FilmError> {
        let waits = self.lanes.iter().any(|lane| !lane.waiting.is_empty());
        self.flush(None)?;
        Ok(waits)
    }

    /// Says that so many numbers will never come.
    pub(super) fn hole(&mut self, tags: u64) {
        let (_, sum) = self.hole.get_or_insert((self.line.now(), 0));
        *sum = sum.saturating_add(tags);
    }

    /// Takes the next tag; `has_keyframes` says whether the recording has any.
    pub(super) fn tag(
        &mut self,
        head: &RecordHead,
        tag: &Tag,
        has_keyframes: bool,
    ) -> Result<(), FilmError> {
        let lane = match tag.track {
            Kind::Video => VIDEO,
            Kind::Audio => AUDIO,
            Kind::Data => return Ok(()),
        };
        let has_hole = head.previous() != self.last[tag.track];
        self.last[tag.track] = Some(head.number);
        let is_frame = matches!(tag.role, Role::Keyframe | Role::Frame);
        let is_header = tag.role == Role::SequenceHeader;
        if (is_frame || is_header) && tag.tracks != media::enhanced::Tracks::Main {
            self.left_out += 1;
        }
        if !tag.tracks.has_main() || !(is_frame || is_header) {
            return Ok(());
        }
        if let Some(codec) = tag.codec.filter(|codec| !Track::is_known(*codec)) {
            return Err(FilmError::Codec(codec));
        }
        if lane == VIDEO {
            self.gate |= has_hole && has_keyframes;
            if tag.is_keyframe() {
                self.gate = false;
            }
        }
        let mine = &self.lanes[lane];
        let coding = tag.codec.map(coding);
        let is_foreign = mine.track.is_some() && coding.is_some() && mine.coding != coding;
        let announced = (is_header || mine.track.is_none() || is_foreign)
            .then(|| Track::from_header(tag))
            .flatten();
        match announced {
            Some(track) => {
                self.announce(lane, track)?;
                self.lanes[lane].coding = coding;
            }
            // A decoder of the other codec makes nothing of it.
            None if is_foreign && is_frame => {
                self.left_out += 1;
                return Ok(());
            }
            None => {}
        }
        match mp4::payload(tag) {
            Some(payload) if lane == AUDIO || !self.gate => {
                let ms = self.line.map(tag, head.arrival);
                self.frame(lane, ms, payload)
            }
            _ => Ok(()),
        }
    }

    /// Takes a track's configuration; another than before begins a new part.
    fn announce(&mut self, lane: usize, track: Track) -> Result<(), FilmError> {
        let mine = &self.lanes[lane];
        if mine.announced.as_ref() == Some(&track) {
            return Ok(());
        }
        if mine.announced.is_some() || self.open.is_some() {
            let before = self.parts.len();
            self.end_part()?;
            self.changes += u32::from(self.parts.len() > before);
            if self.changes >= MAX_CHANGES {
                return Err(FilmError::Restless);
            }
        }
        let mine = &mut self.lanes[lane];
        mine.track = Some(track.clone());
        mine.announced = Some(track);
        mine.timing = Timing::default();
        Ok(())
    }

    fn frame(&mut self, lane: usize, ms: i64, payload: Payload) -> Result<(), FilmError> {
        let mine = &mut self.lanes[lane];
        let Some(track) = mine.track.take() else {
            self.left_out += 1;
            return Ok(());
        };
        let track = track.completed_by(&payload);
        self.first.get_or_insert(ms);
        // A hole in the pictures ends where they go on.
        if let Some((from, tags)) = self.hole.take_if(|_| !self.gate) {
            self.marks.push((from, ms, tags));
        }
        let mine = &mut self.lanes[lane];
        let dts = mine.timing.place(&track, ms, &payload.data);
        if let Some((before, sample)) = mine.waiting.last_mut() {
            let duration = dts.saturating_sub(*before);
            sample.duration = u32::try_from(duration).unwrap_or(u32::MAX);
            mine.usual = sample.duration;
        }
        let composition = Timing::scaled(&track, payload.composition_ms.into());
        let length = track.sample_length(&payload.data);
        mine.track = Some(track);
        let is_start = payload.is_keyframe && (lane == VIDEO || self.lanes[VIDEO].track.is_none());
        if is_start && self.is_full(ms) {
            self.end_part()?;
        } else {
            let span = ms.saturating_sub(self.waits_from().unwrap_or(ms));
            let bytes = self.lanes.iter().map(|lane| lane.bytes).sum::<usize>();
            let is_due = span >= FRAGMENT_MS || is_start && span >= FRAGMENT_MS / 4;
            let frames = self.lanes.iter().map(|lane| lane.waiting.len()).sum::<usize>();
            if is_due || bytes >= FRAGMENT_BYTES || frames >= FRAGMENT_FRAMES {
                self.flush(Some(lane))?;
            }
        }
        let mine = &mut self.lanes[lane];
        if mine.usual == 0 {
            mine.usual = length.unwrap_or(0);
        }
        mine.bytes += payload.data.len();
        let sample = Sample {
            dts: 0,
            duration: 0,
            composition: i32::try_from(composition).unwrap_or(0),
            is_keyframe: payload.is_keyframe,
            data: payload.data,
        };
        mine.waiting.push((dts, sample));
        Ok(())
    }

    /// Whether the part that is open is as long or as large as it may be.
    fn is_full(&self, now: i64) -> bool {
        let Some(open) = self.open.as_ref().filter(|_| self.parts.len() < MAX_PARTS) else {
            return false;
        };
        let age = u64::try_from(now.saturating_sub(open.base)).unwrap_or(0);
        let waiting: usize = self.lanes.iter().map(|lane| lane.bytes).sum();
        self.split.time.is_some_and(|time| u128::from(age) >= time.as_millis())
            || self.split.bytes.is_some_and(|bytes| open.part.bytes + waiting as u64 >= bytes)
    }

    /// Where what waits begins, in milliseconds on the recording's line.
    fn waits_from(&self) -> Option<i64> {
        self.lanes.iter().filter_map(|lane| in_ms(lane, lane.waiting.first()?.0)).min()
    }

    /// Writes what waits: all of `whole`, whose durations are known, and of the other track all but
    /// its last frame; without `whole`, all of both.
    fn flush(&mut self, whole: Option<usize>) -> Result<(), FilmError> {
        let mut taken: [Vec<(i64, Sample)>; 2] = Default::default();
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            let kept = usize::from(whole.is_some_and(|whole| whole != index));
            let count = lane.waiting.len().saturating_sub(kept);
            taken[index] = lane.waiting.drain(..count).collect();
            lane.bytes = lane.waiting.iter().map(|(_, sample)| sample.data.len()).sum();
            let Some((_, last)) = taken[index].last_mut() else { continue };
            if last.duration == 0 {
                let track = lane.track.as_ref();
                let usual = || track.map(|track| Timing::scaled(track, LAST_PICTURE_MS) as u32);
                last.duration =
                    Some(lane.usual).filter(|usual| *usual > 0).or_else(usual).unwrap_or(0);
            }
        }
        if taken.iter().all(Vec::is_empty) {
            return Ok(());
        }
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.begin_part(&taken)?,
        };
        for (from, to, tags) in self.marks.drain(..) {
            if self.all_marks < MAX_ALL_MARKS {
                self.all_marks += 1;
                open.mark(from, to, tags);
            }
        }
        let written = write_fragment(&mut open, &self.lanes, taken);
        self.open = Some(open);
        Ok(written?)
    }

    /// Begins a part with these frames.
    fn begin_part(&mut self, taken: &[Vec<(i64, Sample)>; 2]) -> Result<Open, FilmError> {
        let starts = self.lanes.iter().zip(taken);
        let starts = starts.filter_map(|(lane, taken)| in_ms(lane, taken.first()?.0));
        let base = starts.chain(self.waits_from()).min().unwrap_or(0);
        // Every track that has been announced, if only a header of it has come.
        let tracks = self.lanes.iter().enumerate();
        let tracks: Vec<_> =
            tracks.filter_map(|(i, lane)| Some((i, lane.track.clone()?))).collect();
        let offset = base.saturating_sub(self.first.unwrap_or(base));
        let started = self.began.saturating_add(offset);
        let number = self.parts.len() as u32 + 1;
        let mut file = (self.place)(number, started)?;
        let init = mp4::movie(&only(&tracks), movie(started, 0));
        file.write_all(&init)?;
        let part = Part {
            started_ms: started,
            offset_ms: u64::try_from(offset).unwrap_or(0),
            bytes: init.len() as u64,
            ..Part::default()
        };
        Ok(Open { file, tracks, base, end: base, sequence: 0, entries: Vec::new(), part })
    }

    /// Ends the part that is open with all that waits.
    fn end_part(&mut self) -> Result<(), FilmError> {
        self.flush(None)?;
        if let Some(open) = self.open.take() {
            self.parts.push(finish_part(open)?);
        }
        Ok(())
    }

    /// Ends the last part; the files are safe on disk then.
    pub(super) fn finish(mut self) -> Result<Vec<Part>, FilmError> {
        self.end_part()?;
        Ok(self.parts)
    }
}

/// A codec by its FourCC, whichever way it is written.
fn coding(codec: Codec) -> [u8; 4] {
    match codec {
        Codec::FlvVideo(7) => *b"avc1",
        Codec::FlvVideo(12) => *b"hvc1",
        Codec::FlvAudio(10) => *b"mp4a",
        Codec::FlvAudio(2 | 14) => *b".mp3",
        Codec::FlvVideo(id) | Codec::FlvAudio(id) => [0, 0, 0, id],
        Codec::FourCc(fourcc) => fourcc,
    }
}

/// A time of a lane in milliseconds.
fn in_ms(lane: &Lane, dts: i64) -> Option<i64> {
    let scale = i128::from(lane.track.as_ref()?.timescale());
    i64::try_from((i128::from(dts) * 1_000).div_euclid(scale)).ok()
}

fn only(tracks: &[(usize, Track)]) -> Vec<Track> {
    tracks.iter().map(|(_, track)| track.clone()).collect()
}

fn movie(started_ms: i64, duration_ms: u64) -> Movie {
    let since = Duration::from_millis(u64::try_from(started_ms).unwrap_or(0));
    Movie { created: UNIX_EPOCH.checked_add(since), duration_ms }
}

fn write_fragment(
    open: &mut Open,
    lanes: &[Lane; 2],
    taken: [Vec<(i64, Sample)>; 2],
) -> io::Result<()> {
    let mut runs: Vec<(u32, Vec<Sample>)> = Vec::new();
    for (index, frames) in taken.into_iter().enumerate() {
        let place = open.tracks.iter().position(|(lane, _)| *lane == index);
        let (Some(place), Some(last)) = (place, frames.last()) else { continue };
        let track = &open.tracks[place].1;
        let base = Timing::scaled(track, open.base);
        let end = last.0.saturating_add(last.1.duration.into());
        open.end = open.end.max(in_ms(&lanes[index], end).unwrap_or(open.end));
        let relative = |(dts, sample): (i64, Sample)| Sample {
            dts: u64::try_from(dts.saturating_sub(base)).unwrap_or(0),
            ..sample
        };
        runs.push((place as u32 + 1, frames.into_iter().map(relative).collect()));
    }
    let has_video = open.tracks.iter().any(|(lane, _)| *lane == VIDEO);
    for (traf, (track_id, samples)) in (1..).zip(&runs) {
        let (lane, _) = open.tracks[*track_id as usize - 1];
        let Some(first) = samples.first().filter(|first| first.is_keyframe) else { continue };
        if lane == VIDEO || !has_video {
            let time = first.dts.saturating_add_signed(first.composition.into());
            let (track_id, moof_at) = (*track_id, open.part.bytes);
            open.entries.push(Entry { track_id, time, moof_at, traf });
        }
    }
    open.sequence += 1;
    let runs: Vec<_> =
        runs.iter().map(|(track_id, samples)| Run { track_id: *track_id, samples }).collect();
    let fragment = mp4::fragment(open.sequence, &runs);
    open.file.write_all(&fragment)?;
    open.part.bytes += fragment.len() as u64;
    open.part.frames += runs.iter().map(|run| run.samples.len() as u64).sum::<u64>();
    open.part.length_ms = u64::try_from(open.end.saturating_sub(open.base)).unwrap_or(0);
    Ok(())
}

/// Completes a part with what is known only now: its length, and an index for those who seek.
fn finish_part(open: Open) -> io::Result<Part> {
    let Open { mut file, tracks, entries, mut part, .. } = open;
    let index = mp4::fragment_index(&entries);
    file.write_all(&index)?;
    part.bytes += index.len() as u64;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&mp4::movie(&only(&tracks), movie(part.started_ms, part.length_ms)))?;
    file.sync_all()?;
    Ok(part)
}

#[cfg(test)]
mod tests;
