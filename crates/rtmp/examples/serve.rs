//! Serves an FLV file to one player, at its own pace, whatever stream the player asks for.
//!
//! ```text
//! cargo run -p rtmp --example serve -- in.flv
//! ```

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use media::flv;
use rtmp::session::Server;
use rtmp::session::server::{Config, Event};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("name a file to serve")?;
    let tags = flv::Reader::new(std::fs::read(path)?.into())?;

    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("rtmp://{}/live/anything", listener.local_addr()?);
    let (mut socket, _) = listener.accept()?;
    socket.set_nodelay(true)?;
    let mut session = Server::new(Config::default(), rand::random());
    let (mut input, mut buffer) = (BytesMut::new(), vec![0; 64 * 1024]);
    loop {
        let count = socket.read(&mut buffer)?;
        input.extend_from_slice(&buffer[..count]);
        session.handle_input(&mut input)?;
        let event = session.poll_event();
        flush(&mut session, &mut socket)?;
        match event {
            Some(Event::Request(request)) => break eprintln!("{request:?}"),
            _ if count == 0 => return Err("the player left".into()),
            _ => {}
        }
    }
    session.accept();
    let (start, mut first) = (Instant::now(), None);
    for tag in tags {
        let tag = tag?;
        // Headers are at 0 wherever the media starts.
        if !tag.is_header() {
            let elapsed = tag.timestamp - *first.get_or_insert(tag.timestamp);
            let due = Duration::from_millis(elapsed.max(0) as u64);
            std::thread::sleep(due.saturating_sub(start.elapsed()));
        }
        session.send_tag(&tag, tag.wire_timestamp());
        flush(&mut session, &mut socket)?;
    }
    session.end_play();
    flush(&mut session, &mut socket)?;
    // Closing with unread input would reset the connection before all is read.
    let _ = socket.shutdown(std::net::Shutdown::Write);
    while socket.read(&mut buffer).is_ok_and(|count| count > 0) {}
    Ok(())
}

fn flush(session: &mut Server, socket: &mut TcpStream) -> std::io::Result<()> {
    let queue = session.send_queue();
    while queue.has_remaining() {
        let count = socket.write(queue.chunk())?;
        queue.advance(count);
    }
    Ok(())
}
