//! The RTMP door: from a TCP connection to an encoder that may publish or a player that may play.
//!
//! The life of a connection, in order: [`Door::serve`] or [`Door::serve_tls`] accepts, with TLS
//! [`tls::Server`] finds out who it is, `request` reads what the client wants, the node's [`Gate`] decides, and [`ingest::rtmp`] or [`egress::rtmp`] carries the media
//! until somebody leaves.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hub::{Feed, Policy, Publisher};
use rtmp::adobe::{Answer, Claim, Refusal};
use rtmp::session::server::Event;
use rtmp::session::{Intent, Rejection, Request};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, info, warn};

use crate::config::Limits;
use crate::connection::{Connection, Error};
use crate::egress::players::Seat;
use crate::guests::{Bounds, Guest, Guests};
use crate::limit::{Hits, Limit};
use crate::link::Link;
use crate::login::{self, Challenges};
use crate::networks::{Networks, Session};
use crate::quic::Congestion;
use crate::seldom::Seldom;
use crate::traces::{self, Traces};
use crate::{egress, ingest, platform, tcp, tls, web};

/// How long a refused or ended peer may take to read why.
const FAREWELL: Duration = Duration::from_secs(2);

/// Why a connection ended whose client asked for nothing.
const LEFT: &str = "the client left";

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

    /// Whether an answer proves the password of a user. May wait, as `publish` may.
    fn login(&self, answer: &Answer) -> impl Future<Output = bool> + Send;

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
    /// Its place among the feed's players.
    pub seat: Seat,
}

/// What a TLS listener has beside the door.
#[derive(Debug)]
pub struct Secure {
    /// Makes the handshakes.
    pub tls: tls::Server,
    /// What browsers get, if anything.
    pub web: Option<web::Public>,
    /// Who takes studios, if anybody.
    pub studios: Option<Studios>,
}

/// Takes studios that call over TCP.
#[derive(Clone, Debug)]
pub struct Studios {
    /// Whom they are handed to, with their places among the guests.
    pub callers: mpsc::Sender<(Link, Guest)>,
    /// What decides how fast is sent to them.
    pub congestion: Congestion,
}

/// A connection's seat, and since when it has it. What counts a connection is here, from the moment
/// that it was accepted.
struct Visit {
    id: u64,
    peer: SocketAddr,
    opened: Instant,
    guest: Guest,
}

/// What the connections of a node's listeners share.
#[derive(Debug)]
pub struct Door<G> {
    gate: Arc<G>,
    limits: Limits,
    hits: Arc<Hits>,
    guests: Arc<Guests>,
    networks: Arc<Networks>,
    traces: Option<Traces>,
    challenges: Challenges,
    connections: AtomicU64,
    mistakes: Seldom,
}

impl<G: Gate> Door<G> {
    /// A door to this node; the limits that are hit are counted in `hits`.
    pub fn new(gate: Arc<G>, limits: &Limits, hits: Arc<Hits>) -> Self {
        let bounds = Bounds {
            connections: limits.connections,
            guests: limits.unauthenticated,
            per_address: limits.unauthenticated_per_ip,
        };
        Self {
            gate,
            limits: limits.clone(),
            hits,
            guests: Guests::new(bounds),
            networks: Networks::new(limits),
            traces: None,
            challenges: Challenges::new(Instant::now()),
            connections: AtomicU64::new(0),
            mistakes: Seldom::default(),
        }
    }

    /// Keeps a trace of every connection, if there is a place for it.
    pub fn with_traces(self, traces: Option<Traces>) -> Self {
        Self { traces, ..self }
    }

    /// Connections that were not let in yet, and those that were.
    pub fn connections(&self) -> (usize, usize) {
        self.guests.counts()
    }

    /// Takes connections until `shutdown`, tells their peers then, and waits until they have left.
    ///
    /// Encoders that can are asked to connect again and may send for a little while yet.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, shutdown: CancellationToken) {
        self.accept(listener, None, &shutdown).await;
        self.drained().await;
    }

    /// As [`Door::serve`], with TLS around each connection. Both share one table of guests.
    pub async fn serve_tls(
        self: Arc<Self>,
        listener: TcpListener,
        secure: Arc<Secure>,
        shutdown: CancellationToken,
    ) {
        self.accept(listener, Some(secure), &shutdown).await;
        self.drained().await;
    }

    /// Waits until all connections are gone. Who has not left in time has been told.
    async fn drained(&self) {
        let _ = tokio::time::timeout(DRAIN, self.guests.emptied()).await;
    }

    async fn accept(
        self: &Arc<Self>,
        listener: TcpListener,
        secure: Option<Arc<Secure>>,
        shutdown: &CancellationToken,
    ) {
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let (socket, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    warn!(%error, "cannot accept a connection");
                    // Out of file descriptors: trying again at once would only spin.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
            let Some(guest) = self.enter(peer) else { continue };
            let id = self.connections.fetch_add(1, Ordering::Relaxed);
            let span = tracing::info_span!("conn", id, %peer);
            let visit = Visit { id, peer, opened: Instant::now(), guest };
            let (door, secure, shutdown) = (self.clone(), secure.clone(), shutdown.clone());
            let connection = async move {
                platform::tune_socket(&socket, door.limits.write_timeout);
                match secure {
                    None => door.run(socket, visit, shutdown).await,
                    // In a box, so that plain connections do not pay for its size.
                    Some(secure) => {
                        Box::pin(door.run_tls(socket, &secure, visit, shutdown)).await;
                    }
                }
            };
            tokio::spawn(connection.instrument(span));
        }
    }

    /// Finds a place for a connection that has just come, at an older guest's cost if need be.
    fn enter(&self, peer: SocketAddr) -> Option<Guest> {
        if !self.networks.connect(peer.ip(), Instant::now()) {
            self.hits.count(Limit::ConnectionRate);
            debug!(%peer, "connection refused: too many a second from this address");
            return None;
        }
        match self.guests.enter_among(self.networks.places(peer.ip()), peer.ip()) {
            Ok((guest, hit)) => {
                hit.into_iter().for_each(|limit| self.hits.count(limit));
                Some(guest)
            }
            Err(limit) => {
                self.hits.count(limit);
                debug!(%peer, "connection refused: all places are taken");
                None
            }
        }
    }

    /// The handshake, and then whatever the caller wants.
    async fn run_tls(
        &self,
        socket: TcpStream,
        secure: &Secure,
        visit: Visit,
        shutdown: CancellationToken,
    ) {
        let deadline = visit.opened + self.limits.handshake;
        let receive = tokio::time::timeout_at(deadline.into(), secure.tls.receive(socket));
        let Some(received) = visit.guest.stay(receive).await else {
            return debug!(reason = %Error::Dismissed, "closed before a request");
        };
        match received {
            Ok(Ok(tls::Caller::Rtmp(stream))) => self.run(stream, visit, shutdown).await,
            Ok(Ok(tls::Caller::Http(stream))) => match &secure.web {
                // Whoever it is keeps its place among the guests: a token says nothing of encoders.
                Some(web) => {
                    let _ =
                        visit.guest.stay(web.serve(stream, visit.peer, shutdown.cancelled())).await;
                }
                None => self.mistaken("this is HTTPS on the RTMPS port: nothing is shown here"),
            },
            Ok(Ok(tls::Caller::Studio(stream))) => match &secure.studios {
                Some(studios) => match tcp::accept(stream, studios.congestion) {
                    // Nobody takes it where the node stops.
                    Ok(link) => drop(studios.callers.send((link, visit.guest)).await),
                    Err(error) => debug!(reason = %error, "a studio was not taken"),
                },
                None => debug!("closed: no studios are taken here"),
            },
            Ok(Err(error)) if error.is_mistake() => self.mistaken(&error.to_string()),
            Ok(Err(error)) => debug!(reason = %error, "closed before a request"),
            Err(_) => debug!("closed: no TLS handshake in time"),
        }
    }

    /// Names what somebody has set wrongly. Scans look the same, so it is not said all the time.
    fn mistaken(&self, reason: &str) {
        match self.mistakes.now(reason, Instant::now()) {
            Some(unsaid) => info!(reason, unsaid, "refused"),
            None => debug!(reason, "refused"),
        }
    }

    /// Says why a guest left: a person may look for it, but a flood of strangers must not fill the
    /// log.
    fn goodbye(&self, reason: &str) {
        match self.mistakes.now(reason, Instant::now()) {
            _ if reason == LEFT => debug!(reason, "closed before a request"),
            Some(0) => info!(reason, "closed"),
            Some(unsaid) => info!(reason, unsaid, "closed"),
            None => debug!(reason, "closed"),
        }
    }

    async fn run<S>(&self, socket: S, visit: Visit, shutdown: CancellationToken)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let Visit { id, peer, opened, mut guest } = visit;
        let limits = self.limits.rtmp.session_limits();
        let config = rtmp::session::server::Config { limits, adobe: true, ..Default::default() };
        let mut session = rtmp::Server::new(config, rand::random());
        if self.traces.is_some() {
            session.start_trace(traces::BYTES);
        }
        let mut connection = Connection::new(socket, peer, session);
        connection.limit_rates(&self.limits.rtmp);
        let over = self.converse(&mut connection, &mut guest, opened, &shutdown).await;
        if let Some(traces) = &self.traces {
            let why = over.as_ref().map_or_else(Error::to_string, |&reason| reason.to_owned());
            traces.keep(id, peer, &why, &connection.session.take_trace().unwrap_or_default());
        }
        let limit = over.as_ref().err().and_then(|error| Limit::of(error, !guest.is_admitted()));
        limit.into_iter().for_each(|limit| self.hits.count(limit));
        match over {
            // Whoever wants to can say these as often as he may connect.
            Ok(reason) if !guest.is_admitted() => self.goodbye(reason),
            Ok(reason) => info!(reason, "closed"),
            Err(Error::Rtmp(error @ (rtmp::Error::Http | rtmp::Error::Tls | rtmp::Error::Ssh))) => {
                self.mistaken(&error.to_string());
            }
            // A client that never said what it wants is a scan or a mistake, not an event.
            Err(error) if !guest.is_admitted() => {
                debug!(reason = %error, "closed before a request");
            }
            Err(error) => info!(reason = %error, "closed"),
        }
        guest.stay(connection.finish(FAREWELL)).await;
    }

    /// One request after the other; an encoder may publish again on its connection.
    async fn converse<S: AsyncRead + AsyncWrite + Unpin + Send>(
        &self,
        connection: &mut Connection<S>,
        guest: &mut Guest,
        opened: Instant,
        shutdown: &CancellationToken,
    ) -> Result<&'static str, Error> {
        let mut opened = Some(opened);
        // While it lives, more is allowed to the network that this connection comes from.
        let mut _session = None;
        loop {
            let request = guest.stay(self.request(connection, opened));
            let Some(request) = shutdown.run_until_cancelled(request).await else {
                return Ok("this node is stopping");
            };
            let request = match request.ok_or(Error::Dismissed)?? {
                Asked::For(request) => request,
                Asked::Nothing => return Ok(LEFT),
                Asked::ToConnect(claim) => {
                    let answer = self.authenticate(connection, guest, claim);
                    let Some(answer) = shutdown.run_until_cancelled(answer).await else {
                        return Ok("this node is stopping");
                    };
                    match answer? {
                        None => {
                            opened = None;
                            continue;
                        }
                        Some(reason) => return Ok(reason),
                    }
                }
            };
            opened = None;
            if let Err(rtmp::name::Error::TooLong) = request.target() {
                self.hits.count(Limit::Names);
                let why = match request.intent {
                    Intent::Publish => Rejection::Denied,
                    Intent::Play => Rejection::NotFound,
                };
                return self.refuse(connection, guest, &request, why).await;
            }
            match request.intent {
                Intent::Publish => {
                    let answer = guest.stay(self.gate.publish(&request, connection.peer));
                    let Some(answer) = shutdown.run_until_cancelled(answer).await else {
                        return Ok("this node is stopping");
                    };
                    let encoder = match answer.ok_or(Error::Dismissed)? {
                        Ok(encoder) => encoder,
                        Err(why) => return self.refuse(connection, guest, &request, why).await,
                    };
                    guest.admit();
                    _session.get_or_insert_with(|| self.session(connection.peer));
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
                        Err(why) => return self.refuse(connection, guest, &request, why).await,
                    };
                    if player.feed.subscribers() >= self.limits.players_per_feed {
                        let why = Rejection::Full;
                        return self.refuse(connection, guest, &request, why).await;
                    }
                    guest.admit();
                    _session.get_or_insert_with(|| self.session(connection.peer));
                    info!(feed = player.name, client = client_name(&request), "playing");
                    connection.session.accept();
                    return egress::rtmp::run(connection, &player, &self.limits, shutdown).await;
                }
            }
        }
    }

    /// Lets a user connect, or says why not; who was refused comes back on a new connection.
    async fn authenticate<S: AsyncRead + AsyncWrite + Unpin + Send>(
        &self,
        connection: &mut Connection<S>,
        guest: &Guest,
        claim: Claim,
    ) -> Result<Option<&'static str>, Error> {
        let now = Instant::now();
        let peer = connection.peer;
        let session = &mut connection.session;
        Ok(match claim {
            Claim::User(user) => {
                let (salt, challenge) = (login::salt(&user), self.challenges.issue(&user, now));
                let (user, salt, challenge) = (&*user, &*salt, &*challenge);
                session.refuse(&Refusal::NeedProof { user, salt, challenge });
                Some("it was challenged to prove its password")
            }
            Claim::Answer(answer) => {
                let login = guest.stay(self.gate.login(&answer)).await;
                if login.ok_or(Error::Dismissed)? && self.challenges.redeem(&answer, now) {
                    session.admit(answer.user);
                    connection.resume()?;
                    return Ok(None);
                }
                self.count_failure(peer, guest, None, "user or password is unknown or wrong")
                    .await?;
                session.refuse(&Refusal::Failed);
                Some("refused")
            }
            _ => {
                session.refuse(&Refusal::NeedUser);
                Some("it was asked for its user")
            }
        })
    }

    /// Reads until the client has said what it wants.
    ///
    /// `opened` is when the connection was, for its first request: the deadline is absolute, so
    /// that a client which trickles in is cut like one which is mute.
    async fn request<S: AsyncRead + AsyncWrite + Unpin + Send>(
        &self,
        connection: &mut Connection<S>,
        opened: Option<Instant>,
    ) -> Result<Asked, Error> {
        let limit = if opened.is_some() { self.limits.authorise } else { self.limits.read_timeout };
        let deadline = opened.unwrap_or_else(Instant::now) + limit;
        let request = async {
            loop {
                match connection.event(self.limits.handshake).await? {
                    Some(Event::Request(request)) => return Ok(Asked::For(request)),
                    Some(Event::Authenticate(claim)) => return Ok(Asked::ToConnect(claim)),
                    Some(_) => {}
                    None => return Ok(Asked::Nothing),
                }
            }
        };
        match tokio::time::timeout_at(deadline.into(), request).await {
            Ok(request) => request,
            Err(_) => Err(Error::Late(limit)),
        }
    }

    /// Takes note of a wrong key or password, and waits if there were too many.
    async fn count_failure(
        &self,
        peer: SocketAddr,
        guest: &Guest,
        client: Option<&str>,
        why: &'static str,
    ) -> Result<(), Error> {
        let address = peer.ip();
        let Some(penalty) = self.networks.failed(address, Instant::now()) else {
            warn!(client, "refused: {why}");
            return Ok(());
        };
        self.hits.count(Limit::AuthFailures);
        if penalty.is_new {
            warn!(%address, "wrong keys again and again: answers to more are delayed");
        }
        debug!(client, "refused, later: {why}");
        guest.stay(tokio::time::sleep(penalty.delay)).await.ok_or(Error::Dismissed)
    }

    fn session(&self, peer: SocketAddr) -> Session {
        self.networks.admit(peer.ip(), Instant::now())
    }

    /// Answers with no. After many wrong keys from one network, it waits for its answers: its
    /// guests keep their places meanwhile, so that their number bounds the guesses.
    async fn refuse<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        connection: &mut Connection<S>,
        guest: &Guest,
        request: &Request,
        why: Rejection,
    ) -> Result<&'static str, Error> {
        let client = client_name(request);
        match why {
            Rejection::Denied => {
                let why = "the key is unknown or wrong";
                self.count_failure(connection.peer, guest, Some(&client), why).await?;
            }
            Rejection::Busy => {
                self.hits.count(Limit::Takeovers);
                info!(client, "refused: two encoders are fighting over this feed");
            }
            Rejection::Full => {
                self.hits.count(Limit::Players);
                warn!(client, "refused: the feed has as many players as it may have");
            }
            Rejection::NotFound => {
                let why = "there is no such feed";
                match self.mistakes.now(why, Instant::now()) {
                    Some(0) => info!(client, "refused: {why}"),
                    Some(unsaid) => info!(client, unsaid, "refused: {why}"),
                    None => debug!(client, "refused: {why}"),
                }
            }
            Rejection::Failed => warn!(client, "refused: it failed here"),
        }
        connection.session.reject(why);
        Ok("refused")
    }
}

/// What a client said.
enum Asked {
    For(Request),
    /// As a user.
    ToConnect(Claim),
    /// It left.
    Nothing,
}

/// The client's own name for itself, fit for a log.
pub(crate) fn client_name(request: &Request) -> String {
    request.flash_ver.chars().filter(|c| !c.is_control()).take(64).collect()
}
