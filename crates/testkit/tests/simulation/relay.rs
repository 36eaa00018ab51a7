//! The relay's end of a link: what `egress/backhaul` of firstmile does with the same parts.

mod backfill;
mod live;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use backhaul::{Announce, Datagram, Event, Kept, Message, Ranges, Session, Want, Welcome};
use bytes::Bytes;
use hub::{Cut, Feed, Lane, Limits};
use media::PublicationId;

use backfill::Backfill;
use live::Live;

use crate::network::{CONTROL, End, Network, ROUND_TRIP, To};

/// The feeds of the story.
pub(crate) const FEEDS: [&str; 2] = ["camera", "slides"];
const HEARTBEAT: Duration = Duration::from_millis(100);
/// Without acknowledgements for so long, and a round trip, the link gets nothing more.
const SILENCE: Duration = Duration::from_millis(250);
/// After this, what is late is skipped once the link is heard again.
const OUTAGE: Duration = Duration::from_millis(500);

/// A relay; a restart makes a new one.
pub(crate) struct Relay {
    pub(crate) feeds: Vec<Feed>,
    pub(crate) link: Option<Pump>,
}

impl Relay {
    pub(crate) fn new(spool: Duration) -> Self {
        let feed = |_| Feed::new(Limits { spool, ..Limits::default() });
        Self { feeds: FEEDS.iter().map(feed).collect(), link: None }
    }

    pub(crate) fn accept(&mut self, now: Instant) {
        self.link = Some(Pump::new(now));
    }

    /// Does all that is due now.
    pub(crate) fn tick(&mut self, network: &mut Network, (now, ms): (Instant, u64)) {
        let Some(pump) = &mut self.link else { return };
        while let Some(chunk) = network.arrive(To::Relay, ms) {
            assert_eq!((chunk.stream, chunk.end), (CONTROL, End::More));
            pump.session.handle_input(&chunk.bytes);
        }
        while let Some(event) = pump.session.poll_event().expect("the studio is sane") {
            pump.hear(event, &self.feeds, network, (now, ms));
        }
        while let Some(datagram) = network.arrive_datagram(To::Relay, ms) {
            pump.datagram(datagram, now);
        }
        pump.announce(&self.feeds, now);
        pump.beat(network, (now, ms));
        pump.pass(&self.feeds, network, (now, ms));
        let said = pump.session.take_output();
        network.write(To::Studio, CONTROL, 3, &said);
    }
}

/// Writes the media of a link's feeds.
pub(crate) struct Pump {
    session: Session,
    has_feeds: bool,
    outlets: [Outlet; 2],
    backfill: Backfill,
    next_stream: u64,
    started: Instant,
    heartbeat: Instant,
    acknowledged: Acknowledged,
}

/// When the studio has acknowledged something last.
struct Acknowledged {
    count: u64,
    at: Instant,
    is_outage: bool,
}

#[derive(Default)]
struct Outlet {
    /// What was announced last, unless it is over, and how many publications there were then.
    on_air: (Option<PublicationId>, u64),
    /// The publications that the studio knows to be over, of those that are kept.
    told: HashSet<PublicationId>,
    live: Option<Live>,
}

/// What writing needs.
struct Way<'a> {
    network: &'a mut Network,
    session: &'a mut Session,
    next_stream: &'a mut u64,
    now: Instant,
    ms: u64,
}

impl Pump {
    fn new(now: Instant) -> Self {
        Self {
            session: Session::accept(),
            has_feeds: false,
            outlets: Default::default(),
            backfill: Backfill::new(now),
            next_stream: CONTROL,
            started: now,
            heartbeat: now,
            acknowledged: Acknowledged { count: 0, at: now, is_outage: false },
        }
    }

    fn hear(
        &mut self,
        event: Event,
        feeds: &[Feed],
        network: &mut Network,
        (now, ms): (Instant, u64),
    ) {
        let message = match event {
            Event::Hello(hello) => {
                assert!(hello.speaks_our_version());
                let version = backhaul::VERSION;
                let (agent, host) = (String::new(), String::new());
                return self.session.welcome(Welcome {
                    version,
                    agent,
                    host,
                    rtmp_port: 1935,
                    rtmps_port: None,
                    region: String::new(),
                    measures: false,
                });
            }
            Event::Message(message) => message,
            other => panic!("{other:?}"),
        };
        match message {
            Message::Feeds(list) => {
                assert_eq!(list.len(), FEEDS.len());
                self.has_feeds = true;
                for (index, feed) in feeds.iter().enumerate() {
                    self.say_kept(index, feed, now);
                }
            }
            Message::Subscribe(subscribe) => {
                let index = FEEDS.iter().position(|name| *name == subscribe.feed);
                let index = index.expect("the studio has no other feeds");
                let publication = subscribe.publication;
                let before = self.outlets[index].live.replace(Live::new(&feeds[index], subscribe));
                if let Some(mut before) = before.filter(|live| live.publication != publication) {
                    let (session, next_stream) = (&mut self.session, &mut self.next_stream);
                    before.end(&mut Way { network, session, next_stream, now, ms });
                }
            }
            Message::Unsubscribe(subscription) => self.outlets.iter_mut().for_each(|outlet| {
                outlet.live.take_if(|live| live.subscription == subscription);
            }),
            Message::Close(close) => feeds.iter().for_each(|feed| {
                feed.cut_publication(close.publication, Cut::TakenOver, now);
            }),
            Message::Logins(_) => {}
            Message::Want(want) => self.want(want, network, (now, ms)),
            other => panic!("{other:?}"),
        }
    }

    fn want(&mut self, want: Want, network: &mut Network, (now, ms): (Instant, u64)) {
        let feed = FEEDS.iter().position(|name| *name == want.feed);
        let live = feed.and_then(|feed| self.outlets[feed].live.as_ref());
        let live = live.filter(|live| live.publication == want.publication);
        let received = |live: &Live| live.sender.received_of(&want.ranges);
        let again = live.map_or_else(Ranges::default, received);
        let (session, next_stream) = (&mut self.session, &mut self.next_stream);
        let mut way = Way { network, session, next_stream, now, ms };
        if let Some(answered) = self.backfill.want(feed, (want, again), &mut way) {
            self.session.send(&Message::Answered(answered));
        }
    }

    fn datagram(&mut self, datagram: Bytes, now: Instant) {
        let Ok(Datagram::Received(received)) = Datagram::decode(datagram) else {
            panic!("the studio is sane")
        };
        let mut lives = self.outlets.iter_mut().filter_map(|outlet| outlet.live.as_mut());
        let Some(live) = lives.find(|live| live.subscription == received.subscription) else {
            return;
        };
        live.sender.on_received(&received.ranges, now);
        if let Some(delay) = live.sender.delay() {
            self.backfill.spare.on_live(delay, now);
        }
    }

    /// Tells of publications that are over and kept; once of each.
    fn say_kept(&mut self, index: usize, feed: &Feed, now: Instant) {
        let kept: Vec<_> = feed.kept().into_iter().filter(|kept| kept.ended).collect();
        let told = &mut self.outlets[index].told;
        told.retain(|told| kept.iter().any(|kept| kept.publication == *told));
        for kept in kept {
            if told.insert(kept.publication) {
                let (publication, last) = (kept.publication, kept.last);
                let age = now.saturating_duration_since(kept.started);
                let feed = FEEDS[index].to_owned();
                self.session.send(&Message::Kept(Kept { feed, publication, last, age }));
            }
        }
    }

    fn announce(&mut self, feeds: &[Feed], now: Instant) {
        if !self.has_feeds {
            return;
        }
        for (index, feed) in feeds.iter().enumerate() {
            let on_air = feed.on_air();
            let before = std::mem::replace(&mut self.outlets[index].on_air, on_air);
            if before == on_air {
                continue;
            }
            self.say_kept(index, feed, now);
            if let Some(publication) = on_air.0.filter(|_| on_air.0 != before.0) {
                let (feed, age) = (FEEDS[index].to_owned(), feed.codecs(now).1.unwrap_or_default());
                self.session.send(&Message::Announce(Announce { feed, publication, age }));
            }
        }
    }

    fn beat(&mut self, network: &mut Network, (now, ms): (Instant, u64)) {
        if now.saturating_duration_since(self.heartbeat) < HEARTBEAT {
            return;
        }
        self.heartbeat = now;
        let is_live = self.outlets.iter().any(|outlet| outlet.live.is_some());
        if !is_live {
            self.acknowledged.at = now;
        } else {
            let clock = now.saturating_duration_since(self.started).as_micros() as u64;
            network.send_datagram(To::Studio, &Datagram::Heartbeat(clock).encode(), ms);
        }
    }

    /// Whether what the link is given now would wait in it.
    fn is_silent(&mut self, network: &Network, now: Instant) -> bool {
        let limit = |limit| limit + Duration::from_millis(ROUND_TRIP);
        let silence = now.saturating_duration_since(self.acknowledged.at);
        if silence > HEARTBEAT {
            let count = network.acknowledged;
            if std::mem::replace(&mut self.acknowledged.count, count) != count {
                self.acknowledged.at = now;
                if std::mem::take(&mut self.acknowledged.is_outage) {
                    let lives = self.outlets.iter_mut().filter_map(|outlet| outlet.live.as_mut());
                    lives.for_each(|live| live.lanes.recover());
                }
                return false;
            }
        }
        self.acknowledged.is_outage |= silence > limit(OUTAGE);
        silence > limit(SILENCE)
    }

    /// Writes what the link takes: audio, video, and then what was asked for afterwards.
    fn pass(&mut self, feeds: &[Feed], network: &mut Network, (now, ms): (Instant, u64)) {
        if self.is_silent(network, now) {
            return;
        }
        let (session, next_stream) = (&mut self.session, &mut self.next_stream);
        let mut way = Way { network, session, next_stream, now, ms };
        let mut blocked = [false; 2];
        for lane in [Lane::Rest, Lane::Video] {
            for (outlet, is_blocked) in self.outlets.iter_mut().zip(&mut blocked) {
                let Some(live) = &mut outlet.live else { continue };
                *is_blocked |= !live.poll(lane, &mut way);
            }
        }
        for (outlet, is_blocked) in self.outlets.iter_mut().zip(blocked) {
            if !is_blocked {
                outlet.live.take_if(|live| live.is_over(&mut way));
            }
        }
        if blocked.contains(&true) {
            return;
        }
        let lives = || self.outlets.iter().filter_map(|outlet| outlet.live.as_ref());
        let is_received = |publication, number| {
            let mut its = lives().filter(|live| live.publication == publication);
            its.any(|live| live.sender.is_received(number))
        };
        let is_beside_live = lives().next().is_some();
        self.backfill.poll(feeds, &mut way, is_beside_live, &is_received);
    }
}
