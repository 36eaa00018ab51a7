//! What goes wrong: said clearly, and without harm to anybody else.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use media::Track;
use testkit::client::{FfmpegPublish, Speed, ffmpeg_play, publish_clip, rtmpdump_play};
use testkit::{Node, PATIENCE, Value, fixture, tempdir, wait_for, wait_until};

const FIRSTMILE: &str = env!("CARGO_BIN_EXE_firstmile");

/// The one link of a studio, once `good` says so of it.
#[track_caller]
fn wait_link(studio: &Node, what: &str, good: impl Fn(&Value) -> bool) -> Value {
    wait_for(what, PATIENCE, || {
        let status = studio.status().ok()?;
        status["links"].as_array()?.first().filter(|link| good(link)).cloned()
    })
}

/// The link of `firstmile invite`.
#[track_caller]
fn invite(relay: &Node, arguments: &[&str]) -> String {
    let answer = relay.json(&[&["invite"], arguments].concat());
    answer["join_link"].as_str().expect("a join link").to_owned()
}

#[test]
fn a_wrong_key_is_refused_and_the_feed_goes_on() {
    let studio = Node::studio(FIRSTMILE).start().unwrap();
    let key = studio.key("camera");
    let mut player = rtmpdump_play(&studio.url("camera"));
    studio.wait_players("camera", 1);
    let mut publisher = publish_clip(&studio.url(&key));
    player.wait_video(15, PATIENCE);
    let publication = studio.feed("camera").unwrap()["publication"].clone();

    let wrong = format!("camera-{}", "0".repeat(26));
    for name in [wrong.as_str(), "camera", "", "camera-"] {
        let mut refused = FfmpegPublish::new(&fixture::clip(), &studio.url(name)).start();
        let finished = refused.wait(PATIENCE).unwrap();
        assert!(!finished.status.success(), "{name:?} was let in");
        assert!(finished.stderr.contains("Server error"), "{name:?}: {}", finished.stderr);
    }

    let before = player.frames(Track::Video);
    player.wait_video(before + 15, PATIENCE);
    assert!(publisher.is_running());
    assert_eq!(studio.feed("camera").unwrap()["publication"], publication);
    assert!(!studio.log().contains(&key), "a key is never logged");
}

#[test]
fn a_relay_refuses_a_wrong_key_too() {
    // Until then a studio might come that knows the key.
    let relay = Node::relay(FIRSTMILE).config("start_grace = \"1s\"").start().unwrap();
    let studio = Node::studio(FIRSTMILE).join(relay.join_link()).start().unwrap();
    studio.wait_links(1);
    let wrong = format!("camera-{}", "0".repeat(26));
    let mut refused = FfmpegPublish::new(&fixture::clip(), &relay.url(&wrong)).start();
    let finished = refused.wait(PATIENCE).unwrap();
    assert!(!finished.status.success());
    assert!(finished.stderr.contains("Server error"), "{}", finished.stderr);
}

#[test]
fn a_player_of_an_unknown_feed_is_told() {
    let studio = Node::studio(FIRSTMILE).start().unwrap();
    let finished = ffmpeg_play(&studio.url("nothing")).wait(PATIENCE).unwrap();
    assert!(!finished.status.success());
    assert!(finished.stderr.contains("Server error"), "{}", finished.stderr);
}

#[test]
fn what_is_not_rtmp_is_closed_and_harms_nobody() {
    const TLS: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    let studio = Node::studio(FIRSTMILE).config("[limits]\nhandshake = \"1s\"\n").start().unwrap();
    let garbage: Vec<u8> =
        (0..5000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let http = b"GET / HTTP/1.1\r\nHost: studio.example\r\n\r\n";
    // Waits for more: the deadline of the handshake ends these.
    let silence = b"";
    let half = &[3; 700];
    for bytes in [&garbage[..], http, TLS, silence, half] {
        let mut stream = TcpStream::connect(studio.address("rtmp")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
        let _ = stream.write_all(bytes);
        // All that comes back is the handshake of a server, if that.
        let mut answer = Vec::new();
        if let Err(error) = stream.take(10_000).read_to_end(&mut answer) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "not closed: {error}");
        }
    }

    let mut player = ffmpeg_play(&studio.url("camera"));
    studio.wait_players("camera", 1);
    let url = studio.url(&studio.key("camera"));
    let _publisher = publish_clip(&url);
    player.wait_video(30, PATIENCE);
}

#[test]
fn an_address_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for launch in [
        Node::studio(FIRSTMILE).rtmp(&address),
        Node::studio(FIRSTMILE).http(&address),
        Node::relay(FIRSTMILE).rtmp(&address),
    ] {
        let (code, stdout, stderr) = launch.run().unwrap();
        assert_eq!(code, Some(1), "{stderr}");
        assert_eq!(stdout, "");
        assert!(stderr.contains(&address), "{stderr}");
        assert!(stderr.contains("in use"), "{stderr}");
    }
}

#[test]
fn an_unknown_config_key_is_misuse_and_its_line_is_named() {
    let (code, _, stderr) = Node::studio(FIRSTMILE)
        .config("# a comment\nhttp = \"127.0.0.1:0\"\nrtpm = \":1935\"\n")
        .run()
        .unwrap();
    assert_eq!(code, Some(2), "{stderr}");
    assert!(stderr.contains("line 3") && stderr.contains("rtpm"), "{stderr}");
    assert!(stderr.contains("`rtmp`"), "it names the right key: {stderr}");
}

#[test]
fn misuse_of_the_command_line_is_code_2() {
    for arguments in [&["rely"][..], &["relay", "--rtmp", "x:y"], &["feed", "add", "A b"]] {
        let (code, stdout, stderr) = Node::run(FIRSTMILE, arguments, PATIENCE).unwrap();
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{arguments:?}: {stderr}");
        assert!(!stderr.is_empty());
    }
}

#[test]
fn a_wrong_pin_is_not_trusted() {
    let (relay, other) =
        (Node::relay(FIRSTMILE).start().unwrap(), Node::relay(FIRSTMILE).start().unwrap());
    // firstmile://HOST:PORT/PIN/INVITE
    let pin = |link: &str| link.split('/').nth(3).expect("a pin").to_owned();
    let (right, wrong) = (pin(relay.join_link()), pin(other.join_link()));
    let link = relay.join_link().replace(&right, &wrong);
    let mut studio = Node::studio(FIRSTMILE).join(&link).start().unwrap();
    let link = wait_link(&studio, "a reason", |link| link["last_error"].is_string());
    assert_ne!(link["state"], "up");
    let reason = link["last_error"].as_str().unwrap();
    assert!(reason.contains("another key"), "{reason}");
    assert!(studio.is_running(), "its own door stays open");
    assert_eq!(relay.status().unwrap()["links"].as_array().unwrap().len(), 0);
}

#[test]
fn an_expired_link_admits_nobody() {
    let relay = Node::relay(FIRSTMILE).start().unwrap();
    let link = invite(&relay, &["--expires", "1s"]);
    let made = Instant::now();
    wait_until("the link expires", PATIENCE, || made.elapsed() > Duration::from_millis(2100));
    let studio = Node::studio(FIRSTMILE).join(&link).start().unwrap();
    let link = wait_link(&studio, "a refusal", |link| link["state"] == "refused");
    assert!(link["last_error"].is_string(), "{link}");
}

#[test]
fn a_used_up_link_admits_nobody_else_but_its_studio_again() {
    let relay = Node::relay(FIRSTMILE).start().unwrap();
    let link = invite(&relay, &["--uses", "1"]);
    let data = tempdir().unwrap();
    let first = Node::studio(FIRSTMILE).data(data.path()).join(&link).start().unwrap();
    first.wait_links(1);

    let second = Node::studio(FIRSTMILE).join(&link).start().unwrap();
    wait_link(&second, "a refusal", |link| link["state"] == "refused");

    // Remembered by its key, without the link.
    first.terminate().unwrap().expect_success("the first studio");
    Node::studio(FIRSTMILE).data(data.path()).start().unwrap().wait_links(1);
}

#[test]
fn a_relay_that_appears_later_is_joined() {
    let data = tempdir().unwrap();
    let relay = Node::relay(FIRSTMILE).data(data.path()).start().unwrap();
    let (rtmp, secure) = (relay.address("rtmp"), relay.address("secure"));
    // A link from `invite` is good after a restart, too.
    let link = invite(&relay, &["--uses", "1"]);
    relay.terminate().unwrap().expect_success("the relay");

    let studio = Node::studio(FIRSTMILE).join(&link).start().unwrap();
    let link = wait_link(&studio, "a reason", |link| link["last_error"].is_string());
    assert_eq!(link["state"], "connecting");

    let relay = Node::relay(FIRSTMILE)
        .data(data.path())
        .rtmp(&rtmp.to_string())
        .secure(&secure.to_string())
        .start()
        .unwrap();
    studio.wait_links(1);
    let mut player = ffmpeg_play(&studio.url("camera"));
    studio.wait_players("camera", 1);
    let url = relay.url(&studio.key("camera"));
    let _publisher = FfmpegPublish::new(&fixture::clip(), &url).speed(Speed::Realtime).start();
    player.wait_video(30, PATIENCE);
}

#[test]
fn one_data_directory_has_one_owner() {
    let data = tempdir().unwrap();
    let first = Node::studio(FIRSTMILE).data(data.path()).start().unwrap();
    let (code, _, stderr) = Node::studio(FIRSTMILE).data(data.path()).run().unwrap();
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("another firstmile"), "{stderr}");
    first.terminate().unwrap().expect_success("the first studio");
}

/// A copied data directory: two studios show one key. Whichever the relay keeps, it says so, and
/// the relay and its other studios live on.
#[test]
fn one_identity_on_two_machines_is_seen() {
    let relay = Node::relay(FIRSTMILE).start().unwrap();
    let bystander = Node::studio(FIRSTMILE).join(relay.join_link()).start().unwrap();
    bystander.wait_links(1);
    let (one, two) = (tempdir().unwrap(), tempdir().unwrap());
    let first = Node::studio(FIRSTMILE).data(one.path()).join(relay.join_link()).start().unwrap();
    first.wait_links(1);
    first.terminate().unwrap().expect_success("the first studio");
    for entry in std::fs::read_dir(one.path()).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() && entry.file_name() != "run.json" {
            std::fs::copy(entry.path(), two.path().join(entry.file_name())).unwrap();
        }
    }

    let first = Node::studio(FIRSTMILE).data(one.path()).start().unwrap();
    first.wait_links(1);
    let second = Node::studio(FIRSTMILE).data(two.path()).start().unwrap();
    wait_until("one of the two is told", PATIENCE, || {
        [&first, &second].iter().any(|studio| {
            let status = studio.status().unwrap_or_default();
            status["links"][0]["last_error"].is_string()
        })
    });
    bystander.wait_links(1);
    let mut player = ffmpeg_play(&bystander.url("camera"));
    bystander.wait_players("camera", 1);
    let url = relay.url(&bystander.key("camera"));
    let _publisher = publish_clip(&url);
    player.wait_video(30, PATIENCE);
}

#[test]
fn a_data_directory_of_a_newer_version_is_left_alone() {
    let data = tempdir().unwrap();
    let version = data.path().join("version");
    std::fs::write(&version, "99\n").unwrap();
    for launch in [Node::studio(FIRSTMILE), Node::relay(FIRSTMILE)] {
        let (code, _, stderr) = launch.data(data.path()).run().unwrap();
        assert_eq!(code, Some(1), "{stderr}");
        assert!(stderr.contains("newer firstmile"), "{stderr}");
    }
    assert_eq!(std::fs::read_to_string(version).unwrap(), "99\n");
}

#[test]
fn a_trace_shows_what_an_encoder_does_and_hides_its_key() {
    let directory = tempdir().unwrap();
    let studio =
        Node::studio(FIRSTMILE).data(directory.path()).arg("--trace-rtmp").start().unwrap();
    let (key, clip) = (studio.key("camera"), fixture::excerpt(directory.path(), 2));
    let url = studio.url(&format!("{key}?token=canary7"));
    let mut publisher = FfmpegPublish::new(&clip, &url).speed(Speed::Burst).start();
    publisher.wait(PATIENCE).unwrap();
    let file = directory.path().join("traces/connection-0.txt");
    wait_until("the trace", PATIENCE, || file.exists());
    let trace = wait_for("its last line", PATIENCE, || {
        std::fs::read_to_string(&file).ok().filter(|trace| trace.contains("deleteStream"))
    });
    for part in [
        "> type 20 on 3/0 at 0: _result 1 {",
        "chunk 03 00 00 00 00 00",
        "\"code\": \"NetStream.Publish.Start\"",
        "FCPublish 3 null \"xxxxxx-",
        "\"flashVer\": \"FMLE/3.0 (compatible; Lavf",
        "< type 9 on 6/1 at 0: 17 00 00 00 00 01",
    ] {
        assert!(trace.contains(part), "{part:?} is not in:\n{trace}");
    }
    let secret = key.rsplit('-').next().unwrap();
    assert!(!trace.to_ascii_lowercase().contains(&secret.to_ascii_lowercase()), "{trace}");
    assert!(!trace.contains("canary7"), "{trace}");
}
