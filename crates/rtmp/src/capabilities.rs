//! What an end announces of Enhanced RTMP in `connect` (Enhanced RTMP v2, "Enhancing
//! NetConnection connect Command").
//!
//! Nothing of it is ever required: most encoders and players that use enhanced codecs announce
//! none.

use media::{Codec, Track};

use crate::amf0::Value;

/// Codecs remembered of each kind; there are not twenty.
const MAX_CODECS: usize = 64;

/// `FourCcInfoMask`: it can decode, encode, or forward a codec.
const CAN_DECODE: u8 = 1;
const CAN_FORWARD: u8 = 4;
/// What `fourCcList` says of a codec.
const CAN_ALL: u8 = 7;

/// `FourCC`s of audio in `fourCcList`, which names both kinds; every other one is video.
const AUDIO: [&[u8; 4]; 6] = [b"ac-3", b"ec-3", b"Opus", b".mp3", b"fLaC", b"mp4a"];

/// `CapsExMask`: abilities beside codecs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CapsEx(u32);

impl CapsEx {
    /// None.
    pub const NONE: Self = Self(0);
    /// It follows, or makes, requests to reconnect.
    pub const RECONNECT: Self = Self(1);
    /// Several tracks of audio and video.
    pub const MULTITRACK: Self = Self(2);
    /// `ModEx` packets.
    pub const MOD_EX: Self = Self(4);
    /// `ModEx` packets with an offset in nanoseconds.
    pub const NANO_OFFSET: Self = Self(8);
    /// All that this crate knows.
    pub const ALL: Self = Self(15);

    /// Both together.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` is in it.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// What one end announced, or announces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    video: Option<Codecs>,
    audio: Option<Codecs>,
    caps_ex: Option<CapsEx>,
}

/// Codecs of one kind and their flags.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Codecs {
    /// The flags of `*`, which hold for every codec.
    any: u8,
    each: Vec<([u8; 4], u8)>,
}

impl Codecs {
    fn add(&mut self, name: &str, flags: u8) {
        match <[u8; 4]>::try_from(name.as_bytes()) {
            Ok(fourcc) if self.each.len() < MAX_CODECS => self.each.push((fourcc, flags)),
            _ if name == "*" => self.any |= flags,
            _ => {}
        }
    }

    fn takes(&self, fourcc: [u8; 4]) -> bool {
        // Case is mixed up in the specification's own examples.
        let named = self.each.iter().filter(|(name, _)| name.eq_ignore_ascii_case(&fourcc));
        let flags = named.fold(self.any, |flags, (_, more)| flags | more);
        flags & (CAN_DECODE | CAN_FORWARD) != 0
    }
}

impl Capabilities {
    /// Those of an end that passes on any codec.
    pub fn forwarder(caps_ex: CapsEx) -> Self {
        let any = || Some(Codecs { any: CAN_FORWARD, each: Vec::new() });
        Self { video: any(), audio: any(), caps_ex: Some(caps_ex) }
    }

    /// Reads the command object of `connect`, or the properties of its answer. What is not of its
    /// type is as if it was not there.
    pub fn parse(object: &Value) -> Self {
        let number = |value: &Value| value.as_number().filter(|number| number.is_finite());
        let mut capabilities = Self {
            video: object.property("videoFourCcInfoMap").and_then(parse_map),
            audio: object.property("audioFourCcInfoMap").and_then(parse_map),
            // Out of range is cut to it.
            caps_ex: object.property("capsEx").and_then(number).map(|bits| CapsEx(bits as u32)),
        };
        if let Some(Value::StrictArray(list)) = object.property("fourCcList") {
            // In Enhanced RTMP v1 the list was of video alone: without a codec of audio in it, it
            // says nothing of audio.
            let video = capabilities.video.get_or_insert_default();
            for name in list.iter().filter_map(Value::as_str) {
                let is_audio =
                    AUDIO.iter().any(|known| known.eq_ignore_ascii_case(name.as_bytes()));
                if !is_audio {
                    video.add(name, CAN_ALL);
                }
                if is_audio || name == "*" {
                    capabilities.audio.get_or_insert_default().add(name, CAN_ALL);
                }
            }
        }
        capabilities
    }

    /// The properties that announce them; none if there are none.
    pub(crate) fn properties(&self) -> Vec<(String, Value)> {
        let mut properties = Vec::new();
        let kinds = [("videoFourCcInfoMap", &self.video), ("audioFourCcInfoMap", &self.audio)];
        let named = kinds.iter().filter_map(|(_, codecs)| codecs.as_ref());
        let mut list = Vec::<Value>::new();
        for codecs in named {
            let any = (codecs.any != 0).then_some("*".to_owned());
            let each = codecs.each.iter().map(|(name, _)| String::from_utf8_lossy(name).into());
            let new = any.into_iter().chain(each).map(Value::String);
            let new: Vec<_> = new.filter(|name| !list.contains(name)).collect();
            list.extend(new);
        }
        if self.video.is_some() || self.audio.is_some() {
            properties.push(("fourCcList".to_owned(), Value::StrictArray(list)));
        }
        for (name, codecs) in kinds {
            let Some(codecs) = codecs else { continue };
            let any = (codecs.any != 0).then_some(("*".to_owned(), f64::from(codecs.any).into()));
            let each = codecs.each.iter().map(|(name, flags)| {
                (String::from_utf8_lossy(name).into_owned(), f64::from(*flags).into())
            });
            properties
                .push((name.to_owned(), Value::Object(any.into_iter().chain(each).collect())));
        }
        properties.extend(self.caps_ex.map(|caps| ("capsEx".to_owned(), f64::from(caps.0).into())));
        properties
    }

    /// Whether anything was announced.
    pub fn is_announced(&self) -> bool {
        *self != Self::default()
    }

    /// Whether all of `caps_ex` was announced.
    pub fn has(&self, caps_ex: CapsEx) -> bool {
        self.caps_ex.is_some_and(|own| own.has(caps_ex))
    }

    /// Whether it decodes or forwards a codec.
    ///
    /// Codecs without a `FourCC` are older than announcements, and where nothing was announced
    /// for a kind of track, there is nothing to go by: all of these it does.
    pub fn takes(&self, track: Track, codec: Codec) -> bool {
        let kind = match track {
            Track::Audio => &self.audio,
            Track::Video => &self.video,
            Track::Data => &None,
        };
        match (kind, codec) {
            (Some(codecs), Codec::FourCc(fourcc)) => codecs.takes(fourcc),
            _ => true,
        }
    }
}

fn parse_map(map: &Value) -> Option<Codecs> {
    let (Value::Object(properties) | Value::EcmaArray(properties)) = map else { return None };
    let mut codecs = Codecs::default();
    for (name, flags) in properties {
        if let Some(flags) = flags.as_number() {
            codecs.add(name, flags as u32 as u8);
        }
    }
    Some(codecs)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEVC: Codec = Codec::FourCc(*b"hvc1");
    const AV1: Codec = Codec::FourCc(*b"av01");
    const OPUS: Codec = Codec::FourCc(*b"Opus");

    fn parse<const N: usize>(properties: [(&str, Value); N]) -> Capabilities {
        Capabilities::parse(&Value::object(properties))
    }

    fn list(names: &[&str]) -> Value {
        Value::StrictArray(names.iter().map(|name| (*name).into()).collect())
    }

    #[test]
    fn a_list_names_what_is_taken() {
        let some = parse([("fourCcList", list(&["hvc1", "HEVC!", "opus"]))]);
        assert!(some.is_announced());
        assert!(some.takes(Track::Video, HEVC) && !some.takes(Track::Video, AV1));
        assert!(some.takes(Track::Audio, OPUS));
        assert!(!some.takes(Track::Audio, Codec::FourCc(*b"fLaC")));
        assert!(some.takes(Track::Video, Codec::FlvVideo(7)), "older than announcements");
        let video = parse([("fourCcList", list(&["av01"]))]);
        assert!(video.takes(Track::Audio, OPUS), "of audio nothing is said");
        let any = parse([("fourCcList", list(&["*"]))]);
        assert!(any.takes(Track::Video, AV1) && any.takes(Track::Audio, OPUS));
        assert!(!any.has(CapsEx::MULTITRACK));
    }

    #[test]
    fn maps_say_what_for() {
        let map = Value::object([("hvc1", 1.0.into()), ("av01", 2.0.into())]);
        let some = parse([("videoFourCcInfoMap", map), ("capsEx", 3.0.into())]);
        assert!(some.takes(Track::Video, HEVC));
        assert!(!some.takes(Track::Video, AV1), "it can only encode it");
        assert!(some.has(CapsEx::RECONNECT) && some.has(CapsEx::MULTITRACK));
        assert!(!some.has(CapsEx::MOD_EX) && !some.has(CapsEx::ALL));
        let any = Value::EcmaArray(vec![("*".into(), 4.0.into()), ("av01".into(), 2.0.into())]);
        assert!(parse([("videoFourCcInfoMap", any)]).takes(Track::Video, AV1), "* holds for all");
    }

    #[test]
    fn what_makes_no_sense_is_not_there() {
        let none = parse([
            ("fourCcList", "hvc1".into()),
            ("videoFourCcInfoMap", 7.0.into()),
            ("audioFourCcInfoMap", Value::Null),
            ("capsEx", "all".into()),
        ]);
        assert!(!none.is_announced());
        assert!(none.takes(Track::Video, HEVC) && !none.has(CapsEx::RECONNECT));
        assert_eq!(parse([("capsEx", f64::NAN.into())]), Capabilities::default());
        assert_eq!(parse([("capsEx", (-1.0).into())]).caps_ex, Some(CapsEx::NONE));
        assert!(parse([("capsEx", 1e300.into())]).has(CapsEx::ALL));
        let odd = Value::StrictArray(vec![Value::Null, 1.0.into(), "*".repeat(9).as_str().into()]);
        assert!(!parse([("fourCcList", odd)]).takes(Track::Video, HEVC));
        let many: Vec<_> =
            (0..1_000).map(|number| format!("{number:04}").as_str().into()).collect();
        let many = parse([("fourCcList", Value::StrictArray(many))]);
        assert_eq!(many.video.unwrap().each.len(), MAX_CODECS);
    }

    #[test]
    fn says_what_it_reads() {
        assert_eq!(Capabilities::default().properties(), []);
        let forwarder = Capabilities::forwarder(CapsEx::ALL);
        let properties = forwarder.properties();
        assert_eq!(properties[0], ("fourCcList".into(), list(&["*"])));
        let any = Value::object([("*", 4.0.into())]);
        assert_eq!(properties[1], ("videoFourCcInfoMap".into(), any));
        assert_eq!(properties[3], ("capsEx".into(), 15.0.into()));
        let read = Capabilities::parse(&Value::Object(properties));
        assert!(read.takes(Track::Audio, OPUS) && read.has(CapsEx::ALL));
    }
}
