//! The plugins of volumes, claims and classes: DefaultStorageClass, StorageObjectInUseProtection,
//! PersistentVolumeClaimResize and, for it chooses as the first does, DefaultIngressClass.

use std::sync::Arc;

use api::kinds::{self, Kind};
use api::meta::Object as _;
use api::quantity::Quantity;
use api::status::Status;
use serde_json::Value;

use super::Request;

const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
const DEFAULT_INGRESS_CLASS: &str = "ingressclass.kubernetes.io/is-default-class";

fn find(group: &str, plural: &str) -> Result<&'static Kind, Status> {
    kinds::find(group, "v1", plural).ok_or_else(Status::no_such_resource)
}

/// What is in use is not deleted under its users.
pub(super) fn protect(request: &mut Request<'_>) {
    let finalizer = match &*request.resource().kind {
        "PersistentVolume" => "kubernetes.io/pv-protection",
        _ => "kubernetes.io/pvc-protection",
    };
    request.object.meta_mut().add_finalizer(finalizer);
}

/// The newest of the classes that are marked as default, the first by name among those.
fn newest_default(classes: &[Arc<Value>], annotation: &str) -> Option<Value> {
    let marked = classes.iter().filter(|class| class.meta().annotation(annotation) == Some("true"));
    let newer = |a: &&Arc<Value>, b: &&Arc<Value>| {
        let created = a.meta().creation_timestamp().cmp(b.meta().creation_timestamp());
        created.then_with(|| b.meta().name().cmp(a.meta().name()))
    };
    marked.max_by(newer).map(|class| class.meta().name().into())
}

pub(super) fn default_storage_class(request: &mut Request<'_>) -> Result<(), Status> {
    let claim = &request.object;
    if !claim["spec"]["storageClassName"].is_null() || claim.meta().annotation(BETA_CLASS).is_some() {
        return Ok(());
    }
    let classes = request.all(find("storage.k8s.io", "storageclasses")?, "")?;
    if let Some(name) = newest_default(&classes, DEFAULT_CLASS) {
        request.object["spec"]["storageClassName"] = name;
    }
    Ok(())
}

pub(super) fn default_ingress_class(request: &mut Request<'_>) -> Result<(), Status> {
    let ingress = &request.object;
    let old = ingress.meta().annotation("kubernetes.io/ingress.class");
    if !ingress["spec"]["ingressClassName"].is_null() || old.is_some() {
        return Ok(());
    }
    let classes = request.all(find("networking.k8s.io", "ingressclasses")?, "")?;
    if let Some(name) = newest_default(&classes, DEFAULT_INGRESS_CLASS) {
        request.object["spec"]["ingressClassName"] = name;
    }
    Ok(())
}

/// A claim grows only when it is bound and its class says that its volumes can.
pub(super) async fn claim_resize(request: &Request<'_>) -> Result<(), Status> {
    let (claim, Some(old)) = (&request.object, request.old) else { return Ok(()) };
    if storage(claim) <= storage(old) {
        return Ok(());
    }
    if old["status"]["phase"] != "Bound" {
        return Err(request.forbidden("Only bound persistent volume claims can be expanded"));
    }
    let class = class_of(claim);
    let expandable = class == class_of(old)
        && match request.call.state.find(find("storage.k8s.io", "storageclasses")?, "", class).await? {
            Some(class) => class["allowVolumeExpansion"] == Value::Bool(true),
            None => false,
        };
    if expandable {
        return Ok(());
    }
    let why = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize";
    Err(request.forbidden(why))
}

/// What a claim asks for; nothing when it is no quantity.
fn storage(claim: &Value) -> Option<Quantity> {
    claim["spec"]["resources"]["requests"]["storage"].as_str()?.parse().ok()
}

/// The class of a claim: the old annotation counts before the field.
fn class_of(claim: &Value) -> &str {
    let beta = claim.meta().annotation(BETA_CLASS);
    beta.or_else(|| claim["spec"]["storageClassName"].as_str()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_newest_default_class_counts() {
        let class = |name: &str, time: &str, default: &str| {
            json!({"metadata": {"name": name, "creationTimestamp": time, "annotations": {DEFAULT_CLASS: default}}}).into()
        };
        let classes = vec![
            class("a", "1", "true"),
            class("c", "2", "true"),
            class("b", "2", "true"),
            class("d", "3", "false"),
        ];
        assert_eq!(newest_default(&classes, DEFAULT_CLASS), Some(json!("b")));
        assert_eq!(newest_default(&[], DEFAULT_CLASS), None);
    }
}
