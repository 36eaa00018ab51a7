//! A studio that was let in, and lies to its relay.

use std::sync::Arc;
use std::time::Duration;

use backhaul::{
    Close, Datagram, Event, FeedKey, Hello, Login, Message, Ranges, Received, Refusal, Session,
    Subscribe, VERSION, Want,
};
use bytes::Bytes;
use firstmile::control::Control;
use firstmile::identity::Identity;
use firstmile::join::JoinLink;
use firstmile::link::{Dialer, Link, Transport};
use firstmile::quic::Congestion;
use firstmile::secret::Secret;
use media::{PublicationId, Track, TrackSet};
use testkit::script::media::{frame, key, large_key};
use testkit::script::{Script, id};
use testkit::{Node, PATIENCE, wait_for, wait_until};
use tokio::runtime::Runtime;

use super::{FIRSTMILE, HONEST, MIB, assert_bounded, assert_serves, run};

const NOBODY: PublicationId = PublicationId([9; 16]);
/// More numbers than there ever are.
const HUGE: u64 = 1 << 61;

/// A relay, an honest studio, and who lies.
struct House {
    relay: Node,
    studio: Node,
    liar: Arc<Identity>,
    secret: Secret,
    before: u64,
    /// What the liar comes by.
    over: Transport,
}

impl House {
    fn new() -> Self {
        Self::over(Transport::Quic)
    }

    /// One after the other, for a liar that comes by QUIC and by TCP.
    fn both() -> impl Iterator<Item = Self> {
        [Transport::Quic, Transport::Tcp].into_iter().map(Self::over)
    }

    fn over(over: Transport) -> Self {
        let relay = Node::relay(FIRSTMILE).start().unwrap();
        let studio = Node::studio(FIRSTMILE).join(relay.join_link()).start().unwrap();
        studio.wait_links(1);
        let (liar, secret) = (Arc::new(Identity::generate()), Secret::random());
        let house = Self { relay, studio, liar, secret, before: 0, over };
        house.assert_serves();
        let before = house.relay.memory().0;
        Self { before, ..house }
    }

    #[track_caller]
    fn assert_serves(&self) {
        assert_serves(self.relay.address("rtmp"), &self.studio, "camera");
    }

    #[track_caller]
    fn assert_unharmed(&self, bound: u64) {
        self.assert_serves();
        assert_bounded(&self.relay, self.before, bound, 600);
        assert_eq!(self.studio.status().unwrap()["links"][0]["reconnects"], 0);
    }

    async fn call(&self, identity: &Arc<Identity>) -> Option<(Link, Control)> {
        self.call_as(identity, vec![VERSION], [1; 16]).await.ok()
    }

    async fn call_as(
        &self,
        identity: &Arc<Identity>,
        versions: Vec<u64>,
        instance: [u8; 16],
    ) -> Result<(Link, Control), Option<(Refusal, String)>> {
        let join: JoinLink = self.relay.join_link().parse().unwrap();
        let dialer = Dialer::new(identity.clone(), Congestion::Bbr);
        let address = self.relay.address("secure");
        let link = dialer.dial(self.over, address, join.pin).await.map_err(|_| None)?;
        let (send, receive) = link.open_control().await.map_err(|_| None)?;
        let session = Session::dial(Hello {
            versions,
            instance,
            agent: "liar".into(),
            name: "liar".into(),
            invite: join.invite.expose().into(),
        });
        let mut control = Control { session, send, receive };
        control.flush().await.map_err(|_| None)?;
        match control.event().await {
            Ok(Event::Open(_)) => Ok((link, control)),
            Ok(Event::Refused(refusal, text)) => Err(Some((refusal, text))),
            _ => Err(None),
        }
    }

    /// The liar's link, and the runtime that it lives in.
    fn come(&self) -> ((Link, Runtime), Control) {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build().expect("a runtime");
        let (link, control) = runtime.block_on(self.join());
        ((link, runtime), control)
    }

    /// The liar, with a feed of its own.
    async fn join(&self) -> (Link, Control) {
        let (link, mut control) = self.call(&self.liar).await.expect("it is let in");
        control.session.send(&Message::Feeds(vec![self.feed("mine")]));
        control.flush().await.unwrap();
        (link, control)
    }

    fn feed(&self, name: &str) -> FeedKey {
        FeedKey { name: name.into(), hash: self.secret.key_hash().0, left: None }
    }

    /// An encoder of the liar's.
    fn encoder(&self) -> Script {
        let name = format!("mine-{}", self.secret.expose());
        let mut encoder = wait_for("the liar's encoder gets in", PATIENCE, || {
            Script::attempt(HONEST, self.relay.address("rtmp"), "publish", &name)
        });
        encoder.media(id::VIDEO, 0, &key(1));
        encoder
    }
}

async fn announced(control: &mut Control) -> PublicationId {
    loop {
        if let Event::Message(Message::Announce(announce)) = control.event().await.unwrap() {
            return announce.publication;
        }
    }
}

fn subscribe(subscription: u64, feed: &str, publication: PublicationId) -> Subscribe {
    Subscribe {
        subscription,
        feed: feed.into(),
        publication,
        released: TrackSet::default(),
        received: Ranges::default(),
        budget: None,
    }
}

fn everything() -> Ranges {
    let size = HUGE / 64;
    (0..64).map(|part| (part * size, (part + 1) * size - 2)).collect()
}

/// Says it until the relay has enough; reads nothing.
async fn say_without_end(
    link: &Link,
    control: &mut Control,
    mut message: impl FnMut(u64) -> Message,
) -> String {
    for turn in 0..1_000_000 {
        control.session.send(&message(turn));
        if turn % 64 == 0 && control.flush().await.is_err() {
            break;
        }
    }
    tokio::time::timeout(PATIENCE, link.closed()).await.expect("the relay ends it")
}

#[test]
fn messages_without_end() {
    House::both().for_each(|house| say_without_an_end(&house));
}

fn say_without_an_end(house: &House) {
    let want = |request, feed: &str, publication| {
        Message::Want(Want { request, feed: feed.into(), publication, ranges: everything() })
    };
    let close = |publication| Message::Close(Close { publication, text: "no".repeat(200) });
    // Of another key: the encoder's stays with the feed that is named next.
    let other =
        |turn| FeedKey { name: format!("mine{}", turn % 9), hash: [turn as u8; 32], left: None };
    let user = |turn| Login { feed: "mine".into(), user: format!("X{turn}"), verifier: [1; 16] };
    type Say<'a> = Box<dyn Fn(u64, PublicationId) -> Message + 'a>;
    let all: Vec<(&str, Say<'_>)> = vec![
        ("subscribe", Box::new(|n, p| Message::Subscribe(subscribe(n + 1, "mine", p)))),
        ("nobody's", Box::new(|n, _| Message::Subscribe(subscribe(n + 1, "camera", NOBODY)))),
        ("unsubscribe", Box::new(|n, _| Message::Unsubscribe(n))),
        ("want", Box::new(|n, p| want(n + 1, "mine", p))),
        ("want nothing", Box::new(|n, _| want(n + 1, "mine", PublicationId([n as u8; 16])))),
        ("close", Box::new(|_, _| close(NOBODY))),
        ("feeds", Box::new(|n, _| Message::Feeds(vec![other(n)]))),
        ("logins", Box::new(|n, _| Message::Logins(vec![user(n)]))),
    ];
    for (name, say) in all {
        let (link, mut control) = house.come();
        let encoder = house.encoder();
        let said = link.1.block_on(async {
            let publication = announced(&mut control).await;
            say_without_end(&link.0, &mut control, |turn| say(turn, publication)).await
        });
        eprintln!("{name}: {said}");
        drop(encoder);
        wait_until("the reason is known", PATIENCE, || {
            let links = house.relay.status().unwrap()["links"].clone();
            links.as_array().unwrap().iter().any(|link| {
                let is_liar = link["peer"].as_str().unwrap().starts_with("liar");
                let why = link["last_error"].as_str().unwrap_or_default();
                is_liar && (why.contains("too much") || why.contains("does not read"))
            })
        });
    }
    house.assert_unharmed(48 * MIB);
}

#[test]
fn what_is_said_to_a_studio_that_never_reads() {
    House::both().for_each(|house| never_read(&house));
}

fn never_read(house: &House) {
    run(async {
        let (link, mut control) = house.call(&house.liar).await.unwrap();
        let useless =
            |n: u8| FeedKey { name: format!("NO {}", "X".repeat(50)), hash: [n; 32], left: None };
        let list: Vec<_> = (0..=255).map(useless).collect();
        // Below the rate at which its messages are too many, and so slowly that little waits until
        // the relay can write no more.
        for _ in 0..900 {
            control.session.send(&Message::Feeds(list.clone()));
            if control.flush().await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let why = tokio::time::timeout(PATIENCE, link.closed()).await.expect("it is cut off");
        eprintln!("{why}");
    });
    house.relay.wait_log("does not read what is said");
    house.assert_unharmed(24 * MIB);
}

#[test]
fn wants_of_everything_are_answered() {
    let house = House::new();
    let (link, mut control) = house.come();
    let _encoder = house.encoder();
    link.1.block_on(async {
        let publication = announced(&mut control).await;
        for (request, publication) in [(1, publication), (2, NOBODY), (3, publication)] {
            let ranges = everything();
            let want = Want { request, feed: "mine".into(), publication, ranges };
            control.session.send(&Message::Want(want));
            control.flush().await.unwrap();
            let answered = async {
                loop {
                    if let Event::Message(Message::Answered(answered)) =
                        control.event().await.unwrap()
                    {
                        return answered;
                    }
                }
            };
            let answered = tokio::time::timeout(PATIENCE, answered).await.unwrap();
            assert_eq!(answered.request, request);
            // Of what is on air more may come; of what is not known here, nothing will.
            assert_eq!(answered.gone.is_empty(), publication != NOBODY, "{answered:?}");
        }
    });
    house.assert_unharmed(24 * MIB);
}

#[test]
fn datagrams_that_make_no_sense() {
    House::both().for_each(|house| send_datagrams_that_make_no_sense(&house));
}

fn send_datagrams_that_make_no_sense(house: &House) {
    let (link, mut control) = house.come();
    let _encoder = house.encoder();
    link.1.block_on(async {
        let link = &link.0;
        let publication = announced(&mut control).await;
        let mut released = TrackSet::default();
        released[Track::Audio] = Some(HUGE);
        control.session.send(&Message::Subscribe(Subscribe {
            budget: Some(Duration::from_millis((1 << 62) - 2)),
            ..subscribe(1, "mine", publication)
        }));
        control.session.send(&Message::Subscribe(Subscribe {
            budget: Some(Duration::ZERO),
            released,
            received: everything(),
            ..subscribe(0, "mine", publication)
        }));
        control.session.send(&Message::Subscribe(subscribe(2, "mine", publication)));
        control.flush().await.unwrap();
        for turn in 0..20_000_u64 {
            // Other ranges each time, of what was sent and what was never.
            let shift = turn * 1_000;
            let ranges = (0..64).map(|n| (shift + n * 7, shift + n * 7 + 3)).collect();
            let ranges = if turn % 2 == 0 { ranges } else { everything() };
            let subscription = turn % 3;
            let report = match subscription {
                0 => Datagram::Heartbeat(u64::MAX >> 2),
                _ => Datagram::Received(Received { subscription, ranges }),
            };
            link.send_datagram(report.encode());
            if turn % 100 == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        assert_eq!(link.close_reason(), None, "reports of nonsense harm nobody");
        link.send_datagram(Bytes::from_static(&[1, 2, 0xff]));
        tokio::time::timeout(PATIENCE, link.closed()).await.expect("a broken one ends the link");
    });
    house.relay.wait_log("an integer is cut short");
    house.assert_unharmed(24 * MIB);
}

/// One that does not lie: the relay's heartbeats go beside media, and by themselves where there is none.
#[test]
fn heartbeats_come_with_media_and_without() {
    let house = House::new();
    let (link, mut control) = house.come();
    let mut encoder = house.encoder();
    let publication = link.1.block_on(announced(&mut control));
    let mut clocks = Vec::new();
    link.1.block_on(async {
        control.session.send(&Message::Subscribe(subscribe(1, "mine", publication)));
        control.flush().await.unwrap();
        for is_fed in [true, false] {
            let before = clocks.len();
            let hear = async {
                loop {
                    let datagram = link.0.read_datagram().await.expect("the link stays");
                    if let Datagram::Heartbeat(clock) = Datagram::decode(datagram).unwrap() {
                        clocks.push(clock);
                    }
                }
            };
            let feed = async {
                for number in (1..).take_while(|_| is_fed) {
                    encoder.media(id::VIDEO, number * 33, &frame(1));
                    tokio::time::sleep(Duration::from_millis(33)).await;
                }
            };
            let both = async { tokio::join!(hear, feed) };
            let _ = tokio::time::timeout(Duration::from_secs(3), both).await;
            assert!(clocks.len() - before >= 18, "{is_fed}: {clocks:?}");
        }
    });
    let gaps = clocks.windows(2).map(|pair| pair[1] - pair[0]);
    let least = gaps.min().expect("some");
    assert!(least >= 80_000, "{least} µs");
}

#[test]
fn streams_that_are_stopped_or_never_read() {
    House::both().for_each(|house| stop_streams_or_never_read(&house));
}

fn stop_streams_or_never_read(house: &House) {
    let (link, mut control) = house.come();
    let mut encoder = house.encoder();
    let publication = link.1.block_on(announced(&mut control));
    for turn in 1..=40 {
        encoder.media(id::VIDEO, turn * 40, &large_key(200_000));
        link.1.block_on(async {
            let subscribe = subscribe(u64::from(turn), "mine", publication);
            control.session.send(&Message::Subscribe(subscribe));
            control.flush().await.unwrap();
            if turn % 2 == 0 {
                let stream = tokio::time::timeout(PATIENCE, link.0.accept_tags()).await;
                // Whoever drops it wants no more of it.
                drop(stream.expect("something is sent").unwrap());
            }
        });
    }
    // And is never heard of again.
    for turn in 41..=100 {
        encoder.media(id::VIDEO, turn * 40, &large_key(200_000));
    }
    assert_eq!(link.0.close_reason(), None);
    // The ring holds 20 MB of that by right.
    house.assert_unharmed(48 * MIB);
    encoder.ping(7);
}

#[test]
fn callers_that_are_turned_away_again_and_again() {
    let house = House::new();
    run(async {
        let first = house.call(&house.liar).await.expect("it is let in");
        for turn in 0..8_u8 {
            let versions = if turn % 2 == 0 { vec![VERSION] } else { vec![7, 99] };
            let refused = house.call_as(&house.liar, versions, [2; 16]).await.unwrap_err();
            // Calls are limited, too.
            let Some((refusal, text)) = refused else { continue };
            match turn % 2 {
                0 => assert_eq!(refusal, Refusal::Duplicate, "{text}"),
                _ => assert!(refusal == Refusal::Version && text.contains("upgrade"), "{text}"),
            }
        }
        assert_eq!(first.0.close_reason(), None, "the first one stays");
    });
    let log = house.relay.log();
    assert!(log.contains("another program") && log.contains("upgrade"), "{log}");
    let lines = log.matches("refused").count();
    assert!(lines < 60, "{lines} lines");
    house.assert_unharmed(24 * MIB);
}

#[test]
fn claims_of_what_another_studio_holds() {
    let house = House::new();
    run(async {
        let holder = Arc::new(Identity::generate());
        let (_holder, mut holder) = house.call(&holder).await.unwrap();
        holder.session.send(&Message::Feeds(vec![house.feed("held")]));
        holder.flush().await.unwrap();
        let (_liar, mut liar) = house.call(&house.liar).await.unwrap();
        for _ in 0..500 {
            let claims = (0..64).map(|n| house.feed(&format!("mine{n}"))).collect();
            liar.session.send(&Message::Feeds(claims));
            liar.flush().await.unwrap();
            // Its own answers are read.
            for _ in 0..64 {
                liar.event().await.unwrap();
            }
        }
        let mut told = 0;
        let quiet = Duration::from_millis(1_500);
        while let Ok(event) = tokio::time::timeout(quiet, holder.event()).await {
            match event.unwrap() {
                Event::Message(Message::FeedProblem(_)) => told += 1,
                // A relay says now and then how much it has to do.
                Event::Message(Message::Load(_)) => {}
                other => panic!("{other:?}"),
            }
            if told > 140 {
                break;
            }
        }
        assert!((1..140).contains(&told), "told {told} times");
    });
    house.assert_unharmed(24 * MIB);
}

#[test]
fn callers_that_never_say_who_they_are() {
    let house = House::new();
    run(async {
        let join: JoinLink = house.relay.join_link().parse().unwrap();
        let mut silent = Vec::new();
        for _ in 0..90 {
            let dialer = Dialer::new(Arc::new(Identity::generate()), Congestion::Bbr);
            let address = house.relay.address("secure");
            let Ok(link) = dialer.dial(house.over, address, join.pin).await else {
                break;
            };
            let control = link.open_control().await.unwrap();
            silent.push((link, control));
        }
        assert!(silent.len() > 50, "{} came", silent.len());
        // The oldest makes room, or the time is up.
        let over = silent[0].0.closed();
        let why = tokio::time::timeout(PATIENCE, over).await.expect("it is cut off");
        assert!(why.contains("callers") || why.contains("hello"), "{why}");
        house.call(&house.liar).await.expect("who says who it is comes in");
    });
    house.assert_unharmed(32 * MIB);
}

#[test]
fn the_same_identity_calls_again_and_again() {
    let house = House::new();
    run(async {
        for _ in 0..90 {
            // The last one replaces the one before.
            let Some(_) = house.call(&house.liar).await else { break };
        }
    });
    let lines = house.relay.log().lines().filter(|line| line.contains("liar")).count();
    assert!(lines < 200, "{lines} lines");
    house.assert_unharmed(32 * MIB);
}
