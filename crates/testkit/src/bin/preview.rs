//! How far the dashboard's previews are behind what the studio has, for `benches/preview`.
//!
//! ```text
//! preview FIRSTMILE [--feeds N]... [--seconds N] [--shot FILE.png]
//! ```
//!
//! A studio, N encoders that publish the clip (H.264 640x360 at 30 frames a second, AAC), and a
//! Chromium with its page. A picture's delay is from its last byte at the studio to when it is
//! expected on the screen, by one clock. One line of JSON on standard output for each run: N cards
//! that play, and of N = 1 also the one card in full with its sound.

use std::path::PathBuf;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use testkit::browser::{Browser, Page};
use testkit::client::FfmpegPublish;
use testkit::{Node, fixture};

/// Before that the page is still finding its place.
const SETTLE: Duration = Duration::from_secs(8);

fn main() -> ExitCode {
    match run(std::env::args().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("preview: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(mut arguments: impl Iterator<Item = String>) -> Result<()> {
    let program = PathBuf::from(arguments.next().context("preview FIRSTMILE; see its source")?);
    let (mut feeds, mut seconds, mut shot) = (Vec::new(), 20, None);
    while let Some(option) = arguments.next() {
        let value = arguments.next().with_context(|| format!("{option} needs a value"))?;
        match option.as_str() {
            "--feeds" => feeds.push(value.parse()?),
            "--seconds" => seconds = value.parse()?,
            "--shot" => shot = Some(PathBuf::from(value)),
            _ => bail!("{option} is not known"),
        }
    }
    if feeds.is_empty() {
        feeds = vec![1, 4];
    }
    let time = Duration::from_secs(seconds);
    for count in feeds {
        let studio = Node::studio(&program).start()?;
        let mut encoders = Vec::new();
        for number in 1..=count {
            let name = format!("camera-{number}");
            studio.json(&["feed", "add", &name]);
            let url = studio.url(&studio.key(&name));
            encoders.push(FfmpegPublish::new(&fixture::clip(), &url).forever().start());
            studio.wait_feed(&name, "live");
        }
        let browser = Browser::start()?;
        let url = format!("http://{}/#token={}", studio.address("http"), studio.token());
        let mut page = browser.open(&url)?;
        page.resize(1900, 1900)?;
        println!("{}", measure(&studio, &mut page, "picture", count, time)?);
        if let Some(file) = &shot {
            page.screenshot(file)?;
        }
        if count == 1 {
            page.click(".stage")?;
            println!("{}", measure(&studio, &mut page, "full", count, time)?);
        }
    }
    Ok(())
}

fn measure(
    studio: &Node,
    page: &mut Page,
    mode: &str,
    count: usize,
    time: Duration,
) -> Result<Value> {
    let players = format!(
        "[...document.querySelectorAll('.screen')].map((s) => s.fmPreview.player)\
         .filter((p) => p?.mode === '{mode}' && p.stats.presented > 0)"
    );
    page.wait("all to play", &format!("{players}.length === {count}"));
    sleep(SETTLE);
    page.eval(&format!("{players}.forEach((p) => Object.assign(p.stats, {{ delays: [], presented: 0, received: 0 }}))"))?;
    let before = cpu(studio.id())?;
    sleep(time);
    let busy = cpu(studio.id())? - before;
    let stats = page.eval(&format!("{players}.map((p) => p.stats)"))?;
    let stats = stats.as_array().context("figures")?;
    let sum = |name: &str| stats.iter().filter_map(|of| of[name].as_f64()).sum::<f64>();
    let delays = stats.iter().filter_map(|of| of["delays"].as_array()).flatten();
    let mut delays: Vec<_> = delays.filter_map(Value::as_f64).collect();
    delays.sort_by(f64::total_cmp);
    let at = |part: f64| {
        let index = (delays.len() as f64 * part) as usize;
        delays.get(index.min(delays.len().saturating_sub(1))).map(|delay| delay.round())
    };
    let seconds = time.as_secs_f64();
    Ok(json!({
        "mode": mode,
        "cards": count,
        "playing": stats.len(),
        "behind_ms": { "p50": at(0.5), "p95": at(0.95), "most": at(1.0) },
        "fps": { "sent": sum("received") / seconds / count as f64, "shown": sum("presented") / seconds / count as f64 },
        "seeks": sum("seeks"),
        "jumps": sum("jumps"),
        "dry": sum("dry"),
        "dropped": studio.status()?["previews"]["dropped_frames"],
        "studio_cpu_percent": (busy / seconds * 1_000.0).round() / 10.0,
    }))
}

/// Seconds of processor time of a process so far.
fn cpu(process: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    // After the name, which may hold anything; user and system time are fields 14 and 15.
    let fields = stat.rsplit_once(')').context("a name")?.1;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<f64>);
    // Linux counts a hundred a second.
    Ok(ticks.collect::<Result<Vec<_>, _>>()?.iter().sum::<f64>() / 100.0)
}
