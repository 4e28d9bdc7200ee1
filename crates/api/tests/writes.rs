//! Properties of the ways to write an object: decode, patch, apply.

use api::apply::{self, Manager};
use api::decode::{self, FieldValidation};
use api::patch::{self, PatchType};
use api::{kinds, schema};
use jiff::Timestamp;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// Any JSON with keys that a Pod knows among others, so that the walk goes deep.
fn any_json() -> impl Strategy<Value = Value> {
    let key = prop_oneof![
        Just("metadata".to_owned()),
        Just("spec".to_owned()),
        Just("containers".to_owned()),
        Just("name".to_owned()),
        Just("ports".to_owned()),
        Just("resources".to_owned()),
        Just("limits".to_owned()),
        Just("creationTimestamp".to_owned()),
        Just("$patch".to_owned()),
        Just("$retainKeys".to_owned()),
        Just("$setElementOrder/containers".to_owned()),
        "[a-z$/]{0,6}",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
        Just(json!("delete")),
        Just(json!("2024-02-30T00:00:00Z")),
    ];
    leaf.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(Value::from),
            btree_map(key.clone(), inner, 0..6).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Containers with distinct names, in any order.
fn containers() -> impl Strategy<Value = Vec<Value>> {
    let container = btree_map("[a-e]", "[1-3]", 0..3).prop_map(|env| {
        env.into_iter().map(|(name, value)| json!({"name": name, "value": value})).collect::<Vec<_>>()
    });
    btree_map("[a-h]", (container, "[x-z]"), 0..6)
        .prop_map(|map| {
            let made = map.into_iter().map(|(name, (env, image))| {
                let mut container = json!({"name": name, "image": image});
                if !env.is_empty() {
                    container["env"] = env.into();
                }
                container
            });
            made.collect::<Vec<_>>()
        })
        .prop_shuffle()
}

fn data() -> impl Strategy<Value = Value> {
    btree_map("[a-f]", "[0-2]", 0..6).prop_map(|map| {
        Value::Object(map.into_iter().map(|(key, value)| (key, value.into())).collect::<Map<_, _>>())
    })
}

fn pod(containers: &[Value]) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": containers}})
}

fn names(items: &[Value]) -> Vec<Value> {
    items.iter().map(|item| json!({"name": item["name"]})).collect()
}

/// The strategic patch that a client computes to get from one list of containers to another.
fn difference(old: &[Value], new: &[Value]) -> Value {
    let mut changes: Vec<Value> = new.to_vec();
    for change in &mut changes {
        let before = old.iter().find(|item| item["name"] == change["name"]);
        let env = |item: &Value| item["env"].as_array().cloned().unwrap_or_default();
        let gone = before.map(env).unwrap_or_default();
        let kept = env(change);
        let mut patched = kept.clone();
        for variable in gone.iter().filter(|v| !kept.iter().any(|k| k["name"] == v["name"])) {
            patched.push(json!({"name": variable["name"], "$patch": "delete"}));
        }
        if !patched.is_empty() {
            change["env"] = patched.into();
            change["$setElementOrder/env"] = names(&kept).into();
        }
    }
    for gone in old.iter().filter(|item| !new.iter().any(|kept| kept["name"] == item["name"])) {
        changes.push(json!({"name": gone["name"], "$patch": "delete"}));
    }
    json!({"spec": {"$setElementOrder/containers": names(new), "containers": changes}})
}

fn without_empty_env(mut object: Value) -> Value {
    for container in object["spec"]["containers"].as_array_mut().into_iter().flatten() {
        if container["env"].as_array().is_some_and(Vec::is_empty) {
            container.as_object_mut().map(|container| container.remove("env"));
        }
    }
    object
}

fn manager(name: &'static str, second: i64) -> Manager<'static> {
    Manager { name, api_version: "v1", subresource: "", now: Timestamp::from_second(second).unwrap() }
}

proptest! {
    #[test]
    fn no_body_makes_decoding_panic(body in vec(any::<u8>(), 0..200)) {
        let pods = kinds::find("", "v1", "pods").unwrap();
        for media_type in ["application/json", "application/yaml"] {
            let _ = decode::decode(pods, &body, media_type, FieldValidation::Strict);
        }
    }

    #[test]
    fn decoding_is_idempotent_and_never_panics(body in any_json()) {
        let pods = kinds::find("", "v1", "pods").unwrap();
        if let Ok(once) = decode::decode(pods, body.to_string().as_bytes(), "", FieldValidation::Warn) {
            let twice = decode::decode(pods, once.object.to_string().as_bytes(), "", FieldValidation::Strict);
            prop_assert_eq!(twice.expect("what was decoded is valid").object, once.object);
        }
    }

    #[test]
    fn no_patch_panics(patch in any_json(), current in containers()) {
        let schema = schema::kind("v1", "Pod").unwrap();
        for kind in [PatchType::Json, PatchType::Merge, PatchType::Strategic] {
            let _ = patch::patch(schema, kind, patch.to_string().as_bytes(), &pod(&current), FieldValidation::Warn);
        }
        if let Ok(intent) = apply::intent(schema, "v1", patch.to_string().as_bytes()) {
            let _ = apply::apply(schema, Some(&pod(&current)), &intent, manager("x", 0), true);
        }
    }

    #[test]
    fn a_computed_strategic_patch_leads_to_the_wanted_object(old in containers(), new in containers()) {
        let schema = schema::kind("v1", "Pod").unwrap();
        let patch = difference(&old, &new).to_string();
        let patched = patch::strategic(schema, patch.as_bytes(), &pod(&old)).unwrap();
        prop_assert_eq!(without_empty_env(patched), pod(&new));
    }

    #[test]
    fn applying_twice_is_applying_once(live in data(), intent in data(), other in data()) {
        let schema = schema::kind("v1", "ConfigMap").unwrap();
        let object = |data: &Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": data});
        let live = apply::apply(schema, None, &object(&live), manager("a", 0), true).unwrap();
        let live = apply::apply(schema, Some(&live), &object(&other), manager("b", 1), true).unwrap();
        let once = apply::apply(schema, Some(&live), &object(&intent), manager("a", 2), true).unwrap();
        let twice = apply::apply(schema, Some(&once), &object(&intent), manager("a", 3), false).unwrap();
        prop_assert_eq!(&twice, &once);
        for (key, value) in intent.as_object().unwrap() {
            prop_assert_eq!(&once["data"][key], value);
        }
    }

    #[test]
    fn applied_containers_are_all_there_and_the_others_stay(live in containers(), intent in containers()) {
        let schema = schema::kind("v1", "Pod").unwrap();
        let object = apply::apply(schema, None, &pod(&live), manager("a", 0), true).unwrap();
        let object = apply::apply(schema, Some(&object), &pod(&intent), manager("b", 1), true).unwrap();
        let result = object["spec"]["containers"].as_array().cloned().unwrap_or_default();
        for item in live.iter().chain(&intent) {
            prop_assert_eq!(result.iter().filter(|made| made["name"] == item["name"]).count(), 1);
        }
    }
}
