//! A studio's feeds and their secrets.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::{DataDir, StoreError, unix_seconds};
use crate::login::Login;
use crate::secret::{FeedName, Secret, StreamKey};
use crate::status::{PlayTiming, Validity};
use crate::when::When;

const FILE: &str = "feeds.toml";

/// The feed that a studio's first start makes.
pub const FIRST_FEED: &str = "camera";

/// Most feeds of one studio; far above any control room, and it bounds what relays must hold.
const MAX_FEEDS: usize = 256;

/// One feed as stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredFeed {
    /// Its name, unique in the studio.
    pub name: FeedName,
    /// Its secret, in clear, because the studio shows it to its owner.
    pub secret: Secret,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// Its user and password, if its owner wants them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Login>,
    /// Since when it is recorded, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recorded: Option<u64>,
    /// When its players get it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub timing: PlayTiming,
    /// Until when its key and password open it; without it for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<When>,
    /// Whether they open nothing until its owner says so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
}

fn is_default(timing: &PlayTiming) -> bool {
    *timing == PlayTiming::default()
}

impl StoredFeed {
    fn new(name: FeedName) -> Self {
        let created = unix_seconds(SystemTime::now());
        Self {
            name,
            secret: Secret::random(),
            created,
            auth: None,
            recorded: None,
            timing: PlayTiming::default(),
            until: None,
            paused: false,
        }
    }

    /// Whether its key and password let an encoder in at this time.
    pub fn admits(&self, at: SystemTime) -> bool {
        !self.paused && self.until.is_none_or(|until| unix_seconds(at) < until.unix())
    }

    /// When its key opens it, for people and programs.
    pub fn validity(&self, now: SystemTime) -> Validity {
        let expired = self.until.is_some_and(|until| until.unix() <= unix_seconds(now));
        Validity { paused: self.paused, until_s: self.until.map(When::unix), expired }
    }

    /// What its encoder types.
    pub fn key(&self) -> StreamKey {
        StreamKey { name: self.name.clone(), secret: self.secret.clone() }
    }
}

#[derive(Default, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default, rename = "feed")]
    feeds: Vec<StoredFeed>,
}

/// The feeds in `feeds.toml`; every change is on disk when its call returns.
#[derive(Debug)]
pub struct Feeds {
    data: DataDir,
    feeds: Vec<StoredFeed>,
}

impl Feeds {
    /// Reads the feeds; the first start makes one named [`FIRST_FEED`].
    pub fn load(data: &DataDir) -> Result<Self, StoreError> {
        let document: Option<Document> = data.read_toml(FILE)?;
        let mut loaded = Self { data: data.clone(), feeds: Vec::new() };
        match document {
            Some(document) => loaded.feeds = document.feeds,
            None => {
                let name = FIRST_FEED.parse().expect("the first feed's name is valid");
                loaded.save(vec![StoredFeed::new(name)])?;
            }
        }
        Ok(loaded)
    }

    /// All feeds, in the order in which they were added.
    pub fn list(&self) -> &[StoredFeed] {
        &self.feeds
    }

    /// The feed of this name.
    pub fn find(&self, name: &str) -> Option<&StoredFeed> {
        self.feeds.iter().find(|feed| feed.name.as_str() == name)
    }

    /// Makes a feed with a new secret, which is good until then; `None`: for ever.
    pub fn add(&mut self, name: &FeedName, until: Option<When>) -> Result<StoredFeed, FeedError> {
        not_past(until)?;
        if self.find(name.as_str()).is_some() {
            return Err(FeedError::Exists(name.clone()));
        }
        if self.feeds.len() >= MAX_FEEDS {
            return Err(StoreError::Full { what: "feeds", limit: MAX_FEEDS }.into());
        }
        let feed = StoredFeed { until, ..StoredFeed::new(name.clone()) };
        let mut feeds = self.feeds.clone();
        feeds.push(feed.clone());
        self.save(feeds)?;
        Ok(feed)
    }

    /// Gives a feed a new secret, and a new user and password if it has them; the old ones are
    /// worth nothing from then on.
    pub fn rotate(&mut self, name: &FeedName) -> Result<StoredFeed, FeedError> {
        let at = self.position(name)?;
        let mut feeds = self.feeds.clone();
        feeds[at].secret = Secret::random();
        feeds[at].auth = feeds[at].auth.as_ref().map(|_| Login::random(name));
        self.save(feeds)?;
        Ok(self.feeds[at].clone())
    }

    /// Gives a feed a user and a password, or takes them away. A feed that has them keeps them.
    pub fn set_auth(&mut self, name: &FeedName, on: bool) -> Result<StoredFeed, FeedError> {
        let at = self.position(name)?;
        if self.feeds[at].auth.is_some() != on {
            let mut feeds = self.feeds.clone();
            feeds[at].auth = on.then(|| Login::random(name));
            self.save(feeds)?;
        }
        Ok(self.feeds[at].clone())
    }

    /// Switches a feed's recording on or off. One that is recorded stays so since when it was.
    pub fn set_recorded(&mut self, name: &FeedName, on: bool) -> Result<StoredFeed, FeedError> {
        let at = self.position(name)?;
        if self.feeds[at].recorded.is_some() != on {
            let mut feeds = self.feeds.clone();
            feeds[at].recorded = on.then(|| unix_seconds(SystemTime::now()));
            self.save(feeds)?;
        }
        Ok(self.feeds[at].clone())
    }

    /// Says when a feed's players get it.
    pub fn set_timing(
        &mut self,
        name: &FeedName,
        timing: PlayTiming,
    ) -> Result<StoredFeed, FeedError> {
        let at = self.position(name)?;
        if self.feeds[at].timing != timing {
            let mut feeds = self.feeds.clone();
            feeds[at].timing = timing;
            self.save(feeds)?;
        }
        Ok(self.feeds[at].clone())
    }

    /// Says until when a feed's key and password are good; `None`: for ever.
    pub fn set_until(
        &mut self,
        name: &FeedName,
        until: Option<When>,
    ) -> Result<StoredFeed, FeedError> {
        not_past(until)?;
        let at = self.position(name)?;
        let mut feeds = self.feeds.clone();
        feeds[at].until = until;
        self.save(feeds)?;
        Ok(self.feeds[at].clone())
    }

    /// Makes a feed's key and password worth nothing for a while, or good again.
    pub fn set_paused(&mut self, name: &FeedName, paused: bool) -> Result<StoredFeed, FeedError> {
        let at = self.position(name)?;
        if self.feeds[at].paused != paused {
            let mut feeds = self.feeds.clone();
            feeds[at].paused = paused;
            self.save(feeds)?;
        }
        Ok(self.feeds[at].clone())
    }

    /// Forgets a feed and returns what it was.
    pub fn remove(&mut self, name: &FeedName) -> Result<StoredFeed, FeedError> {
        let at = self.position(name)?;
        let mut feeds = self.feeds.clone();
        let removed = feeds.remove(at);
        self.save(feeds)?;
        Ok(removed)
    }

    fn position(&self, name: &FeedName) -> Result<usize, FeedError> {
        let known = || self.feeds.iter().map(|feed| feed.name.as_str()).collect::<Vec<_>>();
        self.feeds
            .iter()
            .position(|feed| feed.name == *name)
            .ok_or_else(|| FeedError::Unknown { name: name.clone(), known: known().join(", ") })
    }

    /// Memory follows the disk: if the write fails, nothing has changed.
    fn save(&mut self, feeds: Vec<StoredFeed>) -> Result<(), StoreError> {
        let document = Document { feeds };
        self.data.write_toml(FILE, &document)?;
        self.feeds = document.feeds;
        Ok(())
    }
}

/// A key that was never good is a slip of the hand, or of the clock.
fn not_past(until: Option<When>) -> Result<(), FeedError> {
    match until.filter(|until| until.unix() <= unix_seconds(SystemTime::now())) {
        Some(until) => Err(FeedError::Past(until)),
        None => Ok(()),
    }
}

/// Why a feed was not changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FeedError {
    /// There is one of this name.
    #[error("there is already a feed named {0}")]
    Exists(FeedName),
    /// There is none of this name.
    #[error("there is no feed named {name}")]
    Unknown {
        /// The name that was asked for.
        name: FeedName,
        /// The names that there are.
        known: String,
    },
    /// Its key's last hour is over.
    #[error("{0} is over already")]
    Past(When),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl FeedError {
    /// What a person can do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::Exists(name) => format!("choose another name, or rotate {name} for a new key"),
            Self::Unknown { known, .. } if known.is_empty() => "add one first".into(),
            Self::Unknown { known, .. } => format!("the feeds are: {known}"),
            Self::Past(_) => {
                "name a later time and check this machine's clock, or pause the feed".into()
            }
            Self::Store(error) => error.hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn first_start_makes_one_feed_and_only_then() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let mut feeds = Feeds::load(&data).unwrap();
        assert_eq!(feeds.list().len(), 1);
        let camera = feeds.list()[0].name.clone();
        assert_eq!(camera.as_str(), "camera");
        feeds.remove(&camera).unwrap();
        assert!(Feeds::load(&data).unwrap().list().is_empty());
    }

    #[test]
    fn changes_survive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let mut feeds = Feeds::load(&data).unwrap();
        let name: FeedName = "roof-2".parse().unwrap();
        let added = feeds.add(&name, None).unwrap();
        let rotated = feeds.rotate(&name).unwrap();
        assert_ne!(added.secret, rotated.secret);
        assert_eq!(Feeds::load(&data).unwrap().find("roof-2"), Some(&rotated));
    }

    #[test]
    fn a_password_comes_changes_and_goes() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let mut feeds = Feeds::load(&data).unwrap();
        let camera: FeedName = "camera".parse().unwrap();
        let before = feeds.list()[0].clone();
        assert_eq!(before.auth, None);
        let on = feeds.set_auth(&camera, true).unwrap();
        assert_eq!(on.secret, before.secret, "the stream key stays");
        assert_ne!(on.auth.as_ref().unwrap().password, on.secret);
        assert_eq!(feeds.set_auth(&camera, true).unwrap(), on, "again changes nothing");
        assert_eq!(Feeds::load(&data).unwrap().list(), std::slice::from_ref(&on));
        let rotated = feeds.rotate(&camera).unwrap().auth.unwrap();
        let first = on.auth.unwrap();
        assert!(rotated.user != first.user && rotated.password != first.password);
        assert_eq!(feeds.set_auth(&camera, false).unwrap().auth, None);
        assert_eq!(feeds.rotate(&camera).unwrap().auth, None);
    }

    #[test]
    fn a_key_is_limited_and_paused() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let mut feeds = Feeds::load(&data).unwrap();
        let camera: FeedName = "camera".parse().unwrap();
        let now = SystemTime::now();
        let hour = Duration::from_secs(3_600);
        let until = When::after(now, hour);
        let limited = feeds.set_until(&camera, until).unwrap();
        assert!(limited.admits(now) && !limited.admits(now + hour));
        assert!(!limited.validity(now).expired && limited.validity(now + hour).expired);
        let paused = feeds.set_paused(&camera, true).unwrap();
        assert!(!paused.admits(now));
        assert_eq!(paused.secret, limited.secret, "the key stays");
        let mut again = Feeds::load(&data).unwrap();
        assert_eq!(again.list(), [paused]);
        assert_eq!(again.set_paused(&camera, false).unwrap(), limited);
        let text = std::fs::read_to_string(data.file(FILE)).unwrap();
        assert!(text.contains("until = ") && !text.contains("paused"), "{text}");
        assert!(again.set_until(&camera, None).unwrap().admits(now + 1_000 * hour));
        let error = again.set_until(&camera, When::from_unix(5)).unwrap_err();
        assert_eq!(error.to_string(), "1970-01-01 00:00 UTC is over already");
        let roof = "roof".parse().unwrap();
        assert!(matches!(again.add(&roof, When::from_unix(5)), Err(FeedError::Past(_))));
        assert!(!again.add(&roof, until).unwrap().admits(now + hour));
    }

    #[test]
    fn recording_is_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let mut feeds = Feeds::load(&data).unwrap();
        let camera: FeedName = "camera".parse().unwrap();
        assert_eq!(feeds.list()[0].recorded, None);
        let since = feeds.set_recorded(&camera, true).unwrap().recorded.unwrap();
        assert!(since > 1_700_000_000);
        assert_eq!(feeds.set_recorded(&camera, true).unwrap().recorded, Some(since));
        let mut again = Feeds::load(&data).unwrap();
        assert_eq!(again.list()[0].recorded, Some(since));
        assert_eq!(again.set_recorded(&camera, false).unwrap().recorded, None);
        let unknown = "roof".parse().unwrap();
        assert!(matches!(again.set_recorded(&unknown, true), Err(FeedError::Unknown { .. })));
    }

    #[test]
    fn timing_is_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let mut feeds = Feeds::load(&data).unwrap();
        let camera: FeedName = "camera".parse().unwrap();
        feeds.set_auth(&camera, true).unwrap();
        let timing = PlayTiming { play_delay_ms: Some(1_000), play_max_delay_ms: None };
        assert_eq!(feeds.set_timing(&camera, timing).unwrap().timing, timing);
        let mut again = Feeds::load(&data).unwrap();
        assert_eq!(again.list()[0].timing, timing);
        let none = PlayTiming::default();
        assert_eq!(again.set_timing(&camera, none).unwrap().timing, none);
        assert_eq!(Feeds::load(&data).unwrap().list()[0].timing, none);
    }

    #[test]
    fn duplicates_and_unknown_names_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let mut feeds = Feeds::load(&data).unwrap();
        let error = feeds.add(&"camera".parse().unwrap(), None).unwrap_err();
        assert_eq!(error.to_string(), "there is already a feed named camera");
        let error = feeds.rotate(&"cam".parse().unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "there is no feed named cam");
        assert_eq!(error.hint(), "the feeds are: camera");
    }
}
