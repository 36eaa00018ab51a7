//! Recordings that are taken from the shelf: looked at, read, and thrown away.

use std::fs::{self, File};
use std::io;

use media::PublicationId;
use tracing::info;

use super::files::Document;
use super::film::Part;
use super::{Recorder, disk};
use crate::status::RecordingInfo;

/// A file of a recording, opened.
#[derive(Debug)]
pub struct Opened {
    /// Its name: letters, digits, `-`, `_` and dots.
    pub name: String,
    /// The file, at its beginning.
    pub file: File,
    /// Bytes that it has now.
    pub len: u64,
}

/// Why a recording is left as it is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShelfError {
    /// There is none of that name.
    #[error("there is no such recording")]
    Unknown,
    /// It has no such file, or not yet.
    #[error("the recording has no such file")]
    NoFile,
    /// It goes on.
    #[error("this recording goes on")]
    OnAir,
    /// The disk refused.
    #[error("cannot read the recording")]
    Io(#[from] io::Error),
}

impl Recorder {
    /// A recording by its name (32 hexadecimal digits), and the parts that it has become, with what
    /// each of them lacks.
    ///
    /// # Errors
    ///
    /// [`ShelfError::Unknown`].
    pub fn recording(&self, name: &str) -> Result<(RecordingInfo, Vec<Part>), ShelfError> {
        let publication = parse(name).ok_or(ShelfError::Unknown)?;
        let state = self.0.lock();
        let index = state.journals.get(&publication).filter(|index| state.is_shown(index));
        let index = index.ok_or(ShelfError::Unknown)?;
        let info = disk::info_of(&self.0.dir, index, state.files.get(&publication));
        drop(state);
        let files = Document::read(&info.path).unwrap_or_default().files;
        Ok((info, files.into_iter().map(|file| file.part).collect()))
    }

    /// Opens a file of a recording, by its place from 1.
    ///
    /// # Errors
    ///
    /// [`ShelfError`].
    pub fn open_file(&self, name: &str, number: usize) -> Result<Opened, ShelfError> {
        let publication = parse(name).ok_or(ShelfError::Unknown)?;
        let state = self.0.lock();
        let index = state.journals.get(&publication).ok_or(ShelfError::Unknown)?;
        let told = state.files.get(&publication).ok_or(ShelfError::NoFile)?;
        let file = number.checked_sub(1).and_then(|at| told.files.get(at));
        let name = file.ok_or(ShelfError::NoFile)?.name.clone();
        let path = self.0.path(&index.head).with_file_name(&name);
        drop(state);
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(ShelfError::NoFile);
            }
            other => other?,
        };
        let len = file.metadata()?.len();
        Ok(Opened { name, file, len })
    }

    /// Deletes a recording that has ended, with its files. Its relay is not asked for it again.
    ///
    /// # Errors
    ///
    /// [`ShelfError`].
    pub fn delete(&self, name: &str) -> Result<(), ShelfError> {
        let publication = parse(name).ok_or(ShelfError::Unknown)?;
        let mut state = self.0.lock();
        let index = state.journals.get(&publication).filter(|index| state.is_shown(index));
        let index = index.ok_or(ShelfError::Unknown)?;
        if index.ended().is_none() {
            return Err(ShelfError::OnAir);
        }
        let (feed, path) = (index.head.feed.clone(), self.0.path(&index.head));
        state.files.remove(&publication);
        state.doomed.insert(publication);
        state.empty(publication, None);
        drop(state);
        self.0.work.notify_all();
        // Who makes files of it does so once more, when it has stopped.
        Document::remove(&path);
        info!(%feed, %publication, "the recording was deleted");
        Ok(())
    }
}

impl Document {
    /// Removes the files of a recording, and the document.
    pub(super) fn remove(journal: &std::path::Path) {
        for file in Self::read(journal).unwrap_or_default().files {
            let _ = fs::remove_file(journal.with_file_name(&file.name));
        }
        let _ = fs::remove_file(Self::path(journal));
    }
}

/// A publication's name, as lists have it.
fn parse(name: &str) -> Option<PublicationId> {
    let digits = name.as_bytes();
    let mut publication = [0; 16];
    if digits.len() != 2 * publication.len() {
        return None;
    }
    for (byte, digits) in publication.iter_mut().zip(digits.chunks(2)) {
        let digit = |digit: u8| char::from(digit).to_digit(16);
        *byte = (digit(digits[0])? << 4 | digit(digits[1])?) as u8;
    }
    Some(PublicationId(publication))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_digits() {
        assert_eq!(parse(&"0a".repeat(16)), Some(PublicationId([10; 16])));
        for bad in ["", "../../etc/passwd", &"0a".repeat(15), &"0a".repeat(17), &"0g".repeat(16)] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
