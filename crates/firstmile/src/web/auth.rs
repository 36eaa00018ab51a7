//! Who may ask what: the Host and Origin of browsers, and the bearer token.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::api::ApiError;
use super::{Context, measure};
use crate::join::parse_host;
use crate::platform;
use crate::secret::Token;

/// How long a request may take from its head to the head of its answer, a trickling body included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// The names under which a browser may reach the node.
///
/// A page of a hostile site can make its own name resolve to this machine (DNS rebinding), but it
/// cannot change the name that the browser then sends.
#[derive(Clone, Debug)]
pub struct AllowedHosts {
    names: Vec<String>,
    bound: IpAddr,
}

impl AllowedHosts {
    /// Loopback names, the bound address (any address if bound to all) and the public name.
    pub fn new(bound: SocketAddr, public_host: Option<&str>) -> Self {
        let names = ["localhost"].into_iter().chain(public_host);
        let names = names.filter_map(parse_host).collect();
        Self { names, bound: bound.ip().to_canonical() }
    }

    /// The same, and where others are let in the name that this machine has on its LAN.
    pub fn and_this_machine(mut self) -> Self {
        if !self.bound.is_loopback() {
            let name = platform::hostname();
            let names = name.iter().flat_map(|name| [name.clone(), format!("{name}.local")]);
            self.names.extend(names.filter_map(|name| parse_host(&name)));
        }
        self
    }

    /// Whether a Host header is one of ours. Its port is free: tunnels change it.
    pub fn allows(&self, host: &str) -> bool {
        let Some(host) = host_of(host) else {
            return false;
        };
        match host.parse::<IpAddr>() {
            // An address in the header cannot be the work of a name server.
            Ok(ip) => {
                let ip = ip.to_canonical();
                ip.is_loopback() || ip == self.bound || self.bound.is_unspecified()
            }
            Err(_) => self.names.iter().any(|name| host.trim_end_matches('.') == name),
        }
    }
}

/// The host of `HOST` or `HOST:PORT`, in the form of [`parse_host`].
fn host_of(authority: &str) -> Option<String> {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => {
            port.parse::<u16>().ok()?;
            host
        }
        _ => authority,
    };
    if host.contains(':') && !host.starts_with('[') { None } else { parse_host(host) }
}

/// Refuses foreign names and origins before anything else sees the request.
pub(super) async fn guard(
    State(context): State<Arc<Context>>,
    mut request: Request,
    next: Next,
) -> Response {
    let checked = check(&context.hosts, request.method(), request.headers());
    // From here on, a page that has logged in is as good as one that has the token.
    let is_alone = !request.headers().contains_key(header::AUTHORIZATION);
    let now = Instant::now();
    if is_alone
        && let Some(session) = context.sessions.find(request.method(), request.headers(), now)
    {
        request.extensions_mut().insert(session);
        let bearer = format!("Bearer {}", context.token.expose());
        let bearer = bearer.parse().expect("a token is fit for a header");
        request.headers_mut().insert(header::AUTHORIZATION, bearer);
    }
    let path = request.uri().path();
    let is_measuring = context.meter.is_some() && measure::is_open(path);
    let is_open = !context.public || path == "/healthz" || is_measuring;
    let checked =
        checked.and_then(|()| match is_open || has_token(&context.token, request.headers()) {
            true => Ok(()),
            false => Err(ApiError::unauthorized()),
        });
    let mut response = match checked {
        Ok(()) => match tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await {
            Ok(response) => response,
            Err(_) => ApiError::too_slow().into_response(),
        },
        Err(error) => error.into_response(),
    };
    let headers = response.headers_mut();
    let fixed = [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    ];
    for (name, value) in fixed {
        // A page brings its own policy.
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

fn check(hosts: &AllowedHosts, method: &Method, headers: &HeaderMap) -> Result<(), ApiError> {
    let text = |name| headers.get(name).map(|value: &HeaderValue| value.to_str().unwrap_or(""));
    let host = text(header::HOST).unwrap_or_default();
    if !hosts.allows(host) {
        return Err(ApiError::forbidden(
            "this node does not go by that name",
            "open it by its address, or on the machine itself as localhost; a relay also goes by its \
             public_host",
        ));
    }
    // What goes over a WebSocket is read by the page that opened it, whosever it is.
    let safe =
        matches!(*method, Method::GET | Method::HEAD) && !headers.contains_key(header::UPGRADE);
    if !safe && is_own_origin(headers) == Some(false) {
        return Err(ApiError::forbidden(
            "another site's page may neither change nor watch anything here",
            "use the node's own dashboard, or the command line",
        ));
    }
    Ok(())
}

/// Whether the page that asks is one of ours; `None` if the browser, or what is none, does not say.
pub(super) fn is_own_origin(headers: &HeaderMap) -> Option<bool> {
    let origin = headers.get(header::ORIGIN)?.to_str().unwrap_or_default();
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let authority = origin.split_once("://").map(|(_, authority)| authority);
    Some(authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host)))
}

/// Whether the request shows the token.
pub(super) fn has_token(token: &Token, headers: &HeaderMap) -> bool {
    let sent = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    // RFC 9110 §11.1: the scheme is compared without regard to case.
    sent.and_then(|sent| sent.split_once(' ')).is_some_and(|(scheme, sent)| {
        scheme.eq_ignore_ascii_case("bearer") && token.matches(sent.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let hosts = AllowedHosts::new("127.0.0.1:8935".parse().unwrap(), Some("Relay.Example"));
        for good in [
            "localhost",
            "localhost:8935",
            "LOCALHOST:9000",
            "127.0.0.1:8935",
            "127.0.0.1",
            "[::1]:8935",
            "[::1]",
            "relay.example",
            "relay.example.:443",
        ] {
            assert!(hosts.allows(good), "{good}");
        }
        for bad in [
            "",
            "evil.example",
            "evil.example:8935",
            "localhost.evil.example",
            "10.0.0.1:8935",
            "127.0.0.1.evil.example",
            "localhost:8935:1",
            "localhost:x",
            "[::1",
            "::1",
            "localhost@evil.example",
        ] {
            assert!(!hosts.allows(bad), "{bad}");
        }
    }

    #[test]
    fn bound_to_all_takes_any_address_but_no_name() {
        let hosts = AllowedHosts::new("[::]:8935".parse().unwrap(), None);
        assert!(hosts.allows("10.0.0.1:8935"));
        assert!(!hosts.allows("evil.example:8935"));
    }

    #[test]
    fn the_name_on_the_lan_is_good_where_the_lan_is_let_in() {
        let Some(name) = platform::hostname().and_then(|name| parse_host(&name)) else { return };
        let hosts =
            |bound: &str| AllowedHosts::new(bound.parse().unwrap(), None).and_this_machine();
        assert!(hosts("[::]:8935").allows(&format!("{name}:8935")));
        assert!(hosts("10.0.0.2:8935").allows(&format!("{name}.local")));
        assert!(!hosts("10.0.0.2:8935").allows(&format!("{name}.evil.example")));
        assert_eq!(hosts("127.0.0.1:8935").allows(&name), name == "localhost");
    }

    #[test]
    fn tokens() {
        let token: Token = "0123456789abcdef".parse().unwrap();
        let sent = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            has_token(&token, &headers)
        };
        assert!(sent("Bearer 0123456789abcdef") && sent("bearer 0123456789abcdef"));
        assert!(!sent("Bearer 0123456789abcdeF") && !sent("Basic 0123456789abcdef"));
        assert!(!sent("0123456789abcdef") && !has_token(&token, &HeaderMap::new()));
    }
}
