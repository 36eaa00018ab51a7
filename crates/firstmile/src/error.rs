//! Errors as a person reads them: what failed, why, and what to do.

use std::error::Error as StdError;
use std::fmt;
use std::process::ExitCode;

use crate::config::ConfigError;
use crate::store::{FeedError, StoreError};

/// The command could not do its work.
pub const EXIT_FAILED: u8 = 1;

/// The command was called or configured wrongly.
pub const EXIT_MISUSED: u8 = 2;

/// What a peer said, or an error that repeats it, fit for a terminal: nothing in it moves a cursor,
/// turns the direction of writing, or takes no room.
pub fn plain(text: &str) -> String {
    text.replace(|c: char| c.is_control() || is_invisible(c), "\u{fffd}")
}

/// A JSON text with nothing in it but visible ASCII, which says the same: what peers chose stands
/// between quotes, where every character may be escaped.
pub fn plain_json(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii() && !c.is_control() {
            safe.push(c);
        } else {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                safe.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    safe
}

/// Characters that change how others are shown (Unicode's bidirectional controls, joiners, separators
/// of lines, tags).
fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e007f}'
    )
}

/// An error with advice, or with the verdict that the caller misused us.
#[derive(Debug)]
struct Explained {
    source: anyhow::Error,
    hint: Option<String>,
    misuse: bool,
}

/// It stands in the place of the error that it explains, not before it.
impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.source, f)
    }
}

impl StdError for Explained {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        AsRef::<dyn StdError>::as_ref(&self.source).source()
    }
}

/// Adds what to do to an error.
pub trait Hint<T> {
    /// Tells the person what to do about this error.
    fn hint(self, hint: impl Into<String>) -> anyhow::Result<T>;

    /// Says that the command line or the configuration is wrong: exit code 2.
    fn misuse(self) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> Hint<T> for Result<T, E> {
    fn hint(self, hint: impl Into<String>) -> anyhow::Result<T> {
        self.map_err(|error| {
            let (source, hint) = (error.into(), Some(hint.into()));
            Explained { source, hint, misuse: false }.into()
        })
    }

    fn misuse(self) -> anyhow::Result<T> {
        self.map_err(|error| Explained { source: error.into(), hint: None, misuse: true }.into())
    }
}

/// The text for standard error: one `error:`, its causes, and a `hint:` if there is one.
pub fn describe(error: &anyhow::Error) -> String {
    let mut text = format!("error: {error}\n");
    let mut last = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        // A transparent layer says the same again.
        if cause != last {
            text.push_str(&format!("caused by: {cause}\n"));
        }
        last = cause;
    }
    if let Some(hint) = layers(error).find_map(|layer| layer.hint) {
        text.push_str(&format!("hint: {hint}\n"));
    }
    text
}

/// Prints [`describe`] on standard error and gives the exit code, 1 or 2.
pub fn report(error: &anyhow::Error) -> ExitCode {
    eprint!("{}", describe(error));
    ExitCode::from(exit_code(error))
}

/// 2 if the caller misused us, else 1.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    if layers(error).any(|layer| layer.misuse) { EXIT_MISUSED } else { EXIT_FAILED }
}

/// What one error of a chain says beyond its text.
struct Layer {
    hint: Option<String>,
    misuse: bool,
}

fn layers(error: &anyhow::Error) -> impl Iterator<Item = Layer> + '_ {
    fn of<'a>(chain: impl Iterator<Item = &'a (dyn StdError + 'static)> + 'a) -> Vec<Layer> {
        let mut layers = Vec::new();
        for cause in chain {
            if let Some(explained) = cause.downcast_ref::<Explained>() {
                let hint = explained.hint.clone();
                layers.push(Layer { hint, misuse: explained.misuse });
                // The explained error itself is not in the chain: it is displayed by its place.
                layers.extend(of(explained.source.chain()));
            } else if let Some(error) = cause.downcast_ref::<StoreError>() {
                layers.push(Layer { hint: Some(error.hint()), misuse: false });
            } else if let Some(error) = cause.downcast_ref::<FeedError>() {
                layers.push(Layer { hint: Some(error.hint()), misuse: false });
            } else if let Some(error) = cause.downcast_ref::<ConfigError>() {
                layers.push(Layer { hint: error.hint(), misuse: true });
            }
        }
        layers
    }
    of(error.chain()).into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::{Context, anyhow};

    #[test]
    fn what_peers_say_is_plain() {
        assert_eq!(
            plain("a\x1b[2J\u{9b}b\u{202e}c\u{200b}\u{2028}"),
            "a\u{fffd}[2J\u{fffd}b\u{fffd}c\u{fffd}\u{fffd}"
        );
        assert_eq!(plain("Straße 中 🎥"), "Straße 中 🎥");
    }

    #[test]
    fn what_why_and_what_to_do() {
        let error = Err::<(), _>(anyhow!("address in use"))
            .hint("stop the other program, or use --rtmp :1936")
            .context("cannot listen on [::]:1935")
            .unwrap_err();
        assert_eq!(
            describe(&error),
            "error: cannot listen on [::]:1935\n\
             caused by: address in use\n\
             hint: stop the other program, or use --rtmp :1936\n"
        );
        assert_eq!(exit_code(&error), 1);
    }

    #[test]
    fn causes_below_a_hint_are_kept() {
        let io = std::io::Error::other("disk on fire");
        let error = Err::<(), _>(io).context("cannot write").hint("buy a disk").misuse();
        let error = error.unwrap_err();
        let text = describe(&error);
        assert_eq!(text, "error: cannot write\ncaused by: disk on fire\nhint: buy a disk\n");
        assert_eq!(exit_code(&error), 2);
    }

    #[test]
    fn a_store_error_brings_its_hint() {
        let error = StoreError::Busy { path: "/x".into(), pid: Some(7) };
        let error = anyhow::Error::new(error).context("cannot start the studio");
        let text = describe(&error);
        assert!(text.contains("caused by: another firstmile (pid 7) is using /x\n"), "{text}");
        assert!(text.contains("hint: stop that one first"), "{text}");
    }
}
