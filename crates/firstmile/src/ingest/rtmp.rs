//! An encoder that was let in: its tags go to the hub until it leaves or is cut.

use std::time::{Duration, Instant};

use rtmp::session::server::Event;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::quota::{Quota, TICK};
use crate::config::Limits;
use crate::connection::{Connection, Error};
use crate::door::Encoder;

/// How long an encoder that was asked to connect again may take to leave.
pub const LEAVE: Duration = Duration::from_secs(2);

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
            Some(Event::Unpublished) => {
                publisher.stop();
                return Ok(None);
            }
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
