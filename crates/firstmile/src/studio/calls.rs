//! Calls to a relay: its name resolved anew, its addresses raced, one attempt beside the other.

use std::net::SocketAddr;
use std::pin::pin;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::task::{JoinHandle, JoinSet};

use crate::join::host_port;
use crate::link::{self, Dialer, Link, Transport, Transports};
use crate::store::JoinedRelay;

/// How long one attempt to reach a relay may take.
pub(super) const ATTEMPT: Duration = Duration::from_secs(3);
/// Head start of QUIC over TCP: an answer over UDP is there by then if one comes at all.
const QUIC_ALONE: Duration = Duration::from_secs(1);
/// How long QUIC may take yet once TCP has answered. After an outage another attempt over QUIC begins
/// within that, which is more than the first packet that gets through.
const QUIC_PREFERRED: Duration = Duration::from_millis(750);
/// Attempts at one time: as many as start while the first one waits.
const MAX_ATTEMPTS: usize = 8;
/// Head start of one address over the next, where a name has several (RFC 8305 §8).
const HEAD_START: Duration = Duration::from_millis(250);
/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 6;
/// Pause between the starts of two attempts: a packet that was lost is not waited for.
pub(super) const RETRY: Duration = Duration::from_millis(500);
/// The same once the relay could not be reached for [`LONG_AWAY`].
const SLOW_RETRY: Duration = Duration::from_secs(2);
const LONG_AWAY: Duration = Duration::from_secs(600);
/// Pause between two questions for the addresses of a name.
const LOOKUP_INTERVAL: Duration = Duration::from_secs(2);

/// Attempts to reach one relay, until one is answered or they are dropped.
#[derive(Debug)]
pub(super) struct Calls<'a> {
    dialer: &'a Dialer,
    relay: &'a JoinedRelay,
    over: Over,
    /// Where the relay was last: a resolver may be away as long as the network is.
    addresses: Vec<SocketAddr>,
    lookup: Option<JoinHandle<std::io::Result<Vec<SocketAddr>>>>,
    next_lookup: Instant,
    attempts: JoinSet<Result<Link>>,
    next_attempt: Instant,
    /// It is time for an attempt, and the first answer of the resolver is waited for.
    is_due: bool,
    since: Instant,
}

/// What calls go over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    One(Transport),
    /// QUIC, and TCP if that does not answer.
    QuicFirst,
    /// Whatever answers first: QUIC did not answer lately.
    Either,
}

impl Over {
    /// For a dialer whose last link was over this.
    pub(super) fn after(last: Option<Transport>, dialer: &Dialer) -> Self {
        match (dialer.transports(), last) {
            (Transports::Quic, _) => Self::One(Transport::Quic),
            (Transports::Tcp, _) => Self::One(Transport::Tcp),
            (Transports::Auto, Some(Transport::Tcp)) => Self::Either,
            (Transports::Auto, _) => Self::QuicFirst,
        }
    }

    fn no_answer(self) -> &'static str {
        match self {
            Self::One(Transport::Quic) => {
                "no answer: is the relay running, and its UDP port open? (over TCP it is not tried)"
            }
            Self::One(Transport::Tcp) => {
                "no answer: is the relay running, and the TCP port of its join link open?"
            }
            Self::QuicFirst | Self::Either => {
                "no answer: is the relay running, and the port of its join link open for UDP and TCP?"
            }
        }
    }
}

impl<'a> Calls<'a> {
    /// Calls of which the first is made after a pause, and to these addresses if there are any.
    pub(super) fn new(
        dialer: &'a Dialer,
        relay: &'a JoinedRelay,
        over: Over,
        addresses: Vec<SocketAddr>,
        pause: Duration,
    ) -> Self {
        let now = Instant::now();
        Self {
            dialer,
            relay,
            over,
            addresses,
            lookup: None,
            next_lookup: now,
            attempts: JoinSet::new(),
            next_attempt: now + pause,
            is_due: false,
            since: now,
        }
    }

    /// Where the relay is, as far as is known.
    pub(super) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The first link that is answered; every other attempt ends with that. Or why an attempt came
    /// to nothing: then ask again.
    ///
    /// # Errors
    ///
    /// As said.
    pub(super) async fn next(&mut self) -> Result<Link> {
        loop {
            self.start_lookup();
            tokio::select! {
                Some(attempt) = self.attempts.join_next() => {
                    let link = attempt??;
                    self.attempts = JoinSet::new();
                    return Ok(link);
                }
                found = async { self.lookup.as_mut().expect("there is one").await },
                    if self.lookup.is_some() =>
                {
                    self.lookup = None;
                    self.found(found?)?;
                }
                () = tokio::time::sleep_until(self.next_attempt.into()) => self.start_attempt()?,
            }
        }
    }

    /// Makes no attempt for some time.
    pub(super) fn pause(&mut self, pause: Duration) {
        self.next_attempt = Instant::now() + pause;
    }

    fn start_lookup(&mut self) {
        let now = Instant::now();
        if self.lookup.is_some() || now < self.next_lookup.min(self.next_attempt) {
            return;
        }
        self.next_lookup = now + LOOKUP_INTERVAL;
        let name = host_port(&self.relay.host, self.relay.port);
        self.lookup = Some(tokio::spawn(async move {
            Ok(interleave(tokio::net::lookup_host(name).await?.collect()))
        }));
    }

    fn found(&mut self, found: std::io::Result<Vec<SocketAddr>>) -> Result<()> {
        let host = &self.relay.host;
        let found = found.with_context(|| format!("cannot find the address of {host}"))?;
        if found.is_empty() {
            bail!("{host} has no address");
        }
        if found != self.addresses {
            let is_moved = !self.addresses.is_empty();
            self.addresses = found;
            if is_moved || std::mem::take(&mut self.is_due) {
                self.next_attempt = Instant::now();
            }
        }
        Ok(())
    }

    fn start_attempt(&mut self) -> Result<()> {
        let pause = if self.since.elapsed() > LONG_AWAY { SLOW_RETRY } else { RETRY };
        // Jitter keeps the studios of a relay that comes back from calling in step.
        self.pause(pause.mul_f64(rand::random_range(0.75..1.25)));
        if self.addresses.is_empty() {
            self.is_due = true;
            if self.since.elapsed() < ATTEMPT {
                return Ok(());
            }
            bail!("the address of {} is not known: nobody resolves its name", self.relay.host);
        }
        if self.attempts.len() < MAX_ATTEMPTS {
            let (dialer, relay) = (self.dialer.clone(), self.relay.clone());
            let (over, addresses) = (self.over, self.addresses.clone());
            self.attempts.spawn(async move {
                let attempt = attempt(&dialer, &relay, over, &addresses);
                let attempt = tokio::time::timeout(ATTEMPT, attempt);
                attempt.await.unwrap_or_else(|_| Err(anyhow::anyhow!(over.no_answer())))
            });
        }
        Ok(())
    }
}

/// One attempt to reach a relay. Where both answer, QUIC wins.
async fn attempt(
    dialer: &Dialer,
    relay: &JoinedRelay,
    over: Over,
    addresses: &[SocketAddr],
) -> Result<Link> {
    let dial = |transport| dial(dialer, relay, transport, addresses);
    let (alone, preferred) = match over {
        Over::One(transport) => return dial(transport).await,
        Over::QuicFirst => (QUIC_ALONE, QUIC_PREFERRED),
        Over::Either => (Duration::ZERO, Duration::ZERO),
    };
    let mut quic = pin!(dial(Transport::Quic));
    let mut tcp = pin!(async {
        tokio::time::sleep(alone).await;
        dial(Transport::Tcp).await
    });
    let link = tokio::select! {
        answer = &mut quic => match answer {
            // Nobody answers over UDP, and that is known already.
            Err(error) if !link::is_wrong_key(&error) => {
                return dial(Transport::Tcp).await.map_err(|_| error);
            }
            answer => return answer,
        },
        answer = &mut tcp => match answer {
            Ok(link) => link,
            // The port may be another program's for TCP.
            Err(error) if link::is_wrong_key(&error) => return quic.await.map_err(|_| error),
            Err(_) => return quic.await,
        },
    };
    match tokio::time::timeout(preferred, quic).await {
        Ok(Ok(quic)) => {
            link.close("QUIC answers too");
            Ok(quic)
        }
        _ => Ok(link),
    }
}

/// Races addresses, each with a head start over the next.
async fn dial(
    dialer: &Dialer,
    relay: &JoinedRelay,
    transport: Transport,
    addresses: &[SocketAddr],
) -> Result<Link> {
    let mut attempts = JoinSet::new();
    for (index, &address) in addresses.iter().take(MAX_ADDRESSES).enumerate() {
        let (dialer, pin) = (dialer.clone(), relay.pin);
        attempts.spawn(async move {
            tokio::time::sleep(HEAD_START * index as u32).await;
            dialer.dial(transport, address, pin).await
        });
    }
    let name = host_port(&relay.host, relay.port);
    let mut last = None;
    let mut wrong_key = None;
    while let Some(attempt) = attempts.join_next().await {
        match attempt? {
            Ok(link) => return Ok(link),
            Err(error) => {
                if link::is_wrong_key(&error) {
                    wrong_key = Some(error);
                } else {
                    last = Some(error);
                }
            }
        }
    }
    if let Some(error) = wrong_key {
        return Err(error.context(format!(
            "{name} shows another key than the one in the join link: it is another relay, was set \
             up anew, or somebody is in between; get a new join link from whoever runs it"
        )));
    }
    Err(last.unwrap_or_else(|| anyhow::anyhow!("nobody answers at {name}")))
}

/// Addresses of both families in turn, the resolver's first one first (RFC 8305 §4).
fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (mut first, mut second): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == first_is_v6);
    first.reverse();
    second.reverse();
    let mut order = Vec::new();
    while !first.is_empty() || !second.is_empty() {
        order.extend(first.pop());
        order.extend(second.pop());
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns() {
        let parse = |text: &&str| text.parse::<SocketAddr>().unwrap();
        let given = ["[::1]:1", "[::2]:1", "1.1.1.1:1", "[::3]:1"].iter().map(parse).collect();
        let order: Vec<_> =
            ["[::1]:1", "1.1.1.1:1", "[::2]:1", "[::3]:1"].iter().map(parse).collect();
        assert_eq!(interleave(given), order);
    }
}
