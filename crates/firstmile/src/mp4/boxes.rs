//! Boxes: a size, a name, and what is in them (ISO/IEC 14496-12 §4.2).

use bytes::BufMut;

/// Writes a box around what `fill` writes.
pub(super) fn boxed(out: &mut Vec<u8>, name: &[u8; 4], fill: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.put_u32(0);
    out.put_slice(name);
    fill(out);
    // Samples are not written by this: what is left has a bound far below 4 GiB.
    let size = u32::try_from(out.len() - at).unwrap_or(u32::MAX);
    out[at..at + 4].copy_from_slice(&size.to_be_bytes());
}

/// Writes a box with version and flags around what `fill` writes.
pub(super) fn full(
    out: &mut Vec<u8>,
    name: &[u8; 4],
    version: u8,
    flags: u32,
    fill: impl FnOnce(&mut Vec<u8>),
) {
    boxed(out, name, |out| {
        out.put_u32(u32::from(version) << 24 | flags);
        fill(out);
    });
}

/// Writes a descriptor of MPEG-4 systems (ISO/IEC 14496-1 §8.3.3) around `content`.
pub(super) fn descriptor(out: &mut Vec<u8>, tag: u8, content: &[u8]) {
    out.put_u8(tag);
    let length = content.len() as u32;
    for shift in [21, 14, 7] {
        out.put_u8((length >> shift) as u8 & 0x7f | 0x80);
    }
    out.put_u8(length as u8 & 0x7f);
    out.put_slice(content);
}
