//! The vocabulary of live media that every other crate speaks.
//!
//! What walks through firstmile is a [`Tag`]: one audio, video or script data message as an
//! encoder sent it, classified once where it enters and forwarded verbatim afterwards. Where it
//! enters it also gets a [`Position`], its name for the rest of its life.
//!
//! This crate has no I/O and no clock.

pub mod enhanced;
pub mod flv;
mod position;
mod tag;
mod timestamp;
pub mod video;

pub use position::{Position, PublicationId, TrackSet};
pub use tag::{Codec, Role, Tag, Track};
pub use timestamp::Unwrapper;
