//! The server's end: accepts one encoder or player.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use media::Tag;

use super::connection::{Connection, text_of};
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

/// Requests that a client may make and withdraw again without one being accepted.
const MAX_UNANSWERED: usize = 8;

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
            let before = input.len();
            let is_complete = handshake.handle_input(input, &mut self.link.send)?;
            self.link.count_received(before - input.len());
            if !is_complete {
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
        self.link.reader.set_trace(Trace::new(bytes));
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
                let command = Command::parse(message)?;
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
        if is_data && amf0::decode(&message::amf0_body(message)).is_err() {
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

    fn handle_command(&mut self, command: &Command, stream_id: u32) -> Result<(), Error> {
        match command.name.as_str() {
            "connect" => self.connect(command)?,
            "createStream" => {
                self.last_message_stream_id = self.last_message_stream_id.wrapping_add(1).max(1);
                let id = f64::from(self.last_message_stream_id);
                self.result(command, &[Value::Null, id.into()]);
            }
            "publish" => self.request(command, stream_id, Intent::Publish)?,
            "play" | "play2" => self.request(command, stream_id, Intent::Play)?,
            "releaseStream" => self.result(command, &[Value::Null]),
            "FCPublish" => {
                self.result(command, &[Value::Null]);
                self.fc_status("onFCPublish", command, "NetStream.Publish.Start");
            }
            "FCUnpublish" => {
                self.result(command, &[Value::Null]);
                self.fc_status("onFCUnpublish", command, "NetStream.Unpublish.Success");
                let name = command.argument(0).as_str();
                self.end_request_if(|stream| name.is_none_or(|name| name == stream.name));
            }
            "FCSubscribe" => {
                self.result(command, &[Value::Null]);
                self.fc_status("onFCSubscribe", command, "NetStream.Play.Start");
            }
            "deleteStream" => {
                // Its argument is the number of the stream; GStreamer sends the name.
                let is_other = self.is_other_stream(command.argument(0));
                self.end_request_if(|_| !is_other);
            }
            "closeStream" => {
                let is_other = self.is_other_stream(&f64::from(stream_id).into());
                self.end_request_if(|_| !is_other);
            }
            // An error here ends FFmpeg's players.
            "getStreamLength" => self.result(command, &[Value::Null, 0.0.into()]),
            "pause" | "pauseRaw" => self.pause(command),
            // As an error it would end FFmpeg's players, too.
            "seek" => self.status_if_playing("NetStream.Seek.Failed", "A live stream cannot seek"),
            "receiveAudio" => self.receive(command, Event::ReceiveAudio),
            "receiveVideo" => self.receive(command, Event::ReceiveVideo),
            // Answers to what this end never asked.
            "_result" | "_error" | "onStatus" => {}
            _ => self.result(command, &[Value::Null]),
        }
        Ok(())
    }

    fn connect(&mut self, command: &Command) -> Result<(), Error> {
        if !matches!(self.stage, Stage::Idle) {
            return Err(Error::Misbehaved("it connected twice"));
        }
        let connection = Connection::parse(command)?;
        if self.config.adobe
            && let Some(claim) = connection.claim()
        {
            self.connection = Some(connection);
            self.stage = Stage::Authenticating;
            self.events.push_back(Event::Authenticate(claim));
            return Ok(());
        }
        connection.answer(self.config.window, self.config.chunk_size, &mut self.link);
        self.connection = Some(connection);
        Ok(())
    }

    fn request(&mut self, command: &Command, stream_id: u32, intent: Intent) -> Result<(), Error> {
        let Some(connection) = &self.connection else {
            return Err(Error::Misbehaved("it published or played before it connected"));
        };
        self.unanswered += 1;
        limits::check("unanswered requests", self.unanswered, MAX_UNANSWERED)?;
        let name = text_of(command.argument(0))?;
        let request = connection.request(intent, name.clone());
        // Some begin the next one before they end the last.
        self.end_request_if(|_| true);
        self.demuxer = Demuxer::default();
        if intent == Intent::Publish {
            self.link.reader.set_phase(Phase::Pending);
        }
        self.stage = Stage::Pending {
            stream: Stream { id: stream_id.max(1), name },
            intent,
            held: Vec::new(),
            held_bytes: 0,
        };
        self.events.push_back(Event::Request(request));
        Ok(())
    }

    fn stream(&self) -> Option<(&Stream, Intent)> {
        match &self.stage {
            Stage::Pending { stream, intent, .. } => Some((stream, *intent)),
            Stage::Publishing(stream) => Some((stream, Intent::Publish)),
            Stage::Playing(stream) => Some((stream, Intent::Play)),
            Stage::Idle | Stage::Authenticating | Stage::Closed => None,
        }
    }

    /// Whether `number` names a message stream that was created beside the current one.
    fn is_other_stream(&self, number: &Value) -> bool {
        let (Value::Number(number), Some((current, _))) = (number, self.stream()) else {
            return false;
        };
        let created = 1.0..=f64::from(self.last_message_stream_id);
        created.contains(number) && *number != f64::from(current.id)
    }

    /// Ends the current request or what came of it, if it is the one that is meant.
    fn end_request_if(&mut self, is_meant: impl FnOnce(&Stream) -> bool) {
        let Some((stream, intent)) = self.stream() else {
            return;
        };
        if is_meant(stream) {
            self.stage = Stage::Idle;
            self.events.push_back(match intent {
                Intent::Publish => Event::Unpublished,
                Intent::Play => Event::Stopped,
            });
        }
    }

    fn pause(&mut self, command: &Command) {
        let is_paused = command.argument(0).as_bool().unwrap_or(true);
        if matches!(self.stage, Stage::Playing(_)) {
            self.events.push_back(Event::Paused(is_paused));
        }
        match is_paused {
            true => self.status_if_playing("NetStream.Pause.Notify", "Paused"),
            false => self.status_if_playing("NetStream.Unpause.Notify", "Playing on"),
        }
    }

    fn receive(&mut self, command: &Command, event: fn(bool) -> Event) {
        if matches!(self.stage, Stage::Playing(_)) {
            let wanted = command.argument(0).as_bool().unwrap_or(true);
            self.events.push_back(event(wanted));
        }
    }

    /// Answers a command that has a transaction.
    fn result(&mut self, command: &Command, arguments: &[Value]) {
        if command.transaction_id != 0.0 {
            self.link.command(0, "_result", command.transaction_id, arguments);
        }
    }

    /// The statuses that Adobe's own encoders wait for.
    fn fc_status(&mut self, name: &str, command: &Command, code: &str) {
        let status = information("status", code, "");
        let arguments = [Value::Null, status];
        self.link.command(0, name, command.transaction_id, &arguments);
    }

    fn status_if_playing(&mut self, code: &str, description: &str) {
        if let Stage::Playing(stream) = &self.stage {
            let id = stream.id;
            self.status(id, code, description);
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
