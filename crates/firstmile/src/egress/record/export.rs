//! A file made of a journal: the tags in order, up to the first hole that may still be filled.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use media::Codec;

use super::film::{Film, FilmError, Split};
use super::flv;
use super::scan::JournalError;
use super::walk::{Step, Walk};

/// What an export has written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exported {
    /// The files; more than one where the codec or the pictures' size changed.
    pub files: Vec<PathBuf>,
    /// Tags in them; of an MP4, frames.
    pub tags: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Milliseconds from the first to the last tag.
    pub length_ms: u64,
    /// Holes, first and last number included, that were passed over.
    pub holes: u64,
    /// The hole that may still be filled, and ends the last file before its time.
    pub open_hole: Option<(u64, u64)>,
}

/// Why there is no file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The journal cannot be read.
    #[error("cannot read the recording")]
    Journal(#[from] JournalError),
    /// The file cannot be written.
    #[error("cannot write the file")]
    Write(#[source] io::Error),
    /// The codec has no place in the file.
    #[error("MP4 has no place for {0}; export it to a file whose name ends with .flv")]
    Codec(Codec),
    /// An MP4 of it would be a heap of small files.
    #[error(
        "its configuration changes too often for MP4; export it to a file whose name ends with .flv"
    )]
    Restless,
    /// There is neither video nor audio.
    #[error("there is no frame in it yet")]
    Empty,
}

impl From<FilmError> for ExportError {
    fn from(error: FilmError) -> Self {
        match error {
            FilmError::Codec(codec) => Self::Codec(codec),
            FilmError::Restless => Self::Restless,
            FilmError::Write(error) => Self::Write(error),
        }
    }
}

/// Writes the file of a journal, which may be one that is being written: an MP4 if its name ends
/// so, or else an FLV. Older files are replaced once the new ones are whole.
///
/// # Errors
///
/// [`ExportError`]; nothing is left behind then.
pub fn export(journal: &Path, file: &Path) -> Result<Exported, ExportError> {
    let extension = file.extension().map(|extension| extension.to_ascii_lowercase());
    let is_mp4 = extension.is_some_and(|extension| extension == "mp4" || extension == "m4v");
    if is_mp4 { export_mp4(journal, file) } else { flv::export(journal, file) }
}

fn export_mp4(journal: &Path, file: &Path) -> Result<Exported, ExportError> {
    let mut walk = Walk::of(journal)?;
    let place = {
        let file = file.to_owned();
        Box::new(move |part, _| File::create(unfinished(&numbered(&file, part))))
    };
    let mut film = Film::new(walk.head().started, Split::default(), place);
    let mut exported = Exported::default();
    let written = fill(&mut walk, &mut film, &mut exported);
    let begun = film.parts().count() as u32;
    let parts = match written.and_then(|()| Ok(film.finish()?)) {
        Ok(parts) => parts,
        Err(error) => {
            for part in 1..=begun + 1 {
                let _ = fs::remove_file(unfinished(&numbered(file, part)));
            }
            return Err(error);
        }
    };
    for (number, part) in (1..).zip(&parts) {
        let path = numbered(file, number);
        fs::rename(unfinished(&path), &path).map_err(ExportError::Write)?;
        exported.files.push(path);
        exported.tags += part.frames;
        exported.bytes += part.bytes;
        exported.length_ms = part.offset_ms + part.length_ms;
    }
    if exported.files.is_empty() { Err(ExportError::Empty) } else { Ok(exported) }
}

fn fill(walk: &mut Walk, film: &mut Film, exported: &mut Exported) -> Result<(), ExportError> {
    loop {
        match walk.step()? {
            Step::Tag(head, tag) => film.tag(&head, &tag, walk.has_keyframes())?,
            Step::Hole(tags) => {
                exported.holes += 1;
                film.hole(tags);
            }
            Step::End(open_hole) => {
                exported.open_hole = open_hole;
                return Ok(());
            }
        }
    }
}

/// The file of a part: `take.mp4`, `take-2.mp4`.
fn numbered(file: &Path, part: u32) -> PathBuf {
    if part == 1 {
        return file.to_owned();
    }
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let extension = file.extension().unwrap_or_default().to_string_lossy();
    file.with_file_name(format!("{stem}-{part}.{extension}"))
}

/// The name under which a file is written.
pub(super) fn unfinished(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".part");
    name.into()
}
