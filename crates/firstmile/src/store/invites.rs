//! The invites that a relay has given out; their hashes, never the invites.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::{DataDir, StoreError, unix_seconds};
use crate::secret::{KeyHash, Secret};

const FILE: &str = "invites.toml";

/// Most invites at one time.
const MAX_INVITES: usize = 1000;

/// A dead invite is remembered this long, so that its holder is told why it is refused.
const REMEMBER: Duration = Duration::from_secs(7 * 24 * 3600);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Invite {
    hash: KeyHash,
    /// Seconds since 1970.
    expires: u64,
    /// `None` admits any number of studios.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    uses_left: Option<u32>,
}

impl Invite {
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

    /// Uses an invite once.
    ///
    /// Every invite is compared, each in constant time, so that the time taken tells nothing.
    pub fn redeem(&mut self, secret: &Secret, now: SystemTime) -> Result<(), Refused> {
        let hash = secret.invite_hash();
        let now = unix_seconds(now);
        let known = self.stored.len();
        let mut found = None;
        for (at, invite) in self.stored.iter().chain(&self.until_restart).enumerate() {
            if invite.hash.matches(&hash) {
                found = Some((at, invite));
            }
        }
        let (at, invite) = found.ok_or(Refused::Unknown)?;
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
    let expires = unix_seconds(now).saturating_add(expires.as_secs());
    let invite = Invite { hash: secret.invite_hash(), expires, uses_left: uses };
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
        Invites::load(&data).unwrap().redeem(&secret, now).unwrap();
        let mut invites = Invites::load(&data).unwrap();
        invites.redeem(&secret, now).unwrap();
        assert!(matches!(invites.redeem(&secret, now), Err(Refused::UsedUp)));
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
        invites.redeem(&secret, now).unwrap();
        assert!(matches!(invites.redeem(&secret, now + DAY), Err(Refused::Expired)));
        invites.create(None, DAY, now + DAY + REMEMBER).unwrap();
        assert!(matches!(invites.redeem(&secret, now + DAY), Err(Refused::Unknown)));
        assert!(matches!(invites.redeem(&Secret::random(), now), Err(Refused::Unknown)));
    }

    #[test]
    fn one_kind_ends_with_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let now = SystemTime::now();
        let mut invites = Invites::load(&data).unwrap();
        let secret = invites.create_until_restart(DAY, now);
        invites.redeem(&secret, now).unwrap();
        invites.redeem(&secret, now).unwrap();
        assert!(matches!(invites.redeem(&secret, now + DAY), Err(Refused::Expired)));
        let mut restarted = Invites::load(&data).unwrap();
        assert!(matches!(restarted.redeem(&secret, now), Err(Refused::Unknown)));
    }
}
