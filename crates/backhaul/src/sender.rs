use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use media::enhanced::TrackIds;
use media::{Position, Role, Tag, Track, TrackSet};

use crate::{Ranges, Skip, TagHeader};

/// Tags whose arrival was not reported yet that are remembered; a peer that reports nothing is
/// forgotten about, not waited for.
const MAX_UNREPORTED: usize = 16_384;
/// Headers of video that no hole gives up: what a hub keeps for those who join.
const MAX_HEADERS: usize = 16;

/// Ranges of what the peer has that are remembered; it says so again and again.
const MAX_KNOWN: usize = 1_024;

/// The one-way stream that a tag goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamChoice {
    /// None: the peer has it.
    None,
    /// The stream that is never given up: audio, script data, and every track's headers.
    Steady,
    /// The stream of the current GOP.
    Video,
    /// A new stream of video: a GOP starts. The one before is finished.
    NewVideo,
}

/// How to send a tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Send {
    /// What to say first on the control stream.
    pub skips: Vec<Skip>,
    /// Whether what waits on the stream of video is given up: it is to be reset.
    pub gives_up_video: bool,
    /// The stream to write to.
    pub stream: StreamChoice,
    /// What to write before the body.
    pub header: TagHeader,
}

/// Sends one subscription: plans each tag, and knows what has arrived.
///
/// Tags are given in the order in which they are to leave; within a track by rising number.
#[derive(Debug)]
pub struct Sender {
    subscription: u64,
    sent: TrackSet<Option<u64>>,
    /// The headers of video in force, by number.
    headers: BTreeMap<u64, Header>,
    /// What waited on the stream of video does not come.
    gave_up_video: bool,
    /// What the peer has, as far as it is remembered.
    received: Ranges,
    unreported: BTreeMap<u64, Unreported>,
    unreported_bytes: u64,
    delivered_bytes: u64,
    delay: Option<Duration>,
}

#[derive(Clone, Copy, Debug)]
struct Header {
    /// The number before it on its track.
    previous: Option<u64>,
    role: Role,
    ids: TrackIds,
}

#[derive(Clone, Copy, Debug)]
struct Unreported {
    bytes: u64,
    sent: Instant,
}

impl Sender {
    /// A sender that goes on behind what came through before, and leaves out what was received.
    pub fn new(subscription: u64, released: TrackSet<Option<u64>>, received: Ranges) -> Self {
        Self {
            subscription,
            sent: released,
            headers: BTreeMap::new(),
            gave_up_video: false,
            received,
            unreported: BTreeMap::new(),
            unreported_bytes: 0,
            delivered_bytes: 0,
            delay: None,
        }
    }

    /// Takes note that the stream of video was reset: the next video tag, which is to be one that
    /// decoding can start at or a header, says that what was sent before may not come.
    pub fn give_up_video(&mut self) {
        self.gave_up_video = true;
    }

    /// Plans a tag that arrived in the hub at `arrival` and leaves `now`.
    pub fn send(&mut self, position: Position, tag: &Tag, arrival: Instant, now: Instant) -> Send {
        let before = self.sent[tag.track].replace(position.number);
        let is_given_up = tag.track == Track::Video && std::mem::take(&mut self.gave_up_video);
        let is_hole = |previous: &u64| Some(*previous) > before || is_given_up;
        let hole = position.previous.filter(is_hole);
        let skips = hole.map_or_else(Vec::new, |to| self.skip(tag.track, before, to));
        if tag.is_header() && tag.track == Track::Video {
            let (role, ids, previous) = (tag.role, TrackIds::of(tag), position.previous);
            self.headers.retain(|_, header| (header.role, header.ids) != (role, ids));
            self.headers.insert(position.number, Header { previous, role, ids });
            if self.headers.len() > MAX_HEADERS {
                self.headers.pop_first();
            }
        }
        let gives_up_video = hole.is_some() && tag.track == Track::Video;
        let is_there = self.received.contains(position.number);
        let stream = match tag.track {
            _ if is_there => StreamChoice::None,
            Track::Audio | Track::Data => StreamChoice::Steady,
            Track::Video if tag.is_header() => StreamChoice::Steady,
            Track::Video if tag.is_keyframe() || gives_up_video => StreamChoice::NewVideo,
            Track::Video => StreamChoice::Video,
        };
        let queued = now.saturating_duration_since(arrival);
        let header = TagHeader {
            track: tag.track,
            number: position.number,
            previous: position.previous,
            timestamp: tag.timestamp,
            queued_us: queued.as_micros() as u64,
            length: tag.body.len(),
        };
        if !is_there {
            self.remember(position.number, tag.body.len() as u64, now);
        }
        Send { skips, gives_up_video, stream, header }
    }

    /// Moves a track's edge from `before` across a hole that ends with `to`.
    ///
    /// The peer releases a tag once it has the one before; what was left out in between will not
    /// come. Video that waits in front of the hole is given up with it, so that it does not hold
    /// up what is live; but never a header, which the edge waits for: with several tracks, one
    /// header follows the other.
    fn skip(&self, track: Track, before: Option<u64>, to: u64) -> Vec<Skip> {
        let skip = |from, to| Skip { subscription: self.subscription, track, from, to };
        if track != Track::Video {
            return vec![skip(before, to)];
        }
        let mut skips = Vec::new();
        let mut from = None;
        for (&number, header) in &self.headers {
            // Nothing lies between headers that follow each other.
            let hole = header.previous.filter(|previous| from < Some(*previous));
            skips.extend(hole.map(|to| skip(from, to)));
            from = Some(number);
        }
        if from < Some(to) {
            skips.push(skip(from, to));
        }
        skips
    }

    /// Takes note of a report.
    pub fn on_received(&mut self, ranges: &Ranges, now: Instant) {
        for (first, last) in ranges.iter() {
            // Reports repeat themselves: only what is still unreported is walked.
            while let Some((&number, &tag)) = self.unreported.range(first..=last).next() {
                self.unreported.remove(&number);
                self.unreported_bytes -= tag.bytes;
                self.delivered_bytes += tag.bytes;
                self.delay = Some(now.saturating_duration_since(tag.sent));
            }
            self.received.insert_range(first, last);
        }
        self.received.trim(MAX_KNOWN);
    }

    /// Whether the peer has said that it has `number`.
    pub fn is_received(&self, number: u64) -> bool {
        self.received.contains(number)
    }

    /// Which of these numbers the peer has said that it has.
    pub fn received_of(&self, numbers: &Ranges) -> Ranges {
        self.received.intersection(numbers)
    }

    /// The last number sent on each track.
    pub fn edges(&self) -> TrackSet<Option<u64>> {
        self.sent
    }

    /// Bytes of bodies that were sent and not yet reported.
    pub fn unreported_bytes(&self) -> u64 {
        self.unreported_bytes
    }

    /// Bytes of bodies that were reported.
    pub fn delivered_bytes(&self) -> u64 {
        self.delivered_bytes
    }

    /// Time between the sending of the last tag reported and its report.
    pub fn delay(&self) -> Option<Duration> {
        self.delay
    }

    fn remember(&mut self, number: u64, bytes: u64, now: Instant) {
        if self.unreported.len() >= MAX_UNREPORTED
            && let Some((_, oldest)) = self.unreported.pop_first()
        {
            self.unreported_bytes -= oldest.bytes;
        }
        self.unreported.insert(number, Unreported { bytes, sent: now });
        self.unreported_bytes += bytes;
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use media::PublicationId;

    use super::*;
    use crate::receiver::Release;
    use crate::{Arrival, Receiver};

    fn position(number: u64, previous: Option<u64>) -> Position {
        Position { publication: PublicationId([1; 16]), number, previous }
    }

    fn video(first: u8) -> Tag {
        Tag::new(Track::Video, 0, Bytes::from(vec![first, 1, 0, 0, 0, 9, 9]))
    }

    fn skip(track: Track, from: Option<u64>, to: u64) -> Skip {
        Skip { subscription: 3, track, from, to }
    }

    #[test]
    fn a_gop_gets_its_own_stream_and_a_jump_is_told() {
        let now = Instant::now();
        let mut sender = Sender::new(3, TrackSet::default(), Ranges::default());
        let first = sender.send(position(5, Some(4)), &video(0x17), now, now);
        assert_eq!(first.stream, StreamChoice::NewVideo);
        assert_eq!(first.skips, [skip(Track::Video, None, 4)]);
        let second = sender.send(position(6, Some(5)), &video(0x27), now, now);
        assert_eq!((second.stream, second.skips), (StreamChoice::Video, vec![]));
        let jump = sender.send(position(90, Some(89)), &video(0x17), now, now);
        assert_eq!(jump.skips, [skip(Track::Video, None, 89)], "what waits is given up");
        assert!(jump.gives_up_video);
        let audio = Tag::new(Track::Audio, 0, Bytes::from_static(&[0xaf, 1]));
        sender.send(position(91, None), &audio, now, now);
        let jump = sender.send(position(99, Some(97)), &audio, now, now);
        assert_eq!(jump.skips, [skip(Track::Audio, Some(91), 97)]);
        assert!(!jump.gives_up_video);
    }

    /// A studio that joins in mid-publication gets the header and then a frame far behind it.
    #[test]
    fn a_header_survives_the_skip_behind_it() {
        let now = Instant::now();
        let mut sender = Sender::new(3, TrackSet::default(), Ranges::default());
        let header = Tag::new(Track::Video, 0, Bytes::from_static(&[0x17, 0, 0, 0, 0, 1]));
        let sent_header = sender.send(position(1, None), &header, now, now);
        assert_eq!(sent_header.stream, StreamChoice::Steady, "it is never reset");
        let frame = sender.send(position(5_000, Some(4_998)), &video(0x17), now, now);
        assert_eq!(frame.skips, [skip(Track::Video, Some(1), 4_998)]);
        let later = sender.send(position(9_000, Some(8_998)), &video(0x17), now, now);
        // The second jump comes before anything else.
        let mut receiver = Receiver::default();
        later.skips.iter().for_each(|skip| receiver.on_skip(skip).unwrap());
        assert_eq!(receiver.on_tag(Track::Video, 9_000, Some(8_998)), Ok(Arrival::Kept));
        assert_eq!(receiver.poll(), None, "the edge waits for the header");
        assert_eq!(receiver.on_tag(Track::Video, 1, None), Ok(Arrival::Kept));
        let released: Vec<_> = std::iter::from_fn(|| receiver.poll()).collect();
        let tag = |number| Release::Tag(Track::Video, number);
        assert_eq!(released, [tag(1), tag(9_000)]);
    }

    /// A multitrack publication is joined: each track's header comes, and a frame far behind.
    #[test]
    fn the_headers_of_all_tracks_survive_the_skip_behind_them() {
        let now = Instant::now();
        let mut sender = Sender::new(3, TrackSet::default(), Ranges::default());
        let header =
            |id| Tag::new(Track::Video, 0, Bytes::from(vec![0x96, 0, b'h', b'v', b'c', b'1', id]));
        for (id, number, previous) in [(0, 1, None), (1, 2, Some(1)), (2, 40, Some(39))] {
            sender.send(position(number, previous), &header(id), now, now);
        }
        let frame = sender.send(position(5_000, Some(4_998)), &video(0x17), now, now);
        let video = |from, to| skip(Track::Video, from, to);
        assert_eq!(frame.skips, [video(Some(2), 39), video(Some(40), 4_998)]);
        let mut receiver = Receiver::default();
        frame.skips.iter().for_each(|skip| receiver.on_skip(skip).unwrap());
        for (number, previous) in [(5_000, Some(4_998)), (40, Some(39)), (2, Some(1)), (1, None)] {
            assert_eq!(receiver.poll(), None, "the edge waits for the headers");
            assert_eq!(receiver.on_tag(Track::Video, number, previous), Ok(Arrival::Kept));
        }
        let released: Vec<_> = std::iter::from_fn(|| receiver.poll()).collect();
        assert_eq!(released, [1, 2, 40, 5_000].map(|number| Release::Tag(Track::Video, number)));
        sender.send(position(6_000, Some(5_000)), &header(1), now, now);
        assert_eq!(sender.headers.keys().collect::<Vec<_>>(), [&1, &40, &6_000]);
    }

    /// The link stands still: what waits on it is given up, and the next GOP follows at once.
    #[test]
    fn what_was_given_up_is_skipped_though_no_number_is_missing() {
        let now = Instant::now();
        let mut sender = Sender::new(3, TrackSet::default(), Ranges::default());
        let mut receiver = Receiver::default();
        let header = Tag::new(Track::Video, 0, Bytes::from_static(&[0x17, 0, 0, 0, 0]));
        sender.send(position(1, None), &header, now, now);
        sender.send(position(2, Some(1)), &video(0x17), now, now);
        sender.send(position(4, Some(2)), &video(0x27), now, now);
        receiver.on_tag(Track::Video, 1, None).unwrap();
        sender.give_up_video();
        let next = sender.send(position(6, Some(4)), &video(0x17), now, now);
        assert_eq!((next.stream, next.gives_up_video), (StreamChoice::NewVideo, true));
        assert_eq!(next.skips, [skip(Track::Video, Some(1), 4)]);
        next.skips.iter().for_each(|skip| receiver.on_skip(skip).unwrap());
        receiver.on_tag(Track::Video, 6, Some(4)).unwrap();
        let released: Vec<_> = std::iter::from_fn(|| receiver.poll()).collect();
        assert_eq!(released, [1, 6].map(|number| Release::Tag(Track::Video, number)));
        assert_eq!(sender.send(position(7, Some(6)), &video(0x27), now, now).skips, []);
        sender.send(position(8, Some(7)), &header, now, now);
        sender.give_up_video();
        let next = sender.send(position(9, Some(8)), &video(0x17), now, now);
        assert_eq!(next.skips, [skip(Track::Video, None, 7)], "not the header");
    }

    #[test]
    fn what_the_peer_has_is_not_sent_again() {
        let now = Instant::now();
        let mut released = TrackSet::default();
        released[Track::Video] = Some(4);
        let received = [(6, 7)].into_iter().collect();
        let mut sender = Sender::new(3, released, received);
        let mut send =
            |number, previous| sender.send(position(number, previous), &video(0x27), now, now);
        assert_eq!(send(5, Some(4)).stream, StreamChoice::Video);
        assert_eq!(send(6, Some(5)).stream, StreamChoice::None);
        assert_eq!(send(7, Some(6)).stream, StreamChoice::None);
        let next = send(9, Some(8));
        assert_eq!((next.stream, next.skips.len()), (StreamChoice::NewVideo, 1));
        assert_eq!(sender.edges()[Track::Video], Some(9));
        assert_eq!(sender.unreported_bytes(), 14);
    }

    #[test]
    fn reports_settle_what_was_sent_once() {
        let now = Instant::now();
        let mut sender = Sender::new(3, TrackSet::default(), Ranges::default());
        for number in 0..4 {
            sender.send(position(number, number.checked_sub(1)), &video(0x27), now, now);
        }
        assert_eq!(sender.unreported_bytes(), 28);
        let mut ranges = Ranges::default();
        ranges.insert(0);
        ranges.insert(2);
        let later = now + Duration::from_millis(30);
        sender.on_received(&ranges, later);
        sender.on_received(&ranges, later);
        assert_eq!((sender.unreported_bytes(), sender.delivered_bytes()), (14, 14));
        assert_eq!(sender.delay(), Some(Duration::from_millis(30)));
    }

    #[test]
    fn what_one_end_sends_the_other_releases() {
        let now = Instant::now();
        let (mut sender, mut receiver) =
            (Sender::new(3, TrackSet::default(), Ranges::default()), Receiver::default());
        let audio = Tag::new(Track::Audio, 0, Bytes::from_static(&[0xaf, 1]));
        let mut send = |number, previous| sender.send(position(number, previous), &audio, now, now);
        let _ = (send(0, None), send(1, Some(0)));
        let skip = send(8, Some(7)).skips.pop().unwrap();
        // The receiver hears of the jump from 1 to 8 before it has tag 1.
        receiver.on_skip(&skip).unwrap();
        let mut released = Vec::new();
        for (number, previous) in [(0, None), (8, Some(7)), (1, Some(0))] {
            assert_eq!(receiver.on_tag(Track::Audio, number, previous), Ok(Arrival::Kept));
            released.extend(std::iter::from_fn(|| receiver.poll()));
        }
        assert_eq!(released, [0, 1, 8].map(|number| Release::Tag(Track::Audio, number)));
    }
}
