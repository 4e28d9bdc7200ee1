//! The pages that are made from the table of limits. `cargo xtask limits` writes them; otherwise this test
//! fails while they say something else than the table.

use std::fmt::Write as _;
use std::path::PathBuf;

use api::limits::{Found, GENERAL, LIMITS, Limit, PAGE, Shown};

/// Set by `cargo xtask limits`.
const WRITE: &str = "MONOPOD_WRITE_PAGES";
const README_SECTION: &str = "## What it does not do yet\n";

const INTRODUCTION: &str = "\
# What has no effect yet

Made from the table in `api/src/limits/table.rs` by `cargo xtask limits`. What works leaves the table.

Monopod serves the whole API, and does not yet do all that the API can ask for. It does not let that pass in
silence: whoever writes something that has no effect hears of it in one of these ways.

- **Warning**: it is stored, and the answer has a `Warning` header, which kubectl prints. A dry run keeps
  nothing and has no such warnings.
- **Refused**: 403 Forbidden, also for a dry run. This is for what would look like protection and be none: a
  stored webhook that nobody calls is worse than an error. A manifest of many objects is applied but for these
  (`kubectl apply` exits with 1); a chart is installed with the value that leaves them out
  (`webhook.enabled=false`, or what the chart calls it).
- **Pending**, **Failed**, or a waiting container: the Pod's status and Events say why.
";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn shown(row: &Limit) -> String {
    let way = |way: &Shown| match way {
        Shown::Warning => "Warning".to_owned(),
        Shown::Refused => "Refused".to_owned(),
        Shown::Pending(_) => "Pending".to_owned(),
        Shown::Failed(reason) => format!("Failed: {reason}"),
        Shown::Event(reason, _) => format!("Event {reason}"),
        Shown::Waiting(reason) => format!("waiting: {reason}"),
    };
    row.shown.iter().map(way).collect::<Vec<_>>().join(", ")
}

/// What is meant, with the kind unless that is a Pod.
fn title(row: &Limit) -> String {
    if row.kind == "Pod" || row.name.contains(row.kind) {
        return row.name.to_owned();
    }
    format!("{}: {}", row.kind, row.name)
}

/// An item of a list, broken into lines as the other pages are.
fn bullet(text: &str) -> String {
    const WIDTH: usize = 118;
    let mut lines = vec!["-".to_owned()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("a line");
        if line.len() + 1 + word.len() > WIDTH {
            lines.push(format!("  {word}"));
        } else {
            line.push(' ');
            line.push_str(word);
        }
    }
    lines.join("\n") + "\n"
}

fn page() -> String {
    let mut page = INTRODUCTION.to_owned();
    for (heading, head, of_pods) in
        [("Pods", "of a Pod", true), ("Other kinds", "kind or part of one", false)]
    {
        let _ =
            write!(page, "\n## {heading}\n\n| {head} | how it shows | what happens |\n| --- | --- | --- |\n");
        for row in LIMITS.iter().filter(|row| (row.kind == "Pod") == of_pods) {
            let _ = writeln!(page, "| {} | {} | {} |", title(row), shown(row), row.says);
        }
    }
    page.push_str("\n## Besides\n\n");
    page + &GENERAL.iter().map(|sentence| bullet(sentence)).collect::<String>()
}

fn section() -> String {
    let refused = names(|row| row.shown.contains(&Shown::Refused));
    let kinds = names(|row| matches!(row.found, Found::Always) && row.shown == [Shown::Warning]);
    let parts = names(|row| !matches!(row.found, Found::Always) && !row.shown.contains(&Shown::Refused));
    let lists = [
        format!(
            "Refused, since a stored one would look like protection, or the answer would lie: {refused}."
        ),
        format!("Stored, with a warning: {kinds}."),
        format!("With a warning, parts that have no effect or keep a Pod from starting: {parts}."),
    ];
    let items = lists.iter().map(String::as_str).chain(GENERAL.iter().copied()).map(bullet);
    format!(
        "\nWhatever has no effect yet says so when it is written. [{PAGE}]({PAGE}) has the whole list; both are made\n\
         from the table in `api/src/limits/table.rs`.\n\n{}\n",
        items.collect::<String>()
    )
}

fn names(fits: impl Fn(&Limit) -> bool) -> String {
    LIMITS.iter().filter(|row| fits(row)).map(title).collect::<Vec<_>>().join(", ")
}

/// The README with the section made anew.
fn readme(old: &str) -> String {
    let (before, rest) = old.split_once(README_SECTION).expect("the README has the section");
    let after = rest.find("\n## ").map_or("", |at| &rest[at + 1..]);
    format!("{before}{README_SECTION}{}{after}", section())
}

#[test]
fn the_pages_say_what_the_table_says() {
    let (limits, front) = (root().join(PAGE), root().join("README.md"));
    let old = std::fs::read_to_string(&front).expect("a README");
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&limits, page()).expect("written");
        std::fs::write(&front, readme(&old)).expect("written");
        return;
    }
    let written = std::fs::read_to_string(&limits).unwrap_or_default();
    assert!(written == page(), "{PAGE} is not made from the table: run `cargo xtask limits`");
    assert!(old == readme(&old), "README.md is not made from the table: run `cargo xtask limits`");
}
