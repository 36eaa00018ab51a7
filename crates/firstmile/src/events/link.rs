//! What is told of a link: that it is there, lost, refused, or goes on from another port.

use std::time::{Duration, Instant};

use super::steady::Steady;
use super::{About, Kind, Said, Severity};
use crate::rate::Bucket;
use crate::status::{LinkState, LinkStatus};

/// How long a link has to be lost, or silent: most come back by themselves.
const LOST: Duration = Duration::from_secs(1);
const SILENT: Duration = Duration::from_secs(2);
/// And how long the first call may take.
const FIRST: Duration = Duration::from_secs(10);
/// Changes of port that are told at once; then one a minute.
const REBINDS: f64 = 4.0;
const REBIND_RATE: f64 = 1.0 / 60.0;
/// How long a link has to be heard from its new port.
const SETTLED: Duration = Duration::from_secs(2);

/// How a link is; a greater one is worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Line {
    Up,
    Down,
    Refused,
    /// It was never told of.
    New,
}

/// What was told of a link.
#[derive(Debug)]
pub(super) struct LinkWatch {
    line: Steady<Line>,
    down: Option<Instant>,
    rebinds: u64,
    /// When it went on from another port last, and that was not told.
    rebound: Option<Instant>,
    rebounds: Bucket,
}

impl LinkWatch {
    /// A link that is seen for the first time.
    pub(super) fn new(link: &LinkStatus, now: Instant) -> Self {
        Self {
            line: Steady::new(Line::New),
            down: None,
            rebinds: link.rebinds,
            rebound: None,
            rebounds: Bucket::full(REBINDS, now),
        }
    }

    /// Looks at the link as it is now; the other end is a studio, or else a relay.
    pub(super) fn look(&mut self, link: &LinkStatus, is_studio: bool, now: Instant) -> Vec<Said> {
        let is = match link.state {
            LinkState::Up => Line::Up,
            LinkState::Racing | LinkState::Connecting => Line::Down,
            LinkState::Refused => Line::Refused,
        };
        if is == Line::Up {
            if self.line.told() == Line::Up {
                self.down = None;
            }
        } else {
            self.down.get_or_insert(now);
        }
        let patience = match (self.line.told(), is) {
            (_, Line::Up | Line::Refused) => Duration::ZERO,
            (Line::New, _) => FIRST,
            _ if link.state == LinkState::Racing => SILENT,
            _ => LOST,
        };
        let mut said = Vec::new();
        let about = About {
            peer: Some(link.peer.clone()),
            studio: is_studio.then(|| key_of(&link.peer)).flatten(),
            ..About::default()
        };
        let mut say = |kind, severity, text| {
            said.push(Said { kind, severity, about: about.clone(), text });
        };
        let peer = &link.peer;
        if let Some(change) = self.line.look(is, patience, now) {
            let why = link.last_error.as_ref().map_or_else(String::new, |why| format!(": {why}"));
            let away = self.down.map(|down| change.since.saturating_duration_since(down));
            let again = match away.filter(|_| change.from == Line::Down) {
                Some(away) => format!(" again after {:.1} s", away.as_secs_f64()),
                None => String::new(),
            };
            let rtt = link.rtt_ms.map_or_else(String::new, |ms| format!(", round trip {ms:.0} ms"));
            let transport = link.transport.to_uppercase();
            match (change.to, is_studio) {
                (Line::Up, false) => {
                    let text = format!("The relay {peer} is connected{again} ({transport}{rtt})");
                    say(Kind::LinkUp, Severity::Info, text);
                }
                (Line::Up, true) => {
                    let text = format!("The studio {peer} is connected{again} ({transport}{rtt})");
                    say(Kind::StudioJoined, Severity::Info, text);
                }
                (Line::Refused, _) => {
                    let text = format!("The relay {peer} does not let this studio in{why}");
                    say(Kind::LinkRefused, Severity::Error, text);
                }
                (_, true) => {
                    let text = format!("The studio {peer} is not connected{why}");
                    say(Kind::StudioLeft, Severity::Warning, text);
                }
                (_, false) if change.from == Line::New => {
                    let text = format!("The relay {peer} cannot be reached{why}");
                    say(Kind::LinkDown, Severity::Error, text);
                }
                (_, false) => {
                    let text = format!(
                        "The connection to the relay {peer} is lost; it is called again{why}"
                    );
                    say(Kind::LinkDown, Severity::Error, text);
                }
            }
            // What it went through is told.
            self.rebound = None;
        }
        if link.rebinds > self.rebinds {
            self.rebound = Some(now);
        }
        self.rebinds = link.rebinds;
        let is_settled = |at: &Instant| now.saturating_duration_since(*at) >= SETTLED;
        if is == Line::Up
            && self.line.told() == Line::Up
            && self.rebound.take_if(|at| is_settled(at)).is_some()
            && self.rebounds.take(1.0, REBIND_RATE, REBINDS, now)
        {
            let text = format!(
                "The connection to the relay {peer} goes on from another port or address of this \
                 machine: its network was gone for a moment, or has changed"
            );
            say(Kind::LinkRebound, Severity::Warning, text);
        }
        said
    }
}

/// The studio's key in `NAME (KEY)`: it may have another name each time.
pub(super) fn key_of(peer: &str) -> Option<String> {
    let (_, key) = peer.strip_suffix(')')?.rsplit_once('(')?;
    Some(key.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(500);

    struct Run {
        watch: LinkWatch,
        now: Instant,
        is_studio: bool,
    }

    fn link(state: LinkState) -> LinkStatus {
        let peer = "berlin (ABCD)".into();
        LinkStatus { peer, state, transport: "quic".into(), ..LinkStatus::default() }
    }

    impl Run {
        fn new(is_studio: bool) -> Self {
            let now = Instant::now();
            let watch = LinkWatch::new(&link(LinkState::Connecting), now);
            Self { watch, now, is_studio }
        }

        fn looks(&mut self, count: u32, link: &LinkStatus) -> Vec<Kind> {
            let mut said = Vec::new();
            for _ in 0..count {
                self.now += STEP;
                said.extend(self.watch.look(link, self.is_studio, self.now));
            }
            said.iter().map(|said| said.kind).collect()
        }
    }

    #[test]
    fn a_relay_comes_and_goes() {
        let mut run = Run::new(false);
        assert_eq!(run.looks(4, &link(LinkState::Connecting)), []);
        assert_eq!(run.looks(4, &link(LinkState::Up)), [Kind::LinkUp]);
        assert_eq!(run.looks(2, &link(LinkState::Racing)), [], "it was silent for a moment");
        assert_eq!(run.looks(9, &link(LinkState::Up)), []);
        assert_eq!(run.looks(9, &link(LinkState::Connecting)), [Kind::LinkDown]);
        assert_eq!(run.looks(2, &link(LinkState::Racing)), []);
        assert_eq!(run.looks(2, &link(LinkState::Up)), [Kind::LinkUp]);
        assert_eq!(run.looks(2, &link(LinkState::Refused)), [Kind::LinkRefused]);
    }

    #[test]
    fn a_relay_that_is_never_there_is_told_once() {
        let mut run = Run::new(false);
        assert_eq!(run.looks(200, &link(LinkState::Connecting)), [Kind::LinkDown]);
    }

    #[test]
    fn a_studio_joins_and_leaves_and_is_named() {
        let mut run = Run::new(true);
        run.now += STEP;
        let said = run.watch.look(&link(LinkState::Up), true, run.now).remove(0);
        assert_eq!(said.kind, Kind::StudioJoined);
        assert_eq!(said.about.studio.as_deref(), Some("ABCD"));
        let mut gone = link(LinkState::Connecting);
        gone.last_error = Some("timed out".into());
        let said = (0..9).find_map(|_| {
            run.now += STEP;
            run.watch.look(&gone, true, run.now).pop()
        });
        let said = said.unwrap();
        assert_eq!((said.kind, said.text.ends_with(": timed out")), (Kind::StudioLeft, true));
    }

    #[test]
    fn another_port_is_told_once_it_works_and_not_beside_a_loss() {
        let mut run = Run::new(false);
        let with = |rebinds, state| LinkStatus { rebinds, ..link(state) };
        run.looks(2, &with(0, LinkState::Up));
        let mut said = Vec::new();
        for rebinds in 1..4 {
            said.extend(run.looks(1, &with(rebinds, LinkState::Up)));
        }
        assert_eq!(said, []);
        assert_eq!(run.looks(9, &with(3, LinkState::Up)), [Kind::LinkRebound]);
        assert_eq!(run.looks(9, &with(9, LinkState::Connecting)), [Kind::LinkDown]);
        assert_eq!(run.looks(20, &with(9, LinkState::Up)), [Kind::LinkUp]);
    }
}
