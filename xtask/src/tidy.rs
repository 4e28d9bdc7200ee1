//! The longest files and functions, and how sources are read to be measured.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::host::root;

/// Prints the ten longest of each, and the length that nine functions of ten stay under.
pub(crate) fn print() -> Result<()> {
    let mut files = Vec::new();
    let mut functions = Vec::new();
    for source in read_all(&root())? {
        let functions_of = function_lengths(&source.text).into_iter();
        functions.extend(functions_of.map(|(length, line)| (length, format!("{}:{line}", source.path))));
        files.push((source.text.lines().count(), source.path));
    }
    println!("{} functions; nine of ten have at most {} lines", functions.len(), nine_of_ten(&functions));
    for list in [&mut files, &mut functions] {
        list.sort();
        list.iter().rev().take(10).for_each(|(length, name)| println!("{length:6}  {name}"));
        println!();
    }
    Ok(())
}

/// A Rust file, by its path from the root of the repository.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) path: String,
    pub(crate) text: String,
}

/// All Rust files of the repository.
pub(crate) fn read_all(dir: &Path) -> Result<Vec<Source>> {
    let read = |file: PathBuf| {
        let path = file.strip_prefix(dir).unwrap_or(&file).display().to_string();
        Ok(Source { path, text: std::fs::read_to_string(&file)? })
    };
    sources(dir)?.into_iter().map(read).collect()
}

fn sources(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut queue = vec![dir.to_path_buf()];
    while let Some(next) = queue.pop() {
        for entry in std::fs::read_dir(next)?.flatten() {
            let path = entry.path();
            let name = entry.file_name();
            if path.is_dir() && name != "target" && name != ".git" {
                queue.push(path);
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                found.push(path);
            }
        }
    }
    // The order in which a file system lists is its own; what is printed should not change with it.
    found.sort();
    Ok(found)
}

/// The length that nine functions of ten do not exceed.
pub(crate) fn nine_of_ten<T>(functions: &[(usize, T)]) -> usize {
    let mut lengths: Vec<usize> = functions.iter().map(|(length, _)| *length).collect();
    lengths.sort_unstable();
    lengths.get(lengths.len() * 9 / 10).copied().unwrap_or(0)
}

/// Lengths and first lines of functions, by the indentation rustfmt guarantees.
pub(crate) fn function_lengths(text: &str) -> Vec<(usize, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let is_function = line.contains("fn ") && line.trim_start().starts_with(['f', 'p', 'a', 'u', 'c']);
        if !is_function || line.trim_end().ends_with([';', '}']) || line.trim_start().starts_with("//") {
            continue;
        }
        // A trait's method may have no body: its signature ends with a semicolon.
        let signature = lines[at..].iter().position(|l| l.trim_end().ends_with(['{', ';', '}']));
        if signature.is_none_or(|end| !lines[at + end].trim_end().ends_with('{')) {
            continue;
        }
        let end = lines[at..].iter().position(|l| l.len() == indent + 1 && l.ends_with('}'));
        found.extend(end.map(|length| (length + 1, at + 1)));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_reaches_to_its_brace() {
        assert_eq!(
            function_lengths("trait A {\n    fn a(\n    ) -> B;\n\n    fn b() {\n    }\n}\n"),
            [(2, 5)]
        );
        assert_eq!(function_lengths("fn a() {\n    b();\n}\n\nfn c() {}\n"), [(3, 1)]);
    }

    #[test]
    fn one_function_of_ten_may_be_longer() {
        let lengths = |lengths: &[usize]| lengths.iter().map(|length| (*length, ())).collect::<Vec<_>>();
        assert_eq!(nine_of_ten(&lengths(&[90, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10])), 10);
        assert_eq!(nine_of_ten(&lengths(&[])), 0);
    }
}
