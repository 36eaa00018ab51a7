//! An FLV file made of a journal: every tag as the encoder sent it.

use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

use bytes::{Bytes, BytesMut};
use media::{Role, Tag, Track, TrackSet, flv};
use rtmp::amf0::{self, Bounds, Value};
use rtmp::metadata::{self, Presence};

use super::export::{ExportError, Exported, unfinished};
use super::format::RecordHead;
use super::line::Line;
use super::scan::JournalError;
use super::walk::{Step, Walk};

/// Where the duration stands in the file: after the file's and the tag's header, `onMetaData`, the
/// array's marker and length, and the property's name and marker.
const DURATION_AT: u64 = 13 + 11 + 13 + 5 + 10 + 1;

/// Writes the FLV file of a journal, which may be one that is being written. An older file is
/// replaced once the new one is whole.
///
/// # Errors
///
/// [`ExportError`]; nothing is left behind then.
pub(super) fn export(journal: &Path, file: &Path) -> Result<Exported, ExportError> {
    let part = unfinished(file);
    let exported = write(journal, &part).and_then(|exported| {
        fs::rename(&part, file).map_err(ExportError::Write)?;
        Ok(Exported { files: vec![file.to_owned()], ..exported })
    });
    if exported.is_err() {
        let _ = fs::remove_file(part);
    }
    exported
}

fn write(journal: &Path, file: &Path) -> Result<Exported, ExportError> {
    let walk = Walk::of(journal)?;
    let file = File::create(file).map_err(ExportError::Write)?;
    let out = BufWriter::with_capacity(1 << 20, file);
    Export::new(walk, out).run()
}

struct Export<W> {
    walk: Walk,
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
    fn new(walk: Walk, out: W) -> Self {
        Self {
            walk,
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
        loop {
            match self.walk.step()? {
                Step::Tag(head, tag) => self.tag(&head, tag)?,
                Step::Hole(_) => self.exported.holes += 1,
                Step::End(open_hole) => {
                    self.exported.open_hole = open_hole;
                    return self.finish().map_err(ExportError::Write);
                }
            }
        }
    }

    /// Writes what comes before the first tag.
    fn start(&mut self) -> Result<(), ExportError> {
        self.presence = [self.presence_of(Track::Video)?, self.presence_of(Track::Audio)?];
        flv::write_header(&mut self.buffer);
        // Which of video and audio there are (FLV 10.1 §E.2): players wait for those that are named.
        let [video, audio] = self.presence.map(|presence| presence != Presence::Absent);
        self.buffer[4] = u8::from(video) | u8::from(audio) << 2;
        let original = self.walk.first_metadata()?.map(|tag| tag.body);
        self.told = self.rebuilt(original.as_deref());
        let with_duration = Tag::new(Track::Data, 0, with_duration(&self.told));
        self.put(&with_duration).map_err(ExportError::Write)
    }

    fn presence_of(&mut self, track: Track) -> Result<Presence, JournalError> {
        if !self.walk.has(track) {
            return Ok(Presence::Absent);
        }
        let codec = self.walk.first_of(track)?.and_then(|tag| tag.codec);
        Ok(codec.map_or(Presence::AsAnnounced, Presence::Coded))
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
            self.gate |= has_hole && self.walk.has_keyframes();
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

#[cfg(test)]
mod tests {
    use bytes::BufMut;

    use super::*;

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
