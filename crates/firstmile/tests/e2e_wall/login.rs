//! The password, typed in.

use std::net::SocketAddr;

use testkit::browser::Page;
use testkit::client::publish_clip;
use testkit::{Node, PATIENCE, Value, http, wait_until};

use super::{FIRSTMILE, start_browser, wait_text};

const PASSWORD: &str = "a good password";

#[track_caller]
fn enter(page: &mut Page, password: &str) {
    page.type_into("#token", password).unwrap();
    page.press("Enter").unwrap();
}

#[test]
fn who_types_the_password_watches_until_they_log_out() {
    let config = format!("http_password = \"{PASSWORD}\"\n");
    let studio = Node::studio(FIRSTMILE).http("0.0.0.0:0").config(&config).start().unwrap();
    let at = SocketAddr::from(([127, 0, 0, 1], studio.address("http").port()));
    let viewers = || {
        let page = http::get(at, "/metrics", Some(&studio.token())).unwrap().1;
        let line = page.lines().find_map(|line| line.strip_prefix("firstmile_preview_viewers "));
        line.expect("a figure").parse::<u64>().unwrap()
    };
    let _encoder = publish_clip(&studio.url(&studio.key("camera")));
    studio.wait_feed("camera", "live");
    let browser = start_browser();
    let mut page = browser.open(&format!("http://{at}/")).unwrap();
    wait_text(&mut page, "This page needs the password.");
    assert_eq!(page.eval("document.querySelector('.card')").unwrap(), Value::Null);

    enter(&mut page, "a bad password");
    wait_text(&mut page, "That is not the password");
    assert_eq!(page.eval("document.querySelector('.card')").unwrap(), Value::Null);
    assert_eq!(page.eval("document.querySelector('#token').value").unwrap(), "");

    enter(&mut page, PASSWORD);
    page.wait("a card", "document.querySelector('.card.live')");
    // The cookie opens the WebSocket, too; no script sees it, and no token is there.
    page.wait(
        "pictures",
        "document.querySelector('.screen')?.fmPreview.player?.stats.presented > 30",
    );
    assert_eq!(viewers(), 1);
    assert_eq!(
        page.eval("[document.cookie, sessionStorage.length]").unwrap(),
        Value::from(vec![Value::from(""), Value::from(0),])
    );
    // Another tab is logged in with it, and this one still is when it is loaded again.
    page.goto(&format!("http://{at}/?again")).unwrap();
    page.wait("a card", "document.querySelector('.card.live')");

    // As another tab does that logs out: this one says so, and takes the password again.
    page.eval("fetch('/api/v1/logout', { method: 'POST' }).then((answer) => answer.status)")
        .unwrap();
    wait_text(&mut page, "You are logged out: elsewhere");
    enter(&mut page, PASSWORD);
    page.wait(
        "no question",
        "!document.querySelector('#token') && document.querySelector('.wall')",
    );
    // The preview ended with the login, and is there again.
    page.wait(
        "pictures",
        "document.querySelector('.screen')?.fmPreview.player?.stats.presented > 30",
    );

    page.click_button(".top", "Log out").unwrap();
    wait_text(&mut page, "This page needs the password.");
    let left = page.eval("document.body.innerText").unwrap();
    let left = left.as_str().unwrap();
    assert!(!left.contains("camera") && !left.contains("Log out"), "it still shows:\n{left}");
    wait_until("nobody watches", PATIENCE, || viewers() == 0);

    // What the browser complains of is that it was not let in.
    let complaints = page.complaints().unwrap();
    assert!(complaints.iter().all(|text| text.contains("status of 401")), "{complaints:?}");
}
