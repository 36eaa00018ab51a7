//! `firstmile record`: recording is switched through the running studio or in its store; the
//! journals themselves are files, and read as such.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, anyhow};
use hyper::Method;

use super::client::Client;
use super::{Output, RecordAction, RecordArgs, feed};
use crate::config::record::Record;
use crate::config::value::Span;
use crate::date::Date;
use crate::egress::record;
use crate::egress::record::Exported;
use crate::error::Hint;
use crate::platform::{self, Role};
use crate::secret::FeedName;
use crate::status::{FeedInfo, RecordingInfo};
use crate::store::{DataDir, Feeds, Relays};
use crate::web::SetRecording;

/// Fewest digits that name a publication.
const MIN_DIGITS: usize = 4;

/// Does it and returns what belongs on standard output.
pub async fn run(args: &RecordArgs) -> anyhow::Result<String> {
    let data = args.data.clone().unwrap_or_else(|| platform::existing_data_dir(Role::Studio));
    let answer = match &args.action {
        RecordAction::On { name } => Answer::Switched(switch(&data, name, true).await?),
        RecordAction::Off { name } => Answer::Switched(switch(&data, name, false).await?),
        RecordAction::List => Answer::All(list(&data, args.dir.as_deref()).await?),
        RecordAction::Export { which, file } => {
            let recordings = list(&data, args.dir.as_deref()).await?;
            let recording = choose(recordings, which)?;
            if !recording.journal {
                let names =
                    recording.files.iter().map(|file| recording.path.with_file_name(&file.name));
                let names: Vec<_> = names.map(|path| path.display().to_string()).collect();
                return Err(anyhow!("this recording is a file already: {}", names.join(", "))).hint(
                    "copy it; to keep journals beside the files, write `keep_journal = true` under \
                     [record] in the studio's configuration file",
                );
            }
            let (journal, to) = (recording.path.clone(), file.clone());
            let export = tokio::task::spawn_blocking(move || record::export(&journal, &to));
            let exported = export.await?.with_context(|| {
                format!(
                    "cannot write {} of the recording {}",
                    file.display(),
                    recording.publication
                )
            })?;
            Answer::Exported(recording, exported)
        }
    };
    Ok(match args.output {
        Output::Json => answer.json(),
        Output::Text => answer.text(),
    })
}

/// What came of it.
enum Answer {
    Switched(FeedInfo),
    All(Vec<RecordingInfo>),
    Exported(RecordingInfo, Exported),
}

async fn switch(data: &Path, name: &FeedName, on: bool) -> anyhow::Result<FeedInfo> {
    if let Some(client) = Client::find(data)? {
        let path = format!("/api/v1/feeds/{name}/recording");
        return client.call(Method::PUT, &path, &SetRecording { on }).await;
    }
    if data.join("place.toml").exists() {
        return Err(anyhow!("{} belongs to a relay, and recordings to a studio", data.display()))
            .hint("run this on the studio's machine, or name its directory with --data");
    }
    let data = DataDir::open(data)?;
    let stored = Feeds::load(&data)?.set_recorded(name, on)?;
    Ok(feed::info(&stored, &Relays::load(&data)?))
}

async fn list(data: &Path, dir: Option<&Path>) -> anyhow::Result<Vec<RecordingInfo>> {
    if let (None, Some(client)) = (dir, Client::find(data)?) {
        return client.call(Method::GET, "/api/v1/recordings", &serde_json::json!({})).await;
    }
    let dir = dir.map_or_else(|| Record::default().dir(data), Path::to_owned);
    record::list(&dir).with_context(|| format!("cannot read {}", dir.display()))
}

/// The recording that is meant.
fn choose(recordings: Vec<RecordingInfo>, which: &str) -> anyhow::Result<RecordingInfo> {
    let mut of_feed = recordings.iter().filter(|recording| recording.feed == which);
    if let Some(latest) = of_feed.next_back() {
        return Ok(latest.clone());
    }
    let digits = which.to_ascii_lowercase();
    let is_meant = |recording: &RecordingInfo| {
        digits.len() >= MIN_DIGITS && recording.publication.starts_with(&digits)
    };
    let mut meant = recordings.into_iter().filter(is_meant);
    match (meant.next(), meant.next()) {
        (Some(recording), None) => Ok(recording),
        (Some(_), Some(_)) => Err(anyhow!("several recordings begin with {which}"))
            .hint("write more of its digits, as `firstmile record list` shows them"),
        (None, _) => Err(anyhow!("there is no recording {which}")).hint(
            "`firstmile record list` shows those there are; a studio that is stopped and keeps \
             them elsewhere needs --dir",
        ),
    }
}

impl Answer {
    fn json(&self) -> String {
        let value = match self {
            Self::Switched(feed) => serde_json::json!(feed),
            Self::All(recordings) => serde_json::json!({ "recordings": recordings }),
            Self::Exported(recording, exported) => serde_json::json!({
                "feed": recording.feed,
                "publication": recording.publication,
                "file": exported.files.first(),
                "files": exported.files,
                "tags": exported.tags,
                "bytes": exported.bytes,
                "length_ms": exported.length_ms,
                "holes": exported.holes,
                "open_hole": exported.open_hole,
            }),
        };
        format!("{value}\n")
    }

    fn text(&self) -> String {
        match self {
            Self::Switched(feed) if feed.recorded => {
                format!("{} is recorded from now on.\n", feed.name)
            }
            Self::Switched(feed) => {
                format!("{} is not recorded any more; its recordings stay.\n", feed.name)
            }
            Self::All(recordings) if recordings.is_empty() => {
                "There are no recordings. Switch one on: firstmile record on camera\n".into()
            }
            Self::All(recordings) => table(recordings),
            Self::Exported(recording, exported) => told(recording, exported),
        }
    }
}

fn table(recordings: &[RecordingInfo]) -> String {
    let mut text = format!(
        "{:<14}  {:<10}  {:<20}  {:>10}  {:>9}  {:>8}  {:>8}  {:<8}  FILES\n",
        "FEED", "RECORDING", "BEGAN (UTC)", "LENGTH", "MB", "MISSING", "GONE", "STATE"
    );
    for recording in recordings {
        let seconds = recording.length_ms / 1_000;
        let length = format!("{}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60);
        let _ = writeln!(
            text,
            "{:<14}  {:<10}  {:<20}  {:>10}  {:>9.1}  {:>8}  {:>8}  {:<8}  {}",
            recording.feed,
            &recording.publication[..recording.publication.len().min(8)],
            Date::of_unix_ms(recording.started_ms).to_string(),
            length,
            recording.bytes as f64 / 1e6,
            recording.missing,
            recording.gone,
            if recording.complete { "complete" } else { "open" },
            names(recording),
        );
    }
    text
}

/// The names of a recording's files.
fn names(recording: &RecordingInfo) -> String {
    match &recording.files[..] {
        [] => "-".to_owned(),
        [file] => file.name.clone(),
        [file, rest @ ..] => format!("{} and {} more", file.name, rest.len()),
    }
}

fn told(recording: &RecordingInfo, exported: &Exported) -> String {
    let length = Span(std::time::Duration::from_millis(exported.length_ms));
    let files: Vec<_> = exported.files.iter().map(|file| file.display().to_string()).collect();
    let mut text = format!("Wrote {}: {length}, {} tags.\n", files.join(", "), exported.tags);
    if exported.holes > 0 {
        let _ = writeln!(text, "{} holes that nothing can fill were passed over.", exported.holes);
    }
    if let Some((first, last)) = exported.open_hole {
        let _ = writeln!(
            text,
            "It ends before tag {first}: {} tags are missing there and may still come. Export \
             {} again then.",
            last - first + 1,
            &recording.publication[..recording.publication.len().min(8)],
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use crate::status::RecordingState;
    use clap::Parser;
    use std::path::PathBuf;

    async fn record(data: &Path, line: &str) -> anyhow::Result<String> {
        let data = data.to_str().unwrap();
        let words = ["firstmile", "record", "--data", data].into_iter().chain(line.split(' '));
        let Command::Record(args) = Cli::try_parse_from(words).unwrap().command else {
            panic!("not the record command")
        };
        run(&args).await
    }

    #[test]
    fn a_recording_is_found_by_feed_or_digits() {
        let recording = |feed: &str, publication: &str| RecordingInfo {
            feed: feed.into(),
            publication: publication.into(),
            relay: None,
            started_ms: 0,
            length_ms: 3_723_000,
            bytes: 1_500_000,
            tags: 1,
            missing: 0,
            gone: 2,
            progress: 1.0,
            complete: true,
            state: RecordingState::Ended,
            files: Vec::new(),
            journal: true,
            path: PathBuf::new(),
        };
        let all = || vec![recording("camera", "aabbccdd01"), recording("camera", "aabbccee02")];
        assert_eq!(choose(all(), "camera").unwrap().publication, "aabbccee02");
        assert_eq!(choose(all(), "AABBCCD").unwrap().publication, "aabbccdd01");
        assert!(choose(all(), "aabbcc").unwrap_err().to_string().contains("several"));
        assert!(choose(all(), "aab").is_err());
        assert!(choose(all(), "roof").unwrap_err().to_string().contains("no recording roof"));
        let table = table(&all());
        assert!(table.contains("camera          aabbccdd    1970-01-01 00:00:00      1:02:03"));
    }

    #[tokio::test]
    async fn a_stopped_studio_is_switched_in_its_store() {
        let dir = tempfile::tempdir().unwrap();
        let on = record(dir.path(), "on camera").await.unwrap();
        assert_eq!(on, "camera is recorded from now on.\n");
        let data = DataDir::open(dir.path()).unwrap();
        assert!(Feeds::load(&data).unwrap().list()[0].recorded.is_some());
        drop(data);
        let off = record(dir.path(), "off camera --output json").await.unwrap();
        assert!(off.contains(r#""recorded":false"#), "{off}");
        assert!(record(dir.path(), "on roof").await.is_err());
        let list = record(dir.path(), "list").await.unwrap();
        assert!(list.starts_with("There are no recordings."), "{list}");
        let error = record(dir.path(), "export camera x.flv").await.unwrap_err();
        assert!(error.to_string().contains("there is no recording camera"), "{error}");
    }
}
