//! Development only: fixtures, runners for real clients, load.
//!
//! What surrounds the tests of the fourth ring, in which the real binary meets real clients:
//!
//! - [`Node`]: a running `firstmile relay` or `firstmile studio`, ready and with its addresses
//! - [`client`]: ffmpeg, GStreamer and librtmp as encoders and players
//! - [`fixture`]: the test clip, and media with unusual shapes made from it
//! - [`frames`]: what went in compared with what came out, frame by frame
//! - [`browser`]: Chromium, with pages to look at and to click on
//! - [`hook`]: a receiver of webhooks
//! - [`OwnClient`]: our own client, for what no real one does
//! - [`live`]: one that goes on publishing, with pictures that can be told apart
//! - [`schema`]: whether an answer is what an OpenAPI document says
//! - [`script`]: a client that writes byte by byte what odd ones were seen to write
//! - [`Proxy`]: a TCP connection that a test can cut or stall
//! - [`UdpProxy`]: a network for UDP with a delay, outages and changes of address
//! - [`tls`]: a TLS client that looks closely, and certificates
//! - [`stamped`]: frames that can be counted and timed
//! - [`Connection`]: our own client for load, asynchronous
//! - [`netns`]: hosts, a NAT router and the internet in network namespaces (Linux, root)
//! - [`wait_until`]: polling instead of sleeping
//!
//! Everything that is started here is ended when its handle is dropped; what it said is printed
//! when the test fails.

pub mod browser;
pub mod client;
mod connection;
pub mod film;
pub mod fixture;
pub mod frames;
pub mod hook;
pub mod http;
pub mod live;
#[cfg(target_os = "linux")]
pub mod netns;
mod node;
mod own;
pub mod process;
mod proxy;
pub mod schema;
pub mod script;
pub mod stamped;
pub mod tls;
mod udp_proxy;
mod wait;

pub use connection::Connection;
pub use node::{Launch, Node};
pub use own::OwnClient;
pub use proxy::Proxy;
pub use udp_proxy::UdpProxy;
pub use wait::{PATIENCE, wait_for, wait_until};

/// For WebSockets without another dependency.
pub use tungstenite;

/// For reading the status of a node without another dependency.
pub use serde_json::Value;
/// A directory that is removed with its handle.
pub use tempfile::{TempDir, tempdir};
