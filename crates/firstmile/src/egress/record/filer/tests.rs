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
fn a_fault_of_the_thread_is_an_alarm_and_the_journal_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let journal = record(dir.path());
    let before = fs::read(&journal).unwrap();
    let recorder = Recorder::open(dir.path(), 0);
    recorder.make_files(&Record::default(), Arc::new(|_| panic!("as a fault would")));
    let started = Instant::now();
    let alarm = loop {
        if let Some(alarm) = recorder.alarm() {
            break alarm;
        }
        assert!(started.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(10));
    };
    assert!(alarm.starts_with("no files are made of recordings any more"), "{alarm}");
    recorder.close();
    assert_eq!(fs::read(&journal).unwrap(), before);
    assert_eq!(make(dir.path()).tags, 102, "the next start");
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

fn filer(recorder: &Recorder, live: Option<PublicationId>) -> Filer<'_> {
    Filer {
        shared: &recorder.0,
        settings: Settings::of(&Record::default(), Arc::new(move |_| live)),
        open: HashMap::new(),
        complete: HashMap::new(),
        failed: HashMap::new(),
        no_film: HashSet::new(),
    }
}

/// A recording that goes on, with these bodies of video so far.
fn on_air(dir: &Path, bodies: &[&[u8]]) -> (Recorder, PathBuf) {
    let recorder = Recorder::open(dir, 0);
    recorder.set_recorded([("camera".parse().unwrap(), std::time::UNIX_EPOCH)]);
    let camera = recorder.feed("camera").unwrap();
    let now = std::time::SystemTime::now();
    camera.begin(PUBLICATION, now, Source::Here);
    for (number, body) in (0..).zip(bodies) {
        let previous = u64::checked_sub(number, 1);
        let position = Position { publication: PUBLICATION, number, previous };
        let tag = Tag::new(Track::Video, 40 * number as i64, Bytes::copy_from_slice(body));
        camera.append(position, &tag, now);
    }
    let written = |index: &Index| index.unwritten == 0 && index.file_len > 0;
    wait(|| recorder.0.lock().journals.get(&PUBLICATION).is_some_and(written));
    let path = recorder.list().remove(0).path;
    (recorder, path)
}

#[track_caller]
fn wait(is_so: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(10));
    }
}

const AVC: &[u8] = &[0x17, 0, 0, 0, 0, 1, 0x64, 0, 0x1f, 0xff, 0xe1, 0, 0, 1];
const KEY: &[u8] = &[0x17, 1, 0, 0, 0, 9];

#[test]
fn what_mp4_has_no_place_for_is_not_begun_again_and_again() {
    let dir = tempfile::tempdir().unwrap();
    let (recorder, _) = on_air(dir.path(), &[AVC, KEY, &[0x14, 1, 2]]);
    let mut filer = filer(&recorder, Some(PUBLICATION));
    assert_eq!(filer.tasks(false).len(), 1);
    filer.turn(false);
    assert_eq!(filer.tasks(false).len(), 0, "it waits for its end");
    recorder.feed("camera").unwrap().ended(PUBLICATION, 3);
    wait(|| recorder.0.lock().journals[&PUBLICATION].is_complete());
    filer.settings.on_air = Arc::new(|_| None);
    wait_for_files(&mut filer);
    let files = recorder.list().remove(0).files;
    assert_eq!(files.len(), 1);
    assert!(files[0].name.ends_with(".flv"), "{files:?}");
    recorder.close();
}

fn wait_for_files(filer: &mut Filer<'_>) {
    let started = Instant::now();
    while !filer.shared.lock().files.get(&PUBLICATION).is_some_and(|told| told.complete) {
        assert!(started.elapsed() < Duration::from_secs(60));
        filer.turn(false);
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_file_that_is_made_while_its_recording_is_deleted_does_not_stay() {
    let dir = tempfile::tempdir().unwrap();
    let (recorder, journal) = on_air(
        dir.path(),
        &[AVC, KEY, AVC, &[0x17, 0, 0, 0, 0, 1, 0x42, 0, 0x1f, 0xff, 0xe1, 0, 0, 1], KEY],
    );
    let mut filer = filer(&recorder, Some(PUBLICATION));
    filer.turn(false);
    let name = Document::read(&journal).unwrap().files.remove(0).name;
    let (file, aside) = (journal.with_file_name(name), dir.path().join("aside"));
    recorder.feed("camera").unwrap().ended(PUBLICATION, 5);
    // Named in the document, and made after that was removed.
    fs::rename(&file, &aside).unwrap();
    recorder.delete(&hex(PUBLICATION)).unwrap();
    fs::rename(&aside, &file).unwrap();
    wait(|| recorder.0.lock().journals[&PUBLICATION].is_emptied());
    filer.turn(false);
    assert!(!file.exists());
    recorder.close();
}

#[test]
fn a_journal_stays_where_its_file_was_taken_away() {
    let dir = tempfile::tempdir().unwrap();
    let journal = record(dir.path());
    let recorder = Recorder::open(dir.path(), 0);
    let mut filer = filer(&recorder, None);
    filer.settings.keep_journal = true;
    wait_for_files(&mut filer);
    let name = recorder.list().remove(0).files.remove(0).name;
    let (file, aside) = (journal.with_file_name(name), dir.path().join("aside"));
    fs::rename(&file, &aside).unwrap();
    // The owner has changed the configuration. Nobody takes jobs from the queue any more.
    recorder.close();
    filer.settings.keep_journal = false;
    filer.turn(false);
    assert_eq!(recorder.0.lock().queue.len(), 0);
    fs::rename(&aside, &file).unwrap();
    filer.turn(false);
    assert_eq!(recorder.0.lock().queue.len(), 1);
}
