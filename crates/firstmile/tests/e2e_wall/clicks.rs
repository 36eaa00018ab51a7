//! The other buttons: each is pressed, and the API says that it did what is written on it.

use testkit::{Node, PATIENCE, Value, http, tempdir, wait_for, wait_until};

use super::{FIRSTMILE, address, assert_content, has, start_browser, wait_text};

#[test]
fn a_feed_is_added_set_up_and_removed_on_a_telephone() {
    let studio = Node::studio(FIRSTMILE).start().unwrap();
    let wait_api = |what: &str, is_so: &dyn Fn(&Value) -> bool| {
        wait_until(what, PATIENCE, || studio.feed("roof").is_some_and(|feed| is_so(&feed)));
    };
    let browser = start_browser();
    let mut page = browser.open(&address(&studio)).unwrap();
    page.resize(390, 844).unwrap();
    page.type_into("#feed", "<b>no").unwrap();
    page.press("Enter").unwrap();
    page.wait("why not", "document.querySelector('[role=alert] .alarm')");
    page.click_button("[role=alert]", "OK").unwrap();
    page.wait("no complaint", "!document.querySelector('[role=alert] .alarm')");
    page.eval("document.querySelector('#feed').value = ''").unwrap();
    page.type_into("#feed", "roof").unwrap();
    page.press("Enter").unwrap();
    // It is opened at once, to be set up.
    page.wait("its card", "document.querySelectorAll('.card').length === 2");
    page.wait("its setting up", "document.querySelector('.card:nth-child(2) .setup')");
    let wider = "document.documentElement.scrollWidth - document.documentElement.clientWidth";
    assert_eq!(page.eval(wider).unwrap(), 0, "it is as wide as the telephone");

    page.click_button(".keytime", "2 hours").unwrap();
    wait_api("an end of the key", &|feed| feed["validity"]["until_s"].is_u64());
    wait_text(&mut page, "Its key is good until");
    page.click_button(".keytime", "For ever").unwrap();
    wait_api("no end of the key", &|feed| feed["validity"]["until_s"].is_null());
    page.type_into(".timing input[name=delay]", "500").unwrap();
    page.click_button(".timing", "Set").unwrap();
    wait_api("a delay", &|feed| feed["play_delay_ms"] == 500);

    page.click_button(".recordings", "Record all feeds").unwrap();
    page.wait("two lights", "document.querySelectorAll('.rec').length === 2");
    wait_api("a recording", &|feed| feed["recording"]["on"] == true);
    page.click_button(".recordings", "Stop all").unwrap();
    page.wait("no light", "!document.querySelector('.rec')");

    page.click_button(".card:nth-child(2)", "Remove").unwrap();
    page.click_button(".card:nth-child(2)", "Really? Feed and key go").unwrap();
    page.wait("one card", "document.querySelectorAll('.card').length === 1");
    assert!(studio.feed("roof").is_none());
    // The only complaint is the name that was refused.
    let complaints = page.complaints().unwrap();
    assert!(complaints.len() == 1 && complaints[0].contains("status of 400"), "{complaints:?}");
}

#[test]
fn what_happened_is_filtered_and_kept_as_a_file() {
    let studio = Node::studio(FIRSTMILE).start().unwrap();
    studio.json(&["feed", "add", "roof"]);
    let browser = start_browser();
    let mut page = browser.open(&address(&studio)).unwrap();
    let dir = tempdir().unwrap();
    page.downloads(dir.path()).unwrap();
    let rows = "document.querySelectorAll('.events li').length";
    page.wait("both events", &format!("{rows} === 2"));
    let choose = |label: &str, value: &str| {
        format!(
            "(() => {{ const s = document.querySelector('.events select[aria-label={label}]'); \
             s.value = '{value}'; s.dispatchEvent(new Event('change')); }})()"
        )
    };
    page.eval(&choose("Feed", "roof")).unwrap();
    page.wait("the feed's only", &format!("{rows} === 1"));
    page.eval(&choose("Severity", "error")).unwrap();
    wait_text(&mut page, "Nothing yet.");
    page.eval(&choose("Severity", "info")).unwrap();
    page.wait("the feed's only", &format!("{rows} === 1"));

    let kept = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap_or_default();
    let asked = |format: &str| {
        let path = format!("/api/v1/events?format={format}&feed=roof");
        http::get(studio.address("http"), &path, Some(&studio.token())).unwrap().1
    };
    for (button, format, name) in [
        ("Save as text", "text", "firstmile-events.txt"),
        ("Save as JSON lines", "ndjson", "firstmile-events.ndjson"),
    ] {
        page.click_button(".events", button).unwrap();
        let text =
            wait_for("a file", PATIENCE, || Some(kept(name)).filter(|text| !text.is_empty()));
        assert_eq!(text, asked(format));
        assert!(text.contains("feed_added") && text.lines().count() == 1, "{text}");
    }

    // A token that was typed in by hand, wrong and right.
    let mut stranger = browser.open(&format!("http://{}/", studio.address("http"))).unwrap();
    wait_text(&mut stranger, "You can look.");
    stranger.type_into("#token", "0123456789abcdefghijklmnop").unwrap();
    stranger.click_button(".token", "Use it").unwrap();
    wait_text(&mut stranger, "That token is not this program's");
    assert!(!has(&mut stranger, "Set up an encoder"));
    stranger.type_into("#token", &studio.token()).unwrap();
    stranger.press("Enter").unwrap();
    wait_text(&mut stranger, "Set up an encoder");
    assert_content(&mut page);
    assert_content(&mut stranger);
}
