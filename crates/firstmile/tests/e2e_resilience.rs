//! Encoders that vanish and come back, players that are slow or stand still.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use media::{Role, Tag, Track};
use rtmp::session::Intent;
use rtmp::session::client::{Config, Event};
use testkit::client::{FfmpegPublish, rtmpdump_play};
use testkit::process::Signal;
use testkit::{Node, OwnClient, PATIENCE, Proxy, Value, fixture, http, wait_for, wait_until};

const FIRSTMILE: &str = env!("CARGO_BIN_EXE_firstmile");

fn header(mark: u8) -> Tag {
    Tag::new(Track::Video, 0, vec![0x17, 0, 0, 0, 0, 1, mark].into())
}

/// A picture with a mark and a number in it.
fn frame(mark: u8, number: u32, is_key: bool, size: usize) -> Tag {
    let mut body = vec![0; size];
    body[..2].copy_from_slice(&[if is_key { 0x17 } else { 0x27 }, 1]);
    body[5] = mark;
    body[6..10].copy_from_slice(&number.to_be_bytes());
    Tag::new(Track::Video, i64::from(number) * 40, body.into())
}

/// Mark and number of a picture.
fn named(tag: &Tag) -> (u8, u32) {
    (tag.body[5], u32::from_be_bytes(tag.body[6..10].try_into().unwrap()))
}

fn pictures_of(tags: Vec<Tag>) -> Vec<Tag> {
    let is_picture =
        |tag: &Tag| tag.track == Track::Video && matches!(tag.role, Role::Keyframe | Role::Frame);
    tags.into_iter().filter(is_picture).collect()
}

#[test]
fn an_encoder_whose_network_died_takes_over_from_itself() {
    let relay = Node::relay(FIRSTMILE).start().unwrap();
    let studio = Node::studio(FIRSTMILE).join(relay.join_link()).start().unwrap();
    studio.wait_links(1);
    let key = studio.key("camera");
    let mut player = rtmpdump_play(&studio.url("camera"));
    studio.wait_players("camera", 1);

    // An encoder whose way goes through a network that dies: nothing is closed, nothing passes.
    let network = Proxy::start(relay.address("rtmp")).unwrap();
    let through = format!("rtmp://{}/live/{key}", network.address());
    let mut old = OwnClient::ready(&through, Intent::Publish);
    old.send(&header(b'a')).unwrap();
    for number in 0..50 {
        old.send(&frame(b'a', number, number % 25 == 0, 1_000)).unwrap();
    }
    player.wait_video(50, PATIENCE);
    network.stall(true);
    for number in 50..60 {
        old.send(&frame(b'a', number, number == 50, 1_000)).unwrap();
    }

    // It is let in although the relay holds the old connection for alive.
    let mut new = OwnClient::ready(&relay.url(&key), Intent::Publish);
    new.send(&header(b'b')).unwrap();
    for number in 1..60 {
        // In the middle of a GOP at first: nobody could show that.
        new.send(&frame(b'b', number, number % 10 == 0, 1_000)).unwrap();
    }
    player.wait_video(50 + 50, PATIENCE);
    // What was under way arrives after all, and belongs to nobody.
    network.stall(false);
    assert!(old.event(PATIENCE).is_ok_and(|event| !matches!(event, Some(Event::Tag(_)))));
    for number in 60..80 {
        new.send(&frame(b'b', number, number % 10 == 0, 1_000)).unwrap();
    }
    player.wait_video(50 + 70, PATIENCE);
    player.finish().unwrap();

    let tags = player.tags();
    let headers = tags.iter().filter(|tag| tag.role == Role::SequenceHeader);
    let marks: Vec<_> = headers.map(|tag| tag.body[6]).collect();
    assert_eq!(marks, [b'a', b'b']);
    let pictures = pictures_of(tags);
    let names: Vec<_> = pictures.iter().map(named).collect();
    let a = (0..50).map(|number| (b'a', number));
    let b = (10..80).map(|number| (b'b', number));
    assert_eq!(names, a.chain(b).collect::<Vec<_>>());
    assert!(pictures[50].is_keyframe());
    let is_later = |pair: &[Tag]| pair[0].timestamp < pair[1].timestamp;
    assert!(pictures.windows(2).all(is_later), "one clock");
    let log = relay.log();
    assert!(log.contains("an encoder takes over from another"), "{log}");
    assert!(log.contains("another encoder took over"), "{log}");
}

#[test]
fn ffmpeg_comes_back_after_its_network_died() {
    let studio = Node::studio(FIRSTMILE).start().unwrap();
    let key = studio.key("camera");
    let mut player = rtmpdump_play(&studio.url("camera"));
    studio.wait_players("camera", 1);
    let network = Proxy::start(studio.address("rtmp")).unwrap();
    let through = format!("rtmp://{}/live/{key}", network.address());
    let clip = fixture::clip();
    let mut old = FfmpegPublish::new(&clip, &through).forever().start();
    player.wait_video(30, PATIENCE);
    network.stall(true);
    let before = player.frames(Track::Video);
    let _new = FfmpegPublish::new(&clip, &studio.url(&key)).forever().start();
    player.wait_video(before + 60, PATIENCE);
    network.stall(false);
    assert!(!old.wait(PATIENCE).unwrap().status.success(), "the old one was ended");
    player.finish().unwrap();
    let pictures = pictures_of(player.tags());
    assert!(pictures.is_sorted_by_key(|tag| tag.timestamp), "one clock");
}

/// Publishes 25 pictures of 200 kB a second, a keyframe a second, until it is dropped.
struct Heavy {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Heavy {
    fn start(url: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut client = OwnClient::ready(url, Intent::Publish);
        let is_over = stop.clone();
        let thread = thread::spawn(move || {
            let started = Instant::now();
            client.send(&header(b'h')).unwrap();
            for number in 0.. {
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
                client.send(&frame(b'h', number, number % 25 == 0, 200_000)).unwrap();
                let due = Duration::from_millis(u64::from(number) * 40);
                let left = due.saturating_sub(started.elapsed());
                // Acknowledgements are to be read, too.
                client.read(left.max(Duration::from_millis(1))).unwrap();
                thread::sleep(due.saturating_sub(started.elapsed()));
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Heavy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(thread::JoinHandle::join);
        if !thread::panicking() {
            ended.unwrap().unwrap();
        }
    }
}

/// A player whose kernel takes little on its own.
fn lean_player(studio: &Node) -> OwnClient {
    let address: SocketAddr = studio.address("rtmp");
    let kind = socket2::Type::STREAM;
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), kind, None).unwrap();
    socket.set_recv_buffer_size(16 << 10).unwrap();
    socket.connect(&address.into()).unwrap();
    let config = Config::new(Intent::Play, studio.url("camera").parse().unwrap());
    let mut player = OwnClient::on(TcpStream::from(socket), config).unwrap();
    assert_eq!(player.next_event(), Event::Ready);
    player
}

#[cfg(target_os = "linux")]
#[test]
fn slow_players_cost_no_memory_and_delay_nobody() {
    let studio = Node::studio(FIRSTMILE)
        .config("[ring]\nmax_bytes = \"16 MiB\"\n[play]\nmax_delay = \"10s\"\n")
        .start()
        .unwrap();
    let mut fast = rtmpdump_play(&studio.url("camera"));
    studio.wait_players("camera", 1);
    let mut slow: Vec<_> = (0..8).map(|_| lean_player(&studio)).collect();
    let _heavy = Heavy::start(&studio.url(&studio.key("camera")));

    // Each takes a tenth of what comes. The ring is full after four seconds of it.
    let mut crawl = |fast: &testkit::client::Player, frames: usize| {
        let started = Instant::now();
        let mut rounds = 0;
        wait_until("the fast player's pictures", Duration::from_secs(60), || {
            while started.elapsed() >= rounds * Duration::from_millis(33) {
                rounds += 1;
                for player in &mut slow {
                    assert!(player.read(Duration::from_millis(1)).unwrap(), "it was closed");
                }
            }
            fast.frames(Track::Video) >= frames
        });
    };
    crawl(&fast, 150);
    let (before, _) = studio.memory();
    crawl(&fast, 400);
    // 50 MB more have passed: with a queue for each of the slow, they would be here.
    let growth = studio.memory().0.saturating_sub(before);
    eprintln!("the studio has {before} bytes, and {growth} more with slow players");
    assert!(growth < 20 << 20, "it grew by {growth} bytes");

    fast.finish().unwrap();
    let pictures = pictures_of(fast.tags());
    assert_in_order(&pictures);
    let seen = named(pictures.last().unwrap()).1 - named(&pictures[0]).1 + 1;
    assert!(pictures.len() * 10 > seen as usize * 9, "{} of {seen}", pictures.len());

    // The slow ones see less of it, in order, and every run of it from a keyframe on.
    for player in &mut slow {
        let mut tags = Vec::new();
        // What it has read before; nothing more is waited for.
        while let Ok(Some(event)) = player.event(Duration::ZERO) {
            if let Event::Tag(tag) = event {
                tags.push(tag);
            }
        }
        let pictures = pictures_of(tags);
        assert_in_order(&pictures);
        let last = named(pictures.last().expect("some pictures")).1;
        eprintln!("a slow player has {} pictures, the last is {last}", pictures.len());
        assert!(last as usize > pictures.len(), "it never skipped");
    }
}

/// Asserts that pictures come in order, and after a hole from a keyframe on.
#[track_caller]
fn assert_in_order(pictures: &[Tag]) {
    assert!(pictures.is_sorted_by_key(|tag| tag.timestamp));
    for pair in pictures.windows(2) {
        let (before, after) = (named(&pair[0]).1, named(&pair[1]).1);
        let is_next = after == before + 1;
        assert!(is_next || after > before && pair[1].is_keyframe(), "{after} after {before}");
    }
}

/// A player in the status, by its address.
fn listed(feed: &Value, address: SocketAddr) -> Option<Value> {
    let players = feed["player_list"].as_array()?;
    players.iter().find(|player| player["address"] == address.to_string()).cloned()
}

#[cfg(target_os = "linux")]
#[test]
fn a_slow_player_has_a_queue_and_one_that_reads_well_has_none() {
    let studio = Node::studio(FIRSTMILE).config("[play]\nmax_delay = \"10s\"\n").start().unwrap();
    let mut fast = rtmpdump_play(&studio.url("camera"));
    studio.wait_players("camera", 1);
    let mut slow = lean_player(&studio);
    let address = slow.address();
    let _heavy = Heavy::start(&studio.url(&studio.key("camera")));
    fast.wait_video(10, PATIENCE);
    let feed = wait_for("a queue", Duration::from_secs(60), || {
        assert!(slow.read(Duration::from_millis(20)).unwrap(), "it was closed");
        let feed = studio.feed("camera")?;
        let p50 = listed(&feed, address)?["queue_ms"]["p50"].as_f64()?;
        (p50 > 1_000.0).then_some(feed)
    });
    let players = feed["player_list"].as_array().unwrap();
    assert_eq!(players.len(), 2);
    // Who waits longest is first.
    assert_eq!(players[0]["address"], address.to_string(), "{feed}");
    let p50 = players[1]["queue_ms"]["p50"].as_f64().unwrap();
    assert!(p50 < 200.0, "it reads well: {feed}");
    assert!(players[1]["client"].is_string() && players[1]["connected_s"].as_f64() > Some(0.0));
    assert_eq!(feed["latency"]["player_queue_ms"], players[0]["queue_ms"]);
    let (_, metrics) = http::get(studio.address("http"), "/metrics", None).unwrap();
    let metric =
        "firstmile_feed_latency_seconds{feed=\"camera\",hop=\"player_queue\",quantile=\"0.5\"} ";
    let (_, seconds) = metrics.split_once(metric).expect("a metric");
    assert!(seconds.lines().next().unwrap().parse::<f64>().unwrap() > 0.5, "{metrics}");
    assert!(!metrics.contains(&address.to_string()));
    let (_, status) = http::get(studio.address("http"), "/api/v1/status", None).unwrap();
    assert!(status.contains("\"player_list\"") && !status.contains(&address.to_string()));
    drop(slow);
    wait_until("one player", PATIENCE, || {
        let feed = studio.feed("camera").unwrap();
        feed["player_list"].as_array().is_some_and(|players| players.len() == 1)
    });
}

#[test]
fn what_was_there_before_a_player_came_is_no_delay() {
    for join in ["fast", "smooth"] {
        let config = format!("[play]\njoin = \"{join}\"\nmax_delay = \"30s\"\n");
        let studio = Node::studio(FIRSTMILE).config(&config).start().unwrap();
        let mut encoder = OwnClient::ready(&studio.url(&studio.key("camera")), Intent::Publish);
        encoder.send(&header(1)).unwrap();
        (0..25).for_each(|n| encoder.send(&frame(1, n, n == 0, 1_000)).unwrap());
        wait_until("an old GOP", PATIENCE, || {
            studio.feed("camera").is_some_and(|feed| feed["since_s"].as_f64() > Some(1.5))
        });
        let mut player = OwnClient::ready(&studio.url("camera"), Intent::Play);
        let mut sees = |number: u32| {
            let is_it = |tag: &Tag| tag.body.len() >= 10 && named(tag) == (1, number);
            while !matches!(player.next_event(), Event::Tag(tag) if is_it(&tag)) {}
        };
        sees(24);
        for number in 25..35 {
            encoder.send(&frame(1, number, false, 1_000)).unwrap();
            sees(number);
        }
        let p99 = wait_for("a queue", PATIENCE, || {
            studio.feed("camera")?["player_list"][0]["queue_ms"]["p99"].as_f64()
        });
        assert!(p99 < 1_000.0, "{join}: {p99} ms");
    }
}

#[test]
fn a_player_that_stands_still_is_closed_and_the_others_go_on() {
    let studio =
        Node::studio(FIRSTMILE).config("[limits]\nwrite_timeout = \"2s\"\n").start().unwrap();
    let mut stuck = rtmpdump_play(&studio.url("camera"));
    let mut other = rtmpdump_play(&studio.url("camera"));
    studio.wait_players("camera", 2);
    let _heavy = Heavy::start(&studio.url(&studio.key("camera")));
    stuck.wait_video(10, PATIENCE);
    stuck.signal(Signal::Stop);
    studio.wait_players("camera", 1);
    studio.wait_log("the peer took nothing for 2 s");
    assert_eq!(studio.status().unwrap()["limits"]["hits"]["write_timeout"], 1);
    let before = other.frames(Track::Video);
    other.wait_video(before + 25, PATIENCE);
}
