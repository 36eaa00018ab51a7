//! A relay that was joined, and lies to its studio.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use backhaul::{
    Announce, Answered, Datagram, Ended, Event, FeedProblem, Kept, Message, Ranges, Refusal,
    Report, Session, Skip, Stalls, StreamHeader, Subscribe, TagHeader, VERSION, Want, Welcome,
};
use bytes::{Bytes, BytesMut};
use firstmile::control::Control;
use firstmile::identity::Identity;
use firstmile::join::JoinLink;
use firstmile::link::{Link, VIDEO_PRIORITY};
use firstmile::quic::{Congestion, Listener};
use firstmile::secret::Secret;
use media::{PublicationId, Track, TrackSet};
use serde_json::Value;
use testkit::script::media::{frame, key};
use testkit::script::{Script, id};
use testkit::{Node, PATIENCE, wait_for, wait_until};

use super::{FIRSTMILE, HONEST, MIB, assert_bounded, assert_serves, run};

const RECORD: &str = "[record]\nall = true\nkeep_journal = true\n";

/// A studio, and a relay whose words a test chooses.
struct House {
    studio: Node,
    listener: Listener,
    before: u64,
}

fn publication(number: u64) -> PublicationId {
    let mut name = [7; 16];
    name[..8].copy_from_slice(&number.to_be_bytes());
    PublicationId(name)
}

fn announce(number: u64) -> Message {
    let (feed, publication) = ("camera".to_owned(), publication(number));
    Message::Announce(Announce { feed, publication, age: Duration::ZERO })
}

fn video_only(number: u64) -> TrackSet<Option<u64>> {
    let mut edges = TrackSet::default();
    edges[Track::Video] = Some(number);
    edges
}

fn kept(publication: PublicationId, last: u64) -> Message {
    Message::Kept(Kept { feed: "camera".into(), publication, last, age: Duration::ZERO })
}

impl House {
    /// A studio with these lines of configuration.
    async fn new(config: &str) -> Self {
        let identity = Identity::generate();
        let address: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let listener = Listener::bind(&identity, address, Congestion::Bbr).unwrap();
        let link = JoinLink {
            host: "127.0.0.1".into(),
            port: listener.local_addr().unwrap().port(),
            pin: identity.public_key(),
            invite: Secret::random(),
        };
        let launch = Node::studio(FIRSTMILE).join(&link.expose()).config(config);
        // It calls while it starts.
        let started = tokio::task::spawn_blocking(move || launch.start().unwrap());
        let studio = started.await.unwrap();
        let house = Self { studio, listener, before: 0 };
        house.assert_serves();
        let before = house.studio.memory().0;
        Self { before, ..house }
    }

    #[track_caller]
    fn assert_serves(&self) {
        let door = self.studio.address("rtmp");
        tokio::task::block_in_place(|| assert_serves(door, &self.studio, "camera"));
    }

    #[track_caller]
    fn assert_unharmed(&self, bound: u64) {
        self.assert_serves();
        assert_bounded(&self.studio, self.before, bound, 700);
    }

    /// The studio calls; says who let it in.
    async fn greet(&self) -> (Link, Control) {
        loop {
            let Ok(Some(link)) = self.listener.accept().await.unwrap().handshake().await else {
                continue;
            };
            let Ok((send, receive)) = link.accept_control().await else { continue };
            let mut control = Control { session: Session::accept(), send, receive };
            if let Ok(Event::Hello(_)) = control.event().await {
                return (link, control);
            }
        }
    }

    async fn accept(&self) -> (Link, Control) {
        let (link, mut control) = self.greet().await;
        control.session.welcome(Welcome {
            version: VERSION,
            agent: "liar".into(),
            host: "\u{202e}example".into(),
            rtmp_port: 1_935,
            rtmps_port: None,
            region: "\u{202e}example".into(),
            measures: true,
        });
        control.flush().await.unwrap();
        // What is announced before this is subscribed twice.
        let is_feeds = |message| matches!(message, Message::Feeds(_)).then_some(());
        hear(&mut control, is_feeds).await;
        (link, control)
    }

    fn recordings(&self) -> Vec<Value> {
        tokio::task::block_in_place(|| {
            let list = self.studio.json(&["record", "list"]);
            list["recordings"].as_array().expect("a list").clone()
        })
    }
}

async fn hear<T>(control: &mut Control, mut look: impl FnMut(Message) -> Option<T>) -> T {
    let found = async {
        loop {
            let Event::Message(message) = control.event().await.unwrap() else { continue };
            if let Some(found) = look(message) {
                return found;
            }
        }
    };
    tokio::time::timeout(PATIENCE, found).await.expect("the studio says so")
}

async fn subscribed(control: &mut Control) -> Subscribe {
    hear(control, |message| match message {
        Message::Subscribe(subscribe) => Some(subscribe),
        _ => None,
    })
    .await
}

/// Says it until the studio has enough, and why that is; reads nothing.
async fn say_without_end(
    link: &Link,
    control: &mut Control,
    count: u64,
    mut message: impl FnMut(u64) -> Message,
) {
    for turn in 0..count {
        control.session.send(&message(turn));
        if turn % 64 == 0 && control.flush().await.is_err() {
            return;
        }
    }
    if control.flush().await.is_ok() {
        // It is read.
        link.settle(Duration::from_secs(2)).await;
    }
}

fn tag(number: u64, previous: Option<u64>, timestamp: i64, length: usize) -> TagHeader {
    TagHeader { track: Track::Video, number, previous, timestamp, queued_us: 1 << 60, length }
}

fn tags(subscription: u64, tags: &[(TagHeader, Vec<u8>)]) -> Vec<u8> {
    let mut out = BytesMut::new();
    StreamHeader { subscription }.encode(&mut out);
    for (header, body) in tags {
        header.encode(&mut out);
        out.extend_from_slice(body);
    }
    out.to_vec()
}

async fn send(link: &Link, bytes: &[u8]) -> anyhow::Result<()> {
    let mut stream = link.open_tags(VIDEO_PRIORITY).await?;
    stream.write_chunk(bytes.to_vec().into()).await?;
    stream.finish()?;
    Ok(())
}

#[test]
fn what_came_from_elsewhere_is_not_a_relays_to_touch() {
    run(async {
        let house = House::new(RECORD).await;
        let (link, mut control) = house.accept().await;
        let url = house.studio.address("rtmp");
        let name = house.studio.key("camera");
        let mut encoder = tokio::task::block_in_place(|| {
            wait_for("an encoder", PATIENCE, || Script::attempt(HONEST, url, "publish", &name))
        });
        encoder.media(id::VIDEO, 0, &key(5));
        // The newest: before it an honest encoder came and went, whose tags may be on their way.
        let is_on = |info: &Value| info["complete"] == false;
        let mine = wait_for("the recording", PATIENCE, || {
            let all = house.recordings();
            all.get(1).filter(|newest| is_on(newest)).cloned()
        });
        let mine = mine["publication"].as_str().unwrap().to_owned();
        let number = u128::from_str_radix(&mine, 16).expect("128 bits");
        let publication = PublicationId(number.to_be_bytes());

        let claim = Announce { feed: "camera".into(), publication, age: Duration::ZERO };
        for turn in 0..2 {
            control.session.send(&kept(publication, 0));
            control.session.send(&kept(publication, 1_000_000));
            control.session.send(&Message::Announce(claim.clone()));
            control.session.send(&Message::Answered(Answered {
                request: 1,
                tags: 0,
                gone: [(0, 1 << 61)].into_iter().collect(),
            }));
            control.flush().await.unwrap();
            let text = hear(&mut control, |message| match message {
                Message::Close(close) if close.publication == publication => Some(close.text),
                Message::Subscribe(subscribe) => panic!("{subscribe:?}"),
                _ => None,
            });
            assert!(text.await.contains("elsewhere"));
            // The first time on air, then over.
            if turn == 0 {
                (1..30).for_each(|n| encoder.media(id::VIDEO, n * 40, &frame(n as u8)));
                encoder.ping(1);
                encoder.socket().shutdown(std::net::Shutdown::Both).unwrap();
                wait_until("it is over", PATIENCE, || {
                    house
                        .recordings()
                        .iter()
                        .any(|r| r["publication"] == mine && r["complete"] == true)
                });
            }
        }
        link.settle(Duration::from_secs(1)).await;
        let recorded = house.recordings();
        let recorded = recorded.iter().find(|info| info["publication"] == mine).unwrap();
        assert_eq!(
            (&recorded["tags"], &recorded["missing"], &recorded["gone"]),
            (&30.into(), &0.into(), &0.into()),
            "{recorded}"
        );
        house.assert_unharmed(24 * MIB);
    });
}

#[test]
fn announcements_without_end() {
    run(async {
        let house = House::new(RECORD).await;
        let (link, mut control) = house.accept().await;
        let over = |turn| {
            let (publication, edges) = (publication(turn / 2), TrackSet::default());
            Message::Ended(Ended { publication, edges, is_stopped: turn % 4 == 1 })
        };
        say_without_end(&link, &mut control, 100_000, |turn| match turn % 2 {
            0 => announce(turn / 2),
            _ => over(turn),
        })
        .await;
        house.studio.wait_log("announced more than");
        // It comes back, and goes on.
        for _ in 0..3 {
            let (link, mut control) = house.accept().await;
            say_without_end(&link, &mut control, 300, announce).await;
            link.close("enough");
        }
        house.assert_unharmed(32 * MIB);
    });
}

#[test]
fn kept_without_end() {
    run(async {
        let house = House::new(RECORD).await;
        for turn in 0..2 {
            let (link, mut control) = house.accept().await;
            say_without_end(&link, &mut control, 50_000, |n| {
                kept(publication(turn << 32 | n), n << 30)
            })
            .await;
            // Over and over of the same one.
            say_without_end(&link, &mut control, 20_000, |n| kept(publication(turn << 32), n))
                .await;
            assert_eq!(link.close_reason(), None);
            link.close("enough");
        }
        let ours = house.recordings().len();
        assert!(ours < 8_200, "{ours} recordings");
        house.assert_unharmed(64 * MIB);
    });
}

#[test]
fn tags_that_wait_for_ever() {
    run(async {
        let house = House::new("").await;
        let (link, mut control) = house.accept().await;
        let body = vec![0x27; 64 << 10];
        let started = Instant::now();
        let mut is_over = false;
        for number in 0..200 {
            control.session.send(&announce(number));
            control.flush().await.unwrap();
            let subscription = tokio::select! {
                subscribe = subscribed(&mut control) => subscribe.subscription,
                _ = link.closed() => { is_over = true; break }
            };
            // The first never comes.
            let all: Vec<_> =
                (1..100).map(|n| (tag(n + 1, Some(n), 0, body.len()), body.clone())).collect();
            if send(&link, &tags(subscription, &all)).await.is_err() {
                is_over = true;
                break;
            }
        }
        eprintln!("after {:?}", started.elapsed());
        assert!(is_over);
        house.studio.wait_log("wait for tags that do not come");
        house.assert_unharmed(260 * MIB);
    });
}

#[test]
fn bodies_that_never_end() {
    run(async {
        let house = House::new("").await;
        let (link, mut control) = house.accept().await;
        control.session.send(&announce(1));
        control.flush().await.unwrap();
        let subscription = subscribed(&mut control).await.subscription;
        let begun = tags(subscription, &[(tag(1, None, 0, 8 << 20), vec![0x17; 100_000])]);
        let begun = Bytes::from(begun);
        let mut open = Vec::new();
        for _ in 0..1_000 {
            let Ok(mut stream) = link.open_tags(VIDEO_PRIORITY).await else { break };
            if stream.write_chunk(begun.clone()).await.is_err() {
                break;
            }
            open.push(stream);
        }
        let why = tokio::time::timeout(PATIENCE, link.closed()).await.expect("it is cut off");
        eprintln!("{why} after {} streams", open.len());
        house.studio.wait_log("never whole");
        house.assert_unharmed(240 * MIB);
    });
}

#[test]
fn positions_and_times_that_cannot_be() {
    run(async {
        let house = House::new(RECORD).await;
        let last = (1 << 62) - 1;
        let far = 1_i64 << 60;
        let mut player = tokio::task::block_in_place(|| {
            let door = house.studio.address("rtmp");
            wait_for("a player", PATIENCE, || Script::attempt(HONEST, door, "play", "camera"))
        });
        for round in 0..2 {
            let (link, mut control) = house.accept().await;
            control.session.send(&announce(round));
            control.flush().await.unwrap();
            let subscription = hear(&mut control, |message| match message {
                Message::Subscribe(subscribe) if subscribe.publication == publication(round) => {
                    Some(subscribe.subscription)
                }
                _ => None,
            });
            let subscription = subscription.await;
            let video = |number, previous, time, byte: u8| {
                let body = key(byte);
                (tag(number, previous, time, body.len()), body)
            };
            let mut all = vec![video(0, None, 0, 1)];
            // The same numbers with other bodies, and times that jump.
            for (turn, time) in [0, far, -far, 5, far, -far, far - 1].into_iter().enumerate() {
                let number = turn as u64 + 1;
                all.push(video(number, Some(number - 1), time, 2));
                all.push(video(number, Some(number - 1), -time, 3));
            }
            all.push(video(last - 1, Some(7), far, 4));
            all.push(video(last, Some(last - 1), -far, 5));
            send(&link, &tags(subscription, &all)).await.unwrap();
            // What nobody asked for.
            for name in [0, 77, last] {
                send(&link, &tags(name, &all)).await.unwrap();
            }
            for clock in [0, last, 5, 1 << 61] {
                link.send_datagram(Datagram::Heartbeat(clock).encode());
            }
            say_without_end(&link, &mut control, 5_000, |n| match n % 4 {
                0 => Message::Skip(Skip { subscription, track: Track::Audio, from: None, to: n }),
                1 => Message::Report(Report {
                    subscription,
                    encoder_growth_ms: far * if n % 8 == 1 { 1 } else { -1 },
                    skipped: last,
                    stalls: Some(Stalls { count: last, longest_ms: last }),
                }),
                2 => Message::Ended(Ended {
                    publication: publication(n),
                    edges: video_only(last),
                    is_stopped: n % 8 == 2,
                }),
                _ => Message::Want(Want {
                    request: n,
                    feed: "camera".into(),
                    publication: publication(n),
                    ranges: [(0, last)].into_iter().collect(),
                }),
            })
            .await;
            let skip = Skip { subscription, track: Track::Video, from: None, to: last };
            control.session.send(&Message::Skip(skip));
            control.flush().await.unwrap();
            tokio::task::block_in_place(|| {
                player.expect("the first tag", |message| (message.body == key(2)).then_some(()));
            });
            let status = house.studio.status().unwrap();
            assert!(status["feeds"].is_array(), "{status}");
            assert_eq!(link.close_reason(), None);
            if round == 1 {
                // A tag before its track's start.
                let mut bytes = BytesMut::new();
                StreamHeader { subscription }.encode(&mut bytes);
                bytes.extend_from_slice(&[1, 3, 9, 0, 0, 0]);
                send(&link, &bytes).await.unwrap();
                house.studio.wait_log("before its track's start");
            } else {
                link.close("enough");
            }
        }
        // What a liar's recording amounts to is its own affair, but it can be listed and read.
        let dir = testkit::tempdir().unwrap();
        for recording in house.recordings() {
            let name = recording["publication"].as_str().unwrap().to_owned();
            let file = dir.path().join(format!("{name}.flv"));
            tokio::task::block_in_place(|| {
                house.studio.command(&["record", "export", &name, file.to_str().unwrap()]).unwrap()
            });
        }
        house.assert_unharmed(32 * MIB);
    });
}

#[test]
fn troubles_without_end() {
    run(async {
        let house = House::new(RECORD).await;
        let (link, mut control) = house.accept().await;
        say_without_end(&link, &mut control, 20_000, |turn| {
            let text = format!("\u{2028}trouble {turn}");
            Message::FeedProblem(FeedProblem { name: "camera".into(), text })
        })
        .await;
        let everything: Ranges = (0..64).map(|n| (n << 50, (n << 50) + 9)).collect();
        say_without_end(&link, &mut control, 20_000, |turn| {
            Message::Answered(Answered { request: turn % 9, tags: turn, gone: everything.clone() })
        })
        .await;
        assert_eq!(link.close_reason(), None);
        house.studio.wait_log("too many log lines");
        house.assert_unharmed(24 * MIB);
    });
}

#[test]
fn answers_that_nobody_reads() {
    run(async {
        let house = House::new("").await;
        let (link, mut control) = house.accept().await;
        (1..=2).for_each(|number| control.session.send(&announce(number)));
        control.flush().await.unwrap();
        let first = subscribed(&mut control).await.subscription;
        let second = subscribed(&mut control).await.subscription;
        let body = vec![0x17, 1, 0, 0, 0, 9];
        let key = |subscription| tags(subscription, &[(tag(0, None, 0, body.len()), body.clone())]);
        send(&link, &key(second)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        // It was replaced before it began: it is to be closed, and so it is answered whenever it is announced.
        send(&link, &key(first)).await.unwrap();
        hear(&mut control, |message| matches!(message, Message::Close(_)).then_some(())).await;
        say_without_end(&link, &mut control, 400_000, |_| announce(1)).await;
        house.studio.wait_log("does not read what is said");
        house.assert_unharmed(24 * MIB);
    });
}

#[test]
fn refusals_without_end() {
    run(async {
        let house = House::new("").await;
        let until = Instant::now() + Duration::from_secs(4);
        let mut calls = 0;
        while let Ok((link, mut control)) =
            tokio::time::timeout_at(until.into(), house.greet()).await
        {
            calls += 1;
            let text = format!("another one of {calls}");
            control.session.refuse(Refusal::Duplicate, &text);
            control.flush().await.unwrap();
            link.closed().await;
        }
        assert!((2..6).contains(&calls), "{calls} calls");
        house.assert_unharmed(16 * MIB);
    });
}
