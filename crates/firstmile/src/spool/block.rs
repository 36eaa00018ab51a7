//! Tags put together to a block, and sealed for the disk.

use bytes::{Buf, BufMut, Bytes};
use media::{Position, PublicationId, Tag, Track};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

/// A key that exists in memory alone: what a relay left on its disk is noise to everybody.
#[derive(Debug)]
pub(super) struct Cipher(LessSafeKey);

impl Cipher {
    pub(super) fn random() -> Self {
        let bytes: [u8; 32] = rand::random();
        // AES is faster than ChaCha20 where the processor knows it, as those of relays do.
        Self(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &bytes).expect("32 bytes are a key")))
    }

    /// Seals a block; its `serial` is never used for another. Without a seal it is useless.
    pub(super) fn seal(&self, serial: u64, block: &mut Vec<u8>) -> Option<()> {
        self.0.seal_in_place_append_tag(nonce(serial), Aad::empty(), block).ok()
    }

    /// Opens what was sealed under this serial; `None` if it is anything else.
    pub(super) fn open(&self, serial: u64, mut sealed: Vec<u8>) -> Option<Bytes> {
        let length = self.0.open_in_place(nonce(serial), Aad::empty(), &mut sealed).ok()?.len();
        sealed.truncate(length);
        Some(sealed.into())
    }
}

/// A block's serial alone: the key is new in each run of the program.
fn nonce(serial: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&serial.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

/// Appends tags; their publication is known elsewhere.
///
/// Each: track (1 byte), number, previous number plus one or 0, timestamp (8 bytes each), length
/// of the body (4), the body.
pub(super) fn encode<'a>(tags: impl IntoIterator<Item = &'a (Position, Tag)>, out: &mut Vec<u8>) {
    for (position, tag) in tags {
        out.put_u8(tag.track as u8);
        out.put_u64(position.number);
        out.put_u64(position.previous.map_or(0, |previous| previous.saturating_add(1)));
        out.put_i64(tag.timestamp);
        // Bodies come from RTMP messages, whose length has 24 bits.
        out.put_u32(tag.body.len() as u32);
        out.put_slice(&tag.body);
    }
}

/// Takes the tags of a block; `None` if it is no block.
pub(super) fn decode(publication: PublicationId, mut block: Bytes) -> Option<Vec<(Position, Tag)>> {
    const HEAD: usize = 1 + 3 * 8 + 4;
    let mut tags = Vec::new();
    while !block.is_empty() {
        if block.len() < HEAD {
            return None;
        }
        let track = usize::from(block.get_u8());
        let track = *Track::ALL.get(track)?;
        let number = block.get_u64();
        let previous = block.get_u64().checked_sub(1);
        let timestamp = block.get_i64();
        let length = usize::try_from(block.get_u32()).ok()?;
        if block.len() < length {
            return None;
        }
        let tag = Tag::new(track, timestamp, block.split_to(length));
        tags.push((Position { publication, number, previous }, tag));
    }
    Some(tags)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const P: PublicationId = PublicationId([7; 16]);

    fn tags() -> impl Strategy<Value = Vec<(Position, Tag)>> {
        let tag = (0usize..3, any::<u64>(), proptest::option::of(0u64..99), any::<i64>());
        let tag = (tag, proptest::collection::vec(any::<u8>(), 0..200));
        let tag = tag.prop_map(|((track, number, previous, timestamp), body)| {
            let position = Position { publication: P, number, previous };
            (position, Tag::new(Track::ALL[track], timestamp, body.into()))
        });
        proptest::collection::vec(tag, 0..20)
    }

    proptest! {
        #[test]
        fn a_block_comes_back(tags in tags(), serial: u64) {
            let cipher = Cipher::random();
            let mut block = Vec::new();
            encode(&tags, &mut block);
            cipher.seal(serial, &mut block).unwrap();
            prop_assert_eq!(Cipher::random().open(serial, block.clone()), None, "another key");
            prop_assert_eq!(cipher.open(serial ^ 1, block.clone()), None, "another block");
            let mut damaged = block.clone();
            damaged[serial as usize % block.len()] ^= 1;
            prop_assert_eq!(cipher.open(serial, damaged), None);
            prop_assert_eq!(decode(P, cipher.open(serial, block).unwrap()), Some(tags));
        }

        #[test]
        fn any_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            decode(P, bytes.clone().into());
            prop_assert_eq!(Cipher::random().open(0, bytes), None);
        }
    }
}
