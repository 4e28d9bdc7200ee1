//! The paths of a document, from the table of resources.

use serde_json::{Map, Value, json};

use crate::kinds::{Kind, Name, Subresource};

/// Which version of OpenAPI is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    V2,
    V3,
}

const BODY_TYPES: &[&str] = &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

/// What an operation is about.
struct Target<'a> {
    group: &'a str,
    version: &'a str,
    kind: &'a str,
    /// The OpenAPI name of the kind; `None` for text streams and options.
    schema: Option<Name>,
    list: Option<Name>,
    namespaced: bool,
    dialect: Dialect,
}

/// Adds the paths of one resource and its subresources.
pub(super) fn add(paths: &mut Map<String, Value>, resource: &Kind, dialect: Dialect) {
    let base = match &*resource.group {
        "" => format!("/api/{}", resource.version),
        group => format!("/apis/{group}/{}", resource.version),
    };
    let namespaced = format!("{base}/namespaces/{{namespace}}/{}", resource.plural);
    let global = format!("{base}/{}", resource.plural);
    let target = Target::of_resource(resource, dialect);
    let collection = if resource.namespaced { &namespaced } else { &global };
    let verbs = |wanted: &[(&str, Verb)]| -> Vec<Verb> {
        wanted.iter().filter(|(verb, _)| resource.has_verb(verb)).map(|(_, made)| *made).collect()
    };
    let on_collection = verbs(&[
        ("list", Verb::List),
        ("create", Verb::Create),
        ("deletecollection", Verb::DeleteCollection),
    ]);
    put(paths, collection, &on_collection, &target, resource.namespaced);
    if resource.namespaced && resource.has_verb("list") {
        put(paths, &global, &[Verb::List], &target, false);
    }
    let on_item = verbs(&[
        ("get", Verb::Get),
        ("update", Verb::Replace),
        ("patch", Verb::Patch),
        ("delete", Verb::Delete),
    ]);
    let item = format!("{collection}/{{name}}");
    put(paths, &item, &on_item, &target, resource.namespaced);
    for sub in &resource.subresources {
        add_subresource(paths, &item, resource, sub, dialect);
    }
}

fn add_subresource(
    paths: &mut Map<String, Value>,
    item: &str,
    resource: &Kind,
    sub: &Subresource,
    dialect: Dialect,
) {
    let target = Target::of_subresource(resource, sub, dialect);
    let verbs: Vec<Verb> = sub.verbs.iter().filter_map(|verb| Verb::of(verb)).collect();
    put(paths, &format!("{item}/{}", sub.name), &verbs, &target, resource.namespaced);
}

impl Target<'_> {
    fn of_resource(resource: &Kind, dialect: Dialect) -> Target<'_> {
        Target {
            group: &resource.group,
            version: &resource.version,
            kind: &resource.kind,
            schema: Some(resource.schema().name.clone()),
            list: resource.list_definition(),
            namespaced: resource.namespaced,
            dialect,
        }
    }

    fn of_subresource<'a>(resource: &Kind, part: &'a Subresource, dialect: Dialect) -> Target<'a> {
        let schema = resource.schema_of(part).map(|schema| schema.name.clone());
        let (group, version, kind) = (&*part.group, &*part.version, &*part.kind);
        Target { group, version, kind, schema, list: None, namespaced: false, dialect }
    }

    fn reference(&self, name: &str) -> Value {
        match self.dialect {
            Dialect::V2 => json!({ "$ref": format!("#/definitions/{name}") }),
            Dialect::V3 => json!({ "$ref": format!("#/components/schemas/{name}") }),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    List,
    Create,
    DeleteCollection,
    Get,
    Replace,
    Patch,
    Delete,
}

impl Verb {
    fn of(verb: &str) -> Option<Verb> {
        Some(match verb {
            "create" => Verb::Create,
            "get" => Verb::Get,
            "update" => Verb::Replace,
            "patch" => Verb::Patch,
            "delete" => Verb::Delete,
            _ => return None,
        })
    }

    const fn method(self) -> &'static str {
        match self {
            Verb::List | Verb::Get => "get",
            Verb::Create => "post",
            Verb::Replace => "put",
            Verb::Patch => "patch",
            Verb::Delete | Verb::DeleteCollection => "delete",
        }
    }

    /// `x-kubernetes-action`.
    const fn action(self) -> &'static str {
        match self {
            Verb::List => "list",
            Verb::Create => "post",
            Verb::DeleteCollection => "deletecollection",
            Verb::Get => "get",
            Verb::Replace => "put",
            Verb::Patch => "patch",
            Verb::Delete => "delete",
        }
    }

    /// Query parameters with their types.
    const fn parameters(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Verb::Get => &[],
            Verb::List => LIST,
            Verb::Create | Verb::Replace => &[DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION],
            Verb::Patch => &[DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION, ("force", "boolean")],
            Verb::Delete => DELETE,
            Verb::DeleteCollection => DELETE_COLLECTION,
        }
    }
}

const DRY_RUN: (&str, &str) = ("dryRun", "string");
const FIELD_MANAGER: (&str, &str) = ("fieldManager", "string");
const FIELD_VALIDATION: (&str, &str) = ("fieldValidation", "string");
const LIST: &[(&str, &str)] = &[
    ("allowWatchBookmarks", "boolean"),
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("timeoutSeconds", "integer"),
    ("watch", "boolean"),
];
const DELETE: &[(&str, &str)] = &[
    DRY_RUN,
    ("gracePeriodSeconds", "integer"),
    ("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
];
const DELETE_COLLECTION: &[(&str, &str)] = &[
    ("continue", "string"),
    DRY_RUN,
    ("fieldSelector", "string"),
    ("gracePeriodSeconds", "integer"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("timeoutSeconds", "integer"),
];

fn put(paths: &mut Map<String, Value>, path: &str, verbs: &[Verb], target: &Target<'_>, namespaced: bool) {
    if verbs.is_empty() {
        return;
    }
    let mut entry = Map::new();
    for verb in verbs {
        entry.insert(verb.method().to_owned(), operation(*verb, path, target, namespaced));
    }
    let mut shared: Vec<Value> = Vec::new();
    if path.contains("{name}") {
        shared.push(parameter(target.dialect, "name", "string", "path"));
    }
    if path.contains("{namespace}") {
        shared.push(parameter(target.dialect, "namespace", "string", "path"));
    }
    shared.push(parameter(target.dialect, "pretty", "string", "query"));
    entry.insert("parameters".to_owned(), Value::Array(shared));
    paths.insert(path.to_owned(), Value::Object(entry));
}

fn operation(verb: Verb, path: &str, target: &Target<'_>, namespaced: bool) -> Value {
    let query = verb.parameters().iter();
    let mut parameters: Vec<Value> =
        query.map(|(name, ty)| parameter(target.dialect, name, ty, "query")).collect();
    let mut operation = json!({
        "tags": [tag(target)],
        "operationId": operation_id(verb, path, target, namespaced),
        "x-kubernetes-action": verb.action(),
        "x-kubernetes-group-version-kind":
            {"group": target.group, "version": target.version, "kind": target.kind},
        "responses": responses(verb, target),
    });
    if let Some(body) = body_schema(verb, target) {
        match target.dialect {
            Dialect::V2 => {
                parameters.push(json!({"name": "body", "in": "body", "required": true, "schema": body}))
            }
            Dialect::V3 => operation["requestBody"] = json!({ "content": contents(body_types(verb), &body) }),
        }
    }
    if target.dialect == Dialect::V2 {
        operation["consumes"] = json!(body_types(verb));
        operation["produces"] = json!(BODY_TYPES);
    }
    if !parameters.is_empty() {
        operation["parameters"] = Value::Array(parameters);
    }
    operation
}

fn body_types(verb: Verb) -> &'static [&'static str] {
    match verb {
        Verb::Patch => crate::patch::PatchType::MEDIA_TYPES,
        _ => BODY_TYPES,
    }
}

fn body_schema(verb: Verb, target: &Target<'_>) -> Option<Value> {
    match verb {
        Verb::Create | Verb::Replace => target.schema.as_deref().map(|name| target.reference(name)),
        Verb::Patch => Some(target.reference("io.k8s.apimachinery.pkg.apis.meta.v1.Patch")),
        Verb::Delete | Verb::DeleteCollection => {
            Some(target.reference("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"))
        }
        Verb::Get | Verb::List => None,
    }
}

fn responses(verb: Verb, target: &Target<'_>) -> Value {
    let name = match verb {
        Verb::List => target.list.as_deref(),
        Verb::Delete | Verb::DeleteCollection => Some("io.k8s.apimachinery.pkg.apis.meta.v1.Status"),
        _ => target.schema.as_deref(),
    };
    let answer = |text: &str| match (name, target.dialect) {
        (None, _) => json!({ "description": text }),
        (Some(name), Dialect::V2) => json!({"description": text, "schema": target.reference(name)}),
        (Some(name), Dialect::V3) => {
            json!({"description": text, "content": contents(BODY_TYPES, &target.reference(name))})
        }
    };
    let mut out = Map::new();
    out.insert("200".into(), answer("OK"));
    if matches!(verb, Verb::Create | Verb::Replace | Verb::Patch) {
        out.insert("201".into(), answer("Created"));
    }
    if matches!(verb, Verb::Create | Verb::Delete) {
        out.insert("202".into(), answer("Accepted"));
    }
    out.insert("401".into(), json!({"description": "Unauthorized"}));
    Value::Object(out)
}

fn contents(types: &[&str], schema: &Value) -> Value {
    types
        .iter()
        .map(|media_type| ((*media_type).to_owned(), json!({ "schema": schema })))
        .collect::<Map<_, _>>()
        .into()
}

fn parameter(dialect: Dialect, name: &str, ty: &str, place: &str) -> Value {
    let mut parameter = json!({"name": name, "in": place});
    match dialect {
        Dialect::V2 => {
            parameter["type"] = ty.into();
            parameter["uniqueItems"] = true.into();
        }
        Dialect::V3 => parameter["schema"] = json!({"type": ty, "uniqueItems": true}),
    }
    if place == "path" {
        parameter["required"] = true.into();
    }
    parameter
}

/// `core_v1`, `apps_v1`, `rbacAuthorization_v1`.
fn tag(target: &Target<'_>) -> String {
    format!("{}_{}", group_word(target.group), target.version)
}

fn group_word(group: &str) -> String {
    let group = group.strip_suffix(".k8s.io").unwrap_or(group);
    let mut parts = group.split('.');
    let first = parts.next().filter(|part| !part.is_empty()).unwrap_or("core").to_owned();
    parts.fold(first, |word, part| word + &capital(part))
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// `listCoreV1NamespacedPod`, as generated clients name their methods.
fn operation_id(verb: Verb, path: &str, target: &Target<'_>, namespaced: bool) -> String {
    let word = match verb {
        Verb::List => "list",
        Verb::Create => "create",
        Verb::DeleteCollection => "deleteCollection",
        Verb::Get => "read",
        Verb::Replace => "replace",
        Verb::Patch => "patch",
        Verb::Delete => "delete",
    };
    let place = if namespaced { "Namespaced" } else { "" };
    let sub = path.split("{name}/").nth(1).map(capital).unwrap_or_default();
    let everywhere = match verb == Verb::List && !namespaced && !path.contains("{namespace}") {
        true if target.namespaced => "ForAllNamespaces",
        _ => "",
    };
    let group = capital(&group_word(target.group));
    format!("{word}{group}{}{place}{}{sub}{everywhere}", capital(target.version), target.kind)
}
