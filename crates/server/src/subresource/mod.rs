//! Subresources that are more than another way to write the object.

pub(crate) mod binding;
pub(crate) mod connect;
pub(crate) mod eviction;
pub(crate) mod proxy;
pub(crate) mod scale;

use api::decode;
use api::kinds::GroupVersion;
use api::status::Status;
use serde_json::Value;
use wire::Response;

use crate::admission;
use crate::call::Call;
use crate::respond::warn;
use crate::write::{Tracking, field_validation, track};

/// Decodes a body of the subresource's own kind.
fn decode_body(call: &Call, body: &[u8], warnings: &mut Vec<String>) -> Result<Value, Status> {
    let (version, kind) = match call.subresource() {
        Some(part) => {
            let (group, version) = (part.group.clone(), part.version.clone());
            (GroupVersion { group, version }.api_version(), &part.kind)
        }
        None => (call.resource.api_version().into(), &call.resource.kind),
    };
    let decoded = decode::decode_kind(&version, kind, body, &call.media_type(), field_validation(call)?)?;
    warnings.extend(decoded.warnings);
    Ok(decoded.object)
}

/// A body of the subresource's own kind after admission.
async fn admitted(call: &Call, object: Value, warnings: &mut Vec<String>) -> Result<Value, Status> {
    let (object, outcome) = admission::admit(admission::Request::act(call, object)?).await?;
    warnings.extend(outcome.warnings);
    Ok(object)
}

/// Answers `POST serviceaccounts/NAME/token`.
pub(crate) async fn token(call: &Call, body: &[u8]) -> Result<Response, Status> {
    let mut warnings = Vec::new();
    let object = decode_body(call, body, &mut warnings)?;
    let object = admitted(call, object, &mut warnings).await?;
    let target = &call.target;
    let issued = call.state.auth.token_request(&target.namespace, &target.name, object, call.now)?;
    created(call, &issued, &warnings)
}

/// Answers a review: a question that is answered and forgotten.
pub(crate) async fn review(call: &Call, body: &[u8]) -> Result<Response, Status> {
    let mut warnings = Vec::new();
    let mut object = decode_body(call, body, &mut warnings)?;
    // A review has fields with owners as any object that is created, though it is kept nowhere.
    track(call, Tracking::Update, None, &mut object);
    let object = admitted(call, object, &mut warnings).await?;
    let answer =
        call.state.auth.review(&call.resource, &call.target.namespace, &call.user, object, call.now)?;
    created(call, &answer, &warnings)
}

fn created(call: &Call, object: &Value, warnings: &[String]) -> Result<Response, Status> {
    let mut response = call.value(201, object)?;
    warn(response.headers_mut(), warnings);
    Ok(response)
}
