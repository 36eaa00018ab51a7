//! Stories of publishers and subscribers, in virtual time.

mod support;

use std::time::{Duration, Instant};

use bytes::Bytes;
use hub::{Cut, Feed, Fought, Hub, Item, Join, Limits, Next, Policy, Resume, State, Subscriber};
use media::{PublicationId, Role, Tag, Track, TrackSet};

use support::{A, B, Encoder, audio, audio_header, header, metadata, ms, video};

fn policy(join: Join) -> Policy {
    Policy { join, max_delay: ms(2_000), verbatim: false }
}

fn read_all(subscriber: &mut Subscriber, now: Instant) -> Vec<Item> {
    let mut items = Vec::new();
    while subscriber.poll(now, &mut items, 1 << 20) == Next::Tags {}
    items
}

fn roles(items: &[Item]) -> Vec<(Track, Role)> {
    items.iter().map(|item| (item.tag.track, item.tag.role)).collect()
}

#[test]
fn a_waiting_player_gets_everything_from_the_first_keyframe() {
    let now = Instant::now();
    let feed = Feed::new(Limits::default());
    let mut player = feed.subscribe(policy(Join::Fast), None);
    assert_eq!(read_all(&mut player, now).len(), 0);
    assert_eq!(feed.snapshot(now).state, State::Waiting);
    let mut encoder = Encoder::start(&feed, A, now, 50);
    let mut items = Vec::new();
    for _ in 0..100 {
        encoder.run(1);
        items.extend(read_all(&mut player, encoder.now()));
    }
    assert_eq!(items.len(), 3 + 200);
    assert_eq!(feed.snapshot(encoder.now()).state, State::Live);
    assert!(items.windows(2).all(|pair| pair[0].position.number + 1 == pair[1].position.number));
}

#[test]
fn a_player_that_asks_only_for_news_gets_everything() {
    for max_bytes in [1, 20, 1 << 20] {
        let hub = Hub::<String>::new(Limits::default());
        let feed = hub.feed("camera".into());
        let mut encoder = Encoder::start(&feed, A, Instant::now(), 50);
        let mut player = feed.subscribe(policy(Join::Smooth), None);
        let (mut items, mut polls) = (Vec::new(), 0);
        for _ in 0..100 {
            encoder.run(1);
            while player.has_news() {
                player.poll(encoder.now(), &mut items, max_bytes);
                polls += 1;
            }
        }
        assert_eq!(items.len(), 3 + 200);
        assert!(polls <= items.len(), "{polls} polls for {} tags", items.len());
        if max_bytes == 1 << 20 {
            assert_eq!(polls, 100, "one for each time that the encoder sent something");
        }
        hub.remove(&"camera".into());
        assert!(player.has_news());
        assert_eq!(player.poll(encoder.now(), &mut items, max_bytes), Next::Ended);
    }
}

#[test]
fn who_ends_its_stream_is_not_awaited_but_players_are_held() {
    let feed = Feed::new(Limits::default());
    let mut now = Instant::now();
    for (id, is_stopped) in [(A, true), (B, false), (A, true)] {
        let mut encoder = Encoder::start(&feed, id, now, 50);
        encoder.run(10);
        now = encoder.now();
        let mut player = feed.subscribe(policy(Join::Fast), None);
        read_all(&mut player, now);
        assert!(!feed.was_stopped(id));
        match is_stopped {
            true => encoder.publisher.stop(),
            false => drop(encoder.publisher),
        }
        assert_eq!(feed.was_stopped(id), is_stopped);
        let state = if is_stopped { State::Waiting } else { State::Reconnecting };
        assert_eq!(feed.snapshot(now).state, state);
        now += ms(20_000);
        assert_eq!(player.poll(now, &mut Vec::new(), 1 << 20), Next::Wait);
        assert_eq!(player.poll(now + ms(20_000), &mut Vec::new(), 1 << 20), Next::Ended);
    }
    // Who was taken over from has nothing to end.
    let before = Encoder::start(&feed, A, now, 50);
    let _present = Encoder::start(&feed, B, now, 50);
    before.publisher.stop();
    assert!(!feed.was_stopped(A));
    assert_eq!(feed.publication(), Some(B));
}

#[test]
fn a_smooth_join_gets_headers_then_the_newest_gop() {
    let feed = Feed::new(Limits::default());
    let mut encoder = Encoder::start(&feed, A, Instant::now(), 50);
    encoder.run(70);
    let items = read_all(&mut feed.subscribe(policy(Join::Smooth), None), encoder.now());
    assert_eq!(
        roles(&items)[..4],
        [
            (Track::Data, Role::Metadata),
            (Track::Video, Role::SequenceHeader),
            (Track::Audio, Role::SequenceHeader),
            (Track::Video, Role::Keyframe),
        ]
    );
    assert_eq!(items.len(), 3 + 40);
    assert_eq!(items[3].timestamp, 2_000);
}

#[test]
fn a_fast_join_squeezes_video_and_leaves_old_audio_out() {
    let feed = Feed::new(Limits::default());
    let mut encoder = Encoder::start(&feed, A, Instant::now(), 50);
    encoder.run(70);
    let mut player = feed.subscribe(policy(Join::Fast), None);
    let items = read_all(&mut player, encoder.now());
    assert_eq!(items.len(), 3 + 20, "headers and the GOP's video");
    let times: Vec<_> = items[3..].iter().map(|item| item.timestamp).collect();
    assert_eq!(times, (2_741..=2_760).collect::<Vec<_>>());
    encoder.run(1);
    let live = read_all(&mut player, encoder.now());
    assert_eq!(live.iter().map(|item| item.timestamp).collect::<Vec<_>>(), [2_800, 2_800]);
}

#[test]
fn a_keyframe_join_waits_for_video_and_plays_audio() {
    let feed = Feed::new(Limits::default());
    let mut encoder = Encoder::start(&feed, A, Instant::now(), 50);
    encoder.run(70);
    let mut player = feed.subscribe(policy(Join::Keyframe), None);
    assert!(read_all(&mut player, encoder.now()).iter().all(|item| item.tag.is_header()));
    encoder.run(30);
    assert!(read_all(&mut player, encoder.now()).iter().all(|item| item.tag.track == Track::Audio));
    encoder.run(1);
    assert!(read_all(&mut player, encoder.now())[0].tag.is_keyframe());
}

#[test]
fn a_slow_player_skips_to_the_newest_keyframe_with_a_changed_header_before_it() {
    let feed = Feed::new(Limits::default());
    let mut encoder = Encoder::start(&feed, A, Instant::now(), 25);
    let mut player = feed.subscribe(policy(Join::Smooth), None);
    encoder.run(10);
    read_all(&mut player, encoder.now());
    encoder.run(60);
    let mut changed = header();
    changed.body = Bytes::from_static(&[0x17, 0, 0, 0, 0, 2]);
    encoder.publisher.push(changed.clone(), encoder.now()).unwrap();
    encoder.run(10);
    let items = read_all(&mut player, encoder.now());
    assert_eq!(items[0].tag.body, changed.body);
    assert_eq!((items[1].tag.role, items[1].timestamp), (Role::Keyframe, 75 * 40));
    assert_eq!(items.len(), 1 + 10, "five frames and their audio");
    assert_eq!(feed.snapshot(encoder.now()).skipped, 130);
}

#[test]
fn a_late_player_without_a_newer_keyframe_gets_the_backlog() {
    let feed = Feed::new(Limits::default());
    let mut encoder = Encoder::start(&feed, A, Instant::now(), 250);
    let mut player = feed.subscribe(policy(Join::Smooth), None);
    encoder.run(10);
    read_all(&mut player, encoder.now());
    encoder.run(75);
    assert_eq!(read_all(&mut player, encoder.now()).len(), 150, "three seconds, none skipped");
}

#[test]
fn audio_alone_skips_by_time() {
    let start = Instant::now();
    let feed = Feed::new(Limits::default());
    let mut publisher = feed.publish(A, start).unwrap();
    publisher.push(audio_header(), start).unwrap();
    let mut player = feed.subscribe(policy(Join::Fast), None);
    assert_eq!(read_all(&mut player, start).len(), 1);
    for index in 0..300 {
        publisher.push(audio(index * 20), start + ms(index as u64 * 20)).unwrap();
    }
    let items = read_all(&mut player, start + ms(5_980));
    assert_eq!(items[0].timestamp, 5_480, "half a second is left");
    assert_eq!(items.len(), 26);
}

#[test]
fn a_feed_that_stopped_sending_keyframes_is_joined_at_the_edge() {
    let start = Instant::now();
    let feed = Feed::new(Limits::default());
    let mut encoder = Encoder::start(&feed, A, start, u64::MAX);
    encoder.run(25 * 40);
    let mut player = feed.subscribe(policy(Join::Fast), None);
    assert_eq!(read_all(&mut player, encoder.now()).len(), 3, "headers");
    encoder.run(1);
    assert_eq!(read_all(&mut player, encoder.now()).len(), 2, "video without a keyframe");
}

#[test]
fn the_ring_keeps_the_newest_gop_and_its_bounds() {
    let feed = Feed::new(Limits { max_tags: 1_000, ..Limits::default() });
    let mut encoder = Encoder::start(&feed, A, Instant::now(), 250);
    encoder.run(240);
    let whole = read_all(&mut feed.subscribe(policy(Join::Smooth), None), encoder.now());
    assert_eq!(whole.len(), 3 + 480, "a GOP of ten seconds");
    encoder.run(120);
    let bytes = feed.snapshot(encoder.now()).ring_bytes;
    assert_eq!(bytes, 110 * 11, "4.4 s since the keyframe; what is before it is older than 4 s");
    let mut endless = Encoder::start(&feed, B, encoder.now(), u64::MAX);
    endless.run(25 * 60);
    assert!(feed.snapshot(endless.now()).ring_bytes <= 376 * 11, "15 s");
}

#[test]
fn the_newest_publication_takes_over_and_players_stay() {
    let feed = Feed::new(Limits::default());
    let mut old = Encoder::start(&feed, A, Instant::now(), 25);
    let mut player = feed.subscribe(policy(Join::Smooth), None);
    old.run(30);
    read_all(&mut player, old.now());
    let now = old.now();
    let mut publisher = feed.publish(B, now).unwrap();
    assert_eq!(old.publisher.push(audio(1), now), Err(Cut::TakenOver));
    assert_eq!(old.publisher.cut(), Some(Cut::TakenOver));
    drop(old);
    assert_eq!(feed.publication(), Some(B), "the old one ends without harm");
    for tag in [header(), video(70, false), video(110, true), audio(111)] {
        publisher.push(tag, now).unwrap();
    }
    let items = read_all(&mut player, now);
    assert_eq!(
        roles(&items),
        [
            (Track::Video, Role::SequenceHeader),
            (Track::Video, Role::Keyframe),
            (Track::Audio, Role::Frame)
        ],
        "a fresh header and a keyframe first"
    );
}

#[test]
fn a_fight_is_damped_but_a_dead_incumbent_gives_way() {
    let mut now = Instant::now();
    let feed = Feed::new(Limits::default());
    let mut publishers = Vec::new();
    for round in 0..6 {
        let mut publisher = feed.publish(PublicationId([round; 16]), now).unwrap();
        publisher.push(audio(0), now).unwrap();
        publishers.push(publisher);
        now += ms(500);
    }
    assert_eq!(feed.publish(B, now).err(), Some(Fought));
    assert!(feed.snapshot(now).is_fought);
    now += ms(3_000);
    assert!(feed.publish(B, now).is_ok(), "nothing came from the incumbent for two seconds");
}

#[test]
fn players_are_held_and_then_told_the_end() {
    let feed = Feed::new(Limits::default());
    let mut encoder = Encoder::start(&feed, A, Instant::now(), 25);
    let mut player = feed.subscribe(policy(Join::Smooth), None);
    encoder.run(5);
    let end = encoder.now();
    read_all(&mut player, end);
    drop(encoder);
    let mut poll = |after| player.poll(end + ms(after), &mut Vec::new(), 1 << 20);
    assert_eq!(poll(29_000), Next::Wait);
    assert_eq!(poll(30_000), Next::Ended);
    assert_eq!(feed.snapshot(end + ms(1_000)).state, State::Reconnecting);
    assert_eq!(feed.snapshot(end + ms(31_000)).state, State::Waiting);
    let mut early = feed.subscribe(policy(Join::Fast), None);
    assert_eq!(early.poll(end + ms(60_000), &mut Vec::new(), 1 << 20), Next::Wait);
}

#[test]
fn an_interrupted_subscriber_goes_on_where_it_was() {
    let feed = Feed::new(Limits::default());
    let mut encoder = Encoder::start(&feed, A, Instant::now(), 25);
    encoder.run(20);
    let policy = Policy { verbatim: true, ..policy(Join::Publication) };
    let first = read_all(&mut feed.subscribe(policy, None), encoder.now());
    assert_eq!(first.len(), 43);
    let mut released = TrackSet::default();
    for item in &first[..30] {
        released[item.tag.track] = Some(item.position.number);
    }
    let resume = Resume { publication: A, released };
    let rest = read_all(&mut feed.subscribe(policy, Some(resume)), encoder.now());
    let numbers = |items: &[Item]| items.iter().map(|i| i.position.number).collect::<Vec<_>>();
    assert_eq!(numbers(&rest), numbers(&first[30..]));
}

#[test]
fn a_removed_feed_cuts_its_publisher_and_ends_its_players() {
    let now = Instant::now();
    let hub = Hub::new(Limits::default());
    let feed = hub.feed("camera");
    let mut publisher = feed.publish(A, now).unwrap();
    let mut player = feed.subscribe(policy(Join::Fast), None);
    assert!(!feed.is_closed());
    hub.remove(&"camera");
    assert!(feed.is_closed());
    assert_eq!(publisher.push(audio(0), now), Err(Cut::Revoked));
    assert_eq!(player.poll(now, &mut Vec::new(), 1), Next::Ended);
}

/// An encoder with two tracks of each kind: a joining player gets the headers of all, once.
#[test]
fn a_join_gets_the_headers_of_every_track() {
    let now = Instant::now();
    let feed = Feed::new(Limits::default());
    let mut publisher = feed.publish(A, now).unwrap();
    let video = |body: &[u8]| Tag::new(Track::Video, 0, Bytes::copy_from_slice(body));
    let audio = |body: &[u8]| Tag::new(Track::Audio, 0, Bytes::copy_from_slice(body));
    let headers = [
        metadata(),
        video(b"\x90hvc1old"),
        video(b"\x90hvc1main"),
        video(b"\xd4hvc1colours"),
        video(b"\x96\x00avc1\x01further"),
        audio(b"\xaf\x00\x12\x10"),
        audio(b"\x94mp4a\x01\x02"),
        audio(b"\x95\x00mp4a\x01\x12\x10"),
        audio(b"\x95\x04mp4a\x01\x01\x02"),
    ];
    let mut push = |tag: &Tag| {
        publisher.push(tag.clone(), now).unwrap();
    };
    headers.iter().for_each(&mut push);
    // The further track's keyframe starts no GOP.
    for _ in 0..3 {
        push(&video(b"\x93hvc1\x01"));
        push(&video(b"\x96\x01avc1\x01\x00\x00\x00\x01"));
        push(&video(b"\xa3hvc1\x01"));
    }
    let items = read_all(&mut feed.subscribe(policy(Join::Smooth), None), now);
    let bodies: Vec<_> = items.iter().map(|item| item.tag.body.clone()).collect();
    let mut expected: Vec<_> = headers.iter().map(|tag| tag.body.clone()).collect();
    expected.remove(1);
    assert_eq!(bodies[..8], expected);
    assert_eq!(bodies[8][..], b"\x93hvc1\x01"[..]);
    assert_eq!(items.len(), 8 + 3);
    let snapshot = feed.snapshot(now);
    assert_eq!(snapshot.tracks[Track::Video].codec, Some(media::Codec::FourCc(*b"hvc1")));
    assert_eq!(snapshot.tracks[Track::Audio].codec, Some(media::Codec::FlvAudio(10)));
    assert!((snapshot.tracks[Track::Video].tags_per_second - 3.0).abs() < 0.01, "the main track's");
}

#[test]
fn the_headers_of_hundreds_of_tracks_do_not_pile_up() {
    let now = Instant::now();
    let feed = Feed::new(Limits::default());
    let mut publisher = feed.publish(A, now).unwrap();
    for id in 1..=255 {
        let body = [&b"\x96\x00avc1"[..], &[id, 9]].concat();
        publisher.push(Tag::new(Track::Video, 0, body.into()), now).unwrap();
    }
    publisher.push(header(), now).unwrap();
    publisher.push(video(0, true), now).unwrap();
    let items = read_all(&mut feed.subscribe(policy(Join::Smooth), None), now);
    assert_eq!(items.len(), 16 + 1);
    assert_eq!(items[15].tag.body, header().body, "the main track's is among them");
}

#[test]
fn video_begins_with_the_main_track() {
    let now = Instant::now();
    let feed = Feed::new(Limits::default());
    let mut player = feed.subscribe(policy(Join::Fast), None);
    let mut publisher = feed.publish(A, now).unwrap();
    let bodies = [
        &b"\x96\x00hvc1\x00"[..],
        b"\x96\x00hvc1\x01",
        b"\x96\x03hvc1\x01\x01",
        b"\x96\x03hvc1\x00\x01",
        b"\xa6\x03hvc1\x01\x01",
    ];
    for body in bodies {
        let tag = Tag::new(Track::Video, 0, Bytes::copy_from_slice(body));
        publisher.push(tag, now).unwrap();
    }
    let items = read_all(&mut player, now);
    let got: Vec<_> = items.iter().map(|item| &item.tag.body[..]).collect();
    assert_eq!(got, [bodies[0], bodies[1], bodies[3], bodies[4]]);
}

/// A keyframe or frame of 100 KiB.
fn large(timestamp: i64, is_key: bool) -> Tag {
    let mut body = vec![0; 100 << 10];
    body[..2].copy_from_slice(&[if is_key { 0x17 } else { 0x27 }, 1]);
    Tag::new(Track::Video, timestamp, Bytes::from(body))
}

#[test]
fn all_rings_together_are_bounded_and_the_largest_gives_way() {
    let (total, now) = (10 << 20, Instant::now());
    let hub = Hub::new(Limits { total_bytes: total, ..Limits::default() });
    let small = hub.feed("small");
    let mut modest = Encoder::start(&small, A, now, 50);
    modest.run(50);
    let kept = small.snapshot(now).ring_bytes;
    assert!(kept > 0);

    let greedy: Vec<_> = (0..4).map(|n| hub.feed(["a", "b", "c", "d"][n])).collect();
    let mut publishers: Vec<_> = greedy.iter().map(|f| f.publish(B, now).unwrap()).collect();
    // The third has one GOP without an end.
    for n in 0..100 {
        for (number, publisher) in publishers.iter_mut().enumerate() {
            let is_key = n == 0 || number != 2 && n % 10 == 0;
            publisher.push(large(n * 40, is_key), now + ms(n as u64)).unwrap();
            let memory = hub.memory();
            assert!(memory.used <= total, "{memory:?}");
            assert_eq!(
                memory.used,
                kept + greedy.iter().map(|feed| feed.snapshot(now).ring_bytes).sum::<usize>()
            );
        }
    }
    assert!(hub.memory().trimmed > 0);
    assert_eq!(small.snapshot(now).ring_bytes, kept, "who is modest loses nothing");

    drop((publishers, greedy));
    ["a", "b", "c", "d"].iter().for_each(|name| hub.remove(name));
    assert_eq!(hub.memory().used, kept);
}

#[test]
fn a_player_at_the_live_edge_sees_nothing_of_a_ring_that_gives_way() {
    let (total, now) = (1 << 20, Instant::now());
    let hub = Hub::new(Limits { total_bytes: total, ..Limits::default() });
    let feed = hub.feed("camera");
    let mut publisher = feed.publish(A, now).unwrap();
    let mut player = feed.subscribe(policy(Join::Fast), None);
    for n in 0..60 {
        let now = now + ms(n * 40);
        publisher.push(large((n * 40) as i64, n % 50 == 0), now).unwrap();
        assert_eq!(read_all(&mut player, now).len(), 1, "frame {n}");
    }
    assert!(hub.memory().trimmed > 0);
}

#[test]
fn a_ring_at_its_own_bound_is_counted() {
    let hub = Hub::new(Limits { max_tags: 100, ..Limits::default() });
    let mut encoder = Encoder::start(&hub.feed("camera"), A, Instant::now(), 1_000);
    encoder.run(40);
    assert_eq!(hub.memory().overruns, 0);
    encoder.run(40);
    assert!(hub.memory().overruns > 0);
}

#[test]
fn an_origin_belongs_to_its_publication() {
    let (feed, now) = (Feed::new(Limits::default()), Instant::now());
    let first = feed.publish(A, now).unwrap();
    first.set_origin("192.0.2.1:7".into());
    assert_eq!(feed.origin().as_deref(), Some("192.0.2.1:7"));
    let second = feed.publish(B, now).unwrap();
    assert_eq!(feed.origin().as_deref(), Some(""));
    second.set_origin("192.0.2.2:7".into());
    first.set_origin("192.0.2.1:7".into());
    assert_eq!(feed.origin().as_deref(), Some("192.0.2.2:7"));
}

#[test]
fn who_had_to_skip_takes_every_keyframe_until_it_is_in_time() {
    let start = Instant::now();
    let feed = Feed::new(Limits::default());
    let mut encoder = Encoder::start(&feed, A, start, 50);
    encoder.run(1);
    let mut player = feed.subscribe(policy(Join::Fast), None);
    read_all(&mut player, encoder.now());
    encoder.run(99);
    // Four seconds late: on to the keyframe two seconds ago, of which it takes a frame.
    let mut items = Vec::new();
    player.poll(encoder.now(), &mut items, 1);
    assert_eq!(items[0].timestamp, 2_000);
    encoder.run(1);
    let items = read_all(&mut player, encoder.now());
    assert_eq!(items[0].timestamp, 4_000, "within the allowed delay, and on to the next");
    // In time again: what is a little late is not skipped.
    encoder.run(49);
    assert_eq!(read_all(&mut player, encoder.now()).len(), 98);
}

#[test]
fn the_node_itself_is_no_subscriber() {
    let feed = Feed::new(Limits::default());
    let policy = Policy { join: Join::Publication, max_delay: Duration::MAX, verbatim: true };
    let mut follower = feed.follow(policy);
    let player = feed.subscribe(policy, None);
    assert_eq!(feed.subscribers(), 1);
    let start = Instant::now();
    let mut publisher = feed.publish(A, start).unwrap();
    for frame in 0..100 {
        publisher.push(video(frame * 40, frame % 25 == 1), start).unwrap();
    }
    drop(player);
    assert_eq!(feed.subscribers(), 0);
    // However late, and without a keyframe at the beginning.
    let mut items = Vec::new();
    let now = start + Duration::from_secs(3_600);
    assert_eq!(follower.poll(now, &mut items, usize::MAX), Next::Tags);
    assert_eq!(items.len(), 100);
    drop(follower);
    assert_eq!(feed.subscribers(), 0);
}
