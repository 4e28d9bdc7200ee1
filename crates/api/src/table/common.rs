//! What the cells of many kinds have in common.

use jiff::Timestamp;
use serde_json::Value;

use super::cell::Cell;
use crate::selector::LabelSelector;

/// An object whose row is made.
#[derive(Clone, Copy)]
pub(crate) struct Row<'a> {
    pub(super) object: &'a Value,
}

impl<'a> Row<'a> {
    pub(super) fn at(self, pointer: &str) -> Option<&'a Value> {
        self.object.pointer(pointer)
    }

    pub(super) fn text(self, pointer: &str) -> &'a str {
        self.at(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    pub(super) fn text_or(self, pointer: &str, absent: &'a str) -> &'a str {
        self.at(pointer).and_then(Value::as_str).filter(|t| !t.is_empty()).unwrap_or(absent)
    }

    pub(super) fn int(self, pointer: &str) -> i64 {
        self.at(pointer).and_then(Value::as_i64).unwrap_or_default()
    }

    pub(super) fn flag(self, pointer: &str, absent: bool) -> bool {
        self.at(pointer).and_then(Value::as_bool).unwrap_or(absent)
    }

    pub(super) fn list(self, pointer: &str) -> &'a [Value] {
        self.at(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
    }

    pub(super) fn count(self, pointer: &str) -> i64 {
        let count = match self.at(pointer) {
            Some(Value::Array(list)) => list.len(),
            Some(Value::Object(map)) => map.len(),
            _ => 0,
        };
        i64::try_from(count).unwrap_or(i64::MAX)
    }

    pub(super) fn name(self) -> &'a str {
        self.text("/metadata/name")
    }

    pub(super) fn is_being_deleted(self) -> bool {
        self.at("/metadata/deletionTimestamp").is_some_and(|t| !t.is_null())
    }

    /// How long ago the object was created.
    pub(super) fn age(self) -> Cell {
        Cell::since(self.text("/metadata/creationTimestamp"))
    }

    /// The names and images of the containers of a Pod spec.
    pub(super) fn containers(self, pointer: &str) -> (String, String) {
        let containers = self.list(pointer);
        (join(containers, |c| text(c, "name")), join(containers, |c| text(c, "image")))
    }

    /// A map of labels: `a=b,c=d` or `<none>`.
    pub(super) fn labels(self, pointer: &str) -> String {
        let map = self.at(pointer).and_then(Value::as_object);
        let pairs: Vec<String> = map
            .into_iter()
            .flatten()
            .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
            .collect();
        if pairs.is_empty() { "<none>".to_owned() } else { pairs.join(",") }
    }

    /// A label selector: `a=b,c in (d,e)` or `<none>`.
    pub(super) fn selector(self, pointer: &str) -> String {
        let Some(selector) = self.at(pointer) else { return "<none>".to_owned() };
        match LabelSelector::from_value(selector) {
            Ok(selector) if selector.requirements().is_empty() => "<none>".to_owned(),
            Ok(selector) => selector.to_string(),
            Err(_) => "<error>".to_owned(),
        }
    }

    /// The status of the condition of this type.
    pub(super) fn condition(self, kind: &str) -> Option<&'a str> {
        let conditions = self.list("/status/conditions");
        conditions.iter().find(|c| text(c, "type") == kind).map(|c| text(c, "status"))
    }
}

/// A time as objects carry it; the zero time is none.
pub(super) fn parse(time: &str) -> Option<Timestamp> {
    time.parse().ok()
}

pub(super) fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

pub(super) fn join<'a>(list: &'a [Value], each: impl Fn(&'a Value) -> &'a str) -> String {
    list.iter().map(each).collect::<Vec<_>>().join(",")
}

/// At most three of them: `a,b,c + 2 more...`; none is `absent`.
pub(super) fn few(all: &[String], absent: &str) -> String {
    const MAX: usize = 3;
    match all.len() {
        0 => absent.to_owned(),
        1..=MAX => all.join(","),
        more => format!("{} + {} more...", all[..MAX].join(","), more - MAX),
    }
}

/// A number or a text, as `IntOrString` and quantities are written.
pub(super) fn scalar(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}
