//! LimitRanger: containers get what the namespace's ranges give, and Pods and claims stay within them.

use std::sync::Arc;

use api::kinds;
use api::meta::Object as _;
use api::status::Status;
use api::strategy::admission::limits;
use serde_json::Value;

use super::{Operation, Request};

/// The containers of a Pod never change after its creation, but for their amounts by a resize.
fn concerns_containers(request: &Request<'_>) -> bool {
    request.resource().kind == "Pod"
        && (request.operation == Operation::Create || request.subresource() == "resize")
}

fn ranges(request: &Request<'_>) -> Result<Vec<Arc<Value>>, Status> {
    let ranges = kinds::find("", "v1", "limitranges").ok_or_else(Status::no_such_resource)?;
    request.all(ranges, request.namespace())
}

pub(super) fn mutate(request: &mut Request<'_>) -> Result<(), Status> {
    if concerns_containers(request) {
        let ranges = ranges(request)?;
        limits::complete(&mut request.object, &ranges);
    }
    Ok(())
}

pub(super) fn validate(request: &Request<'_>) -> Result<(), Status> {
    let check = match &*request.resource().kind {
        "Pod" if !concerns_containers(request) => return Ok(()),
        "Pod" => limits::check_pod,
        _ => limits::check_claim,
    };
    // What is going away need not fit any more.
    let going = request.old.is_some_and(|old| old.meta().is_going());
    if going {
        return Ok(());
    }
    check(&request.object, &ranges(request)?).map_err(|why| request.forbidden(why))
}
