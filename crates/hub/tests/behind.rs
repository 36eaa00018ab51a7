//! Players that read behind the live edge, in virtual time.

mod support;

use std::time::{Duration, Instant};

use hub::{Feed, Item, Join, Limits, Next, Policy, Subscriber, Timing};
use media::{Role, Track};

use support::{A, B, Encoder, audio, audio_header, header, metadata, ms, video};

fn policy(join: Join) -> Policy {
    Policy { join, max_delay: ms(2_000), verbatim: false }
}

fn feed(delay: Duration) -> Feed {
    let feed = Feed::new(Limits::default());
    feed.set_timing(Timing { delay, max_delay: None });
    feed
}

fn read(player: &mut Subscriber, now: Instant) -> Vec<Item> {
    let mut items = Vec::new();
    while player.poll(now, &mut items, 1 << 20) == Next::Tags {}
    items
}

fn is_media(item: &Item) -> bool {
    !item.tag.is_header() && item.tag.track != Track::Data
}

/// Tags come up to 400 ms late, all at once: the player gets each when it is due, to the
/// millisecond, sound and picture alike.
#[test]
fn a_way_that_trembles_makes_a_steady_feed() {
    let (delay, start) = (ms(500), Instant::now());
    let feed = feed(delay);
    let mut player = feed.subscribe_behind(policy(Join::Fast), delay);
    let mut publisher = feed.publish(A, start).unwrap();
    for tag in [metadata(), header(), audio_header()] {
        publisher.push(tag, start).unwrap();
    }
    let mut waiting: std::collections::VecDeque<_> = (0..250i64)
        .flat_map(|frame| [video(frame * 40, frame % 50 == 0), audio(frame * 40)])
        .collect();
    // The way holds everything for 10 frames, then lets it through, again and again.
    let arrival = |timestamp: i64| {
        let frame = timestamp / 40;
        let hold = if frame % 25 > 15 { 25 - frame % 25 } else { 0 };
        start + ms(((frame + hold) * 40) as u64)
    };
    let mut got = Vec::new();
    for step in 0..11_000 {
        let now = start + ms(step);
        while waiting.front().is_some_and(|tag| arrival(tag.timestamp) <= now) {
            publisher.push(waiting.pop_front().unwrap(), now).unwrap();
        }
        got.extend(read(&mut player, now).into_iter().map(|item| (now, item)));
        assert!(player.due().is_none_or(|due| due > now));
    }
    let media: Vec<_> = got.iter().filter(|(_, item)| is_media(item)).collect();
    assert_eq!(media.len(), 500);
    for (at, item) in media {
        let steady = start + delay + ms(item.timestamp as u64);
        assert_eq!(*at, steady, "{:?} at {} ms", item.tag.track, item.timestamp);
        assert_eq!(item.due, steady);
    }
    assert_eq!(player.skipped(), 0);
}

#[test]
fn what_is_later_than_the_delay_goes_at_once() {
    let (delay, start) = (ms(200), Instant::now());
    let feed = feed(delay);
    let mut encoder = Encoder::start(&feed, A, start, 50);
    let mut player = feed.subscribe_behind(policy(Join::Fast), delay);
    encoder.run(10);
    assert!(!read(&mut player, encoder.now() + delay).is_empty());
    // Nothing comes for a second; the rest comes at once, and on time is 600 ms ago.
    encoder.start += ms(800);
    let late = encoder.now();
    encoder.publisher.push(video(400, false), late).unwrap();
    let items = read(&mut player, late);
    assert_eq!(items.len(), 1);
    assert_eq!(items[0].due, late);
}

/// Four seconds into a GOP of five, one second behind: the picture of a second ago, and no newer.
#[test]
fn a_join_behind_is_a_join_at_that_time() {
    let (delay, start) = (ms(1_000), Instant::now());
    let feed = feed(delay);
    let mut encoder = Encoder::start(&feed, A, start, 125);
    // The last one came when its successor is due.
    encoder.run(125 + 15);
    let now = encoder.now();
    let mut player = feed.subscribe_behind(policy(Join::Fast), delay);
    let items = read(&mut player, now);
    let pictures: Vec<_> = items.iter().filter(|item| item.tag.role == Role::Keyframe).collect();
    assert_eq!(pictures.len(), 1, "of the GOP before");
    let last = items.iter().filter(|item| is_media(item)).map(|item| item.timestamp).max();
    let edge = (encoder.frame * 40) as i64 - 1_000;
    assert_eq!(last, Some(edge));
    assert!(items.iter().all(|item| item.tag.track != Track::Audio || item.tag.is_header()));
    encoder.run(1);
    let live = read(&mut player, encoder.now());
    let times: Vec<_> = live.iter().map(|item| (item.tag.track, item.timestamp)).collect();
    assert_eq!(times, [(Track::Video, edge + 40), (Track::Audio, edge + 40)]);
}

/// A player that is there before the first keyframe is due gets it when it is.
#[test]
fn nobody_misses_the_first_picture() {
    for join in [Join::Fast, Join::Smooth, Join::Keyframe] {
        let (delay, start) = (ms(1_000), Instant::now());
        let feed = feed(delay);
        let mut encoder = Encoder::start(&feed, A, start, 50);
        encoder.run(10);
        let mut player = feed.subscribe_behind(policy(join), delay);
        let early = read(&mut player, encoder.now());
        assert_eq!(early.iter().filter(|item| is_media(item)).count(), 0, "{join:?}");
        let items = read(&mut player, start + delay + ms(40));
        let media: Vec<_> = items.iter().filter(|item| is_media(item)).collect();
        assert_eq!((media.len(), media[0].tag.role), (4, Role::Keyframe), "{join:?}");
    }
}

/// What was sent before an encoder left, or was replaced, is played to its end.
#[test]
fn a_delay_outlives_the_encoder() {
    let (delay, start) = (ms(3_000), Instant::now());
    let feed = feed(delay);
    let mut player = feed.subscribe_behind(policy(Join::Fast), delay);
    assert!(read(&mut player, start).is_empty());
    let mut first = Encoder::start(&feed, A, start, 25);
    first.run(50);
    let left = first.now();
    drop(first);
    let mut second = Encoder::start(&feed, B, left, 25);
    second.run(25);
    let gone = second.now();
    drop(second);
    // One who comes now sees the first one, and then the second.
    let mut late = feed.subscribe_behind(policy(Join::Fast), delay);
    let mut of = [(A, 0), (B, 0)];
    let mut next = Next::Wait;
    for step in 0..40 {
        let now = gone + ms(step * 100);
        for item in read(&mut player, now).iter().filter(|item| is_media(item)) {
            let (_, count) =
                of.iter_mut().find(|(of, _)| *of == item.position.publication).unwrap();
            *count += 1;
        }
        next = late.poll(now, &mut Vec::new(), 1);
    }
    assert_eq!(of, [(A, 100), (B, 50)]);
    assert_ne!(next, Next::Ended);
    assert_eq!(player.poll(gone + ms(31_000), &mut Vec::new(), 1), Next::Ended);
}

/// The ring keeps what the delay takes, but its bounds are its bounds: who is further behind than
/// they reach goes on where it can.
#[test]
fn a_delay_beyond_the_ring_skips() {
    let (delay, start) = (ms(10_000), Instant::now());
    let small = Limits { max_tags: 200, ..Limits::default() };
    for (limits, is_whole) in [(Limits::default(), true), (small, false)] {
        let feed = Feed::new(limits);
        feed.set_timing(Timing { delay, max_delay: None });
        let mut player = feed.subscribe_behind(policy(Join::Fast), delay);
        let mut encoder = Encoder::start(&feed, A, start, 50);
        let mut got = 0;
        for _ in 0..500 {
            encoder.run(1);
            let now = encoder.now();
            got += read(&mut player, now).iter().filter(|item| is_media(item)).count();
        }
        // Twenty seconds were sent, of which ten are due, and one frame more.
        match is_whole {
            true => assert_eq!((got, player.skipped()), (502, 0)),
            false => assert!(player.skipped() > 0 && got < 502, "{got} {}", player.skipped()),
        }
    }
}

#[test]
fn timing_is_kept_and_told() {
    let feed = feed(ms(700));
    assert_eq!(feed.timing(), Timing { delay: ms(700), max_delay: None });
    let timing = Timing { delay: Duration::ZERO, max_delay: Some(ms(1_500)) };
    feed.set_timing(timing);
    assert_eq!(feed.timing(), timing);
}
