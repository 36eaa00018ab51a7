//! What happened, as running nodes tell it: the list, the stream, webhooks; and the API's description.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

use hmac::{Hmac, Mac};
use sha2::Sha256;
use testkit::client::publish_clip;
use testkit::hook::{Request, Reserved};
use testkit::process::Signal;
use testkit::tls::Authority;
use testkit::{Node, PATIENCE, Value, http, schema, tempdir, wait_for};

const FIRSTMILE: &str = env!("CARGO_BIN_EXE_firstmile");
const SECRET: &str = "0123456789abcdef-secret";

/// The events that a node lists, without a token.
fn events(node: &Node, query: &str) -> Vec<Value> {
    let path = format!("/api/v1/events?limit=2000&{query}");
    let list = http::get_json(node.address("http"), &path, None).unwrap();
    list["events"].as_array().unwrap().clone()
}

/// Waits for the `nth` event of a kind, from 1.
#[track_caller]
fn wait_event(node: &Node, kind: &str, nth: usize) -> Value {
    wait_for(&format!("event {nth} of {kind}"), PATIENCE, || {
        events(node, &format!("kind={kind}")).get(nth - 1).cloned()
    })
}

fn text(event: &Value) -> &str {
    event["text"].as_str().unwrap_or_else(|| panic!("no text in {event}"))
}

#[test]
fn a_feeds_life_is_told_at_studio_and_relay() {
    let relay = Node::relay(FIRSTMILE).start().unwrap();
    let studio = Node::studio(FIRSTMILE).join(relay.join_link()).start().unwrap();
    studio.wait_links(1);
    assert_eq!(text(&wait_event(&studio, "link_up", 1)).split(' ').next(), Some("The"));
    wait_event(&relay, "studio_joined", 1);
    let key = studio.key("camera");

    let first = publish_clip(&relay.url(&key));
    let live = wait_event(&studio, "live", 1);
    let words = text(&live);
    assert!(words.starts_with("camera is on air: H.264 "), "{words}");
    assert!(words.contains(" and AAC") && words.contains("by 127.0.0.1"), "{words}");
    assert_eq!((&live["feed"], &live["severity"]), (&"camera".into(), &"info".into()));
    // The relay knows the encoder by its name.
    let live = wait_event(&relay, "live", 1);
    assert!(text(&live).contains(" from FMLE/3.0 (compatible; Lavf"), "{live}");
    assert!(live["studio"].is_string());

    drop(first);
    wait_event(&studio, "lost", 1);
    let _second = publish_clip(&relay.url(&key));
    let back = wait_event(&studio, "recovered", 1);
    assert!(text(&back).starts_with("camera is live again after "), "{back}");

    studio.json(&["record", "on", "camera"]);
    wait_event(&studio, "recording_started", 1);
    studio.json(&["feed", "add", "roof"]);
    let rotated = studio.json(&["feed", "rotate", "camera"])["publish"][0]["key"].clone();
    wait_event(&studio, "key_rotated", 1);
    studio.json(&["feed", "limit", "roof", "--for", "6h"]);
    assert!(
        text(&wait_event(&studio, "key_limited", 1)).starts_with("roof has a key that is good")
    );
    studio.json(&["feed", "pause", "roof"]);
    assert!(text(&wait_event(&studio, "key_paused", 1)).starts_with("roof is paused"));
    studio.json(&["feed", "resume", "roof"]);
    wait_event(&studio, "key_resumed", 1);
    studio.json(&["feed", "remove", "roof"]);
    let removed = wait_event(&studio, "feed_removed", 1);
    assert_eq!((&removed["feed"], text(&removed)), (&"roof".into(), "roof was removed"));
    wait_event(&studio, "recording_complete", 1);
    studio.json(&["record", "off", "camera"]);
    wait_event(&studio, "recording_stopped", 1);

    let of_roof = events(&studio, "feed=roof");
    let kinds: Vec<_> = of_roof.iter().map(|event| event["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["feed_added", "key_limited", "key_paused", "key_resumed", "feed_removed"]);
    studio.terminate().unwrap().expect_success("SIGTERM");
    wait_event(&relay, "studio_left", 1);
    let all = Value::from(events(&relay, "")).to_string();
    for key in [key.as_str(), rotated.as_str().unwrap()] {
        let secret = key.rsplit('-').next().unwrap();
        assert!(!all.contains(secret));
    }
}

#[test]
fn an_encoder_that_ends_its_stream_is_not_lost() {
    let relay = Node::relay(FIRSTMILE).start().unwrap();
    let studio = Node::studio(FIRSTMILE).join(relay.join_link()).start().unwrap();
    studio.wait_links(1);
    let url = relay.url(&studio.key("camera"));
    let mut encoder = publish_clip(&url);
    wait_event(&studio, "live", 1);
    // ffmpeg says deleteStream then.
    encoder.stop(Signal::Interrupt).unwrap();
    for node in [&studio, &relay] {
        let ended = wait_event(node, "ended", 1);
        assert!(text(&ended).ends_with(" is off the air"), "{ended}");
        node.wait_feed("camera", "waiting");
    }
    let _again = publish_clip(&url);
    for node in [&studio, &relay] {
        wait_event(node, "live", 2);
        assert_eq!(events(node, "kind=lost"), [Value::Null; 0]);
    }
}

#[test]
fn no_event_of_a_studio_has_a_key() {
    let studio = Node::studio(FIRSTMILE).start().unwrap();
    let _encoder = publish_clip(&studio.url(&studio.key("camera")));
    wait_event(&studio, "live", 1);
    studio.json(&["feed", "rotate", "camera"]);
    wait_event(&studio, "key_rotated", 1);
    let status = studio.status().unwrap();
    let all = Value::from(events(&studio, "")).to_string();
    let feed = &status["feeds"][0];
    let keys = [studio.key("camera"), feed["publish"][0]["key"].as_str().unwrap().to_owned()];
    for key in keys.iter().map(|key| key.rsplit('-').next().unwrap()) {
        assert!(key.len() == 26 && !all.contains(key));
    }
    assert!(!all.contains(&studio.token()));
}

/// An open stream of events.
struct Following(BufReader<TcpStream>);

impl Following {
    fn open(node: &Node, headers: &str) -> Self {
        let mut stream = TcpStream::connect(node.address("http")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = format!(
            "GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\
             {headers}\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut following = Self(BufReader::new(stream));
        assert_eq!(following.line(), Some("HTTP/1.1 200 OK".into()));
        following
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let length = self.0.read_line(&mut line).expect("something comes in time");
        (length > 0).then(|| line.trim_end().to_owned())
    }

    /// The next event; nothing at the end.
    fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(data) = self.line()?.strip_prefix("data: ") {
                return Some(serde_json::from_str(data).unwrap());
            }
        }
    }
}

#[test]
fn a_stream_goes_on_where_it_was_cut_and_ends_with_the_node() {
    let studio = Node::studio(FIRSTMILE).start().unwrap();
    wait_event(&studio, "started", 1);
    let mut following = Following::open(&studio, "");
    studio.json(&["feed", "add", "roof"]);
    let added = following.next().unwrap();
    assert_eq!(added["kind"], "feed_added");
    drop(following);
    studio.json(&["feed", "rotate", "roof"]);
    studio.json(&["feed", "remove", "roof"]);
    let mut following = Following::open(&studio, &format!("Last-Event-ID: {}\r\n", added["id"]));
    assert_eq!(following.next().unwrap()["kind"], "key_rotated");
    assert_eq!(following.next().unwrap()["kind"], "feed_removed");
    studio.terminate().unwrap().expect_success("an open stream holds nothing up");
    assert_eq!(following.next(), None);
}

fn hook(url: &str, more: &str) -> String {
    format!("[[webhooks]]\nurl = \"{url}\"\nsecret = \"{SECRET}\"\n{more}\n")
}

/// As the handbook says it is to be checked.
#[track_caller]
fn assert_signed(request: &Request) {
    let header = request.header("firstmile-signature").expect("a signature");
    let (t, v1) = header.split_once(",v1=").expect("a time and a signature");
    let t = t.strip_prefix("t=").expect("a time");
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(t.as_bytes());
    mac.update(b".");
    mac.update(&request.body);
    let expected: String =
        mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(v1, expected);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    assert!(now.as_secs().abs_diff(t.parse().unwrap()) < 120, "{t}");
}

#[test]
fn a_webhook_is_told_in_order_signed_and_again() {
    let reserved = Reserved::new().unwrap();
    let url = format!("http://{}/in/SECRETPATH?k=SECRETQUERY", reserved.address());
    let events = "events = [\"feed_added\", \"key_rotated\", \"feed_removed\"]";
    let studio = Node::studio(FIRSTMILE).config(&hook(&url, events)).start().unwrap();
    // Nobody listens, and nobody waits for that.
    studio.json(&["feed", "add", "roof"]);
    studio.json(&["feed", "rotate", "roof"]);
    studio.json(&["feed", "remove", "roof"]);
    studio.wait_log("a webhook takes nothing");
    let hooks = reserved.listen(&[500, 302]).unwrap();
    let told = hooks.wait(3);
    let kinds: Vec<_> = told.iter().map(|told| told["event"]["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["feed_added", "key_rotated", "feed_removed"]);
    assert_eq!((&told[0]["missed"], &told[0]["event"]["feed"]), (&0.into(), &"roof".into()));

    let requests = hooks.requests();
    let answers: Vec<_> = requests.iter().map(|request| request.answer).collect();
    assert_eq!(answers, [500, 302, 200, 200, 200], "a redirect is not followed");
    let id = told[0]["event"]["id"].to_string();
    for request in &requests {
        assert_eq!(request.line, "POST /in/SECRETPATH?k=SECRETQUERY HTTP/1.1");
        assert_eq!(request.header("content-type"), Some("application/json"));
        assert_signed(request);
    }
    for request in &requests[..3] {
        assert_eq!(request.header("firstmile-delivery"), Some(id.as_str()));
        assert_eq!(request.header("firstmile-event"), Some("feed_added"));
    }
    let status = wait_for("the third is counted", PATIENCE, || {
        studio.status().ok().filter(|status| status["webhooks"][0]["delivered"] == 3)
    });
    let shown = &status["webhooks"][0];
    assert_eq!(shown["place"], format!("http://{}", hooks.address()));
    assert_eq!((&shown["failed"], &shown["last_error"]), (&0.into(), &Value::Null));
    for text in [status.to_string(), studio.log()] {
        assert!(!text.contains("SECRETPATH") && !text.contains("SECRETQUERY"));
        assert!(!text.contains(SECRET));
    }
}

#[test]
fn a_webhook_without_a_list_is_told_of_feeds_that_come_and_go() {
    let reserved = Reserved::new().unwrap();
    let config = hook(&format!("http://{}", reserved.address()), "");
    let hooks = reserved.listen(&[]).unwrap();
    let studio = Node::studio(FIRSTMILE).config(&config).start().unwrap();
    let url = studio.url(&studio.key("camera"));
    let first = publish_clip(&url);
    hooks.wait(1);
    drop(first);
    hooks.wait(2);
    let mut second = publish_clip(&url);
    let told = hooks.wait(3);
    let kinds: Vec<_> = told.iter().map(|told| told["event"]["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["live", "lost", "recovered"]);
    second.stop(Signal::Interrupt).unwrap();
    assert_eq!(hooks.wait(4)[3]["event"]["kind"], "ended");
    let ids: Vec<_> = told.iter().map(|told| told["event"]["id"].as_u64().unwrap()).collect();
    assert!(ids.is_sorted());
}

#[test]
fn a_webhook_over_tls_has_to_be_trusted() {
    let dir = tempdir().unwrap();
    let authority = Authority::new();
    authority.issue(dir.path(), "127.0.0.1");
    let ca = authority.write_root(dir.path());
    let reserved = Reserved::new().unwrap();
    let url = format!("https://{}/in", reserved.address());
    let hooks = reserved.listen_tls(dir.path()).unwrap();
    let events = "events = [\"feed_added\"]";
    let trusting = hook(&url, &format!("{events}\nca = {:?}", ca.to_str().unwrap()));
    let config = format!("{trusting}{}", hook(&url, events));
    let studio = Node::studio(FIRSTMILE).config(&config).start().unwrap();
    studio.json(&["feed", "add", "roof"]);
    assert_eq!(hooks.wait(1)[0]["event"]["feed"], "roof");
    // The other one knows no authority that has signed this.
    let status = wait_for("the other one fails", PATIENCE, || {
        studio.status().ok().filter(|status| status["webhooks"][1]["last_error"].is_string())
    });
    assert_eq!(status["webhooks"][1]["delivered"], 0);
    assert_eq!(hooks.requests().len(), 1);
}

/// Answers of a node for all that can be asked without knowing more than a feed's name.
#[track_caller]
fn assert_as_described(node: &Node) -> usize {
    let (address, token) = (node.address("http"), node.token());
    let document = http::get_json(address, "/api/v1/openapi.json", None).unwrap();
    let mut seen = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        let answers = &methods["get"]["responses"];
        let is_json = answers["200"]["content"]["application/json"].is_object();
        let asked = path.replace("{name}", "camera");
        if !is_json || asked.contains('{') {
            continue;
        }
        for token in [Some(token.as_str()), None] {
            let (status, body) = http::get(address, &asked, token).unwrap();
            let body = serde_json::from_str(&body).unwrap_or_else(|_| panic!("{path}: {body}"));
            let faults = schema::answer_faults(&document, path, status, &body);
            assert!(faults.is_empty(), "{path} answers {status}: {faults:#?}");
            seen += 1;
        }
    }
    seen
}

#[test]
fn answers_are_what_the_api_says_of_itself() {
    let relay = Node::relay(FIRSTMILE).start().unwrap();
    // A hook that nobody takes, so that it is in the status.
    let reserved = Reserved::new().unwrap();
    let config =
        format!("[record]\nall = true\n{}", hook(&format!("http://{}", reserved.address()), ""));
    let studio = Node::studio(FIRSTMILE).config(&config).join(relay.join_link()).start().unwrap();
    studio.wait_links(1);
    // With nothing on air, and with all there is.
    assert!(assert_as_described(&relay) >= 8);
    studio.json(&["feed", "auth", "camera", "on"]);
    let _encoder = publish_clip(&relay.url(&studio.key("camera")));
    let _player = testkit::client::ffmpeg_play(&studio.url("camera"));
    studio.wait_players("camera", 1);
    wait_event(&studio, "live", 1);
    wait_event(&relay, "live", 1);
    wait_for("something is recorded", PATIENCE, || {
        let recordings =
            http::get_json(studio.address("http"), "/api/v1/recordings", Some(&studio.token()));
        recordings.ok().filter(|list| !list.as_array().unwrap().is_empty())
    });
    assert!(assert_as_described(&relay) >= 8);
    assert!(assert_as_described(&studio) >= 8);
}
