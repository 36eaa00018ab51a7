//! How long a link takes to bring media back after an outage; with figures:
//! `cargo test -p firstmile --lib recovery -- --ignored --nocapture`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use testkit::UdpProxy;

use super::liveness::{LOOK_INTERVAL, Liveness, Need};
use crate::identity::Identity;
use crate::quic::{Congestion, Dialer, Link, Listener, VIDEO_PRIORITY};

const FRAME: Duration = Duration::from_millis(33);
const FRAME_BYTES: usize = 5_000_000 / 8 / 30;

/// Sends 5 Mb/s: a stream each second, frames with their number, none that has waited for 2 s.
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
            stream.reset(0u32.into())?;
            stream = link.open_tags(VIDEO_PRIORITY).await?;
        } else if number.is_multiple_of(30) {
            stream.finish()?;
            stream = link.open_tags(VIDEO_PRIORITY).await?;
        }
        tokio::time::sleep((FRAME * number).saturating_sub(started.elapsed())).await;
        let mut frame = vec![0; FRAME_BYTES];
        frame[..4].copy_from_slice(&number.to_be_bytes());
        stream.write_all(&frame).await?;
        number += 1;
    }
}

/// Time from the network's return until a frame came, and until one came that was not late; the
/// network is out in the directions that do not pass, and the studio is behind the same address then
/// or not.
async fn measure(
    outage: Duration,
    watched: bool,
    up: bool,
    down: bool,
    is_same: bool,
) -> [Duration; 2] {
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
                let mut frame = vec![0; FRAME_BYTES];
                while stream.read_exact(&mut frame).await.is_ok() {
                    let number = u32::from_be_bytes(frame[..4].try_into().unwrap());
                    let _ = came.send((number, Instant::now()));
                }
            });
        }
    });
    let heart = link.clone();
    tokio::spawn(async move { while heart.read_datagram().await.is_ok() {} });
    if watched {
        let link = link.clone();
        tokio::spawn(async move {
            let mut liveness = Liveness::new(Instant::now(), link.received(), None);
            loop {
                tokio::time::sleep(LOOK_INTERVAL).await;
                match liveness.look(Instant::now(), link.received(), None) {
                    Some(Need::Packet) => link.knock().unwrap(),
                    Some(_) => link.rebind().unwrap(),
                    None => {}
                }
            }
        });
    }
    let mut zero = Instant::now();
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        let (number, at) = frames.recv().await.unwrap();
        zero = zero.min(at - FRAME * number);
    }
    proxy.pass(up, down);
    tokio::time::sleep(outage).await;
    while frames.try_recv().is_ok() {}
    if !is_same {
        proxy.move_to([127, 0, 0, 2].into());
    }
    let back = Instant::now();
    proxy.pass(true, true);
    let mut first = None;
    loop {
        let next = tokio::time::timeout(Duration::from_secs(30), frames.recv()).await;
        let Ok(Some((number, at))) = next else {
            return [Duration::MAX; 2];
        };
        first.get_or_insert(at - back);
        if at - (zero + FRAME * number) < Duration::from_millis(150) {
            return [first.unwrap(), at - back];
        }
    }
}

/// Left to its own timers it takes as long again as the outage was.
#[tokio::test(flavor = "multi_thread")]
async fn media_comes_back_at_once_after_a_long_outage() {
    let [first, _] = measure(Duration::from_secs(10), true, false, false, true).await;
    assert!(first < Duration::from_secs(2), "{first:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes of figures"]
async fn figures() {
    for (up, down, same, what) in [
        (false, false, true, "both ways"),
        (false, false, false, "both ways, other address"),
        (true, false, true, "down only"),
        (false, true, true, "up only"),
    ] {
        for seconds in [1u32, 2, 5, 10, 20] {
            let mut runs = tokio::task::JoinSet::new();
            for (watched, run) in [false, true].iter().flat_map(|w| (0..3u32).map(move |r| (*w, r)))
            {
                let outage = seconds * Duration::from_secs(1) + run * Duration::from_millis(130);
                runs.spawn(async move {
                    (
                        watched,
                        run,
                        measure(outage, watched, up, down, same).await.map(|d| d.as_millis()),
                    )
                });
            }
            let mut all = runs.join_all().await;
            all.sort();
            for watched in [false, true] {
                let of: Vec<_> = all.iter().filter(|r| r.0 == watched).map(|r| r.2).collect();
                println!(
                    "{what}, {seconds} s, watched {watched}: first, and on time after {of:?} ms"
                );
            }
        }
    }
}
