//! The dashboard in a real browser: previews play, and nobody else can watch.

use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use bytes::Bytes;
use media::{Tag, Track};
use rtmp::session::Intent;
use testkit::browser::{Browser, Page};
use testkit::client::{FfmpegPublish, publish_clip};
use testkit::tungstenite::protocol::frame::coding::CloseCode;
use testkit::tungstenite::{self, ClientRequestBuilder, Error, Message, WebSocket};
use testkit::{Node, OwnClient, PATIENCE, Value, fixture, http, tempdir, wait_until};

const FIRSTMILE: &str = env!("CARGO_BIN_EXE_firstmile");

/// The preview of the first card, with what it can say about itself.
const PREVIEW: &str = "document.querySelector('.screen')?.fmPreview";

fn open(browser: &Browser, studio: &Node) -> Page {
    let url = format!("http://{}/#token={}", studio.address("http"), studio.token());
    browser.open(&url).unwrap()
}

/// How many cards show a feed, by the studio's metrics.
fn viewers(studio: &Node) -> u64 {
    let page = http::get(studio.address("http"), "/metrics", Some(&studio.token())).unwrap().1;
    let line = page.lines().find_map(|line| line.strip_prefix("firstmile_preview_viewers "));
    line.expect("a figure").parse().unwrap()
}

/// Waits until this many more pictures were shown.
#[track_caller]
fn wait_pictures(page: &mut Page, more: u64) {
    let shown = format!("{PREVIEW}?.player?.stats.presented ?? 0");
    let now = page.eval(&shown).unwrap().as_u64().unwrap();
    page.wait("pictures", &format!("{shown} >= {}", now + more));
}

fn words(page: &mut Page) -> String {
    let words = page.eval("document.querySelector('.stage .words')?.textContent ?? ''").unwrap();
    words.as_str().unwrap().to_owned()
}

/// A picture of another size and with B-frames.
fn other_clip(dir: &Path) -> std::path::PathBuf {
    fixture::b_frames(dir)
}

#[test]
fn a_feed_plays_on_its_card() {
    let studio = Node::studio(FIRSTMILE).start().unwrap();
    let url = studio.url(&studio.key("camera"));
    let encoder = publish_clip(&url);
    studio.wait_feed("camera", "live");
    let browser = Browser::start().unwrap();
    let mut page = open(&browser, &studio);
    wait_pictures(&mut page, 60);
    assert_eq!(viewers(&studio), 1);
    assert_eq!(studio.feed("camera").unwrap()["players"], 0, "a preview is no player");

    // It goes on, close behind the live edge, and it is the picture.
    let time = page.eval("document.querySelector('video').currentTime").unwrap();
    wait_pictures(&mut page, 30);
    page.wait(
        "the time to go on",
        &format!("document.querySelector('video').currentTime > {time}"),
    );
    let delays = page.eval(&format!("{PREVIEW}.player.stats.delays.slice(-30)")).unwrap();
    let mut delays: Vec<_> =
        delays.as_array().unwrap().iter().map(|delay| delay.as_f64().unwrap()).collect();
    delays.sort_by(f64::total_cmp);
    let median = delays[delays.len() / 2];
    assert!((0.0..2_000.0).contains(&median), "{median} ms behind the live edge");
    let light = "(() => { const v = document.querySelector('video'); \
        const c = document.createElement('canvas'); [c.width, c.height] = [64, 36]; \
        const d = c.getContext('2d'); d.drawImage(v, 0, 0, 64, 36); \
        return Math.max(...d.getImageData(0, 0, 64, 36).data.filter((_, i) => i % 4 < 3)); })()";
    assert!(page.eval(light).unwrap().as_f64().unwrap() > 100.0, "a dark picture");
    page.wait("a level", &format!("{PREVIEW}.level?.rms[0] > -60"));

    // Looked at, it plays with its sound.
    page.click(".stage").unwrap();
    page.wait(
        "sound",
        &format!("{PREVIEW}.player?.mode === 'full' && {PREVIEW}.player.lines.has('audio')"),
    );
    page.click(".sound").unwrap();
    page.wait("a voice", "!document.querySelector('video').muted");
    wait_pictures(&mut page, 30);
    assert_eq!(words(&mut page), "");

    // Another encoder takes over, with another size and frames in another order.
    let dir = tempdir().unwrap();
    drop(encoder);
    let _other = FfmpegPublish::new(&other_clip(dir.path()), &url).forever().start();
    page.wait("the other picture", "document.querySelector('video').videoWidth === 320");
    // Its keyframes are 10 s apart: they are kept for as long as pictures need them.
    for _ in 0..4 {
        wait_pictures(&mut page, 85);
    }
    assert_eq!(page.complaints().unwrap(), Vec::<String>::new());
    // A page that is left lets go, though the browser keeps it for the way back.
    page.goto("about:blank").unwrap();
    wait_until("nobody watches", PATIENCE, || viewers(&studio) == 0);
    page.eval("history.back()").unwrap();
    wait_pictures(&mut page, 30);
    assert_eq!(viewers(&studio), 1);
}

#[test]
fn cards_beyond_what_plays_show_their_keyframes() {
    let config = "[limits]\npreviews_per_feed = 1\npreviews = 7\n";
    let studio = Node::studio(FIRSTMILE).config(config).start().unwrap();
    let names = ["a", "b", "c", "d", "e", "f"];
    let mut encoders = Vec::new();
    for name in names {
        studio.json(&["feed", "add", name]);
        let url = studio.url(&studio.key(name));
        encoders.push(publish_clip(&url));
    }
    names.iter().for_each(|name| studio.wait_feed(name, "live"));
    let browser = Browser::start().unwrap();
    let mut page = open(&browser, &studio);
    page.resize(1900, 4000).unwrap();
    let modes = "[...document.querySelectorAll('.screen')].map((s) => s.fmPreview.player?.mode)";
    let of = |mode: &str| format!("{modes}.filter((mode) => mode === '{mode}').length");
    page.wait("stills", &format!("{} >= 2 && {} >= 1", of("stills"), of("picture")));
    // A keyframe every two seconds, and each is shown.
    let stills = "Math.min(...[...document.querySelectorAll('.screen')].map((s) => s.fmPreview) \
        .filter((p) => p.player?.mode === 'stills').map((p) => p.player.stats.presented))";
    page.wait("keyframes", &format!("{stills} >= 2"));
    // The last one is looked at, and plays in full.
    page.click(".screen[data-feed=f] .stage").unwrap();
    let full = "document.querySelector('.screen[data-feed=f]').fmPreview.player";
    page.wait("a full one", &format!("{full}?.mode === 'full' && {full}.stats.presented > 30"));
    assert_eq!(page.complaints().unwrap(), Vec::<String>::new());
    page.press("Enter").unwrap();
    page.wait("a small one", &format!("{full} && {full}.mode !== 'full'"));
    // There is no second place on any of them.
    let (code, _) = ask(&studio, "a", &hello(&studio.token()));
    assert_eq!(code, 4429);
}

/// How many pictures the browser shows is made up here; all else is real.
#[test]
fn a_slow_browser_plays_fewer_and_later_tries_again() {
    let studio = Node::studio(FIRSTMILE).start().unwrap();
    studio.json(&["feed", "add", "roof"]);
    let names = ["camera", "roof"];
    let _encoders = names.map(|name| publish_clip(&studio.url(&studio.key(name))));
    names.iter().for_each(|name| studio.wait_feed(name, "live"));
    let browser = Browser::start().unwrap();
    let mut page = open(&browser, &studio);
    page.resize(1900, 4000).unwrap();
    let all = "[...document.querySelectorAll('.screen')].map((screen) => screen.fmPreview)";
    let of = |mode: &str| format!("{all}.filter((p) => p.player?.mode === '{mode}').length");
    let patch = format!(
        "window.shown = 5; {all}.forEach((p) => {{ p.second = () => p.player?.mode === 'picture' ? \
         {{ got: 30, shown: window.shown }} : null; }})"
    );
    page.wait("both play", &format!("{} === 2", of("picture")));
    page.eval(&patch).unwrap();
    page.wait("one plays", &format!("{} === 1 && {} === 1", of("picture"), of("stills")));
    page.eval(
        "window.shown = 30; { const real = performance.now.bind(performance); performance.now = () \
         => real() + 31_000; }",
    )
    .unwrap();
    page.wait("both play again", &format!("{} === 2", of("picture")));
    assert_eq!(page.complaints().unwrap(), Vec::<String>::new());
}

#[test]
fn what_the_browser_cannot_play_is_said_and_nothing_in_it_is_believed() {
    let studio = Node::studio(FIRSTMILE).start().unwrap();
    let url = studio.url(&studio.key("camera"));
    let browser = Browser::start().unwrap();
    let mut page = open(&browser, &studio);
    let metadata = |text: &str| {
        let mut body = b"\x02\x00\x0aonMetaData\x08\x00\x00\x00\x01\x00\x07encoder\x02".to_vec();
        body.extend((text.len() as u16).to_be_bytes());
        body.extend(text.as_bytes());
        body.extend([0, 0, 9]);
        Tag::new(Track::Data, 0, body.into())
    };
    let video =
        |timestamp, body: &[u8]| Tag::new(Track::Video, timestamp, Bytes::copy_from_slice(body));

    let mut encoder = OwnClient::ready(&url, Intent::Publish);
    let mut record = b"\x90hvc1\x01\x01\x60\x00\x00\x00\xb0\x00\x00\x00\x00\x00\x5d".to_vec();
    record.resize(5 + 23, 0);
    let hostile = "<img src=x onerror=document.title='taken'>\u{202e}\x1b[31m";
    encoder.send_all(&[metadata(hostile), video(0, &record)]);
    encoder
        .send_all(&(0..20).map(|n| video(n * 40, b"\x91hvc1\x00\x00\x00abc")).collect::<Vec<_>>());
    let said = "document.querySelector('.stage .words')?.textContent";
    page.wait("the codec", &format!("{said}?.startsWith('H.265 cannot be previewed')"));
    assert!(words(&mut page).contains("hvc1.1.6.L93.B0"), "{}", words(&mut page));
    encoder.close();

    // A codec by a name that is markup.
    let mut encoder = OwnClient::ready(&url, Intent::Publish);
    encoder.send_all(&(0..20).map(|n| video(n * 40, b"\x91<b>\"abcd")).collect::<Vec<_>>());
    page.wait("the codec", &format!("{said}?.startsWith('<b>')"));
    assert_eq!(page.eval("document.querySelector('.stage b')").unwrap(), Value::Null);
    assert_eq!(page.eval("document.querySelectorAll('img').length").unwrap(), 0);
    assert_eq!(page.complaints().unwrap(), Vec::<String>::new());
    encoder.close();

    // And then one that it can play.
    let _encoder = publish_clip(&url);
    page.wait("pictures", &format!("{PREVIEW}?.player?.stats.presented > 10"));
}

/// Opens a preview's WebSocket; the error is the HTTP status.
fn socket(studio: &Node, feed: &str, origin: Option<&str>) -> Result<WebSocket<TcpStream>, u16> {
    let address = studio.address("http");
    let uri = format!("ws://{address}/api/v1/feeds/{feed}/preview").parse().unwrap();
    let mut request = ClientRequestBuilder::new(uri);
    if let Some(origin) = origin {
        request = request.with_header("Origin", origin);
    }
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    match tungstenite::client(request, stream) {
        Ok((socket, _)) => Ok(socket),
        Err(tungstenite::HandshakeError::Failure(Error::Http(answer))) => {
            Err(answer.status().as_u16())
        }
        Err(error) => panic!("{error}"),
    }
}

fn hello(token: &str) -> String {
    format!(r#"{{"token": "{token}", "mode": "full"}}"#)
}

/// How a socket ends, and the texts before.
fn end(socket: &mut WebSocket<TcpStream>) -> (u16, Vec<String>) {
    let mut texts = Vec::new();
    loop {
        match socket.read().expect("a close frame") {
            Message::Text(text) => texts.push(text.to_string()),
            Message::Close(frame) => {
                return (frame.map_or(CloseCode::Status, |frame| frame.code).into(), texts);
            }
            _ => {}
        }
    }
}

/// Opens a socket, says this, and reads how it ends.
fn ask(studio: &Node, feed: &str, first: &str) -> (u16, Vec<String>) {
    let mut socket = socket(studio, feed, None).unwrap();
    socket.send(Message::text(first)).unwrap();
    end(&mut socket)
}

#[test]
fn only_the_own_page_with_the_token_watches() {
    let studio = Node::studio(FIRSTMILE).start().unwrap();
    let (address, token) = (studio.address("http"), studio.token());
    for origin in ["http://evil.example", "null", &format!("http://{address}.evil.example")] {
        assert_eq!(socket(&studio, "camera", Some(origin)).unwrap_err(), 403, "{origin}");
    }
    let own = format!("http://{address}");
    let mut own = socket(&studio, "camera", Some(&own)).unwrap();
    own.send(Message::text(hello(&token))).unwrap();
    let first = own.read().unwrap().into_text().unwrap();
    assert!(first.contains(r#""type":"feed""#), "{first}");
    assert_eq!(viewers(&studio), 1);
    // What makes no sense ends it; it has a place for nobody else's words.
    own.send(Message::text(r#"{"mode": "everything"}"#)).unwrap();
    assert_eq!(end(&mut own).0, 1008);
    wait_until("nobody watches", PATIENCE, || viewers(&studio) == 0);

    let wrong = hello("0123456789abcdefghijklmnop");
    assert_eq!(ask(&studio, "camera", &wrong), (4401, vec![]));
    assert_eq!(ask(&studio, "camera", r#"{"mode": "full"}"#).0, 4401);
    assert_eq!(ask(&studio, "camera", "GET / HTTP/1.1").0, 4401);
    assert_eq!(ask(&studio, "nobody", &wrong).0, 4401, "strangers do not learn what there is");
    assert_eq!(ask(&studio, "nobody", &hello(&token)).0, 4404);
    // One that says nothing is not waited for.
    assert_eq!(end(&mut socket(&studio, "camera", None).unwrap()).0, 4401);
    let (status, body) = http::get(address, "/api/v1/feeds/camera/preview", Some(&token)).unwrap();
    assert_eq!(status, 400, "{body}");
}

#[test]
fn a_viewer_ends_with_its_feed_and_with_the_studio() {
    let studio = Node::studio(FIRSTMILE).start().unwrap();
    studio.json(&["feed", "add", "roof"]);
    let open = |feed| {
        let mut socket = socket(&studio, feed, None).unwrap();
        socket.send(Message::text(hello(&studio.token()))).unwrap();
        assert!(matches!(socket.read(), Ok(Message::Text(_))));
        socket
    };
    let (mut roof, mut camera) = (open("roof"), open("camera"));
    studio.json(&["feed", "remove", "roof"]);
    assert_eq!(end(&mut roof).0, 1001);
    studio.terminate().unwrap();
    assert_eq!(end(&mut camera).0, 1001);
}

#[test]
fn a_viewer_that_takes_nothing_is_let_go() {
    let studio = Node::studio(FIRSTMILE).start().unwrap();
    let url = studio.url(&studio.key("camera"));
    let _encoder = publish_clip(&url);
    studio.wait_feed("camera", "live");
    let mut socket = socket(&studio, "camera", None).unwrap();
    socket.send(Message::text(hello(&studio.token()))).unwrap();
    wait_until("a viewer", PATIENCE, || viewers(&studio) == 1);
    // It is given what the sockets hold, then 10 s.
    wait_until("nobody watches", 2 * PATIENCE, || viewers(&studio) == 0);
}

#[test]
fn ffprobe_reads_what_a_viewer_gets() {
    let studio = Node::studio(FIRSTMILE).start().unwrap();
    let url = studio.url(&studio.key("camera"));
    let _encoder = publish_clip(&url);
    studio.wait_feed("camera", "live");
    let mut socket = socket(&studio, "camera", None).unwrap();
    socket
        .send(Message::text(r#"{"token": "T", "mode": "picture"}"#.replace('T', &studio.token())))
        .unwrap();
    let dir = tempdir().unwrap();
    let (mut film, mut pictures) = (Vec::new(), 0);
    while pictures < 100 {
        if let Message::Binary(message) = socket.read().unwrap() {
            assert_eq!(message[0], 1, "no sound was asked for");
            pictures += u64::from(message[1] & 2 == 0);
            film.extend_from_slice(&message[24..]);
        }
    }
    let file = dir.path().join("preview.mp4");
    std::fs::write(&file, film).unwrap();
    let output = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "warning", "-i"])
        .arg(&file)
        .args(["-f", "framemd5", "-"])
        .output()
        .expect("ffmpeg starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
    let frames = String::from_utf8_lossy(&output.stdout);
    let frames = frames.lines().filter(|line| !line.starts_with('#')).count();
    assert_eq!(frames, 100);
}
