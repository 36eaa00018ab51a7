use bytes::Bytes;
use media::Tag;
use proptest::prelude::*;

use super::*;

fn avc() -> Track {
    let body = [
        0x17, 0, 0, 0, 0, 1, 0x64, 0, 0x1e, 0xff, 0xe1, 0, 0x19, 0x67, 0x64, 0, 0x1e, 0xac, 0xd9,
        0x40, 0xa0, 0x2f, 0xf9, 0x70, 0x11, 0, 0, 3, 0, 1, 0, 0, 3, 0, 0x3c, 0x0f, 0x16, 0x2d,
        0x96, 1, 0, 4, 0x68, 0xeb, 0xe3, 0xcb,
    ];
    let tag = Tag::new(media::Track::Video, 0, Bytes::copy_from_slice(&body));
    Track::from_header(&tag).expect("a track")
}

fn aac() -> Track {
    let tag = Tag::new(media::Track::Audio, 0, Bytes::from_static(&[0xaf, 0, 0x11, 0x90]));
    Track::from_header(&tag).expect("a track")
}

/// Names and contents of boxes that fill `bytes` to the end.
fn boxes(mut bytes: &[u8]) -> Vec<(String, &[u8])> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let length = u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize;
        let name = String::from_utf8(bytes[4..8].to_vec()).unwrap();
        all.push((name, &bytes[8..length]));
        bytes = &bytes[length..];
    }
    all
}

fn inner<'a>(bytes: &'a [u8], path: &[&str]) -> &'a [u8] {
    path.iter().fold(bytes, |bytes, name| {
        let all = boxes(bytes);
        all.iter().find(|(found, _)| found == name).unwrap_or_else(|| panic!("no {name}")).1
    })
}

#[test]
fn tracks_tell_what_they_are() {
    let (video, audio) = (avc(), aac());
    assert_eq!(video.mime(), "video/mp4; codecs=\"avc1.64001E\"");
    assert_eq!(video.resolution().map(|size| (size.width, size.height)), Some((640, 360)));
    assert_eq!(audio.mime(), "audio/mp4; codecs=\"mp4a.40.2\"");
    assert_eq!((video.timescale(), audio.timescale()), (90_000, 48_000));
    assert_eq!(avc(), video, "the same header is the same track");
}

#[test]
fn a_segment_has_a_track_for_each() {
    let init = init_segment(&[avc(), aac()]);
    let names: Vec<_> = boxes(&init).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["ftyp", "moov"]);
    let moov = inner(&init, &["moov"]);
    let names: Vec<_> = boxes(moov).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["mvhd", "trak", "trak", "mvex"]);
    let entry = &inner(moov, &["trak", "mdia", "minf", "stbl", "stsd"])[8..];
    assert_eq!(boxes(entry)[0].0, "avc1");
    let unknown = movie(&[avc()], Movie::default());
    let known = movie(&[avc()], Movie { duration_ms: 1_000, ..Movie::default() });
    assert_eq!(unknown.len(), known.len(), "it is filled in afterwards");
}

#[test]
fn a_fragment_says_where_its_samples_are() {
    let sample = |dts, data: &'static [u8], is_keyframe| Sample {
        dts,
        duration: 3_000,
        composition: -90,
        is_keyframe,
        data: Bytes::from_static(data),
    };
    let video = [sample(1 << 40, b"key", true), sample((1 << 40) + 3_000, b"p", false)];
    let audio = [sample(7, b"sound", true)];
    let runs = [Run { track_id: 1, samples: &video }, Run { track_id: 2, samples: &audio }];
    let whole = fragment(9, &runs);
    assert_eq!(inner(&whole, &["mdat"]), b"keypsound");
    assert_eq!(inner(&whole, &["moof", "mfhd"])[4..], [0, 0, 0, 9]);
    let moof = inner(&whole, &["moof"]);
    assert_eq!(inner(moof, &["traf", "tfdt"])[4..], (1u64 << 40).to_be_bytes());
    for ((_, traf), data) in boxes(moof)[1..].iter().zip([&b"key"[..], b"sound"]) {
        let trun = inner(traf, &["trun"]);
        let at = u32::from_be_bytes(trun[8..12].try_into().unwrap()) as usize;
        assert_eq!(&whole[at..at + data.len()], data);
        assert_eq!(trun[24..28], (-90i32).to_be_bytes());
    }
    let flags = |at: usize| inner(moof, &["traf", "trun"])[at..at + 4].to_vec();
    assert_eq!((flags(20), flags(36)), (vec![2, 0, 0, 0], vec![1, 1, 0, 0]));
    assert_eq!(fragment_head(9, &runs)[..], whole[..whole.len() - 9]);
    let empty = fragment(1, &[Run { track_id: 1, samples: &[] }]);
    assert_eq!(boxes(inner(&empty, &["moof"])).len(), 1);
}

#[test]
fn an_index_ends_with_its_own_length() {
    let entry = |track_id| Entry { track_id, time: 5, moof_at: 1 << 33, traf: 1 };
    let index = fragment_index(&[entry(1), entry(2), entry(1)]);
    let names: Vec<_> = boxes(inner(&index, &["mfra"])).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["tfra", "tfra", "mfro"]);
    assert_eq!(index[index.len() - 4..], (index.len() as u32).to_be_bytes());
}

#[test]
fn sounds_follow_each_other_and_pictures_their_timestamps() {
    let (audio, video) = (aac(), avc());
    let mut timing = Timing::default();
    let mut place = |ms| timing.place(&audio, ms, b"sound");
    assert_eq!(place(0), 0);
    assert_eq!(place(21), 1_024, "48 samples a millisecond are 1,008");
    assert_eq!(place(43), 2_048);
    assert_eq!(place(143), 143 * 48, "a gap is a gap");
    assert_eq!(place(164), 143 * 48 + 1_024);
    assert_eq!(place(20), 143 * 48 + 1_025, "nothing goes back");
    let mut timing = Timing::default();
    let mut place = |ms| timing.place(&video, ms, b"picture");
    assert_eq!([place(0), place(33), place(67)], [0, 2_970, 6_030]);
    assert_eq!(place(67), 6_031);
    let mut timing = Timing::default();
    for ms in [i64::MAX, i64::MIN, 0, i64::MAX] {
        timing.place(&video, ms, b"");
    }
}

/// Bodies that begin like those of every codec, and go on as they like.
fn bodies() -> impl Strategy<Value = Vec<u8>> {
    let starts = [
        &b""[..],
        b"\x17\x00\x00\x00\x00\x01",
        b"\x17\x01",
        b"\x1c\x00\x00\x00\x00\x01",
        b"\xaf\x00",
        b"\xaf\x01",
        b"\x2f\xff\xfb",
        b"\x90avc1\x01",
        b"\x90hvc1\x01",
        b"\x90av01\x81",
        b"\x90vp09\x01\x00\x00\x00",
        b"\x91av01\x12",
        b"\x96\x00hvc1\x00\x01",
        b"\x97\x00\x01",
        b"\x90OpusOpusHead\x01",
        b"\x90fLaCfLaC\x00\x00\x00\x22",
        b"\x90mp4a",
        b"\x95\x10mp4a",
    ];
    let start = prop::sample::select(starts.to_vec());
    let rest = prop::collection::vec(any::<u8>(), 0..120);
    (start, rest).prop_map(|(start, rest)| [start, &rest].concat())
}

proptest! {
    #[test]
    fn any_body_makes_a_whole_segment_or_none(body in bodies(), timestamp: i64) {
        let body = Bytes::from(body);
        for kind in media::Track::ALL {
            let tag = Tag::new(kind, timestamp, body.clone());
            let Some(track) = Track::from_header(&tag) else { continue };
            prop_assert_eq!(track.kind(), kind);
            prop_assert!(track.timescale() > 0);
            let frame = Payload { data: body.clone(), composition_ms: 0, is_keyframe: true };
            let track = track.completed_by(&frame);
            let mut timing = Timing::default();
            prop_assert!(timing.place(&track, timestamp, &body) < timing.place(&track, 0, &body));
            let init = init_segment(&[track]);
            prop_assert_eq!(boxes(&init).len(), 2);
            boxes(inner(&init, &["moov", "trak", "mdia", "minf", "stbl"]));
        }
    }

    #[test]
    fn any_body_is_a_frame_or_none(body in bodies()) {
        for kind in media::Track::ALL {
            let tag = Tag::new(kind, 0, Bytes::from(body.clone()));
            if let Some(payload) = payload(&tag) {
                prop_assert!(!payload.data.is_empty() && payload.data.len() < body.len());
                prop_assert!(Track::from_header(&tag).is_none() || kind == media::Track::Audio);
            }
        }
    }
}
