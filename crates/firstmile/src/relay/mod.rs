//! The relay: encoders publish to it, studios dial in and get their feeds.

mod directory;
mod studios;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use hub::{Feed, Hub, Publisher};
use media::PublicationId;
use rtmp::adobe::{Answer, Verifier};
use rtmp::session::{Rejection, Request};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::TlsFiles;
use crate::config::relay::Config;
use crate::door::{Door, Encoder, Gate, Player, Secure};
use crate::error::Hint;
use crate::identity::{Identity, PublicKey};
use crate::join::JoinLink;
use crate::limit::Hits;
use crate::login::OnAir;
use crate::platform;
use crate::quic::Listener;
use crate::secret::{KeyHash, Secret, StreamKey, Token};
use crate::status::{
    Addresses, FeedInfo, FeedStatus, KeyText, LimitStatus, Status, feed_alarm, rtmp_server,
    rtmps_server,
};
use crate::store::{Admitted, DataDir, Invites, PublicPlace, RunFile};
use crate::tls::{self, Certificate};
use crate::traces::Traces;
use crate::web::{self, AllowedHosts, ApiError};

use directory::{Directory, FeedId};
use studios::Studio;

/// How long the link printed at the start admits studios.
const START_INVITE: Duration = Duration::from_secs(24 * 3_600);
/// How often a free port is looked for that UDP and TCP both have.
const PORT_ATTEMPTS: usize = 16;
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
    hits: Arc<Hits>,
    directory: watch::Sender<Directory>,
    by_password: OnAir<FeedId>,
    store: Mutex<Stored>,
    studios: Mutex<HashMap<PublicKey, Studio>>,
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
        let rtmp = listen(config.rtmp, "rtmp")?;
        let http = listen(config.http, "http")?;
        let rtmps = config.rtmps.map(|address| listen(address, "rtmps")).transpose()?;
        let (quic, secure) = listen_secure(&identity, config.secure)?;
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
        let hub = Hub::new(config.ring.hub_limits());
        let node = Arc::new(Node {
            identity,
            addresses,
            host,
            certificate,
            start_invite,
            started: Instant::now(),
            hub,
            hits: Arc::default(),
            directory: watch::Sender::default(),
            by_password: OnAir::default(),
            store: Mutex::new(store),
            studios: Mutex::default(),
            door: OnceLock::new(),
            config,
        });
        Ok(Self { node, rtmp, rtmps, quic, secure, http, token, traces, _run: Some(run) })
    }

    /// The node, to look at.
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Serves until `shutdown`, then tells the peers.
    ///
    /// # Errors
    ///
    /// If the HTTP listener fails.
    pub async fn serve(self, shutdown: CancellationToken) -> Result<()> {
        let Self { node, rtmp, rtmps, quic, secure, http, token, traces, _run } = self;
        let door = Door::new(node.clone(), &node.config.limits, node.hits.clone());
        let door = Arc::new(door.with_traces(traces));
        let _ = node.door.set(Arc::downgrade(&door));
        let hosts = AllowedHosts::new(node.addresses.secure, Some(&node.host));
        let public = web::Public::new(node.clone(), token.clone(), hosts);
        let hosts = AllowedHosts::new(node.addresses.http, node.config.public_host.as_deref());
        let web = web::serve(http, node.clone(), token, hosts, shutdown.clone().cancelled_owned());
        let certificate = node.certificate.clone();
        let tls = |web| Arc::new(Secure { tls: tls::Server::new(&certificate), web });
        // The studios stay until the encoders have left: what those still send is on its way.
        let left = CancellationToken::new();
        let doors = async {
            let secure = door.clone().serve_tls(secure, tls(Some(public)), shutdown.clone());
            let rtmps = serve_rtmps(door.clone(), rtmps, tls(None), shutdown.clone());
            let rtmp = door.clone().serve(rtmp, shutdown.clone());
            tokio::join!(rtmp, rtmps, secure);
            left.cancel();
        };
        let links = node.clone().serve_studios(&quic, left.clone());
        let renewals = certificate.clone().follow(shutdown.clone());
        let (web, (), (), ()) = tokio::join!(web, doors, links, renewals);
        quic.close().await;
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
        let http = self.addresses.http;
        let mut text = format!(
            "This relay is ready. On the studio's machine, run\n\n    \
             firstmile studio --join {link}\n\n\
             The link admits any number of studios for 24 hours; `firstmile invite` makes stricter \
             ones.\nThe studio shows what to type into the encoders.\n\n\
             \x20 Encoders    {}\n{}\
             \x20 Studios     UDP port {secure}\n\
             \x20 Status      http://{http}/api/v1/status\n",
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
        let id = self.directory.borrow().find(&key.secret.key_hash())?;
        Some(self.hub.feed(id))
    }

    /// The port for encoders that verify certificates, if ours is one that they trust.
    fn trusted_rtmps_port(&self) -> Option<u16> {
        let bound = self.addresses.rtmps.unwrap_or(self.addresses.secure);
        self.certificate.covers(&self.host).then_some(bound.port())
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

    /// Forgets a feed and closes its encoder.
    fn remove(&self, feed: &FeedId) {
        self.hub.remove(feed);
        self.by_password.forget(feed);
    }

    /// What is in the directory; a relay that has just started waits for the studio that knows it.
    async fn find<T>(&self, look: impl Fn(&Directory) -> Option<T>) -> Option<T> {
        let mut directory = self.directory.subscribe();
        let grace = self.started + self.config.start_grace;
        let found = tokio::time::timeout_at(grace.into(), async {
            loop {
                let found = look(&directory.borrow_and_update());
                if found.is_some() {
                    return found;
                }
                directory.changed().await.ok()?;
            }
        });
        // The timeout looks once even when it has long passed.
        found.await.ok().flatten()
    }

    fn connections(&self) -> (usize, usize) {
        let door = self.door.get().and_then(Weak::upgrade);
        door.map_or((0, 0), |door| door.connections())
    }

    fn lock_store(&self) -> MutexGuard<'_, Stored> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The feed of the first key that opens one; all are looked up, whatever comes of it.
fn find_key(directory: &Directory, hashes: &[KeyHash]) -> Option<FeedId> {
    hashes.iter().fold(None, |found, hash| {
        let next = directory.find(hash);
        found.or(next)
    })
}

impl Gate for Node {
    async fn publish(&self, request: &Request, peer: SocketAddr) -> Result<Encoder, Rejection> {
        let hashes = StreamKey::hashes_in(request);
        let look = |directory: &Directory| match &request.user {
            Some(user) => directory.find_user(user).map(|(feed, _)| feed.clone()),
            None => find_key(directory, &hashes),
        };
        let id = match hashes.is_empty() && request.user.is_none() {
            true => None,
            false => self.find(look).await,
        };
        let id = id.ok_or(Rejection::Denied)?;
        let publisher = publish(&self.hub.feed(id.clone()), &id, peer)?;
        if request.user.is_some() {
            self.by_password.note(id.clone(), publisher.publication());
        }
        // The key may have been revoked in between, before there was anything to cut.
        if look(&self.directory.borrow()).as_ref() != Some(&id) {
            return Err(Rejection::Denied);
        }
        Ok(Encoder { publisher, feed: id.to_string() })
    }

    async fn login(&self, answer: &Answer) -> bool {
        // A wrong password waits as an unknown user does, and costs the same.
        let look = |directory: &Directory| {
            let known = directory.find_user(&answer.user);
            let verifier = known.map_or(Verifier::default(), |(_, verifier)| *verifier);
            let is_right = answer.matches(&verifier);
            (is_right && known.is_some()).then_some(())
        };
        self.find(look).await.is_some()
    }

    fn play(&self, _: &Request, _: SocketAddr) -> Result<Player, Rejection> {
        // Feeds are played at the studio.
        Err(Rejection::NotFound)
    }
}

/// Puts a new publication on air, and says whose it takes over.
pub(crate) fn publish(
    feed: &Feed,
    name: &dyn std::fmt::Display,
    peer: SocketAddr,
) -> Result<Publisher, Rejection> {
    let incumbent = feed.origin();
    match feed.publish(PublicationId(rand::random()), Instant::now()) {
        Ok(publisher) => {
            if let Some(incumbent) = incumbent {
                info!(feed = %name, %peer, incumbent, "an encoder takes over from another");
            }
            publisher.set_origin(peer.to_string());
            Ok(publisher)
        }
        Err(fought) => {
            let incumbent = incumbent.unwrap_or_default();
            warn!(feed = %name, %peer, incumbent, "{fought}: the incumbent stays");
            Err(Rejection::Busy)
        }
    }
}

impl web::Node for Node {
    fn status(&self) -> Status {
        let now = Instant::now();
        let feeds: Vec<_> = self.directory.borrow().feeds().collect();
        let mut alarms: Vec<_> = self.certificate.alarm().into_iter().collect();
        let feeds = feeds.into_iter().map(|id| {
            let snapshot = self.hub.snapshot(&id, now);
            alarms.extend(feed_alarm(&id, &snapshot));
            let studio = Some(id.studio.to_string());
            FeedStatus { studio, ..FeedStatus::of(&id.name, &snapshot) }
        });
        let mut feeds: Vec<_> = feeds.collect();
        feeds.sort_by(|a, b| (&a.studio, &a.name).cmp(&(&b.studio, &b.name)));
        let studios = self.lock_studios();
        let mut links: Vec<_> = studios.iter().map(|(key, studio)| studio.status(key)).collect();
        links.sort_by(|a, b| a.peer.cmp(&b.peer));
        let (guests, sessions) = self.connections();
        Status {
            role: "relay".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            uptime_s: self.started.elapsed().as_secs(),
            public_key: self.identity.public_key().to_base32(),
            addresses: Addresses {
                rtmp: Some(self.addresses.rtmp.to_string()),
                rtmps: self.addresses.rtmps.map(|address| address.to_string()),
                secure: Some(self.addresses.secure.to_string()),
                http: Some(self.addresses.http.to_string()),
            },
            join_link: Some(KeyText::link(&self.join_link())),
            connections: (guests + sessions) as u64,
            alarms,
            feeds,
            links,
            limits: LimitStatus::new(&self.hits, (guests, sessions), self.hub.memory()),
        }
    }

    fn feeds(&self) -> Result<Vec<FeedInfo>, ApiError> {
        Err(ApiError::feeds_belong_to_the_studio())
    }

    fn add_feed(&self, _: &str) -> Result<FeedInfo, ApiError> {
        Err(ApiError::feeds_belong_to_the_studio())
    }

    fn rotate_feed(&self, _: &str) -> Result<FeedInfo, ApiError> {
        Err(ApiError::feeds_belong_to_the_studio())
    }

    fn set_auth(&self, _: &str, _: bool) -> Result<FeedInfo, ApiError> {
        Err(ApiError::feeds_belong_to_the_studio())
    }

    fn remove_feed(&self, _: &str) -> Result<(), ApiError> {
        Err(ApiError::feeds_belong_to_the_studio())
    }

    fn create_invite(&self, uses: Option<u32>, expires: Duration) -> Result<String, ApiError> {
        let invite = self.lock_store().invites.create(uses, expires, SystemTime::now())?;
        Ok(self.link_with(invite).expose())
    }
}

/// Listens on a TCP address, or says what to do.
pub(crate) fn listen(address: SocketAddr, option: &str) -> Result<TcpListener> {
    let port = address.port().saturating_add(1);
    platform::listen_tcp(address).with_context(|| format!("cannot listen on {address}")).hint(
        format!("stop the program that uses the port, or choose another with --{option} :{port}"),
    )
}

/// Listens for studios on a UDP port, and for TLS on the TCP port of the same number.
fn listen_secure(identity: &Identity, address: SocketAddr) -> Result<(Listener, TcpListener)> {
    let mut attempts = if address.port() == 0 { PORT_ATTEMPTS } else { 1 };
    loop {
        attempts -= 1;
        let quic = Listener::bind(identity, address).hint(
            "stop the program that uses the port, or choose another: firstmile relay --secure :4434",
        )?;
        match listen(quic.local_addr()?, "secure") {
            // Somebody may have the TCP port of the number that UDP got.
            Err(_) if attempts > 0 => {}
            listener => return Ok((quic, listener?)),
        }
    }
}

/// The owner's certificate, or else one for this host, made now.
pub(crate) fn certificate(
    files: Option<&TlsFiles>,
    host: Option<&str>,
    addresses: &[IpAddr],
) -> Result<Arc<Certificate>> {
    let Some(files) = files else {
        let names = tls::certificate::names(host, addresses);
        let made = Certificate::self_signed(&names).context("cannot make a TLS certificate")?;
        return Ok(Arc::new(made));
    };
    let certificate = match Certificate::load(files.clone()) {
        Ok(certificate) => certificate,
        Err(error) => {
            let hint = error.hint();
            return Err(error).context("cannot use the TLS certificate").hint(hint);
        }
    };
    let file = files.certificate.display();
    if let Some(alarm) = certificate.alarm() {
        warn!("{alarm}");
    }
    if let Some(host) = host.filter(|host| !certificate.covers(host)) {
        warn!(host, %file, "the TLS certificate is for other names: encoders will not trust it");
    }
    Ok(Arc::new(certificate))
}

/// RTMPS on a port of its own, if there is one.
pub(crate) async fn serve_rtmps<G: Gate>(
    door: Arc<Door<G>>,
    listener: Option<TcpListener>,
    secure: Arc<Secure>,
    shutdown: CancellationToken,
) {
    if let Some(listener) = listener {
        door.serve_tls(listener, secure, shutdown).await;
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
