//! One HTTP request to a hook: its name resolved anew, TLS verified, no redirect followed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::HookUrl;

/// Bytes of an answer that are read, so that the connection ends in order.
const MAX_ANSWER: usize = 64 << 10;

/// What sends to one hook. Each request has a connection of its own: hours may lie between two.
#[derive(Debug)]
pub(super) struct Sender {
    url: HookUrl,
    ca: Option<PathBuf>,
    /// Made at the first request over TLS that can be made.
    tls: Option<Arc<ClientConfig>>,
}

impl Sender {
    pub(super) fn new(url: HookUrl, ca: Option<PathBuf>) -> Self {
        Self { url, ca, tls: None }
    }

    /// Sends a body of JSON; whatever is not answered with 2xx is an error.
    pub(super) async fn post(
        &mut self,
        headers: &[(&'static str, String)],
        body: Vec<u8>,
    ) -> Result<()> {
        let mut request = Request::post(self.url.path())
            .header(header::HOST, self.url.authority())
            .header(header::USER_AGENT, crate::agent().replace(' ', "/"))
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CONNECTION, "close");
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let request = request.body(Full::new(Bytes::from(body)))?;
        let stream = TcpStream::connect(self.url.target()).await.context("cannot connect")?;
        let _ = stream.set_nodelay(true);
        if !self.url.is_tls() {
            return exchange(stream, request).await;
        }
        let name = ServerName::try_from(self.url.host().to_owned())?;
        let tls = TlsConnector::from(self.tls().await?);
        let stream = tls.connect(name, stream).await.context("TLS failed")?;
        exchange(stream, request).await
    }

    async fn tls(&mut self) -> Result<Arc<ClientConfig>> {
        if let Some(tls) = &self.tls {
            return Ok(tls.clone());
        }
        let ca = self.ca.clone();
        let config = tokio::task::spawn_blocking(move || trusting(ca.as_deref())).await??;
        let tls = Arc::new(config);
        self.tls = Some(tls.clone());
        Ok(tls)
    }
}

/// Trusts the system's authorities, and those of a file. Reads the disk.
fn trusting(ca: Option<&Path>) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let (added, _) =
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = ca {
        let file = || format!("cannot read {}", path.display());
        let certificates = CertificateDer::pem_file_iter(path).with_context(file)?;
        for certificate in certificates {
            roots.add(certificate.with_context(file)?).with_context(file)?;
        }
    }
    if added == 0 && ca.is_none() {
        bail!(
            "this machine trusts no authority: install ca-certificates, or name a file with `ca`"
        );
    }
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let talk = async {
        let answer = sender.send_request(request).await.context("no answer")?;
        let status = answer.status();
        let mut body = answer.into_body();
        let mut length = 0;
        while let Some(Ok(frame)) = body.frame().await {
            length += frame.data_ref().map_or(0, Bytes::len);
            if length > MAX_ANSWER {
                break;
            }
        }
        if !status.is_success() {
            bail!("it answers {status}");
        }
        Ok(())
    };
    // Dropping the connection's future closes it: nothing is left behind by an attempt that is over.
    tokio::pin!(talk);
    tokio::select! {
        biased;
        said = &mut talk => said,
        Err(error) = connection => bail!("the connection was lost: {error}"),
    }
}
