//! Studios at the door: who may come in, and what one link is from its hello to its end.

use std::collections::HashMap;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;
use backhaul::{
    Event, FeedKey, FeedProblem, Hello, Load, Login, Message, Refusal, Session, VERSION, Welcome,
};
use futures_util::FutureExt;
use hub::{Cut, Feed};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, info, warn};

use super::Node;
use super::directory::{self, FeedId};
use crate::control::{Control, Outbox};
use crate::egress::backhaul as egress;
use crate::error::plain;
use crate::guests::{Bounds, Guest, Guests};
use crate::identity::PublicKey;
use crate::limit::Limit;
use crate::link::{Link, Transport};
use crate::networks::Networks;
use crate::quic::Listener;
use crate::rate::{Bucket, Lines};
use crate::secret::Secret;
use crate::status::{LinkState, LinkStatus};
use crate::{store, task};

/// Callers that have not been let in yet, from everywhere together.
const MAX_CALLERS: usize = 128;
/// How long a caller may take to say who it is.
const HELLO_DEADLINE: Duration = Duration::from_secs(5);
/// Silence after which a link is dead if its studio calls anew.
const SILENT: Duration = Duration::from_secs(1);
/// How long a peer that was refused may take to read why.
const FAREWELL: Duration = Duration::from_secs(2);
/// What a studio is told at once of others that claim its keys or users: one for each feed, and again;
/// then one a second. It goes before media.
const WARNINGS: f64 = 128.0;
/// How often studios are told how much this relay has to do.
const LOAD_INTERVAL: Duration = Duration::from_secs(10);

/// A studio that is, or was, connected.
#[derive(Debug)]
pub(super) struct Studio {
    name: String,
    instance: [u8; 16],
    pub(super) link: Option<Link>,
    connects: u64,
    last_error: Option<String>,
    /// What is to be said to it.
    outbox: Option<Outbox>,
    /// What it makes the log say, over all its links: that it comes and goes, and the rest.
    visits: Lines,
    lines: Lines,
    /// What it is told of others that claim what it holds.
    warnings: Bucket,
}

impl Node {
    pub(super) async fn serve_studios(
        self: Arc<Self>,
        quic: &Listener,
        tcp: &mut mpsc::Receiver<(Link, Guest)>,
        shutdown: CancellationToken,
    ) {
        let mut sweep = tokio::time::interval(Duration::from_secs(60));
        let mut load = tokio::time::interval(LOAD_INTERVAL);
        let guests = Guests::new(Bounds {
            connections: usize::MAX,
            guests: MAX_CALLERS,
            per_address: self.config.limits.unauthenticated_per_ip,
        });
        let networks = Networks::new(&self.config.limits);
        loop {
            let incoming = tokio::select! {
                () = shutdown.cancelled() => return,
                _ = sweep.tick() => {
                    self.sweep();
                    continue;
                }
                _ = load.tick() => {
                    let load = Message::Load(Load { percent: self.load() });
                    let studios = self.lock_studios();
                    let outboxes = studios.values().filter_map(|studio| studio.outbox.as_ref());
                    outboxes.for_each(|outbox| outbox.say(&load));
                    continue;
                }
                Some((link, guest)) = tcp.recv() => {
                    // The door has counted it, and made the handshake.
                    let node = self.clone();
                    let span = tracing::info_span!("studio", key = %link.peer());
                    task::spawn(
                        async move { node.serve_studio(link, guest).await }
                            .instrument(span)
                            .boxed(),
                    );
                    continue;
                }
                incoming = quic.accept() => incoming,
            };
            let Some(incoming) = incoming else { return };
            if !incoming.is_proven() {
                // It is only asked for proof. A place might cost that of one who has given it.
                if let Err(error) = incoming.handshake().await {
                    debug!(reason = %error, "a caller was not asked for proof of its address");
                }
                continue;
            }
            // Before the handshake, which costs more than anything else that a stranger can ask for.
            if !networks.connect(incoming.remote_address(), Instant::now()) {
                self.hits.count(Limit::ConnectionRate);
                incoming.refuse();
                continue;
            }
            let Ok((guest, hit)) = guests.enter(incoming.remote_address()) else {
                incoming.refuse();
                continue;
            };
            if hit.is_some() {
                self.hits.count(Limit::Callers);
            }
            let node = self.clone();
            let serving = async move {
                match guest.stay(incoming.handshake()).await {
                    Some(Ok(Some(link))) => {
                        let span = tracing::info_span!("studio", key = %link.peer());
                        node.serve_studio(link, guest).instrument(span).await;
                    }
                    Some(Ok(None)) => {}
                    None => debug!("a caller made room for another"),
                    Some(Err(error)) => debug!(reason = %error, "a caller failed the handshake"),
                }
            };
            task::spawn(serving.boxed());
        }
    }

    /// One studio's link, from its hello to its end.
    async fn serve_studio(&self, link: Link, caller: Guest) {
        let hello = tokio::time::timeout(HELLO_DEADLINE, greet(&link));
        let Some(hello) = caller.stay(hello).await else {
            link.close("too many callers");
            return debug!("a caller made room for another");
        };
        let (mut control, hello) = match hello {
            Ok(Ok(greeted)) => greeted,
            Ok(Err(error)) => return debug!(reason = %error, "a caller said no hello"),
            Err(_) => {
                link.close("no hello in time");
                return debug!("a caller said no hello in time");
            }
        };
        self.drop_dead(&link, &hello).await;
        let admitted = self.admit(&link, &hello);
        let lines = match admitted {
            Ok(lines) => lines,
            Err((refusal, text)) => {
                return self.turn_away(&link, control, &hello, refusal, text).await;
            }
        };
        drop(caller);
        let mut stay =
            Stay { node: self, link: &link, hello: &hello, reason: "a fault of the relay".into() };
        control.session.welcome(Welcome {
            version: VERSION,
            agent: crate::agent(),
            host: self.config.public_host.clone().unwrap_or_default(),
            rtmp_port: self.addresses.rtmp.port(),
            rtmps_port: self.trusted_rtmps_port(),
            region: self.config.region.clone().unwrap_or_default(),
            measures: self.measures(),
        });
        let peer = PeerFeeds { node: self, studio: link.peer() };
        let control = control.split();
        if let Some(studio) = self.lock_studios().get_mut(&link.peer()) {
            studio.outbox = Some(control.0.clone());
        }
        control.0.say(&Message::Load(Load { percent: self.load() }));
        let over = egress::run(&link, control, &peer, &self.spool, &lines).await;
        stay.reason = link.close_reason().unwrap_or_else(|| match over {
            Ok(()) => "it ended".to_owned(),
            Err(error) => plain(&format!("{error:#}")),
        });
    }

    /// Tells a caller why it may not come in.
    async fn turn_away(
        &self,
        link: &Link,
        mut control: Control,
        hello: &Hello,
        refusal: Refusal,
        text: String,
    ) {
        // It may call again and again.
        if let Some(left_out) = self.refusals.now(&format!("{refusal:?}"), Instant::now()) {
            warn!(studio = hello.name, reason = text, left_out, "refused");
        }
        control.session.refuse(refusal, &text);
        // The peer closes the link once it has read why.
        let farewell = async {
            let _ = control.flush().await;
            link.closed().await
        };
        let _ = tokio::time::timeout(FAREWELL, farewell).await;
        link.close("refused");
    }

    /// Tells the studio whose key or user another one claims.
    fn warn_holder(&self, feed: FeedId, text: &str) {
        let text = text.to_owned();
        let mut studios = self.lock_studios();
        let Some(studio) = studios.get_mut(&feed.studio) else { return };
        let Some(outbox) = &studio.outbox else { return };
        // Another studio decides how often.
        if studio.warnings.take(1.0, 1.0, WARNINGS, Instant::now()) {
            outbox.say(&Message::FeedProblem(FeedProblem { name: feed.name, text }));
        }
    }

    /// A studio that was killed and started again is a new instance, while its old link looks
    /// alive until it times out: a link that is silent gives way at once.
    async fn drop_dead(&self, link: &Link, hello: &Hello) {
        let before = match self.lock_studios().get(&link.peer()) {
            Some(Studio { instance, link: Some(before), .. }) if *instance != hello.instance => {
                before.clone()
            }
            _ => return,
        };
        if before.is_heard(SILENT).await {
            return;
        }
        before.close("silent, and called again");
        if let Some(studio) = self.lock_studios().get_mut(&link.peer())
            && studio.link.as_ref().is_some_and(|present| present.is_same(&before))
        {
            studio.link = None;
        }
    }

    /// Lets a studio in, or says why not.
    fn admit(&self, link: &Link, hello: &Hello) -> Result<Lines, (Refusal, String)> {
        let key = link.peer();
        if !hello.speaks_our_version() {
            let text = format!(
                "this relay speaks version {VERSION} of the backhaul, and the studio {:?}: upgrade \
                 the older of the two",
                hello.versions
            );
            return Err((Refusal::Version, text));
        }
        self.check_room(key, hello)?;
        // Writes to the disk; the studios' lock is not held meanwhile.
        tokio::task::block_in_place(|| self.check_invite(key, hello))?;
        let mut studios = self.lock_studios();
        // It may have been cut off while it was let in: who does that looks for its link now.
        if let Some(refused) = self.cut_off(&key) {
            return Err(refused);
        }
        let known = studios.get(&key);
        let connects = known.map_or(0, |studio| studio.connects) + 1;
        let full = || Bucket::full(WARNINGS, Instant::now());
        let warnings = known.map_or_else(full, |studio| studio.warnings);
        let known_lines = known.map(|studio| (studio.visits.clone(), studio.lines.clone()));
        let (visits, lines) = known_lines.unwrap_or_default();
        if visits.may_say() {
            let address = link.remote_address();
            info!(studio = hello.name, %address, agent = hello.agent, "joined");
        }
        if let Some(before) = known.and_then(|studio| studio.link.as_ref()) {
            before.close("replaced by a new link");
        }
        studios.insert(
            key,
            Studio {
                name: hello.name.clone(),
                instance: hello.instance,
                link: Some(link.clone()),
                connects,
                last_error: None,
                outbox: None,
                visits,
                lines: lines.clone(),
                warnings,
            },
        );
        Ok(lines)
    }

    /// Whether the studio is the only one of its identity, and there is room for it.
    fn check_room(&self, key: PublicKey, hello: &Hello) -> Result<(), (Refusal, String)> {
        let studios = self.lock_studios();
        let present = studios.get(&key).filter(|studio| studio.link.is_some());
        if present.is_some_and(|studio| studio.instance != hello.instance) {
            let text = "another program with this studio's identity is connected: stop one of \
                        the two, or give one its own data directory";
            return Err((Refusal::Duplicate, text.to_owned()));
        }
        let open = studios.values().filter(|studio| studio.link.is_some()).count();
        if present.is_none() && open >= self.config.limits.studios {
            self.hits.count(Limit::Studios);
            return Err((Refusal::Full, format!("this relay takes {open} studios and is full")));
        }
        Ok(())
    }

    /// What a studio is told that was cut off.
    fn cut_off(&self, key: &PublicKey) -> Option<(Refusal, String)> {
        self.lock_store().admitted.cut_off_ms(key)?;
        let text = "the relay's owner has cut this studio off: ask for a new join link (firstmile \
                    invite, on the relay)";
        Some((Refusal::CutOff, text.to_owned()))
    }

    fn check_invite(&self, key: PublicKey, hello: &Hello) -> Result<(), (Refusal, String)> {
        let cut_off = self.cut_off(&key);
        let mut store = self.lock_store();
        let now = SystemTime::now();
        let failed = |error: store::StoreError| {
            warn!(%error, "cannot remember the studio");
            (Refusal::Full, "the relay cannot write its data directory".to_owned())
        };
        if store.admitted.contains(&key) {
            return store.admitted.seen(&key, &hello.name, now).map_err(failed);
        }
        // Whoever comes is let in; there is nothing to remember.
        let is_open = self.config.open && cut_off.is_none();
        if is_open && hello.invite.is_empty() {
            return Ok(());
        }
        if !is_open {
            let not_admitted = cut_off.unwrap_or_else(|| {
                let text = "this relay does not know the studio: ask for a new join link (firstmile \
                            invite, on the relay)";
                (Refusal::NotAdmitted, text.to_owned())
            });
            let Ok(invite) = hello.invite.parse::<Secret>() else {
                return Err(not_admitted);
            };
            // Of one that was cut off, the invites of before are worth nothing.
            let after_ms = store.admitted.cut_off_ms(&key);
            store.invites.redeem(&invite, after_ms, now).map_err(|refused| match refused {
                store::Refused::Unknown => not_admitted,
                store::Refused::Expired => {
                    let text = "the join link has expired: ask for a new one (firstmile invite, \
                                on the relay)";
                    (Refusal::InviteExpired, text.to_owned())
                }
                store::Refused::UsedUp => {
                    let text = "the join link was used up: ask for a new one (firstmile invite, \
                                on the relay)";
                    (Refusal::InviteUsedUp, text.to_owned())
                }
                store::Refused::Store(error) => failed(error),
            })?;
        }
        store.admitted.admit(key, &hello.name, now).map_err(failed)
    }

    fn left(&self, link: &Link, hello: &Hello, reason: &str) {
        let mut studios = self.lock_studios();
        let Some(studio) = studios.get_mut(&link.peer()) else { return };
        // A new link of the same studio may be here already.
        if !studio.link.as_ref().is_some_and(|present| present.is_same(link)) {
            return debug!(reason, "a link was replaced");
        }
        if studio.visits.may_say() {
            info!(studio = hello.name, reason, "left");
        }
        studio.link = None;
        studio.outbox = None;
        studio.last_error = Some(reason.to_owned());
        // Under the lock: a link that comes back now is noted after this.
        let mut removed = Vec::new();
        self.directory.send_modify(|directory| {
            removed = directory.leave(&link.peer(), Instant::now(), SystemTime::now());
        });
        drop(studios);
        removed.iter().for_each(|feed| self.remove(feed));
        // What it has pushed while it was being cut off goes, too.
        if self.cut_off(&link.peer()).is_some() {
            self.expel(&link.peer());
        }
    }

    pub(super) fn lock_studios(&self) -> MutexGuard<'_, HashMap<PublicKey, Studio>> {
        self.studios.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A studio that was let in. However this ends, a fault of ours included, its link is closed and it
/// has left: it calls again.
struct Stay<'a> {
    node: &'a Node,
    link: &'a Link,
    hello: &'a Hello,
    reason: String,
}

impl Drop for Stay<'_> {
    fn drop(&mut self) {
        self.link.close("over");
        self.node.left(self.link, self.hello, &self.reason);
    }
}

/// One studio's view of the relay.
struct PeerFeeds<'a> {
    node: &'a Node,
    studio: PublicKey,
}

impl egress::Feeds for PeerFeeds<'_> {
    fn push(&self, list: Vec<FeedKey>) -> (Vec<(String, Feed)>, Vec<FeedProblem>) {
        let node = self.node;
        let max = node.config.limits.feeds_per_studio;
        if list.len() > max {
            node.hits.count(Limit::FeedsPerStudio);
        }
        let mut change = directory::Change::default();
        node.directory.send_modify(|directory| {
            let now = (Instant::now(), SystemTime::now());
            change = directory.push(self.studio, list, max, now);
        });
        let now = Instant::now();
        for feed in &change.revoked {
            node.hub.feed(feed.clone()).cut(Cut::Revoked, now);
        }
        for feed in &change.removed {
            node.remove(feed);
        }
        for feed in change.contested {
            node.warn_holder(feed, "another studio claims the same key: rotate it");
        }
        let feeds = change.current.into_iter().map(|id| (id.name.clone(), node.hub.feed(id)));
        (feeds.collect(), change.problems)
    }

    fn push_logins(&self, list: Vec<Login>) -> Vec<FeedProblem> {
        let node = self.node;
        let mut change = directory::Change::default();
        node.directory.send_modify(|directory| {
            change = directory.push_logins(self.studio, list);
        });
        let now = Instant::now();
        for feed in &change.revoked {
            node.by_password.cut(feed, &node.hub.feed(feed.clone()), now);
        }
        for feed in change.contested {
            node.warn_holder(feed, "another studio claims the same user: rotate it");
        }
        change.problems
    }
}

impl Studio {
    /// What it calls itself.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn status(&self, key: &PublicKey) -> LinkStatus {
        let stats = self.link.as_ref().map(Link::stats);
        LinkStatus {
            peer: format!("{} ({key})", self.name),
            address: self
                .link
                .as_ref()
                .map_or_else(String::new, |link| link.remote_address().to_string()),
            transport: self.link.as_ref().map_or(Transport::Quic, Link::transport).to_string(),
            local: stats
                .as_ref()
                .and_then(|_| self.link.as_ref()?.local_ip())
                .map(|ip| ip.to_string()),
            region: None,
            load: None,
            // One that hears nothing of us calls anew, and so does one that we do not hear.
            state: match &self.link {
                Some(link) if link.silence() < SILENT => LinkState::Up,
                Some(_) => LinkState::Racing,
                None => LinkState::Connecting,
            },
            rtt_ms: stats.map(|stats| stats.rtt.as_secs_f64() * 1_000.0),
            loss: stats.and_then(|stats| stats.loss),
            bytes_in: stats.map_or(0, |stats| stats.received_bytes),
            bytes_out: stats.map_or(0, |stats| stats.sent_bytes),
            reconnects: self.connects - 1,
            rebinds: 0,
            last_error: self.last_error.clone(),
        }
    }
}

/// Reads a caller's hello.
async fn greet(link: &Link) -> Result<(Control, Hello)> {
    let (send, receive) = link.accept_control().await?;
    let mut control = Control { session: Session::accept(), send, receive };
    match control.event().await? {
        Event::Hello(hello) => Ok((control, hello)),
        other => anyhow::bail!("the caller began with {other:?}"),
    }
}
