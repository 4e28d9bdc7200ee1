//! NamespaceLifecycle: no objects in namespaces that are not there or are going away, and some namespaces
//! that never go.

use api::kinds::{self, Kind};
use api::status::Status;

use super::{Operation, Request};

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
