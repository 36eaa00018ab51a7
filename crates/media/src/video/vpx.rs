//! The size of VP8's and VP9's pictures, which only their keyframes tell.

use super::{Resolution, raw::Raw};

/// The size in a keyframe of VP8 (RFC 6386 §9.1); `None` for other frames.
pub fn vp8_resolution(frame: &[u8]) -> Option<Resolution> {
    let &[first, _, _, 0x9d, 0x01, 0x2a, w0, w1, h0, h1, ..] = frame else { return None };
    let side = |low, high| u32::from(u16::from_le_bytes([low, high]) & 0x3fff);
    (first & 1 == 0).then(|| Resolution { width: side(w0, w1), height: side(h0, h1) })
}

/// The size in a keyframe of VP9 (VP9 §6.2); `None` for other frames.
pub fn vp9_resolution(frame: &[u8]) -> Option<Resolution> {
    const SYNC_CODE: u32 = 0x49_8342;
    const SRGB: u32 = 7;
    let mut bits = Raw::new(frame);
    let is_frame = bits.read(2)? == 2;
    let profile = bits.read(1)? | bits.read(1)? << 1;
    if profile == 3 {
        bits.skip(1)?;
    }
    let is_keyframe = bits.read(2)? == 0;
    bits.skip(2)?;
    if !is_frame || !is_keyframe || bits.read(24)? != SYNC_CODE {
        return None;
    }
    if profile >= 2 {
        bits.skip(1)?;
    }
    let is_rgb = bits.read(3)? == SRGB;
    match (is_rgb, profile & 1 == 1) {
        (false, false) => bits.skip(1)?,
        (false, true) => bits.skip(4)?,
        (true, true) => bits.skip(1)?,
        (true, false) => return None,
    }
    Some(Resolution { width: bits.read(16)? + 1, height: bits.read(16)? + 1 })
}
