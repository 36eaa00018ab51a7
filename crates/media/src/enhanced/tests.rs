use proptest::prelude::*;

use super::*;

fn tag(track: Track, body: &[u8]) -> Tag {
    Tag::new(track, 0, Bytes::copy_from_slice(body))
}

fn video(body: &[u8]) -> (Role, Option<Codec>, Tracks) {
    let tag = tag(Track::Video, body);
    (tag.role, tag.codec, tag.tracks)
}

fn audio(body: &[u8]) -> (Role, Option<Codec>, Tracks) {
    let tag = tag(Track::Audio, body);
    (tag.role, tag.codec, tag.tracks)
}

fn codec(fourcc: &[u8; 4]) -> Codec {
    Codec::FourCc(*fourcc)
}

/// Two tracks of HEVC, and behind them AV1 in an envelope of many codecs.
const MANY: &[u8] = b"\x96\x13hvc1\x00\x00\x00\x02ab\x07\x00\x00\x01c";
const MANY_CODECS: &[u8] = b"\xa6\x21hvc1\x02\x00\x00\x01xav01\x00\x00\x00\x02yz";

#[test]
fn classifies_plain_video() {
    let hevc = Some(codec(b"hvc1"));
    assert_eq!(video(b"\x90hvc1\x01"), (Role::SequenceHeader, hevc, Tracks::Main));
    assert_eq!(video(b"\x95av01\x01").0, Role::SequenceHeader, "MPEG2-TS descriptor");
    assert_eq!(video(b"\x93hvc1\x00\x00"), (Role::Keyframe, hevc, Tracks::Main));
    assert_eq!(video(b"\x91av01\x00\x00").0, Role::Keyframe);
    assert_eq!(video(b"\xa3hvc1\x00\x00"), (Role::Frame, hevc, Tracks::Main));
    assert_eq!(video(b"\x92hvc1"), (Role::Other, hevc, Tracks::Main), "end of sequence");
    assert_eq!(video(b"\xd4hvc1\x02"), (Role::Supplement, hevc, Tracks::Main), "colour info");
    assert_eq!(video(b"\xd0\x00"), (Role::Other, None, Tracks::Main), "command frame");
    assert_eq!(video(b"\x90hvc"), (Role::Other, None, Tracks::Main), "cut short");
    assert_eq!(video(b"\xafhvc1"), (Role::Frame, hevc, Tracks::Main), "unknown");
}

#[test]
fn classifies_audio() {
    let opus = Some(codec(b"Opus"));
    assert_eq!(audio(b"\x90Opus\x01"), (Role::SequenceHeader, opus, Tracks::Main));
    assert_eq!(audio(b"\x91Opus\x01"), (Role::Frame, opus, Tracks::Main));
    assert_eq!(audio(b"\x94Opus\x01\x02"), (Role::Supplement, opus, Tracks::Main));
    assert_eq!(audio(b"\x92Opus"), (Role::Other, opus, Tracks::Main));
    // As FFmpeg 9 sends a second track.
    let aac = Some(codec(b"mp4a"));
    assert_eq!(audio(b"\x95\x00mp4a\x01\x12"), (Role::SequenceHeader, aac, Tracks::Further(1)));
    assert_eq!(audio(b"\x95\x04mp4a\x01\x01"), (Role::Supplement, aac, Tracks::Further(1)));
    assert_eq!(audio(b"\x95\x01mp4a\x01\x21"), (Role::Frame, aac, Tracks::Further(1)));
    assert_eq!(audio(b"\x95\x01mp4a\x00\x21"), (Role::Frame, aac, Tracks::Main));
}

#[test]
fn a_gop_starts_with_the_main_track() {
    let is_keyframe = |body: &[u8]| tag(Track::Video, body).is_keyframe();
    assert!(is_keyframe(b"\x93hvc1\x00"));
    assert!(is_keyframe(b"\x96\x01avc1\x00\x00\x00\x00\x65"), "OneTrack, id 0");
    assert!(!is_keyframe(b"\x96\x01avc1\x01\x00\x00\x00\x65"), "OneTrack, id 1");
    assert!(is_keyframe(MANY));
    assert!(!is_keyframe(b"\x96\x13hvc1\x02\x00\x00\x02ab\x07\x00\x00\x01c"));
    let further = video(b"\x96\x01avc1\x01\x00\x00\x00\x65");
    assert_eq!(further, (Role::Keyframe, Some(codec(b"avc1")), Tracks::Further(1)));
}

#[test]
fn knows_every_track_of_an_envelope() {
    let with_main = Tracks::Many { with_main: true };
    assert_eq!(video(MANY), (Role::Keyframe, Some(codec(b"hvc1")), with_main));
    assert_eq!(
        video(MANY_CODECS),
        (Role::Frame, Some(codec(b"av01")), with_main),
        "the main track's"
    );
    let mut ids = TrackIds::of(&tag(Track::Video, MANY));
    assert!(ids.contains(0) && ids.contains(7) && !ids.contains(1));
    ids.remove(&TrackIds::of(&tag(Track::Video, b"\x90hvc1")));
    assert_eq!(ids, TrackIds::of(&tag(Track::Video, b"\x96\x00hvc1\x07")));
    ids.remove(&ids.clone());
    assert!(ids.is_empty());
    let mut ids = TrackIds::default();
    [0, 63, 64, 255].into_iter().for_each(|id| ids.insert(id));
    assert!([0, 63, 64, 255].into_iter().all(|id| ids.contains(id)) && !ids.contains(128));
}

#[test]
fn modex_packets_are_passed_over() {
    let nano = b"\x97\x02\x00\x00\x01\x03hvc1\x00";
    assert_eq!(video(nano), (Role::Keyframe, Some(codec(b"hvc1")), Tracks::Main));
    let chained = [&b"\x97\x00\x01\x07\x01\x02\x03\x06\x00hvc1\x02"[..]].concat();
    assert_eq!(video(&chained), (Role::SequenceHeader, Some(codec(b"hvc1")), Tracks::Further(2)));
    let long = [&b"\x97\xff\x01\x00"[..], &[9; 257], b"\x01Opus\x00"].concat();
    assert_eq!(audio(&long), (Role::Frame, Some(codec(b"Opus")), Tracks::Main));
    let endless = [&b"\x97"[..], &b"\x00\x01\x07".repeat(1_000), b"\x00\x01\x01Opus\x00"].concat();
    assert_eq!(audio(&endless), (Role::Other, None, Tracks::Main));
    assert_eq!(video(b"\x97\xff\xff\xff\x00").0, Role::Other, "cut short");
}

#[test]
fn takes_any_bytes() {
    let bodies = [MANY, MANY_CODECS, b"\x97\x02\x00\x00\x01\x06\x01hvc1\x05\x00\x00\x00\x65"];
    for body in bodies {
        for length in 0..body.len() {
            for track in [Track::Audio, Track::Video] {
                let mut body = body[..length].to_vec();
                if let (Track::Audio, Some(first)) = (track, body.first_mut()) {
                    *first = 0x90 | if *first == 0x97 { 7 } else { 5 };
                }
                let tag = tag(track, &body);
                assert!(length < 9 || tag.role == Role::Other || tag.codec.is_some());
                for form in [Form::ANY, Form::PLAIN] {
                    let _ = fit(&tag, form, |_| true);
                }
                let _ = TrackIds::of(&tag);
            }
        }
    }
    // Sizes that lie.
    let (role, ..) = video(b"\x96\x13hvc1\x00\xff\xff\xffab");
    assert_eq!(role, Role::Other);
}

fn remade(tag: &Tag, form: Form) -> Vec<u8> {
    match fit(tag, form, |_| true) {
        Fit::Remade(remade) => {
            assert_eq!(Tag::new(tag.track, 0, remade.body.clone()), remade, "classified alike");
            remade.body.to_vec()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_fits_is_left_alone() {
    let all = |track, body: &[u8], form| fit(&tag(track, body), form, |_| true);
    for body in
        [&b"\x17\x01\x00\x00\x00\x65"[..], b"\x93hvc1\x00", b"\xd4hvc1\x02", b"\xd0\x00", b""]
    {
        assert_eq!(all(Track::Video, body, Form::PLAIN), Fit::AsIs);
    }
    assert_eq!(all(Track::Data, b"\x97\x00", Form::PLAIN), Fit::AsIs);
    for body in [MANY, MANY_CODECS, b"\x97\x02\x00\x00\x01\x03hvc1\x00", b"\x97\xff", b"\x96\x51"] {
        assert_eq!(all(Track::Video, body, Form::ANY), Fit::AsIs);
    }
    assert_eq!(all(Track::Video, b"\x97\xff", Form::PLAIN), Fit::Nothing, "nobody can read it");
}

#[test]
fn without_multitrack_there_is_the_main_track_in_plain_form() {
    let one = tag(Track::Video, b"\x96\x01avc1\x00\x00\x00\x09\x65");
    assert_eq!(remade(&one, Form::PLAIN), b"\x91avc1\x00\x00\x09\x65");
    let header = tag(Track::Audio, b"\x95\x00mp4a\x00\x12\x10");
    assert_eq!(remade(&header, Form::PLAIN), b"\x90mp4a\x12\x10");
    assert_eq!(remade(&tag(Track::Video, MANY), Form::PLAIN), b"\x93hvc1ab");
    assert_eq!(remade(&tag(Track::Video, MANY_CODECS), Form::PLAIN), b"\xa1av01yz");
    let further = tag(Track::Video, b"\x96\x01avc1\x01\x00\x00\x09\x65");
    assert_eq!(fit(&further, Form::PLAIN, |_| true), Fit::Nothing);
    let end = tag(Track::Video, b"\x96\x02avc1\x00");
    assert_eq!(remade(&end, Form::PLAIN), b"\x92avc1");
}

#[test]
fn without_modex_there_is_what_follows_it() {
    let plain = tag(Track::Video, b"\x97\x02\x00\x00\x01\x03hvc1\x07");
    assert_eq!(remade(&plain, Form::PLAIN), b"\x93hvc1\x07");
    let both = tag(Track::Video, b"\xa7\x02\x00\x00\x01\x06\x01hvc1\x00\x07");
    assert_eq!(remade(&both, Form::PLAIN), b"\xa1hvc1\x07");
    assert_eq!(
        remade(&both, Form { multitrack: true, modex: false }),
        b"\xa6\x01hvc1\x00\x07",
        "the envelope stays"
    );
    assert_eq!(
        remade(&both, Form { multitrack: false, modex: true }),
        b"\xa7\x02\x00\x00\x01\x01hvc1\x07",
        "the prelude stays"
    );
}

#[test]
fn tracks_of_codecs_that_are_not_taken_are_left_out() {
    let is_av1 = |codec| codec == Codec::FourCc(*b"av01");
    assert_eq!(fit(&tag(Track::Video, b"\x93hvc1\x00"), Form::ANY, is_av1), Fit::Nothing);
    assert_eq!(fit(&tag(Track::Video, b"\x90av01\x00"), Form::ANY, is_av1), Fit::AsIs);
    assert_eq!(fit(&tag(Track::Video, b"\x17\x01\x00\x00\x00\x65"), Form::ANY, is_av1), Fit::AsIs);
    let Fit::Remade(left) = fit(&tag(Track::Video, MANY_CODECS), Form::ANY, is_av1) else {
        panic!("one track of two is left");
    };
    assert_eq!(&left.body[..], b"\xa6\x21av01\x00\x00\x00\x02yz");
}

#[test]
fn an_envelope_holds_no_other_and_no_modex() {
    for kind in [6, 7] {
        let nested = tag(Track::Video, &[0x96, kind, b'h', b'v', b'c', b'1', 0, 1, 2, 3, 4]);
        assert_eq!((nested.role, nested.codec), (Role::Other, None));
    }
}

/// Behind a ModEx packet, a command looks like the end of a sequence.
#[test]
fn a_command_behind_modex_is_not_remade() {
    let command = tag(Track::Video, b"\xd7\x00\x00\x02\x00\x00\x00\x00");
    assert_eq!((command.role, command.codec), (Role::Other, None));
    assert_eq!(fit(&command, Form::PLAIN, |_| true), Fit::Nothing);
    assert_eq!(fit(&command, Form::ANY, |_| true), Fit::AsIs);
}

proptest! {
    /// Bytes that look like headers, so that most of them are read to the end.
    #[test]
    fn what_is_remade_is_read_alike_and_fits(
        is_video: bool,
        first in prop_oneof![0x90u8..0x98, 0xa0u8..0xa8, 0xd0u8..0xd8],
        rest in proptest::collection::vec(prop_oneof![0u8..8, Just(0x10), Just(0x13), Just(0x21)], 0..60),
        multitrack: bool,
        modex: bool,
    ) {
        let track = if is_video { Track::Video } else { Track::Audio };
        let tag = tag(track, &[&[if is_video { first } else { 0x90 | first & 0xf }], &rest[..]].concat());
        let ids = TrackIds::of(&tag);
        prop_assert!(!tag.tracks.has_main() || tag.role == Role::Other || ids.contains(0));
        let form = Form { multitrack, modex };
        if let Fit::Remade(remade) = fit(&tag, form, |_| true) {
            prop_assert!(remade.body.len() <= tag.body.len());
            prop_assert_eq!(&Tag::new(track, 0, remade.body.clone()), &remade);
            prop_assert_eq!(fit(&remade, form, |_| true), Fit::AsIs);
        }
        let _ = crate::video::with_composition_time(&tag, 7);
        let _ = crate::video::resolution(&tag);
    }
}
