//! `firstmile invite`: through the running relay, or else in its store.

use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context, anyhow};
use hyper::Method;

use super::client::Client;
use super::{InviteAction, InviteArgs, Output};
use crate::config::value::Span;
use crate::error::Hint;
use crate::identity::Identity;
use crate::join::JoinLink;
use crate::platform::{self, Role};
use crate::status::InviteInfo;
use crate::store::{DataDir, Invites, PublicPlace};
use crate::web::{NewInvite, NewInviteAnswer};
use crate::when::When;

/// Makes the invite and returns what belongs on standard output.
pub async fn run(args: &InviteArgs) -> anyhow::Result<String> {
    let data = args.data.clone().unwrap_or_else(|| platform::existing_data_dir(Role::Relay));
    match &args.action {
        Some(InviteAction::List) => return list(&data, args.output).await,
        Some(InviteAction::Revoke { id }) => return revoke(&data, id, args.output).await,
        None => {}
    }
    let link = match Client::find(&data)? {
        Some(client) => {
            let expires_s = Some(args.expires().as_secs().max(1));
            let body = NewInvite { uses: args.uses, expires_s };
            let answer: NewInviteAnswer =
                client.call(Method::POST, "/api/v1/invites", &body).await?;
            answer.join_link
        }
        None => in_store(&data, args)?.expose(),
    };
    Ok(match args.output {
        Output::Json => {
            let expires_s = args.expires().as_secs();
            let answer = serde_json::json!({
                "join_link": link, "uses": args.uses, "expires_s": expires_s,
            });
            format!("{answer}\n")
        }
        Output::Text => {
            let studios = match args.uses {
                None => "any number of studios".to_owned(),
                Some(1) => "one studio".to_owned(),
                Some(uses) => format!("{uses} studios"),
            };
            let expires = Span(args.expires());
            format!(
                "{link}\n\nIt admits {studios} within {expires}. On the studio:\n\n  firstmile studio --join LINK\n"
            )
        }
    })
}

async fn list(data: &Path, output: Output) -> anyhow::Result<String> {
    let now = SystemTime::now();
    let invites: Vec<InviteInfo> = match Client::find(data)? {
        Some(client) => {
            let nothing = serde_json::json!({});
            client.call(Method::GET, "/api/v1/invites", &nothing).await?
        }
        None => stored(data)?.list(now),
    };
    if output == Output::Json {
        return Ok(format!("{}\n", serde_json::json!({ "invites": invites })));
    }
    if invites.is_empty() {
        return Ok("No invite admits anybody. Make one: firstmile invite\n".into());
    }
    let mut text = format!("{:<10}  {:<14}  EXPIRES\n", "INVITE", "STUDIOS");
    for invite in &invites {
        let left =
            invite.uses_left.map_or_else(|| "any number".to_owned(), |n| format!("{n} more"));
        let expires = When::from_unix(invite.expires_s);
        let expires = expires.map_or_else(|| "never".to_owned(), |at| at.seen_from(now));
        let start = if invite.until_restart { ", or at a restart (the start's link)" } else { "" };
        text += &format!("{:<10}  {left:<14}  {expires}{start}\n", invite.id);
    }
    Ok(text)
}

async fn revoke(data: &Path, id: &str, output: Output) -> anyhow::Result<String> {
    let id = id.to_ascii_uppercase();
    let hint = "see which there are: firstmile invite list";
    if !id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(anyhow!("an invite is called by letters and digits")).hint(hint);
    }
    match Client::find(data)? {
        Some(client) => {
            let (path, nothing) = (format!("/api/v1/invites/{id}"), serde_json::json!({}));
            client.call::<()>(Method::DELETE, &path, &nothing).await?;
        }
        None if stored(data)?.revoke(&id)? => {}
        None => return Err(anyhow!("there is no invite {id}")).hint(hint),
    }
    Ok(match output {
        Output::Json => format!("{}\n", serde_json::json!({ "revoked": id })),
        Output::Text => format!("Revoked {id}; studios that it has admitted stay.\n"),
    })
}

/// The invites of a stopped relay.
fn stored(path: &Path) -> anyhow::Result<Invites> {
    is_relay(path)?;
    Ok(Invites::load(&DataDir::open(path)?)?)
}

/// Whether a directory is there to look into.
pub(super) fn is_relay(path: &Path) -> anyhow::Result<()> {
    if path.join("version").exists() {
        return Ok(());
    }
    Err(anyhow!("there is no relay in {}", path.display()))
        .hint("start `firstmile relay` on this machine first, or name its directory with --data")
}

/// A stopped relay knows where it was reached last.
fn in_store(path: &Path, args: &InviteArgs) -> anyhow::Result<JoinLink> {
    is_relay(path)?;
    let data = DataDir::open(path)?;
    let place = PublicPlace::load(&data)?
        .context("this relay was never started, so the address for the link is not known")
        .hint("start `firstmile relay` first; it prints a join link by itself")?;
    let pin = Identity::load_or_create(&data)?.public_key();
    let invite = Invites::load(&data)?.create(args.uses, args.expires(), SystemTime::now())?;
    Ok(JoinLink { host: place.host, port: place.port, pin, invite })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn makes_a_link_while_the_relay_is_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let args = InviteArgs {
            data: Some(dir.path().to_owned()),
            uses: Some(1),
            output: Output::Json,
            ..InviteArgs::default()
        };
        let error = run(&args).await.unwrap_err();
        assert!(error.to_string().starts_with("there is no relay in"), "{error}");

        let data = DataDir::open(dir.path()).unwrap();
        PublicPlace { host: "relay.example".into(), port: 443 }.save(&data).unwrap();
        let identity = Identity::load_or_create(&data).unwrap();
        drop(data);
        let answer: serde_json::Value = serde_json::from_str(&run(&args).await.unwrap()).unwrap();
        let link: JoinLink = answer["join_link"].as_str().unwrap().parse().unwrap();
        assert_eq!(link.without_invite(), "relay.example:443");
        assert_eq!(link.pin, identity.public_key());
        let list = InviteArgs { action: Some(InviteAction::List), ..args.clone() };
        let listed: serde_json::Value = serde_json::from_str(&run(&list).await.unwrap()).unwrap();
        assert_eq!(listed["invites"][0]["uses_left"], 1);
        let second = run(&InviteArgs { uses: Some(7), ..args.clone() }).await.unwrap();
        assert!(second.contains("firstmile://"));
        let listed: serde_json::Value = serde_json::from_str(&run(&list).await.unwrap()).unwrap();
        let id = listed["invites"][1]["id"].as_str().unwrap().to_ascii_lowercase();
        let revoke =
            |id: String| InviteArgs { action: Some(InviteAction::Revoke { id }), ..args.clone() };
        run(&revoke(id.clone())).await.unwrap();
        assert!(run(&revoke(id)).await.is_err());
        assert!(run(&revoke("../x".into())).await.is_err());

        let mut invites = Invites::load(&DataDir::open(dir.path()).unwrap()).unwrap();
        invites.redeem(&link.invite, None, SystemTime::now()).unwrap();
        assert!(invites.redeem(&link.invite, None, SystemTime::now()).is_err());
    }
}
