//! A relay's feeds: subscribed as they are announced, put in order, and put on air here.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use backhaul::{
    Announce, Arrival, Close, Ended, Event, FeedKey, Message, Received, Receiver, Release, Report,
    Subscribe, TagHeader,
};
use bytes::{Bytes, BytesMut};
use hub::{Cut, Feed, Publisher};
use media::{Position, PublicationId, Tag, Track, TrackSet};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use crate::egress::backhaul::Control;
use crate::quic::{Link, RecvStream};
use crate::status::Spread;

/// How often what was received is reported while media flows.
const REPORT_INTERVAL: Duration = Duration::from_millis(25);
/// Bytes of tags of one subscription that may wait for others.
const MAX_HELD_BYTES: usize = 32 << 20;
/// How long the last tags of an ended publication may take to arrive.
const LAST_TAGS: Duration = Duration::from_secs(2);
/// How long a publication is held for a relay that cannot be reached.
const HOLD: Duration = Duration::from_secs(600);
/// Publications that one relay may announce at a time; a studio has 256 feeds at most.
const MAX_PUBLICATIONS: usize = 256;
/// Tags whose wait in the relay is remembered: about four seconds.
const QUEUE_SAMPLES: usize = 256;
/// Bytes read from a stream at a time.
const READ: usize = 64 << 10;

/// What a relay's feeds need of the studio.
pub trait Feeds: Send + Sync {
    /// The feed of this name, if the studio has one.
    fn feed(&self, name: &str) -> Option<Feed>;
    /// The names of the feeds and their keys' hashes, and how to wait for a change.
    fn keys(&self) -> watch::Receiver<Arc<Vec<FeedKey>>>;
    /// Takes note of a feed that the relay refused.
    fn refused(&self, name: &str, why: &str);
}

/// Everything that comes from one relay; outlives its links.
#[derive(Debug, Default)]
pub struct Inbox {
    publications: Mutex<HashMap<PublicationId, Incoming>>,
    received: Notify,
}

/// Figures of one publication's way here.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// Milliseconds that the encoder's tags are late at the relay, by its own clock.
    pub encoder_growth_ms: i64,
    /// Milliseconds that the last few hundred tags waited in the relay.
    pub relay_queue: Option<Spread>,
    /// Tags that the relay skipped.
    pub skipped: u64,
}

#[derive(Debug)]
struct Incoming {
    feed: String,
    /// Its name on the present link; `None` while there is none.
    subscription: Option<u64>,
    publisher: Publisher,
    receiver: Receiver,
    bodies: HashMap<(Track, u64), (Position, Tag)>,
    held_bytes: usize,
    /// The last numbers, once the relay said that it has ended.
    ended: Option<TrackSet<Option<u64>>>,
    /// When the link was lost.
    interrupted: Option<Instant>,
    figures: Figures,
    /// Microseconds that the last tags waited in the relay.
    relay_queue: VecDeque<u64>,
}

impl Inbox {
    /// The figures of a publication that comes from this relay.
    pub fn figures(&self, publication: PublicationId) -> Option<Figures> {
        let publications = self.lock();
        let incoming = publications.get(&publication)?;
        let mut waits: Vec<_> = incoming.relay_queue.iter().copied().collect();
        waits.sort_unstable();
        let at = |share: f64| waits.get(((waits.len() as f64 - 1.0) * share) as usize);
        let ms = |share| at(share).map(|us| *us as f64 / 1_000.0);
        let relay_queue = ms(0.5).zip(ms(0.99)).map(|(p50, p99)| Spread { p50, p99 });
        Some(Figures { relay_queue, ..incoming.figures })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PublicationId, Incoming>> {
        self.publications.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs an open link until it is lost; the session is open.
    ///
    /// # Errors
    ///
    /// The reason why the link is over.
    pub async fn run(
        self: &Arc<Self>,
        link: &Link,
        control: Control,
        feeds: &dyn Feeds,
    ) -> Result<()> {
        let over = self.converse(link, control, feeds).await;
        self.interrupt();
        over
    }

    async fn converse(
        self: &Arc<Self>,
        link: &Link,
        mut control: Control,
        feeds: &dyn Feeds,
    ) -> Result<()> {
        let mut keys = feeds.keys();
        keys.mark_changed();
        let mut readers = JoinSet::new();
        let (lost, mut lost_feeds) = mpsc::channel(MAX_PUBLICATIONS);
        let mut next_subscription = 0;
        let mut is_first = true;
        let mut report_at = None;
        let mut sweep = tokio::time::interval(Duration::from_secs(1));
        loop {
            control.flush().await?;
            tokio::select! {
                changed = keys.changed() => {
                    changed?;
                    let list = keys.borrow_and_update().as_ref().clone();
                    control.session.send(&Message::Feeds(list));
                    if std::mem::take(&mut is_first) {
                        // After the feeds, so that the relay knows what is asked for.
                        for message in self.resume(&mut next_subscription) {
                            control.session.send(&message);
                        }
                    }
                }
                event = control.event() => match event? {
                    Event::Message(Message::Announce(announce)) => {
                        if let Some(answer) = self.announce(announce, feeds, &mut next_subscription)? {
                            control.session.send(&answer);
                        }
                    }
                    Event::Message(Message::Ended(ended)) => self.ended(&ended),
                    Event::Message(Message::Skip(skip)) => self.skip(&skip)?,
                    Event::Message(Message::Report(report)) => self.report(report),
                    Event::Message(Message::FeedProblem(problem)) => {
                        feeds.refused(&problem.name, &problem.text);
                    }
                    Event::Message(other) => debug!(?other, "ignored"),
                    other => bail!("the peer said {other:?} on an open session"),
                },
                stream = link.accept_tags() => {
                    let (inbox, stream, lost) = (self.clone(), stream?, lost.clone());
                    readers.spawn(async move { inbox.read(stream, lost).await });
                }
                Some(read) = readers.join_next() => read??,
                Some(publication) = lost_feeds.recv() => {
                    for message in self.give_up(publication) {
                        control.session.send(&message);
                    }
                }
                () = self.received.notified(), if report_at.is_none() => {
                    report_at = Some(Instant::now() + REPORT_INTERVAL);
                }
                () = sleep_until(report_at), if report_at.is_some() => {
                    report_at = None;
                    for report in self.take_reports() {
                        link.send_datagram(report.encode());
                    }
                }
                _ = sweep.tick() => self.sweep(),
            }
        }
    }

    /// Messages that ask for what was interrupted.
    fn resume(&self, next_subscription: &mut u64) -> Vec<Message> {
        let mut publications = self.lock();
        let resume = |(publication, incoming): (&PublicationId, &mut Incoming)| {
            let subscription = take_next(next_subscription);
            incoming.subscribe(subscription);
            Message::Subscribe(Subscribe {
                subscription,
                feed: incoming.feed.clone(),
                publication: *publication,
                released: incoming.receiver.edges(),
            })
        };
        publications.iter_mut().map(resume).collect()
    }

    /// Takes note of a publication; returns the answer.
    fn announce(
        &self,
        announce: Announce,
        feeds: &dyn Feeds,
        next_subscription: &mut u64,
    ) -> Result<Option<Message>> {
        let Announce { feed: name, publication } = announce;
        let mut publications = self.lock();
        if publications.contains_key(&publication) {
            return Ok(None);
        }
        if publications.len() >= MAX_PUBLICATIONS {
            bail!("the relay announced more than {MAX_PUBLICATIONS} publications");
        }
        let Some(feed) = feeds.feed(&name) else {
            debug!(feed = name, "the relay announced a feed that is gone");
            return Ok(None);
        };
        let publisher = match feed.publish(publication, Instant::now()) {
            Ok(publisher) => publisher,
            Err(fought) => {
                warn!(feed = name, "refused: {fought}");
                return Ok(Some(close(publication, &fought.to_string())));
            }
        };
        info!(feed = name, %publication, "on air");
        let subscription = take_next(next_subscription);
        publications.insert(
            publication,
            Incoming {
                feed: name.clone(),
                subscription: Some(subscription),
                publisher,
                receiver: Receiver::default(),
                bodies: HashMap::new(),
                held_bytes: 0,
                ended: None,
                interrupted: None,
                figures: Figures::default(),
                relay_queue: VecDeque::new(),
            },
        );
        let released = TrackSet::default();
        Ok(Some(Message::Subscribe(Subscribe { subscription, feed: name, publication, released })))
    }

    fn ended(&self, ended: &Ended) {
        let mut publications = self.lock();
        if let Some(incoming) = publications.get_mut(&ended.publication) {
            incoming.ended = Some(ended.edges);
            if incoming.is_complete() {
                incoming.finish();
                publications.remove(&ended.publication);
            } else {
                incoming.interrupted = Some(Instant::now());
            }
        }
    }

    fn skip(&self, skip: &backhaul::Skip) -> Result<()> {
        let mut publications = self.lock();
        if let Some(incoming) = find(&mut publications, skip.subscription) {
            incoming.receiver.on_skip(skip)?;
            // A cut is noticed by the next tag.
            let _ = incoming.release();
        }
        Ok(())
    }

    fn report(&self, report: Report) {
        if let Some(incoming) = find(&mut self.lock(), report.subscription) {
            incoming.figures.encoder_growth_ms = report.encoder_growth_ms;
            incoming.figures.skipped = report.skipped;
        }
    }

    /// Lets go of a publication that was cut here; returns what to tell the relay.
    fn give_up(&self, publication: PublicationId) -> Vec<Message> {
        let Some(incoming) = self.lock().remove(&publication) else { return Vec::new() };
        let cut = incoming.publisher.cut().unwrap_or(Cut::TakenOver);
        info!(feed = incoming.feed, %publication, reason = %cut, "off air");
        let unsubscribe = incoming.subscription.map(Message::Unsubscribe);
        unsubscribe.into_iter().chain([close(publication, &cut.to_string())]).collect()
    }

    /// Lets go of what took too long.
    fn sweep(&self) {
        self.lock().retain(|publication, incoming| {
            let limit = if incoming.ended.is_some() { LAST_TAGS } else { HOLD };
            let is_over = incoming.interrupted.is_some_and(|since| since.elapsed() > limit);
            if is_over {
                info!(feed = incoming.feed, %publication, "off air");
            }
            !is_over
        });
    }

    /// The link is lost: what it carried is held.
    fn interrupt(&self) {
        for incoming in self.lock().values_mut() {
            incoming.subscription = None;
            incoming.publisher.interrupt();
            incoming.interrupted.get_or_insert_with(Instant::now);
        }
    }

    fn take_reports(&self) -> Vec<Received> {
        let mut publications = self.lock();
        let report = |incoming: &mut Incoming| {
            let ranges = incoming.receiver.take_report()?;
            Some(Received { subscription: incoming.subscription?, ranges })
        };
        publications.values_mut().filter_map(report).collect()
    }

    /// Reads one stream of tags to its end.
    async fn read(&self, stream: RecvStream, lost: mpsc::Sender<PublicationId>) -> Result<()> {
        let mut stream = TagStream { stream, input: BytesMut::new() };
        let Some(subscription) = stream.header().await? else { return Ok(()) };
        while let Some((header, body)) = stream.tag().await? {
            match self.receive(subscription, &header, body)? {
                Fate::Going => {}
                Fate::Gone => return Ok(()),
                Fate::Cut(publication) => {
                    lost.send(publication).await?;
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Takes a tag, and puts on air what is in order now.
    fn receive(&self, subscription: u64, header: &TagHeader, body: Bytes) -> Result<Fate> {
        let mut publications = self.lock();
        // Tags of a subscription that is over may still be on their way.
        let Some(incoming) = find(&mut publications, subscription) else {
            return Ok(Fate::Gone);
        };
        if incoming.relay_queue.len() == QUEUE_SAMPLES {
            incoming.relay_queue.pop_front();
        }
        incoming.relay_queue.push_back(header.queued_us);
        let publication = incoming.publisher.publication();
        let went = incoming.receive(header, body);
        let is_complete = incoming.is_complete();
        self.received.notify_one();
        match went? {
            Err(_) => return Ok(Fate::Cut(publication)),
            Ok(()) if is_complete => {
                incoming.finish();
                publications.remove(&publication);
            }
            Ok(()) => {}
        }
        Ok(Fate::Going)
    }
}

/// What became of a subscription when a tag came.
enum Fate {
    /// It goes on.
    Going,
    /// It was over before.
    Gone,
    /// Its publication is no longer on air here.
    Cut(PublicationId),
}

impl Incoming {
    fn subscribe(&mut self, subscription: u64) {
        self.subscription = Some(subscription);
        self.interrupted = None;
        self.receiver = Receiver::new(self.receiver.edges());
        self.bodies.clear();
        self.held_bytes = 0;
    }

    fn receive(&mut self, header: &TagHeader, body: Bytes) -> Result<Result<(), Cut>> {
        let TagHeader { track, number, previous, timestamp, .. } = *header;
        if self.receiver.on_tag(track, number, previous)? == Arrival::Late {
            return Ok(Ok(()));
        }
        self.held_bytes += body.len();
        let position = Position { publication: self.publisher.publication(), number, previous };
        self.bodies.insert((track, number), (position, Tag::new(track, timestamp, body)));
        let released = self.release();
        if self.held_bytes > MAX_HELD_BYTES {
            bail!("more than {MAX_HELD_BYTES} bytes wait for a tag that does not come");
        }
        Ok(released)
    }

    fn release(&mut self) -> Result<(), Cut> {
        while let Some(release) = self.receiver.poll() {
            let (Release::Tag(track, number) | Release::Drop(track, number)) = release;
            let Some((position, tag)) = self.bodies.remove(&(track, number)) else { continue };
            self.held_bytes -= tag.body.len();
            if matches!(release, Release::Tag(..)) {
                self.publisher.push_at(position, tag, Instant::now())?;
            }
        }
        Ok(())
    }

    /// Whether the publication has ended and all of it is through.
    fn is_complete(&self) -> bool {
        let edges = self.receiver.edges();
        self.ended
            .is_some_and(|ended| Track::ALL.into_iter().all(|track| edges[track] >= ended[track]))
    }

    fn finish(&self) {
        info!(feed = self.feed, publication = %self.publisher.publication(), "off air");
    }
}

fn close(publication: PublicationId, text: &str) -> Message {
    Message::Close(Close { publication, text: text.to_owned() })
}

async fn sleep_until(at: Option<Instant>) {
    if let Some(at) = at {
        tokio::time::sleep_until(at.into()).await;
    }
}

fn take_next(counter: &mut u64) -> u64 {
    *counter += 1;
    *counter
}

fn find(
    publications: &mut HashMap<PublicationId, Incoming>,
    subscription: u64,
) -> Option<&mut Incoming> {
    publications.values_mut().find(|incoming| incoming.subscription == Some(subscription))
}

/// Takes a one-way stream apart into tags.
struct TagStream {
    stream: RecvStream,
    input: BytesMut,
}

impl TagStream {
    /// The subscription that the stream belongs to; `None` if it ended before saying so.
    async fn header(&mut self) -> Result<Option<u64>> {
        loop {
            if let Some(header) = backhaul::StreamHeader::decode(&mut self.input)? {
                return Ok(Some(header.subscription));
            }
            if !self.read().await? {
                return Ok(None);
            }
        }
    }

    /// The next tag; `None` at the stream's end, and where the sender has given it up.
    async fn tag(&mut self) -> Result<Option<(TagHeader, Bytes)>> {
        let header = loop {
            if let Some(header) = TagHeader::decode(&mut self.input)? {
                break header;
            }
            if !self.read().await? {
                return Ok(None);
            }
        };
        while self.input.len() < header.length {
            if !self.read().await? {
                return Ok(None);
            }
        }
        Ok(Some((header, self.input.split_to(header.length).freeze())))
    }

    async fn read(&mut self) -> Result<bool> {
        use crate::quic::ReadError;
        match self.stream.read_chunk(READ, true).await {
            Ok(Some(chunk)) => {
                self.input.extend_from_slice(&chunk.bytes);
                Ok(true)
            }
            Ok(None) | Err(ReadError::Reset(_)) => Ok(false),
            Err(error) => Err(error).context("a stream of tags broke off"),
        }
    }
}
