//! Who is at the other end of a TLS handshake: an Ed25519 key, and nothing else counts.

use std::sync::Arc;

use anyhow::{Context, Result};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, ServerConfig,
    SignatureScheme,
};

use crate::identity::{Identity, PublicKey};

/// `SubjectPublicKeyInfo` of an Ed25519 key up to the key itself (RFC 8410 §4).
const ED25519_SPKI: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// How an acceptor makes the handshake: it learns who has called, and decides afterwards.
///
/// # Errors
///
/// If the crypto library cannot use the identity.
pub(crate) fn acceptor(identity: &Identity) -> Result<ServerConfig> {
    let (certificate, key) = identity.certificate();
    let mut tls = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(AnyKey))
        .with_single_cert(vec![certificate], key)?;
    tls.alpn_protocols = vec![backhaul::ALPN.to_vec()];
    // No resumption and no early data: every link proves its keys.
    tls.send_tls13_tickets = 0;
    Ok(tls)
}

/// How a dialer makes the handshake: it knows the key that it wants to meet.
///
/// # Errors
///
/// If the crypto library cannot use the identity.
pub(crate) fn dialer(identity: &Identity, pin: PublicKey) -> Result<ClientConfig> {
    let (certificate, key) = identity.certificate();
    let mut tls = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned(pin)))
        .with_client_auth_cert(vec![certificate], key)?;
    tls.alpn_protocols = vec![backhaul::ALPN.to_vec()];
    tls.resumption = rustls::client::Resumption::disabled();
    Ok(tls)
}

/// Who has shown these certificates in a handshake that is over.
///
/// # Errors
///
/// If it was nobody; the handshake's verifiers have let only such keys through.
pub(crate) fn peer(certificates: Option<&[CertificateDer<'_>]>) -> Result<PublicKey> {
    let certificate = certificates.and_then(|certificates| certificates.first());
    certificate.and_then(key_of).context("the peer showed no Ed25519 key")
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// The key of a certificate; `None` for one of another kind.
fn key_of(certificate: &CertificateDer<'_>) -> Option<PublicKey> {
    let parsed = ParsedCertificate::try_from(certificate).ok()?;
    let spki = parsed.subject_public_key_info();
    spki.strip_prefix(&ED25519_SPKI)?.try_into().ok().map(PublicKey)
}

/// What both verifiers say of a signature: Ed25519, in TLS 1.3.
macro_rules! only_ed25519_in_tls13 {
    () => {
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Err(rustls::PeerIncompatible::Tls13RequiredForQuic.into())
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            verify_signature(message, certificate, signature)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            vec![SignatureScheme::ED25519]
        }
    };
}

/// Accepts a server that shows the pinned key and no other, whatever its name or dates.
#[derive(Debug)]
struct Pinned(PublicKey);

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match key_of(end_entity) {
            Some(key) if key == self.0 => Ok(ServerCertVerified::assertion()),
            _ => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    only_ed25519_in_tls13!();
}

/// Accepts a client that proves any Ed25519 key: who it is decides who it may be afterwards.
#[derive(Debug)]
struct AnyKey;

impl ClientCertVerifier for AnyKey {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        match key_of(end_entity) {
            Some(_) => Ok(ClientCertVerified::assertion()),
            None => Err(CertificateError::BadEncoding.into()),
        }
    }

    only_ed25519_in_tls13!();
}

fn verify_signature(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    let algorithms = ring::default_provider().signature_verification_algorithms;
    verify_tls13_signature(message, certificate, signature, &algorithms)
}
