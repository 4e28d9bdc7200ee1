//! Admission: what a write must agree with besides its own rules, and what other
//! objects add to it.

use api::resource;
use api::status::Status;
use serde_json::Value;

use crate::bootstrap::identify;
use crate::call::Call;
use crate::state::{Draft, store_failed};
use crate::write::text;

/// Namespaces that are always there.
const IMMORTAL: &[&str] = &["default", "kube-system", "kube-public"];

/// Runs on a new object after its defaults.
pub(crate) async fn create(call: &Call, object: &mut Value) -> Result<(), Status> {
    namespace_lifecycle(call, object).await
}

/// Runs on a changed object.
pub(crate) async fn update(_call: &Call, _new: &mut Value, _old: &Value) -> Result<(), Status> {
    Ok(())
}

/// Runs before an object is deleted.
pub(crate) fn delete(call: &Call) -> Result<(), Status> {
    let name = call.target.name.as_str();
    if call.resource.kind == "Namespace" && IMMORTAL.contains(&name) {
        return Err(Status::forbidden(call.resource, name, "this namespace may not be deleted"));
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

/// Upstream's plugin NamespaceLifecycle: no objects in namespaces that are not there
/// or are going away.
async fn namespace_lifecycle(call: &Call, object: &Value) -> Result<(), Status> {
    if !call.resource.namespaced {
        return Ok(());
    }
    let namespaces = namespaces()?;
    let name = call.target.namespace.as_str();
    let Some(namespace) = call.state.find(namespaces, "", name).await? else {
        return Err(Status::not_found(namespaces, name));
    };
    let terminating = namespace["status"]["phase"] == "Terminating";
    // What the namespace controller needs to finish may still be asked for.
    if terminating && call.resource.plural != "localsubjectaccessreviews" {
        return Err(Status::namespace_terminating(call.resource, text(object, "name"), name));
    }
    Ok(())
}

fn namespaces() -> Result<&'static resource::Resource, Status> {
    resource::find("", "v1", "namespaces").ok_or_else(|| Status::internal("namespaces are not served"))
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
    let resource = resource::find("", "v1", plural).ok_or_else(Status::no_such_resource)?;
    identify(&call.state, resource, &mut object, call.now)?;
    match call.state.write(Draft { resource, object: &object, old: None }).await {
        // Somebody was faster.
        Ok(_) | Err(store::Error::Conflict(_)) => Ok(()),
        Err(err) => Err(store_failed(err)),
    }
}

/// Runs after an object has gone.
pub(crate) fn deleted(_call: &Call, _object: &Value) {}
