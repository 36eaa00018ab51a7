//! What a feed is doing, in figures.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use media::video::Resolution;
use media::{Codec, PublicationId, Track, TrackSet};

use super::{Feed, STALLED_AFTER};
use crate::pace::Stalls;
use crate::ring::Entry;

/// Rates are averages over this.
const RATE_WINDOW: Duration = Duration::from_secs(2);

/// What a feed is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No encoder: it has ended its stream, or is not awaited any more.
    Waiting,
    /// Tags come in.
    Live,
    /// An encoder is there, and sends nothing.
    Stalled,
    /// The encoder, or the way to it, was lost, and players are held.
    Reconnecting,
}

/// What a feed was doing at one instant.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// What the feed is doing.
    pub state: State,
    /// The publication on air.
    pub publication: Option<PublicationId>,
    /// How long it has been on air.
    pub on_air_for: Option<Duration>,
    /// Each track's figures.
    pub tracks: TrackSet<TrackStats>,
    /// The picture's size, where the sequence header says it.
    pub resolution: Option<Resolution>,
    /// Milliseconds that the latest tag was late by the encoder's own clock.
    pub encoder_growth_ms: Option<i64>,
    /// How often the way from the encoder stalled in the last minute.
    pub stalls: Option<Stalls>,
    /// How far apart its keyframes are, by its own clock.
    pub keyframe_interval: Option<Duration>,
    /// Bytes in the ring's live part.
    pub ring_bytes: usize,
    /// Bytes in its spool.
    pub spool_bytes: usize,
    /// The age of the oldest tag in memory.
    pub oldest: Option<Duration>,
    /// Subscribers there are.
    pub subscribers: usize,
    /// Tags that subscribers skipped, since the feed was made.
    pub skipped: u64,
    /// Whether two encoders are fighting over the feed.
    pub is_fought: bool,
}

/// One track's figures.
#[derive(Clone, Copy, Debug, Default)]
pub struct TrackStats {
    /// How the track is coded.
    pub codec: Option<Codec>,
    /// Tags since the feed was made.
    pub tags: u64,
    /// Bytes since the feed was made.
    pub bytes: u64,
    /// Bits per second over the last two seconds.
    pub bits_per_second: f64,
    /// Tags of the main track without headers per second over the last two seconds.
    pub tags_per_second: f64,
}

impl Feed {
    /// What the feed is doing.
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        let inner = self.lock();
        let on_air = inner.on_air.as_ref();
        let state = match (on_air, inner.ended) {
            (Some(on_air), _) if on_air.is_interrupted => State::Reconnecting,
            (Some(on_air), _) if on_air.silence(now) < STALLED_AFTER => State::Live,
            (Some(_), _) => State::Stalled,
            (None, Some(ended))
                if inner.stopped.is_none()
                    && now.saturating_duration_since(ended) < self.0.limits.hold =>
            {
                State::Reconnecting
            }
            (None, _) => State::Waiting,
        };
        let mut tracks = TrackSet::<TrackStats>::default();
        for track in Track::ALL {
            tracks[track] = TrackStats {
                codec: on_air.and_then(|on_air| on_air.codecs[track]),
                tags: inner.totals[track].tags,
                bytes: inner.totals[track].bytes,
                ..TrackStats::default()
            };
        }
        let is_recent = |entry: &Entry| now.saturating_duration_since(entry.arrival) <= RATE_WINDOW;
        let recent = inner.ring.range(inner.ring.front()).rev();
        for (_, entry) in recent.take_while(|(_, entry)| is_recent(entry)) {
            let track = &mut tracks[entry.tag.track];
            track.bits_per_second += entry.tag.body.len() as f64 * 8.0 / RATE_WINDOW.as_secs_f64();
            if !entry.tag.is_header() && entry.tag.tracks.has_main() {
                track.tags_per_second += 1.0 / RATE_WINDOW.as_secs_f64();
            }
        }
        Snapshot {
            state,
            publication: on_air.map(|on_air| on_air.publication),
            on_air_for: on_air.map(|on_air| now.saturating_duration_since(on_air.started)),
            tracks,
            resolution: on_air.and_then(|on_air| on_air.resolution),
            encoder_growth_ms: on_air.map(|on_air| on_air.pace.growth()),
            stalls: on_air.map(|on_air| on_air.pace.stalls(now)),
            keyframe_interval: on_air
                .and_then(|on_air| on_air.gop.interval())
                .map(|ms| Duration::from_millis(ms.unsigned_abs())),
            ring_bytes: inner.ring.bytes(),
            spool_bytes: inner.ring.spool_bytes(),
            oldest: inner.ring.oldest().map(|oldest| now.saturating_duration_since(oldest)),
            subscribers: self.0.subscribers.load(Ordering::Relaxed),
            skipped: self.0.skipped.load(Ordering::Relaxed),
            is_fought: inner.damper.is_fight(now),
        }
    }
}
