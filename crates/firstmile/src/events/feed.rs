//! What is told of a feed: its way on and off the air, its problems, what was skipped and recorded.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use super::steady::{Change, Steady};
use super::{About, Events, Kind, Said, Severity};
use crate::rate::Bucket;
use crate::status::{FeedState, FeedStatus, Place, Problem};

/// A problem that is shorter than this is jitter; and it is over when it stays away for longer.
const TROUBLE: Duration = Duration::from_secs(3);
const CALM: Duration = Duration::from_secs(5);
/// How long a feed that was lost, held or stalled has to be live again.
const BACK: Duration = Duration::from_secs(1);
/// How long nothing has to come: most ways come back by themselves, and a machine that slept has
/// not read what came.
const SILENT: Duration = Duration::from_secs(1);
/// How long a new feed may take to show what it consists of.
const HEADERS: Duration = Duration::from_secs(2);
/// Takeovers that are told at once; then one in ten seconds.
const TAKEOVERS: f64 = 4.0;
const TAKEOVER_RATE: f64 = 0.1;
/// A tally is told when nothing was added for so long, or when it has grown for so long.
const QUIET: Duration = Duration::from_secs(3);
const FIRST_TALLY: Duration = Duration::from_secs(30);
const LAST_TALLY: Duration = Duration::from_secs(600);
/// Looks over which tags have to be missing: what is on its way is no hole.
const HOLE_LOOKS: usize = 4;

/// How a feed is; a greater one is worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Air {
    Live,
    Weak,
    Held,
    Stalled,
    Lost,
    Off,
}

impl Air {
    fn of(feed: &FeedStatus) -> Self {
        match feed.state {
            FeedState::Waiting => Self::Off,
            FeedState::Reconnecting if feed.publication.is_none() => Self::Lost,
            _ if feed.held => Self::Held,
            FeedState::Reconnecting | FeedState::Stalled => Self::Stalled,
            FeedState::Live if feed.weak => Self::Weak,
            FeedState::Live => Self::Live,
        }
    }

    fn is_trouble(self) -> bool {
        !matches!(self, Self::Live | Self::Off)
    }
}

/// What was told of a feed.
#[derive(Debug)]
pub(super) struct FeedWatch {
    air: Steady<Air>,
    /// Since when it is not as it should be.
    trouble: Option<Instant>,
    fight: Steady<bool>,
    player: Steady<bool>,
    recorder: Steady<bool>,
    /// The publication and the relay that were seen last, while they were live.
    session: Option<Session>,
    /// Whose place was taken, and when: what the new one consists of is not known yet.
    taken: Option<(Session, Instant)>,
    takeovers: Bucket,
    skipped: Tally,
    player_skipped: Tally,
    recording: RecordingWatch,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Session {
    publication: String,
    via: Option<String>,
}

impl FeedWatch {
    /// A feed that is seen for the first time: what it is already is no event, but being on air is.
    pub(super) fn new(feed: &FeedStatus, now: Instant) -> Self {
        Self {
            air: Steady::new(Air::Off),
            trouble: None,
            fight: Steady::new(false),
            player: Steady::new(false),
            recorder: Steady::new(false),
            session: None,
            taken: None,
            takeovers: Bucket::full(TAKEOVERS, now),
            skipped: Tally::from(feed.drops.skipped_tags),
            player_skipped: Tally::from(feed.drops.player_skipped_tags),
            recording: RecordingWatch::new(feed),
        }
    }

    /// Looks at the feed as it is now.
    pub(super) fn look(&mut self, feed: &FeedStatus, names: &Events, now: Instant) -> Vec<Said> {
        let mut told = Told { feed, said: Vec::new() };
        self.look_at_air(&mut told, names, now);
        self.look_at_problems(&mut told, now);
        let skipped = self.skipped.look(feed.drops.skipped_tags, now);
        if let Some(text) = skipped.filter(|_| feed.studio.is_none()) {
            let why = "to stay in time";
            told.say(
                Kind::Skipped,
                Severity::Warning,
                format!("{text} of {} {why}: the way from its relay was too slow", told.name()),
            );
        }
        if let Some(text) = self.player_skipped.look(feed.drops.player_skipped_tags, now) {
            let (severity, whose) = match feed.studio {
                Some(_) => (Severity::Warning, "the way to its studio"),
                None => (Severity::Info, "players that took it too slowly"),
            };
            told.say(Kind::Skipped, severity, format!("{text} of {} for {whose}", told.name()));
        }
        self.recording.look(&mut told, now);
        told.said
    }

    fn look_at_air(&mut self, told: &mut Told<'_>, names: &Events, now: Instant) {
        let feed = told.feed;
        let before = self.air.told();
        let mut is = Air::of(feed);
        if before == Air::Off && is == Air::Weak {
            // First that it is there.
            is = Air::Live;
        }
        if is.is_trouble() {
            self.trouble.get_or_insert(now);
        } else if before == Air::Live && is == Air::Live {
            self.trouble = None;
        }
        let patience = match (before, is) {
            (Air::Off, Air::Live) if has_headers(feed) => Duration::ZERO,
            (Air::Off, Air::Live) => HEADERS,
            (Air::Weak, Air::Live) => CALM,
            (_, Air::Live) => BACK,
            (_, Air::Weak) => TROUBLE,
            (_, Air::Held | Air::Stalled) => SILENT,
            _ => Duration::ZERO,
        };
        let change = self.air.look(is, patience, now);
        if let Some(change) = change {
            self.say_air(told, change, names);
        }
        self.look_at_session(told, is, change.is_some(), names, now);
    }

    fn say_air(&mut self, told: &mut Told<'_>, change: Change<Air>, names: &Events) {
        let name = told.name();
        let (kind, severity, text) = match change.to {
            Air::Live if change.from == Air::Off => {
                let text = format!("{name} is on air: {}", what_comes(told.feed, names));
                (Kind::Live, Severity::Info, text)
            }
            Air::Live => {
                let since = self.trouble.unwrap_or(change.since);
                let after = change.since.saturating_duration_since(since);
                let flaps = match change.blips {
                    0 | 1 => String::new(),
                    blips => format!(", in which it came and went {blips} times"),
                };
                let comes = match change.from {
                    Air::Lost => format!(": {}", what_comes(told.feed, names)),
                    _ => String::new(),
                };
                let text = format!("{name} is live again after {}{flaps}{comes}", Span(after));
                (Kind::Recovered, Severity::Info, text)
            }
            Air::Weak => {
                let why = told.why(Place::is_before_us, "something is wrong on its way");
                (Kind::Weak, Severity::Warning, format!("{name} is weak: {why}"))
            }
            Air::Held => {
                let is_backhaul = |place| place == Place::Backhaul;
                let why = told.why(is_backhaul, "the connection to its relay is lost");
                (Kind::Held, Severity::Error, format!("{name} is held: {why}"))
            }
            Air::Stalled => {
                let why = told.why(Place::is_before_us, "its encoder sends nothing");
                (Kind::Stalled, Severity::Error, format!("{name} is stalled: {why}"))
            }
            Air::Lost => {
                let text = format!(
                    "{name} is lost: its encoder is gone without a word. Players are held for a \
                     moment"
                );
                (Kind::Lost, Severity::Error, text)
            }
            Air::Off => (Kind::Ended, Severity::Info, format!("{name} is off the air")),
        };
        if !change.to.is_trouble() {
            self.trouble = None;
        }
        told.say(kind, severity, text);
    }

    /// Sees whether another encoder, or another relay, is on air without a gap.
    fn look_at_session(
        &mut self,
        told: &mut Told<'_>,
        is: Air,
        is_told: bool,
        names: &Events,
        now: Instant,
    ) {
        let feed = told.feed;
        let is_on = matches!(is, Air::Live | Air::Weak);
        let publication = feed.publication.clone().filter(|_| is_on);
        let session = publication.map(|publication| Session { publication, via: feed.via.clone() });
        let before = std::mem::replace(&mut self.session, session);
        if let (Some(before), Some(session)) = (before, &self.session)
            && before.publication != session.publication
            && !is_told
            && self.air.told() != Air::Off
            && self.takeovers.take(1.0, TAKEOVER_RATE, TAKEOVERS, now)
        {
            self.taken = Some((before, now));
        }
        let Some((before, at)) = &self.taken else { return };
        if !has_headers(feed) && now.saturating_duration_since(*at) < HEADERS {
            return;
        }
        let from = match names.encoder_of(&before.publication) {
            Some(encoder) => format!(" from {encoder}"),
            None => String::new(),
        };
        let by = match (&before.via, &feed.via) {
            (Some(old), Some(new)) if old != new => format!(", which came by {old} before"),
            _ => String::new(),
        };
        let text = format!(
            "Another encoder took {} over{from}{by}: {}",
            told.name(),
            what_comes(feed, names)
        );
        self.taken = None;
        told.say(Kind::Takeover, Severity::Warning, text);
    }

    fn look_at_problems(&mut self, told: &mut Told<'_>, now: Instant) {
        let feed = told.feed;
        let name = told.name();
        if let Some(change) = self.fight.look(feed.fought, Duration::ZERO, now) {
            match change.to {
                true => told.say(
                    Kind::Fight,
                    Severity::Error,
                    format!(
                        "Two encoders use the key of {name} and throw each other out. Stop one of \
                         them, or rotate the key"
                    ),
                ),
                false => {
                    let text = format!("Nobody fights over {name} any more");
                    told.say(Kind::Solved, Severity::Info, text);
                }
            }
        }
        let places = [(&mut self.player, Place::Player), (&mut self.recorder, Place::Recording)];
        for (steady, place) in places {
            let is = problems(feed).any(|problem| problem.place == place);
            let patience = if is { TROUBLE } else { CALM };
            match steady.look(is, patience, now).map(|change| change.to) {
                Some(true) => {
                    let why = told.why(|at| at == place, "something is wrong");
                    told.say(Kind::Problem, Severity::Warning, format!("{name}: {why}"));
                }
                Some(false) => {
                    let what = match place {
                        Place::Recording => "recorded",
                        _ => "played in time",
                    };
                    told.say(Kind::Solved, Severity::Info, format!("{name} is {what} again"));
                }
                None => {}
            }
        }
    }
}

/// What is said of one feed in one look.
struct Told<'a> {
    feed: &'a FeedStatus,
    said: Vec<Said>,
}

impl Told<'_> {
    fn name(&self) -> String {
        match &self.feed.studio {
            Some(studio) => format!("{} of {studio}", self.feed.name),
            None => self.feed.name.clone(),
        }
    }

    /// The first problem at a place, and its remedy.
    fn why(&self, is_there: impl Fn(Place) -> bool, otherwise: &str) -> String {
        let problem = problems(self.feed).find(|problem| is_there(problem.place));
        problem.map_or_else(
            || otherwise.to_owned(),
            |Problem { text, remedy, .. }| format!("{text} {remedy}"),
        )
    }

    fn say(&mut self, kind: Kind, severity: Severity, text: String) {
        let (feed, studio) = (self.feed.name.clone(), self.feed.studio.clone());
        let about = About { studio, ..About::feed(feed) };
        self.said.push(Said { kind, severity, about, text });
    }
}

/// What is wrong; advice is for the page.
fn problems(feed: &FeedStatus) -> impl Iterator<Item = &Problem> {
    feed.problems.iter().filter(|problem| !problem.advice)
}

fn has_headers(feed: &FeedStatus) -> bool {
    feed.video.as_ref().is_some_and(|video| video.width.is_some()) && feed.audio.is_some()
}

/// What a feed consists of, from whom, and by which relay.
fn what_comes(feed: &FeedStatus, names: &Events) -> String {
    let video = feed.video.as_ref().map(|video| match (video.width, video.height) {
        (Some(width), Some(height)) => format!("{} {width}×{height}", video.codec),
        _ => video.codec.clone(),
    });
    let audio = feed.audio.as_ref().map(|audio| audio.codec.clone());
    let media: Vec<_> = video.into_iter().chain(audio).collect();
    let mut text = if media.is_empty() { "nothing known yet".into() } else { media.join(" and ") };
    let encoder = feed.publication.as_deref().and_then(|id| names.encoder_of(id));
    if let Some(encoder) = encoder {
        text.push_str(&format!(" from {encoder}"));
    }
    match (&feed.via, &feed.studio) {
        (Some(relay), _) => text.push_str(&format!(", by {relay}")),
        (None, None) => text.push_str(", at this studio's own door"),
        (None, Some(_)) => {}
    }
    text
}

/// A length of time as people say it.
struct Span(Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_secs_f64() {
            seconds if seconds < 10.0 => write!(f, "{seconds:.1} s"),
            seconds if seconds < 120.0 => write!(f, "{seconds:.0} s"),
            seconds if seconds < 7_200.0 => write!(f, "{:.0} min", seconds / 60.0),
            seconds => write!(f, "{:.1} h", seconds / 3_600.0),
        }
    }
}

/// A counter that is told in sums.
#[derive(Debug)]
struct Tally {
    seen: u64,
    sum: u64,
    began: Option<Instant>,
    grew: Option<Instant>,
    window: Duration,
}

impl Tally {
    fn from(seen: u64) -> Self {
        Self { seen, sum: 0, began: None, grew: None, window: FIRST_TALLY }
    }

    /// Takes the counter as it is; one that fell began anew. Gives the sum in words when it is time.
    fn look(&mut self, count: u64, now: Instant) -> Option<String> {
        let (sum, took) = self.take(count, now)?;
        let tags = if sum == 1 { "tag was" } else { "tags were" };
        Some(match took {
            took if took < Duration::from_secs(1) => format!("{sum} {tags} left out"),
            took => format!("{sum} {tags} left out within {}", Span(took)),
        })
    }

    fn take(&mut self, count: u64, now: Instant) -> Option<(u64, Duration)> {
        let more = count.saturating_sub(self.seen);
        self.seen = count;
        if more > 0 {
            self.sum += more;
            self.began.get_or_insert(now);
            self.grew = Some(now);
        }
        let (Some(began), Some(grew)) = (self.began, self.grew) else { return None };
        let is_quiet = now.saturating_duration_since(grew) >= QUIET;
        let is_long = now.saturating_duration_since(began) >= self.window;
        if !is_quiet && !is_long {
            return None;
        }
        // What goes on is told ever less often.
        self.window = if is_quiet { FIRST_TALLY } else { (self.window * 2).min(LAST_TALLY) };
        (self.began, self.grew) = (None, None);
        Some((std::mem::take(&mut self.sum), grew.saturating_duration_since(began)))
    }
}

/// What was told of a feed's recording.
#[derive(Debug)]
struct RecordingWatch {
    on: bool,
    /// Tags that were missing in the last looks.
    missing: VecDeque<u64>,
    /// Tags that were really missing.
    hole: u64,
    /// Tags a second when it was on air last.
    rate: f64,
    came: Tally,
    lost: Tally,
    /// Something was on air and recorded that is not complete yet; `lost` so far then.
    open: Option<u64>,
    /// Looks without anything on air.
    quiet: usize,
}

impl RecordingWatch {
    fn new(feed: &FeedStatus) -> Self {
        let recording = feed.recording.clone().unwrap_or_default();
        Self {
            on: recording.on,
            missing: VecDeque::from(vec![recording.missing; HOLE_LOOKS]),
            hole: recording.missing,
            rate: 0.0,
            came: Tally::from(feed.drops.backfilled_tags),
            lost: Tally::from(recording.gone),
            open: None,
            quiet: 0,
        }
    }

    fn look(&mut self, told: &mut Told<'_>, now: Instant) {
        let feed = told.feed;
        let Some(recording) = &feed.recording else { return };
        let name = told.name();
        if std::mem::replace(&mut self.on, recording.on) != recording.on {
            match recording.on {
                true => {
                    let text = format!("{name} is recorded from now on");
                    told.say(Kind::RecordingStarted, Severity::Info, text);
                }
                false => {
                    let text = format!("{name} is no longer recorded");
                    told.say(Kind::RecordingStopped, Severity::Info, text);
                }
            }
        }
        if feed.state == FeedState::Live && feed.tags_per_second > 0.0 {
            self.rate = feed.tags_per_second;
        }
        self.missing.pop_front();
        self.missing.push_back(recording.missing);
        self.hole = self.missing.iter().copied().min().unwrap_or_default();
        if let Some((tags, took)) = self.came.take(feed.drops.backfilled_tags, now) {
            let (what, took) = (self.length(tags), Span(took));
            let rest = match recording.missing {
                0 => String::new(),
                missing => format!("; {} may still come", self.length(missing)),
            };
            let text =
                format!("{what} of the recording of {name} came afterwards, within {took}{rest}");
            told.say(Kind::Backfilled, Severity::Info, text);
        }
        if let Some((tags, _)) = self.lost.take(recording.gone, now) {
            let text = format!("{} of the recording of {name} will never come", self.length(tags));
            told.say(Kind::Gone, Severity::Warning, text);
        }
        self.look_whether_complete(told, now);
    }

    fn look_whether_complete(&mut self, told: &mut Told<'_>, _: Instant) {
        let feed = told.feed;
        let Some(recording) = &feed.recording else { return };
        let is_running = recording.on && feed.publication.is_some();
        if is_running {
            self.quiet = 0;
            self.open.get_or_insert(recording.gone);
            return;
        }
        self.quiet = self.quiet.saturating_add(1);
        let is_over = self.quiet >= HOLE_LOOKS && recording.missing == 0 && self.hole == 0;
        let Some(before) = self.open.filter(|_| is_over) else { return };
        self.open = None;
        let name = told.name();
        match recording.gone.saturating_sub(before) {
            0 => {
                let text = format!("The recording of {name} is complete: nothing is missing");
                told.say(Kind::RecordingComplete, Severity::Info, text);
            }
            gone => {
                let text = format!(
                    "The recording of {name} is complete, without {} that will never come",
                    self.length(gone)
                );
                told.say(Kind::RecordingComplete, Severity::Warning, text);
            }
        }
    }

    /// So many tags, and how long they are at the rate of the last time on air.
    fn length(&self, tags: u64) -> String {
        let tags_text = if tags == 1 { "1 tag".into() } else { format!("{tags} tags") };
        if self.rate <= 0.0 {
            return tags_text;
        }
        let seconds = (tags as f64 / self.rate).min(1e9);
        format!("{} ({tags_text})", Span(Duration::from_secs_f64(seconds)))
    }
}
