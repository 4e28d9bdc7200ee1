//! `docs/fields.md`: every field of a Pod from the schema that is compiled in, with what becomes of it and the
//! tests that show it. The table is `xtask/fields.txt`; a field without a row, a row without a field and a test
//! that is not there are errors.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::conformance::is_test;
use crate::host::root;

const TABLE: &str = "xtask/fields.txt";
const PAGE: &str = "docs/fields.md";
const SCHEMA: &str = "crates/api/openapi/definitions.json";
const CORE: &str = "io.k8s.api.core.v1.";
/// Where the fields of a Pod begin.
const ROOTS: [&str; 2] = ["PodSpec", "PodStatus"];
/// Tests that run real containers.
const REAL: &str = "monopod/tests/e2e/";

const HEAD: &str = "# The fields of a Pod

<!-- Written by `cargo xtask fields` from xtask/fields.txt and the schema; change the table. -->

Every field of a Pod's spec and status in Kubernetes 1.36, down to the last source of a volume, and what becomes of it:

- **works**: as upstream has it;
- **refused**: the write, or the node, says no, by the field's name;
- **warned**: stored, and the answer has a `Warning` that it has no effect here.

The tests that show it are named; those in **bold** do so on real containers.
";

/// What becomes of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    state: &'static str,
    tests: Vec<String>,
    note: String,
}

/// By type and field; the field `*` stands for all of its type that have no row of their own.
type Rows = BTreeMap<(String, String), Row>;
/// Fields by type.
type Fields = BTreeMap<String, BTreeSet<String>>;

/// Writes the page.
pub(crate) fn write() -> Result<()> {
    std::fs::write(root().join(PAGE), page()?).context(PAGE)
}

/// Fails when the page says something else than the table, or the table something else than the schema.
pub(crate) fn check() -> Result<()> {
    let there = std::fs::read_to_string(root().join(PAGE)).context(PAGE)?;
    ensure!(there == page()?, "{PAGE} is not what {TABLE} says: run `cargo xtask fields`");
    Ok(())
}

fn page() -> Result<String> {
    let rows = parse(&std::fs::read_to_string(root().join(TABLE)).context(TABLE)?)?;
    let schema: Value = serde_json::from_slice(&std::fs::read(root().join(SCHEMA)).context(SCHEMA)?)?;
    let source = |file: &str| std::fs::read_to_string(root().join("crates").join(file)).ok();
    let tests: BTreeSet<&String> = rows.values().flat_map(|row| &row.tests).collect();
    let lost: Vec<&str> =
        tests.into_iter().filter(|test| !is_test(test, source)).map(String::as_str).collect();
    ensure!(lost.is_empty(), "{TABLE} names tests that are not there:\n{}", lost.join("\n"));
    render(&fields(&schema), &rows)
}

/// All fields that are reached from the roots.
fn fields(schema: &Value) -> Fields {
    let mut found = Fields::new();
    let mut open: Vec<String> = ROOTS.map(str::to_owned).to_vec();
    while let Some(name) = open.pop() {
        let Some(properties) = schema[format!("{CORE}{name}")]["properties"].as_object() else { continue };
        if found.contains_key(&name) {
            continue;
        }
        properties.values().for_each(|property| referenced(property, &mut open));
        found.insert(name, properties.keys().cloned().collect());
    }
    found
}

fn referenced(property: &Value, found: &mut Vec<String>) {
    let named = property["$ref"].as_str().and_then(|place| place.rsplit('/').next());
    found.extend(named.and_then(|name| name.strip_prefix(CORE)).map(str::to_owned));
    for part in ["items", "additionalProperties"] {
        if property[part].is_object() {
            referenced(&property[part], found);
        }
    }
    property["allOf"].as_array().into_iter().flatten().for_each(|part| referenced(part, found));
}

/// `let name = tests`, `# Type`, then `state field … = names // note`; a line that begins with `//` says why.
fn parse(text: &str) -> Result<Rows> {
    let (mut rows, mut names, mut of) = (Rows::new(), BTreeMap::<&str, Vec<String>>::new(), "");
    for (number, line) in
        (1..).zip(text.lines()).filter(|(_, line)| !line.is_empty() && !line.starts_with("//"))
    {
        let place = || format!("{TABLE}:{number}");
        if let Some(name) = line.strip_prefix("# ") {
            of = name;
            continue;
        }
        let (left, right) = line.split_once(" = ").with_context(place)?;
        let (right, note) = right.split_once(" // ").unwrap_or((right, ""));
        if let Some(name) = left.strip_prefix("let ") {
            names.insert(name, right.split("; ").map(str::to_owned).collect());
            continue;
        }
        let mut words = left.split(' ');
        let state = match words.next() {
            Some("works") => "works",
            Some("refused") => "refused",
            Some("warned") => "warned",
            other => bail!("{}: what is {other:?}?", place()),
        };
        let mut tests = Vec::new();
        for name in right.split(' ') {
            tests.extend(
                names.get(name).with_context(|| format!("{}: no tests named {name}", place()))?.clone(),
            );
        }
        let row = Row { state, tests, note: note.to_owned() };
        for field in words {
            let again = rows.insert((of.to_owned(), field.to_owned()), row.clone());
            ensure!(again.is_none(), "{}: a second row for {of}.{field}", place());
        }
    }
    Ok(rows)
}

fn render(fields: &Fields, rows: &Rows) -> Result<String> {
    let mut wrong = Vec::new();
    let mut used = BTreeSet::new();
    let (mut body, mut count) = (String::new(), BTreeMap::<&str, usize>::new());
    for (name, fields) in fields {
        let _ = write!(body, "\n## {name}\n\n| field | | shown by |\n| --- | --- | --- |\n");
        for field in fields {
            let keys = [(name.clone(), field.clone()), (name.clone(), "*".to_owned())];
            let Some((key, row)) = keys.iter().find_map(|key| Some((key, rows.get(key)?))) else {
                wrong.push(format!("no row for {name}.{field}"));
                continue;
            };
            used.insert(key.clone());
            *count.entry(row.state).or_default() += 1;
            let _ = writeln!(
                body,
                "| {field} | {} | {} |",
                state(row),
                row.tests.iter().map(shown).collect::<Vec<_>>().join("<br>")
            );
        }
    }
    let unused = rows.keys().filter(|key| !used.contains(*key));
    wrong.extend(unused.map(|(name, field)| format!("no field for the row {name}.{field}")));
    ensure!(wrong.is_empty(), "{TABLE} and the schema differ:\n{}", wrong.join("\n"));
    let counts: Vec<String> = count.iter().map(|(state, number)| format!("{number} {state}")).collect();
    Ok(format!("{HEAD}\nOf {} fields: {}.\n{body}", count.values().sum::<usize>(), counts.join(", ")))
}

fn state(row: &Row) -> String {
    if row.note.is_empty() { row.state.to_owned() } else { format!("{}: {}", row.state, row.note) }
}

fn shown(test: &String) -> String {
    if test.starts_with(REAL) { format!("**`{test}`**") } else { format!("`{test}`") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_page_is_the_table_and_every_field_has_a_row() {
        check().expect("the page is true");
    }

    #[test]
    fn a_field_without_a_row_and_a_row_without_a_field_are_named() {
        let schema = json!({
            "io.k8s.api.core.v1.PodSpec": {"properties": {
                "a": {}, "b": {"items": {"$ref": "#/definitions/io.k8s.api.core.v1.Part"}}}},
            "io.k8s.api.core.v1.Part": {"properties": {"c": {}, "d": {}}},
            "io.k8s.api.core.v1.Other": {"properties": {"e": {}}},
        });
        let rendered = |table: &str| render(&fields(&schema), &parse(table).expect("a table"));
        let table = "let t = monopod/tests/e2e/a.rs: b\n// why\n# PodSpec\nworks a b = t\n# Part\nrefused * = t // by name\n";
        let page = rendered(table).expect("whole");
        assert!(page.contains("Of 4 fields: 2 refused, 2 works."), "{page}");
        assert!(page.contains("| c | refused: by name | **`monopod/tests/e2e/a.rs: b`** |"), "{page}");
        let missing = rendered(&table.replace("works a b", "works a")).expect_err("b").to_string();
        assert!(missing.ends_with("no row for PodSpec.b"), "{missing}");
        let lost = rendered(&table.replace("works a b", "works a b c")).expect_err("c").to_string();
        assert!(lost.ends_with("no field for the row PodSpec.c"), "{lost}");
        assert!(parse("# A\nworks a = t\n").is_err() && parse("# A\nmaybe a = t\n").is_err());
    }
}
