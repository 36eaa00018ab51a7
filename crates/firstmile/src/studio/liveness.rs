//! Whether a link is heard, and when it has to go on from another socket.
//!
//! After an outage the relay's own timers may sleep as long again as the outage was. It wakes up when
//! the studio's packets come from another place: so a link that is silent is bound to a new socket,
//! again and again, and whichever packet gets through first brings the media back. But not sooner than
//! the relay can have answered: each new path starts with a small window, and is proven before more.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::link::Received;

/// How often a link is looked at that may have fallen silent.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// After what time one is looked at again that is heard: from the first on when a heartbeat comes,
/// because a waking of its own costs more than the look; at the second without.
const HEARD: [Duration; 2] = [Duration::from_millis(60), Duration::from_millis(130)];
/// And one with nothing on air.
const QUIET: [Duration; 2] = [Duration::from_millis(60), Duration::from_millis(200)];
/// Silence after which something is wrong: the relay says something ten times a second while it has
/// media.
const SILENT_WITH_MEDIA: Duration = Duration::from_millis(300);
/// And with nothing on air: keepalives come four times a second.
const SILENT: Duration = Duration::from_millis(750);
/// The relay has media if it said something within this time before it fell silent.
const BUSY: Duration = Duration::from_millis(500);
/// Time between two sockets: a tenth of the silence, within these. Every one costs the router an
/// entry in its table.
const REBIND: [Duration; 2] = [Duration::from_millis(300), Duration::from_secs(2)];
/// Silence during which a packet is sent at every look, so that the first one after a short outage
/// is not waited for. For longer ones keepalives do: what is not acknowledged fills a small window.
const KNOCKING: Duration = Duration::from_secs(2);
/// Round trips that an answer to a new socket may take: one to be heard, one to prove the path.
const ANSWER_ROUND_TRIPS: u32 = 2;
/// More than this between two looks: the machine slept, or had no time for us. What came meanwhile
/// has not been read yet.
const MISSED: Duration = Duration::from_millis(250);

/// What is known of one link.
#[derive(Debug)]
pub(super) struct Liveness {
    received: Received,
    /// When something came last, and when it was more than a sign of life.
    heard: Instant,
    spoke: Instant,
    looked: Instant,
    rebound: Instant,
    /// How long the relay may take to answer on a new path.
    answer: Duration,
    way: Option<IpAddr>,
}

/// What a link needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// Another socket: nothing is heard.
    Socket,
    /// Another socket: this machine's packets leave from this address now.
    Moved(IpAddr),
    /// A packet that says where we are.
    Packet,
}

impl Liveness {
    /// A link that was heard just now, over packets from this address.
    pub(super) fn new(now: Instant, received: Received, way: Option<IpAddr>) -> Self {
        let answer = Duration::ZERO;
        Self { received, heard: now, spoke: now, looked: now, rebound: now, answer, way }
    }

    /// When the next look may be made if a heartbeat comes, and when it is to be made.
    pub(super) fn next_look(&self) -> [Instant; 2] {
        if self.heard != self.looked {
            let next = self.looked + LOOK_INTERVAL;
            let silent = self.heard + self.patience();
            return [if silent > self.looked { next.min(silent) } else { next }; 2];
        }
        if self.is_busy() { HEARD } else { QUIET }.map(|pause| self.looked + pause)
    }

    /// How long nothing may come until something is wrong.
    fn patience(&self) -> Duration {
        if self.is_busy() { SILENT_WITH_MEDIA } else { SILENT }.max(self.answer)
    }

    /// Whether the link had media when it was heard last.
    fn is_busy(&self) -> bool {
        self.heard.saturating_duration_since(self.spoke) < BUSY
    }

    /// Looks at what has come until now, over a link of this round trip, and from where packets would
    /// leave; call it when [`Self::next_look`] says.
    pub(super) fn look(
        &mut self,
        now: Instant,
        received: Received,
        rtt: Duration,
        way: Option<IpAddr>,
    ) -> Option<Need> {
        let missed = now.saturating_duration_since(self.looked).saturating_sub(MISSED);
        self.looked = now;
        self.heard += missed;
        self.spoke += missed;
        if received.frames != self.received.frames {
            self.spoke = now;
        }
        if received.packets != self.received.packets {
            self.heard = now;
        }
        self.received = received;
        let before = std::mem::replace(&mut self.way, way);
        if let Some(way) = way.filter(|_| way != before) {
            self.rebound = now;
            return Some(Need::Moved(way));
        }
        let silence = self.silence(now);
        let [least, most] = REBIND;
        // What the peer can make of the round trip is bounded, too.
        self.answer = (rtt * ANSWER_ROUND_TRIPS).min(most);
        let pause = (silence / 10).clamp(least.max(self.answer), most);
        if silence < self.patience() {
            return None;
        }
        if now.saturating_duration_since(self.rebound) < pause {
            return (silence < KNOCKING).then_some(Need::Packet);
        }
        self.rebound = now;
        Some(Need::Socket)
    }

    /// How long nothing has come.
    pub(super) fn silence(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.heard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::new(192, 168, 1, 2)));
    const AWAY: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2)));

    const RTT: Duration = Duration::from_millis(60);

    /// Looks when it is time, hears nothing, and returns after how many milliseconds there was a rebind.
    fn rebinds(liveness: &mut Liveness, rtt: Duration, start: Instant, millis: u64) -> Vec<u64> {
        let mut found = Vec::new();
        loop {
            let [_, at] = liveness.next_look();
            let since = (at - start).as_millis() as u64;
            if since > millis {
                return found;
            }
            if liveness.look(at, liveness.received, rtt, liveness.way) == Some(Need::Socket) {
                found.push(since);
            }
        }
    }

    #[test]
    fn a_silent_link_is_bound_anew_again_and_again_and_ever_more_slowly() {
        let now = Instant::now();
        let mut liveness = Liveness::new(now, Received::default(), HOME);
        let soon = now + 4 * LOOK_INTERVAL;
        for (look, need) in [(2, None), (3, Some(Need::Socket)), (4, Some(Need::Packet))] {
            let at = now + look * LOOK_INTERVAL;
            assert_eq!(liveness.look(at, Received::default(), RTT, HOME), need);
        }
        assert_eq!(liveness.silence(soon), 4 * LOOK_INTERVAL);

        let mut liveness = Liveness::new(now, Received::default(), HOME);
        let found = rebinds(&mut liveness, RTT, now, 40_000);
        assert_eq!(found[..4], [300, 600, 900, 1_200]);
        let pauses: Vec<_> = found.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(pauses.is_sorted());
        assert_eq!(pauses.last(), Some(&2_000));
        assert_eq!(liveness.silence(now + 400 * LOOK_INTERVAL), 400 * LOOK_INTERVAL);
    }

    #[test]
    fn a_link_that_is_heard_is_looked_at_when_heartbeats_come() {
        let start = Instant::now();
        let mut liveness = Liveness::new(start, Received::default(), HOME);
        let mut pauses = |at: u64, received| {
            let now = start + Duration::from_millis(at);
            liveness.look(now, received, RTT, HOME);
            liveness.next_look().map(|at| at - now)
        };
        let media = Received { packets: 1, frames: 1 };
        assert_eq!(pauses(100, media), HEARD);
        assert_eq!(pauses(230, media), [LOOK_INTERVAL; 2], "it may be silent");
        for (look, at) in (1..).zip((300..=800).step_by(100)) {
            let sign_of_life = Received { packets: 1 + look, frames: 1 };
            assert_eq!(pauses(at, sign_of_life), if at < 600 { HEARD } else { QUIET }, "{at}");
        }
    }

    #[test]
    fn a_quiet_link_has_more_time() {
        let start = Instant::now();
        let mut liveness = Liveness::new(start, Received::default(), HOME);
        let mut now = start;
        for packets in 1..=20 {
            now += 2 * LOOK_INTERVAL;
            let received = Received { packets, frames: 0 };
            assert_eq!(liveness.look(now, received, RTT, HOME), None);
        }
        assert_eq!(rebinds(&mut liveness, RTT, now, 1_200), [750, 1_050]);
        // What it hears ends that.
        now += 13 * LOOK_INTERVAL;
        liveness.look(now, Received { packets: 21, frames: 1 }, RTT, HOME);
        assert_eq!(liveness.silence(now), Duration::ZERO);
        assert_eq!(rebinds(&mut liveness, RTT, now, 400), [300], "it has media again");
    }

    #[test]
    fn a_far_relay_has_time_to_answer() {
        let start = Instant::now();
        for (rtt, first, second) in
            [(140, 300, 600), (200, 400, 800), (600, 1_200, 2_400), (5_000, 2_000, 4_000)]
        {
            let mut liveness = Liveness::new(start, Received::default(), HOME);
            let found = rebinds(&mut liveness, Duration::from_millis(rtt), start, 6_000);
            assert_eq!(found[..2], [first, second], "{rtt} ms");
        }
    }

    #[test]
    fn another_address_counts_at_once_and_none_does_not() {
        let mut now = Instant::now();
        let mut packets = 0;
        let mut liveness = Liveness::new(now, Received::default(), HOME);
        let mut look = |way| {
            now += LOOK_INTERVAL;
            packets += 1;
            liveness.look(now, Received { packets, frames: packets }, RTT, way)
        };
        assert_eq!(look(HOME), None);
        assert_eq!(look(AWAY), AWAY.map(Need::Moved));
        assert_eq!(look(AWAY), None);
        assert_eq!(look(None), None);
        assert_eq!(look(None), None);
        assert_eq!(look(AWAY), AWAY.map(Need::Moved), "the network may be another one");
    }

    #[test]
    fn a_machine_that_slept_has_heard_nothing_yet() {
        let now = Instant::now();
        let mut liveness = Liveness::new(now, Received::default(), HOME);
        let later = now + Duration::from_secs(3_600);
        assert_eq!(liveness.look(later, Received::default(), RTT, HOME), None);
        assert!(liveness.silence(later) <= MISSED);
    }
}
