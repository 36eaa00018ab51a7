//! What studios have told a relay of their keys, for encoders that come back before their studio.

use std::fs;
use std::io;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use tracing::warn;

use super::{DataDir, StoreError};
use crate::identity::PublicKey;
use crate::secret::KeyHash;

const FILE: &str = "verifiers.toml";
/// Where a file goes that cannot be read.
const DAMAGED: &str = "verifiers.damaged";

/// Most feeds in the file, some 250 bytes each; it is read whole.
const MAX_FEEDS: usize = 8_192;

/// What a studio has pushed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownStudio {
    /// Its public key.
    pub key: PublicKey,
    /// When it left, in seconds since 1970; nothing while it is here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<u64>,
    /// Its feeds.
    #[serde(default, rename = "feed")]
    pub feeds: Vec<KnownFeed>,
}

/// A feed of a studio, and what opens it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownFeed {
    /// Its name.
    pub name: String,
    /// Its key's hash.
    pub hash: KeyHash,
    /// When its key's time is over, in seconds since 1970 by this machine's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<u64>,
    /// Who may publish it with a password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<KnownLogin>,
}

/// A user and what proves the password.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownLogin {
    /// The user's name.
    pub user: String,
    /// As good as the password for this one feed.
    #[serde(serialize_with = "to_hex", deserialize_with = "from_hex")]
    pub verifier: [u8; 16],
}

impl std::fmt::Debug for KnownLogin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KnownLogin").field("user", &self.user).finish_non_exhaustive()
    }
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default, rename = "studio")]
    studios: Vec<KnownStudio>,
}

/// The file `verifiers.toml`.
#[derive(Debug)]
pub struct Verifiers {
    data: DataDir,
    saved: Vec<KnownStudio>,
}

impl Verifiers {
    /// Reads what is known; a file that is damaged is set aside, as studios push everything again.
    pub fn load(data: &DataDir) -> Self {
        let document: Document = match data.read_toml(FILE) {
            Ok(document) => document.unwrap_or_default(),
            Err(error) => {
                set_aside(data, &error);
                Document::default()
            }
        };
        Self { data: data.clone(), saved: document.studios }
    }

    /// What is in the file.
    pub fn studios(&self) -> &[KnownStudio] {
        &self.saved
    }

    /// Replaces what is in the file, if it is something else; those in front are kept if there is too
    /// much.
    ///
    /// # Errors
    ///
    /// If the file cannot be written; then the next call tries again.
    pub fn save(&mut self, mut studios: Vec<KnownStudio>) -> Result<(), StoreError> {
        let mut feeds = 0;
        studios.retain(|studio| {
            feeds += studio.feeds.len();
            feeds <= MAX_FEEDS
        });
        if studios == self.saved {
            return Ok(());
        }
        let document = Document { studios };
        self.data.write_toml(FILE, &document)?;
        self.saved = document.studios;
        Ok(())
    }
}

/// Says what is wrong, without what the file holds, and moves the file away.
fn set_aside(data: &DataDir, error: &StoreError) {
    let (file, damaged) = (data.file(FILE), data.file(DAMAGED));
    let (is_damaged, line) = match error {
        StoreError::Corrupt { line, .. } => (true, *line),
        StoreError::Io { source, .. } => (source.kind() == io::ErrorKind::InvalidData, None),
        _ => (false, None),
    };
    if !is_damaged {
        warn!(%error, "encoders have to wait until their studios are back");
        return;
    }
    let moved = fs::rename(&file, &damaged);
    let to = moved.map_or_else(|error| error.to_string(), |()| damaged.display().to_string());
    warn!(
        file = %file.display(), line, moved_to = to,
        "what the studios' encoders show is damaged and set aside; they have to wait until their \
         studios are back",
    );
}

fn to_hex<S: Serializer>(bytes: &[u8; 16], serializer: S) -> Result<S::Ok, S::Error> {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    serializer.serialize_str(&hex)
}

fn from_hex<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 16], D::Error> {
    let text = String::deserialize(deserializer)?;
    let number = u128::from_str_radix(&text, 16).ok().filter(|_| text.len() == 32);
    number.map(u128::to_be_bytes).ok_or_else(|| de::Error::custom("a verifier has 32 hex digits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn studio(n: u8, feeds: usize) -> KnownStudio {
        let feed = |i: usize| KnownFeed {
            name: format!("a-feed-with-a-long-name-{i:08}"),
            hash: KeyHash([n; 32]),
            end: Some(1_800_000_000),
            login: Some(KnownLogin { user: format!("camera-{i:08}"), verifier: [n; 16] }),
        };
        let feeds = (0..feeds).map(feed).collect();
        KnownStudio { key: PublicKey([n; 32]), left: Some(1_700_000_000), feeds }
    }

    #[test]
    fn what_was_saved_is_there_at_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let mut verifiers = Verifiers::load(&data);
        assert_eq!(verifiers.studios(), []);
        let mut known = vec![studio(1, 2), studio(0x0a, 1)];
        known[1].left = None;
        known[1].feeds[0].login = None;
        known[1].feeds[0].end = None;
        verifiers.save(known.clone()).unwrap();
        assert_eq!(Verifiers::load(&data).studios(), known);
        // Only what has changed is written.
        fs::remove_file(data.file(FILE)).unwrap();
        verifiers.save(known.clone()).unwrap();
        assert!(!data.file(FILE).exists());
        known.pop();
        verifiers.save(known.clone()).unwrap();
        assert_eq!(Verifiers::load(&data).studios(), known);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = fs::metadata(data.file(FILE)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[test]
    fn the_largest_file_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let known: Vec<_> = (0..200).map(|n| studio(n, 64)).collect();
        Verifiers::load(&data).save(known.clone()).unwrap();
        assert_eq!(Verifiers::load(&data).studios(), &known[..MAX_FEEDS / 64]);
    }

    #[test]
    fn a_damaged_file_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        for content in [&b"[[studio]]\nkey = 5\n"[..], b"\xff\xfe", b"[[studio"] {
            fs::write(data.file(FILE), content).unwrap();
            let mut verifiers = Verifiers::load(&data);
            assert_eq!(verifiers.studios(), []);
            assert_eq!(fs::read(data.file(DAMAGED)).unwrap(), content);
            assert!(!data.file(FILE).exists());
            verifiers.save(vec![studio(1, 1)]).unwrap();
            assert_eq!(Verifiers::load(&data).studios().len(), 1);
        }
    }
}
