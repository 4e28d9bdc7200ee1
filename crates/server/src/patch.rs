//! `PATCH`: the change is applied to the latest object, which is then replaced.

use std::sync::Arc;

use api::patch::{self, PatchType};
use api::schema;
use api::status::Status;
use store::Entry;
use wire::Response;

use crate::call::Call;
use crate::convert;
use crate::object;
use crate::write::{self, Written};

/// How often a patch is applied again when somebody else was faster: upstream's number.
const TRIES: usize = 5;

/// Answers `PATCH`.
pub(crate) async fn patch(call: &Call, body: &[u8]) -> Result<Response, Status> {
    let kind = PatchType::from_media_type(&call.media_type())?;
    let mut warnings = Vec::new();
    for _ in 0..TRIES {
        let old = call.current().await?;
        warnings.clear();
        if let Some(written) = apply(call, kind, body, &old, &mut warnings).await? {
            return Ok(write::answer(call, &written, &warnings));
        }
    }
    Err(Status::modified(call.resource, &call.target.name))
}

/// Applies the patch to `old`. `None` when that is not the latest any more.
async fn apply(
    call: &Call,
    kind: PatchType,
    body: &[u8],
    old: &Arc<Entry>,
    warnings: &mut Vec<String>,
) -> Result<Option<Written>, Status> {
    let resource = call.resource;
    let schema = schema::kind(&resource.api_version(), resource.kind).ok_or_else(Status::no_such_resource)?;
    let current = convert::to_served(resource, object::read(&old.value));
    let validation = write::field_validation(call)?;
    let decoded = patch::patch(schema, kind, body, &current, validation)?;
    warnings.extend(decoded.warnings);
    let new = convert::to_stored(resource, decoded.object);
    write::check_patched(call, &new, old)?;
    write::replace(call, new, old, warnings).await
}
