mod memory;
mod publisher;
mod snapshot;
mod subscriber;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use media::video::Resolution;
use media::{Codec, PublicationId, Track, TrackSet};
use tokio::sync::watch;

pub use publisher::Publisher;
pub use snapshot::{Snapshot, State, TrackStats};
pub use subscriber::Subscriber;

use crate::bell::Bells;
use crate::budget::Budget;
use crate::cursor::{Cursor, Policy, Resume, View};
use crate::damper::Damper;
use crate::gop::Gop;
use crate::pace::Pace;
use crate::ring::Ring;
use crate::spool::Overflow;

/// A publication without a tag for this long is stalled.
const STALLED_AFTER: Duration = Duration::from_secs(2);

/// The bounds of a feed.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes in the ring: a GOP of 10 s at 25 Mb/s.
    pub max_bytes: usize,
    /// Age of the ring: what a player can still make use of.
    pub max_age: Duration,
    /// Tags in the ring: 15 s of 60 frames and 50 audio packets a second, and as many again.
    pub max_tags: usize,
    /// What the ring keeps beside the newest GOP, for slow and for interrupted subscribers.
    pub keep: Duration,
    /// How long subscribers are held after a publication ended.
    pub hold: Duration,
    /// How long tags stay in memory, counted from their arrival, for those who missed them; zero
    /// for no longer than the ring keeps them.
    pub spool: Duration,
    /// Bytes in the rings and spools of all feeds of a hub.
    pub total_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_bytes: 32 << 20,
            max_age: Duration::from_secs(15),
            max_tags: 4_000,
            keep: Duration::from_secs(4),
            hold: Duration::from_secs(30),
            spool: Duration::ZERO,
            total_bytes: 256 << 20,
        }
    }
}

/// When a feed's players get its tags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// How long after the encoder's steady clock a tag is theirs: what comes late by less than this
    /// is not late for them. Whole milliseconds.
    pub delay: Duration,
    /// How late they may be beside that before they skip, instead of what their policies say.
    /// Whole milliseconds.
    pub max_delay: Option<Duration>,
}

/// Why a publisher lost its feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Cut {
    /// Another encoder published with the same key.
    #[error("another encoder took over")]
    TakenOver,
    /// The key is no longer valid, or the feed was removed.
    #[error("the stream key was revoked")]
    Revoked,
}

/// The incumbent is held: encoders take the feed from each other again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("two encoders are fighting over this feed")]
pub struct Fought;

/// A feed: what an encoder publishes and players subscribe to. Clones are handles to the same.
#[derive(Clone, Debug)]
pub struct Feed(Arc<Shared>);

#[derive(Debug)]
pub(crate) struct Shared {
    serial: u64,
    /// Whose feed it is.
    owner: u64,
    limits: Limits,
    budget: Arc<Budget>,
    overflow: Option<Arc<dyn Overflow>>,
    /// Bytes of the ring's live part, as the budget has them. Written under the lock.
    ring_bytes: AtomicUsize,
    /// The same of its spool.
    spool_bytes: AtomicUsize,
    inner: Mutex<Inner>,
    /// Told of every change; closed with the feed.
    changed: watch::Sender<()>,
    publication: watch::Sender<Option<PublicationId>>,
    bells: Bells,
    subscribers: AtomicUsize,
    skipped: AtomicU64,
    /// [`Timing::delay`] in milliseconds.
    delay: AtomicU64,
    /// [`Timing::max_delay`] in milliseconds; 0 for none.
    max_delay: AtomicU64,
}

#[derive(Debug, Default)]
pub(crate) struct Inner {
    pub(crate) ring: Ring,
    pub(crate) on_air: Option<OnAir>,
    /// Publications so far: tells one right to push from another.
    publications: u64,
    ended: Option<Instant>,
    /// The publication that its encoder has ended, if nothing came after it.
    stopped: Option<PublicationId>,
    damper: Damper,
    is_closed: bool,
    totals: TrackSet<Totals>,
}

impl Inner {
    /// What a cursor sees.
    pub(crate) fn view<'a>(&'a self, limits: &'a Limits, now: Instant) -> View<'a> {
        View {
            ring: &self.ring,
            limits,
            on_air: self.publication(),
            has_keyframes: self.on_air.as_ref().is_some_and(|on_air| {
                let last = on_air.last_keyframe.unwrap_or(on_air.started);
                on_air.codecs[Track::Video].is_some()
                    && now.saturating_duration_since(last) <= limits.max_age
            }),
            ended: self.ended,
            now,
        }
    }

    pub(crate) fn publication(&self) -> Option<PublicationId> {
        self.on_air.as_ref().map(|on_air| on_air.publication)
    }

    pub(crate) fn ring_end(&self) -> u64 {
        self.ring.end()
    }
}

#[derive(Debug)]
pub(crate) struct OnAir {
    pub(crate) publication: PublicationId,
    /// Which of the feed's publications it is.
    serial: u64,
    started: Instant,
    /// The number after the highest that was pushed.
    pub(crate) edge: u64,
    last_tag: Option<Instant>,
    last_keyframe: Option<Instant>,
    /// The way from the encoder is lost; it may come back.
    is_interrupted: bool,
    origin: String,
    codecs: TrackSet<Option<Codec>>,
    resolution: Option<Resolution>,
    pace: Pace,
    gop: Gop,
    cut: watch::Sender<Option<Cut>>,
}

impl OnAir {
    /// Time since the last tag, or since the start.
    fn silence(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.last_tag.unwrap_or(self.started))
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    tags: u64,
    bytes: u64,
}

impl Feed {
    /// A feed with these bounds, and with a memory of its own.
    pub fn new(limits: Limits) -> Self {
        let budget = Arc::new(Budget::new(limits.total_bytes));
        let serial = Self::next_serial();
        Self::within(limits, budget, serial, serial, None)
    }

    /// A feed that shares a hub's memory, and the part of it that its owner gets.
    pub(crate) fn within(
        limits: Limits,
        budget: Arc<Budget>,
        serial: u64,
        owner: u64,
        overflow: Option<Arc<dyn Overflow>>,
    ) -> Self {
        let feed = Self(Arc::new(Shared {
            serial,
            owner,
            limits,
            budget,
            overflow,
            ring_bytes: AtomicUsize::new(0),
            spool_bytes: AtomicUsize::new(0),
            inner: Mutex::default(),
            changed: watch::Sender::new(()),
            publication: watch::Sender::new(None),
            bells: Bells::default(),
            subscribers: AtomicUsize::new(0),
            skipped: AtomicU64::new(0),
            delay: AtomicU64::new(0),
            max_delay: AtomicU64::new(0),
        }));
        feed.0.budget.register(Arc::downgrade(&feed.0));
        feed
    }

    pub(crate) fn next_serial() -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed)
    }

    /// Its number among all feeds of this process; clones have the same.
    pub fn serial(&self) -> u64 {
        self.0.serial
    }

    /// Puts a new publication on air; the one before is cut.
    ///
    /// # Errors
    ///
    /// [`Fought`] if active publishers took over from each other too often: the incumbent stays.
    pub fn publish(&self, publication: PublicationId, now: Instant) -> Result<Publisher, Fought> {
        let mut inner = self.lock();
        if let Some(incumbent) = &inner.on_air {
            let is_active = incumbent
                .last_tag
                .is_some_and(|last| now.saturating_duration_since(last) < STALLED_AFTER);
            if is_active && !inner.damper.allow(now) {
                return Err(Fought);
            }
        }
        let (cut, lost) = watch::channel(inner.is_closed.then_some(Cut::Revoked));
        inner.publications += 1;
        let serial = inner.publications;
        let on_air = OnAir {
            publication,
            serial,
            started: now,
            edge: 0,
            last_tag: None,
            last_keyframe: None,
            is_interrupted: false,
            origin: String::new(),
            codecs: TrackSet::default(),
            resolution: None,
            pace: Pace::default(),
            gop: Gop::default(),
            cut,
        };
        if let Some(incumbent) = inner.on_air.replace(on_air) {
            incumbent.cut.send_replace(Some(Cut::TakenOver));
        }
        (inner.ended, inner.stopped) = (None, None);
        self.tell(inner);
        Ok(Publisher {
            feed: self.clone(),
            publication,
            serial,
            next: 0,
            previous: TrackSet::default(),
            lost,
            last_tag: now,
        })
    }

    /// Subscribes; see [`Policy`]. With `resume`, tags that came through before are left out.
    pub fn subscribe(&self, policy: Policy, resume: Option<Resume>) -> Subscriber {
        self.0.subscribers.fetch_add(1, Ordering::Relaxed);
        self.subscriber(Cursor::new(policy, resume), true)
    }

    /// Subscribes for the node's own use: it is none of the [`subscribers`](Self::subscribers).
    pub fn follow(&self, policy: Policy) -> Subscriber {
        self.subscriber(Cursor::new(policy, None), false)
    }

    /// Subscribes so much behind the live edge, by the encoder's steady clock: see [`Timing`].
    pub fn subscribe_behind(&self, policy: Policy, delay: Duration) -> Subscriber {
        self.0.subscribers.fetch_add(1, Ordering::Relaxed);
        self.subscriber(Cursor::behind(policy, delay), true)
    }

    fn subscriber(&self, cursor: Cursor, is_counted: bool) -> Subscriber {
        let changed = self.0.changed.subscribe();
        Subscriber {
            feed: self.clone(),
            changed,
            cursor,
            due: None,
            has_more: true,
            skipped: 0,
            is_counted,
        }
    }

    /// When players are to get the tags. Who hands them on looks at it, and is woken.
    pub fn timing(&self) -> Timing {
        let load = |time: &AtomicU64| Duration::from_millis(time.load(Ordering::Relaxed));
        let max_delay = Some(load(&self.0.max_delay)).filter(|delay| !delay.is_zero());
        Timing { delay: load(&self.0.delay), max_delay }
    }

    /// Says when players are to get the tags. The ring keeps as much more as that takes, within its
    /// bounds.
    pub fn set_timing(&self, timing: Timing) {
        let store = |time: &AtomicU64, to: Duration| {
            time.store(u64::try_from(to.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        };
        store(&self.0.delay, timing.delay);
        store(&self.0.max_delay, timing.max_delay.unwrap_or_default());
        self.0.changed.send_replace(());
    }

    /// Whether this was the last publication, and its encoder has ended it itself.
    pub fn was_stopped(&self, publication: PublicationId) -> bool {
        self.lock().stopped == Some(publication)
    }

    /// Cuts the publication on air.
    pub fn cut(&self, why: Cut, now: Instant) {
        self.cut_if(|_| true, why, now);
    }

    /// As [`Feed::cut`], if this publication is the one on air.
    pub fn cut_publication(&self, publication: PublicationId, why: Cut, now: Instant) {
        self.cut_if(|on_air| on_air == publication, why, now);
    }

    fn cut_if(&self, is_meant: impl FnOnce(PublicationId) -> bool, why: Cut, now: Instant) {
        let mut inner = self.lock();
        if let Some(on_air) = inner.on_air.take_if(|on_air| is_meant(on_air.publication)) {
            on_air.cut.send_replace(Some(why));
            inner.ended = Some(now);
            self.tell(inner);
        }
    }

    /// The publication on air.
    pub fn publication(&self) -> Option<PublicationId> {
        self.lock().publication()
    }

    /// The publication on air, and how many there have been.
    pub fn on_air(&self) -> (Option<PublicationId>, u64) {
        let inner = self.lock();
        (inner.publication(), inner.publications)
    }

    /// Where the publication on air comes from, as [`Publisher::set_origin`] said.
    pub fn origin(&self) -> Option<String> {
        self.lock().on_air.as_ref().map(|on_air| on_air.origin.clone())
    }

    /// Whether its hub has forgotten it: nothing comes any more.
    pub fn is_closed(&self) -> bool {
        self.lock().is_closed
    }

    /// Subscribers there are.
    pub fn subscribers(&self) -> usize {
        self.0.subscribers.load(Ordering::Relaxed)
    }

    /// The publication on air, and how to wait for the next.
    pub fn watch(&self) -> watch::Receiver<Option<PublicationId>> {
        self.0.publication.subscribe()
    }

    /// How each track of the publication on air is coded, and how long it has been on air.
    pub fn codecs(&self, now: Instant) -> (TrackSet<Option<Codec>>, Option<Duration>) {
        let inner = self.lock();
        let on_air = inner.on_air.as_ref();
        let age = on_air.map(|on_air| now.saturating_duration_since(on_air.started));
        (on_air.map(|on_air| on_air.codecs).unwrap_or_default(), age)
    }

    pub(crate) fn sweep(&self, now: Instant) {
        let mut inner = self.lock();
        let hold = self.0.limits.hold;
        if inner.ended.is_some_and(|ended| now.saturating_duration_since(ended) > hold) {
            inner.ring.retire_all();
        }
        inner.ring.expire(now, self.0.limits.spool, |tag| self.0.pass_on(tag));
        inner.ring.shrink();
        self.0.account(&inner);
    }

    pub(crate) fn close(&self) {
        let mut inner = self.lock();
        inner.is_closed = true;
        if let Some(on_air) = inner.on_air.take() {
            on_air.cut.send_replace(Some(Cut::Revoked));
        }
        // Nobody reads it any more, and nobody may ask for it later.
        inner.ring.retire_all();
        inner.ring.give_up_spool(usize::MAX, drop);
        self.0.account(&inner);
        self.tell(inner);
    }

    /// Tells of what is on air now.
    fn tell(&self, inner: MutexGuard<'_, Inner>) {
        // Under the lock, so that the last word is the true one.
        let publication = inner.on_air.as_ref().map(|on_air| on_air.publication);
        self.0
            .publication
            .send_if_modified(|told| std::mem::replace(told, publication) != publication);
        drop(inner);
        self.0.changed.send_replace(());
        self.0.bells.ring();
    }

    pub(crate) fn bells(&self) -> &Bells {
        &self.0.bells
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.0.limits
    }

    pub(crate) fn count_skipped(&self, tags: u64) {
        self.0.skipped.fetch_add(tags, Ordering::Relaxed);
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.0.inner)
    }
}

/// Locks, whoever panicked before: the state is whole after every statement that changes it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
