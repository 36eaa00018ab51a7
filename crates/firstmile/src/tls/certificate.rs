//! The certificate that RTMPS and HTTPS show: its owner's, read again when it was renewed, or one
//! that is made at the start.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rcgen::{CertificateParams, DnType, KeyPair, date_time_ymd};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, RootCertStore};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::provider;
use crate::config::TlsFiles;

/// How often the files are looked at. They are taken once two looks saw the same, because two
/// files are not replaced at one moment.
const LOOK: Duration = Duration::from_secs(2);
/// A chain and a key have some kilobytes.
const MAX_FILE: u64 = 1 << 20;
/// How long before its end a certificate that nobody renews is an alarm.
const EXPIRES_SOON: Duration = Duration::from_secs(7 * 24 * 3_600);

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{} holds no {what} in PEM form", path.display())]
    Empty {
        /// Which.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
    },
    /// The private key belongs to another certificate.
    #[error("the key in {} is not the one of the certificate in {}", key.display(), certificate.display())]
    Mismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// The pair is of a kind that cannot be used.
    #[error("{} and its key cannot be used: {reason}", certificate.display())]
    Unusable {
        /// The certificate's file.
        certificate: PathBuf,
        /// Why, in the TLS library's words.
        reason: String,
    },
}

impl Error {
    /// What a person can do.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Read { .. } => {
                "[tls] in the config file names the files; the user that firstmile runs as has to \
                 be allowed to read them"
            }
            Self::Empty { .. } => {
                "certbot's files are fullchain.pem (certificate) and privkey.pem (key)"
            }
            Self::Mismatch { .. } => "name the certificate and the key of one and the same order",
            Self::Unusable { .. } => "use an ECDSA (P-256, P-384), Ed25519 or RSA (2048+) key",
        }
    }
}

/// What RTMPS and HTTPS show, now.
pub struct Certificate {
    files: Option<TlsFiles>,
    state: Mutex<State>,
}

struct State {
    shown: Arc<CertifiedKey>,
    /// What the files held when they were taken last, good or not.
    taken: Mark,
    /// Why they were not good.
    problem: Option<String>,
}

/// What a look at the files saw: a digest, or why there is none.
type Mark = Result<[u8; 32], String>;

/// The files' contents. No `Debug`: one is a private key.
struct Pems {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Certificate {
    /// Reads the owner's certificate.
    ///
    /// # Errors
    ///
    /// If it cannot be used. One that has expired can be: many clients do not look.
    pub fn load(files: TlsFiles) -> Result<Self, Error> {
        let pems = Pems::read(&files)?;
        let state =
            State { shown: pems.certified_key(&files)?, taken: Ok(pems.digest()), problem: None };
        Ok(Self { files: Some(files), state: Mutex::new(state) })
    }

    /// Makes a certificate for these names and addresses, signed by itself.
    ///
    /// # Errors
    ///
    /// If a name cannot stand in a certificate.
    pub fn self_signed(names: &[String]) -> anyhow::Result<Self> {
        let pair = KeyPair::generate()?;
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, "firstmile");
        // Fixed, so that a wrong clock on either side does no harm; before 2050, after which dates
        // are written in a form that small clients do not know (RFC 5280 §4.1.2.5).
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2049, 12, 31);
        let certificate = params.self_signed(&pair)?;
        let key = PrivatePkcs8KeyDer::from(pair.serialize_der());
        let chain = vec![certificate.der().clone()];
        let shown = CertifiedKey::from_der(chain, key.into(), &provider())?;
        let state =
            State { shown: Arc::new(shown), taken: Err("there are none".into()), problem: None };
        Ok(Self { files: None, state: Mutex::new(state) })
    }

    /// Whether a client that verifies certificates would take it for this host: the owner's, and
    /// made out to that name or address.
    pub fn covers(&self, host: &str) -> bool {
        let (Ok(name), true) = (ServerName::try_from(host), self.files.is_some()) else {
            return false;
        };
        let shown = self.lock().shown.clone();
        let parsed = shown.end_entity_cert().and_then(ParsedCertificate::try_from);
        parsed.is_ok_and(|certificate| verify_server_name(&certificate, &name).is_ok())
    }

    /// What someone should look at, in words.
    pub fn alarm(&self) -> Option<String> {
        let certificate = &self.files.as_ref()?.certificate;
        let state = self.lock();
        if let Some(problem) = &state.problem {
            return Some(format!("the TLS certificate was not read again: {problem}"));
        }
        let trouble = trouble_at(state.shown.end_entity_cert().ok()?, UnixTime::now())?;
        Some(format!("the TLS certificate in {} {trouble}", certificate.display()))
    }

    /// Takes renewed files, until `shutdown`. Files that cannot be used leave the old ones shown.
    pub async fn follow(self: Arc<Self>, shutdown: CancellationToken) {
        if self.files.is_none() {
            return;
        }
        let mut last = self.lock().taken.clone();
        let mut tick = tokio::time::interval(LOOK);
        while shutdown.run_until_cancelled(tick.tick()).await.is_some() {
            let (this, before) = (self.clone(), last);
            let look = tokio::task::spawn_blocking(move || this.look(&before));
            last = look.await.unwrap_or_else(|error| Err(error.to_string()));
        }
    }

    /// One look at the files, which takes them if they are new and saw no change since `before`.
    fn look(&self, before: &Mark) -> Mark {
        let Some(files) = &self.files else { return before.clone() };
        let read = Pems::read(files);
        let mark = read.as_ref().map(Pems::digest).map_err(with_cause);
        let mut state = self.lock();
        if mark != *before || mark == state.taken {
            return mark;
        }
        state.taken = mark.clone();
        match read.and_then(|pems| pems.certified_key(files)) {
            Ok(shown) => {
                state.shown = shown;
                state.problem = None;
                info!(file = %files.certificate.display(), "the TLS certificate was read again");
            }
            Err(error) => {
                let problem = with_cause(&error);
                warn!(
                    reason = problem,
                    "the new TLS certificate cannot be used: the old one stays"
                );
                state.problem = Some(problem);
            }
        }
        mark
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("files", &self.files).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.lock().shown.clone())
    }
}

impl Pems {
    fn read(files: &TlsFiles) -> Result<Self, Error> {
        Ok(Self { certificate: read(&files.certificate)?, key: read(&files.key)? })
    }

    fn digest(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        digest.update(Sha256::digest(&self.certificate));
        digest.update(Sha256::digest(&self.key));
        digest.finalize().into()
    }

    fn certified_key(&self, files: &TlsFiles) -> Result<Arc<CertifiedKey>, Error> {
        let empty = |path: &Path, what| Error::Empty { path: path.to_owned(), what };
        let chain = CertificateDer::pem_slice_iter(&self.certificate);
        let chain: Vec<_> = chain
            .collect::<Result<_, pem::Error>>()
            .map_err(|_| empty(&files.certificate, "certificate"))?;
        if chain.is_empty() {
            return Err(empty(&files.certificate, "certificate"));
        }
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|_| empty(&files.key, "unencrypted private key"))?;
        let certificate = files.certificate.clone();
        match CertifiedKey::from_der(chain, key, &provider()) {
            Ok(certified) => Ok(Arc::new(certified)),
            Err(rustls::Error::InconsistentKeys(_)) => {
                Err(Error::Mismatch { certificate, key: files.key.clone() })
            }
            Err(error) => Err(Error::Unusable { certificate, reason: error.to_string() }),
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_FILE).read_to_end(&mut bytes));
    read.map_err(|source| Error::Read { path: path.to_owned(), source })?;
    Ok(bytes)
}

fn with_cause(error: &Error) -> String {
    match error {
        Error::Read { source, .. } => format!("{error}: {source}"),
        _ => error.to_string(),
    }
}

/// What is wrong with a certificate's dates.
fn trouble_at(certificate: &CertificateDer<'_>, now: UnixTime) -> Option<String> {
    use CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    let later = UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs()) + EXPIRES_SOON);
    let days = |seconds: u64| seconds / (24 * 3_600);
    match (date_error(certificate, now), date_error(certificate, later)) {
        (Some(ExpiredContext { time, not_after }), _) => Some(format!(
            "expired {} days ago: renew it",
            days(time.as_secs().saturating_sub(not_after.as_secs()))
        )),
        (Some(Expired), _) => Some("has expired: renew it".into()),
        (Some(NotValidYet | NotValidYetContext { .. }), _) => {
            Some("is not valid yet: is this machine's clock right?".into())
        }
        (_, Some(ExpiredContext { not_after, .. })) => Some(format!(
            "expires in {} days: is anybody renewing it?",
            days(not_after.as_secs().saturating_sub(now.as_secs()))
        )),
        _ => None,
    }
}

/// What a verifier says of the dates. It looks at them before it looks for an issuer, so that no
/// issuer is needed.
fn date_error(certificate: &CertificateDer<'_>, now: UnixTime) -> Option<CertificateError> {
    let parsed = ParsedCertificate::try_from(certificate).ok()?;
    let provider: &CryptoProvider = &provider();
    let algorithms = provider.signature_verification_algorithms.all;
    let (roots, chain) = (RootCertStore::empty(), &[]);
    match verify_server_cert_signed_by_trust_anchor(&parsed, &roots, chain, now, algorithms) {
        Err(rustls::Error::InvalidCertificate(error)) => Some(error),
        _ => None,
    }
}

/// The names for a certificate of one's own: this host and the ways to reach it, each once.
pub fn names(host: Option<&str>, addresses: &[IpAddr]) -> Vec<String> {
    let mut names: Vec<String> = host.into_iter().map(str::to_owned).collect();
    let local = [IpAddr::from([127, 0, 0, 1]), std::net::Ipv6Addr::LOCALHOST.into()];
    let addresses = addresses.iter().chain(&local).filter(|address| !address.is_unspecified());
    let texts = addresses.map(|address| address.to_canonical().to_string());
    for name in ["localhost".to_owned()].into_iter().chain(texts) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pair for `name` between two years, as PEM.
    fn pair(name: &str, years: (i32, i32)) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.not_before = date_time_ymd(years.0, 1, 1);
        params.not_after = date_time_ymd(years.1, 1, 1);
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    fn write(dir: &Path, (certificate, key): &(String, String)) -> TlsFiles {
        let files = TlsFiles { certificate: dir.join("c.pem"), key: dir.join("k.pem") };
        std::fs::write(&files.certificate, certificate).unwrap();
        std::fs::write(&files.key, key).unwrap();
        files
    }

    #[test]
    fn what_is_wrong_with_the_files_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let good = pair("relay.example", (2020, 2049));
        let files = write(dir.path(), &good);
        Certificate::load(files.clone()).unwrap();

        let missing = TlsFiles { key: dir.path().join("no.pem"), ..files.clone() };
        let error = Certificate::load(missing).unwrap_err();
        assert!(matches!(&error, Error::Read { path, .. } if path.ends_with("no.pem")), "{error}");
        let swapped = TlsFiles { certificate: files.key.clone(), key: files.certificate.clone() };
        let error = Certificate::load(swapped).unwrap_err().to_string();
        assert!(error.ends_with("k.pem holds no certificate in PEM form"), "{error}");
        let no_key = TlsFiles { key: files.certificate.clone(), ..files.clone() };
        let error = Certificate::load(no_key).unwrap_err().to_string();
        assert!(error.contains("holds no unencrypted private key"), "{error}");
        write(dir.path(), &(good.0, pair("relay.example", (2020, 2049)).1));
        let error = Certificate::load(files).unwrap_err();
        assert!(matches!(error, Error::Mismatch { .. }), "{error}");
    }

    #[test]
    fn dates_and_names_are_known() {
        let dir = tempfile::tempdir().unwrap();
        let load =
            |years| Certificate::load(write(dir.path(), &pair("relay.example", years))).unwrap();
        let good = load((2020, 2049));
        assert_eq!(good.alarm(), None);
        assert!(good.covers("relay.example") && !good.covers("other.example"));
        let expired = load((2020, 2021)).alarm().unwrap();
        assert!(expired.contains("c.pem expired") && expired.contains("days ago"), "{expired}");
        let early = load((2048, 2049)).alarm().unwrap();
        assert!(early.contains("not valid yet"), "{early}");

        let own = Certificate::self_signed(&names(Some("relay.example"), &[])).unwrap();
        assert_eq!(own.alarm(), None);
        assert!(!own.covers("relay.example"), "nobody trusts it");
        let shown = own.lock().shown.clone();
        let parsed = ParsedCertificate::try_from(shown.end_entity_cert().unwrap()).unwrap();
        for name in ["relay.example", "localhost", "127.0.0.1", "::1"] {
            verify_server_name(&parsed, &ServerName::try_from(name).unwrap()).unwrap();
        }
    }

    #[test]
    fn the_last_week_is_an_alarm() {
        let (text, _) = pair("relay.example", (2020, 2030));
        let certificate = CertificateDer::from_pem_slice(text.as_bytes()).unwrap();
        let end = 1_893_456_000; // 2030-01-01
        let at = |seconds| {
            trouble_at(&certificate, UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
        };
        let day = 24 * 3_600;
        assert_eq!(at(end - 8 * day), None);
        assert_eq!(at(end - 3 * day).unwrap(), "expires in 3 days: is anybody renewing it?");
        assert_eq!(at(end + 2 * day + 1).unwrap(), "expired 2 days ago: renew it");
    }

    #[test]
    fn renewed_files_are_taken_when_they_rest_and_broken_ones_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let files = write(dir.path(), &pair("old.example", (2020, 2049)));
        let certificate = Certificate::load(files.clone()).unwrap();
        let start = certificate.lock().taken.clone();
        assert_eq!(certificate.look(&start), start);

        let new = pair("new.example", (2020, 2049));
        write(dir.path(), &new);
        let seen = certificate.look(&start);
        assert!(certificate.covers("old.example"), "they may still be changing");
        assert_eq!(certificate.look(&seen), seen);
        assert!(certificate.covers("new.example") && certificate.alarm().is_none());

        std::fs::write(&files.key, "broken").unwrap();
        let broken = certificate.look(&seen);
        let _ = certificate.look(&broken);
        assert!(certificate.covers("new.example"));
        assert!(certificate.alarm().unwrap().contains("k.pem holds no unencrypted private key"));
        std::fs::remove_file(&files.key).unwrap();
        let gone = certificate.look(&broken);
        let _ = certificate.look(&gone);
        assert!(certificate.alarm().unwrap().contains("cannot read"));

        write(dir.path(), &new);
        let mended = certificate.look(&gone);
        let _ = certificate.look(&mended);
        assert!(certificate.covers("new.example") && certificate.alarm().is_none());
    }
}
