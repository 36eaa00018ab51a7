//! How many tags a second go through a feed with one, ten and two hundred subscribers, and into
//! one without any, as it was and with a spool.

use std::time::{Duration, Instant};

use bytes::Bytes;
use divan::Bencher;
use divan::counter::ItemsCount;
use hub::{Feed, Join, Limits, Policy};
use media::{PublicationId, Tag, Track};

fn main() {
    divan::main();
}

#[divan::bench(args = [1, 10, 200])]
fn push_and_poll(bencher: Bencher<'_, '_>, subscribers: usize) {
    const TAGS: usize = 1_000;
    let start = Instant::now();
    let body = Bytes::from(vec![0x27; 20_000]);
    bencher.counter(ItemsCount::new(TAGS)).bench_local(|| {
        let feed = Feed::new(Limits::default());
        let mut publisher = feed.publish(PublicationId([1; 16]), start).unwrap();
        let policy =
            Policy { join: Join::Fast, max_delay: Duration::from_secs(2), verbatim: false };
        let mut players: Vec<_> = (0..subscribers).map(|_| feed.subscribe(policy, None)).collect();
        let mut items = Vec::new();
        for index in 0..TAGS {
            let now = start + Duration::from_millis(index as u64 * 40);
            let tag = Tag::new(Track::Video, index as i64 * 40, body.clone());
            publisher.push(tag, now).unwrap();
            for player in &mut players {
                player.poll(now, &mut items, 1 << 20);
                items.clear();
            }
        }
    });
}

/// An argument is the spool's length in seconds.
#[divan::bench(args = [0, 20])]
fn push(bencher: Bencher<'_, '_>, spool: u64) {
    const TAGS: usize = 2_000;
    let start = Instant::now();
    let body = Bytes::from(vec![0x27; 20_000]);
    let limits = Limits { spool: Duration::from_secs(spool), ..Limits::default() };
    let feed = Feed::new(limits);
    let mut publisher = feed.publish(PublicationId([1; 16]), start).unwrap();
    let mut index = 0;
    bencher.counter(ItemsCount::new(TAGS)).bench_local(|| {
        for _ in 0..TAGS {
            let now = start + Duration::from_millis(index * 10);
            let mut tag = Tag::new(Track::Video, index as i64 * 10, body.clone());
            if index % 100 == 0 {
                tag.role = media::Role::Keyframe;
            }
            publisher.push(tag, now).unwrap();
            index += 1;
        }
    });
}
