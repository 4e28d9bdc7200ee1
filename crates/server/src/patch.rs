//! `PATCH`: the change is applied to the latest object, which is then replaced.

use std::sync::Arc;

use api::convert;
use api::field::{Error, ErrorList, Path};
use api::meta::Object as _;
use api::patch::{self, PatchType};
use api::status::{GroupKind, Status};
use serde_json::Value;
use store::Entry;
use wire::Response;

use crate::call::Call;
use crate::object;
use crate::write::{self, Tracking, Written};

/// How often a patch is applied again when somebody else was faster: upstream's number.
const TRIES: usize = 5;

/// Answers `PATCH`.
pub(crate) async fn patch(call: &Call, body: &[u8]) -> Result<Response, Status> {
    let kind = PatchType::from_media_type(&call.media_type())?;
    let mut warnings = Vec::new();
    check_options(call, kind)?;
    if kind == PatchType::Apply {
        let written = apply(call, body, &mut warnings).await?;
        return Ok(write::answer(call, &written, &warnings));
    }
    for _ in 0..TRIES {
        let old = call.current().await?;
        warnings.clear();
        if let Some(written) = change(call, kind, body, &old, &mut warnings).await? {
            return Ok(write::answer(call, &written, &warnings));
        }
    }
    Err(Status::modified(&call.resource, &call.target.name))
}

/// Applies the patch to `old`. `None` when that is not the latest any more.
async fn change(
    call: &Call,
    kind: PatchType,
    body: &[u8],
    old: &Arc<Entry>,
    warnings: &mut Vec<String>,
) -> Result<Option<Written>, Status> {
    let resource = &call.resource;
    let schema = resource.schema();
    let stored = object::read(&old.value)?;
    let current = convert::to_served(resource, stored.clone());
    let validation = write::field_validation(call)?;
    let decoded = patch::patch(schema, kind, body, &current, validation)?;
    warnings.extend(decoded.warnings);
    let new = convert::to_stored_over(resource, decoded.object, &stored);
    write::check_patched(call, &new, old)?;
    write::replace(call, new, old, Tracking::Update, warnings).await
}

/// Upstream's ValidatePatchOptions.
fn check_options(call: &Call, kind: PatchType) -> Result<(), Status> {
    let mut errors = ErrorList::new();
    if kind == PatchType::Apply {
        if call.query.text("fieldManager").is_empty() {
            errors.push(Error::required(&Path::new("fieldManager"), "is required for apply patch"));
        }
    } else if call.query.has("force") {
        let why = "may not be specified for non-apply patch";
        errors.push(Error::forbidden(&Path::new("force"), why));
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(Status::invalid(GroupKind { group: "meta.k8s.io", kind: "PatchOptions" }, "", &errors))
}

/// Server-side apply: creates what is not there.
async fn apply(call: &Call, body: &[u8], warnings: &mut Vec<String>) -> Result<Written, Status> {
    // The intent is of the version of the path, and so are the fields that its manager owns.
    let resource = &call.resource;
    let version = resource.api_version();
    let schema = resource.schema();
    let mut intent = api::apply::intent(schema, version, body)?;
    write::fit_namespace(call, &mut intent)?;
    fit_name(call, &mut intent)?;
    let name = write::manager_name(call);
    let manager = write::manager(call, &name, version);
    let force = call.query.flag("force");
    for _ in 0..TRIES {
        let Some(old) = call.state.get(&call.key()).await? else {
            if !call.target.subresource.is_empty() {
                return Err(call.not_found());
            }
            let object = api::apply::apply(schema, None, &intent, manager, force)?;
            let object = convert::to_stored(resource, object);
            match write::create_named(call, resource.storage(), object, Tracking::Applied, warnings).await {
                Err(status) if status.reason == api::status::Reason::AlreadyExists => continue,
                created => return created,
            }
        };
        let stored = object::read(&old.value)?;
        let live = convert::to_served(resource, stored.clone());
        let object = api::apply::apply(schema, Some(&live), &intent, manager, force)?;
        let object = convert::to_stored_over(resource, object, &stored);
        write::check_patched(call, &object, &old)?;
        if let Some(written) = write::replace(call, object, &old, Tracking::Applied, warnings).await? {
            return Ok(written);
        }
    }
    Err(Status::modified(&call.resource, &call.target.name))
}

/// The name of the path goes into the intent; another one in it is an error.
fn fit_name(call: &Call, intent: &mut Value) -> Result<(), Status> {
    let (given, asked) = (intent.meta().name(), call.target.name.as_str());
    if !given.is_empty() && given != asked {
        return Err(Status::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({asked})"
        )));
    }
    intent.meta_mut().set_name(asked);
    Ok(())
}
