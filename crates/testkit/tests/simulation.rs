//! A feed from encoder to player over a simulated backhaul, in virtual time.
//!
//! The hub and the backhaul's sender and receiver are the ones that ship; sockets and clocks are
//! replaced. Faults are random and shrink to the shortest story that breaks a rule.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use backhaul::{Arrival, Receiver, Release, Sender, Skip, StreamChoice};
use bytes::Bytes;
use hub::{Feed, Item, Join, Lane, Lanes, Limits, Next, Policy, Publisher, Resume, Subscriber};
use media::{Position, PublicationId, Role, Tag, Track, TrackSet};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

/// One way, in milliseconds.
const DELAY: u64 = 50;
/// What the link's own backlog may be.
const BACKLOG: u64 = 50;
const BUDGET: Duration = Duration::from_secs(2);

/// What goes wrong, and how many milliseconds after the fault before it.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// Nothing passes for a while; what was under way comes afterwards.
    Outage { after: u64, length: u64 },
    /// The link is lost with all that was under way, and made again after a while.
    Cut { after: u64, length: u64 },
    /// The link carries this many bytes a millisecond for a while.
    Narrow { after: u64, length: u64, rate: u64 },
    /// Another encoder takes over.
    Takeover { after: u64 },
    /// The encoder changes its picture: a new sequence header.
    Header { after: u64 },
    /// The studio is killed and started again, and knows nothing of before.
    Restart { after: u64 },
}

fn faults() -> impl Strategy<Value = Vec<Fault>> {
    let after = 0u64..4_000;
    let fault = prop_oneof![
        (after.clone(), 50u64..3_000).prop_map(|(after, length)| Fault::Outage { after, length }),
        (after.clone(), 50u64..3_000).prop_map(|(after, length)| Fault::Cut { after, length }),
        (after.clone(), 500u64..6_000, 20u64..500)
            .prop_map(|(after, length, rate)| Fault::Narrow { after, length, rate }),
        after.clone().prop_map(|after| Fault::Takeover { after }),
        after.clone().prop_map(|after| Fault::Header { after }),
        after.prop_map(|after| Fault::Restart { after }),
    ];
    proptest::collection::vec(fault, 0..6)
}

/// What the encoder has sent, to compare with.
#[derive(Default)]
struct Story {
    /// The number of the header in force at each video frame.
    header_of: HashMap<(PublicationId, u64), u64>,
    sent: HashMap<(PublicationId, u64), Instant>,
}

struct Encoder {
    publisher: Publisher,
    next_frame: u64,
    next_audio: u64,
    frames: u64,
    gop: u64,
    header: u64,
}

impl Encoder {
    fn start(feed: &Feed, serial: u8, gop: u64, now: Instant, ms: u64, story: &mut Story) -> Self {
        let publisher = feed.publish(PublicationId([serial; 16]), now).expect("no fight");
        let mut encoder =
            Self { publisher, next_frame: ms, next_audio: ms, frames: 0, gop, header: 0 };
        encoder.push(Track::Data, b"\x02\x00\x0aonMetaData\x05", now, story);
        encoder.header = encoder.push(Track::Video, &[0x17, 0, 0, 0, 0, 1], now, story);
        encoder.push(Track::Audio, &[0xaf, 0, 0x12, 0x10], now, story);
        encoder
    }

    fn push(&mut self, track: Track, body: &[u8], now: Instant, story: &mut Story) -> u64 {
        let tag = Tag::new(track, self.next_frame as i64, Bytes::copy_from_slice(body));
        let position = self.publisher.push(tag, now).expect("it is on air");
        story.sent.insert((position.publication, position.number), now);
        position.number
    }

    fn change_picture(&mut self, now: Instant, story: &mut Story) {
        self.header = self.push(Track::Video, &[0x17, 0, 0, 0, 0, 2], now, story);
        // A new picture starts a new GOP.
        self.frames = 0;
    }

    fn tick(&mut self, now: Instant, ms: u64, story: &mut Story) {
        if ms >= self.next_frame {
            let is_key = self.frames.is_multiple_of(self.gop);
            let mut body = vec![if is_key { 0x17 } else { 0x27 }, 1, 0, 0, 0];
            body.resize(if is_key { 60_000 } else { 12_000 }, 9);
            let number = self.push(Track::Video, &body, now, story);
            story.header_of.insert((self.publisher.publication(), number), self.header);
            self.frames += 1;
            self.next_frame += 40;
        }
        if ms >= self.next_audio {
            self.push(Track::Audio, &[0xaf, 1, 7, 7, 7], now, story);
            self.next_audio += 23;
        }
    }
}

/// The network between relay and studio: a rate, a delay, and streams that keep their order.
#[derive(Default)]
struct Network {
    /// Events at the studio by their time, in the order in which they were sent.
    under_way: BTreeMap<(u64, u64), (u64, Event)>,
    serial: u64,
    free_at: u64,
    rate: u64,
    blocked_until: u64,
    last_of_stream: HashMap<u64, u64>,
}

enum Event {
    Tag(Position, Tag),
    Skip(Skip),
}

impl Network {
    /// Sends on a stream; control is stream 0 and takes no time to write.
    fn send(&mut self, stream: u64, bytes: u64, event: Event, now: u64, jitter: u64) {
        if stream > 0 {
            self.free_at = self.free_at.max(now).max(self.blocked_until) + bytes / self.rate;
        }
        let written = if stream > 0 { self.free_at } else { now.max(self.blocked_until) };
        let last = self.last_of_stream.entry(stream).or_default();
        *last = (*last).max(written + DELAY + jitter);
        self.serial += 1;
        self.under_way.insert((*last, self.serial), (stream, event));
    }

    /// Gives a stream up: what has not left yet never comes.
    fn reset(&mut self, stream: u64, now: u64) {
        self.under_way.retain(|(at, _), (of, _)| *of != stream || *at <= now + DELAY);
    }

    fn block(&mut self, until: u64) {
        self.blocked_until = self.blocked_until.max(until);
        let held: Vec<_> = std::mem::take(&mut self.under_way).into_iter().collect();
        for ((at, serial), event) in held {
            self.under_way.insert((at.max(until + DELAY), serial), event);
        }
        self.last_of_stream.values_mut().for_each(|last| *last = (*last).max(until + DELAY));
    }

    fn arrive(&mut self, now: u64) -> Option<Event> {
        let (&(at, serial), _) = self.under_way.first_key_value()?;
        if at > now {
            return None;
        }
        self.under_way.remove(&(at, serial)).map(|(_, event)| event)
    }
}

/// One subscription at the relay; ends with its link.
struct Subscription {
    publication: PublicationId,
    lanes: Lanes,
    sender: Sender,
    video_stream: u64,
}

/// A publication at the studio; outlives links.
struct Incoming {
    publication: PublicationId,
    publisher: Option<Publisher>,
    receiver: Receiver,
    bodies: HashMap<(Track, u64), (Position, Tag)>,
}

impl Incoming {
    fn new(publication: PublicationId) -> Self {
        let (receiver, bodies) = (Receiver::default(), HashMap::new());
        Self { publication, publisher: None, receiver, bodies }
    }

    /// Asks the relay for what is still to come.
    fn subscribe(&mut self, relay: &Feed) -> Subscription {
        self.receiver.resume();
        let (publication, released) = (self.publication, self.receiver.edges());
        Subscription {
            publication,
            lanes: relay.lanes(&Resume { publication, released }, BUDGET),
            sender: Sender::new(1, released, self.receiver.held()),
            video_stream: 2,
        }
    }
}

/// Checks what the player at the studio gets.
#[derive(Default)]
struct Checks {
    last: TrackSet<Option<(PublicationId, u64)>>,
    header: Option<(PublicationId, u64)>,
    delays: VecDeque<(u64, u64)>,
    played: u64,
}

impl Checks {
    fn check(&mut self, item: &Item, story: &Story, now: Instant, ms: u64) {
        let Position { publication, number, previous } = item.position;
        let track = item.tag.track;
        if track == Track::Video && item.tag.role == Role::SequenceHeader {
            self.header = Some((publication, number));
        }
        if let Some((before, last)) = self.last[track]
            && before == publication
        {
            assert!(number > last, "{track:?} {number} came after {last}");
        }
        if matches!(item.tag.role, Role::Keyframe | Role::Frame) && track == Track::Video {
            let follows = previous.is_none() || self.last[track].map(|(_, n)| n) == previous;
            assert!(
                follows || item.tag.is_keyframe(),
                "frame {number} follows {previous:?}, and {:?} was played last",
                self.last[track]
            );
            let in_force = story.header_of[&(publication, number)];
            assert_eq!(self.header, Some((publication, in_force)), "the header of frame {number}");
            self.played += 1;
            let delay = now.saturating_duration_since(story.sent[&(publication, number)]);
            self.delays.push_back((ms, delay.as_millis() as u64));
        }
        self.last[track] = Some((publication, number));
    }
}

fn play(studio: &Feed) -> Subscriber {
    let policy = Policy { join: Join::Smooth, max_delay: BUDGET * 10, verbatim: false };
    studio.subscribe(policy, None)
}

struct World {
    start: Instant,
    ms: u64,
    random: u64,
    story: Story,
    relay: Feed,
    studio: Feed,
    encoder: Encoder,
    encoders: u8,
    network: Network,
    subscription: Option<Subscription>,
    incoming: Option<Incoming>,
    connected_at: u64,
    player: Subscriber,
    checks: Checks,
}

impl World {
    fn new(seed: u64, gop: u64) -> Self {
        let start = Instant::now();
        let (relay, studio) = (Feed::new(Limits::default()), Feed::new(Limits::default()));
        let mut story = Story::default();
        let encoder = Encoder::start(&relay, 1, gop, start, 0, &mut story);
        let player = play(&studio);
        Self {
            start,
            ms: 0,
            random: seed | 1,
            story,
            relay,
            studio,
            encoder,
            encoders: 1,
            network: Network { rate: 5_000, ..Network::default() },
            subscription: None,
            incoming: None,
            connected_at: 0,
            player,
            checks: Checks::default(),
        }
    }

    fn now(&self) -> Instant {
        self.start + Duration::from_millis(self.ms)
    }

    /// xorshift64
    fn random(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below
    }

    fn apply(&mut self, fault: Fault) {
        match fault {
            Fault::Outage { length, .. } => self.network.block(self.ms + length),
            Fault::Cut { length, .. } => {
                let rate = self.network.rate;
                self.network = Network { rate, ..Network::default() };
                self.subscription = None;
                self.connected_at = self.ms + length;
            }
            Fault::Restart { .. } => {
                self.apply(Fault::Cut { after: 0, length: 300 });
                self.incoming = None;
                self.studio = Feed::new(Limits::default());
                self.player = play(&self.studio);
                self.checks = Checks::default();
            }
            Fault::Narrow { rate, .. } => self.network.rate = rate,
            Fault::Takeover { .. } => {
                self.encoders += 1;
                let (now, gop) = (self.now(), self.encoder.gop);
                self.encoder =
                    Encoder::start(&self.relay, self.encoders, gop, now, self.ms, &mut self.story);
            }
            Fault::Header { .. } => {
                let now = self.now();
                self.encoder.change_picture(now, &mut self.story);
            }
        }
    }

    fn tick(&mut self) {
        let now = self.now();
        self.encoder.tick(now, self.ms, &mut self.story);
        if self.ms >= self.connected_at {
            self.send(now);
            self.receive(now);
        }
        let mut items = Vec::new();
        while self.player.poll(now, &mut items, usize::MAX) == Next::Tags {}
        for item in &items {
            self.checks.check(item, &self.story, now, self.ms);
        }
        self.ms += 1;
    }

    /// The relay's end.
    fn send(&mut self, now: Instant) {
        if self.subscription.is_none() {
            let on_air = self.relay.publication().expect("an encoder is there");
            let incoming = self.incoming.get_or_insert_with(|| Incoming::new(on_air));
            self.subscription = Some(incoming.subscribe(&self.relay));
        }
        for lane in [Lane::Rest, Lane::Video] {
            while self.network.free_at.max(self.network.blocked_until) < self.ms + BACKLOG {
                let mut items = Vec::new();
                let subscription = self.subscription.as_mut().expect("it was just made");
                let publication = subscription.publication;
                subscription.lanes.poll(lane, now, &mut items, 1);
                if items.is_empty() {
                    break;
                }
                for item in &items {
                    assert_eq!(item.position.publication, publication);
                    let jitter = self.random(20);
                    self.send_item(item, now, jitter);
                }
            }
        }
        // The publication before is over once its tags are through.
        let is_over = self.subscription.as_ref().is_some_and(|it| it.lanes.is_over());
        if is_over && self.network.under_way.is_empty() {
            (self.subscription, self.incoming) = (None, None);
        }
    }

    fn send_item(&mut self, item: &Item, now: Instant, jitter: u64) {
        let subscription = self.subscription.as_mut().expect("it is being sent");
        let send = subscription.sender.send(item.position, &item.tag, item.arrival, now);
        for skip in send.skips {
            self.network.send(0, 0, Event::Skip(skip), self.ms, jitter);
        }
        if send.gives_up_video {
            self.network.reset(subscription.video_stream, self.ms);
        }
        let stream = match send.stream {
            StreamChoice::None => return,
            StreamChoice::Steady => 1,
            StreamChoice::Video => subscription.video_stream,
            StreamChoice::NewVideo => {
                subscription.video_stream += 1;
                subscription.video_stream
            }
        };
        let event = Event::Tag(item.position, item.tag.clone());
        self.network.send(stream, item.tag.body.len() as u64, event, self.ms, jitter);
    }

    /// The studio's end.
    fn receive(&mut self, now: Instant) {
        while let Some(event) = self.network.arrive(self.ms) {
            let Some(incoming) = &mut self.incoming else { return };
            match event {
                Event::Skip(skip) => incoming.receiver.on_skip(&skip).expect("it is sane"),
                Event::Tag(position, tag) => {
                    assert_eq!(position.publication, incoming.publication);
                    let Position { number, previous, .. } = position;
                    let arrival = incoming.receiver.on_tag(tag.track, number, previous);
                    if arrival.expect("it is sane") == Arrival::Kept {
                        incoming.bodies.insert((tag.track, number), (position, tag));
                    }
                }
            }
            while let Some(release) = incoming.receiver.poll() {
                let (Release::Tag(track, number) | Release::Drop(track, number)) = release;
                let (position, tag) =
                    incoming.bodies.remove(&(track, number)).expect("it was kept");
                let publisher = incoming.publisher.get_or_insert_with(|| {
                    self.studio.publish(position.publication, now).expect("no fight")
                });
                if matches!(release, Release::Tag(..)) {
                    publisher.push_at(position, tag, now).expect("it is on air");
                }
            }
        }
    }

    fn run(&mut self, until: u64) {
        while self.ms < until {
            self.tick();
        }
    }
}

#[test]
fn nothing_is_lost_on_a_good_network() {
    let mut world = World::new(7, 50);
    world.run(20_000);
    assert!(world.checks.played >= 497, "{} of 500 frames", world.checks.played);
    assert!(world.checks.delays.iter().all(|(_, delay)| *delay < 200), "{:?}", world.checks.delays);
}

#[test]
fn a_short_cut_loses_nothing() {
    let mut world = World::new(7, 50);
    world.run(5_000);
    world.apply(Fault::Cut { after: 0, length: 800 });
    world.run(20_000);
    assert!(world.checks.played >= 497, "{} of 500 frames", world.checks.played);
}

proptest! {
    // The same stories in every run; more of them, and others, when somebody looks for trouble.
    #![proptest_config(ProptestConfig {
        cases: 100,
        rng_seed: RngSeed::Fixed(1),
        ..ProptestConfig::default()
    })]

    /// Whatever happens: no tag twice, none out of order, no frame without its header or its
    /// GOP's start; and the picture is live again soon after the last fault.
    #[test]
    fn the_picture_is_right_and_comes_back(seed: u64, gop in 10u64..100, faults in faults()) {
        let mut world = World::new(seed, gop);
        world.run(3_000);
        let mut calm_at = world.ms;
        for fault in faults {
            let (Fault::Outage { after, .. }
            | Fault::Cut { after, .. }
            | Fault::Narrow { after, .. }
            | Fault::Takeover { after }
            | Fault::Header { after }
            | Fault::Restart { after }) = fault;
            let until = world.ms + after;
            world.run(until);
            world.apply(fault);
            calm_at = calm_at.max(world.ms);
            match fault {
                Fault::Outage { length, .. } | Fault::Cut { length, .. } => {
                    calm_at = calm_at.max(world.ms + length);
                }
                Fault::Narrow { length, .. } => {
                    let until = world.ms + length;
                    world.run(until);
                    world.network.rate = 5_000;
                    calm_at = calm_at.max(world.ms);
                }
                Fault::Restart { .. } => calm_at = calm_at.max(world.ms + 300),
                Fault::Takeover { .. } | Fault::Header { .. } => {}
            }
        }
        // A GOP to wait for a keyframe, the budget to notice, and as much to catch up.
        let back_by = calm_at + gop * 40 + 4_000;
        world.run(back_by + 1_000);
        let live: Vec<_> = world.checks.delays.iter().filter(|(at, _)| *at >= back_by).collect();
        prop_assert!(live.len() >= 20, "{} frames in the last second", live.len());
        prop_assert!(live.iter().all(|(_, delay)| *delay < 300), "{live:?}");
    }
}
