//! Many at once.

use std::thread;

use testkit::script::amf::{Amf, text};
use testkit::script::{Script, command_message, greeting};

use super::{House, MIB, attacker};

/// Runs `attack` on 16 threads, each with a number of its own, and waits for them all.
fn storm<T: Send>(attack: impl Fn(usize) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let threads: Vec<_> = (0..16)
            .map(|number| {
                scope.spawn({
                    let attack = &attack;
                    move || attack(number)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no attacker panics")).collect()
    })
}

/// Everybody has the key, and wants the feed.
#[test]
fn a_publish_storm_on_one_key() {
    for house in [House::studio(), House::relay()] {
        house.survives("a publish storm", 24 * MIB, |door| {
            storm(|number| {
                let publish = |_| Script::attempt(attacker(number), door, "publish", &house.key);
                (0..12).filter_map(publish).count()
            })
        });
    }
}

/// Each guess is another key, as from a list.
#[test]
fn guesses_of_keys() {
    for house in [House::studio(), House::relay()] {
        house.survives("guesses", 16 * MIB, |door| {
            let guesses = storm(|number| {
                let guess = |turn: usize| {
                    let key = format!("camera-{:026}", number * 1000 + turn);
                    // A relay lets a few unknown keys wait for their studio: nobody waits for that.
                    let mut script = Script::dial_from(attacker(number), door)?;
                    let connect = command_message(0, "connect", 1.0, &[Amf::Null]);
                    let publish = command_message(1, "publish", 2.0, &[Amf::Null, text(&key)]);
                    script.try_send(&[greeting(), connect, publish].concat());
                    Some(script)
                };
                (0..8).filter_map(guess).collect::<Vec<_>>()
            });
            assert_eq!(guesses.len(), 16);
            guesses
        });
        assert!(!house.front().log().contains(&house.key), "no key in the log");
    }
}

#[test]
fn a_play_storm_on_unknown_names() {
    for house in [House::studio(), House::relay()] {
        house.survives("a play storm", 16 * MIB, |door| {
            let let_in = storm(|number| {
                let play = |turn| {
                    let name = format!("nothing-{turn}");
                    Script::attempt(attacker(number), door, "play", &name)
                };
                (0..40).filter_map(play).count()
            });
            assert_eq!(let_in, [0; 16]);
        });
    }
}

/// Connections that come and go as fast as they can, some with a reset.
#[test]
fn connections_that_come_and_go() {
    let house = House::relay();
    house.survives("come and go", 16 * MIB, |door| {
        storm(|number| {
            for turn in 0..60 {
                let Some(mut script) = Script::dial_from(attacker(number), door) else { continue };
                script.try_send(&greeting()[..turn * 50]);
                if turn % 2 == 0 {
                    script.reset();
                }
            }
        });
    });
}
