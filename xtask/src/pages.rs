//! What the documents say of the code: `crate/src/file.rs: name, name` must be there.

use anyhow::{Result, ensure};

use crate::host::root;

/// The documents that name places in the code.
const PAGES: [&str; 8] = [
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "bench/README.md",
    "docs/adding-a-resource.md",
    "docs/adding-a-controller.md",
    "docs/adding-a-syscall.md",
    "docs/limits.md",
];

/// Fails with a line for each place that is not there any more.
pub(crate) fn check() -> Result<()> {
    let mut wrong = Vec::new();
    for page in PAGES {
        let text = std::fs::read_to_string(root().join(page))?;
        let source = |file: &str| std::fs::read_to_string(root().join("crates").join(file)).ok();
        wrong.extend(missing(&text, source).into_iter().map(|place| format!("{page}: {place}")));
    }
    ensure!(wrong.is_empty(), "documents name what the code does not have:\n{}", wrong.join("\n"));
    Ok(())
}

fn missing(page: &str, source: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let mut wrong = Vec::new();
    for place in page.split('`').skip(1).step_by(2).filter(|place| place.contains(".rs")) {
        let (file, names) = place.split_once(':').unwrap_or((place, ""));
        if !file.contains('/') || file.contains('<') {
            continue;
        }
        let Some(code) = source(file) else {
            wrong.push(format!("no file {file}"));
            continue;
        };
        let names = names.split([',', ' ', '\n']).filter(|name| !name.is_empty());
        let lost = names.filter(|name| !defines(&code, name));
        wrong.extend(lost.map(|name| format!("no {name} in {file}")));
    }
    wrong
}

fn defines(code: &str, name: &str) -> bool {
    let after = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_');
    ["fn ", "struct ", "trait ", "enum ", "const ", "static ", "mod "].iter().any(|word| {
        let wanted = format!("{word}{name}");
        code.match_indices(&wanted).any(|(at, _)| after(&code[at + wanted.len()..]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_the_documents_name_is_in_the_code() {
        check().expect("the documents are true");
    }

    #[test]
    fn a_lost_file_and_a_lost_name_are_named() {
        let source = |file: &str| (file == "a/src/b.rs").then(|| "pub fn walk() {}".to_owned());
        let page = "`a/src/b.rs: walk`, `a/src/b.rs: wal, run`, `a/src/c.rs`, `b.rs`";
        let wrong = ["no wal in a/src/b.rs", "no run in a/src/b.rs", "no file a/src/c.rs"];
        assert_eq!(missing(page, source), wrong);
    }
}
