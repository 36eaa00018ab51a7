//! What a tag carries behind its headers.

use bytes::Bytes;
use media::enhanced::{self, Fit, Form};
use media::{Codec, Role, Tag, Track, video};

/// A coded frame: what a sample of MP4 holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    /// The coded frame; shares the tag's body where the tag has one track.
    pub data: Bytes,
    /// Milliseconds between its decoding and its showing.
    pub composition_ms: i32,
    /// Whether decoding can start at it; of audio, always.
    pub is_keyframe: bool,
}

/// The coded frame of the tag's main track; `None` for headers, metadata, ends of sequences, empty
/// frames, further tracks, and codecs that MP4 has no place for.
pub fn payload(tag: &Tag) -> Option<Payload> {
    if !matches!(tag.role, Role::Keyframe | Role::Frame) {
        return None;
    }
    let Plain { tag, content: Content::Frame(data) } = plain(tag)? else { return None };
    if data.is_empty() {
        return None;
    }
    let composition_ms = video::composition_time(&tag).unwrap_or(0);
    let is_keyframe = tag.track == Track::Audio || tag.role == Role::Keyframe;
    Some(Payload { data, composition_ms, is_keyframe })
}

/// The longest configuration that is taken, a hundred times an honest one: it stands in every part of
/// a recording, and every frame that a preview keeps holds the one it belongs to.
const MAX_CONFIGURATION: usize = 64 << 10;

/// The configuration of the main track's decoder.
pub(super) fn configuration(tag: &Tag) -> Option<Bytes> {
    if tag.role != Role::SequenceHeader {
        return None;
    }
    match plain(tag)?.content {
        Content::Configuration(data) => Some(data).filter(|data| data.len() <= MAX_CONFIGURATION),
        Content::Frame(_) => None,
    }
}

enum Content {
    Configuration(Bytes),
    Frame(Bytes),
}

/// A tag of the main track alone.
struct Plain {
    tag: Tag,
    content: Content,
}

fn plain(tag: &Tag) -> Option<Plain> {
    let tag = match enhanced::fit(tag, Form::PLAIN, |_| true) {
        Fit::AsIs => tag.clone(),
        Fit::Remade(tag) => tag,
        Fit::Nothing => return None,
    };
    let content = content(&tag)?;
    Some(Plain { tag, content })
}

fn content(tag: &Tag) -> Option<Content> {
    let body = &tag.body;
    let from = |at: usize| (at <= body.len()).then(|| body.slice(at..));
    let frame = |at: usize| from(at).map(Content::Frame);
    let configuration = |at: usize| from(at).map(Content::Configuration);
    match tag.codec? {
        // FLV 10.1 §E.4.3.1, and H.265 after its example.
        Codec::FlvVideo(7 | 12) => match body.get(1)? {
            0 => configuration(5),
            1 => frame(5),
            _ => None,
        },
        // FLV 10.1 §E.4.2.2.
        Codec::FlvAudio(10) => match body.get(1)? {
            0 => configuration(2),
            1 => frame(2),
            _ => None,
        },
        Codec::FlvAudio(2 | 14) => frame(1),
        // Enhanced RTMP v2: the packet type, the FourCC, and what they announce.
        Codec::FourCc(fourcc) => match (tag.track, body.first()? & 0x0f) {
            (Track::Video | Track::Audio, 0) => configuration(5),
            (Track::Video, 1) if [*b"avc1", *b"hvc1", *b"vvc1"].contains(&fourcc) => frame(8),
            (Track::Video, 1 | 3) | (Track::Audio, 1) => {
                // A temporal delimiter belongs into no sample (AV1 in ISOBMFF §2.4).
                let is_delimited = fourcc == *b"av01" && body.get(5..7) == Some(&[0x12, 0]);
                frame(if is_delimited { 7 } else { 5 })
            }
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(track: Track, body: &'static [u8]) -> Option<(Vec<u8>, i32, bool)> {
        let payload = payload(&Tag::new(track, 0, Bytes::from_static(body)))?;
        Some((payload.data.to_vec(), payload.composition_ms, payload.is_keyframe))
    }

    #[test]
    fn frames_are_what_stands_behind_the_headers() {
        let video = |body| of(Track::Video, body);
        let audio = |body| of(Track::Audio, body);
        assert_eq!(video(b"\x17\x01\x00\x00\x05k"), Some((b"k".to_vec(), 5, true)));
        assert_eq!(video(b"\x2c\x01\xff\xff\xfep"), Some((b"p".to_vec(), -2, false)));
        assert_eq!(video(b"\x91hvc1\x00\x00\x07k"), Some((b"k".to_vec(), 7, true)));
        assert_eq!(video(b"\xa3hvc1p"), Some((b"p".to_vec(), 0, false)));
        assert_eq!(video(b"\x91av01\x12\x00k"), Some((b"k".to_vec(), 0, true)));
        assert_eq!(audio(b"\xaf\x01a"), Some((b"a".to_vec(), 0, true)));
        assert_eq!(audio(b"\x2fmp3"), Some((b"mp3".to_vec(), 0, true)));
        assert_eq!(audio(b"\x91Opuso"), Some((b"o".to_vec(), 0, true)));
        // In an envelope, with another track in the same message.
        let many = b"\x96\x23hvc1\x00\x00\x00\x02k0avc1\x01\x00\x00\x02k1";
        assert_eq!(video(many), Some((b"k0".to_vec(), 0, true)));
        let none: [&[u8]; 8] = [
            b"",
            b"\x17",
            b"\x17\x00\x00\x00\x00\x01",
            b"\x17\x02\x00\x00\x00",
            b"\x17\x01\x00\x00\x00",
            b"\x90av01x",
            b"\xd1av01\x01",
            b"\x12\x00\x01",
        ];
        for body in none {
            assert_eq!(video(body), None, "{body:?}");
        }
        assert_eq!(audio(b"\xaf\x00\x12\x10"), None);
        assert_eq!(audio(b"\x95\x01mp4a\x01a1"), None, "a further track");
        assert_eq!(of(Track::Data, b"\x02\x00\x0aonMetaData\x05"), None);
    }

    #[test]
    fn a_configuration_has_an_end() {
        let of = |length: usize| {
            let body = [&[0x17, 0, 0, 0, 0][..], &vec![1; length]].concat();
            configuration(&Tag::new(Track::Video, 0, body.into())).is_some()
        };
        assert!(of(MAX_CONFIGURATION) && !of(MAX_CONFIGURATION + 1));
    }
}
