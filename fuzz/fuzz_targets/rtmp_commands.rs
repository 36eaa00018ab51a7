//! A server session behind its handshake: the chunks are what is fuzzed.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|chunks: &[u8]| {
    let mut server = rtmp::Server::new(rtmp::session::server::Config::default(), [7; 32]);
    // C0, a plain C1, and a C2 that nobody looks at.
    let mut input = BytesMut::from(&[3][..]);
    input.resize(1 + 1536 + 1536, 0);
    input.extend_from_slice(chunks);
    let _ = server.handle_input(&mut input);
    while let Some(event) = server.poll_event() {
        if matches!(event, rtmp::session::server::Event::Request(_)) {
            server.accept();
        }
    }
});
