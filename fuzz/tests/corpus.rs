//! Replays the kept inputs: those that lead into a parser, and those that once broke one.

use std::fs;
use std::path::Path;

#[test]
fn every_kept_input_is_stood() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (name, target) in fuzz::TARGETS {
        let mut inputs = 0;
        for entry in
            fs::read_dir(corpus.join(name)).unwrap_or_else(|error| panic!("corpus of {name}: {error}"))
        {
            let path = entry.expect("the folder is read").path();
            eprintln!("{}", path.display());
            target(&fs::read(&path).expect("the input is read"));
            inputs += 1;
        }
        assert!(inputs > 0, "{name} has no input to begin with");
        target(b"");
    }
}

#[test]
fn every_folder_belongs_to_a_target() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for entry in fs::read_dir(corpus).expect("the corpus is there") {
        let name = entry.expect("the folder is read").file_name();
        let name = name.to_str().expect("its name is text");
        assert!(fuzz::target(name).is_some(), "corpus/{name} belongs to no target");
    }
}
