//! One publication on its way over the link, live.

use std::collections::VecDeque;

use backhaul::{Ended, Message, Sender, StreamChoice, StreamHeader, Subscribe, TagHeader};
use bytes::{Bytes, BytesMut};
use hub::{Feed, Item, Lane, Lanes, Resume};
use media::PublicationId;

use super::Way;
use crate::network::To;

/// Bytes taken from the hub at a time.
const BATCH: usize = 1_600;

pub(super) struct Live {
    pub(super) subscription: u64,
    pub(super) publication: PublicationId,
    pub(super) lanes: Lanes,
    pub(super) sender: Sender,
    rest_items: VecDeque<Item>,
    video_items: VecDeque<Item>,
    steady: Out,
    video: Out,
}

impl Live {
    pub(super) fn new(feed: &Feed, subscribe: Subscribe) -> Self {
        let Subscribe { subscription, publication, released, received, budget, .. } = subscribe;
        Self {
            subscription,
            publication,
            lanes: feed.lanes(&Resume { publication, released }, budget.expect("it was said")),
            sender: Sender::new(subscription, released, received),
            rest_items: VecDeque::new(),
            video_items: VecDeque::new(),
            steady: Out::new(subscription, 2),
            video: Out::new(subscription, 1),
        }
    }

    /// Sends what a lane has; `false` if the link takes no more.
    pub(super) fn poll(&mut self, lane: Lane, way: &mut Way<'_>) -> bool {
        loop {
            let (out, items) = match lane {
                Lane::Rest => (&mut self.steady, &mut self.rest_items),
                Lane::Video => (&mut self.video, &mut self.video_items),
            };
            if !out.flush(way) {
                if lane == Lane::Rest || !self.lanes.will_skip(way.now) {
                    return false;
                }
                self.give_up_video(way);
                continue;
            }
            if items.is_empty() {
                let mut taken = Vec::new();
                self.lanes.poll(lane, way.now, &mut taken, BATCH);
                items.extend(taken);
            }
            let Some(item) = items.pop_front() else { break };
            self.plan(&item, way);
        }
        self.steady.flush(way)
    }

    /// What waits will be skipped: the studio need not have it first.
    fn give_up_video(&mut self, way: &mut Way<'_>) {
        self.video.give_up(way);
        self.sender.give_up_video();
        let taken = std::mem::take(&mut self.video_items);
        for item in taken.iter().filter(|item| item.tag.is_header()) {
            self.plan(item, way);
        }
    }

    fn plan(&mut self, item: &Item, way: &mut Way<'_>) {
        assert_eq!(item.position.publication, self.publication);
        let send = self.sender.send(item.position, &item.tag, item.arrival, way.now);
        for skip in send.skips {
            way.session.send(&Message::Skip(skip));
        }
        if send.gives_up_video {
            self.video.give_up(way);
        }
        let out = match send.stream {
            StreamChoice::None => return,
            StreamChoice::Steady => &mut self.steady,
            StreamChoice::Video => &mut self.video,
            StreamChoice::NewVideo => {
                self.video.finish(way);
                &mut self.video
            }
        };
        out.push(&send.header, item.tag.body.clone(), way);
    }

    /// Whether all was sent, and nothing more will come; says so.
    pub(super) fn is_over(&mut self, way: &mut Way<'_>) -> bool {
        let is_sent = self.steady.pending.is_empty()
            && self.video.pending.is_empty()
            && self.rest_items.is_empty()
            && self.video_items.is_empty();
        let is_over = is_sent && self.lanes.is_over();
        if is_over {
            self.end(way);
        }
        is_over
    }

    /// Says that nothing more comes; what the link has not taken is given up.
    pub(super) fn end(&mut self, way: &mut Way<'_>) {
        self.steady.finish(way);
        self.video.finish(way);
        let (publication, edges) = (self.publication, self.sender.edges());
        way.session.send(&Message::Ended(Ended { publication, edges, is_stopped: false }));
    }
}

/// One-way streams of tags that follow each other.
pub(super) struct Out {
    subscription: u64,
    priority: usize,
    stream: Option<u64>,
    pending: VecDeque<Bytes>,
}

impl Out {
    pub(super) fn new(subscription: u64, priority: usize) -> Self {
        Self { subscription, priority, stream: None, pending: VecDeque::new() }
    }

    pub(super) fn push(&mut self, tag: &TagHeader, body: Bytes, way: &mut Way<'_>) {
        let mut header = BytesMut::new();
        if self.stream.is_none() {
            StreamHeader { subscription: self.subscription }.encode(&mut header);
            *way.next_stream += 1;
            self.stream = Some(*way.next_stream);
        }
        tag.encode(&mut header);
        self.pending.extend([header.freeze(), body].into_iter().filter(|piece| !piece.is_empty()));
    }

    /// Writes what is in line; `false` if something is left.
    pub(super) fn flush(&mut self, way: &mut Way<'_>) -> bool {
        while let Some(piece) = self.pending.front_mut() {
            let stream = self.stream.expect("what is in line has opened a stream");
            let taken = way.network.write(To::Studio, stream, self.priority, piece);
            if taken < piece.len() {
                *piece = piece.slice(taken..);
                return false;
            }
            self.pending.pop_front();
        }
        true
    }

    pub(super) fn finish(&mut self, way: &mut Way<'_>) {
        if let Some(stream) = self.stream.take() {
            way.network.finish(stream, self.priority);
        }
    }

    pub(super) fn give_up(&mut self, way: &mut Way<'_>) {
        self.pending.clear();
        if let Some(stream) = self.stream.take() {
            way.network.reset(stream, way.ms);
        }
    }
}
