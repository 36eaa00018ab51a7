//! The way to one relay: dialled, kept, and dialled again for ever.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use backhaul::{Event, Hello, Session, VERSION, Welcome};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::control::Control;
use crate::egress::record::{FeedRecorder, Source};
use crate::error::plain;
use crate::ingest::backhaul::{FeedList, Feeds, Inbox};
use crate::join::host_port;
use crate::quic::{self, Dialer, Link};
use crate::status::{LinkState, LinkStatus};
use crate::store::JoinedRelay;

/// How long one attempt to reach a relay may take, handshake and welcome included.
const ATTEMPT: Duration = Duration::from_secs(3);
/// Head start of one address over the next, where a name has several (RFC 8305 §8).
const HEAD_START: Duration = Duration::from_millis(250);
/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 6;
/// Pause between attempts while a relay cannot be reached.
const RETRY: Duration = Duration::from_millis(500);
/// The same once it could not be reached for [`LONG_AWAY`].
const SLOW_RETRY: Duration = Duration::from_secs(2);
const LONG_AWAY: Duration = Duration::from_secs(600);
/// A link that lasted less than this is not called again at once.
const SHORT_LINK: Duration = Duration::from_secs(2);
/// First and longest pause after a refusal: somebody has to do something first.
const FIRST_REFUSED_RETRY: Duration = Duration::from_secs(1);
const LAST_REFUSED_RETRY: Duration = Duration::from_secs(60);

/// The way to one relay.
#[derive(Debug)]
pub struct Uplink {
    relay: JoinedRelay,
    inbox: Arc<Inbox>,
    state: Mutex<State>,
    welcome: watch::Sender<Option<Welcome>>,
}

#[derive(Debug, Default)]
struct State {
    link: Option<Link>,
    connects: u64,
    last_error: Option<String>,
    is_refused: bool,
    /// Feeds that the relay did not take, or whose key is claimed there, and why.
    refused_feeds: HashMap<String, String>,
}

/// What an uplink needs of its studio.
pub trait Studio: Feeds {
    /// Who the studio is, on this relay.
    fn hello(&self, invite: &str) -> Hello;
    /// Takes note that the relay has admitted the studio.
    fn admitted(&self, relay: &JoinedRelay);
}

/// Why an attempt came to nothing.
enum Failure {
    /// The relay could not be reached, or the link was lost.
    Lost(anyhow::Error),
    /// The relay does not want us.
    Refused(String),
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Lost(error.into())
    }
}

impl Uplink {
    /// A way to this relay, not dialled yet.
    pub fn new(relay: JoinedRelay) -> Self {
        let source = Source::Relay(relay.pin.to_string());
        Self {
            relay,
            inbox: Arc::new(Inbox::new(source)),
            state: Mutex::default(),
            welcome: watch::Sender::default(),
        }
    }

    /// The relay.
    pub fn relay(&self) -> &JoinedRelay {
        &self.relay
    }

    /// What comes from it.
    pub fn inbox(&self) -> &Inbox {
        &self.inbox
    }

    /// Host and port that encoders publish to: as the relay said last, else the usual.
    pub fn rtmp_place(&self) -> (String, u16) {
        let welcome = self.welcome.borrow();
        let host = welcome.as_ref().map(|welcome| welcome.host.clone()).unwrap_or_default();
        let host = if host.is_empty() { self.relay.host.clone() } else { host };
        (host, welcome.as_ref().map_or(1_935, |welcome| welcome.rtmp_port))
    }

    /// Port of the same host for RTMPS, if the relay has said so.
    pub fn rtmps_port(&self) -> Option<u16> {
        self.welcome.borrow().as_ref()?.rtmps_port
    }

    /// Waits until the relay has let us in once.
    pub async fn wait_up(&self) {
        // The sender lives as long as the uplink.
        let _ = self.welcome.subscribe().wait_for(Option::is_some).await;
    }

    /// Takes note of a feed that the relay did not take.
    fn refuse_feed(&self, name: &str, why: &str) {
        let mut state = self.lock();
        if state.refused_feeds.get(name).is_some_and(|known| known == why) {
            return;
        }
        warn!(relay = self.relay.name, feed = name, why, "the relay has trouble with a feed");
        state.refused_feeds.insert(name.to_owned(), why.to_owned());
    }

    /// What someone should look at.
    pub fn alarms(&self) -> Vec<String> {
        let state = self.lock();
        let refused = state.refused_feeds.iter().map(|(name, why)| {
            format!("the relay {} has trouble with the feed {name}: {why}", self.relay.name)
        });
        refused.collect()
    }

    /// How the link is.
    pub fn status(&self) -> LinkStatus {
        let state = self.lock();
        let stats = state.link.as_ref().map(Link::stats);
        LinkStatus {
            peer: self.relay.name.clone(),
            address: state
                .link
                .as_ref()
                .map_or_else(|| self.relay.address(), |link| link.remote_address().to_string()),
            transport: "quic".into(),
            state: match (&stats, state.is_refused) {
                (Some(_), _) => LinkState::Up,
                (None, true) => LinkState::Refused,
                (None, false) => LinkState::Connecting,
            },
            rtt_ms: stats.map(|stats| stats.rtt.as_secs_f64() * 1_000.0),
            loss: stats.map(|stats| stats.loss),
            bytes_in: stats.map_or(0, |stats| stats.received_bytes),
            bytes_out: stats.map_or(0, |stats| stats.sent_bytes),
            reconnects: state.connects.saturating_sub(1),
            last_error: state.last_error.clone(),
        }
    }

    /// Keeps the link up until `shutdown`.
    pub async fn run(&self, dialer: &Dialer, studio: &dyn Studio, shutdown: &CancellationToken) {
        let mut away_since = Instant::now();
        let mut refused_retry = FIRST_REFUSED_RETRY;
        loop {
            let started = Instant::now();
            let ended = tokio::select! {
                () = shutdown.cancelled() => break,
                ended = self.attempt(dialer, studio) => ended,
            };
            let was_up = self.lock().link.take().is_some();
            if was_up {
                away_since = Instant::now();
                refused_retry = FIRST_REFUSED_RETRY;
            }
            let pause = match &ended {
                Failure::Refused(_) => {
                    let pause = refused_retry;
                    refused_retry = (refused_retry * 2).min(LAST_REFUSED_RETRY);
                    pause
                }
                // The first attempt after a loss is made at once.
                Failure::Lost(_) if was_up && started.elapsed() > SHORT_LINK => Duration::ZERO,
                Failure::Lost(_) if away_since.elapsed() > LONG_AWAY => SLOW_RETRY,
                Failure::Lost(_) => RETRY,
            };
            self.note(&ended, was_up);
            // Jitter keeps the studios of a relay that comes back from calling in step.
            let pause = pause.mul_f64(rand::random_range(0.75..1.25));
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
        }
        if let Some(link) = self.lock().link.take() {
            link.close("the studio is stopping");
        }
    }

    /// Says once what a person should know, and keeps it for the status.
    fn note(&self, failure: &Failure, was_up: bool) {
        let (text, is_refused) = match failure {
            Failure::Lost(error) => (plain(&format!("{error:#}")), false),
            Failure::Refused(text) => (text.clone(), true),
        };
        let mut state = self.lock();
        state.is_refused = is_refused;
        if was_up || state.last_error.as_ref() != Some(&text) {
            let relay = self.relay.address();
            match (failure, was_up) {
                (Failure::Refused(_), _) => warn!(relay, reason = text, "the relay refused us"),
                (_, true) => warn!(relay, reason = text, "lost the relay; trying again"),
                (_, false) => warn!(relay, reason = text, "cannot reach the relay; trying again"),
            }
        }
        state.last_error = Some(text);
    }

    /// Dials, joins, and runs the link to its end.
    async fn attempt(&self, dialer: &Dialer, studio: &dyn Studio) -> Failure {
        match self.try_attempt(dialer, studio).await {
            Ok(never) => match never {},
            Err(failure) => failure,
        }
    }

    async fn try_attempt(
        &self,
        dialer: &Dialer,
        studio: &dyn Studio,
    ) -> Result<std::convert::Infallible, Failure> {
        let joined = tokio::time::timeout(ATTEMPT, self.join(dialer, studio)).await;
        let (link, control, welcome) = match joined {
            Ok(joined) => joined?,
            Err(_) => {
                let text = "no answer: is the relay running, and its UDP port open?";
                return Err(anyhow::anyhow!(text).into());
            }
        };
        info!(relay = self.relay.address(), address = %link.remote_address(), "joined");
        {
            let mut state = self.lock();
            state.link = Some(link.clone());
            state.connects += 1;
            state.is_refused = false;
            state.last_error = None;
            state.refused_feeds.clear();
        }
        self.welcome.send_replace(Some(welcome));
        studio.admitted(&self.relay);
        let feeds = RelayFeeds { studio, uplink: self };
        let reason = tokio::select! {
            over = self.inbox.run(&link, control, &feeds) => match over {
                Ok(()) => anyhow::anyhow!("the relay ended the conversation"),
                Err(error) => error,
            },
            reason = link.closed() => anyhow::anyhow!(reason),
        };
        link.close("over");
        Err(Failure::Lost(reason))
    }

    /// Reaches the relay and is let in, or not.
    async fn join(
        &self,
        dialer: &Dialer,
        studio: &dyn Studio,
    ) -> Result<(Link, Control, Welcome), Failure> {
        let link = dial(dialer, &self.relay).await?;
        let (send, receive) = link.open_control().await?;
        let invite = self.relay.invite.as_ref().map_or("", |invite| invite.expose());
        let session = Session::dial(studio.hello(invite));
        let mut control = Control { session, send, receive };
        control.flush().await?;
        match control.event().await? {
            Event::Open(welcome) => Ok((link, control, welcome)),
            Event::Refused(_, text) => {
                link.close("refused");
                Err(Failure::Refused(text))
            }
            other => Err(anyhow::anyhow!("the relay began with {other:?}").into()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The studio's feeds, with this relay's refusals kept here.
struct RelayFeeds<'a> {
    studio: &'a dyn Studio,
    uplink: &'a Uplink,
}

impl Feeds for RelayFeeds<'_> {
    fn feed(&self, name: &str) -> Option<hub::Feed> {
        self.studio.feed(name)
    }

    fn list(&self) -> watch::Receiver<Arc<FeedList>> {
        self.studio.list()
    }

    fn budget(&self, name: &str) -> Option<Duration> {
        self.studio.budget(name)
    }

    fn recorder(&self, name: &str) -> Option<FeedRecorder> {
        self.studio.recorder(name)
    }

    fn refused(&self, name: &str, why: &str) {
        // A relay has no say in feeds that are not there.
        if self.studio.feed(name).is_some() {
            self.uplink.refuse_feed(name, why);
        }
    }
}

/// Resolves the relay's name anew and races its addresses, each with a head start over the next.
async fn dial(dialer: &Dialer, relay: &JoinedRelay) -> Result<Link> {
    let name = host_port(&relay.host, relay.port);
    let addresses = tokio::net::lookup_host(&name)
        .await
        .with_context(|| format!("cannot find the address of {}", relay.host))?;
    let addresses = interleave(addresses.collect());
    if addresses.is_empty() {
        bail!("{} has no address", relay.host);
    }
    let mut attempts = tokio::task::JoinSet::new();
    for (index, address) in addresses.into_iter().take(MAX_ADDRESSES).enumerate() {
        let (dialer, pin) = (dialer.clone(), relay.pin);
        attempts.spawn(async move {
            tokio::time::sleep(HEAD_START * index as u32).await;
            dialer.dial(address, pin).await
        });
    }
    let mut last = None;
    let mut is_wrong_key = false;
    while let Some(attempt) = attempts.join_next().await {
        match attempt? {
            Ok(link) => return Ok(link),
            Err(error) => {
                is_wrong_key |= quic::is_wrong_key(&error);
                last = Some(error);
            }
        }
    }
    if is_wrong_key {
        bail!(
            "{name} shows another key than the one in the join link: it is another relay, was set \
             up anew, or somebody is in between; get a new join link from whoever runs it"
        );
    }
    Err(last.unwrap_or_else(|| anyhow::anyhow!("nobody answers at {name}")))
}

/// Addresses of both families in turn, the resolver's first one first (RFC 8305 §4).
fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (mut first, mut second): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == first_is_v6);
    first.reverse();
    second.reverse();
    let mut order = Vec::new();
    while !first.is_empty() || !second.is_empty() {
        order.extend(first.pop());
        order.extend(second.pop());
    }
    order
}

/// Versions that this program offers.
pub(crate) fn versions() -> Vec<u64> {
    vec![VERSION]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_relay_says_is_fit_for_a_terminal() {
        let uplink = Uplink::new(JoinedRelay {
            name: "relay".into(),
            host: "relay".into(),
            port: 443,
            pin: crate::identity::PublicKey([1; 32]),
            invite: None,
        });
        uplink.note(&Failure::Lost(anyhow::anyhow!("closed by peer: \u{1b}[2J\n")), false);
        let error = uplink.status().last_error.unwrap();
        assert_eq!(error, "closed by peer: \u{fffd}[2J\u{fffd}");
    }

    #[test]
    fn families_take_turns() {
        let parse = |text: &&str| text.parse::<SocketAddr>().unwrap();
        let given = ["[::1]:1", "[::2]:1", "1.1.1.1:1", "[::3]:1"].iter().map(parse).collect();
        let order: Vec<_> =
            ["[::1]:1", "1.1.1.1:1", "[::2]:1", "[::3]:1"].iter().map(parse).collect();
        assert_eq!(interleave(given), order);
    }
}
