//! The client's end: publishes or plays one stream.

use std::collections::VecDeque;

use bytes::{BufMut, BytesMut};
use media::{Role, Tag, Track};

use super::Intent;
use super::link::{Control, Link};
use crate::amf0::Value;
use crate::capabilities::{Capabilities, CapsEx};
use crate::chunk::{Message, Phase};
use crate::command::Command;
use crate::message::{self, Demuxer, event};
use crate::{Error, Limits, SendQueue, handshake, name};

/// What a client session wants.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// Publish or play.
    pub intent: Intent,
    /// The server, app and stream name.
    pub url: name::Url,
    /// Bytes of payload in the chunks that this end sends.
    pub chunk_size: u32,
    /// What the server may make this end hold in memory.
    pub limits: Limits,
    /// The name that this client goes by.
    pub flash_ver: String,
    /// What it announces of Enhanced RTMP. Tags come as they are sent, so it takes every codec
    /// and form, unless its user does not. Add [`CapsEx::RECONNECT`] to be asked to reconnect.
    pub capabilities: Capabilities,
    /// What proves the user, from [`crate::adobe::reply`]; empty on the first connection.
    pub authentication: String,
}

impl Config {
    /// A configuration with defaults for all but the essential.
    pub fn new(intent: Intent, url: name::Url) -> Self {
        Self {
            intent,
            url,
            chunk_size: 60_000,
            limits: Limits::default(),
            flash_ver: "FMLE/3.0 (compatible; firstmile)".to_owned(),
            capabilities: Capabilities::forwarder(
                CapsEx::MULTITRACK.and(CapsEx::MOD_EX).and(CapsEx::NANO_OFFSET),
            ),
            authentication: String::new(),
        }
    }
}

/// What the server did.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// It accepted: send tags now, or tags follow.
    Ready,
    /// It sent a tag.
    Tag(Tag),
    /// It refused the request, or ended it with an error.
    Rejected {
        /// For example `NetStream.Publish.Denied`.
        code: String,
        /// For a person.
        description: String,
    },
    /// It asks to publish or play at this URL from now on: connect there, and close this session
    /// at the next keyframe. A way that leads from `rtmps` to `rtmp` is not told.
    ReconnectRequested(name::Url),
    /// The stream ended.
    Ended,
}

/// The client's end of a connection: an encoder or player.
///
/// ```text
/// Handshake -> Connecting -> Creating -> Requested -> Ready -> Over
/// ```
#[derive(Debug)]
pub struct Client {
    config: Config,
    handshake: Option<handshake::Client>,
    link: Link,
    events: VecDeque<Event>,
    stage: Stage,
    demuxer: Demuxer,
    failed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// `connect` was sent.
    Connecting,
    /// `createStream` was sent.
    Creating,
    /// `publish` or `play` was sent on this message stream.
    Requested(u32),
    Ready(u32),
    Over,
}

const CONNECT: f64 = 1.0;
const RELEASE_STREAM: f64 = 2.0;
const FC_PUBLISH: f64 = 3.0;
const CREATE_STREAM: f64 = 4.0;
const REQUEST: f64 = 5.0;
const FC_UNPUBLISH: f64 = 6.0;
const DELETE_STREAM: f64 = 7.0;

/// `play` takes a live stream if there is one, else a recording (RTMP 1.0 §7.2.2.1).
const START_LIVE: f64 = -2.0;

/// Milliseconds of buffer that players announce, as FFmpeg does.
const BUFFER_LENGTH: u32 = 3000;

impl Client {
    /// Starts a session; the first bytes to send are in the queue at once. All its randomness
    /// comes from `seed`.
    pub fn new(config: Config, seed: [u8; 32]) -> Self {
        let mut link = Link::new(config.limits.clone());
        // It is the server that this end chose.
        link.reader.set_phase(Phase::Authorised);
        Self {
            handshake: Some(handshake::Client::new(seed, &mut link.send)),
            link,
            config,
            events: VecDeque::new(),
            stage: Stage::Connecting,
            demuxer: Demuxer::default(),
            failed: false,
        }
    }

    /// Consumes whole chunks from `input` and leaves an incomplete header in it.
    ///
    /// # Errors
    ///
    /// Why the session is over.
    pub fn handle_input(&mut self, input: &mut BytesMut) -> Result<(), Error> {
        if self.failed {
            return Err(Error::Misused("input after an error"));
        }
        let result = self.try_handle_input(input);
        self.failed = result.is_err();
        result
    }

    fn try_handle_input(&mut self, input: &mut BytesMut) -> Result<(), Error> {
        if let Some(handshake) = &mut self.handshake {
            if !self.link.shake_hands(input, |input, send| handshake.handle_input(input, send))? {
                return Ok(());
            }
            self.handshake = None;
            self.connect();
        }
        while let Some(message) = self.link.read(input)? {
            self.handle_message(&message)?;
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

    /// Appends a tag at its own timestamp, its body shared; before [`Event::Ready`] and after the
    /// end nothing happens.
    ///
    /// `onMetaData` is sent with `@setDataFrame` before it, whether the tag has that or not.
    pub fn send_tag(&mut self, tag: &Tag) {
        const SET_DATA_FRAME: &[u8] = b"\x02\x00\x0d@setDataFrame";

        let (Stage::Ready(id), Intent::Publish) = (self.stage, self.config.intent) else {
            return;
        };
        let timestamp = tag.wire_timestamp();
        if tag.role != Role::Metadata || tag.body.starts_with(SET_DATA_FRAME) {
            self.link.media(id, tag, timestamp, &tag.body);
            return;
        }
        let mut body = BytesMut::with_capacity(SET_DATA_FRAME.len() + tag.body.len());
        body.put_slice(SET_DATA_FRAME);
        body.put_slice(&tag.body);
        self.link.media(id, tag, timestamp, &body.freeze());
    }

    /// Ends the publication, or leaves the stream; the caller flushes and closes the socket.
    pub fn close(&mut self) {
        if let Stage::Requested(id) | Stage::Ready(id) = self.stage {
            if self.config.intent == Intent::Publish {
                let name = self.name();
                self.link.command(0, "FCUnpublish", FC_UNPUBLISH, &[Value::Null, name]);
            }
            let arguments = [Value::Null, f64::from(id).into()];
            self.link.command(0, "deleteStream", DELETE_STREAM, &arguments);
        }
        self.stage = Stage::Over;
    }

    fn name(&self) -> Value {
        self.config.url.name.as_str().into()
    }

    fn connect(&mut self) {
        let chunk_size = self.config.chunk_size;
        self.link.writer.set_chunk_size(chunk_size, &mut self.link.send);
        let url = &self.config.url;
        let query = match self.config.authentication.as_str() {
            "" => String::new(),
            query => format!("?{query}"),
        };
        let mut object = vec![
            ("app".to_owned(), Value::String(format!("{}{query}", url.app))),
            ("flashVer".to_owned(), self.config.flash_ver.as_str().into()),
            ("tcUrl".to_owned(), Value::String(url.tc_url() + &query)),
        ];
        match self.config.intent {
            Intent::Publish => object.push(("type".to_owned(), "nonprivate".into())),
            Intent::Play => {
                // What Flash players said of their codecs: all of them.
                object.push(("fpad".to_owned(), false.into()));
                object.push(("capabilities".to_owned(), 15.0.into()));
                object.push(("audioCodecs".to_owned(), 4071.0.into()));
                object.push(("videoCodecs".to_owned(), 252.0.into()));
                object.push(("videoFunction".to_owned(), 1.0.into()));
            }
        }
        object.extend(self.config.capabilities.properties());
        self.link.command(0, "connect", CONNECT, &[Value::Object(object)]);
    }

    fn handle_message(&mut self, message: &Message) -> Result<(), Error> {
        match message.type_id {
            message::COMMAND | message::COMMAND_AMF3 => {
                self.link.send_has_room()?;
                let command = Command::parse(message, &self.config.limits.amf)?;
                self.handle_command(&command);
                Ok(())
            }
            message::AUDIO
            | message::VIDEO
            | message::AGGREGATE
            | message::DATA
            | message::DATA_AMF3 => self.handle_media(message),
            _ => {
                match self.link.handle_control(message) {
                    Some(Control::PeerBandwidth(window)) => {
                        self.link.send_has_room()?;
                        let window = window.to_be_bytes();
                        self.link.control(message::WINDOW_ACKNOWLEDGEMENT_SIZE, &window);
                    }
                    Some(Control::StreamEof) => self.end(),
                    Some(Control::Acknowledged(_)) | None => {}
                }
                Ok(())
            }
        }
    }

    fn handle_media(&mut self, message: &Message) -> Result<(), Error> {
        // What comes before Play.Start belongs to nothing.
        if self.config.intent == Intent::Play && matches!(self.stage, Stage::Ready(_)) {
            let mut tags = Vec::new();
            self.demuxer.tags(message, &mut tags)?;
            let is_media = |tag: &Tag| tag.track != Track::Data || !is_sample_access(&tag.body);
            self.events.extend(tags.into_iter().filter(is_media).map(Event::Tag));
        }
        Ok(())
    }

    fn handle_command(&mut self, command: &Command) {
        match (command.name.as_str(), self.stage) {
            ("_result", Stage::Connecting) if command.transaction_id == CONNECT => {
                self.create_stream();
            }
            ("_result", Stage::Creating) if command.transaction_id == CREATE_STREAM => {
                match command.argument(0).as_number() {
                    Some(id) if (1.0..=f64::from(u32::MAX)).contains(&id) => {
                        self.request(id as u32);
                    }
                    _ => self.rejected("NetConnection.Call.Failed", "createStream gave no stream"),
                }
            }
            ("_error", Stage::Connecting | Stage::Creating)
                if [CONNECT, CREATE_STREAM].contains(&command.transaction_id) =>
            {
                self.handle_status(command, "error");
            }
            // The request itself gets an onStatus; some servers refuse it like any other call.
            ("_error", Stage::Requested(_)) if command.transaction_id == REQUEST => {
                self.handle_status(command, "error");
            }
            ("onStatus", _) => self.handle_status(command, ""),
            ("close", _) => self.end(),
            _ => {}
        }
    }

    fn create_stream(&mut self) {
        if self.config.intent == Intent::Publish {
            let arguments = [Value::Null, self.name()];
            self.link.command(0, "releaseStream", RELEASE_STREAM, &arguments);
            self.link.command(0, "FCPublish", FC_PUBLISH, &arguments);
        }
        self.link.command(0, "createStream", CREATE_STREAM, &[Value::Null]);
        self.stage = Stage::Creating;
    }

    fn request(&mut self, id: u32) {
        let name = self.name();
        match self.config.intent {
            Intent::Publish => {
                let arguments = [Value::Null, name, "live".into()];
                self.link.command(id, "publish", REQUEST, &arguments);
            }
            Intent::Play => {
                let arguments = [Value::Null, name, START_LIVE.into()];
                self.link.command(id, "play", REQUEST, &arguments);
                let mut body = [0; 10];
                body[..2].copy_from_slice(&event::SET_BUFFER_LENGTH.to_be_bytes());
                body[2..6].copy_from_slice(&id.to_be_bytes());
                body[6..].copy_from_slice(&BUFFER_LENGTH.to_be_bytes());
                self.link.control(message::USER_CONTROL, &body);
            }
        }
        self.stage = Stage::Requested(id);
    }

    fn handle_status(&mut self, command: &Command, level: &str) {
        let information = command.argument(0);
        let text = |name: &str| information.property(name).and_then(Value::as_str);
        let code = text("code").unwrap_or_default();
        if level == "error" || text("level") == Some("error") {
            let code = if code.is_empty() { "NetConnection.Call.Failed" } else { code };
            let description = text("description").unwrap_or_default();
            self.rejected(code, description);
            return;
        }
        match (code, self.stage, self.config.intent) {
            ("NetStream.Publish.Start", Stage::Requested(id), Intent::Publish)
            | ("NetStream.Play.Start", Stage::Requested(id), Intent::Play) => {
                self.stage = Stage::Ready(id);
                self.events.push_back(Event::Ready);
            }
            ("NetConnection.Connect.ReconnectRequest", ..) => {
                let url = self.config.url.redirected(text("tcUrl"));
                if self.config.capabilities.has(CapsEx::RECONNECT) && self.stage != Stage::Over {
                    self.events.extend(url.ok().map(Event::ReconnectRequested));
                }
            }
            (
                "NetStream.Play.UnpublishNotify"
                | "NetStream.Play.Stop"
                | "NetStream.Play.Complete"
                | "NetStream.Unpublish.Success"
                | "NetConnection.Connect.Closed",
                ..,
            ) => self.end(),
            _ => {}
        }
    }

    fn rejected(&mut self, code: &str, description: &str) {
        if self.stage != Stage::Over {
            self.stage = Stage::Over;
            self.events.push_back(Event::Rejected {
                code: code.to_owned(),
                description: description.to_owned(),
            });
        }
    }

    /// A stream that had begun has ended.
    fn end(&mut self) {
        if self.stage != Stage::Over {
            self.stage = Stage::Over;
            self.events.push_back(Event::Ended);
        }
    }
}

/// Whether script data is the Flash-era permission that comes before the media.
fn is_sample_access(body: &[u8]) -> bool {
    body.starts_with(b"\x02\x00\x11|RtmpSampleAccess")
}
