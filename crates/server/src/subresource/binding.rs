//! `pods/binding`: the scheduler's decision.

use api::field::{Error, ErrorList, Path};
use api::kinds;
use api::meta::Object as _;
use api::status::{GroupKind, Status};
use serde_json::{Value, json};
use wire::Response;

use crate::admission;
use crate::call::Call;
use crate::object;
use crate::state::{Draft, seconds, store_failed};

/// Answers `POST pods/NAME/binding`, and `POST bindings`, whose body names the Pod.
pub(crate) async fn bind(call: &Call, body: &[u8]) -> Result<Response, Status> {
    let mut warnings = Vec::new();
    let binding = super::decode_body(call, body, &mut warnings)?;
    let errors = check(&binding);
    let name = binding.meta().name();
    if !errors.is_empty() {
        return Err(Status::invalid(GroupKind { group: "", kind: "Binding" }, name, &errors));
    }
    let asked = call.target.name.as_str();
    if !asked.is_empty() && !name.is_empty() && asked != name {
        return Err(Status::bad_request("name in URL does not match name in Binding object"));
    }
    let (binding, _) = admission::admit(admission::Request::act(call, binding)?).await?;
    let name = if asked.is_empty() { binding.meta().name() } else { asked };
    assign(call, name, &binding).await?;
    call.value(201, &Status::created())
}

/// Upstream's ValidatePodBinding.
fn check(binding: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let target = Path::new("target");
    let kind = binding["target"]["kind"].as_str().unwrap_or_default();
    if !matches!(kind, "" | "Node") {
        errors.push(Error::not_supported(&target.child("kind"), kind, &["Node", "<empty>"]));
    }
    if binding["target"]["name"].as_str().unwrap_or_default().is_empty() {
        errors.push(Error::required(&target.child("name"), ""));
    }
    errors
}

async fn assign(call: &Call, name: &str, binding: &Value) -> Result<(), Status> {
    let pods = kinds::find("", "v1", "pods").ok_or_else(Status::no_such_resource)?;
    let key = object::key(pods, &call.target.namespace, name);
    loop {
        let entry = call.state.get(&key).await?.ok_or_else(|| Status::not_found(pods, name))?;
        let mut pod = object::read(&entry.value)?;
        bind_to(&mut pod, binding, &seconds(call.now))
            .map_err(|why| Status::conflict(("", "pods/binding"), name, why))?;
        if call.dry_run()? {
            return Ok(());
        }
        match call.state.write(Draft { resource: pods, object: &pod, old: Some(&entry) }).await {
            Ok(_) => return Ok(()),
            Err(store::Error::Conflict(_)) => {}
            Err(err) => return Err(store_failed(err)),
        }
    }
}

/// Puts a Pod on the node of a binding; the error is upstream's sentence.
fn bind_to(pod: &mut Value, binding: &Value, now: &str) -> Result<(), String> {
    let name = pod.meta().name().to_owned();
    let given = binding.meta().uid();
    if !given.is_empty() && given != pod.meta().uid() {
        let uid = pod.meta().uid();
        return Err(format!("Precondition failed: UID in precondition: {given}, UID in object meta: {uid}"));
    }
    if pod.meta().is_going() {
        return Err(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    if !node.is_empty() {
        return Err(format!("pod {name} is already assigned to node {node:?}"));
    }
    if pod["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty()) {
        return Err(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    pod["spec"]["nodeName"] = binding["target"]["name"].clone();
    if let Some(status) = pod["status"].as_object_mut() {
        // What was nominated is decided now.
        status.remove("nominatedNodeName");
    }
    pod.meta_mut().merge_labels_and_annotations(binding.meta());
    set_condition(pod, json!({ "type": "PodScheduled", "status": "True" }), now);
    Ok(())
}

/// Sets a condition of a Pod's status; the time moves only when the status does.
pub(super) fn set_condition(pod: &mut Value, mut condition: Value, now: &str) {
    if !pod["status"].is_object() {
        pod["status"] = json!({});
    }
    if !pod["status"]["conditions"].is_array() {
        pod["status"]["conditions"] = json!([]);
    }
    let Some(conditions) = pod["status"]["conditions"].as_array_mut() else { return };
    let old = conditions.iter_mut().find(|old| old["type"] == condition["type"]);
    let same = old.as_ref().is_some_and(|old| old["status"] == condition["status"]);
    let time = old.as_ref().filter(|_| same).map(|old| old["lastTransitionTime"].clone());
    condition["lastTransitionTime"] = time.unwrap_or_else(|| now.into());
    condition["lastProbeTime"] = Value::Null;
    match old {
        Some(old) => *old = condition,
        None => conditions.push(condition),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding() -> Value {
        json!({"metadata": {"name": "web", "annotations": {"a": "b"}}, "target": {"name": "one"}})
    }

    #[test]
    fn a_pod_is_bound_once() {
        let mut pod = json!({"metadata": {"name": "web"}, "spec": {}, "status": {"phase": "Pending"}});
        bind_to(&mut pod, &binding(), "now").expect("binds");
        assert_eq!(pod["spec"]["nodeName"], "one");
        assert_eq!(pod["metadata"]["annotations"], json!({"a": "b"}));
        assert_eq!(pod["status"]["conditions"][0]["type"], "PodScheduled");
        let again = bind_to(&mut pod, &binding(), "now").expect_err("refused");
        assert_eq!(again, "pod web is already assigned to node \"one\"");
    }

    #[test]
    fn gated_and_dying_pods_are_not_bound() {
        let mut gated = json!({"metadata": {"name": "web"}, "spec": {"schedulingGates": [{"name": "x"}]}});
        assert!(bind_to(&mut gated, &binding(), "now").is_err());
        let mut dying = json!({"metadata": {"name": "web", "deletionTimestamp": "now"}, "spec": {}});
        assert!(bind_to(&mut dying, &binding(), "now").is_err());
    }
}
