//! NamespaceLifecycle: no objects in namespaces that are not there or are going away, and some namespaces
//! that never go. Beside it, what every namespace has from its first moment on.

use api::kinds::{self, Kind};
use api::status::Status;
use serde_json::Value;

use super::{Operation, Request};
use crate::bootstrap::identify;
use crate::call::Call;
use crate::state::{Draft, store_failed};

/// Namespaces that are always there.
const IMMORTAL: &[&str] = &["default", "kube-system", "kube-public"];

pub(super) async fn admit(request: &mut Request<'_>) -> Result<(), Status> {
    let (resource, operation) = (request.resource(), request.operation);
    if resource.group.is_empty() && resource.kind == "Namespace" {
        let kept = operation == Operation::Delete && IMMORTAL.contains(&request.name());
        return if kept { Err(request.forbidden("this namespace may not be deleted")) } else { Ok(()) };
    }
    // What is asked about access tells nothing about namespaces either.
    if !resource.namespaced || operation == Operation::Delete || resource.group == "authorization.k8s.io" {
        return Ok(());
    }
    let namespaces = core("namespaces")?;
    let name = request.namespace();
    let Some(namespace) = request.call.state.find(namespaces, "", name).await? else {
        return Err(Status::not_found(namespaces, name));
    };
    if operation == Operation::Create && namespace["status"]["phase"] == "Terminating" {
        return Err(Status::namespace_terminating(&request.call.resource, request.name(), name));
    }
    Ok(())
}

fn core(plural: &str) -> Result<&'static Kind, Status> {
    kinds::find("", "v1", plural).ok_or_else(Status::no_such_resource)
}

/// Gives a namespace its ServiceAccount and the authority's certificate at once, so that
/// a Pod can be created in it with the next request. Upstream leaves this to controllers.
pub(crate) async fn furnish(call: &Call, namespace: &str) -> Result<(), Status> {
    let account = api::bootstrap::default_service_account(namespace);
    let certificate = api::bootstrap::root_ca(namespace, &call.state.config.authority_pem);
    let account = furnish_one(call, "serviceaccounts", account);
    let certificate = furnish_one(call, "configmaps", certificate);
    let (account, certificate) = futures_util::future::join(account, certificate).await;
    account.and(certificate)
}

async fn furnish_one(call: &Call, plural: &str, mut object: Value) -> Result<(), Status> {
    let resource = core(plural)?;
    identify(&call.state, resource, &mut object, call.now)?;
    match call.state.write(Draft { resource, object: &object, old: None }).await {
        // Somebody was faster.
        Ok(_) | Err(store::Error::Conflict(_)) => Ok(()),
        Err(err) => Err(store_failed(err)),
    }
}
