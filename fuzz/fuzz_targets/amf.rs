//! AMF0, and AMF3 behind its marker.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = rtmp::amf0::decode(bytes);
    let _ = rtmp::metadata::parse(bytes);
});
