//! The v2 document in protobuf: kubectl reads it in no other form.
//!
//! The messages are those of gnostic's `openapiv2/OpenAPIv2.proto`, as far as our
//! documents use them. They follow the JSON closely, so tables say it all: which
//! property becomes which field, and how.

use serde_json::{Map, Value};

/// How a property is written.
#[derive(Debug, Clone, Copy)]
enum Form {
    Text,
    Flag,
    Integer,
    Double,
    /// `Any`: the value as YAML, of which JSON is a part.
    Any,
    /// One field for each item of an array.
    Each(&'static Form),
    Message(&'static Shape),
    /// The message of schemas, which holds itself.
    Schema,
    /// A message that holds nothing but one field, the first.
    Boxed(&'static Form),
    /// A map, as a message of named values.
    Named(&'static Form),
    /// A map, whose named values are field 2 of their message.
    Paths(&'static Form),
    /// A message that stands in one field of a `oneof`, here the one of this number.
    Choice(u32, &'static Form),
    /// `true`, `false` or a schema.
    AdditionalProperties,
    /// A body, query or path parameter.
    Parameter,
    /// A string or an array of strings.
    Type,
}

/// The fields of a message.
#[derive(Debug)]
struct Shape {
    fields: &'static [(&'static str, u32, Form)],
    /// Where properties that begin with `x-` go.
    extensions: u32,
}

const TEXTS: Form = Form::Each(&Form::Text);
const PARAMETERS: Form = Form::Each(&Form::Parameter);

static DOCUMENT: Shape = Shape {
    fields: &[
        ("swagger", 1, Form::Text),
        ("info", 2, Form::Message(&INFO)),
        ("paths", 8, Form::Paths(&Form::Message(&PATH))),
        ("definitions", 9, Form::Named(&Form::Schema)),
        ("security", 12, Form::Each(&Form::Named(&Form::Boxed(&TEXTS)))),
        ("securityDefinitions", 13, Form::Named(&Form::Choice(2, &Form::Message(&API_KEY)))),
    ],
    extensions: 16,
};

static INFO: Shape = Shape { fields: &[("title", 1, Form::Text), ("version", 2, Form::Text)], extensions: 7 };

static API_KEY: Shape = Shape {
    fields: &[
        ("type", 1, Form::Text),
        ("name", 2, Form::Text),
        ("in", 3, Form::Text),
        ("description", 4, Form::Text),
    ],
    extensions: 5,
};

static PATH: Shape = Shape {
    fields: &[
        ("get", 2, Form::Message(&OPERATION)),
        ("put", 3, Form::Message(&OPERATION)),
        ("post", 4, Form::Message(&OPERATION)),
        ("delete", 5, Form::Message(&OPERATION)),
        ("patch", 8, Form::Message(&OPERATION)),
        ("parameters", 9, PARAMETERS),
    ],
    extensions: 10,
};

static OPERATION: Shape = Shape {
    fields: &[
        ("tags", 1, TEXTS),
        ("operationId", 5, Form::Text),
        ("produces", 6, TEXTS),
        ("consumes", 7, TEXTS),
        ("parameters", 8, PARAMETERS),
        ("responses", 9, Form::Named(&Form::Choice(1, &Form::Message(&RESPONSE)))),
    ],
    extensions: 13,
};

static RESPONSE: Shape = Shape {
    fields: &[("description", 1, Form::Text), ("schema", 2, Form::Boxed(&Form::Schema))],
    extensions: 5,
};

static BODY: Shape = Shape {
    fields: &[
        ("name", 2, Form::Text),
        ("in", 3, Form::Text),
        ("required", 4, Form::Flag),
        ("schema", 5, Form::Schema),
    ],
    extensions: 6,
};

static QUERY: Shape = Shape {
    fields: &[
        ("in", 2, Form::Text),
        ("name", 4, Form::Text),
        ("type", 6, Form::Text),
        ("uniqueItems", 20, Form::Flag),
    ],
    extensions: 23,
};

static IN_PATH: Shape = Shape {
    fields: &[
        ("required", 1, Form::Flag),
        ("in", 2, Form::Text),
        ("name", 4, Form::Text),
        ("type", 5, Form::Text),
        ("uniqueItems", 19, Form::Flag),
    ],
    extensions: 22,
};

static SCHEMA: Shape = Shape {
    fields: &[
        ("$ref", 1, Form::Text),
        ("format", 2, Form::Text),
        ("title", 3, Form::Text),
        ("description", 4, Form::Text),
        ("default", 5, Form::Any),
        ("maximum", 7, Form::Double),
        ("minimum", 9, Form::Double),
        ("maxLength", 11, Form::Integer),
        ("minLength", 12, Form::Integer),
        ("pattern", 13, Form::Text),
        ("maxItems", 14, Form::Integer),
        ("minItems", 15, Form::Integer),
        ("uniqueItems", 16, Form::Flag),
        ("required", 19, TEXTS),
        ("enum", 20, Form::Each(&Form::Any)),
        ("additionalProperties", 21, Form::AdditionalProperties),
        ("type", 22, Form::Type),
        ("items", 23, Form::Boxed(&Form::Schema)),
        ("allOf", 24, Form::Each(&Form::Schema)),
        ("properties", 25, Form::Named(&Form::Schema)),
    ],
    extensions: 31,
};

/// A v2 document in JSON as the message `openapi.v2.Document`.
pub(super) fn encode(document: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    message(&mut out, &DOCUMENT, document);
    out
}

fn message(out: &mut Vec<u8>, shape: &Shape, value: &Value) {
    let Some(map) = value.as_object() else { return };
    for (name, number, form) in shape.fields {
        if let Some(value) = map.get(*name) {
            field(out, *number, *form, value);
        }
    }
    for (name, value) in map.iter().filter(|(name, _)| name.starts_with("x-")) {
        named(out, shape.extensions, name, &Form::Any, value);
    }
}

fn field(out: &mut Vec<u8>, number: u32, form: Form, value: &Value) {
    match form {
        Form::Text => bytes(out, number, value.as_str().unwrap_or_default().as_bytes()),
        Form::Flag => integer(out, number, u64::from(value == &Value::Bool(true))),
        Form::Integer => integer(out, number, value.as_u64().unwrap_or_default()),
        Form::Double => {
            key(out, number, 1);
            out.extend_from_slice(&value.as_f64().unwrap_or_default().to_le_bytes());
        }
        Form::Any => nested(out, number, |out| bytes(out, 2, format!("{value}\n").as_bytes())),
        Form::Each(item) => {
            value.as_array().into_iter().flatten().for_each(|value| field(out, number, *item, value));
        }
        Form::Message(shape) => nested(out, number, |out| message(out, shape, value)),
        Form::Schema => nested(out, number, |out| message(out, &SCHEMA, value)),
        Form::Boxed(inner) => nested(out, number, |out| field(out, 1, *inner, value)),
        Form::Named(inner) => nested(out, number, |out| entries(out, 1, inner, value)),
        Form::Paths(inner) => nested(out, number, |out| entries(out, 2, inner, value)),
        Form::Choice(chosen, inner) => nested(out, number, |out| field(out, chosen, *inner, value)),
        Form::AdditionalProperties => nested(out, number, |out| match value {
            Value::Bool(flag) => integer(out, 2, u64::from(*flag)),
            schema => field(out, 1, Form::Schema, schema),
        }),
        Form::Parameter => nested(out, number, |out| nested(out, 1, |out| parameter(out, value))),
        Form::Type => nested(out, number, |out| match value {
            Value::Array(_) => field(out, 1, TEXTS, value),
            one => field(out, 1, Form::Text, one),
        }),
    }
}

fn parameter(out: &mut Vec<u8>, value: &Value) {
    match value["in"].as_str() {
        Some("body") => field(out, 1, Form::Message(&BODY), value),
        Some("path") => field(out, 2, const { Form::Choice(4, &Form::Message(&IN_PATH)) }, value),
        _ => field(out, 2, const { Form::Choice(3, &Form::Message(&QUERY)) }, value),
    }
}

fn entries(out: &mut Vec<u8>, number: u32, form: &Form, map: &Value) {
    let empty = Map::new();
    for (name, value) in map.as_object().unwrap_or(&empty) {
        named(out, number, name, form, value);
    }
}

fn named(out: &mut Vec<u8>, number: u32, name: &str, form: &Form, value: &Value) {
    nested(out, number, |out| {
        bytes(out, 1, name.as_bytes());
        field(out, 2, *form, value);
    });
}

/// Writes a message with its length before it.
fn nested(out: &mut Vec<u8>, number: u32, write: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    write(&mut inner);
    key(out, number, 2);
    varint(out, inner.len() as u64);
    out.append(&mut inner);
}

/// Zero values are left out, as proto3 does.
fn bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    if !bytes.is_empty() {
        key(out, number, 2);
        varint(out, bytes.len() as u64);
        out.extend_from_slice(bytes);
    }
}

fn integer(out: &mut Vec<u8>, number: u32, value: u64) {
    if value != 0 {
        key(out, number, 0);
        varint(out, value);
    }
}

fn key(out: &mut Vec<u8>, number: u32, wire_type: u64) {
    varint(out, u64::from(number) << 3 | wire_type);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The properties of a document that no table names.
    fn unknown(form: Form, value: &Value, found: &mut Vec<String>) {
        match (form, value) {
            (Form::Message(shape), Value::Object(map)) => {
                for (name, value) in map.iter().filter(|(name, _)| !name.starts_with("x-")) {
                    match shape.fields.iter().find(|(known, ..)| known == name) {
                        Some((.., form)) => unknown(*form, value, found),
                        None => found.push(name.clone()),
                    }
                }
            }
            (Form::Schema, value) => unknown(Form::Message(&SCHEMA), value, found),
            (Form::Each(inner), Value::Array(items)) => {
                items.iter().for_each(|item| unknown(*inner, item, found));
            }
            (Form::Named(inner) | Form::Paths(inner), Value::Object(map)) => {
                map.values().for_each(|value| unknown(*inner, value, found));
            }
            (Form::Boxed(inner) | Form::Choice(_, inner), value) => unknown(*inner, value, found),
            (Form::AdditionalProperties, Value::Object(_)) => unknown(Form::Schema, value, found),
            (Form::Parameter, value) => {
                let shape = match value["in"].as_str() {
                    Some("body") => &BODY,
                    Some("path") => &IN_PATH,
                    _ => &QUERY,
                };
                unknown(Form::Message(shape), value, found);
            }
            _ => {}
        }
    }

    #[test]
    fn the_tables_know_every_property_of_our_document() {
        let document: Value =
            serde_json::from_slice(&super::super::v2(crate::kinds::built_in()).body).unwrap();
        let mut found = Vec::new();
        unknown(Form::Message(&DOCUMENT), &document, &mut found);
        assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn a_schema_is_written_as_gnostic_would() {
        let document =
            json!({"definitions": {"A": {"type": "array", "items": {"$ref": "B"}, "x-y": {"k": 1}}}});
        #[rustfmt::skip]
        let expected = [
            // definitions, one named schema with its name
            0x4a, 45, 0x0a, 43, 0x0a, 1, b'A', 0x12, 38,
            // type: array
            0xb2, 0x01, 7, 0x0a, 5, b'a', b'r', b'r', b'a', b'y',
            // items: a schema that is a reference
            0xba, 0x01, 5, 0x0a, 3, 0x0a, 1, b'B',
            // x-y: a name and YAML
            0xfa, 0x01, 17, 0x0a, 3, b'x', b'-', b'y', 0x12, 8 + 2,
            0x12, 8, b'{', b'"', b'k', b'"', b':', b'1', b'}', b'\n',
        ];
        assert_eq!(encode(&document), expected);
    }
}
