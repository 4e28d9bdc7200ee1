//! The longest files and functions: a ratchet to look at, not a police.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::host::root;

/// Prints the ten longest of each, and the length that nine functions of ten stay under.
pub(crate) fn print() -> Result<()> {
    let mut files = Vec::new();
    let mut functions = Vec::new();
    for file in sources(&root())? {
        let text = std::fs::read_to_string(&file)?;
        let name = file.strip_prefix(root()).unwrap_or(&file).display().to_string();
        files.push((text.lines().count(), name.clone()));
        functions.extend(
            function_lengths(&text).into_iter().map(|(length, line)| (length, format!("{name}:{line}"))),
        );
    }
    functions.sort();
    let tenth = functions.get(functions.len() * 9 / 10).map_or(0, |f| f.0);
    println!("{} functions; nine of ten have at most {tenth} lines", functions.len());
    for list in [&mut files, &mut functions] {
        list.sort();
        list.iter().rev().take(10).for_each(|(length, name)| println!("{length:6}  {name}"));
        println!();
    }
    Ok(())
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
    Ok(found)
}

/// Lengths and first lines of functions, by the indentation rustfmt guarantees.
fn function_lengths(text: &str) -> Vec<(usize, usize)> {
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
}
