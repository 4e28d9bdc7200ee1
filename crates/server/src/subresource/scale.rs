//! `/scale`: the number of replicas, in the same words for every kind.

use api::decode;
use api::field::{Error, ErrorList, Path};
use api::meta::Object as _;
use api::patch::{self, PatchType};
use api::schema;
use api::selector::LabelSelector;
use api::status::{GroupKind, Status};
use serde_json::{Value, json};
use wire::Response;

use crate::call::Call;
use crate::object;
use crate::respond::warn;
use crate::write::{self, Tracking, field_validation};

const VERSION: &str = "autoscaling/v1";
/// How often a patch is applied again when somebody else was faster.
const TRIES: usize = 5;

/// Answers `GET …/scale`.
pub(crate) async fn get(call: &Call) -> Result<Response, Status> {
    let entry = call.current().await?;
    call.value(200, &scale_of(&object::read(&entry.value)?))
}

/// The Scale of an object.
fn scale_of(object: &Value) -> Value {
    let meta = object.meta();
    let metadata = json!({
        "name": meta.name(),
        "namespace": meta.namespace(),
        "uid": meta.uid(),
        "resourceVersion": meta.resource_version(),
        "creationTimestamp": meta.creation_timestamp(),
    });
    let number = |part: &str| object[part]["replicas"].as_i64().unwrap_or(0);
    let mut scale = json!({
        "kind": "Scale",
        "apiVersion": VERSION,
        "metadata": metadata,
        "spec": {},
        "status": { "replicas": number("status") },
    });
    // Zero values are left out, as Go's omitempty does.
    if number("spec") != 0 {
        scale["spec"]["replicas"] = number("spec").into();
    }
    let selector = selector_text(&object["spec"]["selector"]);
    if !selector.is_empty() {
        scale["status"]["selector"] = selector.into();
    }
    scale
}

/// A selector as text: of a LabelSelector, or of a ReplicationController's plain map.
fn selector_text(selector: &Value) -> String {
    if let Some(pairs) = selector.as_object().filter(|pairs| pairs.values().all(Value::is_string)) {
        let pairs = pairs.iter().map(|(name, value)| (name.as_str(), value.as_str().unwrap_or_default()));
        return LabelSelector::from_pairs(pairs).to_string();
    }
    let selector = serde_json::from_value(selector.clone()).ok();
    LabelSelector::from_meta(selector.as_ref()).map(|selector| selector.to_string()).unwrap_or_default()
}

/// Answers `PUT …/scale`.
pub(crate) async fn update(call: &Call, body: &[u8]) -> Result<Response, Status> {
    let validation = field_validation(call)?;
    let decoded = decode::decode_kind(VERSION, "Scale", body, &call.media_type(), validation)?;
    change(call, decoded.warnings, |_| Ok(decoded.object.clone())).await
}

/// Answers `PATCH …/scale`: the patch is of the Scale.
pub(crate) async fn patch(call: &Call, body: &[u8]) -> Result<Response, Status> {
    let kind = PatchType::from_media_type(&call.media_type())?;
    let schema = schema::kind(VERSION, "Scale").ok_or_else(Status::no_such_resource)?;
    let validation = field_validation(call)?;
    let apply =
        |scale: &Value| patch::patch(schema, kind, body, scale, validation).map(|decoded| decoded.object);
    change(call, Vec::new(), apply).await
}

async fn change(
    call: &Call,
    mut warnings: Vec<String>,
    wish: impl Fn(&Value) -> Result<Value, Status>,
) -> Result<Response, Status> {
    for _ in 0..TRIES {
        let old = call.current().await?;
        let mut object = object::read(&old.value)?;
        let scale = wish(&scale_of(&object))?;
        check(call, &scale)?;
        let given = scale.meta().resource_version();
        if !given.is_empty() && given != object.meta().resource_version() {
            return Err(Status::modified(&call.resource, &call.target.name));
        }
        object["spec"]["replicas"] = scale["spec"]["replicas"].as_i64().unwrap_or(0).into();
        if let Some(written) = write::replace(call, object, &old, Tracking::Update, &mut warnings).await? {
            let mut response = call.value(200, &scale_of(&object::read(&written.stored)?))?;
            warn(response.headers_mut(), &warnings);
            return Ok(response);
        }
    }
    Err(Status::modified(&call.resource, &call.target.name))
}

fn check(call: &Call, scale: &Value) -> Result<(), Status> {
    let (given, asked) = (scale.meta().name(), call.target.name.as_str());
    if !given.is_empty() && given != asked {
        return Err(Status::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({asked})"
        )));
    }
    let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
    if replicas >= 0 {
        return Ok(());
    }
    let path = Path::new("spec");
    let error = Error::invalid(&path.child("replicas"), replicas, "must be greater than or equal to 0");
    Err(Status::invalid(GroupKind { group: "autoscaling", kind: "Scale" }, asked, &ErrorList(vec![error])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_tells_replicas_and_selector() {
        let object = json!({"metadata": {"name": "web"}, "status": {"replicas": 2},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"b": "2", "a": "1"}}}});
        let scale = scale_of(&object);
        assert_eq!(
            (&scale["spec"], &scale["status"]),
            (&json!({"replicas": 3}), &json!({"replicas": 2, "selector": "a=1,b=2"}))
        );
        let plain = scale_of(&json!({"spec": {"selector": {"a": "1"}}}));
        assert_eq!(plain["status"]["selector"], "a=1");
    }
}
