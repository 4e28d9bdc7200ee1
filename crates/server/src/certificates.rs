//! CertificateSigningRequests at admission: who asks is written by the server, and who approves
//! or signs must be permitted to do so for that signer.
//!
//! Upstream's registry strategy and its plugins CertificateApproval, CertificateSigning and
//! CertificateSubjectRestriction.

use api::status::Status;
use serde_json::{Map, Value, json};

use crate::auth::{Attributes, User};
use crate::call::Call;
use crate::state::seconds;
use crate::write::text;

const GROUP: &str = "certificates.k8s.io";
const API_CLIENT: &str = "kubernetes.io/kube-apiserver-client";
const MASTERS: &str = "system:masters";

/// Whether the call is about these requests.
pub(crate) fn concerns(call: &Call) -> bool {
    call.resource.group == GROUP && call.resource.plural == "certificatesigningrequests"
}

/// Runs on a new request.
pub(crate) fn create(call: &Call, request: &mut Value) -> Result<(), Status> {
    stamp(&mut request["spec"], &call.user);
    if signer(request) == API_CLIENT {
        let pem = request["spec"]["request"].as_str().unwrap_or_default();
        let organizations = wire::pki::request_organizations(pem);
        if organizations.iter().flatten().any(|group| group == MASTERS) {
            let why = format!("use of {API_CLIENT} signer with {MASTERS} group is not allowed");
            return Err(Status::forbidden(&call.resource, text(request, "name"), why));
        }
    }
    Ok(())
}

/// Runs on a changed request.
pub(crate) fn update(call: &Call, new: &mut Value, old: &Value) -> Result<(), Status> {
    date_conditions(new, old, &seconds(call.now));
    let signed = |field: &str| new["status"][field] != old["status"][field];
    match call.target.subresource.as_str() {
        "approval" => permitted(call, old, "approve"),
        "status" if signed("certificate") || signed("conditions") => permitted(call, old, "sign"),
        _ => Ok(()),
    }
}

fn signer(request: &Value) -> &str {
    request["spec"]["signerName"].as_str().unwrap_or_default()
}

/// Whoever asks is who authentication says, whatever the request says.
fn stamp(spec: &mut Value, user: &User) {
    if !spec.is_object() {
        *spec = json!({});
    }
    let Some(spec) = spec.as_object_mut() else { return };
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
fn permitted(call: &Call, request: &Value, verb: &str) -> Result<(), Status> {
    let signer = signer(request);
    let domain = signer.split_once('/').map_or(signer, |(domain, _)| domain);
    let allowed = |name: &str| {
        let on = Attributes::resource(&call.user, verb, GROUP, "*", "signers");
        call.state.auth.decide(&Attributes { name, ..on }).is_allowed()
    };
    if allowed(signer) || allowed(&format!("{domain}/*")) {
        return Ok(());
    }
    let why =
        format!("user not permitted to {verb} requests with signerName {}", api::field::go_quote(signer));
    Err(Status::forbidden(&call.resource, text(request, "name"), why))
}

/// Upstream's populateConditionTimestamps.
fn date_conditions(new: &mut Value, old: &Value, now: &str) {
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
        let mut spec =
            json!({"username": "root", "uid": "0", "groups": ["system:masters"], "extra": {"a": ["b"]}});
        stamp(&mut spec, &User { name: "ann".into(), groups: vec!["staff".into()], ..User::default() });
        assert_eq!(spec, json!({"username": "ann", "groups": ["staff"]}));
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
