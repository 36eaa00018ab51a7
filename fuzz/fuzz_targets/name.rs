//! URLs and stream names.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rtmp::name::{Target, Url};

fuzz_target!(|text: (&str, &str)| {
    let _ = text.0.parse::<Url>();
    let _ = Target::new(text.0, text.1);
});
