//! From the hub into the recorder: what encoders publish at the studio's own door.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use hub::{Feed, Item, Join, Next, Policy, Subscriber};
use media::PublicationId;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{FeedRecorder, Recorder, Source};
use crate::secret::FeedName;

/// All that the ring has, in order, however late.
const POLICY: Policy = Policy { join: Join::Publication, max_delay: Duration::MAX, verbatim: true };
/// Bytes taken from the hub at a time.
const BATCH: usize = 1 << 20;

/// Where a publication comes from.
pub type FindSource = Arc<dyn Fn(PublicationId) -> Source + Send + Sync>;

/// Records every feed that is switched on, until `shutdown`; then what the rings still have.
pub async fn run(
    recorder: &Recorder,
    find: impl Fn(&str) -> Option<Feed>,
    source: FindSource,
    shutdown: &CancellationToken,
) {
    let mut switched = recorder.switched();
    let mut running: HashMap<FeedName, (u64, CancellationToken)> = HashMap::new();
    let mut taps = JoinSet::new();
    loop {
        switched.mark_unchanged();
        let recorded: HashMap<_, _> = recorder.recorded().into_iter().collect();
        running.retain(|name, (generation, stop)| {
            let goes_on = recorded.get(name) == Some(generation);
            if !goes_on {
                stop.cancel();
            }
            goes_on
        });
        for (name, generation) in recorded {
            if running.contains_key(&name) {
                continue;
            }
            let Some(feed) = find(name.as_str()) else { continue };
            let Some(recorder) = recorder.feed(name.as_str()) else { continue };
            let stop = shutdown.child_token();
            running.insert(name, (generation, stop.clone()));
            let source = source.clone();
            taps.spawn(async move { Tap::new(feed, recorder, source).run(&stop).await });
        }
        while taps.try_join_next().is_some() {}
        tokio::select! {
            changed = switched.changed() => if changed.is_err() { break },
            () = shutdown.cancelled() => break,
        }
    }
    while taps.join_next().await.is_some() {}
}

/// One feed's subscriber.
struct Tap {
    feed: Feed,
    subscriber: Subscriber,
    recorder: FeedRecorder,
    source: FindSource,
    items: Vec<Item>,
    current: Option<Current>,
}

/// The publication that is being read.
struct Current {
    publication: PublicationId,
    /// Numbers seen end here.
    end: u64,
    is_from_here: bool,
}

impl Tap {
    fn new(feed: Feed, recorder: FeedRecorder, source: FindSource) -> Self {
        let subscriber = feed.follow(POLICY);
        Self { feed, subscriber, recorder, source, items: Vec::new(), current: None }
    }

    async fn run(&mut self, stop: &CancellationToken) {
        let mut stopped = std::pin::pin!(stop.cancelled());
        let mut is_last = false;
        loop {
            self.read();
            if is_last {
                break;
            }
            tokio::select! {
                () = self.subscriber.changed() => {}
                () = &mut stopped => is_last = true,
            }
        }
        self.end();
    }

    /// Takes all that there is.
    fn read(&mut self) {
        loop {
            // Before the poll: what is off air now has no tags after those that the poll finds.
            let on_air = self.feed.publication();
            let mut items = std::mem::take(&mut self.items);
            let next = self.subscriber.poll(Instant::now(), &mut items, BATCH);
            for item in items.drain(..) {
                self.take(&item);
            }
            self.items = items;
            if next != Next::Tags {
                if self.current.as_ref().is_some_and(|c| Some(c.publication) != on_air) {
                    self.end();
                }
                return;
            }
        }
    }

    fn take(&mut self, item: &Item) {
        let publication = item.position.publication;
        if self.current.as_ref().is_none_or(|current| current.publication != publication) {
            self.end();
            self.begin(publication, item.arrival);
        }
        // What comes from a relay is written down as it arrives, late or not.
        let Some(current) = self.current.as_mut().filter(|current| current.is_from_here) else {
            return;
        };
        let arrival = SystemTime::now() - item.arrival.elapsed();
        self.recorder.append(item.position, &item.tag, arrival);
        let number = item.position.number;
        if number > current.end {
            // The ring has passed this subscriber by, or began after the header before it.
            self.recorder.gone(publication, &[(current.end, number - 1)]);
        }
        current.end = current.end.max(number + 1);
    }

    fn begin(&mut self, publication: PublicationId, first: Instant) {
        let (_, age) = self.feed.codecs(Instant::now());
        let is_on_air = self.feed.publication() == Some(publication);
        let age = age.filter(|_| is_on_air).unwrap_or_else(|| first.elapsed());
        let started = SystemTime::now() - age;
        // What was announced while it was recorded is known already.
        let source = (self.source)(publication);
        self.recorder.begin(publication, started, source.clone());
        // A relay may say that it has what came from here.
        let is_from_here = source == Source::Here && self.recorder.is_from_here(publication);
        self.current = Some(Current { publication, end: 0, is_from_here });
    }

    /// The publication is over, as far as this studio is the one to say so.
    fn end(&mut self) {
        if let Some(current) = self.current.take()
            && current.is_from_here
        {
            self.recorder.ended(current.publication, current.end);
        }
    }
}
