//! Enhanced RTMP v2 through the real binary: several tracks, what each player gets of them, and
//! requests to reconnect. The clients are our own: they announce what no real one does yet.

use bytes::Bytes;
use media::{Tag, Track};
use rtmp::capabilities::{Capabilities, CapsEx};
use rtmp::session::Intent;
use rtmp::session::client::Event;
use testkit::process::Signal;
use testkit::{Node, OwnClient, PATIENCE, Value, wait_until};

const FIRSTMILE: &str = env!("CARGO_BIN_EXE_firstmile");

/// A studio with this under `[play]`. Whoever joins gets a GOP with its sound, so that it does not
/// matter whether a player joined before it or after.
fn studio(play: &str) -> testkit::Launch {
    Node::studio(FIRSTMILE).config(&format!("[play]\njoin = \"smooth\"\n{play}\n"))
}

fn relay_and_studio() -> (Node, Node) {
    let relay = Node::relay(FIRSTMILE).start().unwrap();
    let studio = studio("").join(relay.join_link()).start().unwrap();
    studio.wait_links(1);
    (relay, studio)
}

#[track_caller]
fn publish(url: &str, capabilities: Capabilities) -> OwnClient {
    OwnClient::announcing(url, Intent::Publish, capabilities)
}

#[track_caller]
fn play(url: &str, capabilities: Capabilities) -> OwnClient {
    OwnClient::announcing(url, Intent::Play, capabilities)
}

fn tag(track: Track, timestamp: i64, body: &[u8]) -> Tag {
    Tag::new(track, timestamp, Bytes::copy_from_slice(body))
}

fn silent() -> Capabilities {
    Capabilities::default()
}

fn everything() -> Capabilities {
    Capabilities::forwarder(CapsEx::ALL)
}

/// What a player is that lists this codec and nothing else.
fn lists(fourcc: &str) -> Capabilities {
    let list = rtmp::amf0::Value::StrictArray(vec![fourcc.into()]);
    Capabilities::parse(&rtmp::amf0::Value::object([("fourCcList", list)]))
}

const VIDEO: Track = Track::Video;
const AUDIO: Track = Track::Audio;

/// Headers of two tracks of each kind; as OBS, all its video is in envelopes.
fn headers() -> Vec<Tag> {
    vec![
        tag(VIDEO, 0, b"\x96\x00hvc1\x00main"),
        tag(VIDEO, 0, b"\x96\x00avc1\x01further"),
        tag(AUDIO, 0, b"\xaf\x00\x12\x10"),
        tag(AUDIO, 0, b"\x95\x00mp4a\x01\x12\x10"),
        tag(AUDIO, 0, b"\x95\x04mp4a\x01\x01\x02"),
    ]
}

/// Three frames; the second track's keyframe is in the same message as the main one's, and the
/// last frame is behind a `ModEx` packet.
fn gop(start: i64) -> Vec<Tag> {
    vec![
        tag(VIDEO, start, b"\x96\x23hvc1\x00\x00\x00\x02k0avc1\x01\x00\x00\x05\x00\x00\x00k1"),
        tag(AUDIO, start, b"\xaf\x01a0"),
        tag(AUDIO, start, b"\x95\x01mp4a\x01a1"),
        tag(VIDEO, start + 40, b"\xa6\x03hvc1\x00p0"),
        tag(VIDEO, start + 40, b"\xa6\x01avc1\x01\x00\x00\x00p1"),
        tag(VIDEO, start + 80, b"\xa7\x02\x00\x00\x01\x06\x03hvc1\x00q0"),
    ]
}

/// The same for who gets one plain track.
fn plain_headers() -> Vec<Tag> {
    vec![tag(VIDEO, 0, b"\x90hvc1main"), tag(AUDIO, 0, b"\xaf\x00\x12\x10")]
}

fn plain_gop(start: i64) -> Vec<Tag> {
    vec![
        tag(VIDEO, start, b"\x93hvc1k0"),
        tag(AUDIO, start, b"\xaf\x01a0"),
        tag(VIDEO, start + 40, b"\xa3hvc1p0"),
        tag(VIDEO, start + 80, b"\xa3hvc1q0"),
    ]
}

/// Waits for as many tags of these kinds as expected, and compares their bodies, each kind by
/// itself.
#[track_caller]
fn expect_of(tracks: &[Track], player: &mut OwnClient, expected: &[Tag]) {
    let is_meant = |tag: &Tag| tracks.contains(&tag.track);
    let mut got = Vec::new();
    while got.len() < expected.iter().filter(|tag| is_meant(tag)).count() {
        got.extend(player.tags(1).into_iter().filter(is_meant));
    }
    for track in tracks {
        let bodies = |tags: &[Tag]| {
            let tags = tags.iter().filter(|tag| tag.track == *track);
            tags.map(|tag| tag.body.escape_ascii().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(bodies(&got), bodies(expected), "{track:?}");
    }
}

#[track_caller]
fn expect(player: &mut OwnClient, expected: &[Tag]) {
    expect_of(&[VIDEO, AUDIO], player, expected);
}

/// Over the backhaul sound may be ahead of the keyframe that a player joins at.
#[track_caller]
fn expect_video(player: &mut OwnClient, expected: &[Tag]) {
    expect_of(&[VIDEO], player, expected);
}

#[test]
fn every_track_reaches_players_that_take_them() {
    let (relay, studio) = relay_and_studio();
    let (url, key_url) = (studio.url("camera"), relay.url(&studio.key("camera")));
    let mut early = play(&url, everything());
    let mut early_silent = play(&url, silent());
    let mut encoder = publish(&key_url, silent());
    encoder.send_all(&[headers(), gop(0)].concat());
    expect_video(&mut early, &[headers(), gop(0)].concat());
    expect_video(&mut early_silent, &[plain_headers(), plain_gop(0)].concat());
    encoder.send_all(&gop(120));
    expect_video(&mut early, &gop(120));
    expect_video(&mut early_silent, &plain_gop(120));

    // Who joins later gets the headers of every track, the newest GOP, and all that follows.
    let mut late = play(&url, everything());
    let mut late_silent = play(&url, silent());
    expect_video(&mut late, &[headers(), gop(120)].concat());
    expect_video(&mut late_silent, &[plain_headers(), plain_gop(120)].concat());
    encoder.send_all(&gop(240));
    for player in [&mut early, &mut late] {
        expect_video(player, &gop(240));
    }
    for player in [&mut early_silent, &mut late_silent] {
        expect_video(player, &plain_gop(240));
    }
    encoder.close();
}

#[test]
fn players_that_announce_get_no_more_than_that() {
    let studio = studio("multitrack = \"always\"").start().unwrap();
    let url = studio.url("camera");
    // The silent get everything, as the setting says; the others exactly what they can take.
    let mut silent = play(&url, silent());
    let mut no_modex = play(&url, Capabilities::forwarder(CapsEx::MULTITRACK));
    let mut no_hevc = play(&url, lists("av01"));
    studio.wait_players("camera", 3);
    let mut encoder = publish(&studio.url(&studio.key("camera")), everything());
    let all = [headers(), gop(0)].concat();
    encoder.send_all(&all);
    expect(&mut silent, &all);
    let mut expected = all;
    expected.last_mut().unwrap().body = Bytes::from_static(b"\xa6\x03hvc1\x00q0");
    expect(&mut no_modex, &expected);
    expected.retain(|tag| tag.body[0] == 0xaf);
    expect(&mut no_hevc, &expected);
    studio.wait_log("left out: the player has announced other codecs");
    assert_eq!(studio.log().matches("left out").count(), 1, "told once");
    encoder.close();
}

#[test]
fn encoders_that_can_are_asked_to_move_and_served_meanwhile() {
    let (mut relay, studio) = relay_and_studio();
    studio.json(&["feed", "add", "second"]);
    let mut player = play(&studio.url("camera"), everything());
    let url = relay.url(&studio.key("camera"));
    let mut can = publish(&url, everything());
    let second = studio.json(&["feed", "list"]);
    let mut cannot = publish(&relay.url(&key_of(&second, "second")), silent());
    can.send_all(&[headers(), gop(0)].concat());
    expect_video(&mut player, &[headers(), gop(0)].concat());

    relay.signal(Signal::Terminate);
    let failed =
        |event: &Event| matches!(event, Event::Rejected { code, .. } if code == "NetStream.Failed");
    let event = cannot.next_event();
    assert!(failed(&event), "{event:?}");
    assert_eq!(can.next_event(), Event::ReconnectRequested(url.parse().unwrap()));
    // What it still sends arrives.
    can.send_all(&gop(120));
    expect_video(&mut player, &gop(120));
    can.close();
    wait_until("the relay has ended", PATIENCE, || !relay.is_running());
}

#[test]
fn encoders_that_stay_though_asked_are_told() {
    let mut studio = Node::studio(FIRSTMILE).start().unwrap();
    let url = studio.url(&studio.key("camera"));
    let mut encoder = publish(&url, everything());
    let mut player = play(&studio.url("camera"), everything());
    studio.signal(Signal::Terminate);
    assert!(matches!(encoder.next_event(), Event::ReconnectRequested(_)));
    let event = encoder.next_event();
    assert!(matches!(event, Event::Rejected { .. }), "{event:?}");
    assert!(encoder.event(PATIENCE).unwrap().is_none(), "the connection is closed");
    assert!(matches!(player.next_event(), Event::ReconnectRequested(_)));
    assert_eq!(player.next_event(), Event::Ended);
    wait_until("the studio has ended", PATIENCE, || !studio.is_running());
}

fn key_of(feeds: &Value, name: &str) -> String {
    let feeds = feeds.as_array().or_else(|| feeds["feeds"].as_array()).unwrap();
    let feed = feeds.iter().find(|feed| feed["name"] == name).unwrap();
    feed["publish"][0]["key"].as_str().unwrap().to_owned()
}
