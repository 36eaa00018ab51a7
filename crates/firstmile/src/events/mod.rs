//! What happened, in plain words: a bounded log that the API lists and streams, and that webhooks
//! follow.
//!
//! ```text
//!   status, twice a second --> watch (hysteresis) --+
//!                                                   +--> Events::say --> log --> GET /api/v1/events
//!   what no status shows (a key was rotated) -------+                     +----> webhooks
//! ```
//!
//! Media never comes near it: nobody who carries a tag says anything here. What an event tells is
//! made of the status that shows no key.
//!
//! A new kind of event is one line in [`Kind`], and one in `docs/events.md`, which a test compares.

mod feed;
mod link;
mod log;
mod steady;
mod time;
mod watch;
pub mod webhook;

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use media::PublicationId;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch as channel};
use tokio_util::sync::CancellationToken;

use crate::error::plain;
use crate::status::Status;
use log::Log;
use webhook::{Webhook, WebhookStatus};

pub use log::Filter;

/// Events that are kept: hours of a bad day.
const MAX_EVENTS: usize = 2_000;
/// Characters of an event's text: a problem and its remedy. Errors of peers are cut.
const MAX_TEXT: usize = 400;
/// Characters of a name in it.
const MAX_NAME: usize = 80;
/// Streams of events at one time, over all doors: each is a task, and a seat of the API's.
const MAX_STREAMS: usize = 32;
/// Encoders whose names are remembered, until their feeds are seen to be live.
const MAX_ENCODERS: usize = 256;

/// Makes [`Kind`] with its words.
macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $word:literal,)*) => {
        /// What sort of thing happened.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum Kind {
            $($(#[$doc])* #[serde(rename = $word)] $kind,)*
        }

        impl Kind {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$kind),*];

            /// The kind as it is written in the API.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$kind => $word,)*
                }
            }
        }
    };
}

kinds! {
    /// The node was started.
    Started = "started",
    /// A feed went on air.
    Live = "live",
    /// A feed is live, with a problem at its encoder or on its way here.
    Weak = "weak",
    /// An encoder is connected and sends nothing.
    Stalled = "stalled",
    /// The encoder is gone, and players are held.
    Lost = "lost",
    /// The way between relay and studio is lost, and players are held.
    Held = "held",
    /// A feed is as it should be again.
    Recovered = "recovered",
    /// A feed is off the air.
    Ended = "ended",
    /// Another encoder, or another relay, took a feed over.
    Takeover = "takeover",
    /// Two encoders throw each other out.
    Fight = "fight",
    /// Media was left out to stay in time.
    Skipped = "skipped",
    /// Media that was missing in a recording came afterwards.
    Backfilled = "backfilled",
    /// Media that is missing in a recording will never come.
    Gone = "gone",
    /// A player or a recording has a problem.
    Problem = "problem",
    /// A problem or a fight is over.
    Solved = "solved",
    /// A recording was switched on.
    RecordingStarted = "recording_started",
    /// A recording was switched off.
    RecordingStopped = "recording_stopped",
    /// What was on air is recorded, and nothing more is awaited.
    RecordingComplete = "recording_complete",
    /// The connection to a relay is there.
    LinkUp = "link_up",
    /// The connection to a relay is lost, or cannot be made.
    LinkDown = "link_down",
    /// A relay does not want this studio.
    LinkRefused = "link_refused",
    /// The connection to a relay goes on from another port or address.
    LinkRebound = "link_rebound",
    /// A studio is connected to this relay.
    StudioJoined = "studio_joined",
    /// A studio is no longer connected to this relay.
    StudioLeft = "studio_left",
    /// A feed was added.
    FeedAdded = "feed_added",
    /// A feed was removed.
    FeedRemoved = "feed_removed",
    /// A feed has a new key.
    KeyRotated = "key_rotated",
    /// A feed's key opens nothing until it is resumed.
    KeyPaused = "key_paused",
    /// A feed's key opens it again.
    KeyResumed = "key_resumed",
    /// Until when a feed's key is good was set.
    KeyLimited = "key_limited",
    /// A feed's user and password were switched on or off.
    AuthSwitched = "auth_switched",
    /// Something of the whole node that someone should look at.
    Alarm = "alarm",
    /// That is over.
    AlarmOver = "alarm_over",
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How much it matters.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Good to know.
    #[default]
    Info,
    /// Someone should look at it soon.
    Warning,
    /// Picture or sound is gone, or somebody has to do something.
    Error,
}

impl Severity {
    /// The severity as it is written in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// Whom an event is about; nobody: the whole node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct About {
    /// A feed, by its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feed: Option<String>,
    /// On a relay: the studio, by the start of its public key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub studio: Option<String>,
    /// The other end of a link, as the status names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
}

impl About {
    /// A feed of this studio.
    pub fn feed(name: impl Into<String>) -> Self {
        Self { feed: Some(name.into()), ..Self::default() }
    }
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Greater than that of every event before it, also over restarts while the clock goes forward.
    pub id: u64,
    /// When, by RFC 3339 in UTC, with milliseconds.
    pub time: String,
    /// What sort of thing.
    pub kind: Kind,
    /// How much it matters.
    pub severity: Severity,
    /// Whom it is about.
    #[serde(flatten)]
    pub about: About,
    /// What happened, in a sentence or two without secrets.
    pub text: String,
}

impl Event {
    /// The event as one line of a log.
    pub fn line(&self) -> String {
        let Self { time, kind, severity, about, text, .. } = self;
        let names = [&about.feed, &about.studio, &about.peer];
        let about = names.into_iter().flatten().next().map_or("-", String::as_str);
        format!("{time} {:<7} {kind} {about}: {text}", severity.as_str())
    }
}

/// What is said, before it has its number and time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) kind: Kind,
    pub(crate) severity: Severity,
    pub(crate) about: About,
    pub(crate) text: String,
}

/// A node's events. Clones are handles to the same.
#[derive(Clone, Debug)]
pub struct Events(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    log: Mutex<Log>,
    newest: channel::Sender<u64>,
    hooks: Vec<Arc<webhook::Hook>>,
    encoders: Mutex<VecDeque<(PublicationId, String)>>,
    streams: Arc<Semaphore>,
    over: CancellationToken,
}

impl Events {
    /// Nothing has happened yet; what will is told to these.
    pub fn new(hooks: &[Webhook]) -> Self {
        // A program that was started later begins with a greater number.
        let first = time::unix_millis(SystemTime::now()).saturating_mul(1_000);
        Self(Arc::new(Shared {
            log: Mutex::new(Log::new(MAX_EVENTS, first)),
            newest: channel::Sender::new(first),
            hooks: hooks.iter().cloned().map(|hook| Arc::new(webhook::Hook::new(hook))).collect(),
            encoders: Mutex::default(),
            streams: Arc::new(Semaphore::new(MAX_STREAMS)),
            over: CancellationToken::new(),
        }))
    }

    /// Takes note of something; waits for nobody.
    pub fn say(&self, kind: Kind, severity: Severity, about: About, text: impl Into<String>) {
        self.take(Said { kind, severity, about, text: text.into() });
    }

    fn take(&self, said: Said) {
        let Said { kind, severity, about, text } = said;
        let text = fit(&text, MAX_TEXT);
        // Studios and encoders choose names.
        let name = |name: Option<String>| name.map(|name| fit(&name, MAX_NAME));
        let About { feed, studio, peer } = about;
        let about = About { feed: name(feed), studio: name(studio), peer: name(peer) };
        let time = time::rfc3339(SystemTime::now());
        let mut log = self.lock();
        let id = log.next_id();
        let event = Arc::new(Event { id, time, kind, severity, about, text });
        log.push(event.clone());
        // Under the lock, so that everybody sees the same order.
        for hook in &self.0.hooks {
            hook.offer(&event);
        }
        self.0.newest.send_replace(id);
    }

    /// The events that a filter lets through, oldest first: the newest `limit` of them.
    pub fn list(&self, filter: &Filter, limit: usize) -> Vec<Arc<Event>> {
        self.lock().newest(filter, limit)
    }

    /// The first `limit` events after one that a filter lets through, oldest first, and where to go
    /// on; `None` if some that came after it are no longer kept.
    pub fn after(&self, id: u64, filter: &Filter, limit: usize) -> Option<(Vec<Arc<Event>>, u64)> {
        self.lock().after(id, filter, limit)
    }

    /// The number of the latest event, and how to wait for the next.
    pub fn newest(&self) -> channel::Receiver<u64> {
        self.0.newest.subscribe()
    }

    /// A place for one that follows the events; `None` if all are taken.
    pub fn stream(&self) -> Option<OwnedSemaphorePermit> {
        self.0.streams.clone().try_acquire_owned().ok()
    }

    /// Cancelled when the node stops: streams end.
    pub fn over(&self) -> &CancellationToken {
        &self.0.over
    }

    /// What the encoder of a publication calls itself.
    pub fn encoder(&self, publication: PublicationId, name: &str) {
        let mut encoders = self.0.encoders.lock().unwrap_or_else(PoisonError::into_inner);
        encoders.push_back((publication, fit(name, MAX_NAME)));
        if encoders.len() > MAX_ENCODERS {
            encoders.pop_front();
        }
    }

    /// The name of a publication's encoder; the publication as the status has it.
    fn encoder_of(&self, publication: &str) -> Option<String> {
        let encoders = self.0.encoders.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it = |(id, _): &&(PublicationId, String)| id.to_string() == publication;
        let found = encoders.iter().rev().find(is_it)?;
        Some(found.1.clone()).filter(|name| !name.is_empty())
    }

    /// The webhooks, without what is secret in them.
    pub fn webhooks(&self) -> Vec<WebhookStatus> {
        self.0.hooks.iter().map(|hook| hook.status()).collect()
    }

    /// Webhooks that take nothing.
    pub fn alarms(&self) -> Vec<String> {
        self.0.hooks.iter().filter_map(|hook| hook.alarm()).collect()
    }

    /// Looks at the status twice a second and says what changed, and tells the webhooks, until
    /// `shutdown`.
    pub async fn run(&self, status: impl Fn() -> Status, shutdown: &CancellationToken) {
        let hooks = webhook::run_all(&self.0.hooks);
        let both = async { tokio::join!(watch::run(self, status), hooks) };
        shutdown.run_until_cancelled(both).await;
        self.0.over.cancel();
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        self.0.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A text of bounded length on one line.
fn fit(text: &str, most: usize) -> String {
    let text = plain(text.trim());
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_short_and_of_one_line() {
        assert_eq!(fit(" a\nb\u{1b}[2J ", 9), "a\u{fffd}b\u{fffd}[2J");
        assert_eq!(fit(&"ü".repeat(1_000), 7).chars().count(), 7 + 1);
        let events = Events::new(&[]);
        let about = About { peer: Some("x".repeat(1 << 16)), ..About::default() };
        events.say(Kind::StudioJoined, Severity::Info, about, "x".repeat(1 << 16));
        let event = events.list(&Filter::default(), 1).remove(0);
        assert!(serde_json::to_string(&*event).unwrap().len() < 1_000);
    }

    #[test]
    fn an_event_as_json_and_as_a_line() {
        let events = Events::new(&[]);
        events.say(Kind::Weak, Severity::Warning, About::feed("roof"), "roof is weak");
        let event = events.list(&Filter::default(), 1).remove(0);
        let json = serde_json::to_value(&*event).unwrap();
        assert_eq!((&json["kind"], &json["feed"]), (&"weak".into(), &"roof".into()));
        assert!(json.get("studio").is_none());
        assert_eq!(serde_json::from_value::<Event>(json).unwrap(), *event);
        let line = event.line();
        assert!(line.ends_with("Z warning weak roof: roof is weak"), "{line}");
    }

    #[test]
    fn numbers_go_on_over_a_restart() {
        let last = |events: &Events| {
            events.say(Kind::Alarm, Severity::Error, About::default(), "x");
            *events.newest().borrow()
        };
        let before = last(&Events::new(&[]));
        std::thread::sleep(std::time::Duration::from_millis(2));
        assert!(last(&Events::new(&[])) > before);
        // Browsers count exactly up to here.
        assert!(before < 1 << 53);
    }

    #[test]
    fn every_kind_is_in_the_handbook() {
        let text = include_str!("../../../../docs/events.md");
        for kind in Kind::ALL {
            assert!(text.contains(&format!("| `{kind}`")), "docs/events.md lacks {kind}");
        }
    }

    #[test]
    fn encoders_are_remembered_by_publication() {
        let events = Events::new(&[]);
        // What the status shows of it are its first four bytes.
        let publication = |number: u128| PublicationId((number << 96).to_be_bytes());
        for number in 0..=MAX_ENCODERS as u128 {
            events.encoder(publication(number), &format!("encoder {number}"));
        }
        let name = |number| events.encoder_of(&publication(number).to_string());
        assert_eq!(name(1).as_deref(), Some("encoder 1"));
        assert_eq!(name(0), None, "the oldest is forgotten");
    }
}
