//! The link between studio and relay through outages, changes of address and restarts.

use std::thread;
use std::time::{Duration, Instant};

use rtmp::session::Intent;
use rtmp::session::client::Event;
use testkit::live::{self, Live};
use testkit::{Node, OwnClient, PATIENCE, UdpProxy, tempdir, wait_for, wait_until};

const FIRSTMILE: &str = env!("CARGO_BIN_EXE_firstmile");
/// One way, so that a round trip takes 60 ms.
const DELAY: Duration = Duration::from_millis(30);
/// Between the network's return and media at a player: a fraction of it on an idle machine.
const BACK: Duration = Duration::from_secs(2);
/// Bytes of a picture: 4 Mb/s.
const PICTURE: usize = 20_000;

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

/// Reads pictures until the player has waited for the next one for some time, and returns the last.
fn read_all(player: &mut OwnClient, wait: Duration) -> Option<u32> {
    let mut last = None;
    while let Ok(event) = player.event(wait) {
        if let Event::Tag(tag) = event.expect("the player stays") {
            last = live::number(&tag).or(last);
        }
    }
    last
}

/// Sends media through a network, harms it, and returns how long after `harm` media was back.
fn survive(harm: impl FnOnce(&UdpProxy)) -> (Duration, Node) {
    let relay = Node::relay(FIRSTMILE).start().unwrap();
    let network = UdpProxy::start(relay.address("secure"), DELAY).unwrap();
    let studio =
        Node::studio(FIRSTMILE).join(&relay.join_link_by(network.address())).start().unwrap();
    studio.wait_links(1);
    let mut player = OwnClient::ready(&studio.url("camera"), Intent::Play);
    let encoder = OwnClient::ready(&relay.url(&studio.key("camera")), Intent::Publish);
    let _live = Live::pictures(encoder, PICTURE);
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
    encoder.send(&live::header()).unwrap();
    encoder.send(&live::picture(0, PICTURE)).unwrap();
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
    encoder.send(&live::header()).unwrap();
    encoder.send(&live::picture(0, PICTURE)).unwrap();
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
    let studio =
        Node::studio(FIRSTMILE).join(&relay.join_link_by(network.address())).start().unwrap();
    lasting.wait_known("camera", true);
    let mut player = OwnClient::ready(&studio.url("camera"), Intent::Play);
    let mut encoder = OwnClient::ready(&relay.url(&studio.key("camera")), Intent::Publish);
    encoder.send(&live::header()).unwrap();
    for number in 0..100 {
        encoder.send(&live::picture(number, PICTURE)).unwrap();
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
