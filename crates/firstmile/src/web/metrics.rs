//! Prometheus text made of one snapshot.

use std::fmt::Write;

use crate::events::webhook::WebhookStatus;
use crate::status::{
    FeedState, FeedStatus, LimitStatus, LinkState, LinkStatus, Place, Recording, SpoolStatus,
    Spread, Status,
};

/// Prometheus text exposition format 0.0.4.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All metrics of a node. Labels are names and addresses, never keys.
pub(super) fn text(status: &Status) -> String {
    let mut page = Page::default();
    page.family("firstmile_info", "gauge", "What runs here");
    page.sample(&[("role", &status.role), ("version", &status.version)], 1.0);
    page.family("firstmile_uptime_seconds", "gauge", "Time since the start");
    page.sample(&[], status.uptime_s as f64);
    page.family("firstmile_connections", "gauge", "Encoders and players");
    page.sample(&[], status.connections as f64);
    page.family("firstmile_alarms", "gauge", "What someone should look at");
    page.sample(&[], status.alarms.len() as f64);
    limits(&mut page, &status.limits);
    if let Some(status) = &status.spool {
        spool(&mut page, status);
    }
    if let Some(previews) = &status.previews {
        page.family("firstmile_preview_viewers", "gauge", "Cards of dashboards that show a feed");
        page.sample(&[], previews.viewers as f64);
        let help = "Pictures left out because a browser was too slow";
        page.family("firstmile_preview_dropped_frames_total", "counter", help);
        page.sample(&[], previews.dropped_frames as f64);
    }
    feeds(&mut page, &status.feeds);
    links(&mut page, &status.links);
    webhooks(&mut page, &status.webhooks);
    page.text
}

/// Two hooks may be at one place: their numbers tell them apart.
fn webhooks(page: &mut Page, webhooks: &[WebhookStatus]) {
    if webhooks.is_empty() {
        return;
    }
    page.family("firstmile_webhook_events_total", "counter", "Events by what became of them");
    for (number, hook) in webhooks.iter().enumerate() {
        let number = number.to_string();
        let results =
            [("delivered", hook.delivered), ("failed", hook.failed), ("left_out", hook.left_out)];
        for (result, count) in results {
            let labels = [("webhook", &*number), ("place", &*hook.place), ("result", result)];
            page.sample(&labels, count as f64);
        }
    }
}

fn limits(page: &mut Page, limits: &LimitStatus) {
    for (name, help, value) in [
        (
            "firstmile_unauthenticated",
            "Connections that have not shown a valid key yet",
            limits.unauthenticated,
        ),
        ("firstmile_sessions", "Encoders and players that were let in", limits.sessions),
        ("firstmile_ring_bytes", "Memory of all feeds' rings", limits.ring_bytes),
        ("firstmile_ring_limit_bytes", "Its bound", limits.ring_total_bytes),
    ] {
        page.family(name, "gauge", help);
        page.sample(&[], value as f64);
    }
    page.family("firstmile_limit_hits_total", "counter", "Times that a limit was hit");
    for (limit, hits) in &limits.hits {
        page.sample(&[("limit", limit)], *hits as f64);
    }
}

fn spool(page: &mut Page, spool: &SpoolStatus) {
    for (name, kind, help, value) in [
        (
            "firstmile_spool_memory_bytes",
            "gauge",
            "Memory of what is kept for studios that are away",
            spool.memory_bytes as f64,
        ),
        (
            "firstmile_spool_disk_bytes",
            "gauge",
            "Disk of what is kept for studios that are away",
            spool.disk_bytes as f64,
        ),
        ("firstmile_spool_disk_limit_bytes", "gauge", "Its bound", spool.disk_limit_bytes as f64),
        (
            "firstmile_spool_pending_bytes",
            "gauge",
            "Bytes that wait to be written to the disk",
            spool.pending_bytes as f64,
        ),
        (
            "firstmile_spool_dropped_tags_total",
            "counter",
            "Tags that were given up because the disk was too slow or failed",
            spool.dropped_tags as f64,
        ),
        (
            "firstmile_spool_failing",
            "gauge",
            "1 while the disk cannot be written",
            f64::from(u8::from(spool.error.is_some())),
        ),
    ] {
        page.family(name, kind, help);
        page.sample(&[], value);
    }
}

fn feeds(page: &mut Page, feeds: &[FeedStatus]) {
    page.family("firstmile_feed_state", "gauge", "1 for the state that the feed is in");
    for feed in feeds {
        for state in FeedState::ALL {
            let labels = [("feed", feed.name.as_str()), ("state", state.as_str())];
            page.sample(&labels, f64::from(u8::from(feed.state == state)));
        }
    }
    page.family("firstmile_feed_problems", "gauge", "What is wrong with the feed, by place");
    for feed in feeds {
        for place in Place::ALL {
            let count = feed.problems.iter().filter(|problem| problem.place == place).count();
            let labels = [("feed", feed.name.as_str()), ("place", place.as_str())];
            page.sample(&labels, count as f64);
        }
    }
    type Value = fn(&FeedStatus) -> Option<f64>;
    let simple: [(&str, &str, &str, Value); 13] = [
        ("firstmile_feed_bytes_total", "counter", "Bytes of media", |f| Some(f.bytes as f64)),
        ("firstmile_feed_players", "gauge", "Players connected", |f| Some(f64::from(f.players))),
        ("firstmile_feed_video_kbps", "gauge", "Video, kilobits per second", |f| {
            f.video.as_ref().map(|v| v.kbps)
        }),
        ("firstmile_feed_video_fps", "gauge", "Video, frames per second", |f| {
            f.video.as_ref()?.fps
        }),
        ("firstmile_feed_audio_kbps", "gauge", "Audio, kilobits per second", |f| {
            f.audio.as_ref().map(|a| a.kbps)
        }),
        ("firstmile_feed_skipped_tags_total", "counter", "Tags skipped by the backhaul", |f| {
            Some(f.drops.skipped_tags as f64)
        }),
        ("firstmile_feed_backfilled_tags_total", "counter", "Tags that came afterwards", |f| {
            Some(f.drops.backfilled_tags as f64)
        }),
        ("firstmile_feed_held", "gauge", "1 while its relay is away and keeps the encoder", |f| {
            Some(f64::from(u8::from(f.held)))
        }),
        ("firstmile_feed_keyframe_interval_seconds", "gauge", "Between two keyframes", |f| {
            f.video.as_ref()?.keyframe_interval_s
        }),
        ("firstmile_feed_encoder_stalls", "gauge", "Stalls before the relay in a minute", |f| {
            Some(f.encoder_stalls?.last_minute as f64)
        }),
        ("firstmile_feed_play_delay_seconds", "gauge", "How far players are kept behind", |f| {
            Some(f.play_delay_ms as f64 / 1000.0)
        }),
        (
            "firstmile_feed_record_survives_seconds",
            "gauge",
            "How long its studio may be away now and miss nothing",
            |f| f.record_survives_s,
        ),
        (
            "firstmile_feed_player_skipped_tags_total",
            "counter",
            "Tags skipped by slow players",
            |f| Some(f.drops.player_skipped_tags as f64),
        ),
    ];
    for (name, kind, help, value) in simple {
        page.family(name, kind, help);
        for feed in feeds {
            if let Some(value) = value(feed) {
                page.sample(&[("feed", &feed.name)], value);
            }
        }
    }
    recordings(page, feeds);
    page.family("firstmile_feed_latency_seconds", "gauge", "Time spent per hop");
    for feed in feeds {
        let latency = &feed.latency;
        if let Some(ms) = latency.encoder_growth_ms {
            page.sample(&[("feed", &feed.name), ("hop", "encoder_growth")], ms / 1000.0);
        }
        if let Some(ms) = latency.backhaul_ms {
            page.sample(&[("feed", &feed.name), ("hop", "backhaul")], ms / 1000.0);
        }
        let queues =
            [("relay_queue", latency.relay_queue_ms), ("player_queue", latency.player_queue_ms)];
        for (hop, queue) in queues {
            let Some(Spread { p50, p99 }) = queue else { continue };
            for (quantile, ms) in [("0.5", p50), ("0.99", p99)] {
                let labels = [("feed", &*feed.name), ("hop", hop), ("quantile", quantile)];
                page.sample(&labels, ms / 1000.0);
            }
        }
    }
}

fn recordings(page: &mut Page, feeds: &[FeedStatus]) {
    type Value = fn(&Recording) -> u64;
    let simple: [(&str, &str, &str, Value); 6] = [
        ("firstmile_feed_recorded", "gauge", "1 while the feed is recorded", |r| u64::from(r.on)),
        ("firstmile_recording_publications", "gauge", "Recorded publications", |r| r.publications),
        ("firstmile_recording_bytes", "gauge", "Bytes of media in them", |r| r.bytes),
        ("firstmile_recording_missing_tags", "gauge", "Tags that may still come", |r| r.missing),
        ("firstmile_recording_gone_tags", "gauge", "Tags that will never come", |r| r.gone),
        (
            "firstmile_recording_dropped_tags_total",
            "counter",
            "Tags that the disk had no time or room for",
            |r| r.dropped,
        ),
    ];
    for (name, kind, help, value) in simple {
        page.family(name, kind, help);
        for feed in feeds {
            if let Some(recording) = &feed.recording {
                page.sample(&[("feed", &feed.name)], value(recording) as f64);
            }
        }
    }
}

fn links(page: &mut Page, links: &[LinkStatus]) {
    type Value = fn(&LinkStatus) -> Option<f64>;
    let simple: [(&str, &str, &str, Value); 6] = [
        ("firstmile_link_up", "gauge", "1 while the link is in use", |l| {
            Some(f64::from(u8::from(l.state == LinkState::Up)))
        }),
        ("firstmile_link_rtt_seconds", "gauge", "Round trip", |l| Some(l.rtt_ms? / 1000.0)),
        ("firstmile_link_loss_ratio", "gauge", "Part of packets lost", |l| l.loss),
        ("firstmile_link_received_bytes_total", "counter", "Bytes received", |l| {
            Some(l.bytes_in as f64)
        }),
        ("firstmile_link_sent_bytes_total", "counter", "Bytes sent", |l| Some(l.bytes_out as f64)),
        ("firstmile_link_reconnects_total", "counter", "Times set up anew", |l| {
            Some(l.reconnects as f64)
        }),
    ];
    for (name, kind, help, value) in simple {
        page.family(name, kind, help);
        for link in links {
            if let Some(value) = value(link) {
                let labels = [
                    ("peer", &*link.peer),
                    ("address", &*link.address),
                    ("transport", &*link.transport),
                ];
                page.sample(&labels, value);
            }
        }
    }
}

#[derive(Default)]
struct Page {
    text: String,
    family: &'static str,
}

impl Page {
    fn family(&mut self, name: &'static str, kind: &str, help: &str) {
        self.family = name;
        let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, labels: &[(&str, &str)], value: f64) {
        self.text.push_str(self.family);
        let mut separator = '{';
        for (name, label) in labels {
            let _ = write!(self.text, "{separator}{name}=\"");
            for c in label.chars() {
                match c {
                    '\\' => self.text.push_str("\\\\"),
                    '"' => self.text.push_str("\\\""),
                    '\n' => self.text.push_str("\\n"),
                    c => self.text.push(c),
                }
            }
            self.text.push('"');
            separator = ',';
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_escaped() {
        let mut page = Page::default();
        page.family("a_total", "counter", "Help");
        page.sample(&[("x", "q\"b\\n\n"), ("y", "2")], 1.5);
        page.sample(&[], 3.0);
        assert_eq!(
            page.text,
            "# HELP a_total Help\n# TYPE a_total counter\n\
             a_total{x=\"q\\\"b\\\\n\\n\",y=\"2\"} 1.5\na_total 3\n"
        );
    }

    #[test]
    fn a_feed_and_a_link() {
        let hits = crate::limit::Hits::default();
        hits.count(crate::limit::Limit::Bitrate);
        let memory = hub::Memory { used: 10, spooled: 6, total: 20, trimmed: 4, overruns: 5 };
        let figures = crate::spool::Figures { disk_bytes: 7, ..Default::default() };
        let status = Status {
            feeds: vec![FeedStatus {
                name: "camera".into(),
                state: FeedState::Live,
                record_survives_s: Some(600.0),
                latency: crate::status::Latency {
                    relay_queue_ms: Some(Spread { p50: 30.0, p99: 55.0 }),
                    player_queue_ms: Some(Spread { p50: 2.0, p99: 500.0 }),
                    ..Default::default()
                },
                recording: Some(Recording { on: true, missing: 7, ..Recording::default() }),
                ..FeedStatus::default()
            }],
            links: vec![LinkStatus {
                peer: "berlin".into(),
                rtt_ms: Some(40.0),
                ..Default::default()
            }],
            webhooks: vec![WebhookStatus {
                place: "http://a".into(),
                failed: 2,
                ..Default::default()
            }],
            limits: LimitStatus::new(&hits, (3, 2), memory),
            spool: Some(SpoolStatus { dropped_tags: 8, ..SpoolStatus::new(figures, memory) }),
            previews: Some(crate::status::PreviewStatus { viewers: 9, dropped_frames: 11 }),
            ..Status::default()
        };
        let text = text(&status);
        for line in [
            "firstmile_unauthenticated 3\n",
            "firstmile_sessions 2\n",
            "firstmile_ring_bytes 10\n",
            "firstmile_limit_hits_total{limit=\"bitrate\"} 1\n",
            "firstmile_limit_hits_total{limit=\"players_per_feed\"} 0\n",
            "firstmile_limit_hits_total{limit=\"ring_total\"} 4\n",
            "firstmile_spool_memory_bytes 6\n",
            "firstmile_spool_disk_bytes 7\n",
            "firstmile_spool_dropped_tags_total 8\n",
            "firstmile_spool_failing 0\n",
            "firstmile_webhook_events_total{webhook=\"0\",place=\"http://a\",result=\"failed\"} 2\n",
            "firstmile_preview_viewers 9\n",
            "firstmile_preview_dropped_frames_total 11\n",
            "firstmile_feed_record_survives_seconds{feed=\"camera\"} 600\n",
            "firstmile_feed_state{feed=\"camera\",state=\"live\"} 1\n",
            "firstmile_feed_state{feed=\"camera\",state=\"waiting\"} 0\n",
            "firstmile_feed_recorded{feed=\"camera\"} 1\n",
            "firstmile_recording_missing_tags{feed=\"camera\"} 7\n",
            "firstmile_feed_latency_seconds{feed=\"camera\",hop=\"relay_queue\",quantile=\"0.99\"} 0.055\n",
            "firstmile_feed_latency_seconds{feed=\"camera\",hop=\"player_queue\",quantile=\"0.99\"} 0.5\n",
            "firstmile_link_rtt_seconds{peer=\"berlin\",address=\"\",transport=\"\"} 0.04\n",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }
}
