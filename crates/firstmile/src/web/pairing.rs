//! Pairing: a studio's relays, a relay's studios and its invites.

use std::time::Duration;

use axum::Json;
use axum::extract::Path;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::api::{ApiError, SetAuth, Shared, json, with_node};
use super::qr;
use super::routes::{Part, routes};
use crate::status::{InviteInfo, RelayInfo, StudioInfo};

/// How long an invite is good for if nobody says.
const INVITE_EXPIRES: Duration = Duration::from_secs(24 * 3600);

/// Longest life of an invite; who needs more makes another.
const INVITE_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

pub(super) const ROUTES: Part = routes! {
    get "/api/v1/relays" relays;
    post "/api/v1/relays" join_relay;
    delete "/api/v1/relays/{key}" leave_relay;
    get "/api/v1/studios" studios;
    put "/api/v1/studios/{key}/admission" set_admission;
    get "/api/v1/invites" invites;
    post "/api/v1/invites" create_invite;
    delete "/api/v1/invites/{id}" revoke_invite;
};

async fn relays(context: Shared, headers: HeaderMap) -> Result<Json<Vec<RelayInfo>>, ApiError> {
    with_node(context, &headers, |node| node.relays()).await.map(Json)
}

async fn join_relay(
    context: Shared,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Json<RelayInfo>), ApiError> {
    let joined = with_node(context, &headers, |node| {
        let NewRelay { link } = json(body)?;
        node.join_relay(&link)
    });
    Ok((StatusCode::CREATED, Json(joined.await?)))
}

async fn leave_relay(
    context: Shared,
    headers: HeaderMap,
    Path(key): Path<String>,
) -> Result<StatusCode, ApiError> {
    with_node(context, &headers, move |node| node.leave_relay(&key)).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn studios(context: Shared, headers: HeaderMap) -> Result<Json<Vec<StudioInfo>>, ApiError> {
    with_node(context, &headers, |node| node.studios()).await.map(Json)
}

async fn set_admission(
    context: Shared,
    headers: HeaderMap,
    Path(key): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<StudioInfo>, ApiError> {
    let set = with_node(context, &headers, move |node| {
        let SetAuth { on } = json(body)?;
        node.set_admission(&key, on)
    });
    set.await.map(Json)
}

async fn invites(context: Shared, headers: HeaderMap) -> Result<Json<Vec<InviteInfo>>, ApiError> {
    with_node(context, &headers, |node| node.invites()).await.map(Json)
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
        let join_link = node.create_invite(uses, expires)?;
        let qr = qr::picture(&join_link)?;
        Ok(NewInviteAnswer { join_link, qr })
    });
    Ok((StatusCode::CREATED, Json(created.await?)))
}

async fn revoke_invite(
    context: Shared,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    with_node(context, &headers, move |node| node.revoke_invite(&id)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The body of `POST /api/v1/relays`.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewRelay {
    /// The join link.
    pub link: String,
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
    /// The same as a QR code: an SVG picture.
    #[serde(default)]
    pub qr: String,
}
