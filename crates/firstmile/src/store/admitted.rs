//! The studios that a relay has admitted, by their public keys.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::{DataDir, StoreError, unix_seconds};
use crate::identity::PublicKey;

const FILE: &str = "admitted.toml";

/// Most studios that a relay remembers, so that one leaked link cannot fill its disk.
const MAX_STUDIOS: usize = 4096;

/// "Last seen" is written at most this often, so that a flapping link does not wear the disk.
const SEEN_EVERY: Duration = Duration::from_secs(3600);

/// A studio that may come back without an invite.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdmittedStudio {
    /// Its public key.
    pub key: PublicKey,
    /// When it was admitted, in seconds since 1970.
    pub admitted: u64,
    /// When it was last seen, in seconds since 1970, to the hour.
    pub last_seen: u64,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default, rename = "studio")]
    studios: Vec<AdmittedStudio>,
}

/// The studios in `admitted.toml`; every change is on disk when its call returns.
#[derive(Debug)]
pub struct Admitted {
    data: DataDir,
    studios: Vec<AdmittedStudio>,
}

impl Admitted {
    /// Reads the studios; none if there is no file.
    pub fn load(data: &DataDir) -> Result<Self, StoreError> {
        let document: Document = data.read_toml(FILE)?.unwrap_or_default();
        Ok(Self { data: data.clone(), studios: document.studios })
    }

    /// All studios, in the order in which they were admitted.
    pub fn list(&self) -> &[AdmittedStudio] {
        &self.studios
    }

    /// Whether this studio was admitted.
    pub fn contains(&self, key: &PublicKey) -> bool {
        self.studios.iter().any(|studio| studio.key == *key)
    }

    /// Remembers a studio that redeemed an invite, or notes that a known one is here.
    pub fn admit(&mut self, key: PublicKey, now: SystemTime) -> Result<(), StoreError> {
        if self.contains(&key) {
            return self.seen(&key, now);
        }
        if self.studios.len() >= MAX_STUDIOS {
            return Err(StoreError::Full { what: "admitted studios", limit: MAX_STUDIOS });
        }
        let now = unix_seconds(now);
        let mut studios = self.studios.clone();
        studios.push(AdmittedStudio { key, admitted: now, last_seen: now });
        self.save(studios)
    }

    /// Notes that a studio is here, to the hour.
    pub fn seen(&mut self, key: &PublicKey, now: SystemTime) -> Result<(), StoreError> {
        let now = unix_seconds(now);
        let mut studios = self.studios.clone();
        let Some(studio) = studios.iter_mut().find(|studio| studio.key == *key) else {
            return Ok(());
        };
        if now < studio.last_seen.saturating_add(SEEN_EVERY.as_secs()) {
            return Ok(());
        }
        studio.last_seen = now;
        self.save(studios)
    }

    /// Forgets a studio; `false` if it was not known.
    pub fn revoke(&mut self, key: &PublicKey) -> Result<bool, StoreError> {
        let mut studios = self.studios.clone();
        studios.retain(|studio| studio.key != *key);
        let known = studios.len() != self.studios.len();
        if known {
            self.save(studios)?;
        }
        Ok(known)
    }

    fn save(&mut self, studios: Vec<AdmittedStudio>) -> Result<(), StoreError> {
        let document = Document { studios };
        self.data.write_toml(FILE, &document)?;
        self.studios = document.studios;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_and_forgets() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let key = PublicKey([5; 32]);
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let mut admitted = Admitted::load(&data).unwrap();
        assert!(!admitted.contains(&key));
        admitted.admit(key, start).unwrap();
        admitted.admit(key, start + Duration::from_secs(60)).unwrap();
        assert_eq!(admitted.list()[0].last_seen, 1_000_000, "not yet an hour");
        admitted.seen(&key, start + SEEN_EVERY).unwrap();
        let reloaded = Admitted::load(&data).unwrap();
        assert!(reloaded.contains(&key));
        assert_eq!(reloaded.list()[0].last_seen, 1_003_600);
        assert!(admitted.revoke(&key).unwrap());
        assert!(!Admitted::load(&data).unwrap().contains(&key));
    }
}
