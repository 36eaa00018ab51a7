//! The join link: everything a studio needs to find a relay, trust it, and be let in.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, de};

use crate::base32::TEXT_OF_32_BYTES;
use crate::identity::PublicKey;
use crate::secret::{MASK, SECRET_LEN, Secret};

/// What every join link starts with.
pub const SCHEME: &str = "firstmile://";

/// `firstmile://HOST:PORT/PIN/INVITE`, safe unquoted in a shell.
///
/// `Debug` masks the invite; [`JoinLink::expose`] is the only way to the whole text.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinLink {
    /// A DNS name or an address, IPv6 without brackets.
    pub host: String,
    /// The relay's secure port, for UDP and TCP.
    pub port: u16,
    /// The relay's public key.
    pub pin: PublicKey,
    /// Admits the studio once; afterwards its own key does.
    pub invite: Secret,
}

impl JoinLink {
    /// The link in clear.
    pub fn expose(&self) -> String {
        format!(
            "{SCHEME}{}/{}/{}",
            self.without_invite(),
            self.pin.to_base32(),
            self.invite.expose()
        )
    }

    /// `HOST:PORT`, for logs.
    pub fn without_invite(&self) -> String {
        host_port(&self.host, self.port)
    }
}

/// `HOST:PORT`, with brackets around an IPv6 address.
pub fn host_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

impl fmt::Debug for JoinLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}/{MASK}", self.without_invite(), self.pin)
    }
}

impl FromStr for JoinLink {
    type Err = JoinLinkError;

    /// Reads a link as people paste it: any case, white space and quotes around it.
    fn from_str(text: &str) -> Result<Self, JoinLinkError> {
        let around = |c: char| c.is_whitespace() || "\"'`<>“”‘’".contains(c);
        let text = text.trim_matches(around);
        let rest = match text.get(..SCHEME.len()) {
            Some(scheme) if scheme.eq_ignore_ascii_case(SCHEME) => &text[SCHEME.len()..],
            _ if !text.is_empty() && SCHEME.starts_with(&text.to_ascii_lowercase()) => {
                return Err(JoinLinkError::CutShort);
            }
            _ => return Err(JoinLinkError::NotALink),
        };
        if rest.contains(char::is_whitespace) {
            return Err(JoinLinkError::Broken);
        }
        let mut parts = rest.trim_end_matches('/').split('/');
        let place = parts.next().unwrap_or_default();
        let (Some(pin), Some(invite)) = (parts.next(), parts.next()) else {
            return Err(JoinLinkError::CutShort);
        };
        if pin.len() < TEXT_OF_32_BYTES || invite.len() < SECRET_LEN {
            return Err(JoinLinkError::CutShort);
        }
        if parts.next().is_some() || invite.len() > SECRET_LEN {
            return Err(JoinLinkError::TooLong);
        }
        let (host, port) = place_of(place).ok_or(JoinLinkError::Place)?;
        let pin = PublicKey::from_base32(pin).ok_or(JoinLinkError::Broken)?;
        let invite = invite.parse().map_err(|_| JoinLinkError::Broken)?;
        Ok(Self { host, port, pin, invite })
    }
}

/// Splits `HOST:PORT` and checks that the host is a name or an address and nothing else.
fn place_of(place: &str) -> Option<(String, u16)> {
    let (host, port) = place.rsplit_once(':')?;
    let port = port.parse().ok().filter(|&port| port != 0)?;
    // Without brackets the last group of an IPv6 address would pass for a port.
    if host.contains(':') && !host.starts_with('[') {
        return None;
    }
    Some((parse_host(host)?, port))
}

/// Reads a name or an address, IPv6 with or without brackets; `None` if it is neither.
pub fn parse_host(text: &str) -> Option<String> {
    let bare = match text.strip_prefix('[') {
        Some(v6) => v6.strip_suffix(']').filter(|v6| v6.contains(':'))?,
        None => text,
    };
    if bare.contains(':') {
        return bare.parse::<Ipv6Addr>().ok().map(|v6| v6.to_string());
    }
    // RFC 1035 §2.3.4: a name has at most 253 characters as text.
    let name = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.' || b == b'_';
    let good = !bare.is_empty() && bare.len() <= 253 && bare.bytes().all(name);
    good.then(|| bare.to_ascii_lowercase())
}

impl<'de> Deserialize<'de> for JoinLink {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Why a text is not a [`JoinLink`], and what to do; never repeats the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinLinkError {
    /// It does not begin with the scheme.
    #[error(
        "this is not a join link: copy the line that begins with {SCHEME} from the relay's screen"
    )]
    NotALink,
    /// Its end is missing.
    #[error("this link is cut short: copy all of it from the relay's screen")]
    CutShort,
    /// Something follows it.
    #[error("this link has something after its end: copy only the link from the relay's screen")]
    TooLong,
    /// Host or port are not right.
    #[error(
        "this link names no HOST:PORT that can be reached: copy it again from the relay's screen"
    )]
    Place,
    /// A character was lost or changed on the way.
    #[error("this link was changed on its way: copy it again from the relay's screen")]
    Broken,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link() -> JoinLink {
        JoinLink {
            host: "relay.example.org".into(),
            port: 4433,
            pin: PublicKey([9; 32]),
            invite: "0123456789ABCDEFGHJKMNPQRS".parse().unwrap(),
        }
    }

    #[test]
    fn round_trip() {
        let text = link().expose();
        assert_eq!(text.parse(), Ok(link()));
        assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b":/.-".contains(&b)));
        let v6 = JoinLink { host: "2001:db8::1".into(), ..link() };
        assert!(v6.expose().starts_with("firstmile://[2001:db8::1]:4433/"));
        assert_eq!(v6.expose().parse(), Ok(v6));
    }

    #[test]
    fn forgives_how_people_paste() {
        let text = link().expose();
        for pasted in [
            format!("  {text}\r\n"),
            format!("\"{text}\""),
            format!("'{text}/'"),
            format!("<{}>", text.to_uppercase()),
            text.to_lowercase(),
        ] {
            assert_eq!(pasted.parse(), Ok(link()), "{pasted}");
        }
    }

    #[test]
    fn every_shortened_link_is_called_short() {
        let text = link().expose();
        for end in 1..text.len() {
            assert_eq!(text[..end].parse::<JoinLink>(), Err(JoinLinkError::CutShort), "{end}");
        }
        assert!(JoinLinkError::CutShort.to_string().contains("copy all of it"));
    }

    #[test]
    fn says_what_else_is_wrong() {
        let text = link().expose();
        let cases = [
            (String::new(), JoinLinkError::NotALink),
            ("https://relay.example.org".into(), JoinLinkError::NotALink),
            (format!("{text}7"), JoinLinkError::TooLong),
            (format!("{text}/x"), JoinLinkError::TooLong),
            (text.replace(":4433", ""), JoinLinkError::Place),
            (text.replace(":4433", ":0"), JoinLinkError::Place),
            (text.replace("relay", "re$lay"), JoinLinkError::Place),
            (text.replace("ABCDEF", "ABUDEF"), JoinLinkError::Broken),
            (text.replace("ABCDEF", "ABC DEF"), JoinLinkError::Broken),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<JoinLink>(), Err(error), "{text}");
        }
    }

    #[test]
    fn debug_masks_the_invite() {
        let shown = format!("{:?}", link());
        assert!(shown.starts_with("firstmile://relay.example.org:4433/"));
        assert!(!shown.contains(link().invite.expose()));
        assert_eq!(link().without_invite(), "relay.example.org:4433");
    }
}
