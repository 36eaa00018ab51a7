//! One snapshot of a node: what the API answers, the dashboard draws and metrics count.

mod peers;
mod problems;
mod settings;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::SystemTime;

use media::Track;
use serde::{Deserialize, Serialize};

pub use peers::{InviteInfo, RelayInfo, StudioInfo, StudioState};
pub use problems::{Place, Problem, problems};
pub(crate) use problems::{is_cut_off, is_held};
pub use settings::{Auth, KeyText, Publish, auth_server, rtmp_server, rtmps_server};

use crate::events::webhook::WebhookStatus;
use crate::limit::{Hits, Limit};
use crate::spool::Figures;
use crate::when::When;

/// The answer of `GET /api/v1/status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// `relay`, `studio` or `demo`.
    pub role: String,
    /// The program's version.
    pub version: String,
    /// Seconds since the start.
    pub uptime_s: u64,
    /// The node's public key, 52 symbols.
    pub public_key: String,
    /// The addresses that it is bound to.
    pub addresses: Addresses,
    /// On a relay: the link that its start printed.
    pub join_link: Option<KeyText>,
    /// Connections of encoders and players.
    pub connections: u64,
    /// What someone should look at, in words without secrets.
    pub alarms: Vec<String>,
    /// Its feeds.
    pub feeds: Vec<FeedStatus>,
    /// Its connections to other nodes.
    pub links: Vec<LinkStatus>,
    /// What its limits bound, and how often they were hit.
    #[serde(default)]
    pub limits: LimitStatus,
    /// On a relay: what it keeps for studios that are away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spool: Option<SpoolStatus>,
    /// Those who are told what happens.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub webhooks: Vec<WebhookStatus>,
    /// On a studio: the dashboard's previews.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previews: Option<PreviewStatus>,
}

/// The dashboard's previews, all feeds together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreviewStatus {
    /// Cards that show a feed now.
    pub viewers: usize,
    /// Pictures that were left out because a browser was too slow, since the start.
    pub dropped_frames: u64,
}

/// What a relay keeps for studios that are away, all feeds together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpoolStatus {
    /// Bytes in memory, beside the rings.
    pub memory_bytes: usize,
    /// Bytes on disk.
    pub disk_bytes: u64,
    /// The bound of that; lower than it was set while the disk is full, 0 without one.
    pub disk_limit_bytes: u64,
    /// Bytes that wait to be written.
    pub pending_bytes: usize,
    /// Tags that were given up because the disk was too slow or failed.
    pub dropped_tags: u64,
    /// Why the disk cannot be written.
    pub error: Option<String>,
}

impl SpoolStatus {
    /// What a relay's spool says, and its hub.
    pub fn new(figures: Figures, memory: hub::Memory) -> Self {
        Self {
            memory_bytes: memory.spooled,
            disk_bytes: figures.disk_bytes,
            disk_limit_bytes: figures.disk_limit,
            pending_bytes: figures.pending_bytes,
            dropped_tags: figures.dropped_tags,
            error: figures.error,
        }
    }
}

/// What limits bound, and how often they were hit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LimitStatus {
    /// Connections that have not shown a valid key yet.
    pub unauthenticated: usize,
    /// Encoders and players that were let in.
    pub sessions: usize,
    /// Bytes in the rings and spools of all feeds.
    pub ring_bytes: usize,
    /// The bound of that.
    pub ring_total_bytes: usize,
    /// How often each limit was hit since the start, by its name in the metrics.
    pub hits: BTreeMap<String, u64>,
}

impl LimitStatus {
    /// What a node counts; `connections` are those of its door.
    pub fn new(hits: &Hits, connections: (usize, usize), memory: hub::Memory) -> Self {
        let count = |limit: &Limit| {
            let count = match limit {
                Limit::Ring => memory.overruns,
                Limit::RingTotal => memory.trimmed,
                limit => hits.of(*limit),
            };
            (limit.as_str().to_owned(), count)
        };
        let (unauthenticated, sessions) = connections;
        Self {
            unauthenticated,
            sessions,
            ring_bytes: memory.used,
            ring_total_bytes: memory.total,
            hits: Limit::ALL.iter().map(count).collect(),
        }
    }
}

/// The words of what is wrong with a feed.
const FOUGHT: &str = "two encoders are fighting over ";
const STALLED: [&str; 2] = ["the encoder of ", " is connected and sends nothing"];

/// What someone should look at in a feed.
pub fn feed_alarm(name: &dyn fmt::Display, snapshot: &hub::Snapshot) -> Option<String> {
    if snapshot.is_fought {
        return Some(format!("{FOUGHT}{name}"));
    }
    let is_stalled = snapshot.state == hub::State::Stalled;
    let [before, after] = STALLED;
    is_stalled.then(|| format!("{before}{name}{after}"))
}

/// Whether an alarm is one of [`feed_alarm`], and not of the whole node.
pub(crate) fn is_feed_alarm(alarm: &str) -> bool {
    let [before, after] = STALLED;
    alarm.starts_with(FOUGHT) || alarm.starts_with(before) && alarm.ends_with(after)
}

impl Status {
    /// The snapshot with what is wrong with each feed.
    pub fn diagnosed(mut self) -> Self {
        for feed in &mut self.feeds {
            feed.problems = problems(feed, &self.links);
            feed.held = is_held(feed, &self.links);
            let weakens = |problem: &Problem| problem.place.is_before_us() && !problem.advice;
            let is_weakened = feed.problems.iter().any(weakens);
            feed.weak = feed.state == FeedState::Live && is_weakened && !feed.held;
        }
        self
    }

    /// The snapshot for those who may not see keys.
    pub fn masked(mut self) -> Self {
        self.join_link = self.join_link.map(KeyText::mask);
        for feed in &mut self.feeds {
            feed.play_lan = feed.play_lan.take().map(KeyText::mask);
            feed.auth = feed.auth.take().map(Auth::masked);
            for player in &mut feed.player_list {
                "****".clone_into(&mut player.address);
            }
            let publish = std::mem::take(&mut feed.publish);
            feed.publish = publish.into_iter().map(Publish::masked).collect();
        }
        self
    }
}

/// The addresses that a node is bound to, with the ports that it really got.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// RTMP.
    pub rtmp: Option<String>,
    /// RTMPS on a port of its own.
    #[serde(default)]
    pub rtmps: Option<String>,
    /// Backhaul (UDP, and TCP), RTMPS and HTTPS (TCP).
    pub secure: Option<String>,
    /// Dashboard and API.
    pub http: Option<String>,
}

/// One feed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FeedStatus {
    /// Its name.
    pub name: String,
    /// On a relay: the studio whose feed it is, by the start of its public key.
    pub studio: Option<String>,
    /// How it is.
    pub state: FeedState,
    /// Whether it is live, but with a problem at its encoder or on its way here.
    #[serde(default)]
    pub weak: bool,
    /// Whether the way between its relay and its studio is lost while it is on air: the relay keeps
    /// the encoder and what it sends, the studio its players.
    #[serde(default)]
    pub held: bool,
    /// Whether two encoders are fighting over it.
    #[serde(default)]
    pub fought: bool,
    /// On a studio: when its key opens it.
    #[serde(default)]
    pub validity: Validity,
    /// What is wrong, where, and what to do.
    #[serde(default)]
    pub problems: Vec<Problem>,
    /// What its encoder types, by place.
    pub publish: Vec<Publish>,
    /// What an encoder with fields for user and password types, if that is switched on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,
    /// What a player on this machine opens.
    pub play: Option<String>,
    /// What a player on the LAN opens.
    pub play_lan: Option<KeyText>,
    /// The relay by which it comes now; `None` for an encoder that publishes here.
    pub via: Option<String>,
    /// The publication on air, as hexadecimal text.
    pub publication: Option<String>,
    /// Seconds since that publication began.
    pub since_s: Option<f64>,
    /// Bytes of media since this node started.
    pub bytes: u64,
    /// Its video.
    pub video: Option<Video>,
    /// Its audio.
    pub audio: Option<Audio>,
    /// Its frames and packets a second, all together; for what is said of tags.
    #[serde(skip)]
    pub tags_per_second: f64,
    /// Signs of packets that get lost between the encoder and the relay, or the studio that it
    /// publishes to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoder_stalls: Option<Stalls>,
    /// Where time is spent.
    pub latency: Latency,
    /// On a studio: how far behind the live edge its players are kept, in milliseconds.
    #[serde(default)]
    pub play_delay_ms: u64,
    /// On a studio: how late a player may be beside that before it skips.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub play_max_delay_ms: Option<u64>,
    /// Players connected.
    pub players: u32,
    /// On a studio: its players, those that wait longest first, at most 100.
    #[serde(default)]
    pub player_list: Vec<PlayerStatus>,
    /// What did not get through.
    pub drops: Drops,
    /// On a relay, while the feed is on air: how many seconds its studio may be away now and miss
    /// nothing, at the present bitrates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record_survives_s: Option<f64>,
    /// On a relay: the age in seconds of the oldest tag that is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spooled_s: Option<f64>,
    /// On a studio: its recordings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recording: Option<Recording>,
}

/// A feed's recordings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recording {
    /// Whether the feed is recorded now.
    pub on: bool,
    /// Publications that were recorded.
    pub publications: u64,
    /// Bytes of media in them.
    pub bytes: u64,
    /// Tags that are missing and may still come.
    pub missing: u64,
    /// Tags that will never come.
    pub gone: u64,
    /// Tags that the disk had no time or no room for, since the start.
    pub dropped: u64,
    /// What keeps the recorder from its work.
    pub alarm: Option<String>,
}

/// One recorded publication, as `GET /api/v1/recordings` has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecordingInfo {
    /// Its feed.
    pub feed: String,
    /// Its name, as hexadecimal text.
    pub publication: String,
    /// The relay that it came by; `None` for an encoder at the studio's own door.
    pub relay: Option<String>,
    /// When it began, in milliseconds since 1970.
    pub started_ms: i64,
    /// From its first to its last tag.
    pub length_ms: u64,
    /// Bytes of media.
    pub bytes: u64,
    /// Tags that are there.
    pub tags: u64,
    /// Tags that are missing and may still come.
    pub missing: u64,
    /// Tags that will never come.
    pub gone: u64,
    /// Which part is there of the tags that are there or may still come, from 0 to 1.
    pub progress: f64,
    /// Whether it has ended and nothing more can come.
    pub complete: bool,
    /// How far it is.
    pub state: RecordingState,
    /// The files that it has become so far, in order.
    pub files: Vec<RecordingFile>,
    /// Whether its journal has the tags; if not, only the files have.
    pub journal: bool,
    /// Its journal.
    pub path: PathBuf,
}

/// How far a recording is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecordingState {
    /// It goes on.
    Recording,
    /// It has ended, and what is missing may still come.
    Filling,
    /// It has ended, and nothing more can come; its files may not be whole yet.
    Ended,
    /// Its files are whole.
    Whole,
}

/// One file of a recording.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordingFile {
    /// Its name, in the directory of its journal.
    pub name: String,
    /// When its first frame came, in milliseconds since 1970.
    pub started_ms: i64,
    /// From the recording's beginning to the file's, in milliseconds.
    pub offset_ms: u64,
    /// How long it is, in milliseconds.
    pub length_ms: u64,
    /// Its bytes.
    pub bytes: u64,
    /// Stretches in it that never came.
    pub holes: u64,
}

impl FeedStatus {
    /// What a hub knows of its feed.
    pub fn of(name: &str, snapshot: &hub::Snapshot) -> Self {
        let kbps = |track| snapshot.tracks[track].bits_per_second / 1_000.0;
        let codec = |track: Track| snapshot.tracks[track].codec.map(|codec| codec.to_string());
        let video = codec(Track::Video).map(|codec| Video {
            codec,
            width: snapshot.resolution.map(|resolution| resolution.width),
            height: snapshot.resolution.map(|resolution| resolution.height),
            fps: Some(snapshot.tracks[Track::Video].tags_per_second),
            kbps: kbps(Track::Video),
            keyframe_interval_s: snapshot.keyframe_interval.map(|interval| interval.as_secs_f64()),
        });
        let audio = codec(Track::Audio).map(|codec| Audio { codec, kbps: kbps(Track::Audio) });
        Self {
            name: name.to_owned(),
            state: match snapshot.state {
                hub::State::Waiting => FeedState::Waiting,
                hub::State::Live => FeedState::Live,
                hub::State::Stalled => FeedState::Stalled,
                hub::State::Reconnecting => FeedState::Reconnecting,
            },
            fought: snapshot.is_fought,
            publication: snapshot.publication.map(|publication| publication.to_string()),
            since_s: snapshot.on_air_for.map(|age| age.as_secs_f64()),
            bytes: snapshot.tracks.iter().map(|(_, track)| track.bytes).sum(),
            video,
            audio,
            tags_per_second: snapshot.tracks.iter().map(|(_, track)| track.tags_per_second).sum(),
            encoder_stalls: snapshot.stalls.map(|stalls| Stalls {
                last_minute: stalls.count.into(),
                longest_ms: stalls.longest.as_millis() as u64,
            }),
            latency: Latency {
                encoder_growth_ms: snapshot.encoder_growth_ms.map(|growth| growth as f64),
                ..Latency::default()
            },
            players: snapshot.subscribers as u32,
            drops: Drops { player_skipped_tags: snapshot.skipped, ..Drops::default() },
            ..Self::default()
        }
    }
}

/// How a feed is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FeedState {
    /// No encoder is there.
    #[default]
    Waiting,
    /// Media arrives.
    Live,
    /// An encoder is there and sends nothing.
    Stalled,
    /// The encoder, or the way to it, was lost, and players are held.
    Reconnecting,
}

impl FeedState {
    /// All of them, for metrics.
    pub const ALL: [Self; 4] = [Self::Waiting, Self::Live, Self::Stalled, Self::Reconnecting];

    /// The state as it is written in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Live => "live",
            Self::Stalled => "stalled",
            Self::Reconnecting => "reconnecting",
        }
    }
}

/// A feed's video.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Video {
    /// `H.264`, `H.265`, `AV1` and so on.
    pub codec: String,
    /// In pixels.
    pub width: Option<u32>,
    /// In pixels.
    pub height: Option<u32>,
    /// Frames per second.
    pub fps: Option<f64>,
    /// Kilobits per second.
    pub kbps: f64,
    /// Seconds from one keyframe to the next, by the encoder's clock; the longest of the last few.
    #[serde(default)]
    pub keyframe_interval_s: Option<f64>,
}

/// Times at which nothing came of an encoder for 150 ms that was due by its own clock: what a lost
/// packet looks like to the program that waits for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stalls {
    /// How many in the last minute.
    pub last_minute: u64,
    /// The longest of them in milliseconds.
    pub longest_ms: u64,
}

/// A feed's audio.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Audio {
    /// `AAC`, `Opus` and so on.
    pub codec: String,
    /// Kilobits per second.
    pub kbps: f64,
}

/// Where a feed's time is spent, hop by hop.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// How much later the encoder's media arrives than when it began; its own queue and uplink.
    pub encoder_growth_ms: Option<f64>,
    /// Waiting in the relay.
    pub relay_queue_ms: Option<Spread>,
    /// On the way from relay to studio: half the shortest round trip, and what has been added
    /// since.
    pub backhaul_ms: Option<f64>,
    /// Waiting in the studio until its players take it: the worst player's median, and the worst
    /// player's 99 in a hundred.
    #[serde(default)]
    pub player_queue_ms: Option<Spread>,
}

/// A player of a feed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PlayerStatus {
    /// Its address and port; masked for those who may not see keys.
    pub address: String,
    /// What it calls itself.
    pub client: String,
    /// Seconds since it was let in.
    pub connected_s: f64,
    /// How long tags waited for it in the last ten seconds, from their arrival here until its
    /// socket took them; what was there when it joined does not count.
    pub queue_ms: Option<Spread>,
    /// Tags that it skipped because it was too late.
    pub skipped_tags: u64,
}

/// A distribution in two numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The median.
    pub p50: f64,
    /// What one in a hundred exceeds.
    pub p99: f64,
}

/// What did not get through.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drops {
    /// Tags that slow players skipped.
    pub player_skipped_tags: u64,
    /// Tags that the backhaul skipped to stay in time.
    pub skipped_tags: u64,
    /// On a studio: tags that came afterwards because its recording lacked them, since the start.
    #[serde(default)]
    pub backfilled_tags: u64,
}

/// One connection to another node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LinkStatus {
    /// The peer's name, or the start of its public key.
    pub peer: String,
    /// Its address.
    pub address: String,
    /// This machine's own address on the link: it tells uplinks apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<String>,
    /// On a studio: where the relay is, as it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// On a studio: the part of what the relay can do that is in use, as it says, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<f64>,
    /// `quic` or `tcp`.
    pub transport: String,
    /// How it is.
    pub state: LinkState,
    /// Round trip.
    pub rtt_ms: Option<f64>,
    /// Part of packets lost, 0 to 1.
    pub loss: Option<f64>,
    /// Bytes received by this node.
    pub bytes_in: u64,
    /// Bytes sent by this node.
    pub bytes_out: u64,
    /// How often it was set up anew.
    pub reconnects: u64,
    /// On a studio: how often it went on from another port or address of this machine.
    #[serde(default)]
    pub rebinds: u64,
    /// Why it was lost or refused last.
    pub last_error: Option<String>,
}

/// How a link is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkState {
    /// Being set up.
    #[default]
    Connecting,
    /// In use.
    Up,
    /// Silent, and being raced by new attempts.
    Racing,
    /// Refused by the peer, see `last_error`.
    Refused,
}

/// A feed and what to type into its encoder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeedInfo {
    /// Its name.
    pub name: String,
    /// What its encoder types, by place.
    pub publish: Vec<Publish>,
    /// What an encoder with fields for user and password types, if that is switched on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,
    /// What a player on this machine opens.
    pub play: Option<String>,
    /// Whether it is recorded.
    #[serde(default)]
    pub recorded: bool,
    /// When its players get it.
    #[serde(default, flatten)]
    pub timing: PlayTiming,
    /// When its key opens it.
    #[serde(default)]
    pub validity: Validity,
}

/// When a feed's players get it; what is not set is as the configuration says for all feeds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlayTiming {
    /// How far behind the live edge, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub play_delay_ms: Option<u64>,
    /// How late a player may be beside that before it skips, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub play_max_delay_ms: Option<u64>,
}

/// When a feed's key, and its password if it has one, open it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Validity {
    /// Whether its owner has paused it.
    pub paused: bool,
    /// Until when, in seconds since 1970; `None`: for ever.
    pub until_s: Option<u64>,
    /// Whether that has passed. The encoder that was on air then stays until it leaves.
    pub expired: bool,
}

impl Validity {
    /// What a person should know of it; nothing if the key is good for ever.
    pub fn told(&self, now: SystemTime) -> Option<String> {
        if self.paused {
            return Some("paused: it opens nothing until it is resumed".to_owned());
        }
        let until = When::from_unix(self.until_s?)?;
        let verb = if self.expired { "was valid" } else { "valid" };
        Some(format!("{verb} until {until}, {}", until.seen_from(now)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::join::JoinLink;
    use crate::login::Login;
    use crate::secret::StreamKey;

    const KEY: &str = "camera-0123456789ABCDEFGHJKMNPQRS";

    #[test]
    fn nothing_secret_is_left_when_masked() {
        let key: StreamKey = KEY.parse().unwrap();
        let link = JoinLink {
            host: "r".into(),
            port: 1,
            pin: crate::identity::PublicKey([1; 32]),
            invite: key.secret.clone(),
        };
        let login = Login { user: "camera-7K2M9Q4X".into(), password: key.secret.clone() };
        let status = Status {
            join_link: Some(KeyText::link(&link)),
            feeds: vec![FeedStatus {
                name: "camera".into(),
                publish: vec![Publish::new("berlin", "relay.example", 1935, &key)],
                play_lan: Some(KeyText::play_lan("10.0.0.2", 1935, "camera", key.secret.expose())),
                auth: Some(Auth::new("rtmp://relay.example/live", &login)),
                player_list: vec![PlayerStatus {
                    address: "10.0.0.7:50000".into(),
                    client: "VLC".into(),
                    ..PlayerStatus::default()
                }],
                ..FeedStatus::default()
            }],
            ..Status::default()
        };
        let clear = serde_json::to_string(&status).unwrap();
        assert_eq!(clear.matches(key.secret.expose()).count(), 5);
        assert!(!format!("{status:?}").contains(key.secret.expose()));
        assert!(clear.contains("10.0.0.7"));
        let masked = serde_json::to_string(&status.masked()).unwrap();
        assert!(!masked.contains("10.0.0.7") && masked.contains(r#""client":"VLC""#));
        assert!(!masked.contains(key.secret.expose()) && !masked.contains("7K2M9Q4X"));
        assert!(masked.contains(r#""server":"rtmp://relay.example/auth","user":"camera-****""#));
        assert!(masked.contains("rtmp://relay.example/live/camera-****"));
        assert!(masked.contains("rtmp://10.0.0.2/live/camera?key=****"));
    }
}
