//! `onMetaData`, what an encoder says of its stream (FLV 10.1 §E.5).

use bytes::{Bytes, BytesMut};
use media::Codec;

use crate::amf0::{self, Bounds, Value};

/// What is worth knowing of an encoder's metadata; all of it may be untrue.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    /// Pixels.
    pub width: Option<u32>,
    /// Pixels.
    pub height: Option<u32>,
    /// Frames per second.
    pub frame_rate: Option<f64>,
    /// Kilobits per second.
    pub video_kbps: Option<f64>,
    /// Kilobits per second.
    pub audio_kbps: Option<f64>,
    /// The name and version of the encoder.
    pub encoder: Option<String>,
}

/// Reads the metadata in a data message, with or without `@setDataFrame`; `None` if there is none.
pub fn parse(body: &[u8]) -> Option<Metadata> {
    let properties = Value::EcmaArray(properties(body, &Bounds::default())?);
    let number = |name: &str| {
        let number = properties.property(name)?.as_number()?;
        (number.is_finite() && number > 0.0).then_some(number)
    };
    let pixels = |name: &str| {
        let number = number(name)?;
        // FLV and its codecs end at 16 bits.
        (number <= 65535.0).then_some(number as u32)
    };
    let encoder = properties.property("encoder").and_then(Value::as_str);
    Some(Metadata {
        width: pixels("width"),
        height: pixels("height"),
        frame_rate: number("framerate").or_else(|| number("videoframerate")),
        video_kbps: number("videodatarate"),
        audio_kbps: number("audiodatarate"),
        encoder: encoder.map(str::to_owned),
    })
}

/// What is known of a track when players are told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It is there, and coded like this.
    Coded(Codec),
    /// It is not there.
    Absent,
    /// Nothing of it came yet: the encoder's own word is passed on.
    AsAnnounced,
}

/// The data message that tells players of a stream.
///
/// `@setDataFrame` is removed; the properties are an ECMA array, as FFmpeg demands.
/// `videocodecid` and `audiocodecid` are there exactly for the tracks that exist: players wait
/// for those that are announced. The maps of further tracks are there only for a player that gets
/// several. `creationdate` is left out: GStreamer repeats its metadata with the time of day in it, and
/// metadata that changes in the middle is a subtitle to FFmpeg and VLC. Everything else stays as the
/// encoder sent it, in order. Without usable metadata from the encoder, `body` being `None`,
/// broken or beyond `bounds`, only the codecs are told.
pub fn for_player(
    body: Option<&[u8]>,
    video: Presence,
    audio: Presence,
    is_multitrack: bool,
    bounds: &Bounds,
) -> Bytes {
    // Enhanced RTMP v2, "Enhancing onMetaData".
    const TRACK_MAPS: [&str; 2] = ["videoTrackIdInfoMap", "audioTrackIdInfoMap"];

    let mut properties = body.and_then(|body| properties(body, bounds)).unwrap_or_default();
    properties.retain(|(key, _)| is_multitrack || !TRACK_MAPS.contains(&key.as_str()));
    properties.retain(|(key, _)| key != "creationdate");
    for (name, presence) in [("videocodecid", video), ("audiocodecid", audio)] {
        let codec = match presence {
            Presence::Coded(codec) => codec,
            Presence::Absent => {
                properties.retain(|(key, _)| key != name);
                continue;
            }
            Presence::AsAnnounced => continue,
        };
        let id = Value::Number(codec_id(codec));
        match properties.iter_mut().find(|(key, _)| key == name) {
            Some((_, value)) => *value = id,
            None => properties.push((name.to_owned(), id)),
        }
    }
    let mut out = BytesMut::with_capacity(512);
    Value::from("onMetaData").encode(&mut out);
    Value::EcmaArray(properties).encode(&mut out);
    out.freeze()
}

/// The legacy id, or the `FourCC` as a number (Enhanced RTMP v2, "Metadata").
fn codec_id(codec: Codec) -> f64 {
    match codec {
        Codec::FlvVideo(id) | Codec::FlvAudio(id) => id.into(),
        Codec::FourCc(fourcc) => u32::from_be_bytes(fourcc).into(),
    }
}

/// The properties after the string `onMetaData`, whatever comes before it.
fn properties(body: &[u8], bounds: &Bounds) -> Option<Vec<(String, Value)>> {
    let mut values = amf0::decode_within(body, bounds).ok()?.into_iter();
    values.find(|value| value.as_str() == Some("onMetaData"))?;
    match values.next()? {
        Value::Object(properties) | Value::EcmaArray(properties) => Some(properties),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(prefix: &[Value], properties: &Value) -> Vec<u8> {
        let mut out = BytesMut::new();
        prefix.iter().for_each(|value| value.encode(&mut out));
        Value::from("onMetaData").encode(&mut out);
        properties.encode(&mut out);
        out.to_vec()
    }

    #[test]
    fn reads_what_encoders_say() {
        let properties = Value::object([
            ("width", 1920.0.into()),
            ("height", "1080".into()),
            ("framerate", f64::NAN.into()),
            ("videodatarate", 2500.5.into()),
            ("encoder", "obs-output module".into()),
        ]);
        let expected = Metadata {
            width: Some(1920),
            height: Some(1080),
            video_kbps: Some(2500.5),
            encoder: Some("obs-output module".into()),
            ..Metadata::default()
        };
        // The numbers are those of some cameras.
        for prefix in
            [&[][..], &["@setDataFrame".into()], &[0.0.into(), 0.0.into(), "@setDataFrame".into()]]
        {
            assert_eq!(parse(&body(prefix, &properties)), Some(expected.clone()));
        }
        assert_eq!(parse(b"\x02\x00\x0aonTextData"), None);
        assert_eq!(parse(b"\x02\x00\x0aonMetaData"), None);
        assert_eq!(parse(b"\x02\x00"), None);
    }

    #[test]
    fn a_repetition_at_another_time_of_day_tells_players_nothing_new() {
        let at = |time: &str| {
            let sent = Value::object([("width", 640.0.into()), ("creationdate", time.into())]);
            let body = body(&[], &sent);
            for_player(
                Some(&body),
                Presence::AsAnnounced,
                Presence::AsAnnounced,
                false,
                &Bounds::default(),
            )
        };
        assert_eq!(at("Mon Nov 23 01:13:15 2026"), at("Mon Nov 23 01:13:17 2026"));
        assert_eq!(parse(&at("Mon")).and_then(|told| told.width), Some(640));
    }

    #[test]
    fn tells_players_of_the_tracks_that_exist() {
        let sent = Value::object([
            ("audiocodecid", 10.0.into()),
            ("width", 640.0.into()),
            ("videocodecid", "avc1".into()),
            ("list", Value::StrictArray(vec![Value::Null])),
        ]);
        let body = body(&["@setDataFrame".into()], &sent);
        let told = for_player(
            Some(&body),
            Presence::Coded(Codec::FourCc(*b"hvc1")),
            Presence::Absent,
            false,
            &Bounds::default(),
        );
        let expected = Value::EcmaArray(vec![
            ("width".into(), 640.0.into()),
            ("videocodecid".into(), f64::from(0x6876_6331).into()),
            ("list".into(), Value::StrictArray(vec![Value::Null])),
        ]);
        assert_eq!(amf0::decode(&told), Ok(vec!["onMetaData".into(), expected]));
    }

    #[test]
    fn maps_of_tracks_are_for_those_who_get_them() {
        let maps = [("videoTrackIdInfoMap", Value::object([("1", Value::object([]))]))];
        let body = body(&[], &Value::object(maps.clone()));
        for is_multitrack in [true, false] {
            let told = for_player(
                Some(&body),
                Presence::AsAnnounced,
                Presence::AsAnnounced,
                is_multitrack,
                &Bounds::default(),
            );
            let told = amf0::decode(&told).unwrap().remove(1);
            assert_eq!(told.property(maps[0].0).is_some(), is_multitrack);
        }
    }

    #[test]
    fn much_is_told_where_much_is_allowed() {
        let many: Vec<_> = (0..2_000).map(|number| (number.to_string(), Value::Null)).collect();
        let body = body(&[], &Value::EcmaArray(many));
        for (bounds, count) in [(Bounds::default(), 0), (Bounds::MOST, 2_000)] {
            let told = for_player(Some(&body), Presence::Absent, Presence::Absent, true, &bounds);
            assert_eq!(properties(&told, &Bounds::MOST).map(|told| told.len()), Some(count));
        }
    }

    #[test]
    fn makes_metadata_from_nothing() {
        for body in [None, Some(&b"\xff"[..])] {
            let told = for_player(
                body,
                Presence::Absent,
                Presence::Coded(Codec::FlvAudio(10)),
                false,
                &Bounds::default(),
            );
            assert_eq!(
                told,
                b"\x02\x00\x0aonMetaData\x08\x00\x00\x00\x01\x00\x0caudiocodecid\
                  \x00\x40\x24\x00\x00\x00\x00\x00\x00\x00\x00\x09"[..]
            );
        }
    }
}
