//! Keys that are paused or limited in time, at both doors of the real binary.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use testkit::client::{publish_clip, rtmpdump_play};
use testkit::{Node, PATIENCE, Value, tempdir, wait_until};

const FIRSTMILE: &str = env!("CARGO_BIN_EXE_firstmile");

/// What an encoder reads that is refused, without what differs from run to run.
#[track_caller]
fn refusal(url: &str) -> String {
    let finished = publish_clip(url).wait(PATIENCE).unwrap();
    assert!(!finished.status.success(), "it was let in");
    let line = finished.stderr.lines().find(|line| line.contains("Server error"));
    let line = line.unwrap_or_else(|| panic!("not refused: {}", finished.stderr));
    line[line.find("Server error").unwrap()..].to_owned()
}

fn pair() -> (Node, Node) {
    let relay = Node::relay(FIRSTMILE).config("start_grace = \"1s\"").start().unwrap();
    let studio = Node::studio(FIRSTMILE).join(relay.join_link()).start().unwrap();
    studio.wait_links(1);
    (relay, studio)
}

/// A key like the feed's that nobody has.
fn unknown() -> String {
    format!("camera-{}", "0".repeat(26))
}

fn until(answer: &Value) -> u64 {
    answer["validity"]["until_s"].as_u64().unwrap_or_else(|| panic!("no end in {answer}"))
}

/// Waits until this second has begun.
fn wait_for_second(second: u64) {
    let end = UNIX_EPOCH + Duration::from_secs(second);
    if let Ok(left) = end.duration_since(SystemTime::now()) {
        std::thread::sleep(left);
    }
}

#[test]
fn a_paused_key_is_cut_at_once_and_refused_like_an_unknown_one_until_resumed() {
    let (relay, studio) = pair();
    let key = studio.key("camera");
    for door in [&relay, &studio] {
        let url = door.url(&key);
        let mut publisher = publish_clip(&url);
        studio.wait_feed("camera", "live");
        let answer = studio.json(&["feed", "pause", "camera"]);
        let started = Instant::now();
        assert_eq!(answer["validity"]["paused"], true);
        wait_until("the studio's feed is off air", PATIENCE, || {
            studio.feed("camera").is_some_and(|feed| feed["publication"].is_null())
        });
        let took = started.elapsed();
        assert!(took < Duration::from_secs(1), "{took:?}");
        assert!(!publisher.wait(PATIENCE).unwrap().status.success());
        for node in [&relay, &studio] {
            assert_eq!(refusal(&node.url(&key)), refusal(&node.url(&unknown())));
        }
        let answer = studio.json(&["feed", "resume", "camera"]);
        assert_eq!(answer["validity"]["paused"], false);
        assert_eq!(answer["publish"][0]["key"], key.as_str(), "the key stays");
        let again = publish_clip(&url);
        rtmpdump_play(&studio.url("camera")).wait_video(30, PATIENCE);
        drop(again);
    }
}

#[test]
fn a_paused_key_stays_paused_over_restarts_and_beside_others() {
    let data = tempdir().unwrap();
    let (relay, studio) = pair();
    studio.json(&["feed", "add", "roof"]);
    studio.json(&["feed", "pause", "camera"]);
    let _roof = publish_clip(&relay.url(&studio.key("roof")));
    studio.wait_feed("roof", "live");
    assert_eq!(refusal(&relay.url(&studio.key("camera"))), refusal(&relay.url(&unknown())));

    let alone = Node::studio(FIRSTMILE).data(data.path()).start().unwrap();
    alone.json(&["feed", "pause", "camera"]);
    alone.terminate().unwrap();
    let alone = Node::studio(FIRSTMILE).data(data.path()).start().unwrap();
    assert_eq!(alone.feed("camera").unwrap()["validity"]["paused"], true);
    assert_eq!(refusal(&alone.url(&alone.key("camera"))), refusal(&alone.url(&unknown())));
}

#[test]
fn an_expired_key_is_refused_like_an_unknown_one_and_a_running_show_goes_on() {
    let (relay, studio) = pair();
    let key = studio.key("camera");
    let mut show = publish_clip(&relay.url(&key));
    studio.wait_feed("camera", "live");
    let end = until(&studio.json(&["feed", "limit", "camera", "--for", "2s"]));
    wait_for_second(end + 1);
    for node in [&relay, &studio] {
        assert_eq!(refusal(&node.url(&key)), refusal(&node.url(&unknown())));
    }
    assert!(show.is_running(), "the show was cut");
    let feed = studio.feed("camera").unwrap();
    assert_eq!((&feed["state"], &feed["validity"]["expired"]), (&"live".into(), &true.into()));
    assert_eq!(feed["problems"][0]["place"], "key");
    rtmpdump_play(&studio.url("camera")).wait_video(30, PATIENCE);

    drop(show);
    assert_eq!(refusal(&relay.url(&key)), refusal(&relay.url(&unknown())));
    studio.json(&["feed", "limit", "camera", "--never"]);
    let _again = publish_clip(&relay.url(&key));
    rtmpdump_play(&studio.url("camera")).wait_video(30, PATIENCE);
}

#[test]
fn a_relay_knows_the_end_of_a_key_while_the_studio_is_away_and_after_a_restart() {
    let data = tempdir().unwrap();
    let grace = "start_grace = \"1s\"";
    let relay = Node::relay(FIRSTMILE).data(data.path()).config(grace).start().unwrap();
    let studio = Node::studio(FIRSTMILE).join(relay.join_link()).start().unwrap();
    studio.wait_links(1);
    studio.json(&["feed", "add", "roof"]);
    let (key, other) = (studio.key("camera"), studio.key("roof"));
    let end = until(&studio.json(&["feed", "limit", "camera", "--for", "8s"]));
    // The relay has taken the list when it has written it down.
    wait_until("the relay knows the end", PATIENCE, || {
        let text = std::fs::read_to_string(data.path().join("verifiers.toml")).unwrap_or_default();
        text.contains("end = ")
    });
    studio.kill().unwrap();
    let is_early = SystemTime::now() < UNIX_EPOCH + Duration::from_secs(end - 2);
    if is_early {
        let mut publisher = publish_clip(&relay.url(&key));
        wait_until("the encoder is let in without its studio", PATIENCE, || {
            relay.feed("camera").is_some_and(|feed| feed["state"] == "live")
        });
        assert!(publisher.is_running());
    }
    wait_for_second(end + 1);
    assert_eq!(refusal(&relay.url(&key)), refusal(&relay.url(&unknown())));
    let _roof = publish_clip(&relay.url(&other));
    wait_until("another key is as good as before", PATIENCE, || {
        relay.feed("roof").is_some_and(|feed| feed["state"] == "live")
    });
    relay.kill().unwrap();
    let relay = Node::relay(FIRSTMILE).data(data.path()).config(grace).start().unwrap();
    assert_eq!(refusal(&relay.url(&key)), refusal(&relay.url(&unknown())));
}

#[test]
fn a_password_is_paused_and_limited_with_its_key() {
    let (relay, studio) = pair();
    let auth = studio.json(&["feed", "auth", "camera", "on"])["auth"].clone();
    let (user, password) = (auth["user"].as_str().unwrap(), auth["password"].as_str().unwrap());
    let url = |node: &Node| format!("rtmp://{user}:{password}@{}/auth/x", node.address("rtmp"));
    let is_let_in = |node: &Node| {
        let mut publisher = publish_clip(&url(node));
        let mut is_live = false;
        wait_until("the encoder is let in or goes", PATIENCE, || {
            is_live = studio.feed("camera").is_some_and(|feed| feed["state"] == "live");
            is_live || !publisher.is_running()
        });
        drop(publisher);
        wait_until("it is gone", PATIENCE, || {
            studio.feed("camera").is_some_and(|feed| feed["state"] != "live")
        });
        is_live
    };
    // The relay learns of the user after the command has ended.
    wait_until("the relay knows the user", PATIENCE, || is_let_in(&relay));
    assert!(is_let_in(&studio));
    studio.json(&["feed", "pause", "camera"]);
    assert!(!is_let_in(&relay) && !is_let_in(&studio));
    studio.json(&["feed", "resume", "camera"]);
    wait_until("the relay knows the user again", PATIENCE, || is_let_in(&relay));
    let end = until(&studio.json(&["feed", "limit", "camera", "--for", "1s"]));
    wait_for_second(end + 1);
    assert!(!is_let_in(&relay) && !is_let_in(&studio));
}
