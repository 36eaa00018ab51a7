//! What the recorder lacks of what came by one relay.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime};

use backhaul::{Answered, Kept, Message, Ranges, TagHeader, Wants};
use bytes::Bytes;
use media::{Position, PublicationId, Tag};
use tracing::{debug, info};

use crate::egress::record::{FeedRecorder, Source, Unfinished};
use crate::rate::Lines;

/// A relay tells at once what it has: what it has not told of by then, heard all the time, it does
/// not have.
const INTRODUCTION: Duration = Duration::from_secs(3);
/// Publications that a relay may say that it keeps.
const MAX_KEPT: usize = 4_096;

/// What the recorder lacks of what came by one relay, and what was asked for on the present link.
#[derive(Debug)]
pub(super) struct Missing {
    source: Source,
    /// Since when the relay has been heard.
    joined: Instant,
    wants: Wants,
    /// Whose publications are asked for; forgotten with the link.
    recorders: HashMap<PublicationId, FeedRecorder>,
    /// The last numbers of publications that are over.
    kept: HashMap<PublicationId, u64>,
    /// Which feeds the publications are of that were asked for; forgotten with the link.
    feeds: HashMap<PublicationId, String>,
    /// Tags that came because they were asked for, by feed; those that the studio has alone.
    came: HashMap<String, u64>,
}

impl Missing {
    /// What is missing of what comes from `source`.
    pub(super) fn new(source: Source) -> Self {
        Self {
            source,
            joined: Instant::now(),
            wants: Wants::default(),
            recorders: HashMap::new(),
            kept: HashMap::new(),
            feeds: HashMap::new(),
            came: HashMap::new(),
        }
    }

    pub(super) fn source(&self) -> &Source {
        &self.source
    }

    /// A new link: what was asked for on the one before is lost with it.
    pub(super) fn joined(&mut self, now: Instant) {
        let came = std::mem::take(&mut self.came);
        *self = Self { joined: now, came, ..Self::new(self.source.clone()) };
    }

    /// Nothing is heard of the relay: what it has to tell may still be on its way.
    pub(super) fn unheard(&mut self, now: Instant) {
        self.joined = now;
    }

    /// The relay keeps a publication that is over.
    pub(super) fn keeps(&mut self, kept: &Kept, recorder: Option<&FeedRecorder>, now: SystemTime) {
        // It is said once.
        if self.kept.len() >= MAX_KEPT || self.kept.contains_key(&kept.publication) {
            return;
        }
        self.kept.insert(kept.publication, kept.last);
        let Some(recorder) = recorder else { return };
        let started = now.checked_sub(kept.age).unwrap_or(SystemTime::UNIX_EPOCH);
        recorder.begin(kept.publication, started, self.source.clone());
        // A relay has no say in what came from elsewhere.
        if recorder.source(kept.publication).as_ref() == Some(&self.source) {
            recorder.ended(kept.publication, kept.last.saturating_add(1));
        }
    }

    /// What to ask for now of a recorded feed. `live` tells below which number a publication that
    /// comes in now has no holes but real ones.
    pub(super) fn ask(
        &mut self,
        feed: &str,
        recorder: &FeedRecorder,
        live: &mut dyn FnMut(PublicationId) -> Option<u64>,
        take_name: &mut dyn FnMut() -> u64,
        now: Instant,
    ) -> Vec<Message> {
        let mut messages = Vec::new();
        for unfinished in recorder.publications() {
            let publication = unfinished.publication;
            if unfinished.source != self.source {
                continue;
            }
            let below = live(publication).or_else(|| {
                let end = unfinished.ended.or_else(|| self.end_of(&unfinished, now))?;
                recorder.ended(publication, end);
                Some(end)
            });
            let Some(below) = below.filter(|_| self.wants.may_ask(publication, now)) else {
                continue;
            };
            let missing: Ranges = recorder.wanted(publication, below).into_iter().collect();
            if missing.is_empty() {
                continue;
            }
            let want = self.wants.ask(take_name(), feed, publication, &missing, now);
            if let Some(want) = want {
                debug!(feed, %publication, ranges = ?want.ranges, "wanted");
                self.recorders.insert(publication, recorder.clone());
                self.feeds.insert(publication, feed.to_owned());
                messages.push(Message::Want(want));
            }
        }
        messages
    }

    /// Where a publication ends that does not come in now: as the relay says, and where it is
    /// silent, with what is there.
    fn end_of(&self, unfinished: &Unfinished, now: Instant) -> Option<u64> {
        if let Some(last) = self.kept.get(&unfinished.publication) {
            return Some(last.saturating_add(1));
        }
        let is_introduced = now.saturating_duration_since(self.joined) > INTRODUCTION;
        is_introduced.then(|| unfinished.highest.map_or(0, |highest| highest.saturating_add(1)))
    }

    /// Whether a request of this name is under way.
    pub(super) fn has(&self, request: u64) -> bool {
        self.wants.has(request)
    }

    /// Takes a tag that was asked for.
    pub(super) fn receive(&mut self, request: u64, header: &TagHeader, body: Bytes) {
        let TagHeader { track, number, previous, timestamp, .. } = *header;
        let publication = self.wants.on_tag(request, number, Instant::now());
        let Some(publication) = publication else { return };
        if let Some(recorder) = self.recorders.get(&publication) {
            let position = Position { publication, number, previous };
            recorder.append(position, &Tag::new(track, timestamp, body), SystemTime::now());
            if let Some(feed) = self.feeds.get(&publication) {
                *self.came.entry(feed.clone()).or_default() += 1;
            }
        }
    }

    /// Tags of a feed that came afterwards, since the start.
    pub(super) fn came(&self, feed: &str) -> u64 {
        self.came.get(feed).copied().unwrap_or(0)
    }

    /// The relay has sent all that it has of what was asked for.
    pub(super) fn answered(&mut self, answered: &Answered, lines: &Lines) {
        let gone = self.wants.on_answered(answered, Instant::now());
        let Some((publication, gone)) = gone.filter(|(_, gone)| !gone.is_empty()) else { return };
        let gone: Vec<_> = gone.iter().collect();
        if lines.may_say() {
            info!(%publication, ?gone, "the relay no longer has these tags");
        }
        if let Some(recorder) = self.recorders.get(&publication) {
            recorder.gone(publication, &gone);
        }
    }
}
