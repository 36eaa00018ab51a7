//! The relays that a studio has joined, while it runs: more come, others go.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::uplink::Uplink;
use super::{AFTER_FAULT, Node};
use crate::identity::PublicKey;
use crate::ingest::backhaul::FeedList;
use crate::join::JoinLink;
use crate::link::Dialer;
use crate::status::{LinkState, RelayInfo};
use crate::store::JoinedRelay;
use crate::task;
use crate::web::ApiError;

/// How long a relay that is left has to hear that there are no more feeds.
const LAST_WORD: Duration = Duration::from_millis(500);

/// The ways to the relays, in the order in which those were joined.
#[derive(Debug)]
pub(super) struct Uplinks(watch::Sender<Vec<Arc<Uplink>>>);

impl Uplinks {
    /// The ways to these relays.
    pub(super) fn new(relays: &[JoinedRelay], list: &Arc<FeedList>) -> Self {
        let uplink = |relay: &JoinedRelay| Arc::new(Uplink::new(relay.clone(), list.clone()));
        Self(watch::Sender::new(relays.iter().map(uplink).collect()))
    }

    /// All of them, now.
    pub(super) fn all(&self) -> Vec<Arc<Uplink>> {
        self.0.borrow().clone()
    }

    /// Tells every relay of the feeds as they are now.
    pub(super) fn push(&self, list: &Arc<FeedList>) {
        self.0.borrow().iter().for_each(|uplink| uplink.push(list.clone()));
    }

    /// Takes a relay in that was joined, or joined anew. A link that is up to the same place stays.
    fn join(&self, relay: &JoinedRelay, list: &Arc<FeedList>) -> Arc<Uplink> {
        let mut joined = None;
        self.0.send_if_modified(|uplinks| {
            let known = uplinks.iter().position(|uplink| uplink.relay().pin == relay.pin);
            if let Some(at) = known {
                let (place, is_up) = (uplinks[at].relay(), uplinks[at].status().state);
                let is_there = place.host == relay.host && place.port == relay.port;
                if is_there && is_up == LinkState::Up {
                    joined = Some(uplinks[at].clone());
                    return false;
                }
            }
            let uplink = Arc::new(Uplink::new(relay.clone(), list.clone()));
            joined = Some(uplink.clone());
            match known {
                Some(at) => std::mem::replace(&mut uplinks[at], uplink).stop(),
                None => uplinks.push(uplink),
            }
            true
        });
        joined.expect("there is one now")
    }

    /// Gives a relay up; `false` if it is not known.
    fn leave(&self, pin: &PublicKey) -> Option<Arc<Uplink>> {
        let mut left = None;
        self.0.send_if_modified(|uplinks| {
            let at = uplinks.iter().position(|uplink| uplink.relay().pin == *pin);
            left = at.map(|at| uplinks.remove(at));
            left.is_some()
        });
        left
    }
}

impl Node {
    /// Keeps a link to every relay there is, until `shutdown`.
    pub(super) async fn keep_uplinks(
        self: &Arc<Self>,
        dialer: &Dialer,
        shutdown: &CancellationToken,
    ) {
        let mut changes = self.uplinks.0.subscribe();
        let (mut kept, mut running) = (Vec::<Arc<Uplink>>::new(), JoinSet::new());
        loop {
            let now = changes.borrow_and_update().clone();
            for uplink in &now {
                if !kept.iter().any(|known| Arc::ptr_eq(known, uplink)) {
                    running.spawn(keep(self.clone(), dialer.clone(), uplink.clone()));
                }
            }
            kept = now;
            tokio::select! {
                // Its sender lives as long as the node.
                _ = changes.changed() => {}
                Some(_) = running.join_next() => {}
                () = shutdown.cancelled() => break,
            }
        }
        kept.iter().for_each(|uplink| uplink.stop());
        while running.join_next().await.is_some() {}
    }

    /// The relays and how they are.
    pub(super) fn relay_infos(&self) -> Vec<RelayInfo> {
        self.uplinks.all().iter().map(|uplink| relay_info(uplink)).collect()
    }

    /// Joins a relay by its link, at once.
    pub(super) fn join_by(&self, link: &str) -> Result<RelayInfo, ApiError> {
        let link: JoinLink = link.parse().map_err(|error| {
            let hint = "copy the whole link that `firstmile relay` or `firstmile invite` printed";
            ApiError::invalid(&format!("this is no join link: {error}"), hint)
        })?;
        if link.pin == self.identity.public_key() {
            return Err(ApiError::conflict(
                "this link is the studio's own",
                "ask the relay for one",
            ));
        }
        // The store is held until the list has it, so that two calls leave both with the same.
        let mut store = self.lock();
        let relay = store.relays.join(&link)?;
        info!(relay = relay.address(), "joined by a link");
        let uplink = self.uplinks.join(&relay, &self.list.borrow());
        drop(store);
        Ok(relay_info(&uplink))
    }

    /// Leaves a relay, and lets it forget the feeds' keys before.
    pub(super) fn leave_by(&self, key: &str) -> Result<(), ApiError> {
        let unknown = || ApiError::not_found("no such relay is joined", "see /api/v1/relays");
        let pin = PublicKey::from_base32(key).ok_or_else(unknown)?;
        let mut store = self.lock();
        let is_known = store.relays.leave(&pin)?;
        let left = self.uplinks.leave(&pin);
        drop(store);
        let Some(uplink) = left else {
            return if is_known { Ok(()) } else { Err(unknown()) };
        };
        info!(relay = uplink.relay().address(), "left");
        uplink.push(Arc::default());
        tokio::spawn(async move {
            tokio::time::sleep(LAST_WORD).await;
            uplink.stop();
        });
        Ok(())
    }
}

/// Keeps one link until its relay is left or the studio stops.
async fn keep(node: Arc<Node>, dialer: Dialer, uplink: Arc<Uplink>) {
    loop {
        let (node, dialer, running) = (node.clone(), dialer.clone(), uplink.clone());
        let running = task::spawn(async move { running.run(&dialer, &*node).await }.boxed());
        // A fault of ours, of which the log tells, costs the link and not the relay.
        if running.await.is_ok() {
            return;
        }
        tokio::time::sleep(AFTER_FAULT).await;
    }
}

fn relay_info(uplink: &Uplink) -> RelayInfo {
    let relay = uplink.relay();
    RelayInfo {
        key: relay.pin.to_base32(),
        name: relay.name.clone(),
        address: relay.address(),
        link: uplink.status(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relay(host: &str, pin: u8) -> JoinedRelay {
        let pin = PublicKey([pin; 32]);
        JoinedRelay { name: host.into(), host: host.into(), port: 443, pin, invite: None }
    }

    #[test]
    fn relays_come_move_and_go() {
        let list = Arc::default();
        let uplinks = Uplinks::new(&[relay("a", 1)], &list);
        let hosts = || -> Vec<_> {
            uplinks.all().iter().map(|uplink| uplink.relay().host.clone()).collect()
        };
        let first = uplinks.all()[0].clone();
        uplinks.join(&relay("b", 2), &list);
        assert_eq!(hosts(), ["a", "b"]);
        uplinks.join(&relay("c", 1), &list);
        assert_eq!(hosts(), ["c", "b"], "it is known by its key");
        assert!(first.is_stopped());
        assert!(uplinks.leave(&PublicKey([1; 32])).is_some());
        assert!(uplinks.leave(&PublicKey([1; 32])).is_none());
        assert_eq!(hosts(), ["b"]);
    }
}
