//! A player that was let in: it gets the feed's tags on one monotonic clock until it leaves.

use std::time::{Duration, Instant};

use bytes::Bytes;
use hub::clock::Clock;
use hub::{Feed, Item, Next, Policy, Subscriber, Timing};
use media::enhanced::Fit;
use media::{PublicationId, Role, Tag, Track, TrackSet};
use rtmp::amf0;
use rtmp::metadata::{self, Presence};
use rtmp::session::server::Event;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use crate::config::Limits;
use crate::connection::{Connection, Error, Exchange};
use crate::door::Player;
use crate::egress::players::{Batch, Waits};
use crate::egress::takes::Takes;

/// Bytes taken from the hub at a time; what waits there can still be skipped.
const BATCH: usize = 256 << 10;
/// How often the end of a feed, and a player that is silent, are looked for.
const TICK: Duration = Duration::from_secs(1);
/// An encoder may change its words, but not make us repeat them all the time.
const RETELL_AFTER: Duration = Duration::from_secs(1);
/// After this the tracks that were not seen are not there, whatever the metadata claims.
const TRACKS_KNOWN_AFTER: Duration = Duration::from_secs(2);

/// Carries one play session; returns why it is over.
///
/// # Errors
///
/// [`Error`] if the connection ends in a way that nobody meant.
pub async fn run<S: AsyncRead + AsyncWrite + Unpin>(
    connection: &mut Connection<S>,
    player: &Player,
    limits: &Limits,
    shutdown: &CancellationToken,
) -> Result<&'static str, Error> {
    let mut show = Show::new(player, limits.rtmp.amf());
    // One for everything that has a time: to make and drop timers costs more than the tags do.
    let mut tick_at = Instant::now() + TICK;
    let mut timer = std::pin::pin!(tokio::time::sleep_until(tick_at.into()));
    // Made once: many players wait for the same token, and each new wait takes its lock.
    let mut shutdown = std::pin::pin!(shutdown.cancelled());
    let mut is_due = true;
    loop {
        while let Some(event) = connection.session.poll_event() {
            is_due = true;
            match event {
                Event::Stopped => return Ok("the player left"),
                Event::Paused(is_paused) => show.pause(is_paused),
                Event::ReceiveAudio(wanted) => show.wanted[Track::Audio] = wanted,
                Event::ReceiveVideo(wanted) => show.want_video(wanted),
                _ => {}
            }
        }
        if connection.is_flushed() {
            show.left(connection.last_write());
            if (is_due || show.subscriber.has_news())
                && show.fill(&mut connection.session) == Next::Ended
            {
                connection.session.end_play();
                return Ok("the feed ended");
            }
            is_due = false;
            if connection.is_flushed() && show.subscriber.has_news() {
                // Nothing of what there was is for this player.
                continue;
            }
        }
        let is_writing = !connection.is_flushed();
        let stuck_at = connection.last_write() + limits.write_timeout;
        let due = if is_writing { Some(stuck_at) } else { show.subscriber.due() };
        let wake_at = due.map_or(tick_at, |due| due.min(tick_at)).into();
        if timer.deadline() != wake_at {
            timer.as_mut().reset(wake_at);
        }
        tokio::select! {
            // The socket first: mostly it is what is ready, and the others need not be asked.
            biased;
            exchange = connection.exchange() => match exchange? {
                Exchange::Closed => return Ok("the player left"),
                // Who talks all the time and takes nothing is stuck all the same.
                Exchange::Read if is_writing && Instant::now() >= stuck_at => {
                    return Err(Error::Stuck(limits.write_timeout));
                }
                Exchange::Read | Exchange::Wrote => {}
            },
            () = show.subscriber.changed(), if !is_writing => is_due = true,
            () = &mut timer => {
                is_due = true;
                let now = Instant::now();
                if is_writing && now >= stuck_at {
                    return Err(Error::Stuck(limits.write_timeout));
                }
                if now >= tick_at {
                    tick_at = now + TICK;
                    show.tell();
                    if !is_writing {
                        connection.ping_if_silent(now);
                    }
                }
            }
            () = &mut shutdown => {
                connection.session.request_reconnect(None, "the server is stopping");
                // What the feed still has goes out before the end.
                if connection.is_flushed() {
                    show.left(connection.last_write());
                    show.fill(&mut connection.session);
                }
                connection.session.end_play();
                return Ok("this node is stopping");
            }
        }
    }
}

/// What one player sees.
struct Show<'a> {
    player: &'a Player,
    /// What an encoder's metadata may hold.
    amf: amf0::Bounds,
    subscriber: Subscriber,
    /// When it was to get the tags as it subscribed.
    timing: Timing,
    /// Since when it reads: what came before is the picture at the start, and no delay.
    joined: Instant,
    /// Tags that earlier subscriptions skipped.
    skipped: u64,
    waits: Waits<'a>,
    clock: Clock,
    items: Vec<Item>,
    takes: Takes,
    /// The tracks that the player wants.
    wanted: TrackSet<bool>,
    is_paused: bool,
    prelude: Prelude,
}

/// The metadata that players get is made here: what encoders send may be false, late, missing or
/// repeated.
#[derive(Default)]
struct Prelude {
    publication: Option<PublicationId>,
    /// What the encoder said last.
    original: Option<Bytes>,
    /// Whether the player was not told of it yet.
    is_new: bool,
    /// When the player was told last.
    told_at: Option<Instant>,
    /// What the player was told last.
    told: Option<Bytes>,
}

impl<'a> Show<'a> {
    fn new(player: &'a Player, amf: amf0::Bounds) -> Self {
        let mut wanted = TrackSet::default();
        Track::ALL.into_iter().for_each(|track| wanted[track] = true);
        let timing = player.feed.timing();
        Self {
            player,
            amf,
            joined: Instant::now(),
            subscriber: subscribe(&player.feed, player.policy, timing),
            timing,
            skipped: 0,
            waits: player.seat.waits(),
            clock: Clock::default(),
            items: Vec::new(),
            takes: player.takes.clone(),
            wanted,
            is_paused: false,
            prelude: Prelude::default(),
        }
    }

    /// Queues what the feed has for the player now. All that was queued before has left.
    fn fill(&mut self, server: &mut rtmp::Server) -> Next {
        let timing = self.player.feed.timing();
        if timing != self.timing {
            self.timing = timing;
            self.rejoin();
            // What it gets now is of another time.
            self.clock.splice();
        }
        let now = Instant::now();
        let next = self.subscriber.poll(now, &mut self.items, BATCH);
        let mut items = std::mem::take(&mut self.items);
        if self.is_paused {
            items.clear();
        }
        let mut batch = None;
        for item in items.drain(..) {
            if self.send(server, &item) {
                self.count(&item, &mut batch);
            }
        }
        self.items = items;
        if let Some(batch) = batch {
            self.waits.queue(batch);
        }
        next
    }

    /// What was queued has left by now.
    fn left(&mut self, now: Instant) {
        self.waits.left(now, self.skipped());
    }

    /// Tells the others how the player fares.
    fn tell(&mut self) {
        self.waits.tell(self.skipped());
    }

    fn skipped(&self) -> u64 {
        self.skipped + self.subscriber.skipped()
    }

    /// Counts a tag that is queued. Headers may be as old as their publication.
    fn count(&self, item: &Item, batch: &mut Option<Batch>) {
        if let Some(batch) = batch {
            batch.tags += 1;
        } else if item.due >= self.joined && !item.tag.is_header() {
            *batch = Some(Batch { arrival: item.due, tags: 1 });
        }
    }

    /// Queues a tag; whether the player gets it.
    fn send(&mut self, server: &mut rtmp::Server, item: &Item) -> bool {
        let publication = item.position.publication;
        if self.prelude.publication != Some(publication) {
            self.prelude.publication = Some(publication);
            self.prelude.original = None;
            self.prelude.told_at = None;
        }
        match (item.tag.track, item.tag.role) {
            (Track::Data, Role::Metadata) => {
                if self.prelude.original.as_ref() != Some(&item.tag.body) {
                    self.prelude.original = Some(item.tag.body.clone());
                    self.prelude.is_new = true;
                }
                // Told when the first picture or sound follows: what there is, is known then.
                false
            }
            (track, _) if !self.wanted[track] => false,
            (track, _) => {
                let remade;
                let tag = match self.takes.fit(&item.tag) {
                    Fit::AsIs => &item.tag,
                    Fit::Remade(tag) => {
                        remade = tag;
                        &remade
                    }
                    Fit::Nothing => return false,
                };
                if track != Track::Data {
                    self.tell_metadata(server);
                }
                // A header has no time of its own: encoders give it 0 or that of anything.
                let timestamp = if tag.is_header() {
                    self.clock.now()
                } else if !tag.tracks.has_main() {
                    self.clock.map_further(publication, item.timestamp)
                } else {
                    self.clock.map(publication, track, item.timestamp)
                };
                // RTMP timestamps are the low 32 bits.
                server.send_tag(tag, timestamp as u32);
                true
            }
        }
    }

    /// Tells the player what the feed is, if that is new.
    fn tell_metadata(&mut self, server: &mut rtmp::Server) {
        let now = Instant::now();
        let is_due = self.prelude.told.is_none() || self.prelude.is_new;
        let was_just_told =
            self.prelude.told_at.is_some_and(|told| now.duration_since(told) < RETELL_AFTER);
        if !is_due || was_just_told {
            return;
        }
        self.prelude.is_new = false;
        self.prelude.told_at = Some(now);
        let (codecs, age) = self.player.feed.codecs(now);
        let is_known = age.is_some_and(|age| age > TRACKS_KNOWN_AFTER);
        let presence = |track: Track| match codecs[track] {
            Some(codec) => Presence::Coded(codec),
            None if is_known => Presence::Absent,
            None => Presence::AsAnnounced,
        };
        let [video, audio] =
            [Track::Video, Track::Audio].map(|track| self.takes.presence(track, presence(track)));
        let original = self.prelude.original.as_deref();
        let body =
            metadata::for_player(original, video, audio, self.takes.is_multitrack(), &self.amf);
        if self.prelude.told.as_ref() != Some(&body) {
            self.prelude.told = Some(body.clone());
            let tag = Tag::new(Track::Data, 0, body);
            server.send_tag(&tag, self.clock.now() as u32);
        }
    }

    fn pause(&mut self, is_paused: bool) {
        if self.is_paused && !is_paused {
            self.rejoin();
        }
        self.is_paused = is_paused;
    }

    fn want_video(&mut self, wanted: bool) {
        if wanted && !self.wanted[Track::Video] {
            self.rejoin();
        }
        self.wanted[Track::Video] = wanted;
    }

    /// Starts anew at a keyframe, on the same clock.
    fn rejoin(&mut self) {
        self.skipped += self.subscriber.skipped();
        self.joined = Instant::now();
        self.subscriber = subscribe(&self.player.feed, self.player.policy, self.timing);
    }
}

fn subscribe(feed: &Feed, policy: Policy, timing: Timing) -> Subscriber {
    let max_delay = timing.max_delay.unwrap_or(policy.max_delay);
    feed.subscribe_behind(Policy { max_delay, ..policy }, timing.delay)
}
