//! The `firstmile` command.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use firstmile::cli::{self, Cli, Command, Output};
use firstmile::config::{relay, studio};
use firstmile::error::{self, Hint};
use firstmile::relay::Relay;
use firstmile::studio::Studio;
use firstmile::{demo, platform};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// How long the start screen waits for the relays' own word on their addresses.
const RELAYS_ANSWER: Duration = Duration::from_secs(3);

fn main() -> ExitCode {
    let cli = Cli::parse();
    match start(cli) {
        Ok(code) => code,
        Err(error) => error::report(&error),
    }
}

#[tokio::main]
async fn start(cli: Cli) -> Result<ExitCode> {
    log_to_stderr(cli.log_filter())?;
    match cli.command {
        Command::Relay(args) => {
            let relay = Relay::bind(relay::Config::load(&args)?).await?;
            let node = relay.node().clone();
            let dashboard = relay.dashboard_text(std::io::stdout().is_terminal());
            print(args.output, || node.welcome_text() + "\n" + &dashboard, || node.ready())?;
            relay.serve(until_signal()).await?;
        }
        Command::Studio(args) => {
            let studio = Studio::bind(studio::Config::load(&args, std::io::stdin())?).await?;
            let node = studio.node().clone();
            let dashboard = studio.dashboard_text(std::io::stdout().is_terminal());
            let serving = tokio::spawn(studio.serve(until_signal()));
            if args.output == Output::Text {
                node.wait_relays(RELAYS_ANSWER).await;
            }
            print(args.output, || node.welcome_text() + &dashboard, || node.ready())?;
            serving.await??;
        }
        Command::Invite(args) => say(&cli::invite::run(&args).await?)?,
        Command::Studios(args) => say(&cli::studios::run(&args).await?)?,
        Command::Feed(args) => say(&cli::feed::run(&args).await?)?,
        Command::Relays(args) => say(&cli::relays::run(&args, std::io::stdin()).await?)?,
        Command::Record(args) => say(&cli::record::run(&args).await?)?,
        Command::Status(args) => {
            cli::status::run(&args, std::io::stdout().is_terminal(), write_out).await?;
        }
        Command::Doctor(args) => {
            let report = cli::doctor::run(&args, firstmile::studio::reach).await;
            say(&report.text())?;
            if !report.healthy() {
                return Ok(ExitCode::from(error::EXIT_FAILED));
            }
        }
        Command::Demo(args) => return demo::run(&args, until_signal()).await,
    }
    Ok(ExitCode::SUCCESS)
}

/// Logs go to stderr, results to stdout.
fn log_to_stderr(filter: &str) -> Result<()> {
    let filter = EnvFilter::try_new(filter)
        .hint("a level is one of error, warn, info, debug and trace, or see the EnvFilter syntax")
        .misuse()?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    Ok(())
}

/// A token that is cancelled by the first signal to stop; the second one ends the process.
fn until_signal() -> CancellationToken {
    let token = CancellationToken::new();
    let cancel = token.clone();
    tokio::spawn(async move {
        let signal = platform::shutdown_signal().await;
        tracing::info!(signal, "stopping");
        cancel.cancel();
        platform::shutdown_signal().await;
        std::process::exit(i32::from(error::EXIT_FAILED));
    });
    token
}

/// Prints what the reader wants, a person or a script.
fn print(
    output: Output,
    text: impl FnOnce() -> String,
    json: impl FnOnce() -> serde_json::Value,
) -> Result<()> {
    match output {
        Output::Text => say(&text()),
        Output::Json => say(&format!("{}\n", json())),
    }
}

/// Writes a result; a reader that is gone is no error of ours.
fn say(text: &str) -> Result<()> {
    match write_out(text) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

fn write_out(text: &str) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush())
}
