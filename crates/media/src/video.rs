//! What a video tag says about the picture: its size, and when it is shown.

mod av1;
mod hevc;
mod raw;
mod vpx;

use bytes::{BufMut, Bytes, BytesMut};

pub use vpx::{vp8_resolution, vp9_resolution};

use crate::enhanced::{self, Fit, Form, Single};
use crate::{Codec, Role, Tag};

/// Where a frame's composition time stands.
enum Composition {
    /// A signed 24-bit field at this offset.
    At(usize),
    /// There is no field, and it is zero: an Enhanced RTMP `CodedFramesX` packet.
    Zero(Single),
}

fn composition(tag: &Tag) -> Option<Composition> {
    if !matches!(tag.role, Role::Keyframe | Role::Frame) {
        return None;
    }
    match tag.codec? {
        // FLV 10.1 §E.4.3.1, and H.265 after its example.
        Codec::FlvVideo(7 | 12) if tag.body.len() >= 5 => Some(Composition::At(2)),
        // Enhanced RTMP v2, ExVideoTagBody; only these codecs have the field.
        Codec::FourCc(fourcc) if [*b"avc1", *b"hvc1", *b"vvc1"].contains(&fourcc) => {
            let single = enhanced::single(tag)?;
            match single.packet_type {
                1 if tag.body.len() >= single.payload_at + 3 => {
                    Some(Composition::At(single.payload_at))
                }
                3 => Some(Composition::Zero(single)),
                _ => None,
            }
        }
        _ => None,
    }
}

/// Milliseconds between the decoding and the showing of a frame; `None` where the tag has none to
/// say.
pub fn composition_time(tag: &Tag) -> Option<i32> {
    match composition(tag)? {
        Composition::Zero(_) => Some(0),
        Composition::At(at) => {
            let field = [tag.body[at], tag.body[at + 1], tag.body[at + 2], 0];
            Some(i32::from_be_bytes(field) >> 8)
        }
    }
}

/// The tag with another composition time in milliseconds, cut to 24 bits; the coded picture is
/// the same. A tag without one is returned as it is.
pub fn with_composition_time(tag: &Tag, time: i32) -> Tag {
    let time = time.clamp(-0x80_0000, 0x7f_ffff);
    let is_other = composition_time(tag) != Some(time);
    let Some(composition) = composition(tag).filter(|_| is_other) else { return tag.clone() };
    let time = time.to_be_bytes();
    let mut body = BytesMut::with_capacity(tag.body.len() + 3);
    match composition {
        Composition::At(at) => {
            body.put_slice(&tag.body);
            body[at..at + 3].copy_from_slice(&time[1..]);
        }
        Composition::Zero(Single { type_at, payload_at, .. }) => {
            // `CodedFrames` is `CodedFramesX` with the field.
            body.put_slice(&tag.body[..payload_at]);
            body[type_at] = body[type_at] & 0xf0 | 1;
            body.put_slice(&time[1..]);
            body.put_slice(&tag.body[payload_at..]);
        }
    }
    Tag { body: Bytes::from(body), ..tag.clone() }
}

/// Width and height of the picture in pixels, cropping applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resolution {
    /// Pixels in a line.
    pub width: u32,
    /// Lines.
    pub height: u32,
}

/// The resolution in a sequence header of H.264 (`AVCDecoderConfigurationRecord`, ISO/IEC 14496-15
/// §5.3.3.1), H.265 or AV1, of the main track; `None` for other tags and codecs, and for records
/// that make no sense.
pub fn resolution(tag: &Tag) -> Option<Resolution> {
    let codec = tag.codec.filter(|_| tag.role == Role::SequenceHeader)?;
    if let Codec::FlvVideo(id) = codec {
        let record = tag.body.get(5..)?;
        return match id {
            7 => avc(record),
            12 => hevc::resolution(record),
            _ => None,
        };
    }
    let tag = match enhanced::fit(tag, Form::PLAIN, |_| true) {
        Fit::AsIs => tag.clone(),
        Fit::Remade(tag) => tag,
        Fit::Nothing => return None,
    };
    let single = enhanced::single(&tag).filter(|single| single.packet_type == 0)?;
    let record = tag.body.get(single.payload_at..)?;
    match tag.codec? {
        Codec::FourCc(fourcc) if fourcc == *b"avc1" => avc(record),
        Codec::FourCc(fourcc) if fourcc == *b"hvc1" => hevc::resolution(record),
        Codec::FourCc(fourcc) if fourcc == *b"av01" => av1::resolution(record),
        _ => None,
    }
}

fn avc(record: &[u8]) -> Option<Resolution> {
    let has_sps = record.get(5)? & 0x1f > 0;
    let length = usize::from(u16::from_be_bytes([*record.get(6)?, *record.get(7)?]));
    let sps = record.get(8..)?.get(..length)?;
    if has_sps { parse_sps(sps) } else { None }
}

/// Profiles whose SPS carries the chroma format (H.264 §7.3.2.1.1).
const HIGH_PROFILES: [u32; 13] = [100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135];

/// Reads `seq_parameter_set_data` up to the cropping (H.264 §7.3.2.1.1, §7.4.2.1.1).
fn parse_sps(sps: &[u8]) -> Option<Resolution> {
    let mut bits = Bits::new(sps.get(1..)?);
    let profile = bits.read(8)?;
    bits.read(16)?;
    bits.golomb()?;
    let mut chroma_format = 1;
    let mut separate_planes = 0;
    if HIGH_PROFILES.contains(&profile) {
        chroma_format = bits.golomb()?;
        if chroma_format == 3 {
            separate_planes = bits.read(1)?;
        }
        bits.golomb()?;
        bits.golomb()?;
        bits.read(1)?;
        if bits.read(1)? == 1 {
            for list in 0..if chroma_format == 3 { 12 } else { 8 } {
                if bits.read(1)? == 1 {
                    bits.skip_scaling_list(if list < 6 { 16 } else { 64 })?;
                }
            }
        }
    }
    bits.golomb()?;
    match bits.golomb()? {
        0 => drop(bits.golomb()?),
        1 => {
            bits.read(1)?;
            bits.golomb()?;
            bits.golomb()?;
            for _ in 0..bits.golomb()?.min(255) {
                bits.golomb()?;
            }
        }
        _ => {}
    }
    bits.golomb()?;
    bits.read(1)?;
    let width_in_mbs = bits.golomb()?.checked_add(1)?;
    let height_in_map_units = bits.golomb()?.checked_add(1)?;
    let frame_mbs_only = bits.read(1)?;
    if frame_mbs_only == 0 {
        bits.read(1)?;
    }
    bits.read(1)?;
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
    let fields = 2 - frame_mbs_only;
    let cropped = |size: u32, from: u32, to: u32, unit: u32| {
        size.checked_sub(from.checked_add(to)?.checked_mul(unit)?)
    };
    let width = width_in_mbs.checked_mul(16)?;
    let height = height_in_map_units.checked_mul(16)?.checked_mul(fields)?;
    Some(Resolution {
        width: cropped(width, crop[0], crop[1], unit_x)?,
        height: cropped(height, crop[2], crop[3], unit_y * fields)?,
    })
}

/// Reads bits of a NAL unit, leaving out emulation prevention bytes (H.264 §7.3.1).
struct Bits<'a> {
    bytes: &'a [u8],
    zeros: u32,
    byte: u8,
    left: u32,
}

impl<'a> Bits<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, zeros: 0, byte: 0, left: 0 }
    }

    fn next_byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.bytes.split_first()?;
        self.bytes = rest;
        if self.zeros >= 2 && byte == 3 {
            self.zeros = 0;
            return self.next_byte();
        }
        self.zeros = if byte == 0 { self.zeros + 1 } else { 0 };
        Some(byte)
    }

    fn read(&mut self, count: u32) -> Option<u32> {
        let mut value = 0;
        for _ in 0..count {
            if self.left == 0 {
                self.byte = self.next_byte()?;
                self.left = 8;
            }
            self.left -= 1;
            value = value << 1 | u32::from(self.byte >> self.left & 1);
        }
        Some(value)
    }

    /// `ue(v)` (H.264 §9.1).
    fn golomb(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while self.read(1)? == 0 {
            zeros += 1;
            if zeros > 31 {
                return None;
            }
        }
        Some(((1u64 << zeros) - 1) as u32 + self.read(zeros)?)
    }

    /// `scaling_list` (H.264 §7.3.2.1.1.1).
    fn skip_scaling_list(&mut self, size: usize) -> Option<()> {
        let (mut last, mut next) = (8i64, 8i64);
        for _ in 0..size {
            if next != 0 {
                let code = i64::from(self.golomb()?);
                let delta = if code % 2 == 0 { -(code / 2) } else { code / 2 + 1 };
                next = (last + delta).rem_euclid(256);
            }
            last = if next == 0 { last } else { next };
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Track;
    use bytes::Bytes;

    #[test]
    fn reads_the_resolution_of_an_h264_header() {
        // x264, 640x360, High profile, level 3.0: 23 macroblock rows cropped by 8 lines.
        let body = [
            0x17, 0, 0, 0, 0, 1, 0x64, 0, 0x1e, 0xff, 0xe1, 0, 0x19, 0x67, 0x64, 0, 0x1e, 0xac,
            0xd9, 0x40, 0xa0, 0x2f, 0xf9, 0x70, 0x11, 0, 0, 3, 0, 1, 0, 0, 3, 0, 0x3c, 0x0f, 0x16,
            0x2d, 0x96,
        ];
        let tag = Tag::new(Track::Video, 0, Bytes::copy_from_slice(&body));
        assert_eq!(resolution(&tag), Some(Resolution { width: 640, height: 360 }));
    }

    #[test]
    fn a_composition_time_is_read_and_written_and_nothing_else_changes() {
        let video = |body: &'static [u8]| Tag::new(Track::Video, 0, Bytes::from_static(body));
        let avc = video(&[0x27, 1, 0xff, 0xff, 0xfe, 1, 2, 3]);
        assert_eq!(composition_time(&avc), Some(-2));
        let moved = with_composition_time(&avc, 300);
        assert_eq!(moved.body[..], [0x27, 1, 0, 1, 44, 1, 2, 3]);
        assert_eq!(composition_time(&moved), Some(300));
        let hevc = video(b"\xa3hvc1\x01\x02");
        assert_eq!(composition_time(&hevc), Some(0));
        assert_eq!(with_composition_time(&hevc, 0), hevc, "nothing to write");
        let moved = with_composition_time(&hevc, -1);
        assert_eq!(&moved.body[..], b"\xa1hvc1\xff\xff\xff\x01\x02");
        assert_eq!(Tag::new(Track::Video, 0, moved.body.clone()), moved, "the same kind of frame");
        // In an envelope, and behind a ModEx packet.
        let enveloped = video(b"\x97\x00\x01\x06\x01hvc1\x02\x00\x00\x05\x01");
        assert_eq!(composition_time(&enveloped), Some(5));
        let moved = with_composition_time(&enveloped, 6);
        assert_eq!(&moved.body[..], b"\x97\x00\x01\x06\x01hvc1\x02\x00\x00\x06\x01");
        let moved = with_composition_time(&video(b"\xa6\x03hvc1\x02\x01"), 7);
        assert_eq!(&moved.body[..], b"\xa6\x01hvc1\x02\x00\x00\x07\x01");
        for other in [&b"\x17\x00\x00\x00\x00\x01"[..], b"\x91av01\x00", b"\x12\x00", b""] {
            assert_eq!(composition_time(&video(other)), None);
        }
    }

    #[test]
    fn survives_every_truncation() {
        let body = [0x17, 0, 0, 0, 0, 1, 0x64, 0, 0x1e, 0xff, 0xe1, 0, 4, 0x67, 0x64, 0, 0x1e];
        for length in 0..=body.len() {
            let tag = Tag::new(Track::Video, 0, Bytes::copy_from_slice(&body[..length]));
            assert_eq!(resolution(&tag), None);
        }
    }
}
