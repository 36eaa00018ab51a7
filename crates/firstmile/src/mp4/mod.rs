//! Fragmented MP4 (ISO/IEC 14496-12), made of the coded frames that tags carry; nothing is coded
//! anew. What recordings and the browser's preview have in common.
//!
//! ```text
//!   sequence header --Track::from_header--> Track --init_segment--> ftyp moov
//!   tag --payload--> Payload --Timing::place--> Sample --fragment--> moof mdat
//! ```
//!
//! No I/O, no clock. Everything takes any bytes: what cannot be told in MP4 is `None`.

mod audio;
mod boxes;
mod fragment;
mod init;
mod payload;
mod timing;
mod track;
mod video;

#[cfg(test)]
mod tests;

pub use fragment::{Entry, Run, Sample, fragment, fragment_head, fragment_index};
pub use init::{Movie, init_segment, movie};
pub use payload::{Payload, payload};
pub use timing::Timing;
pub use track::Track;
