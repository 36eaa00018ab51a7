//! Classification of whatever an encoder calls media.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use media::{Tag, Track};

fuzz_target!(|bytes: &[u8]| {
    for track in Track::ALL {
        let tag = Tag::new(track, 0, Bytes::copy_from_slice(bytes));
        let _ = media::video::resolution(&tag);
    }
});
