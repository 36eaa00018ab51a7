//! The API over real connections, with a node that only pretends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use super::*;
use crate::events::{About, Kind, Severity};
use crate::secret::{FeedName, StreamKey};
use crate::status::{Auth, FeedState, FeedStatus, KeyText, Publish};
use crate::store::{DataDir, Feeds, StoredFeed};

/// A studio that has feeds and nothing else.
struct FakeNode {
    feeds: Mutex<Feeds>,
    events: Events,
    _dir: tempfile::TempDir,
}

fn publish(key: &StreamKey) -> Vec<Publish> {
    vec![Publish::new("berlin", "relay.example", 1935, key)]
}

fn info(feed: &StoredFeed) -> FeedInfo {
    let publish = publish(&feed.key());
    let auth = feed.auth.as_ref().map(|login| Auth::new(&publish[0].server, login));
    let recorded = feed.recorded.is_some();
    let (timing, validity) = (feed.timing, feed.validity(SystemTime::now()));
    let name = feed.name.to_string();
    FeedInfo { name, publish, auth, play: None, recorded, timing, validity }
}

impl Node for FakeNode {
    fn events(&self) -> &Events {
        &self.events
    }

    fn status(&self) -> Status {
        let feeds = self.feeds.lock().unwrap();
        let feed = |feed: &StoredFeed| FeedStatus {
            name: feed.name.to_string(),
            state: FeedState::Live,
            publish: publish(&feed.key()),
            play_lan: Some(KeyText::play_lan("10.0.0.2", 1935, "camera", feed.secret.expose())),
            ..FeedStatus::default()
        };
        let feeds = feeds.list().iter().map(feed).collect();
        Status { role: "studio".into(), feeds, ..Status::default() }
    }

    fn feeds(&self) -> Result<Vec<FeedInfo>, ApiError> {
        Ok(self.feeds.lock().unwrap().list().iter().map(info).collect())
    }

    fn add_feed(&self, name: &str, until: Option<When>) -> Result<FeedInfo, ApiError> {
        let name: FeedName = name.parse()?;
        Ok(info(&self.feeds.lock().unwrap().add(&name, until)?))
    }

    fn set_until(&self, name: &str, until: Option<When>) -> Result<FeedInfo, ApiError> {
        let name: FeedName = name.parse()?;
        Ok(info(&self.feeds.lock().unwrap().set_until(&name, until)?))
    }

    fn set_paused(&self, name: &str, paused: bool) -> Result<FeedInfo, ApiError> {
        let name: FeedName = name.parse()?;
        Ok(info(&self.feeds.lock().unwrap().set_paused(&name, paused)?))
    }

    fn rotate_feed(&self, name: &str) -> Result<FeedInfo, ApiError> {
        let name: FeedName = name.parse()?;
        Ok(info(&self.feeds.lock().unwrap().rotate(&name)?))
    }

    fn set_auth(&self, name: &str, on: bool) -> Result<FeedInfo, ApiError> {
        let name: FeedName = name.parse()?;
        Ok(info(&self.feeds.lock().unwrap().set_auth(&name, on)?))
    }

    fn set_recording(&self, name: &str, on: bool) -> Result<FeedInfo, ApiError> {
        let name: FeedName = name.parse()?;
        Ok(info(&self.feeds.lock().unwrap().set_recorded(&name, on)?))
    }

    fn change_feed(&self, name: &str, change: FeedChange) -> Result<FeedInfo, ApiError> {
        let name: FeedName = name.parse()?;
        let mut feeds = self.feeds.lock().unwrap();
        let known = feeds.find(name.as_str()).map(|feed| feed.timing).unwrap_or_default();
        Ok(info(&feeds.set_timing(&name, change.applied_to(known))?))
    }

    fn recordings(&self) -> Result<Vec<RecordingInfo>, ApiError> {
        Ok(Vec::new())
    }

    fn remove_feed(&self, name: &str) -> Result<(), ApiError> {
        let name: FeedName = name.parse()?;
        self.feeds.lock().unwrap().remove(&name)?;
        Ok(())
    }

    fn preview(&self, _: &str, _: Mode) -> Result<Viewer, NoPreview> {
        Err(NoPreview::Elsewhere)
    }
}

/// A served node; dropping it stops the server.
struct Served {
    address: SocketAddr,
    token: Token,
    secret: String,
    data: DataDir,
    events: Events,
    _stop: oneshot::Sender<()>,
}

struct Answer {
    status: StatusCode,
    head: Response<()>,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {}", self.text))
    }
}

async fn served_at(bind: &str) -> Served {
    served_with(bind, None).await
}

async fn served_with(bind: &str, password: Option<&str>) -> Served {
    let password = password.map(|text| text.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let data = DataDir::open(dir.path()).unwrap();
    let feeds = Feeds::load(&data).unwrap();
    let secret = feeds.list()[0].secret.expose().to_owned();
    let events = Events::new(&[]);
    let node = Arc::new(FakeNode { feeds: Mutex::new(feeds), events: events.clone(), _dir: dir });
    let listener = TcpListener::bind(bind).await.unwrap();
    let address = listener.local_addr().unwrap();
    let token = Token::random();
    let hosts = AllowedHosts::new(address, Some("studio.example"));
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = serve(listener, node, (token.clone(), password), hosts, async {
        let _ = stopped.await;
    });
    tokio::spawn(serving);
    Served { address, token, secret, data, events, _stop: stop }
}

async fn served() -> Served {
    served_at("127.0.0.1:0").await
}

impl Served {
    /// One request; `headers` may replace the Host.
    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let port = self.address.port();
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path);
        if !headers.iter().any(|(name, _)| *name == "host") {
            request = request.header("host", format!("127.0.0.1:{port}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::from(body.to_owned()))).unwrap();
        let (head, body) = sender.send_request(request).await.unwrap().into_parts();
        let text = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8(text.into()).unwrap();
        Answer { status: head.status, head: Response::from_parts(head, ()), text }
    }

    /// One request with the token.
    async fn call(&self, method: &str, path: &str, body: &str) -> Answer {
        let bearer = format!("Bearer {}", self.token.expose());
        self.ask(method, path, &[("authorization", &bearer)], body).await
    }
}

#[tokio::test]
async fn keys_are_masked_without_the_token() {
    let node = served().await;
    let answer = node.ask("GET", "/api/v1/status", &[], "").await;
    assert_eq!(answer.status, 200);
    assert!(!answer.text.contains(&node.secret));
    assert_eq!(answer.json()["feeds"][0]["publish"][0]["key"], "camera-****");

    let wrong = [("authorization", "Bearer 00000000000000000000000000")];
    let answer = node.ask("GET", "/api/v1/status", &wrong, "").await;
    assert!(!answer.text.contains(&node.secret));

    let answer = node.call("GET", "/api/v1/status", "").await;
    let feed = &answer.json()["feeds"][0];
    assert_eq!(feed["publish"][0]["key"], format!("camera-{}", node.secret));
    assert_eq!(feed["publish"][0]["server"], "rtmp://relay.example/live");
    assert_eq!(feed["state"], "live");
}

#[tokio::test]
async fn what_changes_something_needs_the_token() {
    let node = served().await;
    let body = r#"{"name":"roof"}"#;
    for (method, path) in [
        ("GET", "/api/v1/feeds"),
        ("POST", "/api/v1/feeds"),
        ("GET", "/api/v1/feeds/camera/qr"),
        ("GET", "/api/v1/feeds/camera/qr?form=larix"),
        ("POST", "/api/v1/feeds/camera/rotate"),
        ("PUT", "/api/v1/feeds/camera/auth"),
        ("PUT", "/api/v1/feeds/camera/validity"),
        ("PUT", "/api/v1/feeds/camera/pause"),
        ("PUT", "/api/v1/feeds/camera/recording"),
        ("PATCH", "/api/v1/feeds/camera"),
        ("GET", "/api/v1/recordings"),
        ("DELETE", "/api/v1/feeds/camera"),
        ("POST", "/api/v1/invites"),
        ("GET", "/api/v1/invites"),
        ("DELETE", "/api/v1/invites/0000000000"),
        ("GET", "/api/v1/studios"),
        ("PUT", "/api/v1/studios/x/admission"),
        ("GET", "/api/v1/relays"),
        ("POST", "/api/v1/relays"),
        ("DELETE", "/api/v1/relays/x"),
    ] {
        let answer = node.ask(method, path, &[], body).await;
        assert_eq!(answer.status, 401, "{method} {path}");
        assert_eq!(answer.head.headers()["www-authenticate"], "Bearer");
        assert_eq!(answer.json()["error"], "this needs the token");
    }
    assert_eq!(Feeds::load(&node.data).unwrap().list().len(), 1);
}

#[tokio::test]
async fn recording_is_switched_on_and_off() {
    let node = served().await;
    let path = "/api/v1/feeds/camera/recording";
    for on in [true, false] {
        let answer = node.call("PUT", path, &format!(r#"{{"on":{on}}}"#)).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.json()["recorded"], on);
    }
    assert_eq!(
        node.call("PUT", "/api/v1/feeds/roof/recording", r#"{"on":true}"#).await.status,
        404
    );
    assert_eq!(node.call("PUT", path, "{}").await.status, 400);
    assert_eq!(node.call("GET", "/api/v1/recordings", "").await.json(), json!([]));
}

#[tokio::test]
async fn players_get_a_delay_and_lose_it() {
    let node = served().await;
    let path = "/api/v1/feeds/camera";
    let set = async |body: &str| {
        let answer = node.call("PATCH", path, body).await;
        assert_eq!(answer.status, 200, "{body}: {}", answer.text);
        let feed = answer.json();
        (feed["play_delay_ms"].as_u64(), feed["play_max_delay_ms"].as_u64())
    };
    assert_eq!(set(r#"{"play_delay_ms":1500}"#).await, (Some(1_500), None));
    assert_eq!(set(r#"{"play_max_delay_ms":4000}"#).await, (Some(1_500), Some(4_000)));
    assert_eq!(set(r#"{"play_delay_ms":null}"#).await, (None, Some(4_000)));
    assert_eq!(set("{}").await, (None, Some(4_000)));
    assert_eq!(Feeds::load(&node.data).unwrap().list()[0].timing.play_max_delay_ms, Some(4_000));
    for wrong in [r#"{"play_delay":1}"#, r#"{"play_delay_ms":-1}"#, r#"{"play_delay_ms":"1s"}"#] {
        assert_eq!(node.call("PATCH", path, wrong).await.status, 400, "{wrong}");
    }
    let none = node.call("PATCH", "/api/v1/feeds/roof", r#"{"play_delay_ms":1}"#).await;
    assert_eq!(none.status, 404);
}

#[tokio::test]
async fn a_key_is_limited_and_paused() {
    let node = served().await;
    let path = "/api/v1/feeds/camera/validity";
    let now = crate::store::unix_seconds(SystemTime::now());
    let until = |answer: Answer| answer.json()["validity"]["until_s"].as_u64();
    let for_an_hour = until(node.call("PUT", path, r#"{"for_s":3600}"#).await).unwrap();
    assert!((now + 3_600..now + 3_660).contains(&for_an_hour));
    let at = json!({ "until_s": now + 60 }).to_string();
    assert_eq!(until(node.call("PUT", path, &at).await), Some(now + 60));
    assert_eq!(until(node.call("PUT", path, "{}").await), None);
    for wrong in [
        r#"{"for_s":0}"#,
        r#"{"until_s":5}"#,
        r#"{"for_s":1,"until_s":4000000000}"#,
        r#"{"for_s":18446744073709551615}"#,
        r#"{"until_s":18446744073709551615}"#,
        r#"{"until":4000000000}"#,
    ] {
        assert_eq!(node.call("PUT", path, wrong).await.status, 400, "{wrong}");
    }
    assert_eq!(node.call("PUT", "/api/v1/feeds/none/validity", "{}").await.status, 404);
    let body = r#"{"name":"roof","valid":{"for_s":60}}"#;
    assert!(until(node.call("POST", "/api/v1/feeds", body).await).is_some());
    for on in [true, false] {
        let path = "/api/v1/feeds/camera/pause";
        let answer = node.call("PUT", path, &format!(r#"{{"on":{on}}}"#)).await;
        assert_eq!(
            (answer.status, &answer.json()["validity"]["paused"]),
            (StatusCode::OK, &json!(on))
        );
    }
}

#[tokio::test]
async fn a_password_is_switched_on_and_off() {
    let node = served().await;
    let path = "/api/v1/feeds/camera/auth";
    let answer = node.call("PUT", path, r#"{"on":true}"#).await;
    assert_eq!(answer.status, 200);
    let auth = &answer.json()["auth"];
    assert_eq!(auth["server"], "rtmp://relay.example/auth");
    assert!(auth["user"].as_str().unwrap().starts_with("camera-"));
    assert_eq!(auth["password"].as_str().unwrap().len(), 26);
    assert_eq!(&node.call("GET", "/api/v1/feeds", "").await.json()[0]["auth"], auth);
    let answer = node.call("PUT", path, r#"{"on":false}"#).await;
    assert!(answer.json().get("auth").is_none(), "{}", answer.text);
    assert_eq!(node.call("PUT", path, "{}").await.status, 400);
    assert_eq!(node.call("PUT", "/api/v1/feeds/none/auth", r#"{"on":true}"#).await.status, 404);
}

#[tokio::test]
async fn foreign_names_are_refused() {
    let node = served().await;
    for host in ["evil.example", "evil.example:8935", "10.0.0.9", ""] {
        let answer = node.ask("GET", "/api/v1/status", &[("host", host)], "").await;
        assert_eq!(answer.status, 403, "{host}");
        assert!(answer.json()["hint"].as_str().unwrap().contains("public_host"));
    }
    let answer = node.ask("GET", "/healthz", &[("host", "studio.example")], "").await;
    assert_eq!((answer.status, &*answer.text), (StatusCode::OK, "ok\n"));
}

#[tokio::test]
async fn foreign_pages_change_nothing() {
    let node = served().await;
    let bearer = format!("Bearer {}", node.token.expose());
    let own = format!("http://127.0.0.1:{}", node.address.port());
    let other_port = "http://127.0.0.1:1".to_owned();
    for (origin, status) in [
        ("http://evil.example", 403),
        ("null", 403),
        (other_port.as_str(), 403),
        (own.as_str(), 200),
    ] {
        let headers = [("authorization", bearer.as_str()), ("origin", origin)];
        let answer = node.ask("POST", "/api/v1/feeds/camera/rotate", &headers, "").await;
        assert_eq!(answer.status, status, "{origin}");
    }
}

#[tokio::test]
async fn errors_are_json_and_headers_are_strict() {
    let node = served().await;
    let answer = node.ask("GET", "/api/v2/x", &[], "").await;
    assert_eq!(answer.status, 404);
    assert_eq!(answer.json()["error"], "there is nothing here");
    assert_eq!(answer.head.headers()["x-content-type-options"], "nosniff");
    let policy = answer.head.headers()["content-security-policy"].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'"));
    let answer = node.ask("PUT", "/api/v1/status", &[], "").await;
    assert_eq!(answer.status, 405);
    assert!(answer.json()["error"].is_string());
    let answer = node.call("POST", "/api/v1/feeds", &"x".repeat(MAX_BODY + 1)).await;
    assert_eq!(answer.status, 413);
    assert!(answer.json()["error"].is_string());
    let answer = node.call("POST", "/api/v1/feeds", r#"{"nam":"x"}"#).await;
    assert_eq!(answer.status, 400);
}

#[tokio::test]
async fn the_page_and_its_files_are_served_with_a_strict_policy() {
    let node = served().await;
    for (path, kind, text) in pages::FILES {
        let answer = node.ask("GET", path, &[], "").await;
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(answer.text, text, "{path}");
        let header = |name: &str| answer.head.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(header("content-type"), kind, "{path}");
        assert_eq!(header("x-content-type-options"), "nosniff");
        assert_eq!(header("referrer-policy"), "no-referrer");
        let policy = header("content-security-policy");
        assert_eq!(policy, pages::POLICY);
        for rule in ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"] {
            assert!(policy.contains(rule), "{policy}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
        let foreign = node.ask("GET", path, &[("host", "evil.example")], "").await;
        assert_eq!(foreign.status, 403, "{path}");
        assert!(!foreign.text.contains(text));
    }
}

#[tokio::test]
async fn the_page_is_there_to_take_a_token_where_others_can_reach_it() {
    let node = served_at("0.0.0.0:0").await;
    assert_eq!(node.ask("GET", "/", &[], "").await.status, 200);
    assert_eq!(node.ask("GET", "/main.js", &[], "").await.status, 200);
    assert_eq!(node.ask("GET", "/api/v1/feeds/camera/qr", &[], "").await.status, 401);
}

#[tokio::test]
async fn a_code_is_drawn_for_the_token_and_never_stored() {
    let node = served().await;
    let path = "/api/v1/feeds/camera/qr";
    let mut drawn = Vec::new();
    for query in ["", "?place=0&form=url&tls=false", "?form=larix"] {
        let answer = node.call("GET", &format!("{path}{query}"), "").await;
        assert_eq!(answer.status, 200, "{query}");
        assert_eq!(answer.head.headers()["content-type"], "image/svg+xml");
        assert_eq!(answer.head.headers()["cache-control"], "no-store");
        assert!(answer.text.contains("<svg"));
        drawn.push(answer.text);
    }
    assert!(drawn[0] == drawn[1] && drawn[0] != drawn[2]);
    for (query, status) in [("?place=1", 404), ("?tls=true", 404), ("?form=x", 400), ("?x=1", 400)]
    {
        assert_eq!(node.call("GET", &format!("{path}{query}"), "").await.status, status, "{query}");
    }
    assert_eq!(node.call("GET", "/api/v1/feeds/roof/qr", "").await.status, 404);
}

#[tokio::test]
async fn one_logs_in_with_the_password_and_out_again() {
    let node = served_with("0.0.0.0:0", Some("a good password")).await;
    let host = format!("127.0.0.1:{}", node.address.port());
    let origin = format!("http://{host}");
    let session = node.ask("GET", "/api/v1/session", &[], "").await.json();
    assert_eq!(session, json!({ "password": true, "owner": false }));
    assert_eq!(node.ask("GET", "/api/v1/status", &[], "").await.status, 401);

    let own = [("origin", origin.as_str())];
    let wrong = node.ask("POST", "/api/v1/login", &own, r#"{"password":"a bad one"}"#).await;
    assert_eq!(wrong.status, 401);
    assert!(wrong.head.headers().get("set-cookie").is_none());
    let right = r#"{"password":"a good password"}"#;
    let foreign = [("origin", "http://evil.example")];
    assert_eq!(node.ask("POST", "/api/v1/login", &foreign, right).await.status, 403);
    let answer = node.ask("POST", "/api/v1/login", &own, right).await;
    assert_eq!(answer.status, 204);
    let cookie = answer.head.headers()["set-cookie"].to_str().unwrap().to_owned();
    for word in ["HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=86400"] {
        assert!(cookie.contains(word), "{cookie}");
    }
    let cookie = cookie.split(';').next().unwrap();

    let own = [("cookie", cookie), ("origin", origin.as_str())];
    let status = node.ask("GET", "/api/v1/status", &own[..1], "").await;
    assert_eq!(status.status, 200);
    assert!(status.text.contains(&node.secret), "its owner sees keys");
    assert_eq!(node.ask("POST", "/api/v1/feeds/camera/rotate", &own, "").await.status, 200);
    let unsaid = node.ask("POST", "/api/v1/feeds/camera/rotate", &own[..1], "").await;
    assert_eq!(unsaid.status, 401, "a browser says which page asks");
    for origin in ["http://evil.example", "http://127.0.0.1:1", "null"] {
        let headers = [("cookie", cookie), ("origin", origin)];
        let answer = node.ask("POST", "/api/v1/feeds/camera/rotate", &headers, "").await;
        assert_eq!(answer.status, 403, "{origin}");
        assert_eq!(node.ask("GET", "/api/v1/feeds", &headers, "").await.status, 401, "{origin}");
    }
    let bad_token = [own[0], own[1], ("authorization", "Bearer 0123456789abcdef")];
    assert_eq!(node.ask("GET", "/api/v1/feeds", &bad_token, "").await.status, 401);
    assert_eq!(
        node.call("GET", "/api/v1/feeds", "").await.status,
        200,
        "the token works as before"
    );

    let out = node.ask("POST", "/api/v1/logout", &own, "").await;
    assert!(out.head.headers()["set-cookie"].to_str().unwrap().contains("Max-Age=0"));
    assert_eq!(node.ask("GET", "/api/v1/status", &own, "").await.status, 401);
}

#[tokio::test]
async fn guessing_the_password_ends_soon() {
    let node = served_with("127.0.0.1:0", Some("a good password")).await;
    let mut answers = Vec::new();
    for n in 0..12 {
        let body = format!(r#"{{"password":"guess number {n}"}}"#);
        answers.push(node.ask("POST", "/api/v1/login", &[], &body).await.status.as_u16());
    }
    assert_eq!(answers[..10], [401; 10]);
    assert!(answers[10..].contains(&429), "{answers:?}");
    assert_eq!(node.call("GET", "/api/v1/feeds", "").await.status, 200, "the token works");
    let without = served().await;
    let answer = without.ask("POST", "/api/v1/login", &[], r#"{"password":""}"#).await;
    assert_eq!(answer.status, 404);
    let cookie = [("cookie", "firstmile-session=0123456789ABCDEFGHJKMNPQRS")];
    assert_eq!(without.ask("GET", "/api/v1/feeds", &cookie, "").await.status, 401);
}

#[test]
fn the_token_is_shown_to_a_terminal_only() {
    let token: Token = "0123456789abcdef".parse().unwrap();
    let text =
        |address: &str, is_terminal| dashboard_text(address.parse().unwrap(), &token, is_terminal);
    let shown = text("127.0.0.1:8935", true);
    assert_eq!(shown, "Dashboard   http://127.0.0.1:8935/#token=0123456789abcdef\n");
    assert!(text("[::]:1", true).contains("http://127.0.0.1:1/#"));
    assert!(text("[::1]:1", true).contains("http://[::1]:1/#"));
    let kept = text("127.0.0.1:8935", false);
    assert!(kept.contains("http://127.0.0.1:8935/ ") && kept.contains("run.json"));
    assert!(!kept.contains(token.expose()));
}

#[tokio::test]
async fn metrics_hold_no_key() {
    let node = served().await;
    let answer = node.call("GET", "/metrics", "").await;
    assert_eq!(answer.status, 200);
    assert!(answer.text.contains("firstmile_feed_state{feed=\"camera\",state=\"live\"} 1\n"));
    assert!(!answer.text.contains(&node.secret) && !answer.text.contains(node.token.expose()));
}

#[tokio::test]
async fn feeds_are_added_rotated_and_removed() {
    let node = served().await;
    let body = json!({ "name": "roof" }).to_string();
    let added = node.call("POST", "/api/v1/feeds", &body).await;
    assert_eq!(added.status, 201);
    let key = added.json()["publish"][0]["key"].as_str().unwrap().to_owned();
    assert!(key.starts_with("roof-"));
    assert_eq!(node.call("POST", "/api/v1/feeds", &body).await.status, 409);
    let answer = node.call("POST", "/api/v1/feeds", r#"{"name":"No Good"}"#).await;
    assert_eq!(answer.status, 400);

    let rotated = node.call("POST", "/api/v1/feeds/roof/rotate", "").await;
    assert_ne!(rotated.json()["publish"][0]["key"], key);
    let list = node.call("GET", "/api/v1/feeds", "").await;
    assert_eq!(list.json().as_array().unwrap().len(), 2);

    assert_eq!(node.call("DELETE", "/api/v1/feeds/roof", "").await.status, 204);
    let answer = node.call("DELETE", "/api/v1/feeds/roof", "").await;
    assert_eq!(answer.status, 404);
    assert_eq!(answer.json()["hint"], "the feeds are: camera");
    let answer = node.call("POST", "/api/v1/invites", "{}").await;
    assert_eq!(answer.status, 421);
    let answer = node.call("POST", "/api/v1/invites", r#"{"uses":0}"#).await;
    assert_eq!(answer.status, 400);
}

#[tokio::test]
async fn others_see_nothing_where_others_can_reach_it() {
    let node = served_at("0.0.0.0:0").await;
    for path in ["/api/v1/status", "/api/v1/events", "/metrics"] {
        assert_eq!(node.ask("GET", path, &[], "").await.status, 401, "{path}");
        assert_eq!(node.call("GET", path, "").await.status, 200, "{path}");
    }
    assert_eq!(node.ask("GET", "/healthz", &[], "").await.status, 200);
}

#[tokio::test]
async fn the_command_line_reaches_the_running_node() {
    use clap::Parser;
    let node = served().await;
    let run = crate::store::RunFile::create(&node.data, node.address, &node.token).unwrap();
    let feed = async |line: &str| {
        let data = node.data.path().to_str().unwrap();
        let words = ["firstmile", "feed", "--data", data].into_iter().chain(line.split(' '));
        match crate::cli::Cli::try_parse_from(words).unwrap().command {
            crate::cli::Command::Feed(args) => crate::cli::feed::run(&args).await,
            other => panic!("{other:?}"),
        }
    };
    let list = feed("list").await.unwrap();
    assert!(list.contains(&format!("Stream key   camera-{}\n", node.secret)), "{list}");
    assert!(feed("add roof").await.unwrap().starts_with("roof\n"));
    assert!(!feed("rotate camera").await.unwrap().contains(&node.secret));
    assert_eq!(Feeds::load(&node.data).unwrap().list().len(), 2);
    feed("remove roof").await.unwrap();
    let error = feed("remove roof").await.unwrap_err();
    let text = crate::error::describe(&error);
    assert_eq!(text, "error: there is no feed named roof\nhint: the feeds are: camera\n");

    drop(run);
    let error = feed("list").await.unwrap_err();
    assert!(error.to_string().starts_with("another firstmile"), "{error}");
}

#[tokio::test]
async fn stops_when_told() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let node = {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let feeds = Mutex::new(Feeds::load(&data).unwrap());
        Arc::new(FakeNode { feeds, events: Events::new(&[]), _dir: dir })
    };
    let hosts = AllowedHosts::new(address, None);
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(serve(listener, node, (Token::random(), None), hosts, async {
        let _ = stopped.await;
    }));
    // An idle connection does not hold the node up.
    let _idle = TcpStream::connect(address).await.unwrap();
    stop.send(()).unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(10), serving).await;
    ended.expect("it stops").unwrap().unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn events_are_listed_and_exported() {
    let node = served().await;
    for (kind, feed) in [(Kind::Live, "camera"), (Kind::Lost, "roof"), (Kind::Live, "roof")] {
        let severity = if kind == Kind::Lost { Severity::Error } else { Severity::Info };
        node.events.say(kind, severity, About::feed(feed), format!("{feed} is {kind}"));
    }
    let texts = async |query: &str| {
        let answer = node.ask("GET", &format!("/api/v1/events{query}"), &[], "").await;
        assert_eq!(answer.status, 200, "{query}: {}", answer.text);
        let list = answer.json()["events"].as_array().unwrap().clone();
        list.iter().map(|event| event["text"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(texts("").await, ["camera is live", "roof is lost", "roof is live"]);
    assert_eq!(texts("?limit=1").await, ["roof is live"]);
    assert_eq!(texts("?feed=roof&kind=live,weak").await, ["roof is live"]);
    assert_eq!(texts("?severity=warning").await, ["roof is lost"]);
    assert_eq!(texts("?since=2999-01-01").await, [""; 0]);
    let all = node.ask("GET", "/api/v1/events", &[], "").await.json();
    let newest = all["newest"].as_u64().unwrap();
    assert_eq!(all["events"][2]["id"], newest);
    assert_eq!(texts(&format!("?since={}", newest - 1)).await, ["roof is live"]);

    let answer = node.ask("GET", "/api/v1/events?format=text&feed=camera", &[], "").await;
    assert!(answer.text.ends_with("Z info    live camera: camera is live\n"), "{}", answer.text);
    let disposition = answer.head.headers()["content-disposition"].to_str().unwrap();
    assert_eq!(disposition, "attachment; filename=\"firstmile-events.txt\"");
    let answer = node.ask("GET", "/api/v1/events?format=ndjson", &[], "").await;
    let lines: Vec<Value> =
        answer.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines, *all["events"].as_array().unwrap());
    for bad in ["?kind=alive", "?since=yesterday", "?severity=fatal", "?limit=x", "?colour=red"] {
        let answer = node.ask("GET", &format!("/api/v1/events{bad}"), &[], "").await;
        assert_eq!(answer.status, 400, "{bad}");
        assert!(answer.json()["hint"].is_string());
    }
}

/// An open stream of events.
struct Following {
    body: Incoming,
    text: String,
}

impl Following {
    async fn open(node: &Served, path: &str, headers: &[(&str, &str)]) -> Result<Self, StatusCode> {
        let port = node.address.port();
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let mut request = Request::get(path).header("accept", "text/event-stream");
        request = request.header("host", format!("127.0.0.1:{port}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::new())).unwrap();
        let (head, body) = sender.send_request(request).await.unwrap().into_parts();
        if head.status != 200 {
            return Err(head.status);
        }
        assert_eq!(head.headers["content-type"], "text/event-stream");
        Ok(Self { body, text: String::new() })
    }

    /// The next event; nothing when the stream ends.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let data = event.lines().find_map(|line| line.strip_prefix("data: "));
                let data = data.map(|data| serde_json::from_str(data).unwrap());
                self.text = rest.to_owned();
                match data {
                    Some(data) => return Some(data),
                    None => continue,
                }
            }
            let frame = self.body.frame().await?.ok()?;
            self.text.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
        }
    }
}

#[tokio::test]
async fn events_are_followed_and_taken_up_again() {
    let node = served().await;
    let say = |feed: &str| {
        node.events.say(Kind::Live, Severity::Info, About::feed(feed), "on air");
        *node.events.newest().borrow()
    };
    say("before");
    let mut all = Following::open(&node, "/api/v1/events", &[]).await.unwrap();
    let mut roof = Following::open(&node, "/api/v1/events?feed=roof", &[]).await.unwrap();
    let (first, second) = (say("camera"), say("roof"));
    let event = all.next().await.unwrap();
    assert_eq!((&event["id"], &event["feed"]), (&json!(first), &json!("camera")), "not the past");
    assert_eq!(all.next().await.unwrap()["id"], second);
    assert_eq!(roof.next().await.unwrap()["id"], second);
    drop(all);
    let third = say("roof");
    let last = first.to_string();
    let mut again =
        Following::open(&node, "/api/v1/events", &[("last-event-id", &last)]).await.unwrap();
    assert_eq!(again.next().await.unwrap()["id"], second);
    assert_eq!(again.next().await.unwrap()["id"], third);
    // With what was before, by number; and from a program whose numbers are greater than ours.
    let mut past = Following::open(&node, "/api/v1/events?since=0", &[]).await.unwrap();
    assert_eq!(past.next().await.unwrap()["feed"], "before");
    let later = [("last-event-id", "9007199254740991")];
    let mut past = Following::open(&node, "/api/v1/events", &later).await.unwrap();
    assert_eq!(past.next().await.unwrap()["feed"], "before");
}

#[tokio::test]
async fn so_many_follow_the_events_and_no_more() {
    let node = served().await;
    let mut open = Vec::new();
    let refused = loop {
        match Following::open(&node, "/api/v1/events", &[]).await {
            Ok(following) => open.push(following),
            Err(status) => break status,
        }
        assert!(open.len() < 100);
    };
    assert_eq!((refused, open.len()), (StatusCode::SERVICE_UNAVAILABLE, 32));
    // The list is there all the same, and a place that is left is free again.
    assert_eq!(node.ask("GET", "/api/v1/events", &[], "").await.status, 200);
    open.pop();
    let patience = tokio::time::timeout(Duration::from_secs(10), async {
        while Following::open(&node, "/api/v1/events", &[]).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    patience.await.expect("a place is free");
}

#[tokio::test]
async fn one_who_falls_too_far_behind_is_let_go() {
    let node = served().await;
    let mut slow = Following::open(&node, "/api/v1/events", &[]).await.unwrap();
    // More than sockets and buffers take, of which the log keeps the last.
    let text = "x".repeat(400);
    for _ in 0..40_000 {
        node.events.say(Kind::Skipped, Severity::Info, About::default(), text.clone());
        tokio::task::yield_now().await;
    }
    let (mut count, mut last) = (0, 0);
    let read = tokio::time::timeout(Duration::from_secs(30), async {
        while let Some(event) = slow.next().await {
            let id = event["id"].as_u64().unwrap();
            assert!(last == 0 || id == last + 1, "nothing is left out in between");
            (count, last) = (count + 1, id);
        }
    });
    read.await.expect("the stream ends");
    assert!(count < 40_000);
}

#[tokio::test]
async fn the_api_describes_itself() {
    let node = served().await;
    let answer = node.ask("GET", "/api/v1/openapi.json", &[], "").await;
    assert_eq!(answer.head.headers()["content-type"], "application/json");
    assert!(answer.json()["paths"]["/api/v1/status"].is_object());
}
