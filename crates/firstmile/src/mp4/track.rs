//! A track: how it is coded, and what a decoder is told.

use bytes::BufMut;
use media::video::Resolution;
use media::{Codec, Tag};

use super::audio::Audio;
use super::boxes::boxed;
use super::payload::{Payload, configuration, payload};
use super::video::Video;

/// A clock of pictures that milliseconds and the usual frame rates fit into.
const VIDEO_TIMESCALE: u32 = 90_000;

/// One video or audio track. Equal tracks need no new initialisation segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Track {
    codec: String,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Video(Video),
    Audio(Audio),
}

impl Track {
    /// The track that a sequence header announces; of MP3, which has none, the track of a frame.
    ///
    /// H.264, H.265 (of Enhanced RTMP, and as FLV's codec 12), AV1, VP8, VP9; AAC, Opus, FLAC, MP3.
    /// `None` for other tags and codecs, and for headers that make no sense.
    pub fn from_header(tag: &Tag) -> Option<Self> {
        let codec = tag.codec?;
        if matches!(codec, Codec::FlvAudio(2 | 14)) || codec == Codec::FourCc(*b".mp3") {
            let (audio, codec) = Audio::mp3(&payload(tag)?.data)?;
            return Some(Self { codec, kind: Kind::Audio(audio) });
        }
        let configuration = configuration(tag)?;
        let (codec, kind) = match tag.track {
            media::Track::Video => {
                let (video, name) = Video::new(codec, &configuration)?;
                (name, Kind::Video(video.sized(media::video::resolution(tag))))
            }
            media::Track::Audio => {
                let (audio, name) = Audio::new(codec, &configuration)?;
                (name, Kind::Audio(audio))
            }
            media::Track::Data => return None,
        };
        Some(Self { codec, kind })
    }

    /// Whether MP4 has a place for a codec, as far as this is written here.
    pub fn is_known(codec: Codec) -> bool {
        match codec {
            Codec::FlvVideo(id) => matches!(id, 7 | 12),
            Codec::FlvAudio(id) => matches!(id, 2 | 10 | 14),
            Codec::FourCc(fourcc) => {
                let known = [
                    b"avc1", b"hvc1", b"av01", b"vp08", b"vp09", b"mp4a", b"Opus", b"fLaC", b".mp3",
                ];
                known.contains(&&fourcc)
            }
        }
    }

    /// The track with what only a keyframe tells: the size of VP8's and VP9's pictures.
    pub fn completed_by(mut self, frame: &Payload) -> Self {
        if let Kind::Video(video) = &mut self.kind {
            video.learn_size(&frame.data);
        }
        self
    }

    /// Whether it is audio or video.
    pub fn kind(&self) -> media::Track {
        match &self.kind {
            Kind::Video(_) => media::Track::Video,
            Kind::Audio(_) => media::Track::Audio,
        }
    }

    /// The codec with its profile, as browsers ask for it (RFC 6381): `avc1.64001F`, `mp4a.40.2`.
    pub fn codec(&self) -> &str {
        &self.codec
    }

    /// The type of a segment of this track alone: `video/mp4; codecs="avc1.64001F"`.
    pub fn mime(&self) -> String {
        let kind = if self.kind() == media::Track::Video { "video" } else { "audio" };
        format!("{kind}/mp4; codecs=\"{}\"", self.codec)
    }

    /// The pictures' size, if the track says it.
    pub fn resolution(&self) -> Option<Resolution> {
        match &self.kind {
            Kind::Video(video) => video.size,
            Kind::Audio(_) => None,
        }
    }

    /// Units of its times in a second: of audio its sample rate, of video 90,000.
    pub fn timescale(&self) -> u32 {
        match &self.kind {
            Kind::Video(_) => VIDEO_TIMESCALE,
            Kind::Audio(audio) => audio.rate,
        }
    }

    /// How long this frame lasts, in the track's units, where the frame says so: that of sounds.
    pub fn sample_length(&self, data: &[u8]) -> Option<u32> {
        match &self.kind {
            Kind::Video(_) => None,
            Kind::Audio(audio) => audio.sample_length(data),
        }
    }

    /// The sample entry (ISO/IEC 14496-12 §12.1.3, §12.2.3).
    pub(super) fn write_entry(&self, out: &mut Vec<u8>) {
        let name = match &self.kind {
            Kind::Video(video) => video.name,
            Kind::Audio(audio) => audio.entry_name(),
        };
        boxed(out, &name, |out| {
            out.put_bytes(0, 6);
            // The place of the samples in `dref`.
            out.put_u16(1);
            match &self.kind {
                Kind::Video(video) => video.write_entry(out),
                Kind::Audio(audio) => audio.write_entry(out),
            }
        });
    }
}
