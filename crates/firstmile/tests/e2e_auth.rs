//! Users and passwords (`authmod=adobe`): real encoders at both doors of the real binary.

use std::net::SocketAddr;
use std::path::Path;

use rtmp::adobe;
use rtmp::session::Intent;
use rtmp::session::client::{Config, Event};
use testkit::client::{Player, Publisher, gst_publish, publish_clip, rtmpdump_play};
use testkit::{Node, OwnClient, PATIENCE, Value, fixture};

const FIRSTMILE: &str = env!("CARGO_BIN_EXE_firstmile");

/// A relay that knows its studio's users, and soon refuses others.
fn relay_and_studio() -> (Node, Node) {
    let relay = Node::relay(FIRSTMILE)
        .config("start_grace = \"1s\"")
        .arg("--log")
        .arg("trace")
        .start()
        .unwrap();
    let studio =
        Node::studio(FIRSTMILE).join(relay.join_link()).arg("--log").arg("trace").start().unwrap();
    studio.wait_links(1);
    (relay, studio)
}

/// User and password.
type Login = (String, String);

/// What `feed auth NAME on` or `feed rotate NAME` answered.
fn login_in(answer: &Value) -> Login {
    let text = |name: &str| {
        let text = answer["auth"][name].as_str();
        text.unwrap_or_else(|| panic!("no {name} in {answer}")).to_owned()
    };
    assert!(text("server").ends_with("/auth"), "{answer}");
    (text("user"), text("password"))
}

fn switch(studio: &Node, switch: &str) -> Value {
    studio.json(&["feed", "auth", "camera", switch])
}

/// The URL that an encoder with user and password makes of its fields.
fn url(node: &Node, (user, password): &Login, name: &str) -> String {
    format!("rtmp://{user}:{password}@{}/auth/{name}", node.address("rtmp"))
}

#[track_caller]
fn assert_plays(studio: &Node) {
    let mut player: Player = rtmpdump_play(&studio.url("camera"));
    player.wait_video(15, PATIENCE);
}

#[track_caller]
fn assert_refused(mut publisher: Publisher) {
    let finished = publisher.wait(PATIENCE).unwrap();
    assert!(!finished.status.success(), "it was let in");
    let text = finished.stderr;
    // ffmpeg's words, and GStreamer's.
    let is_told = text.contains("Incorrect username/password") || text.contains("authfailed");
    assert!(is_told, "{text}");
}

/// What our own client was told on one connection, byte by byte, and what it made of it.
fn connect(door: SocketAddr, app: &str, query: &str) -> (Vec<u8>, Option<Event>) {
    let mut config =
        Config::new(Intent::Publish, format!("rtmp://{door}/{app}/camera").parse().unwrap());
    config.authentication = query.to_owned();
    let mut client = OwnClient::start(config).unwrap();
    let event = client.event(PATIENCE).expect("an answer");
    (client.received().to_vec(), event)
}

/// The description of a refusal.
#[track_caller]
fn refusal((_, event): &(Vec<u8>, Option<Event>)) -> &str {
    match event {
        Some(Event::Rejected { code, description }) => {
            assert_eq!(code, "NetConnection.Connect.Rejected");
            description
        }
        other => panic!("not refused: {other:?}"),
    }
}

/// The last step of a user: the query that answers a fresh challenge.
fn answer(door: SocketAddr, app: &str, (user, password): &Login) -> String {
    let first = connect(door, app, &format!("authmod=adobe&user={user}"));
    adobe::reply(refusal(&first), user, password, "0badcafe").unwrap()
}

#[test]
fn real_encoders_publish_with_user_and_password() {
    let (relay, studio) = relay_and_studio();
    let login = login_in(&switch(&studio, "on"));
    assert_eq!(login_in(&switch(&studio, "on")), login, "on again changes nothing");
    let gst = |url: &str| gst_publish(&fixture::clip(), url);
    for (node, door) in [(&studio, "studio"), (&relay, "relay")] {
        for (encoder, publish) in [("ffmpeg", &publish_clip as &dyn Fn(&str) -> _), ("gst", &gst)] {
            for name in ["camera", "anything"] {
                let mut publisher: Publisher = publish(&url(node, &login, name));
                assert_plays(&studio);
                assert!(publisher.is_running(), "{encoder} at the {door}");
            }
            let wrong = (login.0.clone(), "0".repeat(26));
            assert_refused(publish(&url(node, &wrong, "camera")));
        }
        // The stream key is good as before, in any other app.
        let _publisher = publish_clip(&node.url(&studio.key("camera")));
        assert_plays(&studio);
        // In this one it is not asked for.
        let by_key = format!("rtmp://{}/auth/{}", node.address("rtmp"), studio.key("camera"));
        let mut refused = publish_clip(&by_key);
        assert!(!refused.wait(PATIENCE).unwrap().status.success(), "{door}");
    }
    let status = studio.feed("camera").unwrap();
    assert_eq!(login_in(&status), login);
    for node in [&relay, &studio] {
        let log = node.log();
        assert!(log.contains("publishing"), "it logs");
        let key = studio.key("camera");
        let verifier = adobe::verifier(&login.0, &firstmile::login::salt(&login.0), &login.1);
        let hex: String = verifier.iter().map(|byte| format!("{byte:02x}")).collect();
        let secrets = [key.rsplit_once('-').unwrap().1, &login.0, &login.1, &hex];
        for secret in secrets {
            assert!(!log.contains(secret), "{secret} was logged");
        }
        assert!(!log.contains(&format!("{verifier:?}")), "the verifier was logged");
    }
}

#[test]
fn rotating_and_switching_off_end_what_came_with_the_password() {
    let (relay, studio) = relay_and_studio();
    let mut before = login_in(&switch(&studio, "on"));
    for node in [&relay, &studio] {
        let mut publisher = publish_clip(&url(node, &before, "camera"));
        assert_plays(&studio);
        let rotated = login_in(&studio.json(&["feed", "rotate", "camera"]));
        assert!(rotated.0 != before.0 && rotated.1 != before.1);
        assert!(!publisher.wait(PATIENCE).unwrap().status.success(), "the old one was ended");
        assert_refused(publish_clip(&url(&studio, &before, "camera")));

        let mut publisher = publish_clip(&url(node, &rotated, "camera"));
        assert_plays(&studio);
        assert!(switch(&studio, "off").get("auth").is_none());
        assert!(!publisher.wait(PATIENCE).unwrap().status.success(), "it was ended");
        assert_refused(publish_clip(&url(&studio, &rotated, "camera")));

        // Who has the stream key is not touched by it.
        switch(&studio, "on");
        let mut publisher = publish_clip(&node.url(&rekey(&studio)));
        assert_plays(&studio);
        switch(&studio, "off");
        assert_plays(&studio);
        assert!(publisher.is_running());
        before = login_in(&switch(&studio, "on"));
    }
}

/// The stream key as it is now.
fn rekey(studio: &Node) -> String {
    let feeds = studio.json(&["feed", "list"]);
    feeds["feeds"][0]["publish"][0]["key"].as_str().unwrap().to_owned()
}

#[test]
fn a_challenge_is_answered_once_and_by_its_user() {
    let studio = Node::studio(FIRSTMILE).start().unwrap();
    let login = login_in(&switch(&studio, "on"));
    let door = studio.address("rtmp");
    let need = connect(door, "auth", "");
    assert!(refusal(&need).contains("code=403 need auth"));
    // In another app it is the client who begins.
    for app in ["auth", "live"] {
        let query = answer(door, app, &login);
        let (_, event) = connect(door, app, &query);
        assert_eq!(event, Some(Event::Ready), "{app}");
        let again = connect(door, app, &query);
        assert!(refusal(&again).ends_with("?reason=authfailed"), "{app}: replayed");
    }
    // Another feed's user cannot answer this one's challenge.
    studio.json(&["feed", "add", "roof"]);
    let other = login_in(&studio.json(&["feed", "auth", "roof", "on"]));
    let swapped = answer(door, "auth", &login).replace(&login.0, &other.0);
    assert!(refusal(&connect(door, "auth", &swapped)).ends_with("?reason=authfailed"));
    let invented = answer(door, "auth", &login).replace("opaque=", "opaque=0");
    assert!(refusal(&connect(door, "auth", &invented)).ends_with("?reason=authfailed"));
}

#[test]
fn unknown_users_and_wrong_passwords_get_the_same_bytes() {
    let studio = Node::studio(FIRSTMILE).start().unwrap();
    let (user, password) = login_in(&switch(&studio, "on"));
    let door = studio.address("rtmp");
    let unknown = format!("{}0", &user[..user.len() - 1]);
    let unknown = if unknown == user { format!("{}1", &user[..user.len() - 1]) } else { unknown };
    let mut answers = Vec::new();
    for (user, password) in [
        (&user, &"0".repeat(26)),
        (&unknown, &password),
        (&unknown, &"0".repeat(26)),
        (&"nobody".to_owned(), &password),
        (&"x".repeat(200), &password),
    ] {
        let (first, _) = connect(door, "auth", &format!("authmod=adobe&user={user}"));
        // As long as a real one's, however long the user is, and below what FFmpeg reads.
        assert!(first.len() < 400, "{user}: {}", first.len());
        let query = answer(door, "auth", &(user.clone(), password.clone()));
        let answer = connect(door, "auth", &query);
        assert!(refusal(&answer).ends_with("?reason=authfailed"), "{user}");
        answers.push(answer.0);
    }
    for answer in &answers {
        assert_eq!(answer, &answers[0]);
    }
    // A user of the same length gets a text of the same length, and the same salt every time.
    let text = |user: &str| {
        let asked = connect(door, "auth", &format!("authmod=adobe&user={user}"));
        refusal(&asked).to_owned()
    };
    assert_eq!(text(&user).len(), text(&unknown).len());
    let salt = |text: String| text.split("&salt=").nth(1).unwrap()[..16].to_owned();
    assert_eq!(salt(text(&unknown)), salt(text(&unknown)));
    assert_ne!(salt(text(&unknown)), salt(text(&user)));
}

#[test]
fn a_password_does_not_play() {
    let studio = Node::studio(FIRSTMILE).start().unwrap();
    let login = login_in(&switch(&studio, "on"));
    let door = studio.address("rtmp");
    let query = answer(door, "auth", &login);
    let url = format!("rtmp://{door}/auth?{query}/camera");
    let mut player = rtmpdump_play(&url);
    let finished = player.wait(PATIENCE).unwrap();
    assert!(!finished.status.success(), "it played");
}

#[test]
fn two_studios_users_do_not_meet() {
    let (relay, one) = relay_and_studio();
    let two = Node::studio(FIRSTMILE).join(relay.join_link()).start().unwrap();
    two.wait_links(1);
    let (a, b) = (login_in(&switch(&one, "on")), login_in(&switch(&two, "on")));
    assert_ne!(a.0, b.0, "the same feed's name, another user");
    let _publisher = publish_clip(&url(&relay, &a, "camera"));
    assert_plays(&one);
    assert_eq!(two.feed("camera").unwrap()["state"], "waiting");
    let _other = publish_clip(&url(&relay, &b, "camera"));
    assert_plays(&two);
    assert_refused(publish_clip(&url(&two, &a, "camera")));
}

#[test]
fn a_stopped_studio_is_switched_too() {
    let dir = testkit::tempdir().unwrap();
    let run = |arguments: &[&str], data: &Path| {
        let data = data.to_str().unwrap();
        let arguments = [arguments, &["--data", data]].concat();
        let (code, stdout, stderr) = Node::run(FIRSTMILE, &arguments, PATIENCE).unwrap();
        assert_eq!(code, Some(0), "{stderr}");
        stdout
    };
    let studio = Node::studio(FIRSTMILE).data(dir.path()).start().unwrap();
    studio.terminate().unwrap();
    let on = run(&["feed", "auth", "camera", "on", "--output", "json"], dir.path());
    let login = login_in(&serde_json::from_str(&on).unwrap());
    let studio = Node::studio(FIRSTMILE).data(dir.path()).start().unwrap();
    let _publisher = publish_clip(&url(&studio, &login, "camera"));
    assert_plays(&studio);
}
