//! Users and passwords, for encoders that have fields for them (`authmod=adobe`, see
//! [`rtmp::adobe`]).
//!
//! A feed whose owner switched it on has a user, `NAME-` and 8 random symbols, and a password of
//! its own. The studio knows the password; a relay gets what proves it, a [`Verifier`].
//!
//! Nobody learns which users there are. The salt is computed from the user alone, so that it is
//! the same at every node, known user or not, before and after a restart. A challenge is not
//! stored but signed, so that no flood of strangers pushes out an honest one; only answers that
//! were right are remembered, by user, until their challenge expires.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hmac::{Hmac, Mac};
use hub::{Cut, Feed};
use media::PublicationId;
use rtmp::adobe::{self, Answer, Verifier};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::base32;
use crate::secret::{FeedName, Secret};

/// Random symbols at the end of a user: 40 bits, so that no two are the same by accident.
const USER_SYMBOLS: usize = 8;

/// How long a challenge may be answered; the client has it on a screen's time at most.
const LIFETIME: Duration = Duration::from_secs(60);

/// Challenges of one user that were answered and have not expired; only who has the password can
/// fill this, and only against himself.
const MAX_USED: usize = 64;

const NONCE: usize = 9;
const TAG: usize = 12;
/// Symbols of a challenge: seconds, nonce and tag are 25 bytes.
const CHALLENGE_SYMBOLS: usize = 40;

/// A feed's user and password.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// What the encoder's field "User" takes.
    pub user: String,
    /// What its field "Password" takes.
    pub password: Secret,
}

impl Login {
    /// A new user and a new password for a feed.
    pub fn random(feed: &FeedName) -> Self {
        let drawn = Secret::random();
        let user = format!("{feed}-{}", &drawn.expose()[..USER_SYMBOLS]);
        Self { user, password: Secret::random() }
    }

    /// What a relay needs to know of the password.
    pub fn verifier(&self) -> Verifier {
        adobe::verifier(&self.user, &salt(&self.user), self.password.expose())
    }
}

/// Whether a text is a user as [`Login::random`] makes them.
pub fn is_user(text: &str) -> bool {
    let symbols = |text: &str| {
        text.len() == USER_SYMBOLS && text.bytes().all(|byte| base32::SYMBOLS.contains(&byte))
    };
    text.rsplit_once('-')
        .is_some_and(|(name, end)| symbols(end) && name.parse::<FeedName>().is_ok())
}

/// Everybody's salt: 16 symbols.
pub fn salt(user: &str) -> String {
    let hash = Sha256::new().chain_update(b"firstmile salt v1\0").chain_update(user).finalize();
    base32::encode_bytes(&hash[..10])
}

/// Challenges that were given out by one door, all of whose connections share it.
#[derive(Debug)]
pub struct Challenges {
    key: [u8; 32],
    started: Instant,
    /// What the seconds are counted from: how long a node runs is nobody's business.
    first_second: u32,
    used: Mutex<HashMap<String, VecDeque<Used>>>,
}

#[derive(Debug)]
struct Used {
    expires: u32,
    nonce: [u8; NONCE],
}

impl Challenges {
    /// None yet; time counts from `now`.
    pub fn new(now: Instant) -> Self {
        Self {
            key: rand::random(),
            started: now,
            first_second: rand::random::<u32>() / 2,
            used: Mutex::default(),
        }
    }

    /// A new challenge for this user, whoever that is.
    pub fn issue(&self, user: &str, now: Instant) -> String {
        self.challenge(user, self.seconds(now + LIFETIME), rand::random())
    }

    /// Whether a right answer is to a challenge of ours that is still open; it is closed then.
    pub fn redeem(&self, answer: &Answer, now: Instant) -> bool {
        let Some((expires, nonce)) = parse(&answer.opaque) else { return false };
        let now = self.seconds(now);
        let ours = self.challenge(&answer.user, expires, nonce);
        let is_ours = subtle::ConstantTimeEq::ct_eq(ours.as_bytes(), answer.opaque.as_bytes());
        if !bool::from(is_ours) || expires < now {
            return false;
        }
        let mut users = self.lock();
        users.retain(|_, used| {
            used.retain(|used| used.expires >= now);
            !used.is_empty()
        });
        let used = users.entry(answer.user.clone()).or_default();
        if used.len() >= MAX_USED || used.iter().any(|used| used.nonce == nonce) {
            return false;
        }
        used.push_back(Used { expires, nonce });
        true
    }

    fn challenge(&self, user: &str, expires: u32, nonce: [u8; NONCE]) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).expect("any length is a key");
        mac.update(&expires.to_be_bytes());
        mac.update(&nonce);
        mac.update(user.as_bytes());
        let tag = mac.finalize().into_bytes();
        base32::encode_bytes(&[&expires.to_be_bytes()[..], &nonce, &tag[..TAG]].concat())
    }

    /// 68 years fit.
    fn seconds(&self, at: Instant) -> u32 {
        self.first_second + at.saturating_duration_since(self.started).as_secs() as u32
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, VecDeque<Used>>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When a challenge expires, and its nonce.
fn parse(challenge: &str) -> Option<(u32, [u8; NONCE])> {
    if challenge.len() != CHALLENGE_SYMBOLS {
        return None;
    }
    let mut bytes = Vec::with_capacity(CHALLENGE_SYMBOLS * 5 / 8);
    for symbols in challenge.as_bytes().chunks(8) {
        let mut number = 0u64;
        for &symbol in symbols {
            number = number << 5 | u64::from(base32::value(symbol)?);
        }
        bytes.extend(&number.to_be_bytes()[3..]);
    }
    let (expires, rest) = bytes.split_first_chunk()?;
    Some((u32::from_be_bytes(*expires), *rest.first_chunk()?))
}

/// Publications that came with a password, so that they can be ended with it; one a feed.
#[derive(Debug)]
pub struct OnAir<K>(Mutex<HashMap<K, PublicationId>>);

impl<K> Default for OnAir<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash> OnAir<K> {
    /// Takes note of a publication.
    pub fn note(&self, feed: K, publication: PublicationId) {
        self.lock().insert(feed, publication);
    }

    /// Ends a feed's publication if it came with a password.
    pub fn cut(&self, name: &K, feed: &Feed, now: Instant) {
        let publication = self.lock().remove(name);
        if let Some(publication) = publication {
            feed.cut_publication(publication, Cut::Revoked, now);
        }
    }

    /// Forgets a feed.
    pub fn forget(&self, name: &K) {
        self.lock().remove(name);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, PublicationId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer whose proof is somebody else's to check.
    fn answer(user: &str, opaque: &str) -> Answer {
        let text = |text: &str| text.to_owned();
        Answer {
            user: text(user),
            opaque: text(opaque),
            challenge: text("0badcafe"),
            response: String::new(),
        }
    }

    #[test]
    fn users_are_unique_and_are_recognised() {
        let feed: FeedName = "roof-2".parse().unwrap();
        let (a, b) = (Login::random(&feed), Login::random(&feed));
        assert!(is_user(&a.user) && a.user.starts_with("roof-2-"), "{}", a.user);
        assert_ne!(a.user, b.user);
        assert_ne!(a.verifier(), b.verifier());
        assert!(!format!("{a:?}").contains(a.password.expose()));
        for text in ["", "roof-2", "-7K2M9Q4X", "roof-7K2M9Q4", "roof-7k2m9q4x", "ä-7K2M9Q4X"] {
            assert!(!is_user(text), "{text}");
        }
    }

    #[test]
    fn everybody_has_a_salt() {
        assert_eq!(salt("camera-7K2M9Q4X"), salt("camera-7K2M9Q4X"));
        assert_ne!(salt("camera-7K2M9Q4X"), salt("camera-7K2M9Q4Y"));
        assert_eq!(salt("").len(), 16);
    }

    #[test]
    fn a_challenge_is_answered_once_by_its_user_and_in_time() {
        let now = Instant::now();
        let challenges = Challenges::new(now);
        let issued = challenges.issue("me", now);
        assert_eq!(issued.len(), CHALLENGE_SYMBOLS);
        assert_ne!(issued, challenges.issue("me", now));
        assert!(!challenges.redeem(&answer("you", &issued), now), "it is another's");
        let late = now + LIFETIME + Duration::from_secs(1);
        assert!(!challenges.redeem(&answer("me", &issued), late));
        assert!(challenges.redeem(&answer("me", &issued), now));
        assert!(!challenges.redeem(&answer("me", &issued), now), "once");
        assert!(!Challenges::new(now).redeem(&answer("me", &issued), now), "another door's");
        for forged in ["", "0", &"0".repeat(40), &"é".repeat(20), &issued.replace('0', "1")] {
            assert!(!challenges.redeem(&answer("me", forged), now), "{forged}");
        }
    }

    #[test]
    fn a_flood_hurts_nobody_else() {
        let now = Instant::now();
        let challenges = Challenges::new(now);
        let honest = challenges.issue("honest", now);
        for _ in 0..2 * MAX_USED {
            let issued = challenges.issue("me", now);
            challenges.redeem(&answer("me", &issued), now);
            challenges.redeem(&answer("stranger", "x"), now);
        }
        let users = challenges.lock();
        assert_eq!((users.len(), users["me"].len()), (1, MAX_USED));
        drop(users);
        assert!(challenges.redeem(&answer("honest", &honest), now));
        let later = now + LIFETIME + Duration::from_secs(1);
        let issued = challenges.issue("me", later);
        assert!(challenges.redeem(&answer("me", &issued), later), "the old ones have expired");
        assert_eq!(challenges.lock().len(), 1);
    }

    #[test]
    fn only_what_came_with_a_password_ends_with_it() {
        let now = Instant::now();
        let feed = Feed::new(hub::Limits::default());
        let on_air = OnAir::default();
        let by_password = feed.publish(PublicationId([1; 16]), now).unwrap();
        on_air.note("camera", by_password.publication());
        on_air.cut(&"camera", &feed, now);
        assert_eq!(by_password.cut(), Some(Cut::Revoked));
        let first = feed.publish(PublicationId([2; 16]), now).unwrap();
        on_air.note("camera", first.publication());
        let by_key = feed.publish(PublicationId([3; 16]), now).unwrap();
        on_air.cut(&"camera", &feed, now);
        assert_eq!(by_key.cut(), None);
    }
}
