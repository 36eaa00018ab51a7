//! Video tracks: what their decoders are told, and how browsers name them.

use std::fmt::Write as _;

use bytes::{BufMut, Bytes};
use media::Codec;
use media::video::{self, Resolution};

use super::boxes::{boxed, full};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Video {
    /// The sample entry's name.
    pub(super) name: [u8; 4],
    /// The decoder's configuration.
    configuration: Bytes,
    pub(super) size: Option<Resolution>,
}

impl Video {
    /// The track of a codec with this configuration, and its name for browsers.
    pub(super) fn new(codec: Codec, configuration: &Bytes) -> Option<(Self, String)> {
        let name = match codec {
            Codec::FlvVideo(7) => *b"avc1",
            Codec::FlvVideo(12) => *b"hvc1",
            Codec::FourCc(fourcc) => fourcc,
            _ => return None,
        };
        let configuration = match &name {
            // Some write the record as it stands in MP4, with version and flags before it.
            b"vp08" | b"vp09" if configuration.starts_with(&[1, 0, 0, 0]) => {
                configuration.slice(4..)
            }
            _ => configuration.clone(),
        };
        let codec = match &name {
            b"avc1" => avc_name(&configuration),
            b"hvc1" => hevc_name(&configuration),
            b"av01" => av1_name(&configuration),
            b"vp08" | b"vp09" => vpx_name(&name, &configuration),
            _ => None,
        }?;
        Some((Self { name, configuration, size: None }, codec))
    }

    pub(super) fn sized(self, size: Option<Resolution>) -> Self {
        Self { size, ..self }
    }

    /// Takes the size from a keyframe if nothing else says it.
    pub(super) fn learn_size(&mut self, frame: &[u8]) {
        if self.size.is_none() {
            self.size = match &self.name {
                b"vp08" => video::vp8_resolution(frame),
                b"vp09" => video::vp9_resolution(frame),
                _ => None,
            };
        }
    }

    /// What follows the beginning that all sample entries have (`VisualSampleEntry`).
    pub(super) fn write_entry(&self, out: &mut Vec<u8>) {
        let side = |pixels: u32| u16::try_from(pixels).unwrap_or(u16::MAX);
        let size = self.size.unwrap_or(Resolution { width: 0, height: 0 });
        out.put_bytes(0, 16);
        out.put_u16(side(size.width));
        out.put_u16(side(size.height));
        // 72 dots an inch.
        out.put_u32(0x48_0000);
        out.put_u32(0x48_0000);
        out.put_u32(0);
        out.put_u16(1);
        out.put_bytes(0, 32);
        out.put_u16(24);
        out.put_i16(-1);
        match &self.name {
            b"avc1" => boxed(out, b"avcC", |out| out.put_slice(&self.configuration)),
            b"hvc1" => boxed(out, b"hvcC", |out| out.put_slice(&self.configuration)),
            b"av01" => boxed(out, b"av1C", |out| out.put_slice(&self.configuration)),
            _ => full(out, b"vpcC", 1, 0, |out| out.put_slice(&self.configuration)),
        }
    }
}

/// ISO/IEC 14496-15 §5.3.3.1 and annex E: profile, constraints, level.
fn avc_name(record: &[u8]) -> Option<String> {
    let &[version, profile, constraints, level, _, sps_count, _, ..] = record else { return None };
    let has_sps = sps_count & 0x1f > 0;
    (version == 1 && has_sps).then(|| format!("avc1.{profile:02X}{constraints:02X}{level:02X}"))
}

/// ISO/IEC 14496-15 §8.3.3.1 and annex E.
fn hevc_name(record: &[u8]) -> Option<String> {
    let head = record.first_chunk::<23>()?;
    let space = ["", "A", "B", "C"][usize::from(head[1] >> 6)];
    let tier = if head[1] & 0x20 == 0 { 'L' } else { 'H' };
    let profile = head[1] & 0x1f;
    let compatible = u32::from_be_bytes([head[2], head[3], head[4], head[5]]).reverse_bits();
    let mut name = format!("hvc1.{space}{profile}.{compatible:X}.{tier}{}", head[12]);
    let constraints = &head[6..12];
    let said = constraints.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    for byte in &constraints[..said] {
        let _ = write!(name, ".{byte:X}");
    }
    Some(name)
}

/// AV1 in ISOBMFF §2.3 and §5: profile, level, tier, depth.
fn av1_name(record: &[u8]) -> Option<String> {
    let &[marker, profile_level, bits, _, ..] = record else { return None };
    let (profile, level) = (profile_level >> 5, profile_level & 0x1f);
    let tier = if bits & 0x80 == 0 { 'M' } else { 'H' };
    let depth = match (bits & 0x40 != 0, profile == 2 && bits & 0x20 != 0) {
        (false, _) => 8,
        (true, false) => 10,
        (true, true) => 12,
    };
    (marker == 0x81).then(|| format!("av01.{profile}.{level:02}{tier}.{depth:02}"))
}

/// VP codecs in ISOBMFF: profile, level, depth.
fn vpx_name(name: &[u8; 4], record: &[u8]) -> Option<String> {
    let &[profile, level, depth, _, _, _, _, _, ..] = record else { return None };
    let name = if name == b"vp08" { "vp08" } else { "vp09" };
    Some(format!("{name}.{profile:02}.{level:02}.{:02}", depth >> 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_browsers_know() {
        let name = |fourcc: &[u8; 4], record: &[u8]| {
            let record = Bytes::copy_from_slice(record);
            Video::new(Codec::FourCc(*fourcc), &record).map(|(_, name)| name)
        };
        let avc = [1, 0x64, 0, 0x1f, 0xff, 0xe1, 0, 1, 0x67, 0];
        assert_eq!(name(b"avc1", &avc).as_deref(), Some("avc1.64001F"));
        let mut hevc = [0; 23];
        hevc[..13].copy_from_slice(&[1, 1, 0x60, 0, 0, 0, 0xb0, 0, 0, 0, 0, 0, 93]);
        assert_eq!(name(b"hvc1", &hevc).as_deref(), Some("hvc1.1.6.L93.B0"));
        assert_eq!(name(b"av01", &[0x81, 4, 0x0c, 0]).as_deref(), Some("av01.0.04M.08"));
        let vp9 = [0, 31, 0x82, 1, 1, 1, 0, 0];
        assert_eq!(name(b"vp09", &vp9).as_deref(), Some("vp09.00.31.08"));
        let boxed = [&[1, 0, 0, 0][..], &vp9].concat();
        assert_eq!(name(b"vp09", &boxed).as_deref(), Some("vp09.00.31.08"));
        for (fourcc, record) in [(b"avc1", &avc[..6]), (b"avc1", &[0; 20]), (b"hvc1", &hevc[..22])]
        {
            assert_eq!(name(fourcc, record), None);
        }
        assert_eq!(name(b"vvc1", &[0; 40]), None);
    }
}
