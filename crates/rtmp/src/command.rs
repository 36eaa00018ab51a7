//! Commands and their answers (RTMP 1.0 §7.2).

use bytes::BytesMut;

use crate::Error;
use crate::amf0::{self, Value};
use crate::chunk::Message;
use crate::message;

/// A command message, AMF0 or AMF3.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Command {
    pub(crate) name: String,
    pub(crate) transaction_id: f64,
    /// The command object, then what follows it.
    arguments: Vec<Value>,
}

impl Command {
    pub(crate) fn parse(message: &Message, bounds: &amf0::Bounds) -> Result<Self, Error> {
        let mut values = amf0::decode_within(&message::amf0_body(message), bounds)?.into_iter();
        let Some(Value::String(name)) = values.next() else {
            return Err(Error::Malformed("command without a name"));
        };
        Ok(Self {
            name,
            transaction_id: values.next().and_then(|v| v.as_number()).unwrap_or(0.0),
            arguments: values.collect(),
        })
    }

    /// The command object.
    pub(crate) fn object(&self) -> &Value {
        self.arguments.first().unwrap_or(&Value::Undefined)
    }

    /// The arguments after the command object, from 0.
    pub(crate) fn argument(&self, index: usize) -> &Value {
        self.arguments.get(index + 1).unwrap_or(&Value::Undefined)
    }
}

/// The body of a command message.
pub(crate) fn encode(name: &str, transaction_id: f64, arguments: &[Value]) -> BytesMut {
    let mut body = BytesMut::with_capacity(256);
    Value::from(name).encode(&mut body);
    Value::Number(transaction_id).encode(&mut body);
    arguments.iter().for_each(|value| value.encode(&mut body));
    body
}

/// An information object, as `onStatus`, `_result` and `_error` carry it.
pub(crate) fn information(level: &str, code: &str, description: &str) -> Value {
    Value::object([
        ("level", level.into()),
        ("code", code.into()),
        ("description", description.into()),
    ])
}
