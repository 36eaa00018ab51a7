//! The network between relay and studio: a rate, a delay, losses, and streams that keep their order.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use bytes::Bytes;

/// Milliseconds of a step of the simulation.
pub(crate) const TICK: u64 = 5;
/// One way, in milliseconds.
pub(crate) const DELAY: u64 = 50;
/// Without a backlog, in milliseconds.
pub(crate) const ROUND_TRIP: u64 = 2 * DELAY;
/// What the link's own backlog may be, in milliseconds.
pub(crate) const BACKLOG: u64 = 50;
/// Bytes a millisecond on a good day: a dozen times what a feed needs.
pub(crate) const GOOD_RATE: u64 = 500;
/// The stream of control messages, in both directions.
pub(crate) const CONTROL: u64 = 0;
const PACKET: usize = 1_200;

/// xorshift64
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn percent(&mut self, share: u64) -> bool {
        self.below(100) < share
    }
}

/// A direction, named by the end that it leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum To {
    Studio,
    Relay,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    More,
    Finished,
    Reset,
}

/// A piece of a stream.
pub(crate) struct Chunk {
    pub(crate) stream: u64,
    pub(crate) bytes: Bytes,
    pub(crate) end: End,
}

/// One direction of a link.
#[derive(Default)]
struct Pipe {
    /// Not sent yet, by priority: 3 goes first.
    queues: [VecDeque<Chunk>; 4],
    queued: usize,
    credit: usize,
    under_way: BTreeMap<(u64, u64), Chunk>,
    last_of_stream: HashMap<u64, u64>,
    datagrams: BTreeMap<(u64, u64), Bytes>,
    /// Bytes of control that arrived.
    control: u64,
}

pub(crate) struct Network {
    pub(crate) rate: u64,
    /// Percent of packets and datagrams.
    pub(crate) loss: u64,
    pub(crate) blocked_until: u64,
    /// The link is cut when so many bytes of control have arrived there.
    pub(crate) cut_at: Option<(To, u64)>,
    pub(crate) is_cut: bool,
    random: Random,
    serial: u64,
    pipes: [Pipe; 2],
    /// When packets and datagrams come to the studio, and what it says of them to the relay.
    packets: BTreeSet<u64>,
    acknowledgements: BTreeSet<u64>,
    /// How many the relay has got.
    pub(crate) acknowledged: u64,
}

impl Network {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            rate: GOOD_RATE,
            loss: 0,
            blocked_until: 0,
            cut_at: None,
            is_cut: false,
            random: Random::new(seed),
            serial: 0,
            pipes: Default::default(),
            packets: BTreeSet::new(),
            acknowledgements: BTreeSet::new(),
            acknowledged: 0,
        }
    }

    /// A new link: nothing of the one before arrives any more.
    pub(crate) fn renew(&mut self) {
        self.pipes = Default::default();
        (self.packets, self.acknowledgements) = Default::default();
        self.acknowledged = 0;
        self.is_cut = false;
    }

    /// Writes to a stream as much as the link takes; returns how much. Control always goes.
    pub(crate) fn write(&mut self, to: To, stream: u64, priority: usize, bytes: &Bytes) -> usize {
        let most = (self.rate * BACKLOG) as usize;
        let pipe = &mut self.pipes[to as usize];
        let room = if stream == CONTROL { usize::MAX } else { most.saturating_sub(pipe.queued) };
        let taken = room.min(bytes.len());
        if taken > 0 {
            pipe.queued += taken;
            let chunk = Chunk { stream, bytes: bytes.slice(..taken), end: End::More };
            pipe.queues[priority].push_back(chunk);
        }
        taken
    }

    pub(crate) fn finish(&mut self, stream: u64, priority: usize) {
        let chunk = Chunk { stream, bytes: Bytes::new(), end: End::Finished };
        self.pipes[To::Studio as usize].queues[priority].push_back(chunk);
    }

    /// Gives a stream up: what has not left yet never comes.
    pub(crate) fn reset(&mut self, stream: u64, ms: u64) {
        let at = ms.max(self.blocked_until) + DELAY;
        let pipe = &mut self.pipes[To::Studio as usize];
        for queue in &mut pipe.queues {
            queue.retain(|chunk| chunk.stream != stream);
        }
        pipe.queued = pipe.queues.iter().flatten().map(|chunk| chunk.bytes.len()).sum();
        pipe.under_way.retain(|(when, _), chunk| chunk.stream != stream || *when <= at);
        self.serial += 1;
        let chunk = Chunk { stream, bytes: Bytes::new(), end: End::Reset };
        pipe.under_way.insert((at, self.serial), chunk);
    }

    /// Nothing passes until then; what is under way comes afterwards.
    pub(crate) fn block(&mut self, until: u64) {
        self.blocked_until = self.blocked_until.max(until);
        for pipe in &mut self.pipes {
            let held = std::mem::take(&mut pipe.under_way).into_iter();
            pipe.under_way = held
                .map(|((at, serial), chunk)| ((at.max(until + DELAY), serial), chunk))
                .collect();
            pipe.last_of_stream.values_mut().for_each(|last| *last = (*last).max(until + DELAY));
            pipe.datagrams.clear();
        }
        self.acknowledgements.clear();
        let late = self.pipes[To::Studio as usize].under_way.keys();
        self.packets = late.map(|(at, _)| *at).collect();
    }

    /// Sends what the rate allows.
    pub(crate) fn transmit(&mut self, ms: u64) {
        self.acknowledge(ms);
        let Self { rate, loss, random, serial, pipes, packets, blocked_until, .. } = self;
        if ms < *blocked_until {
            return;
        }
        for (to, pipe) in [To::Studio, To::Relay].into_iter().zip(pipes) {
            pipe.credit = (pipe.credit + (*rate * TICK) as usize).min((*rate * 2 * TICK) as usize);
            for queue in pipe.queues.iter_mut().rev() {
                while let Some(chunk) = queue.front_mut() {
                    let length = chunk.bytes.len().min(PACKET).min(pipe.credit);
                    if length == 0 && !chunk.bytes.is_empty() {
                        break;
                    }
                    pipe.credit -= length;
                    pipe.queued -= length;
                    let (stream, bytes) = (chunk.stream, chunk.bytes.split_to(length));
                    let end = if chunk.bytes.is_empty() { chunk.end } else { End::More };
                    if chunk.bytes.is_empty() {
                        queue.pop_front();
                    }
                    // What is lost is sent again.
                    let again = if random.percent(*loss) { 110 + random.below(150) } else { 0 };
                    let at = ms + DELAY + random.below(20) + again;
                    if to == To::Studio {
                        packets.insert(at);
                    }
                    let last = pipe.last_of_stream.entry(stream).or_default();
                    *last = (*last).max(at);
                    *serial += 1;
                    pipe.under_way.insert((*last, *serial), Chunk { stream, bytes, end });
                }
            }
        }
    }

    /// Acknowledges what comes to the studio, out of order as well; that may be lost.
    fn acknowledge(&mut self, ms: u64) {
        while self.packets.first().is_some_and(|at| *at <= ms) {
            self.packets.pop_first();
            if ms >= self.blocked_until && !self.random.percent(self.loss) {
                self.acknowledgements.insert(ms + DELAY);
            }
        }
        while self.acknowledgements.first().is_some_and(|at| *at <= ms) {
            self.acknowledgements.pop_first();
            self.acknowledged += 1;
        }
    }

    /// Sends what may be lost, doubled, and overtaken.
    pub(crate) fn send_datagram(&mut self, to: To, bytes: &Bytes, ms: u64) {
        if ms < self.blocked_until {
            return;
        }
        for share in [self.loss, 95] {
            if !self.random.percent(share) {
                self.serial += 1;
                let at = ms + DELAY + self.random.below(40);
                if to == To::Studio {
                    self.packets.insert(at);
                }
                self.pipes[to as usize].datagrams.insert((at, self.serial), bytes.clone());
            }
        }
    }

    /// The next piece of a stream that has arrived.
    pub(crate) fn arrive(&mut self, to: To, ms: u64) -> Option<Chunk> {
        let pipe = &mut self.pipes[to as usize];
        let first = pipe.under_way.first_entry().filter(|first| first.key().0 <= ms)?;
        if self.is_cut {
            return None;
        }
        let mut chunk = first.remove();
        if chunk.stream == CONTROL {
            let before = pipe.control;
            pipe.control += chunk.bytes.len() as u64;
            if let Some((_, at)) = self.cut_at.filter(|(which, _)| *which == to)
                && pipe.control >= at
            {
                chunk.bytes.truncate(at.saturating_sub(before) as usize);
                (self.is_cut, self.cut_at) = (true, None);
            }
        }
        Some(chunk)
    }

    /// The next datagram that has arrived.
    pub(crate) fn arrive_datagram(&mut self, to: To, ms: u64) -> Option<Bytes> {
        let datagrams = &mut self.pipes[to as usize].datagrams;
        Some(datagrams.first_entry().filter(|first| first.key().0 <= ms)?.remove())
    }

    /// Bytes of control that arrived on this link.
    pub(crate) fn control(&self, to: To) -> u64 {
        self.pipes[to as usize].control
    }
}
