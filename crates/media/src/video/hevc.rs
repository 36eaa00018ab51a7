//! The size of H.265's pictures.

use super::{Bits, Resolution};

/// NAL units of this type are sequence parameter sets.
const SPS: u8 = 33;

/// From an `HEVCDecoderConfigurationRecord` (ISO/IEC 14496-15 §8.3.3.1).
pub(super) fn resolution(record: &[u8]) -> Option<Resolution> {
    let arrays = *record.get(22)?;
    let mut rest = record.get(23..)?;
    for _ in 0..arrays {
        let (&[kind, high, low], after) = rest.split_first_chunk()?;
        rest = after;
        for _ in 0..u16::from_be_bytes([high, low]) {
            let (length, after) = rest.split_first_chunk()?;
            let length = usize::from(u16::from_be_bytes(*length));
            let (unit, after) = after.split_at_checked(length)?;
            if kind & 0x3f == SPS {
                return sps(unit);
            }
            rest = after;
        }
    }
    None
}

/// Reads `seq_parameter_set_rbsp` up to the conformance window (H.265 §7.3.2.2.1).
fn sps(unit: &[u8]) -> Option<Resolution> {
    let mut bits = Bits::new(unit.get(2..)?);
    bits.read(4)?;
    let sub_layers = bits.read(3)?;
    bits.read(1)?;
    // `profile_tier_level`: profile, then level, of all; then of each sub-layer that has them.
    bits.read(88 + 8)?;
    let mut has = Vec::with_capacity(8);
    for _ in 0..sub_layers {
        has.push((bits.read(1)? == 1, bits.read(1)? == 1));
    }
    if sub_layers > 0 {
        bits.read(2 * (8 - sub_layers))?;
    }
    for (profile, level) in has {
        bits.read(if profile { 88 } else { 0 })?;
        bits.read(if level { 8 } else { 0 })?;
    }
    bits.golomb()?;
    let chroma_format = bits.golomb()?;
    let separate_planes = if chroma_format == 3 { bits.read(1)? } else { 0 };
    let (width, height) = (bits.golomb()?, bits.golomb()?);
    let mut crop = [0; 4];
    if bits.read(1)? == 1 {
        for side in &mut crop {
            *side = bits.golomb()?;
        }
    }
    let (unit_x, unit_y) = match (separate_planes, chroma_format) {
        (0, 1) => (2, 2),
        (0, 2) => (2, 1),
        _ => (1, 1),
    };
    let cropped = |size: u32, from: u32, to: u32, unit: u32| {
        size.checked_sub(from.checked_add(to)?.checked_mul(unit)?)
    };
    Some(Resolution {
        width: cropped(width, crop[0], crop[1], unit_x)?,
        height: cropped(height, crop[2], crop[3], unit_y)?,
    })
}
