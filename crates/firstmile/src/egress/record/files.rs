//! Which files a recording has become: a small document beside its journal,
//! `DIR/FEED/PUBLICATION.json`.
//!
//! A file is only named there before it is made, so that every file has an owner; and a journal is
//! only emptied when its document says that the files are whole.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::disk::hex;
use super::film::Part;
use super::format::FileHead;
use crate::config::record::NamePattern;
use crate::platform;
use crate::status::RecordingFile;

/// What the documents' names end with.
pub(super) const EXTENSION: &str = "json";
/// Most bytes of a document: as many parts and marks as a film makes, the longest names included.
const MAX_DOCUMENT: u64 = 48 << 20;
/// Files of one recording; splitting at the shortest length, a week of it.
const MAX_FILES: usize = 1 << 16;

/// What a recording has become.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Document {
    /// Whether the files have all that the recording will ever have.
    pub(super) complete: bool,
    /// Tags of the journal when it was read last.
    pub(super) tags: u64,
    /// Bytes of the journal when it was read last to an open hole.
    #[serde(default)]
    pub(super) journal_bytes: u64,
    /// Tags of further tracks, and frames without a header, which only the journal has.
    #[serde(default)]
    pub(super) left_out: u64,
    /// The files, in order.
    pub(super) files: Vec<Filed>,
}

/// One of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Filed {
    /// Its name in the feed's directory.
    pub(super) name: String,
    /// What is in it.
    #[serde(flatten)]
    pub(super) part: Part,
}

impl Document {
    /// Where the document of a journal is.
    pub(super) fn path(journal: &Path) -> PathBuf {
        journal.with_extension(EXTENSION)
    }

    /// Reads the document of a journal; `None` if there is none that makes sense.
    pub(super) fn read(journal: &Path) -> Option<Self> {
        let file = fs::File::open(Self::path(journal)).ok()?;
        let mut text = Vec::new();
        file.take(MAX_DOCUMENT).read_to_end(&mut text).ok()?;
        let document: Self = serde_json::from_slice(&text).ok()?;
        let is_sane = document.files.len() <= MAX_FILES
            && document.files.iter().all(|file| is_name(&file.name));
        is_sane.then_some(document)
    }

    /// Writes the document of a journal; it is safe on disk then.
    pub(super) fn write(&self, journal: &Path) -> io::Result<()> {
        let path = Self::path(journal);
        replace(&path, &serde_json::to_vec(self)?)
    }

    /// What is told of it, without the marks.
    pub(super) fn told(&self) -> Told {
        let file = |file: &Filed| RecordingFile {
            name: file.name.clone(),
            started_ms: file.part.started_ms,
            offset_ms: file.part.offset_ms,
            length_ms: file.part.length_ms,
            bytes: file.part.bytes,
            holes: file.part.marks.len() as u64,
        };
        Told {
            complete: self.complete,
            tags: self.tags,
            journal_bytes: self.journal_bytes,
            left_out: self.left_out,
            files: self.files.iter().map(file).collect(),
        }
    }
}

/// What the recorder remembers of a document.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    pub(super) complete: bool,
    pub(super) tags: u64,
    pub(super) journal_bytes: u64,
    pub(super) left_out: u64,
    pub(super) files: Vec<RecordingFile>,
}

/// A name, without its extension, that no other file has.
pub(super) fn free_name(
    pattern: &NamePattern,
    head: &FileHead,
    journal: &Path,
    (part, started): (u32, i64),
    ours: &[String],
    taken: &[Filed],
) -> String {
    let id = hex(head.publication);
    let name = pattern.fill(head.feed.as_str(), started, part, &id);
    let is_free = |name: &str| {
        [".mp4", ".flv"].iter().all(|extension| {
            let file = format!("{name}{extension}");
            let is_new = taken.iter().all(|taken| taken.name != file);
            is_new && (ours.contains(&file) || !journal.with_file_name(&file).exists())
        })
    };
    if is_free(&name) {
        return name;
    }
    let named = format!("{name}-{}", &id[..8]);
    if is_free(&named) { named } else { format!("{name}-{id}-{part}") }
}

/// Whether a name stays in its directory and is that of a file of ours.
pub(super) fn is_name(name: &str) -> bool {
    let is_safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    name.len() <= 255
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(is_safe)
        && (name.ends_with(".mp4") || name.ends_with(".flv"))
}

/// Puts a file with this content in the place of another; it is safe on disk then.
pub(super) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let attempt = || {
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = platform::private_file().write(true).create_new(true).open(&new)?;
        file.write_all(content)?;
        file.sync_all()?;
        drop(file);
        fs::rename(&new, path)?;
        platform::sync_dir(path.parent().unwrap_or(Path::new(".")))
    };
    attempt().inspect_err(|_| {
        let _ = fs::remove_file(&new);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_come_back_and_name_only_files_of_ours() {
        let dir = tempfile::tempdir().unwrap();
        let journal = dir.path().join("aa.journal");
        assert_eq!(Document::read(&journal), None);
        let named = |name: &str| Document {
            complete: true,
            tags: 7,
            files: vec![Filed { name: name.into(), ..Filed::default() }],
            ..Document::default()
        };
        let document = named("camera-2026-05-02-140311-1.mp4");
        document.write(&journal).unwrap();
        assert_eq!(Document::read(&journal), Some(document));
        for bad in ["../a.mp4", "/a.mp4", "a/b.mp4", "a.journal", ".mp4", "a\\b.mp4", "C:a.mp4", ""]
        {
            named(bad).write(&journal).unwrap();
            assert_eq!(Document::read(&journal), None, "{bad}");
        }
        fs::write(Document::path(&journal), b"{").unwrap();
        assert_eq!(Document::read(&journal), None);
    }
}
