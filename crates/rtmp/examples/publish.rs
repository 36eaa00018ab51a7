//! Publishes an FLV file to an RTMP server, as fast as it takes it.
//!
//! ```text
//! cargo run -p rtmp --example publish -- in.flv rtmp://HOST/live/KEY
//! ```

use std::io::{Read, Write};
use std::net::TcpStream;

use bytes::{Buf, BytesMut};
use media::flv;
use rtmp::name::Url;
use rtmp::session::client::{Config, Event};
use rtmp::session::{Client, Intent};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("name a file to publish")?;
    let url: Url = arguments.next().ok_or("name a server")?.parse()?;

    let mut socket = TcpStream::connect((url.host.as_str(), url.port))?;
    let mut session = Client::new(Config::new(Intent::Publish, url), rand::random());
    let (mut input, mut buffer) = (BytesMut::new(), vec![0; 64 * 1024]);
    loop {
        flush(&mut session, &mut socket)?;
        match session.poll_event() {
            Some(Event::Ready) => break,
            Some(other) => return Err(format!("{other:?}").into()),
            None => {}
        }
        let count = socket.read(&mut buffer)?;
        if count == 0 {
            return Err("the server closed".into());
        }
        input.extend_from_slice(&buffer[..count]);
        session.handle_input(&mut input)?;
    }
    for tag in flv::Reader::new(std::fs::read(path)?.into())? {
        session.send_tag(&tag?);
        flush(&mut session, &mut socket)?;
    }
    session.close();
    flush(&mut session, &mut socket)?;
    // Closing with unread input would reset the connection before all is read.
    let _ = socket.shutdown(std::net::Shutdown::Write);
    while socket.read(&mut buffer).is_ok_and(|count| count > 0) {}
    Ok(())
}

fn flush(session: &mut Client, socket: &mut TcpStream) -> std::io::Result<()> {
    let queue = session.send_queue();
    while queue.has_remaining() {
        let count = socket.write(queue.chunk())?;
        queue.advance(count);
    }
    Ok(())
}
