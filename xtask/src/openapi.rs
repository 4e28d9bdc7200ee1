//! `cargo xtask openapi DEFINITIONS`: makes `crates/api/openapi/definitions.json`.
//!
//! ```text
//! upstream's published definitions ─┐
//! openapi/go-types.txt ─────────────┼─ reachable from the served kinds ─ definitions.json
//! openapi/enums.txt ────────────────┘
//! ```
//!
//! DEFINITIONS is `api/openapi-spec/swagger.json` of the Kubernetes release (or the
//! same definitions as JSON Schema, where every optional type says `null` too).
//! Upstream publishes neither enumerations nor Go types there, yet a server shows the
//! first in `kubectl explain` and the second in its error messages: two tables beside
//! this file add them. A field missing in `go-types.txt` follows the conventions of
//! new APIs: optional scalars and objects are pointers with `omitempty`, required
//! fields are values without.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

/// Groups whose stable versions a default server serves, by package prefix.
const SERVED: &[&str] = &[
    "io.k8s.api.",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.",
    "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.",
];

/// Types that appear in answers and bodies without being kinds of a group.
const ALWAYS: &[&str] = &[
    "io.k8s.apimachinery.pkg.apis.meta.v1.APIGroupList",
    "io.k8s.apimachinery.pkg.apis.meta.v1.APIResourceList",
    "io.k8s.apimachinery.pkg.apis.meta.v1.APIVersions",
    "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions",
    "io.k8s.apimachinery.pkg.apis.meta.v1.Patch",
    "io.k8s.apimachinery.pkg.apis.meta.v1.Status",
    "io.k8s.apimachinery.pkg.apis.meta.v1.WatchEvent",
];

type GoTypes = BTreeMap<String, BTreeMap<String, String>>;
type Enums = BTreeMap<String, Vec<(String, String)>>;

/// Reads the published definitions and writes ours. `root` is the workspace.
pub(crate) fn run(definitions: &Path, root: &Path) -> Result<()> {
    let text = std::fs::read_to_string(definitions).with_context(|| definitions.display().to_string())?;
    let mut document: Value = serde_json::from_str(&text)?;
    let key = if document.get("$defs").is_some() { "$defs" } else { "definitions" };
    let Value::Object(source) = document[key].take() else {
        bail!("no definitions in {}", definitions.display())
    };
    let table = |name: &str| std::fs::read_to_string(root.join("xtask/openapi").join(name));
    let go_types = parse_go_types(&table("go-types.txt")?);
    let enums = parse_enums(&table("enums.txt")?);
    let mut out = Map::new();
    for name in reachable(&source) {
        let definition = source.get(&name).with_context(|| format!("{name} is referred to and missing"))?;
        out.insert(name.clone(), adapt(&name, definition.clone(), &go_types, &enums));
    }
    let path = root.join("crates/api/openapi/definitions.json");
    std::fs::write(&path, serde_json::to_string_pretty(&out)? + "\n")?;
    Ok(())
}

fn is_stable(version: &str) -> bool {
    version.strip_prefix('v').is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit()))
}

fn reachable(source: &Map<String, Value>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut queue: Vec<String> = ALWAYS.iter().map(|name| (*name).to_owned()).collect();
    queue.extend(
        source.iter().filter(|(name, definition)| is_served(name, definition)).map(|(name, _)| name.clone()),
    );
    while let Some(name) = queue.pop() {
        if let Some(definition) = source.get(&name) {
            references(definition, &mut queue, &found);
        }
        found.insert(name);
    }
    found
}

fn is_served(name: &str, definition: &Value) -> bool {
    let kinds = definition["x-kubernetes-group-version-kind"].as_array();
    SERVED.iter().any(|prefix| name.starts_with(prefix))
        && kinds.is_some_and(|all| all.iter().any(|kind| kind["version"].as_str().is_some_and(is_stable)))
}

fn references(schema: &Value, queue: &mut Vec<String>, found: &BTreeSet<String>) {
    match schema {
        Value::Object(map) => {
            for (key, value) in map {
                match (key.as_str(), value) {
                    ("$ref", Value::String(target)) => {
                        let name = last_segment(target).to_owned();
                        if !found.contains(&name) && !queue.contains(&name) {
                            queue.push(name);
                        }
                    }
                    _ => references(value, queue, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, queue, found)),
        _ => {}
    }
}

fn last_segment(reference: &str) -> &str {
    reference.rsplit('/').next().unwrap_or(reference)
}

fn adapt(name: &str, mut definition: Value, go_types: &GoTypes, enums: &Enums) -> Value {
    normalise(&mut definition);
    match name.rsplit('.').next() {
        Some("Quantity") => definition = json!({"description": QUANTITY, "type": "string"}),
        Some("IntOrString") => {
            definition = json!({"description": INT_OR_STRING, "type": "string", "format": "int-or-string"})
        }
        _ => {}
    }
    let required: BTreeSet<String> = definition["required"]
        .as_array()
        .map(|names| names.iter().filter_map(|n| n.as_str().map(str::to_owned)).collect())
        .unwrap_or_default();
    let known = go_types.get(name);
    let Some(properties) = definition.get_mut("properties").and_then(Value::as_object_mut) else {
        return definition;
    };
    for (field, schema) in properties.iter_mut() {
        let go = known
            .and_then(|fields| fields.get(field).cloned())
            .unwrap_or_else(|| guess(schema, required.contains(field)));
        add_enum(name, schema, &go, enums);
        add_default(schema, &go);
        if let Some(schema) = schema.as_object_mut() {
            schema.insert("x-go".into(), go.into());
        }
    }
    definition
}

/// `["string","null"]` becomes `"string"`, references become upstream's, and the
/// enumerations that the JSON Schema form puts on apiVersion and kind go.
fn normalise(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if let Some(Value::Array(types)) = map.get("type")
                && let Some(first) = types.iter().find(|t| t.is_string() && *t != "null").cloned()
            {
                map.insert("type".into(), first);
            }
            if map.get("enum").is_some_and(Value::is_array) {
                map.remove("enum");
            }
            if let Some(Value::String(target)) = map.get("$ref") {
                let target = format!("#/definitions/{}", last_segment(target));
                map.insert("$ref".into(), target.into());
            }
            map.values_mut().for_each(normalise);
        }
        Value::Array(items) => items.iter_mut().for_each(normalise),
        _ => {}
    }
}

/// The Go type by convention: see the head of this file.
fn guess(schema: &Value, required: bool) -> String {
    let base = base_type(schema);
    let pointer = !required && !base.starts_with("[]") && !base.starts_with("map[");
    format!("{}{base}{}", if pointer { "*" } else { "" }, if required { "" } else { " omitempty" })
}

fn base_type(schema: &Value) -> String {
    if let Some(target) = schema["$ref"].as_str() {
        let mut parts = last_segment(target).rsplit('.');
        let (kind, package) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        return format!("{package}.{kind}");
    }
    match (schema["type"].as_str(), schema["format"].as_str()) {
        (Some("array"), _) => format!("[]{}", base_type(&schema["items"])),
        (Some("object"), _) => format!("map[string]{}", base_type(&schema["additionalProperties"])),
        (Some("integer"), format) => format.unwrap_or("int64").to_owned(),
        (Some("boolean"), _) => "bool".to_owned(),
        (Some("number"), _) => "float64".to_owned(),
        (Some("string"), Some("byte")) => "[]uint8".to_owned(),
        _ => "string".to_owned(),
    }
}

/// Adds the zero value where upstream states it: required values and structs that are
/// no pointers, and the items of lists.
fn add_default(schema: &mut Value, go: &str) {
    let value = !go.starts_with('*');
    let zero = match (schema["type"].as_str(), schema["$ref"].as_str()) {
        (_, Some(target)) if value && is_plain_struct(target) => Some(json!({})),
        _ if go.ends_with(" omitempty") || !value => None,
        (Some("string"), _) if schema["format"] != "byte" => Some(json!("")),
        (Some("integer"), _) => Some(json!(0)),
        (Some("boolean"), _) => Some(json!(false)),
        _ => None,
    };
    if let Some(zero) = zero {
        schema["default"] = zero;
    }
    match schema["type"].as_str() {
        Some("array") if !go.contains("[]*") => add_default(&mut schema["items"], "item"),
        Some("object") if schema["additionalProperties"].is_object() => {
            add_default(&mut schema["additionalProperties"], "item");
        }
        _ => {}
    }
}

fn is_plain_struct(reference: &str) -> bool {
    let custom =
        ["Time", "MicroTime", "Quantity", "IntOrString", "RawExtension", "FieldsV1", "Patch", "JSON"];
    !custom.contains(&reference.rsplit('.').next().unwrap_or_default())
}

/// Adds `enum` to a string whose Go type is in the table, and the sentence that
/// upstream appends to the description.
fn add_enum(owner: &str, schema: &mut Value, go: &str, enums: &Enums) {
    let go = go.split(' ').next().unwrap_or(go).trim_start_matches('*');
    let in_list = go.starts_with("[]");
    let Some(values) = find_enum(owner, go.trim_start_matches("[]"), enums) else { return };
    let mut text = schema["description"].as_str().unwrap_or_default().to_owned();
    text.push_str("\n\nPossible enum values:");
    for (value, meaning) in values {
        text.push_str(&format!("\n - `\"{value}\"`"));
        if !meaning.is_empty() {
            text.push_str(&format!(" {meaning}"));
        }
    }
    let names: Vec<&str> = values.iter().map(|(value, _)| value.as_str()).collect();
    let target = if in_list { &mut schema["items"] } else { &mut *schema };
    if target["type"] == "string" {
        target["enum"] = json!(names);
        if !in_list {
            schema["description"] = text.into();
        }
    }
}

fn find_enum<'a>(owner: &str, go: &str, enums: &'a Enums) -> Option<&'a Vec<(String, String)>> {
    let (_, kind) = go.split_once('.')?;
    let package = owner.strip_prefix("io.k8s.api.")?.rsplit_once('.')?.0.replace('.', "/");
    enums.get(&format!("{package}.{kind}")).or_else(|| enums.get(&format!("core/v1.{kind}")))
}

fn parse_go_types(text: &str) -> GoTypes {
    let mut types = GoTypes::new();
    let mut owner = String::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        match line.strip_prefix("  ").and_then(|field| field.split_once(' ')) {
            Some((field, go)) => {
                types.entry(owner.clone()).or_default().insert(field.to_owned(), go.to_owned());
            }
            None => owner = line.to_owned(),
        }
    }
    types
}

fn parse_enums(text: &str) -> Enums {
    let mut enums = Enums::new();
    let mut owner = String::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        match line.strip_prefix("  ") {
            Some(entry) => {
                let (value, meaning) = entry.split_once(' ').unwrap_or((entry, ""));
                enums
                    .entry(owner.clone())
                    .or_default()
                    .push((value.trim_matches('"').to_owned(), meaning.to_owned()));
            }
            None => owner = line.to_owned(),
        }
    }
    for values in enums.values_mut() {
        values.sort();
    }
    enums
}

const QUANTITY: &str = include_str!("../openapi/quantity.txt");
const INT_OR_STRING: &str = include_str!("../openapi/int-or-string.txt");
