//! The studio: feeds come from relays that it dials and from encoders on the LAN, players play.

pub mod uplink;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use anyhow::Result;
use backhaul::{FeedKey, Hello};
use hub::{Cut, Feed, Hub, Policy};
use rtmp::adobe::{Answer, Verifier};
use rtmp::session::{Rejection, Request};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::studio::{Config, JoinPolicy};
use crate::door::{Door, Encoder, Gate, Player, Secure};
use crate::egress::takes::Takes;
use crate::identity::Identity;
use crate::ingest::backhaul::FeedList;
use crate::join::host_port;
use crate::limit::Hits;
use crate::login::OnAir;
use crate::platform;
use crate::quic::Dialer;
use crate::relay::{certificate, listen, publish, serve_rtmps};
use crate::secret::{FeedName, KeyHash, StreamKey, Token};
use crate::status::{
    Addresses, Auth, FeedInfo, FeedStatus, KeyText, LimitStatus, Publish, Status, feed_alarm,
};
use crate::store::{self, DataDir, Feeds, JoinedRelay, Relays, RunFile, StoredFeed};
use crate::tls::{self, Certificate};
use crate::traces::Traces;
use crate::web::{self, AllowedHosts, ApiError};

use uplink::Uplink;

/// How often feeds without an encoder are looked at.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// A studio whose sockets are bound.
#[derive(Debug)]
pub struct Studio {
    node: Arc<Node>,
    dialer: Dialer,
    rtmp: TcpListener,
    rtmps: Option<TcpListener>,
    http: TcpListener,
    token: Token,
    traces: Option<Traces>,
    _run: RunFile,
}

/// What all of a studio's connections share.
#[derive(Debug)]
pub struct Node {
    config: Config,
    identity: Arc<Identity>,
    instance: [u8; 16],
    rtmp: SocketAddr,
    rtmps: Option<SocketAddr>,
    http: SocketAddr,
    certificate: Arc<Certificate>,
    started: Instant,
    play_key: Token,
    hub: Hub<String>,
    hits: Arc<Hits>,
    store: Mutex<Stored>,
    by_password: OnAir<String>,
    list: watch::Sender<Arc<FeedList>>,
    uplinks: Vec<Arc<Uplink>>,
    door: OnceLock<Weak<Door<Self>>>,
}

#[derive(Debug)]
struct Stored {
    feeds: Feeds,
    relays: Relays,
}

impl Studio {
    /// Opens the data directory and binds the sockets.
    ///
    /// # Errors
    ///
    /// Whatever a person has to put right, with a hint how.
    pub async fn bind(config: Config) -> Result<Self> {
        let data = DataDir::open(&config.data)?;
        let identity = Arc::new(Identity::load_or_create(&data)?);
        let traces = config.trace_rtmp.then(|| Traces::create(&data)).transpose()?;
        let feeds = Feeds::load(&data)?;
        let mut relays = Relays::load(&data)?;
        for link in &config.join {
            relays.join(link)?;
        }
        let play_key = match &config.play.key {
            Some(key) => key.clone(),
            None => store::play_key(&data)?,
        };
        let rtmp_listener = listen(config.rtmp, "rtmp")?;
        let rtmps_listener = config.rtmps.map(|address| listen(address, "rtmps")).transpose()?;
        let http_listener = listen(config.http, "http")?;
        let (rtmp, http) = (rtmp_listener.local_addr()?, http_listener.local_addr()?);
        let rtmps = rtmps_listener.as_ref().map(TcpListener::local_addr).transpose()?;
        let lan = platform::outward_address();
        let certificate = certificate(config.tls.as_ref(), None, lan.as_slice())?;
        let token = config.http_token.clone().unwrap_or_else(Token::random);
        let run = RunFile::create(&data, http, &token)?;
        let uplinks = relays.list().iter().cloned().map(|relay| Arc::new(Uplink::new(relay)));
        let node = Arc::new(Node {
            instance: rand::random(),
            rtmp,
            rtmps,
            http,
            certificate,
            started: Instant::now(),
            play_key,
            hub: Hub::new(config.ring.hub_limits()),
            hits: Arc::default(),
            by_password: OnAir::default(),
            list: watch::Sender::new(Arc::new(for_relays(feeds.list()))),
            uplinks: uplinks.collect(),
            store: Mutex::new(Stored { feeds, relays }),
            door: OnceLock::new(),
            identity: identity.clone(),
            config,
        });
        let dialer = Dialer::new(identity);
        let (rtmp, rtmps, http) = (rtmp_listener, rtmps_listener, http_listener);
        Ok(Self { node, dialer, rtmp, rtmps, http, token, traces, _run: run })
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
        let Self { node, dialer, rtmp, rtmps, http, token, traces, _run } = self;
        let door = Door::new(node.clone(), &node.config.limits, node.hits.clone());
        let door = Arc::new(door.with_traces(traces));
        let _ = node.door.set(Arc::downgrade(&door));
        let mut uplinks = tokio::task::JoinSet::new();
        for uplink in &node.uplinks {
            let uplink = uplink.clone();
            let (node, dialer, shutdown) = (node.clone(), dialer.clone(), shutdown.clone());
            uplinks.spawn(async move { uplink.run(&dialer, &*node, &shutdown).await });
        }
        let hosts = AllowedHosts::new(node.http, None);
        let web = web::serve(http, node.clone(), token, hosts, shutdown.clone().cancelled_owned());
        let sweeping = async {
            let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
            while shutdown.run_until_cancelled(sweep.tick()).await.is_some() {
                node.hub.sweep(Instant::now());
            }
        };
        let certificate = node.certificate.clone();
        let secure = Arc::new(Secure { tls: tls::Server::new(&certificate), web: None });
        let rtmps = serve_rtmps(door.clone(), rtmps, secure, shutdown.clone());
        let rtmp = door.serve(rtmp, shutdown.clone());
        let renewals = certificate.follow(shutdown.clone());
        let (web, (), (), (), ()) = tokio::join!(web, rtmp, rtmps, renewals, sweeping);
        while uplinks.join_next().await.is_some() {}
        web
    }
}

impl Node {
    /// The address that players connect to, as bound.
    pub fn rtmp_address(&self) -> SocketAddr {
        self.rtmp
    }

    /// What a script wants to know once the studio is ready.
    pub fn ready(&self) -> serde_json::Value {
        let feeds = self.lock().feeds.list().to_vec();
        let feed = |feed: &StoredFeed| {
            serde_json::json!({
                "name": feed.name.as_str(),
                "key": feed.key().expose(),
                "play": self.play_url(feed.name.as_str()),
            })
        };
        serde_json::json!({
            "role": "studio",
            "rtmp": self.rtmp.to_string(),
            "rtmps": self.rtmps.map(|address| address.to_string()),
            "http": self.http.to_string(),
            "feeds": feeds.iter().map(feed).collect::<Vec<_>>(),
        })
    }

    /// What a person wants to know once the studio is ready.
    pub fn welcome_text(&self) -> String {
        let mut text = String::from("This studio is ready.\n\n");
        let feeds: Vec<_> = self.lock().feeds.list().iter().map(|feed| self.info(feed)).collect();
        for feed in &feeds {
            text.push_str(&format!("Feed {}\n\n  Type into the encoder:\n", feed.name));
            for publish in &feed.publish {
                text.push_str(&format!(
                    "    Server      {}   ({})\n    Stream key  {}\n",
                    publish.server,
                    publish.relay,
                    publish.key.expose()
                ));
                if let Some(server) = &publish.server_tls {
                    text.push_str(&format!("    with TLS    {server}\n"));
                }
            }
            if let Some(play) = &feed.play {
                text.push_str(&format!(
                    "  Open in OBS, vMix or VLC on this machine:\n    {play}\n\n"
                ));
            }
        }
        for uplink in &self.uplinks {
            let status = uplink.status();
            let state = match &status.last_error {
                Some(error) => format!("not reached yet: {error}"),
                None if status.rtt_ms.is_some() => "joined".to_owned(),
                None => "being called".to_owned(),
            };
            text.push_str(&format!("Relay {}: {state}\n", uplink.relay().address()));
        }
        if self.uplinks.is_empty() {
            text.push_str(
                "No relay is joined: encoders have to reach this machine. Run `firstmile relay` \
                 on a public machine,\nand start here with the --join link that it prints.\n",
            );
        }
        text.push_str(&format!("Status   http://{}/api/v1/status\n", self.http));
        text
    }

    /// The feeds' keys.
    pub fn stream_keys(&self) -> Vec<StreamKey> {
        self.lock().feeds.list().iter().map(StoredFeed::key).collect()
    }

    /// The feed as this studio's hub has it, for those in the same process.
    pub fn find_feed(&self, name: &str) -> Option<Feed> {
        crate::ingest::backhaul::Feeds::feed(self, name)
    }

    /// Waits until every relay has let us in, or `limit` has passed.
    pub async fn wait_relays(&self, limit: Duration) {
        let all = async {
            for uplink in &self.uplinks {
                uplink.wait_up().await;
            }
        };
        let _ = tokio::time::timeout(limit, all).await;
    }

    fn connections(&self) -> (usize, usize) {
        let door = self.door.get().and_then(Weak::upgrade);
        door.map_or((0, 0), |door| door.connections())
    }

    fn lock(&self) -> MutexGuard<'_, Stored> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a player on this machine opens.
    pub fn play_url(&self, name: &str) -> String {
        let ip = self.rtmp.ip().to_canonical();
        let host = if ip.is_unspecified() { "127.0.0.1".to_owned() } else { ip.to_string() };
        // The port is written out even if it is the standard one: players do not all know it.
        format!("rtmp://{}/live/{name}", host_port(&host, self.rtmp.port()))
    }

    /// The host by which the LAN reaches this machine.
    fn lan_host(&self) -> String {
        let ip = self.rtmp.ip().to_canonical();
        if !ip.is_unspecified() {
            return ip.to_string();
        }
        platform::outward_address().unwrap_or([127, 0, 0, 1].into()).to_string()
    }

    /// What an encoder types, relays first.
    fn publish(&self, key: &StreamKey) -> Vec<Publish> {
        let relay = |uplink: &Arc<Uplink>| {
            let (host, port) = uplink.rtmp_place();
            Publish::new(&uplink.relay().name, &host, port, key)
                .with_tls(&host, uplink.rtmps_port())
        };
        let host = self.lan_host();
        let rtmps = self.rtmps.filter(|_| self.certificate.covers(&host));
        let here = Publish::new("this studio", &host, self.rtmp.port(), key)
            .with_tls(&host, rtmps.map(|address| address.port()));
        self.uplinks.iter().map(relay).chain([here]).collect()
    }

    fn info(&self, feed: &StoredFeed) -> FeedInfo {
        let publish = self.publish(&feed.key());
        FeedInfo {
            name: feed.name.to_string(),
            auth: self.auth(feed, &publish),
            publish,
            play: Some(self.play_url(feed.name.as_str())),
        }
    }

    /// The feed of the first key that opens one here; all are compared with all, whatever comes
    /// of it.
    fn find_key(&self, hashes: &[KeyHash]) -> Option<String> {
        let store = self.lock();
        let mut found: Option<(usize, &StoredFeed)> = None;
        for feed in store.feeds.list() {
            let own = feed.secret.key_hash();
            for (at, hash) in hashes.iter().enumerate() {
                if own.matches(hash) && found.is_none_or(|(before, _)| at < before) {
                    found = Some((at, feed));
                }
            }
        }
        found.map(|(_, feed)| feed.name.to_string())
    }

    /// The feed that a user may publish, and what proves the password.
    fn find_user(&self, user: &str) -> Option<(String, Verifier)> {
        let list = self.list.borrow();
        let login = list.logins.iter().find(|login| login.user == user)?;
        Some((login.feed.clone(), login.verifier))
    }

    /// What user and password an encoder types, if the feed has them.
    fn auth(&self, feed: &StoredFeed, publish: &[Publish]) -> Option<Auth> {
        Some(Auth::new(&publish.first()?.server, feed.auth.as_ref()?))
    }

    /// Tells every relay of the feeds as they are now.
    fn push_keys(&self, store: &Stored) {
        self.list.send_replace(Arc::new(for_relays(store.feeds.list())));
    }

    fn feed_status(&self, feed: &StoredFeed, now: Instant) -> FeedStatus {
        let name = feed.name.as_str();
        let snapshot = self.hub.snapshot(&name.to_owned(), now);
        let mut status = FeedStatus::of(name, &snapshot);
        status.publish = self.publish(&feed.key());
        status.auth = self.auth(feed, &status.publish);
        status.play = Some(self.play_url(name));
        if self.config.play.lan && !self.rtmp.ip().to_canonical().is_loopback() {
            let (host, key) = (self.lan_host(), self.play_key.expose());
            status.play_lan = Some(KeyText::play_lan(&host, self.rtmp.port(), name, key));
        }
        let Some(publication) = snapshot.publication else { return status };
        for uplink in &self.uplinks {
            let Some(figures) = uplink.inbox().figures(publication) else { continue };
            status.via = Some(uplink.relay().name.clone());
            status.latency.encoder_growth_ms = Some(figures.encoder_growth_ms as f64);
            status.latency.relay_queue_ms = figures.relay_queue;
            status.latency.backhaul_ms = uplink.status().rtt_ms.map(|rtt| rtt / 2.0);
            status.drops.skipped_tags = figures.skipped;
        }
        status
    }
}

fn for_relays(feeds: &[StoredFeed]) -> FeedList {
    let key =
        |feed: &StoredFeed| FeedKey { name: feed.name.to_string(), hash: feed.secret.key_hash().0 };
    let login = |feed: &StoredFeed| {
        let login = feed.auth.as_ref()?;
        let (feed, user) = (feed.name.to_string(), login.user.clone());
        Some(backhaul::Login { feed, user, verifier: login.verifier() })
    };
    FeedList {
        keys: feeds.iter().map(key).collect(),
        logins: feeds.iter().filter_map(login).collect(),
    }
}

impl Gate for Node {
    async fn publish(&self, request: &Request, peer: SocketAddr) -> Result<Encoder, Rejection> {
        let hashes = StreamKey::hashes_in(request);
        let look = || match &request.user {
            Some(user) => self.find_user(user).map(|(feed, _)| feed),
            None => self.find_key(&hashes),
        };
        let feed = look().ok_or(Rejection::Denied)?;
        let publisher = publish(&self.hub.feed(feed.clone()), &feed, peer)?;
        if request.user.is_some() {
            self.by_password.note(feed.clone(), publisher.publication());
        }
        // The key may have been revoked in between, before there was anything to cut.
        if look().as_ref() != Some(&feed) {
            return Err(Rejection::Denied);
        }
        Ok(Encoder { publisher, feed })
    }

    async fn login(&self, answer: &Answer) -> bool {
        let known = self.find_user(&answer.user);
        // An unknown user costs what a wrong password costs.
        let verifier = known.as_ref().map_or(Verifier::default(), |(_, verifier)| *verifier);
        answer.matches(&verifier) && known.is_some()
    }

    fn play(&self, request: &Request, peer: SocketAddr) -> Result<Player, Rejection> {
        let target = request.target().map_err(|_| Rejection::NotFound)?;
        let is_here = peer.ip().is_loopback();
        let needs_key = !is_here || self.config.play.loopback_key;
        let keys = request.keys();
        let has_key = keys.iter().fold(false, |has, key| self.play_key.matches(key) | has);
        let is_allowed = is_here || self.config.play.lan;
        // Who came as a user came to publish.
        if !is_allowed || needs_key && !has_key || request.user.is_some() {
            return Err(Rejection::Denied);
        }
        let name = target.path.rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
        if self.lock().feeds.find(&name).is_none() {
            return Err(Rejection::NotFound);
        }
        let play = &self.config.play;
        let join = match play.join {
            JoinPolicy::Fast => hub::Join::Fast,
            JoinPolicy::Smooth => hub::Join::Smooth,
            JoinPolicy::Keyframe => hub::Join::Keyframe,
        };
        let policy = Policy { join, max_delay: play.max_delay, verbatim: false };
        let takes = Takes::new(request.capabilities.clone(), play.multitrack);
        Ok(Player { feed: self.hub.feed(name.clone()), policy, takes, name })
    }
}

impl crate::ingest::backhaul::Feeds for Node {
    fn feed(&self, name: &str) -> Option<Feed> {
        self.lock().feeds.find(name)?;
        Some(self.hub.feed(name.to_owned()))
    }

    fn list(&self) -> watch::Receiver<Arc<FeedList>> {
        self.list.subscribe()
    }

    fn refused(&self, _: &str, _: &str) {
        // Each uplink keeps its own relay's refusals.
    }
}

impl uplink::Studio for Node {
    fn hello(&self, invite: &str) -> Hello {
        Hello {
            versions: uplink::versions(),
            instance: self.instance,
            agent: crate::agent(),
            name: platform::hostname()
                .unwrap_or_else(|| "studio".into())
                .chars()
                .take(32)
                .collect(),
            invite: invite.to_owned(),
        }
    }

    fn admitted(&self, relay: &JoinedRelay) {
        if let Err(error) = self.lock().relays.admitted(&relay.pin) {
            warn!(%error, "cannot write down that the relay has admitted this studio");
        }
    }
}

impl web::Node for Node {
    fn status(&self) -> Status {
        let now = Instant::now();
        let stored = self.lock().feeds.list().to_vec();
        let feeds: Vec<_> = stored.iter().map(|feed| self.feed_status(feed, now)).collect();
        let mut alarms: Vec<_> = self.uplinks.iter().flat_map(|uplink| uplink.alarms()).collect();
        alarms.extend(self.certificate.alarm());
        for feed in &stored {
            let snapshot = self.hub.snapshot(&feed.name.to_string(), now);
            alarms.extend(feed_alarm(&feed.name, &snapshot));
        }
        let (guests, sessions) = self.connections();
        Status {
            role: "studio".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            uptime_s: self.started.elapsed().as_secs(),
            public_key: self.identity.public_key().to_base32(),
            addresses: Addresses {
                rtmp: Some(self.rtmp.to_string()),
                rtmps: self.rtmps.map(|address| address.to_string()),
                secure: None,
                http: Some(self.http.to_string()),
            },
            join_link: None,
            connections: (guests + sessions) as u64,
            alarms,
            feeds,
            links: self.uplinks.iter().map(|uplink| uplink.status()).collect(),
            limits: LimitStatus::new(&self.hits, (guests, sessions), self.hub.memory()),
        }
    }

    fn feeds(&self) -> Result<Vec<FeedInfo>, ApiError> {
        Ok(self.lock().feeds.list().iter().map(|feed| self.info(feed)).collect())
    }

    fn add_feed(&self, name: &str) -> Result<FeedInfo, ApiError> {
        let name: FeedName = name.parse()?;
        let mut store = self.lock();
        let feed = store.feeds.add(&name)?;
        self.push_keys(&store);
        drop(store);
        info!(feed = %name, "added");
        Ok(self.info(&feed))
    }

    fn rotate_feed(&self, name: &str) -> Result<FeedInfo, ApiError> {
        let name: FeedName = name.parse()?;
        let mut store = self.lock();
        let feed = store.feeds.rotate(&name)?;
        self.push_keys(&store);
        drop(store);
        // What came with the old key ends, here and at every relay.
        self.hub.feed(name.to_string()).cut(Cut::Revoked, Instant::now());
        info!(feed = %name, "its key was rotated");
        Ok(self.info(&feed))
    }

    fn set_auth(&self, name: &str, on: bool) -> Result<FeedInfo, ApiError> {
        let name: FeedName = name.parse()?;
        let mut store = self.lock();
        let feed = store.feeds.set_auth(&name, on)?;
        self.push_keys(&store);
        drop(store);
        if !on {
            // Who came with the password goes with it, here and at every relay.
            let feed = name.to_string();
            self.by_password.cut(&feed, &self.hub.feed(feed.clone()), Instant::now());
        }
        info!(feed = %name, on, "user and password were switched");
        Ok(self.info(&feed))
    }

    fn remove_feed(&self, name: &str) -> Result<(), ApiError> {
        let name: FeedName = name.parse()?;
        let mut store = self.lock();
        store.feeds.remove(&name)?;
        self.push_keys(&store);
        drop(store);
        self.hub.remove(&name.to_string());
        self.by_password.forget(&name.to_string());
        info!(feed = %name, "removed");
        Ok(())
    }

    fn create_invite(&self, _: Option<u32>, _: Duration) -> Result<String, ApiError> {
        Err(ApiError::invites_belong_to_the_relay())
    }
}

/// Tries to reach a joined relay at one address, for `doctor`; says how long it took.
///
/// # Errors
///
/// Why it cannot be reached.
pub async fn reach(relay: &JoinedRelay, address: SocketAddr) -> Result<String> {
    // A key of its own: the studio that may be running is left alone.
    let dialer = Dialer::new(Arc::new(Identity::generate()));
    let started = Instant::now();
    let dial = tokio::time::timeout(Duration::from_secs(3), dialer.dial(address, relay.pin));
    let link = dial.await.map_err(|_| anyhow::anyhow!("no answer within 3 s"))??;
    link.close("doctor");
    Ok(format!("answers after {} ms", started.elapsed().as_millis()))
}
