//! What a studio measures of an encoder and of the way from it, and the delay that its players get.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use media::Track;
use rtmp::session::Intent;
use rtmp::session::client::Event;
use serde_json::Value;
use testkit::stamped::{AUDIO_PERIOD, FPS, Shape, Source, Stamp, now};
use testkit::{Node, OwnClient, PATIENCE, tempdir, wait_for, wait_until};

const FIRSTMILE: &str = env!("CARGO_BIN_EXE_firstmile");

/// Little enough for a slow machine, in debug builds too.
const SHAPE: Shape = Shape { kbps: 500, gop: 1, audio: 350 };

/// An encoder of our own that runs until it is dropped.
struct Encoder {
    stop: Arc<AtomicBool>,
    running: Option<JoinHandle<()>>,
}

impl Encoder {
    /// `hold` says for how long nothing is sent before the frame that is due then.
    fn start(
        url: &str,
        shape: Shape,
        hold: impl Fn(Duration) -> Duration + Send + 'static,
    ) -> Self {
        let mut client = OwnClient::ready(url, Intent::Publish);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let running = thread::spawn(move || {
            let mut source = Source::new(shape);
            client.send_all(&Source::headers());
            let start = Instant::now();
            while !stopped.load(Ordering::Relaxed) {
                let due = source.due() + hold(source.due());
                while let Some(left) = due.checked_sub(start.elapsed())
                    && left > Duration::from_millis(1)
                {
                    // A relay that is killed is no fault of the encoder.
                    if !matches!(client.read(left), Ok(true)) {
                        return;
                    }
                }
                if client.send(&source.make(now())).is_err() {
                    return;
                }
            }
        });
        Self { stop, running: Some(running) }
    }

    fn steady(url: &str) -> Self {
        Self::start(url, SHAPE, |_| Duration::ZERO)
    }
}

impl Drop for Encoder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(running) = self.running.take() {
            running.join().expect("the encoder's thread");
        }
    }
}

/// What a player got: how late, and how far its time is from the encoder's.
struct Got {
    track: Track,
    latency_ms: f64,
    offset_ms: i64,
}

/// The next frames of a player.
fn frames(player: &mut OwnClient, count: usize) -> Vec<Got> {
    let mut got = Vec::new();
    while got.len() < count {
        let Event::Tag(tag) = player.next_event() else { continue };
        let Some(stamp) = Stamp::of(&tag) else { continue };
        let captured = match stamp.track {
            Track::Video => Duration::from_nanos(stamp.number * 1_000_000_000 / FPS),
            _ => Duration::from_nanos(AUDIO_PERIOD.as_nanos() as u64 * stamp.number),
        };
        got.push(Got {
            track: stamp.track,
            latency_ms: now().saturating_sub(stamp.at) as f64 / 1e6,
            offset_ms: tag.timestamp - captured.as_millis() as i64,
        });
    }
    got
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn latency(got: &[Got], track: Track) -> f64 {
    median(got.iter().filter(|got| got.track == track).map(|got| got.latency_ms).collect())
}

/// `PATCH /api/v1/feeds/camera`.
fn patch(studio: &Node, body: &str) -> (u16, String) {
    let address = studio.address("http");
    let mut stream = TcpStream::connect(address).unwrap();
    let request = format!(
        "PATCH /api/v1/feeds/camera HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {}\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        studio.token(),
        body.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    (answer.split(' ').nth(1).unwrap().parse().unwrap(), answer)
}

fn wait(studio: &Node, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    wait_for(what, PATIENCE, || studio.feed("camera").filter(|feed| is_so(feed)))
}

/// A delay is set while a player plays, is kept, and is taken away: the player's clock goes on, sound
/// and picture stay in step, and both come as late as they should.
#[test]
fn players_have_a_constant_delay() {
    let data = tempdir().unwrap();
    let start = || Node::studio(FIRSTMILE).data(data.path()).start().unwrap();
    let studio = start();
    let encoder = Encoder::steady(&studio.url(&studio.key("camera")));
    let mut player = OwnClient::ready(&studio.url("camera"), Intent::Play);
    let before = frames(&mut player, 100);
    assert!(latency(&before[50..], Track::Video) < 400.0, "{}", latency(&before, Track::Video));

    let (code, answer) = patch(&studio, r#"{"play_delay_ms": 1200}"#);
    assert_eq!(code, 200, "{answer}");
    // Until what it was given before has come.
    wait_until("the delay is there", PATIENCE, || {
        latency(&frames(&mut player, 20), Track::Video) > 1_000.0
    });
    // Past the opening, which is squeezed.
    frames(&mut player, 150);
    let after = frames(&mut player, 200);
    let (video, audio) = (latency(&after, Track::Video), latency(&after, Track::Audio));
    assert!((1_150.0..1_600.0).contains(&video), "{video}");
    assert!((video - audio).abs() < 60.0, "{video} and {audio}");
    let offsets: Vec<_> = after.iter().map(|got| got.offset_ms).collect();
    let (least, most) = (offsets.iter().min().unwrap(), offsets.iter().max().unwrap());
    assert!(most - least <= 3, "sound and picture drift apart: {least} to {most} ms");

    // A player that waits as long as it is told to is not late.
    let feed = studio.feed("camera").unwrap();
    assert_eq!((&feed["play_delay_ms"], &feed["play_max_delay_ms"]), (&1200.into(), &2000.into()));
    let queue = feed["player_list"][0]["queue_ms"]["p50"].as_f64().unwrap();
    assert!(queue < 400.0, "{queue}");

    let (code, answer) = patch(&studio, r#"{"play_delay_ms": 10001}"#);
    assert_eq!(code, 400);
    assert!(answer.contains("play_delay_ms must be from 0 to 10000"), "{answer}");

    // It outlives a restart.
    drop(encoder);
    studio.terminate().unwrap().expect_success("SIGTERM drains");
    let studio = start();
    assert_eq!(studio.feed("camera").unwrap()["play_delay_ms"], 1200);
    let _encoder = Encoder::steady(&studio.url(&studio.key("camera")));
    let mut player = OwnClient::ready(&studio.url("camera"), Intent::Play);
    frames(&mut player, 150);
    assert!(latency(&frames(&mut player, 50), Track::Video) > 1_100.0);
    assert_eq!(patch(&studio, r#"{"play_delay_ms": null}"#).0, 200);
    wait_until("the delay is gone", PATIENCE, || {
        latency(&frames(&mut player, 20), Track::Video) < 400.0
    });
}

/// Held is what its players wait for while the relay is away; gone is an encoder that left.
#[test]
fn a_feed_is_held_while_its_relay_is_away() {
    let relay = Node::relay(FIRSTMILE).config("region = \"Frankfurt\"\n").start().unwrap();
    let studio = Node::studio(FIRSTMILE).join(relay.join_link()).start().unwrap();
    studio.wait_links(1);
    let _encoder = Encoder::steady(&relay.url(&studio.key("camera")));
    let live =
        wait(&studio, "live", |feed| feed["state"] == "live" && feed["encoder_stalls"].is_object());
    assert_eq!(live["held"], false);
    wait_until("what the relay says of itself", PATIENCE, || {
        let link = studio.status().unwrap()["links"][0].clone();
        link["region"] == "Frankfurt" && link["load"].is_number() && link["local"].is_string()
    });
    // Its certificate is its own: nobody is sent to a page that browsers warn of.
    assert!(live["publish"][0].get("measure").is_none());
    relay.kill().unwrap();
    let held = wait(&studio, "held", |feed| feed["held"] == true);
    assert_eq!(held["weak"], false);
    assert_eq!(held["problems"][0]["place"], "backhaul", "{held}");
    // Whatever the state is called meanwhile, until the link is given up.
    wait(&studio, "stalled, and held", |feed| feed["held"] == true && feed["state"] == "stalled");
}

#[test]
fn keyframes_that_are_far_apart_are_told_of() {
    let studio = Node::studio(FIRSTMILE).start().unwrap();
    let shape = Shape { gop: 5, ..SHAPE };
    let _encoder = Encoder::start(&studio.url(&studio.key("camera")), shape, |_| Duration::ZERO);
    let feed = wait(&studio, "an interval", |feed| {
        feed["video"]["keyframe_interval_s"].as_f64().is_some_and(|interval| interval > 4.9)
    });
    let problems = feed["problems"].as_array().unwrap();
    let long =
        problems.iter().find(|it| it["text"].as_str().unwrap().contains("keyframe interval"));
    assert_eq!(long.unwrap()["advice"], true, "{problems:?}");
    assert!(feed["video"]["keyframe_interval_s"].as_f64().unwrap() < 6.0, "{feed}");
}

/// The relay sees the encoder's way, and the studio shows it.
#[test]
fn a_way_that_stalls_is_seen_through_the_relay() {
    let relay = Node::relay(FIRSTMILE).start().unwrap();
    let studio = Node::studio(FIRSTMILE).join(relay.join_link()).start().unwrap();
    studio.wait_links(1);
    // Once a second nothing is sent for 400 ms, and then what was due.
    let hold = |due: Duration| {
        let late = due.as_millis() % 1_000;
        Duration::from_millis(if late < 600 { 0 } else { 1_000 - late as u64 })
    };
    let _encoder = Encoder::start(&relay.url(&studio.key("camera")), SHAPE, hold);
    let feed = wait(&studio, "stalls", |feed| {
        feed["encoder_stalls"]["last_minute"].as_u64().is_some_and(|count| count >= 10)
    });
    let longest = feed["encoder_stalls"]["longest_ms"].as_u64().unwrap();
    assert!(longest >= 300, "{longest}");
    let feed = wait(&studio, "weak", |feed| feed["weak"] == true);
    assert_eq!(feed["problems"][0]["place"], "encoder", "{feed}");
}
