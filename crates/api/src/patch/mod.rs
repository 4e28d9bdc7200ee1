//! JSON patch, merge patch and strategic merge patch.
//!
//! ```text
//! body ─ parse ─ apply to the current object ─ decode as the kind ─ object, warnings
//! ```
//!
//! The fourth kind, server-side apply, is [`crate::apply`]. Errors have the codes and
//! words of upstream's patch handler: a body that cannot be read is 400, a patch that
//! does not fit the object is 422, and so is a result that is no object of the kind.

mod strategic;

use serde_json::{Map, Value};

use crate::decode::{self, Decoded, FieldValidation};
use crate::field::{Error, ErrorList, Path};
use crate::json::{self, Node};
use crate::schema::Struct;
use crate::status::{GroupKind, Reason, Status};

/// The most operations of one JSON patch.
const JSON_PATCH_OPERATIONS_MAX: usize = 10_000;

/// How many bytes the `copy` operations of one JSON patch may add: upstream's JSONPatchMaxCopyBytes.
const JSON_PATCH_COPIED_MAX: usize = 3 << 20;

/// The kinds of patch, by their Content-Type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchType {
    /// RFC 6902.
    Json,
    /// RFC 7396.
    Merge,
    /// Kubernetes' own: lists of objects are merged by key.
    Strategic,
    /// Server-side apply.
    Apply,
}

impl PatchType {
    /// Every accepted Content-Type.
    pub const MEDIA_TYPES: &[&str] = &[
        "application/json-patch+json",
        "application/merge-patch+json",
        "application/strategic-merge-patch+json",
        "application/apply-patch+yaml",
    ];

    /// The type of this Content-Type header, or 415.
    pub fn from_media_type(media_type: &str) -> Result<PatchType, Status> {
        match media_type.split(';').next().unwrap_or_default().trim() {
            "application/json-patch+json" => Ok(PatchType::Json),
            "application/merge-patch+json" => Ok(PatchType::Merge),
            "application/strategic-merge-patch+json" => Ok(PatchType::Strategic),
            "application/apply-patch+yaml" => Ok(PatchType::Apply),
            _ => Err(Status::unsupported_media_type(Self::MEDIA_TYPES)),
        }
    }
}

/// RFC 6902: the result, not yet decoded.
pub fn json(patch: &[u8], current: &Value) -> Result<Value, Status> {
    let node = json::parse(patch).map_err(Status::bad_request)?;
    let Node::Array(operations) = node else {
        let word = node.go_word();
        return Err(Status::bad_request(format!(
            "json: cannot unmarshal {word} into Go value of type jsonpatch.Patch"
        )));
    };
    if operations.len() > JSON_PATCH_OPERATIONS_MAX {
        return Err(Status::too_large(format!(
            "The allowed maximum operations in a JSON patch is {JSON_PATCH_OPERATIONS_MAX}, got {}",
            operations.len()
        )));
    }
    let operations = Node::Array(operations).into_value();
    let operations: json_patch::Patch = serde_json::from_value(operations).map_err(|_| does_not_fit())?;
    let mut patched = current.clone();
    let mut copied = 0;
    for operation in &operations.0 {
        if let json_patch::PatchOperation::Copy(copy) = operation {
            copied += patched.pointer(copy.from.as_str()).map_or(0, encoded_length);
            if copied > JSON_PATCH_COPIED_MAX {
                return Err(copied_too_much(copied));
            }
        }
        // The variant that can be undone panics when undoing fails, and the copy is thrown away.
        json_patch::patch_unsafe(&mut patched, std::slice::from_ref(operation))
            .map_err(|_| does_not_fit())?;
    }
    Ok(patched)
}

/// Each copy can double the document: without a limit thirty operations fill the memory.
fn copied_too_much(size: usize) -> Status {
    let mut status = does_not_fit();
    status.message = format!(
        "Unable to complete the copy, the accumulated size increase of copy is {size}, exceeding the limit {JSON_PATCH_COPIED_MAX}"
    );
    status
}

/// Bytes of the value as JSON.
fn encoded_length(value: &Value) -> usize {
    struct Counter(usize);
    impl std::io::Write for Counter {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut counter = Counter(0);
    // Counting cannot fail, and a `Value` has no keys but strings.
    serde_json::to_writer(&mut counter, value).map_or(usize::MAX, |()| counter.0)
}

/// RFC 7396: the result, not yet decoded.
pub fn merge(patch: &[u8], current: &Value) -> Result<Value, Status> {
    let (patch, _) = object(patch)?;
    let mut patched = current.clone();
    json_patch::merge(&mut patched, &Value::Object(patch));
    Ok(patched)
}

/// Strategic merge: the result, not yet decoded.
pub fn strategic(schema: &'static Struct, patch: &[u8], current: &Value) -> Result<Value, Status> {
    let (patch, _) = object(patch)?;
    strategic::apply(schema, patch, current)
}

/// A whole patch of an object of `schema`'s kind: apply, then decode the result.
/// Not for [`PatchType::Apply`], whose body is an object of its own.
pub fn patch(
    schema: &'static Struct,
    patch_type: PatchType,
    body: &[u8],
    current: &Value,
    validation: FieldValidation,
) -> Result<Decoded, Status> {
    match patch_type {
        PatchType::Json => {
            let patched = json(body, current)?;
            finish(decode::canonical, schema, &patched, Vec::new(), validation, Value::to_string)
        }
        PatchType::Merge => {
            let (patch, strict) = object(body)?;
            let mut patched = current.clone();
            json_patch::merge(&mut patched, &Value::Object(patch));
            finish(decode::canonical, schema, &patched, strict, validation, Value::to_string)
        }
        PatchType::Strategic => {
            let (patch, strict) = object(body)?;
            let shown = go_format(&Value::Object(patch.clone()));
            let patched = strategic::apply(schema, patch, current)?;
            finish(decode::converted, schema, &patched, strict, validation, |_| shown.clone())
        }
        PatchType::Apply => Err(Status::unsupported_media_type(PatchType::MEDIA_TYPES)),
    }
}

/// One of decode's ways to read a value as a kind.
type Reader = fn(&'static Struct, &Value, FieldValidation) -> Result<Decoded, String>;

/// Decodes the result; `shown` is what the error shows as the invalid value.
fn finish(
    read: Reader,
    schema: &'static Struct,
    patched: &Value,
    mut strict: Vec<String>,
    validation: FieldValidation,
    shown: impl Fn(&Value) -> String,
) -> Result<Decoded, Status> {
    let refuse = |why: String| {
        let mut errors = ErrorList::default();
        errors.push(Error::invalid(&Path::new("patch"), shown(patched), why));
        Status::invalid(GroupKind { group: "", kind: "" }, "", &errors)
    };
    let mut decoded = read(schema, patched, FieldValidation::Warn).map_err(refuse)?;
    strict.append(&mut decoded.warnings);
    match validation {
        FieldValidation::Strict if !strict.is_empty() => {
            Err(refuse(format!("strict decoding error: {}", strict.join(", "))))
        }
        FieldValidation::Warn => Ok(Decoded { warnings: strict, ..decoded }),
        _ => Ok(decoded),
    }
}

/// A patch that must be an object, and the duplicate fields in it.
fn object(patch: &[u8]) -> Result<(Map<String, Value>, Vec<String>), Status> {
    let node = json::parse(patch).map_err(Status::bad_request)?;
    if !matches!(node, Node::Object(_)) {
        let word = node.go_word();
        return Err(Status::bad_request(format!(
            "json: cannot unmarshal {word} into Go value of type map[string]interface {{}}"
        )));
    }
    let mut duplicates = Vec::new();
    find_duplicates(&node, "", &mut duplicates);
    match node.into_value() {
        Value::Object(map) => Ok((map, duplicates)),
        _ => Ok((Map::new(), duplicates)),
    }
}

fn find_duplicates(node: &Node<'_>, path: &str, found: &mut Vec<String>) {
    match node {
        Node::Object(entries) => {
            let mut seen = std::collections::BTreeSet::new();
            for (key, value) in entries {
                let here = if path.is_empty() { key.to_string() } else { format!("{path}.{key}") };
                if !seen.insert(key) {
                    found.push(format!("duplicate field \"{here}\""));
                }
                find_duplicates(value, &here, found);
            }
        }
        Node::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                find_duplicates(item, &format!("{path}[{index}]"), found);
            }
        }
        _ => {}
    }
}

/// 422 without a detail: what upstream answers when an operation does not fit.
pub(crate) fn does_not_fit() -> Status {
    let mut status = Status::invalid(GroupKind { group: "", kind: "" }, "", &ErrorList::default());
    status.message = "the server rejected our request due to an error in our request".to_owned();
    status
}

/// An error that upstream does not dress as a Status: 500 with the bare text.
pub(crate) fn plain_error(message: String) -> Status {
    let mut status = Status::internal("");
    status.reason = Reason::Unknown;
    status.details = None;
    status.message = message;
    status
}

/// Go's `%v` of decoded JSON.
fn go_format(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".into(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(go_format).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let entries: Vec<String> =
                map.iter().map(|(key, value)| format!("{key}:{}", go_format(value))).collect();
            format!("map[{}]", entries.join(" "))
        }
    }
}

#[cfg(test)]
mod tests;
