//! `firstmile status`: how a running node is, for those on a terminal.

mod page;

use std::io;
use std::time::Duration;

use anyhow::anyhow;
use hyper::Method;

use super::client::Client;
use super::{Output, StatusArgs};
use crate::error::{Hint, plain_json};
use crate::platform::{self, Role};
use crate::status::Status;

/// Pause between two looks with `--watch`: as often as the dashboard does.
const EVERY: Duration = Duration::from_secs(1);

/// Clears a terminal and goes to its first line.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Looks at the nodes that run here and gives what is seen to `say`, once or until that fails.
///
/// # Errors
///
/// Nothing runs there, it does not answer, or `say` failed; a reader that has left is no error.
pub async fn run(
    args: &StatusArgs,
    is_terminal: bool,
    mut say: impl FnMut(&str) -> io::Result<()>,
) -> anyhow::Result<()> {
    let is_painted = is_terminal && std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty());
    loop {
        let mut text = String::new();
        if args.watch && is_terminal && args.output == Output::Text {
            text.push_str(CLEAR);
        }
        for (at, client) in clients(args)?.iter().enumerate() {
            let nothing = serde_json::json!({});
            let status: Status = client.call(Method::GET, "/api/v1/status", &nothing).await?;
            match args.output {
                Output::Json => text.push_str(&json(status)?),
                Output::Text => {
                    text.push_str(if at > 0 { "\n" } else { "" });
                    text.push_str(&page::page(&status, is_painted));
                }
            }
        }
        match say(&text) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            said => said?,
        }
        if !args.watch {
            return Ok(());
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// The node of the directory that was named, or else every one that runs in its usual place.
fn clients(args: &StatusArgs) -> anyhow::Result<Vec<Client>> {
    let places = match &args.data {
        Some(data) => vec![data.clone()],
        None => [Role::Relay, Role::Studio].map(platform::existing_data_dir).to_vec(),
    };
    let found: Result<Vec<_>, _> = places.iter().map(|data| Client::find(data)).collect();
    let found: Vec<_> = found?.into_iter().flatten().collect();
    if !found.is_empty() {
        return Ok(found);
    }
    let hint = "start it, or name its data directory with --data; a service's can be read by root \
                and by its own user";
    match &args.data {
        Some(data) => Err(anyhow!("nothing runs in {}", data.display())).hint(hint),
        None => Err(anyhow!("neither a relay nor a studio of this user runs here")).hint(hint),
    }
}

/// The snapshot as those see it who may not see keys: it ends up in tickets and mails.
fn json(status: Status) -> anyhow::Result<String> {
    Ok(plain_json(&serde_json::to_string(&status.masked())?) + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{FeedStatus, LinkStatus};

    #[test]
    fn json_is_ascii_and_says_the_same() {
        let peer = "evil \u{202e}\u{9b}2J\u{7f} ü 🎥".to_owned();
        let links = vec![LinkStatus { peer: peer.clone(), ..LinkStatus::default() }];
        let text = json(Status { links, ..Status::default() }).unwrap();
        assert!(text.trim_end().bytes().all(|byte| (0x20..0x7f).contains(&byte)), "{text}");
        let back: Status = serde_json::from_str(&text).unwrap();
        assert_eq!(back.links[0].peer, peer);
    }

    #[test]
    fn json_holds_no_key() {
        let key = "camera-0123456789ABCDEFGHJKMNPQRS".parse().unwrap();
        let publish = vec![crate::status::Publish::new("berlin", "relay.example", 1935, &key)];
        let feeds = vec![FeedStatus { publish, ..FeedStatus::default() }];
        let text = json(Status { feeds, ..Status::default() }).unwrap();
        assert!(text.contains("rtmp://relay.example/live") && !text.contains("0123456789"));
    }

    #[tokio::test]
    async fn where_nothing_runs() {
        let dir = tempfile::tempdir().unwrap();
        let args = StatusArgs { data: Some(dir.path().to_owned()), ..StatusArgs::default() };
        let error = run(&args, false, |_| Ok(())).await.unwrap_err();
        let text = crate::error::describe(&error);
        assert!(text.starts_with("error: nothing runs in ") && text.contains("--data"), "{text}");
        assert_eq!(crate::error::exit_code(&error), 1);
    }
}
