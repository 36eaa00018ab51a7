//! What the backhaul owes a feed when a node or the network goes away and comes back.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backhaul::{Close, Event, FeedKey, Hello, Message, Ranges, Session, Subscribe, VERSION};
use firstmile::control::Control;
use firstmile::identity::Identity;
use firstmile::join::JoinLink;
use firstmile::link::Link;
use firstmile::quic::Dialer;
use firstmile::secret::Secret;
use media::{Tag, Track, TrackSet};
use rtmp::session::Intent;
use testkit::client::{publish_clip, rtmpdump_play};
use testkit::{Node, OwnClient, PATIENCE, tempdir, wait_until};

const FIRSTMILE: &str = env!("CARGO_BIN_EXE_firstmile");

fn relay() -> Node {
    Node::relay(FIRSTMILE).start().unwrap()
}

/// Seconds that the feed has been on air, if it is.
fn on_air(node: &Node, feed: &str) -> Option<f64> {
    node.feed(feed)?["since_s"].as_f64()
}

/// Stops a process as a frozen machine would, for longer than a link lives.
fn freeze(node: &Node, while_frozen: impl FnOnce()) {
    let signal = |name: &str| {
        let pid = node.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    };
    let started = Instant::now();
    signal("-STOP");
    while_frozen();
    // The link's own idle timeout is 4 s; there is nothing to wait for but the clock.
    std::thread::sleep(Duration::from_secs(6).saturating_sub(started.elapsed()));
    signal("-CONT");
}

#[test]
fn a_studio_that_joins_in_mid_publication_gets_the_headers() {
    let relay = relay();
    let data = tempdir().unwrap();
    let start = || {
        let studio =
            Node::studio(FIRSTMILE).data(data.path()).join(relay.join_link()).start().unwrap();
        studio.wait_links(1);
        studio
    };
    let studio = start();
    let _publisher = publish_clip(&relay.url(&studio.key("camera")));
    // The headers, sent once, leave the relay's ring after some seconds.
    wait_until("ten seconds on air", PATIENCE, || on_air(&studio, "camera") > Some(10.0));
    studio.kill().unwrap();

    let studio = start();
    wait_until("the picture's size is known again", PATIENCE, || {
        studio.feed("camera").is_some_and(|feed| feed["video"]["width"] == 640)
    });
    let mut player = rtmpdump_play(&studio.url("camera"));
    player.wait_video(30, PATIENCE);
    let tags = player.tags();
    let first = |track: Track| tags.iter().find(|tag| tag.track == track).unwrap();
    assert!(first(Track::Video).is_header(), "the player's first video tag is the header");
    assert!(first(Track::Audio).is_header(), "the player's first audio tag is the header");
}

#[test]
fn an_encoder_at_the_studio_takes_over_from_one_at_the_relay() {
    let relay = relay();
    let studio = Node::studio(FIRSTMILE).join(relay.join_link()).start().unwrap();
    studio.wait_links(1);
    for _ in 0..3 {
        let mut far = publish_clip(&relay.url(&studio.key("camera")));
        wait_until("the feed comes by the relay", PATIENCE, || {
            studio.feed("camera").is_some_and(|feed| feed["via"].is_string())
        });
        let mut near = publish_clip(&studio.url(&studio.key("camera")));
        let ended = far.wait(PATIENCE).unwrap();
        assert!(!ended.status.success(), "the relay closed its encoder");
        wait_until("the feed comes from here", PATIENCE, || {
            studio.feed("camera").is_some_and(|feed| feed["via"].is_null())
                && on_air(&studio, "camera") > Some(2.0)
        });
        assert!(near.is_running(), "the encoder that took over stays");
    }
}

#[test]
fn a_feed_that_is_removed_while_its_relay_is_away_harms_no_other() {
    let relay = relay();
    let studio = Node::studio(FIRSTMILE).join(relay.join_link()).start().unwrap();
    studio.wait_links(1);
    studio.json(&["feed", "add", "two"]);
    let mut camera = publish_clip(&relay.url(&studio.key("camera")));
    let _two = publish_clip(&relay.url(&studio.key("two")));
    wait_until("both feeds are on air", PATIENCE, || {
        ["camera", "two"].iter().all(|feed| on_air(&studio, feed).is_some())
    });
    freeze(&relay, || {
        studio.json(&["feed", "remove", "camera"]);
    });
    assert!(!camera.wait(PATIENCE).unwrap().status.success(), "its encoder was closed");
    studio.wait_feed("two", "live");
    let mut player = rtmpdump_play(&studio.url("two"));
    player.wait_video(30, PATIENCE);
    let links = studio.status().unwrap()["links"].clone();
    assert!(links[0]["reconnects"].as_u64() <= Some(3), "{links}");
}

/// A studio whose words a test chooses.
async fn join(relay: &Node, identity: Arc<Identity>) -> (Link, Control) {
    let join: JoinLink = relay.join_link().parse().unwrap();
    let link = Dialer::new(identity).dial(relay.address("secure"), join.pin).await.unwrap();
    let (send, receive) = link.open_control().await.unwrap();
    let session = Session::dial(Hello {
        versions: vec![VERSION],
        instance: [1; 16],
        agent: String::new(),
        name: "busy".into(),
        invite: join.invite.expose().into(),
    });
    let mut control = Control { session, send, receive };
    control.flush().await.unwrap();
    assert!(matches!(control.event().await.unwrap(), Event::Open(_)));
    (link, control)
}

/// A studio that is still busy with a publication when it closes it: the encoder that took over at
/// the relay meanwhile is another one, and stays.
#[tokio::test(flavor = "multi_thread")]
async fn who_closes_a_publication_does_not_end_the_next() {
    let relay = relay();
    let (link, mut control) = join(&relay, Arc::new(Identity::generate())).await;
    let secret = Secret::random();
    let hash = secret.key_hash().0;
    control.session.send(&Message::Feeds(vec![FeedKey {
        name: "camera".into(),
        hash,
        left: None,
    }]));
    control.flush().await.unwrap();
    let url = relay.url(&format!("camera-{}", secret.expose()));
    let ready = || {
        let url = url.clone();
        tokio::task::spawn_blocking(move || OwnClient::ready(&url, Intent::Publish))
    };
    let announced = async |control: &mut Control| {
        let next = async {
            loop {
                if let Event::Message(Message::Announce(announce)) = control.event().await.unwrap()
                {
                    return announce.publication;
                }
            }
        };
        tokio::time::timeout(PATIENCE, next).await.expect("an encoder is on air")
    };

    let mut first = ready().await.unwrap();
    let publication = announced(&mut control).await;
    control.session.send(&Message::Subscribe(Subscribe {
        subscription: 1,
        feed: "camera".into(),
        publication,
        released: TrackSet::default(),
        received: Ranges::default(),
        budget: None,
    }));
    control.flush().await.unwrap();
    // More than the link takes of it as long as nobody reads.
    let mut body = vec![0; 4 << 20];
    body[..2].copy_from_slice(&[0x17, 1]);
    first.send(&Tag::new(Track::Video, 0, body.into())).unwrap();
    let _stream = link.accept_tags().await.unwrap();

    let mut second = ready().await.unwrap();
    control.session.send(&Message::Close(Close { publication, text: "no longer".into() }));
    // Then the relay has the time to announce what is on air now.
    control.session.send(&Message::Unsubscribe(1));
    control.flush().await.unwrap();
    announced(&mut control).await;
    second.send(&Tag::new(Track::Video, 0, vec![0x17, 1, 0, 0, 0].into())).unwrap();
    relay.wait_feed("camera", "live");
}

#[tokio::test]
async fn a_studio_with_useless_feeds_does_not_fill_the_log() {
    let relay = relay();
    let (_link, mut control) = join(&relay, Arc::new(Identity::generate())).await;
    for turn in 0..10 {
        let useless = |n| FeedKey { name: format!("NO {turn} {n}"), hash: [n; 32], left: None };
        control.session.send(&Message::Feeds((0..200).map(useless).collect()));
        control.flush().await.unwrap();
        let mut told = 0;
        while told < 200 {
            let event = tokio::time::timeout(PATIENCE, control.event()).await.unwrap().unwrap();
            match event {
                Event::Message(Message::FeedProblem(_)) => told += 1,
                // A relay says now and then how much it has to do.
                Event::Message(Message::Load(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    }
    let lines = relay.log().matches("a feed was not taken").count();
    assert!((1..200).contains(&lines), "{lines}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_studio_says_when_it_leaves_is_fit_for_a_terminal() {
    let relay = relay();
    let identity = Arc::new(Identity::generate());
    // The end of the link is noticed in one of two places.
    for _ in 0..20 {
        let (link, _control) = join(&relay, identity.clone()).await;
        link.close("\u{1b}[2J");
        wait_until("it has left", PATIENCE, || {
            let links = relay.status().unwrap()["links"].clone();
            links[0]["last_error"].as_str().is_some_and(|error| {
                assert!(!error.contains('\u{1b}'), "{error:?}");
                true
            })
        });
    }
}
