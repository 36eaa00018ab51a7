//! What was sent, where it was seen, and what came out.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use media::{Tag, Track};
use serde::Serialize;
use tokio::sync::Notify;

/// Samples that a distribution keeps: hours of the clip.
const MAX_SAMPLES: usize = 1 << 20;
/// Tags that may be under way; what is older is lost.
const MAX_UNDER_WAY: usize = 4_096;

/// Where a tag is seen on its way.
#[derive(Clone, Copy, Debug)]
pub(super) enum Hop {
    Relay = 0,
    Studio = 1,
}

/// Compares what the player gets with what the encoder sent.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    inner: Mutex<Inner>,
    settled: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    /// Tags under way, by their number in the publication.
    under_way: BTreeMap<u64, Record>,
    next_number: u64,
    counts: Counts,
    /// Milliseconds to the relay, on to the studio, on to the player, and all the way.
    samples: [Vec<f32>; 4],
    is_ended: bool,
}

#[derive(Debug)]
struct Record {
    track: Track,
    body: Bytes,
    sent: Instant,
    seen: [Option<Instant>; 2],
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    sent: u64,
    played: u64,
    lost: u64,
    changed: u64,
}

/// The result, as `--output json` prints it. Times are milliseconds.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Summary {
    pub(super) sent: u64,
    pub(super) played: u64,
    pub(super) lost: u64,
    pub(super) changed: u64,
    pub(super) hops: [(&'static str, Spread); 3],
    pub(super) total: Spread,
}

/// A distribution of milliseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Spread {
    pub(super) p50: f32,
    pub(super) p99: f32,
    pub(super) max: f32,
}

impl Ledger {
    /// The encoder hands over a tag; numbers count as the relay's do.
    pub(super) fn sent(&self, tag: &Tag) {
        let mut inner = self.lock();
        let number = inner.next_number;
        inner.next_number += 1;
        // Script data is made anew for players.
        if tag.track == Track::Data {
            return;
        }
        inner.counts.sent += 1;
        let record = Record {
            track: tag.track,
            body: tag.body.clone(),
            sent: Instant::now(),
            seen: [None; 2],
        };
        inner.under_way.insert(number, record);
        if inner.under_way.len() > MAX_UNDER_WAY {
            inner.under_way.pop_first();
            inner.counts.lost += 1;
        }
    }

    /// The encoder has sent its last tag.
    pub(super) fn end(&self) {
        self.lock().is_ended = true;
        self.settled.notify_one();
    }

    /// A hub has seen a tag.
    pub(super) fn passed(&self, hop: Hop, number: u64, at: Instant) {
        if let Some(record) = self.lock().under_way.get_mut(&number) {
            record.seen[hop as usize] = Some(at);
        }
    }

    /// The player got a tag: it has to be the next of its track.
    pub(super) fn played(&self, tag: &Tag) {
        let now = Instant::now();
        let mut inner = self.lock();
        if inner.is_ended && inner.under_way.is_empty() {
            // Somebody else's encoder has taken over.
            return;
        }
        let of_track = |(_, record): &(&u64, &Record)| record.track == tag.track;
        let mut candidates = inner.under_way.iter().filter(of_track).map(|(number, _)| *number);
        let Some(next) = candidates.next() else {
            inner.counts.changed += 1;
            return;
        };
        let found = std::iter::once(next)
            .chain(candidates)
            .find(|number| inner.under_way[number].body == tag.body);
        let Some(found) = found else {
            inner.under_way.remove(&next);
            inner.counts.changed += 1;
            return;
        };
        let passed_over: Vec<_> = inner
            .under_way
            .range(..found)
            .filter(|(_, record)| record.track == tag.track)
            .map(|(number, _)| *number)
            .collect();
        for number in passed_over {
            inner.under_way.remove(&number);
            inner.counts.lost += 1;
        }
        if let Some(record) = inner.under_way.remove(&found) {
            inner.counts.played += 1;
            inner.sample(&record, now);
        }
        if inner.is_ended && inner.under_way.is_empty() {
            self.settled.notify_one();
        }
    }

    /// Waits until all that was sent has been played.
    pub(super) async fn wait_settled(&self) {
        loop {
            {
                let inner = self.lock();
                if inner.is_ended && inner.under_way.is_empty() {
                    return;
                }
            }
            self.settled.notified().await;
        }
    }

    /// The figures so far; once the encoder has ended, what is still under way is lost.
    pub(super) fn summary(&self) -> Summary {
        let inner = self.lock();
        let under_way = if inner.is_ended { inner.under_way.len() as u64 } else { 0 };
        let spread = |samples: &Vec<f32>| Spread::of(samples.clone());
        let [relay, studio, player, total] = &inner.samples;
        Summary {
            sent: inner.counts.sent,
            played: inner.counts.played,
            lost: inner.counts.lost + under_way,
            changed: inner.counts.changed,
            hops: [
                ("encoder -> relay", spread(relay)),
                ("relay -> studio", spread(studio)),
                ("studio -> player", spread(player)),
            ],
            total: spread(total),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn sample(&mut self, record: &Record, now: Instant) {
        let [relay, studio] = record.seen;
        let between =
            |from: Option<Instant>, to: Option<Instant>| Some(to?.saturating_duration_since(from?));
        let times: [Option<Duration>; 4] = [
            between(Some(record.sent), relay),
            between(relay, studio),
            between(studio, Some(now)),
            between(Some(record.sent), Some(now)),
        ];
        for (samples, time) in self.samples.iter_mut().zip(times) {
            if let Some(time) = time.filter(|_| samples.len() < MAX_SAMPLES) {
                samples.push(time.as_secs_f32() * 1_000.0);
            }
        }
    }
}

impl Summary {
    /// Whether something was sent, and all of it arrived intact and in order.
    pub(super) fn is_whole(&self) -> bool {
        self.sent > 0 && self.played == self.sent && self.lost == 0 && self.changed == 0
    }
}

impl Spread {
    fn of(mut samples: Vec<f32>) -> Self {
        samples.sort_unstable_by(f32::total_cmp);
        let Some(last) = samples.len().checked_sub(1) else { return Self::default() };
        let at = |share: f64| samples[(last as f64 * share) as usize];
        Self { p50: at(0.5), p99: at(0.99), max: at(1.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(track: Track, byte: u8) -> Tag {
        Tag::new(track, 0, Bytes::from(vec![0x27, 1, byte]))
    }

    fn run(sent: &[u8], played: &[u8]) -> Summary {
        let ledger = Ledger::default();
        for byte in sent {
            ledger.sent(&tag(Track::Video, *byte));
            ledger.sent(&tag(Track::Audio, *byte));
        }
        for byte in played {
            ledger.played(&tag(Track::Video, *byte));
        }
        for byte in sent {
            ledger.played(&tag(Track::Audio, *byte));
        }
        ledger.end();
        ledger.summary()
    }

    #[test]
    fn tells_whole_from_lost_changed_and_out_of_order() {
        assert!(run(&[1, 2, 3], &[1, 2, 3]).is_whole());
        assert_eq!(run(&[1, 2, 3], &[1, 3]).lost, 1);
        assert_eq!(run(&[1, 2, 3], &[1, 2]).lost, 1);
        assert_eq!(run(&[1, 2, 3], &[1, 9, 3]).changed, 1);
        assert!(!run(&[1, 2, 3], &[2, 1, 3]).is_whole());
        assert!(!run(&[1, 2], &[1, 2, 2]).is_whole());
        assert!(!run(&[], &[]).is_whole(), "nothing is not everything");
    }
}
