use std::collections::VecDeque;
use std::time::{Duration, Instant};

use media::{Position, PublicationId, Role, Tag, Track, TrackSet};

use crate::Limits;
use crate::ring::{Entry, Ring};
use crate::squeeze::Squeeze;

/// A subscriber that had to skip takes every keyframe that brings it nearer to the live edge until
/// it is within this: the hub's own wait, and a frame or two.
const IN_TIME: Duration = Duration::from_millis(150);
/// Without keyframes, what is younger than this is kept when skipping: a burst that a player's
/// buffer takes.
const FRESH: Duration = Duration::from_millis(500);

/// What a subscriber gets first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Join {
    /// The newest GOP's video squeezed towards the live edge, and no old audio: a picture at
    /// once, and no lasting delay.
    Fast,
    /// The newest GOP as it was: a picture at once, and a delay of up to a GOP.
    Smooth,
    /// Nothing before the next keyframe.
    Keyframe,
    /// All that the ring holds of the publication on air.
    Publication,
}

/// How a subscriber reads.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// What it gets first.
    pub join: Join,
    /// The age of the next tag beyond which the subscriber skips.
    pub max_delay: Duration,
    /// Pass on a publication's first frames even before its first keyframe.
    pub verbatim: bool,
}

/// Where an interrupted subscriber goes on: tags of this publication numbered up to and including
/// `released` on their track are left out.
#[derive(Clone, Debug)]
pub struct Resume {
    /// The publication that was being read.
    pub publication: PublicationId,
    /// The last number that came through on each track.
    pub released: TrackSet<Option<u64>>,
}

/// A tag for a subscriber.
#[derive(Clone, Debug)]
pub struct Item {
    /// The tag's name.
    pub position: Position,
    /// The tag.
    pub tag: Tag,
    /// When the tag entered this hub.
    pub arrival: Instant,
    /// Since when it is this subscriber's: its arrival, or later for one that is
    /// [behind](crate::Feed::subscribe_behind).
    pub due: Instant,
    /// The tag's timestamp in milliseconds, squeezed towards the live edge while a
    /// [`Join::Fast`] catches up.
    pub timestamp: i64,
}

/// What a poll of a subscriber found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// There are tags, and possibly more.
    Tags,
    /// Nothing to read now.
    Wait,
    /// The feed has had no publication for longer than players are held.
    Ended,
}

/// What a cursor sees of its feed.
pub(crate) struct View<'a> {
    pub(crate) ring: &'a Ring,
    pub(crate) limits: &'a Limits,
    pub(crate) on_air: Option<PublicationId>,
    /// Whether pictures of the publication on air are to be had only by skipping to one of its
    /// keyframes: it has video, and it sends keyframes.
    pub(crate) has_keyframes: bool,
    pub(crate) ended: Option<Instant>,
    pub(crate) now: Instant,
}

/// The tracks that a cursor reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Takes {
    All,
    Video,
    Rest,
}

impl Takes {
    fn has(self, track: Track) -> bool {
        match self {
            Self::All => true,
            Self::Video => track == Track::Video,
            Self::Rest => track != Track::Video,
        }
    }
}

/// A place in a feed's ring, and what reading from it needs to know.
#[derive(Debug)]
pub(crate) struct Cursor {
    policy: Policy,
    /// How far behind the live edge it reads.
    delay: Duration,
    takes: Takes,
    resume: Option<Resume>,
    /// Whether it reads the publication of `resume` alone.
    is_bound: bool,
    /// Bound, and the ring goes on with another publication.
    is_past: bool,
    is_joined: bool,
    /// Too late once, and not yet in time again.
    is_late: bool,
    /// Where it has skipped to, since that was asked for.
    jump: Option<u64>,
    /// Serial of the entry to read next.
    next: u64,
    publication: Option<PublicationId>,
    /// Serial of the last header that was passed on of each kind.
    delivered: TrackSet<Option<u64>>,
    /// Headers that go before the entry at `next`.
    pending: VecDeque<Item>,
    /// Whether video waits for a keyframe.
    gate: bool,
    catch_up: Option<Squeeze>,
    skipped: u64,
}

impl Cursor {
    pub(crate) fn new(policy: Policy, resume: Option<Resume>) -> Self {
        Self {
            policy,
            delay: Duration::ZERO,
            takes: Takes::All,
            resume,
            is_bound: false,
            is_past: false,
            is_joined: false,
            is_late: false,
            jump: None,
            next: 0,
            publication: None,
            delivered: TrackSet::default(),
            pending: VecDeque::new(),
            gate: false,
            catch_up: None,
            skipped: 0,
        }
    }

    /// A cursor that reads so far behind the live edge.
    pub(crate) fn behind(policy: Policy, delay: Duration) -> Self {
        Self { delay, ..Self::new(policy, None) }
    }

    /// A cursor that reads some tracks of one publication.
    pub(crate) fn lane(takes: Takes, policy: Policy, resume: Resume) -> Self {
        Self { takes, is_bound: true, ..Self::new(policy, Some(resume)) }
    }

    /// Where it has skipped to since the last call.
    pub(crate) fn take_jump(&mut self) -> Option<u64> {
        self.jump.take()
    }

    /// Skips to where another cursor of the same publication has skipped to.
    pub(crate) fn follow(&mut self, target: u64, view: &View<'_>) {
        if self.is_joined && self.next < target {
            self.skip_to(target, view);
        }
    }

    /// What is not in time any more is too late.
    pub(crate) fn recover(&mut self) {
        self.is_late = true;
    }

    /// Whether it will skip when it is asked for the next entry, and not only to that one.
    pub(crate) fn will_skip(&self, view: &View<'_>) -> bool {
        if !self.is_joined {
            return false;
        }
        if self.next < view.ring.front() {
            return true;
        }
        let is_next = |entry: &Entry| {
            self.is_beyond(entry) || self.takes.has(entry.tag.track) && !self.has_already(entry)
        };
        let next = view.ring.range(self.next).find(|(_, entry)| is_next(entry));
        next.filter(|(_, entry)| !self.is_beyond(entry)).is_some_and(|(serial, entry)| {
            let age = view.now.saturating_duration_since(self.due_at(entry));
            self.is_too_late(age) && self.skip_target(serial, view).is_some()
        })
    }

    /// Since when an entry is this cursor's.
    fn due_at(&self, entry: &Entry) -> Instant {
        match self.delay {
            Duration::ZERO => entry.arrival,
            delay => entry.arrival.max(entry.due + delay),
        }
    }

    fn is_due(&self, entry: &Entry, view: &View<'_>) -> bool {
        self.delay.is_zero() || self.due_at(entry) <= view.now
    }

    /// Serial of the first entry that is not due yet: for this cursor the ring ends there.
    fn edge(&self, view: &View<'_>) -> u64 {
        let ring = view.ring;
        let not_due = ring.range(ring.front()).rev();
        let first = not_due.take_while(|(_, entry)| !self.is_due(entry, view)).last();
        first.map_or(ring.end(), |(serial, _)| serial)
    }

    fn newest_keyframe(&self, view: &View<'_>) -> Option<u64> {
        let is_due = |serial: &u64| {
            self.delay.is_zero()
                || view.ring.entry(*serial).is_some_and(|entry| self.is_due(entry, view))
        };
        view.ring.keyframes().find(is_due)
    }

    /// When the next entry is due, if it is there and not due yet.
    pub(crate) fn due(&self, view: &View<'_>) -> Option<Instant> {
        if self.delay.is_zero() {
            return None;
        }
        let entry = view.ring.entry(self.next).filter(|entry| !self.is_due(entry, view))?;
        Some(self.due_at(entry))
    }

    /// Whether there is something behind what was read, due or not.
    pub(crate) fn has_more(&self, view: &View<'_>) -> bool {
        !self.pending.is_empty() || self.next < view.ring.end()
    }

    /// The publication that is on air where this cursor reads.
    fn on_air(&self, view: &View<'_>) -> Option<PublicationId> {
        if self.delay.is_zero() {
            return view.on_air;
        }
        let edge = self.edge(view);
        if view.on_air.is_none() && edge == view.ring.end() {
            return None;
        }
        let before = edge.checked_sub(1).and_then(|before| view.ring.entry(before));
        let at = before.or_else(|| view.ring.entry(edge));
        at.map(|entry| entry.position.publication).or(view.on_air)
    }

    /// Whether a bound cursor does not read this entry, nor any that follows.
    fn is_beyond(&self, entry: &Entry) -> bool {
        self.is_bound && self.publication != Some(entry.position.publication)
    }

    fn is_too_late(&self, age: Duration) -> bool {
        age > self.policy.max_delay || self.is_late && age > IN_TIME
    }

    /// Whether a bound cursor has given all that it will get; `end` is the ring's.
    pub(crate) fn is_through(&self, end: u64, is_on_air: bool) -> bool {
        let is_at_end = self.is_past || !is_on_air && self.next >= end;
        self.is_joined && is_at_end && self.pending.is_empty()
    }

    /// Tags skipped since the last call.
    pub(crate) fn take_skipped(&mut self) -> u64 {
        std::mem::take(&mut self.skipped)
    }

    /// Appends tags to `out` until they hold `max_bytes` or none are left.
    pub(crate) fn poll(&mut self, view: &View<'_>, out: &mut Vec<Item>, max_bytes: usize) -> Next {
        if !self.is_joined {
            self.join(view);
        }
        let before = out.len();
        let mut bytes = 0;
        while bytes < max_bytes {
            let item = match self.pending.pop_front() {
                Some(header) => header,
                None => match self.advance(view) {
                    Step::Item(item) => item,
                    Step::Passed => continue,
                    Step::End => break,
                },
            };
            bytes += item.tag.body.len().max(1);
            out.push(item);
        }
        let was_held = |ended| view.now.saturating_duration_since(ended) >= view.limits.hold;
        if out.len() > before {
            Next::Tags
        } else if self.publication.is_some() && view.ended.is_some_and(was_held) {
            Next::Ended
        } else {
            Next::Wait
        }
    }

    fn join(&mut self, view: &View<'_>) {
        self.is_joined = true;
        let ring = view.ring;
        let bound = self.resume.as_ref().filter(|_| self.is_bound).map(|r| r.publication);
        let Some(publication) = bound.or_else(|| self.on_air(view)) else {
            self.next = ring.end();
            return;
        };
        let first = ring
            .range(ring.front())
            .rev()
            .skip_while(|(_, entry)| entry.position.publication != publication)
            .take_while(|(_, entry)| entry.position.publication == publication)
            .last()
            .map_or(ring.end(), |(serial, _)| serial);
        let edge = self.edge(view);
        let keyframe = self.newest_keyframe(view).filter(|keyframe| *keyframe >= first);
        let target = match (self.policy.join, keyframe) {
            (Join::Publication, _) => first,
            (Join::Fast | Join::Smooth, Some(keyframe)) => keyframe,
            (Join::Fast | Join::Smooth | Join::Keyframe, _) => edge,
        };
        self.gate = target == edge && view.has_keyframes;
        self.publication = Some(publication);
        self.move_to(target, publication, view);
        if self.policy.join == Join::Fast {
            self.catch_up = Some(Squeeze::new(ring, target, edge));
        }
    }

    /// Takes the next entry.
    fn advance(&mut self, view: &View<'_>) -> Step {
        let ring = view.ring;
        if self.next < ring.front() {
            self.skip_overrun(view);
            return Step::Passed;
        }
        let Some(entry) = ring.entry(self.next).filter(|entry| self.is_due(entry, view)) else {
            return Step::End;
        };
        let publication = entry.position.publication;
        if self.is_beyond(entry) {
            self.is_past = true;
            return Step::End;
        }
        if !self.takes.has(entry.tag.track) || self.has_already(entry) {
            self.next += 1;
            return Step::Passed;
        }
        if self.publication != Some(publication) {
            self.publication = Some(publication);
            self.gate = !self.policy.verbatim;
            self.catch_up = None;
        }
        let age = view.now.saturating_duration_since(self.due_at(entry));
        self.is_late = self.is_too_late(age);
        if self.is_late
            && let Some(target) = self.skip_target(self.next, view)
        {
            self.skip_to(target, view);
            return Step::Passed;
        }
        let serial = self.next;
        self.next += 1;
        self.read(serial, entry, view)
    }

    /// Decides about one entry in the order of the ring.
    fn read(&mut self, serial: u64, entry: &Entry, view: &View<'_>) -> Step {
        let tag = &entry.tag;
        if tag.is_header() {
            self.delivered[tag.track] = Some(serial);
            return Step::Item(self.item(entry));
        }
        if tag.track == Track::Video && self.gate {
            match tag.role {
                Role::Keyframe if tag.tracks.has_main() => self.gate = false,
                // The first keyframe of a further track may come just before the main one's.
                Role::Keyframe | Role::Frame if view.has_keyframes => {
                    self.skipped += 1;
                    return Step::Passed;
                }
                _ => {}
            }
        }
        let Some(squeeze) = self.catch_up.as_mut().filter(|squeeze| squeeze.covers(serial)) else {
            self.catch_up = None;
            return Step::Item(self.item(entry));
        };
        if tag.track != Track::Video {
            return Step::Passed;
        }
        let (timestamp, tag) = squeeze.next(tag);
        Step::Item(Item { timestamp, tag, ..self.item(entry) })
    }

    fn has_already(&self, entry: &Entry) -> bool {
        self.resume.as_ref().is_some_and(|resume| {
            resume.publication == entry.position.publication
                && Some(entry.position.number) <= resume.released[entry.tag.track]
        })
    }

    /// Where a subscriber that is too late for `next` goes: the newest keyframe ahead of it; without
    /// keyframes, by time.
    fn skip_target(&self, next: u64, view: &View<'_>) -> Option<u64> {
        if let Some(keyframe) = self.newest_keyframe(view) {
            return Some(keyframe).filter(|keyframe| *keyframe > next);
        }
        if view.has_keyframes {
            return None;
        }
        // Half the allowed delay at most, so that the next skip is not due at once.
        let fresh = FRESH.min(self.policy.max_delay / 2);
        let is_fresh =
            |entry: &Entry| view.now.saturating_duration_since(self.due_at(entry)) <= fresh;
        let target = view.ring.range(next).rev().take_while(|(_, entry)| is_fresh(entry));
        let target = target.last().map_or_else(|| self.edge(view), |(serial, _)| serial);
        Some(target).filter(|target| *target > next)
    }

    /// The ring has passed the cursor by.
    fn skip_overrun(&mut self, view: &View<'_>) {
        let target = match self.newest_keyframe(view) {
            Some(keyframe) => keyframe,
            None if view.has_keyframes => {
                self.gate = true;
                self.edge(view)
            }
            None => self.skip_target(self.next, view).unwrap_or(view.ring.front()),
        };
        self.skip_to(target, view);
    }

    fn skip_to(&mut self, target: u64, view: &View<'_>) {
        let ring = view.ring;
        let gone = ring.front().saturating_sub(self.next);
        let passed = ring.range(self.next).take_while(|(serial, _)| *serial < target);
        let is_skipped = |entry: &Entry| self.takes.has(entry.tag.track) && !entry.tag.is_header();
        let passed = passed.filter(|(_, entry)| is_skipped(entry)).count() as u64;
        // Of what is gone nobody knows the tracks: with two cursors one of them counts.
        self.skipped += passed + if self.takes == Takes::Rest { 0 } else { gone };
        self.catch_up = None;
        self.jump = Some(target);
        let at = ring.entry(target).map(|entry| entry.position.publication).or(view.on_air);
        if self.is_bound && at != self.publication {
            self.next = target;
            self.is_past = true;
            return;
        }
        match at {
            Some(publication) => {
                self.publication = Some(publication);
                self.move_to(target, publication, view);
            }
            None => self.next = target,
        }
    }

    /// Goes to `target`, passing on first the headers in force there that were not yet.
    fn move_to(&mut self, target: u64, publication: PublicationId, view: &View<'_>) {
        let headers = view.ring.headers_at(target, publication);
        // Metadata first, as players want it.
        let tracks = [Track::Data, Track::Video, Track::Audio];
        for track in tracks.into_iter().filter(|track| self.takes.has(*track)) {
            for header in headers.of(track) {
                // A cursor goes forward alone: what is behind the last one was passed on, too.
                if Some(header.serial) > self.delivered[track] {
                    self.delivered[track] = Some(header.serial);
                    if !self.has_already(&header.entry) {
                        self.pending.push_back(self.item(&header.entry));
                    }
                }
            }
        }
        self.next = target;
    }

    fn item(&self, entry: &Entry) -> Item {
        Item {
            position: entry.position,
            tag: entry.tag.clone(),
            arrival: entry.arrival,
            due: self.due_at(entry),
            timestamp: entry.tag.timestamp,
        }
    }
}

enum Step {
    Item(Item),
    Passed,
    End,
}
