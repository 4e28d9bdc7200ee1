//! OpenAPI v3 and v2 documents.
//!
//! Only the compressed definitions are resident. A document is made when somebody asks:
//! the definitions that its kinds need are picked out of the inflated text, and the
//! paths come from the table of resources. The hash in an index entry covers both, so
//! clients keep documents for ever.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Read as _;
use std::sync::OnceLock;

use ring::digest;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::kinds::{GroupVersion, Kind, Kinds};

mod gnostic;
mod paths;

/// zlib, one JSON object: definitions by name.
static DEFINITIONS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/definitions.z"));

/// The release that the definitions describe.
const VERSION: &str = "v1.36.2";

/// A document as it is sent.
#[derive(Debug, Clone)]
pub struct Document {
    /// JSON, or protobuf for [`v2_protobuf`].
    pub body: Vec<u8>,
    /// For the ETag header (to be quoted) and the `hash` parameter: changes with the body.
    pub hash: String,
}

/// The index `/openapi/v3`: one URL with its hash for each group-version.
pub fn v3_index(kinds: &Kinds) -> Value {
    let mut entries = Map::new();
    for gv in kinds.group_versions() {
        let path = path_of(gv);
        let url = format!("/openapi/v3/{path}?hash={}", hash(3, of_version(kinds, gv)));
        entries.insert(path, json!({ "serverRelativeURL": url }));
    }
    json!({ "paths": entries })
}

/// The hash of a group-version's document without making it, for `If-None-Match`.
/// `path` is what follows `/openapi/v3/`, such as `apis/apps/v1`.
pub fn v3_hash(kinds: &Kinds, path: &str) -> Option<String> {
    let gv = known_path(kinds, path)?;
    Some(hash(3, of_version(kinds, gv)))
}

/// The document of a group-version.
pub fn v3(kinds: &Kinds, path: &str) -> Option<Document> {
    let gv = known_path(kinds, path)?;
    let served: Vec<&Kind> = of_version(kinds, gv).collect();
    let schemas = pick(&definitions(&served), &roots(&served), 3);
    let mut paths = Map::new();
    served.iter().for_each(|kind| paths::add(&mut paths, kind, paths::Dialect::V3));
    let document = json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": VERSION},
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"BearerToken": bearer()}},
    });
    Some(Document { body: document.to_string().into_bytes(), hash: hash(3, served.into_iter()) })
}

/// The hash of [`v2`] without making it.
pub fn v2_hash(kinds: &Kinds) -> String {
    hash(2, every(kinds))
}

/// The one document of OpenAPI v2, all group-versions together.
pub fn v2(kinds: &Kinds) -> Document {
    Document { body: v2_document(kinds).to_string().into_bytes(), hash: v2_hash(kinds) }
}

/// The media types under which clients ask for [`v2_protobuf`]: the first is no valid one
/// and is only asked for, the second is also answered.
pub const V2_PROTOBUF: [&str; 2] = [
    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
];

/// [`v2`] as gnostic's message `openapi.v2.Document`.
pub fn v2_protobuf(kinds: &Kinds) -> Document {
    Document { body: gnostic::encode(&v2_document(kinds)), hash: v2_hash(kinds) }
}

fn v2_document(kinds: &Kinds) -> Value {
    let served: Vec<&Kind> = every(kinds).collect();
    let schemas = pick(&definitions(&served), &roots(&served), 2);
    let mut paths = Map::new();
    served.iter().for_each(|kind| paths::add(&mut paths, kind, paths::Dialect::V2));
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": VERSION},
        "paths": paths,
        "definitions": schemas,
        "security": [{"BearerToken": []}],
        "securityDefinitions": {"BearerToken": bearer()},
    })
}

fn bearer() -> Value {
    json!({"type": "apiKey", "name": "authorization", "in": "header", "description": "Bearer Token authentication"})
}

fn every(kinds: &Kinds) -> impl Iterator<Item = &Kind> {
    kinds.all().iter().map(|kind| &**kind)
}

fn of_version<'a>(kinds: &'a Kinds, gv: &'a GroupVersion) -> impl Iterator<Item = &'a Kind> {
    every(kinds).filter(|kind| kind.group == gv.group && kind.version == gv.version)
}

fn path_of(gv: &GroupVersion) -> String {
    if gv.group.is_empty() { format!("api/{}", gv.version) } else { format!("apis/{}", gv.api_version()) }
}

fn known_path<'a>(kinds: &'a Kinds, path: &str) -> Option<&'a GroupVersion> {
    kinds.group_versions().iter().find(|gv| path_of(gv) == path)
}

/// SHA-512 over everything a document is made from.
fn hash<'a>(dialect: u8, kinds: impl Iterator<Item = &'a Kind>) -> String {
    static BASE: OnceLock<digest::Digest> = OnceLock::new();
    let base = BASE.get_or_init(|| digest::digest(&digest::SHA512, DEFINITIONS));
    let mut context = digest::Context::new(&digest::SHA512);
    context.update(base.as_ref());
    context.update(&[dialect]);
    context.update(env!("CARGO_PKG_VERSION").as_bytes());
    for kind in kinds {
        context.update(format!("{kind:?}").as_bytes());
    }
    context.finish().as_ref().iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02X}");
        hex
    })
}

/// Every definition, as text: those of the build, and what kinds bring.
fn definitions(served: &[&Kind]) -> BTreeMap<String, Box<RawValue>> {
    let mut all = embedded();
    for kind in served {
        let Some(definition) = kind.definition() else { continue };
        let own =
            [(Some(kind.schema().name.clone()), definition.clone()), (kind.list_definition(), list(kind))];
        for (name, definition) in own {
            let text = serde_json::value::to_raw_value(&definition).ok();
            all.extend(name.map(String::from).zip(text));
        }
    }
    all
}

/// The definition of a list of a kind that brings its own.
fn list(kind: &Kind) -> Value {
    let reference = |name: &str| json!({ "$ref": format!("{LOCAL}{name}") });
    let text = json!({"type": "string"});
    json!({
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": text,
            "kind": text,
            "metadata": reference("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta"),
            "items": {"type": "array", "items": reference(&kind.schema().name)},
        },
        "x-kubernetes-group-version-kind":
            [{"group": kind.group, "version": kind.version, "kind": format!("{}List", kind.kind)}],
    })
}

fn embedded() -> BTreeMap<String, Box<RawValue>> {
    let mut text = String::new();
    flate2::read::ZlibDecoder::new(DEFINITIONS).read_to_string(&mut text).expect("the build compressed it");
    serde_json::from_str(&text).expect("the build wrote JSON")
}

/// The definitions that a document begins from.
fn roots(served: &[&Kind]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for kind in served {
        names.insert(kind.schema().name.to_string());
        names.extend(kind.list_definition().map(String::from));
        let parts = kind.subresources.iter().filter_map(|part| kind.schema_of(part));
        names.extend(parts.map(|schema| schema.name.to_string()));
    }
    for kind in ["DeleteOptions", "Status", "WatchEvent"] {
        names.extend(crate::schema::kind("v1", kind).map(|schema| schema.name.to_string()));
    }
    names
}

/// The roots and all they refer to, in the form of a dialect.
fn pick(
    definitions: &BTreeMap<String, Box<RawValue>>,
    roots: &BTreeSet<String>,
    dialect: u8,
) -> Map<String, Value> {
    let mut out = Map::new();
    let mut queue: Vec<String> = roots.iter().cloned().collect();
    queue.push("io.k8s.apimachinery.pkg.apis.meta.v1.Patch".to_owned());
    while let Some(name) = queue.pop() {
        let Some(text) = definitions.get(&name).filter(|_| !out.contains_key(&name)) else { continue };
        let mut schema: Value = serde_json::from_str(text.get()).expect("the build wrote JSON");
        references(&schema, &mut queue);
        match dialect {
            2 => without_defaults(&mut schema),
            _ => to_v3(&name, &mut schema),
        }
        out.insert(name, schema);
    }
    out
}

const LOCAL: &str = "#/definitions/";

fn references(schema: &Value, queue: &mut Vec<String>) {
    match schema {
        Value::Object(map) => {
            let target =
                map.get("$ref").and_then(Value::as_str).and_then(|target| target.strip_prefix(LOCAL));
            queue.extend(target.map(str::to_owned));
            map.values().for_each(|value| references(value, queue));
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, queue)),
        _ => {}
    }
}

/// v2 documents state no zero values.
fn without_defaults(schema: &mut Value) {
    let Value::Object(map) = schema else { return };
    map.remove("default");
    for key in ["items", "additionalProperties"] {
        map.get_mut(key).into_iter().for_each(without_defaults);
    }
    let properties = map.get_mut("properties").and_then(Value::as_object_mut);
    properties.into_iter().flat_map(|map| map.values_mut()).for_each(without_defaults);
}

/// References move to components, and those with anything beside them become `allOf`,
/// because v3 ignores what stands beside a reference.
fn to_v3(name: &str, schema: &mut Value) {
    match name.rsplit('.').next() {
        Some("Quantity") => {
            schema["oneOf"] = json!([{"type": "string"}, {"type": "number"}]);
            schema.as_object_mut().map(|map| map.remove("type"));
        }
        Some("IntOrString") => {
            schema["oneOf"] = json!([{"type": "integer"}, {"type": "string"}]);
            schema.as_object_mut().map(|map| map.remove("type"));
        }
        _ => move_references(schema),
    }
}

fn move_references(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            map.values_mut().for_each(move_references);
            if let Some(Value::String(target)) = map.get("$ref") {
                let moved = format!("#/components/schemas/{}", target.trim_start_matches(LOCAL));
                if map.len() == 1 {
                    map.insert("$ref".into(), moved.into());
                } else {
                    map.remove("$ref");
                    map.insert("allOf".into(), json!([{ "$ref": moved }]));
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(move_references),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::{all, built_in};

    fn document(path: &str) -> Value {
        serde_json::from_slice(&v3(built_in(), path).expect("the group-version is served").body).unwrap()
    }

    fn dangling(document: &Value, prefix: &str, schemas: &Value) -> Vec<String> {
        match document {
            Value::Object(map) => map
                .iter()
                .flat_map(|(key, value)| match (key.as_str(), value) {
                    ("$ref", Value::String(target)) => {
                        let name = target.strip_prefix(prefix).unwrap_or("");
                        schemas.get(name).is_none().then(|| target.clone()).into_iter().collect()
                    }
                    _ => dangling(value, prefix, schemas),
                })
                .collect(),
            Value::Array(items) => items.iter().flat_map(|item| dangling(item, prefix, schemas)).collect(),
            _ => Vec::new(),
        }
    }

    #[test]
    fn every_group_version_of_the_index_has_a_document_without_dangling_references() {
        let index = v3_index(built_in());
        for (path, entry) in index["paths"].as_object().unwrap() {
            let made = v3(built_in(), path).unwrap();
            assert!(entry["serverRelativeURL"].as_str().unwrap().ends_with(&format!("?hash={}", made.hash)));
            let document = document(path);
            let schemas = &document["components"]["schemas"];
            assert_eq!(dangling(&document, "#/components/schemas/", schemas), Vec::<String>::new(), "{path}");
        }
    }

    #[test]
    fn kubectl_finds_kind_schema_and_the_parameter_of_field_validation() {
        let document = document("api/v1");
        let kind = json!([{"group": "", "version": "v1", "kind": "Pod"}]);
        let get = &document["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"]["get"];
        assert_eq!(get["x-kubernetes-group-version-kind"], kind[0]);
        assert_eq!(
            document["components"]["schemas"]["io.k8s.api.core.v1.Pod"]["x-kubernetes-group-version-kind"],
            kind
        );
        let patch = &document["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"]["patch"];
        let names: Vec<_> =
            patch["parameters"].as_array().unwrap().iter().map(|p| p["name"].clone()).collect();
        assert!(names.contains(&json!("fieldValidation")), "{names:?}");
    }

    #[test]
    fn merge_keys_and_enumerations_are_told() {
        let document = document("api/v1");
        let spec = &document["components"]["schemas"]["io.k8s.api.core.v1.PodSpec"]["properties"];
        assert_eq!(spec["containers"]["x-kubernetes-patch-merge-key"], "name");
        assert_eq!(spec["restartPolicy"]["enum"], json!(["Always", "Never", "OnFailure"]));
        assert!(spec["restartPolicy"].get("x-go").is_none());
        assert_eq!(
            spec["affinity"]["allOf"],
            json!([{"$ref": "#/components/schemas/io.k8s.api.core.v1.Affinity"}])
        );
    }

    #[test]
    fn v2_has_every_served_kind_and_no_dangling_reference() {
        let document: Value = serde_json::from_slice(&v2(built_in()).body).unwrap();
        let definitions = &document["definitions"];
        assert_eq!(dangling(&document, LOCAL, definitions), Vec::<String>::new());
        for resource in all() {
            let schema = crate::schema::kind(resource.api_version(), &resource.kind);
            assert!(definitions.get(&*schema.expect(&resource.kind).name).is_some(), "{}", resource.kind);
        }
    }
}
