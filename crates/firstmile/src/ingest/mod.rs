//! Doors through which media comes in. Each holds a [`Publisher`](hub::Publisher).

pub mod backhaul;
pub mod rtmp;
