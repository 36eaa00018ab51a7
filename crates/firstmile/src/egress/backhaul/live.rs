use std::collections::VecDeque;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use anyhow::Result;
use backhaul::{Ended, Message, Ranges, Report, Sender, Stalls, StreamChoice, Subscribe};
use hub::{Feed, Item, Lane, Lanes, Resume};
use media::PublicationId;

use super::out::Out;
use crate::control::Outbox;
use crate::link::{Link, STEADY_PRIORITY, VIDEO_PRIORITY};

/// Delay beyond which a subscription skips to the newest keyframe, unless the studio says another.
const DEFAULT_BUDGET: Duration = Duration::from_secs(2);
/// Bounds of what a studio may say: less is no delay at all, more is no longer live.
const LEAST_BUDGET: Duration = Duration::from_millis(200);
const MOST_BUDGET: Duration = Duration::from_secs(60);
/// Bytes taken from the hub at a time; what waits there can still be skipped.
const BATCH: usize = 16 << 10;

/// One publication on its way over the link, live.
pub(super) struct Live {
    subscription: u64,
    publication: PublicationId,
    lanes: Lanes,
    sender: Sender,
    /// Taken from the hub, and not yet planned.
    rest_items: VecDeque<Item>,
    video_items: VecDeque<Item>,
    /// Audio, script data, and headers of video: never given up.
    steady: Out,
    /// A stream for each GOP.
    video: Out,
}

/// What writing live tags needs.
pub(super) struct Way<'a> {
    pub(super) link: &'a Link,
    pub(super) outbox: &'a Outbox,
    pub(super) now: Instant,
}

impl Live {
    pub(super) fn new(feed: &Feed, subscribe: Subscribe) -> Self {
        let Subscribe { subscription, publication, released, received, budget, .. } = subscribe;
        let budget = budget.unwrap_or(DEFAULT_BUDGET).clamp(LEAST_BUDGET, MOST_BUDGET);
        Self {
            subscription,
            publication,
            lanes: feed.lanes(&Resume { publication, released }, budget),
            sender: Sender::new(subscription, released, received),
            rest_items: VecDeque::new(),
            video_items: VecDeque::new(),
            steady: Out::new(subscription, STEADY_PRIORITY),
            video: Out::new(subscription, VIDEO_PRIORITY),
        }
    }

    pub(super) fn subscription(&self) -> u64 {
        self.subscription
    }

    pub(super) fn publication(&self) -> PublicationId {
        self.publication
    }

    /// Sends what a lane has; ready once nothing is left of it.
    ///
    /// # Errors
    ///
    /// If the link is lost, or the peer wants no more of it.
    pub(super) fn poll(
        &mut self,
        lane: Lane,
        cx: &mut Context<'_>,
        way: &Way<'_>,
    ) -> Poll<Result<()>> {
        loop {
            let out = match lane {
                Lane::Rest => &mut self.steady,
                Lane::Video => &mut self.video,
            };
            match out.poll_flush(cx)? {
                Poll::Ready(()) => {}
                Poll::Pending if lane == Lane::Video && self.lanes.will_skip(way.now) => {
                    self.give_up_video(way);
                }
                Poll::Pending => return Poll::Pending,
            }
            let Some(item) = self.next(lane, way.now) else { break };
            self.plan(&item, way);
        }
        // Headers of video are on the other stream.
        self.steady.poll_flush(cx)
    }

    /// What waits will be skipped: the peer need not have it first.
    fn give_up_video(&mut self, way: &Way<'_>) {
        self.video.give_up();
        self.sender.give_up_video();
        let taken = std::mem::take(&mut self.video_items);
        // Headers go on the other stream, and may be in force after the skip.
        for item in taken.iter().filter(|item| item.tag.is_header()) {
            self.plan(item, way);
        }
    }

    fn next(&mut self, lane: Lane, now: Instant) -> Option<Item> {
        let items = match lane {
            Lane::Rest => &mut self.rest_items,
            Lane::Video => &mut self.video_items,
        };
        if items.is_empty() {
            let mut taken = Vec::new();
            self.lanes.poll(lane, now, &mut taken, BATCH);
            items.extend(taken);
        }
        items.pop_front()
    }

    fn plan(&mut self, item: &Item, way: &Way<'_>) {
        let send = self.sender.send(item.position, &item.tag, item.arrival, way.now);
        for skip in send.skips {
            way.outbox.say(&Message::Skip(skip));
        }
        if send.gives_up_video {
            self.video.give_up();
        }
        let out = match send.stream {
            StreamChoice::None => return,
            StreamChoice::Steady => &mut self.steady,
            StreamChoice::Video => &mut self.video,
            StreamChoice::NewVideo => {
                self.video.finish();
                &mut self.video
            }
        };
        out.push(way.link, &send.header, item.tag.body.clone());
    }

    /// Whether all was sent, and nothing more will come; says so to the peer.
    pub(super) fn is_over(&mut self, outbox: &Outbox) -> bool {
        let is_sent = self.steady.is_flushed()
            && self.video.is_flushed()
            && self.rest_items.is_empty()
            && self.video_items.is_empty();
        let is_over = is_sent && self.lanes.is_over();
        if is_over {
            self.end(outbox);
        }
        is_over
    }

    /// Says that nothing more comes; what the link has not taken is given up.
    pub(super) fn end(&mut self, outbox: &Outbox) {
        self.steady.finish();
        self.video.finish();
        let (publication, edges) = (self.publication, self.sender.edges());
        let is_stopped = self.lanes.was_stopped();
        outbox.say(&Message::Ended(Ended { publication, edges, is_stopped }));
    }

    /// The link was silent: what became late meanwhile is skipped.
    pub(super) fn recover(&mut self) {
        self.lanes.recover();
    }

    /// Takes note of what the peer has; returns how long a report takes now.
    pub(super) fn on_received(&mut self, ranges: &Ranges, now: Instant) -> Option<Duration> {
        self.sender.on_received(ranges, now);
        self.sender.delay()
    }

    /// Which of these numbers the peer has said that it has.
    pub(super) fn received_of(&self, numbers: &Ranges) -> Ranges {
        self.sender.received_of(numbers)
    }

    pub(super) fn is_received(&self, number: u64) -> bool {
        self.sender.is_received(number)
    }

    pub(super) fn report(&self, encoder: &hub::Snapshot) -> Message {
        let stalls = encoder.stalls.map(|stalls| Stalls {
            count: stalls.count.into(),
            longest_ms: stalls.longest.as_millis() as u64,
        });
        Message::Report(Report {
            subscription: self.subscription,
            encoder_growth_ms: encoder.encoder_growth_ms.unwrap_or(0),
            skipped: self.lanes.skipped(),
            stalls,
        })
    }
}
