//! The whole way in one process: a built-in clip is published to a relay, crosses the backhaul,
//! and is played from a studio, by real sessions over real sockets on loopback.

mod encoder;
mod ledger;
mod player;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hub::{Feed, Join, Next, Policy};
use tokio_util::sync::CancellationToken;

use crate::cli::{DemoArgs, Output};
use crate::config::record::Record;
use crate::config::{Backhaul, Limits, Measure, Ring, Spool, StudioBackhaul, relay, studio};
use crate::error::EXIT_FAILED;
use crate::relay::Relay;
use crate::studio::Studio;
use crate::web::Node as _;

use ledger::{Hop, Ledger, Summary};

/// How long relay and studio may take to find each other.
const JOIN_DEADLINE: Duration = Duration::from_secs(10);
/// How long the last frames may take after the encoder has stopped.
const LAST_FRAMES: Duration = Duration::from_secs(5);
/// How often the status line is written.
const STATUS_INTERVAL: Duration = Duration::from_millis(500);

/// Runs the demo until `shutdown`, or for as long as the arguments say.
///
/// # Errors
///
/// If it cannot be set up. Frames that were lost or changed are exit code 1, not an error.
pub async fn run(args: &DemoArgs, shutdown: CancellationToken) -> Result<ExitCode> {
    let directory = tempfile::tempdir().context("cannot make a temporary directory")?;
    let any = || std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let relay = Relay::bind(relay::Config {
        data: directory.path().join("relay"),
        rtmp: any(),
        rtmps: None,
        tls: None,
        secure: any(),
        http: any(),
        http_token: None,
        http_password: None,
        public_host: None,
        open: false,
        start_grace: relay::START_GRACE,
        trace_rtmp: false,
        region: None,
        measure: Measure { page: false, ..Measure::default() },
        limits: Limits::default(),
        ring: Ring::default(),
        spool: Spool::none(),
        backhaul: Backhaul::default(),
        webhooks: Vec::new(),
    })
    .await?;
    let studio = Studio::bind(studio::Config {
        data: directory.path().join("studio"),
        join: vec![relay.node().join_link()],
        rtmp: any(),
        rtmps: None,
        tls: None,
        http: any(),
        http_token: None,
        http_password: None,
        backhaul: StudioBackhaul::default(),
        play: studio::Play::default(),
        record: Record::default(),
        trace_rtmp: false,
        limits: Limits::default(),
        ring: Ring::default(),
        webhooks: Vec::new(),
    })
    .await?;
    let (relay_node, studio_node) = (relay.node().clone(), studio.node().clone());
    let stop = CancellationToken::new();
    let _stop_on_return = stop.clone().drop_guard();
    let relay = tokio::spawn(relay.serve(stop.clone()));
    let studio = tokio::spawn(studio.serve(stop.clone()));

    let key = studio_node.stream_keys().pop().context("the studio has no feed")?;
    let relay_feed = joined(|| relay_node.find_feed(&key)).await?;
    let studio_feed = studio_node.find_feed(key.name.as_str()).context("the feed is gone")?;
    let play_url = studio_node.play_url(key.name.as_str());
    let publish_url = format!("rtmp://{}/live/{}", relay_node.rtmp_address(), key.expose());
    if args.output == Output::Text {
        let status = studio_node.status();
        let http = status.addresses.http.unwrap_or_default();
        println!(
            "A clip travels encoder -> relay -> backhaul -> studio -> player, all on this \
             machine.\n\n\
             Watch it:        ffplay {play_url}\n\
             \x20                (or open that address in VLC, or as a media source in OBS)\n\
             Take it over:    Server rtmp://{}/live, Stream key {}\n\
             Look inside:     http://{http}/\n\
             Stop:            Ctrl-C\n",
            relay_node.rtmp_address(),
            key.expose(),
        );
    }

    let ledger = Arc::new(Ledger::default());
    tokio::spawn(observe(relay_feed, ledger.clone(), Hop::Relay));
    tokio::spawn(observe(studio_feed, ledger.clone(), Hop::Studio));
    let player = player::Player::connect(&play_url).await?;
    let playing = tokio::spawn(player.run(ledger.clone()));
    let finish = CancellationToken::new();
    let encoder = encoder::Encoder::connect(&publish_url).await?;
    let mut encoding = tokio::spawn(encoder.run(ledger.clone(), finish.clone()));

    let end = args.seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut status = StatusLine::new(args.output, studio_node.clone());
    let ended_early = loop {
        tokio::select! {
            () = shutdown.cancelled() => break false,
            () = sleep_until(end) => break false,
            // Another encoder that takes over is what the screen invites to; with a time set,
            // it is not what was asked for.
            _ = &mut encoding, if !encoding.is_finished() => break end.is_some(),
            () = tokio::time::sleep(STATUS_INTERVAL) => status.write(&ledger.summary()),
        }
    };
    finish.cancel();
    if ended_early {
        bail!("the encoder was cut off");
    }
    if !encoding.is_finished() {
        let _ = tokio::time::timeout(LAST_FRAMES, encoding).await;
    }
    let _ = tokio::time::timeout(LAST_FRAMES, ledger.wait_settled()).await;
    let summary = ledger.summary();
    status.end();
    playing.abort();
    stop.cancel();
    relay.await??;
    studio.await??;
    report(args.output, &summary)?;
    let is_whole = summary.is_whole();
    Ok(if is_whole { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAILED) })
}

/// Waits until the studio's key has reached the relay.
async fn joined<T>(mut find: impl FnMut() -> Option<T>) -> Result<T> {
    let found = tokio::time::timeout(JOIN_DEADLINE, async {
        loop {
            match find() {
                Some(found) => return found,
                None => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    });
    found.await.context("the studio could not join the relay on loopback")
}

async fn sleep_until(end: Option<Instant>) {
    match end {
        Some(end) => tokio::time::sleep_until(end.into()).await,
        None => std::future::pending().await,
    }
}

/// Notes when each tag entered a hub.
async fn observe(feed: Feed, ledger: Arc<Ledger>, hop: Hop) {
    let policy =
        Policy { join: Join::Publication, max_delay: Duration::from_secs(3_600), verbatim: true };
    let mut subscriber = feed.subscribe(policy, None);
    let mut items = Vec::new();
    loop {
        while subscriber.poll(Instant::now(), &mut items, 1 << 20) == Next::Tags {}
        for item in items.drain(..) {
            ledger.passed(hop, item.position.number, item.arrival);
        }
        subscriber.changed().await;
    }
}

/// One line that is written over and over on a terminal, and now and then elsewhere.
struct StatusLine {
    output: Output,
    is_terminal: bool,
    studio: Arc<crate::studio::Node>,
    written: u64,
}

impl StatusLine {
    fn new(output: Output, studio: Arc<crate::studio::Node>) -> Self {
        Self { output, is_terminal: std::io::stdout().is_terminal(), studio, written: 0 }
    }

    fn write(&mut self, summary: &Summary) {
        self.written += 1;
        // Every tenth will do for a log.
        if self.output == Output::Json || !self.is_terminal && !self.written.is_multiple_of(10) {
            return;
        }
        let status = self.studio.status();
        let kbps: f64 = status
            .feeds
            .iter()
            .map(|feed| {
                feed.video.as_ref().map_or(0.0, |video| video.kbps)
                    + feed.audio.as_ref().map_or(0.0, |audio| audio.kbps)
            })
            .sum();
        let hops = summary.hops.iter().map(|(name, spread)| format!("{name} {:.2}", spread.p50));
        let line = format!(
            "{} frames, {} lost, {:.0} kb/s | ms: {} | all {:.2}",
            summary.played,
            summary.lost + summary.changed,
            kbps,
            hops.collect::<Vec<_>>().join(" | "),
            summary.total.p50,
        );
        let mut stdout = std::io::stdout().lock();
        let _ = if self.is_terminal {
            write!(stdout, "\r\x1b[2K{line}")
        } else {
            writeln!(stdout, "{line}")
        };
        let _ = stdout.flush();
    }

    fn end(&self) {
        if self.is_terminal && self.output == Output::Text && self.written > 0 {
            println!();
        }
    }
}

fn report(output: Output, summary: &Summary) -> Result<()> {
    if output == Output::Json {
        println!("{}", serde_json::to_string(summary)?);
        return Ok(());
    }
    println!("\n{} frames of video and audio sent, {} played", summary.sent, summary.played);
    println!("{:<24}{:>10}{:>10}{:>10}", "latency, ms", "p50", "p99", "max");
    let total = ("encoder -> player", summary.total);
    for (name, spread) in summary.hops.iter().copied().chain([total]) {
        println!("{name:<24}{:>10.2}{:>10.2}{:>10.2}", spread.p50, spread.p99, spread.max);
    }
    match summary.is_whole() {
        true => println!("every frame arrived intact and in order"),
        false => println!("{} frames lost, {} changed", summary.lost, summary.changed),
    }
    Ok(())
}
