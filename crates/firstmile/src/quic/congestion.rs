//! The backhaul's own congestion control, as the QUIC library asks for it.

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use backhaul::congestion::Bbr;
use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics};
use quinn_proto::RttEstimator;

/// Makes a [`Bbr`] for each way of a link.
#[derive(Debug)]
pub(super) struct BbrFactory {
    /// Bytes that may be in flight before anything is known of a way.
    pub(super) initial_window: u64,
}

impl ControllerFactory for BbrFactory {
    fn build(self: Arc<Self>, _: Instant, mtu: u16) -> Box<dyn Controller> {
        let initial_window = self.initial_window;
        Box::new(Way { initial_window, bbr: Bbr::new(initial_window, mtu.into()) })
    }
}

#[derive(Clone, Debug)]
struct Way {
    initial_window: u64,
    bbr: Bbr,
}

impl Controller for Way {
    fn on_sent(&mut self, now: Instant, bytes: u64, _: u64) {
        self.bbr.on_sent(now, bytes);
    }

    fn on_ack(&mut self, _: Instant, sent: Instant, bytes: u64, _: bool, _: &RttEstimator) {
        self.bbr.on_packet_acked(sent, bytes);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, _: Option<u64>) {
        self.bbr.on_acked(now, in_flight, app_limited);
    }

    fn on_congestion_event(&mut self, _: Instant, _: Instant, _: bool, lost_bytes: u64) {
        self.bbr.on_lost(lost_bytes);
    }

    fn on_mtu_update(&mut self, mtu: u16) {
        self.bbr.on_mtu(mtu.into());
    }

    fn window(&self) -> u64 {
        self.bbr.window()
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = ControllerMetrics::default();
        metrics.congestion_window = self.window();
        metrics.pacing_rate = Some((self.bbr.rate() * 8.0) as u64);
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.initial_window
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
