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
    feeds: HashMap<String, Key>,
    left: Option<Left>,
}

/// What opens a feed.
#[derive(Clone, Copy, Debug)]
struct Key {
    hash: KeyHash,
    end: Option<End>,
}

/// When a key is over: by the clock that never jumps while the relay runs, and by the one that goes on
/// while it does not.
#[derive(Clone, Copy, Debug)]
struct End {
    at: Instant,
    date: SystemTime,
}

impl Key {
    fn is_good(&self, now: Instant) -> bool {
        self.end.is_none_or(|end| now < end.at)
    }
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
    /// The feed that a key's hash opens now.
    pub(crate) fn find(&self, hash: &KeyHash, now: Instant) -> Option<FeedId> {
        self.by_hash.get(hash).filter(|id| self.is_good(id, now)).cloned()
    }

    /// The feed that a user may publish now, and what proves the password.
    pub(crate) fn find_user(&self, user: &str, now: Instant) -> Option<&(FeedId, Verifier)> {
        self.by_user.get(user).filter(|(id, _)| self.is_good(id, now))
    }

    /// Whether the time of a feed's key is not over.
    fn is_good(&self, id: &FeedId, now: Instant) -> bool {
        let key = self.studios.get(&id.studio).and_then(|studio| studio.feeds.get(&id.name));
        key.is_some_and(|key| key.is_good(now))
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

    /// Takes a studio's whole list, at most `max` feeds of it; `now` and `date` are the same moment.
    pub(crate) fn push(
        &mut self,
        studio: PublicKey,
        list: Vec<FeedKey>,
        max: usize,
        (now, date): (Instant, SystemTime),
    ) -> Change {
        let before = self.studios.remove(&studio).map_or_else(HashMap::new, |known| known.feeds);
        before.values().for_each(|key| drop(self.by_hash.remove(&key.hash)));
        let mut change = Change::default();
        let mut feeds = HashMap::new();
        for FeedKey { name, hash, left } in list {
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
            if before.get(&name).is_some_and(|old| old.hash != hash) {
                change.revoked.push(id.clone());
            }
            self.by_hash.insert(hash, id.clone());
            // An end that no clock reaches is none.
            let end = left.and_then(|left| {
                Some(End { at: now.checked_add(left)?, date: date.checked_add(left)? })
            });
            feeds.insert(name, Key { hash, end });
            change.current.push(id);
        }
        let gone = before.into_keys().filter(|name| !feeds.contains_key(name));
        change.removed = gone.map(|name| FeedId { studio, name }).collect();
        self.by_user.retain(|_, (feed, _)| !change.removed.contains(feed));
        self.studios.insert(studio, Studio { feeds, left: None });
        change
    }

    /// Forgets a studio that is no longer wanted; returns its feeds.
    pub(crate) fn expel(&mut self, studio: &PublicKey) -> Vec<FeedId> {
        self.forget(|key, _| key == studio)
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
            for (name, opens) in studio.feeds {
                self.by_hash.remove(&opens.hash);
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
            let feed = |(name, opens): (&String, &Key)| {
                let id = FeedId { studio: *key, name: name.clone() };
                let end = opens.end.map(|end| unix_seconds(end.date));
                let login = logins.remove(&id);
                KnownFeed { name: id.name, hash: opens.hash, end, login }
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
            let keys = feeds.into_iter().map(|KnownFeed { name, hash, end, .. }| {
                let end = end.and_then(from_unix_seconds);
                let left = end.map(|end| end.duration_since(today).unwrap_or_default());
                FeedKey { name, hash: hash.0, left }
            });
            self.push(key, keys.collect(), max, (now, today));
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
        FeedKey { name: name.into(), hash: [hash; 32], left: None }
    }

    fn both_clocks() -> (Instant, SystemTime) {
        (Instant::now(), SystemTime::now())
    }

    fn id(studio: PublicKey, name: &str) -> FeedId {
        FeedId { studio, name: name.into() }
    }

    #[test]
    fn a_list_replaces_the_one_before() {
        let mut directory = Directory::default();
        directory.push(A, vec![key("camera", 1), key("roof", 2)], 8, both_clocks());
        assert_eq!(directory.find(&KeyHash([1; 32]), Instant::now()), Some(id(A, "camera")));
        let change = directory.push(A, vec![key("camera", 3)], 8, both_clocks());
        assert_eq!(change.revoked, [id(A, "camera")]);
        assert_eq!(change.removed, [id(A, "roof")]);
        assert_eq!(directory.find(&KeyHash([1; 32]), Instant::now()), None);
        assert_eq!(directory.find(&KeyHash([2; 32]), Instant::now()), None);
        assert_eq!(directory.find(&KeyHash([3; 32]), Instant::now()), Some(id(A, "camera")));
    }

    #[test]
    fn a_hash_belongs_to_who_had_it_first() {
        let mut directory = Directory::default();
        directory.push(A, vec![key("camera", 1)], 8, both_clocks());
        let change =
            directory.push(B, vec![key("camera", 1), key("Bad Name", 2)], 8, both_clocks());
        assert_eq!(change.problems.len(), 2);
        assert_eq!(change.contested, [id(A, "camera")]);
        assert_eq!(directory.find(&KeyHash([1; 32]), Instant::now()), Some(id(A, "camera")));
        let names = vec![key("camera", 4), key("b", 5), key("c", 6)];
        assert_eq!(directory.push(B, names, 2, both_clocks()).problems[0].name, "c");
        assert_eq!(
            directory.find(&KeyHash([4; 32]), Instant::now()),
            Some(id(B, "camera")),
            "the same name"
        );
    }

    fn login(feed: &str, user: &str, verifier: u8) -> Login {
        Login { feed: feed.into(), user: user.into(), verifier: [verifier; 16] }
    }

    #[test]
    fn users_come_and_go_with_their_feeds() {
        let mut directory = Directory::default();
        directory.push(A, vec![key("camera", 1), key("roof", 2)], 8, both_clocks());
        let both = vec![login("camera", "camera-00000001", 1), login("roof", "roof-00000002", 2)];
        assert_eq!(directory.push_logins(A, both.clone()), Change::default());
        assert_eq!(
            directory.find_user("roof-00000002", Instant::now()),
            Some(&(id(A, "roof"), [2; 16]))
        );
        // The same list again ends nothing, another password does.
        assert_eq!(directory.push_logins(A, both), Change::default());
        let other = vec![login("camera", "camera-00000001", 3)];
        let mut revoked = directory.push_logins(A, other).revoked;
        revoked.sort_by(|a, b| a.name.cmp(&b.name));
        assert_eq!(revoked, [id(A, "camera"), id(A, "roof")]);
        assert_eq!(directory.find_user("roof-00000002", Instant::now()), None);
        directory.push(A, vec![key("roof", 2)], 8, both_clocks());
        assert_eq!(
            directory.find_user("camera-00000001", Instant::now()),
            None,
            "its feed is gone"
        );
    }

    #[test]
    fn a_user_belongs_to_who_had_it_first_and_to_a_feed_of_his() {
        let mut directory = Directory::default();
        directory.push(A, vec![key("camera", 1)], 8, both_clocks());
        directory.push(B, vec![key("camera", 2), key("roof", 3)], 8, both_clocks());
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
        assert_eq!(
            directory.find_user("camera-00000001", Instant::now()).unwrap().0,
            id(A, "camera")
        );
        assert_eq!(directory.find_user("none-00000001", Instant::now()), None);
        // Two users of one feed: the first counts.
        let two = vec![login("roof", "roof-00000001", 1), login("roof", "roof-00000002", 1)];
        directory.push_logins(B, two);
        assert_eq!(directory.find_user("roof-00000002", Instant::now()), None);
        directory.leave(&B, Instant::now(), SystemTime::now());
        directory.sweep(Instant::now() + 2 * KEEP);
        assert_eq!(directory.find_user("roof-00000001", Instant::now()), None);
        assert!(directory.find_user("camera-00000001", Instant::now()).is_some());
    }

    #[test]
    fn a_studio_that_left_is_kept_for_a_day() {
        let now = Instant::now();
        let mut directory = Directory::default();
        directory.push(A, vec![key("camera", 1)], 8, both_clocks());
        directory.leave(&A, now, SystemTime::now());
        assert_eq!(directory.sweep(now + KEEP), []);
        assert_eq!(directory.sweep(now + KEEP + Duration::from_secs(1)), [id(A, "camera")]);
        assert_eq!(directory.find(&KeyHash([1; 32]), Instant::now()), None);
    }

    #[test]
    fn what_was_known_is_known_after_a_restart_and_for_no_longer() {
        let (now, today) = (Instant::now(), SystemTime::now());
        let hour = Duration::from_secs(3_600);
        let mut before = Directory::default();
        before.push(A, vec![key("camera", 1), key("roof", 2)], 8, both_clocks());
        before.push_logins(A, vec![login("camera", "camera-00000001", 1)]);
        before.push(B, vec![key("camera", 3)], 8, both_clocks());
        before.leave(&B, now, today - 20 * hour);
        let known = before.known();
        assert_eq!(known.iter().map(|studio| studio.key).collect::<Vec<_>>(), [A, B]);

        let mut after = Directory::default();
        after.restore(known.clone(), 8, now, today);
        assert_eq!(after.find(&KeyHash([2; 32]), Instant::now()), Some(id(A, "roof")));
        assert_eq!(after.find(&KeyHash([3; 32]), Instant::now()), Some(id(B, "camera")));
        assert_eq!(
            after.find_user("camera-00000001", Instant::now()),
            Some(&(id(A, "camera"), [1; 16]))
        );
        // A hash still belongs to who pushed it first; who comes back loses no encoder.
        assert_eq!(
            after.push(B, vec![key("camera", 1)], 8, both_clocks()).contested,
            [id(A, "camera")]
        );
        let back = after.push(A, vec![key("camera", 1), key("roof", 2)], 8, both_clocks());
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
    fn a_key_is_good_until_its_end_also_after_a_restart() {
        let (now, today) = both_clocks();
        let hour = Duration::from_secs(3_600);
        let mut directory = Directory::default();
        let limited = |left| vec![FeedKey { left: Some(left), ..key("camera", 1) }, key("roof", 2)];
        directory.push(A, limited(hour), 8, (now, today));
        directory.push_logins(A, vec![login("camera", "camera-00000001", 1)]);
        let (hash, user) = (KeyHash([1; 32]), "camera-00000001");
        let last = now + hour - Duration::from_millis(1);
        assert_eq!(directory.find(&hash, last), Some(id(A, "camera")));
        assert!(directory.find_user(user, last).is_some());
        assert_eq!(directory.find(&hash, now + hour), None);
        assert_eq!(directory.find_user(user, now + hour), None);
        assert!(
            directory.find(&KeyHash([2; 32]), now + 9 * hour).is_some(),
            "the other has no end"
        );
        // It stays taken, and who has it may make it longer, which closes no encoder.
        let claimed = directory.push(B, vec![key("camera", 1)], 8, (now + hour, today + hour));
        assert_eq!(claimed.contested, [id(A, "camera")]);
        let longer = directory.push(A, limited(2 * hour), 8, (now, today));
        assert_eq!((longer.revoked, longer.removed), (vec![], vec![]));
        assert!(directory.find(&hash, now + hour).is_some());

        directory.leave(&A, now, today);
        for (away, is_good) in [(hour, true), (3 * hour, false)] {
            let mut after = Directory::default();
            after.restore(directory.known(), 8, now, today + away);
            assert_eq!(after.find(&hash, now).is_some(), is_good, "{away:?}");
            assert_eq!(after.find(&hash, now + hour), None, "{away:?}");
            assert!(after.find(&KeyHash([2; 32]), now).is_some());
        }
        let endless = vec![FeedKey { left: Some(Duration::MAX), ..key("camera", 1) }];
        directory.push(A, endless, 8, (now, today));
        assert!(directory.find(&hash, now + 9 * hour).is_some());
    }

    #[test]
    fn who_is_expelled_is_forgotten_and_nobody_else() {
        let mut directory = Directory::default();
        directory.push(A, vec![key("camera", 1)], 8, both_clocks());
        directory.push_logins(A, vec![login("camera", "camera-00000001", 1)]);
        directory.push(B, vec![key("camera", 2)], 8, both_clocks());
        assert_eq!(directory.expel(&A), [id(A, "camera")]);
        assert_eq!(directory.expel(&A), []);
        assert_eq!(directory.feeds().collect::<Vec<_>>(), [id(B, "camera")]);
        assert_eq!(directory.find_user("camera-00000001", Instant::now()), None);
    }

    #[test]
    fn those_who_left_first_make_room() {
        let now = Instant::now();
        let mut directory = Directory::default();
        directory.push(B, vec![key("camera", 0)], 8, both_clocks());
        for n in 0..=MAX_AWAY as u64 {
            let mut studio = PublicKey([7; 32]);
            studio.0[..8].copy_from_slice(&n.to_be_bytes());
            let mut hash = [7; 32];
            hash[..8].copy_from_slice(&n.to_be_bytes());
            directory.push(
                studio,
                vec![FeedKey { name: "camera".into(), hash, left: None }],
                8,
                both_clocks(),
            );
            let removed =
                directory.leave(&studio, now + Duration::from_millis(n), SystemTime::now());
            assert_eq!(removed.len(), usize::from(n == MAX_AWAY as u64));
        }
        assert!(
            directory.find(&KeyHash([0; 32]), Instant::now()).is_some(),
            "one that is here stays"
        );
        assert_eq!(directory.feeds().count(), MAX_AWAY + 1);
        directory.push(A, vec![], 8, both_clocks());
        assert_eq!(directory.leave(&A, now, SystemTime::now()), []);
        assert!(!directory.studios.contains_key(&A), "of one without feeds nothing is kept");
    }
}
