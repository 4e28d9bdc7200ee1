//! Tables: what `kubectl get` prints, computed by the server.
//!
//! The columns of all kinds are in `columns.tsv`; the cells are functions of the object,
//! one for each kind, in the files beside; ages are written when a row is read ([`TableRow`]).
//! Cells of wide columns are always there: the client leaves them out. Kinds without a table
//! of their own show their name and when they were created.

mod age;
mod cell;
pub(crate) mod cluster;
mod common;
pub(crate) mod metrics;
pub(crate) mod network;
pub(crate) mod pod;
pub(crate) mod policy;
pub(crate) mod storage;
pub(crate) mod workload;

use std::collections::HashMap;
use std::sync::LazyLock;

use serde::Serialize;
use serde_json::Value;

use crate::kinds::Kind;

use cell::{Cell, cell};

pub use age::human_duration;
pub use cell::TableRow;

/// A column's definition, as the Table document carries it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Column {
    /// The heading, which kubectl writes in capitals.
    pub name: &'static str,
    /// `string`, `integer`, `boolean` or `date`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// `name` for the object's name, else empty.
    pub format: &'static str,
    /// For people.
    pub description: String,
    /// 0 is always shown, 1 with `-o wide`.
    pub priority: u8,
}

/// The columns of a resource's table.
pub fn columns(resource: &Kind) -> &[Column] {
    let tables: &HashMap<(&str, &str), Vec<Column>> = &COLUMNS;
    tables.get(&(&*resource.group, &*resource.plural)).unwrap_or(&DEFAULT)
}

/// The row of an object, with one cell for each column of [`columns`].
pub fn row(resource: &Kind, object: &Value) -> TableRow {
    let (cells, conditions) = (resource.rules.cells, resource.rules.row_conditions);
    TableRow::new(cells(common::Row { object }), conditions(object))
}

/// The function that makes the cells of a kind.
pub(crate) type Printer = fn(common::Row<'_>) -> Vec<Cell>;

/// The cells of a kind without a table of its own.
pub(crate) fn name_and_creation(row: common::Row<'_>) -> Vec<Cell> {
    vec![cell(row.name()), cell(row.text("/metadata/creationTimestamp"))]
}

static COLUMNS: LazyLock<HashMap<(&str, &str), Vec<Column>>> =
    LazyLock::new(|| parse(include_str!("table/columns.tsv")));

static DEFAULT: LazyLock<Vec<Column>> = LazyLock::new(|| {
    let column = |name, kind, format, like: &str| Column {
        name,
        kind,
        format,
        description: describe(&COLUMNS, like),
        priority: 0,
    };
    vec![column("Name", "string", "name", "Name"), column("Created At", "date", "", "Age")]
});

fn parse(text: &'static str) -> HashMap<(&'static str, &'static str), Vec<Column>> {
    let mut tables: HashMap<_, Vec<Column>> = HashMap::new();
    let mut current = ("", "");
    for line in text.lines().filter(|l| !l.starts_with('#')) {
        match line.strip_prefix('\t') {
            None => current = line.split_once('/').unwrap_or(("", line)),
            Some(fields) => {
                let column = column(fields, &tables);
                tables.entry(current).or_default().push(column);
            }
        }
    }
    tables
}

fn column(line: &'static str, before: &HashMap<(&str, &str), Vec<Column>>) -> Column {
    let mut fields = line.splitn(4, '\t');
    let mut next = || fields.next().unwrap_or_default();
    let (name, kind, priority, description) = (next(), next(), next(), next());
    let (kind, format) = kind.split_once(':').unwrap_or((kind, ""));
    let description = match description {
        "=" => describe(before, name),
        text => text.replace("\\n", "\n"),
    };
    Column { name, kind, format, description, priority: u8::from(priority == "1") }
}

/// The description of the column of this name in a table that has it spelled out.
fn describe(tables: &HashMap<(&str, &str), Vec<Column>>, name: &str) -> String {
    let first = [("", "pods"), ("", "podtemplates"), ("", "replicationcontrollers")];
    let found = first.iter().filter_map(|key| tables.get(key)).flatten().find(|c| c.name == name);
    found.map(|c| c.description.clone()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds::{all, find, metrics};

    #[test]
    fn every_resource_has_as_many_cells_as_columns() {
        let measured: Vec<_> = metrics().into_iter().map(Into::into).collect();
        for resource in all().iter().chain(&measured) {
            let object = json!({"metadata": {"name": "x", "creationTimestamp": "2026-01-01T00:00:00Z"}});
            let cells = (resource.rules.cells)(common::Row { object: &object });
            assert_eq!(cells.len(), columns(resource).len(), "{}", resource.plural);
        }
    }

    #[test]
    fn every_table_is_of_a_resource_and_every_repeated_description_is_found() {
        for ((group, plural), columns) in COLUMNS.iter() {
            let known = all().iter().any(|r| (&*r.group, &*r.plural) == (*group, *plural))
                || metrics().iter().any(|r| (&*r.group, &*r.plural) == (*group, *plural));
            assert!(known || matches!(*plural, "scale" | "status"), "{group}/{plural}");
            for column in columns {
                assert!(!column.description.is_empty() || *plural == "status", "{plural} {}", column.name);
                assert_ne!(column.description, "=");
            }
        }
    }

    #[test]
    fn a_column_is_written_as_kubernetes_writes_it() {
        let column = &columns(find("", "v1", "pods").unwrap())[1];
        assert_eq!(
            serde_json::to_string(column).unwrap(),
            r#"{"name":"Ready","type":"string","format":"","description":"The aggregate readiness state of this pod for accepting traffic.","priority":0}"#
        );
    }

    #[test]
    fn kinds_without_a_table_show_when_they_were_created() {
        let resource = find("", "v1", "limitranges").unwrap();
        let names: Vec<&str> = columns(resource).iter().map(|c| c.name).collect();
        assert_eq!(names, ["Name", "Created At"]);
        let object = json!({"metadata": {"name": "x", "creationTimestamp": "2026-01-01T00:00:00Z"}});
        assert_eq!(
            cell::shown((resource.rules.cells)(common::Row { object: &object })),
            ["x", "2026-01-01T00:00:00Z"]
        );
    }
}
