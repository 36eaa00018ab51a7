use bytes::Bytes;
use media::{Position, Tag, Track, TrackSet};

use super::super::{Recorder, Source};
use super::*;
use crate::status::RecordingInfo;

const PUBLICATION: PublicationId = PublicationId([7; 16]);

/// A journal with two seconds of pictures and sound, which has ended.
fn record(dir: &Path) -> PathBuf {
    let recorder = Recorder::open(dir, 0);
    recorder.set_recorded([("camera".parse().unwrap(), std::time::UNIX_EPOCH)]);
    let camera = recorder.feed("camera").unwrap();
    let now = std::time::SystemTime::now();
    camera.begin(PUBLICATION, now, Source::Here);
    let avc = [0x17, 0, 0, 0, 0, 1, 0x64, 0, 0x1f, 0xff, 0xe1, 0, 0, 1];
    let mut tags = vec![(Track::Video, 0, avc.to_vec())];
    tags.push((Track::Audio, 0, vec![0xaf, 0, 0x11, 0x90]));
    for frame in 0..50 {
        let first = if frame % 25 == 0 { 0x17 } else { 0x27 };
        tags.push((Track::Video, frame * 40, vec![first, 1, 0, 0, 0, frame as u8]));
        tags.push((Track::Audio, frame * 40, vec![0xaf, 1, frame as u8]));
    }
    let mut previous = TrackSet::<Option<u64>>::default();
    for (number, (track, timestamp, body)) in (0..).zip(tags) {
        let previous = previous[track].replace(number);
        let position = Position { publication: PUBLICATION, number, previous };
        camera.append(position, &Tag::new(track, timestamp, Bytes::from(body)), now);
    }
    camera.ended(PUBLICATION, 102);
    recorder.close();
    recorder.list().remove(0).path
}

/// Lets files be made until the journal is empty.
fn make(dir: &Path) -> RecordingInfo {
    let recorder = Recorder::open(dir, 0);
    recorder.make_files(&Record::default(), Arc::new(|_| None));
    let started = Instant::now();
    let made = loop {
        let info = recorder.list().remove(0);
        if !info.journal {
            break info;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "{info:?} {:?}", recorder.alarm());
        std::thread::sleep(Duration::from_millis(10));
    };
    recorder.close();
    made
}

#[test]
fn a_crash_between_two_steps_costs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let journal = record(dir.path());
    let whole = fs::read(&journal).unwrap();
    let made = make(dir.path());
    assert_eq!((made.tags, made.files.len()), (102, 1));
    let file = journal.with_file_name(&made.files[0].name);
    let film = fs::read(&file).unwrap();
    assert_eq!(film.len() as u64, made.files[0].bytes);

    // Before the journal was emptied: the file is whole, and stays as it is.
    fs::write(&journal, &whole).unwrap();
    fs::write(&file, b"as it was").unwrap();
    assert_eq!(make(dir.path()).files, made.files);
    assert_eq!(fs::read(&file).unwrap(), b"as it was");

    // Before the document said so: the file is made anew, in its place.
    fs::write(&journal, &whole).unwrap();
    let begun = Document::read(&journal).unwrap();
    Document { complete: false, ..begun }.write(&journal).unwrap();
    assert_eq!(make(dir.path()).files, made.files);
    assert_eq!(fs::read(&file).unwrap(), film);

    // Before there was a document.
    fs::write(&journal, &whole).unwrap();
    fs::remove_file(&file).unwrap();
    fs::remove_file(Document::path(&journal)).unwrap();
    assert_eq!(make(dir.path()).files, made.files);
    assert_eq!(fs::read(&file).unwrap(), film);
}
