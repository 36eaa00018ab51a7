//! Stories of a publication that is read in two lanes, in virtual time.

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use hub::{Bell, Feed, Item, Lane, Lanes, Limits, Resume};
use media::{PublicationId, Role, Track, TrackSet};

use support::{A, B, Encoder, audio, ms, video};

const BUDGET: Duration = Duration::from_secs(2);

fn lanes(feed: &Feed, publication: PublicationId) -> Lanes {
    feed.lanes(&Resume { publication, released: TrackSet::default() }, BUDGET)
}

fn read(lanes: &mut Lanes, lane: Lane, now: Instant) -> Vec<Item> {
    let mut items = Vec::new();
    loop {
        let before = items.len();
        lanes.poll(lane, now, &mut items, 1 << 20);
        if items.len() == before {
            return items;
        }
    }
}

fn times(items: &[Item]) -> Vec<i64> {
    let media = items.iter().filter(|item| !item.tag.is_header());
    media.map(|item| item.tag.timestamp).collect()
}

#[test]
fn what_is_heard_does_not_wait_for_what_is_seen() {
    let feed = Feed::new(Limits::default());
    let mut encoder = Encoder::start(&feed, A, Instant::now(), 50);
    encoder.run(25);
    let mut lanes = lanes(&feed, A);
    let rest = read(&mut lanes, Lane::Rest, encoder.now());
    assert_eq!(rest.len(), 27, "metadata, a header, audio");
    assert!(rest.iter().all(|item| item.tag.track != Track::Video));
    assert!(!lanes.is_over());
    let seen = read(&mut lanes, Lane::Video, encoder.now());
    assert_eq!(seen.len(), 26);
    assert_eq!(seen[0].tag.role, Role::SequenceHeader);
}

#[test]
fn the_rest_skips_to_where_video_has_skipped() {
    let feed = Feed::new(Limits::default());
    let mut encoder = Encoder::start(&feed, A, Instant::now(), 50);
    encoder.run(10);
    let mut lanes = lanes(&feed, A);
    read(&mut lanes, Lane::Video, encoder.now());
    read(&mut lanes, Lane::Rest, encoder.now());
    encoder.run(45);
    assert_eq!(lanes.skipped(), 0);
    // Late, but within the budget: only an outage makes it skip.
    assert!(!lanes.will_skip(encoder.now()));
    lanes.recover();
    assert!(lanes.will_skip(encoder.now()));
    let seen = times(&read(&mut lanes, Lane::Video, encoder.now()));
    assert!(!lanes.will_skip(encoder.now()));
    assert_eq!(seen, (50..55).map(|frame| frame * 40).collect::<Vec<_>>());
    let heard = times(&read(&mut lanes, Lane::Rest, encoder.now()));
    assert_eq!(heard, (50..55).map(|frame| frame * 40).collect::<Vec<_>>());
    assert_eq!(lanes.skipped(), 80);
    encoder.run(1);
    read(&mut lanes, Lane::Rest, encoder.now());
    lanes.recover();
    let seen = times(&read(&mut lanes, Lane::Video, encoder.now()));
    assert_eq!(seen, [2_200], "in time, nothing is skipped");
}

#[test]
fn a_publication_that_is_over_is_read_to_its_end() {
    let start = Instant::now();
    let feed = Feed::new(Limits::default());
    let mut encoder = Encoder::start(&feed, A, start, 50);
    encoder.run(10);
    let mut first = lanes(&feed, A);
    let mut next = Encoder::start(&feed, B, encoder.now(), 50);
    next.run(3);
    assert_eq!(read(&mut first, Lane::Video, next.now()).len(), 11);
    assert!(!first.is_over());
    assert_eq!(read(&mut first, Lane::Rest, next.now()).len(), 12);
    assert!(first.is_over());
    let mut second = lanes(&feed, B);
    assert_eq!(read(&mut second, Lane::Video, next.now()).len(), 4);
    read(&mut second, Lane::Rest, next.now());
    assert!(!second.is_over());
    drop(next);
    assert!(second.is_over());
    let mut never = lanes(&feed, PublicationId([9; 16]));
    assert!(read(&mut never, Lane::Video, start).is_empty());
    assert!(read(&mut never, Lane::Rest, start).is_empty());
    assert!(never.is_over());
}

#[test]
fn what_came_through_before_is_left_out() {
    let feed = Feed::new(Limits::default());
    let mut encoder = Encoder::start(&feed, A, Instant::now(), 50);
    encoder.run(10);
    let mut released = TrackSet::default();
    // Numbers: metadata, two headers, then video and audio in turn.
    (released[Track::Data], released[Track::Video], released[Track::Audio]) =
        (Some(0), Some(3 + 8), Some(4 + 12));
    let mut lanes = feed.lanes(&Resume { publication: A, released }, BUDGET);
    assert_eq!(times(&read(&mut lanes, Lane::Video, encoder.now())), [200, 240, 280, 320, 360]);
    assert_eq!(times(&read(&mut lanes, Lane::Rest, encoder.now())), [280, 320, 360]);
}

#[test]
fn feeds_without_keyframes_skip_by_time() {
    let start = Instant::now();
    let feed = Feed::new(Limits::default());
    let mut encoder = Encoder::start(&feed, A, start, 50);
    for frame in 0..500 {
        let now = start + ms(frame * 40);
        encoder.publisher.push(video(frame as i64 * 40, false), now).unwrap();
        encoder.publisher.push(audio(frame as i64 * 40), now).unwrap();
    }
    let mut lanes = lanes(&feed, A);
    let now = start + ms(499 * 40);
    assert_eq!(times(&read(&mut lanes, Lane::Video, now))[0], 487 * 40);
    assert_eq!(times(&read(&mut lanes, Lane::Rest, now))[0], 487 * 40);
}

#[test]
fn a_bell_rings_for_what_has_changed() {
    let start = Instant::now();
    let (roof, hall) = (Feed::new(Limits::default()), Feed::new(Limits::default()));
    let bell = Arc::new(Bell::default());
    let ringing = [roof.ring(&bell, 1), hall.ring(&bell, 2)];
    assert_eq!(bell.take(), [1, 2].into());
    let mut encoder = Encoder::start(&hall, A, start, 50);
    assert_eq!(bell.take(), [2].into());
    encoder.run(1);
    assert_eq!(bell.take(), [2].into());
    drop(encoder);
    assert_eq!(bell.take(), [2].into(), "it went off air");
    drop(ringing);
    drop(Encoder::start(&hall, B, start, 50));
    assert_eq!(bell.take(), [].into());
}

#[test]
fn what_leads_to_the_next_frame_is_no_skip() {
    let feed = Feed::new(Limits::default());
    let mut encoder = Encoder::start(&feed, A, Instant::now(), 50);
    encoder.run(50);
    let mut lanes = lanes(&feed, A);
    read(&mut lanes, Lane::Video, encoder.now());
    // A keyframe follows the last frame that was read, and between them there is sound.
    encoder.publisher.push(audio(1_999), encoder.now()).unwrap();
    encoder.run(5);
    lanes.recover();
    let now = encoder.now() + ms(400);
    assert!(!lanes.will_skip(now), "nothing seen lies before the keyframe");
    let seen = times(&read(&mut lanes, Lane::Video, now));
    assert_eq!(seen, (50..55).map(|frame| frame * 40).collect::<Vec<_>>());
}
