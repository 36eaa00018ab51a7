//! Compares what the status says now with what was told of it.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;

use super::feed::FeedWatch;
use super::link::{LinkWatch, key_of};
use super::steady::Steady;
use super::{About, Events, Kind, Said, Severity};
use crate::rate::Bucket;
use crate::status::{LinkStatus, Status, is_feed_alarm};

/// How often the status is looked at.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// How long an alarm has to last, and to be gone.
const ALARM: Duration = Duration::from_secs(1);
/// Alarms that are told at once, and then in a second: some have figures in them that change.
const ALARMS: f64 = 16.0;
const ALARM_RATE: f64 = 0.1;
/// Alarms that are remembered.
const MAX_ALARMS: usize = 256;

/// Looks at the status for ever.
pub(super) async fn run(events: &Events, status: impl Fn() -> Status) {
    let mut watch: Option<Watch> = None;
    let mut look = tokio::time::interval(LOOK_INTERVAL);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        let (status, now) = (status().masked(), Instant::now());
        let watch = watch.get_or_insert_with(|| {
            let text = format!("This {} was started, version {}", status.role, status.version);
            events.say(Kind::Started, Severity::Info, About::default(), text);
            Watch::new(now)
        });
        for said in watch.look(&status, events, now) {
            events.take(said);
        }
    }
}

/// What was told of a node. Its size follows the status, which is bounded.
#[derive(Debug)]
pub(super) struct Watch {
    feeds: HashMap<(Option<String>, String), FeedWatch>,
    links: HashMap<String, LinkWatch>,
    alarms: HashMap<String, Steady<bool>>,
    alarm_bucket: Bucket,
}

impl Watch {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            feeds: HashMap::new(),
            links: HashMap::new(),
            alarms: HashMap::new(),
            alarm_bucket: Bucket::full(ALARMS, now),
        }
    }

    /// What is to be told of a status without keys; `names` knows the encoders'.
    pub(super) fn look(&mut self, status: &Status, names: &Events, now: Instant) -> Vec<Said> {
        let mut said = Vec::new();
        let is_relay = status.role == "relay";
        for link in &status.links {
            let watch = self.links.entry(name_of(link, is_relay));
            let watch = watch.or_insert_with(|| LinkWatch::new(link, now));
            said.extend(watch.look(link, is_relay, now));
        }
        let links = status.links.iter();
        let peers: HashSet<_> = links.map(|link| name_of(link, is_relay)).collect();
        self.links.retain(|peer, _| peers.contains(peer));
        for feed in &status.feeds {
            let watch = self.feeds.entry((feed.studio.clone(), feed.name.clone()));
            let watch = watch.or_insert_with(|| FeedWatch::new(feed, now));
            said.extend(watch.look(feed, names, now));
        }
        let feeds: HashSet<_> =
            status.feeds.iter().map(|feed| (&feed.studio, &feed.name)).collect();
        self.feeds.retain(|(studio, name), _| feeds.contains(&(studio, name)));
        self.look_at_alarms(&status.alarms, &mut said, now);
        said
    }

    fn look_at_alarms(&mut self, alarms: &[String], said: &mut Vec<Said>, now: Instant) {
        // What is wrong with a feed is told of the feed.
        let is_here: HashSet<_> = alarms.iter().filter(|alarm| !is_feed_alarm(alarm)).collect();
        for alarm in &is_here {
            if self.alarms.len() < MAX_ALARMS && !self.alarms.contains_key(*alarm) {
                self.alarms.insert((*alarm).clone(), Steady::new(false));
            }
        }
        let bucket = &mut self.alarm_bucket;
        self.alarms.retain(|alarm, steady| {
            let is = is_here.contains(alarm);
            let change = steady.look(is, ALARM, now);
            if let Some(change) = change
                && bucket.take(1.0, ALARM_RATE, ALARMS, now)
            {
                let (kind, severity, text) = match change.to {
                    true => (Kind::Alarm, Severity::Error, alarm.clone()),
                    false => (Kind::AlarmOver, Severity::Info, format!("Over: {alarm}")),
                };
                said.push(Said { kind, severity, about: About::default(), text });
            }
            is || steady.told()
        });
    }
}

/// What tells one link from the others.
fn name_of(link: &LinkStatus, is_relay: bool) -> String {
    let key = if is_relay { key_of(&link.peer) } else { None };
    key.unwrap_or_else(|| link.peer.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{
        Audio, Drops, FeedState, FeedStatus, LinkState, Place, Problem, Recording, Video,
    };
    use Kind::{
        Alarm, AlarmOver, Backfilled, Ended, Fight, Gone, Held, Live, Lost, Problem as Trouble,
        RecordingComplete, RecordingStarted, RecordingStopped, Recovered, Skipped, Solved, Stalled,
        Takeover, Weak,
    };

    struct Run {
        watch: Watch,
        events: Events,
        now: Instant,
        status: Status,
        last: String,
    }

    fn camera(state: FeedState) -> FeedStatus {
        let size = Some(720);
        FeedStatus {
            name: "camera".into(),
            state,
            publication: Some("0a0b0c0d".into()),
            via: Some("berlin".into()),
            video: Some(Video {
                codec: "H.264".into(),
                width: size,
                height: size,
                ..Video::default()
            }),
            audio: Some(Audio { codec: "AAC".into(), kbps: 128.0 }),
            tags_per_second: 50.0,
            ..FeedStatus::default()
        }
    }

    fn waiting() -> FeedStatus {
        FeedStatus { name: "camera".into(), ..FeedStatus::default() }
    }

    fn lost() -> FeedStatus {
        FeedStatus { state: FeedState::Reconnecting, ..waiting() }
    }

    fn weak() -> FeedStatus {
        let (place, text, remedy) = (Place::Encoder, "Too slow.".into(), "Lower it.".into());
        let real = Problem { place, text, remedy, advice: false };
        let advice = Problem { text: "Long GOP.".into(), advice: true, ..real.clone() };
        let problems = vec![advice, real];
        FeedStatus { weak: true, problems, ..camera(FeedState::Live) }
    }

    fn recorded(missing: u64, gone: u64, feed: FeedStatus) -> FeedStatus {
        let recording = Recording { on: true, missing, gone, ..Recording::default() };
        FeedStatus { recording: Some(recording), ..feed }
    }

    impl Run {
        fn new() -> Self {
            let now = Instant::now();
            let link =
                LinkStatus { peer: "berlin".into(), state: LinkState::Up, ..LinkStatus::default() };
            let status = Status { role: "studio".into(), links: vec![link], ..Status::default() };
            let (events, watch) = (Events::new(&[]), Watch::new(now));
            let mut run = Self { watch, events, now, status, last: String::new() };
            assert_eq!(run.looks(3, waiting()), [Kind::LinkUp]);
            run
        }

        fn looks(&mut self, count: u32, feed: FeedStatus) -> Vec<Kind> {
            self.status.feeds = vec![feed];
            let mut said = Vec::new();
            for _ in 0..count {
                self.now += LOOK_INTERVAL;
                said.extend(self.watch.look(&self.status, &self.events, self.now));
            }
            if let Some(last) = said.last() {
                self.last.clone_from(&last.text);
            }
            said.iter().map(|said| said.kind).collect()
        }
    }

    #[test]
    fn on_air_lost_and_back() {
        let mut run = Run::new();
        assert_eq!(run.looks(9, camera(FeedState::Live)), [Live]);
        assert_eq!(run.last, "camera is on air: H.264 720×720 and AAC, by berlin");
        assert_eq!(run.looks(9, lost()), [Lost]);
        assert_eq!(run.looks(9, camera(FeedState::Live)), [Recovered]);
        assert!(run.last.starts_with("camera is live again after 4.5 s: H.264"), "{}", run.last);
        assert_eq!(run.looks(4, camera(FeedState::Stalled)), [Stalled]);
        assert_eq!(run.looks(9, camera(FeedState::Live)), [Recovered]);
        assert_eq!(run.last, "camera is live again after 2.0 s");
        assert_eq!(run.looks(9, lost()), [Lost]);
        // Long enough to be calm again.
        assert_eq!(run.looks(250, waiting()), [Ended]);
        assert_eq!(run.looks(1, camera(FeedState::Live)), [Live]);
    }

    #[test]
    fn a_live_feed_waits_for_its_headers_but_not_for_ever() {
        let mut run = Run::new();
        let bare = FeedStatus { video: None, audio: None, ..camera(FeedState::Live) };
        assert_eq!(run.looks(3, bare.clone()), []);
        assert_eq!(run.looks(3, bare), [Live]);
        let mut run = Run::new();
        run.events
            .encoder(media::PublicationId([10, 11, 12, 13].repeat(4).try_into().unwrap()), "OBS");
        let here = FeedStatus { via: None, ..camera(FeedState::Live) };
        assert!(
            run.looks(1, FeedStatus { publication: Some("0a0b0c0d".into()), ..here }) == [Live]
        );
        assert!(run.last.ends_with("AAC from OBS, at this studio's own door"), "{}", run.last);
    }

    #[test]
    fn weak_needs_time_and_says_why() {
        let mut run = Run::new();
        assert_eq!(run.looks(9, weak()), [Live, Weak]);
        assert_eq!(run.last, "camera is weak: Too slow. Lower it.");
        assert_eq!(run.looks(5, camera(FeedState::Live)), []);
        assert_eq!(run.looks(3, weak()), [], "it was better for a moment");
        assert_eq!(run.looks(20, camera(FeedState::Live)), [Recovered]);
        assert_eq!(run.looks(4, weak()), []);
        assert_eq!(run.looks(9, camera(FeedState::Live)), []);
    }

    #[test]
    fn a_lost_relay_holds_its_feeds_and_is_told_itself() {
        let mut run = Run::new();
        run.looks(3, camera(FeedState::Live));
        run.status.links[0].state = LinkState::Connecting;
        let held = FeedStatus { held: true, ..camera(FeedState::Reconnecting) };
        let said = run.looks(9, held);
        assert_eq!(said, [Kind::LinkDown, Held]);
        run.status.links[0].state = LinkState::Up;
        assert_eq!(run.looks(9, camera(FeedState::Live)), [Kind::LinkUp, Recovered]);
    }

    #[test]
    fn a_feed_that_flaps_floods_nobody() {
        let mut run = Run::new();
        let mut said = Vec::new();
        for _ in 0..300 {
            said.extend(run.looks(3, camera(FeedState::Live)));
            said.extend(run.looks(1, lost()));
        }
        // Ten minutes, three hundred losses.
        assert!(said.len() <= 40, "{}", said.len());
        let said = run.looks(130, camera(FeedState::Live));
        assert_eq!(said, [Recovered]);
        assert!(run.last.contains("in which it came and went"), "{}", run.last);
    }

    #[test]
    fn another_publication_without_a_gap_is_a_takeover() {
        let mut run = Run::new();
        run.looks(3, camera(FeedState::Live));
        let other = |number: u32| FeedStatus {
            publication: Some(format!("{number:08x}")),
            via: Some("paris".into()),
            ..camera(FeedState::Live)
        };
        assert_eq!(run.looks(3, other(1)), [Takeover]);
        assert!(run.last.contains("which came by berlin before"), "{}", run.last);
        let said: Vec<_> = (2..40).flat_map(|number| run.looks(1, other(number))).collect();
        assert!((1..10).contains(&said.len()), "{}", said.len());
        // A fight has an event of its own.
        let fought = FeedStatus { fought: true, ..other(40) };
        assert!(run.looks(1, fought).contains(&Fight));
        assert!(run.looks(3, other(40)).contains(&Solved));
    }

    #[test]
    fn what_was_skipped_is_told_in_sums() {
        let mut run = Run::new();
        run.looks(3, camera(FeedState::Live));
        let with = |skipped_tags| FeedStatus {
            drops: Drops { skipped_tags, player_skipped_tags: 0, ..Drops::default() },
            ..camera(FeedState::Live)
        };
        let mut said = Vec::new();
        for number in 1..=10 {
            said.extend(run.looks(1, with(number * 3)));
        }
        assert_eq!(said, []);
        assert_eq!(run.looks(9, with(30)), [Skipped]);
        assert!(
            run.last.starts_with("30 tags were left out within 4.5 s of camera"),
            "{}",
            run.last
        );
        // A publication that is new counts anew.
        assert_eq!(run.looks(20, with(0)), []);
        // Ten minutes without an end.
        let said: Vec<_> = (1..1_200).flat_map(|number| run.looks(1, with(number))).collect();
        assert!((3..8).contains(&said.len()), "{}", said.len());
    }

    #[test]
    fn a_recording_from_its_start_to_its_end() {
        let mut run = Run::new();
        run.looks(
            3,
            FeedStatus { recording: Some(Recording::default()), ..camera(FeedState::Live) },
        );
        let mut backfilled_tags = 0;
        let with = |feed, backfilled_tags| FeedStatus {
            drops: Drops { backfilled_tags, ..Drops::default() },
            ..feed
        };
        let live = |missing, gone| recorded(missing, gone, camera(FeedState::Live));
        assert_eq!(run.looks(4, live(0, 0)), [RecordingStarted]);
        // Tags on their way are no hole.
        assert_eq!(run.looks(2, live(3, 0)), []);
        assert_eq!(run.looks(9, live(0, 0)), []);
        assert_eq!(run.looks(9, live(600, 0)), []);
        let mut said = Vec::new();
        for left in [400, 200, 0] {
            backfilled_tags += 200;
            said.extend(run.looks(1, with(live(left, 0), backfilled_tags)));
        }
        said.extend(run.looks(12, with(live(0, 0), backfilled_tags)));
        assert_eq!(said, [Backfilled]);
        assert!(
            run.last.starts_with("12 s (600 tags) of the recording of camera came"),
            "{}",
            run.last
        );
        run.looks(9, with(live(100, 0), backfilled_tags));
        let given_up = with(live(0, 100), backfilled_tags);
        assert_eq!(run.looks(12, given_up), [Gone], "what is given up has not come");
        assert!(run.last.starts_with("2.0 s (100 tags)"), "{}", run.last);
        let over = with(recorded(0, 100, lost()), backfilled_tags);
        assert_eq!(run.looks(9, over), [Lost, RecordingComplete]);
        assert!(run.last.contains("without 2.0 s (100 tags)"), "{}", run.last);
        let off = FeedStatus { recording: Some(Recording::default()), ..lost() };
        assert_eq!(run.looks(3, off), [RecordingStopped]);
    }

    #[test]
    fn players_and_disks_have_problems_of_their_own() {
        let mut run = Run::new();
        run.looks(3, camera(FeedState::Live));
        let problem =
            |place| Problem { place, text: "Full.".into(), remedy: "Look.".into(), advice: false };
        let ill = FeedStatus {
            problems: vec![problem(Place::Player), problem(Place::Recording)],
            ..camera(FeedState::Live)
        };
        assert_eq!(run.looks(9, ill), [Trouble, Trouble]);
        assert_eq!(run.last, "camera: Full. Look.");
        assert_eq!(run.looks(20, camera(FeedState::Live)), [Solved, Solved]);
    }

    #[test]
    fn a_studio_with_a_new_name_each_time_is_the_same() {
        let (mut watch, mut now) = (Watch::new(Instant::now()), Instant::now());
        let events = Events::new(&[]);
        let mut said = Vec::new();
        for number in 0..20 {
            now += LOOK_INTERVAL;
            let peer = format!("room {number} (ABCD)");
            let link = LinkStatus { peer, state: LinkState::Up, ..LinkStatus::default() };
            let status = Status { role: "relay".into(), links: vec![link], ..Status::default() };
            said.extend(watch.look(&status, &events, now));
        }
        assert_eq!((said.len(), watch.links.len()), (1, 1));
    }

    #[test]
    fn alarms_of_the_node_are_told_and_those_of_feeds_are_not() {
        let mut run = Run::new();
        run.status.alarms = vec!["the disk burns".into()];
        assert_eq!(run.looks(9, waiting()), [Alarm]);
        run.status.alarms = vec![
            "two encoders are fighting over camera".into(),
            "the encoder of camera is connected and sends nothing".into(),
        ];
        assert_eq!(run.looks(9, waiting()), [AlarmOver]);
        assert_eq!(run.watch.alarms.len(), 0);
    }

    #[test]
    fn no_event_has_a_key() {
        use crate::status::{KeyText, Publish};
        let key: crate::secret::StreamKey = "camera-0123456789ABCDEFGHJKMNPQRS".parse().unwrap();
        let secret = key.secret.expose().to_owned();
        let mut feed = weak();
        feed.publish = vec![Publish::new("berlin", "relay.example", 1935, &key)];
        feed.play_lan = Some(KeyText::play_lan("10.0.0.2", 1935, "camera", &secret));
        let status = Status { feeds: vec![feed], ..Status::default() }.masked();
        let events = Events::new(&[]);
        let (mut watch, mut now) = (Watch::new(Instant::now()), Instant::now());
        for _ in 0..20 {
            now += LOOK_INTERVAL;
            for said in watch.look(&status, &events, now) {
                assert!(!format!("{said:?}").contains(&secret));
                events.take(said);
            }
        }
        let json = serde_json::to_string(&events.list(&Default::default(), 99)).unwrap();
        assert!(json.contains("camera is weak") && !json.contains(&secret));
    }
}
