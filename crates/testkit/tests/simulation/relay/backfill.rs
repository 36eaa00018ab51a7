//! What did not come live, from the spool in the hub's memory.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::time::Instant;

use backhaul::{Answer, Answered, Message, Ranges, Spare, TagHeader, Want};
use hub::Feed;
use media::{Position, PublicationId, Tag};

use super::Way;
use super::live::Out;

const MAX_WANTS: usize = 64;
/// Bytes read from the spool at a time.
const READ: usize = 26 << 10;

pub(super) struct Backfill {
    wants: VecDeque<Asked>,
    pub(super) spare: Spare,
}

struct Asked {
    answer: Answer,
    /// To be sent although it was reported to have come.
    again: Ranges,
    feed: usize,
    found: VecDeque<(Position, Tag)>,
    out: Out,
}

impl Backfill {
    pub(super) fn new(now: Instant) -> Self {
        Self { wants: VecDeque::new(), spare: Spare::new(now) }
    }

    /// Takes a want; returns the answer if there is nothing to look for. `again` is what was
    /// reported to have come before the want.
    pub(super) fn want(
        &mut self,
        feed: Option<usize>,
        (want, again): (Want, Ranges),
        way: &mut Way<'_>,
    ) -> Option<Answered> {
        let is_same = |asked: &Asked| asked.answer.publication() == want.publication;
        if let Some(before) = self.wants.iter_mut().find(|asked| is_same(asked)) {
            before.out.give_up(way);
        }
        self.wants.retain(|asked| !is_same(asked));
        let is_full = self.wants.len() >= MAX_WANTS;
        let Some(feed) = feed.filter(|_| !is_full && !want.ranges.is_empty()) else {
            let gone = if is_full { Ranges::default() } else { want.ranges };
            return Some(Answered { request: want.request, tags: 0, gone });
        };
        let (answer, out) = (Answer::new(&want), Out::new(want.request, 0));
        self.wants.push_back(Asked { answer, again, feed, found: VecDeque::new(), out });
        None
    }

    /// Sends as much as goes beside live media, if there is some.
    pub(super) fn poll(
        &mut self,
        feeds: &[Feed],
        way: &mut Way<'_>,
        is_beside_live: bool,
        is_received: &dyn Fn(PublicationId, u64) -> bool,
    ) {
        while let Some(asked) = self.wants.front_mut() {
            if !asked.out.flush(way) || is_beside_live && !self.spare.allows(way.now) {
                return;
            }
            let publication = asked.answer.publication();
            if let Some((position, tag)) = asked.found.pop_front() {
                let number = position.number;
                if !is_received(publication, number) || asked.again.contains(number) {
                    self.spare.spend(tag.body.len());
                    asked.send(position, tag, way);
                }
                continue;
            }
            let Some(numbers) = asked.answer.next() else {
                asked.out.finish(way);
                way.session.send(&Message::Answered(asked.answer.finish()));
                self.wants.pop_front();
                continue;
            };
            let (tags, gone, next) = read(&feeds[asked.feed], publication, &numbers);
            asked.found.extend(tags);
            asked.answer.looked(gone, next);
            self.wants.rotate_left(1);
        }
    }
}

impl Asked {
    fn send(&mut self, position: Position, tag: Tag, way: &mut Way<'_>) {
        let header = TagHeader {
            track: tag.track,
            number: position.number,
            previous: position.previous,
            timestamp: tag.timestamp,
            queued_us: 0,
            length: tag.body.len(),
        };
        self.out.push(&header, tag.body, way);
        self.answer.on_sent();
    }
}

type Read = (Vec<(Position, Tag)>, Vec<RangeInclusive<u64>>, u64);

/// Tags of the spool, the numbers among them that are gone, and where to go on.
fn read(feed: &Feed, publication: PublicationId, numbers: &RangeInclusive<u64>) -> Read {
    let found = feed.spooled(publication, numbers.clone(), READ);
    let end = (numbers.end() + 1).min(found.edge.unwrap_or(u64::MAX));
    let (mut gone, mut next) = (Vec::new(), *numbers.start());
    for (position, _) in &found.tags {
        if next < position.number {
            gone.push(next..=position.number - 1);
        }
        next = position.number + 1;
    }
    if !found.more && next < end {
        gone.push(next..=end - 1);
        next = end;
    }
    (found.tags, gone, next)
}
