//! What a feed keeps for those who missed it, and that players notice nothing of it.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hub::{
    Backing, Feed, Hub, Item, Join, Leaving, Limits, Next, Overflow, Policy, Publisher, Subscriber,
};
use media::{Position, PublicationId, Tag, Track};
use proptest::prelude::*;

const SPOOL: Duration = Duration::from_secs(20);

fn id(serial: u8) -> PublicationId {
    PublicationId([serial; 16])
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn video(timestamp: i64, is_key: bool, bytes: usize) -> Tag {
    let mut body = vec![7; bytes.max(6)];
    body[..2].copy_from_slice(&[if is_key { 0x17 } else { 0x27 }, 1]);
    Tag::new(Track::Video, timestamp, Bytes::from(body))
}

fn audio(timestamp: i64) -> Tag {
    Tag::new(Track::Audio, timestamp, Bytes::from_static(&[0xaf, 1, 0x21]))
}

/// Remembers all that left memory.
#[derive(Debug, Default)]
struct Left(Mutex<Vec<Leaving>>);

impl Left {
    fn numbers(&self, publication: PublicationId) -> Vec<u64> {
        let left = self.0.lock().unwrap();
        let left = left.iter().map(|tag| tag.position).filter(|p| p.publication == publication);
        left.map(|position| position.number).collect()
    }
}

impl Overflow for Left {
    fn put(&self, tag: Leaving) {
        self.0.lock().unwrap().push(tag);
    }
}

/// A hub's feeds are named by owner and number; all overflow to one place.
#[derive(Debug, Default)]
struct Names(Arc<Left>);

impl Backing<(u64, u64)> for Names {
    fn owner(&self, name: &(u64, u64)) -> u64 {
        name.0
    }

    fn overflow(&self, _: &(u64, u64), _: u64) -> Option<Arc<dyn Overflow>> {
        Some(self.0.clone())
    }
}

fn spooling(limits: Limits) -> (Hub<(u64, u64)>, Arc<Left>) {
    let names = Arc::new(Names::default());
    let left = names.0.clone();
    (Hub::backed(limits, names), left)
}

fn numbers(tags: &[(Position, Tag)]) -> Vec<u64> {
    tags.iter().map(|(position, _)| position.number).collect()
}

fn all(feed: &Feed, publication: PublicationId) -> Vec<u64> {
    numbers(&feed.spooled(publication, 0..=u64::MAX, usize::MAX).tags)
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Video { is_key: bool, bytes: usize },
    Audio,
    Header,
    Pass(u64),
    Takeover,
    End,
    Sweep,
    Join(usize),
    Poll { player: usize, bytes: usize },
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        6 => (proptest::bool::weighted(0.1), 0usize..60_000)
            .prop_map(|(is_key, bytes)| Op::Video { is_key, bytes }),
        4 => Just(Op::Audio),
        1 => Just(Op::Header),
        6 => (1u64..800).prop_map(Op::Pass),
        1 => (5_000u64..40_000).prop_map(Op::Pass),
        1 => Just(Op::Takeover),
        1 => Just(Op::End),
        1 => Just(Op::Sweep),
        2 => (0usize..4).prop_map(Op::Join),
        4 => (0usize..4, 1usize..100_000).prop_map(|(player, bytes)| Op::Poll { player, bytes }),
    ];
    proptest::collection::vec(op, 1..300)
}

/// A feed, its publisher and its players.
struct Stage {
    feed: Feed,
    publisher: Option<Publisher>,
    players: Vec<Option<Subscriber>>,
}

impl Stage {
    fn new(feed: Feed) -> Self {
        Self { feed, publisher: None, players: (0..4).map(|_| None).collect() }
    }

    fn poll(&mut self, player: usize, bytes: usize, now: Instant) -> Option<(Next, Vec<Item>)> {
        let mut items = Vec::new();
        let next = self.players[player].as_mut()?.poll(now, &mut items, bytes);
        Some((next, items))
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// Two feeds live the same life, one with a spool: the players of both see the same, and the
    /// spool has exactly what came in its time; what is older has left, in order, and once.
    #[test]
    fn players_see_no_spool_and_the_spool_has_its_time(ops in ops()) {
        let limits = Limits { max_bytes: 300_000, max_tags: 60, ..Limits::default() };
        let plain = Hub::new(limits.clone());
        let (spooling, left) = spooling(Limits { spool: SPOOL, ..limits });
        let mut stages = [Stage::new(plain.feed(0)), Stage::new(spooling.feed((0, 0)))];
        let mut now = Instant::now();
        let (mut serial, mut timestamp, mut ended) = (0, 0, None);
        let mut pushed: Vec<(Position, Instant)> = Vec::new();
        for op in ops {
            let mut is_exact = false;
            match op {
                Op::Pass(time) => {
                    now += ms(time);
                    timestamp += time as i64;
                }
                Op::Takeover => {
                    serial += 1;
                    for stage in &mut stages {
                        // The incumbent of a fight stays.
                        if let Ok(publisher) = stage.feed.publish(id(serial), now) {
                            stage.publisher = Some(publisher);
                        }
                    }
                    ended = None;
                }
                Op::End => {
                    // The hold counts from the last tag, or from the start.
                    if stages[0].publisher.is_some() {
                        ended = Some(now);
                    }
                    stages.iter_mut().for_each(|stage| stage.publisher = None);
                }
                Op::Sweep => {
                    plain.sweep(now);
                    spooling.sweep(now);
                    is_exact = ended.is_some_and(|ended| now > ended + Limits::default().hold);
                }
                Op::Join(player) => {
                    let join = [Join::Fast, Join::Smooth, Join::Keyframe, Join::Publication][player];
                    let policy = Policy { join, max_delay: ms(2_000), verbatim: player == 3 };
                    for stage in &mut stages {
                        stage.players[player] = Some(stage.feed.subscribe(policy, None));
                    }
                }
                Op::Poll { player, bytes } => {
                    let [plain, spooling] = &mut stages;
                    let (seen, expected) =
                        (spooling.poll(player, bytes, now), plain.poll(player, bytes, now));
                    prop_assert_eq!(format!("{seen:?}"), format!("{expected:?}"));
                }
                Op::Video { .. } | Op::Audio | Op::Header => {
                    let tag = match op {
                        Op::Video { is_key, bytes } => video(timestamp, is_key, bytes),
                        Op::Audio => audio(timestamp),
                        _ => Tag::new(Track::Video, 0, Bytes::from_static(&[0x17, 0, 0, 0, 0, 1])),
                    };
                    let positions = stages.each_mut().map(|stage| {
                        let publisher = stage.publisher.as_mut()?;
                        Some(publisher.push(tag.clone(), now).unwrap())
                    });
                    prop_assert_eq!(positions[0], positions[1]);
                    is_exact = positions[0].is_some();
                    pushed.extend(positions[0].map(|position| (position, now)));
                }
            }
            let snapshots = stages.each_ref().map(|stage| stage.feed.snapshot(now));
            prop_assert_eq!(snapshots[0].ring_bytes, snapshots[1].ring_bytes);
            prop_assert_eq!(snapshots[0].skipped, snapshots[1].skipped);
            let memory = spooling.memory();
            prop_assert_eq!(memory.used, snapshots[1].ring_bytes + snapshots[1].spool_bytes);
            prop_assert_eq!(memory.spooled, snapshots[1].spool_bytes);
            let feed = &stages[1].feed;
            for publication in (1..=serial).map(id) {
                let here = all(feed, publication);
                let everywhere = [left.numbers(publication), here.clone()].concat();
                let ours = pushed.iter().filter(|(p, _)| p.publication == publication);
                let expected: Vec<_> = ours.clone().map(|(p, _)| p.number).collect();
                prop_assert_eq!(&everywhere, &expected, "each is here or has left, in order");
                if is_exact {
                    let young = ours.filter(|(_, at)| now.duration_since(*at) <= SPOOL);
                    let young: Vec<_> = young.map(|(p, _)| p.number).collect();
                    prop_assert_eq!(&here, &young);
                }
                let kept = feed.kept().into_iter().find(|kept| kept.publication == publication);
                let kept = kept.map(|kept| (kept.first, kept.last));
                prop_assert_eq!(kept, here.first().copied().zip(here.last().copied()));
            }
        }
    }

    /// A part of a publication is found by its numbers.
    #[test]
    fn ranges_are_found(first in 0u64..120, length in 0u64..120, max_bytes in 1usize..40_000) {
        let feed = Feed::new(Limits { spool: SPOOL, max_tags: 10, ..Limits::default() });
        let now = Instant::now();
        for serial in 1..=3 {
            let mut publisher = feed.publish(id(serial), now).unwrap();
            for n in 0..100 {
                publisher.push(video(n, n % 10 == 0, 500), now).unwrap();
            }
        }
        let last = first + length;
        let whole = feed.spooled(id(2), first..=last, usize::MAX);
        prop_assert_eq!(numbers(&whole.tags), (first..=last.min(99)).collect::<Vec<_>>());
        prop_assert_eq!(whole.edge, None);
        prop_assert!(!whole.more);
        let part = feed.spooled(id(2), first..=last, max_bytes);
        prop_assert_eq!(part.more, part.tags.len() < whole.tags.len());
        let part = numbers(&part.tags);
        prop_assert!(numbers(&whole.tags).starts_with(&part));
        prop_assert_eq!(part.is_empty(), whole.tags.is_empty(), "at least one");
        prop_assert!(part.len() <= max_bytes.div_ceil(500));
        prop_assert_eq!(feed.spooled(id(9), first..=last, usize::MAX).tags, vec![]);
    }
}

#[test]
fn a_publication_that_is_over_is_kept_across_the_hold_and_the_next() {
    let (hub, left) = spooling(Limits { spool: ms(60_000), ..Limits::default() });
    let feed = hub.feed((0, 0));
    let start = Instant::now();
    let mut first = feed.publish(id(1), start).unwrap();
    for n in 0..100 {
        first.push(audio(n), start + ms(n as u64 * 100)).unwrap();
    }
    assert_eq!(feed.spooled(id(1), 0..=9, 1 << 20).edge, Some(100), "it is on air");
    drop(first);
    hub.sweep(start + ms(45_000));
    let kept = feed.kept();
    assert_eq!((kept[0].first, kept[0].last, kept[0].ended), (0, 99, true));
    let player = Policy { join: Join::Publication, max_delay: ms(2_000), verbatim: true };
    let mut items = Vec::new();
    let mut player = feed.subscribe(player, None);
    assert_eq!(player.poll(start + ms(45_000), &mut items, 1 << 20), Next::Wait);

    let restart = start + ms(50_000);
    let mut second = feed.publish(id(2), restart).unwrap();
    for n in 0..200 {
        second.push(audio(n), restart + ms(n as u64 * 100)).unwrap();
    }
    let kept = feed.kept();
    assert_eq!(kept.len(), 2);
    assert_eq!((kept[0].publication, kept[0].first, kept[0].started), (id(1), 99, start));
    assert_eq!((kept[1].publication, kept[1].started, kept[1].ended), (id(2), restart, false));
    assert_eq!(left.numbers(id(1)), (0..99).collect::<Vec<_>>());
    assert!(left.0.lock().unwrap().iter().all(|tag| tag.started == start));
    hub.remove(&(0, 0));
    assert_eq!(hub.memory().used, 0);
    assert_eq!(feed.kept(), []);
}

#[test]
fn spools_go_before_any_gop_does() {
    let total = 4 << 20;
    let (hub, left) =
        spooling(Limits { spool: ms(60_000), total_bytes: total, ..Limits::default() });
    let start = Instant::now();
    let mut publisher = hub.feed((0, 0)).publish(id(1), start).unwrap();
    for n in 0..250u64 {
        let now = start + ms(n * 40);
        publisher.push(video(n as i64 * 40, n % 25 == 0, 30_000), now).unwrap();
        assert!(hub.memory().used <= total, "{:?}", hub.memory());
    }
    let memory = hub.memory();
    assert_eq!(memory.trimmed, 0, "{memory:?}");
    assert!(memory.spooled > 0 && memory.used > total - (512 << 10), "{memory:?}");
    let (gone, here) = (left.numbers(id(1)), all(&hub.feed((0, 0)), id(1)));
    assert_eq!([gone, here].concat(), (0..250).collect::<Vec<_>>());
}

#[test]
fn an_owner_of_many_feeds_does_not_push_out_the_spool_of_one() {
    let total = 8 << 20;
    let (hub, _) = spooling(Limits { spool: ms(60_000), total_bytes: total, ..Limits::default() });
    let start = Instant::now();
    let names = [(1, 0)].into_iter().chain((0..16).map(|feed| (2, feed)));
    let mut publishers: Vec<_> =
        names.map(|name| hub.feed(name).publish(id(1), start).unwrap()).collect();
    // Each feed is as large as any other.
    for n in 0..300u64 {
        for publisher in &mut publishers {
            let tag = video(n as i64 * 40, n % 25 == 0, 2_000);
            publisher.push(tag, start + ms(n * 40)).unwrap();
        }
    }
    assert_eq!(hub.memory().trimmed, 0);
    let kept = |name| all(&hub.feed(name), id(1)).len();
    assert_eq!(kept((1, 0)), 300, "the modest one has all");
    assert!((0..16).map(|feed| kept((2, feed))).sum::<usize>() < 16 * 300);
}
