//! The paths that all kinds take name none of them: what a kind has of its own is in its rules. This reads
//! the sources of the server.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use api::kinds::{self, Kind};

/// What is about certain kinds by its nature: plugins of admission, what authorisation asks, subresources that
/// act, what nodes measure, what a fresh cluster holds.
const ROOMS: &[&str] = &["admission", "auth", "subresource", "metrics", "bootstrap.rs"];

/// The grammar of paths has one plural in it, whatever is served.
const GRAMMAR: (&str, &str) = ("path.rs", "namespaces");

#[test]
fn no_kind_is_named_where_all_kinds_pass() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let metrics = kinds::metrics();
    let served = kinds::all().iter().map(|kind| &**kind).chain(&metrics);
    let names: HashSet<&str> = served.flat_map(|kind: &Kind| [&*kind.kind, &*kind.plural]).collect();
    let files = paths(&source);
    assert!(files.len() > 20, "the server has many files: {files:?}");
    let mut named = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(source.join(&file)).expect("readable");
        let found = product(&text).flat_map(literals).filter(|literal| names.contains(literal));
        named.extend(found.map(|name| (file.display().to_string(), name.to_owned())));
    }
    named.retain(|(file, name)| (file.as_str(), name.as_str()) != GRAMMAR);
    assert_eq!(named, [], "(file, kind)");
}

#[test]
fn a_name_between_quotes_is_found() {
    let line = r#"if resource.kind == "Pod" && group == "" {"#;
    assert_eq!(product(line).flat_map(literals).collect::<Vec<_>>(), ["Pod", ""]);
    assert_eq!(product("// a \"Pod\"\n#[cfg(test)]\nmod tests {\n\"Pod\"").flat_map(literals).count(), 0);
}

/// The files of the generic paths.
fn paths(source: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(source.join(&folder)).expect("a folder") {
            let entry = entry.expect("an entry");
            let path = folder.join(entry.file_name());
            if ROOMS.iter().any(|room| path.starts_with(room)) {
                continue;
            }
            if entry.path().is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found
}

/// The lines of a file without comments and without its tests.
fn product(text: &str) -> impl Iterator<Item = &str> {
    let end = text.find("\n#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    text[..end].lines().filter(|line| !line.trim_start().starts_with("//"))
}

fn literals(line: &str) -> impl Iterator<Item = &str> {
    line.split('"').skip(1).step_by(2)
}
