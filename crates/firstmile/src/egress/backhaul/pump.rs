use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use backhaul::{Announce, Close, Datagram, Kept, Message, Ranges, Received, Subscribe, Want};
use hub::{Bell, Cut, Feed, Lane, Ringing};
use media::PublicationId;
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

use super::backfill::Backfill;
use super::live::{Live, Way};
use super::out::is_stopped;
use super::{Order, ended};
use crate::control::Outbox;
use crate::link::Link;
use crate::rate::Lines;
use crate::spool::Spool;

/// After what time the link is looked after again: its backlog, and a heartbeat while media flows, so
/// that the peer can tell a dead link from a quiet one. From the first on that is done beside what is
/// sent, because a waking and a packet of its own cost more than it does; at the second, by itself.
const TICK: [Duration; 2] = [Duration::from_millis(80), Duration::from_millis(120)];
/// And while the link carries nothing: as often as keepalives come.
const QUIET_TICK: Duration = Duration::from_millis(250);
/// Ticks between the reports of figures.
const REPORT_TICKS: u64 = 5;
/// A link is acknowledged ten times a second while media flows: its heartbeats are.
const ACKNOWLEDGED: Duration = Duration::from_millis(100);
/// When nothing was acknowledged for this long, beside a round trip, it is given nothing more: what it has would
/// be sent again before what is live.
const SILENCE: Duration = Duration::from_millis(250);
/// When it was this long, what is late is skipped once the link is heard again.
const OUTAGE: Duration = Duration::from_millis(500);
/// So many feeds go as they come: waiting for others costs more than sharing packets with them saves
/// (measured; with 16 it saves, with 50 a sixth of all).
const FEW: usize = 10;
/// With more, the time between two looks at them at least.
const GATHER: Duration = Duration::from_millis(1);

/// Writes the media of a link's feeds: audio, then live video, then what was asked for afterwards.
///
/// It takes from the hub what the link takes from it, so that the backlog stays in the hub, where it
/// can be skipped. It announces what is on air.
pub(super) struct Pump {
    link: Link,
    outbox: Outbox,
    bell: Arc<Bell>,
    outlets: BTreeMap<usize, Outlet>,
    keys: HashMap<String, usize>,
    next_key: usize,
    /// Outlets that have something to write, or may have.
    active: BTreeSet<usize>,
    /// The outlet that comes first among equals.
    turn: usize,
    backfill: Backfill,
    spool: Spool,
    started: Instant,
    ticks: u64,
    /// When the next tick may be, and when it is.
    next_tick: [Instant; 2],
    /// How long the feeds are left alone after a look at them.
    rest: Duration,
    acknowledged: Acknowledged,
    lines: Lines,
}

/// When the peer has acknowledged something last.
struct Acknowledged {
    count: u64,
    at: Instant,
    /// Whether what it missed since then is to be skipped.
    is_outage: bool,
}

/// One feed of the studio.
struct Outlet {
    name: String,
    feed: Feed,
    /// What was announced last, unless it is over, and how many publications there were then.
    on_air: (Option<PublicationId>, u64),
    /// The publications that the peer knows to be over, of those that are kept.
    told: HashSet<PublicationId>,
    live: Option<Live>,
    _ringing: Ringing,
}

impl Pump {
    pub(super) fn new(link: Link, outbox: Outbox, spool: Spool, lines: Lines) -> Self {
        let now = Instant::now();
        Self {
            link,
            outbox,
            bell: Arc::default(),
            outlets: BTreeMap::new(),
            keys: HashMap::new(),
            next_key: 0,
            active: BTreeSet::new(),
            turn: 0,
            backfill: Backfill::new(spool.clone(), now),
            spool,
            started: now,
            ticks: 0,
            next_tick: [now; 2],
            rest: Duration::ZERO,
            acknowledged: Acknowledged { count: 0, at: now, is_outage: false },
            lines,
        }
    }

    /// Writes until the link is lost.
    ///
    /// # Errors
    ///
    /// The reason why.
    pub(super) async fn run(mut self, mut orders: mpsc::Receiver<Order>) -> Result<()> {
        let mut timer = pin!(tokio::time::sleep_until(self.next_tick[1].into()));
        let bell = self.bell.clone();
        let mut rest_until = self.started;
        loop {
            let [_, tick_at] = self.next_tick.map(tokio::time::Instant::from);
            if timer.deadline() != tick_at {
                // A new one: the old one's time would wake us up, were it only moved.
                timer.set(tokio::time::sleep_until(tick_at));
            }
            tokio::select! {
                biased;
                order = orders.recv() => self.obey(order.context("the link is over")?),
                () = gathered(&bell, rest_until) => {
                    self.rung();
                    let now = Instant::now();
                    rest_until = now + self.rest;
                    if now >= self.next_tick[0] {
                        self.tick();
                    }
                }
                () = &mut timer => self.tick(),
                over = poll_fn(|cx| self.pass(cx)) => over?,
            }
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Feeds(feeds) => self.set_feeds(feeds),
            Order::Subscribe(subscribe) => self.subscribe(subscribe),
            Order::Unsubscribe(subscription) => {
                self.outlets.values_mut().for_each(|outlet| {
                    outlet.live.take_if(|live| live.subscription() == subscription);
                });
            }
            Order::Close(close) => self.close(&close),
            Order::Want(want) => self.want(want),
            Order::Received(received) => self.received(&received),
        }
    }

    fn set_feeds(&mut self, feeds: Vec<(String, Feed)>) {
        let is_there = |name: &String| feeds.iter().any(|(other, _)| other == name);
        self.keys.retain(|name, _| is_there(name));
        self.outlets.retain(|_, outlet| is_there(&outlet.name));
        for (name, feed) in feeds {
            if self.keys.contains_key(&name) {
                continue;
            }
            let key = self.next_key;
            self.next_key += 1;
            let ringing = feed.ring(&self.bell, key);
            self.keys.insert(name.clone(), key);
            let (on_air, told) = ((None, 0), HashSet::new());
            let mut outlet = Outlet { name, feed, on_air, told, live: None, _ringing: ringing };
            outlet.say_kept(&self.outbox, &self.spool);
            self.outlets.insert(key, outlet);
        }
    }

    fn subscribe(&mut self, subscribe: Subscribe) {
        self.rouse();
        let Some(key) = self.keys.get(&subscribe.feed) else {
            // The feed was removed, or not taken: what the peer holds of it is over.
            return self.outbox.say(&ended(&subscribe));
        };
        let outlet = self.outlets.get_mut(key).expect("every key has its outlet");
        // One that is over is sent as far as the hub still has it; at worst, not at all.
        if self.lines.may_say() {
            info!(feed = outlet.name, publication = %subscribe.publication, "sending");
        }
        let publication = subscribe.publication;
        let before = outlet.live.replace(Live::new(&outlet.feed, subscribe));
        if let Some(mut before) = before.filter(|live| live.publication() != publication) {
            before.end(&self.outbox);
        }
        self.active.insert(*key);
    }

    fn close(&mut self, close: &Close) {
        for outlet in self.outlets.values() {
            if outlet.feed.publication() == Some(close.publication) {
                let Close { publication, text: reason } = close;
                if self.lines.may_say() {
                    warn!(feed = outlet.name, %publication, reason, "the studio closed the encoder");
                }
                // Another encoder may have taken over by now: that one stays.
                outlet.feed.cut_publication(*publication, Cut::TakenOver, Instant::now());
            }
        }
    }

    fn want(&mut self, want: Want) {
        self.rouse();
        let key = self.keys.get(&want.feed);
        let outlet = key.and_then(|key| self.outlets.get(key));
        let live = outlet.and_then(|outlet| outlet.live.as_ref());
        let live = live.filter(|live| live.publication() == want.publication);
        // It has said that it got these, and asks for them all the same: it has not kept them.
        let again = live.map_or_else(Ranges::default, |live| live.received_of(&want.ranges));
        let feed = outlet.map(|outlet| outlet.feed.clone());
        if let Some(message) = self.backfill.want(feed, want, again) {
            self.outbox.say(&message);
        }
    }

    fn received(&mut self, received: &Received) {
        let now = Instant::now();
        let mut lives = self.outlets.values_mut().filter_map(|outlet| outlet.live.as_mut());
        // A subscription that has just ended may still be reported.
        let Some(live) = lives.find(|live| live.subscription() == received.subscription) else {
            return;
        };
        if let Some(delay) = live.on_received(&received.ranges, now) {
            self.backfill.on_live(delay, now);
        }
    }

    /// Feeds have changed.
    fn rung(&mut self) {
        let now = Instant::now();
        for key in self.bell.take() {
            let Some(outlet) = self.outlets.get_mut(&key) else { continue };
            if outlet.live.is_some() {
                self.active.insert(key);
            }
            let on_air = outlet.feed.on_air();
            let before = std::mem::replace(&mut outlet.on_air, on_air);
            if before == on_air {
                continue;
            }
            // Before the word that nothing more comes of one: its end is known then.
            outlet.say_kept(&self.outbox, &self.spool);
            if let Some(publication) = on_air.0.filter(|_| on_air.0 != before.0) {
                let age = outlet.feed.codecs(now).1.unwrap_or_default();
                let feed = outlet.name.clone();
                self.outbox.say(&Message::Announce(Announce { feed, publication, age }));
            }
        }
    }

    /// Looks after the link at once if it was quiet until now.
    fn rouse(&mut self) {
        if self.backfill.is_idle() && self.outlets.values().all(|outlet| outlet.live.is_none()) {
            let now = Instant::now();
            self.next_tick = [now; 2];
            // Nothing was sent that could have been acknowledged.
            (self.acknowledged.at, self.acknowledged.is_outage) = (now, false);
        }
    }

    fn tick(&mut self) {
        self.ticks += 1;
        let is_report_due = self.ticks.is_multiple_of(REPORT_TICKS);
        let now = Instant::now();
        let mut lives = 0;
        for outlet in self.outlets.values() {
            let Some(live) = &outlet.live else { continue };
            lives += 1;
            if is_report_due {
                self.outbox.say(&live.report(&outlet.feed.snapshot(now)));
            }
        }
        self.rest = if lives > FEW { GATHER } else { Duration::ZERO };
        let is_live = lives > 0;
        if !is_live {
            (self.acknowledged.at, self.acknowledged.is_outage) = (now, false);
        }
        if is_live {
            let clock = now.saturating_duration_since(self.started).as_micros() as u64;
            self.link.send_datagram(Datagram::Heartbeat(clock).encode());
        }
        let is_busy = is_live || !self.backfill.is_idle();
        if is_busy {
            self.link.govern();
        }
        // Whoever asks how long the peer was silent wants to know it as exactly as this.
        self.link.silence();
        self.next_tick = if is_busy { TICK } else { [QUIET_TICK; 2] }.map(|pause| now + pause);
    }

    /// Whether the link is silent: what it is given now waits in it. When it is heard again after
    /// an outage, what is late meanwhile is skipped.
    fn is_silent(&mut self, now: Instant) -> bool {
        let limit = |limit| limit + self.link.rtt();
        let silence = now.saturating_duration_since(self.acknowledged.at);
        // Looking costs more than waiting for a while.
        if silence > ACKNOWLEDGED {
            let count = self.link.acknowledgements();
            if std::mem::replace(&mut self.acknowledged.count, count) != count {
                self.acknowledged.at = now;
                if std::mem::take(&mut self.acknowledged.is_outage) {
                    let lives = self.outlets.values_mut().filter_map(|it| it.live.as_mut());
                    lives.for_each(Live::recover);
                }
                return false;
            }
        }
        self.acknowledged.is_outage |= silence > limit(OUTAGE);
        silence > limit(SILENCE)
    }

    /// Writes what the link takes; ready only with an error.
    fn pass(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let now = Instant::now();
        if self.is_silent(now) {
            return Poll::Pending;
        }
        let way = Way { link: &self.link, outbox: &self.outbox, now };
        let mut blocked = BTreeSet::new();
        for lane in [Lane::Rest, Lane::Video] {
            let (after, before) = (self.active.range(self.turn..), self.active.range(..self.turn));
            for key in after.chain(before) {
                let Some(outlet) = self.outlets.get_mut(key) else { continue };
                let Some(live) = &mut outlet.live else { continue };
                match live.poll(lane, cx, &way) {
                    Poll::Ready(Ok(())) => {}
                    // The peer wants no more of it, and says so in its own time.
                    Poll::Ready(Err(error)) if is_stopped(&error) => {
                        debug!(feed = outlet.name, "the studio stopped a stream");
                        outlet.live = None;
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => {
                        blocked.insert(*key);
                    }
                }
            }
        }
        for key in self.active.difference(&blocked) {
            let Some(outlet) = self.outlets.get_mut(key) else { continue };
            let over = outlet.live.take_if(|live| live.is_over(&self.outbox));
            if let Some(live) = over.filter(|_| self.lines.may_say()) {
                info!(feed = outlet.name, publication = %live.publication(), "sent");
            }
        }
        // Who was blocked first comes first when the link takes something again.
        self.turn = blocked.first().map_or(0, |first| *first);
        self.active = blocked;
        match self.active.is_empty() {
            true => self.backfill(cx, now),
            false => Poll::Pending,
        }
    }

    fn backfill(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<Result<()>> {
        if self.backfill.is_idle() {
            return Poll::Pending;
        }
        let lives = || self.outlets.values().filter_map(|outlet| outlet.live.as_ref());
        let is_beside_live = lives().next().is_some();
        let is_received = |publication, number| {
            lives().any(|live| live.publication() == publication && live.is_received(number))
        };
        let way = Way { link: &self.link, outbox: &self.outbox, now };
        self.backfill.poll(cx, &way, is_beside_live, &is_received)
    }
}

/// Waits until a feed has changed, and until others have had time to change, too: not before
/// `rest_until`. Cancel safe.
async fn gathered(bell: &Bell, rest_until: Instant) {
    bell.wait().await;
    if Instant::now() < rest_until {
        tokio::time::sleep_until(rest_until.into()).await;
    }
}

impl Outlet {
    /// Tells of publications that are over, and of which the spool has something; once of each.
    fn say_kept(&mut self, outbox: &Outbox, spool: &Spool) {
        let kept: Vec<_> = spool.kept(&self.feed).into_iter().filter(|kept| kept.ended).collect();
        self.told.retain(|told| kept.iter().any(|kept| kept.publication == *told));
        for kept in kept {
            if self.told.insert(kept.publication) {
                let (publication, last, age) =
                    (kept.publication, kept.last, kept.started.elapsed());
                let feed = self.name.clone();
                outbox.say(&Message::Kept(Kept { feed, publication, last, age }));
            }
        }
    }
}
