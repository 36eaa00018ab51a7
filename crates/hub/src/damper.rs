use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Takeovers from an active publisher within [`WINDOW`] that make a fight of it. An encoder that
/// lost its network comes back a few times a minute at most.
const FIGHT: usize = 5;
const WINDOW: Duration = Duration::from_secs(60);

/// Notices two encoders that take one feed from each other for ever.
#[derive(Debug, Default)]
pub(crate) struct Damper {
    takeovers: VecDeque<Instant>,
}

impl Damper {
    /// Whether one more takeover from an active publisher is allowed now; counts it if so.
    pub(crate) fn allow(&mut self, now: Instant) -> bool {
        while self.takeovers.front().is_some_and(|at| now.saturating_duration_since(*at) > WINDOW) {
            self.takeovers.pop_front();
        }
        let is_allowed = self.takeovers.len() < FIGHT;
        if is_allowed {
            self.takeovers.push_back(now);
        }
        is_allowed
    }

    /// Whether a fight is going on.
    pub(crate) fn is_fight(&self, now: Instant) -> bool {
        self.takeovers.len() >= FIGHT
            && self.takeovers.front().is_some_and(|at| now.saturating_duration_since(*at) <= WINDOW)
    }
}
