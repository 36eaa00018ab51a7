//! A scripted RTMP client, byte by byte, that shares no code with `crates/rtmp`.
//!
//! A test writes whatever an odd encoder, player or attacker was seen to write, and reads what the
//! server says with a parser as strict as FFmpeg's. Every wait is bounded by [`PATIENCE`].

pub mod amf;
pub mod chunk;
pub mod handshake;
pub mod media;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

use crate::PATIENCE;
use amf::{Amf, number, properties, text};
use chunk::{Message, Parser};
use handshake::{LENGTH, Packet, plain_c1};

/// Message type ids (RTMP 1.0 §5.4, §7.1).
pub mod id {
    #![expect(missing_docs, reason = "the names are those of the specification")]
    pub const SET_CHUNK_SIZE: u8 = 1;
    pub const ABORT: u8 = 2;
    pub const ACKNOWLEDGEMENT: u8 = 3;
    pub const USER_CONTROL: u8 = 4;
    pub const WINDOW_ACKNOWLEDGEMENT_SIZE: u8 = 5;
    pub const SET_PEER_BANDWIDTH: u8 = 6;
    pub const AUDIO: u8 = 8;
    pub const VIDEO: u8 = 9;
    pub const DATA_AMF3: u8 = 15;
    pub const COMMAND_AMF3: u8 = 17;
    pub const DATA: u8 = 18;
    pub const COMMAND: u8 = 20;
    pub const AGGREGATE: u8 = 22;
}

/// A client's TCP connection, and what its server has sent.
#[derive(Debug)]
pub struct Script {
    socket: TcpStream,
    input: Vec<u8>,
    parser: Parser,
    /// Payload bytes of the chunks that [`Script::message`] writes.
    pub chunk_size: usize,
    transaction: f64,
}

impl Script {
    /// A TCP connection on which nothing was said.
    ///
    /// # Panics
    ///
    /// If the server does not accept.
    #[track_caller]
    pub fn dial(address: SocketAddr) -> Self {
        Self::on(TcpStream::connect_timeout(&address, PATIENCE).expect("the server accepts"))
    }

    /// As [`Script::dial`] from one of this machine's addresses; `None` if nobody accepts.
    pub fn dial_from(source: IpAddr, address: SocketAddr) -> Option<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).ok()?;
        socket.bind(&SocketAddr::new(source, 0).into()).ok()?;
        socket.connect_timeout(&address.into(), PATIENCE).ok()?;
        Some(Self::on(socket.into()))
    }

    /// One try to connect; `None` if the server closes instead of answering.
    pub fn try_connected(source: IpAddr, address: SocketAddr) -> Option<Self> {
        let mut script = Self::dial_from(source, address)?;
        let object = Amf::Object(properties([("app", text("live"))]));
        let connect = command_message(0, "connect", 1.0, &[object]);
        script.try_send(&[greeting(), connect].concat()).then_some(())?;
        while script.input.len() < 1 + 2 * LENGTH {
            script.read().then_some(())?;
        }
        script.input.drain(..1 + 2 * LENGTH);
        while script.read_message()?.type_id != id::COMMAND {}
        Some(script)
    }

    /// One try to publish (`publish`) or play (`play`); `None` if the server closes or says no.
    pub fn attempt(source: IpAddr, address: SocketAddr, verb: &str, name: &str) -> Option<Self> {
        let mut script = Self::try_connected(source, address)?;
        let create = command_message(0, "createStream", 2.0, &[Amf::Null]);
        let request = command_message(1, verb, 0.0, &[Amf::Null, text(name)]);
        script.try_send(&[create, request].concat()).then_some(())?;
        loop {
            match status(&script.read_message()?).as_deref() {
                Some("NetStream.Publish.Start" | "NetStream.Play.Start") => return Some(script),
                Some("NetStream.Play.Reset") | None => {}
                Some(_) => return None,
            }
        }
    }

    /// Ends the connection with a reset instead of an end.
    pub fn reset(self) {
        // A socket that is dead already needs none.
        let _ = SockRef::from(&self.socket).set_linger(Some(Duration::ZERO));
    }

    /// A script on a connected socket.
    pub fn on(socket: TcpStream) -> Self {
        // Both fail only on a socket that is dead, which its user notices.
        let _ = socket.set_nodelay(true);
        let _ = socket.set_read_timeout(Some(PATIENCE));
        let _ = socket.set_write_timeout(Some(PATIENCE));
        let parser = Parser::default();
        Self { socket, input: Vec::new(), parser, chunk_size: 128, transaction: 0.0 }
    }

    /// A connection after a plain handshake.
    #[track_caller]
    pub fn handshaken(address: SocketAddr) -> Self {
        let mut script = Self::dial(address);
        script.shake(&plain_c1(1));
        script
    }

    /// A connection whose `connect` was answered.
    #[track_caller]
    pub fn connected(address: SocketAddr, app: &str) -> Self {
        let mut script = Self::handshaken(address);
        script.connect(app);
        script
    }

    /// A publication that has begun, as a plain encoder begins it.
    #[track_caller]
    pub fn publishing(address: SocketAddr, key: &str) -> Self {
        let mut script = Self::connected(address, "live");
        script.publish(key);
        script.expect_status("NetStream.Publish.Start");
        script
    }

    /// A play session that has begun, of a feed that waits for its encoder: what it gets before
    /// it listens is passed over.
    #[track_caller]
    pub fn playing(address: SocketAddr, name: &str) -> Self {
        let mut script = Self::joining(address, name);
        // Its answer comes when the server waits for media: none is missed from here on.
        script.ping(1);
        script
    }

    /// A play session that has begun, before its first media.
    #[track_caller]
    pub fn joining(address: SocketAddr, name: &str) -> Self {
        let mut script = Self::connected(address, "live");
        script.create_stream();
        script.command(1, "play", 0.0, &[Amf::Null, text(name)]);
        script.expect_status("NetStream.Play.Start");
        script
    }

    /// Sends a ping and waits for its answer: what was sent before it has been dealt with.
    #[track_caller]
    pub fn ping(&mut self, value: u32) {
        let value = value.to_be_bytes();
        self.message(2, 0, id::USER_CONTROL, 0, &[&[0, 6], &value[..]].concat());
        self.expect("a pong", |message| {
            let is_pong = message.type_id == id::USER_CONTROL && message.body[..2] == [0, 7];
            (is_pong && message.body[2..] == value).then_some(())
        });
    }

    /// Sends C0 and C1, takes S0 to S2, sends C2; returns S1 and S2.
    #[track_caller]
    pub fn shake(&mut self, c1: &Packet) -> (Packet, Packet) {
        self.send(&[&[3], &c1[..]].concat());
        let (s1, s2) = self.server_packets();
        self.send(&s1);
        (s1, s2)
    }

    /// S1 and S2.
    #[track_caller]
    pub fn server_packets(&mut self) -> (Packet, Packet) {
        while self.input.len() < 1 + 2 * LENGTH {
            assert!(self.read(), "the server closed within the handshake");
        }
        assert_eq!(self.input[0], 3, "S0");
        let rest = self.input.split_off(1 + 2 * LENGTH);
        let packets = std::mem::replace(&mut self.input, rest);
        let packet = |at: usize| packets[at..at + LENGTH].try_into().expect("a whole packet");
        (packet(1), packet(1 + LENGTH))
    }

    /// Says `connect` and waits for its result, which it returns.
    #[track_caller]
    pub fn connect(&mut self, app: &str) -> Vec<Amf> {
        self.connect_with(properties([
            ("app", text(app)),
            ("type", text("nonprivate")),
            ("flashVer", text("FMLE/3.0 (compatible; scripted)")),
            ("tcUrl", text(&format!("rtmp://127.0.0.1/{app}"))),
        ]))
    }

    /// As [`Script::connect`], with any command object.
    #[track_caller]
    pub fn connect_with(&mut self, properties: Vec<(String, Amf)>) -> Vec<Amf> {
        self.command(0, "connect", 1.0, &[Amf::Object(properties)]);
        let (_, result) = self.expect_command("_result");
        self.transaction = 1.0;
        result
    }

    /// Says `createStream` and waits for its result; returns the message stream's number.
    #[track_caller]
    pub fn create_stream(&mut self) -> u32 {
        let transaction = self.next_transaction();
        self.command(0, "createStream", transaction, &[Amf::Null]);
        let (_, result) = self.expect_command("_result");
        assert_eq!(result[0], number(transaction));
        let Some(Amf::Number(stream)) = result.get(2) else { panic!("no number: {result:?}") };
        *stream as u32
    }

    /// Asks to publish, and does not wait.
    #[track_caller]
    pub fn publish(&mut self, key: &str) {
        let stream = self.create_stream();
        let transaction = self.next_transaction();
        self.command(stream, "publish", transaction, &[Amf::Null, text(key), text("live")]);
    }

    /// The number of the next command that wants a result.
    pub fn next_transaction(&mut self) -> f64 {
        self.transaction += 1.0;
        self.transaction
    }

    /// Says a command on chunk stream 3.
    #[track_caller]
    pub fn command(&mut self, stream: u32, name: &str, transaction: f64, arguments: &[Amf]) {
        self.message(3, 0, id::COMMAND, stream, &command(name, transaction, arguments));
    }

    /// Sends audio, video or data on chunk streams as OBS does: all on 4.
    #[track_caller]
    pub fn media(&mut self, type_id: u8, time: u32, body: &[u8]) {
        self.message(4, time, type_id, 1, body);
    }

    /// Sends a message from a type 0 chunk on.
    #[track_caller]
    pub fn message(&mut self, csid: u32, time: u32, type_id: u8, stream: u32, body: &[u8]) {
        let message = Message { csid, time, type_id, stream, body: body.to_vec() };
        self.send(&message.chunks(self.chunk_size));
    }

    /// Announces a chunk size and uses it.
    #[track_caller]
    pub fn set_chunk_size(&mut self, size: u32) {
        self.message(2, 0, id::SET_CHUNK_SIZE, 0, &size.to_be_bytes());
        self.chunk_size = size as usize;
    }

    /// Writes bytes as they are.
    ///
    /// # Panics
    ///
    /// If the server has closed.
    #[track_caller]
    pub fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).expect("the server reads");
    }

    /// Writes bytes to a server that may have closed; whether it took them.
    pub fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.socket.write_all(bytes).is_ok()
    }

    /// Reads once; `false` if the server has closed.
    fn read(&mut self) -> bool {
        let mut buffer = [0; 64 << 10];
        loop {
            match self.socket.read(&mut buffer) {
                Ok(0) => return false,
                Ok(count) => {
                    self.input.extend(&buffer[..count]);
                    return true;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    panic!("the server said nothing for {PATIENCE:?}")
                }
                Err(_) => return false,
            }
        }
    }

    /// The next message; `None` if the server has closed.
    pub fn read_message(&mut self) -> Option<Message> {
        loop {
            if let Some(message) = self.parser.next(&mut self.input) {
                return Some(message);
            }
            if !self.read() {
                return None;
            }
        }
    }

    /// The next message for which `look` finds something.
    #[track_caller]
    pub fn expect<T>(&mut self, what: &str, mut look: impl FnMut(&Message) -> Option<T>) -> T {
        let mut seen = Vec::new();
        while let Some(message) = self.read_message() {
            if let Some(found) = look(&message) {
                return found;
            }
            seen.push(describe(&message));
        }
        panic!("the server closed before {what}; it said {seen:#?}");
    }

    /// The next command of this name: its message stream, and what follows the name.
    #[track_caller]
    pub fn expect_command(&mut self, name: &str) -> (u32, Vec<Amf>) {
        self.expect(name, |message| {
            if message.type_id != id::COMMAND {
                return None;
            }
            let mut values = amf::read(&message.body);
            (values.remove(0).as_text() == Some(name)).then_some((message.stream, values))
        })
    }

    /// The next `onStatus` of this code: its message stream.
    #[track_caller]
    pub fn expect_status(&mut self, code: &str) -> u32 {
        self.expect(code, |message| (status(message)? == code).then_some(message.stream))
    }

    /// The next control message of this type: its body.
    #[track_caller]
    pub fn expect_control(&mut self, type_id: u8) -> Vec<u8> {
        self.expect(&format!("type {type_id}"), |message| {
            (message.type_id == type_id).then(|| message.body.clone())
        })
    }

    /// What the server says until it closes.
    pub fn rest(&mut self) -> Vec<Message> {
        std::iter::from_fn(|| self.read_message()).collect()
    }

    /// Reads whatever comes until the server closes, and forgets it.
    ///
    /// # Panics
    ///
    /// If the server neither says anything nor closes within [`PATIENCE`].
    #[track_caller]
    pub fn drain(mut self) {
        while self.read() {
            self.input.clear();
        }
    }

    /// The next `count` audio and video messages.
    #[track_caller]
    pub fn tags(&mut self, count: usize) -> Vec<Message> {
        let is_media = |m: &Message| matches!(m.type_id, id::AUDIO | id::VIDEO);
        let tag = |_| self.expect("media", |message| is_media(message).then(|| message.clone()));
        (0..count).map(tag).collect()
    }

    /// The socket, for what a script has no word for.
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }
}

/// C0, C1 and C2 in one piece.
pub fn greeting() -> Vec<u8> {
    let c1 = plain_c1(1);
    [&[3][..], &c1, &c1].concat()
}

/// The body of a command message.
pub fn command(name: &str, transaction: f64, arguments: &[Amf]) -> Vec<u8> {
    amf::body(&[&[text(name), number(transaction)], arguments].concat())
}

/// A command in chunks of 128 bytes, which every server takes from the start.
pub fn command_message(stream: u32, name: &str, transaction: f64, arguments: &[Amf]) -> Vec<u8> {
    let body = command(name, transaction, arguments);
    Message { csid: 3, time: 0, type_id: id::COMMAND, stream, body }.chunks(128)
}

/// The code of an `onStatus`.
pub fn status(message: &Message) -> Option<String> {
    if message.type_id != id::COMMAND {
        return None;
    }
    let values = amf::read(&message.body);
    if values[0].as_text() != Some("onStatus") {
        return None;
    }
    Some(values.last()?.property("code")?.as_text()?.to_owned())
}

/// A message in a few words.
pub fn describe(message: &Message) -> String {
    let Message { type_id, time, stream, body, .. } = message;
    match *type_id {
        id::COMMAND | id::DATA => format!("{stream} @{time} {:?}", amf::read(body)),
        _ => format!("{stream} @{time} type {type_id}: {:02x?}", &body[..body.len().min(12)]),
    }
}
