//! Who has logged in with the password: sessions in a cookie, and how often one may guess.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, HeaderValue, Method, header};
use tokio_util::sync::CancellationToken;

use super::auth::is_own_origin;
use crate::guests::network_of;
use crate::rate::Bucket;
use crate::secret::{KeyHash, Password, Secret};

/// The cookie's name. Cookies do not know ports, so a relay and a studio on one machine share it.
const COOKIE: &str = "firstmile-session";

/// How long a session lasts: a day's work.
const LIFETIME: Duration = Duration::from_secs(24 * 3_600);

/// Sessions at one time; the oldest makes room. A control room has fewer screens.
const MAX_SESSIONS: usize = 64;

/// Wrong passwords of one network at once, and a second for longer.
const GUESSES: f64 = 10.0;
const GUESS_RATE: f64 = 1.0 / 6.0;

/// The same of all networks together: a household has any number of IPv6 networks.
const ALL_GUESSES: f64 = 100.0;
const ALL_GUESS_RATE: f64 = 1.0;

/// Networks whose guesses are remembered; the one that guessed least of late is forgotten.
const MAX_NETWORKS: usize = 1_024;

/// The sessions of one node; without a password there are none.
#[derive(Debug)]
pub(super) struct Sessions {
    password: Option<Password>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// By the hash of what is in the cookie: looking one up tells nothing about it.
    open: HashMap<KeyHash, Session>,
    guesses: HashMap<IpAddr, (Bucket, Instant)>,
    all: Bucket,
}

/// A browser's session; what it opened ends with it.
#[derive(Clone, Debug)]
pub(super) struct Session {
    until: Instant,
    ended: CancellationToken,
}

impl Session {
    /// Waits until a session is over: its browser has logged out, its time is up, or it made room.
    /// Without one, for ever.
    pub(super) async fn over(session: Option<&Self>) {
        let Some(Self { until, ended }) = session else { return std::future::pending().await };
        tokio::select! {
            () = ended.cancelled() => {}
            () = tokio::time::sleep_until((*until).into()) => {}
        }
    }
}

/// What came of an attempt to log in.
#[derive(Debug)]
pub(super) enum Login {
    /// The value of `Set-Cookie`.
    Open(HeaderValue),
    Wrong,
    /// Too many were wrong of late.
    Later,
    /// Nobody can: there is no password.
    Never,
}

impl Sessions {
    pub(super) fn new(password: Option<Password>, now: Instant) -> Self {
        let all = Bucket::full(ALL_GUESSES, now);
        let (open, guesses) = Default::default();
        Self { password, state: Mutex::new(State { open, guesses, all }) }
    }

    /// Whether one can log in at all.
    pub(super) fn has_password(&self) -> bool {
        self.password.is_some()
    }

    /// Compares a password, if whoever sends it has not guessed too often.
    pub(super) fn log_in(&self, sent: &str, from: IpAddr, now: Instant) -> Login {
        let Some(password) = &self.password else { return Login::Never };
        let network = network_of(from);
        let mut state = self.lock();
        if !state.may_guess(network, now) {
            return Login::Later;
        }
        if !password.matches(sent) {
            return Login::Wrong;
        }
        // Only what is wrong counts.
        state.guesses.remove(&network);
        state.open.retain(|_, session| now < session.until);
        while state.open.len() >= MAX_SESSIONS {
            let oldest = state.open.iter().min_by_key(|(_, session)| session.until);
            let oldest = *oldest.expect("there is one").0;
            state.end(&oldest);
        }
        let secret = Secret::random();
        let session = Session { until: now + LIFETIME, ended: CancellationToken::new() };
        state.open.insert(secret.session_hash(), session);
        Login::Open(cookie(secret.expose(), LIFETIME))
    }

    /// Ends the session of this cookie; returns what takes the cookie away.
    pub(super) fn log_out(&self, headers: &HeaderMap) -> HeaderValue {
        for secret in cookies(headers) {
            self.lock().end(&secret.session_hash());
        }
        cookie("", Duration::ZERO)
    }

    /// The session of a request that comes from a page of ours whose browser has logged in.
    ///
    /// Cookies come along whoever made the browser ask: what changes something needs an Origin that is
    /// ours, and nothing is answered that another origin asks for.
    pub(super) fn find(
        &self,
        method: &Method,
        headers: &HeaderMap,
        now: Instant,
    ) -> Option<Session> {
        // Without a password nobody has one.
        self.password.as_ref()?;
        let is_safe = matches!(*method, Method::GET | Method::HEAD);
        let is_ours = match is_own_origin(headers) {
            Some(is_ours) => is_ours,
            None => is_safe && !is_cross_site(headers),
        };
        let state = self.lock();
        let open = |secret: Secret| state.open.get(&secret.session_hash());
        let mut open = cookies(headers).filter_map(open).filter(|session| now < session.until);
        open.next().filter(|_| is_ours).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn end(&mut self, hash: &KeyHash) {
        if let Some(session) = self.open.remove(hash) {
            session.ended.cancel();
        }
    }

    fn may_guess(&mut self, network: IpAddr, now: Instant) -> bool {
        if !self.guesses.contains_key(&network) && self.guesses.len() >= MAX_NETWORKS {
            let oldest = self.guesses.iter().min_by_key(|(_, (_, at))| *at).map(|(ip, _)| *ip);
            self.guesses.remove(&oldest.expect("there is one"));
        }
        let full = (Bucket::full(GUESSES, now), now);
        let (bucket, at) = self.guesses.entry(network).or_insert(full);
        *at = now;
        bucket.take(1.0, GUESS_RATE, GUESSES, now)
            && self.all.take(1.0, ALL_GUESS_RATE, ALL_GUESSES, now)
    }
}

/// No script reads it, and no other site's page makes a browser send it. It goes over plain HTTP on a
/// LAN, where `Secure` would keep it from being stored.
fn cookie(value: &str, life: Duration) -> HeaderValue {
    let text =
        format!("{COOKIE}={value}; HttpOnly; SameSite=Strict; Path=/; Max-Age={}", life.as_secs());
    text.parse().expect("base32 is fit for a header")
}

/// What the request's cookies of our name hold, at most a few: any site of this host may set more.
fn cookies(headers: &HeaderMap) -> impl Iterator<Item = Secret> + '_ {
    let sent = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let pairs = sent.flat_map(|value| value.split(';')).filter_map(|pair| pair.split_once('='));
    let ours = pairs.filter(|(name, _)| name.trim() == COOKIE);
    ours.filter_map(|(_, value)| value.trim().parse().ok()).take(4)
}

/// What browsers say of a request that has no Origin (Fetch Metadata).
fn is_cross_site(headers: &HeaderMap) -> bool {
    headers.get("sec-fetch-site").is_some_and(|site| site != "same-origin" && site != "none")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

    fn sessions() -> (Sessions, Instant) {
        let now = Instant::now();
        (Sessions::new(Some("a good password".parse().unwrap()), now), now)
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    fn has(sessions: &Sessions, method: &Method, headers: &HeaderMap, now: Instant) -> bool {
        sessions.find(method, headers, now).is_some()
    }

    fn log_in(sessions: &Sessions, now: Instant) -> String {
        match sessions.log_in("a good password", HERE, now) {
            Login::Open(cookie) => cookie.to_str().unwrap().split(';').next().unwrap().to_owned(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_cookie_is_good_for_a_day_and_until_it_is_given_back() {
        let (sessions, now) = sessions();
        let cookie = log_in(&sessions, now);
        let sent = headers(&[("cookie", &format!("a=b; {cookie}"))]);
        assert!(has(&sessions, &Method::GET, &sent, now));
        assert!(!has(&sessions, &Method::GET, &sent, now + LIFETIME));
        assert!(!has(&sessions, &Method::GET, &headers(&[]), now));
        let other = format!("{COOKIE}={}", Secret::random().expose());
        assert!(!has(&sessions, &Method::GET, &headers(&[("cookie", &other)]), now));
        let gone = sessions.log_out(&sent);
        assert!(gone.to_str().unwrap().contains("Max-Age=0"));
        assert!(!has(&sessions, &Method::GET, &sent, now));
    }

    #[tokio::test]
    async fn what_a_session_opened_ends_with_it() {
        let (sessions, now) = sessions();
        let is_over = async |session: &Session| {
            tokio::time::timeout(Duration::ZERO, Session::over(Some(session))).await.is_ok()
        };
        let mut opened = Vec::new();
        for n in 0..MAX_SESSIONS as u64 {
            let at = now + Duration::from_secs(n);
            let sent = headers(&[("cookie", &log_in(&sessions, at))]);
            opened.push((sessions.find(&Method::GET, &sent, at).unwrap(), sent));
        }
        assert!(!is_over(&opened[1].0).await);
        sessions.log_out(&opened[1].1);
        assert!(is_over(&opened[1].0).await, "its browser has logged out");
        for _ in 0..2 {
            log_in(&sessions, now + Duration::from_secs(3_600));
        }
        assert!(is_over(&opened[0].0).await, "it made room");
        assert!(!is_over(&opened[2].0).await);
        let old = Session { until: now, ..opened[2].0.clone() };
        assert!(is_over(&old).await, "its day is over");
        let without = tokio::time::timeout(Duration::from_millis(20), Session::over(None));
        assert!(without.await.is_err());
    }

    #[test]
    fn another_sites_page_cannot_use_it() {
        let (sessions, now) = sessions();
        let cookie = log_in(&sessions, now);
        let may = |method: Method, more: &[(&'static str, &str)]| {
            let base = [("cookie", cookie.as_str()), ("host", "10.0.0.2:8935")];
            has(&sessions, &method, &headers(&[&base[..], more].concat()), now)
        };
        let own = ("origin", "http://10.0.0.2:8935");
        assert!(may(Method::GET, &[]) && may(Method::GET, &[own]) && may(Method::POST, &[own]));
        assert!(may(Method::GET, &[("sec-fetch-site", "same-origin")]));
        assert!(!may(Method::POST, &[]), "browsers name the origin of what changes something");
        for origin in ["http://evil.example", "http://10.0.0.2", "http://10.0.0.2:80", "null", ""] {
            assert!(!may(Method::GET, &[("origin", origin)]), "{origin}");
            assert!(!may(Method::PUT, &[("origin", origin)]), "{origin}");
        }
        for site in ["cross-site", "same-site"] {
            assert!(!may(Method::GET, &[("sec-fetch-site", site)]), "{site}");
        }
    }

    #[test]
    fn sessions_are_bounded_and_the_oldest_leaves() {
        let (sessions, now) = sessions();
        let first = log_in(&sessions, now);
        for n in 1..=MAX_SESSIONS as u64 {
            log_in(&sessions, now + Duration::from_secs(n));
        }
        assert_eq!(sessions.lock().open.len(), MAX_SESSIONS);
        assert!(!has(&sessions, &Method::GET, &headers(&[("cookie", &first)]), now));
    }

    #[test]
    fn guesses_are_few_and_one_network_does_not_lock_out_another() {
        let (sessions, now) = sessions();
        let guess = |from: IpAddr, now| sessions.log_in("a good passworD", from, now);
        for _ in 0..GUESSES as usize {
            assert!(matches!(guess(HERE, now), Login::Wrong));
        }
        assert!(matches!(guess(HERE, now), Login::Later));
        let right = sessions.log_in("a good password", HERE, now);
        assert!(matches!(right, Login::Later), "a right one would tell");
        let there: IpAddr = "10.0.0.9".parse().unwrap();
        assert!(matches!(sessions.log_in("a good password", there, now), Login::Open(_)));
        let later = now + Duration::from_secs(7);
        assert!(matches!(sessions.log_in("a good password", HERE, later), Login::Open(_)));

        let mut wrong = 0;
        for n in 0..2 * MAX_NETWORKS as u32 {
            let from = IpAddr::V4((0x0b00_0000 + n).into());
            wrong += usize::from(matches!(guess(from, later), Login::Wrong));
        }
        assert!(wrong <= ALL_GUESSES as usize, "{wrong}");
        assert!(sessions.lock().guesses.len() <= MAX_NETWORKS);
    }

    #[test]
    fn without_a_password_nobody_logs_in() {
        let now = Instant::now();
        let sessions = Sessions::new(None, now);
        assert!(matches!(sessions.log_in("", HERE, now), Login::Never));
    }
}
