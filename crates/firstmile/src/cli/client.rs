//! Calls to the API of the process that runs on a data directory.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;

use crate::error::Hint;
use crate::store::{RunFile, Running};
use crate::web::ErrorBody;

/// A process on this machine answers within milliseconds, or it hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// Largest answer; a thousand feeds take half of it.
const MAX_ANSWER: usize = 4 << 20;

/// A running process.
pub(super) struct Client(Running);

impl Client {
    /// The process that runs on this directory, if one does.
    pub(super) fn find(data: &Path) -> anyhow::Result<Option<Self>> {
        Ok(RunFile::read(data)?.map(Self))
    }

    /// One call with the token; the answer's JSON.
    pub(super) async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl serde::Serialize,
    ) -> anyhow::Result<T> {
        let body = serde_json::to_vec(body)?;
        let exchange = self.exchange(method, path, body.into());
        let (status, answer) = match tokio::time::timeout(PATIENCE, exchange).await {
            Ok(answer) => answer.with_context(|| self.describe())?,
            Err(_) => return Err(anyhow!("it did not answer in time")).context(self.describe()),
        };
        if !status.is_success() {
            return match serde_json::from_slice(&answer) {
                Ok(ErrorBody { error, hint }) => Err(anyhow!(error)).hint(hint),
                Err(_) => Err(anyhow!("it answered {status}")).context(self.describe()),
            };
        }
        let answer = if answer.is_empty() { Bytes::from_static(b"null") } else { answer };
        serde_json::from_slice(&answer).with_context(|| self.describe())
    }

    fn describe(&self) -> String {
        format!("cannot talk to the running firstmile (pid {}) at {}", self.0.pid, self.0.http)
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let address = self.0.connect_address();
        let stream = TcpStream::connect(address).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, address.to_string())
            .header(header::AUTHORIZATION, format!("Bearer {}", self.0.token.expose()))
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CONNECTION, "close")
            .body(Full::new(body))?;
        let answer = async {
            let response = sender.send_request(request).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
            let body = body.map_err(|error| anyhow!(error))?.to_bytes();
            Ok((status, body))
        };
        // The connection works only while it is polled.
        let mut answer = std::pin::pin!(answer);
        tokio::select! {
            answer = &mut answer => return answer,
            ended = connection => ended?,
        }
        answer.await
    }
}
