//! What the live picture had to skip is in the recording all the same.

use std::path::Path;
use std::thread;
use std::time::Duration;

use media::{Tag, Track};
use rtmp::session::Intent;
use serde_json::Value;
use testkit::live::Live;
use testkit::stamped::{Ledger, Shape, Source, Stamp};
use testkit::{Node, OwnClient, PATIENCE, UdpProxy, tempdir, wait_for, wait_until};

const FIRSTMILE: &str = env!("CARGO_BIN_EXE_firstmile");
const DELAY: Duration = Duration::from_millis(20);
/// Frames in a row that may die with a relay.
const MOST_GONE: usize = 200;
const SHAPE: Shape = Shape { kbps: 1_500, gop: 1, audio: 350 };

/// An encoder of frames that can be counted.
fn on_air(url: &str) -> Live {
    let mut source = Source::new(SHAPE);
    let next = move |_| (source.due(), source.make(0));
    Live::start(OwnClient::ready(url, Intent::Publish), &Source::headers(), next)
}

fn studio(data: &Path) -> testkit::Launch {
    Node::studio(FIRSTMILE).data(data).config("[record]\nall = true\nformat = \"journal\"\n")
}

fn recordings(studio: &Node) -> Vec<Value> {
    studio.json(&["record", "list"])["recordings"].as_array().expect("a list").clone()
}

#[track_caller]
fn wait_complete(studio: &Node, count: usize) -> Vec<Value> {
    let is_complete = |recording: &Value| recording["complete"] == true;
    wait_for("complete recordings", PATIENCE, || {
        Some(recordings(studio)).filter(|all| all.len() == count && all.iter().all(is_complete))
    })
}

/// The frames of a recording, and whether they are in order.
fn export(studio: &Node, recording: &Value, dir: &Path) -> Ledger {
    let publication = recording["publication"].as_str().expect("a name");
    let file = dir.join(format!("{publication}.flv"));
    let exported = studio.json(&["record", "export", publication, file.to_str().expect("a path")]);
    assert!(exported["open_hole"].is_null(), "{exported}");
    let reader = media::flv::Reader::new(std::fs::read(&file).unwrap().into()).unwrap();
    let tags: Vec<Tag> = reader.collect::<Result<_, _>>().unwrap();
    let mut ledger = Ledger::default();
    let frames: Vec<_> = tags.iter().filter(|tag| Stamp::of(tag).is_some()).collect();
    frames.iter().for_each(|tag| ledger.enter(Stamp::of(tag).expect("it has one")));
    if missing(&ledger) == 0 {
        // The end of a track may be gone.
        let mut made = Source::new(SHAPE);
        let mut is_next = |tag: &Tag| (0..=MOST_GONE).any(|_| tag.body == made.make(0).body);
        assert!(frames.iter().all(|tag| is_next(tag)), "bit for bit, in the order of the encoder");
    }
    assert_eq!((ledger.doubled, ledger.reordered), (0, 0));
    ledger
}

fn frames(ledger: &Ledger) -> u64 {
    ledger.count(Track::Audio) + ledger.count(Track::Video)
}

fn missing(ledger: &Ledger) -> u64 {
    ledger.missing(Track::Audio) + ledger.missing(Track::Video)
}

#[test]
fn an_outage_leaves_no_hole_in_the_recording() {
    let dir = tempdir().unwrap();
    let relay = Node::relay(FIRSTMILE).start().unwrap();
    let network = UdpProxy::start(relay.address("secure"), DELAY).unwrap();
    let studio =
        studio(&dir.path().join("s")).join(&relay.join_link_by(network.address())).start().unwrap();
    studio.wait_links(1);
    let mut player = OwnClient::ready(&studio.url("camera"), Intent::Play);
    let played = thread::spawn(move || {
        let mut ledger = Ledger::default();
        while let Ok(Some(event)) = player.event(PATIENCE) {
            if let rtmp::session::client::Event::Tag(tag) = event
                && let Some(stamp) = Stamp::of(&tag)
            {
                ledger.enter(stamp);
                if stamp.number > 450 {
                    return ledger;
                }
            }
        }
        ledger
    });
    let encoder = on_air(&relay.url(&studio.key("camera")));
    studio.wait_feed("camera", "live");
    thread::sleep(Duration::from_secs(2));
    network.pass(false, false);
    thread::sleep(Duration::from_secs(8));
    network.pass(true, true);
    let played = played.join().unwrap();
    assert!(missing(&played) > 0, "the picture went on where it was live");
    assert_eq!((played.doubled, played.reordered), (0, 0));
    wait_until("holes are filled while the feed goes on", PATIENCE, || {
        let recording = recordings(&studio).remove(0);
        recording["missing"] == 0 && recording["complete"] == false
    });
    let sent = encoder.stop();
    let recording = wait_complete(&studio, 1).remove(0);
    assert_eq!(recording["gone"], 0, "{recording}");
    let recorded = export(&studio, &recording, dir.path());
    assert_eq!((frames(&recorded), missing(&recorded)), (sent.into(), 0));
}

/// One publication is cut in two by the studio's death, another comes and goes meanwhile.
#[test]
fn what_a_studio_missed_while_it_was_dead_is_fetched() {
    let dir = tempdir().unwrap();
    let data = dir.path().join("s");
    let relay = Node::relay(FIRSTMILE).start().unwrap();
    let first = studio(&data).join(relay.join_link()).start().unwrap();
    first.wait_links(1);
    let key = first.key("camera");
    let encoder = on_air(&relay.url(&key));
    wait_until("it is recorded", PATIENCE, || {
        recordings(&first).first().is_some_and(|it| it["tags"].as_u64() > Some(100))
    });
    first.kill().unwrap();
    thread::sleep(Duration::from_secs(2));
    let mut sent = vec![encoder.stop()];
    relay.wait_feed("camera", "reconnecting");
    let encoder = on_air(&relay.url(&key));
    thread::sleep(Duration::from_secs(2));
    sent.push(encoder.stop());
    let encoder = on_air(&relay.url(&key));
    thread::sleep(Duration::from_secs(1));

    let again = studio(&data).start().unwrap();
    again.wait_feed("camera", "live");
    thread::sleep(Duration::from_secs(1));
    sent.push(encoder.stop());
    let recordings = wait_complete(&again, 3);
    for (recording, sent) in recordings.iter().zip(sent) {
        assert_eq!(recording["gone"], 0, "{recording}");
        let recorded = export(&again, recording, dir.path());
        assert_eq!((frames(&recorded), missing(&recorded)), (sent.into(), 0), "{recording}");
    }
}

/// A relay that dies takes with it what the studio did not have: the recording says so.
#[test]
fn what_died_with_the_relay_is_marked() {
    let dir = tempdir().unwrap();
    let (relay_data, relay) = {
        let data = dir.path().join("r");
        let relay = Node::relay(FIRSTMILE).data(&data).start().unwrap();
        (data, relay)
    };
    let [rtmp, secure] = ["rtmp", "secure"].map(|door| relay.address(door).to_string());
    let network = UdpProxy::start(relay.address("secure"), DELAY).unwrap();
    let studio =
        studio(&dir.path().join("s")).join(&relay.join_link_by(network.address())).start().unwrap();
    studio.wait_links(1);
    let encoder = on_air(&relay.url(&studio.key("camera")));
    wait_until("it is recorded", PATIENCE, || {
        recordings(&studio).first().is_some_and(|it| it["tags"].as_u64() > Some(100))
    });
    network.pass(false, false);
    thread::sleep(Duration::from_secs(4));
    network.pass(true, true);
    // The picture is back, and what was skipped has not been asked for yet.
    studio.wait_feed("camera", "live");
    relay.kill().unwrap();
    encoder.wait_lost();
    let _relay =
        Node::relay(FIRSTMILE).data(&relay_data).rtmp(&rtmp).secure(&secure).start().unwrap();
    let recording = wait_complete(&studio, 1).remove(0);
    let recorded = export(&studio, &recording, dir.path());
    let gone = recording["gone"].as_u64().expect("a number");
    assert!(missing(&recorded) <= gone, "{recording}");
    assert!(frames(&recorded) > 100);
}

/// Without a recorder nothing is asked for.
#[test]
fn what_nobody_records_is_not_fetched() {
    let relay = Node::relay(FIRSTMILE).start().unwrap();
    let network = UdpProxy::start(relay.address("secure"), DELAY).unwrap();
    let studio =
        Node::studio(FIRSTMILE).join(&relay.join_link_by(network.address())).start().unwrap();
    studio.wait_links(1);
    let encoder = on_air(&relay.url(&studio.key("camera")));
    studio.wait_feed("camera", "live");
    network.pass(false, false);
    thread::sleep(Duration::from_secs(8));
    network.pass(true, true);
    let live_again = wait_for("the picture", PATIENCE, || {
        studio.feed("camera").filter(|feed| feed["state"] == "live")
    });
    let relay_bytes = || relay.feed("camera").map_or(0, |feed| feed["bytes"].as_u64().unwrap_or(0));
    thread::sleep(Duration::from_secs(3));
    let (got, sent) = (studio.feed("camera").unwrap()["bytes"].as_u64().unwrap(), relay_bytes());
    assert!(got < sent, "{got} of {sent} bytes; {live_again}");
    let links = studio.status().unwrap()["links"].clone();
    let received = links[0]["bytes_in"].as_u64().unwrap();
    // Of eight seconds at 1.5 Mb/s it lacks at least five.
    assert!(received + 900_000 < sent + sent / 10, "{received} of {sent}: {links}");
    encoder.stop();
}
