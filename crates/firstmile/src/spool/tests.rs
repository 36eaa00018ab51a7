use std::path::Path;
use std::time::Instant;

use bytes::Bytes;
use hub::{Backing, Hub, Limits, Publisher};
use media::Track;
use proptest::prelude::*;

use super::*;

const P: PublicationId = PublicationId([1; 16]);
const Q: PublicationId = PublicationId([2; 16]);

/// How long a test waits for the writer.
const PATIENCE: Duration = Duration::from_secs(20);

fn bounds(disk: u64) -> Bounds {
    Bounds {
        memory: Duration::from_secs(1),
        disk,
        keep_free: 0,
        disk_time: Duration::from_secs(600),
        pending: 8 << 20,
    }
}

/// A hub over a spool; a feed is named by its owner and a number.
#[derive(Debug)]
struct Over(Spool);

impl Backing<(u64, u64)> for Over {
    fn owner(&self, name: &(u64, u64)) -> u64 {
        name.0
    }

    fn overflow(&self, name: &(u64, u64), serial: u64) -> Option<Arc<dyn Overflow>> {
        self.0.overflow(serial, name.0)
    }
}

fn hub_over(spool: &Spool) -> Hub<(u64, u64)> {
    let limits = Limits { spool: spool.0.bounds.memory, max_tags: 10, ..Limits::default() };
    Hub::backed(limits, Arc::new(Over(spool.clone())))
}

fn tag(number: u64, bytes: usize) -> Tag {
    let mut body = vec![number as u8; bytes.max(16)];
    body[..2].copy_from_slice(&[if number.is_multiple_of(25) { 0x17 } else { 0x27 }, 1]);
    body[2..10].copy_from_slice(&number.to_be_bytes());
    Tag::new(Track::Video, number as i64 * 40, Bytes::from(body))
}

/// Pushes so many tags of `bytes`, 25 a second, numbered from `from`.
fn push(publisher: &mut Publisher, numbers: Range<u64>, bytes: usize, start: Instant) {
    for number in numbers {
        let now = start + Duration::from_millis(number * 40);
        assert_eq!(publisher.push(tag(number, bytes), now).unwrap().number, number);
    }
}

fn wait(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn wait_written(spool: &Spool) {
    let disk = spool.0.disk.as_ref().unwrap();
    wait("the queue is written", || disk.lock().shelves.next().is_none());
}

/// Reads all of it, in parts.
async fn read_all(spool: &Spool, feed: &Feed, numbers: RangeInclusive<u64>, part: usize) -> Found {
    let mut all = Found::from(*numbers.start());
    loop {
        let found = spool.read(feed, P, all.next..=*numbers.end(), part).await.unwrap();
        let is_over = found.next == all.next || found.next > *numbers.end();
        assert!(found.next >= all.next);
        for (position, tag) in found.tags {
            all.take(position, tag);
        }
        // What was gone before the first tag was noted by `take`, and the rest is here.
        all = all.finish(found.next);
        if is_over {
            return all;
        }
    }
}

fn assert_all(found: &Found, numbers: Range<u64>, bytes: usize) {
    assert_eq!(found.gone, []);
    let got: Vec<_> = found.tags.iter().map(|(position, _)| position.number).collect();
    assert_eq!(got, numbers.collect::<Vec<_>>());
    for (position, found) in &found.tags {
        assert_eq!(*found, tag(position.number, bytes));
        assert_eq!(position.previous, position.number.checked_sub(1));
    }
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[tokio::test]
async fn every_tag_is_found_wherever_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let spool = Spool::open(directory.path().join("spool"), bounds(64 << 20)).unwrap();
    let hub = hub_over(&spool);
    let (feed, start) = (hub.feed((0, 0)), Instant::now());
    let mut publisher = feed.publish(P, start).unwrap();
    // Each time some of it is in memory, some in the open block, some queued, some written.
    for round in 0..20 {
        push(&mut publisher, round * 50..round * 50 + 50, 5_000, start);
        let end = round * 50 + 50;
        let found = read_all(&spool, &feed, 0..=u64::MAX, 100_000).await;
        assert_all(&found, 0..end, 5_000);
        assert_eq!(found.next, end, "the next was not pushed yet");
    }
    wait_written(&spool);
    assert_all(&read_all(&spool, &feed, 0..=u64::MAX, 1).await, 0..1_000, 5_000);
    let part = spool.read(&feed, P, 110..=119, usize::MAX).await.unwrap();
    assert_all(&part, 110..120, 5_000);
    assert_eq!(part.next, 120);
    let figures = spool.figures();
    assert!(figures.disk_bytes > 900 * 5_000, "{figures:?}");
    assert_eq!((figures.dropped_tags, figures.error), (0, None));
    drop(publisher);
    let kept = spool.kept(&feed);
    assert_eq!((kept.len(), kept[0].publication, kept[0].ended), (1, P, true));
    assert_eq!((kept[0].first, kept[0].last, kept[0].started), (0, 999, start));
    let over = spool.read(&feed, P, 990..=1_005, usize::MAX).await.unwrap();
    assert_eq!((over.tags.len(), over.gone, over.next), (10, vec![1_000..=1_005], 1_006));
    let other = spool.read(&feed, Q, 5..=u64::MAX, usize::MAX).await.unwrap();
    assert_eq!(other.gone, [5..=u64::MAX - 1]);
}

/// A reader at the heels of the encoder never sees a tag between two places.
#[tokio::test]
async fn no_tag_is_missed_on_its_way() {
    const TAGS: u64 = 10_000;
    let directory = tempfile::tempdir().unwrap();
    let bounds = Bounds { pending: 256 << 20, ..bounds(256 << 20) };
    let spool = Spool::open(directory.path().join("spool"), bounds).unwrap();
    let hub = hub_over(&spool);
    let feed = hub.feed((0, 0));
    let mut publisher = feed.publish(P, Instant::now()).unwrap();
    let encoder = std::thread::spawn(move || {
        push(&mut publisher, 0..TAGS, 5_000, Instant::now());
        publisher
    });
    let mut next = 0;
    // From far behind up to the edge, again and again.
    while next < TAGS {
        let from = next.saturating_sub(300);
        let found = spool.read(&feed, P, from..=TAGS - 1, 2_000_000).await.unwrap();
        assert_eq!(found.gone, [], "from {from}");
        assert_eq!(found.tags.len() as u64, found.next - from);
        next = found.next.max(next);
    }
    drop(encoder.join().unwrap());
    assert_eq!(spool.figures().dropped_tags, 0);
}

#[tokio::test]
async fn the_disk_has_no_plain_text_and_no_left_overs() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("spool");
    std::fs::create_dir(&path).unwrap();
    std::fs::write(path.join("7.segment"), "of an earlier run").unwrap();
    std::fs::write(path.join("notes.txt"), "somebody's own").unwrap();
    let spool = Spool::open(path.clone(), bounds(64 << 20)).unwrap();
    let hub = hub_over(&spool);
    let feed = hub.feed((0, 0));
    let mut publisher = feed.publish(P, Instant::now()).unwrap();
    push(&mut publisher, 0..500, 5_000, Instant::now());
    wait_written(&spool);
    let segments = files(&path);
    let written: Vec<_> = segments.iter().flat_map(|file| std::fs::read(file).unwrap()).collect();
    assert!(written.len() > 2_000_000 && !path.join("7.segment").exists());
    // A body is one byte five thousand times.
    assert!(!written.windows(16).any(|bytes| bytes.iter().all(|byte| *byte == bytes[0])));
    #[cfg(unix)]
    for file in segments.iter().filter(|file| !file.ends_with("notes.txt")) {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    }
    drop((publisher, feed, hub, spool));
    assert_eq!(files(&path), [path.join("notes.txt")]);
}

#[tokio::test]
async fn what_is_damaged_or_removed_is_gone_and_harms_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("spool");
    let spool = Spool::open(path.clone(), bounds(64 << 20)).unwrap();
    let hub = hub_over(&spool);
    let (feed, start) = (hub.feed((0, 0)), Instant::now());
    let mut publisher = feed.publish(P, start).unwrap();
    push(&mut publisher, 0..1_000, 5_000, start);
    wait_written(&spool);
    let mut segments = files(&path);
    segments.sort_by_key(|file| std::fs::metadata(file).unwrap().len());
    let (damaged, removed) = (segments.pop().unwrap(), segments.pop().unwrap());
    std::fs::write(&damaged, vec![0; 300_000]).unwrap();
    std::fs::remove_file(&removed).unwrap();
    let found = read_all(&spool, &feed, 0..=999, 200_000).await;
    let gone: u64 = found.gone.iter().map(|gone| gone.end() - gone.start() + 1).sum();
    assert_eq!(found.tags.len() as u64 + gone, 1_000);
    assert!(gone > 300 && found.next == 1_000, "{gone}");
    assert!(found.tags.iter().all(|(position, found)| *found == tag(position.number, 5_000)));
}

#[tokio::test]
async fn the_disk_keeps_its_bound_and_the_newest() {
    let directory = tempfile::tempdir().unwrap();
    let disk = 4 << 20;
    let spool = Spool::open(directory.path().join("spool"), bounds(disk)).unwrap();
    let hub = hub_over(&spool);
    let (modest, feed, start) = (hub.feed((1, 0)), hub.feed((2, 0)), Instant::now());
    let mut small = modest.publish(P, start).unwrap();
    push(&mut small, 0..100, 1_000, start);
    let mut publisher = feed.publish(P, start).unwrap();
    for round in 0..30 {
        push(&mut publisher, round * 50..round * 50 + 50, 10_000, start);
        wait_written(&spool);
        let bytes: u64 = files(&directory.path().join("spool"))
            .iter()
            .filter_map(|file| std::fs::metadata(file).ok())
            .map(|file| file.len())
            .sum();
        assert!(bytes <= disk, "{bytes}");
    }
    let kept = spool.kept(&feed)[0];
    assert!(kept.first > 900 && kept.last == 1_499, "{kept:?}");
    let found = read_all(&spool, &feed, 0..=1_499, 1 << 20).await;
    assert_eq!(found.gone, [0..=kept.first - 1]);
    assert_eq!(found.tags.len() as u64, 1_500 - kept.first);
    assert_eq!(spool.figures().dropped_tags, 0, "what the bound takes is not a failure");
    assert_eq!(spool.kept(&modest)[0].first, 0, "one who fills the disk loses its own");
}

#[tokio::test]
async fn a_disk_that_fails_is_told_of_and_used_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("spool");
    // A file where the directory should be.
    std::fs::write(&path, "in the way").unwrap();
    let spool = Spool::open(path.clone(), Bounds { pending: 1 << 20, ..bounds(64 << 20) }).unwrap();
    let hub = hub_over(&spool);
    let (feed, start) = (hub.feed((0, 0)), Instant::now());
    let mut publisher = feed.publish(P, start).unwrap();
    push(&mut publisher, 0..1_000, 5_000, start);
    wait("the failure shows", || spool.figures().error.is_some());
    let figures = spool.figures();
    assert!(figures.dropped_tags > 500 && figures.pending_bytes <= 1 << 20, "{figures:?}");
    let alarm = spool.alarm().unwrap();
    assert!(alarm.contains("the spool cannot be written to"), "{alarm}");
    assert_eq!(spool.survives(1.0, usize::MAX), Duration::from_secs(1));
    let found = read_all(&spool, &feed, 0..=999, 1 << 20).await;
    // The oldest are gone, but for those that the writer had in its hands already.
    let gone: u64 = found.gone.iter().map(|gone| gone.end() - gone.start() + 1).sum();
    assert_eq!(gone, figures.dropped_tags, "{:?}", found.gone);
    assert!(found.gone.iter().all(|gone| *gone.end() < 900), "the newest are still in the queue");

    std::fs::remove_file(&path).unwrap();
    wait("it is written", || spool.figures().error.is_none() && spool.figures().disk_bytes > 0);
    wait_written(&spool);
    push(&mut publisher, 1_000..1_500, 5_000, start);
    wait_written(&spool);
    // Again, while it is in use: what goes to the file that was open is lost with it.
    std::fs::remove_dir_all(&path).unwrap();
    let mut chunks = (1_500..6_500).step_by(100).map(|first| first..first + 100);
    loop {
        let numbers = chunks.next().expect("files are made anew");
        push(&mut publisher, numbers.clone(), 5_000, start);
        wait_written(&spool);
        let newest = read_all(&spool, &feed, numbers.start..=numbers.end - 1, 1 << 20).await;
        if newest.gone.is_empty() && !files(&path).is_empty() {
            return assert_all(&newest, numbers, 5_000);
        }
    }
}

#[tokio::test]
async fn a_disk_that_others_need_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("spool");
    let spool =
        Spool::open(path.clone(), Bounds { keep_free: u64::MAX, ..bounds(64 << 20) }).unwrap();
    let hub = hub_over(&spool);
    let (feed, start) = (hub.feed((0, 0)), Instant::now());
    let mut publisher = feed.publish(P, start).unwrap();
    push(&mut publisher, 0..200, 5_000, start);
    wait("it is told", || spool.alarm().is_some());
    let alarm = spool.alarm().unwrap();
    assert!(alarm.contains("is free there (spool.keep_free)"), "{alarm}");
    assert_eq!((spool.figures().disk_bytes, files(&path).len()), (0, 0));
}

#[tokio::test]
async fn a_feed_that_is_removed_is_forgotten() {
    let directory = tempfile::tempdir().unwrap();
    let spool = Spool::open(directory.path().join("spool"), bounds(64 << 20)).unwrap();
    let hub = hub_over(&spool);
    let (feed, start) = (hub.feed((0, 0)), Instant::now());
    let mut publisher = feed.publish(P, start).unwrap();
    push(&mut publisher, 0..200, 5_000, start);
    hub.remove(&(0, 0));
    drop((publisher, feed));
    assert_eq!(spool.figures().pending_bytes, 0);
    let feed = hub.feed((0, 0));
    assert_eq!(spool.kept(&feed), []);
    assert_eq!(spool.read(&feed, P, 0..=9, 1).await.unwrap().gone, [0..=9]);
}

#[tokio::test]
async fn an_encoder_that_stops_has_its_last_block_written() {
    let directory = tempfile::tempdir().unwrap();
    let spool = Spool::open(directory.path().join("spool"), bounds(64 << 20)).unwrap();
    let hub = hub_over(&spool);
    let (feed, start) = (hub.feed((0, 0)), Instant::now());
    let mut publisher = feed.publish(P, start).unwrap();
    push(&mut publisher, 0..60, 100, start);
    drop(publisher);
    hub.sweep(start + Duration::from_secs(60));
    assert_eq!(hub.memory().used, 0);
    wait("the open block is written", || {
        spool.figures().pending_bytes == 0 && spool.figures().disk_bytes > 0
    });
    assert_all(&read_all(&spool, &feed, 0..=59, 1 << 20).await, 0..60, 100);
}

#[test]
fn without_a_disk_memory_is_all() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("1.segment"), "of another configuration").unwrap();
    let spool = Spool::open(directory.path().to_owned(), bounds(0)).unwrap();
    assert_eq!(files(directory.path()).len(), 0);
    assert!(spool.overflow(0, 0).is_none());
    assert_eq!(spool.figures(), Figures::default());
    assert_eq!(spool.alarm(), None);
    assert_eq!(spool.survives(1_000.0, 500), Duration::from_millis(500));
}

#[test]
fn an_outage_is_survived_for_what_rate_and_bounds_allow() {
    let directory = tempfile::tempdir().unwrap();
    let memory = Duration::from_secs(60);
    let bounds = Bounds { memory, ..bounds(4 << 30) };
    let spool = Spool::open(directory.path().join("spool"), bounds).unwrap();
    assert_eq!(spool.survives(0.0, 1 << 30).as_secs(), 600);
    assert_eq!(spool.survives(625_000.0, 1 << 30).as_secs(), 600);
    let crowded = spool.survives(100_000_000.0, 1 << 30);
    assert_eq!(crowded.as_secs(), ((1u64 << 30) + (4 << 30)) / 100_000_000);
}

#[test]
fn segments_go_when_their_time_is_over() {
    let directory = tempfile::tempdir().unwrap();
    let (keep, start) = (Duration::from_secs(600), Instant::now());
    let mut segments = Segments::new(directory.path(), 1 << 30, keep);
    let at = |seconds| start + Duration::from_secs(seconds);
    for second in 0..600 {
        segments.append(7, &[9; 1_000], at(second), at(second)).unwrap();
        assert_eq!(segments.spare(0, at(second)), None);
    }
    assert_eq!(files(directory.path()).len(), 10, "one a minute");
    assert_eq!(segments.spare(0, at(660)), Some((7, 0)));
    segments.remove(7, 0);
    assert_eq!(segments.spare(0, at(660)), None, "the next has a minute left");
    assert_eq!((segments.bytes(), files(directory.path()).len()), (540_000, 9));
    segments.remove_all();
    assert_eq!((segments.bytes(), files(directory.path()).len()), (0, 0));
}

#[test]
fn a_full_disk_lowers_the_bound_for_a_while() {
    let directory = tempfile::tempdir().unwrap();
    let (keep, now) = (Duration::from_secs(600), Instant::now());
    let mut segments = Segments::new(directory.path(), 64 << 20, keep);
    for _ in 0..20 {
        segments.append(7, &[9; 1 << 20], now, now).unwrap();
    }
    assert_eq!(segments.spare(1 << 20, now), None);
    segments.lower(now);
    assert_eq!(segments.limit(now), 20 << 20);
    assert_eq!(segments.spare(1 << 20, now), Some((7, 0)));
    assert_eq!(segments.limit(now + keep), 64 << 20);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever is put, written, lost and dropped: each number is found or gone, once, in order.
    #[test]
    fn shelves_answer_for_every_number(
        steps in proptest::collection::vec((0u8..6, 1u64..40, 100usize..90_000), 1..60),
        from in 0u64..300, length in 1u64..300, max_bytes in 1usize..500_000,
    ) {
        let mut shelves = Shelves::new(1 << 20);
        shelves.add(5, 50);
        let (start, mut next, mut written) = (Instant::now(), 0u64, 0u64);
        for (step, count, bytes) in steps {
            match step {
                0..3 => for _ in 0..count {
                    let previous = next.checked_sub(1);
                    let position = Position { publication: P, number: next, previous };
                    let arrival = start + Duration::from_millis(next * 40);
                    let tag = tag(next, bytes);
                    shelves.put(5, Leaving { position, tag, arrival, started: start });
                    next += 1;
                },
                3 => if let Some(job) = shelves.next() {
                    written += 1;
                    let spot = shelves::Spot { segment: written / 3, offset: written, length: 9 };
                    shelves.written(&job, spot);
                },
                4 => shelves.lose(50, (written / 3).saturating_sub(2)),
                _ => shelves.tick(),
            }
            prop_assert!(shelves.pending() <= 1 << 20);
        }
        let (pieces, end) = shelves.find(5, P, from..from + length, max_bytes);
        prop_assert!(end > from || pieces.is_empty());
        let mut last = None;
        for piece in pieces {
            let Piece::Here(tags) = piece else { continue };
            for (position, found) in tags.iter() {
                prop_assert!(last < Some(position.number));
                last = Some(position.number);
                prop_assert_eq!(found.timestamp, position.number as i64 * 40);
            }
        }
        if let Some(kept) = shelves.kept(5).first() {
            prop_assert_eq!(kept.last, next - 1, "the newest is there");
        }
        shelves.forget(5);
        prop_assert_eq!((shelves.pending(), shelves.next().is_none()), (0, true));
    }
}
