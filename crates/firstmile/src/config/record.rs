//! What is recorded, where, and as what.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

use super::{ConfigError, size, some_duration, some_size};
use crate::date::Date;

/// What is recorded, where, and as what.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Record {
    /// Where recordings are kept, instead of in the data directory.
    pub dir: Option<PathBuf>,
    /// Whether every feed is recorded.
    pub all: bool,
    /// What a recording becomes.
    pub format: RecordFormat,
    /// Whether the journal stays when a recording has become a file.
    pub keep_journal: bool,
    /// The files' names.
    pub name: NamePattern,
    /// A file ends at the first keyframe from this length on.
    #[serde(deserialize_with = "some_duration")]
    pub split_time: Option<Duration>,
    /// A file ends at the first keyframe from this size on.
    #[serde(deserialize_with = "some_size")]
    pub split_bytes: Option<u64>,
    /// Bytes of the disk that recordings leave free.
    #[serde(deserialize_with = "size")]
    pub keep_free: u64,
}

/// What a recording becomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecordFormat {
    /// Fragmented MP4; FLV where the codec has no place in it.
    #[default]
    Mp4,
    /// FLV, once nothing more can come.
    Flv,
    /// It stays a journal; files are exported by hand.
    Journal,
}

impl Record {
    /// Where recordings are kept.
    pub fn dir(&self, data: &Path) -> PathBuf {
        self.dir.clone().unwrap_or_else(|| data.join("recordings"))
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if self.split_time.is_some_and(|time| time < Duration::from_secs(10)) {
            return Err(ConfigError::value("record.split_time", "it must be 10s or more"));
        }
        if self.split_bytes.is_some_and(|bytes| bytes < 1 << 20) {
            return Err(ConfigError::value("record.split_bytes", "it must be 1 MiB or more"));
        }
        Ok(())
    }
}

impl Default for Record {
    fn default() -> Self {
        Self {
            dir: None,
            all: false,
            format: RecordFormat::default(),
            keep_journal: false,
            name: NamePattern::default(),
            split_time: None,
            split_bytes: None,
            keep_free: 1 << 30,
        }
    }
}

/// How files are named: text with `{feed}`, `{date}`, `{time}`, `{part}` and `{id}` in it.
///
/// It makes names that are safe on every system: letters, digits, `-`, `_` and single dots between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamePattern(String);

/// Longest pattern: a feed's name has 32 characters, and 255 bytes are the most for a file's.
const MAX_PATTERN: usize = 100;

impl NamePattern {
    /// The name, without its extension, of a part that began at `started_ms` since 1970, UTC.
    pub fn fill(&self, feed: &str, started_ms: i64, part: u32, id: &str) -> String {
        let Date { year, month, day, hour, minute, second } = Date::of_unix_ms(started_ms);
        let id = &id[..id.len().min(8)];
        self.0
            .replace("{feed}", feed)
            .replace("{date}", &format!("{year:04}-{month:02}-{day:02}"))
            .replace("{time}", &format!("{hour:02}{minute:02}{second:02}"))
            .replace("{part}", &part.to_string())
            .replace("{id}", id)
    }
}

impl Default for NamePattern {
    fn default() -> Self {
        Self("{feed}-{date}-{time}-{part}".to_owned())
    }
}

impl<'de> Deserialize<'de> for NamePattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let pattern = Self(String::deserialize(deserializer)?);
        // As long as a name of many characters, so that what the braces stand for is checked too.
        let name = pattern.fill("f", 0, 1, "00000000");
        let is_safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let is_name = !name.is_empty()
            && pattern.0.len() <= MAX_PATTERN
            && name.chars().all(is_safe)
            && name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && !name.contains("..")
            && !name.ends_with('.');
        if is_name {
            return Ok(pattern);
        }
        Err(de::Error::custom(
            "a name is made of letters, digits, - and _ with {feed}, {date}, {time}, {part} and {id}, \
             for example \"{feed}-{date}-{time}-{part}\"",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Option<NamePattern> {
        let quoted = toml::Value::String(text.to_owned());
        NamePattern::deserialize(quoted).ok()
    }

    #[test]
    fn names_are_safe_on_every_system() {
        let name =
            |text: &str| Some(pattern(text)?.fill("roof-2", 951_782_399_999, 3, "aabbccddee"));
        let usual = NamePattern::default().fill("roof-2", 951_782_399_999, 3, "aabbccddee");
        assert_eq!(usual, "roof-2-2000-02-28-235959-3");
        assert_eq!(name("Show_1.{feed}_{id}").as_deref(), Some("Show_1.roof-2_aabbccdd"));
        for bad in [
            "",
            "../{feed}",
            "a/{feed}",
            "a\\b",
            "{feed}..{part}",
            ".{feed}",
            "-{feed}",
            "{feed}.",
            "{feed} {part}",
            "{year}",
            "{feed}:{part}",
            "\u{fc}ber",
            &"x".repeat(101),
        ] {
            assert_eq!(name(bad), None, "{bad:?}");
        }
    }
}
