//! `GET /api/v1/events`: what happened, as a list, as a text to keep, or as it happens.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use bytes::Bytes;
use hyper::body::Frame;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::api::{ApiError, Shared, may_look};
use super::sessions::Session;
use crate::events::{Event, Events, Filter, Kind, Severity};

/// Events in an answer if nobody says how many, and at most.
const LIMIT: usize = 200;
const MAX_LIMIT: usize = 2_000;
/// Kinds that a request may name: more than there are.
const MAX_KINDS: usize = 64;
/// How often a silent stream says that it lives: proxies close what is silent for a minute.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// How soon a client is to ask again when a stream ends.
const RETRY_MS: u64 = 2_000;
/// How long a stream lasts on a door where a connection may not last longer.
const PUBLIC_STREAM: Duration = Duration::from_secs(50);
/// Events that are put into a stream at a time, and pieces that wait for its connection.
const BATCH: usize = 32;
const PIECES: usize = 4;

/// What is asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Wanted {
    feed: Option<String>,
    kind: Option<String>,
    severity: Severity,
    since: Option<String>,
    limit: Option<usize>,
    format: Format,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    #[default]
    Json,
    Ndjson,
    Text,
}

/// The answer as JSON.
#[derive(Debug, Serialize)]
struct List {
    /// The number of the latest event of all: ask for what came since.
    newest: u64,
    events: Vec<Arc<Event>>,
}

pub(super) async fn show(
    State(context): Shared,
    headers: HeaderMap,
    session: Option<Extension<Session>>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Result<Response, ApiError> {
    may_look(&context, &headers)?;
    let Query(wanted) = wanted.map_err(|rejection| unclear(&rejection.body_text()))?;
    let limit = wanted.limit.unwrap_or(LIMIT).min(MAX_LIMIT);
    let format = wanted.format;
    let is_asked = wanted.since.is_some();
    let filter = filter(wanted)?;
    let events = context.node.events();
    let text = |name| headers.get(name).and_then(|value: &header::HeaderValue| value.to_str().ok());
    if text(header::ACCEPT).is_some_and(|accept| accept.contains("text/event-stream")) {
        // What a browser sends by itself when it comes back.
        let last = text(header::HeaderName::from_static("last-event-id"));
        let last = last.and_then(|last| last.trim().parse().ok());
        let life = context.public.then_some(PUBLIC_STREAM);
        let session = session.map(|Extension(session)| session);
        let start = Start { last, is_asked, life, session };
        return stream(events, filter, start);
    }
    let newest = *events.newest().borrow();
    let list = events.list(&filter, limit);
    Ok(match format {
        Format::Json => Json(List { newest, events: list }).into_response(),
        Format::Ndjson => {
            let lines = list.iter().filter_map(|event| serde_json::to_string(&**event).ok());
            attachment("application/x-ndjson", "events.ndjson", lines)
        }
        Format::Text => {
            let lines = list.iter().map(|event| event.line());
            attachment("text/plain; charset=utf-8", "events.txt", lines)
        }
    })
}

fn attachment(
    kind: &'static str,
    name: &'static str,
    lines: impl Iterator<Item = String>,
) -> Response {
    let mut text = String::new();
    lines.for_each(|line| {
        text.push_str(&line);
        text.push('\n');
    });
    let disposition = format!("attachment; filename=\"firstmile-{name}\"");
    let headers =
        [(header::CONTENT_TYPE, kind.to_owned()), (header::CONTENT_DISPOSITION, disposition)];
    (headers, text).into_response()
}

fn unclear(what: &str) -> ApiError {
    let hint = "send for example ?feed=camera&kind=live,lost&severity=warning&since=0&limit=100";
    ApiError::invalid(&format!("this cannot be listed: {what}"), hint)
}

fn filter(wanted: Wanted) -> Result<Filter, ApiError> {
    let Wanted { feed, kind, severity, since, .. } = wanted;
    let mut filter = Filter { feed, severity, ..Filter::default() };
    let words = kind.iter().flat_map(|kinds| kinds.split(',')).map(str::trim);
    for word in words.filter(|word| !word.is_empty()).take(MAX_KINDS) {
        let kind = Kind::ALL.iter().find(|kind| kind.as_str() == word);
        filter.kinds.push(*kind.ok_or_else(|| unclear("there is no such kind"))?);
    }
    let Some(since) = since.as_deref().map(str::trim) else { return Ok(filter) };
    if let Ok(id) = since.parse() {
        filter.after = id;
    } else if let Some(time) = time(since) {
        time.clone_into(&mut filter.from);
    } else {
        return Err(unclear("`since` is an event's number, or a time such as 2026-11-23T20:00Z"));
    }
    Ok(filter)
}

/// The beginning of a time in UTC: such texts are in order as times are.
fn time(text: &str) -> Option<&str> {
    let text = text.strip_suffix('Z').unwrap_or(text);
    let is_date = (10..=23).contains(&text.len()) && text.as_bytes()[4] == b'-';
    let is_plain = |byte: u8| byte.is_ascii_digit() || b"-:T.".contains(&byte);
    (is_date && text.bytes().all(is_plain)).then_some(text)
}

/// Where a stream begins, and when it ends.
#[derive(Debug)]
struct Start {
    /// The last event that the client has seen.
    last: Option<u64>,
    /// Whether the client asked for what was before.
    is_asked: bool,
    life: Option<Duration>,
    session: Option<Session>,
}

/// Events as they happen, each to be read at once; a client that does not read loses its connection.
fn stream(events: &Events, filter: Filter, start: Start) -> Result<Response, ApiError> {
    let Some(place) = events.stream() else {
        let hint = "close another one, or ask for the list now and then";
        return Err(ApiError::busy("too many are following the events already", hint));
    };
    let (pieces, taken) = mpsc::channel(PIECES);
    let events = events.clone();
    tokio::spawn(async move {
        let _place = place;
        let over = events.over().clone();
        let life = async {
            match start.life {
                Some(life) => tokio::time::sleep(life).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = over.cancelled() => {}
            () = life => {}
            () = Session::over(start.session.as_ref()) => {}
            // The connection is gone.
            () = pieces.closed() => {}
            () = follow(&events, filter, &start, &pieces) => {}
        }
    });
    let headers = [(header::CONTENT_TYPE, "text/event-stream")];
    Ok((headers, Body::new(Pieces(taken))).into_response())
}

/// Sends what was asked for and what comes, until the client is too slow.
async fn follow(events: &Events, mut filter: Filter, start: &Start, pieces: &mpsc::Sender<Bytes>) {
    let mut newest = events.newest();
    let mut seen = *newest.borrow_and_update();
    let mut text = format!("retry: {RETRY_MS}\n\n");
    // A number from a later time than ours is of another clock: all that is there is new then.
    let last = start.last.map(|last| if last > seen { 0 } else { last });
    filter.after = last.unwrap_or(filter.after);
    if last.is_some() || start.is_asked {
        let before = events.list(&filter, MAX_LIMIT);
        before
            .iter()
            .filter(|event| event.id <= seen)
            .for_each(|event| write_event(&mut text, event));
    }
    filter.after = 0;
    filter.from.clear();
    if pieces.send(text.into()).await.is_err() {
        return;
    }
    loop {
        let Some((found, next)) = events.after(seen, &filter, BATCH) else {
            return tracing::debug!("a client was too slow for the events");
        };
        if !found.is_empty() {
            let mut text = String::new();
            found.iter().for_each(|event| write_event(&mut text, event));
            if pieces.send(text.into()).await.is_err() {
                return;
            }
        }
        let has_more = next != seen;
        seen = next;
        if has_more {
            continue;
        }
        let keepalive = Instant::now() + KEEPALIVE;
        match tokio::time::timeout_at(keepalive, newest.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return,
            Err(_) => {
                if pieces.send(Bytes::from_static(b":\n\n")).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// One event as the HTML standard has it (§9.2.6); JSON has no line end in it.
fn write_event(text: &mut String, event: &Event) {
    if let Ok(json) = serde_json::to_string(event) {
        let _ = write!(text, "id: {}\ndata: {json}\n\n", event.id);
    }
}

/// The pieces of a stream, as a body.
#[derive(Debug)]
struct Pieces(mpsc::Receiver<Bytes>);

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_number_or_a_time() {
        let of = |since: &str| {
            filter(Wanted { since: Some(since.into()), ..Wanted::default() })
                .map(|filter| (filter.after, filter.from))
        };
        assert_eq!(of("17"), Ok((17, String::new())));
        for time in ["2026-11-23", "2026-11-23T20:00Z", "2026-11-23T20:00:01.123Z"] {
            assert_eq!(of(time), Ok((0, time.trim_end_matches('Z').to_owned())));
        }
        for bad in ["", "-1", "yesterday", "2026-11", "2026-11-23T20:00+01:00"] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn kinds_are_known_words() {
        let of = |kind: &str| {
            filter(Wanted { kind: Some(kind.into()), ..Wanted::default() })
                .map(|filter| filter.kinds)
        };
        assert_eq!(of("live, lost,"), Ok(vec![Kind::Live, Kind::Lost]));
        assert!(of("live,alive").is_err());
    }
}
