//! One walk over a body, driven by the schema: what Go's decoder followed by Go's
//! encoder would make of it.
//!
//! Unknown fields go, nulls go, zero values go or stay by the field's JSON options,
//! quantities and times become canonical. Like Go, the walk continues after a value of
//! the wrong type and reports the first; a value that a type's own decoder refuses
//! (a quantity, a time) ends it at once.

use std::collections::HashSet;
use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::embedded::embedded;
use super::scalar;
use crate::apply;
use crate::json::{self, Node};
use crate::schema::{Field, List, ListKind, Omit, Struct, Type};

/// The most strict errors that are kept; upstream stops there too.
const STRICT_MAX: usize = 100;

/// How many bytes of complaints are written at most, kept or not: each names its whole path, and a
/// body of short fields below one long key would otherwise be work by the square of its size.
const COMPLAINTS_MAX: usize = 1 << 20;

/// Deepest nesting of an object. What is recorded of it in `managedFields` nests up to five levels
/// deeper and must pass here again with the next write: for that the limit is [`json::MAX_DEPTH`].
const OBJECT_DEPTH_MAX: usize = json::MAX_DEPTH - 12;

/// What came out of a walk.
#[derive(Debug)]
pub(super) struct Walked {
    pub(super) value: Value,
    /// `unknown field "…"` and `duplicate field "…"`, in the order of the body.
    pub(super) strict: Vec<String>,
}

/// What the walk is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Purpose {
    /// A whole object: absent fields get Go's zero values where its encoder writes them.
    #[default]
    Object,
    /// The result of a strategic merge patch, which upstream converts without JSON in
    /// between: errors have its converter's words and end the walk.
    Converted,
    /// The intent of an apply: only what was said; errors have structured-merge-diff's words.
    Intent,
}

/// Reads `node` as `schema`. The error is the sentence of Go's decoder.
pub(super) fn walk(node: Node<'_>, schema: &Struct, purpose: Purpose) -> Result<Walked, String> {
    let mut walker = Walker { purpose, depth_max: OBJECT_DEPTH_MAX, ..Walker::default() };
    let go = go_name(Type::Struct(schema));
    let value = walker.value(node, Type::Struct(schema), &go)?;
    match walker.errors.as_slice() {
        [] => {
            Ok(Walked { value: value.unwrap_or_else(|| zero(Type::Struct(schema))), strict: walker.strict })
        }
        [one] => Err(one.clone()),
        many => Err(format!("errors:\n  {}", many.join("\n  "))),
    }
}

#[derive(Default)]
struct Walker<'s> {
    purpose: Purpose,
    strict: Vec<String>,
    /// Wrong types: Go's decoder reports the first, structured-merge-diff all of them.
    errors: Vec<String>,
    /// Bytes of complaints so far.
    complained: usize,
    /// Lists and objects that are open, and how many may be.
    depth: usize,
    depth_max: usize,
    /// The Go struct that is being read, and the names of the fields that lead there.
    context: Option<&'s str>,
    fields: Vec<&'s str>,
    /// The place for strict errors, with list indexes and map keys: `spec.containers[0]`.
    path: String,
}

impl<'s> Walker<'s> {
    /// The canonical value; `None` stands for Go's zero value.
    fn value(&mut self, node: Node<'_>, ty: Type<'s>, go: &str) -> Result<Option<Value>, String> {
        if matches!(node, Node::Null) {
            return Ok(None);
        }
        match (ty, node) {
            (Type::Any, node) => {
                self.fits(node.depth())?;
                Ok(Some(node.into_value()))
            }
            (Type::Struct(schema), Node::Object(entries)) => self.open(|it| it.structure(schema, entries)),
            (Type::List(list), Node::Array(items)) => self.open(|it| it.list(list, items, go)),
            (Type::Map(map), Node::Object(entries)) => self.open(|it| it.map(map.value.get(), entries, go)),
            (ty, node) => self.scalar(node, ty, go),
        }
    }

    /// Whether so many more levels are allowed here.
    fn fits(&self, levels: usize) -> Result<(), String> {
        if self.depth + levels > self.depth_max { Err(json::TOO_DEEP.to_owned()) } else { Ok(()) }
    }

    /// Reads a list or object, one level deeper.
    fn open(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<Value, String>,
    ) -> Result<Option<Value>, String> {
        self.fits(1)?;
        self.depth += 1;
        let value = read(self)?;
        self.depth -= 1;
        Ok(Some(value))
    }

    fn scalar(&mut self, node: Node<'_>, ty: Type<'s>, go: &str) -> Result<Option<Value>, String> {
        match (ty, node) {
            (Type::Bool, Node::Bool(value)) => Ok(Some(Value::Bool(value))),
            (Type::String, Node::String(text)) => Ok(Some(Value::String(text.into_owned()))),
            (Type::Int32, Node::Number(text)) => {
                self.integer(text.parse::<i32>().ok().map(i64::from), &text, go)
            }
            (Type::Int64, Node::Number(text)) => self.integer(text.parse().ok(), &text, go),
            (Type::Float, Node::Number(text)) => Ok(Node::Number(text).into_value().into()),
            (Type::Bytes, Node::String(text)) => Ok(self.saved(scalar::bytes(&text))),
            (Type::Quantity, node) => scalar::quantity(&node).map(Some),
            (Type::Time, Node::String(text)) => scalar::time(&text).map(Some),
            (Type::MicroTime, Node::String(text)) => scalar::micro_time(&text).map(Some),
            (Type::Time | Type::MicroTime, node) => Err(self.type_error(node.go_word(), "string")),
            (Type::IntOrString, Node::String(text)) => Ok(Some(Value::String(text.into_owned()))),
            (Type::IntOrString, Node::Number(text)) => match text.parse::<i32>() {
                Ok(number) => Ok(Some(number.into())),
                Err(_) => Err(self.type_error(&format!("number {text}"), "int32")),
            },
            (Type::IntOrString, node) => Err(self.type_error(node.go_word(), "int32")),
            (ty, node) => {
                match self.purpose {
                    Purpose::Object => self.mistyped(node.go_word(), go),
                    Purpose::Converted => return Err(not_convertible(ty, &node, go)),
                    Purpose::Intent => self.misplaced(|| expected(ty, node)),
                }
                Ok(None)
            }
        }
    }

    fn integer(&mut self, number: Option<i64>, text: &str, go: &str) -> Result<Option<Value>, String> {
        if number.is_none() && self.purpose == Purpose::Converted {
            return converted_integer(text, go).map(|number| number.map(Value::from));
        }
        if number.is_none() {
            self.mistyped(&format!("number {text}"), go);
        }
        Ok(number.map(Value::from))
    }

    fn saved(&mut self, result: Result<Value, String>) -> Option<Value> {
        result.map_err(|error| self.errors.is_empty().then(|| self.errors.push(error))).ok()
    }

    /// Remembers the first value of a wrong type, as Go's decoder does.
    fn mistyped(&mut self, word: &str, go: &str) {
        if self.errors.is_empty() {
            let error = self.type_error(word, go);
            self.errors.push(error);
        }
    }

    /// Remembers a value that cannot be placed, as structured-merge-diff does.
    fn misplaced(&mut self, why: impl FnOnce() -> String) {
        if self.errors.len() >= STRICT_MAX || self.complained > COMPLAINTS_MAX {
            return;
        }
        let error = format!(".{}: {}", self.path, why());
        self.complained += error.len();
        self.errors.push(error);
    }

    fn type_error(&self, word: &str, go: &str) -> String {
        match self.context {
            Some(owner) => {
                let path = self.fields.join(".");
                format!("json: cannot unmarshal {word} into Go struct field {owner}.{path} of type {go}")
            }
            None => format!("json: cannot unmarshal {word} into Go value of type {go}"),
        }
    }

    fn structure(
        &mut self,
        schema: &'s Struct,
        entries: Vec<(std::borrow::Cow<'_, str>, Node<'_>)>,
    ) -> Result<Value, String> {
        let mut read: Vec<Option<Value>> = vec![None; schema.fields.len()];
        let mut seen = vec![false; schema.fields.len()];
        let mut unknown = Map::new();
        let outer = (self.context, self.depth_max);
        if schema.go == "ManagedFieldsEntry" {
            self.depth_max = json::MAX_DEPTH;
        }
        for (key, node) in entries {
            let Ok(at) = schema.fields.binary_search_by(|field| (*field.name).cmp(&key)) else {
                match schema.preserve_unknown {
                    true => self.preserve(&key, node, &mut unknown)?,
                    false => self.unknown(&key),
                }
                continue;
            };
            let field = &schema.fields[at];
            if std::mem::replace(&mut seen[at], true) {
                self.strict("duplicate field", &field.name);
            }
            self.context = Some(&schema.go);
            let outside = self.fields.len();
            self.fields.extend(embedded(&schema.go, &field.name));
            self.fields.push(&field.name);
            let length = self.enter_key(&field.name);
            let null = (field.nullable && matches!(node, Node::Null)).then_some(Value::Null);
            read[at] = self.value(node, field.ty.get(), &field.go)?.or(null);
            self.path.truncate(length);
            self.fields.truncate(outside);
        }
        (self.context, self.depth_max) = outer;
        let mut known = match self.purpose {
            Purpose::Object | Purpose::Converted => encode(schema, read),
            Purpose::Intent => said(schema, read),
        };
        known.extend(unknown);
        Ok(Value::Object(known))
    }

    /// Keeps a field that the schema does not name, as it is.
    fn preserve(&mut self, key: &str, node: Node<'_>, into: &mut Map<String, Value>) -> Result<(), String> {
        self.fits(node.depth())?;
        if into.insert(key.to_owned(), node.into_value()).is_some() {
            self.strict("duplicate field", key);
        }
        Ok(())
    }

    fn list(&mut self, list: &'s List, items: Vec<Node<'_>>, go: &str) -> Result<Value, String> {
        let item = list.item.get();
        let fallback;
        let go = match go.strip_prefix("[]") {
            Some(inner) => inner.trim_start_matches('*'),
            None => {
                fallback = go_name(item);
                &fallback
            }
        };
        let mut out = Vec::with_capacity(items.len());
        let mut seen = HashSet::new();
        for (index, node) in items.into_iter().enumerate() {
            let length = self.path.len();
            if self.purpose == Purpose::Intent && list.kind != ListKind::Atomic {
                match self.place(&node, index, &list.kind, &mut seen) {
                    Some(shown) => self.path.push_str(&shown),
                    None => break,
                }
            } else {
                write!(self.path, "[{index}]").expect("writing to a string");
            }
            out.push(self.value(node, item, go)?.unwrap_or_else(|| zero(item)));
            self.path.truncate(length);
        }
        Ok(Value::Array(out))
    }

    /// How an applied item of a set or a list of keyed objects is named in paths. Two of one name are
    /// an error; an item without a name ends the list, as in structured-merge-diff.
    fn place(
        &mut self,
        node: &Node<'_>,
        index: usize,
        kind: &ListKind,
        seen: &mut HashSet<String>,
    ) -> Option<String> {
        let element = match item_element(node, kind) {
            Ok(element) => element,
            Err(why) => {
                self.misplaced(|| format!("element {index}: {why}"));
                return None;
            }
        };
        let shown = apply::display_element(&element);
        if !seen.insert(element) {
            self.misplaced(|| format!("duplicate entries for key {shown}"));
        }
        Some(shown)
    }

    fn map(
        &mut self,
        ty: Type<'s>,
        entries: Vec<(std::borrow::Cow<'_, str>, Node<'_>)>,
        go: &str,
    ) -> Result<Value, String> {
        let fallback;
        let go = match go.strip_prefix("map[").and_then(|rest| rest.split_once(']')) {
            Some((_, inner)) => inner.trim_start_matches('*'),
            None => {
                fallback = go_name(ty);
                &fallback
            }
        };
        let mut out = Map::new();
        for (key, node) in entries {
            if out.contains_key(key.as_ref()) {
                self.strict("duplicate field", &key);
            }
            let length = self.enter_key(&key);
            let value = self.value(node, ty, go)?.unwrap_or_else(|| zero_in_map(ty));
            self.path.truncate(length);
            out.insert(key.into_owned(), value);
        }
        Ok(Value::Object(out))
    }

    /// Goes one name deeper; returns the length to come back to.
    fn enter_key(&mut self, key: &str) -> usize {
        let length = self.path.len();
        if length > 0 {
            self.path.push('.');
        }
        self.path.push_str(key);
        length
    }

    fn unknown(&mut self, key: &str) {
        if self.purpose != Purpose::Intent {
            return self.strict("unknown field", key);
        }
        let length = self.enter_key(key);
        self.misplaced(|| "field not declared in schema".to_owned());
        self.path.truncate(length);
    }

    fn strict(&mut self, what: &str, key: &str) {
        if self.strict.len() >= STRICT_MAX || self.complained > COMPLAINTS_MAX {
            return;
        }
        let dot = if self.path.is_empty() { "" } else { "." };
        let error = format!("{what} \"{}{dot}{key}\"", self.path);
        self.complained += error.len();
        if !self.strict.contains(&error) {
            self.strict.push(error);
        }
    }
}

/// The fields that were said, and no others.
fn said(schema: &Struct, read: Vec<Option<Value>>) -> Map<String, Value> {
    let fields = schema.fields.iter().zip(read);
    fields.filter_map(|(field, value)| Some((field.name.to_string(), value?))).collect()
}

/// What identifies an applied item among its like; reads no more of it than that.
fn item_element(item: &Node<'_>, kind: &ListKind) -> Result<String, String> {
    let value = match (kind, item) {
        (ListKind::Map(keys), Node::Object(_)) => {
            let keys = keys.iter().filter_map(|key| Some((key.to_string(), item.get(key)?.clone())));
            Value::Object(keys.map(|(key, value)| (key, value.into_value())).collect())
        }
        (ListKind::Map(_), Node::Null) => {
            return Err("associative list with keys may not have a null element".to_owned());
        }
        (ListKind::Map(_), _) => {
            return Err("associative list with keys may not have non-map elements".to_owned());
        }
        (_, Node::Null) => {
            return Err("associative list without keys has an element that's an explicit null".to_owned());
        }
        (_, Node::Object(_)) => {
            return Err("associative list without keys has an element that's a map type".to_owned());
        }
        (_, Node::Array(_)) => {
            return Err("not supported: associative list with lists as elements".to_owned());
        }
        (_, scalar) => scalar.clone().into_value(),
    };
    apply::list_element(&value, kind)
}

/// A number that is no integer of the type as it is written: upstream's converter takes
/// a float without fraction for one.
fn converted_integer(text: &str, go: &str) -> Result<Option<i64>, String> {
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    let most = if go == "int32" { f64::from(i32::MAX) } else { EXACT_MAX };
    match text.parse::<f64>() {
        Ok(float) if float.fract() == 0.0 && float.abs() <= most => Ok(Some(float as i64)),
        _ if text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-') => {
            Err(format!("cannot convert int64 to {go}"))
        }
        _ => Err(format!("cannot convert float64 to {go}")),
    }
}

/// The complaint of upstream's converter about a value of the wrong type.
fn not_convertible(ty: Type<'_>, node: &Node<'_>, go: &str) -> String {
    let from = match node {
        Node::Number(text) if text.parse::<i64>().is_ok() => "int64",
        Node::Number(_) => "float64",
        Node::Array(_) => "slice",
        Node::Object(_) => "map",
        other => other.go_word(),
    };
    match ty {
        Type::Struct(_) => format!("cannot restore struct from: {from}"),
        Type::Map(_) => format!("cannot restore map from {from}"),
        Type::List(_) | Type::Bytes => format!("cannot restore slice from {from}"),
        // Go can convert an integer to a string (as a code point), and the converter refuses.
        Type::String if from == "int64" => format!("cannot convert int64 to {go}"),
        Type::String => "unrecognized type: string".to_owned(),
        _ => format!("unrecognized type: {}", go_name(ty)),
    }
}

/// The complaint of structured-merge-diff about a value of the wrong type.
fn expected(ty: Type<'_>, node: Node<'_>) -> String {
    let value = node.into_value();
    match ty {
        Type::Struct(_) | Type::Map(_) => format!("expected map, got &{{{}}}", plain(&value)),
        Type::List(_) => format!("expected list, got &{{{}}}", plain(&value)),
        Type::Bool => format!("expected boolean, got &{{{}}}", plain(&value)),
        Type::Int32 | Type::Int64 | Type::Float => {
            "expected numeric (int or float), got *value.valueUnstructured".to_owned()
        }
        _ => format!("expected string, got &value.valueUnstructured{{Value:{value}}}"),
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// What Go's encoder writes for a struct whose fields have these values.
fn encode(schema: &Struct, read: Vec<Option<Value>>) -> Map<String, Value> {
    let mut out = Map::new();
    for (field, value) in schema.fields.iter().zip(read) {
        if let Some(value) = encode_field(field, value) {
            out.insert(field.name.to_string(), value);
        }
    }
    out
}

fn encode_field(field: &Field, value: Option<Value>) -> Option<Value> {
    match value {
        Some(value) if field.pointer || field.omit == Omit::Never => Some(value),
        Some(value) => (!is_empty(&value, field.ty.get())).then_some(value),
        None if field.pointer => (field.omit == Omit::Never).then_some(Value::Null),
        None => match (field.omit, field.ty.get()) {
            (Omit::Zero, _) => None,
            // `omitempty` never leaves out a struct, and these are structs in Go.
            (_, Type::Struct(_) | Type::Time | Type::MicroTime | Type::Quantity | Type::IntOrString) => {
                Some(zero(field.ty.get()))
            }
            (Omit::Empty, _) => None,
            (Omit::Never, _) => Some(zero(field.ty.get())),
        },
    }
}

/// Empty in the sense of `omitempty`.
fn is_empty(value: &Value, ty: Type<'_>) -> bool {
    match (ty, value) {
        (Type::Bool, Value::Bool(value)) => !value,
        (Type::String | Type::Bytes, Value::String(text)) => text.is_empty(),
        (Type::Int32 | Type::Int64 | Type::Float, Value::Number(number)) => number.as_f64() == Some(0.0),
        (Type::List(_), Value::Array(items)) => items.is_empty(),
        (Type::Map(_), Value::Object(map)) => map.is_empty(),
        _ => false,
    }
}

/// Go's zero value of a type, encoded. Struct types cannot contain themselves by value
/// in Go, so this ends.
pub(super) fn zero(ty: Type<'_>) -> Value {
    match ty {
        Type::Bool => false.into(),
        Type::Int32 | Type::Int64 | Type::IntOrString | Type::Float => 0.into(),
        Type::String => "".into(),
        Type::Quantity => "0".into(),
        Type::Struct(schema) => Value::Object(encode(schema, vec![None; schema.fields.len()])),
        Type::Bytes | Type::Time | Type::MicroTime | Type::Any | Type::List(_) | Type::Map(_) => Value::Null,
    }
}

/// What a null in a map is. Bytes and lists come back from upstream's store as empty ones, and typed
/// readers outside Go know no null there.
fn zero_in_map(ty: Type<'_>) -> Value {
    match ty {
        Type::Bytes => "".into(),
        Type::List(_) => Value::Array(Vec::new()),
        ty => zero(ty),
    }
}

/// The Go name of a type where no field tells it.
fn go_name(ty: Type<'_>) -> String {
    match ty {
        Type::Bool => "bool".into(),
        Type::Int32 => "int32".into(),
        Type::Int64 => "int64".into(),
        Type::Float => "float64".into(),
        Type::String => "string".into(),
        Type::Bytes => "[]uint8".into(),
        Type::Time => "v1.Time".into(),
        Type::MicroTime => "v1.MicroTime".into(),
        Type::Quantity => "resource.Quantity".into(),
        Type::IntOrString => "intstr.IntOrString".into(),
        Type::Any => "interface {}".into(),
        Type::Struct(schema) => {
            let mut parts = schema.name.rsplit('.');
            let kind = parts.next().unwrap_or_default();
            format!("{}.{kind}", parts.next().unwrap_or_default())
        }
        Type::List(list) => format!("[]{}", go_name(list.item.get())),
        Type::Map(map) => format!("map[string]{}", go_name(map.value.get())),
    }
}
