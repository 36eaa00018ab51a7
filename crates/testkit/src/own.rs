use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::{Buf, BytesMut};
use media::Tag;
use rtmp::Client;
use rtmp::chunk::{Message, Phase, Reader};
use rtmp::session::Intent;
use rtmp::session::client::{Config, Event};

use crate::PATIENCE;

/// The server's side of the handshake: S0, S1 and S2.
const HANDSHAKE: usize = 1 + 2 * 1536;

/// A client of our own, for what no real client does: it stands still, guesses, or floods.
///
/// It runs only while one of its methods does.
pub struct OwnClient {
    stream: TcpStream,
    client: Client,
    input: BytesMut,
    received: Vec<u8>,
}

impl OwnClient {
    /// Connects; nothing is waited for.
    ///
    /// # Errors
    ///
    /// If there is no connection.
    pub fn connect(url: &str, intent: Intent) -> Result<Self> {
        let url: rtmp::name::Url = url.parse()?;
        let stream = TcpStream::connect((url.host.as_str(), url.port))?;
        Self::on(stream, url, intent)
    }

    /// As [`OwnClient::connect`], on a connection that was made by other means.
    ///
    /// # Errors
    ///
    /// If the connection is lost.
    pub fn on(stream: TcpStream, url: rtmp::name::Url, intent: Intent) -> Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let client = Client::new(Config::new(intent, url), [7; 32]);
        let mut this = Self { stream, client, input: BytesMut::new(), received: Vec::new() };
        this.flush()?;
        Ok(this)
    }

    /// Connects and waits until it is let in.
    ///
    /// # Panics
    ///
    /// If it is not.
    #[track_caller]
    pub fn ready(url: &str, intent: Intent) -> Self {
        let mut this = Self::connect(url, intent).expect("a connection");
        assert_eq!(this.event(PATIENCE).expect("an answer"), Some(Event::Ready));
        this
    }

    /// The next event; `None` once the server has closed.
    ///
    /// # Errors
    ///
    /// If there is none within `patience`.
    pub fn event(&mut self, patience: Duration) -> Result<Option<Event>> {
        let start = Instant::now();
        loop {
            if let Some(event) = self.client.poll_event() {
                return Ok(Some(event));
            }
            let left = patience.checked_sub(start.elapsed()).filter(|left| !left.is_zero());
            let left = left.context("nothing happened in time")?;
            if !self.read(left)? {
                return Ok(None);
            }
        }
    }

    /// Reads once, answers what wants an answer; `false` once the server has closed.
    ///
    /// # Errors
    ///
    /// If the server makes no sense. That nothing comes within `patience` is none.
    pub fn read(&mut self, patience: Duration) -> Result<bool> {
        self.stream.set_read_timeout(Some(patience))?;
        let mut buffer = [0; 16 << 10];
        match self.stream.read(&mut buffer) {
            Ok(0) => return Ok(false),
            Ok(length) => {
                if self.received.len() < 1 << 20 {
                    self.received.extend_from_slice(&buffer[..length]);
                }
                self.input.extend_from_slice(&buffer[..length]);
                self.client.handle_input(&mut self.input)?;
            }
            Err(error) => match error.kind() {
                std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => {}
                std::io::ErrorKind::ConnectionReset => return Ok(false),
                _ => bail!(error),
            },
        }
        // A server that has just closed does not mind.
        let _ = self.flush();
        Ok(true)
    }

    /// Sends a tag.
    ///
    /// # Errors
    ///
    /// If the connection is lost.
    pub fn send(&mut self, tag: &Tag) -> Result<()> {
        self.client.send_tag(tag);
        self.flush()
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    ///
    /// If the connection is lost.
    pub fn send_raw(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(bytes)?)
    }

    /// The messages in the first MiB of what the server sent.
    ///
    /// # Panics
    ///
    /// If they make no sense.
    pub fn messages(&self) -> Vec<Message> {
        let mut reader = Reader::new(rtmp::Limits::default());
        reader.set_phase(Phase::Authorised);
        let mut input = BytesMut::from(self.received.get(HANDSHAKE..).unwrap_or_default());
        std::iter::from_fn(|| reader.read(&mut input).expect("chunks that make sense")).collect()
    }

    /// The address that the server sees.
    ///
    /// # Panics
    ///
    /// If the socket has none.
    pub fn address(&self) -> std::net::SocketAddr {
        self.stream.local_addr().expect("a connected socket")
    }

    fn flush(&mut self) -> Result<()> {
        let queue = self.client.send_queue();
        while queue.has_remaining() {
            let written = self.stream.write(queue.chunk())?;
            queue.advance(written);
        }
        Ok(())
    }
}
