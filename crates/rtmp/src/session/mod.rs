//! RTMP sessions: commands and control messages around the media (RTMP 1.0 §7).
//!
//! Both ends work alike: give what the socket read to `handle_input`, take events from
//! `poll_event` until there is none, write what is in `send_queue`, repeat. After an error the
//! session is over: flush, and close the socket.

pub mod client;
mod connection;
mod link;
pub mod server;

use crate::capabilities::Capabilities;
use crate::name;

pub use client::Client;
pub use server::Server;

/// What a client came for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Intent {
    /// To send a stream: an encoder.
    Publish,
    /// To receive one: a player.
    Play,
}

/// What a client asks for, once it said publish or play.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Request {
    /// Publish or play.
    pub intent: Intent,
    /// The app of its `connect`, as sent.
    pub app: String,
    /// The stream name of its `publish` or `play`, as sent, with the query if it is there.
    pub name: String,
    /// The URL that it believes to have connected to.
    pub tc_url: String,
    /// Its name and version, for example `FMLE/3.0 (compatible; Lavf59.27.100)`.
    pub flash_ver: String,
    /// The page it was embedded in, or that it comes from; mostly empty.
    pub page_url: String,
    /// What it announced of Enhanced RTMP. Encoders and players that use it need not.
    pub capabilities: Capabilities,
    /// The user whose password it proved when it connected, see [`crate::adobe`].
    pub user: Option<String>,
    /// How long its name may be.
    bounds: name::Bounds,
}

impl Request {
    /// The canonical name, the same however the client split app, name and query.
    ///
    /// # Errors
    ///
    /// As for [`name::Target::new`], within the session's bounds.
    pub fn target(&self) -> Result<name::Target, name::Error> {
        name::Target::within(&self.app, &self.name, self.bounds)
    }

    /// Every text in the request that may be a key, see [`name::keys`].
    pub fn keys(&self) -> Vec<String> {
        name::keys(&self.app, &self.name, &self.tc_url)
    }
}

impl std::fmt::Debug for Request {
    /// Leaves out what may carry a key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request")
            .field("intent", &self.intent)
            .field("flash_ver", &self.flash_ver)
            .field("capabilities", &self.capabilities)
            .finish_non_exhaustive()
    }
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rejection {
    /// The key is unknown or wrong; the client is not told which.
    Denied,
    /// The key is right, but its stream is in use.
    Busy,
    /// The stream has as many players as it may have.
    Full,
    /// There is no such stream to play.
    NotFound,
    /// Something failed at this end.
    Failed,
}
