//! Recordings over HTTP: looked at, downloaded, deleted.
//!
//! A browser that downloads a file sends no token with it. The page gets a ticket first, which is
//! good for one file, once, for a minute.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::api::{ApiError, Shared, with_node};
use super::routes::{self, routes};
use crate::egress::record::{Opened, Part};
use crate::secret::Token;
use crate::status::RecordingInfo;

/// How long a ticket is good for.
const TICKET_LIFE: Duration = Duration::from_secs(60);
/// Tickets at a time; the oldest makes room.
const MAX_TICKETS: usize = 64;
/// Bytes of a file that are read at a time, and how many of these wait for the client.
const CHUNK: usize = 256 << 10;
const CHUNKS: usize = 2;

/// The answer of `GET /api/v1/recordings/NAME`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RecordingDetail {
    /// As the list has it.
    pub recording: RecordingInfo,
    /// Of each file, what it has and what it lacks.
    pub parts: Vec<Part>,
}

pub(super) const ROUTES: routes::Part = routes! {
    get "/api/v1/recordings/{recording}" show;
    delete "/api/v1/recordings/{recording}" remove;
    get "/api/v1/recordings/{recording}/files/{number}" download;
    post "/api/v1/recordings/{recording}/files/{number}/ticket" ticket;
};

async fn show(
    context: Shared,
    headers: HeaderMap,
    Path(name): Path<String>,
) -> Result<Json<RecordingDetail>, ApiError> {
    with_node(context, &headers, move |node| node.recording(&name)).await.map(Json)
}

async fn remove(
    context: Shared,
    headers: HeaderMap,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiError> {
    with_node(context, &headers, move |node| node.delete_recording(&name)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The answer of `POST /api/v1/recordings/NAME/files/NUMBER/ticket`.
#[derive(Serialize)]
pub(super) struct TicketAnswer {
    /// Where the file is, once, for a minute, without the token.
    path: String,
}

async fn ticket(
    context: Shared,
    headers: HeaderMap,
    Path((name, number)): Path<(String, usize)>,
) -> Result<Json<TicketAnswer>, ApiError> {
    let shared = context.0.clone();
    let file = (name.clone(), number);
    with_node(context, &headers, move |node| node.recording_file(&name, number)).await?;
    let path = format!("/api/v1/recordings/{}/files/{number}", file.0);
    let ticket = shared.tickets.issue(file, Instant::now());
    Ok(Json(TicketAnswer { path: format!("{path}?ticket={}", ticket.expose()) }))
}

/// How a browser shows its ticket.
#[derive(Deserialize)]
pub(super) struct Shown {
    ticket: Option<String>,
}

async fn download(
    context: Shared,
    method: Method,
    mut headers: HeaderMap,
    Path((name, number)): Path<(String, usize)>,
    Query(Shown { ticket }): Query<Shown>,
) -> Result<Response, ApiError> {
    if let Some(ticket) = ticket {
        let file = (name.clone(), number);
        // Who asks how large it is comes again for the file.
        let is_used = method != Method::HEAD;
        if !context.0.tickets.show(&ticket, &file, is_used, Instant::now()) {
            return Err(ApiError::new(
                StatusCode::UNAUTHORIZED,
                "this way to the file was used before, or is too old",
                "press Download again",
            ));
        }
        // From here on it is as good as the token.
        let token = format!("Bearer {}", context.0.token.expose());
        if let Ok(token) = HeaderValue::from_str(&token) {
            headers.insert(header::AUTHORIZATION, token);
        }
    }
    let opened = with_node(context, &headers, move |node| node.recording_file(&name, number));
    let Opened { name, file, len } = opened.await?;
    let range = headers.get(header::RANGE).and_then(|range| range.to_str().ok());
    let (status, wanted) = match range.map(|range| parse_range(range, len)) {
        None | Some(Asked::All) => (StatusCode::OK, None),
        Some(Asked::Part(part)) => (StatusCode::PARTIAL_CONTENT, Some(part)),
        Some(Asked::Nothing) => {
            let range = [(header::CONTENT_RANGE, format!("bytes */{len}"))];
            return Ok((StatusCode::RANGE_NOT_SATISFIABLE, range).into_response());
        }
    };
    let (from, count) = match &wanted {
        Some(part) => (*part.start(), part.end() - part.start() + 1),
        None => (0, len),
    };
    let kind = if name.ends_with(".mp4") { "video/mp4" } else { "video/x-flv" };
    let mut response = Response::new(Body::new(FileBody::start(file, from, count)));
    *response.status_mut() = status;
    let mut set = |name, text: String| {
        if let Ok(value) = HeaderValue::from_str(&text) {
            response.headers_mut().insert(name, value);
        }
    };
    set(header::CONTENT_TYPE, kind.to_owned());
    set(header::ACCEPT_RANGES, "bytes".to_owned());
    // Such a name has nothing that would have to be quoted.
    set(header::CONTENT_DISPOSITION, format!("attachment; filename=\"{name}\""));
    if let Some(part) = wanted {
        set(header::CONTENT_RANGE, format!("bytes {}-{}/{len}", part.start(), part.end()));
    }
    Ok(response)
}

/// What a `Range` asks for.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    /// Everything: it is no range of bytes, or several.
    All,
    /// These bytes.
    Part(RangeInclusive<u64>),
    /// Bytes that there are not.
    Nothing,
}

/// RFC 9110 §14.1.2; several ranges are answered with everything, as is allowed.
fn parse_range(text: &str, len: u64) -> Asked {
    let range = text.trim().strip_prefix("bytes=").and_then(|range| range.split_once('-'));
    let Some((first, last)) = range else { return Asked::All };
    let number = |text: &str| {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| text.parse().unwrap_or(u64::MAX))
    };
    let (from, to) = match (first, number(first), last, number(last)) {
        ("", _, _, Some(count)) => (len.saturating_sub(count), len.saturating_sub(1)),
        (_, Some(from), "", _) => (from, len.saturating_sub(1)),
        (_, Some(from), _, Some(to)) if from <= to => (from, to.min(len.saturating_sub(1))),
        _ => return Asked::All,
    };
    if from >= len || from > to { Asked::Nothing } else { Asked::Part(from..=to) }
}

/// A part of a file as a body, read as fast as the client takes it.
struct FileBody {
    chunks: mpsc::Receiver<io::Result<Bytes>>,
    left: u64,
}

impl FileBody {
    fn start(mut file: File, from: u64, count: u64) -> Self {
        let (sender, chunks) = mpsc::channel(CHUNKS);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = file.seek(SeekFrom::Start(from)) {
                let _ = sender.blocking_send(Err(error));
                return;
            }
            let mut left = count;
            while left > 0 {
                let mut chunk = vec![0; CHUNK.min(usize::try_from(left).unwrap_or(CHUNK))];
                let read = file.read_exact(&mut chunk);
                left -= chunk.len() as u64;
                let is_over = read.is_err();
                let chunk = read.map(|()| Bytes::from(chunk));
                if sender.blocking_send(chunk).is_err() || is_over {
                    return;
                }
            }
        });
        Self { chunks, left: count }
    }
}

impl hyper::body::Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let chunk = ready!(self.chunks.poll_recv(context));
        if let Some(Ok(chunk)) = &chunk {
            self.left = self.left.saturating_sub(chunk.len() as u64);
        }
        Poll::Ready(chunk.map(|chunk| chunk.map(Frame::data)))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// Which file of which recording.
type Place = (String, usize);

/// Tickets that have been issued.
#[derive(Default)]
pub(super) struct Tickets(Mutex<Vec<Ticket>>);

struct Ticket {
    secret: Token,
    file: Place,
    issued: Instant,
}

impl Tickets {
    fn issue(&self, file: Place, now: Instant) -> Token {
        let mut tickets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tickets.retain(|ticket| now.duration_since(ticket.issued) < TICKET_LIFE);
        if tickets.len() >= MAX_TICKETS {
            tickets.remove(0);
        }
        let secret = Token::random();
        tickets.push(Ticket { secret: secret.clone(), file, issued: now });
        secret
    }

    /// Whether a ticket is good; if it is used, it is so for the last time.
    fn show(&self, secret: &str, file: &Place, is_used: bool, now: Instant) -> bool {
        let mut tickets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tickets.retain(|ticket| now.duration_since(ticket.issued) < TICKET_LIFE);
        let is_it = |ticket: &Ticket| ticket.secret.matches(secret) && ticket.file == *file;
        let Some(at) = tickets.iter().position(is_it) else { return false };
        if is_used {
            tickets.remove(at);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let part = |text| parse_range(text, 100);
        assert_eq!(part("bytes=0-9"), Asked::Part(0..=9));
        assert_eq!(part("bytes=90-"), Asked::Part(90..=99));
        assert_eq!(part("bytes=-5"), Asked::Part(95..=99));
        assert_eq!(part("bytes=-500"), Asked::Part(0..=99));
        assert_eq!(part("bytes=99-99999999999999999999999"), Asked::Part(99..=99));
        for nothing in ["bytes=100-", "bytes=100-200", "bytes=-0", "bytes=18446744073709551615-"] {
            assert_eq!(part(nothing), Asked::Nothing, "{nothing}");
        }
        for all in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=9-0",
            "lines=0-9",
            "bytes=0-1,5-6",
            "bytes=+1-2",
        ] {
            assert_eq!(part(all), Asked::All, "{all}");
        }
        assert_eq!(parse_range("bytes=0-", 0), Asked::Nothing);
    }

    #[test]
    fn a_ticket_is_good_for_one_file_once_for_a_minute() {
        let tickets = Tickets::default();
        let now = Instant::now();
        let file = ("aa".to_owned(), 1);
        let redeem = |secret: &str, file: &Place, now| tickets.show(secret, file, true, now);
        let ticket = tickets.issue(file.clone(), now);
        assert!(!redeem(ticket.expose(), &("aa".to_owned(), 2), now));
        assert!(!redeem(ticket.expose(), &("bb".to_owned(), 1), now));
        assert!(!redeem("", &file, now));
        assert!(tickets.show(ticket.expose(), &file, false, now), "its size was asked for");
        assert!(redeem(ticket.expose(), &file, now));
        assert!(!redeem(ticket.expose(), &file, now), "once");
        let late = tickets.issue(file.clone(), now);
        assert!(!redeem(late.expose(), &file, now + TICKET_LIFE));
        let first = tickets.issue(file.clone(), now);
        (0..MAX_TICKETS).for_each(|_| drop(tickets.issue(file.clone(), now)));
        assert!(!redeem(first.expose(), &file, now), "there is an end to them");
    }
}
