//! CertificateSigningRequests: what each way of writing one may change.
//!
//! The request itself and who made it never change; `approval` writes conditions, `status` the
//! certificate and every condition but the approval.

use serde_json::{Value, json};

use super::prepare::{keep, replace};
use crate::field::{Error, ErrorList, Path, go_quote};
use crate::kinds::{Kind, Object};

const APPROVAL: &[&str] = &["Approved", "Denied"];
const LASTING: &[&str] = &["Approved", "Denied", "Failed"];

/// The conditions of a request.
fn conditions(object: &Value) -> &[Value] {
    object["status"]["conditions"].as_array().map_or(&[], Vec::as_slice)
}

fn of_type<'a>(object: &'a Value, kind: &str) -> Vec<&'a Value> {
    conditions(object).iter().filter(|condition| condition["type"] == kind).collect()
}

/// Keeps what this way of writing may not touch.
pub(crate) fn prepare_update(_: &Kind, subresource: Option<&str>, new: &mut Object, old: &Object) {
    keep(new, old, &["spec"]);
    match subresource {
        Some("approval") => {
            let written = new.get("status").and_then(|status| status.get("conditions")).cloned();
            let mut status = old.get("status").cloned().unwrap_or_else(|| json!({}));
            if let Some(status) = status.as_object_mut() {
                replace(status, "conditions", written);
            }
            new.insert("status".to_owned(), status);
        }
        Some(_) => keep_approval(new, old),
        None => keep(new, old, &["status"]),
    }
}

/// As many approvals as there were stay what they were; more or fewer are refused later.
fn keep_approval(new: &mut Object, old: &Object) {
    let Some(written) = new.get_mut("status").and_then(|status| status["conditions"].as_array_mut()) else {
        return;
    };
    let old = old.get("status").and_then(|status| status["conditions"].as_array());
    for kind in APPROVAL {
        let before: Vec<_> = old.into_iter().flatten().filter(|one| one["type"] == *kind).collect();
        let after: Vec<_> = written.iter_mut().filter(|one| one["type"] == *kind).collect();
        if before.len() == after.len() {
            after.into_iter().zip(before).for_each(|(after, before)| *after = before.clone());
        }
    }
}

/// What is wrong with the conditions and the certificate: upstream's
/// validateCertificateSigningRequestUpdate.
pub(crate) fn validate_update(subresource: Option<&str>, new: &Value, old: &Value, errors: &mut ErrorList) {
    let status = Path::new("status");
    let path = status.child("conditions");
    check_conditions(new, &path, errors);
    let mut forbid = |why: String| errors.push(Error::forbidden(&path, why));
    for kind in LASTING {
        if of_type(new, kind).len() < of_type(old, kind).len() {
            forbid(format!("updates may not remove a condition of type {}", go_quote(kind)));
        }
    }
    if subresource != Some("approval") {
        for kind in APPROVAL {
            let (after, before) = (of_type(new, kind), of_type(old, kind));
            if after.len() > before.len() {
                forbid(format!("updates may not add a condition of type {}", go_quote(kind)));
            } else if after.len() == before.len() && after != before {
                forbid(format!("updates may not modify a condition of type {}", go_quote(kind)));
            }
        }
    }
    let (after, before) = (&new["status"]["certificate"], &old["status"]["certificate"]);
    if after != before && before.as_str().is_some_and(|certificate| !certificate.is_empty()) {
        let why = "updates may not modify existing certificate content";
        errors.push(Error::forbidden(&status.child("certificate"), why));
    }
}

fn check_conditions(object: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    let kind_of = |one: &Value| one["type"].as_str().unwrap_or_default().to_owned();
    let mut seen: Vec<String> = Vec::new();
    for (index, condition) in conditions(object).iter().enumerate() {
        let (path, kind) = (path.index(index), kind_of(condition));
        let status = condition["status"].as_str().unwrap_or_default();
        let allowed: &[&str] =
            if LASTING.contains(&kind.as_str()) { &["True"] } else { &["False", "True", "Unknown"] };
        if kind.is_empty() {
            errors.push(Error::required(&path.child("type"), ""));
        }
        if status.is_empty() {
            errors.push(Error::required(&path.child("status"), ""));
        } else if !allowed.contains(&status) {
            errors.push(Error::not_supported(&path.child("status"), status, allowed));
        }
        let is_approval = APPROVAL.contains(&kind.as_str());
        if is_approval && seen.iter().any(|one| *one != kind && APPROVAL.contains(&one.as_str())) {
            let why = "Approved and Denied conditions are mutually exclusive";
            errors.push(Error::invalid(&path.child("type"), kind.as_str(), why));
        }
        if seen.contains(&kind) {
            errors.push(Error::duplicate(&path.child("type"), kind.as_str()));
        }
        seen.push(kind);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::find;
    use crate::strategy;

    fn requests() -> &'static Kind {
        find("certificates.k8s.io", "v1", "certificatesigningrequests").unwrap()
    }

    fn request() -> Value {
        json!({"metadata": {"name": "a"}, "spec": {"username": "ann", "signerName": "x.io/y"}, "status": {}})
    }

    fn condition(kind: &str) -> Value {
        json!({"type": kind, "status": "True", "reason": "r"})
    }

    /// What is stored of `wanted`, and what is wrong with it.
    fn written(part: Option<&str>, wanted: &Value, old: &Value) -> (Value, String) {
        let mut new = wanted.clone();
        strategy::prepare_update(requests(), part, &mut new, old);
        let errors = strategy::validate_update(requests(), part, &new, old);
        (new, errors.iter().map(|error| error.body()).collect::<Vec<_>>().join("; "))
    }

    #[test]
    fn an_approval_changes_conditions_only() {
        let mut wanted = request();
        wanted["spec"]["username"] = "root".into();
        wanted["status"] = json!({"certificate": "Zm9yZ2Vk", "conditions": [condition("Approved")]});
        let (stored, wrong) = written(Some("approval"), &wanted, &request());
        assert_eq!(wrong, "");
        assert_eq!(stored["spec"], request()["spec"]);
        assert_eq!(stored["status"], json!({"conditions": [condition("Approved")]}));
    }

    #[test]
    fn an_update_of_the_object_changes_neither_spec_nor_status() {
        let mut wanted = request();
        wanted["spec"]["groups"] = json!(["system:masters"]);
        wanted["status"]["conditions"] = json!([condition("Approved")]);
        let (stored, _) = written(None, &wanted, &request());
        assert_eq!((&stored["spec"], &stored["status"]), (&request()["spec"], &json!({})));
    }

    #[test]
    fn a_status_cannot_approve_and_an_approval_cannot_be_taken_back() {
        let mut wanted = request();
        wanted["status"] = json!({"certificate": "Zg==", "conditions": [condition("Approved")]});
        let (_, wrong) = written(Some("status"), &wanted, &request());
        assert_eq!(wrong, "Forbidden: updates may not add a condition of type \"Approved\"");
        let mut signed = request();
        signed["status"] = wanted["status"].clone();
        let (_, wrong) = written(Some("approval"), &request(), &signed);
        assert_eq!(wrong, "Forbidden: updates may not remove a condition of type \"Approved\"");
        let mut both = signed.clone();
        both["status"]["conditions"] = json!([condition("Approved"), condition("Denied")]);
        let (_, wrong) = written(Some("approval"), &both, &signed);
        assert!(wrong.contains("Approved and Denied conditions are mutually exclusive"), "{wrong}");
        let mut resigned = signed.clone();
        resigned["status"]["certificate"] = "Zw==".into();
        let (_, wrong) = written(Some("status"), &resigned, &signed);
        assert_eq!(wrong, "Forbidden: updates may not modify existing certificate content");
    }
}
