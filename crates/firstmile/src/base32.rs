//! Crockford's base32: no I, L, O or U, read in any case, forgiving of the usual misreadings.

/// The canonical symbols, by value.
pub(crate) const SYMBOLS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// Text length of 32 bytes: 256 bits in 52 symbols, the last of which carries one bit.
pub const TEXT_OF_32_BYTES: usize = 52;

/// The value of one symbol, in either case, with `i` and `l` read as 1 and `o` as 0.
pub(crate) fn value(symbol: u8) -> Option<u8> {
    let symbol = match symbol.to_ascii_uppercase() {
        b'I' | b'L' => b'1',
        b'O' => b'0',
        other => other,
    };
    SYMBOLS.iter().position(|&s| s == symbol).and_then(|at| u8::try_from(at).ok())
}

/// Writes 32 bytes as 52 symbols, most significant bit first, padded with zero bits.
pub fn encode(bytes: &[u8; 32]) -> String {
    encode_bytes(bytes)
}

/// Writes any bytes, 8 symbols for 5 of them, as [`encode`] does.
pub(crate) fn encode_bytes(bytes: &[u8]) -> String {
    let mut text = String::with_capacity((bytes.len() * 8).div_ceil(5));
    let (mut bits, mut held) = (0u32, 0u32);
    for &byte in bytes {
        bits = (bits << 8) | u32::from(byte);
        held += 8;
        while held >= 5 {
            held -= 5;
            text.push(char::from(SYMBOLS[(bits >> held & 31) as usize]));
        }
        bits &= (1 << held) - 1;
    }
    if held > 0 {
        text.push(char::from(SYMBOLS[(bits << (5 - held) & 31) as usize]));
    }
    text
}

/// Reads what [`encode`] wrote; `None` if the length, a symbol or the padding is wrong.
pub fn decode(text: &str) -> Option<[u8; 32]> {
    if text.len() != TEXT_OF_32_BYTES {
        return None;
    }
    let mut bytes = [0u8; 32];
    let mut out = bytes.iter_mut();
    let (mut bits, mut held) = (0u32, 0u32);
    for symbol in text.bytes() {
        bits = (bits << 5) | u32::from(value(symbol)?);
        held += 5;
        if held >= 8 {
            held -= 8;
            *out.next()? = (bits >> held) as u8;
            bits &= (1 << held) - 1;
        }
    }
    (bits == 0).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        for seed in 0..=255u8 {
            let bytes: [u8; 32] = std::array::from_fn(|i| seed.wrapping_mul(31) ^ (i as u8 * 7));
            let text = encode(&bytes);
            assert_eq!(text.len(), TEXT_OF_32_BYTES);
            assert_eq!(decode(&text), Some(bytes));
            assert_eq!(decode(&text.to_lowercase()), Some(bytes));
        }
        assert_eq!(encode(&[0; 32]), "0".repeat(52));
        assert_eq!(encode(&[0xff; 32]), format!("{}G", "Z".repeat(51)));
    }

    #[test]
    fn refuses_what_is_not_canonical() {
        let text = encode(&[7; 32]);
        assert_eq!(decode(&text[1..]), None);
        assert_eq!(decode(&format!("{}U", &text[1..])), None);
        assert_eq!(decode(&format!("{}Z", "0".repeat(51))), None, "padding bits must be zero");
        assert_eq!(decode(&"é".repeat(26)), None);
    }
}
