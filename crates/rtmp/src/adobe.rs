//! Users with passwords, as Adobe's servers have them: `authmod=adobe`.
//!
//! It takes three connections, each but the last refused and closed by the server:
//!
//! ```text
//! connect app                                 -> need auth; authmod=adobe
//! connect app?authmod=adobe&user=U            -> ?reason=needauth&user=U&salt=S&challenge=C&opaque=C
//! connect app?authmod=adobe&user=U
//!         &challenge=R&response=A&opaque=C    -> accepted, or ?reason=authfailed
//! ```
//!
//! with A = base64(md5(base64(md5(U + S + password)) + C + R)). There is no specification: FFmpeg
//! (`libavformat/rtmpproto.c`), GStreamer (`rtmpclient.c`) and librtmp (`rtmp.c`) are what counts.
//! All three hash the opaque if the server gave one and else the challenge, and send the opaque
//! back. A server that sends the same text as both is right with either.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest, Md5};
use subtle::ConstantTimeEq;

use crate::name;

/// The app whose clients must name a user; with any other, they may.
pub const APP: &str = "auth";

/// Bytes of a description that FFmpeg reads.
const MAX_DESCRIPTION: usize = 255;

/// md5(user + salt + password): whoever has it can do what the password can.
pub type Verifier = [u8; 16];

/// What a client says of a user when it connects.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Claim {
    /// Nothing, although it must.
    Nothing,
    /// Who it is; it wants to be challenged.
    User(String),
    /// Its answer to a challenge.
    Answer(Answer),
}

/// An answer to a challenge.
#[derive(Clone, PartialEq, Eq)]
pub struct Answer {
    /// Who it is.
    pub user: String,
    /// The challenge that is answered.
    pub opaque: String,
    /// What the client added, so that the server does not choose alone what is hashed.
    pub challenge: String,
    /// The proof.
    pub response: String,
}

impl fmt::Debug for Answer {
    /// Leaves out what may be tried against a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").finish_non_exhaustive()
    }
}

impl Claim {
    /// What `connect` says; `None` if it says nothing and need not.
    ///
    /// It must in the app [`APP`], with or without more segments.
    pub fn of(app: &str, tc_url: &str) -> Option<Self> {
        let is_demanded = app
            .split(['/', '?'])
            .map(|segment| segment.trim_matches(['"', ' ']))
            .find(|segment| !segment.is_empty())
            .is_some_and(|segment| segment.eq_ignore_ascii_case(APP));
        let Some(said) = [app, tc_url].into_iter().find_map(Parameters::of) else {
            return is_demanded.then_some(Self::Nothing);
        };
        let text = |name| said.find(name).unwrap_or_default();
        let user = text("user");
        Some(match (user.is_empty(), said.find("response")) {
            (true, _) => Self::Nothing,
            (false, None) => Self::User(user),
            (false, Some(response)) => {
                let (opaque, challenge) = (text("opaque"), base64_of(&text("challenge")));
                let response = base64_of(&response);
                Self::Answer(Answer { user, opaque, challenge, response })
            }
        })
    }
}

impl Answer {
    /// Whether it proves the password behind `verifier`, in constant time.
    pub fn matches(&self, verifier: &Verifier) -> bool {
        let expected = response(verifier, &self.opaque, &self.challenge);
        expected.as_bytes().ct_eq(self.response.as_bytes()).into()
    }
}

/// The parameters of an app or URL that say `authmod=adobe`, as sent.
struct Parameters<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Parameters<'a> {
    fn of(text: &'a str) -> Option<Self> {
        let (_, query) = text.split_once('?')?;
        // The base64 of a response holds slashes; one that a client put after it all does not count.
        let query = query.trim_end_matches(['/', '"', ' ']);
        let pairs = query.split(['&', '?']).filter_map(|pair| pair.split_once('='));
        let said = Self(pairs.collect());
        let is_adobe = said.find("authmod").is_some_and(|mode| mode.eq_ignore_ascii_case("adobe"));
        is_adobe.then_some(said)
    }

    /// Percent-decoded: some clients escape the base64, some do not.
    fn find(&self, name: &str) -> Option<String> {
        let (_, value) = self.0.iter().find(|(key, _)| *key == name)?;
        Some(String::from_utf8_lossy(&name::percent_decode(value)).into_owned())
    }
}

/// The base64, or hexadecimal, that a value begins with, padding included.
///
/// librtmp with nettle or GnuTLS, as Debian has it, hashes just that, but does not end the text
/// there: what lay in its memory follows.
fn base64_of(value: &str) -> String {
    let is_digit = |c: char| c.is_ascii_alphanumeric() || "+/".contains(c);
    let digits = value.find(|c| !is_digit(c)).unwrap_or(value.len());
    let padding = value[digits..].find(|c| c != '=').unwrap_or(value.len() - digits);
    value[..digits + padding].to_owned()
}

/// What a server answers who it does not let in; as text, the description of its `_error`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal<'a> {
    /// Come back and say who you are.
    NeedUser,
    /// Come back and prove it.
    NeedProof {
        /// Who it says to be; what cannot be a user's name is left out.
        user: &'a str,
        /// The user's salt: letters and digits, at most 16.
        salt: &'a str,
        /// The challenge: letters and digits, at most 48.
        challenge: &'a str,
    },
    /// User or password are wrong; never which.
    Failed,
}

impl fmt::Display for Refusal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const WHO: &str = "[ AccessManager.Reject ] : ";
        match self {
            // FFmpeg and librtmp look for the two phrases, GStreamer for this very form.
            Self::NeedUser => write!(f, "{WHO}[ code=403 need auth; authmod=adobe ] : "),
            Self::NeedProof { user, salt, challenge } => {
                let before = format!("{WHO}[ authmod=adobe ] : ?reason=needauth&user=");
                let after = format!("&salt={salt}&challenge={challenge}&opaque={challenge}");
                let plain = |c: &char| c.is_ascii_alphanumeric() || "-._".contains(*c);
                let room = MAX_DESCRIPTION.saturating_sub(before.len() + after.len());
                let user: String = user.chars().filter(plain).take(room).collect();
                write!(f, "{before}{user}{after}")
            }
            Self::Failed => write!(f, "{WHO}[ authmod=adobe ] : ?reason=authfailed"),
        }
    }
}

/// What a server keeps of a password.
pub fn verifier(user: &str, salt: &str, password: &str) -> Verifier {
    Md5::new().chain_update(user).chain_update(salt).chain_update(password).finalize().into()
}

fn response(verifier: &Verifier, opaque: &str, challenge: &str) -> String {
    let hash = Md5::new()
        .chain_update(STANDARD.encode(verifier))
        .chain_update(opaque)
        .chain_update(challenge)
        .finalize();
    STANDARD.encode(hash)
}

/// A client's next step: what to append to app and URL after a `?` on a new connection, given the
/// description with which the last one was refused. `challenge` is random text, letters and digits.
///
/// `None` if the server does not ask for a user, or does not take this one.
pub fn reply(description: &str, user: &str, password: &str, challenge: &str) -> Option<String> {
    if !description.contains("authmod=adobe") || user.is_empty() {
        return None;
    }
    if description.contains("code=403 need auth") {
        return Some(format!("authmod=adobe&user={user}"));
    }
    let (_, query) = description.split_once("?reason=needauth")?;
    let find = |name: &str| {
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(key, _)| *key == name).map_or("", |(_, value)| value.trim())
    };
    let (opaque, verifier) = (find("opaque"), verifier(user, find("salt"), password));
    let hashed = if opaque.is_empty() { find("challenge") } else { opaque };
    let response = response(&verifier, hashed, challenge);
    let mut query = format!("authmod=adobe&user={user}&challenge={challenge}&response={response}");
    if !opaque.is_empty() {
        query.push_str("&opaque=");
        query.push_str(opaque);
    }
    Some(query)
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER: &str = "camera-7K2M9Q4X";

    #[test]
    fn only_who_must_is_asked() {
        for app in
            ["auth", "AUTH", "/auth/", "auth/inst", "\"auth", "auth?x=1", "auth?authmod=llnw"]
        {
            assert_eq!(Claim::of(app, ""), Some(Claim::Nothing), "{app}");
        }
        for app in ["", "live", "live/auth", "author", "live?authmod=llnw&user=me", "live?auth"] {
            assert_eq!(Claim::of(app, "rtmp://host/auth"), None, "{app}");
        }
        let user = Some(Claim::User("me".into()));
        assert_eq!(Claim::of("live?authmod=adobe&user=me", ""), user);
        assert_eq!(Claim::of("auth?user=me&authmod=Adobe/", ""), user);
        assert_eq!(Claim::of("live", "rtmp://h/live?authmod=adobe&user=me"), user);
        assert_eq!(Claim::of("auth?authmod=adobe", ""), Some(Claim::Nothing));
    }

    #[test]
    fn responses_are_those_of_ffmpeg_and_librtmp() {
        // By `printf %s … | openssl md5 -binary | base64`, twice.
        let verifier = verifier("me", "salt", "secret");
        assert_eq!(STANDARD.encode(verifier), VERIFIER);
        assert_eq!(response(&verifier, "opaque", "0badcafe"), RESPONSE);
        let raw = format!(
            "auth?authmod=adobe&user=me&challenge=0badcafe&response={RESPONSE}&opaque=opaque/"
        );
        let escaped = raw.replace("==&", "%3D%3D&");
        // As librtmp leaves it now and then.
        let dirty = raw.replace("==&", "==\u{fffd}+\u{1}/&").replace("cafe&", "cafe\u{1}&");
        for app in [raw, escaped, dirty] {
            let Some(Claim::Answer(answer)) = Claim::of(&app, "") else { panic!("{app}") };
            assert!(answer.matches(&verifier), "{answer:?}");
            assert!(!answer.matches(&super::verifier("me", "salt", "Secret")));
            assert!(!format!("{answer:?}").contains(RESPONSE));
        }
    }

    const VERIFIER: &str = "7ncieDhACpuSaGRsfUL10A==";
    const RESPONSE: &str = "P7mWu9ddFY7Vrsk1/+ggkA==";

    #[test]
    fn a_client_gets_in_in_three_steps() {
        let step = |refusal: Refusal<'_>, password| {
            reply(&refusal.to_string(), USER, password, "0badcafe").unwrap()
        };
        let first = step(Refusal::NeedUser, "secret");
        let claim = Claim::of(&format!("auth?{first}"), "");
        assert_eq!(claim, Some(Claim::User(USER.into())));
        let proof = Refusal::NeedProof { user: USER, salt: "SALT", challenge: "CHALLENGE" };
        for (password, is_right) in [("secret", true), ("Secret", false)] {
            let second = step(proof, password);
            let claim = Claim::of(&format!("auth?{second}"), "");
            let Some(Claim::Answer(answer)) = claim else { panic!("{claim:?}") };
            assert_eq!((answer.user.as_str(), answer.opaque.as_str()), (USER, "CHALLENGE"));
            assert_eq!(answer.matches(&verifier(USER, "SALT", "secret")), is_right);
        }
        assert_eq!(reply(&Refusal::Failed.to_string(), USER, "secret", "1"), None);
        assert_eq!(reply("The stream key is not valid", USER, "secret", "1"), None);
    }

    #[test]
    fn descriptions_fit_ffmpeg_and_hold_no_surprises() {
        let (salt, challenge) = ("S".repeat(16), "C".repeat(48));
        for user in ["a".repeat(41), "a".repeat(4000), "x&opaque=evil&salt=y\u{1b}[2J".into()] {
            let refusal = Refusal::NeedProof { user: &user, salt: &salt, challenge: &challenge };
            let text = refusal.to_string();
            assert!(text.len() <= 255, "{}: {text}", text.len());
            assert_eq!(text.matches("opaque=").count(), 1, "{text}");
            assert!(text.ends_with(&challenge) && !text.contains('\u{1b}'));
        }
        let user = "a".repeat(41);
        let text = Refusal::NeedProof { user: &user, salt: &salt, challenge: &challenge };
        assert!(text.to_string().contains(&user), "the longest user is told back whole");
    }
}
