//! The initialisation segment: what there is before the first fragment.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{BufMut, Bytes};
use media::video::Resolution;

use super::boxes::{boxed, full};
use super::track::Track;

/// Units of the movie's own times: milliseconds.
const TIMESCALE: u32 = 1_000;
/// Seconds from 1904, where MP4's time begins, to 1970.
const SINCE_1904: u64 = 2_082_844_800;
/// `und`: nobody says which language it is.
const LANGUAGE: u16 = 0x55c4;
const MATRIX: [u32; 9] = [0x1_0000, 0, 0, 0, 0x1_0000, 0, 0, 0, 0x4000_0000];

/// What a file says of itself beside its tracks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Movie {
    /// When it was recorded.
    pub created: Option<SystemTime>,
    /// How long it is, in milliseconds; 0 while nobody knows. Its size does not depend on it.
    pub duration_ms: u64,
}

/// `ftyp` and `moov` for fragments of these tracks, whose ids are their places from 1; the duration
/// is 0: nobody knows it.
pub fn init_segment(tracks: &[Track]) -> Bytes {
    segment(tracks, Movie::default(), false)
}

/// The same for a file, with a place for its duration.
pub fn movie(tracks: &[Track], movie: Movie) -> Bytes {
    segment(tracks, movie, true)
}

fn segment(tracks: &[Track], movie: Movie, has_duration: bool) -> Bytes {
    let mut out = Vec::with_capacity(2_048);
    boxed(&mut out, b"ftyp", |out| {
        out.put_slice(b"iso6");
        out.put_u32(0x200);
        // Fragments whose data offsets count from the moof are iso5.
        out.put_slice(b"isomiso5iso6mp41");
    });
    let since_1904 = |time: SystemTime| {
        let since = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        since.saturating_add(SINCE_1904)
    };
    let created = movie.created.map_or(0, since_1904);
    boxed(&mut out, b"moov", |out| {
        full(out, b"mvhd", 1, 0, |out| {
            out.put_u64(created);
            out.put_u64(created);
            out.put_u32(TIMESCALE);
            out.put_u64(0);
            out.put_u32(0x1_0000);
            out.put_u16(0x100);
            out.put_bytes(0, 10);
            MATRIX.iter().for_each(|value| out.put_u32(*value));
            out.put_bytes(0, 24);
            out.put_u32(tracks.len() as u32 + 1);
        });
        for (id, track) in (1..).zip(tracks) {
            trak(out, id, track, created);
        }
        boxed(out, b"mvex", |out| {
            if has_duration {
                full(out, b"mehd", 1, 0, |out| out.put_u64(movie.duration_ms));
            }
            for id in 1..=tracks.len() as u32 {
                full(out, b"trex", 0, 0, |out| {
                    // The sample description; durations, sizes and flags are said each time.
                    [id, 1, 0, 0, 0].iter().for_each(|value| out.put_u32(*value));
                });
            }
        });
    });
    out.into()
}

fn trak(out: &mut Vec<u8>, id: u32, track: &Track, created: u64) {
    let size = track.resolution().unwrap_or(Resolution { width: 0, height: 0 });
    let is_video = track.kind() == media::Track::Video;
    boxed(out, b"trak", |out| {
        // Enabled, in the movie, in the preview.
        full(out, b"tkhd", 1, 7, |out| {
            out.put_u64(created);
            out.put_u64(created);
            out.put_u32(id);
            out.put_u32(0);
            out.put_u64(0);
            out.put_bytes(0, 8);
            out.put_u16(0);
            // Tracks of one kind are alternatives.
            out.put_u16(if is_video { 0 } else { 1 });
            out.put_u16(if is_video { 0 } else { 0x100 });
            out.put_u16(0);
            MATRIX.iter().for_each(|value| out.put_u32(*value));
            out.put_u32(size.width.min(0xffff) << 16);
            out.put_u32(size.height.min(0xffff) << 16);
        });
        boxed(out, b"mdia", |out| {
            full(out, b"mdhd", 1, 0, |out| {
                out.put_u64(created);
                out.put_u64(created);
                out.put_u32(track.timescale());
                out.put_u64(0);
                out.put_u16(LANGUAGE);
                out.put_u16(0);
            });
            full(out, b"hdlr", 0, 0, |out| {
                out.put_u32(0);
                out.put_slice(if is_video { b"vide" } else { b"soun" });
                out.put_bytes(0, 12);
                out.put_slice(b"firstmile\0");
            });
            boxed(out, b"minf", |out| minf(out, track, is_video));
        });
    });
}

fn minf(out: &mut Vec<u8>, track: &Track, is_video: bool) {
    match is_video {
        true => full(out, b"vmhd", 0, 1, |out| out.put_bytes(0, 8)),
        false => full(out, b"smhd", 0, 0, |out| out.put_bytes(0, 4)),
    }
    boxed(out, b"dinf", |out| {
        full(out, b"dref", 0, 0, |out| {
            out.put_u32(1);
            // The samples are in this file.
            full(out, b"url ", 0, 1, |_| {});
        });
    });
    boxed(out, b"stbl", |out| {
        full(out, b"stsd", 0, 0, |out| {
            out.put_u32(1);
            track.write_entry(out);
        });
        for (name, zeros) in [(b"stts", 4), (b"stsc", 4), (b"stsz", 8), (b"stco", 4)] {
            full(out, name, 0, 0, |out| out.put_bytes(0, zeros));
        }
    });
}
