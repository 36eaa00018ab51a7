//! A studio and a relay that find each other by clicking.

use testkit::Node;

use super::{FIRSTMILE, address, assert_content, has, scan, start_browser, wait_text};

#[test]
fn a_relay_is_joined_cuts_the_studio_off_and_invites_it_again() {
    let relay = Node::relay(FIRSTMILE).start().unwrap();
    let studio = Node::studio(FIRSTMILE).start().unwrap();
    let browser = start_browser();
    let mut page = browser.open(&address(&studio)).unwrap();
    wait_text(&mut page, "No relay is joined");
    page.type_into("input[name=link]", &format!("  {} ", relay.join_link())).unwrap();
    page.click_button(".links", "Join").unwrap();
    let state = "document.querySelector('.links .link .word')?.textContent";
    page.wait("the link", &format!("{state} === 'connected'"));
    studio.wait_links(1);
    let invite = relay.join_link().rsplit('/').next().unwrap();
    assert!(!has(&mut page, invite), "the link is nobody's to see");

    let at_relay = address(&relay);
    page.goto(&at_relay).unwrap();
    page.wait("the studio", &format!("{state} === 'connected'"));
    let key = studio.status().unwrap()["public_key"].as_str().unwrap().to_owned();
    wait_text(&mut page, &key[..8]);
    page.click_button(".links", "Cut off").unwrap();
    page.wait("the question", "document.querySelector('.links .danger')");
    assert_eq!(page.eval(state).unwrap(), "connected", "it was not sure yet");
    page.click_button(".links", "Really? Its feeds go").unwrap();
    page.wait("the studio's end", &format!("{state} === 'cut off'"));

    page.goto(&address(&studio)).unwrap();
    page.wait("the refusal", &format!("{state} === 'refused'"));
    wait_text(&mut page, "has cut this studio off");

    // An invite, carried over by its code.
    page.goto(&at_relay).unwrap();
    page.click_button(".links form", "Make a link").unwrap();
    wait_text(&mut page, "This link is shown only now.");
    assert!(!has(&mut page, "firstmile://"), "nobody asked for it");
    page.click_button(".made", "Show it and its QR").unwrap();
    let code = scan(&mut page);
    assert_eq!(page.eval("document.querySelector('.made code').textContent").unwrap(), *code);
    assert_eq!(code.split('/').next(), Some("firstmile:"), "{code}");
    assert_ne!(code, relay.join_link());
    page.click_button(".made", "Done").unwrap();
    page.wait("nothing left of it", "!document.querySelector('.made')");
    assert!(!has(&mut page, &code));

    page.goto(&address(&studio)).unwrap();
    page.type_into("input[name=link]", &code).unwrap();
    page.press("Enter").unwrap();
    page.wait("the link", &format!("{state} === 'connected'"));
    studio.wait_links(1);
    page.click_button(".links", "Leave").unwrap();
    page.click_button(".links", "Really? Its encoders are cut").unwrap();
    wait_text(&mut page, "No relay is joined");
    studio.wait_links(0);

    // The used one is gone by itself, the one of the start by a click.
    page.goto(&at_relay).unwrap();
    wait_text(&mut page, "The link of the start");
    page.click_button(".links:has(form)", "Revoke").unwrap();
    page.click_button(".links:has(form)", "Really?").unwrap();
    page.wait("no invite", "!document.querySelector('.links:has(form) .link')");
    assert!(relay.status().unwrap()["join_link"].is_null());
    assert_content(&mut page);
}
