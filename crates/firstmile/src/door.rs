//! The RTMP door: from a TCP connection to an encoder that may publish or a player that may play.
//!
//! The life of a connection, in order: [`Door::serve`] accepts, `request` reads what the client
//! wants, the node's [`Gate`] decides, and [`ingest::rtmp`] or [`egress::rtmp`] carries the media
//! until somebody leaves.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hub::{Feed, Policy, Publisher};
use rtmp::session::server::Event;
use rtmp::session::{Intent, Rejection, Request};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, info, warn};

use crate::config::Limits;
use crate::connection::{Connection, Error};
use crate::guests::{Guest, Guests};
use crate::traces::{self, Traces};
use crate::{egress, ingest, platform};

/// How long a refused or ended peer may take to read why.
const FAREWELL: Duration = Duration::from_secs(2);

/// Between two lines about clients that speak another protocol.
const TELL_AFTER: Duration = Duration::from_secs(1);
/// How long connections may take to end once the node stops.
const DRAIN: Duration = ingest::rtmp::LEAVE.saturating_add(FAREWELL);

/// Decides who may enter.
pub trait Gate: Send + Sync + 'static {
    /// Puts an encoder on air, if its key is good. May wait for a while: the connection keeps its
    /// seat, and its place among the guests of its address, and is not read meanwhile.
    fn publish(
        &self,
        request: &Request,
        peer: SocketAddr,
    ) -> impl Future<Output = Result<Encoder, Rejection>> + Send;

    /// Finds the feed that a player may have.
    fn play(&self, request: &Request, peer: SocketAddr) -> Result<Player, Rejection>;
}

/// An encoder that was let in.
#[derive(Debug)]
pub struct Encoder {
    /// Its right to push tags.
    pub publisher: Publisher,
    /// The feed's name, for the log.
    pub feed: String,
}

/// A player that was let in.
#[derive(Debug)]
pub struct Player {
    /// The feed.
    pub feed: Feed,
    /// How it is read.
    pub policy: Policy,
    /// What it takes of the feed.
    pub takes: egress::takes::Takes,
    /// The feed's name, for the log.
    pub name: String,
}

/// A listener, and what all its connections share.
#[derive(Debug)]
pub struct Door<G> {
    gate: Arc<G>,
    limits: Limits,
    seats: Arc<Semaphore>,
    guests: Arc<Guests>,
    traces: Option<Traces>,
    connections: AtomicU64,
    /// When a client's mistake was told last.
    told: Mutex<Option<Instant>>,
}

impl<G: Gate> Door<G> {
    /// A door to this node.
    pub fn new(gate: Arc<G>, limits: &Limits) -> Self {
        Self {
            gate,
            limits: limits.clone(),
            seats: Arc::new(Semaphore::new(limits.connections)),
            guests: Guests::new(limits.unauthenticated_per_ip),
            traces: None,
            connections: AtomicU64::new(0),
            told: Mutex::default(),
        }
    }

    /// Keeps a trace of every connection, if there is a place for it.
    pub fn with_traces(self, traces: Option<Traces>) -> Self {
        Self { traces, ..self }
    }

    /// Connections that are open.
    pub fn open_connections(&self) -> usize {
        self.limits.connections - self.seats.available_permits()
    }

    /// Takes connections until `shutdown`, tells their peers then, and waits until they have left.
    ///
    /// Encoders that can are asked to connect again and may send for a little while yet.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, shutdown: CancellationToken) {
        self.clone().accept(listener, &shutdown).await;
        let all = u32::try_from(self.limits.connections).unwrap_or(u32::MAX);
        // Who has not left by then has been told.
        let _ = tokio::time::timeout(DRAIN, self.seats.acquire_many(all)).await;
    }

    async fn accept(self: Arc<Self>, listener: TcpListener, shutdown: &CancellationToken) {
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let (socket, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    warn!(%error, "cannot accept an RTMP connection");
                    // Out of file descriptors: trying again at once would only spin.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
            let Ok(seat) = self.seats.clone().try_acquire_owned() else {
                debug!(%peer, "connection refused: all seats are taken");
                continue;
            };
            let Some(guest) = self.guests.enter(peer.ip()) else {
                debug!(%peer, "connection refused: too many from this address");
                continue;
            };
            let id = self.connections.fetch_add(1, Ordering::Relaxed);
            let span = tracing::info_span!("conn", id, %peer);
            let (door, shutdown) = (self.clone(), shutdown.clone());
            tokio::spawn(
                async move { door.run(id, socket, peer, seat, guest, shutdown).await }
                    .instrument(span),
            );
        }
    }

    async fn run(
        &self,
        id: u64,
        socket: TcpStream,
        peer: SocketAddr,
        _seat: OwnedSemaphorePermit,
        guest: Guest,
        shutdown: CancellationToken,
    ) {
        platform::tune_socket(&socket, self.limits.write_timeout);
        let config = rtmp::session::server::Config::default();
        let mut session = rtmp::Server::new(config, rand::random());
        if self.traces.is_some() {
            session.start_trace(traces::BYTES);
        }
        let mut connection = Connection::new(socket, peer, session);
        let mut guest = Some(guest);
        let result = self.converse(&mut connection, &mut guest, &shutdown).await;
        if let Some(traces) = &self.traces {
            let why = result.as_ref().map_or_else(Error::to_string, |&reason| reason.to_owned());
            traces.keep(id, peer, &why, &connection.session.take_trace().unwrap_or_default());
        }
        match result {
            Ok(reason) => info!(reason, "closed"),
            Err(Error::Rtmp(mistake)) if is_other_protocol(&mistake) && self.may_tell() => {
                info!(reason = %mistake, "closed");
            }
            // A client that never said what it wants is a scan or a mistake, not an event.
            Err(error) if guest.is_some() => debug!(reason = %error, "closed before a request"),
            Err(error) => info!(reason = %error, "closed"),
        }
        connection.finish(FAREWELL).await;
    }

    /// Whether a client's mistake is told now: a scanner's thousand connections are one line a
    /// second.
    fn may_tell(&self) -> bool {
        let now = Instant::now();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = told.is_none_or(|told| now.duration_since(told) >= TELL_AFTER);
        if is_due {
            *told = Some(now);
        }
        is_due
    }

    /// One request after the other; an encoder may publish again on its connection.
    async fn converse(
        &self,
        connection: &mut Connection<TcpStream>,
        guest: &mut Option<Guest>,
        shutdown: &CancellationToken,
    ) -> Result<&'static str, Error> {
        let mut opened = Some(Instant::now());
        loop {
            let request = self.request(connection, opened.take());
            let Some(request) = shutdown.run_until_cancelled(request).await else {
                return Ok("this node is stopping");
            };
            let Some(request) = request? else {
                return Ok("the client left");
            };
            match request.intent {
                Intent::Publish => {
                    let publish = self.gate.publish(&request, connection.peer);
                    let encoder = match shutdown.run_until_cancelled(publish).await {
                        None => return Ok("this node is stopping"),
                        Some(Ok(encoder)) => encoder,
                        Some(Err(rejection)) => return Ok(reject(connection, &request, rejection)),
                    };
                    *guest = None;
                    info!(feed = encoder.feed, client = client_name(&request), "publishing");
                    connection.session.accept();
                    if let Some(reason) =
                        ingest::rtmp::run(connection, encoder, &self.limits, shutdown).await?
                    {
                        return Ok(reason);
                    }
                }
                Intent::Play => {
                    let player = match self.gate.play(&request, connection.peer) {
                        Ok(player) => player,
                        Err(rejection) => return Ok(reject(connection, &request, rejection)),
                    };
                    *guest = None;
                    info!(feed = player.name, client = client_name(&request), "playing");
                    connection.session.accept();
                    return egress::rtmp::run(connection, &player, &self.limits, shutdown).await;
                }
            }
        }
    }

    /// Reads until the client has said what it wants; `None` if it left.
    ///
    /// `opened` is when the connection was, for its first request: the deadline is absolute, so
    /// that a client which trickles in is cut like one which is mute.
    async fn request(
        &self,
        connection: &mut Connection<TcpStream>,
        opened: Option<Instant>,
    ) -> Result<Option<Request>, Error> {
        let limit = if opened.is_some() { self.limits.authorise } else { self.limits.read_timeout };
        let deadline = opened.unwrap_or_else(Instant::now) + limit;
        let request = async {
            loop {
                match connection.event(self.limits.handshake).await? {
                    Some(Event::Request(request)) => return Ok(Some(request)),
                    Some(_) => {}
                    None => return Ok(None),
                }
            }
        };
        match tokio::time::timeout_at(deadline.into(), request).await {
            Ok(request) => request,
            Err(_) => Err(Error::Silent(limit)),
        }
    }
}

/// Whether somebody typed the wrong port or scheme, and can put it right.
fn is_other_protocol(error: &rtmp::Error) -> bool {
    matches!(error, rtmp::Error::Http | rtmp::Error::Tls | rtmp::Error::Ssh)
}

fn reject(
    connection: &mut Connection<TcpStream>,
    request: &Request,
    rejection: Rejection,
) -> &'static str {
    connection.session.reject(rejection);
    let client = client_name(request);
    match rejection {
        Rejection::Denied => warn!(client, "refused: the key is unknown or wrong"),
        Rejection::Busy => warn!(client, "refused: two encoders are fighting over this feed"),
        Rejection::NotFound => info!(client, "refused: there is no such feed"),
        Rejection::Failed => warn!(client, "refused: it failed here"),
    }
    "refused"
}

/// The client's own name for itself, fit for a log.
fn client_name(request: &Request) -> String {
    request.flash_ver.chars().filter(|c| !c.is_control()).take(64).collect()
}
