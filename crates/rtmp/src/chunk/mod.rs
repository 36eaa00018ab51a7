//! The chunk stream (RTMP 1.0 §5.3): messages cut into chunks and put together again.

mod reader;
mod writer;

use bytes::Bytes;

pub use crate::limits::Phase;
pub use reader::Reader;
pub use writer::{Header, Writer};

/// Bytes of payload in a chunk until the sender says otherwise (RTMP 1.0 §5.4.1).
pub const DEFAULT_CHUNK_SIZE: u32 = 128;

/// No message is longer, so no chunk need be (RTMP 1.0 §5.4.1).
pub const MAX_CHUNK_SIZE: u32 = 0x00ff_ffff;

/// A timestamp field of this value says that an extended timestamp follows (RTMP 1.0 §5.3.1.3).
const EXTENDED: u32 = 0x00ff_ffff;

/// One message, put together from its chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The chunk stream it came on, 2 to 65599.
    pub chunk_stream_id: u32,
    /// Milliseconds, wrapping.
    pub timestamp: u32,
    /// The message type (RTMP 1.0 §5.4, §7.1).
    pub type_id: u8,
    /// The message stream it belongs to; 0 is the connection itself.
    pub message_stream_id: u32,
    /// The payload, in one piece.
    pub body: Bytes,
}
