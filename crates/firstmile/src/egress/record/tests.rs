use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant, UNIX_EPOCH};

use bytes::Bytes;
use hub::{Cut, Feed};
use media::{Position, PublicationId, Role, Tag, Track, TrackSet};
use proptest::prelude::*;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::*;

const PUBLICATION: PublicationId = PublicationId([7; 16]);
const CAMERA: &str = "camera";

/// The recorder once everything is in its files.
fn written(recorder: &Recorder) -> &Recorder {
    while recorder.0.lock().queued > 0 {
        std::thread::yield_now();
    }
    recorder
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

/// A recorder whose only feed is recorded since second 100.
fn open(dir: &Path) -> Recorder {
    let recorder = Recorder::open(dir, 0);
    recorder.set_recorded([(CAMERA.parse().unwrap(), at(100))]);
    recorder
}

fn camera(recorder: &Recorder) -> FeedRecorder {
    recorder.feed(CAMERA).unwrap()
}

fn relay() -> Source {
    Source::Relay("berlin".into())
}

/// Headers, then a keyframe every fourth picture, with sound in between.
fn publication(count: u64) -> Vec<(Position, Tag)> {
    let mut previous = TrackSet::<Option<u64>>::default();
    let tag = |number: u64| {
        let timestamp = number as i64 * 20;
        let (track, body) = match number {
            0 => (
                Track::Data,
                b"\x02\x00\x0d@setDataFrame\x02\x00\x0aonMetaData\x08\x00\x00\x00\x00\x00\x00\x09"
                    .to_vec(),
            ),
            1 => (Track::Video, vec![0x17, 0, 0, 0, 0, 1]),
            2 => (Track::Audio, vec![0xaf, 0, 0x12]),
            _ if number.is_multiple_of(2) => (Track::Audio, vec![0xaf, 1, number as u8]),
            _ => {
                let first = if number % 8 == 3 { 0x17 } else { 0x27 };
                (Track::Video, vec![first, 1, 0, 0, 0, number as u8, 1, 2, 3])
            }
        };
        Tag::new(track, timestamp, body.into())
    };
    let with_position = |number: u64| {
        let tag = tag(number);
        let previous = previous[tag.track].replace(number);
        (Position { publication: PUBLICATION, number, previous }, tag)
    };
    (0..count).map(with_position).collect()
}

fn append(feed: &FeedRecorder, (position, tag): &(Position, Tag)) {
    feed.append(*position, tag, at(200));
}

fn journal(dir: &Path) -> PathBuf {
    dir.join(CAMERA).join(format!("{}.journal", "07".repeat(16)))
}

/// The bodies of video and audio in the file that the journal makes.
fn exported(dir: &Path) -> (Exported, Vec<Bytes>) {
    let file = dir.join("out.flv");
    let exported = export(&journal(dir), &file).unwrap();
    let read = media::flv::Reader::new(fs::read(&file).unwrap().into()).unwrap();
    let tags: Vec<Tag> = read.collect::<Result<_, _>>().unwrap();
    assert_eq!(tags[0].role, Role::Metadata);
    assert!(tags[0].body.starts_with(b"\x02\x00\x0aonMetaData\x08"), "for players");
    assert_eq!(exported.tags, tags.len() as u64);
    let media = tags.into_iter().filter(|tag| tag.track != Track::Data);
    (exported, media.map(|tag| tag.body).collect())
}

/// What the file must hold: up to the first number that is neither there nor gone, and no video
/// after a hole in it before the next keyframe.
fn expected(all: &[(Position, Tag)], state: &BTreeMap<u64, bool>) -> Vec<Bytes> {
    let mut bodies = Vec::new();
    let mut last = TrackSet::<Option<u64>>::default();
    let mut gate = false;
    for (position, tag) in all {
        match state.get(&position.number) {
            None => break,
            Some(false) => continue,
            Some(true) => {}
        }
        let has_hole = position.previous != last[tag.track];
        last[tag.track] = Some(position.number);
        if tag.track == Track::Video {
            gate = (gate || has_hole) && !tag.is_keyframe();
            if gate && !tag.is_header() {
                continue;
            }
        }
        if tag.track != Track::Data {
            bodies.push(tag.body.clone());
        }
    }
    bodies
}

#[derive(Clone, Debug)]
enum Step {
    Append(u64),
    Gone(u64, u64),
    Restart,
    Ended,
}

const COUNT: u64 = 40;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        30 => (0..COUNT).prop_map(Step::Append),
        3 => (0..COUNT, 0..5u64).prop_map(|(first, more)| Step::Gone(first, first + more)),
        1 => Just(Step::Restart),
        1 => Just(Step::Ended),
    ];
    // Most of the tags come in order, as they do.
    (proptest::collection::vec(step, 0..60), 0..COUNT).prop_map(|(mut steps, live)| {
        let at = steps.len() / 2;
        steps.splice(at..at, (0..live).map(Step::Append));
        steps
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_order_makes_the_same_file(steps in steps()) {
        let dir = tempfile::tempdir().unwrap();
        let mut all = publication(COUNT);
        // The file has keyframes only if one came; here one always does.
        let mut state = BTreeMap::from([(3, true)]);
        let mut recorder = open(dir.path());
        let begin = |recorder: &Recorder| camera(recorder).begin(PUBLICATION, at(150), relay());
        begin(&recorder);
        append(&camera(&recorder), &all[3]);
        let (mut has_ended, mut is_sealed) = (false, false);
        for step in steps {
            match step {
                Step::Append(number) => {
                    append(&camera(&recorder), &all[number as usize]);
                    if !is_sealed {
                        state.insert(number, true);
                    }
                }
                Step::Gone(first, last) => {
                    camera(&recorder).gone(PUBLICATION, &[(first, last)]);
                    (first..=last).for_each(|number| { state.entry(number).or_insert(false); });
                }
                Step::Ended => {
                    camera(&recorder).ended(PUBLICATION, COUNT);
                    has_ended = true;
                }
                Step::Restart => {
                    recorder.close();
                    recorder = open(dir.path());
                    begin(&recorder);
                    // What is gone stays so once the journal is closed for ever.
                    is_sealed = has_ended && (0..COUNT).all(|number| state.contains_key(&number));
                }
            }
        }
        let feed = camera(&recorder);
        let highest = state.iter().filter(|(_, there)| **there).map(|(n, _)| *n).max().unwrap();
        let wanted = feed.wanted(PUBLICATION, COUNT);
        let wanted: Vec<u64> = wanted.iter().flat_map(|(first, last)| *first..=*last).collect();
        let missing: Vec<_> = (0..COUNT).filter(|number| !state.contains_key(number)).collect();
        prop_assert_eq!(&wanted, &missing);
        let info = &written(&recorder).list().pop();
        recorder.close();
        if let Some(info) = info {
            prop_assert_eq!(info.tags, state.values().filter(|there| **there).count() as u64);
            let known = if has_ended { COUNT } else { highest + 1 };
            let open = missing.iter().filter(|number| **number < known).count() as u64;
            prop_assert_eq!(info.missing, open);
            prop_assert_eq!(info.complete, has_ended && open == 0);
        }
        let (_, bodies) = exported(dir.path());
        all.truncate(highest as usize + 1);
        prop_assert_eq!(bodies, expected(&all, &state));
        // Complete or not, it is found again as it was.
        let again = open(dir.path());
        prop_assert_eq!(camera(&again).wanted(PUBLICATION, COUNT), ranges(&missing));
        again.close();
    }

    #[test]
    fn any_damage_is_survived(
        cut in 0usize..2_000,
        spoilt in proptest::collection::vec((0usize..2_000, any::<u8>()), 0..8),
        more in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let dir = tempfile::tempdir().unwrap();
        record(dir.path(), 20);
        let mut bytes = fs::read(journal(dir.path())).unwrap();
        for (at, byte) in spoilt {
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
        }
        bytes.truncate(cut.max(20));
        bytes.extend_from_slice(&more);
        fs::write(journal(dir.path()), &bytes).unwrap();
        let _ = export(&journal(dir.path()), &dir.path().join("out.flv"));
        // Whatever was lost is wanted, comes again, and the file is whole.
        let recorder = open(dir.path());
        let feed = camera(&recorder);
        feed.begin(PUBLICATION, at(150), relay());
        publication(20).iter().for_each(|tag| append(&feed, tag));
        feed.ended(PUBLICATION, 20);
        prop_assert_eq!(feed.wanted(PUBLICATION, 20), []);
        recorder.close();
        let (exported, bodies) = exported(dir.path());
        prop_assert_eq!(exported.open_hole, None);
        prop_assert_eq!(bodies.len(), 19);
    }

    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..4_000)) {
        let dir = tempfile::tempdir().unwrap();
        let mut file = head().encode();
        for bytes in [bytes.clone(), { file.extend_from_slice(&bytes); file }] {
            fs::create_dir_all(dir.path().join(CAMERA)).unwrap();
            fs::write(journal(dir.path()), &bytes).unwrap();
            let _ = scan::load(&journal(dir.path()));
            let _ = export(&journal(dir.path()), &dir.path().join("out.flv"));
        }
    }
}

proptest! {
    /// Records whose checksums are right, and nothing else.
    #[test]
    fn any_record_is_survived(
        records in proptest::collection::vec(
            (
                0u8..6,
                any::<u8>(),
                prop_oneof![0u32..20, any::<u32>()],
                prop_oneof![0u64..20, any::<u64>()],
                prop_oneof![0u64..20, any::<u64>()],
                any::<i64>(),
                any::<i64>(),
            ),
            0..30,
        ),
        is_from_here in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let source = if is_from_here { Source::Here } else { relay() };
        let mut file = FileHead { source, ..head() }.encode();
        for (kind, flags, length, number, other, timestamp, arrival) in records {
            let body = vec![0x17; length.min(20) as usize];
            let at = file.len();
            file.extend_from_slice(format::RECORD_MAGIC);
            file.extend_from_slice(&[kind, flags]);
            file.extend_from_slice(&length.to_be_bytes());
            file.extend_from_slice(&number.to_be_bytes());
            file.extend_from_slice(&other.to_be_bytes());
            file.extend_from_slice(&timestamp.to_be_bytes());
            file.extend_from_slice(&arrival.to_be_bytes());
            file.extend_from_slice(&crc::crc32(0, &body).to_be_bytes());
            let crc = crc::crc32(head().seed(), &file[at..]);
            file.extend_from_slice(&crc.to_be_bytes());
            file.extend_from_slice(&body);
        }
        fs::create_dir_all(dir.path().join(CAMERA)).unwrap();
        fs::write(journal(dir.path()), &file).unwrap();
        let recorder = open(dir.path());
        let feed = camera(&recorder);
        feed.begin(PUBLICATION, at(150), relay());
        publication(20).iter().for_each(|tag| append(&feed, tag));
        feed.ended(PUBLICATION, 30);
        let _ = (feed.wanted(PUBLICATION, u64::MAX), feed.publications(), recorder.status());
        recorder.close();
        let exported = export(&journal(dir.path()), &dir.path().join("out.flv"));
        prop_assert!(exported.is_ok(), "{exported:?}");
        prop_assert!(list(dir.path()).is_ok_and(|list| list.len() == 1));
    }
}

fn head() -> FileHead {
    FileHead {
        feed: CAMERA.parse().unwrap(),
        publication: PUBLICATION,
        started: 150_000,
        wants_all: true,
        source: relay(),
        secret: 9,
    }
}

/// What a relay puts into bodies that it wants to be taken for the end of a journal.
fn seal(seed: u32) -> Vec<u8> {
    let summary = [u64::MAX, u64::MAX, u64::MAX, 1, 1 << 63, u64::MAX >> 1];
    let summary: Vec<u8> = summary.into_iter().flat_map(u64::to_be_bytes).collect();
    let mut bytes = Vec::new();
    format::RecordHead::sealed(5, &summary).encode(seed, &mut bytes);
    bytes.extend_from_slice(&summary);
    bytes
}

#[test]
fn no_body_ends_a_journal() {
    let dir = tempfile::tempdir().unwrap();
    let recorder = open(dir.path());
    let feed = camera(&recorder);
    feed.begin(PUBLICATION, at(150), relay());
    let body = seal(crc::crc32(0, &PUBLICATION.0));
    let position = Position { publication: PUBLICATION, number: 0, previous: None };
    feed.append(position, &Tag::new(Track::Audio, 0, body.into()), at(151));
    recorder.close();
    let recorder = open(dir.path());
    let info = written(&recorder).list().remove(0);
    assert_eq!((info.tags, info.complete), (1, false));
    recorder.close();
}

#[test]
fn figures_that_cannot_be_are_survived() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join(CAMERA)).unwrap();
    for number in 1..3 {
        let publication = PublicationId([number; 16]);
        let head = FileHead { publication, ..head() };
        let mut file = head.encode();
        file.extend_from_slice(&seal(head.seed()));
        fs::write(disk::path(dir.path(), &head), &file).unwrap();
    }
    let recorder = open(dir.path());
    assert_eq!(recorder.status()[&CAMERA.parse::<FeedName>().unwrap()].bytes, u64::MAX);
    assert!(written(&recorder).list().iter().all(|info| info.complete));
    recorder.close();
}

fn ranges(numbers: &[u64]) -> Vec<(u64, u64)> {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *number => *last = *number,
            _ => ranges.push((*number, *number)),
        }
    }
    ranges
}

/// Records the first tags of a publication that comes from a relay and goes on.
fn record(dir: &Path, count: u64) {
    let recorder = open(dir);
    let feed = camera(&recorder);
    feed.begin(PUBLICATION, at(150), relay());
    publication(count).iter().for_each(|tag| append(&feed, tag));
    recorder.close();
}

#[test]
fn a_kill_at_any_byte_costs_what_was_not_written() {
    let source = tempfile::tempdir().unwrap();
    record(source.path(), 10);
    let whole = fs::read(journal(source.path())).unwrap();
    let begin = FileHead::decode(&whole).unwrap().1;
    let mut ends = Vec::new();
    let mut reader = scan::Reader::open(&journal(source.path())).unwrap();
    while let Some((at, head)) = reader.next().unwrap() {
        ends.push(at as usize + format::RECORD_HEAD + head.length as usize);
    }
    assert_eq!((ends.len(), ends[9]), (10, whole.len()));
    for cut in 0..=whole.len() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(CAMERA)).unwrap();
        fs::write(journal(dir.path()), &whole[..cut]).unwrap();
        let recorder = open(dir.path());
        let feed = camera(&recorder);
        feed.begin(PUBLICATION, at(150), relay());
        let there = ends.iter().filter(|end| **end <= cut).count() as u64;
        let expected = (there < 10).then_some((there, 9));
        assert_eq!(feed.wanted(PUBLICATION, 10), expected.as_slice(), "cut at {cut}");
        publication(10).iter().for_each(|tag| append(&feed, tag));
        recorder.close();
        let written = fs::read(journal(dir.path())).unwrap();
        // Without its head, the file is another one with another secret.
        assert!(written == whole || cut < begin && written.len() == whole.len(), "cut at {cut}");
    }
}

#[test]
fn recording_from_the_middle_wants_what_follows() {
    let dir = tempfile::tempdir().unwrap();
    let recorder = open(dir.path());
    let feed = camera(&recorder);
    // It began before recording was switched on.
    feed.begin(PUBLICATION, at(50), relay());
    let all = publication(40);
    assert!(feed.is_known(PUBLICATION));
    assert_eq!(feed.wanted(PUBLICATION, 20), []);
    // Headers are what they are, and no beginning.
    all[..3].iter().for_each(|tag| append(&feed, tag));
    assert_eq!(feed.wanted(PUBLICATION, 20), []);
    append(&feed, &all[21]);
    append(&feed, &all[19]);
    append(&feed, &all[24]);
    assert_eq!(feed.wanted(PUBLICATION, 30), [(22, 23), (25, 29)]);
    feed.gone(PUBLICATION, &[(0, 22)]);
    assert_eq!(feed.wanted(PUBLICATION, 25), [(23, 23)]);
    assert_eq!(written(&recorder).list()[0].gone, 1, "what is not of interest is not gone");

    // Off, nothing is taken and nothing wanted; on again, what passed meanwhile is not wanted.
    recorder.set_recorded([]);
    assert!(recorder.feed(CAMERA).is_none());
    append(&feed, &all[23]);
    assert_eq!(feed.wanted(PUBLICATION, 40), []);
    recorder.set_recorded([(CAMERA.parse().unwrap(), at(300))]);
    feed.append(all[32].0, &all[32].1, at(301));
    assert_eq!(feed.wanted(PUBLICATION, 34), [(23, 23), (33, 33)]);
    append(&feed, &all[23]);
    let unfinished = camera(&recorder).publications();
    assert_eq!(unfinished.len(), 1);
    assert_eq!((unfinished[0].ended, unfinished[0].wanted.len()), (None, 0));
    recorder.close();

    let again = open(dir.path());
    assert_eq!(camera(&again).wanted(PUBLICATION, 34), [(33, 33)]);
    let info = &again.list()[0];
    assert_eq!((info.tags, info.missing, info.gone), (8, 0, 8));
    let (exported, bodies) = exported(dir.path());
    assert_eq!((exported.open_hole, exported.holes), (None, 2));
    // Both headers, then from 19 on, which is a keyframe; 21 hangs on it; 23 has lost nothing.
    let expected = [1, 2, 19, 21, 23, 24, 32].map(|number| all[number].1.body.clone());
    assert_eq!(bodies, expected);
    again.close();
}

#[test]
fn what_is_complete_is_sealed_and_stays_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    record(dir.path(), 20);
    let recorder = open(dir.path());
    camera(&recorder).ended(PUBLICATION, 20);
    recorder.close();
    let sealed = fs::read(journal(dir.path())).unwrap();
    let recorder = open(dir.path());
    let info = written(&recorder).list().remove(0);
    assert!(info.complete);
    assert_eq!((info.tags, info.missing, info.length_ms), (20, 0, 16 * 20));
    let feed = camera(&recorder);
    feed.begin(PUBLICATION, at(1), relay());
    publication(30).iter().for_each(|tag| append(&feed, tag));
    feed.gone(PUBLICATION, &[(0, 50)]);
    feed.ended(PUBLICATION, 20);
    assert_eq!(feed.wanted(PUBLICATION, 50), []);
    assert_eq!(feed.publications(), []);
    recorder.close();
    assert_eq!(fs::read(journal(dir.path())).unwrap(), sealed);
    assert_eq!(exported(dir.path()).1.len(), 19);
    assert_eq!(list(dir.path()).unwrap(), [info]);
}

#[test]
fn a_hole_at_the_end_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let recorder = open(dir.path());
    let feed = camera(&recorder);
    feed.begin(PUBLICATION, at(150), Source::Relay("berlin".into()));
    publication(20).iter().take(15).for_each(|tag| append(&feed, tag));
    feed.ended(PUBLICATION, 20);
    recorder.close();
    let (exported, bodies) = exported(dir.path());
    assert_eq!((exported.open_hole, bodies.len()), (Some((15, 19)), 14));
}

#[test]
fn what_an_encoder_here_has_lost_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let recorder = open(dir.path());
    let feed = camera(&recorder);
    feed.begin(PUBLICATION, at(150), Source::Here);
    let all = publication(20);
    all.iter().filter(|(at, _)| at.number != 12).for_each(|tag| append(&feed, tag));
    recorder.close();
    assert_eq!(exported(dir.path()).0.open_hole, Some((12, 12)), "it might still come");
    // After a crash nobody is there who could say that it has ended.
    let recorder = open(dir.path());
    let info = written(&recorder).list().remove(0);
    assert_eq!((info.complete, info.missing, info.gone), (true, 0, 1));
    recorder.close();
    let (exported, bodies) = exported(dir.path());
    assert_eq!((exported.open_hole, exported.holes, bodies.len()), (None, 1, 18));
}

fn wait(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_full_disk_is_an_alarm_and_nothing_more() {
    let dir = tempfile::tempdir().unwrap();
    let recorder = Recorder::open(dir.path(), u64::MAX);
    recorder.set_recorded([(CAMERA.parse().unwrap(), at(100))]);
    let feed = camera(&recorder);
    feed.begin(PUBLICATION, at(150), relay());
    let all = publication(20);
    append(&feed, &all[0]);
    if !cfg!(unix) {
        return;
    }
    wait("an alarm", || recorder.alarm().is_some());
    assert!(recorder.alarm().unwrap().contains("is free on the disk of"), "{:?}", recorder.alarm());
    all[1..].iter().for_each(|tag| append(&feed, tag));
    let camera: FeedName = CAMERA.parse().unwrap();
    wait("drops", || recorder.status()[&camera].dropped == 20);
    assert_eq!(feed.wanted(PUBLICATION, 20), [], "nobody is asked for what has no place");
    recorder.close();
}

#[test]
fn a_disk_that_fails_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let in_the_way = dir.path().join(CAMERA);
    fs::write(&in_the_way, "").unwrap();
    let recorder = open(dir.path());
    let feed = camera(&recorder);
    feed.begin(PUBLICATION, at(150), relay());
    let all = publication(20);
    all[..10].iter().for_each(|tag| append(&feed, tag));
    wait("an alarm", || recorder.alarm().is_some());
    fs::remove_file(&in_the_way).unwrap();
    wait("another attempt", || feed.wanted(PUBLICATION, 10) == [(0, 9)]);
    all.iter().for_each(|tag| append(&feed, tag));
    wait("no alarm", || recorder.alarm().is_none());
    recorder.close();
    assert_eq!(exported(dir.path()).1.len(), 19);
}

#[test]
fn a_journal_that_is_taken_away_stops_no_other() {
    let dir = tempfile::tempdir().unwrap();
    record(dir.path(), 10);
    let recorder = open(dir.path());
    fs::remove_file(journal(dir.path())).unwrap();
    let (feed, all) = (camera(&recorder), publication(20));
    append(&feed, &all[10]);
    wait("it is given up", || !feed.is_known(PUBLICATION));
    assert_eq!(recorder.alarm(), None);
    // Announced again, it begins anew.
    feed.begin(PUBLICATION, at(150), relay());
    all.iter().for_each(|tag| append(&feed, tag));
    recorder.close();
    assert_eq!(exported(dir.path()).1.len(), 19);
}

#[test]
fn a_directory_that_cannot_be_used_stops_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let recorder = open(&file.join("recordings"));
    assert!(recorder.alarm().unwrap().starts_with("nothing is recorded: cannot use "));
    let feed = camera(&recorder);
    feed.begin(PUBLICATION, at(150), relay());
    publication(3).iter().for_each(|tag| append(&feed, tag));
    assert_eq!(feed.wanted(PUBLICATION, 3), []);
    assert_eq!(recorder.status()[&CAMERA.parse().unwrap()].dropped, 3);
    recorder.close();
}

#[test]
fn other_files_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    record(dir.path(), 5);
    let foreign = dir.path().join("camera/07.journal");
    fs::copy(journal(dir.path()), &foreign).unwrap();
    fs::create_dir(dir.path().join("No Feed")).unwrap();
    fs::write(dir.path().join("notes.txt"), "mine").unwrap();
    let recorder = open(dir.path());
    assert_eq!(written(&recorder).list().len(), 1);
    recorder.close();
    assert!(foreign.exists() && dir.path().join("notes.txt").exists());
}

#[test]
fn numbers_and_bodies_beyond_measure_are_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let recorder = open(dir.path());
    let feed = camera(&recorder);
    feed.begin(PUBLICATION, at(150), relay());
    let (mut position, tag) = publication(4).remove(3);
    for number in [u64::MAX, u64::MAX - 1, format::MAX_NUMBER + 1] {
        position.number = number;
        feed.append(position, &tag, at(200));
    }
    feed.gone(PUBLICATION, &[(5, 3), (0, u64::MAX), (u64::MAX, u64::MAX)]);
    feed.ended(PUBLICATION, u64::MAX);
    position.number = 0;
    feed.append(position, &Tag::new(Track::Video, 0, vec![0x27; 1 << 24].into()), at(200));
    assert_eq!(recorder.status()[&CAMERA.parse().unwrap()].dropped, 4);
    recorder.close();
    let recorder = open(dir.path());
    assert_eq!(written(&recorder).list()[0].tags, 0);
    recorder.close();
}

/// A feed that is tapped until the test is over.
struct Tapped {
    dir: TempDir,
    recorder: Recorder,
    feed: Feed,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Tapped {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (recorder, feed) = (open(dir.path()), Feed::new(hub::Limits::default()));
        let stop = CancellationToken::new();
        let (tapped, of, token) = (recorder.clone(), feed.clone(), stop.clone());
        let task = tokio::spawn(async move {
            let find = |name: &str| (name == CAMERA).then(|| of.clone());
            tap::run(&tapped, find, Arc::new(|_| Source::Here), &token).await;
        });
        Self { dir, recorder, feed, stop, task }
    }

    async fn wait(&self, what: &str, is_so: impl Fn(&[RecordingInfo]) -> bool) {
        let start = Instant::now();
        while !is_so(&written(&self.recorder).list()) {
            assert!(
                start.elapsed() < Duration::from_secs(20),
                "{what}: {:?}",
                written(&self.recorder).list()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn close(self) -> TempDir {
        self.stop.cancel();
        self.task.await.unwrap();
        self.recorder.close();
        self.dir
    }
}

#[tokio::test]
async fn what_is_on_air_is_recorded() {
    let tapped = Tapped::new();
    let push = |publication: u8, count: u64, tags: u64| {
        let publication = PublicationId([publication; 16]);
        let mut publisher = tapped.feed.publish(publication, Instant::now()).unwrap();
        for (_, tag) in self::publication(count).into_iter().take(tags as usize) {
            publisher.push(tag, Instant::now()).unwrap();
        }
        publisher
    };
    let first = push(7, 40, 40);
    tapped.wait("the tags", |list| list.len() == 1 && list[0].tags == 40).await;
    drop(first);
    tapped.wait("the end", |list| list.len() == 1 && list[0].complete).await;
    assert_eq!(tapped.feed.subscribers(), 0, "the recorder is no player");
    // A takeover, a cut, and one that is on air when the studio stops.
    let lost = push(8, 40, 20);
    let on_air = push(9, 40, 30);
    tapped.wait("both", |list| list.len() == 3 && list[2].tags == 30).await;
    drop(lost);
    tapped.feed.cut(Cut::Revoked, Instant::now());
    tapped.wait("the cut", |list| list.iter().all(|info| info.complete)).await;
    drop(on_air);
    let _last = push(10, 40, 10);
    let recorder = tapped.recorder.clone();
    let dir = tapped.close().await;
    let tags: Vec<_> =
        written(&recorder).list().iter().map(|info| (info.tags, info.complete)).collect();
    assert_eq!(tags, [(40, true), (20, true), (30, true), (10, true)]);
    assert_eq!(exported(dir.path()).1.len(), 39);
}

#[tokio::test]
async fn a_relays_publication_is_not_ended_by_the_hub() {
    let tapped = Tapped::new();
    let feed = camera(&tapped.recorder);
    feed.begin(PUBLICATION, at(150), relay());
    let all = publication(20);
    let mut publisher = tapped.feed.publish(PUBLICATION, Instant::now()).unwrap();
    for (position, tag) in &all[..10] {
        publisher.push_at(*position, tag.clone(), Instant::now()).unwrap();
        append(&feed, &(*position, tag.clone()));
    }
    append(&feed, &all[15]);
    drop(publisher);
    tapped.wait("the tags", |list| list.first().is_some_and(|info| info.tags == 11)).await;
    assert_eq!(feed.wanted(PUBLICATION, 15), [(10, 14)]);
    let dir = tapped.close().await;
    let recorder = open(dir.path());
    assert_eq!(camera(&recorder).wanted(PUBLICATION, 20), [(10, 14), (16, 19)]);
    recorder.close();
}
