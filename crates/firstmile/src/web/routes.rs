//! What the API answers: one list for each module, which the server and the test of `openapi.json` share.

use std::sync::Arc;

use axum::Router;

use super::{Context, api, pairing, recordings};

/// Every list of routes. A module with calls of its own makes one with [`routes!`] and stands here.
///
/// A new call is a line in a list, and its description in `openapi.json`: a test in `openapi.rs` says
/// what is missing, one in `tests/e2e_events.rs` which answer is not as it is described.
const PARTS: &[Part] = &[api::ROUTES, pairing::ROUTES, recordings::ROUTES];

/// The routes of one module.
pub(super) struct Part {
    /// Method and path of each.
    #[cfg_attr(not(test), expect(dead_code, reason = "the test reads it"))]
    pub(super) list: &'static [(&'static str, &'static str)],
    pub(super) router: fn() -> Router<Arc<Context>>,
}

/// Makes a [`Part`] of lines such as `get "/api/v1/status" status;`: method, path, handler.
macro_rules! routes {
    ($($method:ident $path:literal $handler:expr;)*) => {
        $crate::web::routes::Part {
            list: &[$((stringify!($method), $path)),*],
            router: || axum::Router::new()$(.route($path, axum::routing::$method($handler)))*,
        }
    };
}

pub(super) use routes;

/// All of them.
pub(super) fn all() -> Router<Arc<Context>> {
    PARTS.iter().fold(Router::new(), |router, part| router.merge((part.router)()))
}

/// Method and path of all of them.
#[cfg(test)]
pub(super) fn list() -> impl Iterator<Item = (&'static str, &'static str)> {
    PARTS.iter().flat_map(|part| part.list.iter().copied())
}
