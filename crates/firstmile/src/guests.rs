//! Connections that were not let in yet, counted by where they come from.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// Connections of each address that were not let in yet; those that were are not counted, as
/// many encoders share one address behind a NAT.
#[derive(Debug)]
pub struct Guests {
    limit: usize,
    counts: Mutex<HashMap<IpAddr, usize>>,
}

/// One connection that was not let in yet; counted until it is dropped.
#[derive(Debug)]
pub struct Guest {
    guests: Arc<Guests>,
    network: IpAddr,
}

impl Guests {
    /// At most `limit` from each address; an IPv6 host has a /64 to itself.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, counts: Mutex::default() })
    }

    /// Counts one more; `None` if there are too many from there.
    pub fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Guest> {
        let network = network_of(address);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(network).or_insert(0);
        if *count >= self.limit {
            return None;
        }
        *count += 1;
        Some(Guest { guests: self.clone(), network })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut counts = self.guests.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.network) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.network);
            }
        }
    }
}

fn network_of(address: IpAddr) -> IpAddr {
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

    #[test]
    fn guests_of_one_address_are_bounded_and_leave() {
        let guests = Guests::new(2);
        let address: IpAddr = "2001:db8::1".parse().unwrap();
        let neighbour: IpAddr = "2001:db8::2".parse().unwrap();
        let other: IpAddr = "2001:db8:0:1::1".parse().unwrap();
        let first = guests.enter(address);
        let _second = guests.enter(neighbour).unwrap();
        assert!(guests.enter(address).is_none());
        assert!(guests.enter(other).is_some());
        drop(first);
        assert!(guests.enter(address).is_some());
    }
}
