//! The test clip, and media with unusual shapes.

use std::path::{Path, PathBuf};
use std::process::Command;

use bytes::Bytes;
use media::{Tag, Track, flv};

use crate::process::require;

/// `assets/clip.flv`: 10 s of H.264 High 640x360 at 30 frames a second, a keyframe every 60, no
/// B-frames, with AAC 44.1 kHz mono.
pub fn clip() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/clip.flv")
}

/// Every tag of a file.
///
/// # Panics
///
/// If it is not a whole FLV file.
#[track_caller]
pub fn tags(path: &Path) -> Vec<Tag> {
    let file = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let reader = flv::Reader::new(file.into()).expect("an FLV file");
    reader.collect::<Result<_, _>>().expect("a whole FLV file")
}

/// The tags that a file holds now, while it is written; none if it does not exist yet.
pub fn tags_so_far(path: &Path) -> Vec<Tag> {
    let file = std::fs::read(path).unwrap_or_default();
    let Ok(reader) = flv::Reader::new(Bytes::from(file)) else {
        return Vec::new();
    };
    reader.map_while(Result::ok).collect()
}

/// Writes an FLV file.
///
/// # Panics
///
/// If it cannot be written.
pub fn write(path: &Path, tags: &[Tag]) {
    let mut file = Vec::new();
    flv::write_header(&mut file);
    tags.iter().for_each(|tag| flv::write_tag(&mut file, tag));
    std::fs::write(path, file).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// The first `seconds` of the clip, as `excerpt.flv` in `dir`.
///
/// # Panics
///
/// If it cannot be written.
pub fn excerpt(dir: &Path, seconds: i64) -> PathBuf {
    let path = dir.join("excerpt.flv");
    let mut tags = tags(&clip());
    tags.retain(|tag| tag.timestamp < seconds * 1000);
    write(&path, &tags);
    path
}

/// `seconds` of the clip's sound alone, as `audio.flv` in `dir`.
///
/// # Panics
///
/// If it cannot be written.
pub fn audio_only(dir: &Path, seconds: i64) -> PathBuf {
    let path = dir.join("audio.flv");
    let mut tags = tags(&clip());
    tags.retain(|tag| tag.track == Track::Audio && tag.timestamp < seconds * 1000);
    write(&path, &tags);
    path
}

/// A minute-long film whose pictures are seconds apart, as `film.flv` in `dir`: each GOP of the
/// clip's first is stretched so that `minutes` of timestamps fit into a few hundred frames.
///
/// Its timestamps start at `start` milliseconds, so that a test can pass 2^24 (where FLV and RTMP
/// need their extended field) or 2^32.
///
/// # Panics
///
/// If it cannot be written.
pub fn stretched(dir: &Path, minutes: i64, start: i64) -> PathBuf {
    let path = dir.join("film.flv");
    let source = tags(&clip());
    let last = source.iter().map(|tag| tag.timestamp).max().expect("the clip has tags");
    let factor = minutes * 60_000 / last;
    let stretched = source.into_iter().map(|tag| Tag {
        timestamp: match tag.is_header() {
            true => start,
            false => start + tag.timestamp * factor,
        },
        ..tag
    });
    write(&path, &stretched.collect::<Vec<_>>());
    path
}

/// 20 s with B-frames and a keyframe only every 10 s, as `bframes.flv` in `dir`.
///
/// # Panics
///
/// If ffmpeg is missing or fails.
#[track_caller]
pub fn b_frames(dir: &Path) -> PathBuf {
    let path = dir.join("bframes.flv");
    let output = "-c:v libx264 -preset ultrafast -bf 3 -b_strategy 0 -g 300 -keyint_min 300 \
        -sc_threshold 0 -pix_fmt yuv420p -c:a aac -b:a 64k -ac 1 -t 20 \
        -flvflags no_duration_filesize -f flv";
    ffmpeg(
        Command::new("ffmpeg")
            .args("-f lavfi -i testsrc2=size=320x180:rate=30".split(' '))
            .args("-f lavfi -i sine=frequency=440:sample_rate=44100".split(' '))
            .args(output.split_whitespace())
            .arg(&path),
    );
    path
}

#[track_caller]
fn ffmpeg(command: &mut Command) {
    require("ffmpeg");
    let output = command.args(["-nostdin", "-v", "error", "-y"]).output().expect("ffmpeg starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[cfg(test)]
mod tests {
    use super::*;
    use media::Role;

    #[test]
    fn the_clip_is_what_it_says() {
        let tags = tags(&clip());
        let video: Vec<_> = tags
            .iter()
            .filter(|tag| tag.track == Track::Video)
            .filter(|tag| matches!(tag.role, Role::Keyframe | Role::Frame))
            .collect();
        assert_eq!(video.len(), 300);
        for (index, tag) in video.iter().enumerate() {
            assert_eq!(tag.is_keyframe(), index % 60 == 0, "picture {index}");
            assert_eq!(tag.body[2..5], [0, 0, 0], "picture {index} has no composition time");
        }
        assert!(tags.is_sorted_by_key(|tag| tag.timestamp));
    }

    #[test]
    fn stretches_over_the_extended_timestamp() {
        let dir = tempfile::tempdir().unwrap();
        let tags = tags(&stretched(dir.path(), 5, 0x00ff_ffff - 60_000));
        assert!(tags[0].timestamp < 0x00ff_ffff);
        let span = tags[tags.len() - 1].timestamp - tags[0].timestamp;
        assert!((280_000..=300_000).contains(&span), "{span}");
    }
}
