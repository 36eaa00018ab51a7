//! The API over real connections, with a node that only pretends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use super::*;
use crate::secret::{FeedName, StreamKey};
use crate::status::{Auth, FeedState, FeedStatus, KeyText, Publish};
use crate::store::{DataDir, Feeds, StoredFeed};

/// A studio that has feeds and nothing else.
struct FakeNode {
    feeds: Mutex<Feeds>,
    _dir: tempfile::TempDir,
}

fn publish(key: &StreamKey) -> Vec<Publish> {
    vec![Publish::new("berlin", "relay.example", 1935, key)]
}

fn info(feed: &StoredFeed) -> FeedInfo {
    let publish = publish(&feed.key());
    let auth = feed.auth.as_ref().map(|login| Auth::new(&publish[0].server, login));
    let recorded = feed.recorded.is_some();
    FeedInfo { name: feed.name.to_string(), publish, auth, play: None, recorded }
}

impl Node for FakeNode {
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

    fn add_feed(&self, name: &str) -> Result<FeedInfo, ApiError> {
        let name: FeedName = name.parse()?;
        Ok(info(&self.feeds.lock().unwrap().add(&name)?))
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

    fn recordings(&self) -> Result<Vec<RecordingInfo>, ApiError> {
        Ok(Vec::new())
    }

    fn remove_feed(&self, name: &str) -> Result<(), ApiError> {
        let name: FeedName = name.parse()?;
        self.feeds.lock().unwrap().remove(&name)?;
        Ok(())
    }

    fn create_invite(&self, _: Option<u32>, _: Duration) -> Result<String, ApiError> {
        Err(ApiError::invites_belong_to_the_relay())
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
    let dir = tempfile::tempdir().unwrap();
    let data = DataDir::open(dir.path()).unwrap();
    let feeds = Feeds::load(&data).unwrap();
    let secret = feeds.list()[0].secret.expose().to_owned();
    let node = Arc::new(FakeNode { feeds: Mutex::new(feeds), _dir: dir });
    let listener = TcpListener::bind(bind).await.unwrap();
    let address = listener.local_addr().unwrap();
    let token = Token::random();
    let hosts = AllowedHosts::new(address, Some("studio.example"));
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = serve(listener, node, token.clone(), hosts, async {
        let _ = stopped.await;
    });
    tokio::spawn(serving);
    Served { address, token, secret, data, _stop: stop }
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
        ("PUT", "/api/v1/feeds/camera/recording"),
        ("GET", "/api/v1/recordings"),
        ("DELETE", "/api/v1/feeds/camera"),
        ("POST", "/api/v1/invites"),
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
    for path in ["/api/v1/status", "/metrics"] {
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
        Arc::new(FakeNode { feeds: Mutex::new(Feeds::load(&data).unwrap()), _dir: dir })
    };
    let hosts = AllowedHosts::new(address, None);
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(serve(listener, node, Token::random(), hosts, async {
        let _ = stopped.await;
    }));
    // An idle connection does not hold the node up.
    let _idle = TcpStream::connect(address).await.unwrap();
    stop.send(()).unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(10), serving).await;
    ended.expect("it stops").unwrap().unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}
