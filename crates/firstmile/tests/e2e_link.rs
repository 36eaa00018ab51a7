//! The link between studio and relay through outages, changes of address and restarts.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use media::{Role, Tag, Track};
use rtmp::session::Intent;
use rtmp::session::client::Event;
use testkit::{Node, OwnClient, PATIENCE, UdpProxy, tempdir, wait_for, wait_until};

const FIRSTMILE: &str = env!("CARGO_BIN_EXE_firstmile");
/// One way, so that a round trip takes 60 ms.
const DELAY: Duration = Duration::from_millis(30);
/// Between the network's return and media at a player: a fraction of it on an idle machine.
const BACK: Duration = Duration::from_secs(2);
const FRAME: Duration = Duration::from_millis(40);

fn header() -> Tag {
    Tag::new(Track::Video, 0, vec![0x17, 0, 0, 0, 0, 1, 0].into())
}

/// A picture with its number in it; a keyframe each second.
fn frame(number: u32) -> Tag {
    let mut body = vec![0; 20_000];
    body[..2].copy_from_slice(&[if number.is_multiple_of(25) { 0x17 } else { 0x27 }, 1]);
    body[6..10].copy_from_slice(&number.to_be_bytes());
    Tag::new(Track::Video, i64::from(number) * 40, body.into())
}

fn number(tag: &Tag) -> Option<u32> {
    let is_picture = tag.track == Track::Video && matches!(tag.role, Role::Keyframe | Role::Frame);
    is_picture.then(|| u32::from_be_bytes(tag.body[6..10].try_into().unwrap()))
}

/// Publishes 4 Mb/s until it is dropped.
struct Live {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<u32>>,
}

impl Live {
    fn start(mut encoder: OwnClient) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let is_over = stop.clone();
        let thread = thread::spawn(move || {
            let started = Instant::now();
            encoder.send(&header()).unwrap();
            for number in 0.. {
                if is_over.load(Ordering::Relaxed) {
                    return number;
                }
                encoder.send(&frame(number)).unwrap();
                // Acknowledgements are to be read, too.
                encoder.read(Duration::from_millis(1)).unwrap();
                thread::sleep((FRAME * number).saturating_sub(started.elapsed()));
            }
            unreachable!("it goes on for ever");
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().expect("it is taken here only").join();
        assert!(ended.is_ok() || thread::panicking(), "the encoder saw something of it");
    }
}

/// The next picture's number.
fn picture(player: &mut OwnClient) -> u32 {
    loop {
        if let Event::Tag(tag) = player.next_event()
            && let Some(number) = number(&tag)
        {
            return number;
        }
    }
}

/// Reads pictures until the player has waited for the next one for some time, and returns the last.
fn read_all(player: &mut OwnClient, wait: Duration) -> Option<u32> {
    let mut last = None;
    while let Ok(event) = player.event(wait) {
        if let Event::Tag(tag) = event.expect("the player stays") {
            last = number(&tag).or(last);
        }
    }
    last
}

/// The join link of a relay that is reached by way of another address.
fn link_by(relay: &Node, address: SocketAddr) -> String {
    let secure = relay.address("secure").to_string();
    assert!(relay.join_link().contains(&secure));
    relay.join_link().replace(&secure, &address.to_string())
}

/// Sends media through a network, harms it, and returns how long after `harm` media was back.
fn survive(harm: impl FnOnce(&UdpProxy)) -> (Duration, Node) {
    let relay = Node::relay(FIRSTMILE).start().unwrap();
    let network = UdpProxy::start(relay.address("secure"), DELAY).unwrap();
    let studio = Node::studio(FIRSTMILE).join(&link_by(&relay, network.address())).start().unwrap();
    studio.wait_links(1);
    let mut player = OwnClient::ready(&studio.url("camera"), Intent::Play);
    let encoder = OwnClient::ready(&relay.url(&studio.key("camera")), Intent::Publish);
    let _live = Live::start(encoder);
    while picture(&mut player) < 75 {}
    let before = thread::scope(|scope| {
        let reading = scope.spawn(|| read_all(&mut player, Duration::from_secs(1)));
        harm(&network);
        reading.join().unwrap()
    });
    let back = Instant::now();
    let next = picture(&mut player);
    let took = back.elapsed();
    assert!(before.is_none_or(|before| next > before), "in order");
    // It stays, and is live.
    for _ in 0..50 {
        picture(&mut player);
    }
    (took, studio)
}

fn outage(seconds: u64) {
    let (took, studio) = survive(|network| {
        network.pass(false, false);
        // The outage is what is tested.
        thread::sleep(Duration::from_secs(seconds));
        network.pass(true, true);
    });
    println!("media {took:?} after an outage of {seconds} s");
    assert!(took < BACK, "{took:?}");
    studio.wait_links(1);
}

#[test]
fn media_is_back_at_once_after_an_outage_of_2_s() {
    outage(2);
}

#[test]
fn media_is_back_at_once_after_an_outage_of_10_s() {
    outage(10);
}

#[test]
fn media_is_back_at_once_after_an_outage_in_which_both_ends_gave_up() {
    outage(35);
}

/// A relay that can be started again where it was.
struct Lasting {
    data: testkit::TempDir,
    addresses: Option<[String; 2]>,
}

impl Lasting {
    fn new() -> Self {
        Self { data: tempdir().unwrap(), addresses: None }
    }

    fn start(&mut self) -> Node {
        let lines = "start_grace = \"0s\"\n[backhaul]\ncongestion = \"cubic\"\n";
        let mut relay = Node::relay(FIRSTMILE).data(self.data.path()).config(lines);
        if let Some([rtmp, secure]) = &self.addresses {
            relay = relay.rtmp(rtmp).secure(secure);
        }
        let relay = relay.start().unwrap();
        self.addresses = Some(["rtmp", "secure"].map(|name| relay.address(name).to_string()));
        relay
    }

    /// Waits until this is, or is no longer, in what outlives the relay.
    fn wait_known(&self, text: &str, is_known: bool) {
        let file = self.data.path().join("verifiers.toml");
        wait_until(&format!("{text}: {is_known} in {}", file.display()), PATIENCE, || {
            std::fs::read_to_string(&file).is_ok_and(|file| file.contains(text) == is_known)
        });
    }
}

#[test]
fn a_relay_that_was_killed_is_rejoined_at_once() {
    let mut lasting = Lasting::new();
    let relay = lasting.start();
    let studio = Node::studio(FIRSTMILE).join(relay.join_link()).start().unwrap();
    studio.wait_links(1);
    lasting.wait_known("camera", true);
    // One that is lost as soon as it was made is not called again at once.
    wait_until("the link is some seconds old", PATIENCE, || {
        studio.status().is_ok_and(|status| status["uptime_s"].as_u64() >= Some(3))
    });
    relay.kill().unwrap();
    let relay = lasting.start();
    let started = Instant::now();
    wait_for("the studio is back", PATIENCE, || {
        let link = studio.status().ok()?["links"][0].clone();
        (link["state"] == "up" && link["reconnects"] == 1).then_some(())
    });
    println!("rejoined {:?} after the relay's start", started.elapsed());
    assert!(started.elapsed() < BACK);
    assert!(studio.log().contains("the peer was restarted"), "a reset told it");
    let mut encoder = OwnClient::ready(&relay.url(&studio.key("camera")), Intent::Publish);
    encoder.send(&header()).unwrap();
    encoder.send(&frame(0)).unwrap();
    studio.wait_feed("camera", "live");
}

#[test]
fn an_encoder_is_let_in_after_a_restart_although_its_studio_is_away() {
    let mut lasting = Lasting::new();
    let relay = lasting.start();
    let data = tempdir().unwrap();
    let start = |link: &str| Node::studio(FIRSTMILE).data(data.path()).join(link).start().unwrap();
    let studio = start(relay.join_link());
    studio.wait_links(1);
    studio.json(&["feed", "add", "gone"]);
    lasting.wait_known("gone", true);
    let [camera, gone] = ["camera", "gone"].map(|feed| relay.url(&studio.key(feed)));
    studio.json(&["feed", "remove", "gone"]);
    lasting.wait_known("gone", false);
    studio.terminate().unwrap();
    lasting.wait_known("left", true);
    relay.kill().unwrap();

    let relay = lasting.start();
    let mut encoder = OwnClient::ready(&camera, Intent::Publish);
    encoder.send(&header()).unwrap();
    encoder.send(&frame(0)).unwrap();
    relay.wait_feed("camera", "live");
    let mut stranger = OwnClient::connect(&gone, Intent::Publish).unwrap();
    let answer = stranger.event(PATIENCE);
    assert!(!matches!(answer, Ok(Some(Event::Ready))), "its key was removed: {answer:?}");
    let studio = start(relay.join_link());
    studio.wait_feed("camera", "live");
}

#[test]
fn a_relay_that_stops_delivers_what_encoders_have_sent() {
    let mut lasting = Lasting::new();
    let relay = lasting.start();
    let network = UdpProxy::start(relay.address("secure"), 4 * DELAY).unwrap();
    let studio = Node::studio(FIRSTMILE).join(&link_by(&relay, network.address())).start().unwrap();
    lasting.wait_known("camera", true);
    let mut player = OwnClient::ready(&studio.url("camera"), Intent::Play);
    let mut encoder = OwnClient::ready(&relay.url(&studio.key("camera")), Intent::Publish);
    encoder.send(&header()).unwrap();
    for number in 0..100 {
        encoder.send(&frame(number)).unwrap();
        thread::sleep(Duration::from_millis(10));
    }
    // It leaves with that, so that nothing but the tags in flight holds up the relay.
    drop(encoder);
    let stopping = thread::spawn(move || relay.terminate().unwrap().expect_success("SIGTERM"));
    let mut next = 0;
    while next < 100 {
        assert_eq!(picture(&mut player), next);
        next += 1;
    }
    stopping.join().unwrap();
    wait_until("the studio was told", PATIENCE, || studio.log().contains("lost the relay"));
    let _relay = lasting.start();
    studio.wait_links(1);
}

#[test]
fn a_studio_without_its_identity_is_told_what_happened() {
    let relay = Node::relay(FIRSTMILE).start().unwrap();
    let data = tempdir().unwrap();
    let start = || Node::studio(FIRSTMILE).data(data.path());
    let studio = start().join(relay.join_link()).start().unwrap();
    studio.wait_links(1);
    studio.terminate().unwrap();
    std::fs::remove_file(data.path().join("identity.pem")).unwrap();

    let studio = start().start().unwrap();
    studio.wait_log("identity.pem was missing, so this is a new studio");
    let error = wait_for("the relay's answer", PATIENCE, || {
        let status = studio.status().ok()?;
        assert!(status["alarms"].to_string().contains("restore the file"), "{status}");
        status["links"][0]["last_error"].as_str().map(str::to_owned)
    });
    assert!(error.contains("restore it") && error.contains("new join link"), "{error}");
    studio.terminate().unwrap();

    // With a new link it is a studio like any other, whose keys are another's for a day.
    let studio = start().join(relay.join_link()).start().unwrap();
    studio.wait_links(1);
    wait_until("its feed is refused", PATIENCE, || {
        studio.status().is_ok_and(|status| status["alarms"].to_string().contains("rotate it"))
    });
    studio.json(&["feed", "rotate", "camera"]);
    let key = wait_for("a new key", PATIENCE, || {
        let key = studio.feed("camera")?["publish"][0]["key"].as_str()?.to_owned();
        (key != studio.key("camera")).then_some(key)
    });
    OwnClient::ready(&relay.url(&key), Intent::Publish);
}
