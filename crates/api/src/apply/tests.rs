//! Who owns what after creates, updates and applies, and which conflicts are told.

use serde_json::json;

use super::*;
use crate::schema;

fn config_map() -> &'static Struct {
    schema::kind("v1", "ConfigMap").unwrap()
}

/// The update of an object that is written in the version it is stored in.
fn update(schema: &Struct, old: Option<&Value>, new: &mut Value, manager: Manager<'_>) {
    let kinds = crate::kinds::built_in();
    let kind =
        kinds.all().iter().find(|kind| kind.is_storage() && kind.schema().name == schema.name).unwrap();
    super::update(Versions::new(kind, kinds), old, new, manager);
}

fn by(name: &'static str, second: i64) -> Manager<'static> {
    Manager { name, api_version: "v1", subresource: "", now: Timestamp::from_second(second).unwrap() }
}

/// A ConfigMap; null for no data.
fn map(data: Value) -> Value {
    let mut map =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ssa", "namespace": "d"}});
    if !data.is_null() {
        map["data"] = data;
    }
    map
}

fn managers(object: &Value) -> Vec<(String, String, Value)> {
    let list = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    list.iter().map(|e| (text(&e["manager"]), text(&e["operation"]), e["fieldsV1"].clone())).collect()
}

fn applied(live: Option<&Value>, data: Value, name: &'static str, second: i64) -> Value {
    apply(config_map(), live, &map(data), by(name, second), false).unwrap()
}

#[test]
fn a_create_owns_what_it_says_with_dots_for_new_maps() {
    let mut object =
        decode::canonical(config_map(), &map(json!({"k1": "v1"})), decode::FieldValidation::Ignore)
            .unwrap()
            .object;
    update(config_map(), None, &mut object, by("kubectl-create", 0));
    assert_eq!(
        object["metadata"]["managedFields"],
        json!([{"manager": "kubectl-create", "operation": "Update", "apiVersion": "v1",
            "time": "1970-01-01T00:00:00Z", "fieldsType": "FieldsV1",
            "fieldsV1": {"f:data": {".": {}, "f:k1": {}}}}])
    );
}

#[test]
fn an_update_moves_changed_fields_and_forgets_removed_ones() {
    let mut old = map(json!({"a": "1", "b": "1"}));
    update(config_map(), None, &mut old, by("one", 0));
    let mut new = map(json!({"a": "2", "c": "3"}));
    update(config_map(), Some(&old), &mut new, by("two", 1));
    assert_eq!(
        managers(&new),
        [
            ("one".into(), "Update".into(), json!({"f:data": {}})),
            ("two".into(), "Update".into(), json!({"f:data": {"f:a": {}, "f:c": {}}})),
        ]
    );
}

#[test]
fn apply_conflicts_name_field_and_manager_and_force_takes_over() {
    let live = applied(None, json!({"owner": "first", "shared": "a"}), "one", 0);
    let status =
        apply(config_map(), Some(&live), &map(json!({"shared": "b"})), by("two", 1), false).unwrap_err();
    assert_eq!(status.code(), 409);
    assert_eq!(status.message, "Apply failed with 1 conflict: conflict with \"one\": .data.shared");
    let causes = &status.details.as_ref().unwrap().causes;
    assert_eq!(
        (causes[0].reason.as_ref(), causes[0].field.as_str()),
        ("FieldManagerConflict", ".data.shared")
    );
    let forced = apply(config_map(), Some(&live), &map(json!({"shared": "b"})), by("two", 1), true).unwrap();
    assert_eq!(forced["data"], json!({"owner": "first", "shared": "b"}));
    assert_eq!(
        managers(&forced),
        [
            ("one".into(), "Apply".into(), json!({"f:data": {"f:owner": {}}})),
            ("two".into(), "Apply".into(), json!({"f:data": {"f:shared": {}}})),
        ]
    );
}

#[test]
fn several_conflicts_are_listed_by_manager() {
    let mut live = map(json!({"a": "1", "b": "1"}));
    update(config_map(), None, &mut live, by("kubectl-create", 0));
    let status =
        apply(config_map(), Some(&live), &map(json!({"a": "2", "b": "2"})), by("x", 1), false).unwrap_err();
    assert_eq!(
        status.message,
        "Apply failed with 2 conflicts: conflicts with \"kubectl-create\" using v1:\n- .data.a\n- .data.b"
    );
}

#[test]
fn what_is_no_longer_applied_goes_unless_others_own_it() {
    let live = applied(None, json!({"mine": "1", "ours": "1"}), "one", 0);
    let live = applied(Some(&live), json!({"ours": "1"}), "two", 1);
    let live = applied(Some(&live), Value::Null, "one", 2);
    assert_eq!(live["data"], json!({"ours": "1"}));
    assert_eq!(managers(&live).iter().map(|m| m.0.as_str()).collect::<Vec<_>>(), ["two"]);
    let live = applied(Some(&live), Value::Null, "two", 3);
    assert!(live.get("data").is_none());
}

#[test]
fn applying_again_changes_nothing_not_even_the_time() {
    let live = applied(None, json!({"a": "1"}), "one", 0);
    assert_eq!(applied(Some(&live), json!({"a": "1"}), "one", 100), live);
    let mut again = live.clone();
    again["metadata"]["managedFields"][0]["time"] = "2030-01-01T00:00:00Z".into();
    keep_times(&live, &mut again);
    assert_eq!(again, live);
}

#[test]
fn a_new_time_stays_when_anything_else_is_new_too() {
    let live = applied(None, json!({"a": "1"}), "one", 0);
    let time = Value::from("2030-01-01T00:00:00Z");
    let edits: [fn(&mut Value); 4] = [
        |object| object["data"]["a"] = "2".into(),
        |object| object["metadata"]["labels"] = json!({"a": "b"}),
        |object| object["metadata"]["managedFields"][0]["manager"] = "two".into(),
        |object| drop(object.as_object_mut().map(|object| object.remove("data"))),
    ];
    for edit in edits {
        let mut new = live.clone();
        new["metadata"]["managedFields"][0]["time"] = time.clone();
        edit(&mut new);
        keep_times(&live, &mut new);
        assert_eq!(new["metadata"]["managedFields"][0]["time"], time);
    }
}

#[test]
fn list_items_are_owned_by_key_and_ports_default_to_tcp() {
    let pod = schema::kind("v1", "Pod").unwrap();
    let body = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [
        {"name": "c", "image": "i", "ports": [{"containerPort": 80}]}]}});
    let intent = intent(pod, "v1", body.to_string().as_bytes()).unwrap();
    let object = apply(pod, None, &intent, by("x", 0), false).unwrap();
    assert_eq!(
        managers(&object)[0].2,
        json!({"f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {
            ".": {}, "f:name": {}, "f:image": {},
            "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}}}}}})
    );
    let other =
        json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [{"name": "d", "image": "j"}]}});
    let both = apply(pod, Some(&object), &other, by("y", 1), false).unwrap();
    let names: Vec<_> =
        both["spec"]["containers"].as_array().unwrap().iter().map(|c| c["name"].clone()).collect();
    assert_eq!(names, ["c", "d"]);
}

#[test]
fn intents_that_do_not_fit_the_schema_are_told_in_upstreams_words() {
    let pod = schema::kind("v1", "Pod").unwrap();
    let body = b"apiVersion: v1\nkind: Pod\nspec: {containers: [{name: c, imag: x}]}";
    let status = intent(pod, "v1", body).unwrap_err();
    assert_eq!(status.code(), 500);
    assert_eq!(
        status.message,
        "failed to create typed patch object (/; /v1, Kind=Pod): \
         .spec.containers[name=\"c\"].imag: field not declared in schema"
    );
    let keyless = b"{metadata: {name: p, namespace: a}, spec: {containers: [{image: x}]}}";
    assert_eq!(
        intent(pod, "v1", keyless).unwrap_err().message,
        "failed to create typed patch object (a/p; /v1, Kind=Pod): .spec.containers: element 0: associative \
         list with keys has an element that omits key field \"name\" (and doesn't have default value)"
    );
    assert_eq!(intent(pod, "v2", b"{\"apiVersion\":\"v1\"}").unwrap_err().code(), 400);
}

#[test]
fn a_device_that_is_not_shared_is_keyed_without_its_share() {
    let claim = schema::kind("resource.k8s.io/v1", "ResourceClaim").unwrap();
    let version = "resource.k8s.io/v1";
    let body = b"{apiVersion: resource.k8s.io/v1, kind: ResourceClaim, metadata: {name: c},
        status: {devices: [{driver: d, pool: p, device: x}]}}";
    let intent = intent(claim, version, body).unwrap();
    let by = Manager { api_version: version, subresource: "status", ..by("x", 0) };
    let object = apply(claim, None, &intent, by, false).unwrap();
    let fields = &managers(&object)[0].2["f:status"]["f:devices"];
    let key = r#"k:{"device":"x","driver":"d","pool":"p"}"#;
    assert!(fields.get(key).is_some(), "{fields}");
}

#[test]
fn a_port_without_protocol_stands_beside_one_of_its_number() {
    let service = schema::kind("v1", "Service").unwrap();
    let applied = |live: Option<&Value>, ports: &str, second| {
        let body =
            format!("{{apiVersion: v1, kind: Service, metadata: {{name: s}}, spec: {{ports: [{ports}]}}}}");
        apply(service, live, &intent(service, "v1", body.as_bytes()).unwrap(), by("x", second), false)
            .unwrap()
    };
    let tcp = "{name: t, port: 53, targetPort: 5353}";
    let live = applied(None, tcp, 0);
    let both = applied(Some(&live), &format!("{tcp}, {{name: u, port: 53, protocol: UDP}}"), 1);
    assert_eq!(both["spec"]["ports"].as_array().unwrap().len(), 2);
    let ports = &managers(&both)[0].2["f:spec"]["f:ports"];
    assert!(ports.get(r#"k:{"port":53,"protocol":"TCP"}"#).is_some(), "{ports}");
    let udp = applied(Some(&both), "{name: u, port: 53, protocol: UDP}", 2);
    assert_eq!(udp["spec"]["ports"][0]["name"], "u");
    assert_eq!(udp["spec"]["ports"].as_array().unwrap().len(), 1);
}

/// A Pod with these variables in its one container.
fn with_variables(env: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "env": env}]}})
}

/// What a manager owns of the variable `A`.
fn owned_of_a(object: &Value, manager: usize) -> Value {
    let containers = &managers(object)[manager].2["f:spec"]["f:containers"];
    containers[r#"k:{"name":"c"}"#]["f:env"][r#"k:{"name":"A"}"#].clone()
}

#[test]
fn items_that_share_a_key_are_owned_together() {
    let pod = schema::kind("v1", "Pod").unwrap();
    let a = |value: &str| json!({"name": "A", "value": value});
    let mut twice = with_variables(json!([a("1"), a("2"), {"name": "B"}]));
    update(pod, None, &mut twice, by("one", 0));
    assert_eq!(owned_of_a(&twice, 0), json!({}), "no field of either");
    let mut again = with_variables(json!([a("1"), a("3"), {"name": "B"}]));
    update(pod, Some(&twice), &mut again, by("two", 1));
    assert_eq!((owned_of_a(&again, 0), owned_of_a(&again, 1)), (Value::Null, json!({})));
    let mut once = with_variables(json!([a("1"), {"name": "B"}]));
    update(pod, Some(&twice), &mut once, by("two", 1));
    // With upstream, too, the marker that goes takes the item's own with it.
    let single = json!({"f:name": {}, "f:value": {}});
    assert_eq!((owned_of_a(&once, 0), owned_of_a(&once, 1)), (Value::Null, single));
}

#[test]
fn a_field_may_be_granular_though_its_type_is_not() {
    let volume = schema::kind("v1", "PersistentVolume").unwrap();
    let mut object = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "v"},
        "spec": {"claimRef": {"name": "c", "namespace": "n"}}});
    update(volume, None, &mut object, by("one", 0));
    let owned = &managers(&object)[0].2["f:spec"]["f:claimRef"];
    assert_eq!(*owned, json!({".": {}, "f:name": {}, "f:namespace": {}}));
}

#[test]
fn what_an_update_cannot_change_keeps_its_owner() {
    let pod = schema::kind("v1", "Pod").unwrap();
    let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"a": "1"}}});
    let mut live = object.clone();
    live["status"] = json!({"phase": "Running"});
    update(pod, Some(&object), &mut live, Manager { subresource: "status", ..by("node", 0) });
    // A client that knows no status puts the object without it: the server keeps the status.
    let mut new = object.clone();
    new["metadata"]["labels"]["a"] = "2".into();
    update(pod, Some(&live), &mut new, by("client", 1));
    let owners = managers(&new);
    assert_eq!(owners[0].0, "node");
    assert_eq!(owners[0].2, json!({"f:status": {".": {}, "f:phase": {}}}));
}

#[test]
fn all_that_is_wrong_with_an_intent_is_told_at_once() {
    let service = schema::kind("v1", "Service").unwrap();
    let body = b"{apiVersion: v1, kind: Service, spec: {sessionAffinity: 1, ports: [
        {name: x, port: 53}, {name: true, port: 53, protocol: TCP}, {name: u, port: 53, protocol: UDP}]}}";
    assert_eq!(
        intent(service, "v1", body).unwrap_err().message,
        "failed to create typed patch object (/; /v1, Kind=Service): errors:\n  \
         .spec.sessionAffinity: expected string, got &value.valueUnstructured{Value:1}\n  \
         .spec.ports: duplicate entries for key [port=53,protocol=\"TCP\"]\n  \
         .spec.ports[port=53,protocol=\"TCP\"].name: expected string, got &value.valueUnstructured{Value:true}"
    );
}

#[test]
fn long_lists_and_long_keys_are_worked_off_in_one_pass() {
    // Each of these took minutes where an item was compared with all others, or a path was written
    // out for each field below a long key.
    let pod = schema::kind("v1", "Pod").unwrap();
    let item = |n: usize| json!({"name": format!("v{n}"), "value": "x"});
    let long = "n".repeat(1 << 18);
    let object = |range: std::ops::Range<usize>| {
        let env: Vec<Value> = range.map(item).collect();
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
            "spec": {"containers": [{"name": long, "image": "i", "env": env}]}})
    };
    let (one, two) = (object(0..10_000), object(5_000..15_000));
    let live = apply(pod, None, &one, by("one", 0), false).unwrap();
    let merged = apply(pod, Some(&live), &two, by("two", 1), false).unwrap();
    assert_eq!(merged["spec"]["containers"][0]["env"].as_array().unwrap().len(), 15_000);
}

#[test]
fn only_ten_updaters_are_kept_apart() {
    let names: Vec<&'static str> =
        ["m0", "m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "m9", "m10", "m11"].to_vec();
    let mut data = serde_json::Map::new();
    let mut live = map(json!({}));
    for (second, name) in names.iter().enumerate() {
        data.insert(format!("k{second}"), "v".into());
        let mut new = map(Value::Object(data.clone()));
        update(config_map(), Some(&live), &mut new, by(name, second as i64));
        live = new;
    }
    let managers = managers(&live);
    assert_eq!(managers.len(), 10);
    assert_eq!(managers[0].0, "ancient-changes");
    assert_eq!(managers[0].2["f:data"].as_object().unwrap().len(), 3);
}

#[test]
fn objects_without_managers_get_one_before_the_first_apply() {
    let live = map(json!({"a": "1"}));
    let status = apply(config_map(), Some(&live), &map(json!({"a": "2"})), by("x", 0), false).unwrap_err();
    assert_eq!(
        status.message,
        "Apply failed with 1 conflict: conflict with \"before-first-apply\" using v1: .data.a"
    );
}

#[test]
fn the_manager_is_named_by_the_user_agent_up_to_the_slash() {
    assert_eq!(manager_name("", "kubectl/v1.32.4 (linux/amd64)"), "kubectl");
    assert_eq!(manager_name("mine", "kubectl/v1.32.4"), "mine");
    assert_eq!(manager_name("", ""), "unknown");
}

#[test]
fn clients_may_clear_or_replace_the_list() {
    let mut old = map(json!({"a": "1"}));
    update(config_map(), None, &mut old, by("one", 0));
    let mut cleared = old.clone();
    cleared["metadata"]["managedFields"] = json!([{}]);
    update(config_map(), Some(&old), &mut cleared, by("two", 1));
    assert!(managers(&cleared).is_empty());
    let mut ignorant = old.clone();
    ignorant["metadata"].as_object_mut().unwrap().remove("managedFields");
    update(config_map(), Some(&old), &mut ignorant, by("two", 1));
    assert_eq!(ignorant, old);
}

#[test]
fn kubectl_takes_over_what_it_applied_from_the_client() {
    let mut live = map(json!({"a": "1"}));
    let last = map(json!({"a": "1"})).to_string();
    live["metadata"]["annotations"] = json!({LAST_APPLIED: last});
    update(config_map(), None, &mut live, by("kubectl-client-side-apply", 0));
    let taken = apply(config_map(), Some(&live), &map(json!({"a": "2"})), by("kubectl", 1), false).unwrap();
    assert_eq!(taken["data"], json!({"a": "2"}));
    assert_eq!(
        apply(config_map(), Some(&live), &map(json!({"a": "2"})), by("other", 1), false).unwrap_err().code(),
        409
    );
}

#[test]
fn who_writes_in_another_version_owns_fields_by_its_names_and_loses_them_by_those_of_others() {
    let kinds = crate::kinds::built_in();
    let versions = |version| {
        Versions::new(kinds.find("autoscaling", version, "horizontalpodautoscalers").unwrap(), kinds)
    };
    let in_version = |name, api_version, second| Manager { api_version, ..by(name, second) };
    let cpu = |percent: i64| {
        json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "a"},
            "spec": {"maxReplicas": 3, "metrics": [{"type": "Resource", "resource": {"name": "cpu",
                "target": {"type": "Utilization", "averageUtilization": percent}}}]}})
    };
    let mut old = cpu(80);
    super::update(versions("v1"), None, &mut old, in_version("one", "autoscaling/v1", 0));
    let entry = |object: &Value, at: usize| object["metadata"]["managedFields"][at].clone();
    assert_eq!(entry(&old, 0)["apiVersion"], "autoscaling/v1");
    let fields = json!({"f:maxReplicas": {}, "f:targetCPUUtilizationPercentage": {}});
    assert_eq!(entry(&old, 0)["fieldsV1"]["f:spec"], fields);

    let mut new = cpu(50);
    new["metadata"]["managedFields"] = old["metadata"]["managedFields"].clone();
    super::update(versions("v2"), Some(&old), &mut new, in_version("two", "autoscaling/v2", 1));
    assert_eq!(entry(&new, 0)["fieldsV1"]["f:spec"], json!({"f:maxReplicas": {}}), "the other is two's now");
    assert_eq!(entry(&new, 1)["apiVersion"], "autoscaling/v2");
    assert_eq!(entry(&new, 1)["fieldsV1"]["f:spec"], json!({"f:metrics": {}}));

    let mut newer = cpu(50);
    let list = new["metadata"]["managedFields"].to_string().replace("autoscaling/v1", "autoscaling/v2beta1");
    newer["metadata"]["managedFields"] = serde_json::from_str(&list).unwrap();
    let last = newer.clone();
    super::update(versions("v2"), Some(&last), &mut newer, in_version("two", "autoscaling/v2", 2));
    let left = managers(&newer);
    assert_eq!(left.len(), 1, "a version that is served no more: {left:?}");
}

#[test]
fn a_resize_owns_what_it_may_write_and_nothing_else_that_it_says() {
    let pod = schema::kind("v1", "Pod").unwrap();
    let of = |image: &str, cpu: &str| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
            "spec": {"containers": [{"name": "c", "image": image, "resources": {"requests": {"cpu": cpu}}}]}})
    };
    let mut live = of("a:1", "1");
    update(pod, None, &mut live, by("one", 0));
    let mut new = of("b:2", "2");
    new["metadata"]["labels"] = json!({"a": "b"});
    update(pod, Some(&live), &mut new, Manager { subresource: "resize", ..by("two", 1) });
    let list = managers(&new);
    let resources = json!({"f:resources": {"f:requests": {"f:cpu": {}}}});
    let two = json!({"f:spec": {"f:containers": {"k:{\"name\":\"c\"}": resources}}});
    assert_eq!(list[1], ("two".into(), "Update".into(), two));
    assert!(list[0].2.to_string().contains("f:image"), "it stays as it was, and whose it was");
}
