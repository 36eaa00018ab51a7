//! What went in compared with what came out: one line per coded frame, by ffmpeg's framemd5.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use media::{Role, Track};

use crate::fixture;
use crate::process::require;

/// One coded frame.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Decoding time in the file, in milliseconds.
    pub dts: i64,
    /// Whether decoding can start here; of audio, always.
    pub key: bool,
    /// Bytes.
    pub size: u64,
    /// MD5 of the bytes, in hexadecimal.
    pub md5: String,
}

impl Frame {
    fn is(&self, other: &Self) -> bool {
        self.size == other.size && self.md5 == other.md5
    }
}

/// The coded frames of an FLV file, in the order of the file.
#[derive(Clone, Debug, Default)]
pub struct Frames {
    /// Of the video track.
    pub video: Vec<Frame>,
    /// Of the audio track.
    pub audio: Vec<Frame>,
}

impl Frames {
    /// Reads a file with `ffmpeg -c copy -f framemd5`.
    ///
    /// # Errors
    ///
    /// If ffmpeg cannot read it.
    ///
    /// # Panics
    ///
    /// If ffmpeg is not installed.
    #[track_caller]
    pub fn of(path: &Path) -> Result<Self> {
        require("ffmpeg");
        let output = Command::new("ffmpeg")
            .args(["-nostdin", "-v", "error", "-copyts", "-i"])
            .arg(path)
            .args("-map 0:v? -map 0:a? -c copy -copyinkf -f framemd5 -".split(' '))
            .output()?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            bail!("ffmpeg cannot read {}: {stderr}", path.display());
        }
        let mut frames = Self::parse(&String::from_utf8(output.stdout)?)?;
        // framemd5 does not say which frames are keyframes; the file does.
        let keys = fixture::tags(path)
            .into_iter()
            .filter(|tag| tag.track == Track::Video)
            .filter(|tag| matches!(tag.role, Role::Keyframe | Role::Frame) && tag.body.len() > 5)
            .map(|tag| tag.is_keyframe());
        frames.video.iter_mut().zip(keys).for_each(|(frame, key)| frame.key = key);
        Ok(frames)
    }

    fn parse(text: &str) -> Result<Self> {
        let mut frames = Self::default();
        let mut kinds = Vec::new();
        for line in text.lines() {
            if let Some(kind) = line.strip_prefix("#media_type ") {
                kinds.push(kind.split_once(": ").context("a media type")?.1.to_owned());
            }
            if line.starts_with('#') {
                continue;
            }
            let fields: Vec<_> = line.split(',').map(str::trim).collect();
            let [stream, dts, _, _, size, md5, ..] = fields[..] else {
                bail!("not a line of framemd5: {line:?}");
            };
            let frame =
                Frame { dts: dts.parse()?, key: true, size: size.parse()?, md5: md5.into() };
            match kinds.get(stream.parse::<usize>()?).map(String::as_str) {
                Some("video") => frames.video.push(frame),
                Some("audio") => frames.audio.push(frame),
                kind => bail!("a stream of kind {kind:?}: {line:?}"),
            }
        }
        Ok(frames)
    }
}

/// Asserts that the played frames are the source's, all of them, bit for bit.
///
/// # Panics
///
/// With the first difference.
#[track_caller]
pub fn assert_equal(source: &Frames, played: &Frames) {
    for (track, source, played) in tracks(source, played) {
        let count = source.len().max(played.len());
        for index in 0..count {
            match (source.get(index), played.get(index)) {
                (Some(a), Some(b)) if a.is(b) => {}
                _ => panic!("{track} differs\n{}", differ(source, 0, played, index)),
            }
        }
    }
}

/// Asserts that each track played is a run of the source's without a hole, and that video starts
/// at a keyframe; with `looped`, the source starts again after its end.
///
/// Returns at which frame of the source the video (without video: the audio) began.
///
/// # Panics
///
/// With the first difference, or if nothing was played.
#[track_caller]
pub fn assert_contiguous_run(source: &Frames, played: &Frames, looped: bool) -> usize {
    let mut began = None;
    for (track, source, played) in tracks(source, played) {
        if source.is_empty() {
            assert!(played.is_empty(), "the source has no {track}, {} frames came", played.len());
            continue;
        }
        assert!(!played.is_empty(), "no {track} was played");
        let at = |index: usize| source.get(if looped { index % source.len() } else { index });
        let run = |start: usize| {
            let same = |(index, frame): &(usize, &Frame)| {
                at(start + index).is_some_and(|expected| expected.is(frame))
            };
            played.iter().enumerate().take_while(same).count()
        };
        // Equal frames (silence) may begin in several places: the longest run is meant.
        let start = (0..source.len()).max_by_key(|&start| (run(start), usize::MAX - start));
        let start = start.expect("the source has frames");
        let length = run(start);
        assert!(
            length == played.len(),
            "{track} is not a run of the source without a hole\n{}",
            differ(source, start, played, length)
        );
        assert!(source[start].key, "{track} starts at frame {start}, which is not a keyframe");
        began.get_or_insert(start);
    }
    began.expect("the source has frames")
}

fn tracks<'a>(
    source: &'a Frames,
    played: &'a Frames,
) -> [(&'static str, &'a [Frame], &'a [Frame]); 2] {
    [("video", &source.video, &played.video), ("audio", &source.audio, &played.audio)]
}

/// The place of the first difference with its neighbours, side by side.
fn differ(source: &[Frame], start: usize, played: &[Frame], index: usize) -> String {
    let mut text = format!(
        "{} frames in the source, {} played; the first difference is at played frame {index}, \
         source frame {}\n{:>7}  {:<36}  {:<36}\n",
        source.len(),
        played.len(),
        start + index,
        "",
        "source",
        "played",
    );
    let show = |frame: Option<&Frame>| match frame {
        None => "-".to_owned(),
        Some(frame) => {
            let key = if frame.key { 'K' } else { ' ' };
            format!("{key} {:>8} ms {:>7} B {}", frame.dts, frame.size, &frame.md5[..8])
        }
    };
    for place in index.saturating_sub(3)..index + 4 {
        let mark = if place == index { '>' } else { ' ' };
        let (a, b) = (source.get((start + place) % source.len().max(1)), played.get(place));
        let _ = writeln!(text, "{mark}{place:>6}  {:<36}  {:<36}", show(a), show(b));
    }
    if let Some(frame) = played.get(index) {
        let elsewhere = source.iter().position(|other| other.is(frame));
        let _ = match elsewhere {
            Some(place) => writeln!(text, "played frame {index} is frame {place} of the source"),
            None => writeln!(text, "played frame {index} is nowhere in the source"),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(range: impl IntoIterator<Item = usize>) -> Frames {
        let frame = |index: usize| Frame {
            dts: index as i64 * 33,
            key: index.is_multiple_of(60),
            size: 10 + index as u64,
            md5: format!("{index:032x}"),
        };
        Frames { video: range.into_iter().map(frame).collect(), audio: Vec::new() }
    }

    #[test]
    fn reads_framemd5() {
        let text = "#format: frame checksums\n#media_type 0: audio\n#media_type 1: video\n\
                    0,  0,  0, 23, 263, fd535a3e8c3c603c86eb79c73d792045\n\
                    1, 23, 56, 33, 4704, 769802744d6386ddb2071398d1e24a79, S=1, 8, 00\n";
        let frames = Frames::parse(text).unwrap();
        assert_eq!((frames.audio[0].size, frames.video[0].size), (263, 4704));
        assert_eq!(frames.video[0].dts, 23);
    }

    #[test]
    fn a_run_may_begin_at_any_keyframe_and_wrap() {
        let source = frames(0..300);
        assert_equal(&source, &source);
        assert_eq!(assert_contiguous_run(&source, &frames(60..130), false), 60);
        let wrapped = frames((240..300).chain(0..90));
        assert_eq!(assert_contiguous_run(&source, &wrapped, true), 240);
    }

    #[test]
    #[should_panic(expected = "played frame 10 is frame 71 of the source")]
    fn a_hole_is_shown() {
        assert_contiguous_run(&frames(0..300), &frames((60..70).chain(71..90)), false);
    }

    #[test]
    #[should_panic(expected = "which is not a keyframe")]
    fn a_run_from_between_keyframes_is_refused() {
        assert_contiguous_run(&frames(0..300), &frames(61..90), false);
    }

    #[test]
    #[should_panic(expected = "video differs")]
    fn a_missing_end_is_a_difference() {
        assert_equal(&frames(0..300), &frames(0..299));
    }
}
