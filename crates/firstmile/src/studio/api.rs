//! The studio as dashboard and API see it, and what they change.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use hub::Cut;
use tracing::info;

use super::Node;
use super::uplink::Uplink;
use crate::egress::preview::{Mode, Viewer};
use crate::egress::record::Opened;
use crate::events::{About, Events, Kind, Severity};
use crate::limit::Limit;
use crate::secret::FeedName;
use crate::status::{
    Addresses, FeedInfo, FeedStatus, KeyText, LimitStatus, PreviewStatus, RecordingInfo, RelayInfo,
    Stalls, Status, feed_alarm, is_cut_off,
};
use crate::store::StoredFeed;
use crate::web::{self, ApiError, FeedChange, NoPreview, RecordingDetail};
use crate::when::When;

impl web::Node for Node {
    fn events(&self) -> &Events {
        &self.events
    }

    fn status(&self) -> Status {
        let now = Instant::now();
        let stored = self.lock().feeds.list().to_vec();
        let mut feeds: Vec<_> = stored.iter().map(|feed| self.feed_status(feed, now)).collect();
        let mut recordings = self.recorder.status();
        for (feed, stored) in feeds.iter_mut().zip(&stored) {
            feed.recording = recordings.remove(&stored.name);
        }
        let uplinks = self.uplinks.all();
        let mut alarms: Vec<_> = uplinks.iter().flat_map(|uplink| uplink.alarms()).collect();
        alarms.extend(self.certificate.alarm());
        alarms.extend(self.events.alarms());
        alarms.extend(self.lost_identity.then(|| super::LOST_IDENTITY.to_owned()));
        if stored.iter().any(|feed| self.is_recorded(feed)) {
            alarms.extend(self.recorder.alarm());
        }
        let links: Vec<_> = uplinks.iter().map(|uplink| uplink.status()).collect();
        for feed in &feeds {
            let snapshot = self.hub.snapshot(&feed.name, now);
            // What comes by a link that is lost says nothing about its encoder.
            let alarm = feed_alarm(&feed.name, &snapshot);
            alarms.extend(alarm.filter(|_| feed.fought || !is_cut_off(feed, &links)));
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
            links,
            limits: LimitStatus::new(&self.hits, (guests, sessions), self.hub.memory()),
            spool: None,
            webhooks: self.events.webhooks(),
            previews: Some(PreviewStatus {
                viewers: self.previews.viewers(),
                dropped_frames: self.previews.dropped(),
            }),
        }
        .diagnosed()
    }

    fn feeds(&self) -> Result<Vec<FeedInfo>, ApiError> {
        Ok(self.lock().feeds.list().iter().map(|feed| self.info(feed)).collect())
    }

    fn add_feed(&self, name: &str, until: Option<When>) -> Result<FeedInfo, ApiError> {
        let name: FeedName = name.parse()?;
        let mut store = self.lock();
        let feed = store.feeds.add(&name, until)?;
        self.push_keys(&store);
        self.switch_recordings(&store);
        self.apply_timing(&feed);
        drop(store);
        info!(feed = %name, "added");
        self.tell(Kind::FeedAdded, &name, "was added");
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
        self.tell(Kind::KeyRotated, &name, "has a new key: the old one opens nothing any more");
        Ok(self.info(&feed))
    }

    fn set_until(&self, name: &str, until: Option<When>) -> Result<FeedInfo, ApiError> {
        let name: FeedName = name.parse()?;
        let mut store = self.lock();
        let feed = store.feeds.set_until(&name, until)?;
        self.push_keys(&store);
        drop(store);
        let until = until.map_or_else(|| "it is changed".to_owned(), |until| until.to_string());
        info!(feed = %name, until, "its key's time was set");
        self.tell(Kind::KeyLimited, &name, &format!("has a key that is good until {until}"));
        Ok(self.info(&feed))
    }

    fn set_paused(&self, name: &str, paused: bool) -> Result<FeedInfo, ApiError> {
        let name: FeedName = name.parse()?;
        let mut store = self.lock();
        let feed = store.feeds.set_paused(&name, paused)?;
        self.push_keys(&store);
        drop(store);
        if paused {
            // The encoder that is on air goes, here and at every relay.
            self.hub.feed(name.to_string()).cut(Cut::Revoked, Instant::now());
        }
        info!(feed = %name, paused, "its key was switched");
        let (kind, text) = match paused {
            true => (Kind::KeyPaused, "is paused: its key opens nothing until it is resumed"),
            false => (Kind::KeyResumed, "is resumed: its key opens it again"),
        };
        self.tell(kind, &name, text);
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
        let what =
            if on { "has a user and a password" } else { "has no user and password any more" };
        self.tell(Kind::AuthSwitched, &name, what);
        Ok(self.info(&feed))
    }

    fn set_recording(&self, name: &str, on: bool) -> Result<FeedInfo, ApiError> {
        let name: FeedName = name.parse()?;
        if !on && self.config.record.all {
            return Err(ApiError::conflict(
                "this studio records every feed",
                "write `all = false` under [record] in its configuration file, and start it again",
            ));
        }
        let mut store = self.lock();
        let feed = store.feeds.set_recorded(&name, on)?;
        self.switch_recordings(&store);
        drop(store);
        info!(feed = %name, on, "recording was switched");
        Ok(self.info(&feed))
    }

    fn change_feed(&self, name: &str, change: FeedChange) -> Result<FeedInfo, ApiError> {
        let name: FeedName = name.parse()?;
        let mut store = self.lock();
        let known = store.feeds.find(name.as_str()).map(|feed| feed.timing);
        let timing = change.applied_to(known.unwrap_or_default());
        self.config.check_timing(timing).map_err(|why| {
            ApiError::invalid(&why, r#"send for example {"play_delay_ms": 1000}"#)
        })?;
        let feed = store.feeds.set_timing(&name, timing)?;
        self.apply_timing(&feed);
        drop(store);
        info!(feed = %name, ?timing, "when its players get it was set");
        Ok(self.info(&feed))
    }

    fn recordings(&self) -> Result<Vec<RecordingInfo>, ApiError> {
        Ok(self.recorder.list())
    }

    fn recording(&self, name: &str) -> Result<RecordingDetail, ApiError> {
        let (recording, parts) = self.recorder.recording(name)?;
        Ok(RecordingDetail { recording, parts })
    }

    fn recording_file(&self, name: &str, number: usize) -> Result<Opened, ApiError> {
        Ok(self.recorder.open_file(name, number)?)
    }

    fn delete_recording(&self, name: &str) -> Result<(), ApiError> {
        Ok(self.recorder.delete(name)?)
    }

    fn remove_feed(&self, name: &str) -> Result<(), ApiError> {
        let name: FeedName = name.parse()?;
        let mut store = self.lock();
        store.feeds.remove(&name)?;
        self.push_keys(&store);
        self.switch_recordings(&store);
        drop(store);
        self.hub.remove(&name.to_string());
        self.by_password.forget(&name.to_string());
        info!(feed = %name, "removed");
        self.tell(Kind::FeedRemoved, &name, "was removed");
        Ok(())
    }

    fn relays(&self) -> Result<Vec<RelayInfo>, ApiError> {
        Ok(self.relay_infos())
    }

    fn join_relay(&self, link: &str) -> Result<RelayInfo, ApiError> {
        self.join_by(link)
    }

    fn leave_relay(&self, key: &str) -> Result<(), ApiError> {
        self.leave_by(key)
    }

    fn preview(&self, name: &str, mode: Mode) -> Result<Viewer, NoPreview> {
        let feed = self.find_feed(name).ok_or(NoPreview::Unknown)?;
        self.previews.watch(&feed, mode).map_err(|full| {
            self.hits.count(Limit::Previews);
            NoPreview::Full(full)
        })
    }
}

impl Node {
    /// Takes note of what somebody did to a feed.
    fn tell(&self, kind: Kind, feed: &FeedName, what: &str) {
        let about = About::feed(feed.as_str());
        self.events.say(kind, Severity::Info, about, format!("{feed} {what}"));
    }

    fn feed_status(&self, feed: &StoredFeed, now: Instant) -> FeedStatus {
        let name = feed.name.as_str();
        let snapshot = self.hub.snapshot(&name.to_owned(), now);
        let mut status = FeedStatus::of(name, &snapshot);
        status.validity = feed.validity(SystemTime::now());
        status.publish = self.publish(&feed.key());
        status.auth = self.auth(feed, &status.publish);
        status.play = Some(self.play_url(name));
        if self.config.play.lan && !self.rtmp.ip().to_canonical().is_loopback() {
            let (host, key) = (self.lan_host(), self.play_key.expose());
            status.play_lan = Some(KeyText::play_lan(&host, self.rtmp.port(), name, key));
        }
        (status.player_list, status.latency.player_queue_ms) = self.players.of(name, now);
        let timing = self.timing(feed);
        status.play_delay_ms = timing.delay.as_millis() as u64;
        let max_delay = timing.max_delay.unwrap_or(self.config.play.max_delay);
        status.play_max_delay_ms = Some(max_delay.as_millis() as u64);
        let backfilled = |uplink: &Arc<Uplink>| uplink.inbox().backfilled(name);
        status.drops.backfilled_tags = self.uplinks.all().iter().map(backfilled).sum();
        let Some(publication) = snapshot.publication else { return status };
        for uplink in &self.uplinks.all() {
            let Some(figures) = uplink.inbox().figures(publication) else { continue };
            status.via = Some(uplink.relay().name.clone());
            status.latency.encoder_growth_ms = Some(figures.encoder_growth_ms as f64);
            status.latency.relay_queue_ms = figures.relay_queue;
            // What is measured here is the whole way, the backhaul included.
            status.encoder_stalls = figures
                .stalls
                .map(|stalls| Stalls { last_minute: stalls.count, longest_ms: stalls.longest_ms });
            let rtt = uplink.rtt().map(|rtt| rtt.as_secs_f64() * 500.0);
            let way = figures.backhaul.map(|way| way.as_secs_f64() * 1_000.0);
            status.latency.backhaul_ms = way.or(rtt);
            status.drops.skipped_tags = figures.skipped;
        }
        status
    }
}
