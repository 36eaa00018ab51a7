//! A model of the recorder's journal: which tags it has, and which will never come.

use std::collections::{BTreeMap, HashMap};

use backhaul::Ranges;
use media::{Position, PublicationId, Tag};

use crate::SPOOL;
use crate::encoder::Story;

/// Ranges of one publication's journal: as many holes as an outage may leave, and room.
const MAX_RANGES: usize = 2_000;

/// Survives the studio's restarts.
pub(crate) struct Journal {
    /// Whether each of the feeds is recorded.
    is_on: [bool; 2],
    records: BTreeMap<PublicationId, Record>,
    /// Tags that came because they were asked for.
    pub(crate) backfilled: u64,
    /// Tags that came while the disk was slow.
    pub(crate) dropped: u64,
    /// How long the relay keeps what it has at least, in milliseconds.
    spool: u64,
    /// The run of the relay that is there now.
    pub(crate) relay: u64,
    /// What comes before then is dropped: the disk is slow.
    pub(crate) is_slow_until: u64,
}

#[derive(Default)]
struct Record {
    feed: usize,
    have: Ranges,
    gone: Ranges,
    /// The number behind the last one, once it is known.
    end: Option<u64>,
}

impl Journal {
    pub(crate) fn new(is_on: [bool; 2], spool: u64) -> Self {
        Self {
            is_on,
            records: BTreeMap::new(),
            backfilled: 0,
            dropped: 0,
            spool,
            relay: 0,
            is_slow_until: 0,
        }
    }

    pub(crate) fn begin(&mut self, publication: PublicationId, feed: usize) {
        if self.is_on[feed] {
            self.records.entry(publication).or_default().feed = feed;
        }
    }

    /// The publication is over.
    pub(crate) fn keep(&mut self, publication: PublicationId, feed: usize, last: u64) {
        self.begin(publication, feed);
        if let Some(record) = self.records.get_mut(&publication) {
            record.end = Some(last + 1);
        }
    }

    pub(crate) fn put(
        &mut self,
        story: &Story,
        position: Position,
        tag: &Tag,
        is_late: bool,
        ms: u64,
    ) {
        let Position { publication, number, previous } = position;
        let sent = story.tag(publication, number);
        assert_eq!((tag, previous), (&sent.tag, sent.previous), "{publication} {number}");
        let Some(record) = self.records.get_mut(&publication) else {
            assert!(!is_late, "nobody records this");
            return;
        };
        if ms < self.is_slow_until {
            self.dropped += 1;
            return;
        }
        // It was taken to be over while its relay could not be heard.
        record.end = record.end.filter(|end| number < *end);
        record.have.insert(number);
        assert!(record.have.len() <= MAX_RANGES, "{} ranges", record.have.len());
        self.backfilled += u64::from(is_late);
    }

    /// Before a relay says that nothing more comes of what it keeps, it has told of the end: else
    /// what is there would be taken for all.
    pub(crate) fn assert_kept(
        &self,
        story: &Story,
        publication: PublicationId,
        kept: &HashMap<PublicationId, u64>,
    ) {
        let told = story.of(publication);
        assert!(
            !self.keeps_all() || told.relay != self.relay || kept.contains_key(&publication),
            "{publication} has ended, and nobody has said where"
        );
    }

    /// Whether the relay keeps all that it has had.
    pub(crate) fn keeps_all(&self) -> bool {
        self.spool == SPOOL.as_millis() as u64
    }

    /// The relay says that these will not come; it may only if it cannot have them.
    pub(crate) fn give_up(
        &mut self,
        story: &Story,
        publication: PublicationId,
        gone: &Ranges,
        ms: u64,
    ) {
        let record = self.records.get_mut(&publication).expect("it was asked for");
        let told = story.of(publication);
        for (first, last) in gone.iter() {
            for (hole, end) in record.have.missing(first, last).iter() {
                for number in hole..=end {
                    let sent = told.tags.get(number as usize);
                    let is_old = |sent: u64| ms > sent + self.spool;
                    assert!(
                        told.relay != self.relay || sent.is_none_or(|sent| is_old(sent.ms)),
                        "{publication} {number} is not gone"
                    );
                }
                record.gone.insert_range(hole, end);
            }
        }
    }

    /// What is to be asked for. `live` tells below which number what comes in now has no holes but
    /// real ones.
    pub(crate) fn missing(
        &mut self,
        live: &HashMap<PublicationId, u64>,
        is_all_told: bool,
    ) -> Vec<(PublicationId, usize, Ranges)> {
        let mut all = Vec::new();
        for (publication, record) in &mut self.records {
            let end = match live.get(publication) {
                Some(below) => (*below).min(record.end.unwrap_or(u64::MAX)),
                None => {
                    // What the relay has not told of by now it does not know.
                    let there = || record.have.last().map_or(0, |last| last + 1);
                    record.end = record.end.or_else(|| is_all_told.then(there));
                    let Some(end) = record.end else { continue };
                    end
                }
            };
            if end > 0 {
                let missing = record.have.missing(0, end - 1);
                let missing = missing.iter().flat_map(|(first, last)| {
                    record.gone.missing(first, last).iter().collect::<Vec<_>>()
                });
                all.push((*publication, record.feed, missing.collect()));
            }
        }
        all
    }

    /// What is missing though the relay has had it since before `by`, and could still have it.
    pub(crate) fn holes(&self, story: &Story, by: u64) -> Vec<(PublicationId, Ranges)> {
        let mut holes = Vec::new();
        for (publication, told) in story.0.iter().filter(|(_, told)| self.is_on[told.feed]) {
            let due = told.tags.iter().take_while(|sent| sent.ms < by).count() as u64;
            let none = Record::default();
            let record = self.records.get(publication).unwrap_or(&none);
            // What a relay had when it was killed is gone, and of what is all older than its spool
            // it does not even know: up to the last one that came, the journal knows.
            let is_known = self.keeps_all() || record.end.is_none_or(|end| end >= due);
            let end = match told.relay == self.relay && is_known {
                true => due,
                false => due.min(record.have.last().map_or(0, |last| last + 1)),
            };
            if end == 0 {
                continue;
            }
            let mut there: Ranges = record.have.clone();
            record.gone.iter().for_each(|(first, last)| there.insert_range(first, last));
            let missing = there.missing(0, end - 1);
            if !missing.is_empty() {
                holes.push((*publication, missing));
            }
        }
        holes
    }
}
