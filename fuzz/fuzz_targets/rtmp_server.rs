//! A server session that any bytes reach, in any pieces.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|pieces: Vec<Vec<u8>>| {
    let mut server = rtmp::Server::new(rtmp::session::server::Config::default(), [7; 32]);
    let mut input = BytesMut::new();
    for piece in pieces {
        input.extend_from_slice(&piece);
        let is_over = server.handle_input(&mut input).is_err();
        while let Some(event) = server.poll_event() {
            if matches!(event, rtmp::session::server::Event::Request(_)) {
                server.accept();
            }
        }
        if is_over {
            return;
        }
    }
});
