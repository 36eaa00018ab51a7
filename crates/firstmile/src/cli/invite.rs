//! `firstmile invite`: through the running relay, or else in its store.

use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context, anyhow};
use hyper::Method;

use super::client::Client;
use super::{InviteArgs, Output};
use crate::config::value::Span;
use crate::error::Hint;
use crate::identity::Identity;
use crate::join::JoinLink;
use crate::platform::{self, Role};
use crate::store::{DataDir, Invites, PublicPlace};
use crate::web::{NewInvite, NewInviteAnswer};

/// Makes the invite and returns what belongs on standard output.
pub async fn run(args: &InviteArgs) -> anyhow::Result<String> {
    let data = args.data.clone().unwrap_or_else(|| platform::existing_data_dir(Role::Relay));
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

/// A stopped relay knows where it was reached last.
fn in_store(path: &Path, args: &InviteArgs) -> anyhow::Result<JoinLink> {
    if !path.join("version").exists() {
        return Err(anyhow!("there is no relay in {}", path.display())).hint(
            "start `firstmile relay` on this machine first, or name its directory with --data",
        );
    }
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
        let mut invites = Invites::load(&DataDir::open(dir.path()).unwrap()).unwrap();
        invites.redeem(&link.invite, SystemTime::now()).unwrap();
        assert!(invites.redeem(&link.invite, SystemTime::now()).is_err());
    }
}
