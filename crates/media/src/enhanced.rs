//! Enhanced RTMP v2: packets with a `FourCC`, `ModEx` packets before them, several tracks in one
//! message.
//!
//! `ExVideoTagHeader` and `ExAudioTagHeader` share their shape:
//!
//! ```text
//! first byte   bits, packet type
//! ModEx        size, data, packet type     while the packet type is 7
//! envelope     kind, packet type           if the packet type is multitrack
//! FourCC                                   unless each track has its own
//! track        [FourCC] id [size] payload  once, or more in an envelope of many
//! ```
//!
//! Everything here is bounded by the body and takes any bytes.

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};

use crate::{Codec, Role, Tag, Track};

/// Bound on chained `ModEx` packets: a handful is odd, more is an attack.
const MAX_MODEX: usize = 8;
/// Bound on the tracks in one message: there are no more ids.
const MAX_PARTS: usize = 256;

mod packet_type {
    pub(super) const SEQUENCE_START: u8 = 0;
    pub(super) const CODED_FRAMES: u8 = 1;
    pub(super) const SEQUENCE_END: u8 = 2;
    /// Video alone: coded frames whose composition time is zero.
    pub(super) const CODED_FRAMES_X: u8 = 3;
    /// Video: metadata such as `colorInfo`. Audio: the layout of the channels.
    pub(super) const SUPPLEMENT: u8 = 4;
    /// Video alone.
    pub(super) const MPEG2TS_SEQUENCE_START: u8 = 5;
    pub(super) const MOD_EX: u8 = 7;

    pub(super) const fn multitrack(track: crate::Track) -> u8 {
        match track {
            crate::Track::Audio => 5,
            _ => 6,
        }
    }
}

/// Which tracks of its kind a tag carries.
///
/// Track 0 is the main one: what is not in a multitrack envelope belongs to it, and an envelope
/// may name it too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tracks {
    /// The main track alone.
    Main,
    /// A further track alone, by its id from 1.
    Further(u8),
    /// Several tracks in one message.
    Many {
        /// Whether the main one is among them.
        with_main: bool,
    },
}

impl Tracks {
    /// Whether the main track is there.
    pub fn has_main(self) -> bool {
        matches!(self, Self::Main | Self::Many { with_main: true })
    }
}

/// A set of track ids.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TrackIds([u64; 4]);

impl TrackIds {
    /// The ids of the tracks that a tag carries.
    pub fn of(tag: &Tag) -> Self {
        let mut ids = Self::default();
        match tag.tracks {
            Tracks::Main => ids.insert(0),
            Tracks::Further(id) => ids.insert(id),
            Tracks::Many { .. } => {
                let header = Header::parse(tag.track, &tag.body);
                let parts = header.iter().flat_map(|header| header.parts(&tag.body));
                parts.map_while(Result::ok).for_each(|part| ids.insert(part.id));
            }
        }
        ids
    }

    /// Puts an id into the set.
    pub fn insert(&mut self, id: u8) {
        self.0[usize::from(id >> 6)] |= 1 << (id & 63);
    }

    /// Takes all ids of `other` out.
    pub fn remove(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(bits, other)| *bits &= !other);
    }

    /// Whether `id` is in the set.
    pub fn contains(&self, id: u8) -> bool {
        self.0[usize::from(id >> 6)] >> (id & 63) & 1 == 1
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0 == [0; 4]
    }
}

/// How the tracks stand in a message (`AvMultitrackType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Envelope {
    /// There is no envelope.
    None,
    OneTrack,
    ManyTracks,
    ManyTracksManyCodecs,
}

/// What comes before the payload.
#[derive(Clone, Copy, Debug)]
struct Header {
    /// Index of the byte whose low four bits are the packet type before the envelope.
    type_at: usize,
    /// The packet type, inside the envelope if there is one.
    packet_type: u8,
    envelope: Envelope,
    fourcc: Option<[u8; 4]>,
    /// Index of what follows: the first track in an envelope, else the payload.
    at: usize,
}

/// One track's part of a message.
struct Part {
    id: u8,
    fourcc: [u8; 4],
    payload: Range<usize>,
}

/// A part that ends outside the message.
struct Broken;

impl Header {
    /// `None` if the body is cut short, or is not what Enhanced RTMP knows.
    fn parse(track: Track, body: &[u8]) -> Option<Self> {
        let mut type_at = 0;
        let mut packet_type = body.first()? & 0x0f;
        for _ in 0..MAX_MODEX {
            if packet_type != packet_type::MOD_EX {
                break;
            }
            type_at = after_modex(body, type_at + 1)?;
            packet_type = body[type_at] & 0x0f;
        }
        let mut header =
            Self { type_at, packet_type, envelope: Envelope::None, fourcc: None, at: type_at + 1 };
        if packet_type == packet_type::MOD_EX {
            return None;
        }
        if packet_type == packet_type::multitrack(track) {
            let kind = *body.get(header.at)?;
            header.at += 1;
            header.packet_type = kind & 0x0f;
            header.envelope = match kind >> 4 {
                0 => Envelope::OneTrack,
                1 => Envelope::ManyTracks,
                2 => Envelope::ManyTracksManyCodecs,
                _ => return None,
            };
            // An envelope holds neither another one nor ModEx packets.
            if [packet_type, packet_type::MOD_EX].contains(&header.packet_type) {
                return None;
            }
        }
        if header.envelope != Envelope::ManyTracksManyCodecs {
            header.fourcc = Some(fourcc_at(body, header.at)?);
            header.at += 4;
        }
        Some(header)
    }

    fn has_modex(&self) -> bool {
        self.type_at > 0
    }

    /// Each track's part, in order; ends with the first one that is broken.
    fn parts(&self, body: &[u8]) -> impl Iterator<Item = Result<Part, Broken>> {
        let mut at = Some(self.at);
        let next = move || {
            let start = at.take()?;
            let part = self.part(body, start).ok_or(Broken);
            if let Ok(part) = &part
                && part.payload.end < body.len()
            {
                at = Some(part.payload.end);
            }
            Some(part)
        };
        std::iter::from_fn(next).take(MAX_PARTS)
    }

    fn part(&self, body: &[u8], mut at: usize) -> Option<Part> {
        let fourcc = match self.fourcc {
            Some(fourcc) => fourcc,
            None => {
                at += 4;
                fourcc_at(body, at - 4)?
            }
        };
        let (id, payload) = match self.envelope {
            Envelope::None => (0, at..body.len()),
            Envelope::OneTrack => (*body.get(at)?, at + 1..body.len()),
            Envelope::ManyTracks | Envelope::ManyTracksManyCodecs => {
                let [id, size @ ..] = *body.get(at..)?.first_chunk::<4>()?;
                let size = u32::from_be_bytes([0, size[0], size[1], size[2]]) as usize;
                (id, at + 4..at + 4 + size)
            }
        };
        (payload.end <= body.len()).then_some(Part { id, fourcc, payload })
    }
}

/// Index of the byte with the next packet type behind the `ModEx` packet at `at`; the byte exists.
fn after_modex(body: &[u8], at: usize) -> Option<usize> {
    let (size, data) = match usize::from(*body.get(at)?) + 1 {
        256 => {
            let size = body.get(at + 1..)?.first_chunk::<2>()?;
            (usize::from(u16::from_be_bytes(*size)) + 1, at + 3)
        }
        size => (size, at + 1),
    };
    (data + size < body.len()).then_some(data + size)
}

fn fourcc_at(body: &[u8], at: usize) -> Option<[u8; 4]> {
    body.get(at..)?.first_chunk().copied()
}

/// Whether the tag has an `ExVideoTagHeader` or `ExAudioTagHeader`.
fn is_enhanced(tag: &Tag) -> bool {
    let Some(first) = tag.body.first() else { return false };
    match tag.track {
        Track::Video => first & 0x80 != 0,
        Track::Audio => first >> 4 == 9,
        Track::Data => false,
    }
}

/// Whether the tag has neither `ModEx` packets nor an envelope; it is not empty.
fn is_plain(tag: &Tag) -> bool {
    let packet_type = tag.body[0] & 0x0f;
    packet_type != packet_type::MOD_EX && packet_type != packet_type::multitrack(tag.track)
}

/// `VideoFrameType`; 0 for audio.
fn frame_type(track: Track, body: &[u8]) -> u8 {
    match (track, body.first()) {
        (Track::Video, Some(first)) => first >> 4 & 7,
        _ => 0,
    }
}

/// A keyframe.
const KEY: u8 = 1;
/// A command frame: one byte, and no `FourCC`, unless it carries metadata.
const COMMAND: u8 = 5;

/// Classifies a body that has an `ExVideoTagHeader` or `ExAudioTagHeader`.
///
/// What an envelope of many says of its main track, or else of its first one, stands for all.
pub(crate) fn classify(track: Track, body: &[u8]) -> (Role, Option<Codec>, Tracks) {
    let frame_type = frame_type(track, body);
    let header = Header::parse(track, body);
    let is_supplement = header.is_some_and(|h| h.packet_type == packet_type::SUPPLEMENT);
    let Some(header) = header.filter(|_| frame_type != COMMAND || is_supplement) else {
        return (Role::Other, None, Tracks::Main);
    };
    let mut codec = header.fourcc;
    let (tracks, is_whole) = match header.envelope {
        Envelope::None => (Tracks::Main, true),
        Envelope::OneTrack => match body.get(header.at) {
            Some(0) => (Tracks::Main, true),
            Some(&id) => (Tracks::Further(id), true),
            None => (Tracks::Many { with_main: false }, false),
        },
        Envelope::ManyTracks | Envelope::ManyTracksManyCodecs => {
            let (mut with_main, mut is_whole) = (false, true);
            for part in header.parts(body) {
                match part {
                    Ok(part) => {
                        let is_main = part.id == 0;
                        codec = codec.filter(|_| !is_main || with_main).or(Some(part.fourcc));
                        with_main |= is_main;
                    }
                    Err(Broken) => is_whole = false,
                }
            }
            (Tracks::Many { with_main }, is_whole)
        }
    };
    let role = match header.packet_type {
        _ if !is_whole => Role::Other,
        packet_type::SEQUENCE_START => Role::SequenceHeader,
        packet_type::MPEG2TS_SEQUENCE_START if track == Track::Video => Role::SequenceHeader,
        packet_type::SUPPLEMENT => Role::Supplement,
        packet_type::SEQUENCE_END => Role::Other,
        packet_type::CODED_FRAMES | packet_type::CODED_FRAMES_X if frame_type == KEY => {
            Role::Keyframe
        }
        _ => Role::Frame,
    };
    (role, codec.map(Codec::FourCc), tracks)
}

/// Where the payload of a message with one track is, and what comes before it.
pub(crate) struct Single {
    /// Index of the byte whose low four bits are the packet type.
    pub(crate) type_at: usize,
    pub(crate) packet_type: u8,
    pub(crate) payload_at: usize,
}

/// The one track of an enhanced tag; `None` if it carries several, or is cut short.
pub(crate) fn single(tag: &Tag) -> Option<Single> {
    let header = Header::parse(tag.track, &tag.body).filter(|_| is_enhanced(tag))?;
    let (type_at, payload_at) = match header.envelope {
        Envelope::None => (header.type_at, header.at),
        Envelope::OneTrack => (header.type_at + 1, header.at + 1),
        Envelope::ManyTracks | Envelope::ManyTracksManyCodecs => return None,
    };
    (payload_at <= tag.body.len()).then_some(Single {
        type_at,
        packet_type: header.packet_type,
        payload_at,
    })
}

/// What a receiver can parse beyond plain enhanced packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// Multitrack envelopes. Without them, it gets the main track alone.
    pub multitrack: bool,
    /// `ModEx` packets. Without them, it gets what follows them.
    pub modex: bool,
}

impl Form {
    /// Everything as it was sent.
    pub const ANY: Self = Self { multitrack: true, modex: true };
    /// What Enhanced RTMP v1 has.
    pub const PLAIN: Self = Self { multitrack: false, modex: false };
}

/// A tag cut to what a receiver takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fit {
    /// It takes the tag as it is.
    AsIs,
    /// It takes this instead: another header around the same coded payload.
    Remade(Tag),
    /// There is nothing in it for the receiver.
    Nothing,
}

/// Cuts a tag to what a receiver of `form` takes, of codecs with a `FourCC` those that it `takes`.
///
/// Tags of other codecs and script data fit everybody.
pub fn fit(tag: &Tag, form: Form, takes: impl Fn(Codec) -> bool) -> Fit {
    if !is_enhanced(tag) {
        return Fit::AsIs;
    }
    if is_plain(tag) {
        let is_taken = tag.codec.is_none_or(takes);
        return if is_taken { Fit::AsIs } else { Fit::Nothing };
    }
    let is_end = |header: &Header| header.packet_type == packet_type::SEQUENCE_END;
    match Header::parse(tag.track, &tag.body).filter(|_| tag.codec.is_some()) {
        Some(header) if tag.role != Role::Other || is_end(&header) => {
            fit_parts(tag, &header, form, takes)
        }
        // A command frame, or what nobody can read: for those who take everything.
        _ if form == Form::ANY => Fit::AsIs,
        _ => Fit::Nothing,
    }
}

fn fit_parts(tag: &Tag, header: &Header, form: Form, takes: impl Fn(Codec) -> bool) -> Fit {
    let mut parts: Vec<_> = header.parts(&tag.body).map_while(Result::ok).collect();
    let before = parts.len();
    parts.retain(|part| (form.multitrack || part.id == 0) && takes(Codec::FourCc(part.fourcc)));
    let Some(first) = parts.first() else { return Fit::Nothing };
    let is_enveloped = form.multitrack && header.envelope != Envelope::None;
    if parts.len() == before
        && is_enveloped == (header.envelope != Envelope::None)
        && (form.modex || !header.has_modex())
    {
        return Fit::AsIs;
    }
    let body = &tag.body;
    let codec = Some(Codec::FourCc(first.fourcc));
    let mut out = BytesMut::with_capacity(body.len());
    // The bits before the packet type stay; with ModEx, they are those of its last packet.
    let type_at = if form.modex { header.type_at } else { 0 };
    out.put_slice(&body[..type_at]);
    if !is_enveloped {
        out.put_u8(body[type_at] & 0xf0 | header.packet_type);
        out.put_slice(&first.fourcc);
        out.put_slice(&body[first.payload.clone()]);
        return Fit::Remade(Tag { codec, tracks: Tracks::Main, body: out.freeze(), ..tag.clone() });
    }
    out.put_u8(body[type_at] & 0xf0 | packet_type::multitrack(tag.track));
    out.put_u8(body[header.type_at + 1]);
    if let Some(fourcc) = header.fourcc {
        out.put_slice(&fourcc);
    }
    for part in &parts {
        if header.fourcc.is_none() {
            out.put_slice(&part.fourcc);
        }
        out.put_u8(part.id);
        if header.envelope != Envelope::OneTrack {
            out.put_uint(part.payload.len() as u64, 3);
        }
        out.put_slice(&body[part.payload.clone()]);
    }
    Fit::Remade(Tag::new(tag.track, tag.timestamp, Bytes::from(out)))
}

#[cfg(test)]
mod tests;
