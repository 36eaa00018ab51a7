//! Keys: shown when asked for, as a text and as a QR code; made anew, paused.

use std::collections::BTreeMap;

use testkit::browser::Page;
use testkit::client::{assert_refused, publish_clip};
use testkit::{Node, PATIENCE, Value, http, tempdir, wait_for};

use super::{FIRSTMILE, address, assert_content, codes, has, scan, start_browser, wait_text};

const SET_UP: &str = "Set up an encoder";

/// The first place to publish the feed to, as the API has it now.
fn place(studio: &Node) -> Value {
    studio.feed("camera").unwrap()["publish"][0].clone()
}

fn key(studio: &Node) -> String {
    place(studio)["key"].as_str().unwrap().to_owned()
}

/// The part of a key that is no name.
fn secret(key: &str) -> &str {
    key.rsplit_once('-').unwrap().1
}

/// The fields of a link's query.
fn fields(query: &str) -> BTreeMap<String, String> {
    let pairs = query.split('&').map(|pair| pair.split_once('=').expect("a field"));
    pairs.map(|(name, value)| (name.to_owned(), decoded(value))).collect()
}

/// RFC 3986 §2.1.
fn decoded(text: &str) -> String {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(&part[..2], 16).expect("two digits"));
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    String::from_utf8(bytes).expect("UTF-8")
}

#[test]
fn a_key_is_shown_when_asked_for_and_its_codes_say_what_the_api_says() {
    let relay = Node::relay(FIRSTMILE).start().unwrap();
    let studio = Node::studio(FIRSTMILE).join(relay.join_link()).start().unwrap();
    studio.wait_links(1);
    let browser = start_browser();
    let mut page = browser.open(&address(&studio)).unwrap();
    let place = place(&studio);
    let text = |name: &str| place[name].as_str().unwrap();
    let key = text("key");

    page.click_button(".card", SET_UP).unwrap();
    wait_text(&mut page, "Stream key");
    let is_code_shown = "document.querySelector('.qr') !== null";
    assert!(!has(&mut page, secret(key)), "nobody asked for the key");
    assert_eq!(page.eval(is_code_shown).unwrap(), false, "nobody asked for a code");
    let dir = tempdir().unwrap();
    assert_eq!(codes(&mut page, &dir.path().join("page.png")), Vec::<String>::new());

    page.click_button(".setup", "QR for Larix, IRL Pro").unwrap();
    let code = scan(&mut page);
    let query = code.strip_prefix("larix://set/v1?").unwrap_or_else(|| panic!("{code}"));
    let name = format!("camera ({})", text("relay"));
    let url = format!("{}/{key}", text("server"));
    let wanted = [
        ("conn[][url]", url.as_str()),
        ("conn[][name]", &name),
        ("conn[][mode]", "va"),
        ("conn[][overwrite]", "on"),
        ("conn[][active]", "on"),
    ];
    let wanted = wanted.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(fields(query), BTreeMap::from(wanted));
    assert_eq!(url, text("url"), "the API agrees with itself");
    assert_eq!(url, relay.url(key), "and the code with where the relay listens");
    assert!(!has(&mut page, secret(key)), "the key is in the picture only");

    page.click_button(".setup", "QR for Moblin").unwrap();
    page.wait("its words", "document.querySelector('.qr').textContent.includes('Moblin')");
    let settings = wait_for("Moblin's code", PATIENCE, || {
        let code = scan(&mut page);
        Some(decoded(code.strip_prefix("moblin://?")?))
    });
    let settings: Value = settings.parse().unwrap();
    let stream = &settings["streams"][0];
    assert_eq!((&stream["url"], &stream["name"]), (&url.into(), &name.into()), "{settings}");

    // The other place has its own code, and the one before is gone at once.
    page.click_button(".setup .choice", "this studio").unwrap();
    page.wait("no code", "document.querySelector('.qr') === null");
    page.click_button(".setup", "QR of the URL").unwrap();
    assert_eq!(scan(&mut page), studio.feed("camera").unwrap()["publish"][1]["url"]);
    page.click_button(".setup", "Hide the QR").unwrap();
    page.wait("no code", "document.querySelector('.qr') === null");

    page.click_button(".setup", "Show the key").unwrap();
    let shown = "[...document.querySelectorAll('.setup .field code')].map((e) => e.textContent)";
    page.wait("the key", &format!("{shown}.includes('{key}')"));
    page.click_button(".setup", "Hide the key").unwrap();
    page.wait("no key", &format!("!{shown}.includes('{key}')"));
    assert!(!has(&mut page, secret(key)));

    // Who has not the token sees neither.
    let mut stranger = browser.open(&format!("http://{}/", studio.address("http"))).unwrap();
    stranger.wait("a card", "document.querySelector('.card')");
    assert!(!has(&mut stranger, secret(key)) && !has(&mut stranger, SET_UP));
    assert_content(&mut page);
    assert_content(&mut stranger);
}

/// The newest events as the panel shows them: what, and in which words.
const PANEL: &str = "[...document.querySelectorAll('.events li')] \
    .map((li) => [li.querySelector('b').textContent, li.querySelector('span').textContent])";

/// The same as the API has them.
fn events(studio: &Node) -> Vec<[String; 2]> {
    let token = studio.token();
    let answer = http::get_json(studio.address("http"), "/api/v1/events?limit=500", Some(&token));
    let answer = answer.unwrap();
    let events = answer["events"].as_array().unwrap().iter().rev().take(12);
    let text = |event: &Value, name: &str| event[name].as_str().unwrap().to_owned();
    events.map(|event| [text(event, "kind").replace('_', " "), text(event, "text")]).collect()
}

#[track_caller]
fn wait_card(page: &mut Page, state: &str) {
    page.wait(state, &format!("document.querySelector('.card.{state}')"));
}

#[test]
fn a_new_key_and_a_pause_cut_the_encoder_and_the_panel_tells_of_it() {
    let studio = Node::studio(FIRSTMILE).start().unwrap();
    let old = key(&studio);
    let mut encoder = publish_clip(&studio.url(&old));
    let browser = start_browser();
    let mut page = browser.open(&address(&studio)).unwrap();
    wait_card(&mut page, "live");
    page.click_button(".card", SET_UP).unwrap();
    page.click_button(".setup", "Show the key").unwrap();
    wait_text(&mut page, &old);

    // Once is not enough.
    page.click_button(".card", "New key").unwrap();
    page.wait("the question", "document.querySelector('.card .danger')");
    assert!(encoder.is_running() && key(&studio) == old, "it was not sure yet");
    page.click_button(".card", "Really? The encoder is cut").unwrap();
    assert!(!encoder.wait(PATIENCE).unwrap().status.success(), "the encoder was cut");
    let new = key(&studio);
    assert_ne!(new, old);
    wait_text(&mut page, &new);
    assert!(!has(&mut page, secret(&old)));
    assert_refused(&studio.url(&old));
    let mut encoder = publish_clip(&studio.url(&new));
    studio.wait_feed("camera", "live");
    wait_card(&mut page, "live");

    page.click_button(".card", "Pause").unwrap();
    page.click_button(".card", "Really? The encoder is cut").unwrap();
    assert!(!encoder.wait(PATIENCE).unwrap().status.success(), "the encoder was cut");
    wait_text(&mut page, "Paused: its key lets no encoder in.");
    assert_eq!(studio.feed("camera").unwrap()["validity"]["paused"], true);
    assert_refused(&studio.url(&new));
    page.click_button(".card", "Resume").unwrap();
    page.wait("a good key", "!document.querySelector('.card .key')");
    let _encoder = publish_clip(&studio.url(&new));
    studio.wait_feed("camera", "live");
    wait_card(&mut page, "live");

    wait_for("the panel and the API say the same", PATIENCE, || {
        let shown = page.eval(PANEL).unwrap();
        let told = events(&studio);
        let is_same = shown == Value::from(told.into_iter().map(Vec::from).collect::<Vec<_>>());
        is_same.then_some(())
    });
    let shown = page.eval(PANEL).unwrap();
    let kinds: Vec<_> = shown.as_array().unwrap().iter().map(|event| event[0].clone()).collect();
    for kind in ["live", "key rotated"] {
        assert!(kinds.contains(&kind.into()), "no {kind:?} in {kinds:?}");
    }
    assert_content(&mut page);
}
