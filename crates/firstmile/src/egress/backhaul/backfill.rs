use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use anyhow::Result;
use backhaul::{Answer, Answered, Message, Ranges, Spare, TagHeader, Want};
use hub::Feed;
use media::{Position, PublicationId, Tag};
use tokio::time::Sleep;
use tracing::warn;

use super::live::Way;
use super::out::{Out, is_stopped};
use crate::link::BACKFILL_PRIORITY;
use crate::spool::{Found, Spool};

/// Wants of one link at a time; a studio asks for some at a time, of one publication once.
const MAX_WANTS: usize = 64;
/// Bytes read from the spool at a time.
const READ: usize = 256 << 10;
/// How soon it is tried again while live media goes first.
const PAUSE: Duration = Duration::from_millis(10);

type Reading = Pin<Box<dyn Future<Output = io::Result<Found>> + Send>>;

/// Sends what did not come live, when nothing live waits.
pub(super) struct Backfill {
    spool: Spool,
    wants: VecDeque<Asked>,
    spare: Spare,
    pause: Pin<Box<Sleep>>,
}

/// A want that is being answered.
struct Asked {
    answer: Answer,
    /// To be sent although it was reported to have come.
    again: Ranges,
    feed: Feed,
    reading: Option<Reading>,
    found: VecDeque<(Position, Tag)>,
    /// It has had its turn once what was found is sent.
    has_read: bool,
    out: Out,
}

impl Backfill {
    pub(super) fn new(spool: Spool, now: Instant) -> Self {
        let pause = Box::pin(tokio::time::sleep(Duration::ZERO));
        Self { spool, wants: VecDeque::new(), spare: Spare::new(now), pause }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.wants.is_empty()
    }

    /// A report of live tags took this long.
    pub(super) fn on_live(&mut self, delay: Duration, now: Instant) {
        self.spare.on_live(delay, now);
    }

    /// Takes a want; returns the answer if there is nothing to look for. `again` is what was
    /// reported to have come before the want.
    pub(super) fn want(
        &mut self,
        feed: Option<Feed>,
        want: Want,
        again: Ranges,
    ) -> Option<Message> {
        let is_same = |asked: &Asked| asked.answer.publication() == want.publication;
        if let Some(before) = self.wants.iter_mut().find(|asked| is_same(asked)) {
            before.out.give_up();
        }
        self.wants.retain(|asked| !is_same(asked));
        let is_full = self.wants.len() >= MAX_WANTS;
        let Some(feed) = feed.filter(|_| !is_full && !want.ranges.is_empty()) else {
            // Of a feed that is not known here nothing will ever come. Who asks for too much at
            // once may ask again.
            let gone = if is_full { Ranges::default() } else { want.ranges };
            return Some(Message::Answered(Answered { request: want.request, tags: 0, gone }));
        };
        self.wants.push_back(Asked {
            answer: Answer::new(&want),
            again,
            feed,
            reading: None,
            found: VecDeque::new(),
            has_read: false,
            out: Out::new(want.request, BACKFILL_PRIORITY),
        });
        None
    }

    /// Sends as much as goes beside live media, if there is some. Ready only with an error.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        way: &Way<'_>,
        is_beside_live: bool,
        is_received: &dyn Fn(PublicationId, u64) -> bool,
    ) -> Poll<Result<()>> {
        while let Some(asked) = self.wants.front_mut() {
            match asked.out.poll_flush(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) if is_stopped(&error) => {
                    self.wants.pop_front();
                    continue;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            }
            if is_beside_live && !self.spare.allows(way.now) {
                self.pause.as_mut().reset((way.now + PAUSE).into());
                ready!(self.pause.as_mut().poll(cx));
                continue;
            }
            if let Some((position, tag)) = asked.found.pop_front() {
                let number = position.number;
                let came_live = is_received(asked.answer.publication(), number);
                if !came_live || asked.again.contains(number) {
                    self.spare.spend(tag.body.len());
                    asked.send(position, tag, way);
                }
                continue;
            }
            if let Some(reading) = &mut asked.reading {
                let found = ready!(reading.as_mut().poll(cx));
                asked.reading = None;
                match found {
                    Ok(found) => {
                        asked.found.extend(found.tags);
                        asked.answer.looked(found.gone, found.next);
                    }
                    Err(error) => {
                        warn!(%error, "the spool cannot be read");
                        asked.answer.give_up();
                    }
                }
                asked.has_read = true;
                continue;
            }
            if std::mem::take(&mut asked.has_read) {
                // The others have their turn, now that nothing of this one is held in memory.
                self.wants.rotate_left(1);
                continue;
            }
            match asked.answer.next() {
                Some(numbers) => {
                    let (spool, feed) = (self.spool.clone(), asked.feed.clone());
                    let publication = asked.answer.publication();
                    asked.reading = Some(Box::pin(async move {
                        spool.read(&feed, publication, numbers, READ).await
                    }));
                }
                None => {
                    asked.out.finish();
                    way.outbox.say(&Message::Answered(asked.answer.finish()));
                    self.wants.pop_front();
                }
            }
        }
        Poll::Pending
    }
}

impl Asked {
    fn send(&mut self, position: Position, tag: Tag, way: &Way<'_>) {
        let header = TagHeader {
            track: tag.track,
            number: position.number,
            previous: position.previous,
            timestamp: tag.timestamp,
            queued_us: 0,
            length: tag.body.len(),
        };
        self.out.push(way.link, &header, tag.body);
        self.answer.on_sent();
    }
}
