//! Who is paired with whom: a studio's relays, a relay's studios and the invites that it has given out.

use serde::{Deserialize, Serialize};

use super::LinkStatus;

/// A relay that a studio has joined, as `GET /api/v1/relays` has it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RelayInfo {
    /// Its public key, which is what it is known by: 52 symbols.
    pub key: String,
    /// What its studio calls it.
    pub name: String,
    /// Name or address, and port, that the studio dials.
    pub address: String,
    /// How the link is.
    pub link: LinkStatus,
}

/// A studio that a relay knows, as `GET /api/v1/studios` has it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StudioInfo {
    /// Its public key, which is what it is known by: 52 symbols.
    pub key: String,
    /// What it calls itself; nothing if it was not here since the relay knows names.
    pub name: String,
    /// How it stands.
    pub state: StudioState,
    /// When it was admitted, in seconds since 1970; `None` at a relay that is open to all.
    pub admitted_s: Option<u64>,
    /// When it was seen last, in seconds since 1970, to the hour.
    pub seen_s: Option<u64>,
    /// When it was cut off, in seconds since 1970.
    pub cut_off_s: Option<u64>,
    /// Feeds whose keys it has pushed.
    pub feeds: usize,
    /// The link that it has now.
    pub link: Option<LinkStatus>,
}

/// How a studio stands with a relay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StudioState {
    /// It is here.
    Connected,
    /// It may come back.
    #[default]
    Away,
    /// It may not, unless it brings a newer invite.
    Removed,
}

/// An invite that still admits studios, as `GET /api/v1/invites` has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteInfo {
    /// What it is revoked by; nobody is admitted with it.
    pub id: String,
    /// When it expires, in seconds since 1970.
    pub expires_s: u64,
    /// How many studios it still admits; `None`: any number.
    pub uses_left: Option<u32>,
    /// Whether it is the one of the relay's start, which ends with it.
    pub until_restart: bool,
}
