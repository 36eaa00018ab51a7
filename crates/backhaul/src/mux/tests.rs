use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);
const RECORD: usize = 16 << 10;

/// Two ends, and a clock.
struct Pair {
    relay: Mux,
    studio: Mux,
    now: Instant,
}

impl Pair {
    fn new() -> Self {
        let now = Instant::now();
        let (relay, studio) = (Mux::new(Role::Acceptor, now), Mux::new(Role::Dialer, now));
        Self { relay, studio, now }
    }

    /// Moves one record each way, if there is one.
    fn step(&mut self) {
        self.now += MS;
        let (mut down, mut up) = (BytesMut::new(), BytesMut::new());
        self.relay.poll_transmit(self.now, &mut down, RECORD);
        self.studio.poll_transmit(self.now, &mut up, RECORD);
        assert!(down.len() <= RECORD && up.len() <= RECORD);
        self.studio.handle_input(&mut down, self.now).unwrap();
        self.relay.handle_input(&mut up, self.now).unwrap();
        assert!(down.is_empty() && up.is_empty(), "records have whole frames");
    }

    fn steps(&mut self, steps: usize) {
        (0..steps).for_each(|_| self.step());
    }

    fn write(&mut self, stream: u64, bytes: &[u8]) -> usize {
        let mut chunks = [Bytes::copy_from_slice(bytes)];
        self.relay.write(stream, &mut chunks, self.now).unwrap()
    }

    /// What the studio has of a stream, and how it ended.
    fn read(&mut self, stream: u64) -> (Vec<u8>, Read) {
        let mut all = Vec::new();
        loop {
            match self.studio.read(stream, 1_000) {
                Read::Bytes(bytes) => all.extend_from_slice(&bytes),
                end => return (all, end),
            }
        }
    }
}

#[test]
fn streams_and_datagrams_come_whole_and_in_order() {
    let mut pair = Pair::new();
    let media: Vec<u8> = (0..100_000u32).map(|n| (n % 251) as u8).collect();
    let stream = pair.relay.open(1).unwrap();
    assert_eq!(pair.write(stream, &media), media.len());
    pair.relay.finish(stream).unwrap();
    assert_eq!(pair.relay.finish(stream), Err(Stopped));
    pair.relay.send_datagram(Bytes::from_static(b"beat"));
    assert_eq!(pair.write(CONTROL, b"hello"), 5);
    pair.steps(10);
    let id = pair.studio.accept().unwrap();
    assert_eq!(pair.studio.accept(), None);
    assert_eq!(pair.read(id), (media, Read::Finished));
    assert_eq!(pair.read(CONTROL), (b"hello".to_vec(), Read::Nothing));
    assert_eq!(pair.studio.read_datagram().unwrap(), "beat");
    pair.studio.stop(id);
    pair.steps(50);
    assert!(pair.relay.is_settled() && pair.studio.is_settled());
    assert!(pair.relay.acknowledgements() > 0);
    assert!(pair.relay.rtt() <= 5 * MS, "{:?}", pair.relay.rtt());
}

#[test]
fn what_matters_more_goes_first() {
    let mut pair = Pair::new();
    let [low, high] = [0, 2].map(|priority| pair.relay.open(priority).unwrap());
    pair.write(low, &[0; 60_000]);
    pair.step();
    pair.write(high, &[1; 1_000]);
    pair.write(CONTROL, &[2; 1_000]);
    pair.relay.send_datagram(Bytes::from_static(&[3; 100]));
    let mut record = BytesMut::new();
    pair.relay.poll_transmit(pair.now + MS, &mut record, RECORD);
    let mut order = Vec::new();
    while let Some((head, length)) = Head::decode(&record).unwrap() {
        order.push(head);
        record.advance(length + head.body());
    }
    let place = |wanted: &dyn Fn(&Head) -> bool| order.iter().position(wanted).unwrap();
    let of =
        |stream| move |head: &Head| matches!(head, Head::Data { stream: s, .. } if *s == stream);
    let beat = place(&|head| matches!(head, Head::Datagram(_)));
    let [control, high, low] = [place(&of(CONTROL)), place(&of(high)), place(&of(low))];
    assert!(beat < control && control < high && high < low, "{order:?}");
}

#[test]
fn what_is_given_up_is_not_sent() {
    let mut pair = Pair::new();
    let stream = pair.relay.open(1).unwrap();
    pair.write(stream, &[7; 200_000]);
    pair.step();
    pair.relay.reset(stream).unwrap();
    assert_eq!(pair.relay.write(stream, &mut [Bytes::from_static(b"x")], pair.now), Err(Stopped));
    // One that nobody has heard of is not spoken of.
    let unsaid = pair.relay.open(1).unwrap();
    pair.relay.reset(unsaid).unwrap();
    pair.steps(3);
    let id = pair.studio.accept().unwrap();
    assert_eq!(pair.read(id), (vec![], Read::Reset));
    assert_eq!(pair.studio.accept(), None);
    pair.studio.stop(id);
    pair.steps(50);
    assert!(pair.relay.is_settled());
}

#[test]
fn a_stream_that_nobody_wants_is_stopped() {
    let mut pair = Pair::new();
    let stream = pair.relay.open(1).unwrap();
    pair.write(stream, &[7; 100_000]);
    pair.step();
    let id = pair.studio.accept().unwrap();
    pair.studio.stop(id);
    pair.steps(5);
    assert_eq!(pair.relay.write(stream, &mut [Bytes::from_static(b"x")], pair.now), Err(Stopped));
    assert_eq!(pair.studio.incoming.unread(), STREAM_COST_OF_CONTROL, "nothing is kept of it");
}

/// Of the control stream alone.
const STREAM_COST_OF_CONTROL: usize = 256;

#[test]
fn nothing_is_sent_beyond_the_window_but_control() {
    let mut pair = Pair::new();
    let stream = pair.relay.open(1).unwrap();
    let mut written = 0;
    let mut sent = BytesMut::new();
    for _ in 0..1_000 {
        pair.now += MS;
        written += pair.write(stream, &[0; 10_000]);
        pair.relay.poll_transmit(pair.now, &mut sent, usize::MAX);
    }
    // The peer says nothing.
    assert!(written < 600_000, "{written}");
    assert!(sent.len() < 300_000, "{}", sent.len());
    let before = sent.len();
    pair.write(CONTROL, &[1; 5_000]);
    pair.relay.poll_transmit(pair.now, &mut sent, usize::MAX);
    assert!(sent.len() >= before + 5_000);
    assert!(!pair.relay.events.contains(&Event::Opened));
    // Once it does, there is room again, and whoever waits is told.
    pair.studio.handle_input(&mut sent, pair.now).unwrap();
    pair.steps(100);
    assert!(pair.relay.events.contains(&Event::Writable));
    assert!(pair.write(stream, &[0; 10_000]) > 0);
}

/// As much as there is room for is written all the time, and the way gets ten times slower.
#[test]
fn little_waits_in_a_way_that_got_slower() {
    let mut pair = Pair::new();
    let stream = pair.relay.open(1).unwrap();
    let (mut way, mut arrived) = (BytesMut::new(), BytesMut::new());
    let mut worst = 0;
    for (rate, ms) in [(2_500, 3_000), (250, 6_000)] {
        for step in 0..ms {
            pair.now += MS;
            pair.write(stream, &[0; 20_000]);
            pair.relay.poll_transmit(pair.now, &mut way, usize::MAX);
            arrived.extend_from_slice(&way.split_to(way.len().min(rate)));
            pair.studio.handle_input(&mut arrived, pair.now).unwrap();
            while let Read::Bytes(_) = pair.studio.read(stream, RECORD) {}
            let mut up = BytesMut::new();
            pair.studio.poll_transmit(pair.now, &mut up, RECORD);
            pair.relay.handle_input(&mut up, pair.now).unwrap();
            worst = if step + 2_000 == ms { 0 } else { worst.max(way.len()) };
        }
    }
    let queued_ms = worst / 250;
    assert!(queued_ms < 250, "{queued_ms} ms");
    assert!(pair.relay.outgoing.queued() > 0, "the rest waits where it can be given up");
}

#[test]
fn there_are_only_so_many_streams() {
    let mut pair = Pair::new();
    let all: Vec<_> = std::iter::from_fn(|| pair.relay.open(1)).collect();
    assert_eq!(all.len(), MAX_STREAMS);
    pair.steps(2);
    pair.relay.finish(all[0]).unwrap();
    assert_eq!(pair.relay.open(1), None, "the peer has not heard of the end");
    pair.steps(2);
    assert!(pair.relay.events.contains(&Event::Writable));
    assert!(pair.relay.open(1).is_some());
    pair.steps(2);
    assert_eq!(pair.studio.open(1), None, "an acceptor takes none");
}

#[test]
fn who_does_not_read_is_not_read() {
    let mut pair = Pair::new();
    let stream = pair.relay.open(1).unwrap();
    let mut record = BytesMut::new();
    for _ in 0..1_000 {
        record.clear();
        Head::Data { stream, length: 10_000 }.encode(&mut record);
        record.resize(record.len() + 10_000, 0);
        let mut opened = BytesMut::new();
        if pair.studio.incoming.unread() == STREAM_COST_OF_CONTROL {
            Head::Open(stream).encode(&mut opened);
        }
        pair.studio.handle_input(&mut opened, pair.now).unwrap();
        if pair.studio.wants_input() {
            pair.studio.handle_input(&mut record, pair.now).unwrap();
        }
    }
    let unread = pair.studio.incoming.unread();
    assert!((MAX_UNREAD..MAX_UNREAD + RECORD).contains(&unread), "{unread}");
    while let Read::Bytes(_) = pair.studio.read(stream, RECORD) {}
    assert!(pair.studio.wants_input());
}

#[test]
fn lies_end_the_link() {
    let open = Head::Open(1);
    let lies: [(&str, &[Head]); 9] = [
        ("on no stream", &[Head::Data { stream: 9, length: 0 }]),
        ("to no end", &[Head::Finish(9)]),
        ("opened twice", &[open, open]),
        ("the control stream", &[Head::Open(CONTROL)]),
        ("over", &[open, Head::Finish(1), Head::Data { stream: 1, length: 0 }]),
        ("over twice", &[open, Head::Reset(1), Head::Finish(1)]),
        ("never sent", &[Head::Received(1_000)]),
        ("control is over", &[Head::Finish(CONTROL), Head::Data { stream: CONTROL, length: 0 }]),
        ("more than there is", &[Head::Received(u64::MAX >> 2)]),
    ];
    for (what, heads) in lies {
        let now = Instant::now();
        let mut studio = Mux::new(Role::Dialer, now);
        let mut input = BytesMut::new();
        heads.iter().for_each(|head| head.encode(&mut input));
        assert!(studio.handle_input(&mut input, now).is_err(), "{what}");
    }
    let now = Instant::now();
    let mut relay = Mux::new(Role::Acceptor, now);
    let mut input = BytesMut::new();
    open.encode(&mut input);
    assert!(relay.handle_input(&mut input, now).is_err(), "nobody sends tags to a relay");
}

#[test]
fn a_flood_of_questions_is_answered_once() {
    let now = Instant::now();
    let mut relay = Mux::new(Role::Acceptor, now);
    let mut input = BytesMut::new();
    for number in 0..10_000 {
        Head::Ping(number).encode(&mut input);
        Head::Stop(number + 1).encode(&mut input);
        Head::Datagram(0).encode(&mut input);
        Head::Pong(number).encode(&mut input);
    }
    relay.handle_input(&mut input, now).unwrap();
    let mut out = BytesMut::new();
    relay.poll_transmit(now + REPORT_DELAY, &mut out, RECORD);
    assert!(out.len() < 100, "{}", out.len());
    assert!(relay.datagrams_in.bytes <= MAX_DATAGRAMS_IN);
}

#[test]
fn the_last_word_is_heard_and_fit_for_a_terminal() {
    let mut out = BytesMut::new();
    Mux::close(&mut out, &format!("\u{1b}[2J{}", "é".repeat(400)));
    let now = Instant::now();
    let mut studio = Mux::new(Role::Dialer, now);
    studio.handle_input(&mut out, now).unwrap();
    let Some(Event::Closed(text)) = studio.poll_event() else { panic!("it is closed") };
    assert!(text.starts_with("\\u{1b}[2Jé") && !text.chars().any(char::is_control), "{text}");
}

#[test]
fn a_silent_peer_is_dead_after_a_while() {
    let mut pair = Pair::new();
    pair.steps(600);
    assert!(pair.studio.silence(pair.now) <= PING_INTERVAL, "pings are heard");
    let later = pair.now + IDLE + PING_INTERVAL;
    assert!(!pair.studio.is_dead(pair.now) && pair.studio.is_dead(later));
}

/// What a hostile peer may say: frames that are near to right ones, and bytes.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let frame =
        (0u8..11, 0u64..4, 0usize..40, any::<bool>()).prop_map(|(kind, id, length, whole)| {
            let mut out = BytesMut::new();
            match kind {
                0 => Head::Open(id).encode(&mut out),
                1 | 10 => Head::Data { stream: id, length }.encode(&mut out),
                2 => Head::Finish(id).encode(&mut out),
                3 => Head::Reset(id).encode(&mut out),
                4 => Head::Stop(id).encode(&mut out),
                5 => Head::Datagram(length).encode(&mut out),
                6 => Head::Ping(id).encode(&mut out),
                7 => Head::Pong(id).encode(&mut out),
                8 => Head::Received(id).encode(&mut out),
                _ => Head::Close(length).encode(&mut out),
            }
            if matches!(kind, 1 | 5 | 9 | 10) {
                out.resize(out.len() + if whole { length } else { length / 2 }, kind);
            }
            out.to_vec()
        });
    prop_oneof![
        4 => proptest::collection::vec(frame, 0..60).prop_map(|frames| frames.concat()),
        1 => proptest::collection::vec(any::<u8>(), 0..400),
    ]
}

proptest! {
    /// However it is cut, the same is made of it; and nothing of it harms.
    #[test]
    fn a_hostile_peer_harms_nobody(bytes in hostile(), cut in 1usize..50) {
        let hear = |pieces: &mut dyn Iterator<Item = &[u8]>| {
            let now = Instant::now();
            let mut studio = Mux::new(Role::Dialer, now);
            let (mut input, mut result) = (BytesMut::new(), Ok(()));
            for piece in pieces {
                input.extend_from_slice(piece);
                result = studio.handle_input(&mut input, now);
                if result.is_err() {
                    break;
                }
            }
            let mut out = BytesMut::new();
            studio.poll_transmit(now, &mut out, RECORD);
            let mut streams = Vec::new();
            while let Some(id) = studio.accept() {
                streams.push((id, studio.read(id, 1_000)));
                studio.stop(id);
            }
            (result, streams, studio.frames())
        };
        let whole = hear(&mut std::iter::once(&bytes[..]));
        prop_assert_eq!(whole, hear(&mut bytes.chunks(cut)));
    }

    /// Whatever is written, given up and stopped, the two ends agree on it.
    #[test]
    fn both_ends_agree(steps in proptest::collection::vec((0u8..6, 0usize..4, 1usize..40_000), 1..60)) {
        let mut pair = Pair::new();
        let mut streams: Vec<(u64, usize)> = Vec::new();
        for (kind, index, length) in steps {
            let chosen = streams.get(index).copied();
            match (kind, chosen) {
                (0, _) if streams.len() < 4 => {
                    streams.push((pair.relay.open(index as i32).unwrap(), 0));
                }
                (1 | 2, Some((id, _))) => {
                    streams[index].1 += pair.write(id, &vec![index as u8; length]);
                }
                (3, Some((id, _))) => {
                    let _ = pair.relay.finish(id);
                    streams.remove(index);
                }
                (4, Some((id, _))) => {
                    let _ = pair.relay.reset(id);
                    streams.remove(index);
                }
                _ => pair.step(),
            }
        }
        for (id, _) in &streams {
            pair.relay.finish(*id).unwrap();
        }
        let mut ended = 0;
        for _ in 0..600 {
            pair.step();
            while let Some(id) = pair.studio.accept() {
                ended += 1;
                let written = streams.iter().find(|(other, _)| *other == id);
                let mut read = 0;
                loop {
                    match pair.studio.read(id, RECORD) {
                        Read::Bytes(bytes) => read += bytes.len(),
                        Read::Nothing => pair.step(),
                        Read::Reset => break,
                        Read::Finished => {
                            if let Some((_, written)) = written {
                                prop_assert_eq!(read, *written);
                            }
                            break;
                        }
                    }
                }
                pair.studio.stop(id);
            }
        }
        prop_assert!(ended >= streams.len());
        prop_assert!(pair.relay.is_settled());
        prop_assert_eq!(pair.studio.incoming.unread(), STREAM_COST_OF_CONTROL);
    }
}
