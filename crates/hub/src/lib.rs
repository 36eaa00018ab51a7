//! Live feeds: one publication on air, a ring of its recent tags, and cursors into it.
//!
//! ```text
//!   Publisher --push--> Feed { ring of GOPs, headers in force } <--poll-- Subscriber (a cursor)
//!                              |
//!                              v  what the ring gives up
//!                            spool --> Overflow (a disk)
//! ```
//!
//! A publisher never waits for a subscriber. A subscriber is a cursor, not a queue: a slow one
//! costs no memory, it *skips* (see [`Subscriber`]). A feed outlives its publications: the newest
//! one takes over and subscribers stay.
//!
//! The crate has no sockets and no clock: time is an argument. All locks are held for a few
//! tags' work and never across an await.

mod bell;
mod budget;
pub mod clock;
mod cursor;
mod damper;
mod feed;
mod gop;
mod headers;
mod hub;
mod lanes;
mod pace;
mod ring;
mod spool;
mod squeeze;

pub use bell::Bell;
pub use budget::Memory;
pub use cursor::{Item, Join, Next, Policy, Resume};
pub use feed::{
    Cut, Feed, Fought, Limits, Publisher, Snapshot, State, Subscriber, Timing, TrackStats,
};
pub use hub::Hub;
pub use lanes::{Lane, Lanes, Ringing};
pub use pace::Stalls;
pub use spool::{Backing, Kept, Leaving, Overflow, Spooled};
