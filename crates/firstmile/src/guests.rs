//! Who is in: connections that were let in, and guests that were not let in yet.
//!
//! Where guests are too many, the oldest makes room for the newcomer: mute sockets lock nobody
//! out. An address has as many places as it may open connections in three seconds: in that time
//! an honest client shows its key over any network, whoever else is behind its address.
//! Connections that were let in are never asked to leave.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::limit::Limit;

/// The connections of a listener. Guests are counted by the network they come from; connections
/// that were let in are not, as many encoders share one address behind a NAT.
#[derive(Debug)]
pub struct Guests {
    bounds: Bounds,
    inner: Mutex<Inner>,
    emptied: Notify,
}

/// How many may be in.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Connections of all kinds.
    pub connections: usize,
    /// Guests.
    pub guests: usize,
    /// Guests of one address; an IPv6 host has a /64 to itself.
    pub per_address: usize,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    /// In the order of their arrival.
    waiting: BTreeMap<u64, Waiting>,
    networks: HashMap<IpAddr, VecDeque<u64>>,
    admitted: usize,
}

#[derive(Debug)]
struct Waiting {
    network: IpAddr,
    leave: CancellationToken,
}

/// One connection; it counts until it is dropped.
#[derive(Debug)]
pub struct Guest {
    guests: Arc<Guests>,
    id: u64,
    is_admitted: bool,
    leave: CancellationToken,
}

impl Guests {
    /// Nobody is in.
    pub fn new(bounds: Bounds) -> Arc<Self> {
        Arc::new(Self { bounds, inner: Mutex::default(), emptied: Notify::new() })
    }

    /// Takes one more in. Says too which limit an older guest had to leave for.
    ///
    /// # Errors
    ///
    /// [`Limit::Connections`] if all there is room for were let in.
    pub fn enter(self: &Arc<Self>, address: IpAddr) -> Result<(Guest, Option<Limit>), Limit> {
        self.enter_among(self.bounds.per_address, address)
    }

    /// As [`Guests::enter`], where this address may have so many guests.
    ///
    /// # Errors
    ///
    /// As [`Guests::enter`].
    pub fn enter_among(
        self: &Arc<Self>,
        per_address: usize,
        address: IpAddr,
    ) -> Result<(Guest, Option<Limit>), Limit> {
        let network = network_of(address);
        let mut inner = self.lock();
        let neighbours = inner.networks.get(&network).map_or(0, VecDeque::len);
        let hit = if neighbours >= per_address {
            inner.dismiss_oldest_of(network);
            Some(Limit::GuestsOfAddress)
        } else if inner.waiting.len() >= self.bounds.guests {
            inner.dismiss_of_fullest();
            Some(Limit::Guests)
        } else if inner.waiting.len() + inner.admitted >= self.bounds.connections {
            if !inner.dismiss_of_fullest() {
                return Err(Limit::Connections);
            }
            Some(Limit::Connections)
        } else {
            None
        };
        let id = inner.next;
        inner.next += 1;
        let leave = CancellationToken::new();
        inner.waiting.insert(id, Waiting { network, leave: leave.clone() });
        inner.networks.entry(network).or_default().push_back(id);
        drop(inner);
        Ok((Guest { guests: self.clone(), id, is_admitted: false, leave }, hit))
    }

    /// Connections that were not let in yet, and those that were.
    pub fn counts(&self) -> (usize, usize) {
        let inner = self.lock();
        (inner.waiting.len(), inner.admitted)
    }

    /// Waits until nobody is in.
    pub async fn emptied(&self) {
        loop {
            // Before the look: who leaves in between is then still noticed.
            let emptied = self.emptied.notified();
            if self.counts() == (0, 0) {
                return;
            }
            emptied.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn dismiss_oldest_of(&mut self, network: IpAddr) -> bool {
        let oldest = self.networks.get(&network).and_then(|ids| ids.front().copied());
        let waiting = oldest.and_then(|id| self.remove(id));
        if let Some(waiting) = &waiting {
            waiting.leave.cancel();
        }
        waiting.is_some()
    }

    /// The network with the most guests loses its oldest: who is alone at home keeps his place.
    fn dismiss_of_fullest(&mut self) -> bool {
        let oldest = |ids: &VecDeque<u64>| ids.front().copied();
        let fullest = self
            .networks
            .iter()
            .max_by_key(|(_, ids)| (ids.len(), std::cmp::Reverse(oldest(ids))))
            .map(|(network, _)| *network);
        fullest.is_some_and(|network| self.dismiss_oldest_of(network))
    }

    fn remove(&mut self, id: u64) -> Option<Waiting> {
        let waiting = self.waiting.remove(&id)?;
        if let Some(ids) = self.networks.get_mut(&waiting.network) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.networks.remove(&waiting.network);
            }
        }
        Some(waiting)
    }
}

impl Guest {
    /// Lets the connection in: it stays as long as it likes.
    pub fn admit(&mut self) {
        if !self.is_admitted {
            self.is_admitted = true;
            let mut inner = self.guests.lock();
            inner.remove(self.id);
            inner.admitted += 1;
        }
    }

    /// Whether the connection was let in.
    pub fn is_admitted(&self) -> bool {
        self.is_admitted
    }

    /// Runs `future` unless the connection has to leave for a newcomer: then `None`, at once.
    pub async fn stay<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        if self.is_admitted {
            return Some(future.await);
        }
        self.leave.run_until_cancelled(future).await
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut inner = self.guests.lock();
        if self.is_admitted {
            inner.admitted -= 1;
        } else {
            inner.remove(self.id);
        }
        if inner.admitted == 0 && inner.waiting.is_empty() {
            self.guests.emptied.notify_waiters();
        }
    }
}

/// What one host or household has: an IPv4 address, or an IPv6 /64.
pub(crate) fn network_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => {
            Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guests(connections: usize, guests: usize, per_address: usize) -> Arc<Guests> {
        Guests::new(Bounds { connections, guests, per_address })
    }

    fn enter(guests: &Arc<Guests>, address: &str) -> (Guest, Option<Limit>) {
        guests.enter(address.parse().unwrap()).unwrap()
    }

    fn has_left(guest: &Guest) -> bool {
        guest.leave.is_cancelled()
    }

    #[test]
    fn the_oldest_of_an_address_makes_room() {
        let guests = guests(100, 100, 2);
        let (first, _) = enter(&guests, "2001:db8::1");
        // Of the same /64.
        let (second, hit) = enter(&guests, "2001:db8::2");
        assert_eq!(hit, None);
        let (other, hit) = enter(&guests, "2001:db8:0:1::1");
        assert_eq!(hit, None);
        let (third, hit) = enter(&guests, "2001:db8::3");
        assert_eq!(hit, Some(Limit::GuestsOfAddress));
        assert!(has_left(&first));
        assert!([&second, &third, &other].iter().all(|guest| !has_left(guest)));
        assert_eq!(guests.counts(), (3, 0));
        drop((first, second));
        assert_eq!(guests.counts(), (2, 0));
        assert_eq!(enter(&guests, "2001:db8::4").1, None);
    }

    #[test]
    fn those_let_in_are_not_counted_and_never_leave() {
        let guests = guests(100, 100, 1);
        let mut encoders: Vec<_> = (0..10)
            .map(|_| {
                let (mut guest, hit) = enter(&guests, "192.0.2.1");
                assert_eq!(hit, None);
                guest.admit();
                guest
            })
            .collect();
        let (_first, _) = enter(&guests, "192.0.2.1");
        assert_eq!(enter(&guests, "192.0.2.1").1, Some(Limit::GuestsOfAddress));
        assert!(!encoders.iter().any(has_left));
        assert_eq!(guests.counts().1, 10);
        encoders.clear();
        assert_eq!(guests.counts().1, 0);
    }

    #[test]
    fn in_all_the_network_with_the_most_makes_room() {
        let guests = guests(100, 3, 3);
        let (lonely, _) = enter(&guests, "192.0.2.1");
        let (first, _) = enter(&guests, "192.0.2.2");
        let (second, _) = enter(&guests, "192.0.2.2");
        let (_newcomer, hit) = enter(&guests, "192.0.2.3");
        assert_eq!(hit, Some(Limit::Guests));
        assert!(has_left(&first) && !has_left(&second) && !has_left(&lonely));
    }

    #[test]
    fn only_a_house_full_of_those_let_in_is_closed() {
        let guests = guests(2, 10, 10);
        let (mut one, _) = enter(&guests, "192.0.2.1");
        one.admit();
        let (two, _) = enter(&guests, "192.0.2.2");
        let (mut three, hit) = enter(&guests, "192.0.2.3");
        assert_eq!(hit, Some(Limit::Connections));
        assert!(has_left(&two) && !has_left(&one));
        three.admit();
        let refused = guests.enter("192.0.2.4".parse().unwrap());
        assert_eq!(refused.err(), Some(Limit::Connections));
        drop(one);
        assert_eq!(enter(&guests, "192.0.2.4").1, None);
    }

    #[tokio::test]
    async fn who_has_to_leave_stops_at_once() {
        let guests = guests(10, 10, 1);
        let (first, _) = enter(&guests, "192.0.2.1");
        assert_eq!(first.stay(async { 1 }).await, Some(1));
        let (mut second, _) = enter(&guests, "192.0.2.1");
        assert_eq!(first.stay(std::future::pending::<()>()).await, None);
        second.admit();
        enter(&guests, "192.0.2.1");
        assert_eq!(second.stay(async { 1 }).await, Some(1));
    }
}
