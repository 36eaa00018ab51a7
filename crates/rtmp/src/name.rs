//! URLs and stream names, in one canonical form.

use std::fmt;
use std::str::FromStr;

mod keys;

pub use keys::keys;

/// How long a name may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes in a path, app included; other servers end at 256.
    pub path: usize,
    /// Bytes in a query as it was sent; it may carry a signed token.
    pub query: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { path: 255, query: 2048 }
    }
}

/// Why text is not a usable URL or stream name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It does not start with `rtmp://` or `rtmps://`.
    #[error("an RTMP URL starts with rtmp:// or rtmps://")]
    Scheme,
    /// The host is missing or not one.
    #[error("the URL names no host")]
    Host,
    /// The port is not a number from 1 to 65535.
    #[error("the URL's port is not a number from 1 to 65535")]
    Port,
    /// There is neither app nor stream name.
    #[error("the stream has no name")]
    Empty,
    /// A path or a query over its [`Bounds`].
    #[error("the stream name is too long")]
    TooLong,
    /// A control character, which has no place in a name.
    #[error("the stream name holds a control character")]
    ControlCharacter,
    /// A segment `..`.
    #[error("the stream name holds \"..\"")]
    DotDot,
    /// A way from `rtmps://` to `rtmp://`, which would show the key to everybody.
    #[error("the server leads away from encryption")]
    Downgrade,
    /// Percent-encoded bytes that are not UTF-8.
    #[error("the stream name is not UTF-8")]
    NotUtf8,
}

/// `rtmp[s]://[user:pass@]HOST[:PORT]/APP/NAME[?query]`.
///
/// The app is everything up to the last slash of the path, the name what follows it, query
/// included. Shown, it is the same URL without user and password; `Debug` masks what may be secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Url {
    /// Whether it is `rtmps`.
    pub secure: bool,
    /// The user, percent-decoded; empty if there is none.
    pub user: String,
    /// The password, percent-decoded; empty if there is none.
    pub password: String,
    /// Name or address, an IPv6 address without its brackets.
    pub host: String,
    /// 1935 unless given, 443 for `rtmps`.
    pub port: u16,
    /// The application, without slashes around it.
    pub app: String,
    /// The stream name with its query, as the server shall get it; may be empty.
    pub name: String,
}

impl Url {
    pub(crate) const fn default_port(secure: bool) -> u16 {
        if secure { 443 } else { 1935 }
    }

    /// The URL without the stream name, as `connect` carries it.
    pub fn tc_url(&self) -> String {
        let scheme = if self.secure { "rtmps" } else { "rtmp" };
        let host = match self.host.contains(':') {
            true => format!("[{}]", self.host),
            false => self.host.clone(),
        };
        match self.port == Self::default_port(self.secure) {
            true => format!("{scheme}://{host}/{}", self.app),
            false => format!("{scheme}://{host}:{}/{}", self.port, self.app),
        }
    }
}

impl FromStr for Url {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        if text.chars().any(char::is_control) {
            return Err(Error::ControlCharacter);
        }
        let (secure, rest) = split_scheme(text)?;
        let (authority, path) = match rest.find(['/', '?']) {
            Some(end) => rest.split_at(end),
            None => (rest, ""),
        };
        let (login, authority) = split_login(authority);
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        let (host, port) = split_authority(authority, Self::default_port(secure))?;
        let (path, query) = match path.find('?') {
            Some(at) => path.split_at(at),
            None => (path, ""),
        };
        let is_edge = |c: char| c == '/' || c.is_whitespace();
        let path = path.trim_matches(is_edge);
        let (app, name) = path.rsplit_once('/').unwrap_or((path, ""));
        Ok(Self {
            secure,
            user: decode(user)?,
            password: decode(password)?,
            host: host.to_owned(),
            port,
            app: app.trim_end_matches(is_edge).to_owned(),
            name: format!("{name}{query}"),
        })
    }
}

impl fmt::Debug for Url {
    /// Leaves out the password, and the name, which is mostly a key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let login = if self.user.is_empty() { "" } else { "***:***@" };
        let scheme = if self.secure { "rtmps" } else { "rtmp" };
        write!(f, "Url({scheme}://{login}{}:{}/***)", self.host, self.port)
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.tc_url())?;
        match self.name.as_str() {
            "" => Ok(()),
            query if query.starts_with('?') => f.write_str(query),
            name => write!(f, "/{name}"),
        }
    }
}

/// Whether it is `rtmps`, and what follows the slashes.
pub(crate) fn split_scheme(text: &str) -> Result<(bool, &str), Error> {
    let (scheme, rest) = text.split_once("://").ok_or(Error::Scheme)?;
    match scheme.to_ascii_lowercase().as_str() {
        "rtmp" => Ok((false, rest)),
        "rtmps" => Ok((true, rest)),
        _ => Err(Error::Scheme),
    }
}

/// `user:pass` and `host:port`. The password may hold an @ of its own.
pub(crate) fn split_login(authority: &str) -> (&str, &str) {
    authority.rsplit_once('@').unwrap_or(("", authority))
}

pub(crate) fn split_authority(host: &str, default_port: u16) -> Result<(&str, u16), Error> {
    let (host, port) = match host.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or(Error::Host)?;
            match port {
                "" => (host, None),
                port => (host, Some(port.strip_prefix(':').ok_or(Error::Host)?)),
            }
        }
        None => match host.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (host, None),
        },
    };
    if host.is_empty() || host.contains(|c: char| c.is_whitespace() || "[]@".contains(c)) {
        return Err(Error::Host);
    }
    match port.map(str::parse) {
        None => Ok((host, default_port)),
        Some(Ok(port)) if port != 0 => Ok((host, port)),
        Some(_) => Err(Error::Port),
    }
}

/// What a client wants to publish or play, in one canonical form.
///
/// The same target results however the client split it into app, name and query.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    /// Decoded segments joined by slashes, for example `live/camera-ABC`.
    pub path: String,
    /// Decoded parameters in the order sent.
    pub query: Vec<(String, String)>,
}

impl fmt::Debug for Target {
    /// Shows the shape alone: path and query carry keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let app = self.path.split_once('/').map_or("", |(app, _)| app);
        write!(f, "Target({app}/***)")
    }
}

impl Target {
    /// Joins and cleans the app of `connect` and the name of `publish` or `play`.
    ///
    /// Slashes are stripped, the query is cut at the first `?`, everything is percent-decoded
    /// once, and the prefixes `mp4:` and `flv:` and the segment `_definst_` are dropped.
    ///
    /// # Errors
    ///
    /// Names that are empty, too long, not UTF-8, or hold control characters or `..`.
    pub fn new(app: &str, name: &str) -> Result<Self, Error> {
        Self::within(app, name, Bounds::default())
    }

    /// As [`Target::new`], within other bounds.
    ///
    /// # Errors
    ///
    /// As for [`Target::new`].
    pub fn within(app: &str, name: &str, bounds: Bounds) -> Result<Self, Error> {
        let (path, query) = split_query(app, name);
        // Escaped, a byte takes three.
        if path.len() > bounds.path.saturating_mul(3) || query.len() > bounds.query {
            return Err(Error::TooLong);
        }
        let mut segments = Vec::new();
        for segment in path.split('/') {
            let segment = decode(segment)?;
            let segment = segment
                .strip_prefix("mp4:")
                .or_else(|| segment.strip_prefix("flv:"))
                .unwrap_or(&segment);
            match segment {
                ".." => return Err(Error::DotDot),
                "" | "." | "_definst_" => {}
                segment => segments.push(segment.to_owned()),
            }
        }
        let path = segments.join("/");
        if path.split('/').any(|segment| segment == "..") {
            return Err(Error::DotDot);
        }
        if path.len() > bounds.path {
            return Err(Error::TooLong);
        }
        let query = parse_query(&query)?;
        if path.is_empty() && query.is_empty() {
            return Err(Error::Empty);
        }
        Ok(Self { path, query })
    }

    /// The first parameter of that name.
    pub fn query(&self, name: &str) -> Option<&str> {
        let mut found = self.query.iter().filter(|(key, _)| key == name);
        found.next().map(|(_, value)| value.as_str())
    }
}

/// Joins app and name, and cuts path and query apart.
///
/// Clients cut a URL at the slash they think right, some inside the query; so the joined text
/// decides. Where only one segment comes before the `?`, as in `live?token=a/key`, the query
/// belongs to the app and the stream name follows it.
fn split_query(app: &str, name: &str) -> (String, String) {
    let trim = |text: &'_ str| text.trim().trim_matches(['/', '"']).to_owned();
    let joined = format!("{}/{}", trim(app), trim(name));
    let joined = joined.trim_end_matches('/');
    let Some((path, query)) = joined.split_once('?') else {
        return (joined.to_owned(), String::new());
    };
    let segments = path.split('/').filter(|segment| !segment.is_empty());
    let query_ends_app = segments.count() == 1 && !path.ends_with('/');
    let (first, second) = query.split_once('?').unwrap_or((query, ""));
    match first.rsplit_once('/') {
        Some((parameters, stream)) if query_ends_app => {
            (format!("{path}/{stream}"), format!("{parameters}&{second}"))
        }
        _ => (path.to_owned(), query.to_owned()),
    }
}

fn parse_query(query: &str) -> Result<Vec<(String, String)>, Error> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(key)?, decode(value)?))
        })
        .collect()
}

/// Percent-decodes once; a percent sign without two digits stands for itself.
pub(crate) fn percent_decode(text: &str) -> Vec<u8> {
    let digit = |byte: Option<&u8>| byte.and_then(|&b| char::from(b).to_digit(16));
    let (bytes, mut decoded, mut at) = (text.as_bytes(), Vec::new(), 0);
    while let Some(&byte) = bytes.get(at) {
        match (byte, digit(bytes.get(at + 1)), digit(bytes.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    decoded
}

fn decode(text: &str) -> Result<String, Error> {
    let decoded = String::from_utf8(percent_decode(text)).map_err(|_| Error::NotUtf8)?;
    match decoded.chars().any(char::is_control) {
        true => Err(Error::ControlCharacter),
        false => Ok(decoded),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(app: &str, name: &str) -> (String, Vec<(String, String)>) {
        let target = Target::new(app, name).unwrap();
        (target.path, target.query)
    }

    #[test]
    fn one_target_however_it_was_split() {
        for (app, name) in [
            ("live", "camera-ABC"),
            ("live/", "/camera-ABC"),
            ("/live", "camera-ABC/"),
            ("live/camera-ABC", ""),
            ("", "live/camera-ABC"),
            ("live", "mp4:camera-ABC"),
            ("live", "flv:camera-ABC"),
            ("live/_definst_", "camera-ABC"),
            ("live", "camera%2DABC"),
            ("\"live\"", "camera-ABC"),
        ] {
            assert_eq!(target(app, name), ("live/camera-ABC".into(), vec![]), "{app} {name}");
        }
        for (app, name) in [
            ("live", "key?token=a/b&x=1"),
            ("live/key?token=a/b&x=1", ""),
            ("live/key?token=a", "b&x=1"),
            ("live?token=a/b&x=1", "key"),
            ("live?token=a%2Fb", "key?x=1"),
            ("live?token=a/b&x=1/key", ""),
        ] {
            let query = vec![("token".into(), "a/b".into()), ("x".into(), "1".into())];
            assert_eq!(target(app, name), ("live/key".into(), query), "{app} {name}");
        }
        assert_eq!(target("live/inst", "k2?t=1").0, "live/inst/k2");
        assert_eq!(target("live/inst/k2?t=1", "").0, "live/inst/k2");
    }

    #[test]
    fn refuses_names_that_are_none() {
        let long = "x".repeat(256);
        for (app, name, error) in [
            ("", "", Error::Empty),
            ("/", "//", Error::Empty),
            ("live", "../etc", Error::DotDot),
            ("live", "%2e%2e", Error::DotDot),
            ("live", "a%2F..%2Fb", Error::DotDot),
            ("live", "a\nb", Error::ControlCharacter),
            ("live", "a%00b", Error::ControlCharacter),
            ("live", "a?b=%1b", Error::ControlCharacter),
            ("live", "%ff", Error::NotUtf8),
            ("live", &long, Error::TooLong),
        ] {
            assert_eq!(Target::new(app, name).err(), Some(error), "{app} {name}");
        }
    }

    #[test]
    fn names_have_the_bounds_that_are_given() {
        let name = |path: usize, query: usize| {
            let (path, query) = ("x".repeat(path - "live/".len()), "y".repeat(query));
            let bounds = Bounds { path: 100, query: 300 };
            Target::within("live", &format!("{path}?{query}"), bounds).map(|_| ())
        };
        assert_eq!(name(100, 300), Ok(()));
        assert_eq!(name(101, 300), Err(Error::TooLong));
        assert_eq!(name(100, 301), Err(Error::TooLong));
        let escaped = "%78".repeat(95);
        assert!(Target::within("live", &escaped, Bounds { path: 100, query: 0 }).is_ok());
    }

    #[test]
    fn hides_keys_from_logs() {
        let target = Target::new("live", "camera-SECRET?key=SECRET").unwrap();
        assert_eq!(format!("{target:?}"), "Target(live/***)");
    }

    #[test]
    fn reads_urls() {
        let url = |text: &str| text.parse::<Url>();
        let parsed = url("rtmp://u:p@ss@[2001:db8::1]:1936/live/inst/key?x=a/b").unwrap();
        assert_eq!(parsed.host, "2001:db8::1");
        assert_eq!((parsed.port, parsed.secure), (1936, false));
        assert_eq!((parsed.user.as_str(), parsed.password.as_str()), ("u", "p@ss"));
        assert_eq!(format!("{parsed:?}"), "Url(rtmp://***:***@2001:db8::1:1936/***)");
        assert_eq!(url("rtmp://a%40b:c%3Ad@h/live/key").unwrap().user, "a@b");
        assert_eq!(url("rtmp://a%40b:c%3Ad@h/live/key").unwrap().password, "c:d");
        assert_eq!((parsed.app.as_str(), parsed.name.as_str()), ("live/inst", "key?x=a/b"));
        assert_eq!(parsed.to_string(), "rtmp://[2001:db8::1]:1936/live/inst/key?x=a/b");
        assert_eq!(parsed.tc_url(), "rtmp://[2001:db8::1]:1936/live/inst");
        assert_eq!(url("RTMPS://host/live/key").unwrap().port, 443);
        assert_eq!(url(" rtmp://host/live /key / ").unwrap().to_string(), "rtmp://host/live/key");
        for text in ["rtmp://host/live/key", "rtmps://host:1/live", "rtmp://host/live?key=a"] {
            assert_eq!(url(text).unwrap().to_string(), text);
        }
        for (text, error) in [
            ("http://host/live", Error::Scheme),
            ("host/live", Error::Scheme),
            ("rtmp:///live", Error::Host),
            ("rtmp://[::1/live", Error::Host),
            ("rtmp://[[]/live", Error::Host),
            ("rtmp://host:0/live", Error::Port),
            ("rtmp://host:x/live", Error::Port),
            ("rtmp://ho\nst/live", Error::ControlCharacter),
        ] {
            assert_eq!(url(text), Err(error), "{text}");
        }
    }
}
