use bytes::Bytes;
use media::{Position, PublicationId};
use tempfile::TempDir;

use super::super::format::RecordHead;
use super::*;

const AVC: [u8; 14] = [0x17, 0, 0, 0, 0, 1, 0x64, 0, 0x1f, 0xff, 0xe1, 0, 0, 1];

/// Feeds tags with rising numbers to a film, and finds its files.
struct Stage {
    dir: TempDir,
    film: Film,
    number: u64,
    previous: TrackSet<Option<u64>>,
}

impl Stage {
    fn new(split: Split) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        let place = Box::new(move |part: u32, _| File::create(path.join(part.to_string())));
        let film = Film::new(1_000_000, split, place);
        Self { dir, film, number: 0, previous: TrackSet::default() }
    }

    fn tag(&mut self, kind: Kind, timestamp: i64, body: &[u8]) -> Result<(), FilmError> {
        let tag = Tag::new(kind, timestamp, Bytes::copy_from_slice(body));
        let publication = PublicationId([1; 16]);
        let number = self.number;
        let previous = self.previous[kind].replace(number);
        self.number += 1;
        let position = Position { publication, number, previous };
        let head = RecordHead::tag(position, &tag, UNIX_EPOCH);
        self.film.tag(&head, &tag, true)
    }

    fn video(&mut self, timestamp: i64, body: &[u8]) {
        self.tag(Kind::Video, timestamp, body).unwrap();
    }

    /// Headers, then a second of pictures and sound. The sounds come a little too often: counted,
    /// they may be 60 ms and a frame late.
    fn second(&mut self, second: i64) {
        self.video(0, &AVC);
        self.tag(Kind::Audio, 0, &[0xaf, 0, 0x11, 0x90]).unwrap();
        for frame in 0..25 {
            let first = if frame == 0 { 0x17 } else { 0x27 };
            self.video(second * 1_000 + frame * 40, &[first, 1, 0, 0, 0, 9, 9]);
        }
        for frame in 0..50 {
            self.tag(Kind::Audio, second * 1_000 + frame * 20, &[0xaf, 1, 7]).unwrap();
        }
    }

    /// As many numbers as are lost.
    fn lose(&mut self, tags: u64) {
        self.number += tags;
        for kind in [Kind::Video, Kind::Audio] {
            self.previous[kind] = Some(self.number - 1);
        }
        self.film.hole(tags);
    }

    fn finish(self) -> Vec<Part> {
        let parts = self.film.finish().unwrap();
        for (number, part) in (1..).zip(&parts) {
            let file = self.dir.path().join(format!("{number}"));
            assert_eq!(file.metadata().unwrap().len(), part.bytes);
        }
        parts
    }
}

#[test]
fn what_is_switched_off_is_whole_and_may_go_on() {
    let mut stage = Stage::new(Split::default());
    stage.second(0);
    assert!(stage.film.catch_up().unwrap());
    assert_eq!(stage.film.parts().map(|part| part.frames).collect::<Vec<_>>(), [75]);
    assert!(!stage.film.catch_up().unwrap(), "nothing waits");
    stage.lose(300);
    stage.second(4);
    let parts = stage.finish();
    assert_eq!(parts.len(), 1);
    assert_eq!(parts[0].frames, 150);
    assert!((4_960..=5_082).contains(&parts[0].length_ms), "{}", parts[0].length_ms);
    let [Mark { at_ms, tags, .. }] = parts[0].marks[..] else { panic!("{parts:?}") };
    assert_eq!((at_ms, tags), (980, 300));
}

#[test]
fn a_hole_that_stays_is_marked_and_keeps_its_length() {
    let mut stage = Stage::new(Split::default());
    stage.second(0);
    stage.lose(300);
    // Pictures go on at the next keyframe.
    stage.video(4_000, &[0x27, 1, 0, 0, 0, 9]);
    stage.second(5);
    assert_eq!(stage.film.left_out(), 0);
    let parts = stage.finish();
    assert_eq!(parts.len(), 1);
    assert_eq!(parts[0].frames, 150);
    assert_eq!(parts[0].marks.len(), 1);
    let Mark { at_ms, length_ms, tags } = parts[0].marks[0];
    assert_eq!((at_ms, tags), (980, 300));
    assert!((4_000..=4_020).contains(&length_ms), "{length_ms}");
    assert!((5_960..=6_082).contains(&parts[0].length_ms), "{}", parts[0].length_ms);
}

#[test]
fn parts_end_where_they_are_long_or_large() {
    for split in [
        Split { time: Some(Duration::from_secs(3)), bytes: None },
        Split { time: None, bytes: Some(3_900) },
    ] {
        let mut stage = Stage::new(split);
        (0..9).for_each(|second| stage.second(second));
        let parts = stage.finish();
        assert!((3..=5).contains(&parts.len()), "{}", parts.len());
        assert_eq!(parts.iter().map(|part| part.frames).sum::<u64>(), 9 * 75);
        assert_eq!(parts[0].started_ms, 1_000_000);
        for two in parts.windows(2) {
            let end = two[0].offset_ms + two[0].length_ms;
            assert!(end.abs_diff(two[1].offset_ms) <= 82, "{parts:?}");
            assert_eq!(two[1].started_ms, 1_000_000 + two[1].offset_ms as i64);
        }
    }
}

#[test]
fn another_configuration_begins_another_part() {
    let mut stage = Stage::new(Split::default());
    stage.second(0);
    stage.second(1);
    let mut other = AVC;
    other[8] = 0x28;
    stage.video(0, &other);
    for frame in 0..25 {
        let first = if frame == 0 { 0x17 } else { 0x27 };
        stage.video(2_000 + frame * 40, &[first, 1, 0, 0, 0, 9, 9]);
    }
    let dir = stage.dir.path().to_owned();
    let film = stage.film;
    let parts = film.finish().unwrap();
    assert_eq!(parts.iter().map(|part| part.frames).collect::<Vec<_>>(), [150, 25]);
    let has = |file: &str, level: u8| {
        let bytes = std::fs::read(dir.join(file)).unwrap();
        bytes.windows(4).any(|window| window == [1, 0x64, 0, level])
    };
    assert!(has("1", 0x1f) && !has("1", 0x28) && has("2", 0x28));
}

#[test]
fn what_has_no_place_is_told() {
    let mut stage = Stage::new(Split::default());
    stage.second(0);
    stage.tag(Kind::Audio, 0, b"\x95\x01mp4a\x01further").unwrap();
    assert_eq!(stage.film.left_out(), 1, "a further track");
    let error = stage.tag(Kind::Audio, 0, &[0xb2, 1, 2]).unwrap_err();
    assert_eq!(error.to_string(), "MP4 has no place for Speex");
    let mut stage = Stage::new(Split::default());
    stage.video(0, &[0x17, 1, 0, 0, 0, 9]);
    assert_eq!(stage.film.left_out(), 1, "without a header");
    assert_eq!(stage.finish(), []);
}

#[test]
fn odd_times_are_survived() {
    let mut stage = Stage::new(Split { time: Some(Duration::from_secs(10)), bytes: None });
    stage.second(0);
    for timestamp in [i64::MAX, i64::MIN, 0, -1, 1 << 40, i64::MAX, 5] {
        stage.video(timestamp, &[0x17, 1, 0x80, 0, 0, 9]);
        stage.tag(Kind::Audio, timestamp, &[0xaf, 1, 7]).unwrap();
        stage.film.hole(u64::MAX);
    }
    stage.finish();
}

#[test]
fn a_clock_that_stands_still_does_not_fill_the_memory() {
    let mut stage = Stage::new(Split::default());
    stage.video(0, &AVC);
    stage.video(0, &[0x17, 1, 0, 0, 0, 9]);
    for _ in 0..3 * FRAGMENT_FRAMES {
        stage.video(0, &[0x27, 1, 0, 0, 0, 9]);
        let waiting: usize = stage.film.lanes.iter().map(|lane| lane.waiting.len()).sum();
        assert!(waiting <= FRAGMENT_FRAMES + 1, "{waiting}");
    }
    assert_eq!(stage.finish()[0].frames, 3 * FRAGMENT_FRAMES as u64 + 1);
}

#[test]
fn another_configuration_with_every_frame_is_no_film() {
    let mut stage = Stage::new(Split::default());
    let mut parts = 0;
    let error = (0..).find_map(|frame: i64| {
        let mut header = AVC;
        header[8] = (frame % 2) as u8;
        let header = stage.tag(Kind::Video, frame * 40, &header);
        let told = header.and_then(|()| stage.tag(Kind::Video, frame * 40, &[0x17, 1, 0, 0, 0, 9]));
        parts = stage.film.parts().count();
        told.err().or_else(|| (frame > 2_000).then(|| panic!("{parts} files")))
    });
    assert!(matches!(error, Some(FilmError::Restless)) && parts <= MAX_CHANGES as usize, "{parts}");
}

#[test]
fn a_frame_of_another_codec_is_not_put_into_the_track() {
    let mut stage = Stage::new(Split::default());
    stage.tag(Kind::Audio, 0, &[0xaf, 0, 0x11, 0x90]).unwrap();
    stage.tag(Kind::Audio, 0, &[0xaf, 1, 7]).unwrap();
    // MP3 is its own header: another part.
    for frame in 1..3 {
        stage.tag(Kind::Audio, frame * 26, &[0x2f, 0xff, 0xfb, 0x90, 0xc0, 1]).unwrap();
    }
    // H.265 whose header has not come.
    stage.video(60, &AVC);
    stage.video(60, &[0x17, 1, 0, 0, 0, 9]);
    stage.video(100, b"\x93hvc1k");
    assert_eq!(stage.film.left_out(), 1);
    let frames: Vec<_> = stage.finish().iter().map(|part| part.frames).collect();
    assert_eq!(frames, [1, 3], "AAC, and what follows it");
}
