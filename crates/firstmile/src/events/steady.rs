//! What is told of something that changes: not every flicker.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Changes within this time that are told without delay; a person has seen by then that it flaps.
const FREE: usize = 6;
const WINDOW: Duration = Duration::from_secs(120);
/// How long something that flaps has to be better before that is told, at the least and at most.
const FIRST_STRETCH: Duration = Duration::from_secs(2);
const LAST_STRETCH: Duration = Duration::from_secs(60);

/// How something is; a greater one is worse.
pub(super) trait Condition: Copy + Ord {}

impl<C: Copy + Ord> Condition for C {}

/// What was told of something last, and what it seems to be since.
///
/// A change for the worse is told after its patience. One for the better may have to last longer: the
/// more often it changed lately, the longer. So something that flaps is told to be bad, and then
/// that it is good when it stays so.
#[derive(Debug)]
pub(super) struct Steady<C> {
    told: C,
    /// What it is now, and since when.
    seen: Option<(C, Instant)>,
    told_at: VecDeque<Instant>,
    /// How often it was better for a moment, since the last change that was told.
    blips: u32,
}

/// A change that is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Change<C> {
    pub(super) from: C,
    pub(super) to: C,
    /// Since when it is so.
    pub(super) since: Instant,
    /// How often it was better for a moment before.
    pub(super) blips: u32,
}

impl<C: Condition> Steady<C> {
    /// As if this had been told.
    pub(super) fn new(told: C) -> Self {
        Self { told, seen: None, told_at: VecDeque::new(), blips: 0 }
    }

    /// What was told last.
    pub(super) fn told(&self) -> C {
        self.told
    }

    /// Looks at how it is now; a change has to last for its patience.
    pub(super) fn look(&mut self, is: C, patience: Duration, now: Instant) -> Option<Change<C>> {
        if is == self.told {
            if self.seen.take().is_some_and(|(seen, _)| seen < self.told) {
                self.blips = self.blips.saturating_add(1);
            }
            return None;
        }
        let since = match self.seen {
            Some((seen, since)) if seen == is => since,
            _ => now,
        };
        self.seen = Some((is, since));
        let patience = if is < self.told { self.stretched(patience, now) } else { patience };
        if now.saturating_duration_since(since) < patience {
            return None;
        }
        let change = Change { from: self.told, to: is, since, blips: self.blips };
        (self.told, self.seen, self.blips) = (is, None, 0);
        self.told_at.push_back(now);
        Some(change)
    }

    /// The patience with a change for the better.
    fn stretched(&mut self, patience: Duration, now: Instant) -> Duration {
        let is_old = |at: &Instant| now.saturating_duration_since(*at) > WINDOW;
        while self.told_at.front().is_some_and(is_old) {
            self.told_at.pop_front();
        }
        match self.told_at.len().saturating_sub(FREE) {
            0 => patience,
            more => {
                let stretched = FIRST_STRETCH.max(patience) * (1 << more.min(6));
                stretched.clamp(patience, LAST_STRETCH.max(patience))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(500);
    const NONE: Duration = Duration::ZERO;

    #[test]
    fn a_flicker_is_not_told_and_what_lasts_is() {
        let (mut steady, mut now) = (Steady::new(0), Instant::now());
        for is in [1, 1, 0, 1, 0] {
            assert_eq!(steady.look(is, 3 * STEP, now), None);
            now += STEP;
        }
        let began = now;
        let told = (0..9).find_map(|_| {
            now += STEP;
            steady.look(1, 3 * STEP, now)
        });
        let told = told.unwrap();
        assert_eq!((told.from, told.to, told.since), (0, 1, began + STEP));
        assert_eq!(now, began + 4 * STEP);
        assert_eq!(steady.told(), 1);
    }

    #[test]
    fn what_flaps_is_told_a_few_times_and_once_more_when_it_is_over() {
        let (mut steady, mut now) = (Steady::new(0), Instant::now());
        let mut told = Vec::new();
        // Ten minutes: half a second bad, half a second good.
        for look in 0..1_200 {
            now += STEP;
            told.extend(steady.look(look % 2, NONE, now));
        }
        assert!((2..60).contains(&told.len()), "{}", told.len());
        // It is bad as far as anybody knows, most of the time.
        told.clear();
        for _ in 0..130 {
            now += STEP;
            told.extend(steady.look(0, NONE, now));
        }
        assert!(told.len() <= 1 && steady.told() == 0);
        // And as prompt as ever after it was calm.
        now += WINDOW + STEP;
        assert!(steady.look(1, NONE, now).is_some());
        assert!(steady.look(0, NONE, now + STEP).is_some());
    }

    #[test]
    fn worse_is_told_at_once_however_often() {
        let (mut steady, mut now) = (Steady::new(0), Instant::now());
        for _ in 0..20 {
            now += STEP;
            if steady.told() == 0 {
                assert!(steady.look(1, NONE, now).is_some());
            }
            steady.look(0, NONE, now + STEP);
            now += STEP;
        }
        let blips = steady.blips;
        assert_eq!(steady.look(1, NONE, now), None);
        assert!(steady.told() == 1 && steady.blips > blips);
        assert!(steady.look(2, NONE, now).is_some());
    }
}
