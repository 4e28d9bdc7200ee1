//! Objects as bytes: how they are written, where the resourceVersion is in
//! them, and what is kept beside them for selectors, tables and compressed answers.
//!
//! Every stored object begins with
//! `{"kind":"Pod","apiVersion":"v1","metadata":{"resourceVersion":"…"`. The
//! words before the version come from the table of kinds, so the first
//! `"resourceVersion":"` is always the server's own, and the item of a typed
//! list (which carries neither kind nor apiVersion) is the same bytes from a fixed offset.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use api::kinds::{Kind, Name};
use api::meta::Object as _;
use api::selector::{self, FieldSelector, LabelSelector};
use api::status::Status;
use bytes::{Bytes, BytesMut};
use serde::de::IgnoredAny;
use serde_json::{Map, Value};
use store::Entry;

use crate::pieces::Packed;
use crate::view::Row;

const VERSION: &[u8] = b"\"metadata\":{\"resourceVersion\":\"";

/// What every stored object of a resource begins with.
pub(crate) fn head(resource: &Kind) -> String {
    format!("{{\"kind\":\"{}\",\"apiVersion\":\"{}\",", resource.kind, resource.api_version())
}

/// Writes an object for the store, with no resourceVersion in it yet.
pub(crate) fn encode(resource: &Kind, object: &Value) -> Bytes {
    let mut out = head(resource).into_bytes();
    out.extend_from_slice(VERSION);
    out.push(b'"');
    let nothing = Map::new();
    let fields = object.as_object().unwrap_or(&nothing);
    let metadata = fields.get("metadata").and_then(Value::as_object).unwrap_or(&nothing);
    for (name, value) in metadata.iter().filter(|(name, _)| *name != "resourceVersion") {
        write_field(&mut out, name, value);
    }
    out.push(b'}');
    let known = ["kind", "apiVersion", "metadata"];
    for (name, value) in fields.iter().filter(|(name, _)| !known.contains(&name.as_str())) {
        write_field(&mut out, name, value);
    }
    out.push(b'}');
    out.into()
}

fn write_field(out: &mut Vec<u8>, name: &str, value: &Value) {
    out.push(b',');
    // Writing JSON into memory cannot fail: keys are text, numbers are finite.
    let _ = serde_json::to_writer(&mut *out, name);
    out.push(b':');
    let _ = serde_json::to_writer(&mut *out, value);
}

/// Writes a revision into a stored object: the [`store::Stamp`] of this server.
pub fn stamp(object: &Bytes, revision: u64) -> Bytes {
    let Some(start) = find(object, VERSION).map(|at| at + VERSION.len()) else { return object.clone() };
    let Some(len) = object[start..].iter().position(|byte| *byte == b'"') else { return object.clone() };
    let digits = revision.to_string();
    let mut out = BytesMut::with_capacity(object.len() + digits.len());
    out.extend_from_slice(&object[..start]);
    out.extend_from_slice(digits.as_bytes());
    out.extend_from_slice(&object[start + len..]);
    out.freeze()
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// Whether two encoded objects differ in nothing but their resourceVersion.
pub(crate) fn same(a: &Bytes, b: &Bytes) -> bool {
    stamp(a, 0) == stamp(b, 0)
}

/// Reads a stored object. What the store holds was written by [`encode`]; one that cannot be
/// read all the same is an error, never an object without finalizers and preconditions.
pub(crate) fn read(bytes: &[u8]) -> Result<Value, Status> {
    serde_json::from_slice(bytes).map_err(|err| {
        let beginning = String::from_utf8_lossy(&bytes[..bytes.len().min(BEGINNING)]);
        tracing::error!(%err, %beginning, "a stored object cannot be read");
        Status::internal(format!("a stored object cannot be read: {err}"))
    })
}

/// How much of an unreadable object goes to the log: its kind and name.
const BEGINNING: usize = 200;

/// The key of a collection: all of it, or of one namespace.
pub(crate) fn prefix(resource: &Kind, namespace: &str) -> String {
    let (group, plural) = (&*resource.stored.group, &*resource.plural);
    let group = if group.is_empty() { "core" } else { group };
    match (resource.namespaced, namespace) {
        (true, namespace) if !namespace.is_empty() => format!("/{group}/{plural}/{namespace}/"),
        _ => format!("/{group}/{plural}/"),
    }
}

/// The key of an object.
pub(crate) fn key(resource: &Kind, namespace: &str, name: &str) -> Arc<str> {
    (prefix(resource, namespace) + name).into()
}

/// Where the metadata is in a stored object.
pub(crate) fn metadata_span(resource: &Kind, stored: &[u8]) -> Option<Range<usize>> {
    let start = head(resource).len() + b"\"metadata\":".len();
    let mut values = serde_json::Deserializer::from_slice(stored.get(start..)?).into_iter::<IgnoredAny>();
    values.next()?.ok()?;
    Some(start..start + values.byte_offset())
}

/// What is derived from an object at most once a revision and kept beside its bytes, each part when it
/// is first asked for.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    selectable: OnceLock<Selectable>,
    row: OnceLock<Row>,
    item: OnceLock<Packed>,
}

impl Notes {
    /// The notes of an entry.
    pub(crate) fn of(entry: &Entry) -> Option<&Self> {
        entry.notes(|_| Self::default())
    }

    /// Its row in a table.
    pub(crate) fn row(&self, make: impl FnOnce() -> Row) -> &Row {
        self.row.get_or_init(make)
    }

    /// Where its compressed form as the item of a list is kept.
    pub(crate) fn item(&self) -> &OnceLock<Packed> {
        &self.item
    }
}

/// What selectors ask of an object.
#[derive(Debug)]
struct Selectable {
    labels: Vec<(String, String)>,
    fields: Vec<(Name, String)>,
}

impl Selectable {
    /// Takes what selectors may ask of an object of this resource.
    fn of(resource: &Kind, object: &Value) -> Self {
        let labels = object.meta().labels().map(|(name, value)| (name.to_owned(), value.to_owned()));
        Self { labels: labels.collect(), fields: selector::fields(resource, object) }
    }
}

/// What a list or a watch selects.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selection {
    /// By labels.
    pub(crate) labels: LabelSelector,
    /// By fields.
    pub(crate) fields: FieldSelector,
}

impl Selection {
    /// Whether it selects everything.
    pub(crate) fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything()
    }

    /// Whether an entry is selected.
    pub(crate) fn matches(&self, resource: &Kind, entry: &Entry) -> bool {
        if self.is_everything() {
            return true;
        }
        let Some(notes) = Notes::of(entry) else { return false };
        let take = || Selectable::of(resource.storage(), &read(&entry.value).unwrap_or_default());
        let taken = notes.selectable.get_or_init(take);
        // What was noted before the kind was registered anew may lack what is asked now.
        let lacks = |name: &str| !taken.fields.iter().any(|(known, _)| known == name);
        let again = self.fields.terms().any(|(name, ..)| lacks(name)).then(take);
        let object = again.as_ref().unwrap_or(taken);
        self.labels.matches(&object.labels) && self.fields.matches(&object.fields)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pods() -> &'static Kind {
        api::kinds::find("", "v1", "pods").expect("pods are in the table")
    }

    #[test]
    fn the_version_goes_where_the_server_put_its_place() {
        let hostile = json!({"metadata": {"name": "a", "resourceVersion": "7", "annotations":
            {"a": "\"metadata\":{\"resourceVersion\":\""}}, "spec": {"metadata": {"resourceVersion": "9"}}});
        let encoded = encode(pods(), &hostile);
        let stamped = stamp(&encoded, 12);
        let again = stamp(&stamped, 3456);
        let object = read(&again).expect("readable");
        assert_eq!(object["metadata"]["resourceVersion"], "3456");
        assert_eq!(object["spec"]["metadata"]["resourceVersion"], "9");
        assert_eq!(object["metadata"]["annotations"], hostile["metadata"]["annotations"]);
        assert_eq!((&object["kind"], &object["apiVersion"]), (&json!("Pod"), &json!("v1")));
        assert!(same(&stamped, &again));
    }

    #[test]
    fn the_metadata_is_found_whatever_stands_in_it() {
        let encoded =
            encode(pods(), &json!({"metadata": {"name": "a", "annotations": {"b": "}\\\"{"}}, "spec": {}}));
        let span = metadata_span(pods(), &encoded).expect("metadata");
        let metadata = read(&encoded[span]).expect("readable");
        assert_eq!(metadata, json!({"resourceVersion": "", "name": "a", "annotations": {"b": "}\\\"{"}}));
        assert_eq!(metadata_span(pods(), &encoded[..encoded.len() / 2]), None);
    }

    #[test]
    fn the_item_of_a_list_is_the_object_without_its_head() {
        let encoded = encode(pods(), &json!({"metadata": {"name": "a"}}));
        assert!(encoded.starts_with(head(pods()).as_bytes()));
        assert!(encoded[head(pods()).len()..].starts_with(b"\"metadata\""));
    }
}
