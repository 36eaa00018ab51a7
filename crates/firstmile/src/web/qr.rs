//! QR codes that set up an encoder, drawn here: what is in them is a key.

use qrcode::render::svg;
use qrcode::{EcLevel, QrCode};
use serde::Deserialize;

use super::api::ApiError;
use crate::status::FeedInfo;

/// Relays that one measures after the first: more make a code that phones do not read.
const MAX_OTHERS: usize = 8;

/// What a QR code is asked for with.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// Which of the feed's places, in the order of `publish`.
    #[serde(default)]
    place: usize,
    /// What the code says.
    #[serde(default)]
    form: Form,
    /// With TLS, where that is offered.
    #[serde(default)]
    tls: bool,
}

/// What a QR code says.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Form {
    /// The URL with the key.
    #[default]
    Url,
    /// A link that makes a connection in Larix Broadcaster, and in IRL Pro.
    Larix,
    /// A link that makes a stream in Moblin.
    Moblin,
    /// Where a phone measures its way to the relay, and then to the feed's others; no key is in it.
    Measure,
}

/// The code as an SVG picture.
///
/// # Errors
///
/// The feed has no such place, or none with TLS.
pub(super) fn draw(feed: &FeedInfo, wanted: Wanted) -> Result<String, ApiError> {
    picture(&text(feed, wanted)?)
}

/// Any text as an SVG picture.
///
/// # Errors
///
/// It is too long.
pub(super) fn picture(text: &str) -> Result<String, ApiError> {
    // A quarter of the picture may be unreadable: phones read it from a screen, at an angle.
    let code = QrCode::with_error_correction_level(text, EcLevel::M).map_err(|_| {
        ApiError::failed("the address is too long for a QR code", "copy it instead")
    })?;
    Ok(code.render::<svg::Color<'_>>().min_dimensions(320, 320).build())
}

fn text(feed: &FeedInfo, wanted: Wanted) -> Result<String, ApiError> {
    let missing = || ApiError::not_found("this feed has no such place", "see its `publish`");
    let publish = feed.publish.get(wanted.place).ok_or_else(missing)?;
    let url = match wanted.tls {
        false => publish.url.expose().to_owned(),
        true => {
            let server = publish.server_tls.as_deref().ok_or_else(missing)?;
            format!("{server}/{}", publish.key.expose())
        }
    };
    Ok(match wanted.form {
        Form::Url => url,
        Form::Larix => larix(&url, &format!("{} ({})", feed.name, publish.relay)),
        Form::Moblin => moblin(&url, &format!("{} ({})", feed.name, publish.relay)),
        Form::Measure => measuring(feed, wanted.place).ok_or_else(missing)?,
    })
}

/// The measuring page of one place, which goes on to those of the others: they stand behind `#`, which
/// no server sees.
fn measuring(feed: &FeedInfo, place: usize) -> Option<String> {
    let page = feed.publish.get(place)?.measure.as_deref()?;
    let host =
        |page: &str| Some(page.strip_prefix("https://")?.strip_suffix("/measure")?.to_owned());
    let others = feed.publish.iter().filter_map(|publish| publish.measure.as_deref());
    let others: Vec<_> =
        others.filter(|other| *other != page).filter_map(host).take(MAX_OTHERS).collect();
    match others.is_empty() {
        true => Some(page.to_owned()),
        false => Some(format!("{page}#others={}", others.join(","))),
    }
}

/// A link of Softvelum's "Larix Grove" that makes a connection and switches it on.
fn larix(url: &str, name: &str) -> String {
    format!(
        "larix://set/v1?conn[][url]={}&conn[][name]={}&conn[][mode]=va&conn[][overwrite]=on\
         &conn[][active]=on",
        escape(url),
        escape(name)
    )
}

/// A link of Moblin ("Import settings using moblin://" in its README) that makes a stream and chooses
/// it, with a keyframe every two seconds.
fn moblin(url: &str, name: &str) -> String {
    let settings = serde_json::json!({ "streams": [{
        "name": name,
        "url": url,
        "selected": true,
        "video": { "maxKeyFrameInterval": 2 },
    }] });
    format!("moblin://?{}", escape(&settings.to_string()))
}

/// RFC 3986 §2.1: everything but unreserved characters as `%XX`.
fn escape(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            char::from(byte).to_string()
        }
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{PlayTiming, Publish};

    const KEY: &str = "camera-0123456789ABCDEFGHJKMNPQRS";

    fn feed() -> FeedInfo {
        let key = KEY.parse().unwrap();
        let berlin = Publish::new("berlin", "relay.example", 1935, &key)
            .with_tls("relay.example", Some(4433));
        let berlin = berlin.with_measuring(Some("https://relay.example:4433/measure".into()));
        let here = Publish::new("this studio", "10.0.0.2", 1936, &key);
        FeedInfo {
            name: "camera".into(),
            publish: vec![berlin, here],
            auth: None,
            play: None,
            recorded: false,
            timing: PlayTiming::default(),
            validity: crate::status::Validity::default(),
        }
    }

    fn text_of(place: usize, form: Form, tls: bool) -> Option<String> {
        text(&feed(), Wanted { place, form, tls }).ok()
    }

    #[test]
    fn what_a_code_says() {
        let url = |place, tls| text_of(place, Form::Url, tls);
        assert_eq!(url(0, false).unwrap(), format!("rtmp://relay.example/live/{KEY}"));
        assert_eq!(url(0, true).unwrap(), format!("rtmps://relay.example:4433/live/{KEY}"));
        assert_eq!(url(1, false).unwrap(), format!("rtmp://10.0.0.2:1936/live/{KEY}"));
        assert_eq!(url(1, true), None);
        assert_eq!(url(2, false), None);
        assert_eq!(
            text_of(0, Form::Larix, false).unwrap(),
            format!(
                "larix://set/v1?conn[][url]=rtmp%3A%2F%2Frelay.example%2Flive%2F{KEY}\
                 &conn[][name]=camera%20%28berlin%29&conn[][mode]=va&conn[][overwrite]=on\
                 &conn[][active]=on"
            )
        );
    }

    #[test]
    fn a_phone_measures_the_way_to_every_relay() {
        let page = "https://relay.example:4433/measure";
        assert_eq!(text_of(0, Form::Measure, false).unwrap(), page);
        assert_eq!(text_of(1, Form::Measure, false), None, "there is no page");
        let key = KEY.parse().unwrap();
        let others = (0..20).map(|number| {
            let (name, host) = (format!("relay {number}"), format!("r{number}.example"));
            Publish::new(&name, &host, 1935, &key)
                .with_measuring(Some(format!("https://{host}/measure")))
        });
        let mut feed = feed();
        feed.publish.extend(others);
        let of = |place| text(&feed, Wanted { place, form: Form::Measure, tls: false }).unwrap();
        let some = (0..MAX_OTHERS).map(|number| format!("r{number}.example"));
        assert_eq!(of(0), format!("{page}#others={}", some.collect::<Vec<_>>().join(",")));
        let text = of(2);
        assert!(
            text.starts_with("https://r0.example/measure#others=relay.example:4433,r1."),
            "{text}"
        );
        assert!(picture(&text).is_ok());
    }

    #[test]
    fn what_moblin_reads_and_where_to_measure() {
        let text = text_of(0, Form::Moblin, true).unwrap();
        let json = text.strip_prefix("moblin://?").unwrap();
        assert!(!json.contains(['{', '"', ' ', '&', '#']), "{json}");
        let mut bytes = Vec::new();
        let mut rest = json.as_bytes();
        while let [first, after @ ..] = rest {
            let (byte, after) = match first {
                b'%' => {
                    (u8::from_str_radix(&json[json.len() - after.len()..][..2], 16), &after[2..])
                }
                plain => (Ok(*plain), after),
            };
            bytes.push(byte.unwrap());
            rest = after;
        }
        let settings: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        let stream = &settings["streams"][0];
        assert_eq!(stream["url"], format!("rtmps://relay.example:4433/live/{KEY}"));
        assert_eq!(
            (&stream["name"], &stream["selected"]),
            (&"camera (berlin)".into(), &true.into())
        );
        assert_eq!(stream["video"]["maxKeyFrameInterval"], 2);
        let measure = text_of(0, Form::Measure, false);
        assert_eq!(measure.as_deref(), Some("https://relay.example:4433/measure"));
        assert_eq!(text_of(1, Form::Measure, false), None);
    }

    #[test]
    fn a_code_is_a_picture_without_scripts() {
        let svg = draw(&feed(), Wanted { place: 0, form: Form::Larix, tls: true }).unwrap();
        assert!(svg.contains("<svg") && svg.contains("<path"));
        assert!(!svg.contains("script") && !svg.contains(KEY));
    }

    #[test]
    fn a_name_cannot_leave_its_field() {
        assert_eq!(escape("a&b=c[]#ü"), "a%26b%3Dc%5B%5D%23%C3%BC");
    }
}
