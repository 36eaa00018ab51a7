//! The key with which players on the LAN open a studio's feeds.

use serde::{Deserialize, Serialize};

use super::{DataDir, StoreError};
use crate::secret::Token;

const FILE: &str = "play.toml";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    key: Token,
}

/// Reads the play key, or makes and stores one at the first start.
pub fn play_key(data: &DataDir) -> Result<Token, StoreError> {
    if let Some(document) = data.read_toml::<Document>(FILE)? {
        return Ok(document.key);
    }
    let key = Token::random();
    data.write_toml(FILE, &Document { key: key.clone() })?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        assert_eq!(play_key(&data).unwrap(), play_key(&data).unwrap());
    }
}
