//! `firstmile feed`: through the running studio, or else in its store.

use std::fmt::Write as _;
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context, anyhow};
use hyper::Method;

use super::client::Client;
use super::{FeedAction, FeedArgs, Output, Switch};
use crate::config::relay::RTMP_PORT;
use crate::config::value::Span;
use crate::error::Hint;
use crate::platform::{self, Role};
use crate::status::{Auth, FeedInfo, Publish, auth_server};
use crate::store::{DataDir, Feeds, Relays, StoredFeed};
use crate::web::{NewFeed, SetAuth, SetValidity};
use crate::when::When;

/// Does it and returns what belongs on standard output.
pub async fn run(args: &FeedArgs) -> anyhow::Result<String> {
    let data = args.data.clone().unwrap_or_else(|| platform::existing_data_dir(Role::Studio));
    let answer = match Client::find(&data)? {
        Some(client) => through(&client, &args.action).await?,
        None => in_store(&data, &args.action)?,
    };
    Ok(match args.output {
        Output::Json => answer.json(),
        Output::Text => answer.text(),
    })
}

/// What came of it.
enum Answer {
    One(Box<FeedInfo>),
    All(Vec<FeedInfo>),
    Removed(String),
}

async fn through(client: &Client, action: &FeedAction) -> anyhow::Result<Answer> {
    let nothing = serde_json::json!({});
    let one = |name| format!("/api/v1/feeds/{name}");
    Ok(match action {
        FeedAction::Add { name, until } => {
            let valid = body_of(end(until.until, until.span)?);
            let body = NewFeed { name: name.to_string(), valid };
            Answer::One(client.call(Method::POST, "/api/v1/feeds", &body).await?)
        }
        FeedAction::List => Answer::All(client.call(Method::GET, "/api/v1/feeds", &nothing).await?),
        FeedAction::Rotate { name } => {
            let path = one(name) + "/rotate";
            Answer::One(client.call(Method::POST, &path, &nothing).await?)
        }
        FeedAction::Limit { name, limit } => {
            let body = body_of(end(limit.until, limit.span)?);
            Answer::One(client.call(Method::PUT, &(one(name) + "/validity"), &body).await?)
        }
        FeedAction::Pause { name } => {
            let body = SetAuth { on: true };
            Answer::One(client.call(Method::PUT, &(one(name) + "/pause"), &body).await?)
        }
        FeedAction::Resume { name } => {
            let body = SetAuth { on: false };
            Answer::One(client.call(Method::PUT, &(one(name) + "/pause"), &body).await?)
        }
        FeedAction::Auth { name, switch } => {
            let body = SetAuth { on: *switch == Switch::On };
            Answer::One(client.call(Method::PUT, &(one(name) + "/auth"), &body).await?)
        }
        FeedAction::Remove { name } => {
            client.call::<()>(Method::DELETE, &one(name), &nothing).await?;
            Answer::Removed(name.to_string())
        }
    })
}

fn in_store(path: &Path, action: &FeedAction) -> anyhow::Result<Answer> {
    if path.join("place.toml").exists() {
        return Err(anyhow!("{} belongs to a relay, and feeds to a studio", path.display()))
            .hint("run this on the studio's machine, or name its directory with --data");
    }
    let data = DataDir::open(path)?;
    let mut feeds = Feeds::load(&data)?;
    let relays = Relays::load(&data)?;
    let info = |feed: &StoredFeed| info(feed, &relays);
    Ok(match action {
        FeedAction::Add { name, until } => {
            Answer::One(info(&feeds.add(name, end(until.until, until.span)?)?).into())
        }
        FeedAction::Limit { name, limit } => {
            Answer::One(info(&feeds.set_until(name, end(limit.until, limit.span)?)?).into())
        }
        FeedAction::Pause { name } => Answer::One(info(&feeds.set_paused(name, true)?).into()),
        FeedAction::Resume { name } => Answer::One(info(&feeds.set_paused(name, false)?).into()),
        FeedAction::List => Answer::All(feeds.list().iter().map(info).collect()),
        FeedAction::Rotate { name } => Answer::One(info(&feeds.rotate(name)?).into()),
        FeedAction::Auth { name, switch } => {
            Answer::One(info(&feeds.set_auth(name, *switch == Switch::On)?).into())
        }
        FeedAction::Remove { name } => {
            feeds.remove(name)?;
            Answer::Removed(name.to_string())
        }
    })
}

/// The end of a key's time; `None`: there is none.
fn end(until: Option<When>, span: Option<Span>) -> anyhow::Result<Option<When>> {
    let Some(Span(span)) = span else { return Ok(until) };
    let end = When::after(SystemTime::now(), span);
    end.map(Some).context("this is longer than anybody will be here").misuse()
}

fn body_of(until: Option<When>) -> SetValidity {
    SetValidity { until_s: until.map(When::unix), for_s: None }
}

/// A stopped studio knows its relays' names but not their RTMP ports; nearly all use 1935.
pub(super) fn info(feed: &StoredFeed, relays: &Relays) -> FeedInfo {
    let key = feed.key();
    let at = |name: &str, host: &str| Publish::new(name, host, RTMP_PORT, &key);
    let mut publish: Vec<_> = relays.list().iter().map(|r| at(&r.name, &r.host)).collect();
    let local = platform::outward_address().map_or("127.0.0.1".into(), |ip| ip.to_string());
    publish.push(at(Role::Studio.as_str(), &local));
    let play = Some(format!("rtmp://127.0.0.1:{RTMP_PORT}/live/{}", feed.name));
    let auth = feed.auth.as_ref().map(|login| Auth::new(&publish[0].server, login));
    let recorded = feed.recorded.is_some();
    let (timing, validity) = (feed.timing, feed.validity(SystemTime::now()));
    let name = feed.name.to_string();
    FeedInfo { name, publish, auth, play, recorded, timing, validity }
}

impl Answer {
    fn json(&self) -> String {
        let value = match self {
            Self::One(feed) => serde_json::json!(feed),
            Self::All(feeds) => serde_json::json!({ "feeds": feeds }),
            Self::Removed(name) => serde_json::json!({ "removed": name }),
        };
        format!("{value}\n")
    }

    fn text(&self) -> String {
        match self {
            Self::One(feed) => describe(std::slice::from_ref(&**feed)),
            Self::All(feeds) if feeds.is_empty() => {
                "There are no feeds. Add one: firstmile feed add camera\n".into()
            }
            Self::All(feeds) => describe(feeds),
            Self::Removed(name) => format!("Removed {name}; its key is worth nothing now.\n"),
        }
    }
}

/// Each feed with the two fields that its encoder asks for, place by place.
pub fn describe(feeds: &[FeedInfo]) -> String {
    let mut text = String::new();
    for (at, feed) in feeds.iter().enumerate() {
        if at > 0 {
            text.push('\n');
        }
        let _ = writeln!(text, "{}", feed.name);
        if let Some(publish) = feed.publish.first() {
            let _ = writeln!(text, "  Stream key   {}", publish.key.expose());
        }
        if let Some(told) = feed.validity.told(SystemTime::now()) {
            let _ = writeln!(text, "  The key is   {told}");
        }
        for publish in &feed.publish {
            let _ = writeln!(text, "  Server       {}   ({})", publish.server, publish.relay);
            if let Some(server) = &publish.server_tls {
                let _ = writeln!(text, "  with TLS     {server}   ({})", publish.relay);
            }
        }
        if let Some(auth) = &feed.auth {
            let _ = writeln!(text, "  or, with authentication:");
            let _ = writeln!(text, "  User         {}", auth.user.expose());
            let _ = writeln!(text, "  Password     {}", auth.password.expose());
            let _ = writeln!(text, "  Stream key   {}   (or anything)", feed.name);
            for publish in &feed.publish {
                let server = auth_server(&publish.server);
                let _ = writeln!(text, "  Server       {server}   ({})", publish.relay);
            }
        }
        if let Some(play) = &feed.play {
            let _ = writeln!(text, "  Play         {play}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use crate::identity::PublicKey;
    use crate::join::JoinLink;
    use crate::secret::Secret;
    use clap::Parser;

    async fn feed(data: &Path, line: &str) -> anyhow::Result<String> {
        let data = data.to_str().unwrap();
        let words = ["firstmile", "feed", "--data", data].into_iter().chain(line.split(' '));
        let Command::Feed(args) = Cli::try_parse_from(words).unwrap().command else {
            panic!("not the feed command")
        };
        run(&args).await
    }

    #[tokio::test]
    async fn edits_the_store_of_a_stopped_studio() {
        let dir = tempfile::tempdir().unwrap();
        let link = JoinLink {
            host: "relay.example".into(),
            port: 4433,
            pin: PublicKey([1; 32]),
            invite: Secret::random(),
        };
        Relays::load(&DataDir::open(dir.path()).unwrap()).unwrap().join(&link).unwrap();
        let added = feed(dir.path(), "add roof").await.unwrap();
        assert!(added.starts_with("roof\n  Stream key   roof-"), "{added}");
        assert!(added.contains("  Server       rtmp://relay.example/live   (relay.example)\n"));
        let rotated = feed(dir.path(), "rotate roof").await.unwrap();
        assert_ne!(added, rotated);
        let list = feed(dir.path(), "list --output json").await.unwrap();
        let list: serde_json::Value = serde_json::from_str(&list).unwrap();
        assert_eq!(list["feeds"][0]["name"], "camera");
        assert_eq!(list["feeds"][1]["name"], "roof");
        assert_eq!(list["feeds"][1]["publish"][0]["server"], "rtmp://relay.example/live");
        let on = feed(dir.path(), "auth roof on").await.unwrap();
        assert!(on.contains("  User         roof-") && on.contains("  Password     "), "{on}");
        assert!(
            on.contains("  Server       rtmp://relay.example/auth   (relay.example)\n"),
            "{on}"
        );
        assert!(on.starts_with(&rotated[..40]), "the key stays: {on}");
        assert_eq!(feed(dir.path(), "list").await.unwrap().matches("Password").count(), 1);
        assert_eq!(feed(dir.path(), "auth roof off").await.unwrap(), rotated);
        let limited = feed(dir.path(), "limit roof --for 6h").await.unwrap();
        assert!(limited.contains("\n  The key is   valid until 20"), "{limited}");
        assert!(limited.contains(" UTC, in 6 h 0 min\n"), "{limited}");
        let paused = feed(dir.path(), "pause roof").await.unwrap();
        assert!(paused.contains("  The key is   paused: "), "{paused}");
        assert_eq!(feed(dir.path(), "resume roof").await.unwrap(), limited);
        assert_eq!(feed(dir.path(), "limit roof --never").await.unwrap(), rotated);
        let error = feed(dir.path(), "limit roof --until 2020-01-01T00:00Z").await.unwrap_err();
        assert!(error.to_string().contains("is over already"), "{error}");
        let gate = feed(dir.path(), "add gate --for 1h").await.unwrap();
        assert!(gate.contains("  The key is   valid until"), "{gate}");
        feed(dir.path(), "remove gate").await.unwrap();
        assert!(feed(dir.path(), "remove roof").await.unwrap().starts_with("Removed roof"));
        let error = feed(dir.path(), "remove roof").await.unwrap_err();
        let text = crate::error::describe(&error);
        assert_eq!(text, "error: there is no feed named roof\nhint: the feeds are: camera\n");
    }
}
