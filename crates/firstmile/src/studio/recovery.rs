//! How long a link takes to bring media back after an outage.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use testkit::UdpProxy;

use super::liveness::{LOOK_INTERVAL, Liveness, Need};
use crate::identity::Identity;
use crate::link::{Link, VIDEO_PRIORITY};
use crate::quic::{Congestion, Dialer, Listener};

const FRAME: Duration = Duration::from_millis(33);
const FRAME_BYTES: usize = 5_000_000 / 8 / 30;

/// Sends 5 Mb/s: a stream each second, no frame that has waited for 2 s.
async fn send(link: Link) -> anyhow::Result<()> {
    let heart = link.clone();
    tokio::spawn(async move {
        loop {
            heart.send_datagram(vec![0].into());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let govern = link.clone();
    tokio::spawn(async move {
        loop {
            govern.govern();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let started = Instant::now();
    let mut number = 0u32;
    let mut stream = link.open_tags(VIDEO_PRIORITY).await?;
    loop {
        let now = (started.elapsed().as_millis() / FRAME.as_millis()) as u32;
        if now > number + 60 {
            number = now;
            stream.reset()?;
            stream = link.open_tags(VIDEO_PRIORITY).await?;
        } else if number.is_multiple_of(30) {
            stream.finish()?;
            stream = link.open_tags(VIDEO_PRIORITY).await?;
        }
        tokio::time::sleep((FRAME * number).saturating_sub(started.elapsed())).await;
        stream.write_chunk(Bytes::from_static(&[0; FRAME_BYTES])).await?;
        number += 1;
    }
}

/// Time from the network's return until a frame came.
async fn measure(outage: Duration) -> Duration {
    let relay = Identity::generate();
    let address = "127.0.0.1:0".parse().unwrap();
    let listener = Listener::bind(&relay, address, Congestion::Bbr).unwrap();
    let proxy = UdpProxy::start(listener.local_addr().unwrap(), Duration::from_millis(30)).unwrap();
    tokio::spawn(async move {
        while let Some(incoming) = listener.accept().await {
            tokio::spawn(async move {
                if let Ok(Some(link)) = incoming.handshake().await {
                    let _ = send(link).await;
                }
            });
        }
    });
    let dialer = Dialer::new(Arc::new(Identity::generate()));
    let link = dialer.dial(proxy.address(), relay.public_key()).await.unwrap();
    let (came, mut frames) = tokio::sync::mpsc::unbounded_channel();
    let reader = link.clone();
    tokio::spawn(async move {
        while let Ok(mut stream) = reader.accept_tags().await {
            let came = came.clone();
            tokio::spawn(async move {
                let mut read = 0;
                while let Ok(Some(chunk)) = stream.read_chunk(FRAME_BYTES).await {
                    read += chunk.len();
                    while read >= FRAME_BYTES {
                        read -= FRAME_BYTES;
                        let _ = came.send(Instant::now());
                    }
                }
            });
        }
    });
    let heart = link.clone();
    tokio::spawn(async move { while heart.read_datagram().await.is_ok() {} });
    tokio::spawn(async move {
        let mut liveness = Liveness::new(Instant::now(), link.received(), None);
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            match liveness.look(Instant::now(), link.received(), link.rtt(), None) {
                Some(Need::Packet) => link.knock().unwrap(),
                Some(_) => link.rebind().unwrap(),
                None => {}
            }
        }
    });
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        frames.recv().await.unwrap();
    }
    proxy.pass(false, false);
    tokio::time::sleep(outage).await;
    while frames.try_recv().is_ok() {}
    let back = Instant::now();
    proxy.pass(true, true);
    let next = tokio::time::timeout(Duration::from_secs(30), frames.recv()).await;
    let came = next.expect("within half a minute").expect("the link lives");
    came - back
}

/// Left to its own timers it takes as long again as the outage was.
#[tokio::test(flavor = "multi_thread")]
async fn media_comes_back_at_once_after_a_long_outage() {
    let first = measure(Duration::from_secs(10)).await;
    assert!(first < Duration::from_secs(2), "{first:?}");
}
