//! An encoder that was let in: its tags go to the hub until it leaves or is cut.

use std::time::{Duration, Instant};

use media::{Tag, Track};
use rtmp::session::server::Event;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use crate::config::Limits;
use crate::config::value::Span;
use crate::connection::{Connection, Error};
use crate::door::Encoder;

/// How long an encoder that was asked to connect again may take to leave.
pub const LEAVE: Duration = Duration::from_secs(2);
/// How often what is not there is looked for.
const TICK: Duration = Duration::from_secs(1);
/// The bitrate is an average over so many ticks.
const BITRATE_TICKS: usize = 10;

/// Carries one publication. `Ok(None)` if the encoder ended it and may publish again on the same
/// connection; else why it is over.
///
/// # Errors
///
/// [`Error`] if the connection ends in a way that nobody meant.
pub async fn run<S: AsyncRead + AsyncWrite + Unpin>(
    connection: &mut Connection<S>,
    encoder: Encoder,
    limits: &Limits,
    shutdown: &CancellationToken,
) -> Result<Option<&'static str>, Error> {
    let mut publisher = encoder.publisher;
    let mut shutdown = std::pin::pin!(shutdown.cancelled());
    // Once the node stops: until when the encoder may leave on its own.
    let mut leave_by = None::<Instant>;
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut quota = Quota::new(limits, Instant::now());
    loop {
        let event = tokio::select! {
            event = connection.event(limits.read_timeout) => event?,
            _ = tick.tick() => {
                let now = Instant::now();
                connection.ping_if_silent(now);
                quota.tick(now).map_err(|error| end(connection, error))?;
                continue;
            }
            cut = publisher.wait_cut() => {
                connection.session.end_publish("NetStream.Publish.BadName", &cut.to_string());
                return Ok(Some(match cut {
                    hub::Cut::TakenOver => "another encoder took over",
                    hub::Cut::Revoked => "the stream key was revoked",
                }));
            }
            () = &mut shutdown, if leave_by.is_none() => {
                if connection.session.request_reconnect(None, "the server is stopping") {
                    leave_by = Some(Instant::now() + LEAVE);
                    continue;
                }
                connection.session.end_publish("NetStream.Failed", "the server is stopping");
                return Ok(Some("this node is stopping"));
            }
            () = sleep_until(leave_by) => {
                connection.session.end_publish("NetStream.Failed", "the server is stopping");
                return Ok(Some("this node is stopping, and the encoder did not leave"));
            }
        };
        match event {
            Some(Event::Tag(tag)) => {
                let now = Instant::now();
                quota.count(&tag, now).map_err(|error| end(connection, error))?;
                // A cut is noticed by the next turn of the loop.
                let _ = publisher.push(tag, now);
            }
            Some(Event::Unpublished) | None if leave_by.is_some() => {
                return Ok(Some("this node is stopping, and the encoder left"));
            }
            Some(Event::Unpublished) => return Ok(None),
            Some(_) => {}
            None => return Ok(Some("the encoder left")),
        }
    }
}

/// Waits until then; without a time, for ever.
async fn sleep_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

/// Tells the encoder why its publication ends.
fn end<S>(connection: &mut Connection<S>, error: Error) -> Error {
    connection.session.end_publish("NetStream.Publish.Rejected", &error.to_string());
    error
}

/// What a publication has taken of what it may.
struct Quota<'a> {
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
    fn new(limits: &'a Limits, now: Instant) -> Self {
        let before = [0; BITRATE_TICKS - 1];
        let left = allowed(limits);
        Self { limits, started: now, last_media: now, bytes: 0, before, left }
    }

    fn count(&mut self, tag: &Tag, now: Instant) -> Result<(), Error> {
        if tag.track != Track::Data && !tag.is_header() {
            self.last_media = now;
        }
        self.bytes += tag.body.len() as u64;
        if self.bytes > self.left {
            return Err(Error::Bitrate(self.limits.max_bitrate));
        }
        Ok(())
    }

    fn tick(&mut self, now: Instant) -> Result<(), Error> {
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
