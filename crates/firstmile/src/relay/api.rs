//! The relay as dashboard and API see it.

use std::time::{Duration, Instant, SystemTime};

use super::Node;
use crate::status::{Addresses, FeedInfo, FeedStatus, KeyText, LimitStatus, Status, feed_alarm};
use crate::web::{self, ApiError};

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
