//! What real encoders and players were seen to do, one test each, named after the public report
//! it comes from: the repository (or the specification), the number, the client and its quirk.
//!
//! A scripted client that shares no code with our protocol crates writes the bytes; what a player
//! of the real binary gets, or what the server answers, is what counts.

mod chunks;
mod commands;
mod handshake;
mod media;
mod names;
mod players;
mod timestamps;

use std::net::SocketAddr;

use testkit::Node;
use testkit::script::Script;
use testkit::script::chunk::Message;

const FIRSTMILE: &str = env!("CARGO_BIN_EXE_firstmile");

/// A studio with one feed, `camera`.
fn studio() -> (Node, SocketAddr, String) {
    let studio = Node::studio(FIRSTMILE).start().unwrap();
    let (address, key) = (studio.address("rtmp"), studio.key("camera"));
    (studio, address, key)
}

/// A studio whose feed has a player that waits and a publisher that has not sent anything yet.
fn on_air() -> (Node, Script, Script) {
    let (studio, address, key) = studio();
    let player = Script::playing(address, "camera");
    let publisher = Script::publishing(address, &key);
    (studio, publisher, player)
}

/// The last byte of each body, by which the test knows it, and its time at the player.
fn seen(tags: &[Message]) -> Vec<(u8, u32)> {
    tags.iter().map(|tag| (*tag.body.last().unwrap_or(&0), tag.time)).collect()
}

fn bodies(tags: Vec<Message>) -> Vec<Vec<u8>> {
    tags.into_iter().map(|tag| tag.body).collect()
}
