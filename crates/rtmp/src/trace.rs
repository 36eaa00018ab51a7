//! A protocol trace: the headers and commands of one connection as text, without its secrets.
//!
//! What real encoders do wrong shows in their chunk headers and the shape of their commands. The
//! trace keeps both exactly, and of texts that may hold a key only the shape: `live/camera-ABC123`
//! becomes `live/xxxxxx-xxxxxx`.

use std::fmt::Write;
use std::time::Duration;

use crate::amf0::{self, Value};
use crate::chunk::{Header, Message};
use crate::message;

/// Bytes of one line; a line that would be longer is cut.
const MAX_LINE: usize = 1024;

/// Bytes of a message's body that are shown.
const SHOWN: usize = 12;

/// Words that are shown as they are; none of them is a secret.
const WORDS: [&str; 38] = [
    "rtmp",
    "rtmps",
    "rtmpt",
    "rtmpe",
    "http",
    "https",
    "live",
    "app",
    "key",
    "user",
    "pass",
    "password",
    "token",
    "auth",
    "authmod",
    "adobe",
    "llnw",
    "challenge",
    "response",
    "opaque",
    "salt",
    "nonce",
    "vhost",
    "definst",
    "mp4",
    "flv",
    "record",
    "append",
    "nonprivate",
    "FMLE",
    "FMSc",
    "Lavf",
    "LNX",
    "WIN",
    "MAC",
    "compatible",
    "onMetaData",
    "setDataFrame",
];

/// Which way a line's bytes went.
#[derive(Clone, Copy, Debug)]
enum Way {
    In,
    Out,
}

/// What was noted so far.
#[derive(Debug)]
pub(crate) struct Trace {
    text: String,
    budget: usize,
    bounds: amf0::Bounds,
    now: Duration,
    /// Chunks of messages in progress that were passed over.
    continuations: usize,
}

impl Trace {
    /// A trace of at most `budget` bytes; `bounds` are those of the session.
    pub(crate) fn new(budget: usize, bounds: amf0::Bounds) -> Self {
        Self { text: String::new(), budget, bounds, now: Duration::ZERO, continuations: 0 }
    }

    /// Sets the time, since the connection was opened, of what is noted next.
    pub(crate) fn set_clock(&mut self, now: Duration) {
        self.now = now;
    }

    /// What was noted, to be kept elsewhere.
    pub(crate) fn take(&mut self) -> String {
        std::mem::take(&mut self.text)
    }

    fn line(&mut self, way: Way, text: &str) {
        if self.budget == 0 {
            return;
        }
        let start = self.text.len();
        let way = match way {
            Way::In => '<',
            Way::Out => '>',
        };
        let text = cut(text, MAX_LINE);
        let _ = writeln!(self.text, "{:9.3} {way} {text}", self.now.as_secs_f64());
        let length = self.text.len() - start;
        if length > self.budget {
            self.text.truncate(start);
            self.text.push_str("the trace is full\n");
        }
        self.budget = self.budget.saturating_sub(length);
    }

    /// Notes something that has no bytes of its own.
    pub(crate) fn note(&mut self, text: &str) {
        self.line(Way::In, text);
    }

    /// Notes a chunk's header as it was sent.
    ///
    /// Continuations without an extended timestamp are only counted: there may be hundreds.
    pub(crate) fn chunk(&mut self, header: &[u8], is_continuation: bool, length: usize) {
        if is_continuation && header.len() < 5 {
            self.continuations += 1;
            return;
        }
        let mut text = String::from("chunk");
        hex(&mut text, header);
        let _ = write!(text, " of {length} bytes");
        self.line(Way::In, &text);
    }

    /// Notes a message that is complete.
    #[cold]
    pub(crate) fn received(&mut self, message: &Message) {
        let mut text = format!(
            "type {} on {}/{} at {}",
            message.type_id, message.chunk_stream_id, message.message_stream_id, message.timestamp,
        );
        match std::mem::take(&mut self.continuations) {
            0 => {}
            count => text.push_str(&format!(", in {} chunks", count + 1)),
        }
        text.push(':');
        body(&mut text, message.type_id, &message.body, &message::amf0_body(message), &self.bounds);
        self.line(Way::In, &text);
    }

    /// Notes a message that this end sends.
    pub(crate) fn sent(&mut self, header: &Header, bytes: &[u8]) {
        let mut text = format!(
            "type {} on {}/{} at {}:",
            header.type_id, header.chunk_stream_id, header.message_stream_id, header.timestamp,
        );
        body(&mut text, header.type_id, bytes, bytes, &self.bounds);
        self.line(Way::Out, &text);
    }
}

fn body(text: &mut String, type_id: u8, bytes: &[u8], amf0: &[u8], bounds: &amf0::Bounds) {
    let is_amf = matches!(
        type_id,
        message::COMMAND | message::COMMAND_AMF3 | message::DATA | message::DATA_AMF3
    );
    if !is_amf {
        hex(text, &bytes[..bytes.len().min(SHOWN)]);
        let _ = write!(text, " ({} bytes)", bytes.len());
        return;
    }
    let mut decoder = amf0::Decoder::new(amf0, bounds);
    let mut is_name = true;
    loop {
        text.push(' ');
        match decoder.next() {
            Ok(Some(Value::String(name))) if is_name => text.push_str(&command_name(&name)),
            Ok(Some(other)) => value(text, &other),
            Ok(None) => return,
            // Not its bytes: they may be the rest of a name.
            Err(error) => {
                let _ = write!(text, "then AMF that is {error}");
                return;
            }
        }
        is_name = false;
        if text.len() > MAX_LINE {
            return;
        }
    }
}

/// A command's name: one identifier, or else only its shape.
fn command_name(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphabetic() || "_@|".contains(c);
    match name.len() <= 24 && name.chars().all(is_plain) {
        true => name.to_owned(),
        false => shape(name),
    }
}

fn value(text: &mut String, value: &Value) {
    if text.len() > MAX_LINE {
        return;
    }
    match value {
        Value::Number(number) => text.push_str(&number.to_string()),
        Value::Boolean(truth) => text.push_str(&truth.to_string()),
        Value::String(string) => text.push_str(&format!("{:?}", shape(string))),
        Value::Null => text.push_str("null"),
        Value::Undefined => text.push_str("undefined"),
        Value::Date(date) => text.push_str(&format!("date {date}")),
        Value::StrictArray(values) => {
            text.push('[');
            values.iter().for_each(|item| {
                self::value(text, item);
                text.push_str(", ");
            });
            text.push(']');
        }
        Value::Object(properties) => self::properties(text, properties, ['{', '}']),
        Value::EcmaArray(properties) => self::properties(text, properties, ['(', ')']),
    }
}

fn properties(text: &mut String, properties: &[(String, Value)], brackets: [char; 2]) {
    text.push(brackets[0]);
    for (key, item) in properties {
        let _ = write!(text, "{:?}: ", cut(key, 48));
        match item {
            // What our own answers, and a client's name for itself, say is no secret.
            Value::String(string) if ["code", "level", "flashVer"].contains(&key.as_str()) => {
                let _ = write!(text, "{:?}", cut(string, 96));
            }
            other => value(text, other),
        }
        text.push_str(", ");
    }
    text.push(brackets[1]);
}

/// The text with each letter and digit of its unknown words as an `x`.
fn shape(text: &str) -> String {
    let text = cut(text, 256);
    let mut shaped = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let end = rest.find(|c: char| !c.is_alphanumeric()).unwrap_or(rest.len());
        let (word, after) = rest.split_at(if end == 0 { first.len_utf8() } else { end });
        match end == 0 || WORDS.contains(&word) {
            true => shaped.push_str(word),
            false => shaped.extend(word.chars().map(|_| 'x')),
        }
        rest = after;
    }
    shaped
}

/// At most `length` bytes of `text`.
fn cut(text: &str, length: usize) -> &str {
    let mut end = length.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        let _ = write!(text, " {byte:02x}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_leave_their_shape_behind() {
        for (text, shaped) in [
            ("live/camera-AB12", "live/xxxxxx-xxxx"),
            ("?key=a%20B&user=me", "?key=x%xxx&user=xx"),
            ("rtmp://203.0.113.7:1935/live", "rtmp://xxx.x.xxx.x:xxxx/live"),
            ("clé/\u{202e}\n", "xxx/\u{202e}\n"),
            ("keylive", "xxxxxxx"),
        ] {
            assert_eq!(shape(text), shaped);
        }
        let mut text = String::new();
        value(&mut text, &"\u{1b}[31m".into());
        assert_eq!(text, "\"\\u{1b}[xxx\"", "fit for a terminal");
    }

    #[test]
    fn is_bounded() {
        let mut trace = Trace::new(2000, amf0::Bounds::default());
        for _ in 0..100 {
            trace.note(&"é".repeat(2000));
        }
        let text = trace.take();
        assert!(text.ends_with("the trace is full\n"), "{text}");
        assert!(text.len() < 2100, "{}", text.len());
        trace.note("more");
        assert_eq!(trace.take(), "");
    }
}
