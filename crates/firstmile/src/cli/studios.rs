//! `firstmile studios`: through the running relay, or else in its store.

use std::fmt::Write as _;
use std::path::Path;
use std::time::SystemTime;

use anyhow::anyhow;
use hyper::Method;

use super::client::Client;
use super::invite::is_relay;
use super::{Output, StudiosAction, StudiosArgs};
use crate::error::{Hint, plain, plain_json};
use crate::identity::PublicKey;
use crate::platform::{self, Role};
use crate::status::{StudioInfo, StudioState};
use crate::store::{Admitted, DataDir};
use crate::web::SetAuth;
use crate::when::When;

/// Does it and returns what belongs on standard output.
pub async fn run(args: &StudiosArgs) -> anyhow::Result<String> {
    let data = args.data.clone().unwrap_or_else(|| platform::existing_data_dir(Role::Relay));
    let client = Client::find(&data)?;
    let all = match &client {
        Some(client) => {
            let nothing = serde_json::json!({});
            client.call(Method::GET, "/api/v1/studios", &nothing).await?
        }
        None => stored(&open(&data)?),
    };
    let (which, on) = match &args.action {
        StudiosAction::List => return Ok(list(&all, args.output)),
        StudiosAction::Remove { studio } => (studio, false),
        StudiosAction::Restore { studio } => (studio, true),
    };
    let key = &choose(&all, which)?.key;
    let info: StudioInfo = match &client {
        Some(client) => {
            let path = format!("/api/v1/studios/{key}/admission");
            client.call(Method::PUT, &path, &SetAuth { on }).await?
        }
        None => {
            let mut admitted = open(&data)?;
            let public = PublicKey::from_base32(key).expect("the store holds keys");
            match on {
                true => admitted.restore(&public)?,
                false => admitted.cut_off(public, "", SystemTime::now())?,
            }
            let found = stored(&admitted).into_iter().find(|info| info.key == *key);
            found.expect("it is still there")
        }
    };
    Ok(match args.output {
        Output::Json => plain_json(&serde_json::json!(info).to_string()) + "\n",
        Output::Text if on => format!("{} may come back without an invite.\n", named(&info)),
        Output::Text => format!(
            "{} is cut off. It comes back only by an invite made from now on, or with: firstmile \
             studios restore {}\n",
            named(&info),
            &info.key[..8]
        ),
    })
}

fn open(path: &Path) -> anyhow::Result<Admitted> {
    is_relay(path)?;
    Ok(Admitted::load(&DataDir::open(path)?)?)
}

/// What a stopped relay knows.
fn stored(admitted: &Admitted) -> Vec<StudioInfo> {
    admitted.list().iter().map(crate::store::AdmittedStudio::info).collect()
}

fn named(info: &StudioInfo) -> String {
    match info.name.is_empty() {
        true => info.key[..8].to_owned(),
        false => format!("{} ({})", plain(&info.name), &info.key[..8]),
    }
}

/// The studio whose key begins so, or else the one of this name. Studios choose their names, and nobody
/// can hide behind another's key.
fn choose<'a>(all: &'a [StudioInfo], which: &str) -> anyhow::Result<&'a StudioInfo> {
    let start = which.to_ascii_uppercase();
    let by_key = all.iter().filter(|info| start.len() >= 4 && info.key.starts_with(&start));
    let by_name = all.iter().filter(|info| info.name == which);
    let (by_key, by_name): (Vec<_>, Vec<_>) = (by_key.collect(), by_name.collect());
    let found = if by_key.is_empty() { by_name } else { by_key };
    let hint = "name it by the first characters of its key: firstmile studios list";
    match found[..] {
        [one] => Ok(one),
        [] => Err(anyhow!("there is no studio {}", plain(which))).hint(hint),
        _ => Err(anyhow!("several studios are called {}", plain(which))).hint(hint),
    }
}

fn list(all: &[StudioInfo], output: Output) -> String {
    if output == Output::Json {
        return plain_json(&serde_json::json!({ "studios": all }).to_string()) + "\n";
    }
    if all.is_empty() {
        return "No studio has joined. Make an invite: firstmile invite\n".into();
    }
    let mut text = String::new();
    let (key, name, state, feeds) = ("KEY", "NAME", "STATE", "FEEDS");
    let _ = writeln!(text, "{key:<10}  {name:<24}  {state:<9}  {feeds:>5}  ADMITTED");
    for info in all {
        let state = match info.state {
            StudioState::Connected => "connected",
            StudioState::Away => "away",
            StudioState::Removed => "cut off",
        };
        let admitted = info.admitted_s.and_then(When::from_unix).map(|when| when.to_string());
        let name: String = plain(&info.name).chars().take(24).collect();
        let admitted = admitted.unwrap_or_default();
        let line = format!(
            "{:<10}  {name:<24}  {state:<9}  {:>5}  {admitted}",
            &info.key[..8],
            info.feeds
        );
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    async fn studios(data: &Path, line: &str) -> anyhow::Result<String> {
        let data = data.to_str().unwrap();
        let words = ["firstmile", "studios", "--data", data].into_iter().chain(line.split(' '));
        let Command::Studios(args) = Cli::try_parse_from(words).unwrap().command else {
            panic!("not the studios command")
        };
        run(&args).await
    }

    #[test]
    fn a_name_like_anothers_key_hides_nobody() {
        let info = |key: &str, name: &str| StudioInfo {
            key: key.into(),
            name: name.into(),
            ..StudioInfo::default()
        };
        let all = [info("7K2M9Q4X", "studio"), info("ABCDEFGH", "7K2M9Q4X"), info("B", "studio")];
        assert_eq!(choose(&all, "7k2m").unwrap().key, "7K2M9Q4X");
        assert_eq!(choose(&all, "7K2M9Q4X").unwrap().key, "7K2M9Q4X");
        assert!(choose(&all, "studio").unwrap_err().to_string().contains("several"));
        assert!(choose(&all, "ABC").is_err(), "too short to be meant");
    }

    #[tokio::test]
    async fn a_stopped_relay_is_edited_in_its_store() {
        let dir = tempfile::tempdir().unwrap();
        let error = studios(dir.path(), "list").await.unwrap_err();
        assert!(error.to_string().starts_with("there is no relay in"), "{error}");
        let data = DataDir::open(dir.path()).unwrap();
        let key = PublicKey([5; 32]);
        let name = "evil\u{202e}\x1b[2J";
        Admitted::load(&data).unwrap().admit(key, name, SystemTime::now()).unwrap();
        drop(data);
        let list = studios(dir.path(), "list").await.unwrap();
        assert!(list.contains("  evil\u{fffd}\u{fffd}[2J ") && list.contains("  away "), "{list}");
        let start = &key.to_base32()[..6];
        let removed = studios(dir.path(), &format!("remove {start}")).await.unwrap();
        assert!(removed.contains(" is cut off. "), "{removed}");
        assert!(studios(dir.path(), "list").await.unwrap().contains("  cut off  "));
        studios(dir.path(), &format!("restore {start} --output json")).await.unwrap();
        assert!(studios(dir.path(), "list").await.unwrap().contains("  away "));
        let error = studios(dir.path(), "remove ZZZZZZ").await.unwrap_err();
        assert!(error.to_string().contains("there is no studio ZZZZZZ"), "{error}");
    }
}
