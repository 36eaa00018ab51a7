//! Reading a journal file, whatever it holds.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use super::format::{FileHead, Kind, MAX_FILE_HEAD, RECORD_HEAD, RECORD_MAGIC, RecordHead};
use super::index::{Index, SUMMARY, Summary};

/// Bodies this far from the end are verified when a journal is opened: after a power cut the last
/// second may be anything, at the highest rate of a publication and with time to spare.
const VERIFIED_END: u64 = 32 << 20;
/// Read ahead of a record's head: bodies of sound are passed over without another call.
const HEADS_BUFFER: usize = 4 << 10;
/// Read at a time in search of the next record after a damage.
const SEARCH: usize = 64 << 10;

/// Why a file cannot be read as a journal.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// The system refused.
    #[error("cannot read it")]
    Io(#[from] io::Error),
    /// It does not begin like one.
    #[error("it is no journal of a recording")]
    NotAJournal,
}

/// The records of a journal file, in the order of their arrival.
///
/// Damaged parts are passed over; the search goes on behind them. A file may grow meanwhile: the
/// reader ends where it ended when it was opened.
#[derive(Debug)]
pub(super) struct Reader {
    file: BufReader<File>,
    /// Where `file` stands.
    stands_at: u64,
    len: u64,
    head: FileHead,
    /// Where the next record is looked for.
    at: u64,
    /// Where the last whole record ends.
    end: u64,
    /// Bodies from here on are verified.
    verify_from: u64,
    damaged: u64,
}

impl Reader {
    /// Opens a journal.
    pub(super) fn open(path: &Path) -> Result<Self, JournalError> {
        let mut file = File::open(path)?;
        let len = file.metadata()?.len();
        let mut start = Vec::with_capacity(MAX_FILE_HEAD);
        (&mut file).take(MAX_FILE_HEAD as u64).read_to_end(&mut start)?;
        let (head, at) = FileHead::decode(&start).ok_or(JournalError::NotAJournal)?;
        file.seek(SeekFrom::Start(0))?;
        let at = at as u64;
        Ok(Self {
            file: BufReader::with_capacity(HEADS_BUFFER, file),
            stands_at: 0,
            len,
            head,
            at,
            end: at,
            verify_from: len.saturating_sub(VERIFIED_END),
            damaged: 0,
        })
    }

    /// Reads as far as `len` from now on: whole records that the writer vouches for, of a file that
    /// it goes on with.
    pub(super) fn limit(&mut self, len: u64) -> io::Result<()> {
        self.len = len;
        self.verify_from = u64::MAX;
        // What was read ahead may have changed since.
        self.file.seek(SeekFrom::Start(self.stands_at))?;
        Ok(())
    }

    /// What the file says of its publication.
    pub(super) fn head(&self) -> &FileHead {
        &self.head
    }

    /// The next record and where its head stands; `None` at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<(u64, RecordHead)>> {
        let mut damaged_from = None;
        loop {
            if self.len.saturating_sub(self.at) < RECORD_HEAD as u64 {
                return Ok(None);
            }
            let at = self.at;
            if let Some(head) = self.record(at)? {
                self.damaged += damaged_from.map_or(0, |from| at - from);
                self.at = at + RECORD_HEAD as u64 + u64::from(head.length);
                self.end = self.at;
                return Ok(Some((at, head)));
            }
            damaged_from.get_or_insert(at);
            match self.search(at + 1)? {
                Some(found) => self.at = found,
                None => self.at = self.len,
            }
        }
    }

    /// The whole record at `at`, if there is one.
    fn record(&mut self, at: u64) -> io::Result<Option<RecordHead>> {
        let mut bytes = [0; RECORD_HEAD];
        self.read_at(at, &mut bytes)?;
        let Some(head) = RecordHead::decode(&bytes, self.head.seed()) else {
            return Ok(None);
        };
        let body_at = at + RECORD_HEAD as u64;
        if u64::from(head.length) > self.len - body_at {
            return Ok(None);
        }
        let is_whole = at < self.verify_from || self.body(at, &head)?.is_some();
        Ok(is_whole.then_some(head))
    }

    /// The body of the record at `at`; `None` if it is not what was written.
    pub(super) fn body(&mut self, at: u64, head: &RecordHead) -> io::Result<Option<Vec<u8>>> {
        // A head is only believed after its record was found to fit into the file.
        let mut body = vec![0; head.length as usize];
        self.read_at(at + RECORD_HEAD as u64, &mut body)?;
        Ok(head.fits(&body).then_some(body))
    }

    /// The record at `at`, where [`next`](Self::next) has found one, with its body.
    pub(super) fn tag(&mut self, at: u64) -> io::Result<Option<(RecordHead, Vec<u8>)>> {
        let mut bytes = [0; RECORD_HEAD];
        self.read_at(at, &mut bytes)?;
        let Some(head) = RecordHead::decode(&bytes, self.head.seed()) else {
            return Ok(None);
        };
        Ok(self.body(at, &head)?.map(|body| (head, body)))
    }

    /// Where the next head stands that looks right.
    fn search(&mut self, from: u64) -> io::Result<Option<u64>> {
        let mut at = from;
        let mut chunk = vec![0; SEARCH];
        while self.len.saturating_sub(at) >= RECORD_HEAD as u64 {
            let size = (self.len - at).min(SEARCH as u64) as usize;
            self.read_at(at, &mut chunk[..size])?;
            let seed = self.head.seed();
            let mut windows = chunk[..size].windows(RECORD_HEAD);
            let found = windows.position(|window| {
                let head = <&[u8; RECORD_HEAD]>::try_from(window);
                window.starts_with(RECORD_MAGIC)
                    && head.is_ok_and(|head| RecordHead::decode(head, seed).is_some())
            });
            if let Some(found) = found {
                return Ok(Some(at + found as u64));
            }
            // The last bytes again: a head may lie across the border.
            at += (size - RECORD_HEAD + 1) as u64;
        }
        Ok(None)
    }

    fn read_at(&mut self, at: u64, bytes: &mut [u8]) -> io::Result<()> {
        if at != self.stands_at {
            self.file.seek_relative(at.wrapping_sub(self.stands_at) as i64)?;
            self.stands_at = at;
        }
        // After an error nobody knows where the file stands; callers give up then.
        self.file.read_exact(bytes)?;
        self.stands_at += bytes.len() as u64;
        Ok(())
    }

    /// The summary that closes the file, if it is there.
    fn seal(&mut self) -> io::Result<Option<(u64, Summary)>> {
        let size = (RECORD_HEAD + SUMMARY) as u64;
        let Some(at) = self.len.checked_sub(size).filter(|at| *at >= self.at) else {
            return Ok(None);
        };
        let head = self.record(at)?.filter(|head| head.kind == Kind::Sealed);
        let Some(head) = head else { return Ok(None) };
        let body = self.body(at, &head)?.unwrap_or_default();
        let body = <&[u8; SUMMARY]>::try_from(&body[..]).ok();
        Ok(body.map(|body| (head.number, Summary::decode(body))))
    }
}

/// A journal as it was found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) index: Index,
    /// Bytes in the middle that are none of ours; the numbers in them are holes again.
    pub(super) damaged: u64,
    /// Bytes after the last whole record.
    pub(super) torn: u64,
}

/// Reads what a journal has.
///
/// # Errors
///
/// [`JournalError`] if it is none, or cannot be read.
pub(super) fn load(path: &Path) -> Result<Found, JournalError> {
    let mut reader = Reader::open(path)?;
    if let Some((end, summary)) = reader.seal()? {
        let index = Index::sealed(reader.head.clone(), end, summary, reader.len);
        return Ok(Found { index, damaged: 0, torn: 0 });
    }
    let mut index = Index::new(reader.head.clone());
    while let Some((_, head)) = reader.next()? {
        // A double, where a number was written again, has nothing new.
        let _ = index.apply(&head);
    }
    index.file_len = reader.end;
    Ok(Found { index, damaged: reader.damaged, torn: reader.len - reader.end })
}
