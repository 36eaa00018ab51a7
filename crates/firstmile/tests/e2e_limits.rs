//! Limits at the doors of running nodes: who may come in, how often, and for how much.

use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use firstmile::identity::Identity;
use firstmile::join::JoinLink;
use firstmile::quic::Dialer;
use media::{Tag, Track};
use rtmp::session::Intent;
use rtmp::session::client::Event;
use testkit::client::{FfmpegPublish, Speed, publish_clip, rtmpdump_play};
use testkit::{Node, OwnClient, PATIENCE, Value, fixture, http, wait_until};

const FIRSTMILE: &str = env!("CARGO_BIN_EXE_firstmile");

/// A studio with these lines in its configuration.
fn studio(config: &str) -> Node {
    Node::studio(FIRSTMILE).config(config).start().unwrap()
}

fn limits(studio: &Node) -> Value {
    studio.status().unwrap()["limits"].clone()
}

/// How often a limit was hit.
fn hits(studio: &Node, limit: &str) -> u64 {
    let limits = limits(studio);
    limits["hits"][limit].as_u64().unwrap_or_else(|| panic!("no {limit} in {limits}"))
}

#[track_caller]
fn wait_hits(studio: &Node, limit: &str, least: u64) {
    wait_until(limit, PATIENCE, || hits(studio, limit) >= least);
}

fn mute(studio: &Node) -> TcpStream {
    TcpStream::connect(studio.address("rtmp")).unwrap()
}

#[track_caller]
fn assert_closed(mut stream: &TcpStream) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    match stream.read(&mut [0; 16]) {
        Ok(0) => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        other => panic!("it is open: {other:?}"),
    }
}

fn header() -> Tag {
    Tag::new(Track::Video, 0, vec![0x17, 0, 0, 0, 0, 1].into())
}

fn keyframe(timestamp: i64, size: usize) -> Tag {
    let mut body = vec![0; size];
    body[..2].copy_from_slice(&[0x17, 1]);
    Tag::new(Track::Video, timestamp, body.into())
}

/// An encoder of ours that was let in and has sent a picture.
fn encoder(studio: &Node) -> OwnClient {
    let url = studio.url(&studio.key("camera"));
    let mut encoder = OwnClient::ready(&url, Intent::Publish);
    encoder.send(&header()).unwrap();
    encoder.send(&keyframe(0, 100)).unwrap();
    encoder
}

/// Waits for the server to end it; returns the code that it was told.
#[track_caller]
fn ended(client: &mut OwnClient) -> Option<String> {
    let mut told = None;
    loop {
        match client.event(Duration::from_secs(60)) {
            Ok(Some(Event::Rejected { code, .. })) => told = Some(code),
            Ok(Some(_)) => {}
            Ok(None) => return told,
            Err(error) => panic!("it was not ended: {error}"),
        }
    }
}

#[test]
fn mute_sockets_lock_nobody_out() {
    let studio = studio("[limits]\nunauthenticated_per_ip = 16\n");
    let crowd: Vec<_> = (0..40).map(|_| mute(&studio)).collect();
    wait_hits(&studio, "unauthenticated_per_ip", 24);
    assert_closed(&crowd[0]);
    assert!(limits(&studio)["unauthenticated"].as_u64() <= Some(16));

    let mut player = rtmpdump_play(&studio.url("camera"));
    studio.wait_players("camera", 1);
    let url = studio.url(&studio.key("camera"));
    let mut publisher = publish_clip(&url);
    player.wait_video(15, PATIENCE);
    let more: Vec<_> = (0..40).map(|_| mute(&studio)).collect();
    let before = player.frames(Track::Video);
    player.wait_video(before + 15, PATIENCE);
    assert!(publisher.is_running());
    assert_eq!(limits(&studio)["sessions"], 2);
    drop((crowd, more));
}

#[test]
fn strangers_are_few_in_all() {
    let studio = studio("[limits]\nunauthenticated = 2\n");
    let crowd: Vec<_> = (0..3).map(|_| mute(&studio)).collect();
    wait_hits(&studio, "unauthenticated", 1);
    assert_closed(&crowd[0]);
}

#[test]
fn in_a_full_house_strangers_make_room_and_sessions_stay() {
    let studio = studio("[limits]\nconnections = 2\n");
    let stranger = mute(&studio);
    wait_until("the stranger is in", PATIENCE, || limits(&studio)["unauthenticated"] == 1);
    let mut encoder = encoder(&studio);
    let mut player = OwnClient::ready(&studio.url("camera"), Intent::Play);
    assert_closed(&stranger);
    wait_hits(&studio, "connections", 1);
    // Now all that are in were let in.
    assert_closed(&mute(&studio));
    assert_eq!(hits(&studio, "connections"), 2);
    assert!(matches!(player.event(PATIENCE), Ok(Some(Event::Tag(_)))));
    encoder.send(&keyframe(40, 100)).unwrap();
    assert_eq!(limits(&studio)["sessions"], 2);
}

#[test]
fn one_address_connects_so_often_and_no_more() {
    let studio = studio("[limits]\nconnections_per_second = 1\nconnection_burst = 3\n");
    let crowd: Vec<_> = (0..60).map(|_| mute(&studio)).collect();
    wait_hits(&studio, "connection_rate", 1);
    let closed = crowd.last().unwrap();
    assert_closed(closed);
}

#[test]
fn wrong_keys_are_answered_late_and_a_right_one_at_once() {
    let studio = studio(
        "[limits]\nauth_failures_per_minute = 2\nauth_penalty = \"30s\"\n\
         [limits.rtmp]\ncommands_per_second = 100\n",
    );
    let wrong = studio.url(&format!("camera-{}", "0".repeat(26)));
    let unknown = studio.url(&format!("nothing-{}", "0".repeat(26)));
    let answers = [wrong.as_str(), &unknown].map(|url| {
        let mut client = OwnClient::connect(url, Intent::Publish).unwrap();
        assert_eq!(ended(&mut client).as_deref(), Some("NetStream.Publish.Denied"));
        client.messages().into_iter().map(|message| message.body).collect::<Vec<_>>()
    });
    assert_eq!(answers[0], answers[1], "unknown and wrong look alike");
    assert_eq!(hits(&studio, "auth_failures"), 0);

    let mut late = OwnClient::connect(&wrong, Intent::Publish).unwrap();
    // It reads on until its request is with the studio.
    wait_until("a delayed answer", PATIENCE, || {
        late.read(Duration::from_millis(20)).unwrap();
        hits(&studio, "auth_failures") == 1
    });
    studio.wait_log("wrong keys again and again");
    // The right key from the same address: let in while the other still waits.
    let _encoder = encoder(&studio);
    assert!(late.event(Duration::from_millis(20)).is_err(), "it has no answer yet");
    wait_until("it alone has a place", PATIENCE, || limits(&studio)["unauthenticated"] == 1);
}

#[test]
fn an_encoder_that_sends_nothing_is_an_alarm_and_then_closed() {
    let studio = studio("[limits]\nmedia_timeout = \"12s\"\n");
    let mut encoder = encoder(&studio);
    studio.wait_feed("camera", "live");
    let mut has_alarm = false;
    wait_until("it is closed", Duration::from_secs(60), || {
        let alarms = studio.status().unwrap()["alarms"].to_string();
        has_alarm |= alarms.contains("encoder of camera is connected and sends nothing");
        hits(&studio, "media_timeout") == 1 || !encoder.read(Duration::from_millis(20)).unwrap()
    });
    assert!(has_alarm);
    assert_eq!(ended(&mut encoder).as_deref(), Some("NetStream.Publish.Rejected"));
    studio.wait_log("the connection lives, but no video or audio came for 12 s");
    assert_eq!(hits(&studio, "media_timeout"), 1);
    let is_ping = |body: &[u8]| body.starts_with(&[0, 6]);
    assert!(encoder.messages().iter().any(|m| m.type_id == 4 && is_ping(&m.body)), "no ping");
}

#[test]
fn an_encoder_that_is_gone_is_closed_and_said_to_be() {
    let studio = studio("[limits]\nread_timeout = \"1s\"\n");
    let mut encoder = encoder(&studio);
    studio.wait_log("nothing came for 1 s");
    ended(&mut encoder);
    assert_eq!(hits(&studio, "read_timeout"), 1);
}

#[test]
fn handshake_and_request_have_their_time() {
    let studio = studio("[limits]\nhandshake = \"1s\"\nauthorise = \"2s\"\n");
    assert_closed(&mute(&studio));
    wait_hits(&studio, "handshake", 1);
    // One byte now and then is no silence.
    let url = studio.url("camera");
    let mut slow = OwnClient::connect(&url, Intent::Play).unwrap();
    let mut raw = mute(&studio);
    wait_until("a slow one is cut", PATIENCE, || {
        let _ = std::io::Write::write(&mut raw, &[3]);
        hits(&studio, "authorise") >= 1
    });
    assert!(slow.read(PATIENCE).unwrap());
}

#[test]
fn a_silent_player_is_pinged() {
    let studio = studio("");
    let mut player = OwnClient::ready(&studio.url("camera"), Intent::Play);
    let is_ping = |body: &[u8]| body.starts_with(&[0, 6]);
    wait_until("a ping", PATIENCE, || {
        player.read(Duration::from_millis(100)).unwrap();
        player.messages().iter().any(|message| message.type_id == 4 && is_ping(&message.body))
    });
}

#[test]
fn a_bitrate_over_the_limit_ends_the_encoder_and_says_so() {
    let studio = studio("[limits]\nmax_bitrate = \"1 Mbit/s\"\n");
    let url = studio.url(&studio.key("camera"));
    let clip = fixture::clip();
    let mut greedy = FfmpegPublish::new(&clip, &url).speed(Speed::Burst).forever().start();
    assert!(!greedy.wait(PATIENCE).unwrap().status.success());
    studio.wait_log("its bitrate is over 1 Mbit/s, the limit here");
    assert_eq!(hits(&studio, "bitrate"), 1);
    // One that keeps to it is welcome.
    let mut player = rtmpdump_play(&studio.url("camera"));
    let _modest = FfmpegPublish::new(&clip, &url).forever().start();
    player.wait_video(30, PATIENCE);
}

#[test]
fn a_publication_lasts_so_long_and_no_longer() {
    let studio = studio("[limits]\nmax_duration = \"2s\"\n");
    let url = studio.url(&studio.key("camera"));
    let mut publisher = publish_clip(&url);
    assert!(!publisher.wait(PATIENCE).unwrap().status.success());
    studio.wait_log("it was on air for 2s, the limit here");
    assert_eq!(hits(&studio, "duration"), 1);
}

#[test]
fn a_feed_has_so_many_players_and_no_more() {
    let studio = studio("[limits]\nplayers_per_feed = 1\n");
    let first = OwnClient::ready(&studio.url("camera"), Intent::Play);
    let mut second = OwnClient::connect(&studio.url("camera"), Intent::Play).unwrap();
    assert_eq!(ended(&mut second).as_deref(), Some("NetStream.Play.Failed"));
    assert_eq!(hits(&studio, "players_per_feed"), 1);
    drop(first);
    studio.wait_players("camera", 0);
    OwnClient::ready(&studio.url("camera"), Intent::Play);
}

#[test]
fn a_name_beyond_255_bytes_is_denied_like_any_other_and_counted() {
    let studio = studio("");
    let url = studio.url(&"x".repeat(256));
    let mut client = OwnClient::connect(&url, Intent::Publish).unwrap();
    assert_eq!(ended(&mut client).as_deref(), Some("NetStream.Publish.Denied"));
    wait_hits(&studio, "names", 1);
}

#[test]
fn amf_and_names_have_the_bounds_that_are_set() {
    let studio = studio(
        "[limits.rtmp]\namf_depth = 4\namf_elements = 128\namf_text = \"4 KiB\"\n\
         amf_all_text = \"16 KiB\"\nname_bytes = \"64 B\"\nquery_bytes = \"64 B\"\n",
    );
    // Whatever its name is, it is answered.
    let command = |arguments: &[u8]| {
        chunk(3, 20, &[&b"\x02\x00\x01x\x00\x3f\xf0\0\0\0\0\0\0"[..], arguments].concat())
    };
    let list = |depth: usize| [&b"\x0a\0\0\0\x01".repeat(depth - 1)[..], &[5]].concat();
    // In chunks of 128 bytes, as long as nothing else was said.
    let size = chunk(2, 1, &60_000_u32.to_be_bytes());
    let text = |length: u16| [&[2][..], &length.to_be_bytes(), &vec![b'x'; length.into()]].concat();
    for (within, beyond) in [
        (list(4), list(5)),
        (vec![5; 126], vec![5; 127]),
        (text(4 << 10), text((4 << 10) + 1)),
        (text(4 << 10).repeat(3), text(4 << 10).repeat(4)),
    ] {
        let before = hits(&studio, "amf");
        let mut encoder = encoder(&studio);
        encoder.send_raw(&[&size[..], &command(&within)].concat()).unwrap();
        let answers = |encoder: &OwnClient| {
            encoder
                .messages()
                .iter()
                .filter(|message| message.body.starts_with(b"\x02\0\x07_result"))
                .count()
        };
        let so_far = answers(&encoder);
        while answers(&encoder) == so_far {
            assert!(encoder.read(PATIENCE).unwrap(), "it was ended");
        }
        assert_eq!(hits(&studio, "amf"), before);
        let _ = encoder.send_raw(&command(&beyond));
        ended(&mut encoder);
        wait_hits(&studio, "amf", before + 1);
    }
    let key = studio.key("camera");
    let (fits, long) = ("y".repeat(64), "y".repeat(65));
    OwnClient::ready(&studio.url(&format!("{key}?{fits}")), Intent::Publish);
    OwnClient::ready(&studio.url(&format!("camera?{fits}")), Intent::Play);
    // "live/" and the rest: with a good key too.
    let path = format!("{}/{key}", "x".repeat(64 - "live/".len() - key.len()));
    let asked = [
        (format!("{key}?{long}"), Intent::Publish, "NetStream.Publish.Denied"),
        (path, Intent::Publish, "NetStream.Publish.Denied"),
        (format!("camera?{long}"), Intent::Play, "NetStream.Play.StreamNotFound"),
    ];
    for (number, (name, intent, code)) in (1..).zip(asked) {
        let mut client = OwnClient::connect(&studio.url(&name), intent).unwrap();
        assert_eq!(ended(&mut client).as_deref(), Some(code), "{name}");
        wait_hits(&studio, "names", number);
    }
}

/// A type 0 chunk with a whole message.
fn chunk(id: u8, type_id: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32).to_be_bytes();
    let header = [id, 0, 0, 0, length[1], length[2], length[3], type_id, 1, 0, 0, 0];
    [&header[..], body].concat()
}

#[test]
fn floods_of_messages_and_commands_end_their_connection_only() {
    let studio = studio(
        "[limits.rtmp]\nmessages_per_second = 200\ncommands_per_second = 5\n\
         video_message = \"64 KiB\"\n",
    );
    let mut player = rtmpdump_play(&studio.url("camera"));
    studio.wait_players("camera", 1);
    let acknowledgement = chunk(2, 3, &[0, 0, 0, 1]);
    // The name "x" and the transaction 0.
    let command = chunk(3, 20, b"\x02\x00\x01x\x00\0\0\0\0\0\0\0\0");
    let large = chunk(6, 9, &vec![0x27; (64 << 10) + 1]);
    for (limit, bytes) in [
        ("message_rate", acknowledgement.repeat(2_000)),
        ("command_rate", command.repeat(100)),
        ("message_size", large),
    ] {
        let mut encoder = encoder(&studio);
        // It may be closed before all is written.
        let _ = encoder.send_raw(&bytes);
        ended(&mut encoder);
        wait_hits(&studio, limit, 1);
    }
    let url = studio.url(&studio.key("camera"));
    let mut honest = publish_clip(&url);
    player.wait_video(30, PATIENCE);
    assert!(honest.is_running());
}

#[test]
fn all_rings_together_keep_to_their_memory() {
    const MIB: u64 = 1 << 20;
    const TAG: u64 = 60 << 10;
    let studio = studio("[ring]\nmax_bytes = \"1 MiB\"\ntotal_bytes = \"1 MiB\"\nmax_tags = 100\n");
    studio.json(&["feed", "add", "two"]);
    let mut encoders = ["camera", "two"].map(|feed| {
        let mut encoder = OwnClient::ready(&studio.url(&studio.key(feed)), Intent::Publish);
        encoder.send(&header()).unwrap();
        encoder
    });
    for n in 0..20 {
        for encoder in &mut encoders {
            encoder.send(&keyframe(n * 40, TAG as usize)).unwrap();
        }
        // A tag is in its ring for an instant before room is made for it.
        let bytes = limits(&studio)["ring_bytes"].as_u64().unwrap();
        assert!(bytes <= MIB + 2 * (TAG + 1_024), "{bytes} bytes");
    }
    wait_until("the rings keep to their memory", PATIENCE, || {
        limits(&studio)["ring_bytes"].as_u64() <= Some(MIB)
    });
    wait_hits(&studio, "ring_total", 1);
    for n in 0..120 {
        encoders[0].send(&keyframe(800 + n, 10)).unwrap();
    }
    wait_hits(&studio, "ring", 1);
    for encoder in &mut encoders {
        encoder.send(&keyframe(1_000, 100)).unwrap();
    }
    studio.wait_feed("two", "live");
}

#[test]
fn two_encoders_that_fight_are_both_named() {
    let studio = studio("");
    let url = studio.url(&studio.key("camera"));
    let mut incumbent = encoder(&studio);
    // Five takeovers of an active encoder are taken for bad luck.
    let mut addresses: Vec<SocketAddr> = Vec::new();
    let challenger = loop {
        studio.wait_feed("camera", "live");
        incumbent.send(&keyframe(40, 100)).unwrap();
        let mut challenger = OwnClient::connect(&url, Intent::Publish).unwrap();
        match challenger.event(PATIENCE).unwrap() {
            Some(Event::Ready) => {
                challenger.send(&header()).unwrap();
                challenger.send(&keyframe(0, 100)).unwrap();
                let publication = studio.feed("camera").unwrap()["publication"].clone();
                assert!(publication.is_string());
                addresses.push(challenger.address());
                incumbent = challenger;
            }
            Some(Event::Rejected { code, .. }) => {
                assert_eq!(code, "NetStream.Publish.BadName");
                break challenger;
            }
            other => panic!("{other:?}"),
        }
        assert!(addresses.len() < 20, "it is never damped");
    };
    let log = studio.log();
    let line = log.lines().find(|line| line.contains("the incumbent stays")).expect("a warning");
    for address in [challenger.address(), incumbent.address()] {
        assert!(line.contains(&address.to_string()), "{address} is missing: {line}");
    }
    assert_eq!(hits(&studio, "takeovers"), 1);
    let alarms = studio.status().unwrap()["alarms"].to_string();
    assert!(alarms.contains("two encoders are fighting over camera"), "{alarms}");
    incumbent.send(&keyframe(80, 100)).unwrap();
}

#[test]
fn metrics_have_every_limit() {
    let studio = studio("[limits]\nunauthenticated_per_ip = 1\n");
    let _crowd = [mute(&studio), mute(&studio)];
    wait_hits(&studio, "unauthenticated_per_ip", 1);
    let (status, text) = http::get(studio.address("http"), "/metrics", None).unwrap();
    assert_eq!(status, 200);
    assert!(text.contains("firstmile_limit_hits_total{limit=\"unauthenticated_per_ip\"} 1\n"));
    for name in
        ["firstmile_unauthenticated 1", "firstmile_sessions 0", "firstmile_ring_limit_bytes"]
    {
        assert!(text.contains(name), "{name}: {text}");
    }
    let labels = text.matches("firstmile_limit_hits_total{").count();
    assert_eq!(labels, firstmile::limit::Limit::ALL.len());
}

/// Callers that say no hello are strangers as well: the oldest makes room.
#[tokio::test]
async fn mute_callers_keep_no_studio_out() {
    let relay =
        Node::relay(FIRSTMILE).config("[limits]\nunauthenticated_per_ip = 1\n").start().unwrap();
    let link: JoinLink = relay.join_link().parse().unwrap();
    let dial = async || {
        let dialer = Dialer::new(Arc::new(Identity::generate()));
        dialer.dial(relay.address("secure"), link.pin).await.unwrap()
    };
    let mute = dial().await;
    let _next = dial().await;
    let why = tokio::time::timeout(PATIENCE, mute.closed()).await.expect("it has to leave");
    assert!(why.contains("too many callers"), "{why}");
    wait_hits(&relay, "callers", 1);
    let studio = Node::studio(FIRSTMILE).join(relay.join_link()).start().unwrap();
    studio.wait_links(1);
}

/// Each handshake costs the relay work, and each refusal a line of its log.
#[tokio::test]
async fn callers_of_one_address_have_a_rate() {
    let limits = "[limits]\nconnections_per_second = 1\nconnection_burst = 1\n";
    let relay = Node::relay(FIRSTMILE).config(limits).start().unwrap();
    let link: JoinLink = relay.join_link().parse().unwrap();
    let dialer = Dialer::new(Arc::new(Identity::generate()));
    let mut refused = false;
    for _ in 0..20 {
        refused |= dialer.dial(relay.address("secure"), link.pin).await.is_err();
    }
    assert!(refused, "all came in");
    wait_hits(&relay, "connection_rate", 1);
    let studio = Node::studio(FIRSTMILE).join(relay.join_link()).start().unwrap();
    studio.wait_links(1);
}

#[test]
fn a_relay_takes_so_many_studios_and_feeds() {
    let relay = Node::relay(FIRSTMILE)
        .config("[limits]\nstudios = 1\nfeeds_per_studio = 1\n")
        .start()
        .unwrap();
    let first = Node::studio(FIRSTMILE).join(relay.join_link()).start().unwrap();
    first.wait_links(1);
    first.json(&["feed", "add", "two"]);
    wait_hits(&relay, "feeds_per_studio", 1);
    let second = Node::studio(FIRSTMILE).join(relay.join_link()).start().unwrap();
    wait_until("a refusal", PATIENCE, || {
        second.status().unwrap()["links"][0]["state"] == "refused"
    });
    wait_hits(&relay, "studios", 1);
}
