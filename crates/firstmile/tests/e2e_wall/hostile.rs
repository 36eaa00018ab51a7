//! Peers that call themselves by markup, by controls of a terminal, and by what turns the direction of
//! writing: the pages show it as text, and what stands beside it is as it was.

use std::sync::Arc;

use backhaul::{Event, FeedKey, FeedProblem, Hello, Message, Session, VERSION, Welcome};
use firstmile::control::Control;
use firstmile::identity::Identity;
use firstmile::join::JoinLink;
use firstmile::link::{Dialer, Link, Transport};
use firstmile::quic::{Congestion, Listener};
use firstmile::secret::Secret;
use media::{Tag, Track};
use rtmp::session::Intent;
use rtmp::session::client::{Config, Event as Heard};
use testkit::browser::Page;
use testkit::{Node, OwnClient, PATIENCE, Value};
use tokio::runtime::{Builder, Runtime};

use super::{FIRSTMILE, address, assert_content, start_browser, wait_text};

/// A name that turns what stands behind it, and runs a script where it is taken for markup.
const NAME: &str = "\u{202e}<img src=x onerror=hacked=1>";
/// What is to be read of it.
const SHOWN: &str = "<img src=x onerror=hacked=1>";

/// Nothing of it became an element, ran, or turned anything.
#[track_caller]
fn assert_harmless(page: &mut Page) {
    let found = "[typeof window.hacked, document.querySelectorAll('#app img, #app script').length]";
    assert_eq!(page.eval(found).unwrap().to_string(), r#"["undefined",0]"#);
    let text = page.eval("document.body.textContent").unwrap();
    let text = text.as_str().unwrap();
    assert!(text.contains("onerror="), "{text}");
    let unseen = |c: char| (c.is_control() && c != '\n') || "\u{202e}\u{2066}\u{200b}".contains(c);
    assert!(!text.contains(unseen), "{text:?}");
    assert_content(page);
}

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
}

/// A studio of this name joins a relay.
async fn join(relay: &Node) -> (Link, Control) {
    let join: JoinLink = relay.join_link().parse().unwrap();
    let dialer = Dialer::new(Arc::new(Identity::generate()), Congestion::Bbr);
    let link = dialer.dial(Transport::Quic, relay.address("secure"), join.pin).await.unwrap();
    let (send, receive) = link.open_control().await.unwrap();
    let session = Session::dial(Hello {
        versions: vec![VERSION],
        instance: [1; 16],
        agent: NAME.into(),
        name: NAME.into(),
        invite: join.invite.expose().into(),
    });
    let mut control = Control { session, send, receive };
    control.flush().await.unwrap();
    assert!(matches!(control.event().await, Ok(Event::Open(_))), "it is let in");
    let feed =
        |name: &str| FeedKey { name: name.into(), hash: Secret::random().key_hash().0, left: None };
    control.session.send(&Message::Feeds(vec![feed(NAME), feed("mine")]));
    control.flush().await.unwrap();
    (link, control)
}

#[test]
fn a_studios_name_is_text_on_the_relays_page() {
    let relay = Node::relay(FIRSTMILE).start().unwrap();
    let runtime = runtime();
    let (link, _control) = runtime.block_on(join(&relay));
    let browser = start_browser();
    let mut page = browser.open(&address(&relay)).unwrap();
    wait_text(&mut page, SHOWN);
    page.wait("what happened", "document.querySelector('.events li')");
    // The digits beside the name stand in their order.
    let digits = "(() => { const text = document.querySelector('.links .link small').firstChild; \
        const at = (n) => { const r = document.createRange(); r.setStart(text, n); \
        r.setEnd(text, n + 1); return r.getBoundingClientRect().x; }; \
        return at(1) < at(8); })()";
    assert_eq!(page.eval(digits).unwrap(), true);
    assert_harmless(&mut page);
    // Who has not the token sees it, too.
    let mut stranger = browser.open(&format!("http://{}/", relay.address("http"))).unwrap();
    wait_text(&mut stranger, SHOWN);
    assert_harmless(&mut stranger);
    // What became of it stays in the list, and in the words of what happened.
    link.close("enough");
    page.to_front().unwrap();
    page.wait("it is away", "document.querySelector('.links .link .word')?.textContent === 'away'");
    assert_harmless(&mut page);
}

/// Waits for the studio's call and lets it in, from a place of this name; has something to say of its
/// feed.
async fn accept(listener: &Listener) -> (Link, Control) {
    loop {
        let Ok(Some(link)) = listener.accept().await.unwrap().handshake().await else { continue };
        let Ok((send, receive)) = link.accept_control().await else { continue };
        let mut control = Control { session: Session::accept(), send, receive };
        let Ok(Event::Hello(_)) = control.event().await else { continue };
        control.session.welcome(Welcome {
            version: VERSION,
            agent: NAME.into(),
            host: String::new(),
            rtmp_port: 1_935,
            rtmps_port: None,
            region: NAME.into(),
            measures: false,
        });
        let text = format!("{NAME} is the trouble");
        let problem = FeedProblem { name: "camera".into(), text };
        control.session.send(&Message::FeedProblem(problem));
        control.flush().await.unwrap();
        return (link, control);
    }
}

/// An encoder that says so of itself, in a codec of a hostile name.
fn encoder(url: &str) -> OwnClient {
    let mut config = Config::new(Intent::Publish, url.parse().unwrap());
    config.flash_ver = format!("{NAME}\x1b[31m");
    let mut encoder = OwnClient::start(config).unwrap();
    assert_eq!(encoder.event(PATIENCE).unwrap(), Some(Heard::Ready));
    let mut data = b"\x02\x00\x0aonMetaData\x08\x00\x00\x00\x01\x00\x07encoder\x02".to_vec();
    data.extend((NAME.len() as u16).to_be_bytes());
    data.extend(NAME.as_bytes());
    data.extend([0, 0, 9]);
    encoder.send_all(&[Tag::new(Track::Data, 0, data.into())]);
    let video = |at: i64| Tag::new(Track::Video, at, b"\x91<b>\x1babcd".to_vec().into());
    encoder.send_all(&(0..20).map(|n| video(n * 40)).collect::<Vec<_>>());
    encoder
}

#[test]
fn what_encoders_players_and_relays_say_is_text_on_the_studios_page() {
    let runtime = runtime();
    let identity = Identity::generate();
    let _inside = runtime.enter();
    let listener =
        Listener::bind(&identity, "127.0.0.1:0".parse().unwrap(), Congestion::Bbr).unwrap();
    let join = JoinLink {
        host: "127.0.0.1".into(),
        port: listener.local_addr().unwrap().port(),
        pin: identity.public_key(),
        invite: Secret::random(),
    };
    let (sender, met) = std::sync::mpsc::channel();
    runtime.spawn(async move {
        let met = accept(&listener).await;
        let _ = sender.send((met, listener));
    });
    let studio = Node::studio(FIRSTMILE).join(&join.expose()).start().unwrap();
    let _relay = met.recv_timeout(PATIENCE).expect("the studio calls");
    let _encoder = encoder(&studio.url(&studio.key("camera")));
    let mut config = Config::new(Intent::Play, studio.url("camera").parse().unwrap());
    config.flash_ver = format!("{NAME}\x1b[31m");
    let mut player = OwnClient::start(config).unwrap();
    assert_eq!(player.event(PATIENCE).unwrap(), Some(Heard::Ready));

    let browser = start_browser();
    let mut page = browser.open(&address(&studio)).unwrap();
    let has = |selector: &str, text: &str| {
        let quoted = Value::from(text);
        format!("document.querySelector('{selector}')?.textContent.includes({quoted})")
    };
    let of = |selector| has(selector, SHOWN);
    page.wait("the player's name", &of(".way li:last-child"));
    // Of a place the studio takes letters and digits only.
    page.wait("the relay's place", &has(".links", "onerrorhacked1"));
    page.wait("the relay's trouble", &of("[role=alert]"));
    page.wait(
        "the codec",
        "document.querySelector('.stage .words')?.textContent.startsWith('<b>')",
    );
    page.click_button(".card", "Set up an encoder").unwrap();
    page.wait("the place to choose", &has(".setup .choice", "onerrorhacked1"));
    assert_eq!(page.eval("document.querySelector('.stage b')").unwrap(), Value::Null);
    assert_harmless(&mut page);

    let mut stranger = browser.open(&format!("http://{}/", studio.address("http"))).unwrap();
    stranger.wait("the player's name", &of(".way li:last-child"));
    assert_harmless(&mut stranger);
}
