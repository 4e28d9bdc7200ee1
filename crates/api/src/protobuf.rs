//! Objects in protobuf, as typed Go clients send them (`kubectl create`, every controller).
//!
//! ```text
//! "k8s\0" Unknown{typeMeta, raw} ─ schema (number → field → type) ─ JSON value
//! ```
//!
//! Only reading: such clients take JSON answers, and say so in their Accept header.
//! The wire format is that of protobuf 2 (varints, 64-bit, length-delimited, 32-bit);
//! fields nobody knows are skipped, as upstream skips them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use crate::json;
use crate::schema::{self, Field, Numbers, Omit, Struct, Type};

/// The media type.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
/// What every body begins with.
const MAGIC: &[u8] = b"k8s\0";
/// No object of ours is nested deeper; a body that is, is an attack.
const DEPTH_MAX: usize = 64;

/// Why a body cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// It does not begin as such bodies do.
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    Magic,
    /// It ends inside a field.
    #[error("unexpected EOF")]
    Truncated,
    /// A field has a wire type that its message cannot have.
    #[error("proto: wrong wireType = {0}")]
    WireType(u8),
    /// It names a kind that has no schema.
    #[error("no kind \"{kind}\" is registered for version \"{api_version}\"")]
    Kind {
        /// As sent.
        api_version: String,
        /// As sent.
        kind: String,
    },
    /// It is of a type whose protobuf form this program does not know.
    #[error("no protobuf form is known of {0}, send it as JSON")]
    Unknown(String),
    /// Free-form JSON in it cannot be read.
    #[error("{0}")]
    Json(String),
    /// It nests deeper than any object does.
    #[error("exceeded max depth")]
    Depth,
}

/// The object of a body, as its JSON would be. Where the body names no kind, `api_version` and `kind` do.
pub fn read(body: &[u8], api_version: &str, kind: &str) -> Result<Value, Error> {
    let mut unknown = Fields(body.strip_prefix(MAGIC).ok_or(Error::Magic)?);
    let (mut raw, mut sent) = (&[][..], (String::new(), String::new()));
    while let Some((number, field)) = unknown.next()? {
        match number {
            1 => sent = type_meta(field.bytes()?)?,
            2 => raw = field.bytes()?,
            _ => {}
        }
    }
    let or = |sent: String, default: &str| if sent.is_empty() { default.to_owned() } else { sent };
    let (api_version, kind) = (or(sent.0, api_version), or(sent.1, kind));
    let Some(schema) = schema::kind(&api_version, &kind) else {
        return Err(Error::Kind { api_version, kind });
    };
    let mut object = Map::new();
    whole(raw, schema, &mut object, 0)?;
    object.insert("apiVersion".into(), api_version.into());
    object.insert("kind".into(), kind.into());
    Ok(Value::Object(object))
}

fn type_meta(bytes: &[u8]) -> Result<(String, String), Error> {
    let (mut api_version, mut kind) = (String::new(), String::new());
    let mut fields = Fields(bytes);
    while let Some((number, field)) = fields.next()? {
        match number {
            1 => api_version = text(field.bytes()?),
            2 => kind = text(field.bytes()?),
            _ => {}
        }
    }
    Ok((api_version, kind))
}

/// Reads the message of a struct. Without its numbers nothing of it would be kept.
fn whole(bytes: &[u8], schema: &Struct, into: &mut Map<String, Value>, depth: usize) -> Result<(), Error> {
    let numbers = &schema.numbers;
    if numbers.fields.is_empty()
        && numbers.embedded.is_empty()
        && !schema.fields.is_empty()
        && !bytes.is_empty()
    {
        return Err(Error::Unknown(schema.go.to_string()));
    }
    message(bytes, numbers, schema, into, depth)
}

/// Reads a message into the object of its struct. A field that JSON does not name is a Go struct
/// embedded in this one: its fields belong to the same object.
fn message(
    bytes: &[u8],
    numbers: &Numbers,
    schema: &Struct,
    into: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), Error> {
    if depth > DEPTH_MAX {
        return Err(Error::Depth);
    }
    let mut fields = Fields(bytes);
    while let Some((number, wire)) = fields.next()? {
        if let Ok(at) = numbers.fields.binary_search_by_key(&number, |field| field.0.into()) {
            put(wire, &schema.fields[usize::from(numbers.fields[at].1)], into, depth)?;
        } else if let Ok(at) = numbers.embedded.binary_search_by_key(&number, |inner| inner.0.into()) {
            message(wire.bytes()?, numbers.embedded[at].1, schema, into, depth + 1)?;
        }
    }
    Ok(())
}

/// Adds an occurrence of a field to its object.
fn put(wire: Wire<'_>, field: &Field, into: &mut Map<String, Value>, depth: usize) -> Result<(), Error> {
    let Some(value) = value(wire, field.ty.get(), into.remove(&*field.name), depth)? else { return Ok(()) };
    let zero = !field.pointer && field.omit != Omit::Never && is_zero(&value);
    if !zero {
        into.insert(field.name.to_string(), value);
    }
    Ok(())
}

/// What Go's encoder leaves out of a field that is no pointer.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

/// The value of a field; `before` is what earlier occurrences made (lists and maps grow).
fn value(wire: Wire<'_>, ty: Type<'_>, before: Option<Value>, depth: usize) -> Result<Option<Value>, Error> {
    Ok(Some(match ty {
        Type::Bool => Value::Bool(wire.number()? != 0),
        Type::Int32 | Type::Int64 => (wire.number()? as i64).into(),
        Type::Float => {
            serde_json::Number::from_f64(f64::from_bits(wire.number()?)).map_or(Value::Null, Value::Number)
        }
        Type::String => text(wire.bytes()?).into(),
        Type::Bytes => STANDARD.encode(wire.bytes()?).into(),
        Type::Time | Type::MicroTime => return time(wire.bytes()?, matches!(ty, Type::MicroTime)),
        Type::Quantity => text(first(wire.bytes()?, 1)?.map_or(Ok(&[][..]), Wire::bytes)?).into(),
        Type::IntOrString => int_or_string(wire.bytes()?)?,
        Type::Any => {
            let Some(raw) = first(wire.bytes()?, 1)?.map(Wire::bytes).transpose()? else { return Ok(None) };
            if raw.is_empty() {
                return Ok(None);
            }
            json::parse(raw).map_err(Error::Json)?.into_value()
        }
        Type::Struct(schema) => {
            let mut object = match before {
                Some(Value::Object(object)) => object,
                _ => Map::new(),
            };
            whole(wire.bytes()?, schema, &mut object, depth + 1)?;
            Value::Object(object)
        }
        Type::List(list) => return list_item(wire, list.item.get(), before, depth).map(Some),
        Type::Map(map) => return map_entry(wire.bytes()?, map.value.get(), before, depth).map(Some),
    }))
}

fn list_item(wire: Wire<'_>, item: Type<'_>, before: Option<Value>, depth: usize) -> Result<Value, Error> {
    let mut items = match before {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    };
    let scalar = matches!(item, Type::Bool | Type::Int32 | Type::Int64);
    match (scalar, wire) {
        (true, Wire::Bytes(packed)) => {
            let mut rest = packed;
            while !rest.is_empty() {
                items.extend(value(Wire::Number(varint(&mut rest)?), item, None, depth)?);
            }
        }
        (_, wire) => items.extend(value(wire, item, None, depth)?),
    }
    Ok(Value::Array(items))
}

fn map_entry(bytes: &[u8], of: Type<'_>, before: Option<Value>, depth: usize) -> Result<Value, Error> {
    let mut map = match before {
        Some(Value::Object(map)) => map,
        _ => Map::new(),
    };
    let key = text(first(bytes, 1)?.map_or(Ok(&[][..]), Wire::bytes)?);
    let wire = first(bytes, 2)?.unwrap_or(Wire::Bytes(&[]));
    // A list as a value is a message around the list (ExtraValue{items}).
    let entry = match of {
        Type::List(list) => {
            let mut items = Value::Array(Vec::new());
            let mut fields = Fields(wire.bytes()?);
            while let Some((_, field)) = fields.next()? {
                items = list_item(field, list.item.get(), Some(items), depth)?;
            }
            Some(items)
        }
        other => value(wire, other, None, depth + 1)?,
    };
    map.insert(key, entry.unwrap_or(Value::Null));
    Ok(Value::Object(map))
}

/// Seconds and nanoseconds since 1970; a message without seconds is Go's zero time, which is nothing in JSON.
fn time(bytes: &[u8], micro: bool) -> Result<Option<Value>, Error> {
    let seconds = first(bytes, 1)?.map(Wire::number).transpose()?;
    let nanos = first(bytes, 2)?.map(Wire::number).transpose()?.unwrap_or(0);
    let Some(seconds) = seconds else { return Ok(None) };
    let at = jiff::Timestamp::new(seconds as i64, nanos as i32).ok();
    Ok(at.map(|at| if micro { format!("{at:.6}").into() } else { format!("{at:.0}").into() }))
}

fn int_or_string(bytes: &[u8]) -> Result<Value, Error> {
    let kind = first(bytes, 1)?.map(Wire::number).transpose()?.unwrap_or(0);
    if kind == 0 {
        return Ok((first(bytes, 2)?.map(Wire::number).transpose()?.unwrap_or(0) as i64).into());
    }
    Ok(text(first(bytes, 3)?.map_or(Ok(&[][..]), Wire::bytes)?).into())
}

/// Go replaces what is not UTF-8 when it encodes JSON; so do we.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The last occurrence of a field in a small message.
fn first(bytes: &[u8], wanted: u32) -> Result<Option<Wire<'_>>, Error> {
    let (mut fields, mut found) = (Fields(bytes), None);
    while let Some((number, field)) = fields.next()? {
        if number == wanted {
            found = Some(field);
        }
    }
    Ok(found)
}

/// A field's value before its type is known.
#[derive(Debug, Clone, Copy)]
enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Wire<'a> {
    fn number(self) -> Result<u64, Error> {
        match self {
            Wire::Number(number) => Ok(number),
            Wire::Bytes(_) => Err(Error::WireType(2)),
        }
    }

    fn bytes(self) -> Result<&'a [u8], Error> {
        match self {
            Wire::Bytes(bytes) => Ok(bytes),
            Wire::Number(_) => Err(Error::WireType(0)),
        }
    }
}

/// The fields of a message, one after another.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn next(&mut self) -> Result<Option<(u32, Wire<'a>)>, Error> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = varint(&mut self.0)?;
        let number = u32::try_from(key >> 3).map_err(|_| Error::Truncated)?;
        let field = match (key & 7) as u8 {
            0 => Wire::Number(varint(&mut self.0)?),
            1 => Wire::Number(fixed::<8>(&mut self.0).map(u64::from_le_bytes)?),
            2 => {
                let length = usize::try_from(varint(&mut self.0)?).map_err(|_| Error::Truncated)?;
                let (bytes, rest) = self.0.split_at_checked(length).ok_or(Error::Truncated)?;
                self.0 = rest;
                Wire::Bytes(bytes)
            }
            5 => Wire::Number(fixed::<4>(&mut self.0).map(u32::from_le_bytes)?.into()),
            other => return Err(Error::WireType(other)),
        };
        Ok(Some((number, field)))
    }
}

fn fixed<const N: usize>(from: &mut &[u8]) -> Result<[u8; N], Error> {
    let (bytes, rest) = from.split_first_chunk::<N>().ok_or(Error::Truncated)?;
    *from = rest;
    Ok(*bytes)
}

fn varint(from: &mut &[u8]) -> Result<u64, Error> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = from.split_first().ok_or(Error::Truncated)?;
        *from = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(Error::Truncated)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, bytes.len() as u8], bytes].concat()
    }

    fn body(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let meta = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
        [MAGIC, &field(1, &meta), &field(2, raw)].concat()
    }

    #[test]
    fn a_config_map_of_kubectl_is_read() {
        let metadata = [field(1, b"a"), field(2, b""), field(8, b"")].concat();
        let raw = [field(1, &metadata), field(2, &[field(1, b"k"), field(2, b"v")].concat())].concat();
        let object = read(&body("v1", "ConfigMap", &raw), "v1", "ConfigMap").expect("read");
        assert_eq!(
            object,
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"}})
        );
    }

    #[test]
    fn an_embedded_struct_belongs_to_the_object_around_it() {
        let volume = [field(1, b"m"), field(2, &field(2, &field(1, b"Memory")))].concat();
        let raw = field(2, &field(1, &volume));
        let object = read(&body("v1", "Pod", &raw), "v1", "Pod").expect("read");
        assert_eq!(object["spec"]["volumes"], json!([{"name": "m", "emptyDir": {"medium": "Memory"}}]));
    }

    #[test]
    fn every_message_of_the_kinds_we_serve_has_numbers() {
        // The crate the numbers come from is of an earlier minor; what became v1 since has none.
        let newer = "io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicy";
        let missing: Vec<&str> = schema::kinds()
            .filter(|(version, ..)| !version.contains("beta") && !version.contains("alpha"))
            .filter(|(.., schema)| schema.name.starts_with("io.k8s.api.") && !schema.name.starts_with(newer))
            .filter(|(.., schema)| !schema.numbers.fields.iter().any(|field| field.0 == 1))
            .map(|(.., schema)| &*schema.name)
            .collect();
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn a_cut_body_is_an_error() {
        let whole = body("v1", "ConfigMap", &field(1, &field(1, b"a")));
        assert_eq!(read(&whole[..whole.len() - 1], "v1", "ConfigMap"), Err(Error::Truncated));
        assert_eq!(read(b"{}", "v1", "ConfigMap"), Err(Error::Magic));
    }

    #[test]
    fn what_has_no_known_form_is_refused_and_not_emptied() {
        let spec = field(2, &field(1, b"example.com"));
        let sent = body("apiextensions.k8s.io/v1", "CustomResourceDefinition", &spec);
        let version = "apiextensions.k8s.io/v1";
        let refused = read(&sent, version, "CustomResourceDefinition");
        assert_eq!(refused, Err(Error::Unknown("CustomResourceDefinition".to_owned())));
    }

    #[test]
    fn free_form_json_that_cannot_be_read_is_an_error() {
        let sent = |fields: &[u8]| {
            let entry = field(7, &field(1, fields));
            // The number 17 takes two bytes.
            let managed = [&[0x8a, 0x01, entry.len() as u8], &*entry].concat();
            body("v1", "ConfigMap", &field(1, &managed))
        };
        assert!(read(&sent(b"{}"), "v1", "ConfigMap").is_ok());
        assert!(matches!(read(&sent(b"{"), "v1", "ConfigMap"), Err(Error::Json(_))));
    }

    #[test]
    fn a_body_of_a_million_fields_is_read_in_one_pass() {
        // Two bytes each, of a field that nobody knows, of one known, and of a list's empty items.
        for tiny in [[0x28u8, 1], [0x0a, 0], [0x12, 0]] {
            let raw = tiny.repeat(1 << 20);
            let length = raw.len();
            let prefix = [
                0x12,
                length as u8 & 0x7f | 0x80,
                (length >> 7) as u8 & 0x7f | 0x80,
                (length >> 14) as u8 & 0x7f | 0x80,
                (length >> 21) as u8,
            ];
            let sent =
                [MAGIC, &field(1, &[field(1, b"v1"), field(2, b"Pod")].concat()), &prefix, &raw].concat();
            assert!(read(&sent, "v1", "Pod").is_ok());
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_fail_other_than_by_an_error(raw in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&body("v1", "Pod", &raw[..raw.len().min(120)]), "v1", "Pod");
        }
    }
}
