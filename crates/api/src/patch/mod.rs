//! JSON patch, merge patch and strategic merge patch.
//!
//! ```text
//! body ─ parse ─ apply to the current object ─ decode as the kind ─ object, warnings
//! ```
//!
//! The fourth kind, server-side apply, is [`crate::apply`]. Errors have the codes and
//! words of upstream's patch handler: a body that cannot be read is 400, a patch that
//! does not fit the object is 422, and so is a result that is no object of the kind.

mod operations;
mod strategic;

use std::fmt::Write as _;

use serde_json::{Map, Value};

use crate::decode::{self, Decoded, FieldValidation};
use crate::field::{Error, ErrorList, Path};
use crate::json::{self, Node};
use crate::schema::Struct;
use crate::status::{GroupKind, Reason, Status};

/// How many duplicate fields are named, and in how many bytes: each name is a whole path.
const DUPLICATES_MAX: usize = 100;
const DUPLICATES_BYTES_MAX: usize = 1 << 20;

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
    operations::apply(patch, current, FieldValidation::Ignore).map(|(patched, _)| patched)
}

/// RFC 7396: the result, not yet decoded.
pub fn merge(patch: &[u8], current: &Value) -> Result<Value, Status> {
    let (patch, _) = object(patch)?;
    let mut patched = current.clone();
    json_patch::merge(&mut patched, &Value::Object(patch));
    Ok(patched)
}

/// Strategic merge: the result, not yet decoded.
pub fn strategic(schema: &Struct, patch: &[u8], current: &Value) -> Result<Value, Status> {
    let (patch, _) = object(patch)?;
    strategic::apply(schema, patch, current)
}

/// A whole patch of an object of `schema`'s kind: apply, then decode the result.
/// Not for [`PatchType::Apply`], whose body is an object of its own.
pub fn patch(
    schema: &Struct,
    patch_type: PatchType,
    body: &[u8],
    current: &Value,
    validation: FieldValidation,
) -> Result<Decoded, Status> {
    match patch_type {
        PatchType::Json => {
            let (patched, strict) = operations::apply(body, current, validation)?;
            finish(decode::canonical, schema, &patched, strict, validation, Value::to_string)
        }
        PatchType::Merge => {
            let (patch, strict) = object(body).map_err(|error| undecodable(error, validation))?;
            let mut patched = current.clone();
            json_patch::merge(&mut patched, &Value::Object(patch));
            finish(decode::canonical, schema, &patched, strict, validation, Value::to_string)
        }
        PatchType::Strategic => {
            let (patch, strict) = object(body)?;
            let patched = strategic::apply(schema, patch, current)?;
            // The patch was taken apart; an error, which shows it, reads it again.
            let shown = |_: &Value| {
                object(body).map_or_else(|_| String::new(), |(patch, _)| go_format(&patch.into()))
            };
            finish(decode::converted, schema, &patched, strict, validation, shown)
        }
        PatchType::Apply => Err(Status::unsupported_media_type(PatchType::MEDIA_TYPES)),
    }
}

/// One of decode's ways to read a value as a kind.
type Reader = fn(&Struct, &Value, FieldValidation) -> Result<Decoded, String>;

/// Decodes the result; `shown` is what the error shows as the invalid value.
fn finish(
    read: Reader,
    schema: &Struct,
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
    let mut duplicates = Duplicates::default();
    duplicates.find(&node);
    match node.into_value() {
        Value::Object(map) => Ok((map, duplicates.found)),
        _ => Ok((Map::new(), duplicates.found)),
    }
}

/// A body that is no patch: who asks for strictness gets the words of the strict decoder.
fn undecodable(error: Status, validation: FieldValidation) -> Status {
    match validation {
        FieldValidation::Ignore => error,
        _ => Status::bad_request(format!("error decoding patch: {}", error.message)),
    }
}

/// Looks for duplicate fields, whose places are named with their paths.
#[derive(Default)]
struct Duplicates {
    found: Vec<String>,
    path: String,
    written: usize,
}

impl Duplicates {
    fn find(&mut self, node: &Node<'_>) {
        let length = self.path.len();
        match node {
            Node::Object(entries) => {
                let mut seen = std::collections::HashSet::new();
                for (key, value) in entries {
                    let dot = if self.path.is_empty() { "" } else { "." };
                    self.path.extend([dot, key]);
                    let room = self.found.len() < DUPLICATES_MAX && self.written < DUPLICATES_BYTES_MAX;
                    if !seen.insert(key) && room {
                        self.written += self.path.len();
                        self.found.push(format!("duplicate field \"{}\"", self.path));
                    }
                    self.find(value);
                    self.path.truncate(length);
                }
            }
            Node::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    let _ = write!(self.path, "[{index}]");
                    self.find(item);
                    self.path.truncate(length);
                }
            }
            _ => {}
        }
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
    let mut text = String::new();
    write_go(value, &mut text);
    text
}

fn write_go(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("<nil>"),
        Value::Bool(_) | Value::Number(_) => out.push_str(&value.to_string()),
        Value::String(text) => out.push_str(text),
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                out.push_str(if index == 0 { "" } else { " " });
                write_go(item, out);
            }
            out.push(']');
        }
        Value::Object(map) => {
            out.push_str("map[");
            for (index, (key, item)) in map.iter().enumerate() {
                out.extend([if index == 0 { "" } else { " " }, key, ":"]);
                write_go(item, out);
            }
            out.push(']');
        }
    }
}

#[cfg(test)]
mod tests;
