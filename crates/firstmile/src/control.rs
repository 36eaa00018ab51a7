//! The control stream of a link: who says what on it is decided elsewhere.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use backhaul::{Event, Message, Session};
use tokio::sync::Notify;

use crate::link::{RecvStream, SendStream};

/// Bytes read from the stream at a time.
const READ: usize = 64 << 10;
/// Bytes that may wait for a peer that does not read: some full lists of feeds.
const MAX_UNSENT: usize = 1 << 20;
const UNREAD: &str = "the peer does not read what is said to it";

/// The control stream with one owner.
#[derive(Debug)]
pub struct Control {
    /// The conversation on it.
    pub session: Session,
    /// To the peer.
    pub send: SendStream,
    /// From the peer.
    pub receive: RecvStream,
}

impl Control {
    /// Reads until the peer has said something.
    ///
    /// # Errors
    ///
    /// If the link is lost, the peer ends its stream, or breaks the protocol.
    pub async fn event(&mut self) -> Result<Event> {
        loop {
            if let Some(event) = self.session.poll_event()? {
                return Ok(event);
            }
            let chunk = self.receive.read_chunk(READ).await?;
            let chunk = chunk.context("the peer ended the conversation")?;
            self.session.handle_input(&chunk);
        }
    }

    /// Writes what the session has to say.
    ///
    /// # Errors
    ///
    /// If the link is lost.
    pub async fn flush(&mut self) -> Result<()> {
        let output = self.session.take_output();
        if !output.is_empty() {
            self.send.write_chunk(output).await?;
        }
        Ok(())
    }

    /// Parts what is read from what is said, so that neither waits for the other.
    pub fn split(self) -> (Outbox, SendStream, RecvStream) {
        let shared = Shared {
            session: Mutex::new(self.session),
            said: Notify::new(),
            taken: Notify::new(),
            overrun: Notify::new(),
        };
        (Outbox(Arc::new(shared)), self.send, self.receive)
    }
}

/// What is to be said to a peer. Saying something never waits; clones say it to the same peer.
#[derive(Clone, Debug)]
pub struct Outbox(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    session: Mutex<Session>,
    said: Notify,
    /// Told when nothing waits any longer.
    taken: Notify,
    /// Told when more waits than may.
    overrun: Notify,
}

impl Outbox {
    /// Says something; without effect once the session is over, or so much waits that it will be.
    pub fn say(&self, message: &Message) {
        let mut session = self.session();
        if session.unsent() <= MAX_UNSENT {
            session.send(message);
        }
        let is_overrun = session.unsent() > MAX_UNSENT;
        drop(session);
        self.0.said.notify_one();
        if is_overrun {
            self.0.overrun.notify_one();
        }
    }

    /// Waits until what was said is on its way, so that the next word can be the latest. For one caller at
    /// a time.
    pub async fn taken(&self) {
        while self.session().unsent() > 0 {
            self.0.taken.notified().await;
        }
    }

    /// Reads until the peer has said something.
    ///
    /// # Errors
    ///
    /// If the link is lost, the peer ends its stream, or breaks the protocol.
    pub async fn hear(&self, receive: &mut RecvStream) -> Result<Event> {
        loop {
            if let Some(event) = self.session().poll_event()? {
                return Ok(event);
            }
            let chunk = receive.read_chunk(READ).await?;
            let chunk = chunk.context("the peer ended the conversation")?;
            self.session().handle_input(&chunk);
        }
    }

    /// Writes what is said, for ever.
    ///
    /// # Errors
    ///
    /// If the link is lost, or the peer reads nothing of it: for `patience`, if there is one, or until too
    /// much waits.
    pub async fn write(&self, send: &mut SendStream, patience: Option<Duration>) -> Result<()> {
        loop {
            let output = self.session().take_output();
            self.0.taken.notify_one();
            if output.is_empty() {
                self.0.said.notified().await;
                continue;
            }
            if output.len() > MAX_UNSENT {
                bail!(UNREAD);
            }
            // More may be said while the peer takes nothing.
            tokio::select! {
                biased;
                written = send.write_chunk(output) => written?,
                () = self.0.overrun.notified() => bail!(UNREAD),
                () = pass(patience) => bail!(UNREAD),
            }
        }
    }

    fn session(&self) -> MutexGuard<'_, Session> {
        self.0.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn pass(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use backhaul::{FeedProblem, Hello, VERSION, Welcome};

    use super::*;

    #[test]
    fn what_waits_for_a_peer_is_bounded() {
        let (versions, instance) = (vec![VERSION], [1; 16]);
        let (agent, name, invite) = (String::new(), String::new(), String::new());
        let mut peer = Session::dial(Hello { versions, instance, agent, name, invite });
        let mut session = Session::accept();
        session.handle_input(&peer.take_output());
        assert!(matches!(session.poll_event(), Ok(Some(Event::Hello(_)))));
        session.welcome(Welcome {
            version: VERSION,
            agent: String::new(),
            host: String::new(),
            rtmp_port: 1_935,
            rtmps_port: None,
            region: String::new(),
            measures: false,
        });
        let (said, taken, overrun) = (Notify::new(), Notify::new(), Notify::new());
        let session = Mutex::new(session);
        let outbox = Outbox(Arc::new(Shared { session, said, taken, overrun }));
        let text = "x".repeat(1_000);
        let message = Message::FeedProblem(FeedProblem { name: "camera".into(), text });
        for _ in 0..10_000 {
            outbox.say(&message);
        }
        let unsent = outbox.session().unsent();
        assert!((MAX_UNSENT..MAX_UNSENT + 2_000).contains(&unsent), "{unsent} bytes");
    }
}
