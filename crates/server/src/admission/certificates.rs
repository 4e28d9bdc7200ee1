//! CertificateSigningRequests: who approves or signs must be permitted to do so for that signer
//! (CertificateApproval, CertificateSigning), and nobody becomes a master by asking (CertificateSubjectRestriction).
//!
//! Beside them, what upstream's registry strategy writes itself: who asks, and when conditions changed.

use api::certificates::{API_CLIENT, SigningRequest};
use api::status::Status;
use serde_json::{Map, Value, json};

use super::Request;
use crate::auth::{Attributes, User};

const GROUP: &str = "certificates.k8s.io";
const MASTERS: &str = "system:masters";

/// The step CertificateApproval.
pub(super) fn approval(request: &Request<'_>) -> Result<(), Status> {
    permitted(request, "approve")
}

/// The step CertificateSigning.
pub(super) fn signing(request: &Request<'_>) -> Result<(), Status> {
    let Some(old) = request.old else { return Ok(()) };
    let signed = |field: &str| request.object["status"][field] != old["status"][field];
    if signed("certificate") || signed("conditions") { permitted(request, "sign") } else { Ok(()) }
}

/// The step CertificateSubjectRestriction.
pub(super) fn subject_restriction(request: &Request<'_>) -> Result<(), Status> {
    if signer(&request.object) != API_CLIENT {
        return Ok(());
    }
    let pem = request.object["spec"]["request"].as_str().unwrap_or_default();
    let asked = SigningRequest::parse(pem).map_err(|why| request.forbidden(why))?;
    if asked.organizations.iter().any(|group| group == MASTERS) {
        return Err(
            request.forbidden(format!("use of {API_CLIENT} signer with {MASTERS} group is not allowed"))
        );
    }
    Ok(())
}

fn signer(request: &Value) -> &str {
    request["spec"]["signerName"].as_str().unwrap_or_default()
}

/// Whoever asks is who authentication says, whatever the request says.
pub(crate) fn stamp_author(request: &mut Value, user: &User) {
    if !request["spec"].is_object() {
        request["spec"] = json!({});
    }
    let Some(spec) = request["spec"].as_object_mut() else { return };
    let mut set = |name: &str, value: Value, is_empty: bool| {
        spec.remove(name);
        if !is_empty {
            spec.insert(name.to_owned(), value);
        }
    };
    set("username", json!(user.name), user.name.is_empty());
    set("uid", json!(user.uid), user.uid.is_empty());
    set("groups", json!(user.groups), user.groups.is_empty());
    set("extra", json!(user.extra), user.extra.is_empty());
}

/// The verb must be allowed on the signer itself, or on all of its domain.
fn permitted(request: &Request<'_>, verb: &str) -> Result<(), Status> {
    let signer = signer(request.old.unwrap_or(&request.object));
    let domain = signer.split_once('/').map_or(signer, |(domain, _)| domain);
    let call = request.call;
    let allowed = |name: &str| {
        let on = Attributes::resource(&call.user, verb, GROUP, "*", "signers");
        call.state.auth.decide(&Attributes { name, ..on }).is_allowed()
    };
    if allowed(signer) || allowed(&format!("{domain}/*")) {
        return Ok(());
    }
    let signer = api::field::go_quote(signer);
    Err(request.forbidden(format!("user not permitted to {verb} requests with signerName {signer}")))
}

/// Upstream's populateConditionTimestamps.
pub(crate) fn date_conditions(new: &mut Value, old: &Value, now: &str) {
    let before = old["status"]["conditions"].as_array().map_or(&[][..], Vec::as_slice);
    let conditions = new["status"].get_mut("conditions").and_then(Value::as_array_mut);
    for condition in conditions.into_iter().flatten().filter_map(Value::as_object_mut) {
        let same = |one: &&Value| {
            Some(&one["type"]) == condition.get("type") && Some(&one["status"]) == condition.get("status")
        };
        let since = before.iter().find(same).map(|one| one["lastTransitionTime"].clone());
        let since = since.filter(Value::is_string).unwrap_or_else(|| now.into());
        set_absent(condition, "lastUpdateTime", now.into());
        set_absent(condition, "lastTransitionTime", since);
    }
}

fn set_absent(condition: &mut Map<String, Value>, name: &str, value: Value) {
    if !condition.get(name).is_some_and(Value::is_string) {
        condition.insert(name.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_request_says_of_its_author_does_not_count() {
        let mut request = json!({"spec": {"username": "root", "uid": "0", "groups": ["system:masters"],
            "extra": {"a": ["b"]}}});
        stamp_author(
            &mut request,
            &User { name: "ann".into(), groups: vec!["staff".into()], ..User::default() },
        );
        assert_eq!(request["spec"], json!({"username": "ann", "groups": ["staff"]}));
    }

    #[test]
    fn conditions_are_dated_and_keep_the_time_of_their_last_change() {
        let old = json!({"status": {"conditions": [{"type": "Approved", "status": "True", "lastTransitionTime": "then"}]}});
        let mut new = json!({"status": {"conditions": [{"type": "Approved", "status": "True"}, {"type": "Failed", "status": "True"}]}});
        date_conditions(&mut new, &old, "now");
        let conditions = &new["status"]["conditions"];
        assert_eq!(
            (&conditions[0]["lastTransitionTime"], &conditions[0]["lastUpdateTime"]),
            (&json!("then"), &json!("now"))
        );
        assert_eq!(conditions[1]["lastTransitionTime"], "now");
    }
}
