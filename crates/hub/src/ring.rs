use std::collections::VecDeque;
use std::ops::{Range, RangeInclusive};
use std::time::{Duration, Instant};

use media::{Position, PublicationId, Tag};

use crate::Limits;
use crate::headers::Headers;
use crate::spool::{Kept, Leaving};

/// One tag in the ring.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) position: Position,
    pub(crate) tag: Tag,
    pub(crate) arrival: Instant,
    /// When it would have come on a way as prompt as it is at best.
    pub(crate) due: Instant,
}

impl Entry {
    /// Bytes that it takes in the spool.
    fn cost(&self) -> usize {
        self.tag.body.len() + ENTRY_COST
    }
}

/// What an entry of the spool costs beside its body: tags of a few bytes are not for nothing.
const ENTRY_COST: usize = size_of::<Entry>();

/// A feed's recent tags, across publications, in the order of their arrival.
///
/// Every entry has a *serial*, which goes on for the life of the feed. The live part holds the
/// newest GOP and what is younger than [`Limits::keep`] and the players' delay; the hard bounds hold for GOPs of any
/// length. What it has given up lies before it, in the spool: cursors do not see that.
///
/// ```text
///     base         front              end
///      |   spool     |    live part    |
/// ```
#[derive(Debug, Default)]
pub(crate) struct Ring {
    entries: VecDeque<Entry>,
    /// Serial of the first entry.
    base: u64,
    /// Serial of the first entry of the live part.
    front: u64,
    /// Bytes in the live part.
    bytes: usize,
    /// Bytes in the spool.
    spool_bytes: usize,
    /// Serials of the keyframes in the live part.
    keyframes: VecDeque<u64>,
    /// The headers in force just before the live part.
    front_headers: Headers,
    runs: VecDeque<Run>,
}

/// Where the tags of one publication begin; they go on to where the next begin.
#[derive(Debug)]
struct Run {
    publication: PublicationId,
    started: Instant,
    /// Serial of the first; that may have left.
    serial: u64,
}

impl Ring {
    /// Serial of the first entry of the live part.
    pub(crate) fn front(&self) -> u64 {
        self.front
    }

    /// Serial of the entry that comes next.
    pub(crate) fn end(&self) -> u64 {
        self.base + self.entries.len() as u64
    }

    /// Bytes in the live part.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes in the spool, its entries included.
    pub(crate) fn spool_bytes(&self) -> usize {
        self.spool_bytes
    }

    /// When the oldest entry came, of the spool or the live part.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        self.entries.front().map(|entry| entry.arrival)
    }

    /// The entry of the live part with this serial; `None` if it is gone or not there yet.
    pub(crate) fn entry(&self, serial: u64) -> Option<&Entry> {
        let is_live = serial >= self.front;
        self.entries.get(usize::try_from(serial.checked_sub(self.base)?).ok()?).filter(|_| is_live)
    }

    /// Entries of the live part with their serials, from `serial` on.
    pub(crate) fn range(&self, serial: u64) -> impl DoubleEndedIterator<Item = (u64, &Entry)> {
        let from = serial.max(self.front);
        let skip = (from - self.base) as usize;
        self.entries.range(skip.min(self.entries.len())..).enumerate().map(
            // Enumerate counts from the first one taken.
            move |(index, entry)| (from + index as u64, entry),
        )
    }

    /// Serials of the keyframes in the live part, the newest first.
    pub(crate) fn keyframes(&self) -> impl Iterator<Item = u64> {
        self.keyframes.iter().rev().copied()
    }

    /// Appends an entry of the publication that `started` then. What players read that are `delay`
    /// behind stays, too. Returns whether the bounds of bytes or tags cost an older one.
    pub(crate) fn push(
        &mut self,
        entry: Entry,
        started: Instant,
        limits: &Limits,
        delay: Duration,
    ) -> bool {
        let now = entry.arrival;
        let publication = entry.position.publication;
        if self.runs.back().is_none_or(|run| run.publication != publication) {
            self.runs.push_back(Run { publication, started, serial: self.end() });
        }
        if entry.tag.is_keyframe() {
            self.keyframes.push_back(self.end());
        }
        self.bytes += entry.tag.body.len();
        self.entries.push_back(entry);
        let is_overrun = self.is_overrun(limits) && self.live_tags() > 1;
        while self.is_front_spare(now, limits, delay) {
            self.retire();
        }
        is_overrun
    }

    /// Gives the spool the oldest GOP; of the only one, and where there are none, the older half.
    pub(crate) fn give_up_gop(&mut self) {
        let next = self.keyframes.iter().find(|keyframe| **keyframe > self.front);
        let half = self.front + self.live_tags().div_ceil(2) as u64;
        let end = next.copied().unwrap_or(half);
        while self.front < end {
            self.retire();
        }
    }

    /// Gives the spool every entry: for cursors, nothing is left.
    pub(crate) fn retire_all(&mut self) {
        while self.front < self.end() {
            self.retire();
        }
        self.front_headers = Headers::default();
        self.keyframes = VecDeque::new();
    }

    /// Lets go of what is in the spool for longer than `keep`; of all of it, if that is zero.
    pub(crate) fn expire(&mut self, now: Instant, keep: Duration, mut out: impl FnMut(Leaving)) {
        while let Some(first) = self.entries.front().filter(|_| self.base < self.front) {
            if !keep.is_zero() && now.saturating_duration_since(first.arrival) <= keep {
                return;
            }
            self.release(&mut out);
        }
    }

    /// Lets go of the oldest of the spool: so many bytes, if it has them.
    pub(crate) fn give_up_spool(&mut self, bytes: usize, mut out: impl FnMut(Leaving)) {
        let target = self.spool_bytes.saturating_sub(bytes);
        while self.spool_bytes > target {
            self.release(&mut out);
        }
    }

    /// Gives back the memory that fewer entries do not need.
    pub(crate) fn shrink(&mut self) {
        if self.entries.capacity() / 4 > self.entries.len() {
            self.entries.shrink_to(2 * self.entries.len());
        }
    }

    /// Tags of a publication with these numbers, of the spool and the live part, in order, until
    /// they cost `max_bytes`, but at least one; and whether there are more. The numbers of a
    /// publication rise.
    pub(crate) fn find(
        &self,
        publication: PublicationId,
        numbers: &RangeInclusive<u64>,
        max_bytes: usize,
    ) -> (Vec<(Position, Tag)>, bool) {
        let mut found = Vec::new();
        let mut cost = 0;
        for (_, indexes) in self.runs().filter(|(run, _)| run.publication == publication) {
            let from = self.index_of(*numbers.start(), indexes.clone());
            for entry in self.entries.range(from..indexes.end) {
                if entry.position.number > *numbers.end() {
                    return (found, false);
                }
                if cost >= max_bytes && !found.is_empty() {
                    return (found, true);
                }
                cost += entry.cost();
                found.push((entry.position, entry.tag.clone()));
            }
        }
        (found, false)
    }

    /// The publications that there are tags of, the oldest first.
    pub(crate) fn kept(&self) -> impl Iterator<Item = Kept> {
        self.runs().filter_map(|(run, indexes)| {
            let (first, last) =
                (self.entries.get(indexes.start)?, self.entries.get(indexes.end - 1)?);
            Some(Kept {
                publication: run.publication,
                first: first.position.number,
                last: last.position.number,
                started: run.started,
                oldest: first.arrival,
                ended: false,
            })
        })
    }

    /// The headers of the publication of the entry at `serial` that are in force there.
    pub(crate) fn headers_at(&self, serial: u64, publication: PublicationId) -> Headers {
        let mut headers = self.front_headers.clone();
        for (at, entry) in self.range(self.front).take_while(|(at, _)| *at < serial) {
            headers.note(at, entry);
        }
        headers.keep_only(publication);
        headers
    }

    fn is_overrun(&self, limits: &Limits) -> bool {
        self.bytes > limits.max_bytes || self.live_tags() > limits.max_tags
    }

    fn live_tags(&self) -> usize {
        (self.end() - self.front) as usize
    }

    fn is_front_spare(&self, now: Instant, limits: &Limits, delay: Duration) -> bool {
        let Some(first) = self.entry(self.front) else {
            return false;
        };
        let age = now.saturating_duration_since(first.arrival);
        let is_over = self.is_overrun(limits) || age > limits.max_age;
        // Where the players are, a GOP has to be whole.
        let is_theirs = |keyframe: &u64| {
            delay.is_zero()
                || self
                    .entry(*keyframe)
                    .is_some_and(|entry| now.saturating_duration_since(entry.arrival) >= delay)
        };
        let newest = self.keyframes().find(is_theirs);
        let has_newer_gop = self.keyframes.is_empty() || newest.is_some_and(|it| it > self.front);
        // The last entry stays whatever its size: a ring that cannot hold one tag is no ring.
        self.live_tags() > 1 && (is_over || has_newer_gop && age > limits.keep + delay)
    }

    /// Gives the spool the first entry of the live part.
    fn retire(&mut self) {
        let Some(entry) = self.entries.get((self.front - self.base) as usize) else {
            return;
        };
        self.bytes -= entry.tag.body.len();
        self.spool_bytes += entry.cost();
        if self.keyframes.front() == Some(&self.front) {
            self.keyframes.pop_front();
        }
        self.front_headers.note(self.front, entry);
        self.front += 1;
    }

    /// Lets go of the first entry of the spool.
    fn release(&mut self, out: &mut impl FnMut(Leaving)) {
        let Some(entry) = self.entries.pop_front() else {
            return;
        };
        self.spool_bytes -= entry.cost();
        self.base += 1;
        let started = self.runs.front().map_or(entry.arrival, |run| run.started);
        let next = self.runs.get(1).map_or(self.end(), |run| run.serial);
        if next <= self.base {
            self.runs.pop_front();
        }
        let Entry { position, tag, arrival, .. } = entry;
        out(Leaving { position, tag, arrival, started });
    }

    /// The runs, and which entries theirs are; at least one each.
    fn runs(&self) -> impl Iterator<Item = (&Run, Range<usize>)> {
        let index = |serial: u64| serial.saturating_sub(self.base) as usize;
        let ends = self.runs.iter().skip(1).map(|run| run.serial).chain([self.end()]);
        self.runs.iter().zip(ends).map(move |(run, end)| (run, index(run.serial)..index(end)))
    }

    /// The first of these entries with this number or a later one.
    fn index_of(&self, number: u64, indexes: Range<usize>) -> usize {
        let (mut low, mut high) = (indexes.start, indexes.end);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.entries.get(middle) {
                Some(entry) if entry.position.number < number => low = middle + 1,
                _ => high = middle,
            }
        }
        low
    }
}
