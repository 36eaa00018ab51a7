//! The relay: encoders publish to it, studios dial in and get their feeds.

mod directory;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use backhaul::{Event, FeedKey, FeedProblem, Hello, Refusal, Session, VERSION, Welcome};
use hub::{Cut, Feed, Hub, Publisher};
use media::PublicationId;
use rtmp::session::{Rejection, Request};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, info, warn};

use crate::config::relay::Config;
use crate::door::{Door, Encoder, Gate, Player};
use crate::egress::backhaul::{self as egress, Control};
use crate::error::Hint;
use crate::guests::{Guest, Guests};
use crate::identity::{Identity, PublicKey};
use crate::join::{JoinLink, host_port};
use crate::platform;
use crate::quic::{Link, Listener};
use crate::secret::{Secret, StreamKey, Token};
use crate::status::{Addresses, FeedInfo, FeedStatus, KeyText, LinkState, LinkStatus, Status};
use crate::store::{self, Admitted, DataDir, Invites, PublicPlace, RunFile};
use crate::web::{self, AllowedHosts, ApiError};

use directory::{Directory, FeedId};

/// How long the link printed at the start admits studios.
const START_INVITE: Duration = Duration::from_secs(24 * 3_600);
/// How long after its start a relay lets encoders with unknown keys wait for their studio.
const START_GRACE: Duration = Duration::from_secs(30);
/// Callers that have not been let in yet, from everywhere together.
const MAX_CALLERS: usize = 128;
/// How long a caller may take to say who it is.
const HELLO_DEADLINE: Duration = Duration::from_secs(5);
/// Silence after which a link is dead if its studio calls anew.
const SILENT: Duration = Duration::from_secs(1);
/// Studios that are shown in the status though they left.
const MAX_KNOWN_STUDIOS: usize = 1_024;
/// How long a peer that was refused may take to read why.
const FAREWELL: Duration = Duration::from_secs(2);

/// A relay whose sockets are bound.
#[derive(Debug)]
pub struct Relay {
    node: Arc<Node>,
    rtmp: TcpListener,
    quic: Listener,
    http: TcpListener,
    token: Token,
    _run: Option<RunFile>,
}

/// What all of a relay's connections share.
#[derive(Debug)]
pub struct Node {
    config: Config,
    identity: Identity,
    addresses: Bound,
    host: String,
    start_invite: Secret,
    started: Instant,
    hub: Hub<FeedId>,
    directory: watch::Sender<Directory>,
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
    secure: SocketAddr,
    http: SocketAddr,
}

/// A studio that is, or was, connected.
#[derive(Debug)]
struct Studio {
    name: String,
    instance: [u8; 16],
    link: Option<Link>,
    connects: u64,
    last_error: Option<String>,
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
        let mut invites = Invites::load(&data)?;
        let start_invite = invites.create_until_restart(START_INVITE, SystemTime::now());
        let store = Stored { admitted: Admitted::load(&data)?, invites };
        let rtmp = listen(config.rtmp, "rtmp")?;
        let http = listen(config.http, "http")?;
        let quic = Listener::bind(&identity, config.secure).hint(
            "stop the program that uses the port, or choose another: firstmile relay --secure :4434",
        )?;
        let addresses = Bound {
            rtmp: rtmp.local_addr()?,
            secure: quic.local_addr()?,
            http: http.local_addr()?,
        };
        let host = public_host(&config, addresses.secure.ip());
        PublicPlace { host: host.clone(), port: addresses.secure.port() }.save(&data)?;
        let token = config.http_token.clone().unwrap_or_else(Token::random);
        let run = RunFile::create(&data, addresses.http, &token)?;
        let hub = Hub::new(config.ring.hub_limits());
        let node = Arc::new(Node {
            identity,
            addresses,
            host,
            start_invite,
            started: Instant::now(),
            hub,
            directory: watch::Sender::default(),
            store: Mutex::new(store),
            studios: Mutex::default(),
            door: OnceLock::new(),
            config,
        });
        Ok(Self { node, rtmp, quic, http, token, _run: Some(run) })
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
        let Self { node, rtmp, quic, http, token, _run } = self;
        let door = Arc::new(Door::new(node.clone(), &node.config.limits));
        let _ = node.door.set(Arc::downgrade(&door));
        let hosts = AllowedHosts::new(node.addresses.http, node.config.public_host.as_deref());
        let web = web::serve(http, node.clone(), token, hosts, shutdown.clone().cancelled_owned());
        let rtmp = door.serve(rtmp, shutdown.clone());
        let links = node.clone().serve_studios(&quic, shutdown.clone());
        let (web, (), ()) = tokio::join!(web, rtmp, links);
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
             \x20 Encoders    rtmp://{}/live\n\
             \x20 Studios     UDP port {secure}\n\
             \x20 Status      http://{http}/api/v1/status\n",
            host_port(host, rtmp),
        );
        if self.config.public_host.is_none() {
            text.push_str(&format!(
                "\nThe world has to reach {host} on TCP port {rtmp} and UDP port {secure}. If it \
                 knows this machine\nby another name or address, start with --public-host NAME.\n",
            ));
        }
        text
    }

    /// The feed as this relay's hub has it, for those in the same process.
    pub fn find_feed(&self, key: &StreamKey) -> Option<Feed> {
        let id = self.directory.borrow().find(&key.secret.key_hash())?;
        Some(self.hub.feed(id))
    }

    fn link_with(&self, invite: Secret) -> JoinLink {
        JoinLink {
            host: self.host.clone(),
            port: self.addresses.secure.port(),
            pin: self.identity.public_key(),
            invite,
        }
    }

    async fn serve_studios(self: Arc<Self>, quic: &Listener, shutdown: CancellationToken) {
        let mut sweep = tokio::time::interval(Duration::from_secs(60));
        let guests = Guests::new(self.config.limits.unauthenticated_per_ip);
        let seats = Arc::new(Semaphore::new(MAX_CALLERS));
        loop {
            let incoming = tokio::select! {
                () = shutdown.cancelled() => return,
                _ = sweep.tick() => {
                    self.sweep();
                    continue;
                }
                incoming = quic.accept() => incoming,
            };
            let Some(incoming) = incoming else { return };
            let guest = guests.enter(incoming.remote_address());
            let Some((guest, seat)) = guest.zip(seats.clone().try_acquire_owned().ok()) else {
                incoming.refuse();
                continue;
            };
            let node = self.clone();
            tokio::spawn(async move {
                match incoming.handshake().await {
                    Ok(Some(link)) => {
                        let span = tracing::info_span!("studio", key = %link.peer());
                        node.serve_studio(link, (guest, seat)).instrument(span).await;
                    }
                    Ok(None) => {}
                    Err(error) => debug!(reason = %error, "a caller failed the handshake"),
                }
            });
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
        removed.iter().for_each(|feed| self.hub.remove(feed));
    }

    /// One studio's link, from its hello to its end.
    async fn serve_studio(&self, link: Link, caller: (Guest, OwnedSemaphorePermit)) {
        let hello = tokio::time::timeout(HELLO_DEADLINE, greet(&link)).await;
        let (mut control, hello) = match hello {
            Ok(Ok(greeted)) => greeted,
            Ok(Err(error)) => return debug!(reason = %error, "a caller said no hello"),
            Err(_) => {
                link.close("no hello in time");
                return debug!("a caller said no hello in time");
            }
        };
        self.drop_dead(&link, &hello).await;
        if let Err((refusal, text)) = self.admit(&link, &hello) {
            warn!(studio = hello.name, reason = text, "refused");
            control.session.refuse(refusal, &text);
            // The peer closes the link once it has read why.
            let _ = control.flush().await;
            let _ = tokio::time::timeout(FAREWELL, link.closed()).await;
            link.close("refused");
            return;
        }
        drop(caller);
        info!(studio = hello.name, address = %link.remote_address(), agent = hello.agent, "joined");
        control.session.welcome(Welcome {
            version: VERSION,
            agent: crate::agent(),
            host: self.config.public_host.clone().unwrap_or_default(),
            rtmp_port: self.addresses.rtmp.port(),
        });
        let peer = PeerFeeds { node: self, studio: link.peer() };
        let reason = tokio::select! {
            result = egress::run(&link, control, &peer) => match result {
                Ok(()) => "it ended".to_owned(),
                Err(error) => format!("{error:#}"),
            },
            reason = link.closed() => reason,
        };
        link.close("over");
        self.left(&link, &hello, &reason);
    }

    /// A studio that was killed and started again is a new instance, while its old link looks
    /// alive until it times out: a link that is silent gives way at once.
    async fn drop_dead(&self, link: &Link, hello: &Hello) {
        let before = match self.lock_studios().get(&link.peer()) {
            Some(Studio { instance, link: Some(before), .. }) if *instance != hello.instance => {
                before.clone()
            }
            _ => return,
        };
        if before.is_heard(SILENT).await {
            return;
        }
        before.close("silent, and called again");
        if let Some(studio) = self.lock_studios().get_mut(&link.peer())
            && studio.link.as_ref().is_some_and(|present| present.is_same(&before))
        {
            studio.link = None;
        }
    }

    /// Lets a studio in, or says why not.
    fn admit(&self, link: &Link, hello: &Hello) -> Result<(), (Refusal, String)> {
        let key = link.peer();
        if !hello.speaks_our_version() {
            let text = format!(
                "this relay speaks version {VERSION} of the backhaul, and the studio {:?}: upgrade \
                 the older of the two",
                hello.versions
            );
            return Err((Refusal::Version, text));
        }
        self.check_room(key, hello)?;
        // Writes to the disk; the studios' lock is not held meanwhile.
        tokio::task::block_in_place(|| self.check_invite(key, hello))?;
        let mut studios = self.lock_studios();
        let known = studios.get(&key);
        let connects = known.map_or(0, |studio| studio.connects) + 1;
        if let Some(before) = known.and_then(|studio| studio.link.as_ref()) {
            before.close("replaced by a new link");
        }
        studios.insert(
            key,
            Studio {
                name: hello.name.clone(),
                instance: hello.instance,
                link: Some(link.clone()),
                connects,
                last_error: None,
            },
        );
        Ok(())
    }

    /// Whether the studio is the only one of its identity, and there is room for it.
    fn check_room(&self, key: PublicKey, hello: &Hello) -> Result<(), (Refusal, String)> {
        let studios = self.lock_studios();
        let present = studios.get(&key).filter(|studio| studio.link.is_some());
        if present.is_some_and(|studio| studio.instance != hello.instance) {
            let text = "another program with this studio's identity is connected: stop one of \
                        the two, or give one its own data directory";
            return Err((Refusal::Duplicate, text.to_owned()));
        }
        let open = studios.values().filter(|studio| studio.link.is_some()).count();
        if present.is_none() && open >= self.config.limits.studios {
            return Err((Refusal::Full, format!("this relay takes {open} studios and is full")));
        }
        Ok(())
    }

    fn check_invite(&self, key: PublicKey, hello: &Hello) -> Result<(), (Refusal, String)> {
        let mut store = self.lock_store();
        let now = SystemTime::now();
        let failed = |error: store::StoreError| {
            warn!(%error, "cannot remember the studio");
            (Refusal::Full, "the relay cannot write its data directory".to_owned())
        };
        if store.admitted.contains(&key) {
            return store.admitted.seen(&key, now).map_err(failed);
        }
        // Whoever comes is let in; there is nothing to remember.
        if self.config.open && hello.invite.is_empty() {
            return Ok(());
        }
        if !self.config.open {
            let not_admitted = "this relay does not know the studio: ask for a new join link \
                                (firstmile invite, on the relay)";
            let Ok(invite) = hello.invite.parse::<Secret>() else {
                return Err((Refusal::NotAdmitted, not_admitted.to_owned()));
            };
            store.invites.redeem(&invite, now).map_err(|refused| match refused {
                store::Refused::Unknown => (Refusal::NotAdmitted, not_admitted.to_owned()),
                store::Refused::Expired => {
                    let text = "the join link has expired: ask for a new one (firstmile invite, \
                                on the relay)";
                    (Refusal::InviteExpired, text.to_owned())
                }
                store::Refused::UsedUp => {
                    let text = "the join link was used up: ask for a new one (firstmile invite, \
                                on the relay)";
                    (Refusal::InviteUsedUp, text.to_owned())
                }
                store::Refused::Store(error) => failed(error),
            })?;
        }
        store.admitted.admit(key, now).map_err(failed)
    }

    fn left(&self, link: &Link, hello: &Hello, reason: &str) {
        let mut studios = self.lock_studios();
        let Some(studio) = studios.get_mut(&link.peer()) else { return };
        // A new link of the same studio may be here already.
        if !studio.link.as_ref().is_some_and(|present| present.is_same(link)) {
            return debug!(reason, "a link was replaced");
        }
        info!(studio = hello.name, reason, "left");
        studio.link = None;
        studio.last_error = Some(reason.to_owned());
        // Under the lock: a link that comes back now is noted after this.
        self.directory.send_if_modified(|directory| {
            directory.leave(&link.peer(), Instant::now());
            false
        });
    }

    /// The feed of a key; a relay that has just started waits for the studio that knows it.
    async fn find_key(&self, secret: &Secret) -> Option<FeedId> {
        let hash = secret.key_hash();
        let mut directory = self.directory.subscribe();
        let grace = self.started + START_GRACE;
        let found = tokio::time::timeout_at(grace.into(), async {
            loop {
                if let Some(feed) = directory.borrow_and_update().find(&hash) {
                    return Some(feed);
                }
                directory.changed().await.ok()?;
            }
        });
        // The timeout looks once even when it has long passed.
        found.await.ok().flatten()
    }

    fn open_connections(&self) -> u64 {
        let door = self.door.get().and_then(Weak::upgrade);
        door.map_or(0, |door| door.open_connections() as u64)
    }

    fn lock_studios(&self) -> MutexGuard<'_, HashMap<PublicKey, Studio>> {
        self.studios.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_store(&self) -> MutexGuard<'_, Stored> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gate for Node {
    async fn publish(&self, request: &Request, _: SocketAddr) -> Result<Encoder, Rejection> {
        let target = request.target().map_err(|_| Rejection::Denied)?;
        let secret = StreamKey::secret_of(target.key()).ok_or(Rejection::Denied)?;
        let id = self.find_key(&secret).await.ok_or(Rejection::Denied)?;
        let publisher = publish(&self.hub.feed(id.clone()))?;
        // The key may have been revoked in between, before there was anything to cut.
        if self.directory.borrow().find(&secret.key_hash()).as_ref() != Some(&id) {
            return Err(Rejection::Denied);
        }
        Ok(Encoder { publisher, feed: id.to_string() })
    }

    fn play(&self, _: &Request, _: SocketAddr) -> Result<Player, Rejection> {
        // Feeds are played at the studio.
        Err(Rejection::NotFound)
    }
}

/// Puts a new publication on air.
pub(crate) fn publish(feed: &Feed) -> Result<Publisher, Rejection> {
    feed.publish(PublicationId(rand::random()), Instant::now()).map_err(|_| Rejection::Busy)
}

/// One studio's view of the relay.
struct PeerFeeds<'a> {
    node: &'a Node,
    studio: PublicKey,
}

impl egress::Feeds for PeerFeeds<'_> {
    fn push(&self, list: Vec<FeedKey>) -> (Vec<(String, Feed)>, Vec<FeedProblem>) {
        let node = self.node;
        let max = node.config.limits.feeds_per_studio;
        let mut change = directory::Change::default();
        node.directory.send_modify(|directory| {
            change = directory.push(self.studio, list, max);
        });
        let now = Instant::now();
        for feed in &change.revoked {
            node.hub.feed(feed.clone()).cut(Cut::Revoked, now);
        }
        for feed in &change.removed {
            node.hub.remove(feed);
        }
        let feeds = change.current.into_iter().map(|id| (id.name.clone(), node.hub.feed(id)));
        (feeds.collect(), change.problems)
    }
}

impl web::Node for Node {
    fn status(&self) -> Status {
        let now = Instant::now();
        let feeds: Vec<_> = self.directory.borrow().feeds().collect();
        let mut alarms = Vec::new();
        let feeds = feeds.into_iter().map(|id| {
            let snapshot = self.hub.snapshot(&id, now);
            if snapshot.is_fought {
                alarms.push(format!("two encoders are fighting over {id}"));
            }
            let studio = Some(id.studio.to_string());
            FeedStatus { studio, ..FeedStatus::of(&id.name, &snapshot) }
        });
        let mut feeds: Vec<_> = feeds.collect();
        feeds.sort_by(|a, b| (&a.studio, &a.name).cmp(&(&b.studio, &b.name)));
        let studios = self.lock_studios();
        let mut links: Vec<_> = studios.iter().map(|(key, studio)| studio.status(key)).collect();
        links.sort_by(|a, b| a.peer.cmp(&b.peer));
        Status {
            role: "relay".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            uptime_s: self.started.elapsed().as_secs(),
            public_key: self.identity.public_key().to_base32(),
            addresses: Addresses {
                rtmp: Some(self.addresses.rtmp.to_string()),
                secure: Some(self.addresses.secure.to_string()),
                http: Some(self.addresses.http.to_string()),
            },
            join_link: Some(KeyText::link(&self.join_link())),
            connections: self.open_connections(),
            alarms,
            feeds,
            links,
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

    fn remove_feed(&self, _: &str) -> Result<(), ApiError> {
        Err(ApiError::feeds_belong_to_the_studio())
    }

    fn create_invite(&self, uses: Option<u32>, expires: Duration) -> Result<String, ApiError> {
        let invite = self.lock_store().invites.create(uses, expires, SystemTime::now())?;
        Ok(self.link_with(invite).expose())
    }
}

impl Studio {
    fn status(&self, key: &PublicKey) -> LinkStatus {
        let stats = self.link.as_ref().map(Link::stats);
        LinkStatus {
            peer: format!("{} ({key})", self.name),
            address: self
                .link
                .as_ref()
                .map_or_else(String::new, |link| link.remote_address().to_string()),
            transport: "quic".into(),
            state: if stats.is_some() { LinkState::Up } else { LinkState::Connecting },
            rtt_ms: stats.map(|stats| stats.rtt.as_secs_f64() * 1_000.0),
            loss: stats.map(|stats| stats.loss),
            bytes_in: stats.map_or(0, |stats| stats.received_bytes),
            bytes_out: stats.map_or(0, |stats| stats.sent_bytes),
            reconnects: self.connects - 1,
            last_error: self.last_error.clone(),
        }
    }
}

/// Reads a caller's hello.
async fn greet(link: &Link) -> Result<(Control, Hello)> {
    let (send, receive) = link.accept_control().await?;
    let mut control = Control { session: Session::accept(), send, receive };
    match control.event().await? {
        Event::Hello(hello) => Ok((control, hello)),
        other => anyhow::bail!("the caller began with {other:?}"),
    }
}

/// Listens on a TCP address, or says what to do.
pub(crate) fn listen(address: SocketAddr, option: &str) -> Result<TcpListener> {
    let port = address.port().saturating_add(1);
    platform::listen_tcp(address).with_context(|| format!("cannot listen on {address}")).hint(
        format!("stop the program that uses the port, or choose another with --{option} :{port}"),
    )
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
