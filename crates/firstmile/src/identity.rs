//! Who a node is: one Ed25519 key pair, made at its first start.

use std::fmt;
use std::path::Path;

use hmac::{Hmac, Mac};
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519, PublicKeyData};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::Sha256;

use crate::base32;
use crate::store::{DataDir, StoreError};

/// The file in a data directory.
const FILE: &str = "identity.pem";

/// The DNS name in every node's self-signed certificate; peers check the key, not the name.
pub const CERTIFICATE_NAME: &str = "firstmile";

/// A raw Ed25519 public key: the name by which peers know a node.
///
/// `Display` and `Debug` print its first eight symbols, enough for a person to compare.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey(pub [u8; 32]);

impl PublicKey {
    /// All 52 symbols of it.
    pub fn to_base32(&self) -> String {
        base32::encode(&self.0)
    }

    /// Reads what [`to_base32`](Self::to_base32) wrote, in any case.
    pub fn from_base32(text: &str) -> Option<Self> {
        base32::decode(text).map(Self)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_base32()[..8])
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_base32())
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_base32(&String::deserialize(deserializer)?)
            .ok_or_else(|| de::Error::custom("a public key has 52 characters of base32"))
    }
}

/// A node's key pair. `Debug` prints the public half only.
pub struct Identity {
    pair: KeyPair,
    public: PublicKey,
}

impl Identity {
    /// Makes a new key pair that is nowhere stored.
    pub fn generate() -> Self {
        let pair = KeyPair::generate_for(&PKCS_ED25519).expect("the crypto library has Ed25519");
        Self::of(pair).expect("a new pair is Ed25519")
    }

    /// Reads `DATA/identity.pem`, or makes and stores a pair at the first start.
    pub fn load_or_create(data: &DataDir) -> Result<Self, StoreError> {
        let path = data.file(FILE);
        if let Some(identity) = Self::read(&path)? {
            return Ok(identity);
        }
        let identity = Self::generate();
        data.write(FILE, identity.pair.serialize_pem().as_bytes())?;
        Ok(identity)
    }

    /// Whether the data directory has an identity.
    pub fn exists(data: &DataDir) -> bool {
        data.file(FILE).exists()
    }

    /// Reads an identity file; `None` if there is none.
    pub fn read(path: &Path) -> Result<Option<Self>, StoreError> {
        let Some(pem) = crate::store::read_text(path)? else {
            return Ok(None);
        };
        let pair = KeyPair::from_pem(&pem).ok().and_then(Self::of);
        pair.map(Some).ok_or_else(|| StoreError::Corrupt {
            path: path.to_owned(),
            line: None,
            message: "it holds no Ed25519 private key in PKCS#8 PEM form".into(),
        })
    }

    fn of(pair: KeyPair) -> Option<Self> {
        if !pair.is_compatible(&PKCS_ED25519) {
            return None;
        }
        let public = PublicKey(pair.der_bytes().try_into().ok()?);
        Some(Self { pair, public })
    }

    /// The public half.
    pub fn public_key(&self) -> PublicKey {
        self.public
    }

    /// A secret for one purpose, the same at every start.
    pub fn derive(&self, purpose: &str) -> [u8; 32] {
        let key = self.pair.serialize_der();
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("any length is a key");
        mac.update(b"firstmile derived v1\0");
        mac.update(purpose.as_bytes());
        mac.finalize().into_bytes().into()
    }

    /// A fresh self-signed certificate and the private key, for rustls.
    pub fn certificate(&self) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let params = CertificateParams::new([CERTIFICATE_NAME.to_owned()])
            .expect("the certificate's name is plain ASCII");
        let certificate = params.self_signed(&self.pair).expect("an Ed25519 pair signs");
        let key = PrivatePkcs8KeyDer::from(self.pair.serialize_der());
        (certificate.der().clone(), key.into())
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Identity").field(&self.public).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let first = Identity::load_or_create(&data).unwrap();
        let second = Identity::load_or_create(&data).unwrap();
        assert_eq!(first.public_key(), second.public_key());
        assert_ne!(first.public_key(), Identity::generate().public_key());
        assert_eq!(first.derive("a"), second.derive("a"));
        assert_ne!(first.derive("a"), first.derive("b"));
        assert_ne!(first.derive("a"), Identity::generate().derive("a"));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::metadata(data.file(FILE)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[test]
    fn a_broken_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        std::fs::write(data.file(FILE), "not a key").unwrap();
        let error = Identity::load_or_create(&data).unwrap_err();
        assert!(error.to_string().contains("identity.pem"), "{error}");
    }

    #[test]
    fn rustls_takes_the_certificate() {
        let (certificate, key) = Identity::generate().certificate();
        let provider = rustls::crypto::ring::default_provider();
        rustls::ServerConfig::builder_with_provider(provider.into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
    }

    #[test]
    fn public_key_text() {
        let key = Identity::generate().public_key();
        assert_eq!(PublicKey::from_base32(&key.to_base32().to_lowercase()), Some(key));
        assert_eq!(key.to_string(), key.to_base32()[..8]);
    }
}
