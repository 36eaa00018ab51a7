//! Calls relays, by what a network lets through.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use serde::Deserialize;

use super::{Link, Transport};
use crate::identity::{Identity, PublicKey};
use crate::quic::{self, Congestion};
use crate::tcp;

/// What may carry a studio's links.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transports {
    /// QUIC, or TCP where UDP is blocked.
    #[default]
    Auto,
    /// QUIC alone.
    Quic,
    /// TCP alone.
    Tcp,
}

/// Calls relays.
#[derive(Clone, Debug)]
pub struct Dialer {
    transports: Transports,
    identity: Arc<Identity>,
    quic: quic::Dialer,
    congestion: Congestion,
}

impl Dialer {
    /// A dialer with this identity, whose links send at what this decides.
    pub fn new(identity: Arc<Identity>, congestion: Congestion) -> Self {
        let quic = quic::Dialer::new(identity.clone()).with_congestion(congestion);
        Self { transports: Transports::default(), identity, quic, congestion }
    }

    /// The same over these.
    pub fn over(self, transports: Transports) -> Self {
        Self { transports, ..self }
    }

    /// What it may call over.
    pub fn transports(&self) -> Transports {
        self.transports
    }

    /// Calls an address and expects the key `pin` there.
    ///
    /// # Errors
    ///
    /// If nobody answers, or somebody with another key: see [`is_wrong_key`].
    pub async fn dial(
        &self,
        transport: Transport,
        address: SocketAddr,
        pin: PublicKey,
    ) -> Result<Link> {
        match transport {
            Transport::Quic => self.quic.dial(address, pin).await,
            Transport::Tcp => tcp::dial(&self.identity, self.congestion, address, pin).await,
        }
    }
}

/// Whether a failed dial met another key than the pinned one.
pub fn is_wrong_key(error: &anyhow::Error) -> bool {
    quic::is_wrong_key(error) || tcp::is_wrong_key(error)
}
