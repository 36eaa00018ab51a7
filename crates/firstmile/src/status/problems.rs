//! What is wrong with a feed, where, and what to do: rules over one snapshot, in plain words.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{FeedState, FeedStatus, LinkState, LinkStatus};

/// A delay in milliseconds that people see; less is jitter, a big keyframe or one lost packet.
const LATE_MS: f64 = 1_000.0;

/// How long media may wait for a player: a mixer that reads in time takes it within some frames.
const PLAYER_LATE_MS: f64 = 500.0;

/// A part of lost packets that the backhaul does not hide any more while the round trip is long.
const LOSSY: f64 = 0.05;

/// Stalls of the encoder's way in a minute that people see, or whose players' buffers grow by them.
const STALLS: u64 = 10;

/// Seconds between keyframes that are too many for who joins, or comes back.
const LONG_GOP_S: f64 = 4.0;

/// How long a new publication has for its first picture, in seconds.
const FIRST_PICTURE_S: f64 = 5.0;

/// The part of what arrives that an encoder may send through an uplink that is too slow for it.
const UPLINK_SHARE: f64 = 2.0 / 3.0;

/// Something that keeps a feed from being as it should.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Where it is.
    pub place: Place,
    /// What it is, in a sentence.
    pub text: String,
    /// What to do, in a sentence or two.
    pub remedy: String,
    /// Whether the feed is as it should be now, and could be better.
    #[serde(default)]
    pub advice: bool,
}

/// A station of the way from encoder to player.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// The key that its encoder shows.
    Key,
    /// The encoder, and its way to the relay or studio.
    Encoder,
    /// Between relay and studio.
    Backhaul,
    /// A player.
    Player,
    /// The studio's recording.
    Recording,
}

impl Place {
    /// All of them, for metrics.
    pub const ALL: [Self; 5] =
        [Self::Key, Self::Encoder, Self::Backhaul, Self::Player, Self::Recording];

    /// The place as it is written in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Encoder => "encoder",
            Self::Backhaul => "backhaul",
            Self::Player => "player",
            Self::Recording => "recording",
        }
    }

    /// Whether it is on the feed's way to this node, not behind it.
    pub fn is_before_us(self) -> bool {
        matches!(self, Self::Encoder | Self::Backhaul)
    }
}

/// What is wrong with a feed, in the order of its way; `links` are the node's.
pub fn problems(feed: &FeedStatus, links: &[LinkStatus]) -> Vec<Problem> {
    type Rule = fn(&FeedStatus, &[LinkStatus]) -> Option<Problem>;
    let rules: [Rule; 11] = [
        expired,
        fought,
        silent,
        slow_uplink,
        stalls,
        no_picture,
        long_gop,
        lost,
        slow_backhaul,
        late_player,
        recording,
    ];
    rules.iter().filter_map(|rule| rule(feed, links)).collect()
}

fn problem(place: Place, text: String, remedy: impl Into<String>) -> Problem {
    Problem { place, text, remedy: remedy.into(), advice: false }
}

fn expired(feed: &FeedStatus, _: &[LinkStatus]) -> Option<Problem> {
    if !feed.validity.expired || feed.publication.is_none() {
        return None;
    }
    Some(problem(
        Place::Key,
        "The key's time is over: this encoder stays, but cannot come back once it is interrupted."
            .into(),
        "Give the key more time if the show goes on.",
    ))
}

fn fought(feed: &FeedStatus, _: &[LinkStatus]) -> Option<Problem> {
    if !feed.fought {
        return None;
    }
    Some(problem(
        Place::Encoder,
        "Two encoders use this key and throw each other out.".into(),
        "Stop one of them, or give it a feed and a key of its own. If you do not know it, rotate the \
         key.",
    ))
}

fn silent(feed: &FeedStatus, links: &[LinkStatus]) -> Option<Problem> {
    match feed.state {
        // What the encoder does now, nobody here knows.
        _ if is_cut_off(feed, links) => None,
        FeedState::Stalled => Some(problem(
            Place::Encoder,
            "The encoder is connected and sends nothing.".into(),
            "Look at the encoder and its network. If its picture is frozen, stop its stream and start \
             it again.",
        )),
        FeedState::Reconnecting => Some(problem(
            Place::Encoder,
            "The encoder is gone. Players are held for a moment.".into(),
            "Wait for it, or start its stream again. Switch on reconnecting in the encoder.",
        )),
        _ => None,
    }
}

fn slow_uplink(feed: &FeedStatus, links: &[LinkStatus]) -> Option<Problem> {
    let is_coming = feed.state == FeedState::Live && !is_cut_off(feed, links);
    let growth = feed.latency.encoder_growth_ms.filter(|ms| is_coming && *ms >= LATE_MS)?;
    let kbps = feed.kbps();
    Some(problem(
        Place::Encoder,
        format!(
            "The encoder's uplink is too slow: its media comes {} later than a minute ago, and {} \
             arrive.",
            Seconds(growth),
            Rate(kbps)
        ),
        format!("Lower the encoder's bitrate to {}, or give it a better uplink.", {
            Rate(kbps * UPLINK_SHARE)
        }),
    ))
}

fn stalls(feed: &FeedStatus, links: &[LinkStatus]) -> Option<Problem> {
    let is_coming = feed.state == FeedState::Live && !is_cut_off(feed, links);
    let stalls = feed.encoder_stalls.filter(|it| is_coming && it.last_minute >= STALLS)?;
    // Too slow is what is said of it then.
    if feed.latency.encoder_growth_ms.is_some_and(|ms| ms >= LATE_MS) {
        return None;
    }
    Some(problem(
        Place::Encoder,
        format!(
            "The encoder's way stalled {} times in the last minute, for up to {} ms.",
            stalls.last_minute, stalls.longest_ms
        ),
        "Its network loses packets: use a cable or a better place for the radio, or lower the \
         bitrate. A delay for players hides stalls that are shorter than it.",
    ))
}

fn long_gop(feed: &FeedStatus, _: &[LinkStatus]) -> Option<Problem> {
    let interval = feed.video.as_ref()?.keyframe_interval_s?;
    if feed.state != FeedState::Live || interval <= LONG_GOP_S {
        return None;
    }
    let problem = problem(
        Place::Encoder,
        format!(
            "The keyframe interval is {}: joining players and the picture after an outage wait that \
             long.",
            Span(interval)
        ),
        "Set the encoder's keyframe interval (GOP) to 2 s.",
    );
    Some(Problem { advice: true, ..problem })
}

fn no_picture(feed: &FeedStatus, _: &[LinkStatus]) -> Option<Problem> {
    let is_old = feed.since_s.is_some_and(|since| since >= FIRST_PICTURE_S);
    if feed.state != FeedState::Live || feed.video.is_some() || !is_old {
        return None;
    }
    Some(problem(
        Place::Encoder,
        "The encoder sends no picture.".into(),
        "Choose a camera or scene in the encoder; this feed has sound only.",
    ))
}

fn lost(feed: &FeedStatus, links: &[LinkStatus]) -> Option<Problem> {
    if feed.studio.is_none() {
        return lost_at_studio(feed, links);
    }
    if !is_held(feed, links) {
        return None;
    }
    let kept = feed.record_survives_s.map_or_else(String::new, |seconds| {
        format!(" This relay keeps what comes for {}.", Span(seconds))
    });
    Some(problem(
        Place::Backhaul,
        "The studio is not connected: nothing of this feed gets there.".into(),
        format!("Start the studio, or look at its Internet connection.{kept}"),
    ))
}

/// Whether the feed's way to this studio is broken between relay and studio.
pub(crate) fn is_cut_off(feed: &FeedStatus, links: &[LinkStatus]) -> bool {
    // With a publication that is held it is the backhaul that is gone, not the encoder.
    let is_interrupted = feed.state == FeedState::Reconnecting && feed.publication.is_some();
    is_interrupted || link_of(feed, links).is_some_and(|link| link.state != LinkState::Up)
}

/// Whether a feed is on air at its relay, and the way from there to its studio is lost.
pub(crate) fn is_held(feed: &FeedStatus, links: &[LinkStatus]) -> bool {
    match feed.studio {
        Some(_) => feed.is_on_air() && !is_studio_here(feed, links),
        None => feed.publication.is_some() && is_cut_off(feed, links),
    }
}

/// On a relay: whether the feed's studio is connected, and heard.
fn is_studio_here(feed: &FeedStatus, links: &[LinkStatus]) -> bool {
    let own = format!("({})", feed.studio.as_deref().unwrap_or_default());
    links.iter().any(|link| link.peer.ends_with(&own) && link.state == LinkState::Up)
}

/// The link that the feed comes by to this studio.
fn link_of<'a>(feed: &FeedStatus, links: &'a [LinkStatus]) -> Option<&'a LinkStatus> {
    links.iter().find(|link| Some(&link.peer) == feed.via.as_ref())
}

fn lost_at_studio(feed: &FeedStatus, links: &[LinkStatus]) -> Option<Problem> {
    if !is_cut_off(feed, links) {
        return None;
    }
    let link = link_of(feed, links).filter(|link| link.state != LinkState::Up);
    let relay = feed.via.as_deref().unwrap_or("the relay");
    let error = link.and_then(|link| link.last_error.as_deref());
    let error = error.map_or_else(String::new, |error| format!(" ({error})"));
    Some(problem(
        Place::Backhaul,
        format!(
            "The connection to {relay} is lost{error}. A relay that runs keeps the encoder, and this \
             studio its players, for up to 10 minutes."
        ),
        "Nothing to do if it comes back in seconds. Else look at this studio's Internet connection, \
         and whether the relay runs.",
    ))
}

fn slow_backhaul(feed: &FeedStatus, links: &[LinkStatus]) -> Option<Problem> {
    let relay = feed.via.as_deref().filter(|_| feed.is_on_air())?;
    let queued = feed.latency.relay_queue_ms.map_or(0.0, |queue| queue.p50);
    let late = queued + feed.latency.backhaul_ms.unwrap_or_default();
    if is_cut_off(feed, links) {
        return None;
    }
    let loss = link_of(feed, links).and_then(|link| link.loss).filter(|loss| *loss >= LOSSY);
    let lossy = loss.map(|loss| format!("{:.0} % of the packets get lost", loss * 100.0));
    let late = (late >= LATE_MS).then(|| format!("media comes {} late", Seconds(late)));
    let what: Vec<_> = late.into_iter().chain(lossy).collect();
    if what.is_empty() {
        return None;
    }
    Some(problem(
        Place::Backhaul,
        format!("The line between {relay} and this studio is too slow: {}.", what.join(", ")),
        "Stop other traffic on the studio's line, use a cable instead of Wi-Fi, or lower the encoders' \
         bitrates.",
    ))
}

fn late_player(feed: &FeedStatus, _: &[LinkStatus]) -> Option<Problem> {
    let wait = |queue: Option<super::Spread>| queue.map_or(0.0, |queue| queue.p50);
    // Those that wait longest are first.
    let player = feed.player_list.first().filter(|p| wait(p.queue_ms) >= PLAYER_LATE_MS)?;
    let name = if player.client.is_empty() { "A player" } else { player.client.as_str() };
    Some(problem(
        Place::Player,
        format!("{name} takes its media {} late.", Seconds(wait(player.queue_ms))),
        "Its machine or network is too slow. Close what it does not need, open the feed there again, \
         or use a cable.",
    ))
}

fn recording(feed: &FeedStatus, _: &[LinkStatus]) -> Option<Problem> {
    let alarm = feed.recording.as_ref().filter(|recording| recording.on)?.alarm.as_ref()?;
    Some(problem(
        Place::Recording,
        format!("The recording has trouble: {alarm}."),
        "Make room on the disk, or record to another one (`dir` under [record]).",
    ))
}

impl FeedStatus {
    /// Whether media comes, or came a moment ago.
    fn is_on_air(&self) -> bool {
        matches!(self.state, FeedState::Live | FeedState::Stalled)
    }

    /// Picture and sound together, in kilobits per second.
    fn kbps(&self) -> f64 {
        let video = self.video.as_ref().map_or(0.0, |video| video.kbps);
        video + self.audio.as_ref().map_or(0.0, |audio| audio.kbps)
    }
}

/// Milliseconds, as people say them.
struct Seconds(f64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} s", self.0 / 1_000.0)
    }
}

/// Kilobits per second, as people say them.
struct Rate(f64);

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            kbps if kbps < 1_000.0 => write!(f, "{kbps:.0} kb/s"),
            kbps => write!(f, "{:.1} Mb/s", kbps / 1_000.0),
        }
    }
}

/// Seconds, as people say them.
struct Span(f64);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            seconds if seconds < 120.0 => write!(f, "{seconds:.0} s"),
            seconds if seconds < 7_200.0 => write!(f, "{:.0} min", seconds / 60.0),
            seconds => write!(f, "{:.0} h", seconds / 3_600.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{Latency, PlayerStatus, Recording, Spread, Stalls, Status, Video};

    fn live() -> FeedStatus {
        FeedStatus {
            name: "camera".into(),
            state: FeedState::Live,
            via: Some("berlin".into()),
            publication: Some("00".into()),
            since_s: Some(60.0),
            video: Some(Video { codec: "H.264".into(), kbps: 3_100.0, ..Video::default() }),
            latency: Latency {
                encoder_growth_ms: Some(40.0),
                relay_queue_ms: Some(Spread { p50: 1.0, p99: 30.0 }),
                backhaul_ms: Some(22.0),
                player_queue_ms: None,
            },
            ..FeedStatus::default()
        }
    }

    fn link(state: LinkState) -> LinkStatus {
        LinkStatus { peer: "berlin".into(), state, loss: Some(0.01), ..LinkStatus::default() }
    }

    fn only(feed: &FeedStatus, links: &[LinkStatus]) -> Problem {
        let found = problems(feed, links);
        assert_eq!(found.len(), 1, "{found:?}");
        found.into_iter().next().unwrap()
    }

    #[test]
    fn a_good_feed_and_a_waiting_one_have_none() {
        assert_eq!(problems(&live(), &[link(LinkState::Up)]), []);
        let waiting = FeedStatus::default();
        assert_eq!(problems(&waiting, &[link(LinkState::Connecting)]), []);
    }

    #[test]
    fn a_slow_uplink_is_named_with_the_rate_to_set() {
        let mut feed = live();
        feed.latency.encoder_growth_ms = Some(2_140.0);
        let found = only(&feed, &[link(LinkState::Up)]);
        assert_eq!(found.place, Place::Encoder);
        assert!(found.text.contains("2.1 s later") && found.text.contains("3.1 Mb/s arrive"));
        assert!(found.remedy.contains("to 2.1 Mb/s"), "{}", found.remedy);
        feed.state = FeedState::Waiting;
        assert_eq!(problems(&feed, &[link(LinkState::Up)]), []);
    }

    #[test]
    fn an_encoder_that_sends_nothing_differs_from_one_that_is_gone() {
        let stalled = FeedStatus { state: FeedState::Stalled, ..live() };
        assert!(only(&stalled, &[link(LinkState::Up)]).text.contains("sends nothing"));
        let gone = FeedStatus {
            state: FeedState::Reconnecting,
            publication: None,
            via: None,
            ..FeedStatus::default()
        };
        let found = only(&gone, &[link(LinkState::Up)]);
        assert_eq!((found.place, found.text.contains("gone")), (Place::Encoder, true));
    }

    #[test]
    fn two_encoders_and_no_picture() {
        let fought = FeedStatus { fought: true, ..live() };
        assert!(only(&fought, &[link(LinkState::Up)]).remedy.contains("rotate the key"));
        let mut dark = FeedStatus { video: None, ..live() };
        assert!(only(&dark, &[link(LinkState::Up)]).text.contains("no picture"));
        dark.since_s = Some(1.0);
        assert_eq!(problems(&dark, &[link(LinkState::Up)]), []);
    }

    #[test]
    fn a_lost_backhaul_is_told_from_a_lost_encoder() {
        let feed = FeedStatus { state: FeedState::Reconnecting, ..live() };
        let mut down = link(LinkState::Connecting);
        down.last_error = Some("timed out".into());
        let found = only(&feed, &[down]);
        assert_eq!(found.place, Place::Backhaul);
        assert!(found.text.starts_with("The connection to berlin is lost (timed out)"));
        assert!(found.text.contains("keeps the encoder"));
        assert_eq!(only(&live(), &[link(LinkState::Racing)]).place, Place::Backhaul);
        // Nothing comes while the link is lost, and the encoder is not to blame.
        let mut silent = FeedStatus { state: FeedState::Stalled, ..live() };
        silent.latency.encoder_growth_ms = Some(4_000.0);
        silent.latency.relay_queue_ms = Some(Spread { p50: 2_000.0, p99: 2_000.0 });
        assert_eq!(only(&silent, &[link(LinkState::Racing)]).place, Place::Backhaul);
    }

    #[test]
    fn a_slow_backhaul_says_how_late_and_how_lossy() {
        let mut feed = live();
        feed.latency.relay_queue_ms = Some(Spread { p50: 900.0, p99: 2_000.0 });
        feed.latency.backhaul_ms = Some(300.0);
        let lossy = LinkStatus { loss: Some(0.12), ..link(LinkState::Up) };
        let text = only(&feed, &[lossy]).text;
        assert!(text.ends_with("media comes 1.2 s late, 12 % of the packets get lost."), "{text}");
    }

    #[test]
    fn a_late_player_and_a_full_disk_do_not_make_a_feed_weak() {
        let mut feed = live();
        feed.player_list = vec![PlayerStatus {
            client: "VLC".into(),
            queue_ms: Some(Spread { p50: 800.0, p99: 900.0 }),
            ..PlayerStatus::default()
        }];
        let alarm = Some("the disk is full".into());
        feed.recording = Some(Recording { on: true, alarm, ..Recording::default() });
        let status =
            Status { feeds: vec![feed], links: vec![link(LinkState::Up)], ..Status::default() };
        let feed = &status.diagnosed().feeds[0];
        let places: Vec<_> = feed.problems.iter().map(|problem| problem.place).collect();
        assert_eq!(places, [Place::Player, Place::Recording]);
        assert!(feed.problems[0].text.starts_with("VLC takes its media 0.8 s late"));
        assert!(!feed.weak);
    }

    fn words(feed: FeedStatus, link: LinkStatus) -> (bool, bool) {
        let status = Status { feeds: vec![feed], links: vec![link], ..Status::default() };
        let feed = &status.diagnosed().feeds[0];
        (feed.weak, feed.held)
    }

    #[test]
    fn a_live_feed_with_a_problem_on_its_way_is_weak() {
        let lossy = LinkStatus { loss: Some(0.12), ..link(LinkState::Up) };
        assert_eq!(words(live(), lossy), (true, false));
        assert_eq!(words(live(), link(LinkState::Up)), (false, false));
    }

    #[test]
    fn a_feed_is_held_while_its_relay_is_away() {
        for state in [FeedState::Live, FeedState::Stalled, FeedState::Reconnecting] {
            for link_state in [LinkState::Racing, LinkState::Connecting, LinkState::Refused] {
                let feed = FeedStatus { state, ..live() };
                assert_eq!(words(feed, link(link_state)), (false, true), "{state:?}");
            }
        }
        // The link is back, and the relay has not said yet what there is.
        let interrupted = FeedStatus { state: FeedState::Reconnecting, ..live() };
        assert_eq!(words(interrupted, link(LinkState::Up)), (false, true));
        // The encoder left before the link did, or publishes to the studio itself.
        let gone = FeedStatus { publication: None, via: None, ..live() };
        let gone = FeedStatus { state: FeedState::Reconnecting, ..gone };
        assert_eq!(words(gone, link(LinkState::Connecting)), (false, false));
        let here = FeedStatus { via: None, ..live() };
        assert_eq!(words(here, link(LinkState::Connecting)), (false, false));
        // A relay's own view.
        let kept = || FeedStatus { studio: Some("ABCD".into()), via: None, ..live() };
        let studio = |state| LinkStatus { peer: "room (ABCD)".into(), ..link(state) };
        assert_eq!(words(kept(), studio(LinkState::Connecting)), (false, true));
        assert_eq!(words(kept(), studio(LinkState::Up)), (false, false));
        let over = FeedStatus { state: FeedState::Waiting, publication: None, ..kept() };
        assert_eq!(words(over, studio(LinkState::Connecting)), (false, false));
    }

    #[test]
    fn a_way_that_stalls_is_weak_and_a_long_gop_is_not() {
        let mut feed = live();
        feed.encoder_stalls = Some(Stalls { last_minute: 12, longest_ms: 400 });
        let found = only(&feed, &[link(LinkState::Up)]);
        assert_eq!(found.place, Place::Encoder);
        assert!(found.text.contains("stalled 12 times in the last minute, for up to 400 ms"));
        assert_eq!(words(feed.clone(), link(LinkState::Up)), (true, false));
        // Of an uplink that is too slow that is said, and no more.
        feed.latency.encoder_growth_ms = Some(3_000.0);
        assert!(only(&feed, &[link(LinkState::Up)]).text.contains("too slow"));
        feed = live();
        feed.encoder_stalls = Some(Stalls { last_minute: 3, longest_ms: 400 });
        assert_eq!(problems(&feed, &[link(LinkState::Up)]), []);
        let video = feed.video.as_mut().unwrap();
        video.keyframe_interval_s = Some(4.0);
        assert_eq!(problems(&feed, &[link(LinkState::Up)]), []);
        feed.video.as_mut().unwrap().keyframe_interval_s = Some(10.0);
        let found = only(&feed, &[link(LinkState::Up)]);
        assert!(found.advice && found.text.starts_with("The keyframe interval is 10 s"));
        assert!(found.remedy.contains("to 2 s"));
        assert_eq!(words(feed, link(LinkState::Up)), (false, false));
    }

    #[test]
    fn a_relay_says_that_its_studio_is_away_and_what_it_keeps() {
        let feed = FeedStatus {
            studio: Some("ABCD".into()),
            via: None,
            record_survives_s: Some(600.0),
            ..live()
        };
        let studio = |state| LinkStatus { peer: "room (ABCD)".into(), ..link(state) };
        assert_eq!(problems(&feed, &[studio(LinkState::Up)]), []);
        assert!(only(&feed, &[studio(LinkState::Connecting)]).remedy.contains("for 10 min"));
        assert_eq!(only(&feed, &[]).place, Place::Backhaul);
    }
}
