//! A receiver of webhooks that takes down what it gets and answers as it is told.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};

use crate::{PATIENCE, wait_for};

/// Requests larger than this are not understood.
const MAX_BODY: usize = 1 << 20;

/// A port of 127.0.0.1 at which nobody listens: connections are refused.
#[derive(Debug)]
pub struct Reserved(Socket);

/// A receiver of webhooks. It ends with the test.
#[derive(Debug)]
pub struct Hooks {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    requests: Mutex<Vec<Request>>,
    /// What the next requests are answered with; then 200.
    answers: Mutex<VecDeque<u16>>,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Request {
    /// `POST /path HTTP/1.1`.
    pub line: String,
    /// Names in small letters.
    pub headers: Vec<(String, String)>,
    /// As it came.
    pub body: Vec<u8>,
    /// What it was answered with.
    pub answer: u16,
}

impl Reserved {
    /// Takes a port.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub fn new() -> Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
        Ok(Self(socket))
    }

    /// The address.
    ///
    /// # Panics
    ///
    /// If the system does not know it.
    pub fn address(&self) -> SocketAddr {
        let address = self.0.local_addr().expect("a bound socket");
        address.as_socket().expect("an internet address")
    }

    /// Listens from now on; the first requests are answered with `answers`, others with 200.
    ///
    /// # Errors
    ///
    /// If the system does not let it.
    pub fn listen(self, answers: &[u16]) -> Result<Hooks> {
        self.start(answers, None)
    }

    /// The same over TLS, with `fullchain.pem` and `privkey.pem` of a directory.
    ///
    /// # Errors
    ///
    /// If they cannot be used.
    pub fn listen_tls(self, directory: &Path) -> Result<Hooks> {
        let chain = CertificateDer::pem_file_iter(directory.join("fullchain.pem"))?;
        let chain = chain.collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_file(directory.join("privkey.pem"))?;
        let config = ServerConfig::builder_with_provider(ring::default_provider().into())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        self.start(&[], Some(Arc::new(config)))
    }

    fn start(self, answers: &[u16], tls: Option<Arc<ServerConfig>>) -> Result<Hooks> {
        let address = self.address();
        self.0.listen(16)?;
        let listener = TcpListener::from(self.0);
        let shared = Arc::new(Shared {
            answers: Mutex::new(answers.iter().copied().collect()),
            ..Shared::default()
        });
        let taking = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                // A caller that hangs up, or distrusts us, is not taken down.
                let _ = match &tls {
                    None => taking.take(stream),
                    Some(config) => ServerConnection::new(config.clone())
                        .map_err(Into::into)
                        .and_then(|connection| taking.take(StreamOwned::new(connection, stream))),
                };
            }
        });
        Ok(Hooks { address, shared })
    }
}

impl Shared {
    fn take(&self, stream: impl Read + Write) -> Result<()> {
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let mut headers = Vec::new();
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            let Some((name, value)) = header.trim_end().split_once(':') else { break };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let length = headers.iter().find(|(name, _)| name == "content-length");
        let length: usize = length.context("a body without a length")?.1.parse()?;
        let mut body = vec![0; length.min(MAX_BODY)];
        reader.read_exact(&mut body)?;
        let answer = lock(&self.answers).pop_front().unwrap_or(200);
        let line = line.trim_end().to_owned();
        lock(&self.requests).push(Request { line, headers, body, answer });
        let place = if answer == 302 { "Location: /elsewhere\r\n" } else { "" };
        let text = format!("HTTP/1.1 {answer} X\r\n{place}Content-Length: 0\r\n\r\n");
        reader.get_mut().write_all(text.as_bytes())?;
        reader.get_mut().flush()?;
        Ok(())
    }
}

impl Hooks {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What has come.
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.shared.requests).clone()
    }

    /// What was answered with 200, as JSON, once there are so many.
    ///
    /// # Panics
    ///
    /// If there are not within [`PATIENCE`], or one is no JSON.
    #[track_caller]
    pub fn wait(&self, count: usize) -> Vec<Value> {
        wait_for(&format!("{count} deliveries"), PATIENCE, || {
            let requests = self.requests();
            let taken = requests.iter().filter(|request| request.answer == 200);
            let taken: Vec<_> = taken.map(Request::json).collect();
            (taken.len() >= count).then_some(taken)
        })
    }
}

impl Request {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(each, _)| each == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The body.
    ///
    /// # Panics
    ///
    /// If it is no JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("a body of JSON")
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
