//! Sans-IO RTMP: handshake, chunk stream, AMF, server and client sessions.
//!
//! [`session::Server`] and [`session::Client`] take the bytes that a socket read, yield events,
//! and fill a [`SendQueue`] with the bytes that the socket shall write. Nothing here opens a
//! socket, reads a clock or makes its own randomness.
//!
//! The layers below are public for tools and tests: [`handshake`] (RTMP 1.0 §5.2), [`chunk`]
//! (§5.3), [`amf0`] and [`amf3`], [`metadata`] (`onMetaData`), [`name`] (URLs and stream names)
//! and [`adobe`] (users with passwords). What a peer sends never panics, and costs memory only as its bytes arrive, within
//! [`Limits`].

pub mod adobe;
pub mod amf0;
pub mod amf3;
pub mod capabilities;
pub mod chunk;
mod command;
mod error;
pub mod handshake;
mod limits;
mod message;
pub mod metadata;
pub mod name;
mod redirect;
mod send_queue;
pub mod session;
mod trace;

pub use error::Error;
pub use limits::Limits;
pub use send_queue::SendQueue;
pub use session::{Client, Server};
