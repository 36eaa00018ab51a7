//! How links behave on the network: windows, timers, congestion control, resets.

use std::sync::Arc;
use std::time::Duration;

use hmac::{Hmac, Mac};
use quinn::congestion::CubicConfig;
use quinn::crypto::{CryptoError, HmacKey};
use quinn::{
    AckFrequencyConfig, ConnectionId, ConnectionIdGenerator, EndpointConfig, IdleTimeout,
    TransportConfig, VarInt,
};
use serde::Deserialize;
use sha2::Sha256;

use super::congestion::BbrFactory;
use crate::identity::Identity;

/// Holds the studio's NAT open; most forget a flow after 30 s, some after 5.
const KEEP_ALIVE: Duration = Duration::from_millis(250);
/// A link silent for this long is dead. Long before that the studio races it with a new one; one that
/// is heard again in time goes on where it was.
const IDLE: Duration = Duration::from_secs(30);
/// The round trip of a way that nothing is known of, as after a change of address: what is sent first
/// is paced by it, and repeated after three times this. Too short costs a far peer two packets.
const FIRST_ROUND_TRIP: Duration = Duration::from_millis(100);
/// Bytes that may be in flight before anything is known of a way: a keyframe.
const FIRST_WINDOW: u64 = 240_000;
/// Bytes of a link's name in each packet.
const ID_LENGTH: usize = 8;
/// Time between two resets at least. All studios of a relay that was restarted call at once.
const RESET_INTERVAL: Duration = Duration::from_millis(1);
/// Packets that may come before one is acknowledged, where the peer can: acknowledging every second
/// one costs as much as the media. Far less than BBR's smallest window: a full window that waits for
/// [`ACK_DELAY`] in every round trip would measure a low rate, and never grow again. Every sixth packet
/// was tried: `benches/bad-networks` measured 2 ms more where packets get lost. The simulation of
/// `backhaul::congestion` acknowledges as this and [`ACK_DELAY`] say.
const ACK_EVERY: u32 = 3;
/// How long an acknowledgement may wait for more packets.
const ACK_DELAY: Duration = Duration::from_millis(5);
/// Streams of tags that a peer may have open: two for each of 256 feeds, and GOPs in flight.
const MAX_TAG_STREAMS: u32 = 1_024;
/// Bytes a stream may be ahead of its reader: 100 Mb/s over a round trip of 200 ms.
const STREAM_WINDOW: u32 = 2_500_000;
/// Bytes all streams may be ahead of their readers.
pub(super) const WINDOW: u32 = 64 << 20;
/// Bytes that a studio's control stream may be ahead of its reader: two whole messages.
pub(super) const CONTROL_WINDOW: u32 = 128 << 10;
/// Unsent bytes while nothing is known of the way: a keyframe.
pub(super) const FIRST_SEND_WINDOW: u64 = 512 << 10;

/// What decides how fast a link sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Congestion {
    /// Measures the way: losses that are not its own fault do not slow it down.
    #[default]
    Bbr,
    /// Slows down at every loss, as TCP does: for ways that are shared and lose little.
    Cubic,
}

pub(super) fn transport(congestion: Congestion) -> TransportConfig {
    let mut transport = TransportConfig::default();
    let mut acknowledge = AckFrequencyConfig::default();
    acknowledge.ack_eliciting_threshold(VarInt::from_u32(ACK_EVERY)).max_ack_delay(Some(ACK_DELAY));
    let idle = IdleTimeout::try_from(IDLE).expect("some seconds are a valid timeout");
    match congestion {
        Congestion::Bbr => {
            let bbr = BbrFactory { initial_window: FIRST_WINDOW };
            transport.congestion_controller_factory(Arc::new(bbr));
        }
        Congestion::Cubic => {
            let mut cubic = CubicConfig::default();
            cubic.initial_window(FIRST_WINDOW);
            transport.congestion_controller_factory(Arc::new(cubic));
        }
    }
    transport
        .initial_rtt(FIRST_ROUND_TRIP)
        .ack_frequency_config(Some(acknowledge))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(idle))
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(MAX_TAG_STREAMS))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(WINDOW))
        .send_window(FIRST_SEND_WINDOW)
        .send_fairness(false)
        .datagram_receive_buffer_size(Some(256 << 10))
        .datagram_send_buffer_size(64 << 10);
    transport
}

/// An acceptor's endpoint. One that was restarted tells who still uses a link of before at once that
/// it is gone (RFC 9000 §10.3): its key for that is the same at every start.
pub(super) fn acceptor(identity: &Identity) -> EndpointConfig {
    let mut config = EndpointConfig::new(Arc::new(ResetKey(identity.derive("stateless reset"))));
    config.min_reset_interval(RESET_INTERVAL).cid_generator(|| Box::new(Ids));
    config
}

/// Names links at random. The library's own generator knows by a key of the process which names are
/// its own, and so would not answer to those of before.
struct Ids;

impl ConnectionIdGenerator for Ids {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&rand::random::<[u8; ID_LENGTH]>())
    }

    fn cid_len(&self) -> usize {
        ID_LENGTH
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

struct ResetKey([u8; 32]);

impl ResetKey {
    fn mac(&self, data: &[u8]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("any length is a key");
        mac.update(data);
        mac
    }
}

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        signature_out.copy_from_slice(&self.mac(data).finalize().into_bytes());
    }

    fn signature_len(&self) -> usize {
        32
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        self.mac(data).verify_slice(signature).map_err(|_| CryptoError)
    }
}
