//! What a player takes of a feed's tags, as far as it has announced that.

use media::enhanced::{Fit, Form, fit};
use media::{Tag, Track, TrackSet};
use rtmp::capabilities::{Capabilities, CapsEx};
use rtmp::metadata::Presence;
use tracing::info;

use crate::config::studio::Multitrack;

/// What one player takes.
///
/// A player that announced anything of Enhanced RTMP gets exactly what it announced: codecs that
/// it does not list are left out, several tracks and `ModEx` packets come only if it knows them.
/// A player that announced nothing, as all known ones do, gets every codec, and one track of audio
/// and one of video in their plain form: FFmpeg 5 probes for a minute when there is a second track
/// that it cannot read, and no player says that it is newer. [`Multitrack::Always`] has such players get everything as it was sent.
#[derive(Clone, Debug)]
pub struct Takes {
    capabilities: Capabilities,
    form: Form,
    /// Whether the log was told that something is left out.
    told: TrackSet<bool>,
}

impl Takes {
    /// For a player that announced this.
    pub fn new(capabilities: Capabilities, multitrack: Multitrack) -> Self {
        let form = match (capabilities.is_announced(), multitrack) {
            (true, _) => Form {
                multitrack: capabilities.has(CapsEx::MULTITRACK),
                modex: capabilities.has(CapsEx::MOD_EX),
            },
            (false, Multitrack::Always) => Form::ANY,
            (false, Multitrack::Announced) => Form::PLAIN,
        };
        Self { capabilities, form, told: TrackSet::default() }
    }

    /// The tag cut to what the player takes; the log is told of a codec left out, once for audio
    /// and once for video.
    pub fn fit(&mut self, tag: &Tag) -> Fit {
        let (track, capabilities) = (tag.track, &self.capabilities);
        let fit = fit(tag, self.form, |codec| capabilities.takes(track, codec));
        if fit == Fit::Nothing
            && let Some(codec) = tag.codec
            && !capabilities.takes(track, codec)
            && !std::mem::replace(&mut self.told[track], true)
        {
            info!(%codec, ?track, "left out: the player has announced other codecs");
        }
        fit
    }

    /// Whether the player gets more than one track of a kind.
    pub fn is_multitrack(&self) -> bool {
        self.form.multitrack
    }

    /// What to tell the player of a track.
    pub fn presence(&self, track: Track, presence: Presence) -> Presence {
        match presence {
            Presence::Coded(codec) if !self.capabilities.takes(track, codec) => Presence::Absent,
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use media::Codec;
    use rtmp::amf0::Value;

    use super::*;

    fn takes(properties: Vec<(String, Value)>, multitrack: Multitrack) -> Takes {
        Takes::new(Capabilities::parse(&Value::Object(properties)), multitrack)
    }

    fn video(body: &'static [u8]) -> Tag {
        Tag::new(Track::Video, 0, Bytes::from_static(body))
    }

    const MAIN: &[u8] = b"\x96\x01hvc1\x00\x01";
    const FURTHER: &[u8] = b"\x96\x01hvc1\x01\x01";
    const NANO: &[u8] = b"\x97\x02\x00\x00\x01\x03hvc1\x07";

    #[test]
    fn the_silent_get_one_plain_track_unless_told_otherwise() {
        let mut silent = takes(vec![], Multitrack::Announced);
        assert_eq!(silent.fit(&video(MAIN)), Fit::Remade(video(b"\x91hvc1\x01")));
        assert_eq!(silent.fit(&video(FURTHER)), Fit::Nothing);
        assert_eq!(silent.fit(&video(NANO)), Fit::Remade(video(b"\x93hvc1\x07")));
        assert_eq!(silent.fit(&video(b"\x91av01\x00")), Fit::AsIs, "every codec");
        let mut silent = takes(vec![], Multitrack::Always);
        for body in [MAIN, FURTHER, NANO] {
            assert_eq!(silent.fit(&video(body)), Fit::AsIs);
        }
    }

    #[test]
    fn others_get_what_they_announced() {
        let caps_ex = |bits: f64| vec![("capsEx".to_owned(), bits.into())];
        for multitrack in [Multitrack::Announced, Multitrack::Always] {
            let mut all = takes(caps_ex(14.0), multitrack);
            for body in [MAIN, FURTHER, NANO] {
                assert_eq!(all.fit(&video(body)), Fit::AsIs);
            }
            let mut none = takes(caps_ex(1.0), multitrack);
            assert_eq!(none.fit(&video(FURTHER)), Fit::Nothing);
            assert!(matches!(none.fit(&video(NANO)), Fit::Remade(_)));
            let list = Value::StrictArray(vec!["av01".into()]);
            let mut av1 = takes(vec![("fourCcList".to_owned(), list)], multitrack);
            assert_eq!(av1.fit(&video(b"\x90hvc1\x00")), Fit::Nothing);
            assert_eq!(av1.fit(&video(b"\x90av01\x00")), Fit::AsIs);
            assert_eq!(av1.fit(&video(b"\x17\x00\x00\x00\x00\x01")), Fit::AsIs, "H.264");
            let hevc = Presence::Coded(Codec::FourCc(*b"hvc1"));
            assert_eq!(av1.presence(Track::Video, hevc), Presence::Absent);
            assert_eq!(av1.presence(Track::Audio, hevc), hevc);
        }
    }
}
