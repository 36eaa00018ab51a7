//! Where a request to reconnect leads (Enhanced RTMP v2, "Reconnect Request").

use crate::name::{Error, Url, split_authority, split_login, split_scheme};

impl Url {
    /// The URL to go on at when the server asks to reconnect to `tc_url`: an absolute or relative
    /// reference (RFC 3986 §4), or nothing for the same server and app. The stream name stays.
    ///
    /// The stream name carries the key, and `tc_url` may name any host: follow only a server that
    /// may have the key.
    ///
    /// # Errors
    ///
    /// [`Error::Downgrade`] if the way leads from `rtmps` to `rtmp`, else what is wrong with
    /// `tc_url`.
    pub fn redirected(&self, tc_url: Option<&str>) -> Result<Self, Error> {
        let Some(reference) = tc_url.map(str::trim).filter(|text| !text.is_empty()) else {
            return Ok(self.clone());
        };
        if reference.chars().any(char::is_control) {
            return Err(Error::ControlCharacter);
        }
        let path_at = reference.find(['/', '?']).unwrap_or(reference.len());
        let (secure, rest) = match reference[..path_at].contains(':') {
            true => split_scheme(reference)?,
            false => match reference.strip_prefix("//") {
                Some(rest) => (self.secure, rest),
                None => return self.with_app(reference),
            },
        };
        if self.secure && !secure {
            return Err(Error::Downgrade);
        }
        let (authority, app) = match rest.find(['/', '?']) {
            Some(end) => rest.split_at(end),
            None => (rest, ""),
        };
        let (host, port) = split_authority(split_login(authority).1, Self::default_port(secure))?;
        let mut url = Self { secure, host: host.to_owned(), port, ..self.clone() };
        if url.host != self.host {
            // A password is for the server that it was given for.
            url.user.clear();
            url.password.clear();
        }
        url.with_app(&format!("/{app}"))
    }

    /// The same server, with the app that a path leads to.
    fn with_app(&self, path: &str) -> Result<Self, Error> {
        let app = match path.starts_with(['/', '?']) {
            true => path.to_owned(),
            // Relative to the app, whose last segment it replaces.
            false => match self.app.rsplit_once('/') {
                Some((parent, _)) => format!("{parent}/{path}"),
                None => path.to_owned(),
            },
        };
        let app = match app.strip_prefix('?') {
            Some(query) => format!("{}?{query}", self.app),
            None => app.trim_matches('/').to_owned(),
        };
        if app.split(['/', '?']).any(|segment| segment == "..") {
            return Err(Error::DotDot);
        }
        Ok(Self { app, ..self.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_stays_with_its_host() {
        let from: Url = "rtmp://me:secret@a/live/key".parse().unwrap();
        let password = |to| from.redirected(Some(to)).unwrap().password;
        assert_eq!(
            (password("/other"), password("rtmp://a:1936/live")),
            ("secret".into(), "secret".into())
        );
        assert_eq!(password("rtmp://me:evil@b/live"), "");
    }

    fn redirected(from: &str, to: &str) -> Result<String, Error> {
        let from: Url = from.parse().unwrap();
        from.redirected(Some(to)).map(|url| url.to_string())
    }

    #[test]
    fn follows_absolute_and_relative_references() {
        let from = "rtmp://a.example:1936/live/one/key?x=1";
        for (to, expected) in [
            ("rtmp://b.example/app", "rtmp://b.example/app/key?x=1"),
            ("rtmps://b.example/app/", "rtmps://b.example/app/key?x=1"),
            ("RTMP://[::1]:99/a/b", "rtmp://[::1]:99/a/b/key?x=1"),
            ("//192.0.2.1/app", "rtmp://192.0.2.1/app/key?x=1"),
            ("/app", "rtmp://a.example:1936/app/key?x=1"),
            ("two", "rtmp://a.example:1936/live/two/key?x=1"),
            ("?token=2", "rtmp://a.example:1936/live/one?token=2/key?x=1"),
            ("rtmp://b.example", "rtmp://b.example//key?x=1"),
            (" ", "rtmp://a.example:1936/live/one/key?x=1"),
        ] {
            assert_eq!(redirected(from, to).as_deref(), Ok(expected), "{to}");
        }
        let from: Url = from.parse().unwrap();
        assert_eq!(from.redirected(None).as_ref(), Ok(&from));
    }

    #[test]
    fn never_leaves_encryption() {
        let from = "rtmps://a.example/live/key";
        assert_eq!(redirected(from, "rtmp://a.example/live"), Err(Error::Downgrade));
        assert_eq!(redirected(from, "rTmP://a.example/live"), Err(Error::Downgrade));
        assert_eq!(redirected(from, "//b.example/live").unwrap(), "rtmps://b.example/live/key");
        assert_eq!(redirected(from, "/app").unwrap(), "rtmps://a.example/app/key");
    }

    #[test]
    fn refuses_what_leads_nowhere() {
        let from = "rtmp://a.example/live/key";
        for (to, error) in [
            ("http://a.example/live", Error::Scheme),
            ("file:/etc/passwd", Error::Scheme),
            ("rtmp:///live", Error::Host),
            ("//a.example:0/live", Error::Port),
            ("../live", Error::DotDot),
            ("/li\nve", Error::ControlCharacter),
        ] {
            assert_eq!(redirected(from, to), Err(error), "{to}");
        }
    }
}
