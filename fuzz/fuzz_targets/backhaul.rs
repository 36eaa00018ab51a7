//! Both ends of the backhaul's control stream, tag streams and reports.
#![no_main]

use backhaul::{Hello, Received, Session, StreamHeader, TagHeader, VERSION};
use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let hello = Hello {
        versions: vec![VERSION],
        instance: [0; 16],
        agent: String::new(),
        name: String::new(),
        invite: String::new(),
    };
    for mut session in [Session::accept(), Session::dial(hello)] {
        session.handle_input(bytes);
        while let Ok(Some(_)) = session.poll_event() {}
    }
    let mut stream = BytesMut::from(bytes);
    let _ = StreamHeader::decode(&mut stream);
    while let Ok(Some(_)) = TagHeader::decode(&mut stream) {}
    let _ = Received::decode(Bytes::copy_from_slice(bytes));
});
