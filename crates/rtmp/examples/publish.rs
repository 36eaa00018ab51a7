//! Publishes an FLV file to an RTMP server as fast as it takes it, or standard input as it comes.
//!
//! ```text
//! cargo run -p rtmp --example publish -- in.flv rtmp://HOST/live/KEY
//! cargo run -p rtmp --example publish -- - rtmp://HOST/live/KEY
//! ```

use std::fs::File;
use std::io::{ErrorKind, Read, Write, stdin};
use std::net::TcpStream;

use bytes::{Buf, BytesMut};
use media::{Tag, Track};
use rtmp::name::Url;
use rtmp::session::client::{Config, Event};
use rtmp::session::{Client, Intent};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("name a file to publish")?;
    let url: Url = arguments.next().ok_or("name a server")?.parse()?;
    let mut file: Box<dyn Read> =
        if path == "-" { Box::new(stdin().lock()) } else { Box::new(File::open(path)?) };

    let mut socket = TcpStream::connect((url.host.as_str(), url.port))?;
    socket.set_nodelay(true)?;
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
    file.read_exact(&mut buffer[..13])?;
    while let Some(tag) = read_tag(&mut file)? {
        session.send_tag(&tag);
        flush(&mut session, &mut socket)?;
    }
    session.close();
    flush(&mut session, &mut socket)?;
    // Closing with unread input would reset the connection before all is read.
    let _ = socket.shutdown(std::net::Shutdown::Write);
    while socket.read(&mut buffer).is_ok_and(|count| count > 0) {}
    Ok(())
}

/// The next tag of an FLV file, without waiting for what follows it; `None` at the end.
fn read_tag(file: &mut impl Read) -> std::io::Result<Option<Tag>> {
    let mut header = [0; 11];
    match file.read_exact(&mut header) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        result => result?,
    }
    let [kind, a, b, c, t2, t1, t0, t3, ..] = header;
    let mut body = BytesMut::zeroed(u32::from_be_bytes([0, a, b, c]) as usize + 4);
    file.read_exact(&mut body)?;
    body.truncate(body.len() - 4);
    let track = Track::from_flv_type(kind).ok_or(ErrorKind::InvalidData)?;
    let timestamp = i64::from(u32::from_be_bytes([t3, t2, t1, t0]));
    Ok(Some(Tag::new(track, timestamp, body.freeze())))
}

fn flush(session: &mut Client, socket: &mut TcpStream) -> std::io::Result<()> {
    let queue = session.send_queue();
    while queue.has_remaining() {
        let count = socket.write(queue.chunk())?;
        queue.advance(count);
    }
    Ok(())
}
