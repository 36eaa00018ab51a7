//! Audio tracks: what their decoders are told, and how long a frame lasts.

use bytes::{Buf, BufMut, Bytes};
use media::Codec;

use super::boxes::{descriptor, full};

/// Sample rates by their index (ISO/IEC 14496-3 §1.6.3.4).
const RATES: [u32; 13] = [
    96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000,
    7_350,
];
/// The highest sample rate that a header is believed to mean.
const MAX_RATE: u32 = 768_000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Audio {
    /// Samples a second.
    pub(super) rate: u32,
    channels: u16,
    coding: Coding,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Coding {
    /// `AudioSpecificConfig`, and samples in a frame.
    Aac(Bytes, u32),
    /// `OpusSpecificBox`.
    Opus(Bytes),
    /// `STREAMINFO`, and samples in a frame if all have as many.
    Flac(Bytes, Option<u32>),
    Mp3,
}

impl Audio {
    /// The track of a codec with this configuration, and its name for browsers.
    pub(super) fn new(codec: Codec, configuration: &Bytes) -> Option<(Self, String)> {
        match codec {
            Codec::FlvAudio(10) => aac(configuration),
            Codec::FourCc(fourcc) => match &fourcc {
                b"mp4a" => aac(configuration),
                b"Opus" => opus(configuration),
                b"fLaC" => flac(configuration),
                _ => None,
            },
            _ => None,
        }
    }

    /// The track of an MP3 frame.
    pub(super) fn mp3(frame: &[u8]) -> Option<(Self, String)> {
        let Mp3 { rate, channels, .. } = Mp3::of(frame)?;
        Some((Self { rate, channels, coding: Coding::Mp3 }, "mp4a.6B".to_owned()))
    }

    /// How many samples a frame has.
    pub(super) fn sample_length(&self, frame: &[u8]) -> Option<u32> {
        match self.coding {
            Coding::Aac(_, length) => Some(length),
            Coding::Opus(_) => opus_length(frame),
            Coding::Flac(_, length) => length,
            Coding::Mp3 => Mp3::of(frame).map(|mp3| mp3.length),
        }
    }

    pub(super) fn entry_name(&self) -> [u8; 4] {
        match self.coding {
            Coding::Aac(..) | Coding::Mp3 => *b"mp4a",
            Coding::Opus(_) => *b"Opus",
            Coding::Flac(..) => *b"fLaC",
        }
    }

    /// What follows the beginning that all sample entries have (`AudioSampleEntry`).
    pub(super) fn write_entry(&self, out: &mut Vec<u8>) {
        out.put_bytes(0, 8);
        out.put_u16(self.channels);
        out.put_u16(16);
        out.put_u32(0);
        // 16.16; a rate beyond it is said by the codec's own box.
        out.put_u32(u16::try_from(self.rate).map_or(0, |rate| u32::from(rate) << 16));
        match &self.coding {
            Coding::Aac(config, _) => esds(out, 0x40, Some(config)),
            Coding::Mp3 => esds(out, 0x6b, None),
            Coding::Opus(content) => {
                super::boxes::boxed(out, b"dOps", |out| out.put_slice(content))
            }
            Coding::Flac(info, _) => full(out, b"dfLa", 0, 0, |out| {
                // The last metadata block, of type STREAMINFO.
                out.put_u32(0x8000_0000 | info.len() as u32);
                out.put_slice(info);
            }),
        }
    }
}

/// `esds` (ISO/IEC 14496-14 §5.6.1).
fn esds(out: &mut Vec<u8>, object_type: u8, config: Option<&Bytes>) {
    let mut decoder = vec![object_type];
    // Audio, upstream no; buffer and rates unknown.
    decoder.put_u8(0x15);
    decoder.put_bytes(0, 11);
    if let Some(config) = config {
        descriptor(&mut decoder, 5, config);
    }
    let mut stream = vec![0; 3];
    descriptor(&mut stream, 4, &decoder);
    descriptor(&mut stream, 6, &[2]);
    full(out, b"esds", 0, 0, |out| descriptor(out, 3, &stream));
}

/// `AudioSpecificConfig` (ISO/IEC 14496-3 §1.6.2.1).
fn aac(config: &Bytes) -> Option<(Audio, String)> {
    let mut bits = Bits { bytes: config, at: 0 };
    let object_type = bits.object_type()?;
    let rate = bits.rate()?;
    let channels = bits.read(4)?;
    // With these, the rate of the sound is said again; frames are counted at the core's.
    let core = if matches!(object_type, 5 | 29) {
        bits.rate()?;
        bits.object_type()?
    } else {
        object_type
    };
    let is_general = matches!(core, 1..=4 | 6 | 7 | 17 | 19..=23);
    let is_short = is_general && bits.read(1)? == 1;
    let length = if is_short { 960 } else { 1_024 };
    let channels = match channels {
        0 => 2,
        7 => 8,
        channels => channels as u16,
    };
    let name = format!("mp4a.40.{object_type}");
    let rate = known(rate)?;
    Some((Audio { rate, channels, coding: Coding::Aac(config.clone(), length) }, name))
}

fn known(rate: u32) -> Option<u32> {
    (1..=MAX_RATE).contains(&rate).then_some(rate)
}

struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    fn read(&mut self, count: usize) -> Option<u32> {
        let mut value = 0;
        for _ in 0..count {
            let byte = self.bytes.get(self.at / 8)?;
            value = value << 1 | u32::from(byte >> (7 - self.at % 8) & 1);
            self.at += 1;
        }
        Some(value)
    }

    fn object_type(&mut self) -> Option<u32> {
        match self.read(5)? {
            31 => Some(32 + self.read(6)?),
            object_type => Some(object_type),
        }
    }

    fn rate(&mut self) -> Option<u32> {
        match self.read(4)? {
            15 => self.read(24),
            index => RATES.get(index as usize).copied(),
        }
    }
}

/// `OpusHead` (RFC 7845 §5.1), and what MP4 makes of it (Opus in ISOBMFF §4.3.2).
fn opus(head: &Bytes) -> Option<(Audio, String)> {
    let mut input = head.strip_prefix(b"OpusHead")?;
    let _version = input.try_get_u8().ok()?;
    let channels = input.try_get_u8().ok().filter(|channels| *channels > 0)?;
    let pre_skip = input.try_get_u16_le().ok()?;
    let rate = input.try_get_u32_le().ok()?;
    let gain = input.try_get_i16_le().ok()?;
    let family = input.try_get_u8().ok()?;
    let mut content = vec![0, channels];
    content.put_u16(pre_skip);
    content.put_u32(rate);
    content.put_i16(gain);
    content.put_u8(family);
    if family != 0 {
        // Streams, coupled ones, and where each channel comes from.
        content.put_slice(input.get(..2 + usize::from(channels))?);
    }
    let coding = Coding::Opus(content.into());
    Some((Audio { rate: 48_000, channels: channels.into(), coding }, "opus".to_owned()))
}

/// Samples of an Opus packet at 48 kHz (RFC 6716 §3.1).
fn opus_length(packet: &[u8]) -> Option<u32> {
    let toc = *packet.first()?;
    let config = u32::from(toc >> 3);
    let frame = match config {
        0..12 => [480, 960, 1_920, 2_880][config as usize % 4],
        12..16 => [480, 960][config as usize % 2],
        _ => [120, 240, 480, 960][config as usize % 4],
    };
    let frames = match toc & 3 {
        0 => 1,
        1 | 2 => 2,
        _ => u32::from(packet.get(1)? & 0x3f),
    };
    // A packet lasts 120 ms at most.
    Some(frame * frames).filter(|length| (1..=5_760).contains(length))
}

/// `STREAMINFO` (RFC 9639 §8.2), with or without the stream's marker and the block's head.
fn flac(config: &Bytes) -> Option<(Audio, String)> {
    const LENGTH: usize = 34;
    let mut at = 0;
    if config.starts_with(b"fLaC") {
        at = 4;
    }
    if config.len() >= at + 4 + LENGTH
        && config[at] & 0x7f == 0
        && config[at + 1..at + 4] == [0, 0, 34]
    {
        at += 4;
    }
    let info = config.get(at..at + LENGTH)?;
    let [least, most] = [0, 2].map(|at| u16::from_be_bytes([info[at], info[at + 1]]));
    let bits = u32::from_be_bytes([info[10], info[11], info[12], info[13]]);
    let rate = known(bits >> 12)?;
    let channels = (bits >> 9 & 7) as u16 + 1;
    let length = (least == most && most > 0).then_some(u32::from(most));
    let coding = Coding::Flac(config.slice(at..at + LENGTH), length);
    Some((Audio { rate, channels, coding }, "flac".to_owned()))
}

/// What the head of an MP3 frame says (ISO/IEC 11172-3 §2.4.1.3, layer III).
struct Mp3 {
    rate: u32,
    channels: u16,
    length: u32,
}

impl Mp3 {
    fn of(frame: &[u8]) -> Option<Self> {
        let &[sync, version_layer, rates, mode, ..] = frame else { return None };
        let (version, layer) = (version_layer >> 3 & 3, version_layer >> 1 & 3);
        if sync != 0xff || version_layer & 0xe0 != 0xe0 || layer != 1 {
            return None;
        }
        let full = [44_100, 48_000, 32_000].get(usize::from(rates >> 2 & 3))?;
        let (divisor, length) = match version {
            3 => (1, 1_152),
            2 => (2, 576),
            0 => (4, 576),
            _ => return None,
        };
        let channels = if mode >> 6 == 3 { 1 } else { 2 };
        Some(Self { rate: full / divisor, channels, length })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn track(codec: Codec, config: &[u8]) -> Option<(u32, u16, String, Option<u32>)> {
        let (audio, name) = Audio::new(codec, &Bytes::copy_from_slice(config))?;
        Some((audio.rate, audio.channels, name, audio.sample_length(&[0xfc])))
    }

    #[test]
    fn configurations_are_read() {
        let aac = |config: &[u8]| track(Codec::FlvAudio(10), config);
        assert_eq!(aac(&[0x12, 0x10]), Some((44_100, 2, "mp4a.40.2".into(), Some(1_024))));
        assert_eq!(aac(&[0x11, 0x8c]), Some((48_000, 1, "mp4a.40.2".into(), Some(960))));
        // HE-AAC, said outright: 24 kHz in the core, 48 kHz to the ear.
        assert_eq!(aac(&[0x2b, 0x11, 0x88, 0]), Some((24_000, 2, "mp4a.40.5".into(), Some(1_024))));
        assert_eq!(aac(&[0x12]), None);
        assert_eq!(aac(&[0x17, 0x80, 0, 0, 0]), None, "a rate of 0");
        let head = b"OpusHead\x01\x02\x38\x01\x80\xbb\x00\x00\x00\x00\x00";
        let opus = track(Codec::FourCc(*b"Opus"), head);
        assert_eq!(opus, Some((48_000, 2, "opus".into(), Some(960))));
        assert_eq!(track(Codec::FourCc(*b"Opus"), &head[..18]), None);
        let mut info = [0; 34];
        info[..4].copy_from_slice(&[0x10, 0, 0x10, 0]);
        info[10..14].copy_from_slice(&(48_000u32 << 12 | 1 << 9 | 15 << 4).to_be_bytes());
        let flac = Some((48_000, 2, "flac".into(), Some(4_096)));
        assert_eq!(track(Codec::FourCc(*b"fLaC"), &info), flac);
        let whole = [b"fLaC\x80\x00\x00\x22", &info[..]].concat();
        assert_eq!(track(Codec::FourCc(*b"fLaC"), &whole), flac);
        let (mp3, name) = Audio::mp3(&[0xff, 0xfb, 0x90, 0xc0]).unwrap();
        assert_eq!((mp3.rate, mp3.channels, name.as_str()), (44_100, 1, "mp4a.6B"));
        assert!(Audio::mp3(&[0xff, 0xfb, 0x9c, 0]).is_none());
    }

    #[test]
    fn opus_packets_say_how_long_they_are() {
        assert_eq!(opus_length(&[0xfc]), Some(960), "one frame of 20 ms");
        assert_eq!(opus_length(&[0x78 | 1]), Some(1_920), "two of 20 ms");
        assert_eq!(opus_length(&[0x83, 48]), Some(5_760), "48 of 2.5 ms");
        assert_eq!(opus_length(&[0x83, 49]), None);
        assert_eq!(opus_length(&[0x83]), None);
        assert_eq!(opus_length(&[]), None);
    }
}
