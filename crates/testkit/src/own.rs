use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::{Buf, BytesMut};
use media::Tag;
use rtmp::Client;
use rtmp::capabilities::Capabilities;
use rtmp::chunk::{Message, Phase, Reader};
use rtmp::session::Intent;
use rtmp::session::client::{Config, Event};

use crate::PATIENCE;

/// The server's side of the handshake: S0, S1 and S2.
const HANDSHAKE: usize = 1 + 2 * 1536;
/// How much of what the server sent is kept.
const MAX_RECEIVED: usize = 1 << 20;

/// A client of our own on a blocking socket, for what no real client does: it announces what a
/// test wants, stands still, guesses, or floods, and shows what it gets, tag by tag.
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
        Self::start(Config::new(intent, url.parse()?))
    }

    /// As [`OwnClient::connect`], with more to say than a URL.
    ///
    /// # Errors
    ///
    /// If there is no connection.
    pub fn start(config: Config) -> Result<Self> {
        let stream = TcpStream::connect((config.url.host.as_str(), config.url.port))?;
        Self::on(stream, config)
    }

    /// As [`OwnClient::start`], on a connection that was made by other means.
    ///
    /// # Errors
    ///
    /// If the connection is lost.
    pub fn on(stream: TcpStream, config: Config) -> Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let client = Client::new(config, [7; 32]);
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
        Self::announcing(url, intent, Capabilities::default())
    }

    /// As [`OwnClient::ready`], as one that announces this of Enhanced RTMP.
    ///
    /// # Panics
    ///
    /// If it is not let in.
    #[track_caller]
    pub fn announcing(url: &str, intent: Intent, capabilities: Capabilities) -> Self {
        let mut config = Config::new(intent, url.parse().expect("a URL"));
        config.capabilities = capabilities;
        let mut this = Self::start(config).expect("a connection");
        assert_eq!(this.next_event(), Event::Ready);
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

    /// The next event.
    ///
    /// # Panics
    ///
    /// If there is none within [`PATIENCE`], or the server has closed.
    #[track_caller]
    pub fn next_event(&mut self) -> Event {
        self.event(PATIENCE).expect("an event").expect("an event, not the end of the connection")
    }

    /// The next tags, as many as asked for.
    ///
    /// # Panics
    ///
    /// If something else comes first.
    #[track_caller]
    pub fn tags(&mut self, count: usize) -> Vec<Tag> {
        let mut tags = Vec::new();
        while tags.len() < count {
            match self.next_event() {
                Event::Tag(tag) => tags.push(tag),
                other => panic!("{other:?} after {} of {count} tags: {tags:?}", tags.len()),
            }
        }
        tags
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
                if self.received.len() < MAX_RECEIVED {
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

    /// Sends tags.
    ///
    /// # Panics
    ///
    /// If the connection is lost.
    #[track_caller]
    pub fn send_all(&mut self, tags: &[Tag]) {
        tags.iter().for_each(|tag| self.send(tag).expect("a server that reads"));
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    ///
    /// If the connection is lost.
    pub fn send_raw(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(bytes)?)
    }

    /// Says that it ends, and leaves once the server has read that.
    ///
    /// # Panics
    ///
    /// If the connection is lost.
    #[track_caller]
    pub fn close(mut self) {
        self.client.close();
        self.flush().expect("a server that reads");
        // Closing with unread input would reset the connection before all is read.
        let _ = self.stream.shutdown(std::net::Shutdown::Write);
        let _ = self.stream.set_read_timeout(Some(PATIENCE));
        while self.stream.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {}
    }

    /// The first MiB of what the server sent after the handshake.
    pub fn received(&self) -> &[u8] {
        self.received.get(HANDSHAKE..).unwrap_or_default()
    }

    /// The messages in [`OwnClient::received`].
    ///
    /// # Panics
    ///
    /// If they make no sense.
    pub fn messages(&self) -> Vec<Message> {
        let mut reader = Reader::new(rtmp::Limits::default());
        reader.set_phase(Phase::Authorised);
        let mut input = BytesMut::from(self.received());
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
