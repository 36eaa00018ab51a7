//! The studio's network goes away or changes its address: the encoder does not notice, the player
//! waits, and the picture comes back by itself.
#![cfg(target_os = "linux")]

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

use media::Track;
use rtmp::session::Intent;
use rtmp::session::client::Event;
use testkit::netns::{Lab, RELAY, within};
use testkit::stamped::{Ledger, Shape, Source, Stamp, now};
use testkit::{Node, OwnClient, PATIENCE, wait_for, wait_until};

const FIRSTMILE: &str = env!("CARGO_BIN_EXE_firstmile");

/// Little enough for a slow machine, in debug builds too.
const SHAPE: Shape = Shape { kbps: 1500, gop: 2, audio: 350 };

/// What still comes in once the network is down: it was under way, or waits in the player's socket.
const UNDER_WAY: Duration = Duration::from_secs(1);

/// From the network's return to a picture of the time after it. The link is raced every 500 ms,
/// a GOP lasts 2 s, and the machine has other things to do.
const BACK: Duration = Duration::from_secs(8);

/// An encoder of our own whose frames are counted; it runs until it is stopped.
struct Encoder {
    stop: Arc<AtomicBool>,
    running: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Encoder {
    fn start(namespace: &str, url: &str) -> Self {
        let mut client = within(namespace, || OwnClient::ready(url, Intent::Publish)).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let running = thread::spawn(move || {
            let mut source = Source::new(SHAPE);
            for tag in Source::headers() {
                client.send(&tag)?;
            }
            let start = Instant::now();
            while !stopped.load(Ordering::Relaxed) {
                // Reads what the server says, so that an end is seen, until the next frame is due.
                while let Some(left) = source.due().checked_sub(start.elapsed())
                    && left > Duration::from_millis(1)
                {
                    anyhow::ensure!(client.read(left)?, "the server closed the connection");
                }
                client.send(&source.make(now()))?;
            }
            Ok(())
        });
        Self { stop, running: Some(running) }
    }

    /// Ends it; it must still have had the connection that it began with.
    #[track_caller]
    fn finish(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let running = self.running.take().expect("it ends once");
        running.join().unwrap().expect("the encoder noticed nothing");
    }
}

impl Drop for Encoder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

#[derive(Clone, Default)]
struct Seen {
    ledger: Ledger,
    /// Of the newest video frame: when it was captured.
    captured: u64,
    /// And when it came.
    arrived: u64,
    /// The longest time without a picture.
    pause: Duration,
    /// Set once the connection has ended.
    ended: bool,
}

/// A player of our own that counts; it runs until its server ends it.
struct Player {
    seen: Arc<Mutex<Seen>>,
}

impl Player {
    fn start(namespace: &str, url: &str) -> Self {
        let mut client = within(namespace, || OwnClient::ready(url, Intent::Play)).unwrap();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let shared = Arc::clone(&seen);
        thread::spawn(move || {
            // What does not come within the patience of one read may come later.
            while matches!(client.read(Duration::from_millis(100)), Ok(true)) {
                while let Ok(Some(event)) = client.event(Duration::ZERO) {
                    let mut seen = shared.lock().unwrap();
                    match event {
                        Event::Tag(tag) => seen.enter(Stamp::of(&tag)),
                        Event::Ended | Event::Rejected { .. } => seen.ended = true,
                        _ => {}
                    }
                }
            }
            shared.lock().unwrap().ended = true;
        });
        Self { seen }
    }

    fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }

    fn pictures(&self) -> u64 {
        self.seen().ledger.count(Track::Video)
    }
}

impl Seen {
    fn enter(&mut self, stamp: Option<Stamp>) {
        let Some(stamp) = stamp else { return };
        self.ledger.enter(stamp);
        if stamp.track == Track::Video {
            let arrived = now();
            if self.arrived > 0 {
                self.pause = self.pause.max(Duration::from_nanos(arrived - self.arrived));
            }
            (self.captured, self.arrived) = (stamp.at, arrived);
        }
    }

    fn latency(&self) -> Duration {
        Duration::from_nanos(self.arrived.saturating_sub(self.captured))
    }
}

/// An encoder in the field, a relay, a studio behind its router, and a player beside the studio.
struct Scene {
    lab: Lab,
    _relay: Node,
    _studio: Node,
    encoder: Encoder,
    player: Player,
}

impl Scene {
    /// A feed that runs; `None` where namespaces cannot be made.
    #[track_caller]
    fn new_or_skip() -> Option<Self> {
        let lab = Lab::new_or_skip()?;
        let relay = lab.relay(FIRSTMILE).start().unwrap();
        let studio = Node::studio(FIRSTMILE)
            .in_namespace(&lab.namespace("studio"))
            .join(relay.join_link())
            .start()
            .unwrap();
        studio.wait_links(1);
        let player = Player::start(&lab.namespace("studio"), &studio.url("camera"));
        let port = relay.address("rtmp").port();
        let url = format!("rtmp://{RELAY}:{port}/live/{}", studio.key("camera"));
        let encoder = Encoder::start(&lab.namespace("encoder"), &url);
        // More than a GOP, so that the opening is over.
        wait_until("90 pictures", PATIENCE, || player.pictures() >= 90);
        Some(Self { lab, _relay: relay, _studio: studio, encoder, player })
    }

    /// Waits until a picture comes that was captured after `since`, and then until the newest one
    /// is fresh.
    #[track_caller]
    fn wait_picture(&self, since: u64) {
        let start = Instant::now();
        wait_until("a picture of the time after it", BACK, || self.player.seen().captured > since);
        let picture = start.elapsed();
        let fresh = wait_for("a picture without delay", PATIENCE, || {
            let seen = self.player.seen();
            let is_fresh = seen.captured > since && seen.latency() < Duration::from_millis(700);
            is_fresh.then(|| start.elapsed())
        });
        println!("a picture after {picture:?}, without delay after {fresh:?}");
    }

    /// Ends the feed after some more of it: nobody lost a connection, nothing came twice or late.
    #[track_caller]
    fn finish(self) {
        let before = self.player.pictures();
        wait_until("it goes on", PATIENCE, || self.player.pictures() >= before + 60);
        self.encoder.finish();
        let Seen { ledger, ended, .. } = self.player.seen();
        assert!(!ended, "the player's connection ended");
        let [video, audio] = [Track::Video, Track::Audio].map(|track| ledger.missing(track));
        println!("missing at the player: {video} video, {audio} audio");
        assert_eq!((ledger.doubled, ledger.reordered), (0, 0), "twice, out of order");
    }
}

/// Everything that passes through the studio's router is dropped for a while.
#[track_caller]
fn outage(length: Duration) {
    let Some(scene) = Scene::new_or_skip() else { return };
    scene.lab.drop_all(true).unwrap();
    sleep(UNDER_WAY);
    let before = scene.player.pictures();
    sleep(length - UNDER_WAY);
    assert_eq!(scene.player.pictures(), before, "the network is down");
    scene.lab.drop_all(false).unwrap();
    scene.wait_picture(now());
    scene.finish();
}

#[test]
fn two_seconds_without_a_network() {
    outage(Duration::from_secs(2));
}

#[test]
fn ten_seconds_without_a_network() {
    outage(Duration::from_secs(10));
}

#[test]
fn a_minute_without_a_network() {
    outage(Duration::from_secs(60));
}

/// The address is gone, half a second later there is a new one.
const GAP: Duration = Duration::from_millis(500);

/// Has an address change twice, each time to one with another last byte.
#[track_caller]
fn moving(change: impl Fn(&Lab, u8)) {
    let Some(scene) = Scene::new_or_skip() else { return };
    for last in [3, 4] {
        scene.player.seen.lock().unwrap().pause = Duration::ZERO;
        change(&scene.lab, last);
        scene.wait_picture(now());
        let pause = scene.player.seen().pause;
        assert!(pause > GAP / 2, "a network without an address carries nothing: {pause:?}");
        println!("{pause:?} without a picture");
    }
    scene.finish();
}

/// The studio's machine joins another network.
#[test]
fn a_new_address_of_the_studio() {
    moving(|lab, last| lab.move_studio(Ipv4Addr::new(192, 168, 77, last), GAP).unwrap());
}

/// The network gives the studio's router another address, of which the studio is not told.
#[test]
fn a_new_address_of_the_router() {
    moving(|lab, last| lab.move_router(Ipv4Addr::new(203, 0, 113, last), GAP).unwrap());
}
