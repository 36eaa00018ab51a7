//! One encoder or one player whose every frame is written down, for `benches/bad-networks`.
//!
//! ```text
//! feed publish URL [--seconds N] [--kbps N] [--gop SECONDS] [--audio BYTES]
//! feed play URL
//! feed read FILE.flv
//! ```
//!
//! Each line on standard output is about one frame or one event; moments are nanoseconds of a
//! clock that all processes of the machine share:
//!
//! ```text
//! sent video|audio NUMBER CAPTURED WRITTEN      # handed to the socket
//! got  video|audio NUMBER CAPTURED ARRIVED
//! at   MOMENT accepted | lost REASON | done     # done: all is captured and written
//! ```
//!
//! The encoder captures without regard to the network. When the socket takes no more it waits, and
//! what it captured meanwhile is sent afterwards with the moments of its capture; nothing is left
//! out. Whoever loses the connection comes back after a second, the encoder with its next keyframe.
//! Neither ends by itself.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use media::{Tag, Track};
use rtmp::name::Url;
use rtmp::session::Intent;
use rtmp::session::client::Event;
use testkit::Connection;
use testkit::stamped::{Shape, Source, Stamp, now};
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// How long a connection may take to be accepted.
const PATIENCE: Duration = Duration::from_secs(15);
/// Before a lost connection is made again.
const RETRY: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let result = match arguments.next().as_deref() {
        Some("publish") => Options::parse(arguments).and_then(|options| publish(&options)),
        Some("play") => play(arguments.next()),
        Some("read") => read(arguments.next()),
        _ => Err(anyhow::anyhow!("feed publish|play|read; see the top of its source")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("feed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

struct Options {
    url: Url,
    seconds: Duration,
    shape: Shape,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self> {
        let url = arguments.next().context("feed publish URL")?.parse()?;
        let shape = Shape { kbps: 5000, gop: 2, audio: 350 };
        let mut options = Self { url, seconds: Duration::from_secs(30), shape };
        while let Some(option) = arguments.next() {
            let value = arguments.next().with_context(|| format!("{option} wants a value"))?;
            match option.as_str() {
                "--seconds" => options.seconds = Duration::from_secs(value.parse()?),
                "--kbps" => options.shape.kbps = value.parse()?,
                "--gop" => options.shape.gop = value.parse()?,
                "--audio" => options.shape.audio = value.parse()?,
                _ => bail!("unknown option {option}"),
            }
        }
        Ok(options)
    }
}

/// Writes one line. Standard output keeps none back, so that killing the tool loses nothing.
fn say(line: std::fmt::Arguments<'_>) {
    let mut out = std::io::stdout().lock();
    // A reader that went away wants no more.
    let _ = writeln!(out, "{line}");
}

fn say_frame(what: &str, stamp: Stamp, at: u64) {
    let Stamp { track, number, at: captured } = stamp;
    let track = if track == Track::Audio { "audio" } else { "video" };
    say(format_args!("{what} {track} {number} {captured} {at}"));
}

/// When the first frame was captured, on two clocks.
#[derive(Clone, Copy)]
struct Start {
    at: Instant,
    stamp: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn publish(options: &Options) -> Result<()> {
    let mut source = Source::new(options.shape);
    let mut start = None;
    loop {
        let Err(error) = encode(options, &mut source, &mut start).await;
        say(format_args!("at {} lost {error:#}", now()));
        sleep(RETRY).await;
        if let Some(Start { at, .. }) = start {
            source.skip(at.elapsed());
        }
    }
}

/// Publishes on one connection, for as long as it lasts.
async fn encode(
    options: &Options,
    source: &mut Source,
    start: &mut Option<Start>,
) -> Result<std::convert::Infallible> {
    let mut connection = open(&options.url, Intent::Publish).await?;
    let Start { at, stamp } =
        *start.get_or_insert_with(|| Start { at: Instant::now(), stamp: now() });
    Source::headers().iter().for_each(|tag| connection.client.send_tag(tag));
    while source.due() < options.seconds {
        let due = source.due();
        tokio::select! {
            () = sleep_until(at + due) => {}
            read = connection.read() => {
                read?;
                check(&mut connection)?;
                continue;
            }
        }
        let tag = source.make(stamp + due.as_nanos() as u64);
        connection.client.send_tag(&tag);
        connection.flush().await?;
        check(&mut connection)?;
        say_frame("sent", Stamp::of(&tag).context("a frame without a stamp")?, now());
    }
    say(format_args!("at {} done", now()));
    loop {
        connection.read().await?;
        check(&mut connection)?;
        connection.flush().await?;
    }
}

async fn open(url: &Url, intent: Intent) -> Result<Connection> {
    let connection = timeout(PATIENCE, Connection::open(url, intent)).await;
    let connection = connection.context("not accepted in time")??;
    say(format_args!("at {} accepted", now()));
    Ok(connection)
}

/// Takes what the server said to an encoder.
fn check(connection: &mut Connection) -> Result<()> {
    while let Some(event) = connection.client.poll_event() {
        match event {
            Event::Rejected { code, .. } => bail!("{code}"),
            Event::Ended => bail!("ended by the server"),
            _ => {}
        }
    }
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn play(url: Option<String>) -> Result<()> {
    let url = url.context("feed play URL")?.parse()?;
    loop {
        let Err(error) = watch(&url).await;
        say(format_args!("at {} lost {error:#}", now()));
        sleep(RETRY).await;
    }
}

/// Plays on one connection, for as long as it lasts.
async fn watch(url: &Url) -> Result<std::convert::Infallible> {
    let mut connection = open(url, Intent::Play).await?;
    loop {
        connection.read().await?;
        let arrived = now();
        while let Some(event) = connection.client.poll_event() {
            match event {
                Event::Tag(tag) => note(&tag, arrived),
                Event::Rejected { code, .. } => bail!("{code}"),
                Event::Ended => bail!("ended by the server"),
                _ => {}
            }
        }
        connection.flush().await?;
    }
}

fn note(tag: &Tag, arrived: u64) {
    if let Some(stamp) = Stamp::of(tag) {
        say_frame("got", stamp, arrived);
    }
}

/// The frames of a recording, in the order of the file.
fn read(file: Option<String>) -> Result<()> {
    let file = file.context("feed read FILE.flv")?;
    let reader = media::flv::Reader::new(std::fs::read(&file).context(file)?.into())?;
    for tag in reader {
        note(&tag?, 0);
    }
    Ok(())
}
