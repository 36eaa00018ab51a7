//! `/api/v1`, `/healthz` and `/metrics`.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::extract::rejection::BytesRejection;
use axum::extract::rejection::QueryRejection;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json, Router};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};

use super::auth::{guard, has_token};
use super::qr::{self, Wanted};
use super::routes::{self, Part, routes};
use super::sessions::Login;
use super::{Context, MAX_BODY, Node, Peer, events, measure, metrics, openapi, pages, preview};
use crate::egress::record::ShelfError;
use crate::secret::FeedNameError;
use crate::status::{FeedInfo, PlayTiming, RecordingInfo, Status};
use crate::store::{FeedError, StoreError};
use crate::when::When;

pub(super) type Shared = State<Arc<Context>>;

pub(super) const ROUTES: Part = routes! {
    get "/healthz" async || "ok\n";
    get "/metrics" show_metrics;
    get "/api/v1/openapi.json" openapi::show;
    get "/api/v1/status" status;
    get "/api/v1/events" events::show;
    get "/api/v1/feeds" feeds;
    post "/api/v1/feeds" add_feed;
    delete "/api/v1/feeds/{name}" remove_feed;
    patch "/api/v1/feeds/{name}" change_feed;
    post "/api/v1/feeds/{name}/rotate" rotate_feed;
    get "/api/v1/feeds/{name}/qr" show_qr;
    get "/api/v1/feeds/{name}/preview" preview::show;
    put "/api/v1/feeds/{name}/auth" set_auth;
    put "/api/v1/feeds/{name}/validity" set_validity;
    put "/api/v1/feeds/{name}/pause" set_paused;
    put "/api/v1/feeds/{name}/recording" set_recording;
    get "/api/v1/recordings" all_recordings;
    get "/api/v1/session" session;
    post "/api/v1/login" log_in;
    post "/api/v1/logout" log_out;
};

pub(super) fn router(context: Arc<Context>) -> Router {
    let measuring = if context.meter.is_some() { measure::routes() } else { Router::new() };
    routes::all()
        .merge(pages::routes())
        .merge(measuring)
        .fallback(async || {
            ApiError::not_found(
                "there is nothing here",
                "the dashboard is at /, the API at /api/v1/status",
            )
        })
        .method_not_allowed_fallback(async || {
            ApiError::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "this address takes another method",
                "see the API's documentation",
            )
        })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(from_fn_with_state(context.clone(), guard))
        .with_state(context)
}

async fn status(State(context): Shared, headers: HeaderMap) -> Result<Json<Status>, ApiError> {
    may_look(&context, &headers)?;
    let status = context.node.status();
    Ok(Json(if has_token(&context.token, &headers) { status } else { status.masked() }))
}

/// What shows no key needs the token only where other machines reach the listener.
pub(super) fn may_look(context: &Context, headers: &HeaderMap) -> Result<(), ApiError> {
    match !context.private || has_token(&context.token, headers) {
        true => Ok(()),
        false => Err(ApiError::unauthorized()),
    }
}

/// What a page that begins should ask for.
async fn session(State(context): Shared, headers: HeaderMap) -> Json<SessionAnswer> {
    let password = context.sessions.has_password();
    Json(SessionAnswer { password, owner: has_token(&context.token, &headers) })
}

async fn log_in(
    State(context): Shared,
    peer: Option<Extension<Peer>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let NewSession { password } = json(body)?;
    let from = peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |Extension(peer)| peer.0);
    match context.sessions.log_in(&password, from, Instant::now()) {
        Login::Open(cookie) => {
            Ok((StatusCode::NO_CONTENT, [(header::SET_COOKIE, cookie)]).into_response())
        }
        Login::Wrong => {
            tracing::warn!(%from, "a wrong password at the dashboard");
            Err(ApiError::new(
                StatusCode::UNAUTHORIZED,
                "that is not the password",
                "it is http_password in this node's configuration",
            ))
        }
        Login::Later => Err(ApiError::new(
            StatusCode::TOO_MANY_REQUESTS,
            "too many wrong passwords came from there",
            "wait some seconds, or use the token of run.json",
        )),
        Login::Never => Err(ApiError::not_found(
            "nobody logs in here with a password",
            "use the token of run.json, or set http_password in this node's configuration",
        )),
    }
}

async fn log_out(State(context): Shared, headers: HeaderMap) -> Response {
    let gone = context.sessions.log_out(&headers);
    (StatusCode::NO_CONTENT, [(header::SET_COOKIE, gone)]).into_response()
}

async fn show_metrics(State(context): Shared, headers: HeaderMap) -> Result<Response, ApiError> {
    may_look(&context, &headers)?;
    let text = metrics::text(&context.node.status().masked());
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

async fn feeds(context: Shared, headers: HeaderMap) -> Result<Json<Vec<FeedInfo>>, ApiError> {
    with_node(context, &headers, |node| node.feeds()).await.map(Json)
}

/// The code's text is a key: it needs the token, and is not to be stored.
async fn show_qr(
    context: Shared,
    headers: HeaderMap,
    Path(name): Path<String>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Result<Response, ApiError> {
    let drawn = with_node(context, &headers, move |node| {
        let Query(wanted) = wanted.map_err(|rejection| {
            let hint = "send for example ?place=0&form=larix";
            ApiError::invalid(&format!("this cannot be drawn: {}", rejection.body_text()), hint)
        })?;
        let feeds = node.feeds()?;
        let feed = feeds.iter().find(|feed| feed.name == name).ok_or_else(|| {
            ApiError::not_found("there is no such feed", "see /api/v1/feeds for their names")
        })?;
        qr::draw(feed, wanted)
    });
    Ok(([(header::CONTENT_TYPE, "image/svg+xml")], drawn.await?).into_response())
}

async fn add_feed(
    context: Shared,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Json<FeedInfo>), ApiError> {
    let added = with_node(context, &headers, |node| {
        let NewFeed { name, valid } = json(body)?;
        node.add_feed(&name, valid.until(SystemTime::now())?)
    });
    Ok((StatusCode::CREATED, Json(added.await?)))
}

async fn rotate_feed(
    context: Shared,
    headers: HeaderMap,
    Path(name): Path<String>,
) -> Result<Json<FeedInfo>, ApiError> {
    with_node(context, &headers, move |node| node.rotate_feed(&name)).await.map(Json)
}

async fn set_validity(
    context: Shared,
    headers: HeaderMap,
    Path(name): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<FeedInfo>, ApiError> {
    let set = with_node(context, &headers, move |node| {
        let valid: SetValidity = json(body)?;
        node.set_until(&name, valid.until(SystemTime::now())?)
    });
    set.await.map(Json)
}

async fn set_paused(
    context: Shared,
    headers: HeaderMap,
    Path(name): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<FeedInfo>, ApiError> {
    let set = with_node(context, &headers, move |node| {
        let SetAuth { on } = json(body)?;
        node.set_paused(&name, on)
    });
    set.await.map(Json)
}

async fn set_auth(
    context: Shared,
    headers: HeaderMap,
    Path(name): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<FeedInfo>, ApiError> {
    let set = with_node(context, &headers, move |node| {
        let SetAuth { on } = json(body)?;
        node.set_auth(&name, on)
    });
    set.await.map(Json)
}

async fn set_recording(
    context: Shared,
    headers: HeaderMap,
    Path(name): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<FeedInfo>, ApiError> {
    let set = with_node(context, &headers, move |node| {
        let SetRecording { on } = json(body)?;
        node.set_recording(&name, on)
    });
    set.await.map(Json)
}

async fn change_feed(
    context: Shared,
    headers: HeaderMap,
    Path(name): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<FeedInfo>, ApiError> {
    let changed = with_node(context, &headers, move |node| {
        let change: FeedChange = json(body)?;
        node.change_feed(&name, change)
    });
    changed.await.map(Json)
}

async fn all_recordings(
    context: Shared,
    headers: HeaderMap,
) -> Result<Json<Vec<RecordingInfo>>, ApiError> {
    with_node(context, &headers, |node| node.recordings()).await.map(Json)
}

async fn remove_feed(
    context: Shared,
    headers: HeaderMap,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiError> {
    with_node(context, &headers, move |node| node.remove_feed(&name)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Asks for the token, then calls the node where waiting for the disk stops nobody.
pub(super) async fn with_node<T: Send + 'static>(
    State(context): Shared,
    headers: &HeaderMap,
    call: impl FnOnce(&dyn Node) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    if !has_token(&context.token, headers) {
        return Err(ApiError::unauthorized());
    }
    let called = tokio::task::spawn_blocking(move || call(&*context.node)).await;
    called.unwrap_or_else(|_| Err(ApiError::failed("the node failed to answer", "see its log")))
}

pub(super) fn json<T: DeserializeOwned>(
    body: Result<Bytes, BytesRejection>,
) -> Result<T, ApiError> {
    let body = body.map_err(|rejection| {
        ApiError::new(rejection.status(), "the request's body cannot be read", "send less")
    })?;
    let body = if body.is_empty() { Bytes::from_static(b"{}") } else { body };
    serde_json::from_slice(&body).map_err(|error| {
        ApiError::invalid(&format!("the request's body is not right: {error}"), "send JSON")
    })
}

/// The answer of `GET /api/v1/session`.
#[derive(Clone, Copy, Debug, Serialize)]
struct SessionAnswer {
    /// Whether one can log in with a password.
    password: bool,
    /// Whether this request may see keys and change something.
    owner: bool,
}

/// The body of `POST /api/v1/login`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewSession {
    password: String,
}

/// The body of `POST /api/v1/feeds`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewFeed {
    /// The feed's name.
    pub name: String,
    /// Until when its key is good.
    #[serde(default)]
    pub valid: SetValidity,
}

/// The body of `PUT /api/v1/feeds/NAME/validity`; without either, the key is good for ever.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SetValidity {
    /// Until when the key is good, in seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until_s: Option<u64>,
    /// For how many seconds it is, by the studio's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub for_s: Option<u64>,
}

impl SetValidity {
    fn until(self, now: SystemTime) -> Result<Option<When>, ApiError> {
        let until = match (self.until_s, self.for_s) {
            (None, None) => return Ok(None),
            (Some(until_s), None) => When::from_unix(until_s),
            (None, Some(for_s)) => When::after(now, Duration::from_secs(for_s)),
            (Some(_), Some(_)) => None,
        };
        until.map(Some).ok_or_else(|| {
            ApiError::invalid(
                "a key is good until a time before the year 10000, or for a while",
                r#"send for example {"for_s": 7200}, {"until_s": 1800000000}, or {} for ever"#,
            )
        })
    }
}

/// The body of `PUT /api/v1/feeds/NAME/auth`, and of `.../pause`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetAuth {
    /// Whether the feed has a user and a password; or whether its key is paused.
    pub on: bool,
}

/// The body of `PUT /api/v1/feeds/NAME/recording`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetRecording {
    /// Whether the feed is recorded.
    pub on: bool,
}

/// The body of `PATCH /api/v1/feeds/NAME`: what is absent stays, and `null` is as the configuration
/// says for all feeds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeedChange {
    /// How far behind the live edge its players are kept, in milliseconds.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub play_delay_ms: Option<Option<u64>>,
    /// How late a player may be beside that before it skips, in milliseconds.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub play_max_delay_ms: Option<Option<u64>>,
}

impl FeedChange {
    /// What is set after the change.
    pub fn applied_to(self, before: PlayTiming) -> PlayTiming {
        PlayTiming {
            play_delay_ms: self.play_delay_ms.unwrap_or(before.play_delay_ms),
            play_max_delay_ms: self.play_max_delay_ms.unwrap_or(before.play_max_delay_ms),
        }
    }
}

/// Tells `null` from what is absent.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<u64>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// An error as the API answers it: `{"error": "...", "hint": "..."}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    status: StatusCode,
    body: ErrorBody,
}

/// The body of an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What failed.
    pub error: String,
    /// What to do.
    pub hint: String,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, error: &str, hint: &str) -> Self {
        Self { status, body: ErrorBody { error: error.to_owned(), hint: hint.to_owned() } }
    }

    /// The request is wrong (400).
    pub fn invalid(error: &str, hint: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error, hint)
    }

    /// There is no such thing (404).
    pub fn not_found(error: &str, hint: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, error, hint)
    }

    /// It contradicts what is there (409).
    pub fn conflict(error: &str, hint: &str) -> Self {
        Self::new(StatusCode::CONFLICT, error, hint)
    }

    /// The node could not do it (500).
    pub fn failed(error: &str, hint: &str) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, error, hint)
    }

    /// A relay's answer to everything about feeds (421).
    pub fn feeds_belong_to_the_studio() -> Self {
        let hint = "ask the studio: run `firstmile feed` there";
        Self::new(StatusCode::MISDIRECTED_REQUEST, "feeds belong to the studio", hint)
    }

    /// A studio's answer to everything about studios and invites (421).
    pub fn invites_belong_to_the_relay() -> Self {
        let hint = "ask the relay: run `firstmile invite` or `firstmile studios` there";
        Self::new(StatusCode::MISDIRECTED_REQUEST, "studios and invites belong to the relay", hint)
    }

    /// A relay's answer to everything about relays (421).
    pub fn relays_belong_to_the_studio() -> Self {
        let hint = "ask the studio: a relay joins nobody";
        Self::new(StatusCode::MISDIRECTED_REQUEST, "relays are joined by the studio", hint)
    }

    pub(super) fn forbidden(error: &str, hint: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, error, hint)
    }

    pub(super) fn too_much(error: &str, hint: &str) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, error, hint)
    }

    pub(super) fn unavailable(error: &str, hint: &str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error, hint)
    }

    pub(super) fn too_slow() -> Self {
        let hint = "send it again, all at once";
        Self::new(StatusCode::REQUEST_TIMEOUT, "the request took too long", hint)
    }

    /// There are too many who do this at a time (503).
    pub(super) fn busy(error: &str, hint: &str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error, hint)
    }

    pub(super) fn unauthorized() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "this needs the token",
            "send `Authorization: Bearer TOKEN`; the token is in run.json in the data directory",
        )
    }
}

impl From<FeedError> for ApiError {
    fn from(error: FeedError) -> Self {
        let status = match error {
            FeedError::Exists(_) => StatusCode::CONFLICT,
            FeedError::Unknown { .. } => StatusCode::NOT_FOUND,
            FeedError::Past(_) => StatusCode::BAD_REQUEST,
            FeedError::Store(error) => return error.into(),
        };
        Self::new(status, &error.to_string(), &error.hint())
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let status = match error {
            StoreError::Full { .. } => StatusCode::CONFLICT,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, &error.to_string(), &error.hint())
    }
}

impl From<ShelfError> for ApiError {
    fn from(error: ShelfError) -> Self {
        let (status, hint) = match &error {
            ShelfError::OnAir => {
                (StatusCode::CONFLICT, "end it first: stop the encoder, or switch recording off")
            }
            ShelfError::Unknown | ShelfError::NoFile => {
                (StatusCode::NOT_FOUND, "see /api/v1/recordings for those there are")
            }
            _ => (StatusCode::INTERNAL_SERVER_ERROR, "see the studio's log, and its disk"),
        };
        let error = anyhow::Error::from(error);
        Self::new(status, &format!("{error:#}"), hint)
    }
}

impl From<FeedNameError> for ApiError {
    fn from(error: FeedNameError) -> Self {
        Self::invalid(&error.to_string(), "choose a name such as camera-2")
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body)).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}
