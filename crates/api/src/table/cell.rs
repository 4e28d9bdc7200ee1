//! Cells, and rows of them that are computed once for all who ask.
//!
//! All of a row follows from the object, but for how long ago something was. So a row is kept as JSON with
//! gaps, and each gap knows its moment: to answer is to copy the text and to write the ages.

use jiff::Timestamp;
use serde_json::Value;

use super::common::parse;
use super::human_duration;

/// What is in one column of a row.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Cell {
    /// What stays as it is.
    Fixed(Value),
    /// How long ago a moment is, with what stands around it: `4 (3m ago)`.
    Ago { before: String, moment: Timestamp, after: &'static str },
}

impl Cell {
    /// How long ago a moment is.
    pub(super) fn ago(moment: Timestamp) -> Self {
        Self::Ago { before: String::new(), moment, after: "" }
    }

    /// How long ago a written time is.
    pub(super) fn since(time: &str) -> Self {
        parse(time).map_or_else(|| cell("<unknown>"), Self::ago)
    }
}

impl<T: Into<Value>> From<T> for Cell {
    fn from(value: T) -> Self {
        Self::Fixed(value.into())
    }
}

/// A cell of whatever can be shown.
pub(super) fn cell(value: impl Into<Cell>) -> Cell {
    value.into()
}

/// The row of an object, computed once; only the ages are left to be written.
#[derive(Debug)]
pub struct TableRow {
    json: Box<[u8]>,
    /// Where an age goes, in rising order, and since when it counts.
    ages: Box<[(usize, Timestamp)]>,
}

/// The longest age: `9223372036854y`, far beyond what the clock can say.
const AGE_MAX: usize = 16;

impl TableRow {
    /// Writes the cells as `"cells":[…]`, and what the row says of the object as a whole behind them.
    pub(super) fn new(cells: Vec<Cell>, conditions: Option<Value>) -> Self {
        let (mut json, mut ages) = (b"\"cells\":[".to_vec(), Vec::new());
        for (index, cell) in cells.into_iter().enumerate() {
            if index > 0 {
                json.push(b',');
            }
            match cell {
                Cell::Fixed(value) => write(&mut json, &value),
                Cell::Ago { before, moment, after } => {
                    write(&mut json, &Value::String(before));
                    json.pop();
                    ages.push((json.len(), moment));
                    json.extend_from_slice(after.as_bytes());
                    json.push(b'"');
                }
            }
        }
        json.push(b']');
        if let Some(conditions) = conditions {
            json.extend_from_slice(b",\"conditions\":");
            write(&mut json, &conditions);
        }
        Self { json: json.into(), ages: ages.into() }
    }

    /// Writes the fields of the row, without the braces around them, as they read at this time.
    pub fn write(&self, now: Timestamp, out: &mut Vec<u8>) {
        out.reserve(self.json.len() + self.ages.len() * AGE_MAX);
        let mut from = 0;
        for (at, moment) in &self.ages {
            out.extend_from_slice(&self.json[from..*at]);
            out.extend_from_slice(human_duration(now.duration_since(*moment).as_secs()).as_bytes());
            from = *at;
        }
        out.extend_from_slice(&self.json[from..]);
    }
}

fn write(out: &mut Vec<u8>, value: &Value) {
    // Writing JSON into memory cannot fail: keys are text, numbers are finite.
    let _ = serde_json::to_writer(out, value);
}

/// The cells as they read an hour into 2026.
#[cfg(test)]
pub(super) fn shown(cells: Vec<Cell>) -> Vec<Value> {
    let mut json = vec![b'{'];
    TableRow::new(cells, None).write("2026-01-01T01:00:00Z".parse().expect("a time"), &mut json);
    json.push(b'}');
    let row: Value = serde_json::from_slice(&json).expect("a row is JSON");
    row["cells"].as_array().expect("cells").clone()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_the_ages_of_a_row_change() {
        let moment: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
        let around = Cell::Ago { before: "\"4\" (".to_owned(), moment, after: " ago)" };
        let row = TableRow::new(vec![cell("a\"b"), around, cell(3), Cell::ago(moment)], Some(json!([1])));
        let read = |seconds| {
            let mut json = vec![b'{'];
            row.write(moment + jiff::SignedDuration::from_secs(seconds), &mut json);
            json.push(b'}');
            serde_json::from_slice::<Value>(&json).expect("a row is JSON")
        };
        assert_eq!(read(5), json!({"cells": ["a\"b", "\"4\" (5s ago)", 3, "5s"], "conditions": [1]}));
        assert_eq!(read(3600)["cells"], json!(["a\"b", "\"4\" (60m ago)", 3, "60m"]));
        assert_eq!(read(-5)["cells"][3], "<invalid>");
    }

    #[test]
    fn a_time_that_is_none_is_unknown() {
        assert_eq!(Cell::since(""), cell("<unknown>"));
    }
}
