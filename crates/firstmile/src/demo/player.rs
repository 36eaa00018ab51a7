//! The player: takes what the studio gives, and has it checked.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use media::Track;
use rtmp::session::Intent;
use rtmp::session::client::{Config, Event};
use tokio::net::TcpStream;

use super::ledger::Ledger;
use crate::connection::Connection;

/// How long the other side may be silent: a player waits for its encoder.
const PATIENCE: Duration = Duration::from_secs(3_600);
/// How long it may take to be let in.
const READY: Duration = Duration::from_secs(40);

pub(super) struct Player {
    connection: Connection<TcpStream, rtmp::Client>,
}

impl Player {
    pub(super) async fn connect(url: &str) -> Result<Self> {
        let mut connection = connect(url, Intent::Play).await?;
        wait_ready(&mut connection).await.context("the studio did not take the player")?;
        Ok(Self { connection })
    }

    pub(super) async fn run(mut self, ledger: Arc<Ledger>) -> Result<()> {
        while let Some(event) = self.connection.event(PATIENCE).await? {
            match event {
                Event::Tag(tag) if tag.track != Track::Data => ledger.played(&tag),
                Event::Ended => break,
                _ => {}
            }
        }
        Ok(())
    }
}

/// Connects a client session.
pub(super) async fn connect(
    url: &str,
    intent: Intent,
) -> Result<Connection<TcpStream, rtmp::Client>> {
    let url: rtmp::name::Url = url.parse()?;
    let socket = TcpStream::connect((url.host.as_str(), url.port)).await?;
    socket.set_nodelay(true)?;
    let peer = socket.peer_addr()?;
    let session = rtmp::Client::new(Config::new(intent, url), rand::random());
    Ok(Connection::new(socket, peer, session))
}

/// Waits until publishing or playing has begun.
pub(super) async fn wait_ready(connection: &mut Connection<TcpStream, rtmp::Client>) -> Result<()> {
    match connection.event(READY).await? {
        Some(Event::Ready) => Ok(()),
        Some(Event::Rejected { code, description }) => bail!("{code}: {description}"),
        other => bail!("expected an answer, got {other:?}"),
    }
}
