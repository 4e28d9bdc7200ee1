//! JSON patch: operations on the current object, one after another.
//!
//! What operations make together no limit of the body sees: each `add` can nest what is there one
//! level deeper, each `copy` can double it, each insertion moves the rest of a list. So depth,
//! copied bytes and work are counted while the patch is applied.

use json_patch::PatchOperation;
use serde_json::Value;

use super::{does_not_fit, undecodable};
use crate::decode::FieldValidation;
use crate::json::{self, Node};
use crate::status::Status;

/// The most operations of one patch.
const OPERATIONS_MAX: usize = 10_000;

/// How many bytes the `copy` operations of one patch may add: upstream's JSONPatchMaxCopyBytes.
const COPIED_MAX: usize = 3 << 20;

/// How many values the operations of one patch may visit or move. An honest patch moves some hundred;
/// this many take less than a second.
const WORK_MAX: usize = 32 << 20;

/// Applies a patch; the result is not decoded. Beside it the unknown and duplicate fields of the
/// operations, where `validation` asks for them.
pub(super) fn apply(
    patch: &[u8],
    current: &Value,
    validation: FieldValidation,
) -> Result<(Value, Vec<String>), Status> {
    let (operations, strict) = read(patch, validation).map_err(|error| undecodable(error, validation))?;
    if operations.len() > OPERATIONS_MAX {
        return Err(Status::too_large(format!(
            "The allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {}",
            operations.len()
        )));
    }
    let operations = Value::Array(operations.into_iter().map(Node::into_value).collect());
    let operations: json_patch::Patch = serde_json::from_value(operations).map_err(|_| does_not_fit())?;
    let mut patched = current.clone();
    let mut limits = Limits::default();
    for operation in &operations.0 {
        limits.allow(operation, &patched)?;
        // The variant that can be undone panics when undoing fails, and the copy is thrown away.
        json_patch::patch_unsafe(&mut patched, std::slice::from_ref(operation))
            .map_err(|_| does_not_fit())?;
    }
    Ok((patched, strict))
}

/// The operations as they were sent; the error is the sentence of Go's decoder.
fn read(patch: &[u8], validation: FieldValidation) -> Result<(Vec<Node<'_>>, Vec<String>), Status> {
    let strictly = validation != FieldValidation::Ignore;
    let node = json::parse(patch).map_err(Status::bad_request)?;
    let refuse = |word: &str, target: &str| {
        Status::bad_request(format!("json: cannot unmarshal {word} into Go {target}"))
    };
    let Node::Array(operations) = node else {
        let target = if strictly { "[]handlers.jsonPatchOp" } else { "jsonpatch.Patch" };
        return Err(refuse(node.go_word(), &format!("value of type {target}")));
    };
    let mut strict = Vec::new();
    for (index, operation) in operations.iter().enumerate().filter(|_| strictly).take(OPERATIONS_MAX) {
        let Node::Object(fields) = operation else {
            return Err(refuse(operation.go_word(), "value of type handlers.jsonPatchOp"));
        };
        let mut seen = Vec::new();
        for (name, value) in fields {
            match (&**name, value) {
                ("value", _) | ("op" | "path" | "from", Node::String(_) | Node::Null) => {}
                ("op" | "path" | "from", other) => {
                    let target = format!("struct field jsonPatchOp.{name} of type string");
                    return Err(refuse(other.go_word(), &target));
                }
                _ if strict.len() < 100 => {
                    strict.push(format!("json patch unknown field \"[{index}].{name}\""));
                    continue;
                }
                _ => continue,
            }
            if seen.contains(&name) && strict.len() < 100 {
                strict.push(format!("json patch duplicate field \"[{index}].{name}\""));
            }
            if seen.len() < 4 {
                seen.push(name);
            }
        }
    }
    Ok((operations, strict))
}

/// What the operations of a patch have made of the object so far.
#[derive(Default)]
struct Limits {
    copied: usize,
    work: usize,
}

impl Limits {
    /// Whether the next operation keeps within the limits.
    fn allow(&mut self, operation: &PatchOperation, object: &Value) -> Result<(), Status> {
        match operation {
            PatchOperation::Add(add) => self.put(add.path.as_str(), &add.value, object),
            PatchOperation::Replace(replace) => self.put(replace.path.as_str(), &replace.value, object),
            PatchOperation::Remove(remove) => self.shift(remove.path.as_str(), object),
            PatchOperation::Test(_) => Ok(()),
            PatchOperation::Move(rename) => {
                self.shift(rename.from.as_str(), object)?;
                self.put_again(rename.from.as_str(), rename.path.as_str(), object)
            }
            PatchOperation::Copy(copy) => {
                self.copied += object.pointer(copy.from.as_str()).map_or(0, encoded_length);
                if self.copied > COPIED_MAX {
                    return Err(copied_too_much(self.copied));
                }
                self.put_again(copy.from.as_str(), copy.path.as_str(), object)
            }
        }
    }

    fn put_again(&mut self, from: &str, path: &str, object: &Value) -> Result<(), Status> {
        let Some(value) = object.pointer(from) else { return Ok(()) };
        self.put(path, value, object)
    }

    /// A value comes to `path`.
    fn put(&mut self, path: &str, value: &Value, object: &Value) -> Result<(), Status> {
        let levels = path.bytes().filter(|byte| *byte == b'/').count();
        let (depth, values) = measure(value);
        if levels + depth > json::MAX_DEPTH {
            return Err(refused(json::TOO_DEEP.to_owned()));
        }
        self.spend(values)?;
        self.shift(path, object)
    }

    /// An item of a list comes or goes at `path`: all behind it move.
    fn shift(&mut self, path: &str, object: &Value) -> Result<(), Status> {
        let Some((list, index)) = path.rsplit_once('/') else { return Ok(()) };
        let Some(Value::Array(items)) = object.pointer(list) else { return Ok(()) };
        let index = index.parse().unwrap_or(items.len());
        // Moving an item costs an eighth of what visiting a value does.
        self.spend(items.len().saturating_sub(index) / 8)
    }

    fn spend(&mut self, values: usize) -> Result<(), Status> {
        self.work += values;
        if self.work > WORK_MAX {
            return Err(refused(format!("the operations of the patch move more than {WORK_MAX} values")));
        }
        Ok(())
    }
}

/// How deep a value nests, and how many values it is made of.
fn measure(value: &Value) -> (usize, usize) {
    let inside = |values: &mut dyn Iterator<Item = &Value>| {
        values
            .map(measure)
            .fold((1, 1), |(depth, count), (inner, values)| (depth.max(inner + 1), count + values))
    };
    match value {
        Value::Array(items) => inside(&mut items.iter()),
        Value::Object(map) => inside(&mut map.values()),
        _ => (0, 1),
    }
}

fn refused(message: String) -> Status {
    let mut status = does_not_fit();
    status.message = message;
    status
}

/// Each copy can double the document: without a limit thirty operations fill the memory.
fn copied_too_much(size: usize) -> Status {
    refused(format!(
        "Unable to complete the copy, the accumulated size increase of copy is {size}, exceeding the limit {COPIED_MAX}"
    ))
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
