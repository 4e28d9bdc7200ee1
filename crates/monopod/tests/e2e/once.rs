//! Pods that say something and end: what a container finds is what it prints.

use serde_json::{Value, json};

use crate::harness::Instance;

/// Puts the fields of `more` over those of `into`.
fn with(mut into: Value, more: Value) -> Value {
    for (name, value) in more.as_object().into_iter().flatten() {
        into[name] = value.clone();
    }
    into
}

/// A Pod of one container that runs a script, with more fields of the container and of the Pod's spec.
pub fn pod(name: &str, script: &str, container: Value, spec: Value) -> Value {
    let main = json!({"name": "c", "image": "busybox:1.36", "command": ["sh", "-c", script]});
    let all = json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 0,
        "containers": [with(main, container)]});
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"name": name}},
        "spec": with(all, spec)})
}

/// Applies all of them.
#[track_caller]
pub fn apply(instance: &Instance, objects: &[Value]) {
    instance.apply(&json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string());
}

/// What the Pod has printed, after it has ended well.
#[track_caller]
pub fn said(instance: &Instance, name: &str) -> String {
    instance.wait("jsonpath={.status.phase}=Succeeded", &format!("pod/{name}"));
    instance.kubectl(&["logs", name]).ok()
}

/// Each of these lines is among those that the Pod has printed.
#[track_caller]
pub fn says(instance: &Instance, name: &str, lines: &[&str]) {
    let said = said(instance, name);
    for line in lines {
        assert!(said.lines().any(|one| one == *line), "{name} does not say {line:?}:\n{said}");
    }
}
