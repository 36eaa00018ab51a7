//! One link's conversation with its relay: what is asked for, and what comes of it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Result, bail};
use backhaul::{Announce, Datagram, Event, Message};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt, TryFutureExt};
use tokio::task::coop::consume_budget;
use tracing::{debug, warn};

use super::incoming::Incoming;
use super::tag_stream::Partial;
use super::{ANNOUNCES, Feeds, Inbox, MAX_PUBLICATIONS, close};
use crate::control::{Control, Outbox};
use crate::link::{Link, RecvStream};
use crate::parts::first_of;

/// How often what was received is reported while media flows.
const REPORT_INTERVAL: Duration = Duration::from_millis(25);
/// How often the recorder is asked what it lacks.
const WANT_INTERVAL: Duration = Duration::from_millis(500);
/// How often publications that are over are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// How long a relay may take to read what is said to it.
const UNREAD: Duration = Duration::from_secs(10);
/// New publications that a relay may announce in a second for longer.
const ANNOUNCE_RATE: f64 = 16.0;

/// What is said on one link, on behalf of the [`Inbox`], which outlives it.
pub(super) struct Conversation<'a> {
    inbox: &'a Arc<Inbox>,
    feeds: &'a dyn Feeds,
    /// Subscriptions that have a name so far.
    subscriptions: AtomicU64,
}

impl<'a> Conversation<'a> {
    pub(super) fn new(inbox: &'a Arc<Inbox>, feeds: &'a dyn Feeds) -> Self {
        Self { inbox, feeds, subscriptions: AtomicU64::new(0) }
    }

    /// Runs until the link is lost; the session is open.
    ///
    /// # Errors
    ///
    /// The reason why the link is over.
    pub(super) async fn run(&self, link: &Link, control: Control) -> Result<()> {
        let (outbox, mut send, mut receive) = control.split();
        first_of([
            outbox.write(&mut send, Some(UNREAD)).boxed(),
            self.list_feeds(&outbox).boxed(),
            self.hear(&outbox, &mut receive).boxed(),
            self.hear_heartbeats(link).boxed(),
            self.take_tags(link, &outbox).boxed(),
            self.report(link).boxed(),
            self.want_missing(link, &outbox).boxed(),
            self.sweep().boxed(),
        ])
        .await
    }

    /// Tells the relay of the studio's feeds, now and when they change.
    async fn list_feeds(&self, outbox: &Outbox) -> Result<()> {
        let mut list = self.feeds.list();
        let mut is_first = true;
        loop {
            let now = list.borrow_and_update().clone();
            // How long a key is good is counted from when it is said.
            outbox.say(&Message::Feeds(now.keys_at(SystemTime::now())));
            outbox.say(&Message::Logins(now.logins.clone()));
            if std::mem::take(&mut is_first) {
                // After the feeds, so that the relay knows what is asked for.
                self.resume().iter().for_each(|message| outbox.say(message));
            }
            // Whoever reads slowly gets the newest list next, and not all that were in between.
            outbox.taken().await;
            list.changed().await?;
        }
    }

    async fn hear(&self, outbox: &Outbox, receive: &mut RecvStream) -> Result<()> {
        loop {
            // A relay may say more than there is time for: the others have their turns.
            consume_budget().await;
            let Event::Message(message) = outbox.hear(receive).await? else {
                bail!("the peer began anew on an open session");
            };
            if let Some(answer) = self.message(message)? {
                outbox.say(&answer);
            }
        }
    }

    async fn hear_heartbeats(&self, link: &Link) -> Result<()> {
        loop {
            consume_budget().await;
            if let Datagram::Heartbeat(clock) = Datagram::decode(link.read_datagram().await?)? {
                self.inbox.lock_way().on_heartbeat(clock, link.rtt(), Instant::now());
                self.inbox.heartbeat.notify_one();
            }
        }
    }

    /// Reads the streams of tags: side by side, but in this task, as each is woken with the others.
    async fn take_tags(&self, link: &Link, outbox: &Outbox) -> Result<()> {
        let accept = || link.accept_tags().map_ok(Some).boxed();
        let mut taking = FuturesUnordered::from_iter([accept()]);
        let partial = Partial::default();
        loop {
            consume_budget().await;
            let opened = taking.next().await.expect("the next stream is always waited for");
            if let Some(stream) = opened? {
                taking.push(self.take(stream, partial.clone(), outbox).map_ok(|()| None).boxed());
                taking.push(accept());
            }
        }
    }

    /// Reads one stream of tags.
    async fn take(&self, stream: RecvStream, partial: Partial, outbox: &Outbox) -> Result<()> {
        if let Some((publication, why)) = self.inbox.read(stream, partial).await?
            && let Some(message) = self.inbox.give_up(publication, &why)
        {
            outbox.say(&message);
        }
        Ok(())
    }

    /// Reports what was received.
    async fn report(&self, link: &Link) -> Result<()> {
        loop {
            self.inbox.received.notified().await;
            tokio::time::sleep(REPORT_INTERVAL).await;
            for report in self.inbox.take_reports() {
                link.send_datagram(Datagram::Received(report).encode());
            }
        }
    }

    /// Asks for what the recorder lacks.
    async fn want_missing(&self, link: &Link, outbox: &Outbox) -> Result<()> {
        let mut want = tokio::time::interval(WANT_INTERVAL);
        loop {
            want.tick().await;
            if link.silence() > WANT_INTERVAL {
                self.inbox.lock_missing().unheard(Instant::now());
            }
            self.want().iter().for_each(|message| outbox.say(message));
        }
    }

    async fn sweep(&self) -> Result<()> {
        let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
        loop {
            sweep.tick().await;
            self.inbox.sweep();
        }
    }

    /// A name for the next subscription.
    fn next_subscription(&self) -> u64 {
        self.subscriptions.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Messages that ask for what was interrupted, as far as it is still wanted.
    pub(super) fn resume(&self) -> Vec<Message> {
        let mut publications = self.inbox.lock();
        publications.retain(|_, incoming| {
            incoming.is_wanted() && self.feeds.feed(incoming.name()).is_some()
        });
        let resume = |incoming: &mut Incoming| {
            let subscription = self.next_subscription();
            incoming.resume(subscription);
            incoming.subscribe(subscription, self.feeds.budget(incoming.name()))
        };
        publications.values_mut().map(resume).collect()
    }

    /// Does what the relay's message asks for; returns the answer.
    pub(super) fn message(&self, message: Message) -> Result<Option<Message>> {
        match message {
            Message::Announce(announce) => {
                return self.announce(announce);
            }
            Message::Ended(ended) => self.inbox.ended(&ended),
            Message::Skip(skip) => return self.inbox.skip(&skip),
            Message::Report(report) => self.inbox.report(&report),
            Message::Kept(kept) => {
                let recorder = self.feeds.recorder(&kept.feed);
                self.inbox.lock_missing().keeps(&kept, recorder.as_ref(), SystemTime::now());
            }
            Message::Answered(answered) => {
                self.inbox.lock_missing().answered(&answered, &self.inbox.lines);
            }
            Message::FeedProblem(problem) => self.feeds.refused(&problem.name, &problem.text),
            Message::Load(load) => self.inbox.load.store(load.percent, Ordering::Relaxed),
            other => debug!(?other, "ignored"),
        }
        Ok(None)
    }

    fn announce(&self, announce: Announce) -> Result<Option<Message>> {
        let Announce { feed: name, publication, age } = announce;
        if self.inbox.lock_closed().contains(&publication) {
            return Ok(Some(close(publication, "another encoder took over")));
        }
        let Some(feed) = self.feeds.feed(&name) else {
            debug!(feed = name, "the relay announced a feed that is gone");
            return Ok(None);
        };
        let mut publications = self.inbox.lock();
        if publications.contains_key(&publication) {
            return Ok(None);
        }
        if publications.len() >= MAX_PUBLICATIONS {
            bail!("the relay announced more than {MAX_PUBLICATIONS} publications");
        }
        let mut announces = self.inbox.announces.lock().unwrap_or_else(PoisonError::into_inner);
        if !announces.take(1.0, ANNOUNCE_RATE, ANNOUNCES, Instant::now()) {
            bail!("the relay announced more than {ANNOUNCE_RATE} publications a second");
        }
        let recorder = self.feeds.recorder(&name);
        let source = recorder.as_ref().and_then(|recorder| recorder.source(publication));
        let is_ours = source.is_none_or(|source| source == *self.inbox.lock_missing().source());
        if feed.publication() == Some(publication) || !is_ours {
            if self.inbox.lines.may_say() {
                warn!(feed = name, %publication, "the relay announced what comes from elsewhere");
            }
            return Ok(Some(close(publication, "it comes from elsewhere")));
        }
        let started = SystemTime::now().checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH);
        if !self.feeds.admits(&name, started) {
            // The relay is too old to know until when keys are good, or does not care.
            return Ok(Some(close(publication, "the stream key is not valid")));
        }
        let subscription = self.next_subscription();
        let budget = self.feeds.budget(&name);
        let mut incoming = Incoming::new(name, feed, publication, started, subscription);
        incoming.record(recorder, self.inbox.lock_missing().source());
        let message = incoming.subscribe(subscription, budget);
        let of_feed = publications.values_mut().filter(|other| other.name() == incoming.name());
        of_feed.for_each(Incoming::supersede);
        publications.insert(publication, incoming);
        Ok(Some(message))
    }

    /// Messages that ask for what the recorder lacks, as far as this relay may have it.
    fn want(&self) -> Vec<Message> {
        let now = Instant::now();
        let names: Vec<_> =
            self.feeds.list().borrow().keys.iter().map(|feed| feed.name.clone()).collect();
        let mut publications = self.inbox.lock();
        let mut missing = self.inbox.lock_missing();
        let mut messages = Vec::new();
        for name in names {
            let recorder = self.feeds.recorder(&name);
            // Recording may have been switched meanwhile.
            for incoming in publications.values_mut().filter(|incoming| incoming.name() == name) {
                incoming.record(recorder.clone(), missing.source());
            }
            let Some(recorder) = recorder else { continue };
            let mut live = |publication| publications.get_mut(&publication)?.settled_below(now);
            let mut take_name = || self.next_subscription();
            messages.extend(missing.ask(&name, &recorder, &mut live, &mut take_name, now));
        }
        messages
    }
}
