//! The page on which a phone measures its way to a relay: anybody may open it, and what is sent to it
//! is thrown away.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use http_body_util::BodyExt;
use serde::Serialize;

use super::api::ApiError;
use super::pages::{self, POLICY};
use super::{Context, Peer};
use crate::config::Measure;
use crate::guests::network_of;
use crate::rate::Bucket;

/// Seconds over which uploads are bounded.
const PERIOD: f64 = 600.0;
/// Networks whose uploads are remembered; where there are more, those seen longest ago are forgotten.
const MAX_NETWORKS: usize = 1_024;
/// Uploads of one network at one time: a page sends one after the other.
const AT_ONCE_PER_NETWORK: usize = 2;

/// Where the page is; what it asks for is below.
pub(super) const PATH: &str = "/measure";

/// Path, type and content of each file.
pub(super) const FILES: [(&str, &str, &str); 3] = [
    (PATH, pages::HTML, include_str!("ui/measure.html")),
    ("/measure/page.css", pages::CSS, include_str!("ui/measure.css")),
    ("/measure/page.js", pages::SCRIPT, include_str!("ui/measure.js")),
];

/// Counts what is sent to the page.
#[derive(Debug)]
pub(super) struct Meter {
    bounds: Measure,
    about: About,
    account: Mutex<Account>,
}

/// What the page says of its relay.
#[derive(Clone, Debug, Serialize)]
struct About {
    host: String,
    region: Option<String>,
    upload: u64,
}

#[derive(Debug)]
struct Account {
    total: Bucket,
    uploads: usize,
    networks: HashMap<IpAddr, Network>,
}

#[derive(Debug)]
struct Network {
    seen: Instant,
    sent: Bucket,
    uploads: usize,
}

/// One upload that goes on.
struct Upload {
    meter: Arc<Meter>,
    network: IpAddr,
    bytes: u64,
}

/// Why no more is taken.
#[derive(Debug, PartialEq, Eq)]
enum Refused {
    Large,
    Spent,
    Busy,
}

impl Meter {
    pub(super) fn new(bounds: Measure, host: &str, region: Option<&str>) -> Arc<Self> {
        let about = About {
            host: host.to_owned(),
            region: region.map(str::to_owned),
            upload: bounds.upload,
        };
        let total = Bucket::full(bounds.upload_total as f64, Instant::now());
        let account = Mutex::new(Account { total, uploads: 0, networks: HashMap::new() });
        Arc::new(Self { bounds, about, account })
    }

    fn lock(&self) -> MutexGuard<'_, Account> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(self: &Arc<Self>, address: IpAddr, now: Instant) -> Result<Upload, Refused> {
        let network = network_of(address);
        let mut account = self.lock();
        if account.uploads >= self.bounds.at_once {
            return Err(Refused::Busy);
        }
        if account.networks.len() >= MAX_NETWORKS && !account.networks.contains_key(&network) {
            let idle = account.networks.iter().filter(|(_, known)| known.uploads == 0);
            let oldest = idle.min_by_key(|(_, known)| known.seen).map(|(network, _)| *network);
            oldest.and_then(|oldest| account.networks.remove(&oldest));
        }
        let full = Bucket::full(self.bounds.upload_per_ip as f64, now);
        let known = account.networks.entry(network);
        let known = known.or_insert(Network { seen: now, sent: full, uploads: 0 });
        known.seen = now;
        if known.uploads >= AT_ONCE_PER_NETWORK {
            return Err(Refused::Busy);
        }
        known.uploads += 1;
        account.uploads += 1;
        Ok(Upload { meter: self.clone(), network, bytes: 0 })
    }
}

impl Upload {
    /// Counts bytes that have come.
    fn take(&mut self, bytes: usize, now: Instant) -> Result<(), Refused> {
        let bounds = &self.meter.bounds;
        self.bytes += bytes as u64;
        if self.bytes > bounds.upload {
            return Err(Refused::Large);
        }
        let mut account = self.meter.lock();
        let Account { total, networks, .. } = &mut *account;
        let known = networks.get_mut(&self.network).ok_or(Refused::Spent)?;
        let take = |bucket: &mut Bucket, bound: u64| {
            bucket.take(bytes as f64, bound as f64 / PERIOD, bound as f64, now)
        };
        match take(&mut known.sent, bounds.upload_per_ip) && take(total, bounds.upload_total) {
            true => Ok(()),
            false => Err(Refused::Spent),
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let mut account = self.meter.lock();
        account.uploads -= 1;
        if let Some(known) = account.networks.get_mut(&self.network) {
            known.uploads -= 1;
        }
    }
}

/// Whether strangers may ask for this.
pub(super) fn is_open(path: &str) -> bool {
    path.strip_prefix(PATH).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The page, and what it asks for.
pub(super) fn routes() -> Router<Arc<Context>> {
    let page = Router::new()
        .route("/measure/about", get(about))
        .route("/measure/ping", get(async || StatusCode::NO_CONTENT))
        .route("/measure/upload", post(upload));
    FILES.iter().fold(page, |router, &(path, kind, text)| {
        let headers = [(header::CONTENT_TYPE, kind), (header::CONTENT_SECURITY_POLICY, POLICY)];
        router.route(path, get(async move || (headers, text)))
    })
}

async fn about(State(context): State<Arc<Context>>) -> Response {
    match &context.meter {
        Some(meter) => Json(meter.about.clone()).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn upload(
    State(context): State<Arc<Context>>,
    peer: Option<Extension<Peer>>,
    request: Request,
) -> Result<StatusCode, ApiError> {
    let (Some(meter), Some(Extension(Peer(address)))) = (&context.meter, peer) else {
        return Err(ApiError::not_found("nothing is measured here", "open /measure at a relay"));
    };
    let mut upload = meter.begin(address, Instant::now())?;
    let mut body = request.into_body();
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|_| ApiError::invalid("the upload was cut short", "try again"))?;
        upload.take(frame.data_ref().map_or(0, |data| data.len()), Instant::now())?;
    }
    Ok(StatusCode::NO_CONTENT)
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Large => Self::invalid("the upload is too large", "send less at a time"),
            Refused::Spent => {
                Self::too_much("so much was measured lately", "wait for some minutes")
            }
            Refused::Busy => {
                Self::too_much("others are measuring just now", "wait for some seconds")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn meter(upload: u64, upload_per_ip: u64, upload_total: u64, at_once: usize) -> Arc<Meter> {
        let page = true;
        let bounds = Measure { page, upload, upload_per_ip, upload_total, at_once };
        Meter::new(bounds, "relay.example", None)
    }

    fn address(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    #[test]
    fn what_may_be_asked_for_by_strangers() {
        for open in ["/measure", "/measure/ping", "/measure/upload", "/measure/page.js"] {
            assert!(is_open(open), "{open}");
        }
        for shut in ["/", "/measured", "/api/v1/status", "/metrics", "/api/measure"] {
            assert!(!is_open(shut), "{shut}");
        }
    }

    #[test]
    fn one_upload_one_address_and_all_have_bounds() {
        let (meter, now) = (meter(100, 150, 400, 9), Instant::now());
        let mut first = meter.begin(address(1), now).unwrap();
        assert_eq!(first.take(100, now), Ok(()));
        assert_eq!(first.take(1, now), Err(Refused::Large));
        let mut second = meter.begin(address(1), now).unwrap();
        assert_eq!(second.take(50, now), Ok(()));
        assert_eq!(second.take(50, now), Err(Refused::Spent));
        for other in 2..=3 {
            assert_eq!(meter.begin(address(other), now).unwrap().take(100, now), Ok(()));
        }
        let mut third = meter.begin(address(4), now).unwrap();
        assert_eq!(third.take(51, now), Err(Refused::Spent), "350 of 400 are gone");
        drop((first, second));
        // Ten minutes later everything is as new.
        let later = now + Duration::from_secs(600);
        assert_eq!(meter.begin(address(1), later).unwrap().take(100, later), Ok(()));
    }

    #[test]
    fn uploads_at_one_time_have_bounds() {
        let (meter, now) = (meter(100, 1_000, 1_000, 3), Instant::now());
        let begin = |last| meter.begin(address(last), now);
        let held = [begin(1), begin(1)];
        assert!(held.iter().all(Result::is_ok));
        assert_eq!(begin(1).err(), Some(Refused::Busy));
        let other = begin(2);
        assert!(other.is_ok());
        assert_eq!(begin(3).err(), Some(Refused::Busy));
        drop((held, other));
        assert!(begin(1).is_ok() && begin(3).is_ok());
    }

    #[test]
    fn few_networks_are_remembered() {
        let (meter, now) = (meter(100, 1_000, 1_000, 3), Instant::now());
        let held = meter.begin(address(1), now).unwrap();
        for number in 0..3_000u32 {
            let address = IpAddr::from(number.to_be_bytes());
            drop(meter.begin(address, now + Duration::from_secs(number.into())).unwrap());
        }
        assert_eq!(meter.lock().networks.len(), MAX_NETWORKS);
        assert_eq!(meter.lock().uploads, 1);
        drop(held);
    }
}
