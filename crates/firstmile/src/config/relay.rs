//! What a relay is told.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::value::{Listen, Span};
use super::{
    Backhaul, ConfigError, Limits, Measure, Ring, Spool, Tls, TlsFiles, check_http, check_webhooks,
    http_password, http_token, public_host, read_file, within,
};
use crate::cli::RelayArgs;
use crate::events::webhook::Webhook;
use crate::platform::{self, Role};
use crate::secret::{Password, Token};

/// Where both roles take RTMP.
pub const RTMP_PORT: u16 = 1935;

/// Where both roles take RTMPS if they are told to take it on a port of its own.
pub const RTMPS_PORT: u16 = 1936;

/// Where both roles show the dashboard.
pub const HTTP_PORT: u16 = 8935;

/// How long after its start a relay lets encoders that it does not know wait for their studio.
pub const START_GRACE: Duration = Duration::from_secs(30);
/// Characters of a region's name.
const MAX_REGION: usize = 32;
/// And how long it may be told to: their connections are held meanwhile.
const MAX_START_GRACE: Duration = Duration::from_secs(600);

/// A relay's configuration, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Its data directory.
    pub data: PathBuf,
    /// Where encoders publish.
    pub rtmp: SocketAddr,
    /// Where encoders publish with TLS, beside the secure port.
    pub rtmps: Option<SocketAddr>,
    /// Where studios dial (UDP, and TCP where that is blocked), and where RTMPS and HTTPS are (TCP).
    pub secure: SocketAddr,
    /// Dashboard and API.
    pub http: SocketAddr,
    /// The API's token, instead of one made at each start.
    pub http_token: Option<Token>,
    /// What people log in with at the dashboard; without it nobody does.
    pub http_password: Option<Password>,
    /// The name or address by which the world reaches this machine.
    pub public_host: Option<String>,
    /// Whether studios come in without an invite.
    pub open: bool,
    /// How long after the start unknown keys and users wait for their studio.
    pub start_grace: Duration,
    /// Whether every RTMP connection leaves a trace.
    pub trace_rtmp: bool,
    /// What RTMPS and HTTPS show, instead of a certificate made at the start.
    pub tls: Option<TlsFiles>,
    /// Where the relay is, for people.
    pub region: Option<String>,
    /// The page on which phones measure their way to it.
    pub measure: Measure,
    /// Bounds.
    pub limits: Limits,
    /// Each feed's memory.
    pub ring: Ring,
    /// What it keeps for studios that are away.
    pub spool: Spool,
    /// The way between studio and relay.
    pub backhaul: Backhaul,
    /// Who is told what happens.
    pub webhooks: Vec<Webhook>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    data: Option<PathBuf>,
    rtmp: Listen,
    rtmps: Option<Listen>,
    secure: Listen,
    http: Listen,
    http_token: Option<Token>,
    http_password: Option<Password>,
    public_host: Option<String>,
    open: bool,
    start_grace: Option<Span>,
    trace_rtmp: bool,
    tls: Tls,
    region: Option<String>,
    measure: Measure,
    limits: Limits,
    ring: Ring,
    spool: Spool,
    backhaul: Backhaul,
    webhooks: Vec<Webhook>,
}

impl Config {
    /// Puts the layers together: arguments and environment, file, defaults.
    pub fn load(args: &RelayArgs) -> Result<Self, ConfigError> {
        let file: File = read_file(args.config.as_deref())?;
        Self::resolve(args, file)
    }

    fn resolve(args: &RelayArgs, file: File) -> Result<Self, ConfigError> {
        let data = args.data.clone().or(file.data);
        let config = Self {
            data: data.unwrap_or_else(|| platform::default_data_dir(Role::Relay)),
            rtmp: args.rtmp.unwrap_or(file.rtmp).or(default_rtmp()),
            rtmps: args.rtmps.or(file.rtmps).map(|rtmps| rtmps.or(default_rtmps())),
            secure: args.secure.unwrap_or(file.secure).or(default_secure()),
            http: args.http.unwrap_or(file.http).or(default_http()),
            http_token: http_token("FIRSTMILE_RELAY_HTTP_TOKEN", file.http_token)?,
            http_password: http_password("FIRSTMILE_RELAY_HTTP_PASSWORD", file.http_password)?,
            public_host: public_host(args.public_host.clone().or(file.public_host))?,
            open: args.open || file.open,
            start_grace: file.start_grace.map_or(START_GRACE, |span| span.0),
            trace_rtmp: args.trace_rtmp || file.trace_rtmp,
            tls: file.tls.files()?,
            region: file.region.as_deref().map(region).transpose()?,
            measure: file.measure,
            limits: file.limits,
            ring: file.ring,
            spool: file.spool,
            backhaul: file.backhaul,
            webhooks: file.webhooks,
        };
        check_http(config.http, config.http_token.as_ref(), config.http_password.as_ref())?;
        within("start_grace", config.start_grace, Duration::ZERO, MAX_START_GRACE)?;
        config.limits.check()?;
        config.ring.check()?;
        config.spool.check()?;
        check_webhooks(&config.webhooks)?;
        config.measure.check()?;
        Ok(config)
    }
}

/// A name of a place: what studios show of it is as it is written.
fn region(text: &str) -> Result<String, ConfigError> {
    let text = text.trim();
    if text.is_empty() || region_text(text) != text {
        let message = "write a name of up to 32 letters, digits, blanks and . , - ' ( )";
        return Err(ConfigError::value("region", message));
    }
    Ok(text.to_owned())
}

/// What may be shown of the name of a place: nothing that could be taken for something else.
pub fn region_text(text: &str) -> String {
    let is_plain = |c: &char| c.is_alphanumeric() || " .,-'()".contains(*c);
    text.chars().filter(is_plain).take(MAX_REGION).collect()
}

/// `[::]:1935`, dual stack.
pub(super) fn default_rtmp() -> SocketAddr {
    SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), RTMP_PORT)
}

/// `[::]:1936`, dual stack.
pub(super) fn default_rtmps() -> SocketAddr {
    SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), RTMPS_PORT)
}

/// `127.0.0.1:8935`.
pub(super) fn default_http() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), HTTP_PORT)
}

/// `[::]:443` where permitted, because every network lets it out; else `[::]:4433`.
fn default_secure() -> SocketAddr {
    let port = if platform::may_bind(443) { 443 } else { 4433 };
    SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port)
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;
    use std::path::Path;

    const EXAMPLE: &str = include_str!("../../../../config/relay.example.toml");

    fn args(list: &[&str]) -> RelayArgs {
        let words = ["firstmile", "relay"].iter().chain(list);
        match Cli::try_parse_from(words).unwrap().command {
            Command::Relay(args) => args,
            other => panic!("{other:?}"),
        }
    }

    fn load(list: &[&str], text: &str) -> Result<Config, ConfigError> {
        Config::resolve(&args(list), parse(Path::new("relay.toml"), text)?)
    }

    #[test]
    fn defaults() {
        let config = load(&[], "").unwrap();
        assert_eq!(config.rtmp.to_string(), "[::]:1935");
        assert!([443, 4433].contains(&config.secure.port()));
        assert_eq!(config.http.to_string(), "127.0.0.1:8935");
        assert!(!config.open);
    }

    #[test]
    fn the_example_has_the_defaults_and_every_key() {
        assert_eq!(load(&[], EXAMPLE).unwrap(), load(&[], "").unwrap());
        let all = super::super::tests::uncommented(EXAMPLE);
        load(&[], &all).unwrap();
        for table in
            ["", "measure", "limits", "limits.rtmp", "ring", "spool", "backhaul", "tls", "webhooks"]
        {
            super::super::tests::assert_has_all::<File>(&all, table);
        }
    }

    #[test]
    fn file_over_default() {
        let text = "rtmp = \":1936\"\nopen = true\npublic_host = \"Relay.Example\"\n\
                    [ring]\nmax_bytes = \"8 MiB\"\n[limits]\nhandshake = \"3s\"\n";
        let config = load(&[], text).unwrap();
        assert_eq!(config.rtmp.to_string(), "[::]:1936");
        assert_eq!(config.public_host.as_deref(), Some("relay.example"));
        assert_eq!(config.ring.max_bytes, 8 << 20);
        assert_eq!(config.limits.handshake.as_secs(), 3);
        assert_eq!(config.limits.connections, Limits::default().connections);
        assert!(config.open);
        let config = load(&[], "[spool]\ndisk = \"0\"\nmemory = \"0s\"").unwrap();
        assert_eq!((config.spool.disk, config.spool.memory), (0, Duration::ZERO));
    }

    #[test]
    fn command_line_over_file() {
        let text = "rtmp = \":1936\"\ndata = \"/from/file\"\n";
        let config = load(&["--rtmp", ":1937", "--data", "/from/line"], text).unwrap();
        assert_eq!(config.rtmp.port(), 1937);
        assert_eq!(config.rtmps, None);
        let config = load(&["--rtmps", ":1443"], "rtmps = \":1444\"").unwrap();
        assert_eq!(config.rtmps.unwrap().to_string(), "[::]:1443");
        let config = load(&["--rtmps", "127.0.0.1"], "").unwrap();
        assert_eq!(config.rtmps.unwrap().to_string(), "127.0.0.1:1936");
        let config = load(&["--data", "/from/line"], text).unwrap();
        assert_eq!(config.data, Path::new("/from/line"));
    }

    /// Variables belong to a process, so the test runs itself in a second one that has them.
    #[test]
    fn environment_over_file_and_under_command_line() {
        if std::env::var_os("FIRSTMILE_RELAY_RTMP").is_some() {
            assert_eq!(load(&[], "rtmp = \":1936\"").unwrap().rtmp.port(), 1940);
            assert_eq!(load(&["--rtmp", ":1937"], "").unwrap().rtmp.port(), 1937);
            let config = load(&[], "http_token = \"token-from-the-file\"").unwrap();
            assert_eq!(config.http_token.unwrap().expose(), "token-from-the-environment");
            return;
        }
        let name = "config::relay::tests::environment_over_file_and_under_command_line";
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name])
            .env("FIRSTMILE_RELAY_RTMP", ":1940")
            .env("FIRSTMILE_RELAY_HTTP_TOKEN", "token-from-the-environment")
            .status();
        assert!(status.unwrap().success());
    }

    #[test]
    fn an_unknown_key_is_answered_with_the_right_one() {
        let error = load(&[], "open = true\n\nrmtp = \":1935\"\n").unwrap_err();
        let expected = "relay.toml: unknown key `rmtp` at line 3: did you mean `rtmp`?";
        assert_eq!(error.to_string(), expected);
        let error = load(&[], "[limits]\nconections = 5\n").unwrap_err();
        let expected =
            "relay.toml: unknown key `conections` at line 2: did you mean `connections`?";
        assert_eq!(error.to_string(), expected);
        let error = load(&[], "[ring]\ncolour = 5\n").unwrap_err();
        assert_eq!(
            error.hint().unwrap(),
            "the keys there are: max_bytes, max_age, max_tags, total_bytes"
        );
    }

    #[test]
    fn a_wrong_value_is_answered_with_an_example() {
        let error = load(&[], "[limits]\nhandshake = 5\n").unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("relay.toml line 2: expected a time with its unit"), "{text}");
        let error = load(&[], "rtmp = \"relay.example:1935\"\n").unwrap_err();
        assert!(error.to_string().contains("line 1: expected an address such as"), "{error}");
        let error = load(&[], "rtmp = \n").unwrap_err();
        assert!(error.to_string().starts_with("relay.toml line 1: "), "{error}");
        let error = load(&["--public-host", "http://x"], "").unwrap_err();
        assert!(error.to_string().starts_with("public_host: write only a name"), "{error}");
        let error = load(&[], "[spool]\ndisk = \"1 MiB\"").unwrap_err();
        assert_eq!(error.to_string(), "spool.disk: it must be 0, or at least 64 MiB");
        let error = load(&[], "[spool]\nmemory = \"11m\"").unwrap_err();
        assert!(error.to_string().starts_with("spool.disk_time: it must be at least"), "{error}");
        let error = load(&[], "region = \"\\u202Enilreb\"").unwrap_err();
        assert!(error.to_string().starts_with("region: write a name of up to 32"), "{error}");
        assert_eq!(load(&[], "region = \" Köln, DE \"").unwrap().region.unwrap(), "Köln, DE");
        assert_eq!(region_text("\u{202e}<img src=x>\u{1b}[2J Köln"), "img srcx2J Köln");
        assert_eq!(region_text(&"x".repeat(99)).len(), 32);
        let error = load(&[], "[measure]\nupload_total = \"1 MiB\"").unwrap_err();
        assert_eq!(error.to_string(), "measure.upload_total: it must be at least measure.upload");
        let error = load(&[], "start_grace = \"11m\"").unwrap_err();
        assert_eq!(error.to_string(), "start_grace: it must be from 0ms to 10m");
    }

    #[test]
    fn webhooks() {
        let one = "[[webhooks]]\nurl = \"https://a.example/x\"\nsecret = \"0123456789abcdef\"\n";
        assert_eq!(load(&[], &one.repeat(16)).unwrap().webhooks.len(), 16);
        let error = load(&[], &one.repeat(17)).unwrap_err();
        assert_eq!(error.to_string(), "webhooks: it must be at most 16");
        let error = load(&[], &format!("{one}event = [\"live\"]\n")).unwrap_err();
        let expected = "relay.toml: unknown key `event` at line 4: did you mean `events`?";
        assert_eq!(error.to_string(), expected);
        let error = load(&[], &one.replace("https://", "me@")).unwrap_err();
        assert!(error.to_string().contains("line 2: expected an address such as"), "{error}");
    }

    #[test]
    fn a_public_dashboard_needs_a_token() {
        let error = load(&["--http", "[::]:8935"], "").unwrap_err();
        assert!(matches!(error, ConfigError::PublicHttp { .. }));
        let hint = error.hint().unwrap();
        assert!(hint.contains("http_token = \"") && hint.contains("ssh -L 8935"), "{hint}");
        load(&["--http", "[::]:8935"], "http_token = \"chosen-by-the-owner\"").unwrap();
        assert!(hint.contains("http_password = \""), "{hint}");
        load(&["--http", "[::]:8935"], "http_password = \"eight or more\"").unwrap();
        let error = load(&[], "http_password = \"seven77\"").unwrap_err();
        assert!(error.to_string().contains("a password has 8 to 128 characters"), "{error}");
        assert!(!error.to_string().contains("seven77"), "{error}");
        load(&["--http", "[::1]:8935"], "").unwrap();
        load(&["--http", ":9000"], "").unwrap();
    }
}
