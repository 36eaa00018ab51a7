//! The command line, and the commands that do one thing and end.

mod client;
pub mod doctor;
pub mod feed;
pub mod invite;
pub mod record;
pub mod relays;
pub mod status;
pub mod studios;

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::FalseyValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::value::{Listen, Span};
use crate::secret::FeedName;
use crate::when::When;

/// Bring live video from anywhere into a studio that has no public address
#[derive(Debug, Parser)]
#[command(name = "firstmile", version, arg_required_else_help = true, term_width = 0)]
pub struct Cli {
    /// Log at this level: error, warn, info (default; demo: warn), debug, trace, or per module
    #[arg(long, global = true, env = "FIRSTMILE_LOG", value_name = "LEVEL")]
    pub log: Option<String>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// The log filter that was asked for, or the command's own.
    pub fn log_filter(&self) -> &str {
        match (&self.log, &self.command) {
            (Some(filter), _) => filter,
            // Its status line shares the terminal.
            (None, Command::Demo(_)) => "warn",
            (None, _) => "info",
        }
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a relay on a public machine
    Relay(RelayArgs),
    /// Run a studio in the control room
    Studio(StudioArgs),
    /// Make a join link for a relay; list and revoke those that were made
    Invite(InviteArgs),
    /// List a relay's studios, cut one off, or let it in again
    Studios(StudiosArgs),
    /// Add, list, rotate, limit, pause or remove a studio's feeds
    Feed(FeedArgs),
    /// List the relays that a studio has joined, join one, or leave it
    Relays(RelaysArgs),
    /// Switch recording on or off, list recordings, and write them as FLV
    Record(RecordArgs),
    /// Show how the running relay or studio is: feeds, problems, links
    Status(StatusArgs),
    /// Find out what is wrong, and what to do
    Doctor(DoctorArgs),
    /// Run everything on this machine, with a test clip as the encoder
    Demo(DemoArgs),
}

/// How results are written on standard output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For a person
    #[default]
    Text,
    /// One JSON object, for a program
    Json,
}

/// `firstmile relay`.
#[derive(Clone, Debug, Default, Args)]
pub struct RelayArgs {
    /// Read this configuration file
    #[arg(long, env = "FIRSTMILE_RELAY_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Keep identity and admitted studios in this directory
    #[arg(long, env = "FIRSTMILE_RELAY_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Take encoders at this address
    #[arg(long, env = "FIRSTMILE_RELAY_RTMP", value_name = "ADDR")]
    #[arg(help = "Take encoders at this address [default: [::]:1935]")]
    pub rtmp: Option<Listen>,
    /// Take RTMPS on a port of its own, too [default: on the secure port only]
    #[arg(long, env = "FIRSTMILE_RELAY_RTMPS", value_name = "ADDR")]
    pub rtmps: Option<Listen>,
    /// Take studios (UDP), RTMPS and HTTPS (TCP) at this address
    #[arg(long, env = "FIRSTMILE_RELAY_SECURE", value_name = "ADDR")]
    #[arg(
        help = "Take studios (UDP), RTMPS and HTTPS (TCP) here [default: [::]:443 if permitted, else :4433]"
    )]
    pub secure: Option<Listen>,
    /// Serve dashboard and API at this address [default: 127.0.0.1:8935]
    #[arg(long, env = "FIRSTMILE_RELAY_HTTP", value_name = "ADDR")]
    pub http: Option<Listen>,
    /// Tell encoders and studios to reach this machine by this name
    #[arg(long, env = "FIRSTMILE_RELAY_PUBLIC_HOST", value_name = "NAME")]
    pub public_host: Option<String>,
    /// Let studios in without an invite
    #[arg(long, env = "FIRSTMILE_RELAY_OPEN", value_parser = FalseyValueParser::new())]
    pub open: bool,
    /// Keep a trace of every RTMP connection, without keys, in DIR/traces
    #[arg(long, env = "FIRSTMILE_RELAY_TRACE_RTMP", value_parser = FalseyValueParser::new())]
    pub trace_rtmp: bool,
    /// Print results in this form
    #[arg(long, value_name = "FORM", default_value = "text")]
    pub output: Output,
}

/// `firstmile studio`.
#[derive(Clone, Debug, Default, Args)]
pub struct StudioArgs {
    /// Read this configuration file
    #[arg(long, env = "FIRSTMILE_STUDIO_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Keep identity, feeds and relays in this directory
    #[arg(long, env = "FIRSTMILE_STUDIO_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Join the relay of this link; - reads standard input, @FILE a file
    #[arg(long, env = "FIRSTMILE_STUDIO_JOIN", hide_env_values = true, value_name = "LINK")]
    pub join: Vec<String>,
    /// Take players and local encoders at this address
    #[arg(long, env = "FIRSTMILE_STUDIO_RTMP", value_name = "ADDR")]
    #[arg(help = "Take players and local encoders at this address [default: [::]:1935]")]
    pub rtmp: Option<Listen>,
    /// Take players and local encoders with TLS, too, at this address [default: off]
    #[arg(long, env = "FIRSTMILE_STUDIO_RTMPS", value_name = "ADDR")]
    pub rtmps: Option<Listen>,
    /// Serve dashboard and API at this address [default: 127.0.0.1:8935]
    #[arg(long, env = "FIRSTMILE_STUDIO_HTTP", value_name = "ADDR")]
    pub http: Option<Listen>,
    /// Keep a trace of every RTMP connection, without keys, in DIR/traces
    #[arg(long, env = "FIRSTMILE_STUDIO_TRACE_RTMP", value_parser = FalseyValueParser::new())]
    pub trace_rtmp: bool,
    /// Print results in this form
    #[arg(long, value_name = "FORM", default_value = "text")]
    pub output: Output,
}

/// `firstmile invite`.
#[derive(Clone, Debug, Default, Args)]
pub struct InviteArgs {
    /// Instead of making one.
    #[command(subcommand)]
    pub action: Option<InviteAction>,
    /// Find the relay by its data directory
    #[arg(long, global = true, env = "FIRSTMILE_RELAY_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Admit this many studios [default: any number]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub uses: Option<u32>,
    /// Expire after this time, such as 30m, 24h or 7d [default: 24h]
    #[arg(long, value_name = "T")]
    pub expires: Option<Span>,
    /// Print results in this form
    #[arg(long, global = true, value_name = "FORM", default_value = "text")]
    pub output: Output,
}

/// What to do with invites that were made.
#[derive(Clone, Debug, Subcommand)]
pub enum InviteAction {
    /// List the invites that still admit somebody
    List,
    /// Make an invite worth nothing; studios that it has admitted stay
    Revoke {
        /// Which, as the list calls it
        id: String,
    },
}

/// `firstmile studios`.
#[derive(Clone, Debug, Args)]
pub struct StudiosArgs {
    /// What to do with which studio.
    #[command(subcommand)]
    pub action: StudiosAction,
    /// Find the relay by its data directory
    #[arg(long, global = true, env = "FIRSTMILE_RELAY_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Print results in this form
    #[arg(long, global = true, value_name = "FORM", default_value = "text")]
    pub output: Output,
}

/// What to do with which studio.
#[derive(Clone, Debug, Subcommand)]
pub enum StudiosAction {
    /// List the studios that are here, or may come back, or were cut off
    List,
    /// Cut a studio off at once; it comes back only by an invite that is made later
    Remove {
        /// Its name, or the first characters of its key
        studio: String,
    },
    /// Let a studio in again that was cut off
    Restore {
        /// Its name, or the first characters of its key
        studio: String,
    },
}

impl InviteArgs {
    /// How long the invite is good for.
    pub fn expires(&self) -> Duration {
        self.expires.map_or(Duration::from_secs(24 * 3600), |span| span.0)
    }
}

/// `firstmile feed`.
#[derive(Clone, Debug, Args)]
pub struct FeedArgs {
    /// What to do with which feed.
    #[command(subcommand)]
    pub action: FeedAction,
    /// Find the studio by its data directory
    #[arg(long, global = true, env = "FIRSTMILE_STUDIO_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Print results in this form
    #[arg(long, global = true, value_name = "FORM", default_value = "text")]
    pub output: Output,
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Switch {
    /// There is one.
    On,
    /// There is none.
    Off,
}

/// What to do with which feed.
#[derive(Clone, Debug, Subcommand)]
pub enum FeedAction {
    /// Add a feed and print what to type into its encoder
    Add {
        /// Lower-case letters, digits and hyphens
        name: FeedName,
        /// Until when its key is good.
        #[command(flatten)]
        until: UntilArgs,
    },
    /// List the feeds and what to type into their encoders
    List,
    /// Give a feed a new key; the old one ends at once
    Rotate {
        /// Which feed
        name: FeedName,
    },
    /// Say until when a feed's key lets encoders in; one that is on air then stays
    Limit {
        /// Which feed
        name: FeedName,
        /// Until when.
        #[command(flatten)]
        limit: LimitArgs,
    },
    /// Let no encoder in with a feed's key until it is resumed; one that is on air goes at once
    Pause {
        /// Which feed
        name: FeedName,
    },
    /// Let encoders in again
    Resume {
        /// Which feed
        name: FeedName,
    },
    /// Give a feed a user and a password beside its key, or take them away
    Auth {
        /// Which feed
        name: FeedName,
        /// Whether it has them; on again changes nothing
        switch: Switch,
    },
    /// Remove a feed and its key
    Remove {
        /// Which feed
        name: FeedName,
    },
}

/// Until when a new key is good.
#[derive(Clone, Copy, Debug, Default, Args)]
#[group(multiple = false)]
pub struct UntilArgs {
    /// Let encoders in until then, such as 2026-11-23T23:59+01:00 [default: for ever]
    #[arg(long, value_name = "TIME")]
    pub until: Option<When>,
    /// Let encoders in for so long, such as 90m, 6h or 2d
    #[arg(long = "for", value_name = "T")]
    pub span: Option<Span>,
}

/// Until when a key is good.
#[derive(Clone, Copy, Debug, Default, Args)]
#[group(required = true, multiple = false)]
pub struct LimitArgs {
    /// Let encoders in until then, such as 2026-11-23T23:59+01:00
    #[arg(long, value_name = "TIME")]
    pub until: Option<When>,
    /// Let encoders in for so long, such as 90m, 6h or 2d
    #[arg(long = "for", value_name = "T")]
    pub span: Option<Span>,
    /// Let encoders in for ever
    #[arg(long)]
    pub never: bool,
}

/// `firstmile relays`.
#[derive(Clone, Debug, Args)]
pub struct RelaysArgs {
    /// What to do with which relay.
    #[command(subcommand)]
    pub action: RelaysAction,
    /// Find the studio by its data directory
    #[arg(long, global = true, env = "FIRSTMILE_STUDIO_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Print results in this form
    #[arg(long, global = true, value_name = "FORM", default_value = "text")]
    pub output: Output,
}

/// What to do with which relay.
#[derive(Clone, Debug, Subcommand)]
pub enum RelaysAction {
    /// List the relays and how the links to them are
    List,
    /// Join the relay of this link; - reads standard input, @FILE a file
    Join {
        /// What the relay, or its owner's `firstmile invite`, has printed
        link: String,
    },
    /// Leave a relay: encoders that publish there are cut
    Leave {
        /// Its name, or the first characters of its key
        relay: String,
    },
}

/// `firstmile record`.
#[derive(Clone, Debug, Args)]
pub struct RecordArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: RecordAction,
    /// Find the studio by its data directory
    #[arg(long, global = true, env = "FIRSTMILE_STUDIO_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Find recordings in this directory [default: the running studio's, else DATA/recordings]
    #[arg(long, global = true, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Print results in this form
    #[arg(long, global = true, value_name = "FORM", default_value = "text")]
    pub output: Output,
}

/// What to do with recordings.
#[derive(Clone, Debug, Subcommand)]
pub enum RecordAction {
    /// Record a feed from now on
    On {
        /// Which feed
        name: FeedName,
    },
    /// Record a feed no longer; its recordings stay
    Off {
        /// Which feed
        name: FeedName,
    },
    /// List the recordings, oldest first
    List,
    /// Write a recording as an FLV file, up to the first hole that may still be filled
    Export {
        /// A feed's name for its latest recording, or a publication's first digits
        which: String,
        /// Where to write it
        file: PathBuf,
    },
}

/// `firstmile status`.
#[derive(Clone, Debug, Default, Args)]
pub struct StatusArgs {
    /// Look at the node of this data directory [default: every one that runs here]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Look again every second, until interrupted
    #[arg(long)]
    pub watch: bool,
    /// Print results in this form: JSON is one line for each node, without keys
    #[arg(long, value_name = "FORM", default_value = "text")]
    pub output: Output,
}

/// `firstmile doctor`.
#[derive(Clone, Debug, Default, Args)]
pub struct DoctorArgs {
    /// Look at this data directory
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
}

/// `firstmile demo`.
#[derive(Clone, Debug, Default, Args)]
pub struct DemoArgs {
    /// Stop after this many seconds
    #[arg(long, value_name = "N")]
    pub seconds: Option<u64>,
    /// Print results in this form
    #[arg(long, value_name = "FORM", default_value = "text")]
    pub output: Output,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn accepts_what_is_documented() {
        for line in [
            "firstmile relay --config f --data d --rtmp :1935 --rtmps :1936 --secure 4433 --http 127.0.0.1:0 --public-host h --open --output json",
            "firstmile studio --join - --join @f --join firstmile://x --rtmp [::]:0 --rtmps :0 --http :1 --output json",
            "firstmile invite --data d --uses 3 --expires 30m --output json",
            "firstmile invite list --data d --output json",
            "firstmile invite revoke 0123456789 --data d",
            "firstmile studios list --output json",
            "firstmile studios remove 0123ABCD --data d",
            "firstmile studios restore studio",
            "firstmile feed add camera-2 --data d --output json",
            "firstmile feed --data d list",
            "firstmile feed rotate camera",
            "firstmile feed add camera-2 --for 6h",
            "firstmile feed limit camera --until 2026-11-23T23:59+01:00",
            "firstmile feed limit camera --for 90m --data d",
            "firstmile feed limit camera --never",
            "firstmile feed pause camera",
            "firstmile feed resume camera --output json",
            "firstmile feed auth camera on",
            "firstmile feed remove camera",
            "firstmile relays list --data d",
            "firstmile relays join firstmile://x --output json",
            "firstmile relays leave relay.example",
            "firstmile record on camera --data d",
            "firstmile record off camera",
            "firstmile record list --output json",
            "firstmile record export camera out.flv --dir d",
            "firstmile status --data d --watch --output json",
            "firstmile doctor --data d",
            "firstmile demo --seconds 3 --output json --log debug",
            "firstmile --log warn relay",
        ] {
            assert!(parse(line).is_ok(), "{line}: {:?}", parse(line).err());
        }
    }

    #[test]
    fn refuses_with_code_2_and_an_example() {
        let error = parse("firstmile relay --rtmp relay.example:1935").unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("expected an address such as"), "{error}");
        let error = parse("firstmile feed add Camera").unwrap_err();
        assert!(error.to_string().contains("lower-case letters"), "{error}");
        let error = parse("firstmile feed limit camera --until 2026-11-23T23:59").unwrap_err();
        assert!(error.to_string().contains("distance from UTC"), "{error}");
        assert!(parse("firstmile feed limit camera").is_err());
        assert!(parse("firstmile feed limit camera --never --for 1h").is_err());
        assert!(parse("firstmile feed add camera --until tonight").is_err());
        assert!(parse("firstmile invite --uses 0").is_err());
        assert!(parse("firstmile invite --expires 30").is_err());
    }

    /// What users and their scripts read. To accept a change, run the test with
    /// `FIRSTMILE_BLESS=1`.
    #[test]
    fn help_is_a_snapshot() {
        // The caller's environment is no part of the contract.
        let quiet = |command: clap::Command| command.mut_args(|arg| arg.hide_env_values(true));
        let mut root = quiet(Cli::command()).mut_subcommands(quiet);
        root.build();
        let mut text = root.render_help().to_string();
        for name in [
            "relay", "studio", "invite", "studios", "feed", "relays", "record", "status", "doctor",
            "demo",
        ] {
            let command = root.find_subcommand_mut(name).expect("the command exists");
            text.push_str(&format!("\n==== {name}\n{}", command.render_help()));
        }
        let lines = text.lines().map(str::trim_end);
        let text = lines.collect::<Vec<_>>().join("\n") + "\n";
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/cli/help.txt");
        if std::env::var_os("FIRSTMILE_BLESS").is_some() {
            std::fs::write(path, &text).unwrap();
        }
        assert_eq!(text, std::fs::read_to_string(path).unwrap_or_default());
    }
}
