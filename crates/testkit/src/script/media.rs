//! Bodies of audio and video messages (FLV 10.1 §E.4), each with a number to know it by.

/// An AVC sequence header of a picture of 320x180.
pub const AVC_HEADER: &[u8] = &[
    0x17, 0, 0, 0, 0, 1, 0x42, 0xc0, 0x0d, 0xff, 0xe1, 0, 21, 0x67, 0x42, 0xc0, 0x0d, 0xda, 0x05,
    0x06, 0x7e, 0x7c, 0x04, 0x40, 0, 0, 3, 0, 0x40, 0, 0, 0x0f, 0x03, 0xc5, 1, 0, 4, 0x68, 0xce,
    0x0f, 0xc8,
];

/// An AAC sequence header: LC, 44.1 kHz, stereo.
pub const AAC_HEADER: &[u8] = &[0xaf, 0, 0x12, 0x10];

/// A keyframe.
pub fn key(number: u8) -> Vec<u8> {
    vec![0x17, 1, 0, 0, 0, 0, 0, 0, 2, 0x65, number]
}

/// A frame between keyframes.
pub fn frame(number: u8) -> Vec<u8> {
    vec![0x27, 1, 0, 0, 0, 0, 0, 0, 2, 0x41, number]
}

/// A keyframe of `length` bytes, which no two chunks of have alike.
pub fn large_key(length: usize) -> Vec<u8> {
    let mut body = vec![0x17, 1, 0, 0, 0];
    body.extend(((length - 9) as u32).to_be_bytes());
    body.push(0x65);
    body.extend((body.len()..length).map(|at| (at % 251) as u8));
    body
}

/// An AAC frame.
pub fn sound(number: u8) -> Vec<u8> {
    vec![0xaf, 1, number]
}
