//! An encoder that was let in: its tags go to the hub until it leaves or is cut.

use std::time::Instant;

use rtmp::session::server::Event;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use crate::config::Limits;
use crate::connection::{Connection, Error};
use crate::door::Encoder;

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
    loop {
        let event = tokio::select! {
            event = connection.event(limits.read_timeout) => event?,
            cut = publisher.wait_cut() => {
                connection.session.end_publish("NetStream.Publish.BadName", &cut.to_string());
                return Ok(Some(match cut {
                    hub::Cut::TakenOver => "another encoder took over",
                    hub::Cut::Revoked => "the stream key was revoked",
                }));
            }
            () = &mut shutdown => {
                connection.session.end_publish("NetStream.Failed", "the server is stopping");
                return Ok(Some("this node is stopping"));
            }
        };
        match event {
            Some(Event::Tag(tag)) => {
                // A cut is noticed by the next turn of the loop.
                let _ = publisher.push(tag, Instant::now());
            }
            Some(Event::Unpublished) => return Ok(None),
            Some(_) => {}
            None => return Ok(Some("the encoder left")),
        }
    }
}
