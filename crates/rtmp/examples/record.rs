//! Accepts one encoder, whatever its stream key, and writes what it sends to an FLV file.
//!
//! ```text
//! cargo run -p rtmp --example record -- out.flv
//! ```

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpListener;

use bytes::{Buf, BytesMut};
use rtmp::session::Server;
use rtmp::session::server::{Config, Event};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("name a file to write")?;
    let mut file = File::create(path)?;
    let mut out = BytesMut::new();
    media::flv::write_header(&mut out);

    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("rtmp://{}/live/anything", listener.local_addr()?);
    let (mut socket, _) = listener.accept()?;
    let mut session = Server::new(Config::default(), rand::random());
    let (mut input, mut buffer) = (BytesMut::new(), vec![0; 64 * 1024]);
    loop {
        let count = socket.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        input.extend_from_slice(&buffer[..count]);
        let result = session.handle_input(&mut input);
        while let Some(event) = session.poll_event() {
            match event {
                Event::Request(request) => {
                    eprintln!("{request:?}");
                    session.accept();
                }
                Event::Tag(tag) => media::flv::write_tag(&mut out, &tag),
                other => eprintln!("{other:?}"),
            }
        }
        file.write_all(&out)?;
        out.clear();
        let queue = session.send_queue();
        while queue.has_remaining() {
            let count = socket.write(queue.chunk())?;
            queue.advance(count);
        }
        result?;
    }
    Ok(())
}
