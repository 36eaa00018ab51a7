//! The server's end: accepts one encoder or player.

mod commands;

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use media::Tag;

use super::connection::Connection;
use super::link::{Control, Link};
use super::{Intent, Rejection, Request};
use crate::adobe::{Claim, Refusal};
use crate::amf0::{self, Value};
use crate::capabilities::CapsEx;
use crate::chunk::{Message, Phase};
use crate::command::{Command, information};
use crate::message::{self, Demuxer, event};
use crate::trace::Trace;
use crate::{Error, Limits, SendQueue, handshake, limits};

/// How a server session behaves.
#[derive(Clone, Debug)]
pub struct Config {
    /// Bytes of payload in the chunks that this end sends. FFmpeg adopts it for its own.
    pub chunk_size: u32,
    /// Bytes that the client may have unacknowledged, and shall let us have.
    pub window: u32,
    /// What the client may make this end hold in memory.
    pub limits: Limits,
    /// Whether users may prove who they are, and those who connect to
    /// [`adobe::APP`](crate::adobe::APP) must.
    pub adobe: bool,
}

impl Default for Config {
    fn default() -> Self {
        let limits = Limits::default();
        Self { chunk_size: 60_000, window: 2_500_000, limits, adobe: false }
    }
}

/// What the client did.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// It connects as a user; answer with [`Server::admit`] or [`Server::refuse`], and then hand in
    /// once more what [`Server::handle_input`] left.
    Authenticate(Claim),
    /// It wants to publish or play; answer with [`Server::accept`] or [`Server::reject`].
    Request(Request),
    /// It sent a tag.
    Tag(Tag),
    /// The encoder ended its publication, or withdrew its request. It may request again.
    Unpublished,
    /// The player left, or withdrew its request. It may request again.
    Stopped,
    /// The player paused, or plays on; playing on starts best at a keyframe.
    Paused(bool),
    /// Whether the player wants audio.
    ReceiveAudio(bool),
    /// Whether the player wants video; wanting it again starts best at a keyframe.
    ReceiveVideo(bool),
    /// So many of the bytes sent to it, in all, have arrived.
    Acknowledged(u64),
}

/// The server's end of a connection, for one encoder or player.
///
/// ```text
/// Handshake -> Connecting -> Idle -> Pending -> Publishing -> Idle ...
///               |      ^                |  \--> Playing ----> Idle ...
///               v      |                \-----> Closed
///             Authenticating -> Closed
/// ```
#[derive(Debug)]
pub struct Server {
    config: Config,
    handshake: Option<handshake::Server>,
    link: Link,
    events: VecDeque<Event>,
    connection: Option<Connection>,
    stage: Stage,
    demuxer: Demuxer,
    last_message_stream_id: u32,
    /// Requests since the last one that was accepted.
    unanswered: usize,
    /// Messages that came in aggregates.
    aggregated: u64,
    commands: u64,
    failed: bool,
}

#[derive(Debug)]
enum Stage {
    /// Nothing is published or played.
    Idle,
    /// It waits to hear whether it may connect.
    Authenticating,
    /// A request waits for its answer; encoders may send before they have it.
    Pending {
        stream: Stream,
        intent: Intent,
        held: Vec<Tag>,
        held_bytes: usize,
    },
    Publishing(Stream),
    Playing(Stream),
    /// Refused or ended by this end: what the client still says is not heard.
    Closed,
}

/// The message stream of the current request.
#[derive(Clone, Debug)]
struct Stream {
    id: u32,
    name: String,
}

/// What a held tag costs beside its body.
const TAG_OVERHEAD: usize = 128;

impl Server {
    /// A session for a new connection; all its randomness comes from `seed`.
    pub fn new(config: Config, seed: [u8; 32]) -> Self {
        Self {
            handshake: Some(handshake::Server::new(seed)),
            link: Link::new(config.limits.clone()),
            config,
            events: VecDeque::new(),
            connection: None,
            stage: Stage::Idle,
            demuxer: Demuxer::default(),
            last_message_stream_id: 0,
            unanswered: 0,
            aggregated: 0,
            commands: 0,
            failed: false,
        }
    }

    /// Consumes whole chunks from `input` and leaves an incomplete header in it; after
    /// [`Event::Authenticate`] everything that follows.
    ///
    /// # Errors
    ///
    /// Why the session is over; what is in the send queue may still be flushed.
    pub fn handle_input(&mut self, input: &mut BytesMut) -> Result<(), Error> {
        if self.failed {
            return Err(Error::Misused("input after an error"));
        }
        let result = self.try_handle_input(input);
        if let Err(error) = &result {
            self.failed = true;
            if let Some(trace) = self.link.reader.trace() {
                trace.note(&error.to_string());
            }
        }
        result
    }

    fn try_handle_input(&mut self, input: &mut BytesMut) -> Result<(), Error> {
        if let Some(handshake) = &mut self.handshake {
            if !self.link.shake_hands(input, |input, send| handshake.handle_input(input, send))? {
                return Ok(());
            }
            self.handshake = None;
        }
        while !matches!(self.stage, Stage::Closed | Stage::Authenticating) {
            let Some(message) = self.link.read(input)? else {
                return Ok(());
            };
            self.handle_message(&message)?;
        }
        if matches!(self.stage, Stage::Closed) {
            input.clear();
        }
        Ok(())
    }

    /// The next event, in order.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// What must be written to the socket now.
    pub fn send_queue(&mut self) -> &mut SendQueue {
        &mut self.link.send
    }

    /// How often the client bent the rules in a way that is let pass.
    pub fn lenient(&self) -> u64 {
        self.link.reader.lenient()
    }

    /// Keeps a trace of at most `bytes` of text from now on: chunk headers, commands and the
    /// beginnings of messages, with the shape alone of what may be a key.
    pub fn start_trace(&mut self, bytes: usize) {
        let bounds = self.config.limits.amf.clone();
        self.link.reader.set_trace(Trace::new(bytes, bounds));
    }

    /// Sets the trace's time, since the connection was opened; without a trace nothing happens.
    pub fn set_trace_clock(&mut self, now: Duration) {
        if let Some(trace) = self.link.reader.trace() {
            trace.set_clock(now);
        }
    }

    /// The trace so far, a line for each thing that happened; `None` if there is none.
    pub fn take_trace(&mut self) -> Option<String> {
        self.link.reader.trace().map(Trace::take)
    }

    /// Messages of any kind that the client sent so far, each in an aggregate counted; the caller
    /// has the time to make a rate of it.
    pub fn messages(&self) -> u64 {
        self.link.reader.messages() + self.aggregated
    }

    /// Commands among them; each may cost an answer.
    pub fn commands(&self) -> u64 {
        self.commands
    }

    /// Lets a client connect that has proved to be `user`.
    pub fn admit(&mut self, user: String) {
        if let (Stage::Authenticating, Some(connection)) = (&self.stage, &mut self.connection) {
            connection.user = Some(user);
            connection.answer(self.config.window, self.config.chunk_size, &mut self.link);
            self.stage = Stage::Idle;
        }
    }

    /// Does not let a client connect. The caller flushes the send queue and closes the socket; a
    /// client that was challenged answers on a new connection.
    pub fn refuse(&mut self, why: &Refusal<'_>) {
        if let (Stage::Authenticating, Some(connection)) = (&self.stage, &self.connection) {
            connection.refuse(&why.to_string(), &mut self.link);
            self.stage = Stage::Closed;
        }
    }

    /// Answers the pending request with yes; without one (the client may have withdrawn it)
    /// nothing happens.
    ///
    /// Tags that an encoder sent early become events.
    pub fn accept(&mut self) {
        let (stream, intent, held) = match std::mem::replace(&mut self.stage, Stage::Idle) {
            Stage::Pending { stream, intent, held, .. } => (stream, intent, held),
            other => {
                self.stage = other;
                return;
            }
        };
        self.unanswered = 0;
        self.link.reader.set_phase(Phase::Authorised);
        self.link.user_control(event::STREAM_BEGIN, stream.id);
        match intent {
            Intent::Publish => {
                self.status(stream.id, "NetStream.Publish.Start", "The stream is published");
                self.events.extend(held.into_iter().map(Event::Tag));
                self.stage = Stage::Publishing(stream);
            }
            Intent::Play => {
                self.status(stream.id, "NetStream.Play.Reset", "The stream is reset");
                self.status(stream.id, "NetStream.Play.Start", "The stream is played");
                self.sample_access(stream.id);
                self.stage = Stage::Playing(stream);
            }
        }
    }

    /// Answers the pending request with no. The caller flushes the send queue and closes the
    /// socket: some clients take no notice of the answer.
    pub fn reject(&mut self, why: Rejection) {
        let Stage::Pending { stream, intent, .. } = &self.stage else {
            return;
        };
        let (code, description) = match (intent, why) {
            (Intent::Publish, Rejection::Denied | Rejection::NotFound) => {
                ("NetStream.Publish.Denied", "The stream key is not valid")
            }
            (Intent::Publish, Rejection::Busy | Rejection::Full) => {
                ("NetStream.Publish.BadName", "The stream key is in use")
            }
            (Intent::Publish, Rejection::Failed) => ("NetStream.Failed", "The server failed"),
            (Intent::Play, Rejection::NotFound) => {
                ("NetStream.Play.StreamNotFound", "There is no such stream")
            }
            (Intent::Play, Rejection::Denied) => {
                ("NetStream.Play.Failed", "The play key is not valid")
            }
            (Intent::Play, Rejection::Full) => {
                ("NetStream.Play.Failed", "The stream has as many players as it may have")
            }
            (Intent::Play, Rejection::Busy | Rejection::Failed) => {
                ("NetStream.Play.Failed", "The server failed")
            }
        };
        let id = stream.id;
        self.on_status(id, "error", code, description);
        self.stage = Stage::Closed;
    }

    /// Appends a tag for a player at `timestamp`, its body shared.
    ///
    /// Without an accepted play request, nothing happens.
    pub fn send_tag(&mut self, tag: &Tag, timestamp: u32) {
        if let Stage::Playing(stream) = &self.stage {
            self.link.media(stream.id, tag, timestamp, &tag.body);
        }
    }

    /// Tells the player that the stream ended.
    pub fn end_play(&mut self) {
        if let Stage::Playing(stream) = &self.stage {
            let id = stream.id;
            self.status(id, "NetStream.Play.UnpublishNotify", "The stream has ended");
            self.status(id, "NetStream.Play.Stop", "The stream has ended");
            self.link.user_control(event::STREAM_EOF, id);
            self.stage = Stage::Idle;
        }
    }

    /// Tells the encoder why its publication is ended; the caller flushes and closes the socket.
    ///
    /// `code` is one that encoders know, for example `NetStream.Publish.BadName`.
    pub fn end_publish(&mut self, code: &str, description: &str) {
        if let Stage::Publishing(stream) = &self.stage {
            let id = stream.id;
            self.on_status(id, "error", code, description);
            self.stage = Stage::Closed;
        }
    }

    /// Asks the client to connect again, to `tc_url` or else to the same, and to leave this
    /// connection then (Enhanced RTMP v2, "Reconnect Request"): the caller goes on serving it.
    ///
    /// Returns whether it was asked: only clients that have announced that they can are.
    pub fn request_reconnect(&mut self, tc_url: Option<&str>, description: &str) -> bool {
        let can = |connection: &Connection| connection.capabilities.has(CapsEx::RECONNECT);
        if !self.connection.as_ref().is_some_and(can) || matches!(self.stage, Stage::Closed) {
            return false;
        }
        let code = "NetConnection.Connect.ReconnectRequest";
        let mut status = information("status", code, description);
        if let (Value::Object(properties), Some(tc_url)) = (&mut status, tc_url) {
            properties.push(("tcUrl".to_owned(), tc_url.into()));
        }
        self.link.command(0, "onStatus", 0.0, &[Value::Null, status]);
        true
    }

    /// Appends a ping (RTMP 1.0 §7.1.7); any answer shows that the client lives.
    pub fn ping(&mut self, timestamp: u32) {
        self.link.user_control(event::PING_REQUEST, timestamp);
    }

    fn handle_message(&mut self, message: &Message) -> Result<(), Error> {
        match message.type_id {
            message::COMMAND | message::COMMAND_AMF3 => {
                self.commands += 1;
                self.link.send_has_room()?;
                let command = Command::parse(message, &self.config.limits.amf)?;
                self.handle_command(&command, message.message_stream_id)
            }
            message::AUDIO
            | message::VIDEO
            | message::AGGREGATE
            | message::DATA
            | message::DATA_AMF3 => self.handle_media(message),
            _ => {
                if let Some(Control::Acknowledged(bytes)) = self.link.handle_control(message) {
                    // Only the newest matters.
                    if let Some(Event::Acknowledged(last)) = self.events.back_mut() {
                        *last = bytes;
                    } else {
                        self.events.push_back(Event::Acknowledged(bytes));
                    }
                }
                Ok(())
            }
        }
    }

    fn handle_media(&mut self, message: &Message) -> Result<(), Error> {
        if !matches!(
            self.stage,
            Stage::Publishing(_) | Stage::Pending { intent: Intent::Publish, .. }
        ) {
            // Trailing frames after FCUnpublish, or a stranger's.
            return Ok(());
        }
        let is_data = matches!(message.type_id, message::DATA | message::DATA_AMF3);
        let amf = &self.config.limits.amf;
        if is_data && amf0::decode_within(&message::amf0_body(message), amf).is_err() {
            return Ok(());
        }
        let mut tags = Vec::new();
        self.demuxer.tags(message, &mut tags)?;
        if message.type_id == message::AGGREGATE {
            self.aggregated += tags.len() as u64;
        }
        match &mut self.stage {
            Stage::Pending { held, held_bytes, .. } => {
                for tag in tags {
                    *held_bytes += tag.body.len() + TAG_OVERHEAD;
                    held.push(tag);
                }
                let limit = self.config.limits.held_media;
                limits::check("bytes of media before the answer", *held_bytes, limit)
            }
            _ => {
                self.events.extend(tags.into_iter().map(Event::Tag));
                Ok(())
            }
        }
    }

    fn status(&mut self, stream_id: u32, code: &str, description: &str) {
        self.on_status(stream_id, "status", code, description);
    }

    fn on_status(&mut self, stream_id: u32, level: &str, code: &str, description: &str) {
        let arguments = [Value::Null, information(level, code, description)];
        self.link.command(stream_id, "onStatus", 0.0, &arguments);
    }

    /// Flash-era players show nothing without it.
    fn sample_access(&mut self, stream_id: u32) {
        let mut body = BytesMut::new();
        for value in ["|RtmpSampleAccess".into(), true.into(), Value::Boolean(true)] {
            value.encode(&mut body);
        }
        let tag = Tag::new(media::Track::Data, 0, Bytes::from(body));
        self.link.media(stream_id, &tag, 0, &tag.body);
    }
}
