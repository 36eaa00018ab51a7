//! What one publication may take: its bitrate, its length, and how long it may be without media.

use std::time::{Duration, Instant};

use media::{Tag, Track};

use crate::config::Limits;
use crate::config::value::Span;
use crate::connection::Error;

/// How often [`Quota::tick`] is to be called.
pub(super) const TICK: Duration = Duration::from_secs(1);
/// The bitrate is an average over so many ticks.
const BITRATE_TICKS: usize = 10;

/// What a publication has taken of what it may.
pub(super) struct Quota<'a> {
    limits: &'a Limits,
    started: Instant,
    last_media: Instant,
    /// Bytes of the present tick, and of those before.
    bytes: u64,
    before: [u64; BITRATE_TICKS - 1],
    /// Bytes that are left until the bitrate is too high.
    left: u64,
}

impl<'a> Quota<'a> {
    pub(super) fn new(limits: &'a Limits, now: Instant) -> Self {
        let before = [0; BITRATE_TICKS - 1];
        let left = allowed(limits);
        Self { limits, started: now, last_media: now, bytes: 0, before, left }
    }

    pub(super) fn count(&mut self, tag: &Tag, now: Instant) -> Result<(), Error> {
        if tag.track != Track::Data && !tag.is_header() {
            self.last_media = now;
        }
        self.bytes += tag.body.len() as u64;
        if self.bytes > self.left {
            return Err(Error::Bitrate(self.limits.max_bitrate));
        }
        Ok(())
    }

    pub(super) fn tick(&mut self, now: Instant) -> Result<(), Error> {
        self.before.rotate_right(1);
        self.before[0] = std::mem::take(&mut self.bytes);
        self.left = allowed(self.limits).saturating_sub(self.before.iter().sum());
        let age = now.saturating_duration_since(self.started);
        match self.limits.max_duration {
            Some(max) if age >= max => return Err(Error::Duration(Span(max))),
            _ => {}
        }
        let silence = now.saturating_duration_since(self.last_media);
        if silence >= self.limits.media_timeout {
            return Err(Error::NoMedia(self.limits.media_timeout));
        }
        Ok(())
    }
}

/// Bytes in all the ticks that the bitrate is measured over.
fn allowed(limits: &Limits) -> u64 {
    limits.max_bitrate.0 / 8 * BITRATE_TICKS as u64 * TICK.as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::value::BitRate;

    fn limits() -> Limits {
        let max_duration = Some(Duration::from_secs(60));
        Limits { max_bitrate: BitRate(80_000), max_duration, ..Limits::default() }
    }

    fn video(size: usize) -> Tag {
        let mut body = vec![0; size];
        body[..2].copy_from_slice(&[0x27, 1]);
        Tag::new(Track::Video, 0, body.into())
    }

    #[test]
    fn the_bitrate_is_measured_over_ten_seconds() {
        let (limits, start) = (limits(), Instant::now());
        let mut quota = Quota::new(&limits, start);
        // 10 kB a second, and 100 kB in ten.
        for _ in 0..3 {
            for _ in 0..9 {
                quota.tick(start).unwrap();
            }
            quota.count(&video(100_000), start).unwrap();
            quota.tick(start).unwrap();
        }
        assert!(matches!(quota.count(&video(2), start), Err(Error::Bitrate(_))));
    }

    #[test]
    fn headers_and_metadata_are_no_media() {
        let (limits, start) = (limits(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut quota = Quota::new(&limits, start);
        quota.count(&video(10), at(20)).unwrap();
        quota.tick(at(49)).unwrap();
        let header = Tag::new(Track::Video, 0, vec![0x17, 0, 0, 0, 0, 1].into());
        quota.count(&header, at(49)).unwrap();
        quota.count(&Tag::new(Track::Data, 0, b"\x02\x00\x01x"[..].into()), at(49)).unwrap();
        assert!(matches!(quota.tick(at(50)), Err(Error::NoMedia(_))));
    }

    #[test]
    fn a_publication_may_have_a_longest_time() {
        let (limits, start) = (limits(), Instant::now());
        let mut quota = Quota::new(&limits, start);
        quota.count(&video(10), start + Duration::from_secs(59)).unwrap();
        quota.tick(start + Duration::from_secs(59)).unwrap();
        let error = quota.tick(start + Duration::from_secs(60)).unwrap_err();
        assert_eq!(error.to_string(), "it was on air for 1m, the limit here");
    }
}
