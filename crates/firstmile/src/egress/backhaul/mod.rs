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
use hub::Feed;
use tokio::sync::mpsc;
use tracing::{debug, warn};

use crate::control::Outbox;
use crate::quic::{Link, RecvStream, SendStream};
use crate::rate::Bucket;
use crate::spool::Spool;

use pump::Pump;

/// What was said to the pump and waits for it.
const ORDERS: usize = 256;
/// Log lines of a studio about its feeds at once; then one a second.
const LINES: f64 = 64.0;

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
) -> Result<()> {
    let (tell, orders) = mpsc::channel(ORDERS);
    let pump = Pump::new(link.clone(), outbox.clone(), spool.clone());
    tokio::select! {
        over = outbox.write(&mut send) => over,
        over = converse(&outbox, &mut receive, feeds, &tell) => over,
        over = hear_reports(link, &tell) => over,
        over = pump.run(orders) => over,
    }
}

async fn converse(
    outbox: &Outbox,
    receive: &mut RecvStream,
    feeds: &dyn Feeds,
    tell: &mpsc::Sender<Order>,
) -> Result<()> {
    let mut known_problems = Vec::new();
    let mut lines = Bucket::full(LINES, Instant::now());
    loop {
        let Event::Message(message) = outbox.hear(receive).await? else {
            bail!("the peer began anew on an open session");
        };
        let order = match message {
            Message::Feeds(list) => {
                let (current, problems) = feeds.push(list);
                if problems != known_problems {
                    // A studio may send what it likes, but not fill the log.
                    let now = Instant::now();
                    let mut is_said = |_: &&backhaul::FeedProblem| lines.take(1.0, 1.0, LINES, now);
                    for problem in problems.iter().take_while(&mut is_said) {
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
    Message::Ended(Ended { publication: *publication, edges: *released })
}
