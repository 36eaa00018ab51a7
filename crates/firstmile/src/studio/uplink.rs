//! The way to one relay: dialled, kept, and dialled again for ever.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use backhaul::{Event, Hello, Refusal, Session, VERSION, Welcome};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::calls::{ATTEMPT, Calls, Over, RETRY};
use super::liveness::{Liveness, Need};

use crate::config::relay::region_text;
use crate::control::Control;
use crate::egress::record::{FeedRecorder, Source};
use crate::error::plain;
use crate::ingest::backhaul::{FeedList, Feeds, Inbox};
use crate::join::host_port;
use crate::link::{Dialer, Link, Transport, Transports};
use crate::platform::AddressWatch;
use crate::status::{LinkState, LinkStatus};
use crate::store::JoinedRelay;

/// How long a relay that was reached may take to let us in: it may first see whether an earlier link
/// of ours is dead.
const WELCOME: Duration = Duration::from_secs(3);
/// A link silent for this long is raced by new ones.
const SILENT: Duration = Duration::from_secs(1);
/// What a link that is silent may take, beside two round trips, once the relay has answered.
const MOMENT: Duration = Duration::from_millis(100);
/// A link that lasted less than this is not called again at once.
const SHORT_LINK: Duration = Duration::from_secs(2);
/// How soon a link over TCP looks whether UDP is blocked still, and how often later: it may have been
/// an outage, or be the network.
const FIRST_UPGRADE: Duration = Duration::from_secs(5);
const LAST_UPGRADE: Duration = Duration::from_secs(60);
/// What a person can do whose studio was admitted once and is a stranger now.
const LOST_IDENTITY: &str = "It had admitted this studio before: if the studio's identity.pem was \
     lost or replaced, restore it; without it this is another studio, which needs a new join link \
     (firstmile studio --join LINK) and new stream keys";
/// First and longest pause after a refusal: somebody has to do something first.
const FIRST_REFUSED_RETRY: Duration = Duration::from_secs(1);
const LAST_REFUSED_RETRY: Duration = Duration::from_secs(60);

/// The way to one relay.
#[derive(Debug)]
pub struct Uplink {
    relay: JoinedRelay,
    inbox: Arc<Inbox>,
    /// The feeds that the relay is told of.
    list: watch::Sender<Arc<FeedList>>,
    /// The relay is left, or the studio stops.
    stop: CancellationToken,
    state: Mutex<State>,
    welcome: watch::Sender<Option<Welcome>>,
}

#[derive(Debug, Default)]
struct State {
    link: Option<Link>,
    connects: u64,
    rebinds: u64,
    last_error: Option<String>,
    is_refused: bool,
    /// Whether the link is silent, and others are tried beside it.
    is_raced: bool,
    /// Where the relay was reached last, and over what.
    addresses: Vec<SocketAddr>,
    transport: Option<Transport>,
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

/// A link that the relay has let in.
struct Joined {
    link: Link,
    control: Control,
    welcome: Welcome,
}

/// A new link on its way.
type Next<'a> = Pin<Box<dyn Future<Output = Joined> + Send + 'a>>;
/// The same, if it comes to something.
type Upgrade<'a> = Pin<Box<dyn Future<Output = Option<Joined>> + Send + 'a>>;

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
    /// A way to this relay, which will be told of these feeds; not dialled yet.
    pub fn new(relay: JoinedRelay, list: Arc<FeedList>) -> Self {
        let source = Source::Relay(relay.pin.to_string());
        Self {
            relay,
            inbox: Arc::new(Inbox::new(source)),
            list: watch::Sender::new(list),
            stop: CancellationToken::new(),
            state: Mutex::default(),
            welcome: watch::Sender::default(),
        }
    }

    /// The relay.
    pub fn relay(&self) -> &JoinedRelay {
        &self.relay
    }

    /// Tells the relay of the feeds as they are now.
    pub fn push(&self, list: Arc<FeedList>) {
        self.list.send_replace(list);
    }

    /// Gives the relay up, for good.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Whether the relay was given up.
    pub fn is_stopped(&self) -> bool {
        self.stop.is_cancelled()
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

    /// Where a phone measures its way to the relay, if browsers trust that page.
    pub fn measure_url(&self) -> Option<String> {
        self.welcome.borrow().as_ref().filter(|welcome| welcome.measures)?;
        let place = host_port(&self.rtmp_place().0, self.relay.port);
        Some(format!("https://{}/measure", place.strip_suffix(":443").unwrap_or(&place)))
    }

    /// Where the relay is, as it says.
    fn region(&self) -> Option<String> {
        let region = region_text(&self.welcome.borrow().as_ref()?.region);
        Some(region).filter(|region| !region.is_empty())
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
        if self.inbox.lines().may_say() {
            warn!(relay = self.relay.name, feed = name, why, "the relay has trouble with a feed");
        }
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

    /// Round trip time of the link, if there is one.
    pub fn rtt(&self) -> Option<Duration> {
        self.lock().link.as_ref().map(Link::rtt)
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
            transport: state.transport.unwrap_or(Transport::Quic).to_string(),
            local: state.link.as_ref().and_then(Link::local_ip).map(|ip| ip.to_string()),
            region: self.region(),
            load: stats.and_then(|_| self.inbox.load()),
            state: match (&stats, state.is_refused) {
                (Some(_), _) if state.is_raced => LinkState::Racing,
                (Some(_), _) => LinkState::Up,
                (None, true) => LinkState::Refused,
                (None, false) => LinkState::Connecting,
            },
            rtt_ms: stats.map(|stats| stats.rtt.as_secs_f64() * 1_000.0),
            loss: stats.and_then(|stats| stats.loss),
            bytes_in: stats.map_or(0, |stats| stats.received_bytes),
            bytes_out: stats.map_or(0, |stats| stats.sent_bytes),
            reconnects: state.connects.saturating_sub(1),
            rebinds: state.rebinds,
            last_error: state.last_error.clone(),
        }
    }

    /// Keeps the link up until [`Uplink::stop`].
    pub async fn run(&self, dialer: &Dialer, studio: &dyn Studio) {
        self.leave();
        let keeping = async {
            let is_greeting = AtomicBool::new(false);
            let mut next: Next<'_> =
                Box::pin(self.call(dialer, studio, &is_greeting, Duration::ZERO, None));
            loop {
                let joined = next.await;
                next = self.keep(joined, dialer, studio, &is_greeting).await;
            }
        };
        self.stop.run_until_cancelled(keeping).await;
        if let Some(link) = self.lock().link.take() {
            link.close("the studio is stopping");
        }
    }

    /// Runs a link until it is lost, or silent and overtaken by a new one; returns what is next.
    async fn keep<'a>(
        &'a self,
        joined: Joined,
        dialer: &'a Dialer,
        studio: &'a dyn Studio,
        is_greeting: &'a AtomicBool,
    ) -> Next<'a> {
        let Joined { link, control, welcome } = joined;
        let started = Instant::now();
        self.enter(&link, welcome);
        studio.admitted(&self.relay);
        let feeds = RelayFeeds { studio, uplink: self };
        // It ends by itself when the link does, and leaves its publications in order.
        let mut serving = pin!(self.inbox.run(&link, control, &feeds));
        let mut race: Option<Next<'a>> = None;
        let mut race_until = started;
        let is_tcp = link.transport() == Transport::Tcp;
        let may_upgrade = is_tcp && dialer.transports() == Transports::Auto;
        let mut upgrade: Option<Upgrade<'a>> = None;
        let mut upgrade_pause = FIRST_UPGRADE;
        let mut upgrade_at = started + jittered(upgrade_pause);
        let mut way = AddressWatch::towards(link.remote_address());
        let mut liveness = Liveness::new(started, link.received(), way.look());
        let mut timer = pin!(tokio::time::sleep_until(started.into()));
        loop {
            let [beat_from, look_at] = liveness.next_look();
            if timer.deadline() != look_at.into() {
                // A new one: the old one's time would wake us up, were it only moved.
                timer.set(tokio::time::sleep_until(look_at.into()));
            }
            let look_is_due = async {
                tokio::select! {
                    () = &mut timer => {}
                    () = self.inbox.heartbeat_from(beat_from) => {}
                }
            };
            tokio::select! {
                over = &mut serving => {
                    let said = match over {
                        Ok(()) => anyhow::anyhow!("the relay ended the conversation"),
                        Err(error) => error,
                    };
                    let why = link.close_reason().map_or(said, anyhow::Error::msg);
                    link.close("over");
                    self.leave();
                    if let Some(race) = race {
                        debug!(relay = self.relay.address(), reason = %why, "the old link is lost");
                        return race;
                    }
                    if let Some(upgrade) = upgrade.filter(|_| is_greeting.load(Ordering::Relaxed)) {
                        // The relay has closed this link in favour of the other.
                        debug!(relay = self.relay.address(), reason = %why, "the old link is over");
                        return Box::pin(async move {
                            match upgrade.await {
                                Some(joined) => joined,
                                None => {
                                    let (pause, beside) = (Duration::ZERO, None);
                                    self.call(dialer, studio, is_greeting, pause, beside).await
                                }
                            }
                        });
                    }
                    self.note(&Failure::Lost(why), true);
                    let is_short = started.elapsed() < SHORT_LINK;
                    // The first attempt after a loss is made at once.
                    let pause = if is_short { RETRY } else { Duration::ZERO };
                    return Box::pin(self.call(dialer, studio, is_greeting, pause, None));
                }
                joined = async { race.as_mut().expect("there is one").await }, if race.is_some() => {
                    link.close("a new link took over");
                    // What it has received is put away before the new link asks for the rest.
                    let _ = serving.await;
                    return Box::pin(std::future::ready(joined));
                }
                joined = async { upgrade.as_mut().expect("there is one").await }, if upgrade.is_some() => {
                    upgrade = None;
                    upgrade_pause = (2 * upgrade_pause).min(LAST_UPGRADE);
                    upgrade_at = Instant::now() + jittered(upgrade_pause);
                    let Some(joined) = joined else { continue };
                    link.close("a link over QUIC took over");
                    let _ = serving.await;
                    return Box::pin(std::future::ready(joined));
                }
                () = tokio::time::sleep_until(upgrade_at.into()),
                    if may_upgrade && upgrade.is_none() && race.is_none() =>
                {
                    upgrade = Some(Box::pin(self.upgrade(dialer, studio, is_greeting)));
                }
                () = look_is_due => {
                    let now = Instant::now();
                    let need = liveness.look(now, link.received(), link.rtt(), way.look());
                    if let Some(need) = need {
                        self.help(&link, need);
                    }
                    let is_silent = liveness.silence(now) >= SILENT;
                    // A connection cannot go on from another address.
                    let has_moved = is_tcp && matches!(need, Some(Need::Moved(_)));
                    if has_moved {
                        race_until = now + SILENT;
                    }
                    if is_greeting.load(Ordering::Relaxed) && upgrade.is_some() {
                        // That is the next link, or says soon that it is none.
                    } else if (is_silent || has_moved) && race.is_none() {
                        upgrade = None;
                        let relay = self.relay.address();
                        if is_silent {
                            warn!(relay, "the relay is silent; calling it anew beside the link");
                        }
                        self.lock().is_raced = true;
                        let beside = Some(link.clone());
                        let pause = Duration::ZERO;
                        race = Some(Box::pin(self.call(dialer, studio, is_greeting, pause, beside)));
                    } else if !is_silent
                        && now >= race_until
                        && race.is_some()
                        && !is_greeting.load(Ordering::Relaxed)
                    {
                        // A relay that has been greeted may have given the old link up already.
                        info!(relay = self.relay.address(), "the relay is heard again");
                        race = None;
                        let mut state = self.lock();
                        (state.is_raced, state.is_refused) = (false, false);
                        state.last_error = None;
                    }
                }
            }
        }
    }

    /// Takes note of a link that is up.
    fn enter(&self, link: &Link, welcome: Welcome) {
        let (address, transport) = (link.remote_address(), link.transport());
        info!(relay = self.relay.address(), %address, %transport, "joined");
        let mut state = self.lock();
        match (state.transport.replace(transport), transport) {
            (Some(Transport::Tcp), Transport::Quic) => info!("UDP gets through: going by QUIC"),
            (None | Some(Transport::Quic), Transport::Tcp) => {
                info!("going by TCP: a picture comes later than by UDP where packets are lost");
            }
            _ => {}
        }
        state.link = Some(link.clone());
        state.connects += 1;
        state.is_refused = false;
        state.is_raced = false;
        state.last_error = None;
        state.refused_feeds.clear();
        drop(state);
        self.welcome.send_replace(Some(welcome));
    }

    /// Takes note that there is no link.
    fn leave(&self) {
        let mut state = self.lock();
        if let Some(link) = state.link.take() {
            link.close("over");
        }
        state.is_raced = false;
    }

    fn help(&self, link: &Link, need: Need) {
        let relay = self.relay.address();
        let helped = match need {
            Need::Packet => link.knock(),
            // A connection stays where it is.
            Need::Socket if link.transport() == Transport::Tcp => link.knock(),
            Need::Socket => {
                debug!(relay, "silent: going on from another port");
                link.rebind()
            }
            Need::Moved(to) => {
                info!(relay, %to, "this machine has another address");
                link.rebind()
            }
        };
        match (helped, need) {
            (Ok(()), Need::Packet) => {}
            (Ok(()), Need::Socket | Need::Moved(_)) => self.lock().rebinds += 1,
            (Err(error), _) => {
                debug!(relay, reason = %error, "cannot go on from another port");
            }
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

    /// Calls until the relay has let us in; `beside` a link that is silent, or without one.
    async fn call(
        &self,
        dialer: &Dialer,
        studio: &dyn Studio,
        is_greeting: &AtomicBool,
        pause: Duration,
        beside: Option<Link>,
    ) -> Joined {
        is_greeting.store(false, Ordering::Relaxed);
        let (addresses, last) = {
            let state = self.lock();
            (state.addresses.clone(), state.transport)
        };
        let over = Over::after(last, dialer);
        let mut calls = Calls::new(dialer, &self.relay, over, addresses, pause);
        let mut refused_retry = FIRST_REFUSED_RETRY;
        loop {
            let joined = match calls.next().await {
                Ok(link) => {
                    self.lock().addresses = calls.addresses().to_vec();
                    if let Some(old) = &beside
                        && comes_back(old, &link).await
                    {
                        link.close("the earlier link is heard again");
                        continue;
                    }
                    is_greeting.store(true, Ordering::Relaxed);
                    let greeted = tokio::time::timeout(WELCOME, self.greet(link, studio)).await;
                    is_greeting.store(false, Ordering::Relaxed);
                    let text = "the relay was reached, but has not answered";
                    greeted.unwrap_or_else(|_| Err(anyhow::anyhow!(text).into()))
                }
                Err(error) => Err(error.into()),
            };
            match joined {
                Ok(joined) => return joined,
                Err(failure) => {
                    self.note(&failure, false);
                    if matches!(failure, Failure::Refused(_)) {
                        calls.pause(refused_retry.mul_f64(rand::random_range(0.75..1.25)));
                        refused_retry = (refused_retry * 2).min(LAST_REFUSED_RETRY);
                    }
                }
            }
        }
    }

    /// Calls over QUIC, beside a link over TCP that works.
    async fn upgrade(
        &self,
        dialer: &Dialer,
        studio: &dyn Studio,
        is_greeting: &AtomicBool,
    ) -> Option<Joined> {
        let (over, addresses) = (Over::One(Transport::Quic), self.lock().addresses.clone());
        let mut calls = Calls::new(dialer, &self.relay, over, addresses, Duration::ZERO);
        let link = tokio::time::timeout(ATTEMPT, calls.next()).await.ok()?.ok()?;
        is_greeting.store(true, Ordering::Relaxed);
        let greeted = tokio::time::timeout(WELCOME, self.greet(link, studio)).await;
        is_greeting.store(false, Ordering::Relaxed);
        greeted.ok()?.ok()
    }

    /// Says hello and is let in, or not.
    async fn greet(&self, link: Link, studio: &dyn Studio) -> Result<Joined, Failure> {
        let (send, receive) = link.open_control().await?;
        let invite = self.relay.invite.as_ref().map_or("", |invite| invite.expose());
        let session = Session::dial(studio.hello(invite));
        let mut control = Control { session, send, receive };
        control.flush().await?;
        match control.event().await? {
            Event::Open(welcome) => Ok(Joined { link, control, welcome }),
            Event::Refused(refusal, text) => {
                link.close("refused");
                Err(Failure::Refused(match refusal {
                    // The invite is kept until it was used.
                    Refusal::NotAdmitted if self.relay.invite.is_none() => {
                        format!("{text}. {LOST_IDENTITY}")
                    }
                    _ => text,
                }))
            }
            other => Err(anyhow::anyhow!("the relay began with {other:?}").into()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Studios of one relay do not do it in step.
fn jittered(time: Duration) -> Duration {
    time.mul_f64(rand::random_range(0.75..1.25))
}

/// Whether a silent link is heard now that the relay has answered another: the network is back, and
/// what is in flight on the old one need not be sent again.
async fn comes_back(old: &Link, new: &Link) -> bool {
    let before = old.received();
    let _ = old.rebind();
    let patience = 2 * new.stats().rtt + MOMENT;
    let is_lost = tokio::time::timeout(patience, old.closed()).await.is_ok();
    !is_lost && old.received() != before
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
        // Not the studio's: a relay that is left is told that there are no feeds.
        self.uplink.list.subscribe()
    }

    fn admits(&self, name: &str, at: SystemTime) -> bool {
        self.studio.admits(name, at)
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

/// Versions that this program offers.
pub(crate) fn versions() -> Vec<u64> {
    vec![VERSION]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_relay_says_is_fit_for_a_terminal() {
        let relay = JoinedRelay {
            name: "relay".into(),
            host: "relay".into(),
            port: 443,
            pin: crate::identity::PublicKey([1; 32]),
            invite: None,
        };
        let uplink = Uplink::new(relay, Arc::default());
        uplink.note(&Failure::Lost(anyhow::anyhow!("closed by peer: \u{1b}[2J\n")), false);
        let error = uplink.status().last_error.unwrap();
        assert_eq!(error, "closed by peer: \u{fffd}[2J\u{fffd}");
    }
}
