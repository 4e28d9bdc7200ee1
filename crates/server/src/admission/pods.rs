//! The plugins of Pods and nodes that look other objects up: ServiceAccount, TaintNodesByCondition, Priority
//! and RuntimeClass. What they decide is in `api::strategy::admission`.

use std::sync::Arc;

use api::kinds::{self, Kind};
use api::meta::Object as _;
use api::names;
use api::status::Status;
use api::strategy::admission;
use serde_json::{Value, json};

use super::{Operation, Request};

const NOT_READY: &str = "node.kubernetes.io/not-ready";

fn find(group: &str, plural: &str) -> Result<&'static Kind, Status> {
    kinds::find(group, "v1", plural).ok_or_else(Status::no_such_resource)
}

pub(super) async fn service_account(request: &mut Request<'_>) -> Result<(), Status> {
    let state = &request.call.state;
    let name = admission::account_name(&request.object);
    let account = state.find(find("", "serviceaccounts")?, request.namespace(), name).await?;
    let suffix = names::suffix::<{ names::SUFFIX_LENGTH }>(state.random()?);
    let admitted = admission::service_account(&mut request.object, account.as_ref(), &suffix);
    admitted.map_err(|why| request.forbidden(why))
}

/// A new node takes no Pods until it is known to be ready.
pub(super) fn taint_new_node(node: &mut Value) {
    if !node["spec"].is_object() {
        node["spec"] = json!({});
    }
    if !node["spec"]["taints"].is_array() {
        node["spec"]["taints"] = json!([]);
    }
    let Some(taints) = node["spec"]["taints"].as_array_mut() else { return };
    if !taints.iter().any(|taint| taint["key"] == NOT_READY && taint["effect"] == "NoSchedule") {
        taints.push(json!({ "key": NOT_READY, "effect": "NoSchedule" }));
    }
}

pub(super) fn priority(request: &mut Request<'_>) -> Result<(), Status> {
    if request.resource().kind != "Pod" {
        return Ok(());
    }
    if let (Operation::Update, Some(old)) = (request.operation, request.old) {
        admission::keep_priority(&mut request.object, old);
        return Ok(());
    }
    let classes = request.all(find("scheduling.k8s.io", "priorityclasses")?, "")?;
    admission::priority(&mut request.object, &classes).map_err(|why| request.forbidden(why))
}

/// At most one PriorityClass is the default.
pub(super) fn one_default_priority(request: &Request<'_>) -> Result<(), Status> {
    if request.resource().kind != "PriorityClass" || request.object["globalDefault"] != Value::Bool(true) {
        return Ok(());
    }
    let others = request.all(find("scheduling.k8s.io", "priorityclasses")?, "")?;
    let is_other = |other: &&Arc<Value>| {
        other["globalDefault"] == Value::Bool(true) && other.meta().name() != request.object.meta().name()
    };
    let Some(other) = others.iter().find(is_other) else { return Ok(()) };
    let other = other.meta().name();
    let why = format!("PriorityClass {other} is already marked as default. Only one default can exist");
    Err(request.forbidden(why))
}

pub(super) async fn runtime_class(request: &mut Request<'_>) -> Result<(), Status> {
    let class = match request.object["spec"]["runtimeClassName"].as_str() {
        Some(name) if !name.is_empty() => {
            request.call.state.find(find("node.k8s.io", "runtimeclasses")?, "", name).await?
        }
        _ => None,
    };
    let admitted = admission::runtime_class(&mut request.object, class.as_ref());
    admitted.map_err(|why| request.forbidden(why))
}

pub(super) fn overhead_has_class(request: &Request<'_>) -> Result<(), Status> {
    admission::overhead_has_class(&request.object).map_err(|why| request.forbidden(why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_node_is_tainted_once() {
        let mut node = json!({});
        taint_new_node(&mut node);
        taint_new_node(&mut node);
        assert_eq!(node["spec"]["taints"], json!([{"key": NOT_READY, "effect": "NoSchedule"}]));
    }
}
