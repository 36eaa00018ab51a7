//! Webhooks: events that are told to other programs by HTTP, signed, in order, and again if need be.
//!
//! A hook has a queue of its own. Nobody waits for it: what finds it full takes the place of the
//! oldest in it, and the next delivery says how many were left out.

mod queue;
mod send;
mod sign;
mod url;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tracing::{debug, warn};

use super::{Event, Kind, time};
use crate::platform;
use crate::secret::Token;
use queue::Queue;
pub use sign::{SIGNATURE, signature};
pub use url::{HookUrl, HookUrlError};

/// Hooks of a node: each has a task and a queue.
pub const MAX_WEBHOOKS: usize = 16;
/// Events that wait for one hook: what a flapping network makes in the minutes of all attempts.
const MAX_QUEUE: usize = 256;
/// How often one event is sent at most; about four minutes.
const ATTEMPTS: u32 = 10;
/// The first and longest pause between two attempts.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(60);
/// How long one attempt may take, names and TLS included.
const ATTEMPT: Duration = Duration::from_secs(10);

/// A program that is told what happens.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// Where it listens.
    pub url: HookUrl,
    /// What deliveries are signed with.
    pub secret: Token,
    /// What it is told.
    #[serde(default = "default_kinds")]
    pub events: Vec<Kind>,
    /// Certificates in PEM form that are trusted beside the system's.
    pub ca: Option<PathBuf>,
}

fn default_kinds() -> Vec<Kind> {
    vec![Kind::Live, Kind::Weak, Kind::Lost, Kind::Recovered, Kind::Ended]
}

/// A hook in the status; nothing in it is secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebhookStatus {
    /// Scheme, host and port: the rest of an address may be secret.
    pub place: String,
    /// Events that were taken.
    pub delivered: u64,
    /// Events that were given up after all attempts.
    pub failed: u64,
    /// Events that were left out because too many waited.
    pub left_out: u64,
    /// Events that wait.
    pub waiting: usize,
    /// Why the last attempt failed; nothing if it did not.
    pub last_error: Option<String>,
}

/// A running hook.
#[derive(Debug)]
pub(super) struct Hook {
    config: Webhook,
    queue: Queue,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    delivered: u64,
    failed: u64,
    last_error: Option<String>,
}

/// The body of a delivery.
#[derive(Debug, Serialize)]
struct Delivery<'a> {
    /// This machine's name.
    node: &'a str,
    /// Events that were left out since the delivery before.
    missed: u64,
    event: &'a Event,
}

impl Hook {
    pub(super) fn new(config: Webhook) -> Self {
        Self { config, queue: Queue::new(MAX_QUEUE), state: Mutex::default() }
    }

    /// Takes an event that the hook is to be told.
    pub(super) fn offer(&self, event: &Arc<Event>) {
        if self.config.events.contains(&event.kind) {
            self.queue.push(event.clone());
        }
    }

    pub(super) fn status(&self) -> WebhookStatus {
        let (waiting, left_out) = self.queue.figures();
        let state = self.lock();
        WebhookStatus {
            place: self.config.url.place(),
            delivered: state.delivered,
            failed: state.failed,
            left_out,
            waiting,
            last_error: state.last_error.clone(),
        }
    }

    /// What someone should look at: a hook that has given an event up and takes nothing since.
    pub(super) fn alarm(&self) -> Option<String> {
        let state = self.lock();
        let error = state.last_error.as_ref().filter(|_| state.failed > 0)?;
        Some(format!("the webhook {} takes nothing: {error}", self.config.url.place()))
    }

    /// Delivers for ever.
    async fn run(&self) {
        let node = platform::hostname().unwrap_or_else(|| "firstmile".into());
        let mut sender = send::Sender::new(self.config.url.clone(), self.config.ca.clone());
        let place = self.config.url.place();
        loop {
            let (event, missed) = self.queue.pop().await;
            let delivery = Delivery { node: &node, missed, event: &event };
            let body = match serde_json::to_vec(&delivery) {
                Ok(body) => body,
                Err(error) => {
                    warn!(%place, %error, "an event cannot be told to a webhook");
                    continue;
                }
            };
            let mut pause = FIRST_PAUSE;
            for attempt in 1.. {
                match self.attempt(&mut sender, &event, &body).await {
                    Ok(()) => {
                        let mut state = self.lock();
                        state.delivered += 1;
                        state.last_error = None;
                        break;
                    }
                    Err(error) => {
                        let is_news = self.lock().last_error.replace(error.clone()).is_none();
                        if is_news {
                            warn!(%place, reason = error, "a webhook takes nothing; trying again");
                        } else {
                            debug!(%place, attempt, reason = error, "a webhook takes nothing");
                        }
                    }
                }
                if attempt >= ATTEMPTS {
                    self.lock().failed += 1;
                    warn!(%place, kind = %event.kind, "an event was not told to a webhook: given up");
                    break;
                }
                tokio::time::sleep(pause.mul_f64(rand::random_range(0.75..1.25))).await;
                pause = (pause * 2).min(LAST_PAUSE);
            }
        }
    }

    /// Sends a delivery once; every attempt is signed with its own time.
    async fn attempt(
        &self,
        sender: &mut send::Sender,
        event: &Event,
        body: &[u8],
    ) -> Result<(), String> {
        let now = time::unix_millis(SystemTime::now()) / 1_000;
        let headers = [
            (SIGNATURE, signature(&self.config.secret, now, body)),
            ("firstmile-event", event.kind.to_string()),
            ("firstmile-delivery", event.id.to_string()),
        ];
        match tokio::time::timeout(ATTEMPT, sender.post(&headers, body.to_vec())).await {
            Ok(sent) => sent.map_err(|error| crate::error::plain(&format!("{error:#}"))),
            Err(_) => Err(format!("no answer within {} s", ATTEMPT.as_secs())),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs all hooks for ever; they end when this is dropped.
pub(super) async fn run_all(hooks: &[Arc<Hook>]) {
    let mut running = JoinSet::new();
    for hook in hooks {
        let hook = hook.clone();
        running.spawn(async move { hook.run().await });
    }
    while running.join_next().await.is_some() {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{About, Events, Severity};

    fn hook(text: &str) -> Result<Webhook, toml::de::Error> {
        toml::from_str(text)
    }

    #[test]
    fn a_hook_has_an_address_and_a_secret() {
        let good = "url = \"http://localhost:9/in?who=me\"\nsecret = \"0123456789abcdef\"\n";
        let parsed = hook(good).unwrap();
        assert_eq!(parsed.events, default_kinds());
        for (text, why) in [
            ("url = \"http://x\"", "missing field `secret`"),
            ("secret = \"0123456789abcdef\"", "missing field `url`"),
            ("url = \"http://x\"\nsecret = \"short\"", "a token has 16 to 128"),
            (&format!("{good}events = [\"alive\"]"), "unknown variant `alive`"),
            (&format!("{good}event = [\"live\"]"), "unknown field `event`"),
        ] {
            let error = hook(text).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn nothing_secret_is_shown() {
        let text = "url = \"https://hooks.example/T0/SECRETPATH?k=SECRETQUERY\"\n\
                    secret = \"SECRET0123456789\"\n";
        let events = Events::new(&[hook(text).unwrap()]);
        events.say(Kind::Live, Severity::Info, About::default(), "on air");
        events.say(Kind::Skipped, Severity::Info, About::default(), "not asked for");
        let status = events.webhooks().remove(0);
        assert_eq!((status.waiting, &*status.place), (1, "https://hooks.example"));
        let shown = format!("{events:?} {}", serde_json::to_string(&status).unwrap());
        assert!(!shown.contains("SECRET"), "{shown}");
    }
}
