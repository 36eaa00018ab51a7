//! What a client's commands do (RTMP 1.0 §7.2), and what each is answered.

use super::{Event, Server, Stage, Stream};
use crate::amf0::Value;
use crate::chunk::Phase;
use crate::command::{Command, information};
use crate::message::Demuxer;
use crate::session::Intent;
use crate::session::connection::{Connection, text_of};
use crate::{Error, limits};

/// Requests that a client may make and withdraw again without one being accepted.
const MAX_UNANSWERED: usize = 8;

impl Server {
    pub(super) fn handle_command(
        &mut self,
        command: &Command,
        stream_id: u32,
    ) -> Result<(), Error> {
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
        let request = connection.request(intent, name.clone(), self.config.limits.names);
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
}
