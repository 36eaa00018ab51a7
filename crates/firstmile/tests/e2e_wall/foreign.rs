//! Other sites' pages, and this one under another site's name.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use testkit::browser::Browser;
use testkit::{Node, Value, http};

use super::{FIRSTMILE, wait_text};

const PASSWORD: &str = "a good password";

/// Status of a request with these headers.
fn ask(at: SocketAddr, request: &str, headers: &str, body: &str) -> u16 {
    let text = format!(
        "{request} HTTP/1.1\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    http::exchange(at, &text).unwrap().0
}

/// What others' pages try: request and body.
const TRIES: [(&str, &str); 5] = [
    ("POST /api/v1/feeds", r#"{"name":"evil"}"#),
    ("DELETE /api/v1/feeds/camera", ""),
    ("POST /api/v1/login", r#"{"password":"a good password"}"#),
    ("POST /api/v1/feeds/camera/rotate", ""),
    ("OPTIONS /api/v1/feeds", ""),
];

#[test]
fn foreign_names_and_origins_are_refused_even_with_the_token() {
    let config = format!("http_password = \"{PASSWORD}\"\n");
    let upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    for launch in [Node::relay(FIRSTMILE), Node::studio(FIRSTMILE)] {
        let node = launch.config(&config).start().unwrap();
        let at = node.address("http");
        let token = format!("Authorization: Bearer {}\r\n", node.token());
        for host in
            ["evil.example", &format!("evil.example:{}", at.port()), "127.0.0.1.evil.example"]
        {
            let headers = format!("Host: {host}\r\n{token}");
            for (request, body) in TRIES {
                assert_eq!(ask(at, request, &headers, body), 403, "{host}: {request}");
            }
            for path in ["/", "/api/v1/status", "/api/v1/events", "/metrics"] {
                let request = format!("GET {path}");
                assert_eq!(ask(at, &request, &headers, ""), 403, "{host}: {path}");
            }
            let headers = format!("{headers}{upgrade}");
            assert_eq!(ask(at, "GET /api/v1/feeds/camera/preview", &headers, ""), 403, "{host}");
        }
        let other_port = format!("http://127.0.0.1:{}", at.port() ^ 1);
        for origin in ["http://evil.example", "null", &other_port] {
            let headers = format!("Host: {at}\r\nOrigin: {origin}\r\n{token}");
            for (request, body) in TRIES {
                assert_eq!(ask(at, request, &headers, body), 403, "{origin}: {request}");
            }
            let headers = format!("{headers}{upgrade}");
            assert_eq!(ask(at, "GET /api/v1/feeds/camera/preview", &headers, ""), 403, "{origin}");
        }
        assert!(node.feed("evil").is_none());
    }
}

/// Another site: an empty page for everybody.
fn another_site() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let answer = |mut stream: TcpStream| {
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 22\r\n\
              Connection: close\r\n\r\n<title>another</title>",
        );
    };
    thread::spawn(move || listener.incoming().map_while(Result::ok).for_each(answer));
    address
}

#[test]
fn another_sites_page_gets_nothing_in_a_browser_that_is_logged_in() {
    let config = format!("http_password = \"{PASSWORD}\"\n");
    let studio = Node::studio(FIRSTMILE).config(&config).start().unwrap();
    let at = studio.address("http");
    let browser = Browser::with(&["--host-resolver-rules=MAP evil.example 127.0.0.1"]).unwrap();
    let mut page = browser.open(&format!("http://{at}/")).unwrap();
    page.type_into("#token", PASSWORD).unwrap();
    page.press("Enter").unwrap();
    page.wait("the owner's page", "document.querySelector('.add')");
    assert_eq!(page.complaints().unwrap(), Vec::<String>::new());

    // For cookies, another port is the same site.
    page.goto(&format!("http://{}/", another_site())).unwrap();
    let script = format!(
        "(async () => {{
            const base = '{at}';
            const got = [];
            const json = {{ 'Content-Type': 'application/json' }};
            const how = [
                ['status', {{}}],
                ['feeds', {{ method: 'POST', headers: json, body: '{{\"name\":\"evil\"}}' }}],
                ['feeds/camera', {{ method: 'DELETE' }}],
            ];
            for (const [path, options] of how) {{
                const url = 'http://' + base + '/api/v1/' + path;
                got.push(await fetch(url, {{ credentials: 'include', ...options }})
                    .then((answer) => answer.status, () => 'refused'));
            }}
            // What needs no leave beforehand, and whose answer nobody reads.
            for (const path of ['feeds', 'feeds/camera/rotate', 'logout']) {{
                const url = 'http://' + base + '/api/v1/' + path;
                await fetch(url, {{ method: 'POST', mode: 'no-cors', credentials: 'include',
                    body: '{{\"name\":\"evil\"}}' }});
            }}
            got.push(await new Promise((done) => {{
                const socket = new WebSocket('ws://' + base + '/api/v1/feeds/camera/preview');
                socket.onopen = () => done('open');
                socket.onerror = () => done('refused');
            }}));
            return got;
        }})()"
    );
    let got = page.eval(&script).unwrap();
    assert_eq!(got, Value::from(vec!["refused"; 4]));
    assert!(studio.feed("evil").is_none());
    let key = studio.feed("camera").unwrap()["publish"][0]["key"].clone();
    assert_eq!(key, studio.key("camera").as_str(), "it is the key of the start");

    // A name of another site that points here.
    page.goto(&format!("http://evil.example:{}/", at.port())).unwrap();
    wait_text(&mut page, "this node does not go by that name");

    // The session is as it was.
    page.goto(&format!("http://{at}/")).unwrap();
    page.wait("the owner's page", "document.querySelector('.add')");
}
