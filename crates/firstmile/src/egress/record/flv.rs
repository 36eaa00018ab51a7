//! An FLV file made from a journal: the tags in order, up to the first hole that may still be
//! filled.

use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

use bytes::{Bytes, BytesMut};
use media::{Role, Tag, Track, TrackSet, flv};
use rtmp::amf0::{self, Bounds, Value};
use rtmp::metadata::{self, Presence};

use super::format::{Kind, RecordHead};
use super::index::Index;
use super::scan::{JournalError, Reader};

/// A step back of the timestamps beyond this is a new time base, as for players.
const MAX_STEP_BACK: i64 = 5_000;
/// The shortest and the longest pause where the time base changes, if the times of arrival say no
/// better: one frame, and what an encoder takes to start anew.
const NEW_BASE_AFTER: (i64, i64) = (33, 10_000);
/// A file whose first timestamp is below 0 or from here on begins at 0 instead: players read 31
/// or 32 bits.
const LATE_START: i64 = 1 << 31;
/// Where the duration stands in the file: after the file's and the tag's header, `onMetaData`, the
/// array's marker and length, and the property's name and marker.
const DURATION_AT: u64 = 13 + 11 + 13 + 5 + 10 + 1;

/// What an export has written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exported {
    /// Tags in the file.
    pub tags: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// Milliseconds from its first to its last tag.
    pub length_ms: u64,
    /// Holes, first and last number included, that were passed over.
    pub holes: u64,
    /// The hole that may still be filled, and ends the file before its time.
    pub open_hole: Option<(u64, u64)>,
}

/// Why there is no file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The journal cannot be read.
    #[error("cannot read the recording")]
    Journal(#[from] JournalError),
    /// The file cannot be written.
    #[error("cannot write the file")]
    Write(#[source] io::Error),
}

/// Writes the FLV file of a journal, which may be one that is being written. An older file is
/// replaced once the new one is whole.
///
/// # Errors
///
/// [`ExportError`]; nothing is left behind then.
pub fn export(journal: &Path, file: &Path) -> Result<Exported, ExportError> {
    let mut name = file.as_os_str().to_owned();
    name.push(".part");
    let part = Path::new(&name);
    let exported = write(journal, part).and_then(|exported| {
        fs::rename(part, file).map_err(ExportError::Write)?;
        Ok(exported)
    });
    if exported.is_err() {
        let _ = fs::remove_file(part);
    }
    exported
}

fn write(journal: &Path, file: &Path) -> Result<Exported, ExportError> {
    let plan = Plan::of(journal)?;
    let file = File::create(file).map_err(ExportError::Write)?;
    let out = BufWriter::with_capacity(1 << 20, file);
    Export::new(plan, out).run()
}

/// What is in a journal, and where.
struct Plan {
    reader: Reader,
    index: Index,
    /// Number and place of each tag, by number: 16 bytes each, some 50 MB for a day's half.
    tags: Vec<(u64, u64)>,
    /// The first tag of each kind.
    first: TrackSet<Option<(u64, u64)>>,
    /// The first metadata.
    metadata: Option<(u64, u64)>,
    has_keyframes: bool,
}

impl Plan {
    fn of(journal: &Path) -> Result<Self, JournalError> {
        let mut reader = Reader::open(journal)?;
        let mut index = Index::new(reader.head().clone());
        let mut tags = Vec::new();
        let mut first = TrackSet::<Option<(u64, u64)>>::default();
        let mut metadata: Option<(u64, u64)> = None;
        let mut has_keyframes = false;
        while let Some((at, head)) = reader.next()? {
            if index.apply(&head).is_err() || head.kind != Kind::Tag {
                continue;
            }
            let place = (head.number, at);
            tags.push(place);
            has_keyframes |= head.is_keyframe();
            let earlier = |kept: Option<(u64, u64)>| Some(kept.map_or(place, |k| k.min(place)));
            if head.is_metadata() {
                metadata = earlier(metadata);
            } else if let Some(track) = head.track() {
                first[track] = earlier(first[track]);
            }
        }
        tags.sort_unstable();
        Ok(Self { reader, index, tags, first, metadata, has_keyframes })
    }

    fn tag_at(&mut self, at: u64) -> Result<Option<(RecordHead, Tag)>, JournalError> {
        let Some((head, body)) = self.reader.tag(at)? else { return Ok(None) };
        let Some(track) = head.track() else { return Ok(None) };
        let tag = Tag::new(track, head.timestamp, Bytes::from(body));
        Ok(Some((head, tag)))
    }

    fn presence(&mut self, track: Track) -> Result<Presence, JournalError> {
        let Some((_, at)) = self.first[track] else { return Ok(Presence::Absent) };
        let codec = self.tag_at(at)?.and_then(|(_, tag)| tag.codec);
        Ok(codec.map_or(Presence::AsAnnounced, Presence::Coded))
    }
}

struct Export<W> {
    plan: Plan,
    out: W,
    line: Line,
    /// The last number of each track that was there.
    last: TrackSet<Option<u64>>,
    /// Whether video waits for a keyframe.
    gate: bool,
    presence: [Presence; 2],
    /// What the file says of the feed.
    told: Bytes,
    exported: Exported,
    buffer: Vec<u8>,
}

impl<W: Write + Seek> Export<W> {
    fn new(plan: Plan, out: W) -> Self {
        Self {
            plan,
            out,
            line: Line::default(),
            last: TrackSet::default(),
            gate: false,
            presence: [Presence::AsAnnounced; 2],
            told: Bytes::new(),
            exported: Exported::default(),
            buffer: Vec::new(),
        }
    }

    fn run(mut self) -> Result<Exported, ExportError> {
        self.start()?;
        let tags = std::mem::take(&mut self.plan.tags);
        let mut next = 0;
        for (number, at) in tags {
            if number > next {
                if let Some(hole) = self.plan.index.open(next, number - 1).next() {
                    self.exported.open_hole = Some(hole);
                    break;
                }
                // What is older than the first tag of interest is no hole.
                let is_of_interest = self.plan.index.from().is_some_and(|from| number > from);
                self.exported.holes += u64::from(is_of_interest);
            }
            next = number + 1;
            match self.plan.tag_at(at)? {
                Some((head, tag)) => self.tag(&head, tag)?,
                // Damaged since it was written: a hole that stays.
                None => self.exported.holes += 1,
            }
        }
        if let Some(last) = self.plan.index.ended().and_then(|end| end.checked_sub(1))
            && self.exported.open_hole.is_none()
            && next <= last
        {
            self.exported.open_hole = self.plan.index.open(next, last).next();
        }
        self.finish().map_err(ExportError::Write)
    }

    /// Writes what comes before the first tag.
    fn start(&mut self) -> Result<(), ExportError> {
        self.presence = [self.plan.presence(Track::Video)?, self.plan.presence(Track::Audio)?];
        flv::write_header(&mut self.buffer);
        // Which of video and audio there are (FLV 10.1 §E.2): players wait for those that are named.
        let [video, audio] = self.presence.map(|presence| presence != Presence::Absent);
        self.buffer[4] = u8::from(video) | u8::from(audio) << 2;
        let original = match self.plan.metadata {
            Some((_, at)) => self.plan.tag_at(at)?.map(|(_, tag)| tag.body),
            None => None,
        };
        self.told = self.rebuilt(original.as_deref());
        let with_duration = Tag::new(Track::Data, 0, with_duration(&self.told));
        self.put(&with_duration).map_err(ExportError::Write)
    }

    /// Metadata as players want it.
    fn rebuilt(&self, original: Option<&[u8]>) -> Bytes {
        let [video, audio] = self.presence;
        metadata::for_player(original, video, audio, true, &Bounds::MOST)
    }

    fn tag(&mut self, head: &RecordHead, tag: Tag) -> Result<(), ExportError> {
        let has_hole = head.previous() != self.last[tag.track];
        self.last[tag.track] = Some(head.number);
        if tag.track == Track::Video {
            self.gate |= has_hole && self.plan.has_keyframes;
            if tag.is_keyframe() {
                self.gate = false;
            }
            if self.gate && matches!(tag.role, Role::Keyframe | Role::Frame) {
                return Ok(());
            }
        }
        let mut tag = tag;
        if tag.role == Role::Metadata {
            let body = self.rebuilt(Some(&tag.body));
            if body == self.told {
                return Ok(());
            }
            self.told = body.clone();
            tag = Tag::new(Track::Data, tag.timestamp, body);
        }
        tag.timestamp = match tag.is_header() {
            // A header has no time of its own: encoders give it 0 or that of anything.
            true => self.line.now(),
            false => self.line.map(&tag, head.arrival),
        };
        self.put(&tag).map_err(ExportError::Write)
    }

    fn put(&mut self, tag: &Tag) -> io::Result<()> {
        flv::write_tag(&mut self.buffer, tag);
        self.out.write_all(&self.buffer)?;
        self.exported.bytes += self.buffer.len() as u64;
        self.exported.tags += 1;
        self.buffer.clear();
        Ok(())
    }

    fn finish(mut self) -> io::Result<Exported> {
        self.exported.length_ms = self.line.length();
        let seconds = self.exported.length_ms as f64 / 1_000.0;
        self.out.seek(SeekFrom::Start(DURATION_AT))?;
        self.out.write_all(&seconds.to_be_bytes())?;
        self.out.flush()?;
        Ok(self.exported)
    }
}

/// The metadata with a duration at its beginning, to be filled in, and without the size that an
/// encoder may have thought of.
fn with_duration(told: &Bytes) -> Bytes {
    let mut properties = match amf0::decode_within(told, &Bounds::MOST).unwrap_or_default().pop() {
        Some(Value::EcmaArray(properties)) => properties,
        _ => Vec::new(),
    };
    properties.retain(|(key, _)| key != "duration" && key != "filesize");
    properties.insert(0, ("duration".to_owned(), Value::Number(0.0)));
    let mut out = BytesMut::with_capacity(told.len() + 32);
    Value::from("onMetaData").encode(&mut out);
    Value::EcmaArray(properties).encode(&mut out);
    out.freeze()
}

/// The file's timestamps: the publication's own, as long as they make a line.
#[derive(Debug, Default)]
struct Line {
    offset: Option<i64>,
    /// The last timestamp of each track.
    last: TrackSet<Option<i64>>,
    first: i64,
    high: i64,
    /// The time base's highest timestamp, and when that tag came.
    newest: (i64, i64),
}

impl Line {
    /// The highest timestamp so far.
    fn now(&self) -> i64 {
        self.high
    }

    fn length(&self) -> u64 {
        self.high.abs_diff(self.first)
    }

    fn map(&mut self, tag: &Tag, arrival: i64) -> i64 {
        let timestamp = tag.timestamp;
        let offset = match self.offset {
            None => {
                let is_usual = (0..LATE_START).contains(&timestamp);
                let offset = if is_usual { 0 } else { timestamp.saturating_neg() };
                self.first = timestamp.saturating_add(offset);
                self.high = self.first;
                self.newest = (timestamp, arrival);
                offset
            }
            Some(_) if timestamp < self.newest.0.saturating_sub(MAX_STEP_BACK) => {
                // The encoder's clock was set back: the file goes on by the time of day.
                let (least, most) = NEW_BASE_AFTER;
                let pause = arrival.saturating_sub(self.newest.1).clamp(least, most);
                self.newest = (timestamp, arrival);
                self.high.saturating_add(pause).saturating_sub(timestamp)
            }
            Some(offset) => offset,
        };
        self.offset = Some(offset);
        if timestamp > self.newest.0 {
            self.newest = (timestamp, arrival);
        }
        let mapped = timestamp.saturating_add(offset).max(0);
        self.first = self.first.min(mapped);
        // Those of one track never go back; further tracks in it have their own order.
        let least = self.last[tag.track].filter(|_| tag.tracks.has_main()).unwrap_or(mapped);
        let mapped = mapped.max(least);
        self.last[tag.track] = Some(mapped);
        self.high = self.high.max(mapped);
        mapped
    }
}

#[cfg(test)]
mod tests {
    use bytes::BufMut;

    use super::*;

    fn map(line: &mut Line, track: Track, timestamp: i64, arrival: i64) -> i64 {
        line.map(&Tag::new(track, timestamp, Bytes::from_static(&[0x27, 1, 0])), arrival)
    }

    #[test]
    fn timestamps_stay_unless_they_go_back() {
        let mut line = Line::default();
        assert_eq!(map(&mut line, Track::Video, 1_000, 0), 1_000);
        assert_eq!(map(&mut line, Track::Audio, 990, 0), 990);
        assert_eq!(map(&mut line, Track::Video, 1_040, 40), 1_040);
        assert_eq!(map(&mut line, Track::Video, 1_020, 60), 1_040);
        assert_eq!(map(&mut line, Track::Video, 91_000, 90_000), 91_000, "a hole keeps its length");
        assert_eq!(map(&mut line, Track::Video, 0, 92_000), 93_000, "a clock that was set");
        assert_eq!(map(&mut line, Track::Audio, 40, 92_040), 93_040);
        assert_eq!(line.length(), 92_050);
    }

    #[test]
    fn odd_starts_begin_at_0() {
        for start in [-5, 1 << 31, 1 << 40, i64::MIN, i64::MAX] {
            let mut line = Line::default();
            let first = map(&mut line, Track::Video, start, 0);
            assert!((0..2).contains(&first), "{start}: {first}");
            assert!(map(&mut line, Track::Video, start.saturating_add(40), 0) <= 41);
        }
    }

    #[test]
    fn the_duration_stands_where_it_is_said() {
        let told =
            metadata::for_player(None, Presence::Absent, Presence::Absent, true, &Bounds::MOST);
        let mut file = Vec::new();
        flv::write_header(&mut file);
        flv::write_tag(&mut file, &Tag::new(Track::Data, 0, with_duration(&told)));
        let at = DURATION_AT as usize;
        assert_eq!(&file[at - 11..at], b"\x00\x08duration\x00");
        file[at..].as_mut().put_f64(7.5);
        let tag = flv::Reader::new(file.into()).unwrap().next().unwrap().unwrap();
        let read = amf0::decode(&tag.body).unwrap().remove(1);
        assert_eq!(read.property("duration").and_then(Value::as_number), Some(7.5));
    }
}
