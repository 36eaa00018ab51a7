//! The way between studio and relay.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use super::value::Span;
use super::{ConfigError, duration, within};
use crate::link::Transports;
use crate::quic::Congestion;
use crate::secret::FeedName;

/// The way between studio and relay, at a relay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Backhaul {
    /// What decides how fast this end sends.
    pub congestion: Congestion,
}

/// The same at a studio, and how feeds come.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StudioBackhaul {
    /// What carries the links to relays.
    pub transport: Transports,
    /// What decides how fast this end sends.
    pub congestion: Congestion,
    /// How late a feed may come before its relay skips to the newest keyframe.
    #[serde(deserialize_with = "duration")]
    pub max_delay: Duration,
    /// The same for single feeds.
    #[serde(deserialize_with = "durations")]
    pub feed_delays: BTreeMap<FeedName, Duration>,
}

impl Default for StudioBackhaul {
    fn default() -> Self {
        Self {
            transport: Transports::default(),
            congestion: Congestion::default(),
            max_delay: Duration::from_secs(2),
            feed_delays: BTreeMap::new(),
        }
    }
}

impl StudioBackhaul {
    /// How late this feed may come.
    pub fn delay_of(&self, feed: &str) -> Duration {
        let own = self.feed_delays.iter().find(|(name, _)| name.as_str() == feed);
        own.map_or(self.max_delay, |(_, delay)| *delay)
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let (least, most) = (Duration::from_millis(200), Duration::from_secs(60));
        within("backhaul.max_delay", self.max_delay, least, most)?;
        self.feed_delays
            .values()
            .try_for_each(|delay| within("backhaul.feed_delays", *delay, least, most))
    }
}

fn durations<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<FeedName, Duration>, D::Error> {
    let spans = BTreeMap::<FeedName, Span>::deserialize(deserializer)?;
    Ok(spans.into_iter().map(|(name, Span(delay))| (name, delay)).collect())
}
