//! The page as a person uses it, by clicking and typing in a real browser; after each test the browser
//! has nothing to complain of: no exception, no violation of the page's policy, no failed request.

#![cfg(target_os = "linux")]

mod clicks;
mod foreign;
mod hostile;
mod keys;
mod login;
mod pairing;
mod recording;

use std::path::Path;

use testkit::browser::{Browser, Page, qr_codes};
use testkit::{Node, PATIENCE, tempdir, wait_for};

const FIRSTMILE: &str = env!("CARGO_BIN_EXE_firstmile");

/// The page's address, with the token of its owner.
fn address(node: &Node) -> String {
    format!("http://{}/#token={}", node.address("http"), node.token())
}

#[track_caller]
fn assert_content(page: &mut Page) {
    assert_eq!(page.complaints().unwrap(), Vec::<String>::new());
}

/// Whether a text is anywhere in the document, in its attributes too.
fn has(page: &mut Page, text: &str) -> bool {
    let html = page.eval("document.documentElement.outerHTML").unwrap();
    html.as_str().expect("a document").contains(text)
}

/// Waits until the page shows a text.
#[track_caller]
fn wait_text(page: &mut Page, text: &str) {
    let quoted = testkit::Value::from(text);
    page.wait(text, &format!("document.body.innerText.includes({quoted})"));
}

/// What the QR code says that the page shows, read from the page's picture.
#[track_caller]
fn scan(page: &mut Page) -> String {
    let image = "document.querySelector('.qr img')";
    page.wait("a QR code", &format!("{image}?.complete && {image}.naturalWidth"));
    page.eval(&format!("{image}.scrollIntoView({{ block: 'center' }})")).unwrap();
    let dir = tempdir().unwrap();
    wait_for("one code on the screen", PATIENCE, || {
        let codes = codes(page, &dir.path().join("page.png"));
        <[String; 1]>::try_from(codes).ok().map(|[code]| code)
    })
}

/// All that is to be read on the screen as it is.
fn codes(page: &mut Page, picture: &Path) -> Vec<String> {
    page.screenshot(picture).unwrap();
    qr_codes(picture).unwrap()
}

fn start_browser() -> Browser {
    Browser::start().unwrap()
}
