//! Admission: what a write must agree with besides its own rules, and what other
//! objects add to it.
//!
//! What needs no lookup is decided in `api::strategy::admission`; here the objects
//! are fetched that it needs, and the plug-ins of one line are.

use std::sync::Arc;

use api::kinds::{self, Kind};
use api::names;
use api::status::Status;
use api::strategy::admission::{AdmissionInput, account_name, admit_pod, readmit_pod};
use serde_json::{Value, json};
use store::{Entry, Range};

use crate::bootstrap::identify;
use crate::call::Call;
use crate::certificates;
use crate::object;
use crate::state::{Draft, store_failed};
use crate::write::text;

/// Namespaces that are always there.
const IMMORTAL: &[&str] = &["default", "kube-system", "kube-public"];
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
const DEFAULT_INGRESS_CLASS: &str = "ingressclass.kubernetes.io/is-default-class";

/// Runs on a new object after its defaults.
pub(crate) async fn create(call: &Call, object: &mut Value) -> Result<(), Status> {
    namespace_lifecycle(call, object).await?;
    let resource = call.resource.storage();
    match resource.group_kind() {
        ("", "Pod") => pod(call, object).await?,
        ("", "Node") => taint_new_node(object),
        ("", "PersistentVolume") => protect(object, "kubernetes.io/pv-protection"),
        ("", "PersistentVolumeClaim") => {
            default_storage_class(call, object).await?;
            claim_limits(call, object).await?;
            protect(object, "kubernetes.io/pvc-protection");
        }
        ("networking.k8s.io", "Ingress") => default_ingress_class(call, object).await?,
        ("scheduling.k8s.io", "PriorityClass") => one_default_priority(call, object).await?,
        _ if certificates::concerns(call) => certificates::create(call, object)?,
        _ => {}
    }
    call.state.auth.check_escalation(&call.user, &call.resource, object, None)
}

/// Runs on a changed object.
pub(crate) async fn update(call: &Call, new: &mut Value, old: &Value) -> Result<(), Status> {
    if call.resource.group_kind() == ("scheduling.k8s.io", "PriorityClass") {
        one_default_priority(call, new).await?;
    }
    if call.resource.group_kind() == ("", "Pod") && call.target.subresource.is_empty() {
        readmit_pod(new, old);
    }
    if certificates::concerns(call) {
        certificates::update(call, new, old)?;
    }
    if call.resource.kind == "PersistentVolumeClaim" && call.target.subresource.is_empty() {
        claim_limits(call, new).await?;
    }
    call.state.auth.check_escalation(&call.user, &call.resource, new, Some(old))
}

/// Says or refuses what has no effect yet. A dry run keeps nothing, so there is nothing to say of it; but
/// it is refused where the write would be.
pub(crate) fn limits(
    call: &Call,
    object: &Value,
    old: Option<&Value>,
    warnings: &mut Vec<String>,
) -> Result<(), Status> {
    let resource = call.resource.storage();
    let found = api::limits::find(&resource.group, &resource.kind, &call.target.subresource, object, old);
    if let Some(why) = found.refusal {
        return Err(Status::forbidden(&call.resource, text(object, "name"), why));
    }
    if !call.dry_run()? {
        warnings.extend(found.warnings);
    }
    Ok(())
}

/// Runs before an object is deleted.
pub(crate) fn delete(call: &Call) -> Result<(), Status> {
    let name = call.target.name.as_str();
    if call.resource.kind == "Namespace" && IMMORTAL.contains(&name) {
        return Err(Status::forbidden(&call.resource, name, "this namespace may not be deleted"));
    }
    Ok(())
}

/// Runs after an object was created and before that is answered.
pub(crate) async fn created(call: &Call, object: &Value) -> Result<(), Status> {
    if call.resource.kind == "Namespace" {
        furnish_namespace(call, text(object, "name")).await?;
    }
    Ok(())
}

fn core(plural: &str) -> Result<&'static Kind, Status> {
    find("", plural)
}

fn find(group: &str, plural: &str) -> Result<&'static Kind, Status> {
    kinds::find(group, "v1", plural).ok_or_else(Status::no_such_resource)
}

/// All objects of a kind, in one namespace or everywhere.
async fn all(call: &Call, resource: &Kind, namespace: &str) -> Result<Vec<Value>, Status> {
    let range = Range { prefix: object::prefix(resource, namespace), ..Range::default() };
    let page = call.state.store.range(range).await.map_err(store_failed)?;
    page.entries.iter().map(|entry: &Arc<Entry>| object::read(&entry.value)).collect()
}

/// Upstream's plugin NamespaceLifecycle: no objects in namespaces that are not there
/// or are going away.
async fn namespace_lifecycle(call: &Call, object: &Value) -> Result<(), Status> {
    if !call.resource.namespaced {
        return Ok(());
    }
    let namespaces = core("namespaces")?;
    let name = call.target.namespace.as_str();
    let Some(namespace) = call.state.find(namespaces, "", name).await? else {
        return Err(Status::not_found(namespaces, name));
    };
    if namespace["status"]["phase"] == "Terminating" {
        return Err(Status::namespace_terminating(&call.resource, text(object, "name"), name));
    }
    Ok(())
}

/// The plugins LimitRanger, ServiceAccount, Priority, DefaultTolerationSeconds and RuntimeClass.
async fn pod(call: &Call, pod: &mut Value) -> Result<(), Status> {
    let (state, namespace) = (&call.state, call.target.namespace.as_str());
    let account = state.find(core("serviceaccounts")?, namespace, account_name(pod)).await?;
    let priority_classes = all(call, find("scheduling.k8s.io", "priorityclasses")?, "").await?;
    let limit_ranges = all(call, core("limitranges")?, namespace).await?;
    let runtime_class = match pod["spec"]["runtimeClassName"].as_str() {
        Some(name) if !name.is_empty() => {
            state.find(find("node.k8s.io", "runtimeclasses")?, "", name).await?
        }
        _ => None,
    };
    let suffix = names::suffix::<{ names::SUFFIX_LENGTH }>(state.random()?);
    let input = AdmissionInput {
        account: account.as_ref(),
        priority_classes: &priority_classes,
        limit_ranges: &limit_ranges,
        runtime_class: runtime_class.as_ref(),
        suffix: &suffix,
    };
    admit_pod(pod, &input).map_err(|why| Status::forbidden(&call.resource, text(pod, "name"), why))
}

/// The plugin LimitRanger, for claims.
async fn claim_limits(call: &Call, claim: &Value) -> Result<(), Status> {
    let ranges = all(call, core("limitranges")?, &call.target.namespace).await?;
    api::strategy::admission::limits::check_claim(claim, &ranges)
        .map_err(|why| Status::forbidden(&call.resource, text(claim, "name"), why))
}

/// TaintNodesByCondition: a new node takes no Pods until it is known to be ready.
fn taint_new_node(node: &mut Value) {
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

/// StorageObjectInUseProtection: what is in use is not deleted under its users.
fn protect(object: &mut Value, finalizer: &str) {
    if !object["metadata"]["finalizers"].is_array() {
        object["metadata"]["finalizers"] = json!([]);
    }
    let Some(finalizers) = object["metadata"]["finalizers"].as_array_mut() else { return };
    if !finalizers.iter().any(|one| one == finalizer) {
        finalizers.push(finalizer.into());
    }
}

/// The newest of the classes that are marked as default, the first by name among those.
fn newest_default(classes: Vec<Value>, annotation: &str) -> Option<Value> {
    let marked = classes.into_iter().filter(|class| class["metadata"]["annotations"][annotation] == "true");
    let newer = |a: &Value, b: &Value| {
        let created = |class: &Value| text(class, "creationTimestamp").to_owned();
        created(a).cmp(&created(b)).then_with(|| text(b, "name").cmp(text(a, "name")))
    };
    marked.max_by(newer).map(|class| class["metadata"]["name"].clone())
}

async fn default_storage_class(call: &Call, claim: &mut Value) -> Result<(), Status> {
    let beta = &claim["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-class"];
    if !claim["spec"]["storageClassName"].is_null() || !beta.is_null() {
        return Ok(());
    }
    let classes = all(call, find("storage.k8s.io", "storageclasses")?, "").await?;
    if let Some(name) = newest_default(classes, DEFAULT_CLASS) {
        claim["spec"]["storageClassName"] = name;
    }
    Ok(())
}

async fn default_ingress_class(call: &Call, ingress: &mut Value) -> Result<(), Status> {
    let old = &ingress["metadata"]["annotations"]["kubernetes.io/ingress.class"];
    if !ingress["spec"]["ingressClassName"].is_null() || !old.is_null() {
        return Ok(());
    }
    let classes = all(call, find("networking.k8s.io", "ingressclasses")?, "").await?;
    if let Some(name) = newest_default(classes, DEFAULT_INGRESS_CLASS) {
        ingress["spec"]["ingressClassName"] = name;
    }
    Ok(())
}

/// The plugin Priority, for classes: at most one is the default.
async fn one_default_priority(call: &Call, class: &Value) -> Result<(), Status> {
    if class["globalDefault"] != Value::Bool(true) {
        return Ok(());
    }
    let name = text(class, "name");
    let others = all(call, find("scheduling.k8s.io", "priorityclasses")?, "").await?;
    let other = others
        .iter()
        .find(|other| other["globalDefault"] == Value::Bool(true) && text(other, "name") != name);
    match other {
        Some(other) => {
            let other = text(other, "name");
            let why =
                format!("PriorityClass {other} is already marked as default. Only one default can exist");
            Err(Status::forbidden(&call.resource, name, why))
        }
        None => Ok(()),
    }
}

/// Gives a namespace its ServiceAccount and the authority's certificate at once, so that
/// a Pod can be created in it with the next request. Upstream leaves this to controllers.
async fn furnish_namespace(call: &Call, namespace: &str) -> Result<(), Status> {
    let account = api::bootstrap::default_service_account(namespace);
    let certificate = api::bootstrap::root_ca(namespace, &call.state.config.authority_pem);
    let account = furnishing(call, "serviceaccounts", account);
    let certificate = furnishing(call, "configmaps", certificate);
    let (account, certificate) = futures_util::future::join(account, certificate).await;
    account.and(certificate)
}

async fn furnishing(call: &Call, plural: &str, mut object: Value) -> Result<(), Status> {
    let resource = core(plural)?;
    identify(&call.state, resource, &mut object, call.now)?;
    match call.state.write(Draft { resource, object: &object, old: None }).await {
        // Somebody was faster.
        Ok(_) | Err(store::Error::Conflict(_)) => Ok(()),
        Err(err) => Err(store_failed(err)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_default_class_counts() {
        let class = |name: &str, time: &str, default: &str| json!({"metadata": {"name": name, "creationTimestamp": time, "annotations": {DEFAULT_CLASS: default}}});
        let classes = vec![
            class("a", "1", "true"),
            class("c", "2", "true"),
            class("b", "2", "true"),
            class("d", "3", "false"),
        ];
        assert_eq!(newest_default(classes, DEFAULT_CLASS), Some(json!("b")));
        assert_eq!(newest_default(Vec::new(), DEFAULT_CLASS), None);
    }

    #[test]
    fn a_new_node_is_tainted_once() {
        let mut node = json!({});
        taint_new_node(&mut node);
        taint_new_node(&mut node);
        assert_eq!(node["spec"]["taints"], json!([{"key": NOT_READY, "effect": "NoSchedule"}]));
    }
}
