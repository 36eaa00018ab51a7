//! One publication on its way from a relay to the hub.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Result, bail};
use backhaul::{
    Arrival, Ended, Message, Ranges, Receiver, Release, Report, Settled, Skip, Stalls, Subscribe,
    TagHeader,
};
use bytes::Bytes;
use hub::{Feed, Publisher};
use media::{Position, PublicationId, Tag, Track, TrackSet};
use tracing::info;

use crate::egress::record::{FeedRecorder, Source};
use crate::rate::Lines;
use crate::status::Spread;

/// Bytes of tags that may wait for others.
const MAX_HELD_BYTES: usize = 32 << 20;
/// What a tag that waits costs beside its body.
const HELD_COST: usize = 256;
/// How long nothing may come of an ended publication whose last tags are missing.
const LAST_TAGS: Duration = Duration::from_secs(2);
/// How long a publication is held for a relay that cannot be reached.
const HOLD: Duration = Duration::from_secs(600);
/// Tags whose wait in the relay is remembered: about four seconds.
const QUEUE_SAMPLES: usize = 256;

/// Figures of one publication's way here.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// Milliseconds that the encoder's tags are late at the relay, by its own clock.
    pub encoder_growth_ms: i64,
    /// Milliseconds that the last few hundred tags waited in the relay.
    pub relay_queue: Option<Spread>,
    /// Tags that the relay skipped.
    pub skipped: u64,
    /// How long the way from the relay takes now, one way.
    pub backhaul: Option<Duration>,
    /// How often the encoder's way to the relay stalled in the last minute.
    pub stalls: Option<Stalls>,
}

/// Why a publication is not, or no longer, on air here; for the relay and the log.
pub(super) type OffAir = String;

/// A publication that a relay has announced. It takes its feed over with its first tag: an
/// announcement alone cuts nobody.
#[derive(Debug)]
pub(super) struct Incoming {
    name: String,
    feed: Feed,
    publication: PublicationId,
    /// Its name on the present link; `None` while there is none.
    subscription: Option<u64>,
    publisher: Option<Publisher>,
    /// The relay has announced another since.
    is_superseded: bool,
    /// When its encoder's session began.
    started: SystemTime,
    recorder: Option<FeedRecorder>,
    settled: Settled,
    receiver: Receiver,
    bodies: HashMap<(Track, u64), (Position, Tag)>,
    held_bytes: usize,
    /// The last numbers, and whether its encoder has ended it, once the relay said that it is over.
    ended: Option<(TrackSet<Option<u64>>, bool)>,
    /// Since when nothing comes that is waited for.
    silent_since: Option<Instant>,
    figures: Figures,
    /// Microseconds that the last tags waited in the relay.
    relay_queue: VecDeque<u64>,
}

impl Incoming {
    pub(super) fn new(
        name: String,
        feed: Feed,
        publication: PublicationId,
        started: SystemTime,
        subscription: u64,
    ) -> Self {
        Self {
            name,
            feed,
            publication,
            subscription: Some(subscription),
            publisher: None,
            is_superseded: false,
            started,
            recorder: None,
            settled: Settled::default(),
            receiver: Receiver::default(),
            bodies: HashMap::new(),
            held_bytes: 0,
            ended: None,
            silent_since: None,
            figures: Figures::default(),
            relay_queue: VecDeque::new(),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn subscription(&self) -> Option<u64> {
        self.subscription
    }

    /// Whether a new link should ask for the rest of it.
    pub(super) fn is_wanted(&self) -> bool {
        let is_cut = self.publisher.as_ref().is_some_and(|publisher| publisher.cut().is_some());
        // For one feed a relay sends one publication, the one that was asked for last.
        !is_cut && !self.is_superseded && self.ended.is_none()
    }

    /// The relay has another on air now: this one may go on, but not begin.
    pub(super) fn supersede(&mut self) {
        self.is_superseded = true;
    }

    /// Goes on by this name on a new link.
    pub(super) fn resume(&mut self, subscription: u64) {
        self.subscription = Some(subscription);
        self.silent_since = None;
        self.receiver.resume();
    }

    /// What to ask for by its present name.
    pub(super) fn subscribe(&self, subscription: u64, budget: Option<Duration>) -> Message {
        Message::Subscribe(Subscribe {
            subscription,
            feed: self.name.clone(),
            publication: self.publication,
            released: self.receiver.edges(),
            received: self.receiver.held(),
            budget,
        })
    }

    /// What it arrives here is written down, as long as the feed is recorded; never in the journal
    /// of somebody else's publication.
    pub(super) fn record(&mut self, recorder: Option<FeedRecorder>, source: &Source) {
        self.recorder = recorder.filter(|recorder| {
            recorder.begin(self.publication, self.started, source.clone());
            recorder.source(self.publication).as_ref() == Some(source)
        });
    }

    /// Bytes of tags that wait for others.
    pub(super) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Whether it was ever on air here.
    pub(super) fn was_on_air(&self) -> bool {
        self.publisher.is_some()
    }

    /// Below which number there are no holes but real ones; `None` if nothing comes in.
    pub(super) fn settled_below(&mut self, now: Instant) -> Option<u64> {
        self.subscription?;
        Some(self.settled.below(now))
    }

    /// The link is lost: players are held.
    pub(super) fn interrupt(&mut self) {
        self.subscription = None;
        self.silent_since.get_or_insert_with(Instant::now);
        if let Some(publisher) = &self.publisher {
            publisher.interrupt();
        }
    }

    /// Takes a tag, and puts on air what is in order now.
    ///
    /// # Errors
    ///
    /// If the relay breaks the protocol. The inner error says why the publication is off air.
    pub(super) fn receive(
        &mut self,
        header: &TagHeader,
        body: Bytes,
        lines: &Lines,
    ) -> Result<Result<(), OffAir>> {
        let TagHeader { track, number, previous, timestamp, queued_us, .. } = *header;
        if self.relay_queue.len() == QUEUE_SAMPLES {
            self.relay_queue.pop_front();
        }
        self.relay_queue.push_back(queued_us);
        if let Some(since) = &mut self.silent_since {
            *since = Instant::now();
        }
        let position = Position { publication: self.publication, number, previous };
        let tag = Tag::new(track, timestamp, body);
        self.settled.on_tag(number);
        if let Some(recorder) = &self.recorder {
            // Whatever becomes of it live.
            recorder.append(position, &tag, SystemTime::now());
        }
        if self.receiver.on_tag(track, number, previous)? == Arrival::Late {
            return Ok(Ok(()));
        }
        self.held_bytes += tag.body.len() + HELD_COST;
        self.bodies.insert((track, number), (position, tag));
        let released = self.release(lines);
        if self.held_bytes > MAX_HELD_BYTES {
            bail!("more than {MAX_HELD_BYTES} bytes wait for a tag that does not come");
        }
        Ok(released)
    }

    /// Moves a track's edge across a hole.
    ///
    /// # Errors
    ///
    /// As for [`receive`](Self::receive).
    pub(super) fn skip(&mut self, skip: &Skip, lines: &Lines) -> Result<Result<(), OffAir>> {
        self.receiver.on_skip(skip)?;
        Ok(self.release(lines))
    }

    fn release(&mut self, lines: &Lines) -> Result<(), OffAir> {
        while let Some(release) = self.receiver.poll() {
            let (Release::Tag(track, number) | Release::Drop(track, number)) = release;
            let Some((position, tag)) = self.bodies.remove(&(track, number)) else { continue };
            self.held_bytes -= tag.body.len() + HELD_COST;
            if matches!(release, Release::Tag(..)) {
                self.push(position, tag, lines)?;
            }
        }
        Ok(())
    }

    fn push(&mut self, position: Position, tag: Tag, lines: &Lines) -> Result<(), OffAir> {
        let now = Instant::now();
        let publisher = match &mut self.publisher {
            Some(publisher) => publisher,
            None if self.is_superseded => return Err("another encoder took over".to_owned()),
            None => {
                let publish = self.feed.publish(self.publication, now);
                let publisher = publish.map_err(|fought| fought.to_string())?;
                if lines.may_say() {
                    info!(feed = self.name, publication = %self.publication, "on air");
                }
                self.publisher.insert(publisher)
            }
        };
        publisher.push_at(position, tag, now).map_err(|cut| cut.to_string())
    }

    /// The relay says that there is no more than this.
    pub(super) fn end(&mut self, ended: &Ended) {
        self.ended = Some((ended.edges, ended.is_stopped));
        self.silent_since = Some(Instant::now());
    }

    /// Whether it is over: ended and all through, or waited for too long.
    pub(super) fn is_over(&self) -> bool {
        let silence = self.silent_since.map_or(Duration::ZERO, |since| since.elapsed());
        let Some((ended, _)) = &self.ended else { return silence > HOLD };
        let edges = self.receiver.edges();
        let is_through = Track::ALL.into_iter().all(|track| edges[track] >= ended[track]);
        is_through || silence > LAST_TAGS
    }

    pub(super) fn report(&mut self, report: &Report) {
        self.figures.encoder_growth_ms = report.encoder_growth_ms;
        self.figures.skipped = report.skipped;
        self.figures.stalls = report.stalls;
    }

    /// What was received, if that changed since the last call.
    pub(super) fn take_report(&mut self) -> Option<Ranges> {
        self.receiver.take_report()
    }

    pub(super) fn figures(&self) -> Figures {
        let mut waits: Vec<_> = self.relay_queue.iter().copied().collect();
        waits.sort_unstable();
        let at = |share: f64| waits.get((waits.len().saturating_sub(1) as f64 * share) as usize);
        let ms = |share| at(share).map(|us| *us as f64 / 1_000.0);
        let relay_queue = ms(0.5).zip(ms(0.99)).map(|(p50, p99)| Spread { p50, p99 });
        Figures { relay_queue, ..self.figures }
    }
}

/// However it is let go: an encoder that has ended its stream is not lost.
impl Drop for Incoming {
    fn drop(&mut self) {
        if let (Some((_, true)), Some(publisher)) = (self.ended, self.publisher.take()) {
            publisher.stop();
        }
    }
}
