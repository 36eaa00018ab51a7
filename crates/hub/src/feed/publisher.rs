use std::time::{Duration, Instant};

use media::video::resolution;
use media::{Position, PublicationId, Role, Tag, Track, TrackSet};
use tokio::sync::watch;

use super::{Cut, Feed, Inner};
use crate::ring::Entry;

/// One publication's right to push tags. Dropping it ends the publication as one that was lost.
#[derive(Debug)]
pub struct Publisher {
    pub(super) feed: Feed,
    pub(super) publication: PublicationId,
    pub(super) serial: u64,
    pub(super) next: u64,
    pub(super) previous: TrackSet<Option<u64>>,
    pub(super) lost: watch::Receiver<Option<Cut>>,
    pub(super) last_tag: Instant,
}

impl Publisher {
    /// The publication's name.
    pub fn publication(&self) -> PublicationId {
        self.publication
    }

    /// Says where the publication comes from, for people: the encoder's address.
    pub fn set_origin(&self, origin: String) {
        let mut inner = self.feed.lock();
        if let Some(on_air) = inner.on_air.as_mut().filter(|o| o.serial == self.serial) {
            on_air.origin = origin;
        }
    }

    /// Puts a tag on air and gives it its position.
    ///
    /// # Errors
    ///
    /// [`Cut`] once the publication is no longer on air; the tag is dropped.
    pub fn push(&mut self, tag: Tag, now: Instant) -> Result<Position, Cut> {
        let position = Position {
            publication: self.publication,
            number: self.next,
            previous: self.previous[tag.track].replace(self.next),
        };
        self.next += 1;
        self.push_at(position, tag, now)?;
        Ok(position)
    }

    /// Puts a tag on air that got its position elsewhere.
    ///
    /// # Errors
    ///
    /// [`Cut`] once the publication is no longer on air; the tag is dropped.
    pub fn push_at(&mut self, position: Position, tag: Tag, now: Instant) -> Result<(), Cut> {
        self.last_tag = now;
        let mut inner = self.feed.lock();
        let Inner { ring, on_air, totals, .. } = &mut *inner;
        let Some(on_air) = on_air.as_mut().filter(|o| o.serial == self.serial) else {
            drop(inner);
            return Err(self.cut().unwrap_or(Cut::TakenOver));
        };
        on_air.last_tag = Some(now);
        on_air.edge = on_air.edge.max(position.number.saturating_add(1));
        on_air.is_interrupted = false;
        // Further tracks are beside what the feed is, and a supplement to AAC in its legacy form
        // has a FourCC all the same.
        if tag.tracks.has_main() && tag.role != Role::Supplement {
            on_air.codecs[tag.track] = tag.codec.or(on_air.codecs[tag.track]);
        }
        if tag.is_keyframe() {
            on_air.last_keyframe = Some(now);
        }
        on_air.gop.observe(&position, &tag);
        if tag.is_header() {
            let is_sequence_header = tag.role == Role::SequenceHeader;
            if is_sequence_header && tag.track == Track::Video && tag.tracks.has_main() {
                on_air.resolution = resolution(&tag);
            }
        } else if tag.track != Track::Data {
            on_air.pace.observe(tag.timestamp, now);
        }
        totals[tag.track].tags += 1;
        totals[tag.track].bytes += tag.body.len() as u64;
        let shared = &self.feed.0;
        // What has no time of its own goes with what came before it.
        let lateness = Duration::from_millis(on_air.pace.growth().max(0) as u64);
        let due = now.checked_sub(lateness).unwrap_or(now);
        let entry = Entry { position, tag, arrival: now, due };
        let delay = self.feed.timing().delay;
        if ring.push(entry, on_air.started, &shared.limits, delay) {
            shared.budget.count_overrun();
        }
        ring.expire(now, shared.limits.spool, |tag| shared.pass_on(tag));
        shared.account(&inner);
        drop(inner);
        shared.budget.enforce();
        shared.changed.send_replace(());
        shared.bells.ring();
        Ok(())
    }

    /// Says that the way from the encoder is lost, and may come back; the next tag takes it back.
    pub fn interrupt(&self) {
        if let Some(on_air) = self.feed.lock().on_air.as_mut().filter(|o| o.serial == self.serial) {
            on_air.is_interrupted = true;
        }
    }

    /// Ends the publication because its encoder has: nobody waits for it to come back.
    pub fn stop(self) {
        let mut inner = self.feed.lock();
        if inner.on_air.as_ref().is_some_and(|o| o.serial == self.serial) {
            inner.stopped = Some(self.publication);
        }
    }

    /// Why the publication is no longer on air, if it was cut.
    pub fn cut(&self) -> Option<Cut> {
        *self.lost.borrow()
    }

    /// Waits until the publication is cut. Cancel safe.
    pub async fn wait_cut(&mut self) -> Cut {
        let cut = self.lost.wait_for(Option::is_some).await.ok().and_then(|cut| *cut);
        // The sender lives in the feed as long as this publication is on air.
        cut.unwrap_or(Cut::Revoked)
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        let mut inner = self.feed.lock();
        if inner.on_air.as_ref().is_some_and(|o| o.serial == self.serial) {
            inner.on_air = None;
            inner.ended = Some(self.last_tag);
            self.feed.tell(inner);
        }
    }
}
