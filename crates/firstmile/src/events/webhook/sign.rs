//! How a receiver knows that a delivery is ours, and new.

use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::secret::Token;

/// The header that holds it.
pub const SIGNATURE: &str = "firstmile-signature";

/// `t=UNIX_SECONDS,v1=HEX`: HMAC-SHA256 with the secret over the seconds, a full stop and the body.
pub fn signature(secret: &Token, unix_seconds: u64, body: &[u8]) -> String {
    let key = secret.expose().as_bytes();
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key of any length will do");
    mac.update(unix_seconds.to_string().as_bytes());
    mac.update(b".");
    mac.update(body);
    let mut text = format!("t={unix_seconds},v1=");
    for byte in mac.finalize().into_bytes() {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_others_compute_it() {
        // By Python's hmac.new(b"0123456789abcdef", b'1795417811.{"a":1}', "sha256").
        let secret = "0123456789abcdef".parse().unwrap();
        assert_eq!(
            signature(&secret, 1_795_417_811, br#"{"a":1}"#),
            "t=1795417811,v1=4b3a66198d6ab5d90a632e984781817f531a2ff3eda3f047b9d168582bf6432e"
        );
    }
}
