//! Plays from an RTMP server and writes the tags, as they came, to standard output as FLV.
//!
//! ```text
//! cargo run -p rtmp --example play -- rtmp://HOST/live/NAME > out.flv
//! ```

use std::io::{Read, Write, stdout};
use std::net::TcpStream;

use bytes::{Buf, BytesMut};
use rtmp::name::Url;
use rtmp::session::client::{Config, Event};
use rtmp::session::{Client, Intent};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url: Url = std::env::args().nth(1).ok_or("name a stream")?.parse()?;
    let mut socket = TcpStream::connect((url.host.as_str(), url.port))?;
    let mut session = Client::new(Config::new(Intent::Play, url), rand::random());
    let (mut input, mut buffer) = (BytesMut::new(), vec![0; 64 * 1024]);
    let mut out = BytesMut::new();
    media::flv::write_header(&mut out);
    loop {
        let queue = session.send_queue();
        while queue.has_remaining() {
            let count = socket.write(queue.chunk())?;
            queue.advance(count);
        }
        let count = socket.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        input.extend_from_slice(&buffer[..count]);
        session.handle_input(&mut input)?;
        while let Some(event) = session.poll_event() {
            match event {
                Event::Tag(tag) => media::flv::write_tag(&mut out, &tag),
                Event::Rejected { .. } => return Err(format!("{event:?}").into()),
                other => eprintln!("{other:?}"),
            }
        }
        stdout().write_all(&out)?;
        stdout().flush()?;
        out.clear();
    }
}
