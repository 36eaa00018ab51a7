//! The page of a relay on which a phone measures its way there.

use serde::Deserialize;

use super::{ConfigError, at_least, size};

/// Largest upload that may be allowed: more takes longer than a request may.
const MOST_UPLOAD: u64 = 64 << 20;

/// The page on which a phone measures its way to the relay, and what strangers may take by it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Measure {
    /// Whether there is such a page.
    pub page: bool,
    /// Most bytes of one upload.
    #[serde(deserialize_with = "size")]
    pub upload: u64,
    /// Most bytes that one address (IPv6: one /64) uploads in ten minutes.
    #[serde(deserialize_with = "size")]
    pub upload_per_ip: u64,
    /// The same of all together.
    #[serde(deserialize_with = "size")]
    pub upload_total: u64,
    /// Uploads at one time.
    pub at_once: usize,
}

impl Default for Measure {
    fn default() -> Self {
        Self {
            page: true,
            upload: 8 << 20,
            upload_per_ip: 64 << 20,
            upload_total: 512 << 20,
            at_once: 4,
        }
    }
}

impl Measure {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        at_least("measure.at_once", self.at_once, 1)?;
        if !(64 << 10..=MOST_UPLOAD).contains(&self.upload) {
            return Err(ConfigError::value("measure.upload", "it must be from 64 KiB to 64 MiB"));
        }
        for (key, bound) in [
            ("measure.upload_per_ip", self.upload_per_ip),
            ("measure.upload_total", self.upload_total),
        ] {
            if bound < self.upload {
                return Err(ConfigError::value(key, "it must be at least measure.upload"));
            }
        }
        Ok(())
    }
}
