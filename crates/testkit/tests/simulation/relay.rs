//! The relay's end of a link: what `egress/backhaul` of firstmile does with the same parts.

mod backfill;
mod live;

use std::time::{Duration, Instant};

use backhaul::{Announce, Datagram, Event, Kept, Message, Session, Welcome};
use bytes::Bytes;
use hub::{Cut, Feed, Lane, Limits};
use media::PublicationId;

use backfill::Backfill;
use live::Live;

use crate::network::{CONTROL, End, Network, To};

/// The feeds of the story.
pub(crate) const FEEDS: [&str; 2] = ["camera", "slides"];
const HEARTBEAT: Duration = Duration::from_millis(100);
const OUTAGE: Duration = Duration::from_millis(500);
const OVERDUE: Duration = Duration::from_millis(300);

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
    progress: Instant,
    is_blocked: bool,
    reported: Instant,
}

#[derive(Default)]
struct Outlet {
    on_air: Option<PublicationId>,
    live: Option<Live>,
}

/// What writing needs.
struct Way<'a> {
    network: &'a mut Network,
    session: &'a mut Session,
    next_stream: &'a mut u64,
    now: Instant,
    ms: u64,
    written: usize,
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
            progress: now,
            is_blocked: false,
            reported: now,
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
                    self.say_kept(index, feed, now, |kept| kept.ended);
                }
            }
            Message::Subscribe(subscribe) => {
                let index = FEEDS.iter().position(|name| *name == subscribe.feed);
                let index = index.expect("the studio has no other feeds");
                let live = Live::new(&feeds[index], subscribe);
                if let Some(mut before) = self.outlets[index].live.replace(live) {
                    let (session, next_stream) = (&mut self.session, &mut self.next_stream);
                    before.end(&mut Way { network, session, next_stream, now, ms, written: 0 });
                }
            }
            Message::Unsubscribe(subscription) => self.outlets.iter_mut().for_each(|outlet| {
                outlet.live.take_if(|live| live.subscription == subscription);
            }),
            Message::Close(close) => feeds.iter().for_each(|feed| {
                feed.cut_publication(close.publication, Cut::TakenOver, now);
            }),
            Message::Logins(_) => {}
            Message::Want(want) => {
                let feed = FEEDS.iter().position(|name| *name == want.feed);
                let (session, next_stream) = (&mut self.session, &mut self.next_stream);
                let mut way = Way { network, session, next_stream, now, ms, written: 0 };
                if let Some(answered) = self.backfill.want(feed, want, &mut way) {
                    self.session.send(&Message::Answered(answered));
                }
            }
            other => panic!("{other:?}"),
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
        self.reported = now;
        live.sender.on_received(&received.ranges, now);
        if let Some(delay) = live.sender.delay() {
            self.backfill.spare.on_live(delay, now);
        }
    }

    fn say_kept(
        &mut self,
        index: usize,
        feed: &Feed,
        now: Instant,
        is_meant: impl Fn(&hub::Kept) -> bool,
    ) {
        for kept in feed.kept().into_iter().filter(is_meant) {
            let (publication, last) = (kept.publication, kept.last);
            let age = now.saturating_duration_since(kept.started);
            let feed = FEEDS[index].to_owned();
            self.session.send(&Message::Kept(Kept { feed, publication, last, age }));
        }
    }

    fn announce(&mut self, feeds: &[Feed], now: Instant) {
        if !self.has_feeds {
            return;
        }
        for (index, feed) in feeds.iter().enumerate() {
            let on_air = feed.publication();
            let before = std::mem::replace(&mut self.outlets[index].on_air, on_air);
            if before == on_air {
                continue;
            }
            if before.is_some() {
                self.say_kept(index, feed, now, |kept| before == Some(kept.publication));
            }
            if let Some(publication) = on_air {
                let (feed, age) = (FEEDS[index].to_owned(), feed.codecs(now).1.unwrap_or_default());
                self.session.send(&Message::Announce(Announce { feed, publication, age }));
            }
        }
    }

    fn beat(&mut self, network: &mut Network, (now, ms): (Instant, u64)) {
        let is_live = self.outlets.iter().any(|outlet| outlet.live.is_some());
        if is_live && now.saturating_duration_since(self.heartbeat) >= HEARTBEAT {
            self.heartbeat = now;
            let clock = now.saturating_duration_since(self.started).as_micros() as u64;
            network.send_datagram(To::Studio, &Datagram::Heartbeat(clock).encode(), ms);
        }
    }

    /// Writes what the link takes: audio, video, and then what was asked for afterwards.
    fn pass(&mut self, feeds: &[Feed], network: &mut Network, (now, ms): (Instant, u64)) {
        if self.is_blocked && now.saturating_duration_since(self.progress) >= OUTAGE {
            let lives = self.outlets.iter_mut().filter_map(|outlet| outlet.live.as_mut());
            lives.for_each(|live| live.lanes.recover());
        }
        let (session, next_stream) = (&mut self.session, &mut self.next_stream);
        let mut way = Way { network, session, next_stream, now, ms, written: 0 };
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
        self.is_blocked = blocked.contains(&true);
        if way.written > 0 || !self.is_blocked {
            self.progress = now;
        }
        if self.is_blocked {
            return;
        }
        let lives = || self.outlets.iter().filter_map(|outlet| outlet.live.as_ref());
        let is_overdue = now.saturating_duration_since(self.reported) > OVERDUE;
        let is_silent = is_overdue && lives().any(|live| live.sender.awaits_report(now));
        let is_received = |publication, number| {
            let mut its = lives().filter(|live| live.publication == publication);
            its.any(|live| live.sender.is_received(number))
        };
        let live = lives().next().is_some().then_some(is_silent);
        self.backfill.poll(feeds, &mut way, live, &is_received);
    }
}
