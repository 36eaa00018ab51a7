//! Where a key may stand: anywhere.

use super::{percent_decode, split_login};

/// Texts of a request that are looked at; real ones have two or three that are long enough.
const MAX_KEYS: usize = 16;

/// Bytes of a key: below, it could be guessed; above, it does not fit a name.
const KEY_LENGTH: std::ops::RangeInclusive<usize> = 16..=255;

/// What ends a key in a URL; a client may have escaped these, too.
const DELIMITERS: &[char] =
    &['/', '\\', '?', '&', ';', '=', ':', '@', '#', ',', '"', '\'', '<', '>', '\r', '\n', '\t'];

/// Every text in a request that may be a key, in the order in which they count; at most 16.
///
/// Clients put a key into the stream name, alone or as `key=`, `pass=` or a bare parameter, into
/// the app, or into user and password of `tcUrl`, and cut app, name and query apart where they
/// like. So what stands between delimiters counts, wherever it stands: from the end of the name to
/// the beginning of the app, then the path of `tcUrl`, then its password and user. Everything is
/// percent-decoded once. Hosts are never keys.
pub fn keys(app: &str, name: &str, tc_url: &str) -> Vec<String> {
    let (login, path) = split_tc_url(tc_url);
    let mut keys: Vec<String> = Vec::new();
    for text in [&format!("{app}/{name}"), path, login] {
        let text = String::from_utf8_lossy(&percent_decode(text)).into_owned();
        for key in text.rsplit(DELIMITERS).map(str::trim) {
            if keys.len() < MAX_KEYS
                && KEY_LENGTH.contains(&key.len())
                && !keys.iter().any(|known| known == key)
            {
                keys.push(key.to_owned());
            }
        }
    }
    keys
}

/// User and password, and what follows the host.
fn split_tc_url(tc_url: &str) -> (&str, &str) {
    let Some((_, rest)) = tc_url.split_once("://") else {
        return ("", "");
    };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    (split_login(authority).0, path)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &str = "camera-S9FF6SWYMMAFNS9ZHC7JC35417";

    #[test]
    fn a_key_is_found_wherever_it_stands() {
        for (app, name, tc_url) in [
            ("live", "KEY", ""),
            ("", "KEY", ""),
            ("live/inst/deep", "KEY", ""),
            ("live/KEY", "", ""),
            ("KEY", "", ""),
            ("KEY", "stream", ""),
            ("live", "?KEY", ""),
            ("live", "?key=KEY", ""),
            ("live", "x?key=KEY", ""),
            ("live", "x?user=me&pass=KEY", ""),
            ("live", "x?password=KEY&user=me", ""),
            ("live?key=KEY", "x", ""),
            ("live?vhost=a&key=KEY/x", "", ""),
            ("live/inst?key=KEY", "x", ""),
            ("live/_definst_?key=KEY", "mp4:x.mp4", ""),
            ("live...vhost...example.org", "KEY", ""),
            ("live?vhost=example.org", "KEY", ""),
            ("live", "mp4:KEY", ""),
            ("live", "flv:KEY?x=1", ""),
            ("/live/", "//KEY//", ""),
            ("live", "\"KEY\"", ""),
            ("live", "%4BEY", ""),
            ("live", "%3Fkey%3DKEY", ""),
            ("live", "x", "rtmp://me:KEY@host/live"),
            ("live", "x", "rtmp://KEY@host:1935/live"),
            ("live", "x", "\"rtmp://KEY:x@[::1]:1935/live\""),
            ("live", "x", "rtmp://host/live?key=KEY"),
            ("live", "x", "rtmp://host/live/KEY"),
            ("", "", "rtmp://me:KEY@host"),
            ("", "", "rtmp://host?KEY"),
        ] {
            let put = |text: &str| text.replace("%4BEY", "%63amera%2DS9FF6SWYMMAFNS9ZHC7JC35417");
            let put = |text: &str| put(text).replace("KEY", KEY);
            let found = keys(&put(app), &put(name), &put(tc_url));
            assert!(found.iter().any(|found| found == KEY), "{app} {name} {tc_url}: {found:?}");
        }
    }

    #[test]
    fn the_end_of_the_name_counts_first() {
        let second = KEY.to_lowercase();
        assert_eq!(keys("live", &format!("{KEY}/{second}"), ""), [second.clone(), KEY.into()]);
        let tc_url = format!("rtmp://a:{KEY}@host/live");
        assert_eq!(keys("live", &second, &tc_url), [second, KEY.into()]);
    }

    #[test]
    fn what_is_no_key_costs_nothing() {
        assert!(keys("live", "camera", "rtmp://a-long-relay-name.example.org/live").is_empty());
        let many: Vec<_> = (0..100).map(|number| format!("{number}{KEY}")).collect();
        assert_eq!(keys("live", &many.join("&"), "").len(), MAX_KEYS);
        assert!(keys("live", &"x".repeat(256), "").is_empty());
    }

    /// Query parameters beside the key.
    fn parameters() -> impl Strategy<Value = Vec<String>> {
        proptest::collection::vec("[a-z]{1,4}=[a-z0-9]{0,12}", 0..3)
    }

    proptest! {
        #[test]
        fn every_split_of_a_url_gives_the_same_keys(
            apps in proptest::collection::vec("[a-z_.]{1,8}", 0..4),
            before in parameters(),
            after in parameters(),
            label in "(key=|pass=|password=|)",
            place in 0usize..3,
            split in any::<proptest::sample::Index>(),
            slashes in 0usize..3,
        ) {
            let query = |with: Option<String>| {
                let all: Vec<_> = before.iter().cloned().chain(with).chain(after.clone()).collect();
                if all.is_empty() { String::new() } else { format!("?{}", all.join("&")) }
            };
            let mut path = apps;
            let query = match place {
                0 => query(Some(format!("{label}{KEY}"))),
                1 => { path.push(KEY.into()); query(None) }
                _ => { path.insert(0, KEY.into()); path.push("x".into()); query(None) }
            };
            let url = format!("{}{query}", path.join("/"));
            let expected = keys("", &url, "");
            prop_assert_eq!(expected.iter().filter(|key| *key == KEY).count(), 1);
            // At a slash or before the query, or all in one of the two.
            let mut cuts: Vec<_> = url.match_indices(['/', '?']).map(|(at, _)| at).collect();
            cuts.extend([0, url.len()]);
            let (app, name) = url.split_at(*split.get(&cuts));
            let slashes = "/".repeat(slashes);
            let (app, name) = (format!("{slashes}{app}"), format!("{slashes}{name}{slashes}"));
            prop_assert_eq!(&keys(&app, &name, &format!("rtmp://host/{app}")), &expected);
        }

        #[test]
        fn any_text_is_taken(app in ".*", name in ".*", tc_url in ".*") {
            prop_assert!(keys(&app, &name, &tc_url).len() <= MAX_KEYS);
        }
    }
}
