//! The dashboard's password on the real binary, opened to the network.

use std::net::SocketAddr;

use testkit::{Node, http};

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
