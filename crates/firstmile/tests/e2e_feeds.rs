//! Feeds and their keys on running nodes, several studios and several relays.

use media::Track;
use testkit::client::{assert_refused, publish_clip, rtmpdump_play};
use testkit::{Node, PATIENCE, Value, fixture, tempdir, wait_until};

const FIRSTMILE: &str = env!("CARGO_BIN_EXE_firstmile");

fn relay() -> Node {
    Node::relay(FIRSTMILE).start().unwrap()
}

fn studio_of(relay: &Node) -> Node {
    let studio = Node::studio(FIRSTMILE).join(relay.join_link()).start().unwrap();
    studio.wait_links(1);
    studio
}

/// The stream key in the answer of `feed add` and `feed rotate`.
fn key_in(answer: &Value) -> String {
    answer["publish"][0]["key"].as_str().unwrap_or_else(|| panic!("no key in {answer}")).to_owned()
}

#[track_caller]
fn assert_plays(studio: &Node, feed: &str) {
    let mut player = rtmpdump_play(&studio.url(feed));
    player.wait_video(30, PATIENCE);
}

#[test]
fn adding_rotating_and_removing_takes_effect_at_once() {
    let relay = relay();
    let studio = studio_of(&relay);

    let two = key_in(&studio.json(&["feed", "add", "two"]));
    let mut publisher = publish_clip(&relay.url(&two));
    assert_plays(&studio, "two");
    let list = studio.json(&["feed", "list"]);
    let names: Vec<_> =
        list["feeds"].as_array().unwrap().iter().map(|feed| &feed["name"]).collect();
    assert_eq!(names, ["camera", "two"]);

    let rotated = key_in(&studio.json(&["feed", "rotate", "two"]));
    assert_ne!(rotated, two);
    let finished = publisher.wait(PATIENCE).unwrap();
    assert!(!finished.status.success(), "the old key's encoder was ended");
    assert_refused(&studio.url(&two));
    let mut publisher = publish_clip(&relay.url(&rotated));
    assert_plays(&studio, "two");

    let camera = publish_clip(&relay.url(&studio.key("camera")));
    assert_plays(&studio, "camera");
    let removed = studio.json(&["feed", "remove", "two"]);
    assert_eq!(removed["removed"], "two");
    assert!(!publisher.wait(PATIENCE).unwrap().status.success());
    assert_refused(&studio.url(&rotated));
    assert!(studio.feed("two").is_none());
    // The other feed saw nothing of it.
    assert_plays(&studio, "camera");
    drop(camera);
}

#[test]
fn a_feed_that_exists_or_does_not_is_said() {
    let studio = Node::studio(FIRSTMILE).start().unwrap();
    for arguments in
        [["feed", "add", "camera"], ["feed", "rotate", "nothing"], ["feed", "remove", "nothing"]]
    {
        let (code, stdout, stderr) = studio.command(&arguments).unwrap();
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{arguments:?}: {stderr}");
        assert!(stderr.contains(arguments[2]), "{arguments:?}: {stderr}");
    }
}

#[test]
fn two_studios_on_one_relay_do_not_see_each_other() {
    let relay = relay();
    let (one, two) = (studio_of(&relay), studio_of(&relay));
    assert_ne!(one.key("camera"), two.key("camera"));
    let mut other = rtmpdump_play(&two.url("camera"));
    two.wait_players("camera", 1);

    let _publisher = publish_clip(&relay.url(&one.key("camera")));
    assert_plays(&one, "camera");
    assert_eq!(two.feed("camera").unwrap()["state"], "waiting");
    assert_eq!(other.frames(Track::Video), 0);
    assert!(other.is_running());

    let _publisher = publish_clip(&relay.url(&two.key("camera")));
    other.wait_video(30, PATIENCE);
    assert_eq!(one.feed("camera").unwrap()["state"], "live");
}

#[test]
fn the_newest_publication_wins_across_relays() {
    let (near, far) = (relay(), relay());
    let studio =
        Node::studio(FIRSTMILE).join(near.join_link()).join(far.join_link()).start().unwrap();
    studio.wait_links(2);
    let key = studio.key("camera");
    let mut player = rtmpdump_play(&studio.url("camera"));
    studio.wait_players("camera", 1);

    let mut first = publish_clip(&near.url(&key));
    player.wait_video(30, PATIENCE);
    let before = studio.feed("camera").unwrap()["publication"].clone();

    let mut second = publish_clip(&far.url(&key));
    wait_until("the second takes over", PATIENCE, || {
        studio.feed("camera").is_some_and(|feed| feed["publication"] != before)
    });
    let finished = first.wait(PATIENCE).unwrap();
    assert!(!finished.status.success(), "the near relay ended its encoder");
    let frames = player.frames(Track::Video);
    player.wait_video(frames + 60, PATIENCE);
    assert!(second.is_running());
    player.finish().unwrap();
    let mut tags = fixture::tags(&player.file());
    tags.retain(|tag| tag.track == Track::Video);
    assert!(tags.is_sorted_by_key(|tag| tag.timestamp), "one monotonic clock");
}

#[test]
fn a_studio_rejoins_a_relay_that_was_restarted() {
    let data = tempdir().unwrap();
    let relay = Node::relay(FIRSTMILE).data(data.path()).start().unwrap();
    let studio = studio_of(&relay);
    let url = relay.url(&studio.key("camera"));
    let mut player = rtmpdump_play(&studio.url("camera"));
    studio.wait_players("camera", 1);
    let mut publisher = publish_clip(&url);
    player.wait_video(30, PATIENCE);

    let again = Node::relay(FIRSTMILE)
        .data(data.path())
        .rtmp(&relay.address("rtmp").to_string())
        .secure(&relay.address("secure").to_string());
    relay.kill().unwrap();
    publisher.wait(PATIENCE).unwrap();
    let before = player.frames(Track::Video);
    let _relay = again.start().unwrap();
    // As encoders do: it publishes again at once, before the studio is back.
    let _publisher = publish_clip(&url);
    player.wait_video(before + 60, PATIENCE);
    assert!(player.is_running(), "the player was held");
    studio.wait_links(1);
}
