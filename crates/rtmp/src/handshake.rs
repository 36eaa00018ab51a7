//! The RTMP handshake (RTMP 1.0 §5.2), with the digest form that Adobe's servers introduced.
//!
//! Both peers send a version byte and a packet of 1536 bytes (C0 C1, S0 S1), and answer the
//! other's packet with an echo (S2, C2). In the digest form, which Flash-era clients and players
//! built on FFmpeg use, packet 1 carries an HMAC-SHA256 digest of itself at one of two places,
//! and S2 is signed instead of echoed.

use bytes::{Buf, BytesMut};
use hmac::{Hmac, Mac};
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use sha2::Sha256;

use crate::{Error, SendQueue};

/// Length of C1, S1, C2 and S2.
pub const PACKET_LENGTH: usize = 1536;

const VERSION: u8 = 3;
const DIGEST_LENGTH: usize = 32;

/// Where the four bytes lie that choose the digest's place; the digest follows within 728 bytes.
const DIGEST_BASES: [usize; 2] = [8, 772];

/// What S1 of the digest form names as the server's version; FFmpeg demands 3 or more.
const SERVER_VERSION: [u8; 4] = [4, 5, 0, 1];

const CLIENT_KEY: &[u8; 30] = b"Genuine Adobe Flash Player 001";
/// The first 36 bytes sign S1, all of them sign S2.
const SERVER_KEY: &[u8; 68] = b"Genuine Adobe Flash Media Server 001\
    \xf0\xee\xc2\x4a\x80\x68\xbe\xe8\x2e\x00\xd0\xd1\x02\x9e\x7e\x57\
    \x6e\xec\x5d\x2d\x29\x80\x6f\xab\x93\xb8\xe6\x36\xcf\xeb\x31\xae";
const SERVER_KEY_TEXT: usize = 36;

type Packet = [u8; PACKET_LENGTH];

#[derive(Debug)]
enum State {
    /// Waits for the peer's version byte and packet 1.
    Packet1,
    /// Passes over the peer's packet 2, whose contents nobody checks.
    Packet2 { remaining: usize },
}

/// The server's side.
#[derive(Debug)]
pub struct Server {
    rng: StdRng,
    state: State,
}

impl Server {
    /// A handshake whose random bytes come from `seed`.
    pub fn new(seed: [u8; 32]) -> Self {
        Self { rng: StdRng::from_seed(seed), state: State::Packet1 }
    }

    /// Consumes the client's part of the handshake from `input`; `true` once it is complete.
    ///
    /// S0, S1 and S2 are put into `out` together as soon as C1 is complete. Bytes after C2 stay
    /// in `input`: they are chunks.
    ///
    /// # Errors
    ///
    /// [`Error::Http`], [`Error::Tls`], [`Error::Ssh`] or [`Error::Version`] if the first bytes
    /// are not those of RTMP.
    pub fn handle_input(
        &mut self,
        input: &mut BytesMut,
        out: &mut SendQueue,
    ) -> Result<bool, Error> {
        if let State::Packet1 = self.state {
            let Some(c1) = take_packet1(input)? else {
                return Ok(false);
            };
            out.put(&[VERSION]);
            self.answer(&c1, out);
            self.state = State::Packet2 { remaining: PACKET_LENGTH };
        }
        Ok(self.state.pass_over(input))
    }

    fn answer(&mut self, c1: &Packet, out: &mut SendQueue) {
        let mut s1 = [0; PACKET_LENGTH];
        self.rng.fill_bytes(&mut s1[8..]);
        let place = match c1[4..8] {
            [0, 0, 0, 0] => None,
            _ => find_digest(c1, CLIENT_KEY),
        };
        let Some((base, c1_digest)) = place else {
            out.put(&s1);
            out.put(c1);
            return;
        };
        s1[4..8].copy_from_slice(&SERVER_VERSION);
        sign_packet1(&mut s1, base, &SERVER_KEY[..SERVER_KEY_TEXT]);
        out.put(&s1);

        let mut s2 = [0; PACKET_LENGTH];
        self.rng.fill_bytes(&mut s2);
        let key = hmac(SERVER_KEY, &[&c1_digest]);
        let (text, signature) = s2.split_at_mut(PACKET_LENGTH - DIGEST_LENGTH);
        signature.copy_from_slice(&hmac(&key, &[text]));
        out.put(&s2);
    }
}

/// The client's side, in the plain form.
#[derive(Debug)]
pub struct Client {
    state: State,
}

impl Client {
    /// Starts a handshake whose random bytes come from `seed`; C0 and C1 are put into `out`.
    pub fn new(seed: [u8; 32], out: &mut SendQueue) -> Self {
        let mut c1 = [0; PACKET_LENGTH];
        StdRng::from_seed(seed).fill_bytes(&mut c1[8..]);
        out.put(&[VERSION]);
        out.put(&c1);
        Self { state: State::Packet1 }
    }

    /// Consumes the server's part of the handshake from `input`; `true` once it is complete.
    ///
    /// # Errors
    ///
    /// As for [`Server::handle_input`].
    pub fn handle_input(
        &mut self,
        input: &mut BytesMut,
        out: &mut SendQueue,
    ) -> Result<bool, Error> {
        if let State::Packet1 = self.state {
            let Some(s1) = take_packet1(input)? else {
                return Ok(false);
            };
            out.put(&s1);
            self.state = State::Packet2 { remaining: PACKET_LENGTH };
        }
        Ok(self.state.pass_over(input))
    }
}

impl State {
    fn pass_over(&mut self, input: &mut BytesMut) -> bool {
        let Self::Packet2 { remaining } = self else {
            return false;
        };
        let count = input.len().min(*remaining);
        input.advance(count);
        *remaining -= count;
        *remaining == 0
    }
}

/// The peer's packet 1 once it is complete, its version byte checked as soon as it is there.
fn take_packet1(input: &mut BytesMut) -> Result<Option<Packet>, Error> {
    match input.first() {
        None => return Ok(None),
        Some(&VERSION) => {}
        // "GET", "POST", "PUT", "PRI", "HEAD", "OPTIONS" (RTMP 1.0 §5.2.2 bars text for this).
        Some(b'G' | b'P' | b'H' | b'O') => return Err(Error::Http),
        Some(22) => return Err(Error::Tls),
        Some(b'S') => {
            let length = input.len().min(4);
            return match (input[..length] == b"SSH-"[..length], length) {
                (true, 4) => Err(Error::Ssh),
                (true, _) => Ok(None),
                (false, _) => Err(Error::Version(b'S')),
            };
        }
        Some(&version) => return Err(Error::Version(version)),
    }
    let Some(packet) = input.get(1..).and_then(|rest| rest.first_chunk::<PACKET_LENGTH>()).copied()
    else {
        return Ok(None);
    };
    input.advance(1 + PACKET_LENGTH);
    Ok(Some(packet))
}

fn digest_offset(packet: &Packet, base: usize) -> usize {
    let sum: usize = packet[base..base + 4].iter().map(|&b| usize::from(b)).sum();
    base + 4 + sum % 728
}

/// The digest of `packet` if it lies at `offset`.
fn digest(packet: &Packet, offset: usize, key: &[u8]) -> [u8; DIGEST_LENGTH] {
    let (before, rest) = packet.split_at(offset);
    hmac(key, &[before, &rest[DIGEST_LENGTH..]])
}

/// The base of the layout whose digest is right, and that digest.
fn find_digest(packet: &Packet, key: &[u8]) -> Option<(usize, [u8; DIGEST_LENGTH])> {
    DIGEST_BASES.into_iter().find_map(|base| {
        let offset = digest_offset(packet, base);
        let digest = digest(packet, offset, key);
        (packet[offset..offset + DIGEST_LENGTH] == digest).then_some((base, digest))
    })
}

fn sign_packet1(packet: &mut Packet, base: usize, key: &[u8]) {
    let offset = digest_offset(packet, base);
    let digest = digest(packet, offset, key);
    packet[offset..offset + DIGEST_LENGTH].copy_from_slice(&digest);
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; DIGEST_LENGTH] {
    let mut mac =
        <Hmac<Sha256> as Mac>::new_from_slice(key).expect("HMAC takes keys of any length");
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(queue: &mut SendQueue) -> Vec<u8> {
        queue.copy_to_bytes(queue.remaining()).to_vec()
    }

    fn run_server(c0c1: &[u8]) -> Vec<u8> {
        let (mut server, mut out) = (Server::new([1; 32]), SendQueue::default());
        let mut input = BytesMut::from(c0c1);
        assert_eq!(server.handle_input(&mut input, &mut out), Ok(false));
        sent(&mut out)
    }

    #[test]
    fn answers_the_plain_form_with_an_exact_echo() {
        let mut c0c1 = vec![3, 0, 0, 0, 9, 0, 0, 0, 0];
        c0c1.extend((0..1528).map(|i| i as u8));
        let answer = run_server(&c0c1);
        assert_eq!(answer.len(), 1 + 2 * PACKET_LENGTH);
        assert_eq!(answer[0], 3);
        assert_eq!(answer[5..9], [0; 4]);
        assert_eq!(answer[1 + PACKET_LENGTH..], c0c1[1..]);
        assert_ne!(answer[9..40], c0c1[9..40], "S1 is never C1");
    }

    #[test]
    fn answers_the_digest_form_in_both_layouts() {
        for base in DIGEST_BASES {
            let mut c1 = [0x5a; PACKET_LENGTH];
            c1[4..8].copy_from_slice(&[9, 0, 124, 2]);
            c1[base..base + 4].copy_from_slice(&[200, 255, 255, 17]);
            sign_packet1(&mut c1, base, CLIENT_KEY);
            let mut c0c1 = vec![3];
            c0c1.extend_from_slice(&c1);
            let answer = run_server(&c0c1);
            let s1 = answer[1..].first_chunk().unwrap();
            assert_eq!(s1[4..8], SERVER_VERSION);
            let found = find_digest(s1, &SERVER_KEY[..SERVER_KEY_TEXT]);
            assert_eq!(found.map(|(found, _)| found), Some(base));
            let (_, c1_digest) = find_digest(&c1, CLIENT_KEY).unwrap();
            let (text, signature) = answer[1 + PACKET_LENGTH..].split_at(1504);
            assert_eq!(hmac(&hmac(SERVER_KEY, &[&c1_digest]), &[text]), signature);
        }
    }

    #[test]
    fn falls_back_to_the_plain_form() {
        let mut c0c1 = vec![3, 0, 0, 0, 0, 9, 0, 124, 2];
        c0c1.resize(1 + PACKET_LENGTH, 0x33);
        let answer = run_server(&c0c1);
        assert_eq!(answer[5..9], [0; 4]);
        assert_eq!(answer[1 + PACKET_LENGTH..], c0c1[1..]);
    }

    #[test]
    fn knows_what_is_not_rtmp() {
        for (bytes, error) in [
            (&b"GET / HTTP/1.1\r\n"[..], Error::Http),
            (b"POST /open/1 HTTP/1.1\r\n", Error::Http),
            (b"\x16\x03\x01", Error::Tls),
            (b"SSH-2.0-OpenSSH", Error::Ssh),
            (b"SMB", Error::Version(b'S')),
            (b"\x06", Error::Version(6)),
        ] {
            let (mut server, mut out) = (Server::new([1; 32]), SendQueue::default());
            let result = server.handle_input(&mut BytesMut::from(bytes), &mut out);
            assert_eq!(result, Err(error));
            assert!(out.is_empty());
        }
    }

    #[test]
    fn client_and_server_agree_byte_by_byte() {
        let (mut to_server, mut to_client) = (SendQueue::default(), SendQueue::default());
        let mut client = Client::new([1; 32], &mut to_server);
        let mut server = Server::new([2; 32]);
        let (mut at_server, mut at_client) = (BytesMut::new(), BytesMut::new());
        let (mut server_done, mut client_done) = (false, false);
        while !(server_done && client_done) {
            if to_server.has_remaining() {
                at_server.extend_from_slice(&[to_server.get_u8()]);
                server_done = server.handle_input(&mut at_server, &mut to_client).unwrap();
            }
            if to_client.has_remaining() {
                at_client.extend_from_slice(&[to_client.get_u8()]);
                client_done = client.handle_input(&mut at_client, &mut to_server).unwrap();
            }
        }
        assert!(at_server.is_empty() && at_client.is_empty());
        assert!(to_server.is_empty() && to_client.is_empty());
    }
}
