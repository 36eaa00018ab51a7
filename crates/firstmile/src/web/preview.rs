//! `GET /api/v1/feeds/NAME/preview`: a feed on a page, over a WebSocket.
//!
//! Browsers cannot give a WebSocket a header, and an address stands in logs: the token comes in the
//! first message, `{"token": "...", "mode": "picture"}`. Later ones change the mode. What comes
//! back is described in `egress/preview/wire.rs`, and ends with a close code of [`Code`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Extension;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::Context;
use super::api::ApiError;
use super::auth::has_token;
use super::sessions::Session;
use crate::egress::preview::{self, Full, Mode, Next, Viewer};

/// Previews that have not shown the token yet: an honest one takes milliseconds.
pub(super) const MAX_STRANGERS: usize = 32;
/// How long the token may take.
const HELLO: Duration = Duration::from_secs(5);
/// Longest message of a page.
const MAX_MESSAGE: usize = 1 << 10;
/// How long a viewer may take for one message, or for the answer to a ping.
const STUCK: Duration = Duration::from_secs(10);
/// How long the last words may take, and the answer to them.
const GOODBYE: Duration = Duration::from_secs(1);
/// How often a viewer is asked whether it is still there.
const PING: Duration = Duration::from_secs(5);
/// Messages of a page between two pings; it has one for each change of its mode.
const MAX_MESSAGES: u32 = 100;
/// Bytes of messages that are written at once.
const WRITE_BUFFER: usize = 16 << 10;

/// Why there is no preview.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPreview {
    /// There is no such feed.
    Unknown,
    /// Relays have none.
    Elsewhere,
    /// Too many watch.
    Full(Full),
}

/// Why the WebSocket ends: RFC 6455 §7.4, and codes of our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
enum Code {
    /// The node stops, the feed was removed, or the browser's session is over.
    Away = 1001,
    /// The page does not do as described.
    Policy = 1008,
    /// The token is wrong or was not sent in time.
    Token = 4401,
    NotFound = 4404,
    /// Nothing was taken for some seconds.
    Stuck = 4408,
    Full = 4429,
}

/// A page's message.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    #[serde(default)]
    token: String,
    #[serde(default)]
    mode: Mode,
}

pub(super) async fn show(
    State(context): State<Arc<Context>>,
    Path(name): Path<String>,
    headers: HeaderMap,
    session: Option<Extension<Session>>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    let hint = "open it as a WebSocket, and send {\"token\": \"TOKEN\"} at once";
    let Ok(upgrade) = upgrade else {
        return ApiError::invalid("this is a WebSocket", hint).into_response();
    };
    let Ok(place) = context.strangers.clone().try_acquire_owned() else {
        let error = "too many previews are being opened";
        return ApiError::unavailable(error, "try again in some seconds").into_response();
    };
    let upgrade = upgrade.max_message_size(MAX_MESSAGE).max_frame_size(MAX_MESSAGE);
    let upgrade = upgrade.read_buffer_size(4 * MAX_MESSAGE).write_buffer_size(WRITE_BUFFER);
    // A page that has logged in has a cookie, and no token.
    let is_owner = has_token(&context.token, &headers);
    upgrade.on_upgrade(async move |mut socket| {
        let admitted = admit(&mut socket, &context, name, is_owner).await;
        drop(place);
        let (end, viewer) = match admitted {
            Ok(mut viewer) => {
                let end = tokio::select! {
                    end = watch(&mut socket, &mut viewer) => end,
                    () = Session::over(session.as_deref()) => (Code::Away, "the session is over"),
                };
                (end, Some(viewer))
            }
            Err(refused) => (refused, None),
        };
        let (code, why) = end;
        tracing::debug!(?code, why, "a preview ended");
        let frame = CloseFrame { code: code as u16, reason: why.into() };
        let told = tokio::time::timeout(GOODBYE, socket.send(Message::Close(Some(frame)))).await;
        // A node that stops waits for those who are told so.
        drop(viewer);
        if let Ok(Ok(())) = told {
            // What is unread when a socket is closed makes the other end forget the last words.
            let read = async { while let Some(Ok(_)) = socket.recv().await {} };
            let _ = tokio::time::timeout(GOODBYE, read).await;
        }
    })
}

type End = (Code, &'static str);

/// Waits for the token, which an owner need not repeat.
async fn admit(
    socket: &mut WebSocket,
    context: &Context,
    name: String,
    is_owner: bool,
) -> Result<Viewer, End> {
    let first = tokio::time::timeout(HELLO, socket.recv()).await;
    let Ok(Some(Ok(Message::Text(text)))) = first else {
        return Err((Code::Token, "the first message has the token"));
    };
    let wish = serde_json::from_str::<Wish>(&text).ok();
    let Some(wish) = wish.filter(|wish| is_owner || context.token.matches(&wish.token)) else {
        return Err((Code::Token, "this needs the token"));
    };
    let node = context.node.clone();
    // The list of feeds may be held for as long as the disk takes.
    let viewer = tokio::task::spawn_blocking(move || node.preview(&name, wish.mode)).await;
    match viewer {
        Ok(Ok(viewer)) => Ok(viewer),
        Ok(Err(NoPreview::Unknown)) => Err((Code::NotFound, "there is no such feed")),
        Ok(Err(NoPreview::Elsewhere)) => Err((Code::NotFound, "previews are at the studio")),
        Ok(Err(NoPreview::Full(Full::Feed))) => Err((Code::Full, "too many watch this feed")),
        Ok(Err(NoPreview::Full(Full::Node))) => Err((Code::Full, "too many previews are open")),
        Err(_) => Err((Code::Away, "the preview failed")),
    }
}

/// Sends what there is until one of both has enough.
async fn watch(socket: &mut WebSocket, viewer: &mut Viewer) -> End {
    let mut messages = Vec::new();
    let mut ping = tokio::time::interval(PING);
    let mut heard = Instant::now();
    let mut said = 0;
    loop {
        let next = viewer.poll(Instant::now(), &mut messages);
        for message in messages.drain(..) {
            let message = match message {
                preview::Message::Text(text) => Message::Text(text.into()),
                preview::Message::Segment(bytes) => Message::Binary(bytes),
            };
            if let Err(end) = send(socket, message).await {
                return end;
            }
        }
        let received = tokio::select! {
            biased;
            received = socket.recv() => received,
            _ = ping.tick() => {
                if heard.elapsed() > STUCK {
                    return (Code::Stuck, "no sign of life");
                }
                said = 0;
                if let Err(end) = send(socket, Message::Ping(Default::default())).await {
                    return end;
                }
                continue;
            }
            () = std::future::ready(()), if next == Next::More => continue,
            () = std::future::ready(()), if next == Next::Over => {
                return (Code::Away, "the preview is over");
            }
            () = viewer.changed() => continue,
        };
        let Some(Ok(message)) = received else { return (Code::Away, "the page left") };
        heard = Instant::now();
        said += 1;
        if said > MAX_MESSAGES {
            return (Code::Policy, "too many messages");
        }
        match message {
            Message::Text(text) => match serde_json::from_str::<Wish>(&text) {
                Ok(wish) => viewer.set_mode(wish.mode, Instant::now()),
                Err(_) => return (Code::Policy, "a message that makes no sense"),
            },
            Message::Close(_) => return (Code::Away, "the page left"),
            _ => {}
        }
    }
}

/// A viewer that takes nothing is taken for gone.
async fn send(socket: &mut WebSocket, message: Message) -> Result<(), End> {
    match tokio::time::timeout(STUCK, socket.send(message)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err((Code::Away, "the page left")),
        Err(_) => Err((Code::Stuck, "the page took nothing")),
    }
}
