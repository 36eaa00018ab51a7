//! What goes over a preview's WebSocket.
//!
//! Text messages are JSON and say what there is. Binary messages are a header of 24 bytes, big
//! endian, and an MP4 segment:
//!
//! ```text
//! 0   track: 0 audio, 1 video
//! 1   flags: 1 a frame to start at, 2 an initialization segment
//! 2   0, 0
//! 4   generation, u32: the segment fits to the `feed` message of this number
//! 8   when it is shown, milliseconds on the feed's line, f64
//! 16  when it came here, milliseconds since 1970, f64
//! ```

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

/// Length of a binary message's header.
pub(super) const HEADER: usize = 24;

/// How much a viewer wants to have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Sound levels alone.
    Levels,
    /// Keyframes, for those beyond what a browser decodes.
    Stills,
    /// The whole picture, without sound.
    #[default]
    Picture,
    /// Picture and sound.
    Full,
}

/// What a viewer is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// JSON.
    Text(String),
    /// A header and a segment.
    Segment(Bytes),
}

/// A track in the browser's words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct TrackState {
    /// The codec as people say it.
    pub(super) name: String,
    /// What `isTypeSupported` is asked; `None` where it has no place in an MP4 file.
    pub(super) mime: Option<String>,
    /// Width and height in pixels, where the configuration says them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) size: Option<(u32, u32)>,
    /// Why there is nothing to be seen or heard of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) why: Option<String>,
}

/// The configuration of a feed's tracks from one moment on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Generation {
    pub(super) number: u32,
    pub(super) video: Option<TrackState>,
    pub(super) audio: Option<TrackState>,
    /// Initialization segments with their headers.
    pub(super) video_init: Option<Bytes>,
    pub(super) audio_init: Option<Bytes>,
}

impl Generation {
    /// What a viewer is told before it gets anything of this generation.
    pub(super) fn announce(&self, mode: Mode, out: &mut Vec<Message>) {
        let (generation, video, audio) = (self.number, self.video.as_ref(), self.audio.as_ref());
        out.push(Told::Feed { mode, generation, video, audio }.message());
        let takes_video = mode != Mode::Levels;
        let inits = [
            self.video_init.as_ref().filter(|_| takes_video),
            self.audio_init.as_ref().filter(|_| mode == Mode::Full),
        ];
        out.extend(inits.into_iter().flatten().cloned().map(Message::Segment));
    }
}

/// A text message.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(super) enum Told<'a> {
    /// What comes from now on.
    Feed {
        mode: Mode,
        generation: u32,
        video: Option<&'a TrackState>,
        audio: Option<&'a TrackState>,
    },
    /// Nothing is shown before the next keyframe.
    Waiting,
    /// The viewer was too slow: so many pictures were left out since it came.
    Behind { dropped: u64 },
    /// The sound of the last tenth of a second, each channel in dBFS.
    Level { rms: &'a [f32], peak: &'a [f32] },
    /// Why there is none.
    Mute { why: &'a str },
}

impl Told<'_> {
    pub(super) fn text(&self) -> String {
        serde_json::to_string(self).expect("plain data is always JSON")
    }

    pub(super) fn message(&self) -> Message {
        Message::Text(self.text())
    }
}

/// Which track a segment belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Audio = 0,
    Video = 1,
}

/// The header of a binary message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) is_start: bool,
    pub(super) is_init: bool,
    pub(super) generation: u32,
    /// Milliseconds on the feed's line.
    pub(super) shown_ms: f64,
    /// Milliseconds since 1970.
    pub(super) arrived_ms: f64,
}

impl Header {
    /// An empty message with room for a segment of `size`.
    pub(super) fn message(&self, size: usize) -> BytesMut {
        let mut out = BytesMut::with_capacity(HEADER + size);
        out.put_u8(self.kind as u8);
        out.put_u8(u8::from(self.is_start) | u8::from(self.is_init) << 1);
        out.put_u16(0);
        out.put_u32(self.generation);
        out.put_f64(self.shown_ms);
        out.put_f64(self.arrived_ms);
        out
    }
}

/// A frame for all viewers.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub(super) kind: Kind,
    /// Whether a viewer can start here.
    pub(super) is_start: bool,
    pub(super) generation: Arc<Generation>,
    pub(super) message: Bytes,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_what_the_page_reads() {
        let video = TrackState {
            name: "H.264".into(),
            mime: Some("video/mp4; codecs=\"avc1.64001e\"".into()),
            size: Some((640, 360)),
            why: None,
        };
        let told =
            Told::Feed { mode: Mode::Picture, generation: 3, video: Some(&video), audio: None };
        assert_eq!(
            told.text(),
            r#"{"type":"feed","mode":"picture","generation":3,"video":{"name":"H.264","mime":"video/mp4; codecs=\"avc1.64001e\"","size":[640,360]},"audio":null}"#
        );
        assert_eq!(Told::Waiting.text(), r#"{"type":"waiting"}"#);
        let level = Told::Level { rms: &[-20.5, -90.0], peak: &[-3.0, -90.0] };
        assert_eq!(level.text(), r#"{"type":"level","rms":[-20.5,-90.0],"peak":[-3.0,-90.0]}"#);
    }

    #[test]
    fn a_header_has_its_length() {
        let header = Header {
            kind: Kind::Video,
            is_start: true,
            is_init: false,
            generation: 0x0102_0304,
            shown_ms: 1.5,
            arrived_ms: 0.0,
        };
        let message = header.message(8);
        assert_eq!(message.len(), HEADER);
        assert_eq!(message[..16], [1, 1, 0, 0, 1, 2, 3, 4, 0x3f, 0xf8, 0, 0, 0, 0, 0, 0]);
    }
}
