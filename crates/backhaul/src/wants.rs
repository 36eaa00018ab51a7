//! What did not come live: asked for by one end, answered by the other.

use std::collections::{HashMap, VecDeque};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use media::PublicationId;

use crate::{Answered, Ranges, Want};

/// Wants that are under way at a time: what one outage leaves of some feeds.
const MAX_ASKED: usize = 16;
/// Numbers between two holes that are asked for again: cheaper than another range.
const GAP: u64 = 8;
/// A want of which nothing was heard for so long is given up.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a tag may be on its way after one with a higher number.
const ON_ITS_WAY: Duration = Duration::from_secs(1);

/// The wants of one end on a link.
#[derive(Debug, Default)]
pub struct Wants {
    asked: HashMap<u64, Asked>,
}

#[derive(Debug)]
struct Asked {
    publication: PublicationId,
    ranges: Ranges,
    arrived: u64,
    /// How many were sent, once that was said.
    sent: Option<u64>,
    heard: Instant,
}

impl Asked {
    fn is_done(&self, now: Instant) -> bool {
        self.sent.is_some_and(|sent| self.arrived >= sent)
            || now.saturating_duration_since(self.heard) > PATIENCE
    }
}

impl Wants {
    /// Whether a publication may be asked for now: not while it is, nor while much else is.
    pub fn may_ask(&mut self, publication: PublicationId, now: Instant) -> bool {
        self.asked.retain(|_, asked| !asked.is_done(now));
        self.asked.len() < MAX_ASKED
            && self.asked.values().all(|asked| asked.publication != publication)
    }

    /// Asks for the lowest of the `missing` numbers; `None` if there are none.
    ///
    /// `request` is new on the link.
    pub fn ask(
        &mut self,
        request: u64,
        feed: &str,
        publication: PublicationId,
        missing: &Ranges,
        now: Instant,
    ) -> Option<Want> {
        if missing.is_empty() {
            return None;
        }
        let ranges = missing.coarse(GAP);
        let asked =
            Asked { publication, ranges: ranges.clone(), arrived: 0, sent: None, heard: now };
        self.asked.insert(request, asked);
        Some(Want { request, feed: feed.to_owned(), publication, ranges })
    }

    /// Whether a request of this name is under way.
    pub fn has(&self, request: u64) -> bool {
        self.asked.contains_key(&request)
    }

    /// A tag came for a request; returns its publication if it was asked for.
    pub fn on_tag(&mut self, request: u64, number: u64, now: Instant) -> Option<PublicationId> {
        let asked = self.asked.get_mut(&request)?;
        asked.heard = now;
        asked.arrived += 1;
        asked.ranges.contains(number).then_some(asked.publication)
    }

    /// The peer has sent all that it has of what was asked for; returns what is gone for good.
    pub fn on_answered(
        &mut self,
        answered: &Answered,
        now: Instant,
    ) -> Option<(PublicationId, Ranges)> {
        // An answer is given once.
        let asked = self.asked.get_mut(&answered.request).filter(|asked| asked.sent.is_none())?;
        asked.heard = now;
        asked.sent = Some(answered.tags);
        Some((asked.publication, answered.gone.intersection(&asked.ranges)))
    }
}

/// Up to which number of a publication that comes live there are no holes but real ones: what is
/// missing below has had its time.
#[derive(Debug, Default)]
pub struct Settled {
    highest: u64,
    /// Highest when it was looked at last, and before that.
    marks: [u64; 2],
    marked: Option<Instant>,
}

impl Settled {
    /// A tag came.
    pub fn on_tag(&mut self, number: u64) {
        self.highest = self.highest.max(number);
    }

    /// Numbers below this one are there, or did not come; call it every second or so.
    pub fn below(&mut self, now: Instant) -> u64 {
        if self.marked.is_none_or(|marked| now.saturating_duration_since(marked) >= ON_ITS_WAY) {
            self.marks = [self.highest, self.marks[0]];
            self.marked = Some(now);
        }
        self.marks[1]
    }
}

/// A want that is being answered.
#[derive(Debug)]
pub struct Answer {
    request: u64,
    publication: PublicationId,
    /// Not yet looked for.
    rest: VecDeque<(u64, u64)>,
    gone: Ranges,
    sent: u64,
}

impl Answer {
    /// An answer to `want`.
    pub fn new(want: &Want) -> Self {
        let Want { request, publication, ranges, .. } = want;
        Self {
            request: *request,
            publication: *publication,
            rest: ranges.iter().collect(),
            gone: Ranges::default(),
            sent: 0,
        }
    }

    /// The request's name.
    pub fn request(&self) -> u64 {
        self.request
    }

    /// The publication that is asked for.
    pub fn publication(&self) -> PublicationId {
        self.publication
    }

    /// What to look for next; `None` once all was looked for.
    pub fn next(&self) -> Option<RangeInclusive<u64>> {
        self.rest.front().map(|(first, last)| *first..=*last)
    }

    /// All of the range that lies before `next` was found, or is `gone` for good. If that is
    /// nothing, the range is left: its tags are not there yet.
    pub fn looked(&mut self, gone: impl IntoIterator<Item = RangeInclusive<u64>>, next: u64) {
        for numbers in gone {
            self.gone.insert_range(*numbers.start(), *numbers.end());
        }
        match self.rest.front_mut() {
            Some((first, last)) if next > *first && next <= *last => *first = next,
            _ => drop(self.rest.pop_front()),
        }
    }

    /// The rest cannot be looked for now: it is neither sent nor gone, and may be asked for again.
    pub fn give_up(&mut self) {
        self.rest.clear();
    }

    /// A tag was sent.
    pub fn on_sent(&mut self) {
        self.sent += 1;
    }

    /// What to say once all was looked for and sent.
    pub fn finish(&mut self) -> Answered {
        let gone = std::mem::take(&mut self.gone);
        Answered { request: self.request, tags: self.sent, gone: gone.lowest() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PublicationId = PublicationId([1; 16]);
    const B: PublicationId = PublicationId([2; 16]);

    fn ranges<const N: usize>(ranges: [(u64, u64); N]) -> Ranges {
        ranges.into_iter().collect()
    }

    #[test]
    fn a_publication_is_asked_for_once_at_a_time() {
        let now = Instant::now();
        let mut wants = Wants::default();
        assert!(wants.may_ask(A, now));
        assert_eq!(wants.ask(1, "camera", A, &Ranges::default(), now), None);
        let want = wants.ask(1, "camera", A, &ranges([(3, 4), (9, 9), (90, 91)]), now).unwrap();
        assert_eq!(want.ranges, ranges([(3, 9), (90, 91)]));
        assert!(!wants.may_ask(A, now));
        assert!(wants.may_ask(B, now));
        assert_eq!(wants.on_tag(1, 4, now), Some(A));
        assert_eq!(wants.on_tag(1, 50, now), None, "not asked for");
        assert_eq!(wants.on_tag(2, 4, now), None, "no such request");
        let gone = ranges([(8, 20), (91, 91)]);
        let answered = Answered { request: 1, tags: 3, gone };
        assert_eq!(wants.on_answered(&answered, now), Some((A, ranges([(8, 9), (91, 91)]))));
        assert_eq!(wants.on_answered(&answered, now), None, "it was answered");
        assert!(!wants.may_ask(A, now), "a tag is still on its way");
        wants.on_tag(1, 3, now);
        assert!(wants.may_ask(A, now));
        assert!(!wants.has(1));
    }

    #[test]
    fn a_want_without_an_answer_is_given_up() {
        let now = Instant::now();
        let mut wants = Wants::default();
        for request in 0..MAX_ASKED as u64 {
            let publication = PublicationId([request as u8; 16]);
            assert!(wants.may_ask(publication, now));
            wants.ask(request, "camera", publication, &ranges([(0, 9)]), now);
        }
        let other = PublicationId([200; 16]);
        assert!(!wants.may_ask(other, now + PATIENCE));
        wants.on_tag(0, 3, now + PATIENCE);
        assert!(wants.may_ask(other, now + PATIENCE + Duration::from_millis(1)));
        assert!(wants.has(0));
    }

    #[test]
    fn holes_are_real_after_their_time() {
        let (mut settled, now) = (Settled::default(), Instant::now());
        assert_eq!(settled.below(now), 0);
        settled.on_tag(40);
        settled.on_tag(30);
        assert_eq!(settled.below(now + ON_ITS_WAY), 0);
        settled.on_tag(70);
        assert_eq!(settled.below(now + ON_ITS_WAY / 2 * 3), 0, "it came just now");
        assert_eq!(settled.below(now + ON_ITS_WAY * 2), 40);
        assert_eq!(settled.below(now + ON_ITS_WAY * 3), 70);
    }

    #[test]
    fn an_answer_tells_what_was_sent_and_what_is_gone() {
        let asked = ranges([(3, 9), (90, 91)]);
        let want = Want { request: 7, feed: "camera".into(), publication: A, ranges: asked };
        let mut answer = Answer::new(&want);
        assert_eq!(answer.next(), Some(3..=9));
        answer.looked([3..=4], 6);
        answer.on_sent();
        assert_eq!(answer.next(), Some(6..=9));
        answer.looked([], 10);
        answer.on_sent();
        assert_eq!(answer.next(), Some(90..=91));
        answer.looked([], 90);
        assert_eq!(answer.next(), None, "not there yet");
        let answered = answer.finish();
        assert_eq!((answered.request, answered.tags), (7, 2));
        assert_eq!(answered.gone, ranges([(3, 4)]));
    }
}
