//! The three kinds of patch: what they make of an object, and what hostile ones may cost.

use serde_json::json;

use super::*;
use crate::schema;

fn strategic_pod(current: Value, patch: Value) -> Value {
    let pod = schema::kind("v1", "Pod").unwrap();
    strategic(pod, patch.to_string().as_bytes(), &current).unwrap()
}

fn containers(items: Value) -> Value {
    json!({"spec": {"containers": items}})
}

#[test]
fn lists_of_objects_merge_by_key_in_the_order_of_the_patch() {
    let current = containers(json!([{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]));
    let patch = containers(json!([{"name": "b", "image": "2"}, {"name": "c", "image": "3"}]));
    assert_eq!(
        strategic_pod(current, patch),
        containers(
            json!([{"name": "a", "image": "1"}, {"name": "b", "image": "2"}, {"name": "c", "image": "3"}])
        )
    );
}

#[test]
fn directives_delete_and_replace_items_and_lists() {
    let current = containers(json!([{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]));
    let delete = containers(json!([{"name": "a", "$patch": "delete"}]));
    assert_eq!(strategic_pod(current.clone(), delete), containers(json!([{"name": "b", "image": "1"}])));
    let replace = containers(json!([{"$patch": "replace"}, {"name": "z"}]));
    assert_eq!(strategic_pod(current.clone(), replace), containers(json!([{"name": "z"}])));
    let whole = json!({"spec": {"$patch": "replace", "nodeName": "n"}});
    assert_eq!(strategic_pod(current, whole), json!({"spec": {"nodeName": "n"}}));
}

#[test]
fn set_element_order_sorts_and_keeps_what_only_the_server_has() {
    let current = containers(json!([{"name": "a"}, {"name": "server"}, {"name": "b"}]));
    let patch = json!({"spec": {
        "$setElementOrder/containers": [{"name": "b"}, {"name": "a"}],
        "containers": [{"name": "b", "image": "2"}]}});
    assert_eq!(
        strategic_pod(current, patch),
        containers(json!([{"name": "server"}, {"name": "b", "image": "2"}, {"name": "a"}]))
    );
}

#[test]
fn primitive_lists_merge_and_delete() {
    let current = json!({"metadata": {"finalizers": ["a", "b"]}});
    let merged = strategic_pod(current.clone(), json!({"metadata": {"finalizers": ["b", "c"]}}));
    assert_eq!(merged, json!({"metadata": {"finalizers": ["a", "b", "c"]}}));
    let deleted = strategic_pod(
        current,
        json!({"metadata": {
            "$deleteFromPrimitiveList/finalizers": ["a"],
            "$setElementOrder/finalizers": ["b"]}}),
    );
    assert_eq!(deleted, json!({"metadata": {"finalizers": ["b"]}}));
}

#[test]
fn retain_keys_drops_the_other_members_of_a_union() {
    let current = json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}});
    let patch = json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/"}}]}});
    assert_eq!(
        strategic_pod(current.clone(), patch),
        json!({"spec": {"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}})
    );
    let pod = schema::kind("v1", "Pod").unwrap();
    let bad =
        json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name"], "hostPath": {"path": "/"}}]}});
    let error = strategic(pod, bad.to_string().as_bytes(), &current).unwrap_err();
    assert_eq!((error.code(), error.message.as_str()), (400, "invalid patch format of retainKeys"));
}

#[test]
fn nulls_delete_and_are_ignored_where_nothing_is() {
    let current = json!({"metadata": {"labels": {"a": "1", "b": "2"}}});
    let patch = json!({"metadata": {"labels": {"a": null, "z": null}, "annotations": {"x": null, "y": "1"}}});
    assert_eq!(
        strategic_pod(current, patch),
        json!({"metadata": {"labels": {"b": "2"}, "annotations": {"y": "1"}}})
    );
}

#[test]
fn atomic_lists_are_replaced() {
    let current =
        json!({"spec": {"tolerations": [{"key": "a"}], "containers": [{"name": "c", "args": ["1"]}]}});
    let patch =
        json!({"spec": {"tolerations": [{"key": "b"}], "containers": [{"name": "c", "args": ["2"]}]}});
    assert_eq!(strategic_pod(current, patch.clone()), patch);
}

#[test]
fn errors_have_upstreams_codes_and_words() {
    let object =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"a": "b"}});
    let schema = schema::kind("v1", "ConfigMap").unwrap();
    let run = |kind, body: &str| {
        patch(schema, kind, body.as_bytes(), &object, FieldValidation::Strict).expect_err("refused")
    };
    let broken = run(PatchType::Strategic, "{broken");
    assert_eq!(broken.message, "invalid character 'b' looking for beginning of object key string");
    assert_eq!(broken.code(), 400);
    let missing = run(PatchType::Json, r#"[{"op":"remove","path":"/data/none"}]"#);
    assert_eq!(missing.message, "the server rejected our request due to an error in our request");
    assert_eq!((missing.code(), missing.reason), (422, crate::status::Reason::Invalid));
    let array = run(PatchType::Merge, "[]");
    let words = "json: cannot unmarshal array into Go value of type map[string]interface {}";
    assert_eq!(array.message, format!("error decoding patch: {words}"));
    let unknown = run(PatchType::Strategic, r#"{"dat":{"a":"c"}}"#);
    assert_eq!(
        unknown.message,
        " \"\" is invalid: patch: Invalid value: \"map[dat:map[a:c]]\": strict decoding error: unknown field \"dat\""
    );
    let wrong = run(PatchType::Merge, r#"{"data":{"a":1}}"#);
    assert!(
        wrong
            .message
            .ends_with("json: cannot unmarshal number into Go struct field ConfigMap.data of type string")
    );
    let number = run(PatchType::Strategic, r#"{"data":{"a":1}}"#);
    assert!(number.message.ends_with("\"map[data:map[a:1]]\": cannot convert int64 to string"), "{number}");
    let deployment = schema::kind("apps/v1", "Deployment").unwrap();
    let text = patch(
        deployment,
        PatchType::Strategic,
        br#"{"spec":{"replicas":"1"}}"#,
        &json!({}),
        FieldValidation::Warn,
    );
    assert!(text.unwrap_err().message.ends_with("unrecognized type: int32"));
    assert_eq!(PatchType::from_media_type("text/plain").unwrap_err().code(), 415);
}

#[test]
fn merge_and_json_patches_change_the_object() {
    let object =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"a": "b"}});
    let schema = schema::kind("v1", "ConfigMap").unwrap();
    let merged =
        patch(schema, PatchType::Merge, br#"{"data":{"k":"v","a":null}}"#, &object, FieldValidation::Strict);
    assert_eq!(merged.unwrap().object["data"], json!({"k": "v"}));
    let operations =
        br#"[{"op":"test","path":"/data/a","value":"b"},{"op":"replace","path":"/data/a","value":"j"}]"#;
    let patched = patch(schema, PatchType::Json, operations, &object, FieldValidation::Strict);
    assert_eq!(patched.unwrap().object["data"], json!({"a": "j"}));
}

#[test]
fn a_json_patch_that_fails_after_a_move_to_the_root_is_refused() {
    let object =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"a": "b"}});
    let operations = br#"[{"op":"move","from":"/data","path":""},{"op":"remove","path":"/nothing"}]"#;
    assert_eq!(json(operations, &object).unwrap_err().code(), 422);
}

#[test]
fn a_json_patch_that_doubles_the_object_again_and_again_is_refused() {
    let object = json!({"metadata": {"name": "m"}, "data": {"a": "b".repeat(1000)}});
    let copies: Vec<String> =
        (0..40).map(|n| format!(r#"{{"op":"copy","from":"","path":"/data/x{n}"}}"#)).collect();
    let apply = |count: usize| json(format!("[{}]", copies[..count].join(",")).as_bytes(), &object).map(drop);
    let refused = apply(40).unwrap_err();
    assert_eq!(refused.code(), 422);
    assert!(refused.message.contains("exceeding the limit 3145728"), "{}", refused.message);
    assert!(apply(2).is_ok());
}

#[test]
fn what_is_no_json_patch_is_told_in_the_words_of_the_decoder_that_was_asked_for() {
    let schema = schema::kind("v1", "ConfigMap").unwrap();
    let object =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"a": "b"}});
    let refused = |body: &str, validation| {
        let status = patch(schema, PatchType::Json, body.as_bytes(), &object, validation).unwrap_err();
        (status.code(), status.message)
    };
    for (body, words) in [
        ("{}", "json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp"),
        ("[1]", "json: cannot unmarshal number into Go value of type handlers.jsonPatchOp"),
        (r#"[{"op":1}]"#, "json: cannot unmarshal number into Go struct field jsonPatchOp.op of type string"),
        ("[", "unexpected end of JSON input"),
    ] {
        assert_eq!(refused(body, FieldValidation::Warn), (400, format!("error decoding patch: {words}")));
    }
    let lax = refused("{}", FieldValidation::Ignore).1;
    assert_eq!(lax, "json: cannot unmarshal object into Go value of type jsonpatch.Patch");
    let body = br#"[{"op":"test","path":"/data/a","value":"b","bogus":1}]"#;
    let warned = patch(schema, PatchType::Json, body, &object, FieldValidation::Warn).unwrap();
    assert_eq!(warned.warnings, ["json patch unknown field \"[0].bogus\""]);
}

#[test]
fn a_json_patch_that_moves_long_lists_again_and_again_is_refused() {
    let object = json!({"data": (0..200_000).collect::<Vec<_>>()});
    let insert = r#"{"op":"add","path":"/data/0","value":1}"#;
    let refused = json(format!("[{}]", [insert; 9_000].join(",")).as_bytes(), &object).unwrap_err();
    assert_eq!(refused.code(), 422);
    assert!(refused.message.contains("move more than"), "{}", refused.message);
    assert!(json(format!("[{}]", [insert; 100].join(",")).as_bytes(), &object).is_ok());
}

#[test]
fn long_lists_are_merged_in_one_pass() {
    // Each of these took minutes where every item was looked for among all others.
    let numbers = |range: std::ops::Range<usize>| range.map(|n| format!("f{n}")).collect::<Vec<_>>();
    let current = json!({"metadata": {"finalizers": numbers(0..20_000)}});
    let merged = strategic_pod(current.clone(), json!({"metadata": {"finalizers": numbers(10_000..30_000)}}));
    assert_eq!(merged["metadata"]["finalizers"].as_array().unwrap().len(), 30_000);
    let deleted = strategic_pod(
        current,
        json!({"metadata": {"$deleteFromPrimitiveList/finalizers": numbers(1..20_000)}}),
    );
    assert_eq!(deleted["metadata"]["finalizers"], json!(["f0"]));
    let items =
        |range: std::ops::Range<usize>| range.map(|n| json!({"name": n.to_string()})).collect::<Vec<_>>();
    let merged = strategic_pod(
        containers(items(0..20_000).into()),
        json!({"spec": {"containers": items(10_000..30_000), "$setElementOrder/containers": items(10_000..30_000)}}),
    );
    assert_eq!(merged["spec"]["containers"].as_array().unwrap().len(), 30_000);
    let gone: Vec<Value> =
        (0..20_000).map(|n: usize| json!({"name": n.to_string(), "$patch": "delete"})).collect();
    let merged = strategic_pod(containers(items(0..20_001).into()), json!({"spec": {"containers": gone}}));
    assert_eq!(merged, containers(json!([{"name": "20000"}])));
}

#[test]
fn duplicates_below_a_long_key_are_not_written_out_each() {
    let schema = schema::kind("v1", "ConfigMap").unwrap();
    let long = "k".repeat(1 << 20);
    let many = ["\"a\":1"; 200_000].join(",");
    let body = format!("{{\"data\":{{\"{long}\":{{{many}}}}}}}");
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}});
    for kind in [PatchType::Merge, PatchType::Strategic] {
        assert!(patch(schema, kind, body.as_bytes(), &object, FieldValidation::Strict).is_err());
    }
}
