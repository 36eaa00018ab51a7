//! Relays that are joined and left, studios that are cut off, invites that are revoked: while all run.

use testkit::client::{assert_refused, publish_clip, rtmpdump_play};
use testkit::{Node, PATIENCE, Value, http, wait_for, wait_until};

const FIRSTMILE: &str = env!("CARGO_BIN_EXE_firstmile");

fn relay() -> Node {
    Node::relay(FIRSTMILE).config("start_grace = \"1s\"").start().unwrap()
}

fn studio_of(relay: &Node) -> Node {
    let studio = Node::studio(FIRSTMILE).join(relay.join_link()).start().unwrap();
    studio.wait_links(1);
    studio
}

/// A call of the API with the token: status and JSON.
#[track_caller]
fn call(node: &Node, method: &str, path: &str, body: &str) -> (u16, Value) {
    let (address, token) = (node.address("http"), node.token());
    let (status, text) = http::call(address, method, path, Some(&token), body).unwrap();
    (status, serde_json_or_null(&text))
}

fn serde_json_or_null(text: &str) -> Value {
    text.parse().unwrap_or(Value::Null)
}

fn public_key(node: &Node) -> String {
    node.status().unwrap()["public_key"].as_str().unwrap().to_owned()
}

#[test]
fn a_relay_is_joined_and_left_while_the_studio_runs() {
    let (near, far) = (relay(), relay());
    let studio = studio_of(&near);
    let show = publish_clip(&near.url(&studio.key("camera")));
    studio.wait_feed("camera", "live");

    let link = format!(r#"{{"link":" {} \n"}}"#, far.join_link());
    let (status, joined) = call(&studio, "POST", "/api/v1/relays", &link);
    assert_eq!((status, &joined["key"]), (201, &public_key(&far).into()), "{joined}");
    studio.wait_links(2);
    let places = studio.json(&["feed", "list"])["feeds"][0]["publish"].clone();
    assert_eq!(places.as_array().unwrap().len(), 3, "{places}");
    let name = studio.json(&["feed", "add", "roof"]);
    let roof = name["publish"][0]["key"].as_str().unwrap().to_owned();
    let mut second = publish_clip(&far.url(&roof));
    rtmpdump_play(&studio.url("roof")).wait_video(30, PATIENCE);

    // The same link again changes nothing, and cuts nobody.
    assert_eq!(call(&studio, "POST", "/api/v1/relays", &link).0, 201);
    assert_eq!(call(&studio, "GET", "/api/v1/relays", "").1.as_array().unwrap().len(), 2);
    assert!(second.is_running());

    let path = format!("/api/v1/relays/{}", public_key(&far));
    assert_eq!(call(&studio, "DELETE", &path, "").0, 204);
    studio.wait_links(1);
    assert!(!second.wait(PATIENCE).unwrap().status.success(), "the relay forgot the key");
    assert_refused(&far.url(&roof));
    assert_eq!(call(&studio, "DELETE", &path, "").0, 404);
    // The other relay saw nothing of it.
    rtmpdump_play(&studio.url("camera")).wait_video(30, PATIENCE);
    drop(show);

    for wrong in [r#"{"link":"firstmile://x"}"#, r#"{"link":""}"#, "{}"] {
        let (status, answer) = call(&studio, "POST", "/api/v1/relays", wrong);
        assert_eq!(status, 400, "{answer}");
    }
    let (status, answer) = call(&far, "POST", "/api/v1/relays", &link);
    assert_eq!(status, 421, "{answer}");
}

#[test]
fn what_was_joined_and_left_is_so_after_a_restart() {
    let data = testkit::tempdir().unwrap();
    let (near, far) = (relay(), relay());
    let studio = Node::studio(FIRSTMILE).data(data.path()).start().unwrap();
    for relay in [&near, &far] {
        let link = format!(r#"{{"link":"{}"}}"#, relay.join_link());
        assert_eq!(call(&studio, "POST", "/api/v1/relays", &link).0, 201);
    }
    studio.wait_links(2);
    let listed = studio.json(&["relays", "list"]);
    assert_eq!(listed["relays"][1]["link"]["state"], "up", "{listed}");
    studio.json(&["relays", "leave", &public_key(&near)[..8]]);
    studio.terminate().unwrap();
    let studio = Node::studio(FIRSTMILE).data(data.path()).start().unwrap();
    studio.wait_links(1);
    assert_eq!(call(&studio, "GET", "/api/v1/relays", "").1[0]["key"], public_key(&far).as_str());
}

#[test]
fn a_studio_that_is_cut_off_comes_back_by_a_new_invite_only_and_others_are_unharmed() {
    let relay = relay();
    let (bad, good) = (studio_of(&relay), studio_of(&relay));
    let mut evil = publish_clip(&relay.url(&bad.key("camera")));
    let mut fine = publish_clip(&relay.url(&good.key("camera")));
    bad.wait_feed("camera", "live");
    let mut player = rtmpdump_play(&good.url("camera"));
    player.wait_video(30, PATIENCE);

    let key = public_key(&bad);
    let removed = relay.json(&["studios", "remove", &key[..8]]);
    assert_eq!(removed["state"], "removed", "{removed}");
    wait_until("its encoder is closed", PATIENCE, || !evil.is_running());
    let refused = |why: &str| {
        wait_for(&format!("{why:?} at the studio"), PATIENCE, || {
            let link = bad.status().ok()?["links"][0].clone();
            let said = link["last_error"].as_str().unwrap_or_default().contains(why);
            (said && link["state"] == "refused").then_some(())
        });
    };
    refused("has cut this studio off");
    assert_refused(&relay.url(&bad.key("camera")));
    assert!(relay.feed("camera").is_some(), "the other's feed stays");

    // The link of the relay's start is still good for others, and not for this one.
    let link = format!(r#"{{"link":"{}"}}"#, relay.join_link());
    assert_eq!(call(&bad, "POST", "/api/v1/relays", &link).0, 201);
    refused("has cut this studio off");
    let third = studio_of(&relay);
    drop(third);

    let invite = relay.json(&["invite", "--uses", "1"]);
    bad.json(&["relays", "join", invite["join_link"].as_str().unwrap()]);
    bad.wait_links(1);
    let _again = publish_clip(&relay.url(&bad.key("camera")));
    rtmpdump_play(&bad.url("camera")).wait_video(30, PATIENCE);

    assert!(fine.is_running() && player.is_running(), "the other was harmed");
    let frames = player.frames(media::Track::Video);
    player.wait_video(frames + 30, PATIENCE);
}

#[test]
fn cutting_off_is_undone_and_survives_a_restart() {
    let data = testkit::tempdir().unwrap();
    let relay = Node::relay(FIRSTMILE).data(data.path()).start().unwrap();
    let studio = studio_of(&relay);
    let key = public_key(&studio);
    let path = format!("/api/v1/studios/{key}/admission");
    assert_eq!(call(&relay, "PUT", &path, r#"{"on":false}"#).0, 200);
    let secure = relay.address("secure").to_string();
    relay.terminate().unwrap();
    let relay = Node::relay(FIRSTMILE).data(data.path()).secure(&secure).start().unwrap();
    wait_until("it is refused", PATIENCE, || {
        studio.status().is_ok_and(|status| status["links"][0]["state"] == "refused")
    });
    assert_eq!(relay.json(&["studios", "list"])["studios"][0]["state"], "removed");
    let (status, restored) = call(&relay, "PUT", &path, r#"{"on":true}"#);
    assert_eq!((status, &restored["state"]), (200, &"away".into()));
    studio.wait_links(1);
    let listed = call(&relay, "GET", "/api/v1/studios", "").1;
    assert_eq!(listed[0]["state"], "connected", "{listed}");
    assert_eq!(listed[0]["feeds"], 1, "{listed}");
    assert_eq!(call(&relay, "PUT", "/api/v1/studios/nobody/admission", r#"{"on":false}"#).0, 404);
}

#[test]
fn an_open_relay_keeps_out_who_was_cut_off() {
    let relay = Node::relay(FIRSTMILE).arg("--open").start().unwrap();
    let studio = studio_of(&relay);
    let other = studio_of(&relay);
    relay.json(&["studios", "remove", &public_key(&studio)]);
    wait_until("it is refused", PATIENCE, || {
        studio.status().is_ok_and(|status| status["links"][0]["state"] == "refused")
    });
    other.wait_links(1);
    relay.json(&["studios", "restore", &public_key(&studio)]);
    studio.wait_links(1);
}

#[test]
fn invites_are_listed_and_revoked() {
    let relay = relay();
    let (_, made) = call(&relay, "POST", "/api/v1/invites", r#"{"uses":2}"#);
    assert!(made["qr"].as_str().unwrap().contains("<svg"), "{made}");
    let link = made["join_link"].as_str().unwrap();
    let list = relay.json(&["invite", "list"]);
    let invites = list["invites"].as_array().unwrap();
    assert_eq!(invites.len(), 2, "the one of the start, too: {list}");
    let ours = invites.iter().find(|invite| invite["uses_left"] == 2).unwrap();
    assert!(!list.to_string().contains(link.rsplit('/').next().unwrap()));
    relay.json(&["invite", "revoke", ours["id"].as_str().unwrap()]);
    let studio = Node::studio(FIRSTMILE).join(link).start().unwrap();
    wait_until("it is refused", PATIENCE, || {
        studio.status().is_ok_and(|status| status["links"][0]["state"] == "refused")
    });
    let start = invites.iter().find(|invite| invite["until_restart"] == true).unwrap();
    let path = format!("/api/v1/invites/{}", start["id"].as_str().unwrap());
    assert_eq!(call(&relay, "DELETE", &path, "").0, 204);
    assert_eq!(call(&relay, "DELETE", &path, "").0, 404);
    assert!(relay.status().unwrap()["join_link"].is_null());
    let late = Node::studio(FIRSTMILE).join(relay.join_link()).start().unwrap();
    wait_until("it is refused", PATIENCE, || {
        late.status().is_ok_and(|status| status["links"][0]["state"] == "refused")
    });
}
