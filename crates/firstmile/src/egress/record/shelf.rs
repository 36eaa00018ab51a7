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
    use std::path::Path;
    use std::time::SystemTime;

    use bytes::Bytes;
    use media::{Position, Tag, Track};

    use super::super::{FeedRecorder, Source};
    use super::*;

    const PUBLICATION: PublicationId = PublicationId([7; 16]);

    fn open(dir: &Path) -> (Recorder, FeedRecorder) {
        let recorder = Recorder::open(dir, 0);
        recorder.set_recorded([("camera".parse().unwrap(), SystemTime::UNIX_EPOCH)]);
        let camera = recorder.feed("camera").unwrap();
        (recorder, camera)
    }

    fn append(camera: &FeedRecorder, number: u64) {
        let tag = Tag::new(Track::Audio, 0, Bytes::from_static(&[0xaf, 1, 2]));
        let previous = number.checked_sub(1);
        let position = Position { publication: PUBLICATION, number, previous };
        camera.append(position, &tag, SystemTime::now());
    }

    #[test]
    fn what_was_deleted_stays_so_and_is_not_asked_for_again() {
        let dir = tempfile::tempdir().unwrap();
        let relay = Source::Relay("berlin".into());
        let name = "07".repeat(16);
        let (recorder, camera) = open(dir.path());
        camera.begin(PUBLICATION, SystemTime::now(), relay.clone());
        (0..5).for_each(|number| append(&camera, number));
        assert!(matches!(recorder.delete(&name), Err(ShelfError::OnAir)));
        camera.ended(PUBLICATION, 9);
        // A file of it, and its document.
        let journal = recorder.list()[0].path.clone();
        let file = super::super::files::Filed { name: "a.mp4".into(), ..Default::default() };
        let path = journal.with_file_name("a.mp4");
        recorder.close();
        fs::write(&path, b"film").unwrap();
        Document { files: vec![file], ..Document::default() }.write(&journal).unwrap();

        let (recorder, camera) = open(dir.path());
        assert_eq!(recorder.list()[0].missing, 4);
        assert_eq!(recorder.open_file(&name, 1).unwrap().len, 4);
        assert!(matches!(recorder.open_file(&name, 2), Err(ShelfError::NoFile)));
        recorder.delete(&name).unwrap();
        assert!(matches!(recorder.delete(&name), Err(ShelfError::Unknown)));
        assert!(recorder.list().is_empty() && !path.exists());
        recorder.close();

        // Its relay still has it.
        let (recorder, again) = open(dir.path());
        again.begin(PUBLICATION, SystemTime::now(), relay);
        (0..9).for_each(|number| append(&again, number));
        assert_eq!(again.wanted(PUBLICATION, 9), []);
        assert!(recorder.list().is_empty());
        drop(camera);
        recorder.close();
        assert!(journal.metadata().unwrap().len() < 300);
    }

    #[test]
    fn names_are_digits() {
        assert_eq!(parse(&"0a".repeat(16)), Some(PublicationId([10; 16])));
        for bad in ["", "../../etc/passwd", &"0a".repeat(15), &"0a".repeat(17), &"0g".repeat(16)] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
