//! A snapshot as text, at most [`WIDTH`] columns wide, in which nothing that a peer chose is more than
//! letters.

use std::fmt::Write as _;
use std::time::SystemTime;

use crate::error::plain;
use crate::status::{FeedState, FeedStatus, LinkState, LinkStatus, PlayerStatus, Status};

/// What fits a terminal that nobody has made larger, with room for a longer name.
const WIDTH: usize = 96;
/// Columns of a feed's name in its line; longer ones have a line of their own.
const NAME: usize = 17;
/// Columns of a peer's name.
const PEER: usize = 24;
/// Players of a feed that are named; the rest is a number.
const PLAYERS: usize = 4;

#[derive(Clone, Copy)]
enum Colour {
    Red = 31,
    Green = 32,
    Yellow = 33,
    Grey = 90,
}

/// The whole snapshot; `is_painted` with a terminal's colours.
pub(super) fn page(status: &Status, is_painted: bool) -> String {
    let mut page = Page { text: String::new(), is_painted };
    page.node(status);
    for alarm in &status.alarms {
        page.note(Colour::Red, "ALARM", alarm);
    }
    page.feeds(&status.feeds);
    page.links(status);
    page.text
}

struct Page {
    text: String,
    is_painted: bool,
}

impl Page {
    fn node(&mut self, status: &Status) {
        let version = plain(&status.version);
        let role = plain(&status.role);
        let _ = writeln!(self.text, "{role} {version}, up {}", span(status.uptime_s as f64));
        let at = &status.addresses;
        let doors =
            [("rtmp", &at.rtmp), ("rtmps", &at.rtmps), ("secure", &at.secure), ("http", &at.http)];
        let doors = doors.iter().filter_map(|(name, at)| Some(format!("{name} {}", at.as_ref()?)));
        let doors: Vec<_> = doors.map(|door| plain(&door)).collect();
        let _ = writeln!(self.text, "{}", doors.join("  "));
        if let Some(spool) = &status.spool {
            let (memory, disk) = (bytes(spool.memory_bytes as u64), bytes(spool.disk_bytes));
            let _ = write!(self.text, "kept for studios: {memory} in memory, {disk} on disk");
            let _ = writeln!(self.text, " of {}", bytes(spool.disk_limit_bytes));
        }
    }

    fn feeds(&mut self, feeds: &[FeedStatus]) {
        self.text.push('\n');
        if feeds.is_empty() {
            self.text.push_str("No feeds.\n");
            return;
        }
        let head = ["FEED", "STATE", "RATE", "PICTURE", "FPS", "CODEC", "DELAY", "PLAYERS"];
        self.line(Colour::Grey, &feed_line(head));
        feeds.iter().for_each(|feed| self.feed(feed));
    }

    fn feed(&mut self, feed: &FeedStatus) {
        let (word, colour) = state(feed);
        let name = plain(&feed.name);
        let is_long = name.chars().count() > NAME;
        if is_long {
            let _ = writeln!(self.text, "{name}");
        }
        let video = feed.video.as_ref();
        let size = video.and_then(|video| Some(format!("{}x{}", video.width?, video.height?)));
        let fps = video.and_then(|video| Some(format!("{:.0}", video.fps?)));
        let audio = feed.audio.as_ref();
        let codecs = [video.map(|video| &video.codec), audio.map(|audio| &audio.codec)];
        let codecs: Vec<_> = codecs.into_iter().flatten().map(|codec| plain(codec)).collect();
        let kbps = video.map_or(0.0, |video| video.kbps) + audio.map_or(0.0, |audio| audio.kbps);
        let figures = match feed.publication {
            None => ["", "", "", "", ""].map(str::to_owned),
            Some(_) => [
                rate(kbps),
                size.unwrap_or_default(),
                fps.unwrap_or_default(),
                short(&codecs.join("+"), 12),
                delay(feed).map_or_else(String::new, ms),
            ],
        };
        let [rate, size, fps, codecs, delay] = &figures;
        let players = feed.players.to_string();
        let shown = if is_long { "" } else { &name };
        let line = feed_line([shown, "", rate, size, fps, codecs, delay, &players]);
        // The state is the only word in colour, and its columns are counted without it.
        let (before, after) = line.split_at(line.len().min(columns(&line, NAME + 2)));
        let state = self.painted(colour, &format!("{word:<12}"));
        let rest = after.get(12..).unwrap_or_default();
        let recorded = feed.recording.as_ref().is_some_and(|recording| recording.on);
        let mark = if recorded { self.painted(Colour::Red, "  REC") } else { String::new() };
        let _ = writeln!(
            self.text,
            "{before}{state}{}{mark}",
            if recorded { rest } else { rest.trim_end() }
        );
        self.details(feed);
        for problem in &feed.problems {
            let place = problem.place.as_str();
            self.note(Colour::Yellow, &format!("  ! {place}:"), &problem.text);
            self.note(Colour::Grey, "    do:", &problem.remedy);
        }
    }

    fn details(&mut self, feed: &FeedStatus) {
        if let Some(studio) = &feed.studio {
            let kept =
                feed.record_survives_s.map(|s| format!(", which may be away for {}", span(s)));
            self.note(Colour::Grey, "  of", &format!("{studio}{}", kept.unwrap_or_default()));
        }
        if let Some(told) = feed.validity.told(SystemTime::now()) {
            self.note(Colour::Grey, "  key:", &told);
        }
        if feed.publication.is_some() {
            let on_air = feed.since_s.map(|since| format!("on air {}", span(since)));
            let via = feed.via.as_ref().map(|relay| format!("by {relay}"));
            let parts = on_air.into_iter().chain(via).chain(hops(feed)).collect::<Vec<_>>();
            self.note(Colour::Grey, "  way:", &parts.join(", "));
        }
        if !feed.player_list.is_empty() {
            let mut named: Vec<_> = feed.player_list.iter().take(PLAYERS).map(player).collect();
            let more = (feed.players as usize).saturating_sub(named.len());
            if more > 0 {
                named.push(format!("and {more} more"));
            }
            self.note(Colour::Grey, "  players:", &named.join(", "));
        }
        let recording = feed.recording.as_ref();
        if let Some(it) = recording.filter(|it| it.on || it.publications > 0) {
            let mut parts = vec![format!("{} kept, {}", it.publications, bytes(it.bytes))];
            for (count, what) in [
                (it.missing, "tags still to come"),
                (it.gone, "tags gone for good"),
                (it.dropped, "tags that the disk did not take"),
            ] {
                if count > 0 {
                    parts.push(format!("{count} {what}"));
                }
            }
            self.note(Colour::Grey, "  recordings:", &parts.join(", "));
        }
    }

    fn links(&mut self, status: &Status) {
        let (title, none) = match status.role.as_str() {
            "relay" => ("STUDIO", "No studio has joined."),
            _ => ("RELAY", "No relay is joined."),
        };
        self.text.push('\n');
        if status.links.is_empty() {
            let _ = writeln!(self.text, "{none}");
            return;
        }
        let head = format!("{title:<PEER$}  {:<13}", "STATE");
        let head = head + &link_figures(["RTT", "LOSS", "IN", "OUT", "ADDRESS"]);
        self.line(Colour::Grey, &head);
        status.links.iter().for_each(|link| self.link(link));
    }

    fn link(&mut self, link: &LinkStatus) {
        let (word, colour) = match link.state {
            LinkState::Up => ("connected", Colour::Green),
            LinkState::Connecting => ("not connected", Colour::Yellow),
            LinkState::Racing => ("silent", Colour::Yellow),
            LinkState::Refused => ("refused", Colour::Red),
        };
        let state = self.painted(colour, &format!("{word:<13}"));
        let peer = short(&plain(&link.peer), PEER);
        let rtt = link.rtt_ms.map_or_else(String::new, ms);
        let loss = link.loss.map_or_else(String::new, |loss| format!("{:.1} %", loss * 100.0));
        let (bytes_in, bytes_out) = (bytes(link.bytes_in), bytes(link.bytes_out));
        let address = plain(&link.address);
        let figures = link_figures([&rtt, &loss, &bytes_in, &bytes_out, &address]);
        let _ = writeln!(self.text, "{peer:<PEER$}  {state}{}", figures.trim_end());
        if link.reconnects > 0 {
            let text = format!("{} times set up anew", link.reconnects);
            self.note(Colour::Grey, "  since the start:", &text);
        }
        if let Some(error) = link.last_error.as_ref().filter(|_| link.state != LinkState::Up) {
            self.note(Colour::Yellow, "  !", error);
        }
    }

    fn line(&mut self, colour: Colour, text: &str) {
        let painted = self.painted(colour, text.trim_end());
        self.text.push_str(&painted);
        self.text.push('\n');
    }

    /// A title and a text that is broken into lines below each other.
    fn note(&mut self, colour: Colour, title: &str, text: &str) {
        let indent = title.chars().count() + 1;
        let mut lines = wrapped(&plain(text), WIDTH.saturating_sub(indent)).into_iter();
        let title = self.painted(colour, title);
        let _ = writeln!(self.text, "{title} {}", lines.next().unwrap_or_default());
        for line in lines {
            let _ = writeln!(self.text, "{:indent$}{line}", "");
        }
    }

    fn painted(&self, colour: Colour, text: &str) -> String {
        match self.is_painted {
            true => format!("\x1b[{}m{text}\x1b[0m", colour as u8),
            false => text.to_owned(),
        }
    }
}

/// Name, state, rate, picture, frames, codecs, delay, players.
fn feed_line([name, state, rate, size, fps, codecs, delay, players]: [&str; 8]) -> String {
    format!(
        "{name:<NAME$}  {state:<12}  {rate:>9}  {size:>9}  {fps:>3}  {codecs:<12}  {delay:>6}  \
         {players:>7}"
    )
}

fn link_figures([rtt, loss, bytes_in, bytes_out, address]: [&str; 5]) -> String {
    format!("  {rtt:>6}  {loss:>6}  {bytes_in:>8}  {bytes_out:>8}  {address}")
}

/// How many bytes the first `count` characters take.
fn columns(text: &str, count: usize) -> usize {
    text.char_indices().nth(count).map_or(text.len(), |(at, _)| at)
}

fn state(feed: &FeedStatus) -> (&'static str, Colour) {
    match feed.state {
        FeedState::Live if feed.weak => ("weak", Colour::Yellow),
        FeedState::Live => ("live", Colour::Green),
        FeedState::Stalled => ("stalled", Colour::Red),
        FeedState::Reconnecting => ("reconnecting", Colour::Yellow),
        FeedState::Waiting if feed.validity.paused => ("paused", Colour::Yellow),
        FeedState::Waiting => ("waiting", Colour::Grey),
    }
}

/// Where a feed's time is spent, hop by hop; of two figures the second is the worst in a hundred.
fn hops(feed: &FeedStatus) -> Vec<String> {
    let latency = &feed.latency;
    let spread = |name: &str, spread: Option<crate::status::Spread>| {
        spread.map(|spread| format!("{name} {} (worst {})", ms(spread.p50), ms(spread.p99)))
    };
    let skipped = feed.drops.skipped_tags;
    let hops = [
        latency.encoder_growth_ms.map(|growth| format!("encoder {} late", ms(growth.max(0.0)))),
        spread("relay", latency.relay_queue_ms),
        latency.backhaul_ms.map(|way| format!("backhaul {}", ms(way))),
        spread("players", latency.player_queue_ms),
        (skipped > 0).then(|| format!("{skipped} tags skipped")),
    ];
    hops.into_iter().flatten().collect()
}

/// From the encoder's socket to the slowest player's, as the dashboard adds it up.
fn delay(feed: &FeedStatus) -> Option<f64> {
    let latency = &feed.latency;
    let hops = [
        latency.encoder_growth_ms,
        latency.relay_queue_ms.map(|spread| spread.p50),
        latency.backhaul_ms,
        latency.player_queue_ms.map(|spread| spread.p50),
    ];
    let hops: Vec<_> = hops.into_iter().flatten().collect();
    (!hops.is_empty()).then(|| hops.iter().map(|hop| hop.max(0.0)).sum())
}

fn player(player: &PlayerStatus) -> String {
    let wait = player.queue_ms.map(|wait| format!(", {}", ms(wait.p50))).unwrap_or_default();
    format!("{} ({}{wait})", short(&player.client, 24), player.address)
}

/// At most so many columns; what is left out is three dots.
fn short(text: &str, columns: usize) -> String {
    if text.chars().count() <= columns {
        return text.to_owned();
    }
    text.chars().take(columns.saturating_sub(3)).chain("...".chars()).collect()
}

/// Lines of at most so many columns, broken at spaces where there are any.
fn wrapped(text: &str, columns: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let mut word: Vec<char> = word.chars().collect();
        let last = lines.last().map_or(0, |line| line.chars().count());
        if last > 0 && last + 1 + word.len() > columns {
            lines.push(String::new());
        }
        while word.len() > columns {
            let rest = word.split_off(columns);
            lines.push(word.into_iter().collect());
            lines.push(String::new());
            word = rest;
        }
        let line = lines.last_mut().expect("there is a line");
        if !line.is_empty() {
            line.push(' ');
        }
        line.extend(word);
    }
    lines.retain(|line| !line.is_empty());
    lines
}

fn rate(kbps: f64) -> String {
    if kbps < 1_000.0 { format!("{kbps:.0} kb/s") } else { format!("{:.1} Mb/s", kbps / 1_000.0) }
}

fn ms(value: f64) -> String {
    match value {
        value if value >= 1_000.0 => format!("{:.1} s", value / 1_000.0),
        value if value < 10.0 => format!("{value:.1} ms"),
        value => format!("{value:.0} ms"),
    }
}

fn bytes(count: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let (mut value, mut unit) = (count as f64, 0);
    while value >= 1_000.0 && unit + 1 < units.len() {
        (value, unit) = (value / 1_000.0, unit + 1);
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", units[unit]) }
}

/// Hours, minutes and seconds.
fn span(seconds: f64) -> String {
    let whole = seconds.max(0.0) as u64;
    let (hours, minutes, seconds) = (whole / 3_600, whole / 60 % 60, whole % 60);
    match hours {
        0 => format!("{minutes}:{seconds:02}"),
        hours => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{
        Addresses, Audio, Drops, Latency, Place, Problem, Recording, Spread, Video,
    };

    fn feed() -> FeedStatus {
        FeedStatus {
            name: "camera".into(),
            state: FeedState::Live,
            weak: true,
            publication: Some("00".into()),
            via: Some("relay.example".into()),
            since_s: Some(3_723.4),
            video: Some(Video {
                codec: "H.264".into(),
                width: Some(1920),
                height: Some(1080),
                fps: Some(29.97),
                kbps: 4_100.0,
                keyframe_interval_s: Some(2.0),
            }),
            audio: Some(Audio { codec: "AAC".into(), kbps: 128.0 }),
            latency: Latency {
                encoder_growth_ms: Some(1_200.0),
                relay_queue_ms: Some(Spread { p50: 1.0, p99: 4.0 }),
                backhaul_ms: Some(31.0),
                player_queue_ms: Some(Spread { p50: 2.0, p99: 12.0 }),
            },
            players: 5,
            player_list: vec![PlayerStatus {
                address: "10.0.0.7:50000".into(),
                client: "VLC".into(),
                queue_ms: Some(Spread { p50: 2.0, p99: 12.0 }),
                ..PlayerStatus::default()
            }],
            problems: vec![Problem {
                place: Place::Encoder,
                text:
                    "The encoder's uplink is too slow: its media comes 1.2 s later than a minute \
                       ago, and 4.2 Mb/s arrive."
                        .into(),
                remedy: "Lower the encoder's bitrate to 2.8 Mb/s, or give it a better uplink."
                    .into(),
                advice: false,
            }],
            drops: Drops { skipped_tags: 3, ..Drops::default() },
            recording: Some(Recording {
                on: true,
                publications: 2,
                bytes: 1_234_567_890,
                gone: 7,
                ..Recording::default()
            }),
            ..FeedStatus::default()
        }
    }

    fn status() -> Status {
        let waiting =
            FeedStatus { name: "a-name-that-has-all-of-32-letter".into(), ..FeedStatus::default() };
        Status {
            role: "studio".into(),
            version: "0.1.0".into(),
            uptime_s: 61,
            addresses: Addresses {
                rtmp: Some("[::]:1935".into()),
                http: Some("127.0.0.1:8935".into()),
                ..Addresses::default()
            },
            alarms: vec!["two encoders are fighting over camera".into()],
            feeds: vec![feed(), waiting],
            links: vec![LinkStatus {
                peer: "relay.example".into(),
                address: "203.0.113.7:443".into(),
                state: LinkState::Up,
                rtt_ms: Some(62.0),
                loss: Some(0.021),
                bytes_in: 123_456_789,
                bytes_out: 999,
                ..LinkStatus::default()
            }],
            ..Status::default()
        }
    }

    #[test]
    fn what_a_person_reads() {
        let expected = "\
studio 0.1.0, up 1:01
rtmp [::]:1935  http 127.0.0.1:8935
ALARM two encoders are fighting over camera

FEED               STATE              RATE    PICTURE  FPS  CODEC          DELAY  PLAYERS
camera             weak           4.2 Mb/s  1920x1080   30  H.264+AAC      1.2 s        5  REC
  way: on air 1:02:03, by relay.example, encoder 1.2 s late, relay 1.0 ms (worst 4.0 ms),
       backhaul 31 ms, players 2.0 ms (worst 12 ms), 3 tags skipped
  players: VLC (10.0.0.7:50000, 2.0 ms), and 4 more
  recordings: 2 kept, 1.2 GB, 7 tags gone for good
  ! encoder: The encoder's uplink is too slow: its media comes 1.2 s later than a minute ago,
             and 4.2 Mb/s arrive.
    do: Lower the encoder's bitrate to 2.8 Mb/s, or give it a better uplink.
a-name-that-has-all-of-32-letter
                   waiting                                                              0

RELAY                     STATE             RTT    LOSS        IN       OUT  ADDRESS
relay.example             connected       62 ms   2.1 %  123.5 MB     999 B  203.0.113.7:443
";
        assert_eq!(page(&status(), false), expected);
        for line in expected.lines() {
            assert!(line.chars().count() <= WIDTH, "{line}");
        }
    }

    #[test]
    fn colour_changes_nothing_else() {
        let painted = page(&status(), true);
        assert!(painted.contains("\x1b[33mweak        \x1b[0m"), "{painted}");
        let mut text = painted;
        for colour in ["\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[90m", "\x1b[0m"] {
            text = text.replace(colour, "");
        }
        assert_eq!(text, page(&status(), false));
    }

    #[test]
    fn what_peers_choose_is_letters_only() {
        let evil = "\x1b[2J\x1b]0;x\x07\u{9b}31m\u{202e}\u{2066}\r\nALARM \u{200b}".to_owned();
        let mut status = status();
        status.version.clone_from(&evil);
        status.alarms = vec![evil.clone()];
        status.feeds[0].name = format!("{evil}{}", "x".repeat(300));
        status.feeds[0].studio = Some(evil.clone());
        status.feeds[0].via = Some(evil.clone());
        status.feeds[0].video.as_mut().unwrap().codec.clone_from(&evil);
        status.feeds[0].player_list[0].client.clone_from(&evil);
        status.feeds[0].problems[0].text.clone_from(&evil);
        status.links[0].peer.clone_from(&evil);
        status.links[0].address.clone_from(&evil);
        status.links[0].last_error = Some(evil);
        status.links[0].state = LinkState::Refused;
        let text = page(&status, false);
        let hidden = |c: &char| {
            (c.is_control() && *c != '\n') || "\u{202e}\u{2066}\u{200b}\u{9b}".contains(*c)
        };
        assert_eq!(text.chars().find(hidden), None, "{text:?}");
        assert_eq!(text.lines().filter(|line| line.starts_with("ALARM")).count(), 1, "{text}");
    }

    #[test]
    fn long_words_are_broken() {
        assert_eq!(wrapped("a bb ccc dddddddd", 4), ["a bb", "ccc", "dddd", "dddd"]);
        assert_eq!(wrapped("", 4), Vec::<String>::new());
        assert_eq!((span(59.9), span(3_600.0)), ("0:59".into(), "1:00:00".into()));
        assert_eq!((bytes(0), bytes(u64::MAX)), ("0 B".into(), "18.4 EB".into()));
    }
}
