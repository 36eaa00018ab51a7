//! How clients cut a URL into app and name, and what they leave out.

use testkit::script::Script;
use testkit::script::amf::{Amf, properties, text};

use super::studio;

/// Whether an encoder that says it like this gets in.
#[track_caller]
fn publishes(report: &str, app: &str, name: &str) {
    let (_studio, address, key) = studio();
    let (app, name) = (app.replace("KEY", &key), name.replace("KEY", &key));
    let mut script = Script::connected(address, &app);
    script.publish(&name);
    let stream = script.expect_status("NetStream.Publish.Start");
    assert_eq!(stream, 1, "{report}");
}

#[test]
fn gopro_12_empty_name() {
    publishes("nginx-rtmp 1775: one field for the URL, an empty name", "live/KEY", "");
}

#[test]
fn srs_3018_obs_with_an_empty_key() {
    publishes("everything is the server", "live/KEY/", "");
}

#[test]
fn mediamtx_5856ac3d_slashes_in_front_and_behind() {
    publishes("slashes", "/live/", "/KEY/");
}

#[test]
fn mediamtx_6007_obs_multitrack_a_name_that_is_a_query() {
    publishes("the key as a parameter", "live", "?key=KEY");
}

#[test]
fn srs_discovery_tc_url_the_query_is_in_the_app() {
    publishes("app?k=v/stream", "live?token=1", "KEY");
}

#[test]
fn flash_prefixes_and_instances() {
    publishes("wowza's default instance", "live/_definst_", "mp4:KEY");
    publishes("a prefix", "live", "flv:KEY");
}

#[test]
fn multi_level_apps_are_the_same_however_they_are_cut() {
    publishes("ffmpeg takes two levels of three", "live/venue", "KEY");
    publishes("librtmp takes one", "live", "venue/KEY");
}

#[test]
fn clients_that_escape_the_name() {
    let (_studio, address, key) = studio();
    let mut script = Script::connected(address, "live");
    script.publish(&key.replace('-', "%2D"));
    script.expect_status("NetStream.Publish.Start");
}

#[test]
fn mediamtx_1405_neko_quotes_around_the_url() {
    let (_studio, address, key) = studio();
    let mut script = Script::handshaken(address);
    script.connect_with(properties([
        ("app", text("live\"")),
        ("tcurl", text("\"rtmp://127.0.0.1/live\"")),
        ("tcUrl", Amf::Null),
    ]));
    script.publish(&key);
    script.expect_status("NetStream.Publish.Start");
}

/// vMix adds 1, 2 and 3 to the key for its other qualities: they are other keys.
#[test]
fn vmix_help_17_suffixes_are_not_the_key() {
    let (_studio, address, key) = studio();
    let mut script = Script::connected(address, "live");
    script.publish(&format!("{key}2"));
    script.expect_status("NetStream.Publish.Denied");
}

#[test]
fn names_that_are_none_are_denied_like_any_other() {
    let (_studio, address, _) = studio();
    let long = "x".repeat(3000);
    for name in ["../../etc/passwd", "a\u{0}b", "\r\nSet-Cookie: a", "\u{202e}gpj", "%00", &long] {
        let mut script = Script::connected(address, "live");
        script.publish(name);
        script.expect_status("NetStream.Publish.Denied");
        assert!(script.rest().is_empty());
    }
}
