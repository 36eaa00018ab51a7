//! One HTTP request, for looking at a node from outside.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

const TIMEOUT: Duration = Duration::from_secs(5);

/// The status code and body of a `GET`, with a bearer token if there is one.
///
/// # Errors
///
/// If the server cannot be reached or does not speak HTTP/1.1.
pub fn get(address: SocketAddr, path: &str, token: Option<&str>) -> Result<(u16, String)> {
    let stream = TcpStream::connect_timeout(&address, TIMEOUT)
        .with_context(|| format!("connect to {address}"))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    get_on(stream, &address.to_string(), path, token)
}

/// The status code and body of any request with a JSON body, with a bearer token if there is one.
///
/// # Errors
///
/// As [`get`].
pub fn call(
    address: SocketAddr,
    method: &str,
    path: &str,
    token: Option<&str>,
    body: &str,
) -> Result<(u16, String)> {
    let bearer = token.map_or(String::new(), |token| format!("Authorization: Bearer {token}\r\n"));
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\n{bearer}Content-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    );
    exchange(address, &request).map(|(status, _, body)| (status, body))
}

/// A request as it is written; the answer's status code, head and body.
///
/// # Errors
///
/// As [`get`].
pub fn exchange(address: SocketAddr, request: &str) -> Result<(u16, String, String)> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)
        .with_context(|| format!("connect to {address}"))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or(answer.len());
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let (status, body) = parse(&answer)?;
    Ok((status, head, body))
}

/// The same on an open connection, TLS for example, asking for `host`.
///
/// # Errors
///
/// As [`get`].
pub fn get_on(
    mut stream: impl Read + Write,
    host: &str,
    path: &str,
    token: Option<&str>,
) -> Result<(u16, String)> {
    let bearer = token.map_or(String::new(), |token| format!("Authorization: Bearer {token}\r\n"));
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{bearer}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    parse(&answer)
}

/// The JSON body of a `GET` that must answer 200.
///
/// # Errors
///
/// As [`get`], and for another status or a body that is not JSON.
pub fn get_json(address: SocketAddr, path: &str, token: Option<&str>) -> Result<Value> {
    let (status, body) = get(address, path, token)?;
    if status != 200 {
        bail!("GET {path} answered {status}: {body}");
    }
    serde_json::from_str(&body).with_context(|| format!("GET {path} answered {body:?}"))
}

fn parse(answer: &[u8]) -> Result<(u16, String)> {
    let split = answer.windows(4).position(|window| window == b"\r\n\r\n");
    let split = split.context("an answer without an end of its header")?;
    let head = String::from_utf8_lossy(&answer[..split]).to_ascii_lowercase();
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.with_context(|| format!("no status in {head:?}"))?;
    let body = &answer[split + 4..];
    let body = match head.contains("transfer-encoding: chunked") {
        true => dechunk(body)?,
        false => body.to_vec(),
    };
    Ok((status, String::from_utf8(body)?))
}

fn dechunk(mut rest: &[u8]) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|window| window == b"\r\n").context("cut short")?;
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end])?.trim(), 16)?;
        rest = &rest[end + 2..];
        if size == 0 {
            return Ok(body);
        }
        body.extend_from_slice(rest.get(..size).context("cut short")?);
        rest = rest.get(size + 2..).context("cut short")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_kinds_of_body() {
        let plain = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
        assert_eq!(parse(plain).unwrap(), (200, "hi".to_owned()));
        let chunked =
            b"HTTP/1.1 404 No\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n";
        assert_eq!(parse(chunked).unwrap(), (404, "abcd".to_owned()));
        assert!(parse(b"SSH-2.0").is_err());
    }
}
