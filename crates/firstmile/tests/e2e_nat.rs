//! The reason why firstmile exists: a studio that nobody can dial.
#![cfg(target_os = "linux")]

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use testkit::client::{FfmpegPublish, Player, Publisher, ffmpeg_play_in};
use testkit::frames::{Frames, assert_contiguous_run};
use testkit::netns::{Lab, RELAY, ROUTER, STUDIO, within};
use testkit::{Node, PATIENCE, fixture, wait_until};

const FIRSTMILE: &str = env!("CARGO_BIN_EXE_firstmile");

fn start(lab: &Lab) -> (Node, Node) {
    let relay = lab.relay(FIRSTMILE).start().unwrap();
    let studio = Node::studio(FIRSTMILE)
        .in_namespace(&lab.namespace("studio"))
        .rtmp("0.0.0.0:0")
        .join(relay.join_link())
        .start()
        .unwrap();
    studio.wait_links(1);
    (relay, studio)
}

/// A player in the studio, and an encoder at the relay.
fn on_air(lab: &Lab, relay: &Node, studio: &Node) -> (Player, Publisher) {
    let port = studio.address("rtmp").port();
    let url = format!("rtmp://127.0.0.1:{port}/live/camera");
    let player = ffmpeg_play_in(&url, Some(&lab.namespace("studio")));
    studio.wait_players("camera", 1);
    let port = relay.address("rtmp").port();
    let url = format!("rtmp://{RELAY}:{port}/live/{}", studio.key("camera"));
    let publisher = FfmpegPublish::new(&fixture::clip(), &url)
        .in_namespace(&lab.namespace("encoder"))
        .forever()
        .start();
    (player, publisher)
}

fn reaches(from: &str, to: Ipv4Addr, port: u16) -> bool {
    let to = SocketAddr::from((to, port));
    within(from, || TcpStream::connect_timeout(&to, Duration::from_millis(500)).is_ok()).unwrap()
}

#[test]
fn a_feed_crosses_to_a_studio_behind_nat() {
    let Some(lab) = Lab::new_or_skip() else { return };
    let (relay, studio) = start(&lab);
    let port = studio.address("rtmp").port();
    assert!(reaches(&lab.namespace("studio"), Ipv4Addr::LOCALHOST, port), "its door is open");
    for from in ["relay", "encoder"] {
        for to in [STUDIO, ROUTER] {
            assert!(!reaches(&lab.namespace(from), to, port), "{from} reaches the studio at {to}");
        }
    }

    let (mut player, _publisher) = on_air(&lab, &relay, &studio);
    player.wait_frames(90, 60, PATIENCE);
    player.finish().unwrap();
    let (source, played) =
        (Frames::of(&fixture::clip()).unwrap(), Frames::of(&player.file()).unwrap());
    assert_eq!(assert_contiguous_run(&source, &played, true), 0, "from the first keyframe");
}

/// The studio's uplink is unplugged and comes back: nobody has to do anything.
#[test]
fn a_studio_that_lost_its_network_comes_back_by_itself() {
    let Some(lab) = Lab::new_or_skip() else { return };
    let (relay, studio) = start(&lab);
    let (mut player, mut publisher) = on_air(&lab, &relay, &studio);
    player.wait_video(45, PATIENCE);

    lab.set_link("router", false).unwrap();
    wait_until("the studio notices", PATIENCE, || {
        studio.feed("camera").is_some_and(|feed| feed["state"] != "live")
    });
    lab.set_link("router", true).unwrap();
    studio.wait_links(1);
    studio.wait_feed("camera", "live");
    let before = player.frames(media::Track::Video);
    player.wait_video(before + 60, PATIENCE);
    assert!(publisher.is_running(), "the encoder saw nothing of it");
}

/// The studio's machine is without an address for half a second, and then has another one.
#[test]
fn a_studio_goes_on_from_another_address() {
    let Some(lab) = Lab::new_or_skip() else { return };
    let (relay, studio) = start(&lab);
    let (mut player, mut publisher) = on_air(&lab, &relay, &studio);
    player.wait_video(45, PATIENCE);
    for host in [3, 4] {
        lab.remove_studio_address().unwrap();
        // That long nothing passes; it is what is tested.
        std::thread::sleep(Duration::from_millis(500));
        let before = player.frames(media::Track::Video);
        lab.set_studio_address(Ipv4Addr::new(192, 168, 77, host)).unwrap();
        let back = Instant::now();
        player.wait_video(before + 1, PATIENCE);
        println!("media {:?} after the new address", back.elapsed());
        player.wait_video(before + 60, PATIENCE);
    }
    assert!(studio.log().contains("this machine has another address"));
    let links = studio.status().unwrap()["links"].clone();
    assert_eq!(links[0]["reconnects"], 0, "the link went on: {links}");
    assert!(publisher.is_running(), "the encoder saw nothing of it");
}

/// Nothing is to be written to it, and nothing is heard of it: it is found all the same.
#[test]
fn a_player_whose_cable_was_pulled_is_noticed() {
    let Some(lab) = Lab::new_or_skip() else { return };
    let lines = "[limits]\nwrite_timeout = \"2s\"\n[play]\nkey = \"of-sixteen-letters-or-more\"\n";
    // On the public machine, so that a cable lies between it and the player.
    let studio = Node::studio(FIRSTMILE)
        .in_namespace(&lab.namespace("relay"))
        .rtmp("0.0.0.0:0")
        .config(lines)
        .start()
        .unwrap();
    let port = studio.address("rtmp").port();
    let url = format!("rtmp://{RELAY}:{port}/live/camera?key=of-sixteen-letters-or-more");
    let mut player = ffmpeg_play_in(&url, Some(&lab.namespace("encoder")));
    studio.wait_players("camera", 1);
    lab.set_link("encoder", false).unwrap();
    studio.wait_players("camera", 0);
    assert!(player.is_running(), "it knows nothing of it");
}

/// A network that lets no UDP out, as in many offices; and then the studio's machine gets another
/// address, which a connection does not outlive.
#[test]
fn a_studio_whose_router_drops_udp_goes_by_tcp() {
    let Some(lab) = Lab::new_or_skip() else { return };
    lab.nft(
        "table ip strict {
            chain through {
                type filter hook forward priority -10;
                meta l4proto udp drop;
            }
        }",
    )
    .unwrap();
    let (relay, studio) = start(&lab);
    let (mut player, mut publisher) = on_air(&lab, &relay, &studio);
    player.wait_frames(90, 60, PATIENCE);
    let transport = || studio.status().unwrap()["links"][0]["transport"].clone();
    assert_eq!(transport(), "tcp");

    lab.remove_studio_address().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let before = player.frames(media::Track::Video);
    lab.set_studio_address(Ipv4Addr::new(192, 168, 77, 3)).unwrap();
    let back = Instant::now();
    player.wait_video(before + 1, PATIENCE);
    println!("media {:?} after the new address", back.elapsed());
    player.wait_video(before + 60, PATIENCE);
    assert!(publisher.is_running(), "the encoder saw nothing of it");
    assert_eq!(transport(), "tcp");
    player.finish().unwrap();
    let (source, played) =
        (Frames::of(&fixture::clip()).unwrap(), Frames::of(&player.file()).unwrap());
    assert_eq!(assert_contiguous_run(&source, &played, true), 0, "nothing is lost");
}
