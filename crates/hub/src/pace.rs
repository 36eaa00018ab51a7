use std::time::{Duration, Instant};

/// How long a minimum is remembered: long enough to see past a congested minute, short enough
/// that the drift of two clocks (under 100 ppm) stays below 6 ms.
const WINDOW: Duration = Duration::from_secs(30);
/// Timestamps that step by more than this, and are that much later or earlier than before, have
/// another origin.
const MAX_STEP: i64 = 5_000;
/// How long nothing comes, and how much later the next tag then is by its own clock, when the way
/// has stalled: a lost packet costs about that, the gaps between frames are shorter.
const STALL: i64 = 150;
/// Stalls are counted in slots of this length.
const SLOT: Duration = Duration::from_secs(10);
/// Slots that make a minute.
const SLOTS: usize = 6;

/// How often the way from the encoder stalled in the last minute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stalls {
    /// How often nothing came for 150 ms that was due.
    pub count: u32,
    /// The longest of them.
    pub longest: Duration,
}

/// Measures how far an encoder falls behind its own clock.
///
/// The difference between arrival time and timestamp has an unknown constant part; its growth
/// over the smallest value of the last minute is delay that the way here added.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pace {
    origin: Option<Instant>,
    window_start: Option<Instant>,
    previous_min: Option<i64>,
    min: Option<i64>,
    latest: i64,
    last: Option<Last>,
    slots: [Slot; SLOTS],
}

/// The tag before.
#[derive(Clone, Copy, Debug)]
struct Last {
    timestamp: i64,
    arrival: Instant,
}

/// Ten seconds' stalls.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    number: u64,
    stalls: Stalls,
}

impl Pace {
    /// Takes note of a tag with `timestamp` (ms) that arrived `now`.
    pub(crate) fn observe(&mut self, timestamp: i64, now: Instant) {
        let origin = *self.origin.get_or_insert(now);
        let offset = now.saturating_duration_since(origin).as_millis() as i64 - timestamp;
        if let Some(last) = self.last.replace(Last { timestamp, arrival: now }) {
            let later = offset.saturating_sub(self.latest);
            if timestamp.abs_diff(last.timestamp) > MAX_STEP as u64 && later.abs() > MAX_STEP {
                (self.window_start, self.previous_min, self.min) = (None, None, None);
            } else {
                let gap = now.saturating_duration_since(last.arrival);
                self.note_gap(gap, later, now);
            }
        }
        let window_start = *self.window_start.get_or_insert(now);
        if now.saturating_duration_since(window_start) > WINDOW {
            self.window_start = Some(now);
            self.previous_min = self.min.take();
        }
        self.min = Some(self.min.map_or(offset, |min| min.min(offset)));
        self.latest = offset;
    }

    /// Milliseconds that the latest tag came later than the promptest one of the last minute.
    pub(crate) fn growth(&self) -> i64 {
        let min = [self.min, self.previous_min].into_iter().flatten().min();
        min.map_or(0, |min| self.latest - min)
    }

    /// How often the way stalled in the last minute.
    pub(crate) fn stalls(&self, now: Instant) -> Stalls {
        let number = self.slot_number(now);
        let is_recent = |slot: &&Slot| slot.number + SLOTS as u64 > number;
        let recent = self.slots.iter().filter(is_recent).map(|slot| slot.stalls);
        recent.fold(Stalls::default(), |sum, slot| Stalls {
            count: sum.count.saturating_add(slot.count),
            longest: sum.longest.max(slot.longest),
        })
    }

    fn note_gap(&mut self, gap: Duration, later: i64, now: Instant) {
        let stall = Duration::from_millis(STALL as u64);
        if gap < stall || later < STALL {
            return;
        }
        let number = self.slot_number(now);
        let slot = &mut self.slots[(number % SLOTS as u64) as usize];
        if slot.number != number {
            *slot = Slot { number, ..Slot::default() };
        }
        slot.stalls.count = slot.stalls.count.saturating_add(1);
        slot.stalls.longest = slot.stalls.longest.max(gap);
    }

    fn slot_number(&self, now: Instant) -> u64 {
        let since = self.origin.map(|origin| now.saturating_duration_since(origin));
        since.unwrap_or_default().as_secs() / SLOT.as_secs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_way_that_stalls_is_told_from_an_encoder_with_few_frames() {
        let (mut slow, start) = (Pace::default(), Instant::now());
        for frame in 0..20 {
            slow.observe(frame * 1_000, start + ms(frame as u64 * 1_000));
        }
        assert_eq!(slow.stalls(start + ms(20_000)), Stalls::default());
        // Three times in ten seconds nothing comes for 300 ms, and then all at once.
        let mut pace = Pace::default();
        for frame in 0..300u64 {
            let hold = if matches!(frame % 100, 40..50) { 50 - frame % 100 } else { 0 };
            pace.observe(frame as i64 * 33, start + ms((frame + hold) * 33));
        }
        let end = start + ms(9_900);
        let stalls = pace.stalls(end);
        assert_eq!(stalls.count, 3);
        assert!((ms(300)..ms(400)).contains(&stalls.longest), "{stalls:?}");
        assert_eq!(pace.stalls(end + ms(45_000)).count, 3);
        assert_eq!(pace.stalls(end + ms(60_000)), Stalls::default());
    }

    #[test]
    fn another_origin_of_the_timestamps_is_no_delay() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        for frame in 0..100i64 {
            let timestamp = if frame < 50 { 1_000_000 + frame * 40 } else { frame * 40 };
            pace.observe(timestamp, start + ms(frame as u64 * 40));
            assert_eq!(pace.growth(), 0, "frame {frame}");
        }
        assert_eq!(pace.stalls(start + ms(4_000)).count, 0);
        // Ten seconds without a packet are.
        pace.observe(100 * 40, start + ms(14_000));
        assert_eq!((pace.growth(), pace.stalls(start + ms(14_000)).count), (10_000, 1));
    }
}
