//! Live video from anywhere into a studio that has no public address.
//!
//! The library behind the `firstmile` command. A *relay* and a *studio* are the same house with
//! different doors open:
//!
//! ```text
//!   relay:   encoder =TCP=> ingest::rtmp     => hub => egress::backhaul =QUIC=> studio
//!   studio:  relay  =QUIC=> ingest::backhaul => hub => egress::rtmp     =TCP=> OBS, vMix, VLC
//! ```

pub mod base32;
pub mod cli;
pub mod config;
pub mod connection;
pub mod control;
pub mod date;
pub mod demo;
pub mod door;
pub mod egress;
pub mod error;
pub mod events;
pub mod guests;
pub mod identity;
pub mod ingest;
pub mod join;
pub mod limit;
pub mod link;
pub mod login;
pub mod mp4;
pub mod networks;
mod node;
pub mod parts;
pub mod platform;
pub mod quic;
mod rate;
pub mod relay;
pub mod secret;
pub mod seldom;
pub mod spool;
pub mod status;
pub mod store;
pub mod studio;
pub mod task;
pub mod tcp;
pub mod tls;
pub mod traces;
pub mod web;
pub mod when;

/// Name and version of this program, as its peers are told.
pub fn agent() -> String {
    concat!("firstmile ", env!("CARGO_PKG_VERSION")).to_owned()
}
