//! The events that are kept: so many, and of everybody a fair part.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use super::{About, Event, Kind, Severity};

/// What one wants to see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only of this feed.
    pub feed: Option<String>,
    /// Only these kinds; none means all.
    pub kinds: Vec<Kind>,
    /// Only what matters at least so much.
    pub severity: Severity,
    /// Only after the event of this number.
    pub after: u64,
    /// Only from this time on, as RFC 3339 in UTC or the beginning of it.
    pub from: String,
}

impl Filter {
    /// Whether it lets an event through.
    pub fn lets(&self, event: &Event) -> bool {
        event.id > self.after
            && event.severity >= self.severity
            && (self.kinds.is_empty() || self.kinds.contains(&event.kind))
            && self.feed.as_ref().is_none_or(|feed| event.about.feed.as_ref() == Some(feed))
            && event.time >= self.from
    }
}

/// The events that are kept. When there are too many, the studio that has most loses the oldest of
/// its feed that has most: one that flaps takes nothing from the others.
#[derive(Debug)]
pub(super) struct Log {
    most: usize,
    last: u64,
    /// The greatest number of those that were given up.
    lost: u64,
    events: BTreeMap<u64, Arc<Event>>,
    /// Numbers by studio, and in it by feed or peer.
    parts: HashMap<Option<String>, HashMap<About, VecDeque<u64>>>,
}

impl Log {
    /// Nothing yet; the first event has a greater number than `last`.
    pub(super) fn new(most: usize, last: u64) -> Self {
        Self { most, last, lost: 0, events: BTreeMap::new(), parts: HashMap::new() }
    }

    pub(super) fn next_id(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    pub(super) fn push(&mut self, event: Arc<Event>) {
        let about = &event.about;
        let part = self.parts.entry(about.studio.clone()).or_default();
        part.entry(about.clone()).or_default().push_back(event.id);
        self.events.insert(event.id, event);
        while self.events.len() > self.most {
            self.give_up();
        }
    }

    /// Gives up one event.
    fn give_up(&mut self) {
        let size = |part: &HashMap<About, VecDeque<u64>>| part.values().map(VecDeque::len).sum();
        let Some((studio, part)) =
            self.parts.iter_mut().max_by_key(|(_, part)| -> usize { size(part) })
        else {
            return;
        };
        let longest = part.iter_mut().max_by_key(|(_, ids)| ids.len());
        let Some((about, ids)) = longest else { return };
        if let Some(id) = ids.pop_front() {
            self.events.remove(&id);
            self.lost = self.lost.max(id);
        }
        if ids.is_empty() {
            let (studio, about) = (studio.clone(), about.clone());
            part.remove(&about);
            if part.is_empty() {
                self.parts.remove(&studio);
            }
        }
    }

    /// The newest `limit` events that the filter lets through, oldest first.
    pub(super) fn newest(&self, filter: &Filter, limit: usize) -> Vec<Arc<Event>> {
        let after = filter.after.saturating_add(1)..;
        let found = self.events.range(after).rev().map(|(_, event)| event);
        let mut found: Vec<_> =
            found.filter(|event| filter.lets(event)).take(limit).cloned().collect();
        found.reverse();
        found
    }

    /// The first `limit` events after one, and where to go on; `None` if later ones were given up.
    pub(super) fn after(
        &self,
        id: u64,
        filter: &Filter,
        limit: usize,
    ) -> Option<(Vec<Arc<Event>>, u64)> {
        if id < self.lost {
            return None;
        }
        let mut next = id;
        let mut found = Vec::new();
        for (id, event) in self.events.range(id.saturating_add(1)..) {
            if found.len() >= limit {
                break;
            }
            next = *id;
            if filter.lets(event) {
                found.push(event.clone());
            }
        }
        Some((found, next))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(log: &mut Log, about: About) -> u64 {
        let id = log.next_id();
        let (kind, severity) = (Kind::Skipped, Severity::Info);
        let time = format!("2026-01-01T00:00:{id:02}.000Z");
        log.push(Arc::new(Event { id, time, kind, severity, about, text: id.to_string() }));
        id
    }

    fn of_studio(studio: &str, feed: &str) -> About {
        About { studio: Some(studio.into()), ..About::feed(feed) }
    }

    fn count(log: &Log, about: &About) -> usize {
        log.events.values().filter(|event| event.about == *about).count()
    }

    #[test]
    fn a_noisy_feed_pushes_nobody_out() {
        let mut log = Log::new(20, 0);
        for _ in 0..5 {
            push(&mut log, About::feed("quiet"));
        }
        for _ in 0..1_000 {
            push(&mut log, About::feed("noisy"));
        }
        assert_eq!((count(&log, &About::feed("quiet")), log.events.len()), (5, 20));
        // And the noisy one's latest are there.
        assert_eq!(log.newest(&Filter::default(), 1)[0].id, 1_005);
    }

    #[test]
    fn a_studio_with_many_feeds_pushes_no_other_out() {
        let mut log = Log::new(20, 0);
        for _ in 0..5 {
            push(&mut log, of_studio("small", "camera"));
        }
        for number in 0..1_000 {
            push(&mut log, of_studio("large", &format!("camera-{number}")));
        }
        assert_eq!((count(&log, &of_studio("small", "camera")), log.events.len()), (5, 20));
        assert_eq!(log.parts.len(), 2);
        assert_eq!(log.parts[&Some("large".to_owned())].len(), 15, "what is gone costs nothing");
    }

    #[test]
    fn filters() {
        let mut log = Log::new(20, 0);
        for number in 0..10 {
            push(&mut log, About::feed(if number % 2 == 0 { "a" } else { "b" }));
        }
        let ids = |filter: &Filter, limit| -> Vec<_> {
            log.newest(filter, limit).iter().map(|event| event.id).collect()
        };
        let all = Filter::default();
        assert_eq!(ids(&all, 3), [8, 9, 10]);
        assert_eq!(ids(&Filter { feed: Some("a".into()), ..all.clone() }, 2), [7, 9]);
        assert_eq!(ids(&Filter { after: 8, ..all.clone() }, 9), [9, 10]);
        assert_eq!(ids(&Filter { after: u64::MAX, ..all.clone() }, 9), [0; 0]);
        assert_eq!(ids(&Filter { kinds: vec![Kind::Live], ..all.clone() }, 9), [0; 0]);
        assert_eq!(ids(&Filter { severity: Severity::Warning, ..all.clone() }, 9), [0; 0]);
        let from = "2026-01-01T00:00:10".into();
        assert_eq!(ids(&Filter { from, ..all }, 9), [10]);
    }

    #[test]
    fn one_follows_and_is_told_when_it_is_too_slow() {
        let mut log = Log::new(4, 0);
        for _ in 0..4 {
            push(&mut log, About::default());
        }
        let all = Filter::default();
        let (first, next) = log.after(0, &all, 3).unwrap();
        assert_eq!((first.len(), next), (3, 3));
        let (rest, next) = log.after(next, &all, 3).unwrap();
        assert_eq!((rest.len(), next), (1, 4));
        assert_eq!(log.after(next, &all, 3).unwrap(), (vec![], 4));
        // What a filter leaves out has been seen all the same.
        let none = Filter { kinds: vec![Kind::Live], ..all.clone() };
        assert_eq!(log.after(0, &none, 3).unwrap(), (vec![], 4));
        push(&mut log, About::default());
        assert_eq!(log.after(0, &all, 3), None);
        assert!(log.after(1, &all, 3).is_some());
    }
}
