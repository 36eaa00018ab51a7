//! The studio's end of a link: what `ingest/backhaul` of firstmile does with the same parts.

mod incoming;
pub(crate) mod journal;

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use backhaul::{
    Announce, Close, Datagram, Event, FeedKey, Hello, Message, Received, Session, StreamHeader,
    TagHeader, VERSION, Wants,
};
use bytes::BytesMut;
use hub::{Feed, Limits};
use incoming::Incoming;
use journal::Journal;
use media::{Position, PublicationId, Tag, Track};

use crate::encoder::Story;
use crate::network::{CONTROL, Chunk, End, Network, To};
use crate::relay::FEEDS;

pub(crate) const BUDGET: Duration = Duration::from_secs(2);
const REPORT_INTERVAL: u64 = 25;
const WANT_INTERVAL: u64 = 500;
/// What the relay does not tell of by then it does not know.
const TOLD_BY: u64 = 3_000;
/// Streams of a link at a time.
const MAX_STREAMS: usize = 1_024;
/// What may wait for others: the link's own backlog, and what is sent while a packet comes again.
const MAX_HELD: usize = 1_024;

/// A tag that came to the studio's hub.
pub(crate) struct Came {
    pub(crate) ms: u64,
    pub(crate) feed: usize,
    pub(crate) position: Position,
    pub(crate) track: Track,
    /// Milliseconds after it came to the relay.
    pub(crate) delay: u64,
}

/// A studio; a restart makes a new one around the same journal.
pub(crate) struct Studio {
    pub(crate) feeds: Vec<Feed>,
    /// By their order of announcement.
    incoming: Vec<Incoming>,
    closed: HashSet<PublicationId>,
    pub(crate) link: Option<Link>,
    pub(crate) came: Vec<Came>,
}

pub(crate) struct Link {
    pub(crate) session: Session,
    opened: Option<u64>,
    /// The last name of a subscription or a request.
    names: u64,
    streams: HashMap<u64, Stream>,
    wants: Wants,
    want_at: u64,
    report_at: Option<u64>,
    /// The last numbers of publications that are over.
    pub(crate) kept: HashMap<PublicationId, u64>,
}

#[derive(Default)]
struct Stream {
    input: BytesMut,
    name: Option<u64>,
}

/// What everything here needs.
pub(crate) struct Around<'a> {
    pub(crate) story: &'a Story,
    pub(crate) journal: &'a mut Journal,
    pub(crate) now: Instant,
    pub(crate) ms: u64,
}

impl Studio {
    pub(crate) fn new() -> Self {
        Self {
            feeds: FEEDS.iter().map(|_| Feed::new(Limits::default())).collect(),
            incoming: Vec::new(),
            closed: HashSet::new(),
            link: None,
            came: Vec::new(),
        }
    }

    pub(crate) fn dial(&mut self) {
        let hello = Hello {
            versions: vec![VERSION],
            instance: [1; 16],
            agent: String::new(),
            name: String::new(),
            invite: String::new(),
        };
        self.link = Some(Link {
            session: Session::dial(hello),
            opened: None,
            names: 0,
            streams: HashMap::new(),
            wants: Wants::default(),
            want_at: 0,
            report_at: None,
            kept: HashMap::new(),
        });
    }

    pub(crate) fn lose_link(&mut self) {
        self.link = None;
        self.incoming.iter_mut().for_each(Incoming::interrupt);
    }

    /// Does all that is due now.
    pub(crate) fn tick(&mut self, network: &mut Network, mut around: Around<'_>) {
        let ms = around.ms;
        while let Some(chunk) = network.arrive(To::Studio, ms) {
            self.chunk(&chunk, &mut around);
        }
        while let Some(datagram) = network.arrive_datagram(To::Studio, ms) {
            let heartbeat = Datagram::decode(datagram);
            assert!(matches!(heartbeat, Ok(Datagram::Heartbeat(_))), "{heartbeat:?}");
        }
        self.incoming.retain(|incoming| !incoming.is_over(ms));
        let Some(link) = &mut self.link else { return };
        if link.report_at.is_some_and(|at| ms >= at) {
            link.report_at = None;
            for incoming in &mut self.incoming {
                let Some(subscription) = incoming.subscription else { continue };
                let Some(ranges) = incoming.receiver.take_report() else { continue };
                let report = Datagram::Received(Received { subscription, ranges });
                network.send_datagram(To::Relay, &report.encode(), ms);
            }
        }
        if link.opened.is_some() && ms >= link.want_at {
            link.want_at = ms + WANT_INTERVAL;
            link.want(&mut self.incoming, &mut around);
        }
        let said = link.session.take_output();
        network.write(To::Relay, CONTROL, 3, &said);
    }

    fn chunk(&mut self, chunk: &Chunk, around: &mut Around<'_>) {
        let link = self.link.as_mut().expect("there is a link");
        if chunk.stream == CONTROL {
            link.session.handle_input(&chunk.bytes);
            while let Some(event) =
                self.link.as_mut().and_then(|it| it.session.poll_event().expect("it is sane"))
            {
                self.hear(event, around);
            }
            return;
        }
        let mut stream = link.streams.remove(&chunk.stream).unwrap_or_default();
        stream.input.extend_from_slice(&chunk.bytes);
        if stream.name.is_none() {
            let header = StreamHeader::decode(&mut stream.input).expect("it is sane");
            stream.name = header.map(|header| header.subscription);
        }
        while let Some((name, header)) = stream.name.zip(stream.header()) {
            let body = stream.input.split_to(header.length).freeze();
            self.receive(name, &header, Tag::new(header.track, header.timestamp, body), around);
        }
        let link = self.link.as_mut().expect("there is a link");
        if chunk.end == End::More {
            link.streams.insert(chunk.stream, stream);
            assert!(link.streams.len() <= MAX_STREAMS, "{} streams", link.streams.len());
        }
    }

    fn receive(&mut self, name: u64, header: &TagHeader, tag: Tag, around: &mut Around<'_>) {
        let TagHeader { track, number, previous, .. } = *header;
        let link = self.link.as_mut().expect("there is a link");
        if link.wants.has(name) {
            if let Some(publication) = link.wants.on_tag(name, number, around.now) {
                let position = Position { publication, number, previous };
                around.journal.put(around.story, position, &tag, true, around.ms);
            }
            return;
        }
        link.report_at.get_or_insert(around.ms + REPORT_INTERVAL);
        let mut all = self.incoming.iter_mut();
        let Some(incoming) = all.find(|incoming| incoming.subscription == Some(name)) else {
            return;
        };
        let publication = incoming.publication;
        let position = Position { publication, number, previous };
        around.journal.put(around.story, position, &tag, false, around.ms);
        let went = incoming.receive((track, number, previous), tag, around, &mut self.came);
        assert!(incoming.held() <= MAX_HELD, "{} tags wait", incoming.held());
        self.went(publication, went);
    }

    fn went(&mut self, publication: PublicationId, went: Result<(), String>) {
        let Err(text) = went else { return };
        self.incoming.retain(|incoming| incoming.publication != publication);
        self.closed.insert(publication);
        let link = self.link.as_mut().expect("there is a link");
        link.session.send(&Message::Close(Close { publication, text }));
    }

    fn hear(&mut self, event: Event, around: &mut Around<'_>) {
        let link = self.link.as_mut().expect("there is a link");
        let message = match event {
            Event::Open(_) => {
                link.opened = Some(around.ms);
                let key =
                    |name: &&str| FeedKey { name: (*name).to_owned(), hash: [0; 32], left: None };
                link.session.send(&Message::Feeds(FEEDS.iter().map(key).collect()));
                link.session.send(&Message::Logins(Vec::new()));
                self.incoming.retain(Incoming::is_wanted);
                for incoming in &mut self.incoming {
                    link.names += 1;
                    link.session.send(&incoming.resume(link.names));
                }
                return;
            }
            Event::Message(message) => message,
            other => panic!("{other:?}"),
        };
        match message {
            Message::Announce(announce) => self.announce(&announce, around),
            Message::Ended(ended) => {
                around.journal.assert_kept(around.story, ended.publication, &link.kept);
                let mut all = self.incoming.iter_mut();
                if let Some(incoming) = all.find(|it| it.publication == ended.publication) {
                    incoming.end(ended.edges, around.ms);
                }
            }
            Message::Skip(skip) => {
                let mut all = self.incoming.iter_mut();
                let found = all.find(|it| it.subscription == Some(skip.subscription));
                let Some(incoming) = found else { return };
                incoming.receiver.on_skip(&skip).expect("it is sane");
                let (publication, went) =
                    (incoming.publication, incoming.release(around, &mut self.came));
                self.went(publication, went);
            }
            Message::Kept(kept) => {
                let told = around.story.of(kept.publication).tags.len() as u64;
                assert_eq!(kept.last + 1, told, "the last of {}", kept.publication);
                let before = link.kept.insert(kept.publication, kept.last);
                assert_eq!(before, None, "{} was told of twice", kept.publication);
                let feed = FEEDS.iter().position(|name| *name == kept.feed).expect("it is ours");
                around.journal.keep(kept.publication, feed, kept.last);
            }
            Message::Answered(answered) => {
                if let Some((publication, gone)) = link.wants.on_answered(&answered, around.now) {
                    around.journal.give_up(around.story, publication, &gone, around.ms);
                }
            }
            other => panic!("{other:?}"),
        }
    }

    fn announce(&mut self, announce: &Announce, around: &mut Around<'_>) {
        let publication = announce.publication;
        let link = self.link.as_mut().expect("there is a link");
        let feed = FEEDS.iter().position(|name| *name == announce.feed).expect("it is ours");
        assert!(!link.kept.contains_key(&publication), "{publication} is over");
        around.journal.begin(publication, feed);
        if self.closed.contains(&publication) {
            let text = "another encoder took over".to_owned();
            return link.session.send(&Message::Close(Close { publication, text }));
        }
        if self.incoming.iter().all(|incoming| incoming.publication != publication) {
            // What was announced before is over.
            self.incoming.iter_mut().filter(|it| it.is_of(feed)).for_each(Incoming::supersede);
            link.names += 1;
            let mut incoming = Incoming::new((feed, self.feeds[feed].clone()), publication);
            link.session.send(&incoming.resume(link.names));
            self.incoming.push(incoming);
        }
    }

    /// Publications that are on their way here.
    pub(crate) fn incoming(&self) -> usize {
        self.incoming.len()
    }
}

impl Link {
    /// Asks for what the journal lacks.
    fn want(&mut self, incoming: &mut [Incoming], around: &mut Around<'_>) {
        let below = |it: &mut Incoming| Some((it.publication, it.settled_below(around.now)?));
        let live = incoming.iter_mut().filter_map(below).collect();
        let is_all_told = self.opened.is_some_and(|opened| around.ms >= opened + TOLD_BY);
        for (publication, feed, missing) in around.journal.missing(&live, is_all_told) {
            if self.wants.may_ask(publication, around.now) {
                let name = self.names + 1;
                let want = self.wants.ask(name, FEEDS[feed], publication, &missing, around.now);
                if let Some(want) = want {
                    self.names = name;
                    self.session.send(&Message::Want(want));
                }
            }
        }
    }
}

impl Stream {
    /// The header of the next tag, once all of the tag is there.
    fn header(&mut self) -> Option<TagHeader> {
        let mut peek = BytesMut::from(&self.input[..self.input.len().min(48)]);
        let header = TagHeader::decode(&mut peek).expect("it is sane")?;
        let length = self.input.len().min(48) - peek.len();
        if self.input.len() < length + header.length {
            return None;
        }
        TagHeader::decode(&mut self.input).expect("it is sane")
    }
}
