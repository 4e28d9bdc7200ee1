//! Bodies of requests: objects and patches. The first byte chooses the kind.

use api::apply::Manager;
use api::decode::{self, FieldValidation};
use api::kinds::{self, Kind};
use api::patch::PatchType;
use api::schema::{self, Struct};
use api::{defaults, strategy, table};
use jiff::Timestamp;
use serde_json::{Value, json};

/// Kinds with many rules, and one of each odd shape.
const KINDS: &[(&str, &str)] = &[
    ("v1", "Pod"),
    ("v1", "Service"),
    ("v1", "ConfigMap"),
    ("v1", "Node"),
    ("v1", "PersistentVolume"),
    ("v1", "PersistentVolumeClaim"),
    ("v1", "ResourceQuota"),
    ("v1", "LimitRange"),
    ("apps/v1", "Deployment"),
    ("apps/v1", "StatefulSet"),
    ("apps/v1", "DaemonSet"),
    ("batch/v1", "CronJob"),
    ("discovery.k8s.io/v1", "EndpointSlice"),
    ("networking.k8s.io/v1", "Ingress"),
    ("rbac.authorization.k8s.io/v1", "ClusterRole"),
    ("apiextensions.k8s.io/v1", "CustomResourceDefinition"),
];

fn split(bytes: &[u8]) -> Option<(&'static Kind, &'static Struct, &[u8])> {
    let (first, body) = bytes.split_first()?;
    let (version, kind) = KINDS[usize::from(*first) % KINDS.len()];
    let resource = kinds::by_kind(version, kind).expect("the kinds above are served");
    Some((resource, schema::kind(version, kind).expect("what is served has a schema"), body))
}

fn manager(version: &str) -> Manager<'_> {
    Manager { name: "fuzz", api_version: version, subresource: "", now: Timestamp::UNIX_EPOCH }
}

/// A small object of the kind that is there already.
fn live(resource: &'static Kind, schema: &'static Struct) -> Value {
    let spec = json!({"containers": [{"name": "a", "image": "i"}], "ports": [{"port": 80, "name": "http"}],
        "template": {"spec": {"containers": [{"name": "a", "image": "i"}]}}});
    let object = json!({"metadata": {"name": "n", "labels": {"a": "b"}, "finalizers": ["x/y"]},
        "spec": spec, "data": {"a": "b"}});
    let mut object =
        decode::canonical(schema, &object, FieldValidation::Ignore).map(|it| it.object).unwrap_or_default();
    object["apiVersion"] = resource.api_version().into();
    object["kind"] = (&*resource.kind).into();
    server_side(resource, None, object)
}

/// What the server does with an object that was decoded; every step must stand whatever was said.
fn server_side(resource: &'static Kind, old: Option<&Value>, mut object: Value) -> Value {
    defaults::apply(resource, &mut object);
    match old {
        None => strategy::prepare_create(resource, &mut object),
        Some(old) => strategy::prepare_update(resource, None, &mut object, old),
    }
    let versions = api::apply::Versions::new(resource, kinds::built_in());
    api::apply::update(versions, old, &mut object, manager(resource.api_version()));
    let errors = match old {
        None => strategy::validate_create(resource, &object),
        Some(old) => strategy::validate_update(resource, None, &object, old),
    };
    let _ = (errors.0.len(), strategy::warnings(resource, &object, old));
    table::row(resource, &object).write(Timestamp::UNIX_EPOCH, &mut Vec::new());
    let _ = api::selector::fields(resource, &object);
    let stored = object.to_string();
    let read: Value = serde_json::from_str(&stored).expect("what is stored can be read");
    assert_eq!(read.to_string(), stored, "what is stored is read as it was written");
    object
}

fn body(bytes: &[u8], media_type: &str) {
    let Some((resource, _, body)) = split(bytes) else { return };
    let Ok(decoded) = decode::decode(resource, body, media_type, FieldValidation::Warn) else { return };
    let text = decoded.object.to_string();
    let again = decode::decode(resource, text.as_bytes(), "", FieldValidation::Strict);
    assert_eq!(again.expect("what was decoded is valid").object, decoded.object);
    server_side(resource, None, decoded.object);
}

pub(crate) fn json(bytes: &[u8]) {
    body(bytes, "application/json");
}

pub(crate) fn yaml(bytes: &[u8]) {
    body(bytes, "application/yaml");
}

/// The body without its four letters, and the message as it stands in them: both are tried.
pub(crate) fn protobuf(bytes: &[u8]) {
    body(bytes, api::protobuf::MEDIA_TYPE);
    let Some((first, raw)) = bytes.split_first() else { return };
    let mut length = raw.len();
    let mut wrapped = [&[*first], &b"k8s\0\x12"[..]].concat();
    while length >= 0x80 {
        wrapped.push(length as u8 | 0x80);
        length >>= 7;
    }
    wrapped.push(length as u8);
    wrapped.extend_from_slice(raw);
    body(&wrapped, api::protobuf::MEDIA_TYPE);
}

fn patch(bytes: &[u8], kind: PatchType) {
    let Some((resource, schema, body)) = split(bytes) else { return };
    let old = live(resource, schema);
    if let Ok(decoded) = api::patch::patch(schema, kind, body, &old, FieldValidation::Warn) {
        server_side(resource, Some(&old), decoded.object);
    }
}

pub(crate) fn json_patch(bytes: &[u8]) {
    patch(bytes, PatchType::Json);
}

pub(crate) fn merge_patch(bytes: &[u8]) {
    patch(bytes, PatchType::Merge);
}

pub(crate) fn strategic_patch(bytes: &[u8]) {
    patch(bytes, PatchType::Strategic);
}

/// Applies an intent to what is there, and again: the second time changes nothing.
pub(crate) fn apply(bytes: &[u8]) {
    let Some((resource, schema, body)) = split(bytes) else { return };
    let version = resource.api_version();
    let Ok(intent) = api::apply::intent(schema, version, body) else { return };
    let old = live(resource, schema);
    for live in [None, Some(&old)] {
        if let Ok(once) = api::apply::apply(schema, live, &intent, manager(version), true) {
            let twice = api::apply::apply(schema, Some(&once), &intent, manager(version), true);
            assert_eq!(twice.expect("what was applied can be applied"), once);
        }
    }
}
