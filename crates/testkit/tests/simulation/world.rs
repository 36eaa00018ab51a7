//! Encoders, a relay, a network, a studio and its players, in virtual time.

use std::time::{Duration, Instant};

use media::Track;

use crate::encoder::{Encoder, FRAME, Kind, Story, name};
use crate::network::{BACKLOG, GOOD_RATE, Network, TICK, To};
use crate::player::Player;
use crate::relay::{FEEDS, Relay};
use crate::studio::journal::Journal;
use crate::studio::{Around, Came, Studio};

/// What goes wrong, or happens; lengths in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    /// Nothing passes for a while; what was under way comes afterwards.
    Stall { length: u64 },
    /// The link is lost with all that was under way, and made again after a while.
    Cut { length: u64 },
    /// The studio's address changes: nothing passes, and then a new link is made.
    Address { length: u64 },
    /// The link, or the next one, is lost when so many bytes of control have come there.
    CutAt { to: To, bytes: u64 },
    /// The link carries this many bytes a millisecond for a while.
    Narrow { length: u64, rate: u64 },
    /// Packets are lost for a while; percent.
    Lossy { length: u64, loss: u64 },
    /// An encoder stops, and another comes after a while.
    Stop { feed: usize, length: u64, kind: Kind },
    /// Another encoder takes over.
    Takeover { feed: usize, kind: Kind },
    /// Two encoders come and go at once; the one that stays comes after a while.
    Flash { feed: usize, length: u64, kind: Kind },
    /// An encoder is silent for a while, and stays connected.
    Pause { feed: usize, length: u64 },
    /// The encoder changes its picture: a new sequence header.
    Header { feed: usize },
    /// The studio's disk is slow for a while: what it has no time for is dropped.
    SlowDisk { length: u64 },
    /// The studio is killed, and started again after a while: it knows its journal alone.
    RestartStudio { length: u64 },
    /// The relay is killed, and started again after a while: it knows nothing.
    RestartRelay { length: u64 },
}

/// Encoders of one feed that come and go, or are taken over: more is a fight, which the hub damps.
const MAX_CHANGES: u64 = 5;

struct Camera {
    encoder: Option<Encoder>,
    kind: Kind,
    /// When the next encoder comes.
    back_at: Option<u64>,
    silent_until: u64,
    changes: u64,
}

pub(crate) struct World {
    start: Instant,
    pub(crate) ms: u64,
    pub(crate) story: Story,
    cameras: Vec<Camera>,
    serial: u16,
    spool: Duration,
    relay: Option<Relay>,
    relay_at: u64,
    pub(crate) network: Network,
    pub(crate) studio: Option<Studio>,
    studio_at: u64,
    connect_at: u64,
    wide_at: u64,
    clean_at: u64,
    no_cut_after: u64,
    pub(crate) journal: Journal,
    pub(crate) players: Vec<Player>,
    pub(crate) came: Vec<Came>,
    /// When all that went wrong is over.
    pub(crate) calm_at: u64,
    /// When links carried sound without delay at last: neither down nor losing.
    clear_since: u64,
}

impl World {
    pub(crate) fn new(seed: u64, kinds: [Kind; 2], is_on: [bool; 2], spool: Duration) -> Self {
        let camera =
            |kind| Camera { encoder: None, kind, back_at: Some(0), silent_until: 0, changes: 0 };
        Self {
            start: Instant::now(),
            ms: 0,
            story: Story::default(),
            cameras: kinds.into_iter().map(camera).collect(),
            serial: 0,
            spool,
            relay: None,
            relay_at: 0,
            network: Network::new(seed),
            studio: None,
            studio_at: 0,
            connect_at: 0,
            wide_at: 0,
            clean_at: 0,
            no_cut_after: 0,
            journal: Journal::new(is_on, spool.as_millis() as u64),
            players: Vec::new(),
            came: Vec::new(),
            calm_at: 0,
            clear_since: 0,
        }
    }

    fn now(&self) -> Instant {
        self.start + Duration::from_millis(self.ms)
    }

    pub(crate) fn apply(&mut self, event: Event) {
        let ms = self.ms;
        match event {
            Event::Stall { length } => {
                self.network.block(ms + length);
                self.trouble_until(ms + length);
            }
            Event::Cut { length } => self.cut(length),
            Event::Address { length } => {
                self.network.block(ms + length);
                self.cut(length);
            }
            Event::CutAt { to, bytes } => {
                let at = self.network.control(to) + bytes;
                self.network.cut_at = Some((to, at));
                self.no_cut_after = ms + 2_000;
            }
            Event::Narrow { length, rate } => {
                self.network.rate = rate;
                self.wide_at = ms + length;
                self.calm_at = self.calm_at.max(ms + length);
                self.drained_by(ms.max(self.network.blocked_until));
            }
            Event::Lossy { length, loss } => {
                self.network.loss = loss;
                self.clean_at = ms + length;
                self.trouble_until(ms + length);
            }
            Event::Stop { feed, length, kind } => drop(self.change(feed, kind, length)),
            Event::Takeover { feed, kind } => {
                let before = self.change(feed, kind, 0);
                // The one before is cut by the new one, not gone before it.
                self.encode();
                drop(before);
            }
            Event::Flash { feed, length, kind } => {
                for _ in 0..if self.relay.is_some() { 2 } else { 0 } {
                    drop(self.change(feed, kind, 0));
                    self.encode();
                }
                drop(self.change(feed, kind, length));
            }
            Event::Pause { feed, length } => {
                self.cameras[feed].silent_until = ms + length;
                self.calm_at = self.calm_at.max(ms + length);
            }
            Event::Header { feed } => {
                let at = (self.now(), ms);
                if let Some(encoder) = &mut self.cameras[feed].encoder {
                    encoder.change_picture(at, &mut self.story);
                }
            }
            Event::SlowDisk { length } => {
                self.journal.is_slow_until = self.journal.is_slow_until.max(ms + length);
            }
            Event::RestartStudio { length } => {
                self.cut(length);
                (self.studio, self.studio_at) = (None, ms + length);
                self.players.clear();
            }
            Event::RestartRelay { length } => {
                self.cut(length);
                (self.relay, self.relay_at) = (None, ms + length);
                for camera in &mut self.cameras {
                    camera.encoder = None;
                    camera.back_at = camera.back_at.max(Some(ms + length + 100));
                }
            }
        }
    }

    /// Another encoder comes after a while, unless that would be a fight; returns the one before.
    fn change(&mut self, feed: usize, kind: Kind, length: u64) -> Option<Encoder> {
        let camera = &mut self.cameras[feed];
        if camera.changes >= MAX_CHANGES {
            return None;
        }
        camera.changes += 1;
        camera.kind = kind;
        camera.back_at = Some(self.ms + length);
        self.calm_at = self.calm_at.max(self.ms + length);
        camera.encoder.take()
    }

    fn cut(&mut self, length: u64) {
        self.network.renew();
        if let Some(studio) = &mut self.studio {
            studio.lose_link();
        }
        if let Some(relay) = &mut self.relay {
            relay.link = None;
        }
        self.connect_at = self.connect_at.max(self.ms + length);
        self.trouble_until(self.ms + length);
    }

    fn trouble_until(&mut self, ms: u64) {
        self.calm_at = self.calm_at.max(ms);
        self.drained_by(ms);
    }

    /// What the link had taken by then has to go first.
    fn drained_by(&mut self, ms: u64) {
        let backlog = GOOD_RATE * BACKLOG / self.network.rate;
        self.clear_since = self.clear_since.max(ms + backlog);
    }

    fn encode(&mut self) {
        let (now, ms) = (self.now(), self.ms);
        let Some(relay) = &mut self.relay else { return };
        for (index, camera) in self.cameras.iter_mut().enumerate() {
            if camera.back_at.is_some_and(|at| ms >= at) && camera.encoder.is_none() {
                self.serial += 1;
                camera.encoder = Encoder::start(
                    (index, &relay.feeds[index]),
                    name(self.serial),
                    (camera.kind, self.journal.relay),
                    (now, ms),
                    &mut self.story,
                );
                let is_taken = camera.encoder.is_some();
                camera.back_at = (!is_taken).then_some(ms + 1_000);
            }
            let Some(encoder) = &mut camera.encoder else { continue };
            if !encoder.tick((now, ms), ms < camera.silent_until, &mut self.story) {
                // It tries again.
                (camera.encoder, camera.back_at) = (None, Some(ms + 500));
                self.calm_at = self.calm_at.max(ms + 500);
            }
        }
    }

    pub(crate) fn tick(&mut self) {
        let (now, ms) = (self.now(), self.ms);
        if ms >= self.wide_at {
            self.network.rate = GOOD_RATE;
        }
        if ms >= self.clean_at {
            self.network.loss = 0;
        }
        if ms >= self.no_cut_after {
            self.network.cut_at = None;
        }
        if self.relay.is_none() && ms >= self.relay_at {
            self.relay = Some(Relay::new(self.spool));
            self.journal.relay += 1;
        }
        if self.studio.is_none() && ms >= self.studio_at {
            let studio = self.studio.insert(Studio::new());
            self.players = studio.feeds.iter().map(Player::new).collect();
        }
        self.encode();
        if let (Some(relay), Some(studio)) = (&mut self.relay, &mut self.studio) {
            if studio.link.is_none() && ms >= self.connect_at.max(self.network.blocked_until) {
                studio.dial();
                relay.accept(now);
            }
            let (story, journal) = (&self.story, &mut self.journal);
            studio.tick(&mut self.network, Around { story, journal, now, ms });
            relay.tick(&mut self.network, (now, ms));
            self.network.transmit(ms);
            self.check_came();
        }
        if self.network.is_cut {
            self.cut(100);
        }
        for player in &mut self.players {
            player.tick(&self.story, now);
        }
        self.ms += TICK;
    }

    fn check_came(&mut self) {
        let came = std::mem::take(&mut self.studio.as_mut().expect("it is there").came);
        for came in &came {
            // Sound waits for nothing but the link's own backlog, however narrow the link.
            let began = self.story.of(came.position.publication).began;
            let is_clear = came.ms - came.delay > self.clear_since.max(began) + 500;
            if came.track == Track::Audio && is_clear {
                assert!(came.delay < 220, "sound is {} ms late: {:?}", came.delay, came.position);
            }
        }
        self.came.extend(came);
    }

    pub(crate) fn run(&mut self, until: u64) {
        while self.ms < until {
            self.tick();
        }
    }

    /// When the picture is normal again, at the latest.
    pub(crate) fn back_by(&self) -> u64 {
        let cameras = self.cameras.iter().filter_map(|camera| camera.encoder.as_ref());
        let back_by = cameras.map(|encoder| match encoder.kind {
            Kind::Pictures { gop } => self.calm_at + gop * FRAME,
            Kind::Sound => self.calm_at,
            // It takes the hub some time to see that no keyframe will come.
            Kind::NoKeyframes => {
                let told = self.story.of(encoder.publisher.publication());
                let frames = told.tags.iter().rev();
                let keyframe = frames.filter(|sent| sent.tag.is_keyframe()).map(|sent| sent.ms);
                self.calm_at.max(keyframe.max().unwrap_or(told.began) + 15_000)
            }
        });
        back_by.max().unwrap_or(self.calm_at) + 1_000
    }

    /// Checks that both feeds come in time, for a second.
    pub(crate) fn assert_live(&mut self) {
        let from = self.ms;
        self.run(from + 1_000);
        for (feed, camera) in self.cameras.iter().enumerate() {
            let of_feed = |came: &&Came| came.feed == feed && came.ms >= from;
            for track in [Track::Audio, Track::Video] {
                if track == Track::Video && camera.kind == Kind::Sound {
                    continue;
                }
                let its = || self.came.iter().filter(of_feed).filter(|came| came.track == track);
                let name = FEEDS[feed];
                assert!(its().count() >= 20, "{} {track:?} of {name} in a second", its().count());
                let worst = its().map(|came| came.delay).max().unwrap_or(0);
                assert!(worst < 220, "{track:?} of {name} is {worst} ms late at {from}");
            }
        }
        let studio = self.studio.as_ref().expect("all is well");
        assert!(studio.incoming() <= FEEDS.len(), "{} publications are held", studio.incoming());
    }

    /// Publications that the relay has said to be over, on this link.
    pub(crate) fn kept(&self) -> usize {
        self.studio.as_ref().and_then(|it| it.link.as_ref()).map_or(0, |link| link.kept.len())
    }

    /// Checks that the studio knows of all publications where they ended, if the relay keeps them.
    pub(crate) fn assert_told(&self) {
        let Some(link) = self.studio.as_ref().and_then(|studio| studio.link.as_ref()) else {
            panic!("all is well")
        };
        let on_air = |it: &Camera| Some(it.encoder.as_ref()?.publisher.publication());
        let on_air: Vec<_> = self.cameras.iter().filter_map(on_air).collect();
        for (publication, told) in &self.story.0 {
            let is_here = told.relay == self.journal.relay;
            let is_over = is_here && !on_air.contains(publication);
            let last = link.kept.get(publication);
            if is_over && self.journal.keeps_all() {
                assert_eq!(last, Some(&(told.tags.len() as u64 - 1)), "{publication} is over");
            }
            assert!(is_over || last.is_none(), "{publication} is not over");
        }
    }

    /// Checks that the journals have all that they could have, once there was time.
    pub(crate) fn assert_recorded(&mut self, within: u64) {
        let (by, until) = (self.ms, self.ms + within);
        loop {
            let next = self.ms + 250;
            self.run(next);
            let holes = self.journal.holes(&self.story, by);
            if holes.is_empty() {
                return;
            }
            assert!(self.ms < until, "not recorded after {within} ms: {holes:?}");
        }
    }
}
