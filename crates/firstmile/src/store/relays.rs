//! The relays that a studio has joined, and the place at which a relay is reached.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{DataDir, StoreError, read_toml};
use crate::identity::PublicKey;
use crate::join::{JoinLink, host_port};
use crate::secret::Secret;

const FILE: &str = "relays.toml";
const PLACE_FILE: &str = "place.toml";

/// Most relays of one studio; each costs a connection that is always up.
const MAX_RELAYS: usize = 64;

/// A relay that this studio dials.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinedRelay {
    /// What the studio's owner calls it; its host unless changed.
    pub name: String,
    /// Name or address, resolved anew at every attempt.
    pub host: String,
    /// Its secure port.
    pub port: u16,
    /// Its public key, which is what it is known by.
    pub pin: PublicKey,
    /// Kept until the relay has admitted this studio.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invite: Option<Secret>,
}

impl JoinedRelay {
    /// `HOST:PORT`, for logs.
    pub fn address(&self) -> String {
        host_port(&self.host, self.port)
    }
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default, rename = "relay")]
    relays: Vec<JoinedRelay>,
}

/// The relays in `relays.toml`; every change is on disk when its call returns.
#[derive(Debug)]
pub struct Relays {
    data: DataDir,
    relays: Vec<JoinedRelay>,
}

impl Relays {
    /// Reads the relays; none if there is no file.
    pub fn load(data: &DataDir) -> Result<Self, StoreError> {
        let document: Document = data.read_toml(FILE)?.unwrap_or_default();
        Ok(Self { data: data.clone(), relays: document.relays })
    }

    /// Reads the relays of a directory that another process may own.
    pub fn peek(data: &Path) -> Result<Vec<JoinedRelay>, StoreError> {
        let document: Option<Document> = read_toml(&data.join(FILE))?;
        Ok(document.unwrap_or_default().relays)
    }

    /// All relays, in the order in which they were joined.
    pub fn list(&self) -> &[JoinedRelay] {
        &self.relays
    }

    /// Takes a link in. A known pin gets the new place and the new invite: relays move.
    pub fn join(&mut self, link: &JoinLink) -> Result<JoinedRelay, StoreError> {
        let mut relays = self.relays.clone();
        let full = relays.len() >= MAX_RELAYS;
        let joined = match relays.iter_mut().find(|relay| relay.pin == link.pin) {
            Some(known) => {
                if known.name == known.host {
                    known.name.clone_from(&link.host);
                }
                known.host.clone_from(&link.host);
                known.port = link.port;
                known.invite = Some(link.invite.clone());
                known.clone()
            }
            None if full => {
                return Err(StoreError::Full { what: "relays", limit: MAX_RELAYS });
            }
            None => {
                let relay = JoinedRelay {
                    name: link.host.clone(),
                    host: link.host.clone(),
                    port: link.port,
                    pin: link.pin,
                    invite: Some(link.invite.clone()),
                };
                relays.push(relay.clone());
                relay
            }
        };
        self.save(relays)?;
        Ok(joined)
    }

    /// Drops the invite of a relay that has admitted this studio.
    pub fn admitted(&mut self, pin: &PublicKey) -> Result<(), StoreError> {
        let mut relays = self.relays.clone();
        let relay = relays.iter_mut().find(|relay| relay.pin == *pin);
        match relay.and_then(|relay| relay.invite.take()) {
            Some(_) => self.save(relays),
            None => Ok(()),
        }
    }

    /// Forgets a relay; `false` if it was not known.
    pub fn leave(&mut self, pin: &PublicKey) -> Result<bool, StoreError> {
        let mut relays = self.relays.clone();
        relays.retain(|relay| relay.pin != *pin);
        let known = relays.len() != self.relays.len();
        if known {
            self.save(relays)?;
        }
        Ok(known)
    }

    fn save(&mut self, relays: Vec<JoinedRelay>) -> Result<(), StoreError> {
        let document = Document { relays };
        self.data.write_toml(FILE, &document)?;
        self.relays = document.relays;
        Ok(())
    }
}

/// Where a relay was last reached from outside, so that `invite` can write a link while it is
/// stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublicPlace {
    /// Name or address.
    pub host: String,
    /// The secure port.
    pub port: u16,
}

impl PublicPlace {
    /// The place stored last, if any.
    pub fn load(data: &DataDir) -> Result<Option<Self>, StoreError> {
        data.read_toml(PLACE_FILE)
    }

    /// Stores the place; a relay does so at each start.
    pub fn save(&self, data: &DataDir) -> Result<(), StoreError> {
        data.write_toml(PLACE_FILE, self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(host: &str, pin: u8) -> JoinLink {
        let (host, pin) = (host.to_owned(), PublicKey([pin; 32]));
        JoinLink { host, port: 4433, pin, invite: Secret::random() }
    }

    #[test]
    fn a_relay_is_known_by_its_pin() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let mut relays = Relays::load(&data).unwrap();
        relays.join(&link("a.example", 1)).unwrap();
        relays.join(&link("b.example", 2)).unwrap();
        relays.join(&link("c.example", 1)).unwrap();
        let reloaded = Relays::load(&data).unwrap();
        let hosts: Vec<_> = reloaded.list().iter().map(|relay| &*relay.host).collect();
        assert_eq!(hosts, ["c.example", "b.example"]);
        assert_eq!(reloaded.list()[0].name, "c.example");
    }

    #[test]
    fn the_invite_goes_when_admitted() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let mut relays = Relays::load(&data).unwrap();
        let joined = relays.join(&link("a.example", 1)).unwrap();
        assert!(joined.invite.is_some());
        relays.admitted(&joined.pin).unwrap();
        assert_eq!(Relays::load(&data).unwrap().list()[0].invite, None);
        assert!(relays.leave(&joined.pin).unwrap());
        assert!(!relays.leave(&joined.pin).unwrap());
    }

    #[test]
    fn the_place_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        assert_eq!(PublicPlace::load(&data).unwrap(), None);
        let place = PublicPlace { host: "relay.example".into(), port: 443 };
        place.save(&data).unwrap();
        assert_eq!(PublicPlace::load(&data).unwrap(), Some(place));
    }
}
