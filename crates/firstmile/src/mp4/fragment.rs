//! Fragments: `moof` with the samples' lengths and times, `mdat` with the samples.

use bytes::{BufMut, Bytes, BytesMut};

use super::boxes::{boxed, full};

/// One coded frame of a track.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Decoding time, in the track's timescale.
    pub dts: u64,
    /// Until the next sample of the track, in its timescale. Browsers take a step of more than
    /// twice the last duration for a discontinuity: it has to be true.
    pub duration: u32,
    /// From its decoding to its showing, in the track's timescale.
    pub composition: i32,
    /// Whether decoding can start here; of audio, always.
    pub is_keyframe: bool,
    /// The coded frame.
    pub data: Bytes,
}

/// Samples of one track that follow each other.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// The track's place in the initialisation segment, from 1.
    pub track_id: u32,
    /// Its samples; without one, the run is left out.
    pub samples: &'a [Sample],
}

/// A whole fragment; `sequence` rises by one, from 1. All samples together stay below 2 GiB.
pub fn fragment(sequence: u32, runs: &[Run<'_>]) -> Bytes {
    let head = fragment_head(sequence, runs);
    let mut out = BytesMut::with_capacity(head.len() + data_length(runs) as usize);
    out.put_slice(&head);
    runs.iter().flat_map(|run| run.samples).for_each(|sample| out.put_slice(&sample.data));
    out.freeze()
}

/// What comes before the samples of a fragment: `moof` and the head of `mdat`. The samples' data
/// follow, run by run.
pub fn fragment_head(sequence: u32, runs: &[Run<'_>]) -> Bytes {
    let runs: Vec<_> = runs.iter().filter(|run| !run.samples.is_empty()).collect();
    let moof: u64 = MOOF + runs.iter().map(|run| traf_length(run)).sum::<u64>();
    let mut out = Vec::with_capacity(moof as usize + MDAT as usize);
    let mut data_at = moof + MDAT;
    boxed(&mut out, b"moof", |out| {
        full(out, b"mfhd", 0, 0, |out| out.put_u32(sequence));
        for run in &runs {
            traf(out, run, data_at);
            data_at += run.samples.iter().map(|sample| sample.data.len() as u64).sum::<u64>();
        }
    });
    debug_assert_eq!(out.len() as u64, moof);
    let mdat = data_at - moof;
    out.put_u32(u32::try_from(mdat).unwrap_or(u32::MAX));
    out.put_slice(b"mdat");
    out.into()
}

const MOOF: u64 = 8 + 16;
const MDAT: u64 = 8;
const TRAF: u64 = 8 + 16 + 20 + 20;
const TRUN_ENTRY: u64 = 16;

fn traf_length(run: &Run<'_>) -> u64 {
    TRAF + TRUN_ENTRY * run.samples.len() as u64
}

fn data_length(runs: &[Run<'_>]) -> u64 {
    runs.iter().flat_map(|run| run.samples).map(|sample| sample.data.len() as u64).sum()
}

/// default-base-is-moof: data offsets count from the `moof`.
const BASE_IS_MOOF: u32 = 0x02_0000;
/// Data offset, and of each sample its duration, size, flags and composition offset.
const TRUN_HAS: u32 = 0x01 | 0x100 | 0x200 | 0x400 | 0x800;
/// Depends on no other sample.
const SYNC: u32 = 0x0200_0000;
/// Depends on others, and is no sync sample.
const NON_SYNC: u32 = 0x0101_0000;

fn traf(out: &mut Vec<u8>, run: &Run<'_>, data_at: u64) {
    let start = run.samples.first().map_or(0, |sample| sample.dts);
    boxed(out, b"traf", |out| {
        full(out, b"tfhd", 0, BASE_IS_MOOF, |out| out.put_u32(run.track_id));
        full(out, b"tfdt", 1, 0, |out| out.put_u64(start));
        // Version 1: composition offsets are signed.
        full(out, b"trun", 1, TRUN_HAS, |out| {
            out.put_u32(run.samples.len() as u32);
            out.put_i32(i32::try_from(data_at).unwrap_or(i32::MAX));
            for sample in run.samples {
                out.put_u32(sample.duration);
                out.put_u32(sample.data.len() as u32);
                out.put_u32(if sample.is_keyframe { SYNC } else { NON_SYNC });
                out.put_i32(sample.composition);
            }
        });
    });
}

/// A place in a file where decoding can start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The track, from 1.
    pub track_id: u32,
    /// When the fragment's first sample of the track is shown, which is a keyframe.
    pub time: u64,
    /// Where the fragment's `moof` stands in the file.
    pub moof_at: u64,
    /// Which `traf` in it is the track's, from 1.
    pub traf: u32,
}

/// What ends a file that is whole: an index by which players seek (`mfra`).
pub fn fragment_index(entries: &[Entry]) -> Bytes {
    let mut ids: Vec<_> = entries.iter().map(|entry| entry.track_id).collect();
    ids.sort_unstable();
    ids.dedup();
    let mut out = Vec::with_capacity(64 + 40 * entries.len());
    boxed(&mut out, b"mfra", |out| {
        for id in ids {
            let of_track = || entries.iter().filter(|entry| entry.track_id == id);
            full(out, b"tfra", 1, 0, |out| {
                out.put_u32(id);
                // Four bytes each for the numbers of traf, trun and sample.
                out.put_u32(0b11_1111);
                out.put_u32(of_track().count() as u32);
                for entry in of_track() {
                    out.put_u64(entry.time);
                    out.put_u64(entry.moof_at);
                    out.put_u32(entry.traf);
                    out.put_u32(1);
                    out.put_u32(1);
                }
            });
        }
        // The last four bytes say where this box begins.
        let length = out.len() as u32 + 16;
        full(out, b"mfro", 0, 0, |out| out.put_u32(length));
    });
    out.into()
}
