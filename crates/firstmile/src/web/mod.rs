//! Dashboard and API over HTTP.

mod api;
mod auth;
mod events;
mod measure;
mod metrics;
mod openapi;
mod pages;
mod pairing;
mod patience;
mod preview;
mod qr;
mod recordings;
mod routes;
mod sessions;

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

pub use api::{ApiError, ErrorBody, FeedChange, NewFeed, SetAuth, SetRecording, SetValidity};
pub use auth::AllowedHosts;
pub use pairing::{NewInvite, NewInviteAnswer, NewRelay};
pub use preview::NoPreview;
pub use recordings::RecordingDetail;

use crate::config::Measure;
use crate::egress::preview::{Mode, Viewer};
use crate::egress::record::Opened;
use crate::events::Events;
use crate::platform;
use crate::secret::{Password, Token};
use crate::status::{FeedInfo, InviteInfo, RecordingInfo, RelayInfo, Status, StudioInfo};
use crate::when::When;
use patience::Patience;
use recordings::Tickets;
use sessions::Sessions;

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

/// How long a client may take nothing of its answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a client may be silent before it is asked whether it is still there.
const PATIENCE: Duration = Duration::from_secs(15);

/// How long open requests may take once the node stops.
const DRAIN: Duration = Duration::from_secs(2);

/// The running node as the API sees it. Calls that change something may wait for the disk.
pub trait Node: Send + Sync + 'static {
    /// A snapshot with keys in clear.
    fn status(&self) -> Status;
    /// What happened.
    fn events(&self) -> &Events;
    /// All feeds with keys in clear.
    fn feeds(&self) -> Result<Vec<FeedInfo>, ApiError>;
    /// Makes a feed, effective at once, with a key that is good until then (`None`: for ever).
    fn add_feed(&self, name: &str, until: Option<When>) -> Result<FeedInfo, ApiError>;
    /// Says until when a feed's key is good; an encoder that is on air stays.
    fn set_until(&self, _name: &str, _until: Option<When>) -> Result<FeedInfo, ApiError> {
        Err(ApiError::feeds_belong_to_the_studio())
    }
    /// Makes a feed's key worth nothing and closes what came with it, or good again.
    fn set_paused(&self, _name: &str, _paused: bool) -> Result<FeedInfo, ApiError> {
        Err(ApiError::feeds_belong_to_the_studio())
    }
    /// Gives a feed a new key and closes what came with the old one.
    fn rotate_feed(&self, name: &str) -> Result<FeedInfo, ApiError>;
    /// Gives a feed a user and a password, or takes them away and closes what came with them.
    fn set_auth(&self, name: &str, on: bool) -> Result<FeedInfo, ApiError>;
    /// Switches a feed's recording on or off.
    fn set_recording(&self, name: &str, on: bool) -> Result<FeedInfo, ApiError>;
    /// Changes what there is to set of a feed beside its key.
    fn change_feed(&self, name: &str, change: FeedChange) -> Result<FeedInfo, ApiError>;
    /// Every publication that is recorded, oldest first.
    fn recordings(&self) -> Result<Vec<RecordingInfo>, ApiError>;
    /// One recording, with what each of its files lacks.
    fn recording(&self, _name: &str) -> Result<RecordingDetail, ApiError> {
        Err(ApiError::feeds_belong_to_the_studio())
    }
    /// Opens a file of a recording, by its place from 1.
    fn recording_file(&self, _name: &str, _number: usize) -> Result<Opened, ApiError> {
        Err(ApiError::feeds_belong_to_the_studio())
    }
    /// Deletes a recording that has ended, with its files.
    fn delete_recording(&self, _name: &str) -> Result<(), ApiError> {
        Err(ApiError::feeds_belong_to_the_studio())
    }
    /// Forgets a feed and closes its encoder and players.
    fn remove_feed(&self, name: &str) -> Result<(), ApiError>;
    /// A studio's relays.
    fn relays(&self) -> Result<Vec<RelayInfo>, ApiError> {
        Err(ApiError::relays_belong_to_the_studio())
    }
    /// Joins a relay by its link, at once.
    fn join_relay(&self, _link: &str) -> Result<RelayInfo, ApiError> {
        Err(ApiError::relays_belong_to_the_studio())
    }
    /// Leaves the relay of this key.
    fn leave_relay(&self, _key: &str) -> Result<(), ApiError> {
        Err(ApiError::relays_belong_to_the_studio())
    }
    /// A relay's studios.
    fn studios(&self) -> Result<Vec<StudioInfo>, ApiError> {
        Err(ApiError::invites_belong_to_the_relay())
    }
    /// Cuts the studio of this key off, or lets it in again.
    fn set_admission(&self, _key: &str, _on: bool) -> Result<StudioInfo, ApiError> {
        Err(ApiError::invites_belong_to_the_relay())
    }
    /// A relay's invites that still admit somebody.
    fn invites(&self) -> Result<Vec<InviteInfo>, ApiError> {
        Err(ApiError::invites_belong_to_the_relay())
    }
    /// Makes an invite worth nothing.
    fn revoke_invite(&self, _id: &str) -> Result<(), ApiError> {
        Err(ApiError::invites_belong_to_the_relay())
    }
    /// Makes a join link for `uses` studios (`None`: any number).
    fn create_invite(&self, _uses: Option<u32>, _expires: Duration) -> Result<String, ApiError> {
        Err(ApiError::invites_belong_to_the_relay())
    }
    /// A viewer of a feed.
    fn preview(&self, name: &str, mode: Mode) -> Result<Viewer, NoPreview>;
}

/// What every request needs.
struct Context {
    node: Arc<dyn Node>,
    token: Token,
    sessions: Sessions,
    hosts: AllowedHosts,
    /// Reading needs the token as well where other machines reach the listener.
    private: bool,
    /// Everything but `/healthz` needs the token: strangers do not even learn what is there.
    public: bool,
    /// There is a page on which strangers measure their way here.
    meter: Option<Arc<measure::Meter>>,
    tickets: Tickets,
    /// Places of previews that have not shown the token yet.
    strangers: Arc<Semaphore>,
}

impl Context {
    fn new(node: Arc<dyn Node>, token: Token, hosts: AllowedHosts) -> Self {
        Self {
            node,
            token,
            // People log in where the owner has opened the dashboard, not on the encoders' door.
            sessions: Sessions::new(None, Instant::now()),
            hosts,
            private: false,
            public: false,
            meter: None,
            tickets: Tickets::default(),
            strangers: Arc::new(Semaphore::new(preview::MAX_STRANGERS)),
        }
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

    /// The same with a page on which anybody measures the way here; `host` and `region` are shown.
    pub fn with_measuring(
        node: Arc<dyn Node>,
        token: Token,
        hosts: AllowedHosts,
        (bounds, host, region): (Measure, &str, Option<&str>),
    ) -> Self {
        let meter = Some(measure::Meter::new(bounds, host, region));
        let (private, public) = (true, true);
        let context = Context { private, public, meter, ..Context::new(node, token, hosts) };
        Self { app: api::router(Arc::new(context)) }
    }

    /// Answers the requests of one connection from `peer` until it closes, `shutdown`, or
    /// [`PUBLIC_LIFE`] is over.
    pub async fn serve<S>(&self, stream: S, peer: SocketAddr, shutdown: impl Future<Output = ()>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let stop = async {
            let _ = tokio::time::timeout(PUBLIC_LIFE, shutdown).await;
        };
        let served = connection(stream, self.app.clone(), peer.ip(), PUBLIC_HEAD_TIMEOUT, stop);
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
    (token, password): (Token, Option<Password>),
    hosts: AllowedHosts,
    shutdown: impl Future<Output = ()> + Send,
) -> anyhow::Result<()> {
    let bound = listener.local_addr()?;
    let private = !bound.ip().to_canonical().is_loopback();
    let sessions = Sessions::new(password, Instant::now());
    let context = Context { private, sessions, ..Context::new(node, token, hosts) };
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
            if let Err(error) = connection(stream, app, peer.ip(), HEAD_TIMEOUT, stop).await {
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

/// Who a request comes from.
#[derive(Clone, Copy, Debug)]
struct Peer(IpAddr);

/// One connection's requests, until it closes or the node stops.
async fn connection<S>(
    stream: S,
    app: Router,
    peer: IpAddr,
    patience: Duration,
    stop: impl Future<Output = ()>,
) -> Result<(), hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(patience).max_buf_size(MAX_HEAD);
    let app = TowerToHyperService::new(app);
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(Peer(peer));
        app.call(request)
    });
    let stream = TokioIo::new(Patience::new(stream, WRITE_TIMEOUT));
    let served = server.serve_connection(stream, service);
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
