//! The studio: feeds come from relays that it dials and from encoders on the LAN, players play.

mod api;
mod calls;
mod gate;
mod liveness;
#[cfg(test)]
mod recovery;
mod relays;
pub mod uplink;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use backhaul::Hello;
use hub::{Feed, Hub, Timing};
use media::PublicationId;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::config::studio::Config;
use crate::door::{Door, Secure};
use crate::egress::players::Players;
use crate::egress::preview::Previews;
use crate::egress::record::{FeedRecorder, Recorder, Source, tap};
use crate::events::Events;
use crate::identity::Identity;
use crate::ingest::backhaul::{FeedList, ListedKey};
use crate::join::host_port;
use crate::limit::Hits;
use crate::link::{self, Dialer, Transport};
use crate::login::OnAir;
use crate::node::{certificate, listen, serve_rtmps};
use crate::platform;
use crate::quic::Congestion;
use crate::secret::{StreamKey, Token};
use crate::status::{Auth, FeedInfo, Publish};
use crate::store::{self, DataDir, Feeds, JoinedRelay, Relays, RunFile, StoredFeed};
use crate::tls::{self, Certificate};
use crate::traces::Traces;
use crate::web::{self, AllowedHosts};
use crate::when::When;

use relays::Uplinks;
use uplink::Uplink;

/// How often feeds without an encoder are looked at.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);
/// How soon the way to a relay is taken up again after a fault of this program.
const AFTER_FAULT: Duration = Duration::from_secs(1);

/// How long a relay may take to answer the doctor.
const REACH: Duration = Duration::from_secs(3);

/// What a person has to know of a data directory whose identity is gone.
const LOST_IDENTITY: &str = "identity.pem was missing, so this is a new studio, which the relays that \
     it joined do not know: stop it and restore the file, or join each relay again with a new link \
     (firstmile studio --join LINK) and rotate the feeds' keys (firstmile feed rotate NAME)";

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
    /// Whether the data directory knows relays, but not who the studio was.
    lost_identity: bool,
    instance: [u8; 16],
    rtmp: SocketAddr,
    rtmps: Option<SocketAddr>,
    http: SocketAddr,
    certificate: Arc<Certificate>,
    started: Instant,
    play_key: Token,
    hub: Hub<String>,
    recorder: Recorder,
    players: Arc<Players>,
    previews: Arc<Previews>,
    hits: Arc<Hits>,
    events: Events,
    store: Mutex<Stored>,
    by_password: OnAir<String>,
    list: watch::Sender<Arc<FeedList>>,
    uplinks: Uplinks,
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
        let is_new = !Identity::exists(&data);
        let identity = Arc::new(Identity::load_or_create(&data)?);
        let traces = config.trace_rtmp.then(|| Traces::create(&data)).transpose()?;
        let feeds = Feeds::load(&data)?;
        let mut relays = Relays::load(&data)?;
        let lost_identity = is_new && !relays.list().is_empty();
        if lost_identity {
            warn!(data = %data.path().display(), "{LOST_IDENTITY}");
        }
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
        let recorder = Recorder::open(&config.record.dir(data.path()), config.record.keep_free);
        let token = config.http_token.clone().unwrap_or_else(Token::random);
        let run = RunFile::create(&data, http, &token)?;
        let list = Arc::new(for_relays(feeds.list()));
        let uplinks = Uplinks::new(relays.list(), &list);
        let node = Arc::new(Node {
            instance: rand::random(),
            rtmp,
            rtmps,
            http,
            certificate,
            started: Instant::now(),
            play_key,
            hub: Hub::new(config.ring.hub_limits()),
            recorder,
            players: Arc::default(),
            previews: Arc::new(Previews::new(
                config.limits.previews_per_feed,
                config.limits.previews,
            )),
            hits: Arc::default(),
            events: Events::new(&config.webhooks),
            by_password: OnAir::default(),
            list: watch::Sender::new(list),
            uplinks,
            store: Mutex::new(Stored { feeds, relays }),
            door: OnceLock::new(),
            identity: identity.clone(),
            lost_identity,
            config,
        });
        node.switch_recordings(&node.lock());
        node.lock().feeds.list().iter().for_each(|feed| node.apply_timing(feed));
        let on_air = {
            let node = Arc::downgrade(&node);
            Arc::new(move |feed: &str| node.upgrade()?.find_feed(feed)?.publication())
        };
        node.recorder.make_files(&node.config.record, on_air);
        let backhaul = &node.config.backhaul;
        let dialer = Dialer::new(identity, backhaul.congestion).over(backhaul.transport);
        let (rtmp, rtmps, http) = (rtmp_listener, rtmps_listener, http_listener);
        Ok(Self { node, dialer, rtmp, rtmps, http, token, traces, _run: run })
    }

    /// The node, to look at.
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Where the dashboard is, for a person.
    pub fn dashboard_text(&self, is_terminal: bool) -> String {
        web::dashboard_text(self.node.http, &self.token, is_terminal)
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
        let uplinks = tokio::spawn({
            let (node, shutdown) = (node.clone(), shutdown.clone());
            async move { node.keep_uplinks(&dialer, &shutdown).await }
        });
        let silence = CancellationToken::new();
        let tapping = tokio::spawn({
            let (node, silence) = (node.clone(), silence.clone());
            let source = {
                let node = node.clone();
                Arc::new(move |publication| node.source(publication))
            };
            async move {
                tap::run(&node.recorder, |name| node.find_feed(name), source, &silence).await;
            }
        });
        let hosts = AllowedHosts::new(node.http, None).and_this_machine();
        let owner = (token, node.config.http_password.clone());
        let web = web::serve(http, node.clone(), owner, hosts, shutdown.clone().cancelled_owned());
        let sweeping = async {
            let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
            while shutdown.run_until_cancelled(sweep.tick()).await.is_some() {
                node.hub.sweep(Instant::now());
            }
            node.previews.close().await;
        };
        let certificate = node.certificate.clone();
        let secure =
            Arc::new(Secure { tls: tls::Server::new(&certificate), web: None, studios: None });
        let rtmps = serve_rtmps(door.clone(), rtmps, secure, shutdown.clone());
        let rtmp = door.serve(rtmp, shutdown.clone());
        let renewals = certificate.follow(shutdown.clone());
        let telling = tokio::spawn({
            let (node, shutdown) = (node.clone(), shutdown.clone());
            async move { node.events.run(|| web::Node::status(&*node), &shutdown).await }
        });
        let (web, (), (), (), ()) = tokio::join!(web, rtmp, rtmps, renewals, sweeping);
        let _ = telling.await;
        let _ = uplinks.await;
        // Nothing comes any more; what there is, is written.
        silence.cancel();
        let _ = tapping.await;
        let recorder = node.recorder.clone();
        let _ = tokio::task::spawn_blocking(move || recorder.close()).await;
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
        let uplinks = self.uplinks.all();
        for uplink in &uplinks {
            let status = uplink.status();
            let state = match &status.last_error {
                Some(error) => format!("not reached yet: {error}"),
                None if status.rtt_ms.is_some() => "joined".to_owned(),
                None => "being called".to_owned(),
            };
            text.push_str(&format!("Relay {}: {state}\n", uplink.relay().address()));
        }
        if uplinks.is_empty() {
            text.push_str(
                "No relay is joined: encoders have to reach this machine. Run `firstmile relay` \
                 on a public machine,\nand start here with the --join link that it prints.\n",
            );
        }
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
            for uplink in self.uplinks.all() {
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
                .with_measuring(uplink.measure_url())
        };
        let host = self.lan_host();
        let rtmps = self.rtmps.filter(|_| self.certificate.covers(&host));
        let here = Publish::new("this studio", &host, self.rtmp.port(), key)
            .with_tls(&host, rtmps.map(|address| address.port()));
        self.uplinks.all().iter().map(relay).chain([here]).collect()
    }

    fn info(&self, feed: &StoredFeed) -> FeedInfo {
        let publish = self.publish(&feed.key());
        FeedInfo {
            name: feed.name.to_string(),
            auth: self.auth(feed, &publish),
            publish,
            play: Some(self.play_url(feed.name.as_str())),
            recorded: self.is_recorded(feed),
            timing: feed.timing,
            validity: feed.validity(SystemTime::now()),
        }
    }

    /// When a feed's players get it.
    fn timing(&self, feed: &StoredFeed) -> Timing {
        let stored = feed.timing;
        Timing {
            delay: stored.play_delay_ms.map_or(self.config.play.delay, Duration::from_millis),
            max_delay: stored.play_max_delay_ms.map(Duration::from_millis),
        }
    }

    fn apply_timing(&self, feed: &StoredFeed) {
        self.hub.feed(feed.name.to_string()).set_timing(self.timing(feed));
    }

    fn is_recorded(&self, feed: &StoredFeed) -> bool {
        self.config.record.all || feed.recorded.is_some()
    }

    /// Tells the recorder of the feeds as they are now.
    fn switch_recordings(&self, store: &Stored) {
        let recorded = store.feeds.list().iter().filter(|feed| self.is_recorded(feed));
        // A feed that is recorded because all are was so from its beginning.
        let since = |feed: &StoredFeed| {
            let since = Duration::from_secs(feed.recorded.unwrap_or(feed.created));
            UNIX_EPOCH.checked_add(since).unwrap_or(UNIX_EPOCH)
        };
        self.recorder.set_recorded(recorded.map(|feed| (feed.name.clone(), since(feed))));
    }

    /// What user and password an encoder types, if the feed has them.
    fn auth(&self, feed: &StoredFeed, publish: &[Publish]) -> Option<Auth> {
        Some(Auth::new(&publish.first()?.server, feed.auth.as_ref()?))
    }

    /// Where a publication comes from.
    fn source(&self, publication: PublicationId) -> Source {
        let from = |uplink: &Arc<Uplink>| uplink.inbox().source(publication);
        self.uplinks.all().iter().find_map(from).unwrap_or(Source::Here)
    }

    /// Tells every relay of the feeds as they are now.
    fn push_keys(&self, store: &Stored) {
        let list = Arc::new(for_relays(store.feeds.list()));
        self.uplinks.push(&list);
        self.list.send_replace(list);
    }
}

fn for_relays(feeds: &[StoredFeed]) -> FeedList {
    // A paused feed stays in the list: what relays keep of it is for its recording.
    let key = |feed: &StoredFeed| ListedKey {
        name: feed.name.to_string(),
        hash: match feed.paused {
            false => feed.secret.key_hash().0,
            true => feed.secret.paused_hash().0,
        },
        until: feed.until.and_then(When::system_time),
    };
    let login = |feed: &StoredFeed| {
        let login = feed.auth.as_ref().filter(|_| !feed.paused)?;
        let (feed, user) = (feed.name.to_string(), login.user.clone());
        Some(backhaul::Login { feed, user, verifier: login.verifier() })
    };
    FeedList {
        keys: feeds.iter().map(key).collect(),
        logins: feeds.iter().filter_map(login).collect(),
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

    fn admits(&self, name: &str, at: SystemTime) -> bool {
        self.lock().feeds.find(name).is_some_and(|feed| feed.admits(at))
    }

    fn budget(&self, name: &str) -> Option<Duration> {
        Some(self.config.backhaul.delay_of(name))
    }

    fn recorder(&self, name: &str) -> Option<FeedRecorder> {
        self.recorder.feed(name)
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

/// Tries to reach a joined relay at one address, for `doctor`; says how long it took.
///
/// # Errors
///
/// Why it cannot be reached.
pub async fn reach(relay: &JoinedRelay, address: SocketAddr) -> Result<String> {
    // A key of its own: the studio that may be running is left alone.
    let dialer = Dialer::new(Arc::new(Identity::generate()), Congestion::default());
    let started = Instant::now();
    let dial = async |transport| {
        let dial = dialer.dial(transport, address, relay.pin);
        let link = tokio::time::timeout(REACH, dial).await;
        let link =
            link.map_err(|_| anyhow::anyhow!("no answer within {} s", REACH.as_secs()))??;
        link.close("doctor");
        Ok::<_, anyhow::Error>(started.elapsed().as_millis())
    };
    let (quic, tcp) = tokio::join!(dial(Transport::Quic), dial(Transport::Tcp));
    match (quic, tcp) {
        (Ok(ms), _) => Ok(format!("answers after {ms} ms")),
        (Err(_), Ok(ms)) => Ok(format!(
            "UDP to {address} is blocked, so a studio goes by TCP, which answers after {ms} ms: \
             pictures come later than over UDP where packets are lost"
        )),
        (Err(_), Err(error)) if link::is_wrong_key(&error) => Err(error),
        (Err(error), Err(_)) => Err(error),
    }
}
