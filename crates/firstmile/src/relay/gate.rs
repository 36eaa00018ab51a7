//! Who may publish at a relay: encoders whose studio has told the relay of their key or user.

use std::net::SocketAddr;
use std::time::Instant;

use rtmp::adobe::{Answer, Verifier};
use rtmp::session::{Rejection, Request};

use super::Node;
use super::directory::{Directory, FeedId};
use crate::door::{Encoder, Gate, Player, client_name};
use crate::node;
use crate::secret::{KeyHash, StreamKey};

impl Node {
    /// What is in the directory; a relay that has just started waits for the studio that knows it.
    async fn find<T>(&self, look: impl Fn(&Directory) -> Option<T>) -> Option<T> {
        let mut directory = self.directory.subscribe();
        let grace = self.started + self.config.start_grace;
        let found = tokio::time::timeout_at(grace.into(), async {
            loop {
                let found = look(&directory.borrow_and_update());
                if found.is_some() {
                    return found;
                }
                directory.changed().await.ok()?;
            }
        });
        // The timeout looks once even when it has long passed.
        found.await.ok().flatten()
    }
}

impl Gate for Node {
    async fn publish(&self, request: &Request, peer: SocketAddr) -> Result<Encoder, Rejection> {
        let hashes = StreamKey::hashes_in(request);
        let look = |directory: &Directory| match &request.user {
            Some(user) => directory.find_user(user, Instant::now()).map(|(feed, _)| feed.clone()),
            None => find_key(directory, &hashes),
        };
        let id = match hashes.is_empty() && request.user.is_none() {
            true => None,
            false => self.find(look).await,
        };
        let id = id.ok_or(Rejection::Denied)?;
        let publisher = node::publish(&self.hub.feed(id.clone()), &id, peer)?;
        self.events.encoder(publisher.publication(), &client_name(request));
        if request.user.is_some() {
            self.by_password.note(id.clone(), publisher.publication());
        }
        // The key may have been revoked in between, before there was anything to cut.
        if look(&self.directory.borrow()).as_ref() != Some(&id) {
            return Err(Rejection::Denied);
        }
        Ok(Encoder { publisher, feed: id.to_string() })
    }

    async fn login(&self, answer: &Answer) -> bool {
        // A wrong password waits as an unknown user does, and costs the same.
        let look = |directory: &Directory| {
            let known = directory.find_user(&answer.user, Instant::now());
            let verifier = known.map_or(Verifier::default(), |(_, verifier)| *verifier);
            let is_right = answer.matches(&verifier);
            (is_right && known.is_some()).then_some(())
        };
        self.find(look).await.is_some()
    }

    fn play(&self, _: &Request, _: SocketAddr) -> Result<Player, Rejection> {
        // Feeds are played at the studio.
        Err(Rejection::NotFound)
    }
}

/// The feed of the first key that opens one; all are looked up, whatever comes of it.
fn find_key(directory: &Directory, hashes: &[KeyHash]) -> Option<FeedId> {
    let now = Instant::now();
    hashes.iter().fold(None, |found, hash| {
        let next = directory.find(hash, now);
        found.or(next)
    })
}
