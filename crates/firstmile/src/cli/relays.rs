//! `firstmile relays`: through the running studio, or else in its store.

use std::fmt::Write as _;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, anyhow};
use hyper::Method;

use super::client::Client;
use super::{Output, RelaysAction, RelaysArgs};
use crate::config::studio::links;
use crate::error::{Hint, plain, plain_json};
use crate::identity::PublicKey;
use crate::platform::{self, Role};
use crate::status::{LinkState, RelayInfo};
use crate::store::{DataDir, JoinedRelay, Relays};
use crate::web::NewRelay;

/// Does it and returns what belongs on standard output.
pub async fn run(args: &RelaysArgs, mut stdin: impl Read) -> anyhow::Result<String> {
    let data = args.data.clone().unwrap_or_else(|| platform::existing_data_dir(Role::Studio));
    let client = Client::find(&data)?;
    match &args.action {
        RelaysAction::List => Ok(list(&all(client.as_ref(), &data).await?, args.output)),
        RelaysAction::Join { link } => {
            let found = links(link, &mut stdin)?;
            let link = found.first().context("there is no join link in it").misuse()?;
            let info: RelayInfo = match &client {
                Some(client) => {
                    let body = NewRelay { link: link.expose() };
                    client.call(Method::POST, "/api/v1/relays", &body).await?
                }
                None => info(&open(&data)?.join(link)?),
            };
            Ok(match args.output {
                Output::Json => json(&serde_json::json!(info)),
                Output::Text if client.is_some() => {
                    format!("Joined {}; see `firstmile relays list`.\n", named(&info))
                }
                Output::Text => format!("{} is called at the next start.\n", named(&info)),
            })
        }
        RelaysAction::Leave { relay } => {
            let all = all(client.as_ref(), &data).await?;
            let info = choose(&all, relay)?;
            match &client {
                Some(client) => {
                    let nothing = serde_json::json!({});
                    let path = format!("/api/v1/relays/{}", info.key);
                    client.call::<()>(Method::DELETE, &path, &nothing).await?;
                }
                None => {
                    let key = PublicKey::from_base32(&info.key).expect("the store holds keys");
                    open(&data)?.leave(&key)?;
                }
            }
            Ok(match args.output {
                Output::Json => json(&serde_json::json!({ "left": info.key })),
                Output::Text => format!("Left {}.\n", named(info)),
            })
        }
    }
}

async fn all(client: Option<&Client>, data: &Path) -> anyhow::Result<Vec<RelayInfo>> {
    match client {
        Some(client) => {
            let nothing = serde_json::json!({});
            client.call(Method::GET, "/api/v1/relays", &nothing).await
        }
        None => Ok(open(data)?.list().iter().map(info).collect()),
    }
}

fn open(path: &Path) -> anyhow::Result<Relays> {
    if path.join("place.toml").exists() {
        return Err(anyhow!("{} belongs to a relay, and a relay joins nobody", path.display()))
            .hint("run this on the studio's machine, or name its directory with --data");
    }
    Ok(Relays::load(&DataDir::open(path)?)?)
}

/// What a stopped studio knows.
fn info(relay: &JoinedRelay) -> RelayInfo {
    RelayInfo {
        key: relay.pin.to_base32(),
        name: relay.name.clone(),
        address: relay.address(),
        ..RelayInfo::default()
    }
}

fn named(info: &RelayInfo) -> String {
    format!("{} ({})", plain(&info.name), &info.key[..8])
}

/// The relay whose key begins so, or else the one of this name.
fn choose<'a>(all: &'a [RelayInfo], which: &str) -> anyhow::Result<&'a RelayInfo> {
    let start = which.to_ascii_uppercase();
    let by_key = all.iter().filter(|info| start.len() >= 4 && info.key.starts_with(&start));
    let by_name = all.iter().filter(|info| info.name == which || info.address == which);
    let (by_key, by_name): (Vec<_>, Vec<_>) = (by_key.collect(), by_name.collect());
    let found = if by_key.is_empty() { by_name } else { by_key };
    let hint = "name it by the first characters of its key: firstmile relays list";
    match found[..] {
        [one] => Ok(one),
        [] => Err(anyhow!("no relay {} is joined", plain(which))).hint(hint),
        _ => Err(anyhow!("several relays are called {}", plain(which))).hint(hint),
    }
}

fn json(value: &serde_json::Value) -> String {
    plain_json(&value.to_string()) + "\n"
}

fn list(all: &[RelayInfo], output: Output) -> String {
    if output == Output::Json {
        return json(&serde_json::json!({ "relays": all }));
    }
    if all.is_empty() {
        return "No relay is joined. Join one: firstmile relays join LINK\n".into();
    }
    let mut text = format!("{:<10}  {:<13}  RELAY\n", "KEY", "STATE");
    for info in all {
        let state = match info.link.state {
            LinkState::Up => "connected",
            LinkState::Racing => "silent",
            LinkState::Refused => "refused",
            LinkState::Connecting => "not connected",
        };
        let (key, address) = (&info.key[..8], plain(&info.address));
        let _ = writeln!(text, "{key:<10}  {state:<13}  {address}");
        if let Some(error) = info.link.last_error.as_ref().filter(|_| state != "connected") {
            let _ = writeln!(text, "            {}", plain(error));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use crate::join::JoinLink;
    use crate::secret::Secret;
    use clap::Parser;

    async fn relays(data: &Path, line: &str, stdin: &str) -> anyhow::Result<String> {
        let data = data.to_str().unwrap();
        let words = ["firstmile", "relays", "--data", data].into_iter().chain(line.split(' '));
        let Command::Relays(args) = Cli::try_parse_from(words).unwrap().command else {
            panic!("not the relays command")
        };
        run(&args, stdin.as_bytes()).await
    }

    #[tokio::test]
    async fn a_stopped_studio_is_edited_in_its_store() {
        let dir = tempfile::tempdir().unwrap();
        let pin = PublicKey([5; 32]);
        let link =
            JoinLink { host: "relay.example".into(), port: 443, pin, invite: Secret::random() };
        let joined = relays(dir.path(), "join -", &link.expose()).await.unwrap();
        assert!(joined.starts_with("relay.example (") && joined.contains("next start"), "{joined}");
        assert!(!joined.contains(link.invite.expose()));
        let list = relays(dir.path(), "list", "").await.unwrap();
        assert!(list.contains("  not connected  relay.example:443\n"), "{list}");
        assert!(relays(dir.path(), "leave other", "").await.is_err());
        relays(dir.path(), "leave relay.example", "").await.unwrap();
        let list = relays(dir.path(), "list --output json", "").await.unwrap();
        assert_eq!(list, "{\"relays\":[]}\n");
        let error = relays(dir.path(), "join firstmile://x", "").await.unwrap_err();
        assert_eq!(crate::error::exit_code(&error), 2, "{error}");
        assert!(relays(dir.path(), "join -", "").await.is_err());
    }
}
