//! Doors through which media comes in. Each holds a [`Publisher`](hub::Publisher).

pub mod backhaul;
mod quota;
pub mod rtmp;
