//! What a studio is told.

use std::io::Read;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::record::Record;
use super::relay::{default_http, default_rtmp, default_rtmps};
use super::value::Listen;
use super::{
    ConfigError, Limits, Ring, StudioBackhaul, Tls, TlsFiles, check_http, check_webhooks, duration,
    http_password, http_token, read_file, within,
};
use crate::cli::StudioArgs;
use crate::events::webhook::Webhook;
use crate::join::JoinLink;
use crate::platform::{self, Role};
use crate::secret::{Password, Token};
use crate::status::PlayTiming;

/// Most bytes of a file or standard input that holds join links.
const MAX_LINKS: u64 = 64 << 10;

/// The longest delay of players: more is a recording. Beside it the ring holds a GOP.
const MOST_DELAY: Duration = Duration::from_secs(10);
/// What players may be late before they skip: less is a frame or two, more is no longer live.
const LEAST_MAX_DELAY: Duration = Duration::from_millis(100);
const MOST_MAX_DELAY: Duration = Duration::from_secs(60);

/// A studio's configuration, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Its data directory.
    pub data: PathBuf,
    /// Relays to join beside those joined before.
    pub join: Vec<JoinLink>,
    /// Where players play, and encoders on the LAN publish.
    pub rtmp: SocketAddr,
    /// The same with TLS.
    pub rtmps: Option<SocketAddr>,
    /// Dashboard and API.
    pub http: SocketAddr,
    /// The API's token, instead of one made at each start.
    pub http_token: Option<Token>,
    /// What people log in with at the dashboard; without it nobody does.
    pub http_password: Option<Password>,
    /// What players get.
    pub play: Play,
    /// How feeds come from relays.
    pub backhaul: StudioBackhaul,
    /// What is recorded, and where.
    pub record: Record,
    /// Whether every RTMP connection leaves a trace.
    pub trace_rtmp: bool,
    /// What RTMPS and HTTPS show, instead of a certificate made at the start.
    pub tls: Option<TlsFiles>,
    /// Bounds.
    pub limits: Limits,
    /// Each feed's memory.
    pub ring: Ring,
    /// Who is told what happens.
    pub webhooks: Vec<Webhook>,
}

/// What players get.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Play {
    /// Whether players on other machines may play, with the key.
    pub lan: bool,
    /// Whether players on this machine need the key, too.
    pub loopback_key: bool,
    /// Their key, instead of the one that the first start makes.
    pub key: Option<Token>,
    /// What a player gets that joins in the middle of a GOP.
    pub join: JoinPolicy,
    /// When a player gets more than one track of audio or video.
    pub multitrack: Multitrack,
    /// Delay at which a player is moved to the newest keyframe.
    #[serde(deserialize_with = "duration")]
    pub max_delay: Duration,
    /// How far behind the live edge players are kept.
    #[serde(deserialize_with = "duration")]
    pub delay: Duration,
}

impl Default for Play {
    fn default() -> Self {
        let (max_delay, delay) = (Duration::from_secs(2), Duration::ZERO);
        let (join, multitrack) = (JoinPolicy::default(), Multitrack::default());
        Self { lan: true, loopback_key: false, key: None, join, multitrack, max_delay, delay }
    }
}

/// What a player gets that joins in the middle of a GOP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JoinPolicy {
    /// The GOP's video, squeezed towards the live edge: a picture at once, and no delay later.
    #[default]
    Fast,
    /// The GOP as it was: a picture at once, and up to a GOP of delay.
    Smooth,
    /// The next keyframe: no delay, and a picture only then.
    Keyframe,
}

/// When a player gets more than one track of audio or video, and `ModEx` packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Multitrack {
    /// When it has announced that it can.
    #[default]
    Announced,
    /// Unless it has announced anything else.
    Always,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    data: Option<PathBuf>,
    join: Vec<String>,
    rtmp: Listen,
    rtmps: Option<Listen>,
    http: Listen,
    http_token: Option<Token>,
    http_password: Option<Password>,
    play: Play,
    backhaul: StudioBackhaul,
    record: Record,
    trace_rtmp: bool,
    tls: Tls,
    limits: Limits,
    ring: Ring,
    webhooks: Vec<Webhook>,
}

impl Config {
    /// Puts the layers together: arguments and environment, file, defaults.
    ///
    /// Join links are read from `stdin` if one of the sources is `-`.
    pub fn load(args: &StudioArgs, stdin: impl Read) -> Result<Self, ConfigError> {
        let file: File = read_file(args.config.as_deref())?;
        Self::resolve(args, file, stdin)
    }

    fn resolve(args: &StudioArgs, file: File, mut stdin: impl Read) -> Result<Self, ConfigError> {
        let sources = if args.join.is_empty() { &file.join } else { &args.join };
        let mut join = Vec::new();
        for source in sources {
            for link in links(source, &mut stdin)? {
                if !join.contains(&link) {
                    join.push(link);
                }
            }
        }
        let data = args.data.clone().or(file.data);
        let config = Self {
            data: data.unwrap_or_else(|| platform::default_data_dir(Role::Studio)),
            join,
            rtmp: args.rtmp.unwrap_or(file.rtmp).or(default_rtmp()),
            rtmps: args.rtmps.or(file.rtmps).map(|rtmps| rtmps.or(default_rtmps())),
            http: args.http.unwrap_or(file.http).or(default_http()),
            http_token: http_token("FIRSTMILE_STUDIO_HTTP_TOKEN", file.http_token)?,
            http_password: http_password("FIRSTMILE_STUDIO_HTTP_PASSWORD", file.http_password)?,
            play: file.play,
            record: file.record,
            trace_rtmp: args.trace_rtmp || file.trace_rtmp,
            tls: file.tls.files()?,
            limits: file.limits,
            ring: file.ring,
            backhaul: file.backhaul,
            webhooks: file.webhooks,
        };
        check_http(config.http, config.http_token.as_ref(), config.http_password.as_ref())?;
        within("play.max_delay", config.play.max_delay, LEAST_MAX_DELAY, MOST_MAX_DELAY)?;
        config.backhaul.check()?;
        config.record.check()?;
        config.limits.check()?;
        config.ring.check()?;
        check_webhooks(&config.webhooks)?;
        within("play.delay", config.play.delay, Duration::ZERO, config.most_delay())?;
        Ok(config)
    }

    /// The longest delay that players may have: what they wait for has to stay in the ring, and with
    /// it the GOP that it is in.
    pub fn most_delay(&self) -> Duration {
        MOST_DELAY.min(self.ring.max_age * 2 / 3)
    }

    /// Whether a feed may be played like this; else why not.
    pub fn check_timing(&self, timing: PlayTiming) -> Result<(), String> {
        let ms = |time: Duration| time.as_millis() as u64;
        let (least, most) = (ms(LEAST_MAX_DELAY), ms(MOST_MAX_DELAY));
        if timing.play_max_delay_ms.is_some_and(|max| !(least..=most).contains(&max)) {
            return Err(format!("play_max_delay_ms must be from {least} to {most}"));
        }
        let most = ms(self.most_delay());
        if timing.play_delay_ms.is_some_and(|delay| delay > most) {
            return Err(format!("play_delay_ms must be from 0 to {most}"));
        }
        Ok(())
    }
}

/// The links of one source: a link, `@FILE` with one a line, or `-` for standard input.
pub fn links(source: &str, stdin: &mut impl Read) -> Result<Vec<JoinLink>, ConfigError> {
    let source = source.trim();
    let mut text = String::new();
    let from = if source == "-" {
        let from = "standard input".to_owned();
        match stdin.take(MAX_LINKS).read_to_string(&mut text) {
            Ok(_) => from,
            Err(source) => return Err(ConfigError::JoinSource { from, source }),
        }
    } else if let Some(path) = source.strip_prefix('@') {
        let file = std::fs::File::open(path);
        match file.and_then(|file| file.take(MAX_LINKS).read_to_string(&mut text)) {
            Ok(_) => path.to_owned(),
            Err(source) => {
                return Err(ConfigError::JoinSource { from: path.into(), source });
            }
        }
    } else {
        text.push_str(source);
        "the join link".to_owned()
    };
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let links = lines.filter(|line| !line.starts_with('#')).map(|line| {
        let wrong = |source| ConfigError::Join { from: format!("cannot use {from}"), source };
        line.parse().map_err(wrong)
    });
    let links = links.collect::<Result<Vec<_>, _>>()?;
    if links.is_empty() {
        return Err(ConfigError::value("join", format!("there is no join link in {from}")));
    }
    Ok(links)
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::super::record::RecordFormat;
    use super::*;
    use crate::cli::{Cli, Command};
    use crate::identity::PublicKey;
    use crate::secret::Secret;
    use clap::Parser;
    use std::path::Path;

    const EXAMPLE: &str = include_str!("../../../../config/studio.example.toml");

    fn link(host: &str) -> JoinLink {
        let (pin, invite) = (PublicKey([3; 32]), Secret::random());
        JoinLink { host: host.into(), port: 4433, pin, invite }
    }

    fn load(list: &[&str], text: &str, stdin: &str) -> Result<Config, ConfigError> {
        let words = ["firstmile", "studio"].iter().chain(list);
        let Command::Studio(args) = Cli::try_parse_from(words).unwrap().command else {
            panic!("not the studio command")
        };
        Config::resolve(&args, parse(Path::new("studio.toml"), text)?, stdin.as_bytes())
    }

    #[test]
    fn the_example_has_the_defaults_and_every_key() {
        assert_eq!(load(&[], EXAMPLE, "").unwrap(), load(&[], "", "").unwrap());
        let all = super::super::tests::uncommented(EXAMPLE);
        toml::from_str::<File>(&all).unwrap();
        for table in
            ["", "play", "backhaul", "record", "limits", "limits.rtmp", "ring", "tls", "webhooks"]
        {
            super::super::tests::assert_has_all::<File>(&all, table);
        }
    }

    #[test]
    fn links_come_from_everywhere() {
        let (a, b) = (link("a.example"), link("b.example"));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("links");
        std::fs::write(&path, format!("# ours\n{}\n\n", b.expose())).unwrap();
        let at = format!("@{}", path.display());
        let config = load(&["--join", "-", "--join", &at], "", &a.expose()).unwrap();
        assert_eq!(config.join, [a.clone(), b.clone()]);

        let text = format!("join = [\"{}\"]\n", a.expose());
        assert_eq!(load(&[], &text, "").unwrap().join, std::slice::from_ref(&a));
        assert_eq!(load(&["--join", &b.expose()], &text, "").unwrap().join, [b]);
    }

    #[test]
    fn a_bad_link_is_explained_and_not_repeated() {
        let whole = link("a.example").expose();
        let error = load(&["--join", &whole[..60]], "", "").unwrap_err();
        let text = crate::error::describe(&error.into());
        assert!(text.contains("copy all of it from the relay's screen"), "{text}");
        assert!(!text.contains("a.example"), "{text}");
        let error = load(&["--join", "-"], "", "\n").unwrap_err();
        assert_eq!(error.to_string(), "join: there is no join link in standard input");
        let error = load(&["--join", "@/no/such/file"], "", "").unwrap_err();
        assert_eq!(error.to_string(), "cannot read a join link from /no/such/file");
    }

    #[test]
    fn feeds_may_have_a_delay_of_their_own() {
        let text = "[backhaul]\nmax_delay = \"1s\"\nfeed_delays = { roof = \"300ms\" }\n";
        let backhaul = load(&[], text, "").unwrap().backhaul;
        assert_eq!(backhaul.delay_of("roof"), Duration::from_millis(300));
        assert_eq!(backhaul.delay_of("camera"), Duration::from_secs(1));
        let wrong = "[backhaul]\nfeed_delays = { roof = \"3ms\" }\n";
        let error = load(&[], wrong, "").unwrap_err().to_string();
        assert_eq!(error, "backhaul.feed_delays: it must be from 200ms to 1m");
        load(&[], "[backhaul]\nfeed_delays = { Roof = \"3s\" }\n", "").unwrap_err();
    }

    #[test]
    fn recordings_have_a_place() {
        let record = load(&["--data", "/d"], "[record]\nall = true\n", "").unwrap().record;
        assert!(record.all);
        assert_eq!(record.keep_free, 1 << 30);
        assert_eq!(record.dir(Path::new("/d")), Path::new("/d/recordings"));
        let text = "[record]\ndir = \"/video\"\nkeep_free = \"20 GiB\"\nformat = \"flv\"\n\
                    split_time = \"1h\"\nsplit_bytes = \"4 GiB\"\nkeep_journal = true\n";
        let record = load(&[], text, "").unwrap().record;
        assert_eq!((record.format, record.keep_journal), (RecordFormat::Flv, true));
        assert_eq!(record.split_time, Some(Duration::from_secs(3_600)));
        assert_eq!(record.split_bytes, Some(4 << 30));
        let error = load(&[], "[record]\nsplit_time = \"1s\"\n", "").unwrap_err().to_string();
        assert_eq!(error, "record.split_time: it must be 10s or more");
        load(&[], "[record]\nname = \"../{feed}\"\n", "").unwrap_err();
        assert_eq!(record.dir(Path::new("/d")), Path::new("/video"));
        assert_eq!(record.keep_free, 20 << 30);
    }

    #[test]
    fn play_settings() {
        let text = "[play]\njoin = \"smooth\"\nmax_delay = \"500ms\"\nlan = false\n\
                    multitrack = \"always\"\nloopback_key = true\n";
        let play = load(&[], text, "").unwrap().play;
        assert_eq!(play.join, JoinPolicy::Smooth);
        assert_eq!(play.max_delay, Duration::from_millis(500));
        assert_eq!(play.multitrack, Multitrack::Always);
        assert!(!play.lan && play.loopback_key);
        let delayed = load(&[], "[play]\ndelay = \"1s\"\n", "").unwrap();
        assert_eq!(delayed.play.delay, Duration::from_secs(1));
        let error = load(&[], "[play]\ndelay = \"11s\"\n", "").unwrap_err();
        assert_eq!(error.to_string(), "play.delay: it must be from 0ms to 10s");
        let short = "[play]\ndelay = \"5s\"\n[ring]\nmax_age = \"6s\"\n";
        let error = load(&[], short, "").unwrap_err();
        assert_eq!(error.to_string(), "play.delay: it must be from 0ms to 4s");
        let check = |play_delay_ms, play_max_delay_ms| {
            delayed.check_timing(PlayTiming { play_delay_ms, play_max_delay_ms })
        };
        assert_eq!(check(Some(10_000), Some(100)), Ok(()));
        assert_eq!(check(None, None), Ok(()));
        assert!(check(Some(10_001), None).unwrap_err().contains("from 0 to 10000"));
        assert!(check(None, Some(99)).unwrap_err().contains("from 100 to 60000"));
        let error = load(&[], "[play]\njoin = \"quick\"\n", "").unwrap_err();
        assert!(error.to_string().contains("`fast`, `smooth`, `keyframe`"), "{error}");
    }
}
