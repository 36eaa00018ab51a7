//! `/api/v1`, `/healthz` and `/metrics`.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::BytesRejection;
use axum::extract::rejection::QueryRejection;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use axum::{Json, Router};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::auth::{guard, has_token};
use super::qr::{self, Wanted};
use super::{Context, MAX_BODY, Node, metrics, pages, preview};
use crate::secret::FeedNameError;
use crate::status::{FeedInfo, RecordingInfo, Status};
use crate::store::{FeedError, StoreError};

/// How long an invite is good for if nobody says.
const INVITE_EXPIRES: Duration = Duration::from_secs(24 * 3600);

/// Longest life of an invite; who needs more makes another.
const INVITE_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

type Shared = State<Arc<Context>>;

pub(super) fn router(context: Arc<Context>) -> Router {
    Router::new()
        .merge(pages::routes())
        .route("/healthz", get(async || "ok\n"))
        .route("/metrics", get(show_metrics))
        .route("/api/v1/status", get(status))
        .route("/api/v1/feeds", get(feeds).post(add_feed))
        .route("/api/v1/feeds/{name}", delete(remove_feed))
        .route("/api/v1/feeds/{name}/rotate", post(rotate_feed))
        .route("/api/v1/feeds/{name}/qr", get(show_qr))
        .route("/api/v1/feeds/{name}/preview", get(preview::show))
        .route("/api/v1/feeds/{name}/auth", put(set_auth))
        .route("/api/v1/feeds/{name}/recording", put(set_recording))
        .route("/api/v1/recordings", get(recordings))
        .route("/api/v1/invites", post(create_invite))
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
    if has_token(&context.token, &headers) {
        return Ok(Json(context.node.status()));
    }
    if context.private {
        return Err(ApiError::unauthorized());
    }
    Ok(Json(context.node.status().masked()))
}

async fn show_metrics(State(context): Shared, headers: HeaderMap) -> Result<Response, ApiError> {
    if context.private && !has_token(&context.token, &headers) {
        return Err(ApiError::unauthorized());
    }
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
        let NewFeed { name } = json(body)?;
        node.add_feed(&name)
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

async fn recordings(
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

async fn create_invite(
    context: Shared,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Json<NewInviteAnswer>), ApiError> {
    let created = with_node(context, &headers, |node| {
        let NewInvite { uses, expires_s } = json(body)?;
        let expires = expires_s.map_or(INVITE_EXPIRES, Duration::from_secs);
        if uses == Some(0) || expires.is_zero() || expires > INVITE_MAX {
            return Err(ApiError::invalid(
                "an invite is for at least one studio, and for at most a year",
                r#"send for example {"uses": 1, "expires_s": 86400}"#,
            ));
        }
        node.create_invite(uses, expires)
    });
    Ok((StatusCode::CREATED, Json(NewInviteAnswer { join_link: created.await? })))
}

/// Asks for the token, then calls the node where waiting for the disk stops nobody.
async fn with_node<T: Send + 'static>(
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

fn json<T: DeserializeOwned>(body: Result<Bytes, BytesRejection>) -> Result<T, ApiError> {
    let body = body.map_err(|rejection| {
        ApiError::new(rejection.status(), "the request's body cannot be read", "send less")
    })?;
    let body = if body.is_empty() { Bytes::from_static(b"{}") } else { body };
    serde_json::from_slice(&body).map_err(|error| {
        ApiError::invalid(&format!("the request's body is not right: {error}"), "send JSON")
    })
}

/// The body of `POST /api/v1/feeds`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewFeed {
    /// The feed's name.
    pub name: String,
}

/// The body of `PUT /api/v1/feeds/NAME/auth`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetAuth {
    /// Whether the feed has a user and a password.
    pub on: bool,
}

/// The body of `PUT /api/v1/feeds/NAME/recording`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetRecording {
    /// Whether the feed is recorded.
    pub on: bool,
}

/// The body of `POST /api/v1/invites`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewInvite {
    /// For how many studios; without it, any number.
    #[serde(default)]
    pub uses: Option<u32>,
    /// For how many seconds; without it, a day.
    #[serde(default)]
    pub expires_s: Option<u64>,
}

/// The answer to it.
#[derive(Clone, Serialize, Deserialize)]
pub struct NewInviteAnswer {
    /// The link in clear.
    pub join_link: String,
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
    fn new(status: StatusCode, error: &str, hint: &str) -> Self {
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

    /// A studio's answer to everything about invites (421).
    pub fn invites_belong_to_the_relay() -> Self {
        let hint = "ask the relay: run `firstmile invite` there";
        Self::new(StatusCode::MISDIRECTED_REQUEST, "invites belong to the relay", hint)
    }

    pub(super) fn forbidden(error: &str, hint: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, error, hint)
    }

    pub(super) fn unavailable(error: &str, hint: &str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error, hint)
    }

    pub(super) fn too_slow() -> Self {
        let hint = "send it again, all at once";
        Self::new(StatusCode::REQUEST_TIMEOUT, "the request took too long", hint)
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
