//! Values as people write them: addresses, durations, sizes.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

/// An address to listen on, either part of which may be left to the default.
///
/// `1935` and `:1935` name the port only, `127.0.0.1` and `::1` the address only, and
/// `127.0.0.1:0` and `[::]:0` both. Port 0 means any free port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listen {
    ip: Option<IpAddr>,
    port: Option<u16>,
}

impl Listen {
    /// The whole address, its missing part taken from `default`.
    pub fn or(self, default: SocketAddr) -> SocketAddr {
        SocketAddr::new(self.ip.unwrap_or(default.ip()), self.port.unwrap_or(default.port()))
    }
}

impl FromStr for Listen {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let text = text.trim();
        if let Ok(port) = text.strip_prefix(':').unwrap_or(text).parse() {
            return Ok(Self { ip: None, port: Some(port) });
        }
        if let Ok(whole) = text.parse::<SocketAddr>() {
            return Ok(Self { ip: Some(whole.ip()), port: Some(whole.port()) });
        }
        let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
        if let Ok(ip) = bare.parse() {
            return Ok(Self { ip: Some(ip), port: None });
        }
        let loopback = text.strip_prefix("localhost").map(|rest| rest.strip_prefix(':'));
        match loopback {
            Some(Some(port)) => port
                .parse()
                .map(|port| Self { ip: Some(Ipv4Addr::LOCALHOST.into()), port: Some(port) })
                .map_err(|_| ValueError::Address),
            _ if text == "localhost" => {
                Ok(Self { ip: Some(Ipv4Addr::LOCALHOST.into()), port: None })
            }
            _ => Err(ValueError::Address),
        }
    }
}

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match IntOrText::deserialize(deserializer)? {
            IntOrText::Int(port) => port.to_string().parse().map_err(de::Error::custom),
            IntOrText::Text(text) => text.parse().map_err(de::Error::custom),
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a text such as \"127.0.0.1:1935\", or a port")]
enum IntOrText {
    Int(u64),
    Text(String),
}

/// A length of time with its unit: `500ms`, `2s`, `10m`, `24h`, `7d`, `1h30m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let text = text.trim();
        let mut rest = text;
        let mut total = Duration::ZERO;
        while !rest.is_empty() {
            let (number, after) = leading_number(rest).ok_or(ValueError::Duration)?;
            let end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
            let (unit, next) = after.split_at(end);
            let seconds = match unit.trim() {
                "ms" => 0.001,
                "s" | "sec" => 1.0,
                "m" | "min" => 60.0,
                "h" => 3600.0,
                "d" => 86400.0,
                _ => return Err(ValueError::Duration),
            };
            let part = Duration::try_from_secs_f64(number * seconds);
            let part = part.map_err(|_| ValueError::Duration)?;
            total = total.checked_add(part).ok_or(ValueError::Duration)?;
            rest = next;
        }
        if text.is_empty() { Err(ValueError::Duration) } else { Ok(Self(total)) }
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match IntOrText::deserialize(deserializer) {
            Ok(IntOrText::Text(text)) => text.parse().map_err(de::Error::custom),
            _ => Err(de::Error::custom(ValueError::Duration)),
        }
    }
}

/// A number of bytes with its unit: `32 MiB`, `4GiB`, `500 kB`, `100 B`; and `0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (number, unit) = leading_number(text.trim()).ok_or(ValueError::Size)?;
        let bytes: u64 = match unit.trim().to_ascii_lowercase().as_str() {
            "" if number == 0.0 => 0,
            "b" => 1,
            "kb" => 1000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            "kib" => 1 << 10,
            "mib" => 1 << 20,
            "gib" => 1 << 30,
            _ => return Err(ValueError::Size),
        };
        let total = (number * bytes as f64).round();
        // Beyond 2^53 a double skips whole numbers, and no machine has as much.
        if total > (1u64 << 53) as f64 {
            return Err(ValueError::Size);
        }
        Ok(Self(total as u64))
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match IntOrText::deserialize(deserializer) {
            Ok(IntOrText::Text(text)) => text.parse().map_err(de::Error::custom),
            _ => Err(de::Error::custom(ValueError::Size)),
        }
    }
}

/// Bits a second with their unit: `100 Mbit/s`, `2500 kbit/s`; the `/s` may be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BitRate(pub u64);

impl FromStr for BitRate {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (number, unit) = leading_number(text.trim()).ok_or(ValueError::BitRate)?;
        let unit = unit.trim().to_ascii_lowercase();
        let bits: u64 = match unit.strip_suffix("/s").unwrap_or(&unit) {
            "kbit" => 1_000,
            "mbit" => 1_000_000,
            "gbit" => 1_000_000_000,
            _ => return Err(ValueError::BitRate),
        };
        let total = (number * bits as f64).round();
        if total > (1u64 << 53) as f64 {
            return Err(ValueError::BitRate);
        }
        Ok(Self(total as u64))
    }
}

impl<'de> Deserialize<'de> for BitRate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match IntOrText::deserialize(deserializer) {
            Ok(IntOrText::Text(text)) => text.parse().map_err(de::Error::custom),
            _ => Err(de::Error::custom(ValueError::BitRate)),
        }
    }
}

impl fmt::Display for BitRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bits if bits.is_multiple_of(1_000_000) => write!(f, "{} Mbit/s", bits / 1_000_000),
            bits => write!(f, "{} kbit/s", bits as f64 / 1_000.0),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, length) in [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
            if self.0 >= length && self.0.is_multiple_of(length) {
                return write!(f, "{} {unit}", self.0 / length);
            }
        }
        write!(f, "{} B", self.0)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        for (unit, length) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)] {
            if ms >= length && ms.is_multiple_of(length) {
                return write!(f, "{}{unit}", ms / length);
            }
        }
        write!(f, "{ms}ms")
    }
}

fn leading_number(text: &str) -> Option<(f64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    Some((number.parse().ok()?, rest))
}

/// Why a value was not understood, with an example of a good one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ValueError {
    /// Not an address to listen on.
    #[error("expected an address such as 127.0.0.1:1935, [::]:1935 or :1935")]
    Address,
    /// Not a length of time.
    #[error("expected a time with its unit, such as \"500ms\", \"2s\", \"10m\" or \"24h\"")]
    Duration,
    /// Not a number of bytes.
    #[error("expected a size with its unit, such as \"32 MiB\" or \"4 GiB\"")]
    Size,
    /// Not a number of bits a second.
    #[error("expected a rate with its unit, such as \"100 Mbit/s\" or \"2500 kbit/s\"")]
    BitRate,
}

/// The line, from 1, of a byte offset.
pub(crate) fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|&b| b == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let default: SocketAddr = "[::]:1935".parse().unwrap();
        let cases = [
            (":1936", "[::]:1936"),
            ("1936", "[::]:1936"),
            ("127.0.0.1:0", "127.0.0.1:0"),
            ("[::]:0", "[::]:0"),
            ("10.0.0.1", "10.0.0.1:1935"),
            ("::1", "[::1]:1935"),
            ("[::1]", "[::1]:1935"),
            ("localhost", "127.0.0.1:1935"),
            ("localhost:7", "127.0.0.1:7"),
        ];
        for (text, expected) in cases {
            let listen: Listen = text.parse().unwrap();
            assert_eq!(listen.or(default).to_string(), expected, "{text}");
        }
        for bad in ["", "relay.example:1935", "65536", "localhost:x", "localhostile", "1.2.3"] {
            assert_eq!(bad.parse::<Listen>(), Err(ValueError::Address), "{bad}");
        }
    }

    #[test]
    fn durations() {
        let ms = |text: &str| text.parse::<Span>().map(|span| span.0.as_millis());
        assert_eq!(ms("500ms"), Ok(500));
        assert_eq!(ms("2s"), Ok(2000));
        assert_eq!(ms("1.5 s"), Ok(1500));
        assert_eq!(ms("1h30m"), Ok(5_400_000));
        assert_eq!(ms("7d"), Ok(604_800_000));
        for bad in ["", "2", "s", "-1s", "2 weeks", "1..5s", "99999999999999999999d"] {
            assert_eq!(ms(bad), Err(ValueError::Duration), "{bad}");
        }
        for text in ["500ms", "2s", "90m", "24h", "3d"] {
            let shown = text.parse::<Span>().unwrap().to_string();
            assert_eq!(shown.parse::<Span>(), text.parse::<Span>());
        }
    }

    #[test]
    fn sizes() {
        assert_eq!("32 MiB".parse(), Ok(Size(32 << 20)));
        assert_eq!("4gib".parse(), Ok(Size(4 << 30)));
        assert_eq!("1.5 kB".parse(), Ok(Size(1500)));
        assert_eq!("0".parse(), Ok(Size(0)), "nothing is nothing in any unit");
        for bad in ["", "32", "32 M", "MiB", "99999999999 GiB"] {
            assert_eq!(bad.parse::<Size>(), Err(ValueError::Size), "{bad}");
        }
    }

    #[test]
    fn bit_rates() {
        assert_eq!("100 Mbit/s".parse(), Ok(BitRate(100_000_000)));
        assert_eq!("2.5Mbit".parse(), Ok(BitRate(2_500_000)));
        for bad in ["", "100", "100 MB/s", "Mbit", "99999999999 Gbit/s"] {
            assert_eq!(bad.parse::<BitRate>(), Err(ValueError::BitRate), "{bad}");
        }
        for text in ["100 Mbit/s", "2500.5 kbit/s"] {
            assert_eq!(text.parse::<BitRate>().unwrap().to_string(), text);
        }
    }
}
