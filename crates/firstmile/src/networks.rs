//! What each network did lately: how often it connected, and how often its keys were wrong.
//!
//! A key that is right is always answered at once, wherever it comes from: nobody can lock others
//! out by guessing in their name.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::config::Limits;
use crate::guests::network_of;
use crate::rate::Bucket;

/// Networks that are remembered. Where there are more, those seen longest ago are forgotten.
const MAX_NETWORKS: usize = 4_096;
/// How many more connections at once, and places for guests, a network has from which somebody was
/// let in.
const TRUST: usize = 10;
/// How much more often it may connect in the long run: not more often than the guests that it may
/// have leave an honest one the time to show its key.
const TRUSTED_RATE: f64 = 4.0;

/// Rates of connections and of wrong keys, by network.
#[derive(Debug)]
pub struct Networks {
    limits: Limits,
    known: Mutex<HashMap<IpAddr, Network>>,
}

#[derive(Debug)]
struct Network {
    seen: Instant,
    connections: Bucket,
    failures: Bucket,
    /// Until when its wrong keys are answered late.
    penalty_until: Option<Instant>,
    /// Its connections that were let in.
    sessions: usize,
}

/// A connection that was let in; its network is trusted more until it is dropped.
#[derive(Debug)]
pub struct Session {
    networks: Arc<Networks>,
    network: IpAddr,
}

/// How the answer to a wrong key is to be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Penalty {
    /// How late.
    pub delay: Duration,
    /// Whether the network's penalty begins with this one.
    pub is_new: bool,
}

impl Networks {
    /// Nobody was seen.
    pub fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Self { limits: limits.clone(), known: Mutex::default() })
    }

    /// Counts a connection; `false` if the network connects too often.
    pub fn connect(&self, address: IpAddr, now: Instant) -> bool {
        let limits = &self.limits;
        let mut known = self.lock();
        let network = self.network(&mut known, address, now);
        let (faster, more) =
            if network.sessions > 0 { (TRUSTED_RATE, TRUST as f64) } else { (1.0, 1.0) };
        let (rate, burst) = (limits.connections_per_second, limits.connection_burst);
        network.connections.take(1.0, f64::from(rate) * faster, f64::from(burst) * more, now)
    }

    /// Guests that a network may have.
    pub fn places(&self, address: IpAddr) -> usize {
        let sessions = self.lock().get(&network_of(address)).map_or(0, |known| known.sessions);
        let places = self.limits.unauthenticated_per_ip;
        if sessions > 0 { places.saturating_mul(TRUST) } else { places }
    }

    /// Counts a wrong key; says if its answer has to wait.
    pub fn failed(&self, address: IpAddr, now: Instant) -> Option<Penalty> {
        let limits = &self.limits;
        let mut known = self.lock();
        let network = self.network(&mut known, address, now);
        let was_penalised = network.penalty_until.is_some_and(|until| now < until);
        let allowed = f64::from(limits.auth_failures_per_minute);
        if !network.failures.take(1.0, allowed / 60.0, allowed, now) {
            network.penalty_until = Some(now + limits.auth_penalty_time);
        }
        let is_penalised = network.penalty_until.is_some_and(|until| now < until);
        is_penalised.then_some(Penalty { delay: limits.auth_penalty, is_new: !was_penalised })
    }

    /// Counts a connection that was let in.
    pub fn admit(self: &Arc<Self>, address: IpAddr, now: Instant) -> Session {
        self.network(&mut self.lock(), address, now).sessions += 1;
        Session { networks: self.clone(), network: network_of(address) }
    }

    fn network<'a>(
        &self,
        known: &'a mut HashMap<IpAddr, Network>,
        address: IpAddr,
        now: Instant,
    ) -> &'a mut Network {
        let key = network_of(address);
        if known.len() >= MAX_NETWORKS && !known.contains_key(&key) {
            forget(known);
        }
        let network = known.entry(key).or_insert_with(|| Network {
            seen: now,
            connections: Bucket::full(f64::from(self.limits.connection_burst), now),
            failures: Bucket::full(f64::from(self.limits.auth_failures_per_minute), now),
            penalty_until: None,
            sessions: 0,
        });
        network.seen = now;
        network
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Network>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(network) = self.networks.lock().get_mut(&self.network) {
            network.sessions = network.sessions.saturating_sub(1);
        }
    }
}

/// Forgets half of the networks, those seen longest ago; one that has sessions is kept, and the
/// bound on connections bounds those.
fn forget(known: &mut HashMap<IpAddr, Network>) {
    let mut seen: Vec<_> = known.values().map(|network| network.seen).collect();
    let middle = seen.len() / 2;
    let (_, median, _) = seen.select_nth_unstable(middle);
    let median = *median;
    known.retain(|_, network| network.sessions > 0 || network.seen > median);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks() -> Arc<Networks> {
        Networks::new(&Limits {
            connections_per_second: 2,
            connection_burst: 3,
            auth_failures_per_minute: 2,
            ..Limits::default()
        })
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn connections_have_a_rate_for_each_network() {
        let (networks, now) = (networks(), Instant::now());
        let connect = |address: &str, now| networks.connect(ip(address), now);
        assert!((1..=3).all(|n| connect(&format!("2001:db8::{n}"), now)));
        assert!(!connect("2001:db8::9", now));
        assert!(connect("2001:db8:0:1::1", now));
        assert!(connect("2001:db8::9", now + Duration::from_millis(500)));
    }

    #[test]
    fn a_network_with_a_session_may_connect_more_often() {
        let (networks, now) = (networks(), Instant::now());
        let address = ip("192.0.2.1");
        let session = networks.admit(address, now);
        let later = now + Duration::from_secs(60);
        let connects = |now| (0..100).filter(|_| networks.connect(address, now)).count();
        assert_eq!(connects(later), 30);
        assert_eq!(connects(later + Duration::from_secs(1)), 8);
        assert_eq!(networks.places(address), 10 * networks.places(ip("192.0.2.2")));
        drop(session);
        assert_eq!(networks.places(address), networks.places(ip("192.0.2.2")));
        assert_eq!(connects(later + Duration::from_secs(61)), 3);
    }

    /// As long as an RTMPS encoder with 600 ms to the relay takes to its key.
    #[tokio::test]
    async fn whoever_floods_behind_an_honest_clients_address_does_not_push_it_out() {
        let (limits, start, address) = (Limits::default(), Instant::now(), ip("192.0.2.1"));
        let bounds = crate::guests::Bounds {
            connections: limits.connections,
            guests: limits.unauthenticated,
            per_address: limits.unauthenticated_per_ip,
        };
        for is_trusted in [false, true] {
            let (networks, guests) = (Networks::new(&limits), crate::guests::Guests::new(bounds));
            let session = is_trusted.then(|| networks.admit(address, start));
            let mut flood = Vec::new();
            let mut knock = |now| {
                let places = networks.places(address);
                let came = networks.connect(address, now);
                came.then(|| guests.enter_among(places, address).unwrap().0)
            };
            // Until nothing is left of what may come at once.
            let flooded = start + Duration::from_secs(60);
            (0..60_000).for_each(|ms| flood.extend(knock(start + Duration::from_millis(ms))));
            let mut later = (0..).map(|ms| flooded + Duration::from_millis(ms));
            let honest = later.find_map(&mut knock).expect("some who knock come in");
            later.take(3_000).for_each(|now| flood.extend(knock(now)));
            assert_eq!(honest.stay(async {}).await, Some(()), "trusted: {is_trusted}");
            drop(session);
        }
    }

    #[test]
    fn wrong_keys_are_answered_late_after_some() {
        let (networks, now) = (networks(), Instant::now());
        let failed = |seconds| networks.failed(ip("192.0.2.1"), now + Duration::from_secs(seconds));
        assert_eq!(failed(0), None);
        assert_eq!(failed(0), None);
        let delay = Limits::default().auth_penalty;
        assert_eq!(failed(1), Some(Penalty { delay, is_new: true }));
        assert_eq!(failed(2), Some(Penalty { delay, is_new: false }));
        assert_eq!(networks.failed(ip("192.0.2.2"), now), None);
        // Not too many any more, but the penalty goes on.
        assert_eq!(failed(200), Some(Penalty { delay, is_new: false }));
        assert_eq!(failed(400), None);
    }

    #[test]
    fn the_table_is_bounded_and_keeps_those_with_sessions() {
        let (networks, now) = (networks(), Instant::now());
        let _session = networks.admit(ip("192.0.2.1"), now);
        for n in 0..3 * MAX_NETWORKS as u32 {
            let address = std::net::Ipv4Addr::from(0x0a00_0000 + n);
            networks.connect(address.into(), now + Duration::from_micros(u64::from(n) + 1));
            assert!(networks.lock().len() <= MAX_NETWORKS);
        }
        assert!(networks.lock().contains_key(&ip("192.0.2.1")));
    }
}
