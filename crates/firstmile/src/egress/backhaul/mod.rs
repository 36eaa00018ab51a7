//! A studio that was let in: it hears what is on air, and gets what it asks for.
//!
//! [`run`] listens to what the studio says; the [`Pump`] alone writes media, for all feeds of the
//! link: what goes first is decided in one place.

mod backfill;
mod live;
mod out;
mod pump;

use std::time::Instant;

use anyhow::{Result, bail};
use backhaul::{Close, Datagram, Ended, Event, Message, Received, Subscribe, Want};
use futures_util::FutureExt;
use hub::Feed;
use tokio::sync::mpsc;
use tracing::{debug, warn};

use crate::control::Outbox;
use crate::link::{Link, RecvStream, SendStream};
use crate::parts::first_of;
use crate::rate::{Bucket, Lines};
use crate::spool::Spool;

use pump::Pump;

/// What was said to the pump and waits for it.
const ORDERS: usize = 256;
/// Messages of a studio at once: it has 256 feeds, and subscribes them all when it comes back.
const MESSAGES: f64 = 1_024.0;
/// Messages a second for longer.
const MESSAGE_RATE: f64 = 100.0;

/// The studio's feeds at this relay.
pub trait Feeds: Send + Sync {
    /// Takes the studio's whole list; returns the feeds as they are now, and those refused.
    fn push(
        &self,
        list: Vec<backhaul::FeedKey>,
    ) -> (Vec<(String, Feed)>, Vec<backhaul::FeedProblem>);

    /// Takes the studio's whole list of users; returns the feeds whose user was refused.
    fn push_logins(&self, list: Vec<backhaul::Login>) -> Vec<backhaul::FeedProblem>;
}

/// What the pump is told.
#[derive(Debug)]
enum Order {
    /// These are the feeds now.
    Feeds(Vec<(String, Feed)>),
    Subscribe(Subscribe),
    Unsubscribe(u64),
    Close(Close),
    Want(Want),
    Received(Received),
}

/// Serves a studio until its link is lost; the session is open.
///
/// # Errors
///
/// The reason why the link is over.
pub async fn run(
    link: &Link,
    (outbox, mut send, mut receive): (Outbox, SendStream, RecvStream),
    feeds: &dyn Feeds,
    spool: &Spool,
    lines: &Lines,
) -> Result<()> {
    let (tell, orders) = mpsc::channel(ORDERS);
    let pump = Pump::new(link.clone(), outbox.clone(), spool.clone(), lines.clone());
    first_of([
        outbox.write(&mut send, None).boxed(),
        converse(&outbox, &mut receive, feeds, &tell, lines).boxed(),
        hear_reports(link, &tell).boxed(),
        pump.run(orders).boxed(),
    ])
    .await
}

async fn converse(
    outbox: &Outbox,
    receive: &mut RecvStream,
    feeds: &dyn Feeds,
    tell: &mpsc::Sender<Order>,
    lines: &Lines,
) -> Result<()> {
    let mut known_problems = Vec::new();
    let mut messages = Bucket::full(MESSAGES, Instant::now());
    loop {
        let Event::Message(message) = outbox.hear(receive).await? else {
            bail!("the peer began anew on an open session");
        };
        // Each costs work: locks that others want, answers, reads of the disk.
        if !messages.take(1.0, MESSAGE_RATE, MESSAGES, Instant::now()) {
            bail!("the studio says too much: more than {MESSAGE_RATE} messages a second");
        }
        let order = match message {
            Message::Feeds(list) => {
                let (current, problems) = feeds.push(list);
                if problems != known_problems {
                    // A studio may send what it likes, but not fill the log.
                    for problem in problems.iter().take_while(|_| lines.may_say()) {
                        warn!(feed = problem.name, reason = problem.text, "a feed was not taken");
                    }
                }
                for problem in &problems {
                    outbox.say(&Message::FeedProblem(problem.clone()));
                }
                known_problems = problems;
                Order::Feeds(current)
            }
            Message::Logins(list) => {
                for problem in feeds.push_logins(list) {
                    debug!(feed = problem.name, reason = problem.text, "a user was not taken");
                    outbox.say(&Message::FeedProblem(problem));
                }
                continue;
            }
            Message::Subscribe(subscribe) => Order::Subscribe(subscribe),
            Message::Unsubscribe(subscription) => Order::Unsubscribe(subscription),
            Message::Close(close) => Order::Close(close),
            Message::Want(want) => Order::Want(want),
            // Nothing is published by a studio yet.
            other => {
                debug!(?other, "ignored");
                continue;
            }
        };
        tell.send(order).await?;
    }
}

/// Reports of what the studio has received.
async fn hear_reports(link: &Link, tell: &mpsc::Sender<Order>) -> Result<()> {
    loop {
        if let Datagram::Received(received) = Datagram::decode(link.read_datagram().await?)? {
            tell.send(Order::Received(received)).await?;
        }
    }
}

/// The answer to who asks for what is not to be had: it has all that it will get.
fn ended(subscribe: &Subscribe) -> Message {
    let Subscribe { publication, released, .. } = subscribe;
    Message::Ended(Ended { publication: *publication, edges: *released, is_stopped: false })
}
