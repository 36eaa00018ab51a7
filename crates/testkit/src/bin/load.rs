//! Encoders and players by the hundred, for `benches/relay-load`.
//!
//! ```text
//! load run --feed PUBLISH_URL PLAY_URL [--feed ...] [--players N] [--late N] [--storm N]
//!          [--seconds N] [--warm N] [--kbps N] [--gop SECONDS] [--film] [--pid PID]...
//! load proxy TARGET        # a plain TCP proxy; prints its address
//! ```
//!
//! `run` prints one JSON object. Each frame carries the moment at which it was sent and its number
//! after the codec's header; with `--film` the rest of it can be decoded, and it is the clip's. Encoders and players are in one process, so they share a clock, and
//! what the load tool itself needs to be scheduled is part of every latency: compare systems, not
//! absolute numbers.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use media::{Tag, Track};
use rtmp::name::Url;
use rtmp::session::Intent;
use rtmp::session::client::Event;
use serde_json::{Value, json};
use testkit::Connection;
use testkit::film::Film;
use testkit::stamped::{Shape, Source, Stamp};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// Bytes of an AAC frame at 64 kb/s.
const AUDIO_SIZE: usize = 186;
/// Connections set up at the same time, a storm apart.
const RAMP: usize = 8;
/// How long a connection may take to be accepted.
const PATIENCE: Duration = Duration::from_secs(15);
/// After this long a player that joined late is taken for settled.
const SETTLED: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let result = match arguments.next().as_deref() {
        Some("run") => Options::parse(arguments).and_then(|options| run(&options)),
        Some("proxy") => proxy(arguments.next()),
        _ => Err(anyhow::anyhow!("load run|proxy; see the top of its source")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[derive(Clone, Debug)]
struct Options {
    feeds: Vec<(Url, Url)>,
    /// Players of each feed.
    players: usize,
    /// Players of the first feed that join while it is measured, one after the other.
    late: usize,
    /// Players of the first feed that all join in the same moment.
    storm: usize,
    seconds: u64,
    warm: u64,
    shape: Shape,
    /// Publishes the clip.
    film: bool,
    /// Server processes whose CPU time and memory are measured.
    pids: Vec<u32>,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self {
            feeds: Vec::new(),
            players: 1,
            late: 0,
            storm: 0,
            seconds: 8,
            warm: 3,
            shape: Shape { kbps: 5000, gop: 2, audio: AUDIO_SIZE },
            film: false,
            pids: Vec::new(),
        };
        while let Some(option) = arguments.next() {
            let mut value = || arguments.next().with_context(|| format!("{option} wants a value"));
            match option.as_str() {
                "--feed" => options.feeds.push((value()?.parse()?, value()?.parse()?)),
                "--players" => options.players = value()?.parse()?,
                "--late" => options.late = value()?.parse()?,
                "--storm" => options.storm = value()?.parse()?,
                "--seconds" => options.seconds = value()?.parse()?,
                "--warm" => options.warm = value()?.parse()?,
                "--kbps" => options.shape.kbps = value()?.parse()?,
                "--gop" => options.shape.gop = value()?.parse()?,
                "--film" => options.film = true,
                "--pid" => options.pids.push(value()?.parse()?),
                _ => bail!("unknown option {option}"),
            }
        }
        if options.feeds.is_empty() {
            bail!("name at least one --feed PUBLISH_URL PLAY_URL");
        }
        Ok(options)
    }
}

/// One clock for all, and the window of time that counts.
#[derive(Debug)]
struct Clock {
    base: Instant,
    from: AtomicU64,
    to: AtomicU64,
}

impl Clock {
    fn new() -> Arc<Self> {
        let never = || AtomicU64::new(u64::MAX);
        Arc::new(Self { base: Instant::now(), from: never(), to: never() })
    }

    fn now(&self) -> u64 {
        self.base.elapsed().as_nanos() as u64
    }

    fn counts(&self, at: u64) -> bool {
        self.from.load(Ordering::Relaxed) <= at && at < self.to.load(Ordering::Relaxed)
    }
}

/// What an encoder sends.
enum Frames {
    Filler(Source),
    Film(Film),
}

impl Frames {
    fn new(options: &Options) -> Self {
        if options.film {
            Self::Film(Film::new())
        } else {
            Self::Filler(Source::new(options.shape))
        }
    }

    fn due(&self) -> Duration {
        match self {
            Self::Filler(source) => source.due(),
            Self::Film(film) => film.due(),
        }
    }

    fn make(&mut self, at: u64) -> Tag {
        match self {
            Self::Filler(source) => source.make(at),
            Self::Film(film) => film.make(at),
        }
    }
}

/// Publishes for ever; returns why it could not.
async fn publish(
    connection: Connection,
    number: usize,
    options: Options,
    clock: Arc<Clock>,
) -> String {
    match try_publish(connection, number, &options, &clock).await {
        Ok(never) => match never {},
        Err(error) => format!("encoder {number}: {error:#}"),
    }
}

async fn try_publish(
    mut connection: Connection,
    number: usize,
    options: &Options,
    clock: &Clock,
) -> Result<std::convert::Infallible> {
    Source::headers().iter().for_each(|tag| connection.client.send_tag(tag));
    let mut frames = Frames::new(options);
    // Encoders are not in step.
    sleep(Duration::from_micros(number as u64 * 3_141 % 33_000)).await;
    let start = Instant::now();
    loop {
        tokio::select! {
            () = sleep_until(start + frames.due()) => {}
            read = connection.read() => {
                read?;
                match connection.client.poll_event() {
                    Some(Event::Rejected { code, .. }) => bail!("{code}"),
                    Some(Event::Ended) => bail!("ended by the server"),
                    _ => continue,
                }
            }
        }
        connection.client.send_tag(&frames.make(clock.now()));
        connection.flush().await?;
    }
}

/// What one player saw.
#[derive(Debug, Default)]
struct Seen {
    /// From the start of its connection to its first keyframe.
    first_picture: Option<u64>,
    /// Microseconds from sending to receiving, one for each frame.
    latencies: Vec<u32>,
    /// How late a player shows a frame that plays on from the first at its timestamps.
    playout_lag: Option<i64>,
    lost: u64,
    bytes: u64,
    ended: Option<String>,
}

/// When a player joined, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Early,
    Late,
    Storm,
}

/// Plays until the window is over.
async fn play(url: Url, kind: Kind, ramp: Arc<Semaphore>, clock: Arc<Clock>) -> (Kind, Seen) {
    let mut seen = Seen::default();
    if let Err(error) = try_play(&url, kind, &ramp, &clock, &mut seen).await {
        seen.ended = Some(format!("player of {}: {error:#}", url.name));
    }
    (kind, seen)
}

async fn try_play(
    url: &Url,
    kind: Kind,
    ramp: &Semaphore,
    clock: &Clock,
    seen: &mut Seen,
) -> Result<()> {
    let permit = match kind {
        Kind::Storm => None,
        Kind::Early | Kind::Late => Some(ramp.acquire().await?),
    };
    let joined = clock.now();
    let connection = timeout(PATIENCE, Connection::open(url, Intent::Play)).await;
    let mut connection = connection.context("not accepted in time")??;
    drop(permit);
    let settled = match kind {
        Kind::Early => 0,
        Kind::Late | Kind::Storm => joined + SETTLED.as_nanos() as u64,
    };
    let mut next = [None; 2];
    // The first keyframe's arrival and timestamp, in milliseconds.
    let mut first = None;
    loop {
        let Ok(read) = timeout(Duration::from_millis(200), connection.read()).await else {
            if clock.now() >= clock.to.load(Ordering::Relaxed) {
                return Ok(());
            }
            continue;
        };
        read?;
        let now = clock.now();
        if now >= clock.to.load(Ordering::Relaxed) {
            return Ok(());
        }
        while let Some(event) = connection.client.poll_event() {
            let tag = match event {
                Event::Tag(tag) => tag,
                Event::Rejected { code, .. } => bail!("{code}"),
                Event::Ended => bail!("ended by the server"),
                _ => continue,
            };
            if clock.counts(now) {
                seen.bytes += tag.body.len() as u64;
            }
            let Some(Stamp { number, at: sent, .. }) = Stamp::of(&tag) else { continue };
            // Without a keyframe there is no picture, whatever comes.
            if tag.track == Track::Video && (first.is_some() || tag.is_keyframe()) {
                seen.first_picture.get_or_insert(now - joined);
                let arrival = (now / 1_000_000) as i64;
                let (arrival, timestamp) = *first.get_or_insert((arrival, tag.timestamp));
                if now > settled && clock.counts(now) {
                    let shown = arrival + (tag.timestamp - timestamp);
                    seen.playout_lag = Some(shown - (sent / 1_000_000) as i64);
                }
            }
            if now > settled && clock.counts(now) {
                seen.latencies.push(u32::try_from((now - sent) / 1000).unwrap_or(u32::MAX));
                if let Some(expected) = next[tag.track as usize] {
                    seen.lost += number.saturating_sub(expected);
                }
            }
            next[tag.track as usize] = Some(number + 1);
        }
        connection.flush().await?;
    }
}

#[tokio::main(flavor = "current_thread")]
async fn run(options: &Options) -> Result<()> {
    let clock = Clock::new();
    let idle = memory(&options.pids)?;
    let ramp = Arc::new(Semaphore::new(RAMP));
    let mut encoders = JoinSet::new();
    for (number, (url, _)) in options.feeds.iter().enumerate() {
        let connection = timeout(PATIENCE, Connection::open(url, Intent::Publish)).await;
        let connection = connection.context("an encoder was not accepted in time")??;
        encoders.spawn(publish(connection, number, options.clone(), Arc::clone(&clock)));
    }
    // A player of a server without a GOP ring needs an encoder that runs.
    sleep(Duration::from_millis(300)).await;
    let mut players = JoinSet::new();
    for (_, url) in &options.feeds {
        for _ in 0..options.players {
            players.spawn(play(url.clone(), Kind::Early, Arc::clone(&ramp), Arc::clone(&clock)));
        }
    }
    sleep(Duration::from_secs(options.warm)).await;

    let window = Duration::from_secs(options.seconds);
    let before = cpu(&options.pids)?;
    let own_before = cpu(&[std::process::id()])?;
    let from = clock.now();
    clock.to.store(from + window.as_nanos() as u64, Ordering::Relaxed);
    clock.from.store(from, Ordering::Relaxed);
    let start = Instant::now();
    let join = |kind| play(options.feeds[0].1.clone(), kind, Arc::clone(&ramp), Arc::clone(&clock));
    // The later they join, the less of the window is left for them to settle.
    for number in 0..options.late {
        sleep_until(start + window.mul_f64(0.7 * number as f64 / options.late as f64)).await;
        players.spawn(join(Kind::Late));
    }
    if options.storm > 0 {
        sleep_until(start + window / 4).await;
        (0..options.storm).for_each(|_| drop(players.spawn(join(Kind::Storm))));
    }
    sleep_until(start + window).await;
    let after = cpu(&options.pids)?;
    let own_after = cpu(&[std::process::id()])?;
    let resident = memory(&options.pids)?;

    let mut seen = Vec::new();
    while let Some(player) = players.join_next().await {
        seen.push(player?);
    }
    let mut ended: Vec<_> = seen.iter().filter_map(|(_, seen)| seen.ended.clone()).collect();
    while let Some(encoder) = encoders.try_join_next() {
        ended.push(encoder?);
    }
    let gigabits = seen.iter().map(|(_, seen)| seen.bytes).sum::<u64>() as f64 * 8.0 / 1e9;
    let server = after - before;
    println!(
        "{}",
        json!({
            "feeds": options.feeds.len(),
            "gigabits": gigabits,
            "cpu_s": server,
            "cpu_s_per_gigabit": if gigabits > 0.0 { Some(server / gigabits) } else { None },
            "load_cpu_s": own_after - own_before,
            "rss_mb": resident / 1e6,
            "rss_mb_per_feed": (resident - idle) / 1e6 / options.feeds.len() as f64,
            "players": summary(&seen, Kind::Early),
            "late": summary(&seen, Kind::Late),
            "storm": summary(&seen, Kind::Storm),
            "ended": ended.len(),
            "reasons": ended.iter().take(3).collect::<Vec<_>>(),
        })
    );
    Ok(())
}

fn summary(seen: &[(Kind, Seen)], kind: Kind) -> Value {
    let seen: Vec<_> = seen.iter().filter(|(k, _)| *k == kind).map(|(_, seen)| seen).collect();
    if seen.is_empty() {
        return Value::Null;
    }
    let ms = |us: u32| f64::from(us) / 1000.0;
    let mut latencies: Vec<_> = seen.iter().flat_map(|seen| seen.latencies.clone()).collect();
    latencies.sort_unstable();
    let mut first: Vec<_> = seen.iter().filter_map(|seen| seen.first_picture).collect();
    first.sort_unstable();
    let mut lag: Vec<_> = seen.iter().filter_map(|seen| seen.playout_lag).collect();
    lag.sort_unstable();
    let first_ms = |part| percentile(&first, part).map(|ns| ns as f64 / 1e6);
    json!({
        "count": seen.len(),
        "without_picture": seen.iter().filter(|seen| seen.first_picture.is_none()).count(),
        "frames": latencies.len(),
        "lost": seen.iter().map(|seen| seen.lost).sum::<u64>(),
        "p50_ms": percentile(&latencies, 0.5).map(ms),
        "p99_ms": percentile(&latencies, 0.99).map(ms),
        "max_ms": latencies.last().copied().map(ms),
        "first_picture_p50_ms": first_ms(0.5),
        "first_picture_max_ms": first_ms(1.0),
        "playout_lag_p50_ms": percentile(&lag, 0.5),
        "playout_lag_max_ms": lag.last(),
    })
}

fn percentile<T: Copy>(sorted: &[T], part: f64) -> Option<T> {
    let index = ((sorted.len() as f64 * part) as usize).min(sorted.len().checked_sub(1)?);
    sorted.get(index).copied()
}

/// CPU seconds that processes have used, their threads included (proc(5), fields 14 and 15).
fn cpu(pids: &[u32]) -> Result<f64> {
    /// `USER_HZ`, 100 on every architecture that Linux runs on today.
    const TICKS_PER_SECOND: f64 = 100.0;
    let mut ticks = 0.0;
    for pid in pids {
        let path = format!("/proc/{pid}/stat");
        let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
        // The name in parentheses may hold anything.
        let after = text.rsplit_once(')').context("no name in stat")?.1;
        let fields: Vec<_> = after.split_whitespace().collect();
        for field in [11, 12] {
            ticks += fields.get(field).context("stat is cut short")?.parse::<f64>()?;
        }
    }
    Ok(ticks / TICKS_PER_SECOND)
}

/// Resident bytes of processes.
fn memory(pids: &[u32]) -> Result<f64> {
    let mut bytes = 0.0;
    for pid in pids {
        let path = format!("/proc/{pid}/status");
        let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let line = line.context("no VmRSS")?.trim().trim_end_matches(" kB");
        bytes += line.parse::<f64>()? * 1024.0;
    }
    Ok(bytes)
}

/// Passes connections on as they come: what a TCP hop costs by itself.
#[tokio::main(flavor = "current_thread")]
async fn proxy(target: Option<String>) -> Result<()> {
    let target: SocketAddr = target.context("load proxy ADDRESS")?.parse()?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", json!({ "address": listener.local_addr()?.to_string() }));
    loop {
        let (mut client, _) = listener.accept().await?;
        tokio::spawn(async move {
            let mut server = TcpStream::connect(target).await?;
            client.set_nodelay(true)?;
            server.set_nodelay(true)?;
            const BUFFER: usize = 64 << 10;
            tokio::io::copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER, BUFFER).await
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_stay_inside() {
        assert_eq!(percentile(&[1, 2, 3, 4], 0.5), Some(3));
        assert_eq!(percentile(&[1, 2, 3, 4], 1.0), Some(4));
        assert_eq!(percentile::<u32>(&[], 0.5), None);
    }
}
