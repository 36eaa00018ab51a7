//! Runs what the fuzzers found worth keeping through the fuzz targets, without a fuzzer.

#[expect(unreachable_pub, reason = "a library of its own for the fuzzer")]
#[path = "../../../fuzz/src/lib.rs"]
mod targets;

use std::fs;
use std::path::Path;

#[test]
fn every_corpus_holds() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    for (name, target) in targets::ALL {
        let corpus = fs::read_dir(corpora.join(name)).unwrap_or_else(|error| {
            panic!("the corpus of {name} cannot be read: {error}");
        });
        let mut inputs = 0;
        for entry in corpus {
            let path = entry.expect("a directory entry").path();
            let bytes = fs::read(&path).expect("a readable file");
            // The name of the file is all that is needed to run it again.
            println!("{}", path.display());
            target(&bytes);
            inputs += 1;
        }
        assert!(inputs > 0, "the corpus of {name} is empty");
    }
}
