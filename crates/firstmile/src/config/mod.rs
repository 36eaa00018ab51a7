//! Configuration: command line over environment over file over default, parsed into final types.

mod backhaul;
mod limits;
mod measure;
pub mod record;
pub mod relay;
mod spool;
pub mod studio;
pub mod value;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

use crate::events::webhook::{MAX_WEBHOOKS, Webhook};
use crate::join::{JoinLinkError, parse_host};
use crate::platform;
use crate::secret::{Password, PasswordError, Token, TokenError};
pub use backhaul::{Backhaul, StudioBackhaul};
pub use limits::{Limits, Rtmp};
pub use measure::Measure;
pub use spool::Spool;
use value::{Size, Span, line_of};

/// What a feed keeps in memory for subscribers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ring {
    /// Most bytes of one feed's ring.
    #[serde(deserialize_with = "size")]
    pub max_bytes: u64,
    /// Most time of one feed's ring.
    #[serde(deserialize_with = "duration")]
    pub max_age: Duration,
    /// Most tags of one feed's ring.
    pub max_tags: usize,
    /// Most bytes of all rings together; without it a quarter of the memory there is.
    #[serde(deserialize_with = "some_size")]
    pub total_bytes: Option<u64>,
}

/// Rings have at least this much together when nothing else is said.
const MIN_TOTAL: u64 = 256 << 20;

impl Ring {
    /// The bounds of the hub's feeds.
    pub fn hub_limits(&self) -> hub::Limits {
        let max_bytes = usize::try_from(self.max_bytes).unwrap_or(usize::MAX);
        let quarter = || platform::total_ram().unwrap_or(0) / 4;
        let total = self.total_bytes.unwrap_or_else(|| quarter().max(MIN_TOTAL));
        hub::Limits {
            max_bytes,
            max_age: self.max_age,
            max_tags: self.max_tags,
            total_bytes: usize::try_from(total).unwrap_or(usize::MAX),
            ..hub::Limits::default()
        }
    }
}

impl Default for Ring {
    fn default() -> Self {
        Self {
            max_bytes: 32 << 20,
            max_age: Duration::from_secs(15),
            max_tags: 4_000,
            total_bytes: None,
        }
    }
}

impl Ring {
    fn check(&self) -> Result<(), ConfigError> {
        if !(1 << 20..=4 << 30).contains(&self.max_bytes) {
            return Err(ConfigError::value("ring.max_bytes", "it must be from 1 MiB to 4 GiB"));
        }
        at_least("ring.max_tags", self.max_tags, 100)?;
        at_most("ring.max_tags", self.max_tags, 1_000_000)?;
        if self.total_bytes.is_some_and(|total| total < self.max_bytes) {
            let message = "it must be at least ring.max_bytes";
            return Err(ConfigError::value("ring.total_bytes", message));
        }
        let second = Duration::from_secs(1);
        within("ring.max_age", self.max_age, second, 300 * second)
    }
}

/// A certificate and its key, both in PEM form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, then those of its issuers.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// `[tls]` as it is written.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Tls {
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
}

impl Tls {
    fn files(self) -> Result<Option<TlsFiles>, ConfigError> {
        match (self.certificate, self.key) {
            (Some(certificate), Some(key)) => Ok(Some(TlsFiles { certificate, key })),
            (None, None) => Ok(None),
            (Some(_), None) => {
                Err(ConfigError::value("tls.key", "name the certificate's private key, too"))
            }
            (None, Some(_)) => {
                Err(ConfigError::value("tls.certificate", "name the key's certificate, too"))
            }
        }
    }
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    Span::deserialize(deserializer).map(|span| span.0)
}

fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    Size::deserialize(deserializer).map(|size| size.0)
}

fn some_size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    size(deserializer).map(Some)
}

fn some_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    duration(deserializer).map(Some)
}

fn at_least(key: &'static str, value: usize, least: usize) -> Result<(), ConfigError> {
    if value < least {
        return Err(ConfigError::value(key, format!("it must be at least {least}")));
    }
    Ok(())
}

fn at_most(key: &'static str, value: usize, most: usize) -> Result<(), ConfigError> {
    if value > most {
        return Err(ConfigError::value(key, format!("it must be at most {most}")));
    }
    Ok(())
}

fn within(
    key: &'static str,
    value: Duration,
    least: Duration,
    most: Duration,
) -> Result<(), ConfigError> {
    if value < least || value > most {
        let (least, most) = (Span(least), Span(most));
        return Err(ConfigError::value(key, format!("it must be from {least} to {most}")));
    }
    Ok(())
}

/// Checks what `public_host` may hold.
fn public_host(text: Option<String>) -> Result<Option<String>, ConfigError> {
    let check = |text: String| {
        parse_host(text.trim()).ok_or_else(|| {
            ConfigError::value(
                "public_host",
                "write only a name or an address, such as relay.example.org or 203.0.113.7",
            )
        })
    };
    text.map(check).transpose()
}

/// A dashboard that others can reach needs a token or a password that its owner chose.
fn check_http(
    http: SocketAddr,
    token: Option<&Token>,
    password: Option<&Password>,
) -> Result<(), ConfigError> {
    if !http.ip().to_canonical().is_loopback() && token.is_none() && password.is_none() {
        return Err(ConfigError::PublicHttp { http });
    }
    Ok(())
}

/// Each webhook has a task and a queue.
fn check_webhooks(webhooks: &[Webhook]) -> Result<(), ConfigError> {
    at_most("webhooks", webhooks.len(), MAX_WEBHOOKS)
}

/// The token from the environment, or else from the file. It has no place in the arguments,
/// which every user of the machine can read.
fn http_token(variable: &'static str, file: Option<Token>) -> Result<Option<Token>, ConfigError> {
    match std::env::var(variable) {
        Ok(text) if !text.is_empty() => {
            let wrong = |error: TokenError| ConfigError::value(variable, error.to_string());
            text.parse().map(Some).map_err(wrong)
        }
        _ => Ok(file),
    }
}

/// The dashboard's password, as [`http_token`].
fn http_password(
    variable: &'static str,
    file: Option<Password>,
) -> Result<Option<Password>, ConfigError> {
    match std::env::var(variable) {
        Ok(text) if !text.is_empty() => {
            let wrong = |error: PasswordError| ConfigError::value(variable, error.to_string());
            text.parse().map(Some).map_err(wrong)
        }
        _ => Ok(file),
    }
}

/// Reads a configuration file; without one, everything is at its default.
fn read_file<T: DeserializeOwned + Default>(path: Option<&Path>) -> Result<T, ConfigError> {
    let Some(path) = path else {
        return Ok(T::default());
    };
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    parse(path, &text)
}

fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, ConfigError> {
    toml::from_str(text).map_err(|error| {
        let path = path.to_owned();
        let line = error.span().map_or(1, |span| line_of(text, span.start));
        match unknown_field(error.message()) {
            Some((key, known)) => {
                let nearest = nearest(key, &known).map(str::to_owned);
                let known = known.join(", ");
                ConfigError::UnknownKey { path, line, key: key.to_owned(), nearest, known }
            }
            None => ConfigError::Syntax { path, line, message: first_line(error.message()) },
        }
    })
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

/// Takes serde's "unknown field `a`, expected one of `b`, `c`" apart.
fn unknown_field(message: &str) -> Option<(&str, Vec<&str>)> {
    let mut quoted = message.strip_prefix("unknown field `")?.split('`').step_by(2);
    Some((quoted.next()?, quoted.filter(|known| !known.is_empty()).collect()))
}

/// The known key that `key` was probably meant to be.
fn nearest<'a>(key: &str, known: &[&'a str]) -> Option<&'a str> {
    let key = key.to_ascii_lowercase().replace('-', "_");
    let (distance, best) = known.iter().map(|known| (distance(&key, known), *known)).min()?;
    (distance <= 1 + best.len() / 4).then_some(best)
}

/// Edits between two words: insert, delete, replace, or swap neighbours.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    rows[0] = (0..=b.len()).collect();
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = least;
        }
    }
    rows[a.len()][b.len()]
}

/// What is wrong with a configuration; every one of them is misuse, exit code 2.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The file is no TOML, or a value is not what its key takes.
    #[error("{} line {line}: {message}", path.display())]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// Where, from 1.
        line: usize,
        /// What is wrong there.
        message: String,
    },
    /// The file has a key that does not exist.
    #[error("{}: unknown key `{key}` at line {line}{}", path.display(), meant(nearest.as_deref()))]
    UnknownKey {
        /// Which file.
        path: PathBuf,
        /// Where, from 1.
        line: usize,
        /// The key.
        key: String,
        /// The key that was probably meant.
        nearest: Option<String>,
        /// All keys of that table.
        known: String,
    },
    /// A value is out of its bounds.
    #[error("{key}: {message}")]
    Value {
        /// Which key or variable.
        key: &'static str,
        /// What it should be.
        message: String,
    },
    /// The dashboard would be open to others without a password or a token.
    #[error("http = \"{http}\" would let others reach the dashboard without a password or a token")]
    PublicHttp {
        /// The address.
        http: SocketAddr,
    },
    /// A join link is wrong.
    #[error("{from}")]
    Join {
        /// Where it came from, in words; never the link.
        from: String,
        /// What is wrong with it.
        source: JoinLinkError,
    },
    /// A join link could not be read.
    #[error("cannot read a join link from {from}")]
    JoinSource {
        /// Where it should have come from.
        from: String,
        /// The system's answer.
        source: io::Error,
    },
}

impl ConfigError {
    fn value(key: &'static str, message: impl Into<String>) -> Self {
        Self::Value { key, message: message.into() }
    }

    /// What a person can write instead.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownKey { nearest: None, known, .. } => {
                Some(format!("the keys there are: {known}"))
            }
            Self::PublicHttp { http } => Some(format!(
                "keep http = \"127.0.0.1:{port}\" and reach it with `ssh -L {port}:127.0.0.1:{port} HOST`, \
                 or write http_password = \"...\" into the file for people who log in, \
                 or http_token = \"{token}\" (made just now, for you only) for programs",
                port = http.port(),
                token = Token::random().expose(),
            )),
            _ => None,
        }
    }
}

fn meant(nearest: Option<&str>) -> String {
    nearest.map(|key| format!(": did you mean `{key}`?")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An example file with the keys that have no fixed default switched on: `#key = value`.
    pub(super) fn uncommented(example: &str) -> String {
        let on = |line: &str| match line.strip_prefix('#') {
            Some(key) if key.starts_with(|c: char| c.is_ascii_lowercase()) => key.to_owned(),
            Some(table) if table.starts_with("[[") => table.to_owned(),
            _ => line.to_owned(),
        };
        example.lines().map(on).collect::<Vec<_>>().join("\n")
    }

    /// Checks that an example has every key that a table of `T`, or the first of a list, knows.
    pub(super) fn assert_has_all<T: DeserializeOwned>(example: &str, table: &str) {
        let whole = toml::Value::Table(toml::from_str(example).unwrap());
        let names = table.split('.').filter(|name| !name.is_empty());
        let section = names.fold(&whole, |section, name| &section[name]);
        let probe = match section {
            _ if table.is_empty() => "x = 1".into(),
            toml::Value::Array(_) => format!("[[{table}]]\nx = 1"),
            _ => format!("[{table}]\nx = 1"),
        };
        let error = toml::from_str::<T>(&probe).err().unwrap();
        let (_, known) = unknown_field(error.message()).unwrap();
        let section = section.get(0).unwrap_or(section).as_table().unwrap();
        for key in known {
            assert!(section.contains_key(key), "the example lacks {table} {key}");
        }
    }

    #[test]
    fn distances() {
        assert_eq!(distance("rmtp", "rtmp"), 1);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(nearest("rmtp", &["data", "http", "rtmp"]), Some("rtmp"));
        assert_eq!(nearest("public-host", &["public_host"]), Some("public_host"));
        assert_eq!(nearest("colour", &["data", "http"]), None);
    }

    #[test]
    fn unknown_fields() {
        let message = "unknown field `x`, expected one of `a`, `b`";
        assert_eq!(unknown_field(message), Some(("x", vec!["a", "b"])));
        assert_eq!(unknown_field("invalid type"), None);
    }

    #[test]
    fn a_certificate_has_a_key() {
        let tls: Tls = toml::from_str("certificate = \"c.pem\"\nkey = \"k.pem\"").unwrap();
        assert!(tls.files().unwrap().is_some_and(|files| files.key.ends_with("k.pem")));
        assert_eq!(Tls::default().files().unwrap(), None);
        let tls: Tls = toml::from_str("certificate = \"c.pem\"").unwrap();
        let error = tls.files().unwrap_err().to_string();
        assert_eq!(error, "tls.key: name the certificate's private key, too");
    }

    #[test]
    fn bounds_are_told() {
        let limits = Limits { connections: 0, ..Limits::default() };
        let error = limits.check().unwrap_err();
        assert_eq!(error.to_string(), "limits.connections: it must be at least 1");
        let ring = Ring { max_age: Duration::ZERO, ..Ring::default() };
        let error = ring.check().unwrap_err();
        assert_eq!(error.to_string(), "ring.max_age: it must be from 1s to 5m");
        Limits::default().check().unwrap();
        Ring::default().check().unwrap();
    }
}
