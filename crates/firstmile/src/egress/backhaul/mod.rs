//! A studio that was let in: it hears what is on air, and gets what it subscribes to.
//!
//! One task for each feed of the studio announces its publications and sends the one that is
//! subscribed; the control stream has one owner, [`run`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use backhaul::{
    Announce, Close, Ended, Event, Message, Received, Report, Sender, Session, StreamChoice,
    StreamHeader, Subscribe,
};
use bytes::{Bytes, BytesMut};
use hub::{Cut, Feed, Item, Join, Next, Policy, Resume};
use media::{PublicationId, TrackSet};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tracing::{Instrument, debug, info, warn};

use crate::quic::{
    ClosedStream, Link, RecvStream, STEADY_PRIORITY, SendStream, VIDEO_PRIORITY, WriteError,
};
use crate::rate::Bucket;

/// Delay beyond which a subscription skips to the newest keyframe.
const LATENCY_BUDGET: Duration = Duration::from_secs(2);
/// Bytes taken from the hub at a time; what waits there can still be skipped.
const BATCH: usize = 64 << 10;
/// Control messages of the feeds' tasks that may wait to be written.
const CONTROL_QUEUE: usize = 256;
/// Commands for one feed that may wait.
const COMMAND_QUEUE: usize = 64;
/// Log lines of a studio about its feeds at once; then one a second.
const LINES: f64 = 64.0;
/// How often a subscription reports its figures.
const REPORT_INTERVAL: Duration = Duration::from_millis(500);
/// How often the link's backlog is looked at.
const GOVERN_INTERVAL: Duration = Duration::from_millis(100);

/// The streams of control messages.
#[derive(Debug)]
pub struct Control {
    /// The conversation on them.
    pub session: Session,
    /// To the peer.
    pub send: SendStream,
    /// From the peer.
    pub receive: RecvStream,
}

impl Control {
    /// Reads until the peer has said something.
    ///
    /// # Errors
    ///
    /// If the link is lost, the peer ends its stream, or breaks the protocol.
    pub async fn event(&mut self) -> Result<Event> {
        loop {
            if let Some(event) = self.session.poll_event()? {
                return Ok(event);
            }
            let chunk = self.receive.read_chunk(64 << 10, true).await?;
            let chunk = chunk.context("the peer ended the conversation")?;
            self.session.handle_input(&chunk.bytes);
        }
    }

    /// Writes what the session has to say.
    ///
    /// # Errors
    ///
    /// If the link is lost.
    pub async fn flush(&mut self) -> Result<()> {
        let output = self.session.take_output();
        if !output.is_empty() {
            self.send.write_chunk(output).await?;
        }
        Ok(())
    }
}

/// The studio's feeds at this relay.
pub trait Feeds: Send + Sync {
    /// Takes the studio's whole list; returns the feeds as they are now, and those refused.
    fn push(
        &self,
        list: Vec<backhaul::FeedKey>,
    ) -> (Vec<(String, Feed)>, Vec<backhaul::FeedProblem>);

    /// Takes the studio's whole list of users; returns the feeds whose user was refused.
    fn push_logins(&self, list: Vec<backhaul::Login>) -> Vec<backhaul::FeedProblem>;
}

/// What a feed's task is told.
enum Command {
    Subscribe(Subscribe),
    Unsubscribe(u64),
    Close(Close),
}

type Senders = Arc<Mutex<HashMap<u64, Arc<Mutex<Sender>>>>>;

/// One feed's task; ends with its handle.
struct FeedTask {
    commands: mpsc::Sender<Command>,
    task: AbortHandle,
}

impl FeedTask {
    fn tell(&self, command: Command) -> Result<()> {
        match self.commands.try_send(command) {
            Err(mpsc::error::TrySendError::Full(_)) => {
                bail!("the peer changes its mind faster than it can be served")
            }
            Err(mpsc::error::TrySendError::Closed(_)) => bail!("a feed can no longer be sent"),
            Ok(()) => Ok(()),
        }
    }
}

impl Drop for FeedTask {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A queue of messages for the control stream.
pub type ControlQueue = (mpsc::Sender<Message>, mpsc::Receiver<Message>);

/// An empty queue for a new link.
pub fn control_queue() -> ControlQueue {
    mpsc::channel(CONTROL_QUEUE)
}

/// Serves a studio until its link is lost; the session is open.
///
/// # Errors
///
/// The reason why the link is over.
pub async fn run(
    link: &Link,
    mut control: Control,
    (tell, mut told): ControlQueue,
    feeds: &dyn Feeds,
) -> Result<()> {
    let senders = Senders::default();
    let mut tasks: HashMap<String, FeedTask> = HashMap::new();
    let mut govern = tokio::time::interval(GOVERN_INTERVAL);
    let mut known_problems = Vec::new();
    let mut lines = Bucket::full(LINES, Instant::now());
    loop {
        control.flush().await?;
        tokio::select! {
            event = control.event() => match event? {
                Event::Message(Message::Feeds(list)) => {
                    let (current, problems) = feeds.push(list);
                    if problems != known_problems {
                        // A studio may send what it likes, but not fill the log.
                        let now = Instant::now();
                        let mut is_said = |_: &&backhaul::FeedProblem| lines.take(1.0, 1.0, LINES, now);
                        for problem in problems.iter().take_while(&mut is_said) {
                            warn!(feed = problem.name, reason = problem.text, "a feed was not taken");
                        }
                    }
                    for problem in &problems {
                        control.session.send(&Message::FeedProblem(problem.clone()));
                    }
                    known_problems = problems;
                    tasks.retain(|name, _| current.iter().any(|(current, _)| current == name));
                    for (name, feed) in current {
                        tasks.entry(name).or_insert_with_key(|name| {
                            start_feed(link.clone(), name.clone(), feed, tell.clone(), senders.clone())
                        });
                    }
                }
                Event::Message(Message::Logins(list)) => {
                    for problem in feeds.push_logins(list) {
                        debug!(feed = problem.name, reason = problem.text, "a user was not taken");
                        control.session.send(&Message::FeedProblem(problem));
                    }
                }
                Event::Message(message) => {
                    if let Some(answer) = dispatch(message, &tasks)? {
                        control.session.send(&answer);
                    }
                }
                other => bail!("the peer said {other:?} on an open session"),
            },
            Some(message) = told.recv() => control.session.send(&message),
            datagram = link.read_datagram() => {
                let received = Received::decode(datagram?)?;
                let sender = lock(&senders).get(&received.subscription).cloned();
                // A subscription that has just ended may still be reported.
                if let Some(sender) = sender {
                    lock(&sender).on_received(&received.ranges, Instant::now());
                }
            }
            _ = govern.tick(), if !lock(&senders).is_empty() => link.govern(),
        }
    }
}

/// Hands a message to the feed that it is about; returns the answer if there is none.
///
/// Never waits: the feeds' tasks may be waiting for the control stream.
fn dispatch(message: Message, tasks: &HashMap<String, FeedTask>) -> Result<Option<Message>> {
    match message {
        Message::Subscribe(subscribe) => match tasks.get(&subscribe.feed) {
            Some(task) => task.tell(Command::Subscribe(subscribe))?,
            // The feed was removed, or not taken: what the peer holds of it is over.
            None => {
                let Subscribe { publication, released, .. } = subscribe;
                return Ok(Some(Message::Ended(Ended { publication, edges: released })));
            }
        },
        // These name a subscription or a publication, of which the feeds know whose it is.
        Message::Unsubscribe(subscription) => {
            tasks.values().try_for_each(|task| task.tell(Command::Unsubscribe(subscription)))?;
        }
        Message::Close(close) => {
            tasks.values().try_for_each(|task| task.tell(Command::Close(close.clone())))?;
        }
        // Nothing is published by a studio yet.
        other => debug!(?other, "ignored"),
    }
    Ok(None)
}

fn start_feed(
    link: Link,
    name: String,
    feed: Feed,
    tell: mpsc::Sender<Message>,
    senders: Senders,
) -> FeedTask {
    let (commands, told) = mpsc::channel(COMMAND_QUEUE);
    let span = tracing::info_span!("feed", name);
    let task = FeedSender { link, name, feed, tell, senders, commands: told };
    let task = async move {
        // The link's own task knows why it is lost.
        if let Err(error) = task.run().await {
            debug!(reason = %error, "no longer sent");
        }
    };
    FeedTask { commands, task: tokio::spawn(task.instrument(span)).abort_handle() }
}

/// Announces one feed's publications and sends the one that is subscribed.
struct FeedSender {
    link: Link,
    name: String,
    feed: Feed,
    tell: mpsc::Sender<Message>,
    senders: Senders,
    commands: mpsc::Receiver<Command>,
}

impl FeedSender {
    async fn run(mut self) -> Result<()> {
        let mut on_air = self.feed.watch();
        on_air.mark_changed();
        let mut announced = None;
        let mut next = None;
        loop {
            if let Some(subscribe) = next.take() {
                next = self.serve(subscribe).await?;
                continue;
            }
            tokio::select! {
                changed = on_air.changed() => {
                    changed?;
                    let publication = *on_air.borrow_and_update();
                    // Once each: a peer that wants it no longer is not asked again.
                    if let Some(publication) = publication.filter(|id| announced != Some(*id)) {
                        announced = Some(publication);
                        let feed = self.name.clone();
                        self.tell.send(Message::Announce(Announce { feed, publication })).await?;
                    }
                }
                command = self.commands.recv() => match command.context("the link is over")? {
                    Command::Subscribe(subscribe) => next = Some(subscribe),
                    Command::Close(close) => self.close(&close),
                    Command::Unsubscribe(_) => {}
                },
            }
        }
    }

    /// Serves a subscription until its publication ends or the peer changes its mind; returns
    /// what the peer wants instead.
    async fn serve(&mut self, subscribe: Subscribe) -> Result<Option<Subscribe>> {
        if !self.is_on_air(&subscribe) {
            self.not_on_air(subscribe).await?;
            return Ok(None);
        }
        let Subscribe { subscription, publication, released, .. } = subscribe;
        let sender = Arc::new(Mutex::new(Sender::new(subscription, released)));
        lock(&self.senders).insert(subscription, sender.clone());
        let _registered = Registered { senders: self.senders.clone(), subscription };
        info!(%publication, "sending");
        let mut sending = std::pin::pin!(
            Sending {
                link: self.link.clone(),
                feed: self.feed.clone(),
                tell: self.tell.clone(),
                subscription,
                publication,
                sender,
                steady: None,
                video: None,
            }
            .run(released)
        );
        loop {
            tokio::select! {
                edges = &mut sending => {
                    let edges = match edges {
                        Ok(edges) => edges,
                        // The peer wants no more of it, and says so in its own time.
                        Err(error) if is_stopped(&error) => return Ok(None),
                        Err(error) => return Err(error),
                    };
                    info!(%publication, "sent");
                    self.tell.send(Message::Ended(Ended { publication, edges })).await?;
                    return Ok(None);
                }
                command = self.commands.recv() => match command.context("the link is over")? {
                    Command::Subscribe(other) if self.is_on_air(&other) => return Ok(Some(other)),
                    Command::Subscribe(other) => self.not_on_air(other).await?,
                    Command::Unsubscribe(id) if id == subscription => return Ok(None),
                    Command::Unsubscribe(_) => {}
                    Command::Close(close) if close.publication == publication => {
                        self.close(&close);
                    }
                    Command::Close(_) => {}
                },
            }
        }
    }

    fn is_on_air(&self, subscribe: &Subscribe) -> bool {
        self.feed.publication() == Some(subscribe.publication)
    }

    /// What the peer asks for is over: it has all that it will get.
    async fn not_on_air(&self, subscribe: Subscribe) -> Result<()> {
        let Subscribe { publication, released, .. } = subscribe;
        self.tell.send(Message::Ended(Ended { publication, edges: released })).await?;
        Ok(())
    }

    fn close(&self, close: &Close) {
        if self.feed.publication() == Some(close.publication) {
            warn!(publication = %close.publication, reason = close.text, "the studio closed the encoder");
            // Another encoder may have taken over by now: that one stays.
            self.feed.cut_publication(close.publication, Cut::TakenOver, Instant::now());
        }
    }
}

/// Whether a write failed because the peer wants no more of the stream.
fn is_stopped(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(WriteError::Stopped(_) | WriteError::ClosedStream))
        || error.is::<ClosedStream>()
}

/// Takes the sender out of the reports' way when its subscription ends.
struct Registered {
    senders: Senders,
    subscription: u64,
}

impl Drop for Registered {
    fn drop(&mut self) {
        lock(&self.senders).remove(&self.subscription);
    }
}

/// One subscription on its way over the link.
struct Sending {
    link: Link,
    feed: Feed,
    tell: mpsc::Sender<Message>,
    subscription: u64,
    publication: PublicationId,
    sender: Arc<Mutex<Sender>>,
    steady: Option<SendStream>,
    video: Option<SendStream>,
}

impl Sending {
    /// Sends the publication to its end; returns the last number sent on each track.
    async fn run(mut self, released: TrackSet<Option<u64>>) -> Result<TrackSet<Option<u64>>> {
        let policy = Policy { join: Join::Publication, max_delay: LATENCY_BUDGET, verbatim: true };
        let resume = Resume { publication: self.publication, released };
        let mut subscriber = self.feed.subscribe(policy, Some(resume));
        let mut report = tokio::time::interval(REPORT_INTERVAL);
        let mut items = Vec::new();
        loop {
            // Before the poll: a tag that comes in between is then still seen.
            let is_over = self.feed.publication() != Some(self.publication);
            let next = subscriber.poll(Instant::now(), &mut items, BATCH);
            let is_next_publication = |item: &Item| item.position.publication != self.publication;
            let end = items.iter().position(is_next_publication);
            for item in items.drain(..end.unwrap_or(items.len())) {
                self.send(&item).await?;
            }
            if end.is_some() || next != Next::Tags && is_over {
                break;
            }
            if next == Next::Tags {
                continue;
            }
            tokio::select! {
                () = subscriber.changed() => {}
                _ = report.tick() => self.report(subscriber.skipped()).await?,
            }
        }
        for stream in [self.steady.as_mut(), self.video.as_mut()].into_iter().flatten() {
            stream.finish()?;
        }
        Ok(lock(&self.sender).edges())
    }

    async fn send(&mut self, item: &Item) -> Result<()> {
        let plan = lock(&self.sender).send(item.position, &item.tag, item.arrival, Instant::now());
        for skip in plan.skips {
            self.tell.send(Message::Skip(skip)).await?;
        }
        if let Some(mut before) = self.video.take_if(|_| plan.gives_up_video) {
            before.reset(0u32.into())?;
        }
        let stream = match plan.stream {
            StreamChoice::Steady => &mut self.steady,
            StreamChoice::Video => &mut self.video,
            StreamChoice::NewVideo => {
                if let Some(mut before) = self.video.take() {
                    before.finish()?;
                }
                &mut self.video
            }
        };
        let mut header = BytesMut::new();
        let stream = match stream {
            Some(stream) => stream,
            None => {
                StreamHeader { subscription: self.subscription }.encode(&mut header);
                let is_steady = plan.stream == StreamChoice::Steady;
                let priority = if is_steady { STEADY_PRIORITY } else { VIDEO_PRIORITY };
                stream.insert(self.link.open_tags(priority).await?)
            }
        };
        plan.header.encode(&mut header);
        let mut chunks: [Bytes; 2] = [header.freeze(), item.tag.body.clone()];
        stream.write_all_chunks(&mut chunks).await?;
        Ok(())
    }

    async fn report(&self, skipped: u64) -> Result<()> {
        let snapshot = self.feed.snapshot(Instant::now());
        let report = Report {
            subscription: self.subscription,
            encoder_growth_ms: snapshot.encoder_growth_ms.unwrap_or(0),
            skipped,
        };
        self.tell.send(Message::Report(report)).await?;
        Ok(())
    }
}

/// Locks, whoever panicked before: senders hold nothing that can be half done.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
