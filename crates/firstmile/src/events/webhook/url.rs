//! The address of a hook.

use std::fmt;
use std::str::FromStr;

use hyper::Uri;
use serde::{Deserialize, Deserializer, de};

use crate::join::host_port;

/// An `http://` or `https://` address. Its path and query may be secret: `Debug` leaves them out.
#[derive(Clone, PartialEq, Eq)]
pub struct HookUrl {
    is_tls: bool,
    host: String,
    port: u16,
    /// As the Host header has it.
    authority: String,
    path: String,
}

impl HookUrl {
    /// Scheme, host and port, for people.
    pub fn place(&self) -> String {
        let scheme = if self.is_tls { "https" } else { "http" };
        format!("{scheme}://{}", self.authority)
    }

    /// Whether it is to be asked over TLS.
    pub fn is_tls(&self) -> bool {
        self.is_tls
    }

    /// The name or address, an IPv6 address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// `HOST:PORT`, to connect to.
    pub(super) fn target(&self) -> String {
        host_port(&self.host, self.port)
    }

    pub(super) fn authority(&self) -> &str {
        &self.authority
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }
}

impl FromStr for HookUrl {
    type Err = HookUrlError;

    fn from_str(text: &str) -> Result<Self, HookUrlError> {
        let uri: Uri = text.trim().parse().map_err(|_| HookUrlError::Form)?;
        let is_tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(HookUrlError::Form),
        };
        let authority = uri.authority().ok_or(HookUrlError::Form)?;
        if authority.as_str().contains('@') {
            return Err(HookUrlError::User);
        }
        let host = authority.host();
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let has_port = authority.as_str().len() > authority.host().len();
        if host.is_empty() || has_port && authority.port_u16().is_none() {
            return Err(HookUrlError::Form);
        }
        Ok(Self {
            is_tls,
            host: host.to_owned(),
            port: authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 }),
            authority: authority.as_str().to_owned(),
            path: uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
        })
    }
}

impl fmt::Debug for HookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/****", self.place())
    }
}

impl<'de> Deserialize<'de> for HookUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Why a text is not a [`HookUrl`]; never repeats the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HookUrlError {
    /// It is no such address.
    #[error("expected an address such as https://hooks.example.org/firstmile")]
    Form,
    /// It has a user in it.
    #[error("an address may have no user and no password: deliveries are signed")]
    User,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let of = |text: &str| {
            let url: HookUrl = text.parse().unwrap();
            (url.target(), url.authority().to_owned(), url.path().to_owned(), url.is_tls())
        };
        let expected = |target: &str, authority: &str, path: &str, is_tls| {
            (target.to_owned(), authority.to_owned(), path.to_owned(), is_tls)
        };
        assert_eq!(of("https://a.example"), expected("a.example:443", "a.example", "/", true));
        assert_eq!(
            of("http://127.0.0.1:9/in/x?y=1"),
            expected("127.0.0.1:9", "127.0.0.1:9", "/in/x?y=1", false)
        );
        assert_eq!(of("http://[::1]/"), expected("[::1]:80", "[::1]", "/", false));
        for bad in ["", "a.example", "/in", "ftp://a", "https://", "http://a:x/", "http://a:99999/"]
        {
            assert_eq!(bad.parse::<HookUrl>(), Err(HookUrlError::Form), "{bad}");
        }
        assert_eq!("https://me:pw@a.example/".parse::<HookUrl>(), Err(HookUrlError::User));
    }
}
