//! What is accepted and has no effect yet is said, or refused where it would look like protection and be
//! none: `api::limits` has the table.

use api::status::Status;

use super::{Outcome, Request};

/// A dry run keeps nothing, so there is nothing to say of it; but it is refused where the write would be.
pub(super) fn validate(request: &Request<'_>, outcome: &mut Outcome) -> Result<(), Status> {
    if !request.is_own_kind {
        return Ok(());
    }
    let resource = request.resource();
    let found = api::limits::find(
        &resource.group,
        &resource.kind,
        request.subresource(),
        &request.object,
        request.old,
    );
    if let Some(why) = found.refusal {
        return Err(request.forbidden(why));
    }
    if !request.dry_run {
        outcome.warnings.extend(found.warnings);
    }
    Ok(())
}
