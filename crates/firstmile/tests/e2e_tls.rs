//! RTMPS and HTTPS: real clients, a client that looks closely, and what goes wrong.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use testkit::client::{
    FfmpegPublish, Player, Publisher, Speed, ffmpeg_play, gst_play, gst_publish, librtmp_publish,
    publish_clip, rtmpdump_play,
};
use testkit::frames::{Frames, assert_equal};
use testkit::tls::{Authority, Client};
use testkit::{Launch, Node, PATIENCE, fixture, http, tempdir, wait_for, wait_until};

const FIRSTMILE: &str = env!("CARGO_BIN_EXE_firstmile");

/// A relay, and a studio with a TLS port of its own.
fn relay_and_studio() -> (Node, Node) {
    let relay = Node::relay(FIRSTMILE).start().unwrap();
    let studio =
        Node::studio(FIRSTMILE).rtmps("127.0.0.1:0").join(relay.join_link()).start().unwrap();
    studio.wait_links(1);
    (relay, studio)
}

/// Publishes to the relay's secure port while a player waits at the studio's TLS port, and compares
/// every frame from the first to the last.
#[track_caller]
fn whole(publish: impl FnOnce(&Path, &str) -> Publisher, play: impl FnOnce(&str) -> Player) {
    let (relay, studio) = relay_and_studio();
    let dir = tempdir().unwrap();
    let source = fixture::excerpt(dir.path(), 4);
    let expected = Frames::of(&source).unwrap();
    let mut player = play(&studio.tls_url("rtmps", "camera"));
    studio.wait_players("camera", 1);
    let url = relay.tls_url("secure", &studio.key("camera"));
    let mut publisher = publish(&source, &url);
    publisher.wait(Duration::from_secs(40)).unwrap().expect_success("the publisher");
    // Players hold back the last frames of one track until the other's come, or the end.
    let nearly = |frames: usize| frames.saturating_sub(3);
    player.wait_frames(nearly(expected.video.len()), nearly(expected.audio.len()), PATIENCE);
    studio.wait_feed("camera", "waiting");
    assert!(relay.log().contains("publishing"), "it came by the relay");
    studio.terminate().unwrap().expect_success("SIGTERM drains");
    player.wait(PATIENCE).unwrap();
    assert_equal(&expected, &Frames::of(&player.file()).unwrap());
    relay.terminate().unwrap().expect_success("SIGTERM drains");
}

#[test]
fn ffmpeg_with_tls_all_the_way() {
    whole(|source, url| FfmpegPublish::new(source, url).start(), ffmpeg_play);
}

#[test]
fn gstreamer_with_tls_all_the_way() {
    whole(gst_publish, gst_play);
}

/// librtmp ends a connection that sends it a session ticket.
#[test]
fn librtmp_with_tls_all_the_way() {
    whole(librtmp_publish, rtmpdump_play);
}

/// More than the kernel and TLS hold for a player, at once: nothing is left behind in between.
#[test]
fn a_burst_leaves_tls_whole() {
    let (relay, studio) = relay_and_studio();
    let mut player = rtmpdump_play(&studio.tls_url("rtmps", "camera"));
    studio.wait_players("camera", 1);
    let url = relay.tls_url("secure", &studio.key("camera"));
    let source = fixture::clip();
    let mut publisher = FfmpegPublish::new(&source, &url).speed(Speed::Times(4.0)).start();
    publisher.wait(Duration::from_secs(40)).unwrap().expect_success("the publisher");
    let expected = Frames::of(&source).unwrap();
    player.wait_frames(expected.video.len(), expected.audio.len(), PATIENCE);
    studio.terminate().unwrap().expect_success("SIGTERM drains");
    player.wait(PATIENCE).unwrap();
    assert_equal(&expected, &Frames::of(&player.file()).unwrap());
}

/// What encoders, browsers and studios see of the handshake.
#[test]
fn the_handshake_is_for_everybody() {
    let relay = Node::relay(FIRSTMILE).rtmps("127.0.0.1:0").start().unwrap();
    for port in ["secure", "rtmps"] {
        let address = relay.address(port);
        let careless = Client::careless();
        for client in [careless.clone(), careless.clone().with_tls12()] {
            // No protocol, one nobody knows, and one of several.
            assert_eq!(client.connect(address).unwrap().protocol(), None);
            let strange = client.clone().offering(&["rtmp", "h2"]);
            assert_eq!(strange.connect(address).unwrap().protocol(), None);
            let browser = client.clone().offering(&["h2", "http/1.1"]);
            let stream = browser.connect(address).unwrap();
            assert_eq!(stream.protocol(), Some(&b"http/1.1"[..]));
            if port == "rtmps" {
                let studio = client.offering(&["firstmile/1"]).connect(address).unwrap_err();
                assert!(format!("{studio:#}").contains("NoApplicationProtocol"), "{studio:#}");
                relay.wait_log("a studio calls on a port for encoders");
            } else if let Ok(mut studio) = client.offering(&["firstmile/1"]).connect(address) {
                // In TLS 1.3 the answer to a client without a key comes after the handshake.
                assert!(!matches!(studio.read(&mut [0]), Ok(1..)), "who is nobody is no studio");
            }
        }
        let mut stream = careless.connect(address).unwrap();
        assert_eq!(format!("{:?}", stream.version().unwrap()), "TLSv1_3");
        // An RTMP server answers C0 and C1; a ticket would have come before that.
        let mut hello = vec![0; 1_537];
        hello[0] = 3;
        stream.write_all(&hello).unwrap();
        stream.read_exact(&mut hello).unwrap();
        assert_eq!((hello[0], stream.tickets()), (3, 0));
        let old = careless.with_tls12().connect(address).unwrap();
        assert_eq!(format!("{:?}", old.version().unwrap()), "TLSv1_2");
    }
}

#[test]
fn https_shows_strangers_nothing() {
    let relay = Node::relay(FIRSTMILE).public_host("relay.example").start().unwrap();
    let (address, token) = (relay.address("secure"), relay.token());
    let client = Client::careless().offering(&["http/1.1"]);
    let ask = |host: &str, path: &str, token: Option<&str>| {
        http::get_on(client.connect(address).unwrap(), host, path, token).unwrap()
    };
    assert_eq!(ask("relay.example", "/healthz", None), (200, "ok\n".to_owned()));
    for path in ["/", "/api/v1/status", "/metrics", "/api/v1/feeds", "/no/such/path"] {
        assert_eq!(ask("relay.example", path, None).0, 401, "{path}");
        assert_eq!(ask("relay.example", path, Some("a-token-of-somebody-else")).0, 401, "{path}");
    }
    let (code, status) = ask("relay.example", "/api/v1/status", Some(&token));
    assert_eq!(code, 200);
    assert!(status.contains("\"role\":\"relay\""), "{status}");
    assert_eq!(ask("evil.example", "/healthz", None).0, 403, "another name");

    // Without ALPN, as old clients do it, and over the RTMPS port, where there is no HTTPS.
    let stream = Client::careless().connect(address).unwrap();
    assert_eq!(http::get_on(stream, "relay.example", "/healthz", None).unwrap().0, 200);

    // A client that trickles in is cut.
    let mut slow = client.connect(address).unwrap();
    slow.write_all(b"GET /healthz HTTP/1.1\r\n").unwrap();
    let mut answer = Vec::new();
    if let Err(error) = slow.read_to_end(&mut answer) {
        assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof, "not closed: {error}");
    }
}

/// Anybody may measure the way to a relay, and not send it more than it allows.
#[test]
fn a_way_is_measured_within_bounds() {
    let config = "region = \"Köln\"\n[measure]\nupload = \"64 KiB\"\nupload_per_ip = \"100 KiB\"\n";
    let relay = Node::relay(FIRSTMILE).public_host("relay.example").config(config).start().unwrap();
    let client = Client::careless().offering(&["http/1.1"]);
    let connect = || client.connect(relay.address("secure")).unwrap();
    let get = |path: &str| http::get_on(connect(), "relay.example", path, None).unwrap();
    let (code, page) = get("/measure");
    assert_eq!(code, 200);
    assert!(
        page.contains("src=\"/measure/page.js\"") && page.contains("href=\"/measure/page.css\"")
    );
    assert!(get("/measure/page.js").1.contains("/measure/upload"));
    assert_eq!(get("/measure/page.css").0, 200);
    assert_eq!(get("/measure/ping"), (204, String::new()));
    let about: serde_json::Value = serde_json::from_str(&get("/measure/about").1).unwrap();
    assert_eq!(
        about,
        serde_json::json!({
            "host": "relay.example", "region": "Köln", "upload": 65_536,
        })
    );
    assert_eq!(http::get_on(connect(), "evil.example", "/measure", None).unwrap().0, 403);

    let upload = |bytes: usize, origin: &str| {
        let mut stream = connect();
        let head = format!(
            "POST /measure/upload HTTP/1.1\r\nHost: relay.example\r\nOrigin: https://{origin}\r\n\
             Content-Length: {bytes}\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        // It may have answered and closed before it has all.
        let _ = stream.write_all(&vec![7; bytes]);
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).unwrap();
        std::str::from_utf8(&answer[9..]).unwrap().parse::<u16>().unwrap()
    };
    assert_eq!(upload(100, "evil.example"), 403);
    assert_eq!(upload(60_000, "relay.example"), 204);
    assert_eq!(upload(65_537, "relay.example"), 429, "of 102,400 bytes 42,400 are left");
    assert_eq!(get("/measure/ping").0, 204);

    // Where it is switched off, there is nothing.
    let off = Node::relay(FIRSTMILE).config("[measure]\npage = false\n").start().unwrap();
    let stream = client.connect(off.address("secure")).unwrap();
    assert_eq!(http::get_on(stream, "127.0.0.1", "/measure", None).unwrap().0, 401);
}

#[test]
fn wrong_protocols_are_named() {
    let relay = Node::relay(FIRSTMILE).rtmps("127.0.0.1:0").start().unwrap();
    let (secure, rtmps) = (relay.address("secure"), relay.address("rtmps"));
    let told = |to: SocketAddr, bytes: &[u8], text: &str| {
        // Once a second at most, so it may take another try.
        wait_for(text, PATIENCE, || {
            let mut stream = TcpStream::connect(to).unwrap();
            let _ = stream.write_all(bytes);
            let _ = stream.read(&mut [0; 100]);
            relay.log().contains(text).then_some(())
        });
    };
    told(secure, &[3; 100], "this is plain RTMP on the RTMPS port: use rtmps://");
    told(secure, b"GET / HTTP/1.1\r\n\r\n", "this is plain HTTP on the TLS port: use https://");
    told(rtmps, b"SSH-2.0-OpenSSH_9.2\r\n", "this is SSH on the TLS port");
    told(relay.address("rtmp"), b"\x16\x03\x01\x02\x00\x01", "this is TLS, not plain RTMP");
    wait_for("HTTPS on the RTMPS port", PATIENCE, || {
        let stream = Client::careless().connect(rtmps).unwrap();
        let _ = http::get_on(stream, "127.0.0.1", "/healthz", None);
        relay.log().contains("this is HTTPS on the RTMPS port").then_some(())
    });

    let key = format!("camera-{}", "0".repeat(26));
    let url = format!("rtmp://{secure}/live/{key}");
    let finished = FfmpegPublish::new(&fixture::clip(), &url).start().wait(PATIENCE).unwrap();
    assert!(!finished.status.success());
    assert!(!relay.log().contains(&key), "a key is never logged");
}

/// A node with this certificate for its RTMPS.
fn with_certificate(launch: Launch, dir: &Path, extra: &str) -> Launch {
    let config = format!(
        "[tls]\ncertificate = '{0}/fullchain.pem'\nkey = '{0}/privkey.pem'\n{extra}",
        dir.display()
    );
    launch.config(&config)
}

#[test]
fn encoders_that_verify_are_let_in_and_told_where() {
    let dir = tempdir().unwrap();
    let authority = Authority::new();
    authority.issue(dir.path(), "localhost");
    let root = authority.write_root(dir.path());
    let relay = Node::relay(FIRSTMILE).public_host("localhost");
    let relay = with_certificate(relay, dir.path(), "").start().unwrap();
    let studio = Node::studio(FIRSTMILE).join(relay.join_link()).start().unwrap();
    studio.wait_links(1);

    let place = studio.feed("camera").unwrap()["publish"][0].clone();
    let server = place["server_tls"].as_str().unwrap();
    assert_eq!(server, format!("rtmps://localhost:{}/live", relay.address("secure").port()));
    assert!(place["server"].as_str().unwrap().starts_with("rtmp://localhost:"));
    let measure = format!("https://localhost:{}/measure", relay.address("secure").port());
    assert_eq!(place["measure"], measure);
    let browser = Client::trusting(&authority, "localhost").offering(&["http/1.1"]);
    let stream = browser.connect(relay.address("secure")).unwrap();
    assert_eq!(http::get_on(stream, "localhost", "/measure", None).unwrap().0, 200);

    let mut player = ffmpeg_play(&studio.url("camera"));
    studio.wait_players("camera", 1);
    let url = format!("{server}/{}", studio.key("camera"));
    let _publisher = FfmpegPublish::new(&fixture::clip(), &url).trusting(&root).forever().start();
    player.wait_video(30, PATIENCE);

    // One that trusts somebody else does not publish.
    let other = tempdir().unwrap();
    let stranger = Authority::new().write_root(other.path());
    let mut refusing = FfmpegPublish::new(&fixture::clip(), &url).trusting(&stranger).start();
    assert!(!refusing.wait(PATIENCE).unwrap().status.success());
    relay.wait_log("once it had seen this node's certificate");
    // Others say why.
    wait_for("the alert in the log", PATIENCE, || {
        let stranger = Client::trusting(&Authority::new(), "localhost");
        assert!(stranger.connect(relay.address("secure")).is_err());
        relay.log().contains("does not trust this node's certificate (UnknownCA)").then_some(())
    });
}

/// Without a certificate that clients trust, nobody is sent to RTMPS.
#[test]
fn a_certificate_for_other_names_is_not_advertised() {
    let dir = tempdir().unwrap();
    Authority::new().issue(dir.path(), "other.example");
    let relay = with_certificate(Node::relay(FIRSTMILE), dir.path(), "").start().unwrap();
    assert!(relay.log().contains("is for other names"), "{}", relay.log());
    let studio = Node::studio(FIRSTMILE).join(relay.join_link()).start().unwrap();
    studio.wait_links(1);
    assert!(studio.feed("camera").unwrap()["publish"][0]["server_tls"].is_null());
}

#[test]
fn a_renewed_certificate_is_shown_without_a_restart() {
    let dir = tempdir().unwrap();
    let (old, new) = (Authority::new(), Authority::new());
    old.issue(dir.path(), "127.0.0.1");
    let relay = with_certificate(Node::relay(FIRSTMILE), dir.path(), "").start().unwrap();
    let address = relay.address("secure");
    let is_shown = |authority| Client::trusting(authority, "127.0.0.1").connect(address).is_ok();
    assert!(is_shown(&old) && !is_shown(&new));

    new.issue(dir.path(), "127.0.0.1");
    wait_until("the new certificate is shown", PATIENCE, || is_shown(&new));

    std::fs::write(dir.path().join("privkey.pem"), "broken").unwrap();
    wait_until("the broken file is an alarm", PATIENCE, || {
        let alarms = relay.status().unwrap()["alarms"].to_string();
        alarms.contains("privkey.pem holds no unencrypted private key")
    });
    assert!(is_shown(&new), "the old one stays");
    relay.wait_log("the old one stays");
}

#[test]
fn a_certificate_that_cannot_be_used_is_explained() {
    let dir = tempdir().unwrap();
    let start = |launch: Launch| {
        let (code, stdout, stderr) = with_certificate(launch, dir.path(), "").run().unwrap();
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
        stderr
    };
    let missing = start(Node::relay(FIRSTMILE));
    assert!(missing.contains("cannot read") && missing.contains("fullchain.pem"), "{missing}");
    let authority = Authority::new();
    authority.issue(dir.path(), "127.0.0.1");
    let other = tempdir().unwrap();
    authority.issue(other.path(), "127.0.0.1");
    std::fs::copy(other.path().join("privkey.pem"), dir.path().join("privkey.pem")).unwrap();
    let mismatch = start(Node::studio(FIRSTMILE).rtmps("127.0.0.1:0"));
    assert!(mismatch.contains("is not the one of the certificate"), "{mismatch}");
    assert!(mismatch.contains("hint:"), "{mismatch}");
}

#[test]
fn fifty_mute_connections_stop_nobody() {
    // They are all there for as long as the test may take.
    let limits =
        "[limits]\nunauthenticated_per_ip = 200\nhandshake = \"60s\"\nauthorise = \"60s\"\n";
    let relay = Node::relay(FIRSTMILE).config(limits).start().unwrap();
    let studio = Node::studio(FIRSTMILE).join(relay.join_link()).start().unwrap();
    studio.wait_links(1);
    let address = relay.address("secure");
    let silent: Vec<_> = (0..25).map(|_| TcpStream::connect(address).unwrap()).collect();
    // The handshake's first record, and no more of it.
    let halves: Vec<_> = (0..25)
        .map(|_| {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").unwrap();
            stream
        })
        .collect();
    wait_until("they have their seats", PATIENCE, || {
        relay.status().is_ok_and(|status| status["connections"] == 50)
    });

    let mut player = ffmpeg_play(&studio.url("camera"));
    studio.wait_players("camera", 1);
    let url = relay.tls_url("secure", &studio.key("camera"));
    let _publisher = publish_clip(&url);
    player.wait_video(30, PATIENCE);
    assert_eq!(relay.status().unwrap()["connections"], 51, "one table for all");
    drop((silent, halves));
}

/// The deadline counts from the first moment, whatever trickles in.
#[test]
fn a_handshake_has_a_deadline_and_strangers_a_limit() {
    let relay = Node::relay(FIRSTMILE)
        .config("[limits]\nunauthenticated_per_ip = 3\nhandshake = \"5s\"\n")
        .start()
        .unwrap();
    let (secure, rtmp) = (relay.address("secure"), relay.address("rtmp"));
    let connect = |address| {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    };
    let mut guests = [connect(secure), connect(secure), connect(rtmp)];
    guests[0].write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").unwrap();
    wait_until("they have their seats", PATIENCE, || {
        relay.status().is_ok_and(|status| status["connections"] == 3)
    });
    // Closed at once, though there are seats: the address has too many, over both doors.
    let is_closed = |stream: &mut TcpStream| match stream.read(&mut [0; 1]) {
        Ok(read) => read == 0,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    };
    assert!(is_closed(&mut connect(secure)));
    // The others within their deadline.
    assert!(guests.iter_mut().all(is_closed));
    wait_until("the seats are free", PATIENCE, || {
        relay.status().is_ok_and(|status| status["connections"] == 0)
    });
    Client::careless().connect(secure).unwrap();
}
