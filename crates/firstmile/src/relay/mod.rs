//! The relay: encoders publish to it, studios dial in and get their feeds.

mod api;
mod directory;
mod gate;
mod members;
mod studios;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use hub::{Feed, Hub};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::config::relay::Config;
use crate::door::{Door, Secure, Studios};
use crate::error::Hint;
use crate::events::Events;
use crate::identity::{Identity, PublicKey};
use crate::join::JoinLink;
use crate::limit::Hits;
use crate::login::OnAir;
use crate::node::{certificate, listen, serve_rtmps};
use crate::platform;
use crate::quic::{Congestion, Listener};
use crate::secret::{Secret, StreamKey, Token};
use crate::seldom::Seldom;
use crate::spool::Spool;
use crate::status::{rtmp_server, rtmps_server};
use crate::store::{Admitted, DataDir, Invites, PublicPlace, RunFile, Verifiers};
use crate::tls::{self, Certificate};
use crate::traces::Traces;
use crate::web::{self, AllowedHosts};

use directory::{Directory, FeedId};
use studios::Studio;

/// How long the link printed at the start admits studios.
const START_INVITE: Duration = Duration::from_secs(24 * 3_600);
/// How often a free port is looked for that UDP and TCP both have.
const PORT_ATTEMPTS: usize = 16;
/// Pause between two writes of what studios push: they push as often as they like.
const REMEMBER_INTERVAL: Duration = Duration::from_millis(250);
/// How long after a write that failed it is tried again.
const REMEMBER_AGAIN: Duration = Duration::from_secs(60);
/// Studios that came over TCP and wait to be asked who they are.
const CALLERS: usize = 16;
/// How long a relay that stops waits for tags in flight.
const LAST_TAGS: Duration = Duration::from_secs(1);
/// Studios that are shown in the status though they left.
const MAX_KNOWN_STUDIOS: usize = 1_024;

/// A relay whose sockets are bound.
#[derive(Debug)]
pub struct Relay {
    node: Arc<Node>,
    rtmp: TcpListener,
    rtmps: Option<TcpListener>,
    quic: Listener,
    secure: TcpListener,
    http: TcpListener,
    token: Token,
    traces: Option<Traces>,
    verifiers: Verifiers,
    _run: Option<RunFile>,
}

/// What all of a relay's connections share.
#[derive(Debug)]
pub struct Node {
    config: Config,
    identity: Identity,
    addresses: Bound,
    host: String,
    certificate: Arc<Certificate>,
    start_invite: Secret,
    started: Instant,
    hub: Hub<FeedId>,
    spool: Spool,
    hits: Arc<Hits>,
    events: Events,
    directory: watch::Sender<Directory>,
    by_password: OnAir<FeedId>,
    store: Mutex<Stored>,
    studios: Mutex<HashMap<PublicKey, Studio>>,
    /// Lines about callers that were turned away.
    refusals: Seldom,
    door: OnceLock<Weak<Door<Self>>>,
}

#[derive(Debug)]
struct Stored {
    admitted: Admitted,
    invites: Invites,
}

/// The addresses that were bound.
#[derive(Clone, Copy, Debug)]
struct Bound {
    rtmp: SocketAddr,
    rtmps: Option<SocketAddr>,
    secure: SocketAddr,
    http: SocketAddr,
}

impl Relay {
    /// Opens the data directory and binds the sockets.
    ///
    /// # Errors
    ///
    /// Whatever a person has to put right, with a hint how.
    pub async fn bind(config: Config) -> Result<Self> {
        let data = DataDir::open(&config.data)?;
        let identity = Identity::load_or_create(&data)?;
        let traces = config.trace_rtmp.then(|| Traces::create(&data)).transpose()?;
        let mut invites = Invites::load(&data)?;
        let start_invite = invites.create_until_restart(START_INVITE, SystemTime::now());
        let store = Stored { admitted: Admitted::load(&data)?, invites };
        let verifiers = Verifiers::load(&data);
        let mut directory = Directory::default();
        let mut known = verifiers.studios().to_vec();
        known.retain(|studio| {
            let is_cut_off = store.admitted.cut_off_ms(&studio.key).is_some();
            store.admitted.contains(&studio.key) || config.open && !is_cut_off
        });
        let max = config.limits.feeds_per_studio;
        directory.restore(known, max, Instant::now(), SystemTime::now());
        let rtmp = listen(config.rtmp, "rtmp")?;
        let http = listen(config.http, "http")?;
        let rtmps = config.rtmps.map(|address| listen(address, "rtmps")).transpose()?;
        let (quic, secure) = listen_secure(&identity, config.secure, config.backhaul.congestion)?;
        let addresses = Bound {
            rtmp: rtmp.local_addr()?,
            rtmps: rtmps.as_ref().map(TcpListener::local_addr).transpose()?,
            secure: quic.local_addr()?,
            http: http.local_addr()?,
        };
        let host = public_host(&config, addresses.secure.ip());
        let ways = [Some(addresses.secure.ip()), platform::outward_address()];
        let ways: Vec<_> = ways.into_iter().flatten().collect();
        let certificate = certificate(config.tls.as_ref(), Some(&host), &ways)?;
        PublicPlace { host: host.clone(), port: addresses.secure.port() }.save(&data)?;
        let token = config.http_token.clone().unwrap_or_else(Token::random);
        let run = RunFile::create(&data, addresses.http, &token)?;
        let limits = hub::Limits { spool: config.spool.memory, ..config.ring.hub_limits() };
        let spool = Spool::open(data.file("spool"), config.spool.bounds(limits.total_bytes))
            .context("cannot start the spool")?;
        let hub = Hub::backed(limits, Arc::new(spool.clone()));
        let node = Arc::new(Node {
            identity,
            addresses,
            host,
            certificate,
            start_invite,
            started: Instant::now(),
            hub,
            spool,
            hits: Arc::default(),
            events: Events::new(&config.webhooks),
            directory: watch::Sender::new(directory),
            by_password: OnAir::default(),
            store: Mutex::new(store),
            studios: Mutex::default(),
            refusals: Seldom::default(),
            door: OnceLock::new(),
            config,
        });
        Ok(Self {
            node,
            rtmp,
            rtmps,
            quic,
            secure,
            http,
            token,
            traces,
            verifiers,
            _run: Some(run),
        })
    }

    /// The node, to look at.
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Where the dashboard is, for a person.
    pub fn dashboard_text(&self, is_terminal: bool) -> String {
        web::dashboard_text(self.node.addresses.http, &self.token, is_terminal)
    }

    /// Serves until `shutdown`, then tells the peers.
    ///
    /// # Errors
    ///
    /// If the HTTP listener fails.
    pub async fn serve(self, shutdown: CancellationToken) -> Result<()> {
        let Self { node, rtmp, rtmps, quic, secure, http, token, traces, verifiers, _run } = self;
        let door = Door::new(node.clone(), &node.config.limits, node.hits.clone());
        let door = Arc::new(door.with_traces(traces));
        let _ = node.door.set(Arc::downgrade(&door));
        let hosts = AllowedHosts::new(node.addresses.secure, Some(&node.host));
        let public = match node.config.measure.page {
            true => {
                let Config { measure, region, .. } = &node.config;
                let page = (measure.clone(), &*node.host, region.as_deref());
                web::Public::with_measuring(node.clone(), token.clone(), hosts, page)
            }
            false => web::Public::new(node.clone(), token.clone(), hosts),
        };
        let hosts = AllowedHosts::new(node.addresses.http, node.config.public_host.as_deref())
            .and_this_machine();
        let owner = (token, node.config.http_password.clone());
        let web = web::serve(http, node.clone(), owner, hosts, shutdown.clone().cancelled_owned());
        let certificate = node.certificate.clone();
        let (callers, mut called) = mpsc::channel(CALLERS);
        let congestion = node.config.backhaul.congestion;
        let tls = tls::Server::new(&certificate);
        let secure_tls = Arc::new(Secure {
            tls: tls::Server::new(&certificate).with_studios(&node.identity)?,
            web: Some(public),
            studios: Some(Studios { callers, congestion }),
        });
        let rtmps_tls = Arc::new(Secure { tls, web: None, studios: None });
        // The studios stay until the encoders have left: what those still send is on its way.
        let left = CancellationToken::new();
        let doors = async {
            let secure = door.clone().serve_tls(secure, secure_tls, shutdown.clone());
            let rtmps = serve_rtmps(door.clone(), rtmps, rtmps_tls, shutdown.clone());
            let rtmp = door.clone().serve(rtmp, shutdown.clone());
            tokio::join!(rtmp, rtmps, secure);
            left.cancel();
        };
        let links = async {
            node.clone().serve_studios(&quic, &mut called, left.clone()).await;
            node.settle_links().await;
            quic.close().await;
        };
        let renewals = certificate.clone().follow(shutdown.clone());
        let remembering = node.remember(verifiers, &left);
        let telling = tokio::spawn({
            let (node, shutdown) = (node.clone(), shutdown.clone());
            async move { node.events.run(|| web::Node::status(&*node), &shutdown).await }
        });
        let (web, (), (), (), ()) = tokio::join!(web, doors, links, renewals, remembering);
        let _ = telling.await;
        web
    }
}

impl Node {
    /// The link that admits studios until the next start.
    pub fn join_link(&self) -> JoinLink {
        self.link_with(self.start_invite.clone())
    }

    /// The address that encoders connect to, as bound.
    pub fn rtmp_address(&self) -> SocketAddr {
        self.addresses.rtmp
    }

    /// What a script wants to know once the relay is ready.
    pub fn ready(&self) -> serde_json::Value {
        serde_json::json!({
            "role": "relay",
            "rtmp": self.addresses.rtmp.to_string(),
            "rtmps": self.addresses.rtmps.map(|address| address.to_string()),
            "secure": self.addresses.secure.to_string(),
            "http": self.addresses.http.to_string(),
            "join_link": self.join_link().expose(),
        })
    }

    /// What a person wants to know once the relay is ready.
    pub fn welcome_text(&self) -> String {
        let (link, host) = (self.join_link().expose(), &self.host);
        let (rtmp, secure) = (self.addresses.rtmp.port(), self.addresses.secure.port());
        let mut text = format!(
            "This relay is ready. On the studio's machine, run\n\n    \
             firstmile studio --join {link}\n\n\
             The link admits any number of studios for 24 hours; `firstmile invite` makes stricter \
             ones.\nThe studio shows what to type into the encoders.\n\n\
             \x20 Encoders    {}\n{}\
             \x20 Studios     UDP and TCP port {secure}\n",
            rtmp_server(host, rtmp),
            match self.trusted_rtmps_port() {
                Some(port) => format!("              {}\n", rtmps_server(host, port)),
                None => String::new(),
            },
        );
        if self.config.public_host.is_none() {
            text.push_str(&format!(
                "\nThe world has to reach {host} on TCP port {rtmp}, and on UDP and TCP port \
                 {secure}. If it knows\nthis machine by another name or address, start with \
                 --public-host NAME.\n",
            ));
        }
        text
    }

    /// The feed as this relay's hub has it, for those in the same process.
    pub fn find_feed(&self, key: &StreamKey) -> Option<Feed> {
        let id = self.directory.borrow().find(&key.secret.key_hash(), Instant::now())?;
        Some(self.hub.feed(id))
    }

    /// What a studio may have missed.
    pub fn spool(&self) -> &Spool {
        &self.spool
    }

    /// The port for encoders that verify certificates, if ours is one that they trust.
    fn trusted_rtmps_port(&self) -> Option<u16> {
        let bound = self.addresses.rtmps.unwrap_or(self.addresses.secure);
        self.certificate.covers(&self.host).then_some(bound.port())
    }

    /// Whether a phone can be sent to the page that measures its way here: browsers trust it.
    fn measures(&self) -> bool {
        self.config.measure.page && self.certificate.covers(&self.host)
    }

    /// The part of what this relay can do that is in use, in percent.
    fn load(&self) -> u64 {
        let (guests, sessions) = self.connections();
        let studios = self.lock_studios().values().filter(|it| it.link.is_some()).count();
        let memory = self.hub.memory();
        // The spools take what is left of the memory; they give it back.
        let rings = memory.used.saturating_sub(memory.spooled);
        let limits = &self.config.limits;
        let share = |used: usize, most: usize| used as f64 / most.max(1) as f64;
        let shares = [
            share(guests + sessions, limits.connections),
            share(studios, limits.studios),
            share(rings, memory.total),
            platform::processor_load().unwrap_or(0.0),
        ];
        (shares.into_iter().fold(0.0, f64::max) * 100.0).clamp(0.0, 100.0) as u64
    }

    fn link_with(&self, invite: Secret) -> JoinLink {
        JoinLink {
            host: self.host.clone(),
            port: self.addresses.secure.port(),
            pin: self.identity.public_key(),
            invite,
        }
    }

    fn sweep(&self) {
        self.hub.sweep(Instant::now());
        let mut removed = Vec::new();
        self.directory.send_if_modified(|directory| {
            removed = directory.sweep(Instant::now());
            !removed.is_empty()
        });
        let mut studios = self.lock_studios();
        if studios.len() > MAX_KNOWN_STUDIOS {
            studios.retain(|_, studio| studio.link.is_some());
        }
        drop(studios);
        removed.iter().for_each(|feed| self.remove(feed));
    }

    /// Keeps what studios have told of their keys on disk until `over`.
    async fn remember(&self, mut verifiers: Verifiers, over: &CancellationToken) {
        let mut changes = self.directory.subscribe();
        changes.mark_changed();
        while !over.is_cancelled() {
            tokio::select! {
                // Its sender lives as long as the node.
                _ = changes.changed() => {}
                () = tokio::time::sleep(REMEMBER_AGAIN) => {}
                () = over.cancelled() => {}
            }
            let known = changes.borrow_and_update().known();
            let saved = tokio::task::spawn_blocking(move || {
                if let Err(error) = verifiers.save(known) {
                    warn!(%error, "cannot keep what encoders show for the next start");
                }
                verifiers
            });
            match saved.await {
                Ok(saved) => verifiers = saved,
                Err(error) => return warn!(%error, "what encoders show is no longer kept"),
            }
            over.run_until_cancelled(tokio::time::sleep(REMEMBER_INTERVAL)).await;
        }
    }

    /// Waits until the studios have what encoders sent last, and closes their links.
    async fn settle_links(&self) {
        let mut settling = JoinSet::new();
        for link in self.lock_studios().values().filter_map(|studio| studio.link.clone()) {
            settling.spawn(async move {
                link.settle(LAST_TAGS).await;
                link.close("stopped");
                let _ = tokio::time::timeout(LAST_TAGS, link.gone()).await;
            });
        }
        settling.join_all().await;
    }

    /// Forgets a feed and closes its encoder.
    fn remove(&self, feed: &FeedId) {
        self.hub.remove(feed);
        self.by_password.forget(feed);
    }

    fn connections(&self) -> (usize, usize) {
        let door = self.door.get().and_then(Weak::upgrade);
        door.map_or((0, 0), |door| door.connections())
    }

    fn lock_store(&self) -> MutexGuard<'_, Stored> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Listens for studios on a UDP port, and for TLS, theirs too, on the TCP port of the same number.
fn listen_secure(
    identity: &Identity,
    address: SocketAddr,
    congestion: Congestion,
) -> Result<(Listener, TcpListener)> {
    let mut attempts = if address.port() == 0 { PORT_ATTEMPTS } else { 1 };
    loop {
        attempts -= 1;
        let quic = Listener::bind(identity, address, congestion).hint(
            "stop the program that uses the port, or choose another: firstmile relay --secure :4434",
        )?;
        match listen(quic.local_addr()?, "secure") {
            // Somebody may have the TCP port of the number that UDP got.
            Err(_) if attempts > 0 => {}
            listener => return Ok((quic, listener?)),
        }
    }
}

/// The name or address by which the world reaches this machine, as far as it can know itself.
fn public_host(config: &Config, bound: IpAddr) -> String {
    let bound = bound.to_canonical();
    match &config.public_host {
        Some(host) => host.clone(),
        None if !bound.is_unspecified() => bound.to_string(),
        None => platform::outward_address().unwrap_or([127, 0, 0, 1].into()).to_string(),
    }
}
