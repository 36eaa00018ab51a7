//! What a relay keeps while its studio is away.

use std::fs;
use std::path::PathBuf;

use testkit::client::publish_clip;
use testkit::{Node, PATIENCE, Value, tempdir, wait_until};

const FIRSTMILE: &str = env!("CARGO_BIN_EXE_firstmile");

/// Media leaves the memory as soon as the live part has no use for it.
const CONFIG: &str = "[spool]\nmemory = \"1s\"\ndisk = \"64 MiB\"\n";

fn spool(relay: &Node) -> Value {
    relay.status().unwrap()["spool"].clone()
}

fn segments(relay: &Node) -> Vec<PathBuf> {
    let entries = fs::read_dir(relay.data().join("spool")).into_iter().flatten();
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn the_past_of_a_feed_goes_to_the_disk_while_its_studio_is_away() {
    let data = tempdir().unwrap();
    fs::create_dir(data.path().join("spool")).unwrap();
    let left_over = data.path().join("spool/3.segment");
    fs::write(&left_over, "of a relay that was killed").unwrap();
    let relay = Node::relay(FIRSTMILE).data(data.path()).config(CONFIG).start().unwrap();
    let studio = Node::studio(FIRSTMILE).join(relay.join_link()).start().unwrap();
    studio.wait_links(1);
    let url = relay.url(&studio.key("camera"));
    studio.terminate().unwrap();

    let encoder = publish_clip(&url);
    wait_until("tags are on the disk", PATIENCE, || spool(&relay)["disk_bytes"].as_u64() > Some(0));
    let feed = relay.feed("camera").unwrap();
    let at_least = |name: &str, seconds: f64| {
        assert!(feed[name].as_f64() >= Some(seconds), "{name}: {feed}");
    };
    at_least("spooled_s", 4.0);
    at_least("record_survives_s", 60.0);
    assert!(feed["record_survives_s"].as_f64() <= Some(600.0), "{feed}");
    let figures = spool(&relay);
    assert_eq!(figures["disk_limit_bytes"], 64 << 20);
    assert_eq!(figures["dropped_tags"], 0);
    assert_eq!(figures["error"], Value::Null);
    assert!(!left_over.exists(), "its key is gone");
    let written: Vec<_> =
        segments(&relay).iter().flat_map(|file| fs::read(file).unwrap()).collect();
    let name = b"onMetaData";
    assert!(!written.is_empty() && !written.windows(name.len()).any(|bytes| bytes == name));

    // The encoder stops: what it sent stays.
    drop(encoder);
    wait_until("the encoder is gone", PATIENCE, || {
        relay.feed("camera").is_some_and(|feed| feed["publication"].is_null())
    });
    let feed = relay.feed("camera").unwrap();
    assert_eq!(feed["record_survives_s"], Value::Null);
    assert!(feed["spooled_s"].as_f64() >= Some(4.0), "{feed}");
    relay.terminate().unwrap();
    assert_eq!(fs::read_dir(data.path().join("spool")).unwrap().count(), 0);
}

#[test]
fn a_disk_that_cannot_be_written_is_an_alarm_and_the_feed_goes_on() {
    let data = tempdir().unwrap();
    let in_the_way = data.path().join("spool");
    fs::write(&in_the_way, "no directory").unwrap();
    let relay = Node::relay(FIRSTMILE).data(data.path()).config(CONFIG).start().unwrap();
    let studio = Node::studio(FIRSTMILE).join(relay.join_link()).start().unwrap();
    studio.wait_links(1);
    let _encoder = publish_clip(&relay.url(&studio.key("camera")));
    studio.wait_feed("camera", "live");
    wait_until("the alarm", PATIENCE, || {
        let alarms = relay.status().unwrap()["alarms"].to_string();
        alarms.contains("the spool cannot be written to")
    });
    wait_until("tags wait for the disk", PATIENCE, || {
        spool(&relay)["pending_bytes"].as_u64() > Some(0)
    });
    let feed = relay.feed("camera").unwrap();
    assert_eq!(feed["record_survives_s"], 1.0, "what memory holds");
    studio.wait_feed("camera", "live");

    fs::remove_file(&in_the_way).unwrap();
    wait_until("it is written", PATIENCE, || {
        let figures = spool(&relay);
        figures["disk_bytes"].as_u64() > Some(0) && figures["error"].is_null()
    });
    assert_eq!(relay.status().unwrap()["alarms"], Value::Array(vec![]));
    assert_eq!(spool(&relay)["dropped_tags"], 0);
}
