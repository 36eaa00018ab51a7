//! An encoder of our own that goes on, and pictures with numbers in them, 25 a second.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use media::{Role, Tag, Track};

use crate::OwnClient;

/// Between two pictures.
pub const FRAME: Duration = Duration::from_millis(40);

/// The pictures' sequence header.
pub fn header() -> Tag {
    Tag::new(Track::Video, 0, vec![0x17, 0, 0, 0, 0, 1, 0].into())
}

/// A picture of so many bytes, at least 10, with its number in it; a keyframe each second.
pub fn picture(number: u32, size: usize) -> Tag {
    let mut body = vec![0; size];
    body[..2].copy_from_slice(&[if number.is_multiple_of(25) { 0x17 } else { 0x27 }, 1]);
    body[6..10].copy_from_slice(&number.to_be_bytes());
    Tag::new(Track::Video, i64::from(number) * 40, body.into())
}

/// The number in a picture.
pub fn number(tag: &Tag) -> Option<u32> {
    let is_picture = tag.track == Track::Video && matches!(tag.role, Role::Keyframe | Role::Frame);
    is_picture.then(|| u32::from_be_bytes(tag.body[6..10].try_into().expect("four bytes")))
}

/// An encoder that publishes until it is stopped or dropped, and must not notice anything.
#[derive(Debug)]
pub struct Live {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<u32>>,
}

impl Live {
    /// Sends headers, and then one tag after the other: `next` is asked with its number when it is
    /// due, from the start, and what it is.
    pub fn start(
        mut client: OwnClient,
        headers: &[Tag],
        mut next: impl FnMut(u32) -> (Duration, Tag) + Send + 'static,
    ) -> Self {
        client.send_all(headers);
        let stop = Arc::new(AtomicBool::new(false));
        let is_over = stop.clone();
        let thread = thread::spawn(move || {
            let started = Instant::now();
            for number in 0.. {
                if is_over.load(Ordering::Relaxed) {
                    return number;
                }
                let (due, tag) = next(number);
                thread::sleep(due.saturating_sub(started.elapsed()));
                client.send(&tag).expect("the encoder sees nothing of it");
                // Acknowledgements are to be read, too.
                client.read(Duration::from_millis(1)).expect("the encoder sees nothing of it");
            }
            unreachable!("it goes on for ever");
        });
        Self { stop, thread: Some(thread) }
    }

    /// Sends numbered pictures of so many bytes.
    pub fn pictures(client: OwnClient, size: usize) -> Self {
        Self::start(client, &[header()], move |number| (FRAME * number, picture(number, size)))
    }

    /// Ends it; returns how many tags it has sent behind the headers.
    ///
    /// # Panics
    ///
    /// If the encoder noticed something.
    pub fn stop(mut self) -> u32 {
        self.end().expect("the encoder saw something of it")
    }

    /// Waits until its server is gone.
    ///
    /// # Panics
    ///
    /// If it was stopped instead.
    pub fn wait_lost(mut self) {
        let ended = self.thread.take().expect("it was not stopped").join();
        assert!(ended.is_err(), "it was stopped");
    }

    fn end(&mut self) -> thread::Result<u32> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map_or(Ok(0), JoinHandle::join)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let ended = self.end();
        assert!(ended.is_ok() || thread::panicking(), "the encoder saw something of it");
    }
}
