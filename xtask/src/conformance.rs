//! `docs/conformance.md`: upstream's conformance tests by name, each with the tests of ours that show the
//! same. The table is `xtask/conformance.txt`; a test that it names must be there.

use std::fmt::Write as _;

use anyhow::{Context, Result, bail, ensure};

use crate::host::root;

const TABLE: &str = "xtask/conformance.txt";
const PAGE: &str = "docs/conformance.md";

const HEAD: &str = "# Conformance

<!-- Written by `cargo xtask conformance` from xtask/conformance.txt; change that. -->

Upstream's conformance tests of Kubernetes 1.36 by name, without their tags, and which tests of this repository show the
same. A test that is named here asks what upstream's asks; it may ask more, and it runs with `cargo xtask test`. *Not shown
yet* says only that: it may work. The upstream suite itself is not run here.
";

/// A part of the table: the tests of one special interest group.
#[derive(Debug, PartialEq, Eq)]
struct Section {
    title: String,
    rows: Vec<Row>,
}

#[derive(Debug, PartialEq, Eq)]
struct Row {
    name: String,
    /// `file below crates: function`.
    shown_by: Vec<String>,
}

/// Writes the page.
pub(crate) fn write() -> Result<()> {
    std::fs::write(root().join(PAGE), page()?).context(PAGE)
}

/// Fails when the page says something else than the table, or the table names what is not there.
pub(crate) fn check() -> Result<()> {
    let there = std::fs::read_to_string(root().join(PAGE)).context(PAGE)?;
    ensure!(there == page()?, "{PAGE} is not what {TABLE} says: run `cargo xtask conformance`");
    Ok(())
}

fn page() -> Result<String> {
    let sections = parse(&std::fs::read_to_string(root().join(TABLE)).context(TABLE)?)?;
    let source = |file: &str| std::fs::read_to_string(root().join("crates").join(file)).ok();
    let tests = sections.iter().flat_map(|section| &section.rows).flat_map(|row| &row.shown_by);
    let lost: Vec<&str> = tests.filter(|test| !is_test(test, source)).map(String::as_str).collect();
    ensure!(lost.is_empty(), "{TABLE} names tests that are not there:\n{}", lost.join("\n"));
    Ok(render(&sections))
}

/// `# title`, then names, each followed by the tests that show it, indented; `//` begins a comment.
fn parse(text: &str) -> Result<Vec<Section>> {
    let mut sections: Vec<Section> = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let content = line.trim();
        if content.is_empty() || content.starts_with("//") {
            continue;
        }
        if let Some(title) = content.strip_prefix("# ") {
            sections.push(Section { title: title.to_owned(), rows: Vec::new() });
            continue;
        }
        let section = sections.last_mut().with_context(|| format!("{TABLE}:{number}: no title yet"))?;
        if !line.starts_with(' ') {
            section.rows.push(Row { name: content.to_owned(), shown_by: Vec::new() });
            continue;
        }
        match section.rows.last_mut() {
            Some(row) => row.shown_by.push(content.to_owned()),
            None => bail!("{TABLE}:{number}: a test of nothing"),
        }
    }
    Ok(sections)
}

/// Whether `file: function` is a function that the test runner calls.
pub(crate) fn is_test(test: &str, source: impl Fn(&str) -> Option<String>) -> bool {
    let Some((file, name)) = test.split_once(": ") else { return false };
    let Some(code) = source(file) else { return false };
    let lines: Vec<&str> = code.lines().map(str::trim).collect();
    let calls = |line: &str| {
        let rest = line.trim_start_matches("async ").strip_prefix("fn ");
        rest.and_then(|rest| rest.strip_prefix(name)).is_some_and(|rest| rest.starts_with('('))
    };
    let Some(at) = lines.iter().position(|line| calls(line)) else { return false };
    let attributes = lines[..at].iter().rev().take_while(|line| line.starts_with("#["));
    { attributes }.any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"))
}

fn render(sections: &[Section]) -> String {
    let mut page = HEAD.to_owned();
    let count = |section: &Section| section.rows.iter().filter(|row| !row.shown_by.is_empty()).count();
    page.push_str("\n| group | tests | shown |\n| --- | --: | --: |\n");
    for section in sections {
        let _ = writeln!(page, "| {} | {} | {} |", section.title, section.rows.len(), count(section));
    }
    for section in sections {
        let _ = write!(page, "\n## {}\n\n| upstream's test | shown by |\n| --- | --- |\n", section.title);
        for row in &section.rows {
            let shown: Vec<String> = row.shown_by.iter().map(|test| format!("`{test}`")).collect();
            let shown = if shown.is_empty() { "*not shown yet*".to_owned() } else { shown.join("<br>") };
            let _ = writeln!(page, "| {} | {shown} |", row.name.replace('|', "\\|").replace('*', "\\*"));
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_the_table_and_every_test_is_there() {
        check().expect("the page is true");
    }

    #[test]
    fn names_come_with_their_tests_and_a_test_of_nothing_is_refused() {
        let sections = parse("// why\n# a\nfirst\n  x: one\n  x: two\nsecond\n").expect("a table");
        assert_eq!(sections[0].rows[0].shown_by, ["x: one", "x: two"]);
        assert!(sections[0].rows[1].shown_by.is_empty());
        assert!(parse("# a\n  x: one\n").is_err() && parse("first\n").is_err());
        let page = render(&sections);
        assert!(page.contains("| a | 2 | 1 |") && page.contains("| second | *not shown yet* |"), "{page}");
    }

    #[test]
    fn only_what_the_test_runner_calls_is_a_test() {
        let source = |file: &str| {
            let code = "#[test]\n#[ignore]\nfn one() {}\n#[tokio::test]\nasync fn two() {}\nfn three() {}\n";
            (file == "a.rs").then(|| code.to_owned())
        };
        assert!(is_test("a.rs: one", source) && is_test("a.rs: two", source));
        for wrong in ["a.rs: three", "a.rs: on", "b.rs: one", "one"] {
            assert!(!is_test(wrong, source), "{wrong}");
        }
    }
}
