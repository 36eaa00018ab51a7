//! Who may publish and who may play at a studio.

use std::net::SocketAddr;
use std::time::SystemTime;

use hub::Policy;
use rtmp::adobe::{Answer, Verifier};
use rtmp::session::{Rejection, Request};

use super::Node;
use crate::config::studio::JoinPolicy;
use crate::door::{Encoder, Gate, Player, client_name};
use crate::egress::takes::Takes;
use crate::node;
use crate::secret::{KeyHash, StreamKey};
use crate::store::StoredFeed;

impl Gate for Node {
    async fn publish(&self, request: &Request, peer: SocketAddr) -> Result<Encoder, Rejection> {
        let hashes = StreamKey::hashes_in(request);
        let look = || match &request.user {
            Some(user) => self.find_user(user).map(|(feed, _)| feed),
            None => self.find_key(&hashes),
        };
        let feed = look().ok_or(Rejection::Denied)?;
        let publisher = node::publish(&self.hub.feed(feed.clone()), &feed, peer)?;
        self.events.encoder(publisher.publication(), &client_name(request));
        if request.user.is_some() {
            self.by_password.note(feed.clone(), publisher.publication());
        }
        // The key may have been revoked in between, before there was anything to cut.
        if look().as_ref() != Some(&feed) {
            return Err(Rejection::Denied);
        }
        Ok(Encoder { publisher, feed })
    }

    async fn login(&self, answer: &Answer) -> bool {
        let known = self.find_user(&answer.user);
        // An unknown user costs what a wrong password costs.
        let verifier = known.as_ref().map_or(Verifier::default(), |(_, verifier)| *verifier);
        answer.matches(&verifier) && known.is_some()
    }

    fn play(&self, request: &Request, peer: SocketAddr) -> Result<Player, Rejection> {
        let target = request.target().map_err(|_| Rejection::NotFound)?;
        let is_here = peer.ip().is_loopback();
        let needs_key = !is_here || self.config.play.loopback_key;
        let keys = request.keys();
        let has_key = keys.iter().fold(false, |has, key| self.play_key.matches(key) | has);
        let is_allowed = is_here || self.config.play.lan;
        // Who came as a user came to publish.
        if !is_allowed || needs_key && !has_key || request.user.is_some() {
            return Err(Rejection::Denied);
        }
        let name = target.path.rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
        if self.lock().feeds.find(&name).is_none() {
            return Err(Rejection::NotFound);
        }
        let play = &self.config.play;
        let join = match play.join {
            JoinPolicy::Fast => hub::Join::Fast,
            JoinPolicy::Smooth => hub::Join::Smooth,
            JoinPolicy::Keyframe => hub::Join::Keyframe,
        };
        let policy = Policy { join, max_delay: play.max_delay, verbatim: false };
        let takes = Takes::new(request.capabilities.clone(), play.multitrack);
        let seat = self.players.enter(&name, peer, client_name(request));
        Ok(Player { feed: self.hub.feed(name.clone()), policy, takes, name, seat })
    }
}

impl Node {
    /// The feed of the first key that opens one here; all are compared with all, whatever comes
    /// of it.
    fn find_key(&self, hashes: &[KeyHash]) -> Option<String> {
        let now = SystemTime::now();
        let store = self.lock();
        let mut found: Option<(usize, &StoredFeed)> = None;
        for feed in store.feeds.list() {
            let own = feed.secret.key_hash();
            for (at, hash) in hashes.iter().enumerate() {
                if own.matches(hash)
                    && feed.admits(now)
                    && found.is_none_or(|(before, _)| at < before)
                {
                    found = Some((at, feed));
                }
            }
        }
        found.map(|(_, feed)| feed.name.to_string())
    }

    /// The feed that a user may publish, and what proves the password.
    fn find_user(&self, user: &str) -> Option<(String, Verifier)> {
        // Who pushes a new list holds the store meanwhile.
        let list = self.list.borrow().clone();
        let login = list.logins.iter().find(|login| login.user == user)?;
        let store = self.lock();
        store.feeds.find(&login.feed).filter(|feed| feed.admits(SystemTime::now()))?;
        Some((login.feed.clone(), login.verifier))
    }
}
