//! Whose key is whose: the hashes that studios have pushed.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use backhaul::{FeedKey, FeedProblem, Login};
use hub::{Backing, Overflow};
use rtmp::adobe::Verifier;

use crate::identity::PublicKey;
use crate::login::is_user;
use crate::secret::{FeedName, KeyHash};
use crate::spool::Spool;
use crate::store::{KnownFeed, KnownLogin, KnownStudio, from_unix_seconds, unix_seconds};

/// How long the hashes of a studio that left are kept, so that its encoders stay.
const KEEP: Duration = Duration::from_secs(24 * 3_600);
/// Feeds of studios that left that are kept; those that left first are forgotten first. At an open
/// relay anybody may come, push, and leave.
const MAX_AWAY: usize = 4_096;

/// A feed of one studio; what names it comes from credentials alone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FeedId {
    pub(crate) studio: PublicKey,
    pub(crate) name: String,
}

impl fmt::Display for FeedId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.studio, self.name)
    }
}

impl Backing<FeedId> for Spool {
    /// The studio: its feeds share what it gets.
    fn owner(&self, feed: &FeedId) -> u64 {
        let key = &feed.studio.0;
        u64::from_be_bytes(std::array::from_fn(|index| key[index]))
    }

    fn overflow(&self, feed: &FeedId, serial: u64) -> Option<Arc<dyn Overflow>> {
        self.overflow(serial, self.owner(feed))
    }
}

/// The feeds of every studio, and their keys' hashes.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    studios: HashMap<PublicKey, Studio>,
    by_hash: HashMap<KeyHash, FeedId>,
    by_user: HashMap<String, (FeedId, Verifier)>,
}

#[derive(Debug)]
struct Studio {
    feeds: HashMap<String, KeyHash>,
    left: Option<Left>,
}

/// When a studio left, and until when it is remembered.
#[derive(Clone, Copy, Debug)]
struct Left {
    at: SystemTime,
    until: Instant,
}

/// What a new list changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    /// Feeds that the studio has now.
    pub(crate) current: Vec<FeedId>,
    /// Feeds whose key is no longer good: their encoders are to be closed.
    pub(crate) revoked: Vec<FeedId>,
    /// Feeds that are gone.
    pub(crate) removed: Vec<FeedId>,
    /// Feeds that were not taken.
    pub(crate) problems: Vec<FeedProblem>,
    /// Feeds whose key the list claims too; they keep it, and their studios should know.
    pub(crate) contested: Vec<FeedId>,
}

impl Directory {
    /// The feed that a key's hash opens.
    pub(crate) fn find(&self, hash: &KeyHash) -> Option<FeedId> {
        self.by_hash.get(hash).cloned()
    }

    /// The feed that a user may publish, and what proves the password.
    pub(crate) fn find_user(&self, user: &str) -> Option<&(FeedId, Verifier)> {
        self.by_user.get(user)
    }

    /// Takes a studio's whole list of users, one for each of its feeds.
    pub(crate) fn push_logins(&mut self, studio: PublicKey, list: Vec<Login>) -> Change {
        let is_ours = |_: &String, (feed, _): &mut (FeedId, Verifier)| feed.studio == studio;
        let before: HashMap<_, _> = self.by_user.extract_if(is_ours).collect();
        let mut change = Change::default();
        let mut taken = HashMap::new();
        for Login { feed, user, verifier } in list {
            let id = FeedId { studio, name: feed };
            let has_feed =
                self.studios.get(&studio).is_some_and(|known| known.feeds.contains_key(&id.name));
            if !has_feed || taken.contains_key(&id) {
                // Its feed was not taken, which was said.
                continue;
            }
            let problem = if !is_user(&user) {
                "its user is not allowed here"
            } else if let Some((holder, _)) = self.by_user.get(&user) {
                change.contested.push(holder.clone());
                "its user is in use; rotate it"
            } else {
                taken.insert(id.clone(), (user.clone(), verifier));
                self.by_user.insert(user, (id, verifier));
                continue;
            };
            change.problems.push(FeedProblem { name: id.name, text: problem.to_owned() });
        }
        let gone = before.into_iter().filter(|(user, (feed, verifier))| {
            taken.get(feed).is_none_or(|now| now != &(user.clone(), *verifier))
        });
        change.revoked = gone.map(|(_, (feed, _))| feed).collect();
        change
    }

    /// Feeds of all studios.
    pub(crate) fn feeds(&self) -> impl Iterator<Item = FeedId> {
        self.by_hash.values().cloned()
    }

    /// Takes a studio's whole list, at most `max` feeds of it.
    pub(crate) fn push(&mut self, studio: PublicKey, list: Vec<FeedKey>, max: usize) -> Change {
        let before = self.studios.remove(&studio).map_or_else(HashMap::new, |known| known.feeds);
        before.values().for_each(|hash| drop(self.by_hash.remove(hash)));
        let mut change = Change::default();
        let mut feeds = HashMap::new();
        for FeedKey { name, hash } in list {
            let hash = KeyHash(hash);
            let problem = if name.parse::<FeedName>().is_err() {
                Some("its name is not allowed here".to_owned())
            } else if feeds.len() >= max {
                Some(format!("this relay takes {max} feeds from a studio"))
            } else if feeds.contains_key(&name) || self.by_hash.contains_key(&hash) {
                change.contested.extend(self.by_hash.get(&hash).cloned());
                Some("its key is in use; rotate it".to_owned())
            } else {
                None
            };
            if let Some(text) = problem {
                let name = name.chars().filter(|c| !c.is_control()).take(FeedName::MAX).collect();
                change.problems.push(FeedProblem { name, text });
                continue;
            }
            let id = FeedId { studio, name: name.clone() };
            if before.get(&name).is_some_and(|old| *old != hash) {
                change.revoked.push(id.clone());
            }
            self.by_hash.insert(hash, id.clone());
            feeds.insert(name, hash);
            change.current.push(id);
        }
        let gone = before.into_keys().filter(|name| !feeds.contains_key(name));
        change.removed = gone.map(|name| FeedId { studio, name }).collect();
        self.by_user.retain(|_, (feed, _)| !change.removed.contains(feed));
        self.studios.insert(studio, Studio { feeds, left: None });
        change
    }

    /// Takes note that a studio is away; returns the feeds that are forgotten for it.
    pub(crate) fn leave(
        &mut self,
        studio: &PublicKey,
        now: Instant,
        at: SystemTime,
    ) -> Vec<FeedId> {
        if let Some(known) = self.studios.get_mut(studio) {
            known.left = Some(Left { at, until: now + KEEP });
            if known.feeds.is_empty() {
                // There is nothing to remember of it.
                self.studios.remove(studio);
            }
        }
        let mut removed = Vec::new();
        while let Some(oldest) = self.too_many_away() {
            removed.extend(self.forget(|key, _| *key == oldest));
        }
        removed
    }

    /// The studio that left first, if more is kept than may be.
    fn too_many_away(&self) -> Option<PublicKey> {
        let away =
            || self.studios.iter().filter_map(|(key, studio)| Some((studio.left?, key, studio)));
        let feeds: usize = away().map(|(_, _, studio)| studio.feeds.len()).sum();
        let oldest = away().min_by_key(|(left, ..)| left.until);
        oldest.filter(|_| feeds > MAX_AWAY).map(|(_, key, _)| *key)
    }

    /// Forgets studios that left long ago; returns their feeds.
    pub(crate) fn sweep(&mut self, now: Instant) -> Vec<FeedId> {
        self.forget(|_, studio| studio.left.is_some_and(|left| left.until < now))
    }

    fn forget(&mut self, is_meant: impl Fn(&PublicKey, &Studio) -> bool) -> Vec<FeedId> {
        let mut removed = Vec::new();
        for (key, studio) in self.studios.extract_if(|key, studio| is_meant(key, studio)) {
            for (name, hash) in studio.feeds {
                self.by_hash.remove(&hash);
                removed.push(FeedId { studio: key, name });
            }
        }
        self.by_user.retain(|_, (feed, _)| !removed.contains(feed));
        removed
    }

    /// Everything, for the next start: first the studios that are here, then those that left last.
    pub(crate) fn known(&self) -> Vec<KnownStudio> {
        let mut logins: HashMap<&FeedId, KnownLogin> = HashMap::new();
        for (user, (feed, verifier)) in &self.by_user {
            logins.insert(feed, KnownLogin { user: user.clone(), verifier: *verifier });
        }
        let known = |(key, studio): (&PublicKey, &Studio)| {
            let feed = |(name, hash): (&String, &KeyHash)| {
                let id = FeedId { studio: *key, name: name.clone() };
                KnownFeed { name: id.name.clone(), hash: *hash, login: logins.remove(&id) }
            };
            let mut feeds: Vec<_> = studio.feeds.iter().map(feed).collect();
            feeds.sort_by(|a, b| a.name.cmp(&b.name));
            KnownStudio { key: *key, left: studio.left.map(|left| unix_seconds(left.at)), feeds }
        };
        let mut studios: Vec<_> = self.studios.iter().map(known).collect();
        studios.retain(|studio| !studio.feeds.is_empty());
        let rank = |studio: &KnownStudio| std::cmp::Reverse(studio.left.unwrap_or(u64::MAX));
        studios.sort_by_key(|studio| (rank(studio), studio.key));
        studios
    }

    /// Takes what was known before the relay was started, as of studios that are away: at most `max`
    /// feeds of each. One that was here when the relay ended has left just now.
    pub(crate) fn restore(
        &mut self,
        studios: Vec<KnownStudio>,
        max: usize,
        now: Instant,
        today: SystemTime,
    ) {
        for KnownStudio { key, left, feeds } in studios {
            let at = left.and_then(from_unix_seconds).map_or(today, |left| left.min(today));
            let age = today.duration_since(at).unwrap_or_default();
            if age > KEEP {
                continue;
            }
            let logins = feeds.iter().filter_map(|feed| {
                let KnownLogin { user, verifier } = feed.login.clone()?;
                Some(Login { feed: feed.name.clone(), user, verifier })
            });
            let logins = logins.collect();
            let keys = feeds.into_iter().map(|feed| FeedKey { name: feed.name, hash: feed.hash.0 });
            self.push(key, keys.collect(), max);
            self.push_logins(key, logins);
            if let Some(studio) = self.studios.get_mut(&key) {
                studio.left = Some(Left { at, until: now + (KEEP - age) });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PublicKey = PublicKey([1; 32]);
    const B: PublicKey = PublicKey([2; 32]);

    fn key(name: &str, hash: u8) -> FeedKey {
        FeedKey { name: name.into(), hash: [hash; 32] }
    }

    fn id(studio: PublicKey, name: &str) -> FeedId {
        FeedId { studio, name: name.into() }
    }

    #[test]
    fn a_list_replaces_the_one_before() {
        let mut directory = Directory::default();
        directory.push(A, vec![key("camera", 1), key("roof", 2)], 8);
        assert_eq!(directory.find(&KeyHash([1; 32])), Some(id(A, "camera")));
        let change = directory.push(A, vec![key("camera", 3)], 8);
        assert_eq!(change.revoked, [id(A, "camera")]);
        assert_eq!(change.removed, [id(A, "roof")]);
        assert_eq!(directory.find(&KeyHash([1; 32])), None);
        assert_eq!(directory.find(&KeyHash([2; 32])), None);
        assert_eq!(directory.find(&KeyHash([3; 32])), Some(id(A, "camera")));
    }

    #[test]
    fn a_hash_belongs_to_who_had_it_first() {
        let mut directory = Directory::default();
        directory.push(A, vec![key("camera", 1)], 8);
        let change = directory.push(B, vec![key("camera", 1), key("Bad Name", 2)], 8);
        assert_eq!(change.problems.len(), 2);
        assert_eq!(change.contested, [id(A, "camera")]);
        assert_eq!(directory.find(&KeyHash([1; 32])), Some(id(A, "camera")));
        let names = vec![key("camera", 4), key("b", 5), key("c", 6)];
        assert_eq!(directory.push(B, names, 2).problems[0].name, "c");
        assert_eq!(directory.find(&KeyHash([4; 32])), Some(id(B, "camera")), "the same name");
    }

    fn login(feed: &str, user: &str, verifier: u8) -> Login {
        Login { feed: feed.into(), user: user.into(), verifier: [verifier; 16] }
    }

    #[test]
    fn users_come_and_go_with_their_feeds() {
        let mut directory = Directory::default();
        directory.push(A, vec![key("camera", 1), key("roof", 2)], 8);
        let both = vec![login("camera", "camera-00000001", 1), login("roof", "roof-00000002", 2)];
        assert_eq!(directory.push_logins(A, both.clone()), Change::default());
        assert_eq!(directory.find_user("roof-00000002"), Some(&(id(A, "roof"), [2; 16])));
        // The same list again ends nothing, another password does.
        assert_eq!(directory.push_logins(A, both), Change::default());
        let other = vec![login("camera", "camera-00000001", 3)];
        let mut revoked = directory.push_logins(A, other).revoked;
        revoked.sort_by(|a, b| a.name.cmp(&b.name));
        assert_eq!(revoked, [id(A, "camera"), id(A, "roof")]);
        assert_eq!(directory.find_user("roof-00000002"), None);
        directory.push(A, vec![key("roof", 2)], 8);
        assert_eq!(directory.find_user("camera-00000001"), None, "its feed is gone");
    }

    #[test]
    fn a_user_belongs_to_who_had_it_first_and_to_a_feed_of_his() {
        let mut directory = Directory::default();
        directory.push(A, vec![key("camera", 1)], 8);
        directory.push(B, vec![key("camera", 2), key("roof", 3)], 8);
        directory.push_logins(A, vec![login("camera", "camera-00000001", 1)]);
        let list = vec![
            login("camera", "camera-00000001", 2),
            login("roof", "anything", 3),
            login("none", "none-00000001", 4),
        ];
        let change = directory.push_logins(B, list);
        assert_eq!(change.contested, [id(A, "camera")]);
        let names: Vec<_> = change.problems.iter().map(|problem| &*problem.name).collect();
        assert_eq!(names, ["camera", "roof"]);
        assert_eq!(directory.find_user("camera-00000001").unwrap().0, id(A, "camera"));
        assert_eq!(directory.find_user("none-00000001"), None);
        // Two users of one feed: the first counts.
        let two = vec![login("roof", "roof-00000001", 1), login("roof", "roof-00000002", 1)];
        directory.push_logins(B, two);
        assert_eq!(directory.find_user("roof-00000002"), None);
        directory.leave(&B, Instant::now(), SystemTime::now());
        directory.sweep(Instant::now() + 2 * KEEP);
        assert_eq!(directory.find_user("roof-00000001"), None);
        assert!(directory.find_user("camera-00000001").is_some());
    }

    #[test]
    fn a_studio_that_left_is_kept_for_a_day() {
        let now = Instant::now();
        let mut directory = Directory::default();
        directory.push(A, vec![key("camera", 1)], 8);
        directory.leave(&A, now, SystemTime::now());
        assert_eq!(directory.sweep(now + KEEP), []);
        assert_eq!(directory.sweep(now + KEEP + Duration::from_secs(1)), [id(A, "camera")]);
        assert_eq!(directory.find(&KeyHash([1; 32])), None);
    }

    #[test]
    fn what_was_known_is_known_after_a_restart_and_for_no_longer() {
        let (now, today) = (Instant::now(), SystemTime::now());
        let hour = Duration::from_secs(3_600);
        let mut before = Directory::default();
        before.push(A, vec![key("camera", 1), key("roof", 2)], 8);
        before.push_logins(A, vec![login("camera", "camera-00000001", 1)]);
        before.push(B, vec![key("camera", 3)], 8);
        before.leave(&B, now, today - 20 * hour);
        let known = before.known();
        assert_eq!(known.iter().map(|studio| studio.key).collect::<Vec<_>>(), [A, B]);

        let mut after = Directory::default();
        after.restore(known.clone(), 8, now, today);
        assert_eq!(after.find(&KeyHash([2; 32])), Some(id(A, "roof")));
        assert_eq!(after.find(&KeyHash([3; 32])), Some(id(B, "camera")));
        assert_eq!(after.find_user("camera-00000001"), Some(&(id(A, "camera"), [1; 16])));
        // A hash still belongs to who pushed it first; who comes back loses no encoder.
        assert_eq!(after.push(B, vec![key("camera", 1)], 8).contested, [id(A, "camera")]);
        let back = after.push(A, vec![key("camera", 1), key("roof", 2)], 8);
        assert_eq!((back.revoked, back.removed), (vec![], vec![]));

        let mut later = Directory::default();
        later.restore(known, 8, now, today);
        assert_eq!(later.sweep(now + 5 * hour), [id(B, "camera")], "it left 20 hours before");
        later.leave(&A, now, today);
        let mut tomorrow = Directory::default();
        tomorrow.restore(later.known(), 8, now, today + 25 * hour);
        assert_eq!(tomorrow.known(), []);
    }

    #[test]
    fn those_who_left_first_make_room() {
        let now = Instant::now();
        let mut directory = Directory::default();
        directory.push(B, vec![key("camera", 0)], 8);
        for n in 0..=MAX_AWAY as u64 {
            let mut studio = PublicKey([7; 32]);
            studio.0[..8].copy_from_slice(&n.to_be_bytes());
            let mut hash = [7; 32];
            hash[..8].copy_from_slice(&n.to_be_bytes());
            directory.push(studio, vec![FeedKey { name: "camera".into(), hash }], 8);
            let removed =
                directory.leave(&studio, now + Duration::from_millis(n), SystemTime::now());
            assert_eq!(removed.len(), usize::from(n == MAX_AWAY as u64));
        }
        assert!(directory.find(&KeyHash([0; 32])).is_some(), "one that is here stays");
        assert_eq!(directory.feeds().count(), MAX_AWAY + 1);
        directory.push(A, vec![], 8);
        assert_eq!(directory.leave(&A, now, SystemTime::now()), []);
        assert!(!directory.studios.contains_key(&A), "of one without feeds nothing is kept");
    }
}
