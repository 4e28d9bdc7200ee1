//! What volumes show: contents, modes, owners, and what becomes of them when their objects change.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::harness::Instance;
use crate::once::{apply, pod, said, says};

/// The four ways to make files of an object: with keys and modes for some or all of them.
const WAYS: [&str; 4] = ["map", "secret", "projected-map", "projected-secret"];

fn source(way: &str, name: &str, more: Value) -> Value {
    let secret = way.ends_with("secret");
    let mut source = if secret && !way.starts_with("projected") {
        json!({"secretName": name})
    } else {
        json!({"name": name})
    };
    let mut default_mode = Value::Null;
    for (field, value) in more.as_object().into_iter().flatten() {
        match field.as_str() {
            "defaultMode" if way.starts_with("projected") => default_mode = value.clone(),
            field => source[field] = value.clone(),
        }
    }
    match way {
        "map" => json!({"configMap": source}),
        "secret" => json!({"secret": source}),
        "projected-map" => {
            json!({"projected": {"sources": [{"configMap": source}], "defaultMode": default_mode}})
        }
        _ => json!({"projected": {"sources": [{"secret": source}], "defaultMode": default_mode}}),
    }
}

/// A volume of this name, and where it is mounted.
fn volume(name: &str, mut source: Value) -> (Value, Value) {
    source["name"] = name.into();
    (source, json!({"name": name, "mountPath": format!("/v/{name}")}))
}

fn split(all: Vec<(Value, Value)>) -> (Value, Value) {
    let (volumes, mounts): (Vec<Value>, Vec<Value>) = all.into_iter().unzip();
    (volumes.into(), mounts.into())
}

/// Each file below /v with its mode, its owner and its content.
const LIST: &str = "cd /v && find -L * -type f ! -path '*/..*' | sort | while read f; do \
    echo \"$f $(stat -L -c '%a %u:%g' $f) $(cat $f)\"; done";

fn object(kind: &str, namespace: &str, name: &str, data: Value) -> Value {
    let field = if kind == "Secret" { "stringData" } else { "data" };
    json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": namespace}, field: data})
}

#[test]
fn maps_and_secrets_are_files_with_the_modes_and_owners_that_were_asked_for() {
    let instance = Instance::start(&["busybox.tar"]);
    let data = |of: &str| json!({"data-1": format!("{of}-1"), "data-2": format!("{of}-2")});
    let mut map = object("ConfigMap", "default", "same", data("map"));
    map["binaryData"] = json!({"dump.bin": "3srY+v4="});
    let other = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "other"}});
    apply(
        &instance,
        &[
            map,
            object("Secret", "default", "same", data("secret")),
            other,
            object("Secret", "other", "same", data("foreign")),
        ],
    );
    let items = |mode: Value| json!({"items": [{"key": "data-2", "path": "path/to/data-2", "mode": mode}]});
    let all: Vec<_> = WAYS
        .iter()
        .flat_map(|way| {
            let of = |variant: &str, more| volume(&format!("{way}-{variant}"), source(way, "same", more));
            let narrow = json!({"defaultMode": 0o400, "items": [{"key": "data-1", "path": "data-1"}]});
            [
                of("plain", items(Value::Null)),
                of("again", json!({"items": [{"key": "data-1", "path": "data-1"}]})),
                of("mode", narrow),
                of("item", items(json!(0o400))),
            ]
        })
        .collect();
    let whole = volume("whole", source("map", "same", json!({})));
    let binary = "od -An -tx1 /v/whole/dump.bin";
    let (volumes, mounts) = split(all);
    let (one, at) = split(vec![whole]);
    let run = |name: &str, context: Value| {
        pod(
            name,
            LIST,
            json!({"volumeMounts": mounts}),
            json!({"volumes": volumes, "securityContext": context}),
        )
    };
    // Who is not root reads what his group may.
    let group = WAYS.map(|way| {
        volume(
            way,
            source(
                way,
                "same",
                json!({"defaultMode": 0o440, "items": [{"key": "data-1", "path": "data-1"}]}),
            ),
        )
    });
    let (grouped, group_at) = split(group.to_vec());
    apply(
        &instance,
        &[
            run("root", json!({})),
            pod("binary", binary, json!({"volumeMounts": at}), json!({"volumes": one})),
            pod(
                "group",
                LIST,
                json!({"volumeMounts": group_at}),
                json!({"volumes": grouped,
            "securityContext": {"runAsUser": 1000, "fsGroup": 1001}}),
            ),
        ],
    );
    let mut expected = Vec::new();
    for way in WAYS {
        let of = if way.ends_with("secret") { "secret" } else { "map" };
        expected.push(format!("{way}-plain/path/to/data-2 644 0:0 {of}-2"));
        expected.push(format!("{way}-again/data-1 644 0:0 {of}-1"));
        expected.push(format!("{way}-mode/data-1 400 0:0 {of}-1"));
        expected.push(format!("{way}-item/path/to/data-2 400 0:0 {of}-2"));
    }
    expected.sort();
    let mut listed: Vec<String> = said(&instance, "root").lines().map(str::to_owned).collect();
    listed.sort();
    assert_eq!(listed, expected);
    assert_eq!(said(&instance, "binary").trim(), "de ca d8 fa fe");
    let group = WAYS.map(|way| {
        format!("{way}/data-1 440 0:1001 {}-1", if way.ends_with("secret") { "secret" } else { "map" })
    });
    says(&instance, "group", &group.each_ref().map(String::as_str));
    everybody_reads_what_is_open(&instance);
}

/// Also who is not root and has no group.
fn everybody_reads_what_is_open(instance: &Instance) {
    let open = WAYS.map(|way| {
        volume(way, source(way, "same", json!({"items": [{"key": "data-2", "path": "path/to/data-2"}]})))
    });
    let (volumes, at) = split(open.to_vec());
    apply(
        instance,
        &[pod(
            "user",
            LIST,
            json!({"volumeMounts": at}),
            json!({"volumes": volumes, "securityContext": {"runAsUser": 1000}}),
        )],
    );
    let open = WAYS.map(|way| {
        format!("{way}/path/to/data-2 644 0:0 {}-2", if way.ends_with("secret") { "secret" } else { "map" })
    });
    says(instance, "user", &open.each_ref().map(String::as_str));
}

#[test]
fn volumes_follow_their_objects_and_optional_ones_come_and_go() {
    let instance = Instance::start(&["busybox.tar"]);
    let mut objects = Vec::new();
    for kind in ["ConfigMap", "Secret"] {
        objects.push(object(kind, "default", "changed", json!({"data-1": "value-1"})));
        objects.push(object(kind, "default", "deleted", json!({"data-1": "value-1"})));
    }
    let all = WAYS.iter().flat_map(|way| {
        ["changed", "deleted", "created"]
            .map(|name| volume(&format!("{way}-{name}"), source(way, name, json!({"optional": true}))))
    });
    let (volumes, mounts) = split(all.collect());
    objects.push(pod(
        "looks",
        "exec sleep 3600",
        json!({"volumeMounts": mounts}),
        json!({"volumes": volumes}),
    ));
    apply(&instance, &objects);
    instance.wait("condition=Ready", "pod/looks");
    let shows = |expected: &[(&str, &str)]| {
        let expected: BTreeSet<String> = WAYS
            .iter()
            .flat_map(|way| expected.iter().map(move |(file, content)| format!("{way}-{file} {content}")))
            .collect();
        instance.eventually("what the volumes show", || {
            let script =
                "cd /v && find -L * -type f ! -path '*/..*' | while read f; do echo \"$f $(cat $f)\"; done";
            let said = instance.kubectl(&["exec", "looks", "--", "sh", "-c", script]).out;
            if said.lines().map(str::to_owned).collect::<BTreeSet<_>>() == expected {
                Ok(())
            } else {
                Err(said)
            }
        });
    };
    shows(&[("changed/data-1", "value-1"), ("deleted/data-1", "value-1")]);
    for kind in ["ConfigMap", "Secret"] {
        apply(
            &instance,
            &[
                object(kind, "default", "created", json!({"data-1": "value-1"})),
                object(kind, "default", "changed", json!({"data-1": "value-2", "data-3": "value-3"})),
            ],
        );
        instance.kubectl(&["delete", &kind.to_lowercase(), "deleted"]).ok();
    }
    shows(&[("changed/data-1", "value-2"), ("changed/data-3", "value-3"), ("created/data-1", "value-1")]);
}

#[test]
fn what_is_immutable_keeps_its_data() {
    let instance = Instance::start(&[]);
    for kind in ["ConfigMap", "Secret"] {
        let name = format!("{}/fixed", kind.to_lowercase());
        apply(&instance, &[object(kind, "default", "fixed", json!({"data-1": "value-1"}))]);
        let patch = |body: &str| instance.kubectl(&["patch", &name, "--type=merge", "-p", body]);
        let value = |text: &str| {
            let field = if kind == "Secret" { "stringData" } else { "data" };
            json!({field: {"data-1": text}}).to_string()
        };
        patch(&value("value-2")).ok();
        patch(r#"{"immutable": true}"#).ok();
        for refused in [value("value-3").as_str(), r#"{"immutable": false}"#, r#"{"immutable": null}"#] {
            let why = patch(refused).fails();
            assert!(why.contains("field is immutable when `immutable` is set"), "{why}");
        }
        patch(r#"{"metadata": {"labels": {"changed": "yes"}}}"#).ok();
        assert_eq!(instance.field(&name, "{.immutable} {.metadata.labels.changed}"), "true yes");
        instance.kubectl(&["delete", &name]).ok();
    }
}

/// What is found in both kinds of directories.
fn modes_and_contents() -> Vec<String> {
    let mut lines = Vec::new();
    for medium in ["default", "tmpfs"] {
        lines.push(format!("{medium} 777"));
        lines.extend(["644", "666", "777"].map(|mode| format!("{medium} {mode} content")));
    }
    lines.push("tmpfs".to_owned());
    lines
}

/// One container writes and the other one reads.
fn two_who_share(volumes: &Value, mounts: &Value) -> Value {
    let writer = json!({"name": "writer", "image": "busybox:1.36", "command": ["sh", "-c", "echo shared > /v/default/file"], "volumeMounts": mounts});
    let mut shared = pod(
        "shared",
        "until test -s /v/default/file; do sleep 0.1; done; cat /v/default/file",
        json!({"volumeMounts": mounts}),
        json!({"volumes": volumes}),
    );
    shared["spec"]["containers"].as_array_mut().expect("containers").push(writer);
    shared
}

#[test]
fn an_empty_directory_is_everybodys_and_keeps_what_is_put_there() {
    let instance = Instance::start(&["busybox.tar"]);
    let (volumes, mounts) = split(vec![
        volume("default", json!({"emptyDir": {}})),
        volume("tmpfs", json!({"emptyDir": {"medium": "Memory"}})),
    ]);
    let script = "umask 0; for v in default tmpfs; do cd /v/$v; stat -c \"$v %a\" .; for m in 644 666 777; do \
        echo content > $m; chmod $m $m; echo \"$v $(stat -c %a $m) $(cat $m)\"; done; done; grep ' /v/tmpfs ' /proc/mounts | cut -d ' ' -f 3";
    let run = |name: &str, user: u32| {
        pod(
            name,
            script,
            json!({"volumeMounts": mounts, "securityContext": {"runAsUser": user}}),
            json!({"volumes": volumes}),
        )
    };
    let shared = two_who_share(&volumes, &mounts);
    apply(&instance, &[run("root", 0), run("user", 1001), shared]);
    let lines = modes_and_contents();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    says(&instance, "root", &lines);
    says(&instance, "user", &lines);
    instance.wait("jsonpath={.status.phase}=Succeeded", "pod/shared");
    assert_eq!(instance.kubectl(&["logs", "shared", "-c", "c"]).ok(), "shared\n");
}

#[test]
fn volumes_of_every_kind_are_beside_each_other_and_shown_in_part() {
    let instance = Instance::start(&["busybox.tar"]);
    let mut objects: Vec<Value> = (0..50)
        .map(|n| object("ConfigMap", "default", &format!("map-{n}"), json!({"data-1": format!("value-{n}")})))
        .collect();
    objects.push(object("Secret", "default", "secret", json!({"data-1": "secret-1"})));
    let many = (0..50).map(|n| volume(&format!("m-{n}"), source("map", &format!("map-{n}"), json!({}))));
    let (volumes, mounts) = split(many.collect());
    for name in ["many-0", "many-1", "many-2"] {
        objects.push(pod(name, LIST, json!({"volumeMounts": mounts}), json!({"volumes": volumes})));
    }
    let label = json!({"items": [{"path": "podname", "fieldRef": {"fieldPath": "metadata.name"}}]});
    let combined = json!({"projected": {"sources": [{"secret": {"name": "secret", "items": [{"key": "data-1", "path": "secret"}]}},
        {"configMap": {"name": "map-0", "items": [{"key": "data-1", "path": "map"}]}}, {"downwardAPI": label}]}});
    let kinds = vec![
        volume("map", source("map", "map-0", json!({}))),
        volume("secret", source("secret", "secret", json!({}))),
        volume("fields", json!({"downwardAPI": label})),
        volume("combined", combined),
    ];
    let (volumes, mounts) = split(kinds);
    objects.push(pod("kinds", LIST, json!({"volumeMounts": mounts}), json!({"volumes": volumes})));
    let parts = json!([{"name": "map", "mountPath": "/part/map", "subPath": "data-1"}, {"name": "map", "mountPath": "/etc/passwd", "subPath": "data-1"},
        {"name": "secret", "mountPath": "/part/secret", "subPath": "data-1"}, {"name": "fields", "mountPath": "/part/fields", "subPath": "podname"},
        {"name": "combined", "mountPath": "/part/combined", "subPath": "map"}]);
    let script = "for f in /part/* /etc/passwd; do echo $f $(cat $f); done";
    objects.push(pod("parts", script, json!({"volumeMounts": parts}), json!({"volumes": volumes})));
    apply(&instance, &objects);
    for name in ["many-0", "many-1", "many-2"] {
        let lines: Vec<String> = (0..50).map(|n| format!("m-{n}/data-1 644 0:0 value-{n}")).collect();
        says(&instance, name, &lines.iter().map(String::as_str).collect::<Vec<_>>());
    }
    says(
        &instance,
        "kinds",
        &[
            "map/data-1 644 0:0 value-0",
            "secret/data-1 644 0:0 secret-1",
            "fields/podname 644 0:0 kinds",
            "combined/secret 644 0:0 secret-1",
            "combined/map 644 0:0 value-0",
            "combined/podname 644 0:0 kinds",
        ],
    );
    says(
        &instance,
        "parts",
        &[
            "/part/map value-0",
            "/etc/passwd value-0",
            "/part/secret secret-1",
            "/part/fields parts",
            "/part/combined value-0",
        ],
    );
}
