//! The encoder: publishes the clip over and over, in real time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use media::{Tag, Track, flv};
use rtmp::session::client::Event;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::ledger::Ledger;
use super::player::{connect, wait_ready};
use crate::connection::Connection;

/// Our own clip; `assets/make-clip` makes it.
const CLIP: &[u8] = include_bytes!("../../../../assets/clip.flv");
/// How long the last bytes may take to leave.
const FLUSH: Duration = Duration::from_secs(2);

pub(super) struct Encoder {
    connection: Connection<TcpStream, rtmp::Client>,
    clip: Vec<Tag>,
}

impl Encoder {
    pub(super) async fn connect(url: &str) -> Result<Self> {
        let clip = flv::Reader::new(Bytes::from_static(CLIP))?.collect::<Result<Vec<_>, _>>()?;
        let mut connection = connect(url, rtmp::session::Intent::Publish).await?;
        wait_ready(&mut connection).await.context("the relay did not take the encoder")?;
        Ok(Self { connection, clip })
    }

    /// Publishes until `finish`; then says so.
    pub(super) async fn run(
        mut self,
        ledger: Arc<Ledger>,
        finish: CancellationToken,
    ) -> Result<()> {
        let result = self.publish(&ledger, &finish).await;
        ledger.end();
        self.connection.session.close();
        self.connection.finish(FLUSH).await;
        result
    }

    async fn publish(&mut self, ledger: &Ledger, finish: &CancellationToken) -> Result<()> {
        let start = Instant::now();
        let length = self.loop_length();
        for round in 0.. {
            for tag in self.clip.clone() {
                // The headers are in force from the first round on.
                if round > 0 && tag.is_header() {
                    continue;
                }
                let mut tag = tag;
                tag.timestamp += round * length;
                let due = start + Duration::from_millis(tag.timestamp.unsigned_abs());
                if !self.wait(due, finish).await? {
                    return Ok(());
                }
                ledger.sent(&tag);
                self.connection.session.send_tag(&tag);
            }
        }
        Ok(())
    }

    /// Keeps the connection going until `due`; `false` if it is time to finish.
    async fn wait(&mut self, due: Instant, finish: &CancellationToken) -> Result<bool> {
        loop {
            if let Some(Event::Rejected { description, .. }) = self.connection.session.poll_event()
            {
                bail!("the relay ended the publication: {description}");
            }
            tokio::select! {
                biased;
                () = finish.cancelled() => return Ok(false),
                exchange = self.connection.exchange() => {
                    if exchange? == crate::connection::Exchange::Closed {
                        bail!("the relay closed the connection");
                    }
                }
                () = tokio::time::sleep_until(due.into()) => return Ok(true),
            }
        }
    }

    /// Milliseconds of one round: to the last frame, and one frame on.
    fn loop_length(&self) -> i64 {
        let video = self.clip.iter().filter(|tag| tag.track == Track::Video && !tag.is_header());
        let times: Vec<_> = video.map(|tag| tag.timestamp).collect();
        let interval = match times[..] {
            [.., before, last] => last - before,
            _ => 40,
        };
        times.last().map_or(interval, |last| last + interval)
    }
}
