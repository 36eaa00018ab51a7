//! Bounds on what strangers and tenants may take.

use std::time::Duration;

use serde::Deserialize;

use super::{ConfigError, at_least, at_most, duration, within};

/// Bounds on what strangers and tenants may take.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Connections of encoders and players together.
    pub connections: usize,
    /// Connections of one address that have not shown a valid key yet.
    pub unauthenticated_per_ip: usize,
    /// From a connection's first byte to the end of its handshake.
    #[serde(deserialize_with = "duration")]
    pub handshake: Duration,
    /// From a connection's first byte to a valid key.
    #[serde(deserialize_with = "duration")]
    pub authorise: Duration,
    /// Silence after which an encoder is taken for gone.
    #[serde(deserialize_with = "duration")]
    pub read_timeout: Duration,
    /// Standstill after which a player is taken for gone.
    #[serde(deserialize_with = "duration")]
    pub write_timeout: Duration,
    /// Studios connected to a relay at one time.
    pub studios: usize,
    /// Feeds of one studio.
    pub feeds_per_studio: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1000,
            unauthenticated_per_ip: 16,
            handshake: Duration::from_secs(5),
            authorise: Duration::from_secs(10),
            read_timeout: Duration::from_secs(15),
            write_timeout: Duration::from_secs(10),
            studios: 64,
            feeds_per_studio: 64,
        }
    }
}

impl Limits {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        at_least("limits.connections", self.connections, 1)?;
        at_least("limits.unauthenticated_per_ip", self.unauthenticated_per_ip, 1)?;
        at_least("limits.studios", self.studios, 1)?;
        at_least("limits.feeds_per_studio", self.feeds_per_studio, 1)?;
        at_most("limits.feeds_per_studio", self.feeds_per_studio, 256)?;
        let second = Duration::from_secs(1);
        within("limits.handshake", self.handshake, second, 60 * second)?;
        within("limits.authorise", self.authorise, self.handshake, 120 * second)?;
        within("limits.read_timeout", self.read_timeout, second, 600 * second)?;
        within("limits.write_timeout", self.write_timeout, second, 600 * second)
    }
}
