//! The dashboard's page: files that are part of the program.

use axum::Router;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;

/// What the page may do: run our scripts, use our styles, call our API, draw pictures of ours.
///
/// `data:` is for QR codes, which the page fetches with the token, `blob:` for previews, which it
/// puts together; `'self'` is this host and port for WebSockets, too. Trusted types turn a script that
/// would parse text as HTML into an error.
pub(super) const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     img-src 'self' data:; media-src blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
     frame-ancestors 'none'; require-trusted-types-for 'script'";

pub(super) const HTML: &str = "text/html; charset=utf-8";
pub(super) const CSS: &str = "text/css; charset=utf-8";
pub(super) const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// Path, type and content of each file.
pub(super) const FILES: [(&str, &str, &str); 17] = [
    ("/", HTML, include_str!("ui/index.html")),
    ("/style.css", CSS, include_str!("ui/style.css")),
    ("/icon.svg", SVG, include_str!("ui/icon.svg")),
    ("/main.js", SCRIPT, include_str!("ui/main.js")),
    ("/api.js", SCRIPT, include_str!("ui/api.js")),
    ("/dom.js", SCRIPT, include_str!("ui/dom.js")),
    ("/words.js", SCRIPT, include_str!("ui/words.js")),
    ("/history.js", SCRIPT, include_str!("ui/history.js")),
    ("/feed.js", SCRIPT, include_str!("ui/feed.js")),
    ("/preview.js", SCRIPT, include_str!("ui/preview.js")),
    ("/player.js", SCRIPT, include_str!("ui/player.js")),
    ("/setup.js", SCRIPT, include_str!("ui/setup.js")),
    ("/events.js", SCRIPT, include_str!("ui/events.js")),
    ("/follow.js", SCRIPT, include_str!("ui/follow.js")),
    ("/keys.js", SCRIPT, include_str!("ui/keys.js")),
    ("/pair.js", SCRIPT, include_str!("ui/pair.js")),
    ("/recordings.js", SCRIPT, include_str!("ui/recordings.js")),
];

/// The files of the page; nothing in them is secret.
pub(super) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    FILES.iter().fold(Router::new(), |router, &(path, kind, text)| {
        router.route(path, get(async move || file(kind, text)))
    })
}

fn file(kind: &'static str, text: &'static str) -> Response {
    let headers = [(header::CONTENT_TYPE, kind), (header::CONTENT_SECURITY_POLICY, POLICY)];
    (headers, text).into_response()
}

#[cfg(test)]
mod tests {
    use super::super::measure;
    use super::*;

    /// Peers choose names, clients and errors: what a page shows of them has to stay text.
    #[test]
    fn the_page_makes_text_nodes_only() {
        for (path, kind, text) in FILES.into_iter().chain(measure::FILES) {
            for word in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "Function(",
                "setHTML",
                "DOMParser",
                "createContextualFragment",
                "srcdoc",
                "javascript:",
            ] {
                assert!(!text.contains(word), "{path} has {word}");
            }
            if kind == HTML {
                // No script or style inside the page, and no handler in an attribute.
                assert!(!text.contains("<style") && !text.contains("style=\""), "{path}");
                assert!(!text.contains(" on") && !text.contains("<script>"), "{path}");
            }
        }
    }

    #[test]
    fn the_page_calls_what_there_is() {
        let text = |wanted| FILES.iter().find(|(path, ..)| *path == wanted).expect("a file").2;
        let name = |text: &'static str| text.split(|c: char| !c.is_alphanumeric()).next();
        for (path, _, script) in FILES.iter().filter(|(_, kind, _)| *kind == SCRIPT) {
            // `api.pause(`, and not `api.js`.
            let calls = script.split("api.").skip(1).filter_map(name).filter(|name| *name != "js");
            for call in calls {
                let forms = ["const", "function", "async function"];
                let is_there = forms.iter().any(|form| {
                    [" ", "("]
                        .iter()
                        .any(|end| text("/api.js").contains(&format!("export {form} {call}{end}")))
                });
                assert!(is_there, "{path}: api.{call}");
            }
        }
    }

    #[test]
    fn the_page_asks_nobody_else() {
        for (path, _, text) in FILES.into_iter().chain(measure::FILES) {
            let text = text.replace("http://www.w3.org/2000/svg", "");
            for scheme in ["http://", "https://", "url(", "@import", "//cdn", "wss:"] {
                assert!(!text.contains(scheme), "{path} has {scheme}");
            }
            for line in text.lines().filter(|line| line.trim_start().starts_with("import ")) {
                let module = line.split('"').nth(1).and_then(|name| name.strip_prefix('.'));
                let is_ours = FILES.iter().any(|(path, ..)| Some(*path) == module);
                assert!(is_ours, "{path}: {line}");
            }
        }
    }
}
