//! A relay's feeds: subscribed as they are announced, put in order, and put on air here.

mod conversation;
mod incoming;
mod missing;
mod tag_stream;
mod way;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Result, bail};
use backhaul::{Close, Ended, FeedKey, Login, Message, Received, Report, Skip, TagHeader};
use bytes::Bytes;
use hub::Feed;
use media::PublicationId;
use tokio::sync::{Notify, watch};
use tracing::info;

use crate::control::Control;
use crate::egress::record::{FeedRecorder, Source};
use crate::link::{Link, RecvStream};
use crate::rate::{Bucket, Lines};

use conversation::Conversation;
pub use incoming::Figures;
use incoming::{Incoming, OffAir};
use missing::Missing;
use tag_stream::{Partial, TagStream};
use way::Way;

/// Publications that one relay may announce at a time; a studio has 256 feeds at most.
const MAX_PUBLICATIONS: usize = 256;
/// New publications that a relay may announce at once.
const ANNOUNCES: f64 = 512.0;
/// Bytes of tags that may wait for others, of all of a relay's publications together.
const MAX_HELD_BYTES: usize = 128 << 20;
/// A relay that has not said how much it has to do. No number on the wire is as high.
const NO_LOAD: u64 = u64::MAX;
/// Publications that were cut here and are remembered.
const MAX_CLOSED: usize = 64;

/// What a relay is told of the studio's feeds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FeedList {
    /// Their names, their keys' hashes, and until when those are good.
    pub keys: Vec<ListedKey>,
    /// The users who may publish them with a password.
    pub logins: Vec<Login>,
}

/// A feed of a [`FeedList`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedKey {
    /// Its name.
    pub name: String,
    /// Its key's hash.
    pub hash: [u8; 32],
    /// Until when the key is good; `None`: for ever.
    pub until: Option<SystemTime>,
}

impl FeedList {
    /// The keys as a relay is told of them at this time.
    fn keys_at(&self, now: SystemTime) -> Vec<FeedKey> {
        let key = |ListedKey { name, hash, until }: &ListedKey| FeedKey {
            name: name.clone(),
            hash: *hash,
            left: until.map(|until| until.duration_since(now).unwrap_or_default()),
        };
        self.keys.iter().map(key).collect()
    }
}

/// What a relay's feeds need of the studio.
pub trait Feeds: Send + Sync {
    /// The feed of this name, if the studio has one.
    fn feed(&self, name: &str) -> Option<Feed>;
    /// The feeds as they are, and how to wait for a change.
    fn list(&self) -> watch::Receiver<Arc<FeedList>>;
    /// Whether a feed's key let encoders in at this time.
    fn admits(&self, _name: &str, _at: SystemTime) -> bool {
        true
    }
    /// How late a feed may come before the relay skips; `None` if that is the relay's choice.
    fn budget(&self, name: &str) -> Option<Duration>;
    /// The way into the feed's recording; `None` while it is not recorded.
    fn recorder(&self, name: &str) -> Option<FeedRecorder>;
    /// Takes note of a feed that the relay refused, or whose key is claimed there.
    fn refused(&self, name: &str, why: &str);
}

/// Everything that comes from one relay; outlives its links.
#[derive(Debug)]
pub struct Inbox {
    publications: Mutex<HashMap<PublicationId, Incoming>>,
    /// Publications that were cut here last: the relay may announce them again on a new link.
    closed: Mutex<VecDeque<PublicationId>>,
    /// The present link's.
    way: Mutex<Way>,
    missing: Mutex<Missing>,
    received: Notify,
    heartbeat: Notify,
    announces: Mutex<Bucket>,
    /// How much the relay has to do in percent, as it says; [`NO_LOAD`] if it does not.
    load: AtomicU64,
    /// What the relay makes the log say.
    lines: Lines,
}

impl Inbox {
    /// Nothing yet; the recorder will say that it comes from `source`.
    pub fn new(source: Source) -> Self {
        Self {
            publications: Mutex::default(),
            closed: Mutex::default(),
            way: Mutex::default(),
            missing: Mutex::new(Missing::new(source)),
            received: Notify::new(),
            heartbeat: Notify::new(),
            announces: Mutex::new(Bucket::full(ANNOUNCES, Instant::now())),
            load: AtomicU64::new(NO_LOAD),
            lines: Lines::default(),
        }
    }

    /// The log lines that this relay can cause.
    pub fn lines(&self) -> &Lines {
        &self.lines
    }

    /// Where a publication that comes from this relay has its tags from.
    pub fn source(&self, publication: PublicationId) -> Option<Source> {
        let is_here = self.lock().contains_key(&publication);
        is_here.then(|| self.lock_missing().source().clone())
    }

    /// The figures of a publication that comes from this relay.
    pub fn figures(&self, publication: PublicationId) -> Option<Figures> {
        let figures = self.lock().get(&publication).map(Incoming::figures)?;
        Some(Figures { backhaul: self.lock_way().delay(), ..figures })
    }

    /// The part of what the relay can do that is in use, 0 to 1, as it says on this link.
    pub fn load(&self) -> Option<f64> {
        let percent = Some(self.load.load(Ordering::Relaxed)).filter(|load| *load != NO_LOAD)?;
        Some(percent.min(100) as f64 / 100.0)
    }

    /// Waits for a heartbeat of the relay that comes then or later. Cancel safe.
    pub async fn heartbeat_from(&self, then: Instant) {
        loop {
            self.heartbeat.notified().await;
            if Instant::now() >= then {
                return;
            }
        }
    }

    /// Tags of a feed that came afterwards because its recording lacked them, since the start.
    pub fn backfilled(&self, feed: &str) -> u64 {
        self.lock_missing().came(feed)
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
        *self.lock_way() = Way::default();
        self.load.store(NO_LOAD, Ordering::Relaxed);
        self.lock_missing().joined(Instant::now());
        let _interrupted = Interrupted(self);
        Conversation::new(self, feeds).run(link, control).await
    }

    fn ended(&self, ended: &Ended) {
        if let Some(incoming) = self.lock().get_mut(&ended.publication) {
            incoming.end(ended);
        }
        self.sweep();
    }

    fn skip(&self, skip: &Skip) -> Result<Option<Message>> {
        let mut publications = self.lock();
        let Some((publication, incoming)) = find(&mut publications, skip.subscription) else {
            return Ok(None);
        };
        let went = incoming.skip(skip, &self.lines)?;
        drop(publications);
        Ok(went.err().and_then(|why| self.give_up(publication, &why)))
    }

    fn report(&self, report: &Report) {
        if let Some((_, incoming)) = find(&mut self.lock(), report.subscription) {
            incoming.report(report);
        }
    }

    /// Lets go of a publication that is off air here; returns what to tell the relay.
    fn give_up(&self, publication: PublicationId, why: &str) -> Option<Message> {
        let incoming = self.lock().remove(&publication)?;
        let mut closed = self.lock_closed();
        if closed.len() == MAX_CLOSED {
            closed.pop_front();
        }
        closed.push_back(publication);
        if self.lines.may_say() {
            info!(feed = incoming.name(), %publication, reason = why, "off air");
        }
        Some(close(publication, why))
    }

    /// Lets go of what is over.
    fn sweep(&self) {
        self.lock().retain(|publication, incoming| {
            let is_over = incoming.is_over();
            if is_over && incoming.was_on_air() && self.lines.may_say() {
                info!(feed = incoming.name(), %publication, "off air");
            }
            !is_over
        });
    }

    fn take_reports(&self) -> Vec<Received> {
        let mut publications = self.lock();
        let report = |incoming: &mut Incoming| {
            let subscription = incoming.subscription()?;
            Some(Received { subscription, ranges: incoming.take_report()? })
        };
        publications.values_mut().filter_map(report).collect()
    }

    /// Reads one stream of tags to its end (`None`), or until its publication is no longer on air here:
    /// which that is, and why.
    async fn read(
        &self,
        stream: RecvStream,
        partial: Partial,
    ) -> Result<Option<(PublicationId, OffAir)>> {
        let mut stream = TagStream::new(stream, partial);
        let Some(subscription) = stream.header().await? else { return Ok(None) };
        while self.lock_missing().has(subscription) {
            let Some((header, body)) = stream.tag().await? else { return Ok(None) };
            self.lock_missing().receive(subscription, &header, body);
        }
        // Streams of a subscription that is over may still be on their way.
        while find(&mut self.lock(), subscription).is_some() {
            let Some((header, body)) = stream.tag().await? else { return Ok(None) };
            let off_air = self.receive(subscription, &header, body)?;
            if off_air.is_some() {
                return Ok(off_air);
            }
        }
        Ok(None)
    }

    /// Takes a tag; returns its publication if that is no longer on air here, and why.
    fn receive(
        &self,
        subscription: u64,
        header: &TagHeader,
        body: Bytes,
    ) -> Result<Option<(PublicationId, OffAir)>> {
        let mut publications = self.lock();
        let Some((publication, incoming)) = find(&mut publications, subscription) else {
            return Ok(None);
        };
        let went = incoming.receive(header, body, &self.lines)?;
        let is_over = incoming.is_over();
        if incoming.held_bytes() > MAX_HELD_BYTES / MAX_PUBLICATIONS {
            let held: usize = publications.values().map(Incoming::held_bytes).sum();
            if held > MAX_HELD_BYTES {
                bail!("more than {MAX_HELD_BYTES} bytes wait for tags that do not come");
            }
        }
        drop(publications);
        self.received.notify_one();
        if is_over {
            self.sweep();
        }
        Ok(went.err().map(|why| (publication, why)))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PublicationId, Incoming>> {
        self.publications.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_way(&self) -> MutexGuard<'_, Way> {
        self.way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locked after the publications, where both are.
    fn lock_missing(&self) -> MutexGuard<'_, Missing> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_closed(&self) -> MutexGuard<'_, VecDeque<PublicationId>> {
        self.closed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Leaves the publications in order when a link is over, be it by a fault of ours.
struct Interrupted<'a>(&'a Inbox);

impl Drop for Interrupted<'_> {
    fn drop(&mut self) {
        self.0.lock().values_mut().for_each(Incoming::interrupt);
    }
}

fn close(publication: PublicationId, text: &str) -> Message {
    Message::Close(Close { publication, text: text.to_owned() })
}

fn find(
    publications: &mut HashMap<PublicationId, Incoming>,
    subscription: u64,
) -> Option<(PublicationId, &mut Incoming)> {
    let mut all = publications.iter_mut();
    let found = all.find(|(_, incoming)| incoming.subscription() == Some(subscription));
    found.map(|(publication, incoming)| (*publication, incoming))
}

#[cfg(test)]
mod tests {
    use backhaul::{Announce, Subscribe};
    use hub::{Limits, State};
    use media::{Tag, Track, TrackSet};

    use super::*;

    const A: PublicationId = PublicationId([1; 16]);
    const B: PublicationId = PublicationId([2; 16]);

    struct OneFeed(Feed);

    #[test]
    fn a_relay_is_told_how_long_keys_are_good() {
        let now = SystemTime::now();
        let key = |until| ListedKey { name: "camera".into(), hash: [1; 32], until };
        let minute = Duration::from_secs(60);
        let keys = vec![key(None), key(Some(now + minute)), key(Some(now - minute))];
        let list = FeedList { keys, logins: Vec::new() };
        let left: Vec<_> = list.keys_at(now).into_iter().map(|key| key.left).collect();
        assert_eq!(left, [None, Some(minute), Some(Duration::ZERO)]);
    }

    struct Expired(OneFeed, SystemTime);

    impl Feeds for Expired {
        fn feed(&self, name: &str) -> Option<Feed> {
            self.0.feed(name)
        }

        fn list(&self) -> watch::Receiver<Arc<FeedList>> {
            self.0.list()
        }

        fn admits(&self, _: &str, at: SystemTime) -> bool {
            at < self.1
        }

        fn budget(&self, _: &str) -> Option<Duration> {
            None
        }

        fn recorder(&self, _: &str) -> Option<FeedRecorder> {
            None
        }

        fn refused(&self, _: &str, _: &str) {}
    }

    #[test]
    fn what_began_after_its_keys_end_is_closed_and_what_began_before_is_not() {
        let minute = Duration::from_secs(60);
        let (inbox, feeds) = inbox();
        let feeds = Expired(feeds, SystemTime::now() - minute);
        for (publication, age, is_good) in [(A, minute / 2, false), (B, 2 * minute, true)] {
            let announce = Announce { feed: "camera".into(), publication, age };
            let link = Conversation::new(&inbox, &feeds);
            let answer = link.message(Message::Announce(announce)).unwrap();
            let subscribes = matches!(answer, Some(Message::Subscribe(_)));
            let closes = matches!(&answer, Some(Message::Close(close)) if close.publication == A);
            assert_eq!((subscribes, closes), (is_good, !is_good), "{answer:?}");
        }
    }

    impl Feeds for OneFeed {
        fn feed(&self, _: &str) -> Option<Feed> {
            Some(self.0.clone())
        }

        fn list(&self) -> watch::Receiver<Arc<FeedList>> {
            watch::channel(Arc::default()).1
        }

        fn budget(&self, _: &str) -> Option<Duration> {
            None
        }

        fn recorder(&self, _: &str) -> Option<FeedRecorder> {
            None
        }

        fn refused(&self, _: &str, _: &str) {}
    }

    fn announce(link: &Conversation<'_>, publication: PublicationId) {
        let age = Duration::ZERO;
        let announce = Announce { feed: "camera".into(), publication, age };
        let answer = link.message(Message::Announce(announce)).unwrap();
        assert!(matches!(answer, Some(Message::Subscribe(_))), "{answer:?}");
    }

    fn first_tag(inbox: &Inbox, subscription: u64) -> Option<PublicationId> {
        let body = Bytes::from_static(&[0xaf, 1, 7]);
        let Tag { track, timestamp, body, .. } = Tag::new(Track::Audio, 0, body);
        let length = body.len();
        let header =
            TagHeader { track, number: 0, previous: None, timestamp, queued_us: 0, length };
        inbox.receive(subscription, &header, body).unwrap().map(|(publication, _)| publication)
    }

    fn inbox() -> (Arc<Inbox>, OneFeed) {
        (Arc::new(Inbox::new(Source::Relay("relay".into()))), OneFeed(Feed::new(Limits::default())))
    }

    /// The first tag of an encoder that was replaced at once comes after that of its successor.
    #[test]
    fn what_was_replaced_before_it_began_does_not_take_over() {
        let (inbox, feeds) = inbox();
        let link = Conversation::new(&inbox, &feeds);
        announce(&link, A);
        announce(&link, B);
        assert_eq!(first_tag(&inbox, 2), None);
        assert_eq!(feeds.0.publication(), Some(B));
        assert_eq!(first_tag(&inbox, 1), Some(A), "it is closed");
        assert_eq!(feeds.0.publication(), Some(B));
    }

    /// Its last tags are still on their way as the link is lost.
    #[test]
    fn an_encoder_that_has_ended_its_stream_is_not_lost_with_the_link() {
        for (is_stopped, state) in [(true, State::Waiting), (false, State::Reconnecting)] {
            let (inbox, feeds) = inbox();
            let link = Conversation::new(&inbox, &feeds);
            announce(&link, A);
            assert_eq!(first_tag(&inbox, 1), None);
            let mut edges = TrackSet::default();
            edges[Track::Audio] = Some(9);
            let ended = Message::Ended(Ended { publication: A, edges, is_stopped });
            assert!(link.message(ended).unwrap().is_none());
            assert_eq!(feeds.0.publication(), Some(A), "it is not through");
            inbox.lock().values_mut().for_each(Incoming::interrupt);
            let next = Conversation::new(&inbox, &feeds);
            assert!(next.resume().is_empty());
            assert_eq!(feeds.0.snapshot(Instant::now()).state, state);
        }
    }

    /// A relay sends one publication of a feed: to ask for two is to lose the one on air.
    #[test]
    fn a_new_link_asks_for_the_latest_publication_of_a_feed() {
        for _ in 0..20 {
            let (inbox, feeds) = inbox();
            let link = Conversation::new(&inbox, &feeds);
            announce(&link, A);
            announce(&link, B);
            inbox.lock().values_mut().for_each(Incoming::interrupt);
            let asked = Conversation::new(&inbox, &feeds).resume();
            let [Message::Subscribe(Subscribe { publication, .. })] = &asked[..] else {
                panic!("{asked:?}")
            };
            assert_eq!(*publication, B);
        }
    }
}
