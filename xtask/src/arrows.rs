//! The table of rooms in ARCHITECTURE.md against what the crates really depend on.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::host::{cargo, output, root};

type Arrows = BTreeMap<String, BTreeSet<String>>;

/// Fails with a line for each arrow that stands in one place only.
pub(crate) fn check() -> Result<()> {
    let written = written(&std::fs::read_to_string(root().join("ARCHITECTURE.md"))?);
    let real = real(&output(&mut cargo(&["metadata", "--format-version", "1", "--no-deps"]))?)?;
    let wrong = differences(&written, &real);
    ensure!(wrong.is_empty(), "ARCHITECTURE.md and the crates disagree:\n{}", wrong.join("\n"));
    Ok(())
}

/// Rows of the table: `` | `room` → `a`, `b` | … |``.
fn written(page: &str) -> Arrows {
    let rows =
        page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once(" |").map(|(cell, _)| cell));
    rows.filter_map(|cell| {
        let (room, to) = cell.split_once('`')?;
        Some((room.to_owned(), to.split('`').skip(1).step_by(2).map(str::to_owned).collect()))
    })
    .collect()
}

fn real(metadata: &str) -> Result<Arrows> {
    let metadata: Value = serde_json::from_str(metadata)?;
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    let ours: BTreeSet<&str> = packages
        .iter()
        .filter(|package| package["manifest_path"].as_str().is_some_and(|path| path.contains("/crates/")))
        .filter_map(|package| package["name"].as_str())
        .collect();
    let arrows = packages.iter().filter_map(|package| {
        let name = package["name"].as_str().filter(|name| ours.contains(name))?;
        let to = package["dependencies"].as_array()?.iter().filter(|dependency| dependency["kind"].is_null());
        let to = to.filter_map(|dependency| dependency["name"].as_str()).filter(|to| ours.contains(to));
        Some((name.to_owned(), to.map(str::to_owned).collect()))
    });
    Ok(arrows.filter(|(name, _): &(String, _)| name != "testkit").collect())
}

fn differences(written: &Arrows, real: &Arrows) -> Vec<String> {
    let none = BTreeSet::new();
    let rooms: BTreeSet<&String> = written.keys().chain(real.keys()).collect();
    let mut wrong = Vec::new();
    for room in rooms {
        let (page, code) = (written.get(room).unwrap_or(&none), real.get(room).unwrap_or(&none));
        wrong.extend(
            code.difference(page).map(|to| format!("{room} → {to} is in Cargo.toml, not in the table")),
        );
        wrong.extend(
            page.difference(code).map(|to| format!("{room} → {to} is in the table, not in Cargo.toml")),
        );
        if !real.contains_key(room) {
            wrong.push(format!("{room} is in the table, but there is no such crate"));
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_what_the_crates_depend_on() {
        check().expect("the arrows agree");
    }

    #[test]
    fn an_arrow_in_one_place_only_is_named() {
        let page =
            written("| `node` → `api`, `client` | the node agent | server |\n| `api` | objects | — |\n");
        let mut code = page.clone();
        code.get_mut("node").expect("node is in the table").insert("store".into());
        assert_eq!(differences(&page, &code), ["node → store is in Cargo.toml, not in the table"]);
        code.remove("api");
        assert_eq!(differences(&page, &code).len(), 2);
    }
}
