//! The two forms of the handshake (RTMP 1.0 §5.2, and Adobe's digests).

use hmac::{Hmac, Mac};
use sha2::Sha256;

/// Length of C1, C2, S1 and S2.
pub const LENGTH: usize = 1536;

/// A C1, S1 or S2.
pub type Packet = [u8; LENGTH];

/// Where the digest of a packet is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Its place follows from the bytes 8 to 11.
    First,
    /// Its place follows from the bytes 772 to 775.
    Second,
}

const PLAYER: &[u8] = b"Genuine Adobe Flash Player 001";
const SERVER: &[u8] = b"Genuine Adobe Flash Media Server 001";
const COMMON: [u8; 32] = [
    0xf0, 0xee, 0xc2, 0x4a, 0x80, 0x68, 0xbe, 0xe8, 0x2e, 0x00, 0xd0, 0xd1, 0x02, 0x9e, 0x7e, 0x57,
    0x6e, 0xec, 0x5d, 0x2d, 0x29, 0x80, 0x6f, 0xab, 0x93, 0xb8, 0xe6, 0x36, 0xcf, 0xeb, 0x31, 0xae,
];

fn mac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(key).expect("any length");
    mac.update(message);
    mac.finalize().into_bytes().into()
}

impl Scheme {
    fn place(self, packet: &Packet) -> usize {
        let base = match self {
            Self::First => 8,
            Self::Second => 772,
        };
        let sum = packet[base..base + 4].iter().map(|byte| usize::from(*byte)).sum::<usize>();
        base + 4 + sum % 728
    }

    fn digest(self, packet: &Packet, key: &[u8]) -> [u8; 32] {
        let place = self.place(packet);
        mac(key, &[&packet[..place], &packet[place + 32..]].concat())
    }

    /// A C1 as Flash Player signs it, its bytes made of `seed`.
    pub fn c1(self, seed: u8) -> Packet {
        let mut c1 = noise(seed);
        c1[4..8].copy_from_slice(&[10, 0, 45, 2]);
        let (place, digest) = (self.place(&c1), self.digest(&c1, PLAYER));
        c1[place..place + 32].copy_from_slice(&digest);
        c1
    }

    /// Whether S1 is signed in this scheme, and S2 for the digest in `c1`.
    pub fn is_answer(self, c1: &Packet, s1: &Packet, s2: &Packet) -> bool {
        let place = self.place(s1);
        let asked = self.place(c1);
        let key = mac(&[SERVER, &COMMON].concat(), &c1[asked..asked + 32]);
        s1[place..place + 32] == self.digest(s1, SERVER) && s2[1504..] == mac(&key, &s2[..1504])
    }
}

/// Bytes without a pattern; a plain C1 has zeros in the bytes 4 to 7.
pub fn noise(seed: u8) -> Packet {
    let mut state = u32::from(seed) + 1;
    std::array::from_fn(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    })
}

/// A plain C1.
pub fn plain_c1(seed: u8) -> Packet {
    let mut c1 = noise(seed);
    c1[..8].fill(0);
    c1
}
