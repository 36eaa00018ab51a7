//! Doors through which media goes out. Each holds a [`Subscriber`](hub::Subscriber).

pub mod backhaul;
pub mod players;
pub mod preview;
pub mod record;
pub mod rtmp;
pub mod takes;
