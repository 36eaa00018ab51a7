use std::fmt;

use bytes::Bytes;

use crate::enhanced::{self, Tracks};

/// The kind of a tag, and the track it keeps its order in.
///
/// The discriminants are array indexes; FLV's type ids are [`Track::flv_type`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Track {
    /// Audio messages (FLV tag type 8).
    Audio = 0,
    /// Video messages (FLV tag type 9).
    Video = 1,
    /// Script data such as `onMetaData` (FLV tag type 18).
    Data = 2,
}

impl Track {
    /// Every track, in the order of their discriminants.
    pub const ALL: [Self; 3] = [Self::Audio, Self::Video, Self::Data];

    /// The FLV tag type and RTMP message type id (RTMP 1.0 §7.1; AMF0 for data).
    pub const fn flv_type(self) -> u8 {
        match self {
            Self::Audio => 8,
            Self::Video => 9,
            Self::Data => 18,
        }
    }

    /// The track of an FLV tag type; `None` for a type that carries no media.
    pub const fn from_flv_type(flv_type: u8) -> Option<Self> {
        match flv_type {
            8 => Some(Self::Audio),
            9 => Some(Self::Video),
            18 => Some(Self::Data),
            _ => None,
        }
    }
}

/// What a tag means to whoever forwards it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Decoder configuration: never skipped, sent again to whoever joins.
    SequenceHeader,
    /// What a track's decoder is told beside its configuration: colours, the layout of channels.
    /// Never skipped, sent again to whoever joins.
    Supplement,
    /// A video frame that decoding of its track can start at.
    Keyframe,
    /// Any other coded audio or video frame, of known or unknown shape.
    Frame,
    /// `onMetaData`, with or without `@setDataFrame`: never skipped, sent again to whoever joins.
    Metadata,
    /// What is neither media nor configuration: end of sequence, command frames, empty messages,
    /// other script data.
    Other,
}

/// How a track is coded, as the tag's header says.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum Codec {
    /// FLV `CodecID` of a video tag (FLV 10.1 §E.4.3.1; 12 is the unofficial H.265).
    FlvVideo(u8),
    /// FLV `SoundFormat` of an audio tag (FLV 10.1 §E.4.2.1).
    FlvAudio(u8),
    /// Enhanced RTMP v2 `FourCC`.
    FourCc([u8; 4]),
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::FlvVideo(2) => "H.263",
            Self::FlvVideo(3 | 6) => "Screen",
            Self::FlvVideo(4 | 5) => "VP6",
            Self::FlvVideo(7) => "H.264",
            Self::FlvVideo(12) => "H.265",
            Self::FlvAudio(0 | 3) => "PCM",
            Self::FlvAudio(1) => "ADPCM",
            Self::FlvAudio(2 | 14) => "MP3",
            Self::FlvAudio(4..=6) => "Nellymoser",
            Self::FlvAudio(7 | 8) => "G.711",
            Self::FlvAudio(10) => "AAC",
            Self::FlvAudio(11) => "Speex",
            Self::FlvVideo(id) | Self::FlvAudio(id) => return write!(f, "codec {id}"),
            Self::FourCc(fourcc) => match fourcc {
                b"avc1" => "H.264",
                b"hvc1" => "H.265",
                b"vvc1" => "H.266",
                b"av01" => "AV1",
                b"vp08" => "VP8",
                b"vp09" => "VP9",
                b"mp4a" => "AAC",
                b"Opus" => "Opus",
                b"fLaC" => "FLAC",
                b"ac-3" => "AC-3",
                b"ec-3" => "E-AC-3",
                b".mp3" => "MP3",
                other => return write!(f, "{}", other.escape_ascii()),
            },
        };
        f.write_str(name)
    }
}

impl fmt::Debug for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Codec({self})")
    }
}

/// One audio, video or script data message: parsed once at the door, then shared.
///
/// `body` is the RTMP message payload, equal to the body of an FLV tag, bit for bit as the
/// encoder sent it. Cloning a tag shares the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag {
    /// The kind of the tag, and the track it keeps its order in.
    pub track: Track,
    /// Decoding time in milliseconds on the publication's own line, unwrapped from 32 bits.
    pub timestamp: i64,
    /// What the tag means.
    pub role: Role,
    /// How its track is coded; `None` for script data and bodies too short to say.
    pub codec: Option<Codec>,
    /// Which tracks of its kind it carries.
    pub tracks: Tracks,
    /// The payload.
    pub body: Bytes,
}

impl Tag {
    /// Classifies `body` and wraps it; any bytes make a tag.
    pub fn new(track: Track, timestamp: i64, body: Bytes) -> Self {
        let (role, codec, tracks) = match (track, body.first()) {
            (Track::Video, Some(first)) if first & 0x80 != 0 => enhanced::classify(track, &body),
            (Track::Audio, Some(first)) if first >> 4 == 9 => enhanced::classify(track, &body),
            _ => {
                let (role, codec) = match track {
                    Track::Video => classify_video(&body),
                    Track::Audio => classify_audio(&body),
                    Track::Data if is_metadata(&body) => (Role::Metadata, None),
                    Track::Data => (Role::Other, None),
                };
                (role, codec, Tracks::Main)
            }
        };
        Self { track, timestamp, role, codec, tracks, body }
    }

    /// Whether the tag must reach everyone who receives what comes after it.
    pub fn is_header(&self) -> bool {
        matches!(self.role, Role::SequenceHeader | Role::Supplement | Role::Metadata)
    }

    /// Whether a GOP starts with the tag: a video frame that decoding of the main track can start
    /// at. The keyframes of further tracks start none.
    pub fn is_keyframe(&self) -> bool {
        self.role == Role::Keyframe && self.tracks.has_main()
    }

    /// The RTMP and FLV timestamp: the low 32 bits.
    pub fn wire_timestamp(&self) -> u32 {
        self.timestamp as u32
    }
}

/// Codecs of legacy video tags whose second byte is an `AVCPacketType`.
const HAS_PACKET_TYPE: [u8; 2] = [7, 12];

fn classify_video(body: &[u8]) -> (Role, Option<Codec>) {
    let Some(&first) = body.first() else {
        return (Role::Other, None);
    };
    let codec = first & 0x0f;
    let is_key = first >> 4 == 1;
    let role = match (first >> 4, HAS_PACKET_TYPE.contains(&codec), body.get(1)) {
        // Video info and command frames.
        (5, ..) | (_, true, None) => Role::Other,
        (_, true, Some(0)) => Role::SequenceHeader,
        // 2 is end of sequence; anything above is not a coded picture either. A frame without a
        // payload (seen from DJI) is forwarded but starts nothing.
        (_, true, Some(2..)) => Role::Other,
        (_, true, _) if body.len() <= 5 => Role::Frame,
        _ if is_key => Role::Keyframe,
        _ => Role::Frame,
    };
    (role, Some(Codec::FlvVideo(codec)))
}

fn classify_audio(body: &[u8]) -> (Role, Option<Codec>) {
    let Some(&first) = body.first() else {
        return (Role::Other, None);
    };
    match first >> 4 {
        10 if body.get(1) == Some(&0) => (Role::SequenceHeader, Some(Codec::FlvAudio(10))),
        format => (Role::Frame, Some(Codec::FlvAudio(format))),
    }
}

/// Whether script data is `onMetaData`, on its own or after `@setDataFrame` (AMF0 strings).
///
/// Uniview's cameras put two numbers before it, as if it were a command.
fn is_metadata(mut body: &[u8]) -> bool {
    const SET_DATA_FRAME: &[u8] = b"\x02\x00\x0d@setDataFrame";
    const ON_META_DATA: &[u8] = b"\x02\x00\x0aonMetaData";
    const NUMBER: usize = 9;
    const MAX_NUMBERS: usize = 2;
    for _ in 0..MAX_NUMBERS {
        match body.split_at_checked(NUMBER) {
            Some(([0, ..], rest)) => body = rest,
            _ => break,
        }
    }
    body.strip_prefix(SET_DATA_FRAME).unwrap_or(body).starts_with(ON_META_DATA)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn video(body: &[u8]) -> (Role, Option<Codec>) {
        let tag = Tag::new(Track::Video, 0, Bytes::copy_from_slice(body));
        (tag.role, tag.codec)
    }

    fn audio(body: &[u8]) -> (Role, Option<Codec>) {
        let tag = Tag::new(Track::Audio, 0, Bytes::copy_from_slice(body));
        (tag.role, tag.codec)
    }

    #[test]
    fn classifies_legacy_video() {
        let avc = Some(Codec::FlvVideo(7));
        assert_eq!(video(&[0x17, 0, 0, 0, 0, 1]), (Role::SequenceHeader, avc));
        assert_eq!(video(&[0x17, 1, 0, 0, 0, 0, 0, 0, 1, 0x65]), (Role::Keyframe, avc));
        assert_eq!(video(&[0x27, 1, 0, 0, 0, 0, 0, 0, 1, 0x41]), (Role::Frame, avc));
        assert_eq!(video(&[0x17, 2, 0, 0, 0]), (Role::Other, avc));
        assert_eq!(video(&[0x17, 1, 0, 0, 0]).0, Role::Frame, "no payload starts nothing");
        assert_eq!(video(&[0x1c, 0, 0, 0, 0, 1]).0, Role::SequenceHeader, "H.265 as codec 12");
        assert_eq!(video(&[0x12, 9]).0, Role::Keyframe, "Sorenson has no packet type");
        assert_eq!(video(&[0x57, 0]).0, Role::Other, "command frame");
        assert_eq!(video(&[]), (Role::Other, None));
        assert_eq!(video(&[0x17]), (Role::Other, avc));
    }

    #[test]
    fn classifies_audio() {
        assert_eq!(audio(&[0xaf, 0, 0x12]), (Role::SequenceHeader, Some(Codec::FlvAudio(10))));
        assert_eq!(audio(&[0xaf, 1, 0x21]), (Role::Frame, Some(Codec::FlvAudio(10))));
        assert_eq!(audio(&[0x2f, 0xff]), (Role::Frame, Some(Codec::FlvAudio(2))));
        assert_eq!(audio(&[]), (Role::Other, None));
    }

    #[test]
    fn recognises_metadata_in_both_forms() {
        let tag = |body: &'static [u8]| Tag::new(Track::Data, 0, Bytes::from_static(body));
        assert_eq!(tag(b"\x02\x00\x0aonMetaData\x05").role, Role::Metadata);
        let numbers = [&[0; 18][..], b"\x02\x00\x0aonMetaData\x05"].concat();
        assert_eq!(Tag::new(Track::Data, 0, numbers.into()).role, Role::Metadata, "Uniview");
        assert_eq!(
            tag(b"\x02\x00\x0d@setDataFrame\x02\x00\x0aonMetaData\x05").role,
            Role::Metadata
        );
        assert_eq!(tag(b"\x02\x00\x0bonTextData_").role, Role::Other);
    }
}
