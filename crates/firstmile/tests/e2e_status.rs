//! `firstmile status` on running nodes: for people, for programs, and without keys.

use std::sync::Arc;

use backhaul::{Event, Hello, Session, VERSION};
use firstmile::control::Control;
use firstmile::identity::Identity;
use firstmile::join::JoinLink;
use firstmile::quic::Dialer;
use testkit::client::{publish_clip, rtmpdump_play};
use testkit::{Node, PATIENCE, Value, tempdir, wait_until};

const FIRSTMILE: &str = env!("CARGO_BIN_EXE_firstmile");

/// What `firstmile status` prints for a person.
#[track_caller]
fn text(node: &Node) -> String {
    let (code, stdout, stderr) = node.command(&["status"]).unwrap();
    assert_eq!(code, Some(0), "{stderr}");
    assert!(!stdout.contains('\x1b'), "colour without a terminal: {stdout:?}");
    for line in stdout.lines() {
        assert!(line.chars().count() <= 100, "{line}");
    }
    stdout
}

#[test]
fn what_the_dashboard_shows_is_printed() {
    let relay = Node::relay(FIRSTMILE).start().unwrap();
    let studio = Node::studio(FIRSTMILE).join(relay.join_link()).start().unwrap();
    studio.wait_links(1);
    let key = studio.key("camera");
    let _encoder = publish_clip(&relay.url(&key));
    let mut player = rtmpdump_play(&studio.url("camera"));
    player.wait_video(60, PATIENCE);
    studio.json(&["feed", "add", "roof"]);
    studio.json(&["feed", "pause", "roof"]);

    let said = text(&studio);
    assert!(said.starts_with("studio "), "{said}");
    let camera = said.lines().find(|line| line.starts_with("camera ")).unwrap();
    // Weak where the machine that runs the test is busy.
    assert!(camera.contains(" live ") || camera.contains(" weak "), "{said}");
    for word in ["H.264+AAC", "b/s", " 1"] {
        assert!(camera.contains(word), "{word}: {said}");
    }
    assert!(said.contains("\n  way: on air 0:") && said.contains("by 127.0.0.1"), "{said}");
    assert!(
        said.lines().any(|line| line.starts_with("roof ") && line.contains("paused")),
        "{said}"
    );
    assert!(said.contains("\nRELAY ") && said.contains("connected"), "{said}");

    let said = text(&relay);
    assert!(said.starts_with("relay ") && said.contains("\nSTUDIO "), "{said}");
    assert!(said.contains("which may be away for"), "{said}");

    let secret = key.rsplit_once('-').unwrap().1;
    for node in [&studio, &relay] {
        let (code, stdout, _) = node.command(&["status", "--output", "json"]).unwrap();
        assert_eq!((code, stdout.lines().count()), (Some(0), 1));
        let status: Value = stdout.parse().unwrap();
        let camera = status["feeds"].as_array().unwrap().iter().find(|f| f["name"] == "camera");
        assert_eq!(camera.unwrap()["state"], "live");
        let all = stdout + &text(node);
        let invite = relay.join_link().rsplit('/').next().unwrap();
        assert!(!all.contains(secret) && !all.contains(&node.token()) && !all.contains(invite));
    }
}

#[test]
fn a_paused_encoders_problem_is_told_and_where_nothing_runs_it_is_said() {
    let studio = Node::studio(FIRSTMILE).start().unwrap();
    let key = studio.key("camera");
    let _encoder = publish_clip(&studio.url(&key));
    studio.wait_feed("camera", "live");
    studio.json(&["feed", "limit", "camera", "--for", "1s"]);
    wait_until("the key's end is a problem", PATIENCE, || text(&studio).contains("  ! key: "));
    let said = text(&studio);
    assert!(said.contains("    do: Give the key more time"), "{said}");
    let (code, stdout, _) = studio.command(&["doctor"]).unwrap();
    assert_eq!(code, Some(1));
    assert!(stdout.contains("WRONG  feed camera, key: "), "{stdout}");

    let nowhere = tempdir().unwrap();
    let path = nowhere.path().to_str().unwrap();
    for arguments in [&["status", "--data", path][..], &["status"]] {
        let (code, stdout, stderr) = Node::run(FIRSTMILE, arguments, PATIENCE).unwrap();
        assert_eq!((code, &*stdout), (Some(1), ""), "{arguments:?}: {stderr}");
        assert!(stderr.contains("hint: "), "{stderr}");
    }
    let (code, ..) = Node::run(FIRSTMILE, &["status", "camera"], PATIENCE).unwrap();
    assert_eq!(code, Some(2));
}

/// A studio whose name would turn the line around, or pass for another's.
#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_name_is_text() {
    let relay = Node::relay(FIRSTMILE).start().unwrap();
    let join: JoinLink = relay.join_link().parse().unwrap();
    let dialer = Dialer::new(Arc::new(Identity::generate()));
    let link = dialer.dial(relay.address("secure"), join.pin).await.unwrap();
    let (send, receive) = link.open_control().await.unwrap();
    let session = Session::dial(Hello {
        versions: vec![VERSION],
        instance: [1; 16],
        agent: String::new(),
        name: "\u{202e}<img onerror=x>\u{2066}\u{200b}".into(),
        invite: join.invite.expose().into(),
    });
    let mut control = Control { session, send, receive };
    control.flush().await.unwrap();
    assert!(matches!(control.event().await.unwrap(), Event::Open(_)));
    let hidden = ['\u{202e}', '\u{2066}', '\u{200b}'];
    tokio::task::block_in_place(|| {
        let list = relay.command(&["studios", "list"]).unwrap().1;
        let json = relay.command(&["studios", "list", "--output", "json"]).unwrap().1;
        let status = relay.command(&["status", "--output", "json"]).unwrap().1;
        let doctor = relay.command(&["doctor"]).unwrap().1;
        for said in [&text(&relay), &list, &doctor] {
            assert!(said.contains("\u{fffd}<img onerror=x>"), "{said}");
            assert!(!said.contains(hidden), "{said:?}");
        }
        for said in [json, status] {
            assert!(said.is_ascii() && said.contains("\\u202e<img"), "{said}");
        }
    });
}
