//! Secrets that a person may read aloud, and the keys made of them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::base32;

/// Symbols in a secret: 26 of five bits each are 130 bits.
pub const SECRET_LEN: usize = 26;

/// What stands in the place of a secret in logs and in answers to those who may not see it.
pub const MASK: &str = "****";

/// 130 random bits as 26 canonical symbols of Crockford's base32.
///
/// `Debug` prints a mask, equality takes constant time, and only [`Secret::expose`] shows it.
#[derive(Clone)]
pub struct Secret([u8; SECRET_LEN]);

impl Secret {
    /// Draws a new secret from the system's generator.
    pub fn random() -> Self {
        let drawn: [u8; SECRET_LEN] = rand::random();
        Self(drawn.map(|byte| base32::SYMBOLS[usize::from(byte & 31)]))
    }

    /// The secret itself, in canonical form; for the wire, for disk, and for its owner's eyes.
    pub fn expose(&self) -> &str {
        std::str::from_utf8(&self.0).expect("a secret holds base32 symbols only")
    }

    /// The verifier that a relay stores in place of a feed's secret.
    pub fn key_hash(&self) -> KeyHash {
        KeyHash::of(b"firstmile key v1\0", self)
    }

    /// What a node keeps of a session of a browser.
    pub fn session_hash(&self) -> KeyHash {
        KeyHash::of(b"firstmile session v1\0", self)
    }

    /// What a relay is told in place of the verifier while the key is paused: always the same, and
    /// of no key.
    pub fn paused_hash(&self) -> KeyHash {
        KeyHash::of(b"firstmile paused v1\0", self)
    }

    /// The verifier that a relay stores in place of an invite.
    pub fn invite_hash(&self) -> KeyHash {
        KeyHash::of(b"firstmile invite v1\0", self)
    }
}

impl FromStr for Secret {
    type Err = SecretError;

    /// Reads 26 symbols in any case, with `i` and `l` taken for 1 and `o` for 0.
    fn from_str(text: &str) -> Result<Self, SecretError> {
        let bytes = text.as_bytes();
        if bytes.len() != SECRET_LEN {
            return Err(SecretError::Length(text.chars().count()));
        }
        let mut symbols = [0; SECRET_LEN];
        for (symbol, &byte) in symbols.iter_mut().zip(bytes) {
            let value = base32::value(byte).ok_or(SecretError::Symbol)?;
            *symbol = base32::SYMBOLS[usize::from(value)];
        }
        Ok(Self(symbols))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Secret {}

/// For the private files of a data directory; nothing else serializes a secret.
impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.expose())
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Why a text is not a [`Secret`]; never repeats the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// The text is too short or too long.
    #[error("a secret has {SECRET_LEN} characters, this has {0}")]
    Length(usize),
    /// A character is none of the alphabet's.
    #[error("a secret has only digits and letters without U")]
    Symbol,
}

/// A bearer token or play key: 16 to 128 characters that need no escaping in a URL.
///
/// `Debug` prints a mask, and equality takes constant time.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// Draws a new token of 130 bits.
    pub fn random() -> Self {
        Self(Secret::random().expose().to_owned())
    }

    /// The token itself; for private files, and for its owner's eyes.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Compares with what a client sent, in constant time for texts of one length.
    pub fn matches(&self, sent: &str) -> bool {
        self.0.as_bytes().ct_eq(sent.as_bytes()).into()
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        // RFC 3986 §2.3, the unreserved characters.
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
        let good = (16..=128).contains(&text.len()) && text.bytes().all(plain);
        if good { Ok(Self(text.to_owned())) } else { Err(TokenError) }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl PartialEq for Token {
    fn eq(&self, other: &Self) -> bool {
        self.matches(&other.0)
    }
}

impl Eq for Token {}

/// For the private files of a data directory; nothing else serializes a token.
impl Serialize for Token {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Token {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// A text is not a [`Token`]; never repeats the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a token has 16 to 128 letters, digits or any of -._~")]
pub struct TokenError;

/// A password that the dashboard's owner chose: 8 to 128 characters, nothing invisible among them.
///
/// `Debug` prints a mask, and equality takes constant time, whatever is compared.
#[derive(Clone)]
pub struct Password(String);

impl Password {
    /// Compares with what a browser sent; the time taken tells nothing, not even the length.
    pub fn matches(&self, sent: &str) -> bool {
        let hash = |text: &str| -> [u8; 32] { Sha256::digest(text).into() };
        hash(&self.0).ct_eq(&hash(sent)).into()
    }
}

impl FromStr for Password {
    type Err = PasswordError;

    fn from_str(text: &str) -> Result<Self, PasswordError> {
        let is_good = (8..=128).contains(&text.chars().count()) && !text.contains(char::is_control);
        if is_good { Ok(Self(text.to_owned())) } else { Err(PasswordError) }
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl PartialEq for Password {
    fn eq(&self, other: &Self) -> bool {
        self.matches(&other.0)
    }
}

impl Eq for Password {}

impl<'de> Deserialize<'de> for Password {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// A text is not a [`Password`]; never repeats the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a password has 8 to 128 characters")]
pub struct PasswordError;

/// The stored form of a secret: SHA-256 over a purpose and the canonical text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyHash(pub [u8; 32]);

impl KeyHash {
    fn of(purpose: &[u8], secret: &Secret) -> Self {
        Self(Sha256::new().chain_update(purpose).chain_update(secret.0).finalize().into())
    }

    /// Compares in constant time, for tables that are searched from end to end.
    pub fn matches(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Serialize for KeyHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&base32::encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for KeyHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        base32::decode(&text)
            .map(Self)
            .ok_or_else(|| de::Error::custom("a hash has 52 characters of base32"))
    }
}

/// The name of a feed: `[a-z0-9-]{1,32}`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct FeedName(String);

impl FeedName {
    /// Longest name, in characters; two of them fit an encoder's key field beside the secret.
    pub const MAX: usize = 32;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for FeedName {
    type Err = FeedNameError;

    fn from_str(text: &str) -> Result<Self, FeedNameError> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if text.is_empty() {
            Err(FeedNameError::Empty)
        } else if text.chars().count() > Self::MAX {
            Err(FeedNameError::TooLong)
        } else if !text.bytes().all(allowed) {
            Err(FeedNameError::Character)
        } else {
            Ok(Self(text.to_owned()))
        }
    }
}

impl fmt::Display for FeedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for FeedName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Why a text is not a [`FeedName`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FeedNameError {
    /// Nothing was given.
    #[error("a feed name is empty: write one such as camera-2")]
    Empty,
    /// More than [`FeedName::MAX`] characters.
    #[error("a feed name has at most 32 characters")]
    TooLong,
    /// Something other than lower-case letters, digits and hyphens.
    #[error("a feed name has only lower-case letters a-z, digits and hyphens, as in camera-2")]
    Character,
}

/// What an encoder types into its stream key field: `NAME-SECRET`.
///
/// The name is for people. The secret alone routes, see [`StreamKey::secret_of`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamKey {
    /// The feed's name.
    pub name: FeedName,
    /// The feed's secret.
    pub secret: Secret,
}

impl StreamKey {
    /// The key in clear, `name-SECRET`.
    pub fn expose(&self) -> String {
        format!("{}-{}", self.name, self.secret.expose())
    }

    /// The key with its secret masked, `name-****`.
    pub fn masked(&self) -> String {
        format!("{}-{MASK}", self.name)
    }

    /// The hashes of everything that may be a secret among what a client sent, in its order.
    ///
    /// The work depends on the request alone, not on what is known here.
    pub fn hashes_in(request: &rtmp::session::Request) -> Vec<KeyHash> {
        let secrets = request.keys().into_iter().filter_map(|key| Self::secret_of(&key));
        secrets.map(|secret| secret.key_hash()).collect()
    }

    /// The secret in whatever a client sent: what follows the last hyphen, or all of it.
    pub fn secret_of(text: &str) -> Option<Secret> {
        text.rsplit('-').next()?.trim().parse().ok()
    }
}

impl FromStr for StreamKey {
    type Err = StreamKeyError;

    fn from_str(text: &str) -> Result<Self, StreamKeyError> {
        let (name, secret) = text.trim().rsplit_once('-').ok_or(StreamKeyError::NoHyphen)?;
        Ok(Self { name: name.parse()?, secret: secret.parse()? })
    }
}

/// Why a text is not a [`StreamKey`]; never repeats the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StreamKeyError {
    /// There is no hyphen between name and secret.
    #[error("a stream key is a feed name, a hyphen and a secret")]
    NoHyphen,
    /// What precedes the last hyphen is no feed name.
    #[error(transparent)]
    Name(#[from] FeedNameError),
    /// What follows the last hyphen is no secret.
    #[error(transparent)]
    Secret(#[from] SecretError),
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "0123456789ABCDEFGHJKMNPQRS";

    #[test]
    fn random_secrets_are_canonical_and_differ() {
        let (a, b) = (Secret::random(), Secret::random());
        assert_ne!(a, b);
        assert_eq!(a.expose().len(), SECRET_LEN);
        assert_eq!(a.expose().parse::<Secret>().unwrap().expose(), a.expose());
    }

    #[test]
    fn reads_any_case_and_misreadings() {
        let secret: Secret = TEXT.parse().unwrap();
        assert_eq!(TEXT.to_lowercase().parse::<Secret>().unwrap(), secret);
        assert_eq!("oi23456789abcdefghjkmnpqrs".parse::<Secret>().unwrap(), secret);
        assert_eq!("OL23456789ABCDEFGHJKMNPQRS".parse::<Secret>().unwrap(), secret);
    }

    #[test]
    fn refuses_without_repeating() {
        assert_eq!("short".parse::<Secret>(), Err(SecretError::Length(5)));
        assert_eq!("U123456789ABCDEFGHJKMNPQRS".parse::<Secret>(), Err(SecretError::Symbol));
        assert_eq!("é123456789ABCDEFGHJKMNPQR".parse::<Secret>(), Err(SecretError::Symbol));
    }

    #[test]
    fn debug_masks() {
        let key: StreamKey = format!("camera-{TEXT}").parse().unwrap();
        assert!(!format!("{key:?}").contains(TEXT));
        assert_eq!(key.masked(), "camera-****");
    }

    #[test]
    fn key_splits_at_the_last_hyphen() {
        let key: StreamKey = format!("roof-cam-2-{}", TEXT.to_lowercase()).parse().unwrap();
        assert_eq!(key.name.as_str(), "roof-cam-2");
        assert_eq!(key.expose(), format!("roof-cam-2-{TEXT}"));
        assert_eq!(TEXT.parse::<StreamKey>(), Err(StreamKeyError::NoHyphen));
        assert_eq!(
            format!("-{TEXT}").parse::<StreamKey>(),
            Err(StreamKeyError::Name(FeedNameError::Empty))
        );
    }

    #[test]
    fn the_secret_alone_routes() {
        let secret: Secret = TEXT.parse().unwrap();
        for sent in [TEXT.to_owned(), format!("Any Name-{TEXT}"), format!("--{TEXT} ")] {
            assert_eq!(StreamKey::secret_of(&sent), Some(secret.clone()), "{sent}");
        }
        assert_eq!(StreamKey::secret_of("camera"), None);
        assert_eq!(StreamKey::secret_of(""), None);
    }

    #[test]
    fn hashes_are_stable_and_bound_to_their_purpose() {
        let secret: Secret = TEXT.to_lowercase().parse().unwrap();
        let expected = Sha256::digest(format!("firstmile key v1\0{TEXT}"));
        assert_eq!(secret.key_hash().0, <[u8; 32]>::from(expected));
        assert_ne!(secret.key_hash(), secret.invite_hash());
        assert!(secret.key_hash().matches(&secret.key_hash()));
    }

    #[test]
    fn tokens() {
        let token: Token = "correct-horse.battery".parse().unwrap();
        assert!(token.matches("correct-horse.battery"));
        assert!(!token.matches("correct-horse.batterY") && !token.matches(""));
        assert_eq!(format!("{token:?}"), MASK);
        assert_eq!("too-short".parse::<Token>(), Err(TokenError));
        assert_eq!("with a space in it!".parse::<Token>(), Err(TokenError));
        assert!(Token::random().expose().parse::<Token>().is_ok());
    }

    #[test]
    fn feed_names() {
        assert!("camera-2".parse::<FeedName>().is_ok());
        assert!("a".repeat(32).parse::<FeedName>().is_ok());
        assert_eq!("".parse::<FeedName>(), Err(FeedNameError::Empty));
        assert_eq!("a".repeat(33).parse::<FeedName>(), Err(FeedNameError::TooLong));
        for bad in ["Camera", "a b", "a/b", "ä", "a_b"] {
            assert_eq!(bad.parse::<FeedName>(), Err(FeedNameError::Character), "{bad}");
        }
    }
}
