//! A feed with real tags, and those who watch it.

use bytes::Bytes;
use media::{PublicationId, Tag, flv};

use super::*;

const CLIP: &[u8] = include_bytes!("../../../../../assets/clip.flv");

fn clip() -> Vec<Tag> {
    flv::Reader::new(Bytes::from_static(CLIP)).unwrap().map(Result::unwrap).collect()
}

/// The next messages, once there are some.
async fn next(viewer: &mut Viewer) -> Vec<Message> {
    let mut out = Vec::new();
    let some = async {
        while viewer.poll(Instant::now(), &mut out) == Next::Wait {
            viewer.changed().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), some).await.expect("something");
    out
}

fn is_text(message: &Message, kind: &str) -> bool {
    matches!(message, Message::Text(text) if text.contains(&format!(r#""type":"{kind}""#)))
}

#[tokio::test]
async fn a_viewer_sees_a_feed_and_all_ends_with_it() {
    let feed = Feed::new(hub::Limits::default());
    let mut publisher = feed.publish(PublicationId([1; 16]), Instant::now()).unwrap();
    let previews = Arc::new(Previews::new(2, 3));
    let mut viewer = previews.watch(&feed, Mode::Full).unwrap();
    for tag in clip() {
        publisher.push(tag, Instant::now()).unwrap();
    }
    let (mut messages, mut segments) = (Vec::new(), 0);
    // The newest GOP is 2 s.
    while segments < 100 {
        messages.extend(next(&mut viewer).await);
        segments = messages.iter().filter(|m| matches!(m, Message::Segment(_))).count();
    }
    assert!(is_text(&messages[0], "feed"));
    assert!(messages.iter().any(|message| is_text(message, "level")));
    assert_eq!(feed.subscribers(), 0, "none of the players");
    let other = previews.watch(&feed, Mode::Stills).unwrap();
    assert_eq!(previews.watch(&feed, Mode::Stills).unwrap_err(), Full::Feed);
    let empty = Feed::new(hub::Limits::default());
    let third = previews.watch(&empty, Mode::Stills).unwrap();
    assert_eq!(previews.watch(&empty, Mode::Stills).unwrap_err(), Full::Node);
    assert_eq!(previews.viewers(), 3);
    drop((other, third));
    assert_eq!(previews.viewers(), 1);
    previews.shutdown.cancel();
    while !next(&mut viewer).await.is_empty() {}
    assert_eq!(viewer.poll(Instant::now(), &mut Vec::new()), Next::Over);
    let closing = tokio::spawn(async move { previews.close().await });
    drop(viewer);
    closing.await.unwrap();
}

#[tokio::test]
async fn the_task_ends_with_the_last_viewer() {
    let feed = Feed::new(hub::Limits::default());
    let previews = Arc::new(Previews::new(2, 3));
    let viewer = previews.watch(&feed, Mode::Full).unwrap();
    let shared = Arc::downgrade(&viewer.shared);
    drop(viewer);
    assert!(shared.upgrade().is_none());
    drop(previews.watch(&feed, Mode::Full).unwrap());
    assert_eq!(previews.lock().feeds.len(), 1, "what is over is forgotten");
}

#[tokio::test]
async fn a_removed_feed_ends_its_previews() {
    let hub = hub::Hub::new(hub::Limits::default());
    let feed = hub.feed("camera");
    let previews = Arc::new(Previews::new(2, 3));
    let mut viewer = previews.watch(&feed, Mode::Full).unwrap();
    next(&mut viewer).await;
    hub.remove(&"camera");
    while !next(&mut viewer).await.is_empty() {}
    assert_eq!(viewer.poll(Instant::now(), &mut Vec::new()), Next::Over);
}
