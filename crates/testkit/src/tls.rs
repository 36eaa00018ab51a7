//! TLS as a client sees it, and an authority that makes certificates.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, ProtocolVersion, RootCertStore, StreamOwned, version,
};

/// How long one read may take.
const TIMEOUT: Duration = crate::PATIENCE;

/// An authority of the test's own.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Authority {
    /// Makes one.
    ///
    /// # Panics
    ///
    /// Never, with this library.
    pub fn new() -> Self {
        let mut params = CertificateParams::new([]).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key pair");
        // Two of one name would be taken for one that signs badly.
        let name = format!("authority {:02x?}", &key.public_key_raw()[1..9]);
        params.distinguished_name.push(DnType::CommonName, name);
        Self { issuer: CertifiedIssuer::self_signed(params, key).expect("it signs itself") }
    }

    /// Writes `ca.pem`, what clients are to trust.
    ///
    /// # Panics
    ///
    /// If it cannot be written.
    pub fn write_root(&self, directory: &Path) -> PathBuf {
        let path = directory.join("ca.pem");
        fs::write(&path, self.issuer.pem()).expect("the certificate is written");
        path
    }

    /// Writes `fullchain.pem` and `privkey.pem` for a name or an address, as certbot does.
    ///
    /// # Panics
    ///
    /// If they cannot be written.
    pub fn issue(&self, directory: &Path, name: &str) {
        let key = KeyPair::generate().expect("a key pair");
        let params = CertificateParams::new([name.to_owned()]).expect("a name");
        let certificate = params.signed_by(&key, &self.issuer).expect("it signs");
        let chain = format!("{}{}", certificate.pem(), self.issuer.pem());
        fs::write(directory.join("fullchain.pem"), chain).expect("the certificate is written");
        fs::write(directory.join("privkey.pem"), key.serialize_pem()).expect("the key is written");
    }
}

/// A TLS client that trusts an authority, or anybody.
#[derive(Clone, Debug)]
pub struct Client {
    config: ClientConfig,
    name: ServerName<'static>,
}

/// An open connection.
#[derive(Debug)]
pub struct Stream(StreamOwned<ClientConnection, TcpStream>);

impl Client {
    /// Trusts this authority and no other, and looks for this name in the certificate.
    ///
    /// # Panics
    ///
    /// If `name` is no name.
    pub fn trusting(authority: &Authority, name: &str) -> Self {
        let mut roots = RootCertStore::empty();
        let pem = authority.issuer.pem();
        let root = CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate");
        roots.add(root).expect("a root");
        let config = ClientConfig::builder_with_provider(ring::default_provider().into())
            .with_protocol_versions(&[&version::TLS13, &version::TLS12])
            .expect("the provider has both versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self { config, name: name.to_owned().try_into().expect("a name") }
    }

    /// Trusts anybody, as most encoders do, and says no server name.
    pub fn careless() -> Self {
        let mut client = Self::trusting(&Authority::new(), "127.0.0.1");
        client.config.enable_sni = false;
        client.config.dangerous().set_certificate_verifier(Arc::new(careless::Careless));
        client
    }

    /// Offers these protocols (ALPN).
    #[must_use]
    pub fn offering(mut self, protocols: &[&str]) -> Self {
        self.config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().into()).collect();
        self
    }

    /// Speaks TLS 1.2 and nothing newer.
    #[must_use]
    pub fn with_tls12(mut self) -> Self {
        let verifier = Arc::new(careless::Careless);
        let protocols = self.config.alpn_protocols;
        self.config = ClientConfig::builder_with_provider(ring::default_provider().into())
            .with_protocol_versions(&[&version::TLS12])
            .expect("the provider has it")
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        self.config.alpn_protocols = protocols;
        self
    }

    /// Connects and makes the handshake.
    ///
    /// # Errors
    ///
    /// If the handshake fails on either side.
    pub fn connect(&self, address: SocketAddr) -> Result<Stream> {
        let mut socket = TcpStream::connect(address).context("connect")?;
        socket.set_read_timeout(Some(TIMEOUT))?;
        let config = Arc::new(self.config.clone());
        let mut connection = ClientConnection::new(config, self.name.clone())?;
        while connection.is_handshaking() {
            connection.complete_io(&mut socket).context("TLS handshake")?;
        }
        Ok(Stream(StreamOwned::new(connection, socket)))
    }
}

impl Stream {
    /// The version that was agreed on.
    pub fn version(&self) -> Option<ProtocolVersion> {
        self.0.conn.protocol_version()
    }

    /// The protocol that was agreed on.
    pub fn protocol(&self) -> Option<&[u8]> {
        self.0.conn.alpn_protocol()
    }

    /// Session tickets that have come.
    pub fn tickets(&self) -> u32 {
        self.0.conn.tls13_tickets_received()
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

mod careless {
    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::crypto::{ring, verify_tls12_signature, verify_tls13_signature};
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    use rustls::{DigitallySignedStruct, Error, SignatureScheme};

    #[derive(Debug)]
    pub(super) struct Careless;

    impl ServerCertVerifier for Careless {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            let algorithms = ring::default_provider().signature_verification_algorithms;
            verify_tls12_signature(message, certificate, signature, &algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            let algorithms = ring::default_provider().signature_verification_algorithms;
            verify_tls13_signature(message, certificate, signature, &algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            ring::default_provider().signature_verification_algorithms.supported_schemes()
        }
    }
}
