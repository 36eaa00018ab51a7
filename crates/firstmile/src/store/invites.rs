//! The invites that a relay has given out; their hashes, never the invites.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::{DataDir, StoreError, unix_ms, unix_seconds};
use crate::base32;
use crate::secret::{KeyHash, Secret};
use crate::status::InviteInfo;

const FILE: &str = "invites.toml";

/// Most invites at one time.
const MAX_INVITES: usize = 1000;

/// Symbols of its hash that an invite is called by: of a thousand, no two are the same by accident.
const ID_SYMBOLS: usize = 10;

/// A dead invite is remembered this long, so that its holder is told why it is refused.
const REMEMBER: Duration = Duration::from_secs(7 * 24 * 3600);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Invite {
    hash: KeyHash,
    /// Milliseconds since 1970; of those of before this was kept, the beginning.
    #[serde(default)]
    created_ms: u64,
    /// Seconds since 1970.
    expires: u64,
    /// `None` admits any number of studios.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    uses_left: Option<u32>,
}

impl Invite {
    fn id(&self) -> String {
        base32::encode(&self.hash.0)[..ID_SYMBOLS].to_owned()
    }

    fn info(&self, until_restart: bool) -> InviteInfo {
        let (expires_s, uses_left) = (self.expires, self.uses_left);
        InviteInfo { id: self.id(), expires_s, uses_left, until_restart }
    }

    fn admits(&self, now: u64) -> bool {
        now < self.expires && self.uses_left != Some(0)
    }

    fn forgotten(&self, now: u64) -> bool {
        self.expires.saturating_add(REMEMBER.as_secs()) <= now
    }
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default, rename = "invite")]
    invites: Vec<Invite>,
}

/// The invites in `invites.toml`, and those that end with this process.
#[derive(Debug)]
pub struct Invites {
    data: DataDir,
    stored: Vec<Invite>,
    until_restart: Vec<Invite>,
}

impl Invites {
    /// Reads the invites; none if there is no file.
    pub fn load(data: &DataDir) -> Result<Self, StoreError> {
        let document: Document = data.read_toml(FILE)?.unwrap_or_default();
        Ok(Self { data: data.clone(), stored: document.invites, until_restart: Vec::new() })
    }

    /// Makes an invite for `uses` studios (`None`: any number) that expires after `expires`.
    pub fn create(
        &mut self,
        uses: Option<u32>,
        expires: Duration,
        now: SystemTime,
    ) -> Result<Secret, StoreError> {
        let (secret, invite) = fresh(uses, expires, now);
        let mut invites = self.stored.clone();
        invites.retain(|invite| !invite.forgotten(unix_seconds(now)));
        if invites.len() >= MAX_INVITES {
            return Err(StoreError::Full { what: "invites", limit: MAX_INVITES });
        }
        invites.push(invite);
        self.save(invites)?;
        Ok(secret)
    }

    /// Makes an invite for any number of studios that is kept in memory only.
    pub fn create_until_restart(&mut self, expires: Duration, now: SystemTime) -> Secret {
        let (secret, invite) = fresh(None, expires, now);
        self.until_restart.retain(|invite| !invite.forgotten(unix_seconds(now)));
        self.until_restart.push(invite);
        secret
    }

    /// The invites that still admit somebody, the one of the start first.
    pub fn list(&self, now: SystemTime) -> Vec<InviteInfo> {
        let now = unix_seconds(now);
        let infos = |invites: &[Invite], until_restart| -> Vec<_> {
            let good = invites.iter().filter(|invite| invite.admits(now));
            good.map(|invite| invite.info(until_restart)).collect()
        };
        [infos(&self.until_restart, true), infos(&self.stored, false)].concat()
    }

    /// Whether an invite still admits somebody.
    pub fn admits(&self, secret: &Secret, now: SystemTime) -> bool {
        let (hash, now) = (secret.invite_hash(), unix_seconds(now));
        let mut all = self.stored.iter().chain(&self.until_restart);
        all.any(|invite| invite.hash.matches(&hash) && invite.admits(now))
    }

    /// Forgets the invite of an [`InviteInfo`]; `false` if there is none.
    pub fn revoke(&mut self, id: &str) -> Result<bool, StoreError> {
        let before = self.until_restart.len();
        self.until_restart.retain(|invite| invite.id() != id);
        let mut stored = self.stored.clone();
        stored.retain(|invite| invite.id() != id);
        if stored.len() < self.stored.len() {
            self.save(stored)?;
            return Ok(true);
        }
        Ok(self.until_restart.len() < before)
    }

    /// Uses an invite once; with `after_ms` one that was made after that many milliseconds since 1970.
    ///
    /// Every invite is compared, each in constant time, so that the time taken tells nothing.
    pub fn redeem(
        &mut self,
        secret: &Secret,
        after_ms: Option<u64>,
        now: SystemTime,
    ) -> Result<(), Refused> {
        let hash = secret.invite_hash();
        let now = unix_seconds(now);
        let known = self.stored.len();
        let mut found = None;
        for (at, invite) in self.stored.iter().chain(&self.until_restart).enumerate() {
            if invite.hash.matches(&hash) {
                found = Some((at, invite));
            }
        }
        let (at, invite) = found
            .filter(|(_, invite)| after_ms.is_none_or(|after| invite.created_ms > after))
            .ok_or(Refused::Unknown)?;
        if invite.expires <= now {
            return Err(Refused::Expired);
        }
        match invite.uses_left {
            None => Ok(()),
            Some(0) => Err(Refused::UsedUp),
            Some(uses) => {
                // Only stored invites count uses. One that cannot be counted is not used.
                debug_assert!(at < known, "an invite until restart has no limit");
                let mut invites = self.stored.clone();
                invites[at].uses_left = Some(uses - 1);
                self.save(invites).map_err(Refused::Store)
            }
        }
    }

    fn save(&mut self, invites: Vec<Invite>) -> Result<(), StoreError> {
        let document = Document { invites };
        self.data.write_toml(FILE, &document)?;
        self.stored = document.invites;
        Ok(())
    }
}

fn fresh(uses: Option<u32>, expires: Duration, now: SystemTime) -> (Secret, Invite) {
    let secret = Secret::random();
    let (hash, created_ms) = (secret.invite_hash(), unix_ms(now));
    let expires = unix_seconds(now).saturating_add(expires.as_secs());
    let invite = Invite { hash, created_ms, expires, uses_left: uses };
    (secret, invite)
}

/// Why an invite was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// No such invite, or one that ended with a restart.
    #[error("this invite is not known here")]
    Unknown,
    /// Its time is over.
    #[error("this invite has expired")]
    Expired,
    /// As many studios as it was for have used it.
    #[error("this invite was already used")]
    UsedUp,
    /// Its use could not be written down.
    #[error("this invite could not be counted")]
    Store(#[source] StoreError),
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    #[test]
    fn counts_uses_across_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let now = SystemTime::now();
        let secret = Invites::load(&data).unwrap().create(Some(2), DAY, now).unwrap();
        Invites::load(&data).unwrap().redeem(&secret, None, now).unwrap();
        let mut invites = Invites::load(&data).unwrap();
        invites.redeem(&secret, None, now).unwrap();
        assert!(matches!(invites.redeem(&secret, None, now), Err(Refused::UsedUp)));
        let text = std::fs::read_to_string(data.file(FILE)).unwrap();
        assert!(!text.contains(secret.expose()));
    }

    #[test]
    fn expires_and_is_forgotten_later() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let now = SystemTime::now();
        let mut invites = Invites::load(&data).unwrap();
        let secret = invites.create(None, DAY, now).unwrap();
        invites.redeem(&secret, None, now).unwrap();
        assert!(matches!(invites.redeem(&secret, None, now + DAY), Err(Refused::Expired)));
        invites.create(None, DAY, now + DAY + REMEMBER).unwrap();
        assert!(matches!(invites.redeem(&secret, None, now + DAY), Err(Refused::Unknown)));
        assert!(matches!(invites.redeem(&Secret::random(), None, now), Err(Refused::Unknown)));
    }

    #[test]
    fn invites_are_listed_and_revoked() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let now = SystemTime::now();
        let mut invites = Invites::load(&data).unwrap();
        let start = invites.create_until_restart(DAY, now);
        let one = invites.create(Some(1), DAY, now).unwrap();
        let two = invites.create(Some(2), 2 * DAY, now).unwrap();
        let list = invites.list(now);
        let uses: Vec<_> = list.iter().map(|info| (info.uses_left, info.until_restart)).collect();
        assert_eq!(uses, [(None, true), (Some(1), false), (Some(2), false)]);
        assert_eq!(invites.list(now + DAY).len(), 1, "the others have expired");
        invites.redeem(&one, None, now).unwrap();
        assert_eq!(invites.list(now).len(), 2, "it was used up");
        assert!(!invites.revoke("0000000000").unwrap());
        assert!(invites.admits(&start, now));
        for info in list {
            assert!(invites.revoke(&info.id).unwrap());
        }
        assert!(!invites.admits(&start, now));
        let mut reloaded = Invites::load(&data).unwrap();
        assert!(matches!(reloaded.redeem(&two, None, now), Err(Refused::Unknown)));
    }

    #[test]
    fn an_invite_of_before_does_not_undo_what_came_after() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let now = SystemTime::now();
        let mut invites = Invites::load(&data).unwrap();
        let secret = invites.create(None, DAY, now).unwrap();
        let ms = unix_ms(now);
        let redeemed = invites.redeem(&secret, Some(ms), now);
        assert!(matches!(redeemed, Err(Refused::Unknown)));
        invites.redeem(&secret, Some(ms - 1), now).unwrap();
    }

    #[test]
    fn one_kind_ends_with_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let now = SystemTime::now();
        let mut invites = Invites::load(&data).unwrap();
        let secret = invites.create_until_restart(DAY, now);
        invites.redeem(&secret, None, now).unwrap();
        invites.redeem(&secret, None, now).unwrap();
        assert!(matches!(invites.redeem(&secret, None, now + DAY), Err(Refused::Expired)));
        let mut restarted = Invites::load(&data).unwrap();
        assert!(matches!(restarted.redeem(&secret, None, now), Err(Refused::Unknown)));
    }
}
