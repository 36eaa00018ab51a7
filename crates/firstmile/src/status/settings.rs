//! What people type into encoders and players: servers, keys, users, URLs. What is secret in it can
//! be taken away.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::join::{JoinLink, host_port};
use crate::login::Login;
use crate::secret::{MASK, StreamKey};

/// What an encoder types to publish a feed at one place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publish {
    /// The relay's name, or `studio`.
    pub relay: String,
    /// The encoder's field "Server".
    pub server: String,
    /// The same with TLS, where encoders that verify certificates are let in.
    #[serde(default)]
    pub server_tls: Option<String>,
    /// Where a phone measures its way to the relay, if the relay has such a page that browsers trust.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measure: Option<String>,
    /// The encoder's field "Stream key".
    pub key: KeyText,
    /// Both in one.
    pub url: KeyText,
}

impl Publish {
    /// The settings for a feed at an RTMP door; the standard port is left out.
    pub fn new(relay: &str, host: &str, rtmp_port: u16, key: &StreamKey) -> Self {
        let server = rtmp_server(host, rtmp_port);
        Self {
            relay: relay.to_owned(),
            key: KeyText::new(key.expose(), key.masked()),
            url: KeyText::new(
                format!("{server}/{}", key.expose()),
                format!("{server}/{}", key.masked()),
            ),
            server,
            server_tls: None,
            measure: None,
        }
    }

    /// The same settings with a page on which a phone measures its way there.
    pub fn with_measuring(self, measure: Option<String>) -> Self {
        Self { measure, ..self }
    }

    /// The same settings with RTMPS beside them, if there is a port for it.
    pub fn with_tls(self, host: &str, rtmps_port: Option<u16>) -> Self {
        Self { server_tls: rtmps_port.map(|port| rtmps_server(host, port)), ..self }
    }

    pub(super) fn masked(self) -> Self {
        Self { key: self.key.mask(), url: self.url.mask(), ..self }
    }
}

/// What an encoder types that has fields for a user and a password.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Auth {
    /// The encoder's field "Server" at the first place of `publish`; at the others it ends like this.
    pub server: String,
    /// Its field "User".
    pub user: KeyText,
    /// Its field "Password".
    pub password: KeyText,
}

impl Auth {
    /// The settings at the place whose `Publish` has this server.
    pub fn new(server: &str, login: &Login) -> Self {
        let name = login.user.rsplit_once('-').map_or("", |(name, _)| name);
        Self {
            server: auth_server(server),
            user: KeyText::new(&login.user, format!("{name}-{MASK}")),
            password: KeyText::new(login.password.expose(), MASK),
        }
    }

    pub(super) fn masked(self) -> Self {
        Self { user: self.user.mask(), password: self.password.mask(), ..self }
    }
}

/// `rtmp://HOST/auth` for `rtmp://HOST/live`.
pub fn auth_server(server: &str) -> String {
    let place = server.strip_suffix("/live").unwrap_or(server);
    format!("{place}/{}", rtmp::adobe::APP)
}

/// `rtmp://HOST/live`; the standard port is left out.
pub fn rtmp_server(host: &str, port: u16) -> String {
    let place = host_port(host, port);
    let place = place.strip_suffix(":1935").unwrap_or(&place);
    format!("rtmp://{place}/live")
}

/// `rtmps://HOST/live`; the port is left out if it is 443, where every client looks for RTMPS.
pub fn rtmps_server(host: &str, port: u16) -> String {
    let place = host_port(host, port);
    let place = place.strip_suffix(":443").unwrap_or(&place);
    format!("rtmps://{place}/live")
}

/// A text with a secret in it. `Debug` prints the masked form; serializing prints the clear one
/// until [`KeyText::mask`] has taken it away.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyText {
    clear: String,
    masked: String,
}

impl KeyText {
    /// A text in both forms.
    pub fn new(clear: impl Into<String>, masked: impl Into<String>) -> Self {
        Self { clear: clear.into(), masked: masked.into() }
    }

    /// A join link.
    pub fn link(link: &JoinLink) -> Self {
        Self::new(link.expose(), format!("{link:?}"))
    }

    /// `rtmp://IP/live/NAME?key=PLAYKEY`.
    pub fn play_lan(host: &str, rtmp_port: u16, name: &str, play_key: &str) -> Self {
        let url = format!("{}/{name}?key=", rtmp_server(host, rtmp_port));
        Self::new(format!("{url}{play_key}"), format!("{url}{MASK}"))
    }

    /// The text as it is.
    pub fn expose(&self) -> &str {
        &self.clear
    }

    /// Takes the secret away.
    pub fn mask(self) -> Self {
        Self { clear: self.masked.clone(), masked: self.masked }
    }
}

impl fmt::Debug for KeyText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.masked)
    }
}

impl Serialize for KeyText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.clear)
    }
}

impl<'de> Deserialize<'de> for KeyText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::new(String::deserialize(deserializer)?, MASK))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "camera-0123456789ABCDEFGHJKMNPQRS";

    #[test]
    fn settings_for_an_encoder() {
        let key = KEY.parse().unwrap();
        let publish = Publish::new("berlin", "relay.example", 1935, &key);
        assert_eq!(publish.server, "rtmp://relay.example/live");
        assert_eq!(publish.url.expose(), format!("rtmp://relay.example/live/{KEY}"));
        assert_eq!(Publish::new("b", "::1", 1936, &key).server, "rtmp://[::1]:1936/live");
        assert_eq!(rtmp_server("10.0.0.1", 11935), "rtmp://10.0.0.1:11935/live");
        assert_eq!(publish.server_tls, None);
        let tls = |port| publish.clone().with_tls("relay.example", Some(port)).server_tls;
        assert_eq!(tls(443).unwrap(), "rtmps://relay.example/live");
        assert_eq!(tls(4433).unwrap(), "rtmps://relay.example:4433/live");
    }
}
