//! A bounded attack on a running node, for `benches/hostile-load`.
//!
//! ```text
//! attack ENCODERS PLAYERS FEED SECONDS
//! ```
//!
//! `ENCODERS` and `PLAYERS` are the addresses that encoders and players go to, `FEED` is one that
//! players may have. From a few hundred addresses of 127.1.0.0/16 (Linux), all at once: 200
//! connections a second with garbage, 100 plays a second of names that are not there, 20 guesses
//! of keys a second, 100 mute connections, 8 that ask without reading, and 40 players that read
//! 64 KB/s. Prints what it did as JSON.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;
use testkit::script::amf::{Amf, text};
use testkit::script::handshake::noise;
use testkit::script::{Script, command_message, greeting};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("attack: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// How many of each were tried.
#[derive(Debug, Default)]
struct Counts {
    garbage: AtomicU64,
    plays: AtomicU64,
    guesses: AtomicU64,
    mute: AtomicU64,
    askers: AtomicU64,
    slow_readers: AtomicU64,
}

fn run() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().context("attack ENCODERS PLAYERS FEED SECONDS");
    let (encoders, players): (SocketAddr, SocketAddr) = (next()?.parse()?, next()?.parse()?);
    let feed = next()?;
    let end = Instant::now() + Duration::from_secs(next()?.parse()?);
    testkit::process::raise_file_limit();
    let counts = Counts::default();
    let feed = feed.as_str();
    scope(|scope| {
        let counts = &counts;
        for thread in 0..4 {
            scope.spawn(move || {
                at_rate(50, end, |turn| garbage(encoders, thread * 50 + turn % 50, counts));
            });
            scope.spawn(move || {
                at_rate(25, end, |turn| storm(players, thread * 50 + turn % 50, counts));
            });
        }
        scope.spawn(move || at_rate(20, end, |turn| guess(encoders, turn, counts)));
        scope.spawn(move || {
            let dial = |number| Script::dial_from(address(number), encoders);
            let held: Vec<_> = (0..100).filter_map(dial).collect();
            counts.mute.store(held.len() as u64, Ordering::Relaxed);
            sleep(end.saturating_duration_since(Instant::now()));
        });
        for number in 0..8 {
            scope.spawn(move || ask(encoders, number, end, counts));
        }
        for number in 0..40 {
            scope.spawn(move || read_slowly(players, number, feed, end, counts));
        }
    });
    let number = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let counts = json!({
        "garbage": number(&counts.garbage),
        "plays": number(&counts.plays),
        "guesses": number(&counts.guesses),
        "mute": number(&counts.mute),
        "askers": number(&counts.askers),
        "slow_readers": number(&counts.slow_readers),
    });
    println!("{counts}");
    Ok(())
}

fn address(number: usize) -> IpAddr {
    Ipv4Addr::new(127, 1, (number / 200) as u8, (number % 200 + 1) as u8).into()
}

/// Calls `act` this often a second until `end`; what is late is left out.
fn at_rate(rate: u32, end: Instant, mut act: impl FnMut(usize)) {
    let period = Duration::from_secs(1) / rate;
    let mut due = Instant::now();
    for turn in 0.. {
        let now = Instant::now();
        if now >= end {
            return;
        }
        act(turn);
        due = (due + period).max(now);
        sleep(due.saturating_duration_since(Instant::now()));
    }
}

fn garbage(door: SocketAddr, number: usize, counts: &Counts) {
    let Some(mut script) = Script::dial_from(address(number), door) else { return };
    let seed = number as u8;
    let bytes: Vec<u8> = (0..8).flat_map(|more| noise(seed.wrapping_add(more))).collect();
    script.try_send(&[greeting(), bytes].concat());
    counts.garbage.fetch_add(1, Ordering::Relaxed);
    if number.is_multiple_of(2) {
        script.reset();
    }
}

fn storm(door: SocketAddr, number: usize, counts: &Counts) {
    let name = format!("nothing-{number}");
    // Nobody is there under that name: the answer is no, or nothing.
    drop(Script::attempt(address(number), door, "play", &name));
    counts.plays.fetch_add(1, Ordering::Relaxed);
}

fn guess(door: SocketAddr, number: usize, counts: &Counts) {
    let Some(mut script) = Script::dial_from(address(number % 300), door) else { return };
    let key = format!("camera-{number:026}");
    let connect = command_message(0, "connect", 1.0, &[Amf::Null]);
    let publish = command_message(1, "publish", 2.0, &[Amf::Null, text(&key)]);
    script.try_send(&[greeting(), connect, publish].concat());
    counts.guesses.fetch_add(1, Ordering::Relaxed);
}

/// Asks and does not read, again and again.
fn ask(door: SocketAddr, number: usize, end: Instant, counts: &Counts) {
    let question = command_message(0, "createStream", 2.0, &[Amf::Null]).repeat(100);
    while Instant::now() < end {
        let Some(mut script) = Script::dial_from(address(300 + number), door) else { return };
        counts.askers.fetch_add(1, Ordering::Relaxed);
        script.try_send(&greeting());
        while Instant::now() < end && script.try_send(&question) {}
        sleep(Duration::from_millis(100));
    }
}

fn read_slowly(door: SocketAddr, number: usize, feed: &str, end: Instant, counts: &Counts) {
    while Instant::now() < end {
        if let Some(script) = Script::attempt(address(320 + number), door, "play", feed) {
            counts.slow_readers.fetch_add(1, Ordering::Relaxed);
            let mut buffer = [0; 16 << 10];
            while Instant::now() < end && script.socket().read(&mut buffer).is_ok_and(|n| n > 0) {
                sleep(Duration::from_millis(250));
            }
        }
        sleep(Duration::from_millis(100));
    }
}
