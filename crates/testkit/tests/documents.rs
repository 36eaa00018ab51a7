//! The documents say what is there.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Every file below `directory` whose name ends with `extension`.
fn files(directory: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a readable directory") {
        let path = entry.expect("a directory entry").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && !["target", "node_modules"].contains(&&*name) && !name.starts_with('.')
        {
            files(&path, extension, found);
        } else if name.ends_with(extension) {
            found.push(path);
        }
    }
}

/// The names of all test functions.
fn tests() -> BTreeSet<String> {
    let mut sources = Vec::new();
    files(&root().join("crates"), ".rs", &mut sources);
    let mut names = BTreeSet::new();
    for source in sources {
        let text = fs::read_to_string(&source).expect("a readable source");
        for part in text.split("fn ").skip(1) {
            names.insert(part.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
        }
    }
    names
}

#[test]
fn the_table_of_rtmp_names_tests_that_exist() {
    let text = fs::read_to_string(root().join("docs/rtmp-support.md")).expect("the document");
    let tests = tests();
    let (mut rows, mut missing) = (0, Vec::new());
    for line in text.lines().filter(|line| line.starts_with('|')) {
        let cells: Vec<_> = line.trim_matches('|').split(" | ").collect();
        let Some(cell) = cells.last().filter(|_| cells.len() == 3) else { continue };
        let named: Vec<_> = cell.split('`').skip(1).step_by(2).collect();
        rows += usize::from(!named.is_empty());
        missing.extend(named.into_iter().filter(|name| !tests.contains(*name)));
    }
    assert!(
        missing.is_empty(),
        "docs/rtmp-support.md names tests that are not there: {missing:#?}"
    );
    assert!(rows > 50, "only {rows} rows name a test: was the table's form changed?");
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut documents = Vec::new();
    files(&root(), ".md", &mut documents);
    let mut broken = Vec::new();
    for document in &documents {
        let text = fs::read_to_string(document).expect("a readable document");
        for link in text.split("](").skip(1) {
            let Some((target, _)) = link.split_once(')') else { continue };
            let target = target.split('#').next().unwrap_or_default();
            let is_elsewhere = target.is_empty() || target.contains("://");
            let directory = document.parent().expect("a file is in a directory");
            if !is_elsewhere && !directory.join(target).exists() {
                broken.push(format!("{}: {target}", document.display()));
            }
        }
    }
    assert!(documents.len() > 5 && broken.is_empty(), "{broken:#?}");
}
