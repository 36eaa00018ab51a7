//! What a relay keeps for studios that are away.

use std::time::Duration;

use serde::Deserialize;

use super::{ConfigError, duration, size, within};
use crate::spool::Bounds;

/// The least that a disk is worth its while for: under a minute of two feeds.
const MIN_DISK: u64 = 64 << 20;

/// How much of the past a relay keeps.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Spool {
    /// How long in memory, as far as the ring's `total_bytes` have room.
    #[serde(deserialize_with = "duration")]
    pub memory: Duration,
    /// Bytes on disk; 0 for none.
    #[serde(deserialize_with = "size")]
    pub disk: u64,
    /// Bytes of that disk that are left to others.
    #[serde(deserialize_with = "size")]
    pub keep_free: u64,
    /// How long in all.
    #[serde(deserialize_with = "duration")]
    pub disk_time: Duration,
}

impl Default for Spool {
    fn default() -> Self {
        Self {
            memory: Duration::from_secs(60),
            disk: 4 << 30,
            keep_free: 1 << 30,
            disk_time: Duration::from_secs(600),
        }
    }
}

impl Spool {
    /// No more than what the rings have.
    pub fn none() -> Self {
        Self { memory: Duration::ZERO, disk: 0, ..Self::default() }
    }

    /// The spool's bounds beside a hub with so much memory.
    pub fn bounds(&self, memory: usize) -> Bounds {
        Bounds {
            memory: self.memory,
            disk: self.disk,
            keep_free: self.keep_free,
            disk_time: self.disk_time,
            // Seconds of all feeds, while the disk is busy; a small part of the memory there is.
            pending: (memory / 8).clamp(16 << 20, 256 << 20),
        }
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let minute = Duration::from_secs(60);
        within("spool.memory", self.memory, Duration::ZERO, 60 * minute)?;
        within("spool.disk_time", self.disk_time, minute / 6, 24 * 60 * minute)?;
        if (1..MIN_DISK).contains(&self.disk) {
            return Err(ConfigError::value("spool.disk", "it must be 0, or at least 64 MiB"));
        }
        if self.disk > 0 && self.disk_time < self.memory {
            let message = "it must be at least spool.memory: it counts from the arrival";
            return Err(ConfigError::value("spool.disk_time", message));
        }
        Ok(())
    }
}
