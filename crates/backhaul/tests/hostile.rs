//! A peer that lies: whatever it says, nothing panics, and every table stays bounded.

use std::time::{Duration, Instant};

use backhaul::{
    Answer, Answered, Arrival, Ranges, Receiver, Release, Sender, Settled, Skip, Spare, Want, Wants,
};
use bytes::Bytes;
use media::{Position, PublicationId, Tag, Track, TrackSet};
use proptest::prelude::*;

/// Ranges that a message carries.
const MAX_RANGES: usize = 64;

/// Numbers near each other, and those at the ends.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        6 => 0u64..40,
        1 => Just(u64::MAX),
        1 => Just(u64::MAX - 1),
        1 => Just((1 << 62) - 1),
        1 => any::<u64>(),
    ]
}

fn ranges() -> impl Strategy<Value = Ranges> {
    let range = (number(), number()).prop_map(|(a, b)| (a.min(b), a.max(b)));
    proptest::collection::vec(range, 0..20).prop_map(|ranges| ranges.into_iter().collect())
}

fn track() -> impl Strategy<Value = Track> {
    (0usize..3).prop_map(|track| Track::ALL[track])
}

fn previous() -> impl Strategy<Value = Option<u64>> {
    proptest::option::of(number())
}

fn publication() -> impl Strategy<Value = PublicationId> {
    (0u8..40).prop_map(|name| PublicationId([name; 16]))
}

#[derive(Clone, Debug)]
enum Heard {
    Tag(Track, u64, Option<u64>),
    Skip(Track, Option<u64>, u64),
    Resume,
    Report,
}

fn heard() -> impl Strategy<Value = Heard> {
    prop_oneof![
        8 => (track(), number(), previous()).prop_map(|(t, n, p)| Heard::Tag(t, n, p)),
        3 => (track(), previous(), number()).prop_map(|(t, from, to)| Heard::Skip(t, from, to)),
        1 => Just(Heard::Resume),
        1 => Just(Heard::Report),
    ]
}

#[derive(Clone, Debug)]
enum Told {
    MayAsk(PublicationId),
    Ask(PublicationId, Ranges),
    Tag(u64, u64),
    Answered(u64, u64, Ranges),
    Wait(u64),
}

fn told() -> impl Strategy<Value = Told> {
    prop_oneof![
        publication().prop_map(Told::MayAsk),
        (publication(), ranges()).prop_map(|(publication, ranges)| Told::Ask(publication, ranges)),
        (0u64..60, number()).prop_map(|(request, number)| Told::Tag(request, number)),
        (0u64..60, number(), ranges())
            .prop_map(|(request, tags, gone)| Told::Answered(request, tags, gone)),
        (0u64..20_000).prop_map(Told::Wait),
    ]
}

proptest! {
    /// Wrong and doubled positions, and skips to anywhere: what is released of a track rises, and
    /// what is kept comes out once.
    #[test]
    fn a_receiver_keeps_its_order(story in proptest::collection::vec(heard(), 0..200)) {
        let mut receiver = Receiver::default();
        let mut kept = std::collections::HashSet::new();
        let mut last: TrackSet<Option<u64>> = TrackSet::default();
        for heard in story {
            match heard {
                Heard::Tag(track, number, previous) => {
                    if receiver.on_tag(track, number, previous) == Ok(Arrival::Kept) {
                        prop_assert!(kept.insert((track, number)), "{track:?} {number} twice");
                    }
                }
                Heard::Skip(track, from, to) => {
                    let _ = receiver.on_skip(&Skip { subscription: 1, track, from, to });
                }
                Heard::Resume => receiver.resume(),
                Heard::Report => drop(receiver.take_report()),
            }
            while let Some(release) = receiver.poll() {
                let (Release::Tag(track, number) | Release::Drop(track, number)) = release;
                prop_assert!(kept.remove(&(track, number)), "{release:?} was not kept");
                if matches!(release, Release::Tag(..)) {
                    prop_assert!(last[track] < Some(number), "{release:?} after {:?}", last[track]);
                    last[track] = Some(number);
                }
            }
            prop_assert!(last[Track::Video] <= receiver.edges()[Track::Video]);
        }
    }

    /// Reports of what was never sent, and of everything.
    #[test]
    fn a_sender_believes_no_more_than_it_can_hold(
        story in proptest::collection::vec((track(), 0u64..9, ranges(), any::<bool>()), 0..100),
        released in (previous(), previous(), previous()),
        received in ranges(),
    ) {
        let now = Instant::now();
        let mut edges = TrackSet::default();
        (edges[Track::Audio], edges[Track::Video], edges[Track::Data]) = released;
        let mut sender = Sender::new(1, edges, received);
        let (mut next, mut previous) = (0, TrackSet::<Option<u64>>::default());
        let mut sent = 0;
        for (track, jump, reported, gives_up) in story {
            next += jump;
            let position = Position {
                publication: PublicationId([1; 16]),
                number: next,
                previous: previous[track].replace(next),
            };
            if gives_up {
                sender.give_up_video();
            }
            let body = Bytes::from_static(&[0x17, 1, 0, 0, 0, 9]);
            let send = sender.send(position, &Tag::new(track, 0, body), now, now);
            sent += 6;
            for skip in send.skips {
                prop_assert!(skip.from < Some(skip.to), "{skip:?}");
            }
            sender.on_received(&reported, now);
            prop_assert!(sender.unreported_bytes() + sender.delivered_bytes() <= sent);
            next += 1;
        }
    }

    /// Answers to what was not asked, tags that were not, and counts that cannot be.
    #[test]
    fn wants_stay_few(story in proptest::collection::vec(told(), 0..200)) {
        let (mut wants, mut now, mut names) = (Wants::default(), Instant::now(), 0);
        let mut asked: Vec<(u64, PublicationId, Ranges)> = Vec::new();
        for told in story {
            match told {
                Told::MayAsk(publication) => drop(wants.may_ask(publication, now)),
                Told::Ask(publication, missing) => {
                    if wants.may_ask(publication, now) {
                        names += 1;
                        let want = wants.ask(names, "camera", publication, &missing, now);
                        prop_assert_eq!(want.is_none(), missing.is_empty());
                        if let Some(want) = want {
                            prop_assert!((1..=MAX_RANGES).contains(&want.ranges.len()));
                            asked.push((names, publication, want.ranges));
                        }
                    }
                }
                Told::Tag(request, number) => {
                    if let Some(publication) = wants.on_tag(request, number, now) {
                        let is_it = |(name, of, ranges): &(u64, PublicationId, Ranges)| {
                            (*name, *of) == (request, publication) && ranges.contains(number)
                        };
                        prop_assert!(asked.iter().any(is_it), "{number} was not asked for");
                    }
                }
                Told::Answered(request, tags, gone) => {
                    let answered = Answered { request, tags, gone };
                    if let Some((publication, gone)) = wants.on_answered(&answered, now) {
                        let mut its = asked.iter().filter(|(name, ..)| *name == request);
                        let (_, of, ranges) = its.next().expect("it was asked for");
                        prop_assert_eq!(*of, publication);
                        prop_assert_eq!(&gone.intersection(ranges), &gone);
                    }
                }
                Told::Wait(ms) => now += Duration::from_millis(ms),
            }
            let under_way = (0..=names).filter(|name| wants.has(*name)).count();
            prop_assert!(under_way <= 16, "{under_way} at a time");
        }
    }

    /// Whatever is asked for, and whatever the spool says of it: every answer comes to an end.
    #[test]
    fn an_answer_ends(
        ranges in ranges(),
        found in proptest::collection::vec((number(), number(), number()), 0..40),
    ) {
        let publication = PublicationId([1; 16]);
        let want = Want { request: 1, feed: String::new(), publication, ranges };
        let mut answer = Answer::new(&want);
        let asked = want.ranges.len();
        let mut looks = 0;
        let mut found = found.into_iter();
        while let Some(numbers) = answer.next() {
            prop_assert!(numbers.start() <= numbers.end());
            looks += 1;
            let (first, last, next) = found.next().unwrap_or((1, 0, 0));
            answer.looked([first..=last], next);
            answer.on_sent();
        }
        prop_assert!(looks <= asked + 40);
        prop_assert!(answer.finish().gone.len() <= MAX_RANGES);
    }

    /// Clocks that stand still, delays of any length: the rate stays within its bounds.
    #[test]
    fn backfill_has_a_rate(
        story in proptest::collection::vec((0u64..100_000, 0u64..100_000, 0usize..1 << 24), 0..60),
    ) {
        let mut now = Instant::now();
        let mut spare = Spare::new(now);
        for (wait, delay, bytes) in story {
            now += Duration::from_millis(wait);
            if delay % 2 == 0 {
                spare.on_live(Duration::from_millis(delay), now);
            }
            if spare.allows(now) {
                spare.spend(bytes);
            }
            prop_assert!((16_000.0..=125_000_000.0).contains(&spare.rate()));
        }
    }

    #[test]
    fn what_is_settled_rises(numbers in proptest::collection::vec((number(), 0u64..3_000), 0..60)) {
        let (mut settled, mut now, mut before) = (Settled::default(), Instant::now(), 0);
        for (number, wait) in numbers {
            now += Duration::from_millis(wait);
            settled.on_tag(number);
            let below = settled.below(now);
            prop_assert!(below >= before);
            before = below;
        }
    }
}

/// Tags without end whose predecessors never come, and holes between all that is received.
#[test]
fn what_a_receiver_holds_is_bounded() {
    let mut receiver = Receiver::default();
    let mut kept = 0u64;
    for number in 1..20_000u64 {
        let Ok(arrival) = receiver.on_tag(Track::Video, 2 * number, Some(2 * number - 1)) else {
            continue;
        };
        kept += u64::from(arrival == Arrival::Kept);
    }
    assert_eq!((kept, receiver.held().len()), (4_096, 4_096));
    assert!(receiver.take_report().is_some_and(|ranges| ranges.len() <= 2 * MAX_RANGES));
    for to in 1..1_000 {
        let skip = Skip { subscription: 1, track: Track::Audio, from: Some(to), to: to + 1 };
        assert_eq!(receiver.on_skip(&skip).is_ok(), to <= 64);
    }
}

/// The link was lost because too much waited; on the next one the same tag is welcome.
#[test]
fn a_tag_that_found_no_room_may_come_again() {
    let mut receiver = Receiver::default();
    (2..4_098).for_each(|number| {
        receiver.on_tag(Track::Audio, number, Some(number - 1)).unwrap();
    });
    receiver.on_tag(Track::Audio, 4_098, Some(4_097)).unwrap_err();
    receiver.resume();
    assert_eq!(receiver.on_tag(Track::Audio, 1, None), Ok(Arrival::Kept));
    assert_eq!(std::iter::from_fn(|| receiver.poll()).count(), 4_097);
    assert_eq!(receiver.on_tag(Track::Audio, 4_098, Some(4_097)), Ok(Arrival::Kept));
    assert_eq!(receiver.poll(), Some(Release::Tag(Track::Audio, 4_098)));
}
