//! The studios that a relay has admitted, by their public keys.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::{DataDir, StoreError, unix_ms, unix_seconds};
use crate::identity::PublicKey;
use crate::status::{StudioInfo, StudioState};

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
    /// What it called itself then.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// When the relay's owner has cut it off, in milliseconds since 1970. It may not come back, but by
    /// an invite of later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut_off_ms: Option<u64>,
}

impl AdmittedStudio {
    /// What is known of it while it is not here.
    pub fn info(&self) -> StudioInfo {
        StudioInfo {
            key: self.key.to_base32(),
            name: self.name.clone(),
            state: match self.cut_off_ms {
                Some(_) => StudioState::Removed,
                None => StudioState::Away,
            },
            admitted_s: Some(self.admitted),
            seen_s: Some(self.last_seen),
            cut_off_s: self.cut_off_ms.map(|ms| ms / 1_000),
            ..StudioInfo::default()
        }
    }
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

    /// Whether this studio was admitted, and not cut off since.
    pub fn contains(&self, key: &PublicKey) -> bool {
        self.find(key).is_some_and(|studio| studio.cut_off_ms.is_none())
    }

    /// When this studio was cut off, in milliseconds since 1970; `None` if it was not.
    pub fn cut_off_ms(&self, key: &PublicKey) -> Option<u64> {
        self.find(key)?.cut_off_ms
    }

    fn find(&self, key: &PublicKey) -> Option<&AdmittedStudio> {
        self.studios.iter().find(|studio| studio.key == *key)
    }

    /// Remembers a studio that redeemed an invite, or notes that a known one is here.
    pub fn admit(&mut self, key: PublicKey, name: &str, now: SystemTime) -> Result<(), StoreError> {
        if self.contains(&key) {
            return self.seen(&key, name, now);
        }
        if self.find(&key).is_some() {
            return self.restore(&key);
        }
        self.add(key, name, None, now)
    }

    fn add(
        &mut self,
        key: PublicKey,
        name: &str,
        cut_off_ms: Option<u64>,
        now: SystemTime,
    ) -> Result<(), StoreError> {
        if self.studios.len() >= MAX_STUDIOS {
            return Err(StoreError::Full { what: "admitted studios", limit: MAX_STUDIOS });
        }
        let now = unix_seconds(now);
        let mut studios = self.studios.clone();
        let name = name.to_owned();
        studios.push(AdmittedStudio { key, admitted: now, last_seen: now, name, cut_off_ms });
        self.save(studios)
    }

    /// Takes a studio's admission away. One that an open relay has let in without, gets a place for
    /// that.
    pub fn cut_off(
        &mut self,
        key: PublicKey,
        name: &str,
        now: SystemTime,
    ) -> Result<(), StoreError> {
        let at_ms = Some(unix_ms(now));
        let mut studios = self.studios.clone();
        match studios.iter_mut().find(|studio| studio.key == key) {
            Some(studio) => studio.cut_off_ms = at_ms,
            None => return self.add(key, name, at_ms, now),
        }
        self.save(studios)
    }

    /// Gives a studio that was cut off its admission back.
    pub fn restore(&mut self, key: &PublicKey) -> Result<(), StoreError> {
        let mut studios = self.studios.clone();
        let studio = studios.iter_mut().find(|studio| studio.key == *key);
        match studio.and_then(|studio| studio.cut_off_ms.take()) {
            Some(_) => self.save(studios),
            None => Ok(()),
        }
    }

    /// Notes that a studio is here, to the hour, and what it calls itself.
    pub fn seen(&mut self, key: &PublicKey, name: &str, now: SystemTime) -> Result<(), StoreError> {
        let now = unix_seconds(now);
        let mut studios = self.studios.clone();
        let Some(studio) = studios.iter_mut().find(|studio| studio.key == *key) else {
            return Ok(());
        };
        let is_named = !studio.name.is_empty() || name.is_empty();
        if now < studio.last_seen.saturating_add(SEEN_EVERY.as_secs()) && is_named {
            return Ok(());
        }
        studio.last_seen = now;
        name.clone_into(&mut studio.name);
        self.save(studios)
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
        admitted.admit(key, "studio", start).unwrap();
        admitted.admit(key, "studio", start + Duration::from_secs(60)).unwrap();
        assert_eq!(admitted.list()[0].last_seen, 1_000_000, "not yet an hour");
        admitted.seen(&key, "studio", start + SEEN_EVERY).unwrap();
        let reloaded = Admitted::load(&data).unwrap();
        assert!(reloaded.contains(&key));
        assert_eq!(reloaded.list()[0].last_seen, 1_003_600);
    }

    #[test]
    fn who_is_cut_off_is_remembered_as_such() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let (known, guest) = (PublicKey([5; 32]), PublicKey([6; 32]));
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(1_000_500);
        let mut admitted = Admitted::load(&data).unwrap();
        admitted.admit(known, "", now).unwrap();
        for key in [known, guest] {
            admitted.cut_off(key, "studio", now).unwrap();
            let mut reloaded = Admitted::load(&data).unwrap();
            assert!(!reloaded.contains(&key));
            assert_eq!(reloaded.cut_off_ms(&key), Some(1_000_500));
            assert_eq!(reloaded.list().len(), 1 + usize::from(key == guest));
            reloaded.restore(&key).unwrap();
            assert!(reloaded.contains(&key) && reloaded.cut_off_ms(&key).is_none());
        }
        let mut admitted = Admitted::load(&data).unwrap();
        admitted.cut_off(known, "", now).unwrap();
        admitted.admit(known, "studio", now).unwrap();
        assert!(Admitted::load(&data).unwrap().contains(&known), "by a new invite");
    }
}
