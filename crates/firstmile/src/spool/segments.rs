//! The files that blocks are written to, and when they go.

use std::collections::{HashMap, VecDeque};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::shelves::Spot;
use crate::platform;

/// A segment is a part of the whole, so that little goes at a time.
const PARTS: u32 = 64;
/// And no larger than this.
const MAX_SEGMENT: u64 = 16 << 20;
/// A segment takes blocks for this part of the time that they are kept.
const TIME_PARTS: u32 = 10;
/// Blocks of all segments: each costs a hundred bytes of memory. 4 GiB of full blocks are 16,384.
const MAX_BLOCKS: usize = 1 << 17;
const EXTENSION: &str = "segment";

/// The files of a spool, in a directory of their own. Each owner has files of its own, so that
/// the one who fills the disk loses what is its own.
#[derive(Debug)]
pub(super) struct Segments {
    directory: PathBuf,
    /// What all may take, as it was set.
    limit: u64,
    keep: Duration,
    owners: HashMap<u64, VecDeque<Segment>>,
    next: u64,
    bytes: u64,
    blocks: usize,
    /// A lower bound, until then: the disk was full.
    lowered: Option<(u64, Instant)>,
}

#[derive(Debug)]
struct Segment {
    id: u64,
    bytes: u64,
    blocks: usize,
    began: Instant,
    /// When its newest tag came.
    newest: Instant,
    /// Open while it takes blocks.
    file: Option<File>,
}

impl Segments {
    /// An empty spool. Nothing is touched yet.
    pub(super) fn new(directory: &Path, limit: u64, keep: Duration) -> Self {
        Self {
            directory: directory.to_owned(),
            limit,
            keep,
            owners: HashMap::new(),
            next: 0,
            bytes: 0,
            blocks: 0,
            lowered: None,
        }
    }

    /// Removes what a run before this one left; its key is gone.
    pub(super) fn clean(&self) -> io::Result<()> {
        platform::create_private_dir(&self.directory)?;
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == EXTENSION) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// Bytes in all files.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes that they may have now.
    pub(super) fn limit(&self, now: Instant) -> u64 {
        self.lowered.filter(|(_, until)| now < *until).map_or(self.limit, |(limit, _)| limit)
    }

    /// A segment, by owner and number, that has to go before so many bytes can be written: its
    /// time is over, or the owner who has most on the disk makes room.
    pub(super) fn spare(&self, bytes: u64, now: Instant) -> Option<(u64, u64)> {
        let first = |(owner, segments): (&u64, &VecDeque<Segment>)| {
            segments.front().map(|segment| (*owner, segment.id))
        };
        let is_old = |segments: &VecDeque<Segment>| {
            let newest = segments.front().map(|segment| segment.newest);
            newest.is_some_and(|newest| now.saturating_duration_since(newest) > self.keep)
        };
        if let Some(old) = self.owners.iter().find(|(_, segments)| is_old(segments)) {
            return first(old);
        }
        if self.bytes + bytes > self.limit(now) {
            return self.largest();
        }
        // Many small blocks are not the fault of who has large ones.
        if self.blocks >= MAX_BLOCKS {
            self.first_of_most(|segment| segment.blocks as u64)
        } else {
            None
        }
    }

    /// The oldest segment of the owner who has most.
    pub(super) fn largest(&self) -> Option<(u64, u64)> {
        self.first_of_most(|segment| segment.bytes)
    }

    fn first_of_most(&self, size: impl Fn(&Segment) -> u64) -> Option<(u64, u64)> {
        let all = |segments: &VecDeque<Segment>| segments.iter().map(&size).sum::<u64>();
        let (owner, segments) = self.owners.iter().max_by_key(|(_, segments)| all(segments))?;
        Some((*owner, segments.front()?.id))
    }

    /// Removes a segment; whoever reads it now may not find it any more.
    pub(super) fn remove(&mut self, owner: u64, segment: u64) {
        let Some(segments) = self.owners.get_mut(&owner) else { return };
        while segments.front().is_some_and(|first| first.id <= segment) {
            let Some(gone) = segments.pop_front() else { break };
            self.bytes -= gone.bytes;
            self.blocks -= gone.blocks;
            // If it is gone already, somebody tidied up; anything else the next start removes.
            let _ = fs::remove_file(path(&self.directory, gone.id));
        }
        if segments.is_empty() {
            self.owners.remove(&owner);
        }
    }

    /// The disk is full before the bound is reached: from now on a segment's room stays free, and
    /// later the bound is tried again.
    pub(super) fn lower(&mut self, now: Instant) {
        let least = 2 * self.segment_bytes();
        self.lowered = Some((self.bytes.max(least).min(self.limit), now + self.keep));
    }

    /// Appends a sealed block whose last tag came at `newest`.
    pub(super) fn append(
        &mut self,
        owner: u64,
        sealed: &[u8],
        newest: Instant,
        now: Instant,
    ) -> io::Result<Spot> {
        let length = u32::try_from(sealed.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let (mut segment, mut file) = self.take_open(owner, newest, now)?;
        if let Err(error) = file.write_all(sealed) {
            // Nobody knows where the file ends now: it takes no more.
            if segment.blocks > 0 {
                self.owners.entry(owner).or_default().push_back(segment);
            } else {
                let _ = fs::remove_file(path(&self.directory, segment.id));
                self.owners.retain(|_, segments| !segments.is_empty());
            }
            return Err(error);
        }
        let spot = Spot { segment: segment.id, offset: segment.bytes, length };
        segment.file = Some(file);
        segment.bytes += u64::from(length);
        segment.blocks += 1;
        segment.newest = newest;
        self.bytes += u64::from(length);
        self.blocks += 1;
        self.owners.entry(owner).or_default().push_back(segment);
        Ok(spot)
    }

    /// The owner's segment that takes blocks, taken out, and its file.
    fn take_open(
        &mut self,
        owner: u64,
        newest: Instant,
        now: Instant,
    ) -> io::Result<(Segment, File)> {
        let (max, time) = (self.segment_bytes(), self.keep / TIME_PARTS);
        let segments = self.owners.get_mut(&owner);
        if let Some(last) = segments.and_then(VecDeque::back_mut)
            && let Some(file) = last.file.take()
            && last.bytes < max
            && now.saturating_duration_since(last.began) < time
            && let Some(last) = self.owners.get_mut(&owner).and_then(VecDeque::pop_back)
        {
            return Ok((last, file));
        }
        let id = self.next;
        let file = create(&self.directory, id)?;
        self.next += 1;
        Ok((Segment { id, bytes: 0, blocks: 0, began: now, newest, file: None }, file))
    }

    /// Removes all files.
    pub(super) fn remove_all(&mut self) {
        for owner in self.owners.keys().copied().collect::<Vec<_>>() {
            self.remove(owner, u64::MAX);
        }
    }

    fn segment_bytes(&self) -> u64 {
        (self.limit / u64::from(PARTS)).clamp(1, MAX_SEGMENT)
    }
}

/// Reads a block.
pub(super) fn read(directory: &Path, spot: Spot) -> io::Result<Vec<u8>> {
    let mut file = File::open(path(directory, spot.segment))?;
    file.seek(SeekFrom::Start(spot.offset))?;
    let mut sealed = vec![0; spot.length as usize];
    file.read_exact(&mut sealed)?;
    Ok(sealed)
}

fn create(directory: &Path, id: u64) -> io::Result<File> {
    // Somebody may have removed it.
    platform::create_private_dir(directory)?;
    platform::private_file().write(true).create(true).truncate(true).open(path(directory, id))
}

fn path(directory: &Path, id: u64) -> PathBuf {
    directory.join(format!("{id}.{EXTENSION}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_most_blocks_makes_room_for_blocks() {
        let dir = tempfile::tempdir().unwrap();
        let (now, keep) = (Instant::now(), Duration::from_secs(600));
        let mut segments = Segments::new(dir.path(), 4 << 30, keep);
        let (honest, busy) = (1, 2);
        segments.append(honest, &[0; 1 << 20], now, now).unwrap();
        for _ in 1..MAX_BLOCKS - 1 {
            segments.append(busy, &[0], now, now).unwrap();
        }
        assert_eq!(segments.spare(1, now), None);
        segments.append(busy, &[0], now, now).unwrap();
        assert_eq!(segments.spare(1, now).map(|(owner, _)| owner), Some(busy));
        assert_eq!(segments.largest().map(|(owner, _)| owner), Some(honest));
    }
}
