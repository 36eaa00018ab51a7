//! One publication on its way from the relay to the studio's hub; outlives links.

use std::collections::HashMap;
use std::time::Instant;

use backhaul::{Arrival, Message, Receiver, Release, Settled, Subscribe};
use hub::{Feed, Publisher};
use media::{Position, PublicationId, Tag, Track, TrackSet};

use super::{Around, BUDGET, Came};
use crate::relay::FEEDS;

/// How long nothing may come of an ended publication whose last tags are missing.
const LAST_TAGS: u64 = 2_000;

pub(super) struct Incoming {
    pub(super) publication: PublicationId,
    pub(super) subscription: Option<u64>,
    pub(super) receiver: Receiver,
    settled: Settled,
    feed: (usize, Feed),
    publisher: Option<Publisher>,
    /// Another was announced after it.
    is_superseded: bool,
    bodies: HashMap<(Track, u64), (Position, Tag)>,
    ended: Option<TrackSet<Option<u64>>>,
    silent_since: Option<u64>,
}

impl Incoming {
    pub(super) fn new(feed: (usize, Feed), publication: PublicationId) -> Self {
        Self {
            publication,
            subscription: None,
            receiver: Receiver::default(),
            settled: Settled::default(),
            feed,
            publisher: None,
            is_superseded: false,
            bodies: HashMap::new(),
            ended: None,
            silent_since: None,
        }
    }

    pub(super) fn is_wanted(&self) -> bool {
        let is_cut = self.publisher.as_ref().is_some_and(|publisher| publisher.cut().is_some());
        !is_cut && !self.is_superseded && self.ended.is_none()
    }

    pub(super) fn is_of(&self, feed: usize) -> bool {
        self.feed.0 == feed
    }

    pub(super) fn supersede(&mut self) {
        self.is_superseded = true;
    }

    /// Asks for what is still to come, by this name.
    pub(super) fn resume(&mut self, subscription: u64) -> Message {
        self.subscription = Some(subscription);
        self.silent_since = None;
        self.receiver.resume();
        Message::Subscribe(Subscribe {
            subscription,
            feed: FEEDS[self.feed.0].to_owned(),
            publication: self.publication,
            released: self.receiver.edges(),
            received: self.receiver.held(),
            budget: Some(BUDGET),
        })
    }

    pub(super) fn interrupt(&mut self) {
        self.subscription = None;
        if let Some(publisher) = &self.publisher {
            publisher.interrupt();
        }
    }

    /// Below which number there are no holes but real ones; `None` if nothing comes in.
    pub(super) fn settled_below(&mut self, now: Instant) -> Option<u64> {
        self.subscription?;
        Some(self.settled.below(now))
    }

    pub(super) fn held(&self) -> usize {
        self.bodies.len()
    }

    /// Takes a tag, and puts on air what is in order now.
    pub(super) fn receive(
        &mut self,
        (track, number, previous): (Track, u64, Option<u64>),
        tag: Tag,
        around: &Around<'_>,
        came: &mut Vec<Came>,
    ) -> Result<(), String> {
        if let Some(since) = &mut self.silent_since {
            *since = around.ms;
        }
        self.settled.on_tag(number);
        let arrival = self.receiver.on_tag(track, number, previous).expect("it is sane");
        if arrival == Arrival::Late {
            return Ok(());
        }
        let position = Position { publication: self.publication, number, previous };
        let before = self.bodies.insert((track, number), (position, tag));
        assert!(before.is_none(), "{track:?} {number} was kept twice");
        self.release(around, came)
    }

    pub(super) fn release(
        &mut self,
        around: &Around<'_>,
        came: &mut Vec<Came>,
    ) -> Result<(), String> {
        while let Some(release) = self.receiver.poll() {
            let (Release::Tag(track, number) | Release::Drop(track, number)) = release;
            let (position, tag) = self.bodies.remove(&(track, number)).expect("it was kept");
            if matches!(release, Release::Drop(..)) {
                continue;
            }
            let publisher = match &mut self.publisher {
                Some(publisher) => publisher,
                None if self.is_superseded => return Err("another encoder took over".to_owned()),
                None => {
                    let publisher = self.feed.1.publish(self.publication, around.now);
                    self.publisher.insert(publisher.map_err(|fought| fought.to_string())?)
                }
            };
            publisher.push_at(position, tag, around.now).map_err(|cut| cut.to_string())?;
            let (ms, feed) = (around.ms, self.feed.0);
            let delay = ms - around.story.tag(self.publication, number).ms;
            came.push(Came { ms, feed, position, track, delay });
        }
        Ok(())
    }

    pub(super) fn end(&mut self, edges: TrackSet<Option<u64>>, ms: u64) {
        (self.ended, self.silent_since) = (Some(edges), Some(ms));
    }

    pub(super) fn is_over(&self, ms: u64) -> bool {
        let (Some(ended), Some(since)) = (&self.ended, self.silent_since) else { return false };
        let edges = self.receiver.edges();
        let is_through = Track::ALL.into_iter().all(|track| edges[track] >= ended[track]);
        is_through || ms > since + LAST_TAGS
    }
}
