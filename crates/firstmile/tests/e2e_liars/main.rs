//! Peers on the backhaul that lie: each is limited, told of in the log with the reason, and cut off;
//! after each an honest encoder, studio and player beside it work.

#![cfg(target_os = "linux")]

mod relays;
mod studios;

use std::future::Future;
use std::net::SocketAddr;

use testkit::script::media::{frame, key};
use testkit::script::{Script, id};
use testkit::{Node, PATIENCE, wait_for};

const FIRSTMILE: &str = env!("CARGO_BIN_EXE_firstmile");
const MIB: u64 = 1 << 20;
const HONEST: std::net::IpAddr = std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// An encoder publishes at this door, and a player of the studio sees it.
#[track_caller]
fn assert_serves(door: SocketAddr, studio: &Node, feed: &str) {
    let enter = |address, verb, name: &str| {
        wait_for("an honest client gets in", PATIENCE, || {
            Script::attempt(HONEST, address, verb, name)
        })
    };
    let mut player = enter(studio.address("rtmp"), "play", feed);
    let mut encoder = enter(door, "publish", &studio.key(feed));
    encoder.media(id::VIDEO, 0, &key(77));
    encoder.media(id::VIDEO, 40, &frame(78));
    player.expect("the encoder's keyframe", |message| {
        (message.type_id == id::VIDEO && message.body == key(77)).then_some(())
    });
}

/// How much more memory a node takes at most than before; it did not fail.
#[track_caller]
fn assert_bounded(node: &Node, before: u64, bound: u64, lines: usize) {
    let worst = node.memory().1.saturating_sub(before);
    let log = node.log();
    let said = log.lines().count();
    eprintln!("{} KiB more, at most {}; {said} lines in the log", worst / 1024, bound / 1024);
    assert!(worst <= bound, "{} KiB more than before", worst / 1024);
    assert!(said < lines, "{said} lines in the log");
    assert!(!log.contains("panicked"), "{log}");
}

/// Runs what takes turns with the network.
fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let done = runtime.block_on(async { tokio::time::timeout(3 * PATIENCE, future).await });
    runtime.shutdown_background();
    done.expect("in time")
}
