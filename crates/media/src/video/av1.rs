//! The size of AV1's pictures.

use super::{Resolution, raw::Raw};

/// Open bitstream units of this type are sequence headers.
const SEQUENCE_HEADER: u8 = 1;

/// From an `AV1CodecConfigurationRecord` (AV1 in ISOBMFF §2.3.3).
pub(super) fn resolution(record: &[u8]) -> Option<Resolution> {
    let mut rest = record.get(4..)?;
    while let Some((&head, mut after)) = rest.split_first() {
        if head & 4 != 0 {
            after = after.get(1..)?;
        }
        let length = if head & 2 == 0 { after.len() } else { leb128(&mut after)? };
        let (unit, after) = after.split_at_checked(length)?;
        if head >> 3 & 0xf == SEQUENCE_HEADER {
            return sequence_header(unit);
        }
        rest = after;
    }
    None
}

fn leb128(input: &mut &[u8]) -> Option<usize> {
    let mut value = 0;
    for shift in (0..32).step_by(7) {
        let (&byte, rest) = input.split_first()?;
        *input = rest;
        value |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Reads `sequence_header_obu` up to the size (AV1 §5.5.1).
fn sequence_header(unit: &[u8]) -> Option<Resolution> {
    let mut bits = Raw::new(unit);
    bits.skip(4)?;
    let is_reduced = bits.read(1)? == 1;
    if is_reduced {
        bits.skip(5)?;
    } else {
        let mut delay_bits = None;
        if bits.read(1)? == 1 {
            bits.skip(64)?;
            if bits.read(1)? == 1 {
                bits.uvlc()?;
            }
            if bits.read(1)? == 1 {
                delay_bits = Some(bits.read(5)? + 1);
                bits.skip(42)?;
            }
        }
        let has_display_delay = bits.read(1)? == 1;
        for _ in 0..=bits.read(5)? {
            bits.skip(12)?;
            if bits.read(5)? > 7 {
                bits.skip(1)?;
            }
            if let Some(delay_bits) = delay_bits
                && bits.read(1)? == 1
            {
                bits.skip(2 * delay_bits + 1)?;
            }
            if has_display_delay && bits.read(1)? == 1 {
                bits.skip(4)?;
            }
        }
    }
    let (width_bits, height_bits) = (bits.read(4)? + 1, bits.read(4)? + 1);
    Some(Resolution { width: bits.read(width_bits)? + 1, height: bits.read(height_bits)? + 1 })
}
