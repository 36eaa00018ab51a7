//! Studios whose network blocks UDP: the link goes over TLS and TCP, on the port of the join link.

use std::thread;
use std::time::{Duration, Instant};

use firstmile::identity::Identity;
use firstmile::join::JoinLink;
use firstmile::tcp;
use rtmp::session::Intent;
use rtmp::session::client::Event;
use testkit::client::{FfmpegPublish, rtmpdump_play};
use testkit::frames::{Frames, assert_equal};
use testkit::live::{self, Live};
use testkit::tls::Client;
use testkit::{
    Node, OwnClient, PATIENCE, Proxy, UdpProxy, fixture, http, tempdir, wait_for, wait_until,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const FIRSTMILE: &str = env!("CARGO_BIN_EXE_firstmile");
/// Bytes of a picture: 2 Mb/s.
const PICTURE: usize = 10_000;
/// Between the network's return and media at a player: a fraction of it on an idle machine.
const BACK: Duration = Duration::from_secs(4);

/// A relay, and the TCP half of a network before it: nobody answers at that port over UDP.
struct House {
    relay: Node,
    network: Proxy,
}

impl House {
    fn new() -> Self {
        let relay = Node::relay(FIRSTMILE).start().unwrap();
        let network = Proxy::start(relay.address("secure")).unwrap();
        Self { relay, network }
    }

    fn studio(&self, config: &str) -> Node {
        let link = self.relay.join_link_by(self.network.address());
        let studio = Node::studio(FIRSTMILE).config(config).join(&link).start().unwrap();
        studio.wait_links(1);
        studio
    }
}

fn transport(node: &Node) -> String {
    node.status().unwrap()["links"][0]["transport"].as_str().unwrap().to_owned()
}

/// An encoder at the relay.
fn on_air(relay: &Node, studio: &Node) -> Live {
    let client = OwnClient::ready(&relay.url(&studio.key("camera")), Intent::Publish);
    Live::pictures(client, PICTURE)
}

/// The next picture's number.
fn picture(player: &mut OwnClient) -> u32 {
    loop {
        if let Event::Tag(tag) = player.next_event()
            && let Some(number) = live::number(&tag)
        {
            return number;
        }
    }
}

#[test]
fn a_feed_comes_whole_where_udp_is_blocked() {
    let house = House::new();
    let studio = house.studio("");
    let dir = tempdir().unwrap();
    let source = fixture::excerpt(dir.path(), 4);
    let expected = Frames::of(&source).unwrap();
    let mut player = rtmpdump_play(&studio.url("camera"));
    studio.wait_players("camera", 1);
    // By RTMPS, on the port that the studio came by.
    let url = house.relay.tls_url("secure", &studio.key("camera"));
    let mut publisher = FfmpegPublish::new(&source, &url).start();
    studio.wait_feed("camera", "live");
    for node in [&studio, &house.relay] {
        let link = node.status().unwrap()["links"][0].clone();
        assert_eq!(link["transport"], "tcp", "{link}");
        assert!(link["loss"].is_null() && link["rtt_ms"].as_f64() < Some(1_000.0), "{link}");
    }
    let browser = Client::careless().offering(&["http/1.1"]);
    let stream = browser.connect(house.relay.address("secure")).unwrap();
    assert_eq!(http::get_on(stream, "127.0.0.1", "/healthz", None).unwrap().0, 200);
    publisher.wait(Duration::from_secs(40)).unwrap().expect_success("the publisher");
    let nearly = |frames: usize| frames.saturating_sub(3);
    player.wait_frames(nearly(expected.video.len()), nearly(expected.audio.len()), PATIENCE);
    studio.wait_feed("camera", "waiting");
    studio.terminate().unwrap().expect_success("SIGTERM drains");
    player.wait(PATIENCE).unwrap();
    assert_equal(&expected, &Frames::of(&player.file()).unwrap());
    wait_until("the relay was told", PATIENCE, || {
        let link = house.relay.status().unwrap()["links"][0].clone();
        link["last_error"].as_str().is_some_and(|error| error.contains("the studio is stopping"))
    });
    house.relay.terminate().unwrap().expect_success("SIGTERM drains");
}

/// Sends media, harms the network for two seconds, and sees that nothing is lost of the record.
fn survive(harm: impl FnOnce(&Proxy, bool) + Copy) {
    let house = House::new();
    let studio = house.studio("[record]\nall = true\n");
    let mut player = OwnClient::ready(&studio.url("camera"), Intent::Play);
    let live = on_air(&house.relay, &studio);
    while picture(&mut player) < 75 {}
    harm(&house.network, true);
    // The outage is what is tested.
    thread::sleep(Duration::from_secs(2));
    harm(&house.network, false);
    let back = Instant::now();
    let sent = 75 + 50;
    let mut last = 75;
    while last < sent {
        let next = picture(&mut player);
        assert!(next > last, "in order");
        last = next;
    }
    println!("media {:?} after the outage", back.elapsed());
    assert!(back.elapsed() < BACK, "{:?}", back.elapsed());
    // It stays, and is live.
    for _ in 0..50 {
        picture(&mut player);
    }
    studio.wait_links(1);
    assert_eq!(transport(&studio), "tcp");
    let sent = live.stop();
    let recording = wait_for("the whole record", PATIENCE, || {
        let recording = studio.json(&["record", "list"])["recordings"][0].clone();
        (recording["complete"] == true && recording["missing"] == 0).then_some(recording)
    });
    // The header counts, too.
    assert_eq!((&recording["tags"], &recording["gone"]), (&(sent + 1).into(), &0.into()));
}

#[test]
fn an_outage_of_2_s_harms_neither_encoder_nor_player_nor_record() {
    survive(Proxy::stall);
}

#[test]
fn a_connection_that_is_cut_harms_neither_encoder_nor_player_nor_record() {
    survive(|network, is_on| {
        network.refuse(is_on);
        if is_on {
            network.cut();
        }
    });
}

#[test]
fn a_relay_that_stops_delivers_what_encoders_have_sent() {
    let house = House::new();
    let studio = house.studio("");
    let mut player = OwnClient::ready(&studio.url("camera"), Intent::Play);
    let url = house.relay.url(&studio.key("camera"));
    let mut encoder = OwnClient::ready(&url, Intent::Publish);
    encoder.send(&live::header()).unwrap();
    for number in 0..100 {
        encoder.send(&live::picture(number, PICTURE)).unwrap();
        thread::sleep(Duration::from_millis(10));
    }
    drop(encoder);
    let stopping =
        thread::spawn(move || house.relay.terminate().unwrap().expect_success("SIGTERM"));
    for number in 0..100 {
        assert_eq!(picture(&mut player), number);
    }
    stopping.join().unwrap();
    studio.wait_log("stopped");
}

#[test]
fn quic_is_taken_where_it_goes_unless_it_is_not_wanted() {
    let relay = Node::relay(FIRSTMILE).start().unwrap();
    for (config, expected) in [("", "quic"), ("quic", "quic"), ("tcp", "tcp"), ("auto", "quic")] {
        let config = match config {
            "" => String::new(),
            name => format!("[backhaul]\ntransport = \"{name}\"\n"),
        };
        let studio =
            Node::studio(FIRSTMILE).config(&config).join(relay.join_link()).start().unwrap();
        studio.wait_links(1);
        assert_eq!(transport(&studio), expected, "{config}");
        let url = relay.url(&studio.key("camera"));
        let mut encoder = OwnClient::ready(&url, Intent::Publish);
        encoder.send(&live::header()).unwrap();
        encoder.send(&live::picture(0, PICTURE)).unwrap();
        studio.wait_feed("camera", "live");
    }
    let house = House::new();
    let link = house.relay.join_link_by(house.network.address());
    let config = "[backhaul]\ntransport = \"quic\"\n";
    let studio = Node::studio(FIRSTMILE).config(config).join(&link).start().unwrap();
    wait_until("it says why", PATIENCE, || {
        let link = studio.status().unwrap()["links"][0].clone();
        link["last_error"].as_str().is_some_and(|error| error.contains("over TCP it is not tried"))
    });
    assert_eq!(house.network.accepted(), 0);
}

#[test]
fn the_link_moves_to_udp_without_a_loss_and_back_when_it_is_blocked() {
    let house = House::new();
    let secure = house.relay.address("secure");
    let udp = UdpProxy::start_at(house.network.address(), secure, Duration::ZERO).unwrap();
    udp.pass(false, false);
    let studio = house.studio("");
    assert_eq!(transport(&studio), "tcp");
    let mut player = OwnClient::ready(&studio.url("camera"), Intent::Play);
    let live = on_air(&house.relay, &studio);
    let mut last = picture(&mut player);
    udp.pass(true, true);
    let started = Instant::now();
    while transport(&studio) != "quic" {
        assert!(started.elapsed() < PATIENCE, "it stays with TCP");
        let next = picture(&mut player);
        assert_eq!(next, last + 1);
        last = next;
    }
    for _ in 0..100 {
        let next = picture(&mut player);
        assert_eq!(next, last + 1, "nothing is lost");
        last = next;
    }
    studio.wait_log("UDP gets through");
    // And the other way: that is an outage first.
    udp.pass(false, false);
    let started = Instant::now();
    while transport(&studio) != "tcp" {
        assert!(started.elapsed() < PATIENCE, "it stays with QUIC");
        thread::sleep(live::FRAME);
    }
    for _ in 0..100 {
        let next = picture(&mut player);
        assert!(next > last, "in order");
        last = next;
    }
    live.stop();
}

/// Each is cut off, and after each an honest feed comes through on the same port.
#[test]
fn hostile_callers_on_the_port_of_studios_harm_nobody() {
    let house = House::new();
    let studio = house.studio("");
    let mut player = OwnClient::ready(&studio.url("camera"), Intent::Play);
    let live = on_air(&house.relay, &studio);
    let join: JoinLink = house.relay.join_link().parse().unwrap();
    let address = house.relay.address("secure");
    let before = house.relay.memory().0;
    let runtime = tokio::runtime::Runtime::new().unwrap();

    let open = [0, 1];
    let unopened = [1, 9, 1, 7];
    let long = [1, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    let report = [8, 0x7f, 0xff];
    let control = [&[1, 0, 0x80, 0, 0x40, 0][..], &[0; 16 << 10]].concat();
    let pings: Vec<u8> = [6, 1].repeat(100_000);
    let words: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", vec![]),
        ("garbage", b"GET / HTTP/1.1\r\n\r\n".repeat(1_000)),
        ("a stream of tags", open.to_vec()),
        ("a stream that was not opened", unopened.to_vec()),
        ("a huge frame", long.to_vec()),
        ("a report of what was not sent", report.to_vec()),
        ("half a frame", control[..100].to_vec()),
        ("messages of nonsense", control.repeat(200)),
        ("pings without end", pings.repeat(50)),
        ("a farewell", [&[9, 5][..], b"\x1b[2Jx"].concat()),
    ];
    for (what, bytes) in words {
        runtime.block_on(async {
            let stranger = Identity::generate();
            let mut stream = tcp::connect(&stranger, address, join.pin).await.unwrap();
            let ended = async {
                let (mut read, mut write) = tokio::io::split(&mut stream);
                let said = async {
                    let _ = write.write_all(&bytes).await;
                    let _ = write.flush().await;
                    std::future::pending::<()>().await;
                };
                let heard = async {
                    let mut buffer = [0; 4_096];
                    while let Ok(1..) = read.read(&mut buffer).await {}
                };
                tokio::select! {
                    () = said => {}
                    () = heard => {}
                }
            };
            let ended = tokio::time::timeout(PATIENCE, ended).await;
            assert!(ended.is_ok(), "{what}: the relay does not end it");
        });
        let now = picture(&mut player);
        while picture(&mut player) < now + 10 {}
    }
    // Somebody else's pin, and nobody's key.
    runtime.block_on(async {
        let stranger = Identity::generate();
        let refused = tcp::connect(&stranger, address, stranger.public_key()).await;
        assert!(tcp::is_wrong_key(&refused.unwrap_err()));
    });
    let nobody = Client::careless().offering(&["firstmile/1"]).connect(address);
    if let Ok(mut nobody) = nobody {
        let read = std::io::Read::read(&mut nobody, &mut [0]);
        assert!(!matches!(read, Ok(1..)), "who is nobody is no studio");
    }
    let now = picture(&mut player);
    while picture(&mut player) < now + 10 {}
    live.stop();
    assert_eq!(studio.status().unwrap()["links"][0]["reconnects"], 0);
    let after = house.relay.memory().1.saturating_sub(before);
    assert!(after < 24 << 20, "{} KiB more", after / 1024);
    let log = house.relay.log();
    assert!(!log.contains("panicked") && !log.contains('\u{1b}'), "{log}");
}

/// A caller that is not let in leaves no seat behind, and mute ones make room.
#[test]
fn mute_callers_keep_no_studio_out() {
    let relay =
        Node::relay(FIRSTMILE).config("[limits]\nunauthenticated_per_ip = 1\n").start().unwrap();
    let join: JoinLink = relay.join_link().parse().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let dial = || {
        let identity = Identity::generate();
        let stream = tcp::connect(&identity, relay.address("secure"), join.pin);
        runtime.block_on(async { tokio::time::timeout(PATIENCE, stream).await }).unwrap().unwrap()
    };
    let mut mute = dial();
    let _next = dial();
    let text = runtime.block_on(async {
        let mut text = Vec::new();
        let read = tokio::time::timeout(PATIENCE, mute.read_to_end(&mut text));
        let _ = read.await.expect("it has to leave");
        String::from_utf8_lossy(&text).into_owned()
    });
    assert!(text.contains("too many callers"), "{text:?}");
    let config = "[backhaul]\ntransport = \"tcp\"\n";
    let studio = Node::studio(FIRSTMILE).config(config).join(relay.join_link()).start().unwrap();
    studio.wait_links(1);
}

#[test]
fn the_doctor_says_that_udp_is_blocked() {
    let house = House::new();
    let studio = house.studio("");
    let (_, found, _) = studio.command(&["doctor"]).unwrap();
    let address = house.network.address();
    assert!(found.contains(&format!("UDP to {address} is blocked")), "{found}");
    assert!(found.contains("is up"), "{found}");
}
