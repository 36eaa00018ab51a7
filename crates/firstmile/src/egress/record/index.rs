//! What is known of one publication: which numbers its journal has, and what they amount to.

use std::sync::Arc;

use bytes::{Buf, BufMut};

use super::format::{FileHead, Kind, RecordHead, Source};
use super::ranges::Ranges;
use super::share::{Charge, Share};
use super::writer::emptied_len;
use media::Track;

/// Ranges of one publication: what is left of a link that lost every second tag for minutes. A
/// peer that sends nothing but every second number must not fill the memory.
const MAX_RANGES: usize = 1 << 16;
/// Ranges that are wanted at a time, lowest first.
const MAX_WANTED: usize = 1_024;
/// Bytes of a [`Summary`].
pub(super) const SUMMARY: usize = 48;

/// What a journal amounts to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Summary {
    /// Tags in it.
    pub(super) tags: u64,
    /// Bytes of their bodies.
    pub(super) bytes: u64,
    /// Numbers that will never come.
    pub(super) gone: u64,
    /// Lowest and highest timestamp of audio and video, in milliseconds.
    pub(super) times: Option<(i64, i64)>,
}

impl Summary {
    pub(super) fn encode(&self) -> [u8; SUMMARY] {
        let mut out = [0; SUMMARY];
        let mut rest = &mut out[..];
        for value in [self.tags, self.bytes, self.gone, u64::from(self.times.is_some())] {
            rest.put_u64(value);
        }
        let (first, last) = self.times.unwrap_or_default();
        rest.put_i64(first);
        rest.put_i64(last);
        out
    }

    pub(super) fn decode(bytes: &[u8; SUMMARY]) -> Self {
        let mut input = &bytes[..];
        let [tags, bytes, gone, has_times] = std::array::from_fn(|_| input.get_u64());
        let times = (input.get_i64(), input.get_i64());
        Self { tags, bytes, gone, times: (has_times != 0).then_some(times) }
    }

    fn note_time(&mut self, timestamp: i64) {
        let (first, last) = self.times.unwrap_or((timestamp, timestamp));
        self.times = Some((first.min(timestamp), last.max(timestamp)));
    }

    /// Milliseconds from the first to the last tag.
    pub(super) fn length_ms(&self) -> u64 {
        self.times.map_or(0, |(first, last)| last.abs_diff(first))
    }
}

/// Why a tag is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// It is there already.
    Double,
    /// There are too many holes to remember.
    Holes,
}

/// What is known of one publication.
#[derive(Clone, Debug)]
pub(super) struct Index {
    pub(super) head: FileHead,
    have: Ranges,
    gone: Ranges,
    /// The lowest number of interest; `None` until the first tag of a publication that was
    /// already running when recording was switched on.
    from: Option<u64>,
    /// There are no numbers from here on.
    ended: Option<u64>,
    /// Without `gone`, which the ranges have.
    summary: Summary,
    /// Milliseconds since 1970 when the last tag came.
    pub(super) last_arrival: i64,
    /// Recording was off in between: what is missing up to the next tag is not wanted.
    pub(super) is_paused: bool,
    /// The file says itself what it amounts to; the ranges are not known, and nothing is missing.
    is_sealed: bool,
    /// Bytes of the file that are whole records.
    pub(super) file_len: u64,
    /// Records that are not in the file yet.
    pub(super) unwritten: usize,
    charge: Charge,
}

impl Index {
    pub(super) fn new(head: FileHead) -> Self {
        Self {
            from: head.wants_all.then_some(0),
            head,
            have: Ranges::default(),
            gone: Ranges::default(),
            ended: None,
            summary: Summary::default(),
            last_arrival: i64::MIN,
            is_paused: false,
            is_sealed: false,
            file_len: 0,
            unwritten: 0,
            charge: Charge::default(),
        }
    }

    pub(super) fn sealed(head: FileHead, end: u64, summary: Summary, file_len: u64) -> Self {
        let new = Self::new(head);
        Self { ended: Some(end), summary, is_sealed: true, file_len, ..new }
    }

    /// Counts it for its source.
    pub(super) fn charge(&mut self, share: Arc<Share>) {
        self.charge = Charge::of(share);
        self.recount();
    }

    fn recount(&mut self) {
        self.charge.set(self.have.len() + self.gone.len());
    }

    /// Whether there are as many ranges as there may be.
    fn is_full(&self) -> bool {
        self.have.len() + self.gone.len() >= MAX_RANGES || self.charge.is_used_up()
    }

    /// Takes a record; the same for those that come and for those that a file holds.
    ///
    /// # Errors
    ///
    /// [`Refused`] for a tag that changes nothing.
    pub(super) fn apply(&mut self, head: &RecordHead) -> Result<(), Refused> {
        match head.kind {
            Kind::Tag => {
                self.apply_tag(head)?;
                self.last_arrival = self.last_arrival.max(head.arrival);
            }
            Kind::Ended => self.ended = Some(head.number),
            Kind::Gone => self.apply_gone(head.number, head.last()),
            Kind::Sealed => {}
        }
        self.recount();
        Ok(())
    }

    fn apply_tag(&mut self, head: &RecordHead) -> Result<(), Refused> {
        let number = head.number;
        if self.is_sealed || self.have.contains(number) {
            return Err(Refused::Double);
        }
        if self.is_full() && !self.is_next_to_another(number) {
            return Err(Refused::Holes);
        }
        if self.ended.is_some_and(|end| number >= end) {
            // Only what was said to have ended because recording was switched off goes on.
            self.ended = None;
        }
        self.have.insert(number, number);
        self.gone.remove(number);
        if !head.is_header() {
            // A header may be older than what is of interest: it came with the first tag.
            self.from.get_or_insert(number);
            if head.track() != Some(Track::Data) {
                self.summary.note_time(head.timestamp);
            }
        }
        self.summary.tags += 1;
        self.summary.bytes = self.summary.bytes.saturating_add(u64::from(head.length));
        Ok(())
    }

    fn is_next_to_another(&self, number: u64) -> bool {
        self.have.contains(number + 1) || number > 0 && self.have.contains(number - 1)
    }

    fn apply_gone(&mut self, first: u64, last: u64) {
        let from = self.from.filter(|_| !self.is_sealed);
        let Some(from) = from.filter(|_| !self.is_full()) else { return };
        let missing = self.have.gaps(first.max(from), last).take(MAX_RANGES);
        let missing: Vec<_> = missing.collect();
        for (first, last) in missing {
            self.gone.insert(first, last);
        }
    }

    /// Takes a tag back that could not be written.
    pub(super) fn take_back(&mut self, head: &RecordHead) {
        if head.kind == Kind::Tag {
            self.have.remove(head.number);
            self.recount();
            self.summary.tags = self.summary.tags.saturating_sub(1);
            self.summary.bytes = self.summary.bytes.saturating_sub(head.length.into());
        }
    }

    /// Whether there is anything to write down.
    pub(super) fn has_records(&self) -> bool {
        self.have.len() + self.gone.len() > 0 || self.ended.is_some() || self.file_len > 0
    }

    /// Goes on after a pause in which nothing was recorded: what lies before `number` and was not
    /// recorded in it is not wanted.
    pub(super) fn resume(&mut self, number: u64) -> Option<(u64, u64)> {
        let after = self.have.last()?.checked_add(1)?;
        self.is_paused = number < after;
        (number > after).then(|| (after, number - 1))
    }

    /// Whether the journal has this number.
    pub(super) fn has(&self, number: u64) -> bool {
        self.is_sealed || self.have.contains(number)
    }

    /// The highest number that is there.
    pub(super) fn highest(&self) -> Option<u64> {
        self.have.last()
    }

    /// The lowest number of interest.
    pub(super) fn from(&self) -> Option<u64> {
        self.from
    }

    /// There are no numbers from here on.
    pub(super) fn ended(&self) -> Option<u64> {
        self.ended
    }

    pub(super) fn is_sealed(&self) -> bool {
        self.is_sealed
    }

    /// Whether its journal holds nothing but its end: files have taken its place.
    pub(super) fn is_emptied(&self) -> bool {
        self.is_sealed() && self.file_len == emptied_len(&self.head)
    }

    /// Whether it was emptied because nobody wants it any more.
    pub(super) fn is_deleted(&self) -> bool {
        self.is_emptied() && self.summary().tags == 0
    }

    pub(super) fn is_from_here(&self) -> bool {
        self.head.source == Source::Here
    }

    /// The highest number that is known to exist.
    fn known_last(&self) -> Option<u64> {
        match self.ended {
            Some(end) => end.checked_sub(1),
            None => self.have.last(),
        }
    }

    /// The holes from `first` to `last` that may still be filled, lowest first.
    pub(super) fn open(&self, first: u64, last: u64) -> impl Iterator<Item = (u64, u64)> {
        let from = self.from.filter(|_| !self.is_sealed);
        let first = from.map_or(u64::MAX, |from| from.max(first));
        let gaps = self.have.gaps(first, last);
        gaps.flat_map(|(first, last)| self.gone.gaps(first, last))
    }

    /// What is to be asked for below `below`: the lowest holes that may still be filled.
    pub(super) fn wanted(&self, below: u64) -> Vec<(u64, u64)> {
        let Some(last) = below.min(self.ended.unwrap_or(u64::MAX)).checked_sub(1) else {
            return Vec::new();
        };
        self.open(0, last).take(MAX_WANTED).collect()
    }

    /// Numbers that are missing and may still come.
    pub(super) fn missing(&self) -> u64 {
        let Some(last) = self.known_last() else { return 0 };
        let sum = |sum: u64, (first, last): (u64, u64)| sum.saturating_add(last - first + 1);
        self.open(0, last).fold(0, sum)
    }

    /// Whether nothing more can come.
    pub(super) fn is_complete(&self) -> bool {
        self.is_sealed || self.ended.is_some() && self.missing() == 0
    }

    pub(super) fn summary(&self) -> Summary {
        let gone = if self.is_sealed { self.summary.gone } else { self.gone.count() };
        Summary { gone, ..self.summary }
    }
}
