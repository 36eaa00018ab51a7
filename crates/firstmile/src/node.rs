//! What the assembly of a relay and of a studio have in common.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use hub::{Feed, Publisher};
use media::PublicationId;
use rtmp::session::Rejection;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::TlsFiles;
use crate::door::{Door, Gate, Secure};
use crate::error::Hint;
use crate::platform;
use crate::tls::{self, Certificate};

/// Listens on a TCP address, or says what to do.
pub(crate) fn listen(address: SocketAddr, option: &str) -> Result<TcpListener> {
    let port = address.port().saturating_add(1);
    platform::listen_tcp(address).with_context(|| format!("cannot listen on {address}")).hint(
        format!("stop the program that uses the port, or choose another with --{option} :{port}"),
    )
}

/// The owner's certificate, or else one for this host, made now.
pub(crate) fn certificate(
    files: Option<&TlsFiles>,
    host: Option<&str>,
    addresses: &[IpAddr],
) -> Result<Arc<Certificate>> {
    let Some(files) = files else {
        let names = tls::certificate::names(host, addresses);
        let made = Certificate::self_signed(&names).context("cannot make a TLS certificate")?;
        return Ok(Arc::new(made));
    };
    let certificate = match Certificate::load(files.clone()) {
        Ok(certificate) => certificate,
        Err(error) => {
            let hint = error.hint();
            return Err(error).context("cannot use the TLS certificate").hint(hint);
        }
    };
    let file = files.certificate.display();
    if let Some(alarm) = certificate.alarm() {
        warn!("{alarm}");
    }
    if let Some(host) = host.filter(|host| !certificate.covers(host)) {
        warn!(host, %file, "the TLS certificate is for other names: encoders will not trust it");
    }
    Ok(Arc::new(certificate))
}

/// RTMPS on a port of its own, if there is one.
pub(crate) async fn serve_rtmps<G: Gate>(
    door: Arc<Door<G>>,
    listener: Option<TcpListener>,
    secure: Arc<Secure>,
    shutdown: CancellationToken,
) {
    if let Some(listener) = listener {
        door.serve_tls(listener, secure, shutdown).await;
    }
}

/// Puts a new publication on air, and says whose it takes over.
pub(crate) fn publish(
    feed: &Feed,
    name: &dyn fmt::Display,
    peer: SocketAddr,
) -> Result<Publisher, Rejection> {
    let incumbent = feed.origin();
    match feed.publish(PublicationId(rand::random()), Instant::now()) {
        Ok(publisher) => {
            if let Some(incumbent) = incumbent {
                info!(feed = %name, %peer, incumbent, "an encoder takes over from another");
            }
            publisher.set_origin(peer.to_string());
            Ok(publisher)
        }
        Err(fought) => {
            let incumbent = incumbent.unwrap_or_default();
            warn!(feed = %name, %peer, incumbent, "{fought}: the incumbent stays");
            Err(Rejection::Busy)
        }
    }
}
