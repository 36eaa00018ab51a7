//! Dashboard and API over HTTP.

mod api;
mod auth;
mod metrics;
mod pages;
mod preview;
mod qr;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

pub use api::{ApiError, ErrorBody, NewFeed, NewInvite, NewInviteAnswer, SetAuth, SetRecording};
pub use auth::AllowedHosts;
pub use preview::NoPreview;

use crate::egress::preview::{Mode, Viewer};
use crate::platform;
use crate::secret::Token;
use crate::status::{FeedInfo, RecordingInfo, Status};

/// Most connections at one time: browsers open six each, and each costs a task.
const MAX_CONNECTIONS: usize = 128;

/// Largest request body; the largest honest one is a name.
const MAX_BODY: usize = 64 << 10;

/// Most buffered bytes of a request; hyper keeps no more than this of one that trickles in.
const MAX_HEAD: usize = 16 << 10;

/// How long a client may take to send a request's head, or keep a connection without one.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// The same on a public door, where the next connection is as good as this one.
const PUBLIC_HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a connection to a public door may last: its seat is one that an encoder could have.
const PUBLIC_LIFE: Duration = Duration::from_secs(60);

/// How long a client may be silent before it is asked whether it is still there.
const PATIENCE: Duration = Duration::from_secs(15);

/// How long open requests may take once the node stops.
const DRAIN: Duration = Duration::from_secs(2);

/// The running node as the API sees it. Calls that change something may wait for the disk.
pub trait Node: Send + Sync + 'static {
    /// A snapshot with keys in clear.
    fn status(&self) -> Status;
    /// All feeds with keys in clear.
    fn feeds(&self) -> Result<Vec<FeedInfo>, ApiError>;
    /// Makes a feed, effective at once.
    fn add_feed(&self, name: &str) -> Result<FeedInfo, ApiError>;
    /// Gives a feed a new key and closes what came with the old one.
    fn rotate_feed(&self, name: &str) -> Result<FeedInfo, ApiError>;
    /// Gives a feed a user and a password, or takes them away and closes what came with them.
    fn set_auth(&self, name: &str, on: bool) -> Result<FeedInfo, ApiError>;
    /// Switches a feed's recording on or off.
    fn set_recording(&self, name: &str, on: bool) -> Result<FeedInfo, ApiError>;
    /// Every publication that is recorded, oldest first.
    fn recordings(&self) -> Result<Vec<RecordingInfo>, ApiError>;
    /// Forgets a feed and closes its encoder and players.
    fn remove_feed(&self, name: &str) -> Result<(), ApiError>;
    /// Makes a join link for `uses` studios (`None`: any number).
    fn create_invite(&self, uses: Option<u32>, expires: Duration) -> Result<String, ApiError>;
    /// A viewer of a feed.
    fn preview(&self, name: &str, mode: Mode) -> Result<Viewer, NoPreview>;
}

/// What every request needs.
struct Context {
    node: Arc<dyn Node>,
    token: Token,
    hosts: AllowedHosts,
    /// Reading needs the token as well where other machines reach the listener.
    private: bool,
    /// Everything but `/healthz` needs the token: strangers do not even learn what is there.
    public: bool,
    /// Places of previews that have not shown the token yet.
    strangers: Arc<Semaphore>,
}

impl Context {
    fn new(node: Arc<dyn Node>, token: Token, hosts: AllowedHosts) -> Self {
        let strangers = Arc::new(Semaphore::new(preview::MAX_STRANGERS));
        Self { node, token, hosts, private: false, public: false, strangers }
    }
}

/// The API for a door that the whole world reaches.
#[derive(Debug)]
pub struct Public {
    app: Router,
}

impl Public {
    /// The API of this node.
    pub fn new(node: Arc<dyn Node>, token: Token, hosts: AllowedHosts) -> Self {
        let context = Context { private: true, public: true, ..Context::new(node, token, hosts) };
        Self { app: api::router(Arc::new(context)) }
    }

    /// Answers one connection's requests until it closes, `shutdown`, or [`PUBLIC_LIFE`] is over.
    pub async fn serve<S>(&self, stream: S, shutdown: impl Future<Output = ()>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let stop = async {
            let _ = tokio::time::timeout(PUBLIC_LIFE, shutdown).await;
        };
        let served = connection(stream, self.app.clone(), PUBLIC_HEAD_TIMEOUT, stop);
        // One that does not read its answer has some seconds after the end.
        match tokio::time::timeout(PUBLIC_LIFE + DRAIN, served).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "https connection closed"),
            Err(_) => tracing::debug!("https connection cut: it took nothing"),
        }
    }
}

/// What a person opens, for the end of a node's start screen.
///
/// The token stands behind `#`, which browsers keep to themselves. It is for the eyes in front of a
/// terminal: who keeps standard output in a file is told where the token is.
pub fn dashboard_text(http: SocketAddr, token: &Token, is_terminal: bool) -> String {
    let ip = http.ip().to_canonical();
    let address = match ip.is_unspecified() {
        true => SocketAddr::from(([127, 0, 0, 1], http.port())),
        false => SocketAddr::new(ip, http.port()),
    };
    match is_terminal {
        true => format!("Dashboard   http://{address}/#token={}\n", token.expose()),
        false => format!(
            "Dashboard   http://{address}/   (it asks for the token, which is in run.json in the \
             data directory)\n"
        ),
    }
}

/// Serves until `shutdown`, then lets open requests end.
///
/// # Errors
///
/// The listener has no address. What goes wrong with one connection ends that connection only.
pub async fn serve(
    listener: TcpListener,
    node: Arc<dyn Node>,
    token: Token,
    hosts: AllowedHosts,
    shutdown: impl Future<Output = ()> + Send,
) -> anyhow::Result<()> {
    let bound = listener.local_addr()?;
    let private = !bound.ip().to_canonical().is_loopback();
    let context = Context { private, ..Context::new(node, token, hosts) };
    let app = api::router(Arc::new(context));
    let seats = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let (stop, stopped) = watch::channel(());
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            accepted = accept(&listener, &seats) => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let Some((stream, peer, seat)) = accepted else {
            continue;
        };
        let (app, mut stopped) = (app.clone(), stopped.clone());
        connections.spawn(async move {
            platform::tune_socket(&stream, PATIENCE);
            let stop = async move {
                let _ = stopped.changed().await;
            };
            if let Err(error) = connection(stream, app, HEAD_TIMEOUT, stop).await {
                tracing::debug!(%peer, %error, "http connection closed");
            }
            drop(seat);
        });
    }
    drop(stop);
    let drained = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(DRAIN, drained).await;
    Ok(())
}

type Accepted = (tokio::net::TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit);

/// Takes a seat first, so that a flood waits in the kernel.
async fn accept(listener: &TcpListener, seats: &Arc<Semaphore>) -> Option<Accepted> {
    let seat = seats.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => Some((stream, peer, seat)),
        Err(error) => {
            tracing::warn!(%error, "cannot accept an http connection");
            // Out of file descriptors: trying again at once would only spin.
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

/// One connection's requests, until it closes or the node stops.
async fn connection<S>(
    stream: S,
    app: Router,
    patience: Duration,
    stop: impl Future<Output = ()>,
) -> Result<(), hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(patience).max_buf_size(MAX_HEAD);
    let served = server.serve_connection(TokioIo::new(stream), TowerToHyperService::new(app));
    // A preview goes on as a WebSocket; then it has no seat here.
    let served = served.with_upgrades();
    let mut served = std::pin::pin!(served);
    tokio::select! {
        ended = &mut served => return ended,
        () = stop => served.as_mut().graceful_shutdown(),
    }
    served.await
}

#[cfg(test)]
mod tests;
