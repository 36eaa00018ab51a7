//! Feeds from encoder to player and journal over a simulated backhaul, in virtual time.
//!
//! The hub, and all of the backhaul's protocol, are the ones that ship; sockets and clocks are
//! replaced, and what firstmile does around them is done here in the same way. What happens is
//! random, and shrinks to the shortest story that breaks a rule.
//! `SIMULATION_CASES` and `SIMULATION_SEED` make other stories than CI's.

mod encoder;
mod network;
mod player;
mod relay;
mod studio;
mod world;

use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use encoder::Kind;
use network::To;
use world::{Event, World};

const PICTURES: Kind = Kind::Pictures { gop: 50 };
const SHORT: Kind = Kind::Pictures { gop: 12 };
/// Longer than any story.
const SPOOL: Duration = Duration::from_secs(600);

fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().expect("a number"))
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![
        4 => (10u64..250).prop_map(|gop| Kind::Pictures { gop }),
        1 => Just(Kind::Sound),
        1 => Just(Kind::NoKeyframes),
    ]
}

/// What happens, and how many milliseconds after the event before it.
fn events() -> impl Strategy<Value = Vec<(u64, Event)>> {
    let to = prop_oneof![Just(To::Relay), Just(To::Studio)];
    let event = prop_oneof![
        2 => (50u64..4_000).prop_map(|length| Event::Stall { length }),
        2 => (50u64..4_000).prop_map(|length| Event::Cut { length }),
        1 => (200u64..2_000).prop_map(|length| Event::Address { length }),
        2 => (to, 0u64..400).prop_map(|(to, bytes)| Event::CutAt { to, bytes }),
        2 => (500u64..6_000, 10u64..150)
            .prop_map(|(length, rate)| Event::Narrow { length, rate }),
        2 => (500u64..4_000, 1u64..30).prop_map(|(length, loss)| Event::Lossy { length, loss }),
        2 => (0usize..2, 10u64..3_000, kinds())
            .prop_map(|(feed, length, kind)| Event::Stop { feed, length, kind }),
        2 => (0usize..2, kinds()).prop_map(|(feed, kind)| Event::Takeover { feed, kind }),
        1 => (0usize..2, 100u64..3_000).prop_map(|(feed, length)| Event::Pause { feed, length }),
        1 => (0usize..2).prop_map(|feed| Event::Header { feed }),
        1 => (0usize..2, 0u64..500, kinds())
            .prop_map(|(feed, length, kind)| Event::Flash { feed, length, kind }),
        1 => (100u64..4_000).prop_map(|length| Event::SlowDisk { length }),
        1 => (100u64..3_000).prop_map(|length| Event::RestartStudio { length }),
        1 => (100u64..3_000).prop_map(|length| Event::RestartRelay { length }),
    ];
    proptest::collection::vec((0u64..2_500, event), 0..8)
}

fn play(world: &mut World, events: &[(u64, Event)]) {
    for (after, event) in events {
        let until = world.ms + after;
        world.run(until);
        world.apply(*event);
    }
}

#[test]
fn nothing_is_lost_on_a_good_network() {
    let mut world = World::new(7, [PICTURES, Kind::Sound], [true, true], SPOOL);
    world.run(20_000);
    assert!(world.players[0].frames >= 495, "{} of 500 frames", world.players[0].frames);
    assert!(world.came.iter().all(|came| came.ms < 1_000 || came.delay < 150), "nothing is late");
    world.assert_recorded(2_000);
    assert_eq!(world.journal.backfilled, 0);
}

#[test]
fn a_short_cut_loses_nothing() {
    let mut world = World::new(7, [PICTURES, Kind::Sound], [true, true], SPOOL);
    world.run(5_000);
    world.apply(Event::Cut { length: 800 });
    world.run(20_000);
    assert!(world.players[0].frames >= 495, "{} of 500 frames", world.players[0].frames);
}

#[test]
fn an_outage_leaves_no_hole_in_the_journal() {
    let mut world = World::new(7, [PICTURES, Kind::NoKeyframes], [true, false], SPOOL);
    world.run(5_000);
    world.apply(Event::Stall { length: 8_000 });
    let back_by = world.back_by();
    world.run(back_by);
    world.assert_live();
    world.assert_recorded(20_000);
    assert!(world.journal.backfilled > 100, "{} tags", world.journal.backfilled);
}

/// What was given up is never reported, nor is what a lost report told: backfill goes on all the
/// same when nothing live comes.
#[test]
fn a_silent_encoder_does_not_hold_up_the_backfill() {
    let mut world = World::new(7, [PICTURES, Kind::Sound], [true, true], SPOOL);
    world.run(5_000);
    world.apply(Event::Stall { length: 4_500 });
    world.run(10_500);
    for feed in 0..2 {
        world.apply(Event::Pause { feed, length: 60_000 });
    }
    world.run(11_000);
    world.assert_recorded(15_000);
}

/// What came while the disk was slow was reported to have come, and is asked for again.
#[test]
fn what_a_slow_disk_drops_comes_again() {
    let mut world = World::new(7, [PICTURES, Kind::Sound], [true, true], SPOOL);
    world.run(5_000);
    world.apply(Event::SlowDisk { length: 2_000 });
    world.run(7_000);
    assert!(world.journal.dropped > 100, "{} tags", world.journal.dropped);
    assert_eq!(world.journal.backfilled, 0);
    world.assert_recorded(6_000);
    let backfilled = world.journal.backfilled;
    assert!((200..250).contains(&backfilled), "{backfilled} tags, of about 105 a second");
}

#[test]
fn publications_that_come_and_go_at_once_are_recorded() {
    let mut world = World::new(7, [PICTURES, Kind::Sound], [true, true], SPOOL);
    world.run(5_000);
    for feed in 0..2 {
        world.apply(Event::Stop { feed, length: 5_000, kind: SHORT });
    }
    world.run(6_000);
    for feed in 0..2 {
        // Nothing is on air before and after them.
        world.apply(Event::Flash { feed, length: 8_000, kind: SHORT });
    }
    world.run(7_000);
    world.assert_told();
    world.assert_recorded(3_000);
    assert_eq!(world.kept(), 6, "of each feed three are over");
}

/// The relay does not know any more what ended before its spool began: what came is all.
#[test]
fn what_a_relay_has_forgotten_is_no_hole() {
    let spool = Duration::from_secs(6);
    let mut world = World::new(0, [Kind::Pictures { gop: 10 }; 2], [true, false], spool);
    world.run(2_000);
    world.apply(Event::Cut { length: 2_916 });
    world.apply(Event::Stop { feed: 0, length: 10, kind: Kind::NoKeyframes });
    world.run(4_081);
    world.apply(Event::Stall { length: 3_711 });
    let back_by = world.back_by();
    world.run(back_by);
    world.assert_recorded(5_000);
}

/// A relay that is not heard after its greeting does not seem to know what is on air.
#[test]
fn what_was_taken_to_be_over_goes_on() {
    let mut world = World::new(0, [SHORT; 2], [false, true], SPOOL);
    world.run(2_000);
    world.apply(Event::RestartStudio { length: 1_106 });
    world.run(3_241);
    world.apply(Event::Stall { length: 2_891 });
    let back_by = world.back_by();
    world.run(back_by);
    world.assert_recorded(10_000);
}

/// Every byte of a conversation may be the last one of its link, in both directions; twice in a
/// row, so that what was said on the second link is cut as well.
#[test]
fn a_conversation_may_be_cut_at_every_byte() {
    for to in [To::Studio, To::Relay] {
        for bytes in (1..420).step_by(3) {
            let mut world = World::new(bytes, [SHORT, Kind::Sound], [true, true], SPOOL);
            world.run(300);
            world.apply(Event::Takeover { feed: 0, kind: SHORT });
            world.apply(Event::CutAt { to, bytes });
            world.run(600);
            world.apply(Event::CutAt { to, bytes: bytes % 200 });
            world.run(900);
            world.apply(Event::Takeover { feed: 1, kind: SHORT });
            let back_by = world.back_by();
            world.run(back_by);
            world.assert_live();
            world.assert_recorded(10_000);
        }
    }
}

proptest! {
    // The same stories in every run; more of them, and others, when somebody looks for trouble.
    #![proptest_config(ProptestConfig {
        cases: variable("SIMULATION_CASES", 100) as u32,
        rng_seed: RngSeed::Fixed(variable("SIMULATION_SEED", 1)),
        max_shrink_iters: 2_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Whatever happens: what is on air is right, and live again soon after the last trouble; and
    /// what is recorded is whole.
    #[test]
    fn the_picture_comes_back_and_the_record_is_whole(
        seed: u64,
        kinds in [kinds(), kinds()],
        is_recorded in [any::<bool>(), any::<bool>()],
        spool in prop_oneof![3 => Just(SPOOL), 1 => Just(Duration::from_secs(6))],
        events in events(),
    ) {
        let mut world = World::new(seed, kinds, is_recorded, spool);
        world.run(2_000);
        play(&mut world, &events);
        while world.ms < world.back_by() {
            world.tick();
        }
        world.assert_live();
        world.assert_recorded(30_000);
        world.assert_told();
        if is_recorded == [false; 2] {
            assert_eq!(world.journal.backfilled, 0);
        }
    }
}
