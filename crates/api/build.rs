//! Turns `openapi/definitions.json` into what the program carries: Rust tables of
//! every type for decoding (in the executable's read-only pages: no memory of its
//! own, nothing to load), and the definitions compressed, for the OpenAPI documents.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;

use serde_json::{Map, Value};

fn main() {
    println!("cargo:rerun-if-changed=openapi/definitions.json");
    println!("cargo:rerun-if-changed=protobuf/numbers.txt");
    println!("cargo:rerun-if-changed=build.rs");
    let text = std::fs::read("openapi/definitions.json").expect("definitions.json is in the repository");
    let mut definitions: Map<String, Value> =
        serde_json::from_slice(&text).expect("definitions.json is JSON");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let numbers = std::fs::read_to_string("protobuf/numbers.txt").expect("numbers.txt is in the repository");
    let tables = tables(&definitions, &messages(&numbers));
    std::fs::write(out.join("schema_tables.rs"), tables).expect("OUT_DIR is writable");
    definitions.values_mut().for_each(strip_go);
    let json = serde_json::to_vec(&definitions).expect("JSON values encode");
    let file = std::fs::File::create(out.join("definitions.z")).expect("OUT_DIR is writable");
    let mut encoder = flate2::write::ZlibEncoder::new(file, flate2::Compression::best());
    encoder.write_all(&json).and_then(|()| encoder.finish().map(drop)).expect("OUT_DIR is writable");
}

/// Go types are for decoding; clients never see them.
fn strip_go(definition: &mut Value) {
    let Some(properties) = definition.get_mut("properties").and_then(Value::as_object_mut) else { return };
    for schema in properties.values_mut().filter_map(Value::as_object_mut) {
        schema.remove("x-go");
    }
}

/// A protobuf message: number, name and (where it holds one) message of each field, in lower case.
type Message<'a> = Vec<(u16, &'a str, Option<&'a str>)>;
type Messages<'a> = BTreeMap<&'a str, Message<'a>>;

fn messages(numbers: &str) -> Messages<'_> {
    let mut messages = Messages::new();
    let mut message = "";
    for line in numbers.lines() {
        let Some(field) = line.strip_prefix(' ') else {
            message = line;
            continue;
        };
        let mut words = field.split_ascii_whitespace();
        let number =
            words.next().and_then(|number| number.parse().ok()).expect("a field begins with its number");
        let name = words.next().expect("a field has a name");
        messages.entry(message).or_default().push((number, name, words.next()));
    }
    messages
}

/// The field numbers of a struct: to which of its fields each belongs. A field that JSON does not
/// name is a Go struct embedded in this one: its fields belong to the same object.
fn numbers(message: &str, fields: &[String], messages: &Messages<'_>) -> String {
    let (mut own, mut embedded) = (Vec::new(), Vec::new());
    for (number, name, holds) in messages.get(message).into_iter().flatten() {
        match (fields.iter().position(|field| field == name), holds) {
            (Some(at), _) => own.push((*number, at)),
            (None, Some(inner)) => embedded.push((*number, numbers(inner, fields, messages))),
            (None, None) => {}
        }
    }
    own.sort_unstable();
    embedded.sort_unstable();
    let embedded: Vec<String> =
        embedded.into_iter().map(|(number, inner)| format!("({number},&{inner})")).collect();
    format!("Numbers{{fields:&{own:?},embedded:&[{}]}}", embedded.join(","))
}

fn tables(definitions: &Map<String, Value>, messages: &Messages<'_>) -> String {
    let index: BTreeMap<&str, usize> =
        definitions.keys().enumerate().map(|(i, name)| (name.as_str(), i)).collect();
    let mut out = String::new();
    let mut kinds = Vec::new();
    for (name, definition) in definitions {
        let number = index[name.as_str()];
        if !reference(name, &index).starts_with("Type::Struct") {
            continue;
        }
        structure(&mut out, number, name, definition, &index, messages);
        for kind in definition["x-kubernetes-group-version-kind"].as_array().into_iter().flatten() {
            let part = |key: &str| kind[key].as_str().unwrap_or_default();
            let api_version = match part("group") {
                "" => part("version").to_owned(),
                group => format!("{group}/{}", part("version")),
            };
            kinds.push((api_version, part("kind").to_owned(), number));
        }
    }
    kinds.sort();
    writeln!(out, "static KINDS: &[(&str, &str, &Struct)] = &[").expect("writing to a string");
    for (api_version, kind, number) in kinds {
        writeln!(out, "({api_version:?},{kind:?},&S{number}),").expect("writing to a string");
    }
    out.push_str("];\n");
    out
}

fn structure(
    out: &mut String,
    number: usize,
    name: &str,
    definition: &Value,
    index: &BTreeMap<&str, usize>,
    messages: &Messages<'_>,
) {
    let go = name.rsplit('.').next().unwrap_or(name);
    let atomic = definition["x-kubernetes-map-type"] == "atomic";
    writeln!(out, "static S{number}: Struct = Struct{{name:Cow::Borrowed({name:?}),go:Cow::Borrowed({go:?}),atomic:{atomic},preserve_unknown:false,fields:Cow::Borrowed(&[")
        .expect("writing to a string");
    let mut fields = Vec::new();
    for (field_name, schema) in definition["properties"].as_object().into_iter().flatten() {
        field(out, field_name, schema, index);
        fields.push(field_name.to_lowercase());
    }
    let numbers = numbers(&name.to_lowercase(), &fields, messages);
    writeln!(out, "]),numbers:{numbers}}};").expect("writing to a string");
}

fn field(out: &mut String, name: &str, schema: &Value, index: &BTreeMap<&str, usize>) {
    let go = schema["x-go"].as_str().unwrap_or("string");
    let (go, option) = go.split_once(' ').unwrap_or((go, ""));
    let omit = match option {
        "omitempty" => "Omit::Empty",
        "omitzero" => "Omit::Zero",
        _ => "Omit::Never",
    };
    let strategy = schema["x-kubernetes-patch-strategy"].as_str().unwrap_or_default();
    writeln!(
        out,
        "Field{{name:Cow::Borrowed({name:?}),go:Cow::Borrowed({:?}),ty:Held::Static({}),pointer:{},omit:{omit},merge_key:{:?},merge:{},retain_keys:{},atomic:{},granular:{},nullable:false,default:None}},",
        go.trim_start_matches('*'),
        type_of(schema, index),
        go.starts_with('*'),
        schema["x-kubernetes-patch-merge-key"].as_str().unwrap_or_default(),
        strategy.split(',').any(|s| s == "merge"),
        strategy.split(',').any(|s| s == "retainKeys"),
        schema["x-kubernetes-map-type"] == "atomic",
        schema["x-kubernetes-map-type"] == "granular",
    )
    .expect("writing to a string");
}

fn type_of(schema: &Value, index: &BTreeMap<&str, usize>) -> String {
    if let Some(target) = schema["$ref"].as_str() {
        return reference(target.trim_start_matches("#/definitions/"), index);
    }
    match (schema["type"].as_str(), schema["format"].as_str()) {
        (Some("array"), _) => format!(
            "Type::List(&List{{item:Held::Static({}),kind:{}}})",
            type_of(&schema["items"], index),
            list_kind(schema)
        ),
        (Some("object"), _) if schema["additionalProperties"].is_object() => format!(
            "Type::Map(&MapOf{{value:Held::Static({}),atomic:{}}})",
            type_of(&schema["additionalProperties"], index),
            schema["x-kubernetes-map-type"] == "atomic"
        ),
        (Some("integer"), Some("int32")) => "Type::Int32".into(),
        (Some("integer"), _) => "Type::Int64".into(),
        (Some("boolean"), _) => "Type::Bool".into(),
        (Some("number"), _) => "Type::Float".into(),
        (Some("string"), Some("byte")) => "Type::Bytes".into(),
        (Some("string"), _) => "Type::String".into(),
        _ => "Type::Any".into(),
    }
}

fn list_kind(schema: &Value) -> String {
    match schema["x-kubernetes-list-type"].as_str() {
        Some("set") => "ListKind::Set".into(),
        Some("map") => {
            let keys: Vec<String> = schema["x-kubernetes-list-map-keys"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|key| Some(format!("Cow::Borrowed({:?})", key.as_str()?)))
                .collect();
            format!("ListKind::Map(Cow::Borrowed(&[{}]))", keys.join(","))
        }
        _ => "ListKind::Atomic".into(),
    }
}

fn reference(target: &str, index: &BTreeMap<&str, usize>) -> String {
    match target.rsplit('.').next().unwrap_or(target) {
        "Quantity" => "Type::Quantity".into(),
        "IntOrString" => "Type::IntOrString".into(),
        "Time" => "Type::Time".into(),
        "MicroTime" => "Type::MicroTime".into(),
        "RawExtension" | "FieldsV1" | "Patch" | "JSON" => "Type::Any".into(),
        "JSONSchemaPropsOrArray" | "JSONSchemaPropsOrBool" | "JSONSchemaPropsOrStringArray" => {
            "Type::Any".into()
        }
        _ => format!("Type::Struct(&S{})", index[target]),
    }
}
