//! The dashboard's password on the real binary, opened to the network.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use testkit::tungstenite::{self, ClientRequestBuilder, Message};
use testkit::{Node, PATIENCE, http};

const FIRSTMILE: &str = env!("CARGO_BIN_EXE_firstmile");

/// A request as a browser writes it: status, head and body.
fn ask(
    at: SocketAddr,
    method: &str,
    path: &str,
    headers: &str,
    body: &str,
) -> (u16, String, String) {
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {at}\r\n{headers}Content-Length: {}\r\nConnection: \
         close\r\n\r\n{body}",
        body.len()
    );
    http::exchange(at, &request).unwrap()
}

#[test]
fn a_dashboard_on_the_lan_shows_nothing_before_the_password_and_everything_after() {
    let password = "http_password = \"a good password\"\n";
    for launch in [Node::relay(FIRSTMILE), Node::studio(FIRSTMILE)] {
        let node = launch.http("0.0.0.0:0").config(password).start().unwrap();
        let at = SocketAddr::from(([127, 0, 0, 1], node.address("http").port()));
        assert_eq!(ask(at, "GET", "/", "", "").0, 200, "the page itself");
        for path in ["/api/v1/status", "/metrics"] {
            assert_eq!(ask(at, "GET", path, "", "").0, 401, "{path}");
        }
        let origin = format!("Origin: http://{at}\r\n");
        let wrong = r#"{"password":"a bad password"}"#;
        assert_eq!(ask(at, "POST", "/api/v1/login", &origin, wrong).0, 401);
        let right = r#"{"password":"a good password"}"#;
        let (status, head, _) = ask(at, "POST", "/api/v1/login", &origin, right);
        assert_eq!(status, 204, "{head}");
        let cookie = head.split_once("firstmile-session=").unwrap().1.split(';').next().unwrap();
        let cookie = format!("Cookie: firstmile-session={cookie}\r\n");
        for path in ["/api/v1/status", "/metrics"] {
            assert_eq!(ask(at, "GET", path, &cookie, "").0, 200, "{path}");
        }
        let foreign = format!("{cookie}Origin: http://evil.example\r\n");
        assert_eq!(ask(at, "GET", "/api/v1/status", &foreign, "").0, 401);
        assert_eq!(ask(at, "POST", "/api/v1/logout", &foreign, "").0, 403);
        let own = format!("{cookie}{origin}");
        assert_eq!(ask(at, "POST", "/api/v1/logout", &own, "").0, 204);
        assert_eq!(ask(at, "GET", "/api/v1/status", &cookie, "").0, 401);
        // Who is on the machine goes on as before.
        assert!(node.status().is_ok());
        assert!(!node.log().contains("a good password") && !node.log().contains("a bad password"));
    }
}

#[test]
fn logging_out_ends_what_is_being_watched() {
    let config = "http_password = \"a good password\"\n";
    let studio = Node::studio(FIRSTMILE).http("0.0.0.0:0").config(config).start().unwrap();
    let at = SocketAddr::from(([127, 0, 0, 1], studio.address("http").port()));
    let origin = format!("http://{at}");
    let log_in = || {
        let headers = format!("Origin: {origin}\r\n");
        let body = r#"{"password":"a good password"}"#;
        let (_, head, _) = ask(at, "POST", "/api/v1/login", &headers, body);
        let cookie = head.split_once("firstmile-session=").unwrap().1.split(';').next().unwrap();
        format!("firstmile-session={cookie}")
    };
    let connect = || {
        let stream = TcpStream::connect(at).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    };
    let preview = |cookie: &str| {
        let uri = format!("ws://{at}/api/v1/feeds/camera/preview").parse().unwrap();
        let request = ClientRequestBuilder::new(uri).with_header("Origin", &origin);
        let request = request.with_header("Cookie", cookie);
        let mut socket = tungstenite::client(request, connect()).unwrap().0;
        socket.send(Message::text(r#"{"mode": "full"}"#)).unwrap();
        assert!(socket.read().unwrap().is_text(), "the feed is described");
        socket
    };
    let (cookie, other) = (log_in(), log_in());
    let (mut mine, mut others) = (preview(&cookie), preview(&other));
    let mut events = connect();
    let request = format!(
        "GET /api/v1/events HTTP/1.1\r\nHost: {at}\r\nCookie: {cookie}\r\nAccept: \
         text/event-stream\r\n\r\n"
    );
    events.write_all(request.as_bytes()).unwrap();
    let mut first = [0; 12];
    events.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");

    let headers = format!("Origin: {origin}\r\nCookie: {cookie}\r\n");
    assert_eq!(ask(at, "POST", "/api/v1/logout", &headers, "").0, 204);
    let code = loop {
        if let Message::Close(frame) = mine.read().expect("a close frame") {
            break u16::from(frame.expect("a code").code);
        }
    };
    assert_eq!(code, 1001, "who is let in again may come back");
    // The last chunk of the stream.
    let mut rest = Vec::new();
    while !rest.ends_with(b"\r\n0\r\n\r\n") {
        let mut bytes = [0; 4_096];
        let count = events.read(&mut bytes).unwrap();
        assert!(count > 0, "it ends in order: {}", String::from_utf8_lossy(&rest));
        rest.extend_from_slice(&bytes[..count]);
    }
    // Another browser's session goes on.
    others.send(Message::Ping(Default::default())).unwrap();
    while !others.read().expect("it is open").is_pong() {}
}
