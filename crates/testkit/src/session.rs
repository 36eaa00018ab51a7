//! Our own client on a blocking socket, for what no real client does: it announces what a test
//! wants, sends the bytes that a test wants, and shows what it gets, tag by tag.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use media::Tag;
use rtmp::capabilities::Capabilities;
use rtmp::name::Url;
use rtmp::session::client::{Config, Event};
use rtmp::session::{Client, Intent};

use crate::PATIENCE;

/// A client session that publishes or plays.
///
/// Its methods panic with what went wrong, as those of a test do.
#[derive(Debug)]
pub struct Session {
    client: Client,
    socket: TcpStream,
    input: BytesMut,
}

impl Session {
    /// Connects as an encoder that announces this; returns once it may send.
    #[track_caller]
    pub fn publish(url: &str, capabilities: Capabilities) -> Self {
        Self::ready(url, Intent::Publish, capabilities)
    }

    /// Connects as a player that announces this; returns once it was let in.
    #[track_caller]
    pub fn play(url: &str, capabilities: Capabilities) -> Self {
        Self::ready(url, Intent::Play, capabilities)
    }

    #[track_caller]
    fn ready(url: &str, intent: Intent, capabilities: Capabilities) -> Self {
        let url: Url = url.parse().expect("a URL");
        let socket = TcpStream::connect((url.host.as_str(), url.port)).expect("a connection");
        socket.set_nodelay(true).expect("a socket");
        let mut config = Config::new(intent, url);
        config.capabilities = capabilities;
        let client = Client::new(config, [7; 32]);
        let mut session = Self { client, socket, input: BytesMut::new() };
        assert_eq!(session.event(), Event::Ready);
        session
    }

    /// Sends a tag.
    #[track_caller]
    pub fn send(&mut self, tag: &Tag) {
        self.client.send_tag(tag);
        self.flush();
    }

    /// The next event.
    #[track_caller]
    pub fn event(&mut self) -> Event {
        self.try_event().expect("an event, not the end of the connection")
    }

    /// The next event; `None` once the server has closed.
    #[track_caller]
    pub fn try_event(&mut self) -> Option<Event> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.flush();
            if let Some(event) = self.client.poll_event() {
                return Some(event);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let left = left.max(Duration::from_millis(1));
            self.socket.set_read_timeout(Some(left)).expect("a socket");
            let mut buffer = [0; 16 << 10];
            match self.socket.read(&mut buffer).expect("an event in time") {
                0 => return None,
                count => self.input.extend_from_slice(&buffer[..count]),
            }
            self.client.handle_input(&mut self.input).expect("a server that keeps the rules");
        }
    }

    /// The next tags, as many as asked for.
    #[track_caller]
    pub fn tags(&mut self, count: usize) -> Vec<Tag> {
        let mut tags = Vec::new();
        while tags.len() < count {
            match self.event() {
                Event::Tag(tag) => tags.push(tag),
                other => panic!("{other:?} after {} of {count} tags: {tags:?}", tags.len()),
            }
        }
        tags
    }

    /// Says that it ends, and leaves.
    #[track_caller]
    pub fn close(mut self) {
        self.client.close();
        self.flush();
        // Closing with unread input would reset the connection before all is read.
        let _ = self.socket.shutdown(std::net::Shutdown::Write);
        let _ = self.socket.set_read_timeout(Some(PATIENCE));
        while self.socket.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {}
    }

    #[track_caller]
    fn flush(&mut self) {
        let queue = self.client.send_queue();
        while queue.has_remaining() {
            let count = self.socket.write(queue.chunk()).expect("a server that reads");
            queue.advance(count);
        }
    }
}
