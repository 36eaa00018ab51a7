//! The relay as dashboard and API see it.

use std::time::{Duration, Instant, SystemTime};

use super::Node;
use super::directory::FeedId;
use crate::egress::preview::{Mode, Viewer};
use crate::events::Events;
use crate::status::{
    Addresses, FeedInfo, FeedStatus, InviteInfo, KeyText, LimitStatus, RecordingInfo, SpoolStatus,
    Status, StudioInfo, feed_alarm,
};
use crate::web::{self, ApiError, FeedChange, NoPreview};
use crate::when::When;

impl web::Node for Node {
    fn events(&self) -> &Events {
        &self.events
    }

    fn status(&self) -> Status {
        let now = Instant::now();
        let feeds: Vec<_> = self.directory.borrow().feeds().collect();
        let mut alarms: Vec<_> = self.certificate.alarm().into_iter().collect();
        alarms.extend(self.spool.alarm());
        alarms.extend(self.events.alarms());
        let snapshots: Vec<_> =
            feeds.into_iter().map(|id| (self.hub.snapshot(&id, now), id)).collect();
        let memory = self.hub.memory();
        let tracks = snapshots.iter().flat_map(|(snapshot, _)| snapshot.tracks.iter());
        let bits: f64 = tracks.map(|(_, track)| track.bits_per_second).sum();
        let survives = self.spool.survives(bits / 8.0, memory.total).as_secs_f64();
        let feeds = snapshots.into_iter().map(|(snapshot, id)| {
            alarms.extend(feed_alarm(&id, &snapshot));
            FeedStatus {
                studio: Some(id.studio.to_string()),
                record_survives_s: snapshot.publication.map(|_| survives),
                spooled_s: self.spooled(&id, now),
                ..FeedStatus::of(&id.name, &snapshot)
            }
        });
        let mut feeds: Vec<_> = feeds.collect();
        feeds.sort_by(|a, b| (&a.studio, &a.name).cmp(&(&b.studio, &b.name)));
        // It may have expired, or been revoked.
        let is_good = self.lock_store().invites.admits(&self.start_invite, SystemTime::now());
        let join_link = is_good.then(|| KeyText::link(&self.join_link()));
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
            join_link,
            connections: (guests + sessions) as u64,
            alarms,
            feeds,
            links,
            limits: LimitStatus::new(&self.hits, (guests, sessions), memory),
            spool: Some(SpoolStatus::new(self.spool.figures(), memory)),
            webhooks: self.events.webhooks(),
            previews: None,
        }
        .diagnosed()
    }

    fn feeds(&self) -> Result<Vec<FeedInfo>, ApiError> {
        Err(ApiError::feeds_belong_to_the_studio())
    }

    fn add_feed(&self, _: &str, _: Option<When>) -> Result<FeedInfo, ApiError> {
        Err(ApiError::feeds_belong_to_the_studio())
    }

    fn rotate_feed(&self, _: &str) -> Result<FeedInfo, ApiError> {
        Err(ApiError::feeds_belong_to_the_studio())
    }

    fn set_auth(&self, _: &str, _: bool) -> Result<FeedInfo, ApiError> {
        Err(ApiError::feeds_belong_to_the_studio())
    }

    fn set_recording(&self, _: &str, _: bool) -> Result<FeedInfo, ApiError> {
        Err(ApiError::feeds_belong_to_the_studio())
    }

    fn change_feed(&self, _: &str, _: FeedChange) -> Result<FeedInfo, ApiError> {
        Err(ApiError::feeds_belong_to_the_studio())
    }

    fn recordings(&self) -> Result<Vec<RecordingInfo>, ApiError> {
        Err(ApiError::feeds_belong_to_the_studio())
    }

    fn remove_feed(&self, _: &str) -> Result<(), ApiError> {
        Err(ApiError::feeds_belong_to_the_studio())
    }

    fn studios(&self) -> Result<Vec<StudioInfo>, ApiError> {
        Ok(self.studio_infos())
    }

    fn set_admission(&self, key: &str, on: bool) -> Result<StudioInfo, ApiError> {
        self.admit_studio(key, on)
    }

    fn invites(&self) -> Result<Vec<InviteInfo>, ApiError> {
        Ok(self.invite_infos())
    }

    fn revoke_invite(&self, id: &str) -> Result<(), ApiError> {
        self.revoke(id)
    }

    fn create_invite(&self, uses: Option<u32>, expires: Duration) -> Result<String, ApiError> {
        let invite = self.lock_store().invites.create(uses, expires, SystemTime::now())?;
        Ok(self.link_with(invite).expose())
    }

    fn preview(&self, _: &str, _: Mode) -> Result<Viewer, NoPreview> {
        Err(NoPreview::Elsewhere)
    }
}

impl Node {
    /// The age in seconds of the oldest tag of a feed that is kept.
    fn spooled(&self, id: &FeedId, now: Instant) -> Option<f64> {
        let kept = self.spool.kept(&self.hub.find(id)?);
        let oldest = kept.iter().map(|kept| kept.oldest).min()?;
        Some(now.saturating_duration_since(oldest).as_secs_f64())
    }
}
