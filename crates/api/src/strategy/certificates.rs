//! CertificateSigningRequests: what one must be, and what each way of writing one may change.
//!
//! The request itself and who made it never change; `approval` writes conditions, `status` the
//! certificate and every condition but the approval.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use x509_parser::pem::Pem;

use super::prepare::{Author, keep, replace};
use crate::certificates::{LEGACY_UNKNOWN, SigningRequest};
use crate::field::{Error, ErrorList, Path, go_quote};
use crate::kinds::{Kind, Object};
use crate::validate::view::View;
use crate::validate::{is_dns1123_label, is_dns1123_subdomain};

const APPROVAL: &[&str] = &["Approved", "Denied"];
const LASTING: &[&str] = &["Approved", "Denied", "Failed"];

/// What a certificate may be used for, by the names of the API.
const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];
/// Twice what the signer antedates, so that no certificate is born dead.
const SECONDS_MIN: i64 = 600;
const SUBDOMAIN_MAX: usize = 253;
/// A namespace, a name and the point between them.
const PATH_MAX: usize = SUBDOMAIN_MAX + 63 + 1;

/// What is wrong with a new request: upstream's validateCertificateSigningRequest.
pub(crate) fn validate_create(new: View<'_>, errors: &mut ErrorList) {
    let spec = new.get("spec");
    let path = Path::new("spec");
    let request = spec.str("request");
    let checked = SigningRequest::parse(request).and_then(|parsed| parsed.check_signature());
    if let Err(why) = checked {
        errors.push(Error::invalid(&path.child("request"), request, why));
    }
    usages(spec, &path.child("usages"), errors);
    signer_name(spec.str("signerName"), &path.child("signerName"), errors);
    if let Some(seconds) = spec.get("expirationSeconds").as_int().filter(|seconds| *seconds < SECONDS_MIN) {
        let why = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.push(Error::invalid(&path.child("expirationSeconds"), seconds, why));
    }
}

fn usages(spec: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let given: Vec<&str> = spec.list("usages").map(View::text).collect();
    if given.is_empty() {
        errors.push(Error::required(path, ""));
    }
    for (index, usage) in given.iter().enumerate().filter(|(_, usage)| !USAGES.contains(usage)) {
        errors.push(Error::not_supported(&path.index(index), *usage, USAGES));
    }
    for (index, usage) in given.iter().enumerate().filter(|(index, usage)| given[..*index].contains(usage)) {
        errors.push(Error::duplicate(&path.index(index), *usage));
    }
}

/// Upstream's ValidateSignerName.
fn signer_name(name: &str, path: &Path<'_>, errors: &mut ErrorList) {
    if name == LEGACY_UNKNOWN {
        let why = "the legacy signerName is not allowed via this API version";
        return errors.push(Error::invalid(path, name, why));
    }
    if name.is_empty() {
        return errors.push(Error::required(path, ""));
    }
    let Some((domain, rest)) = name.split_once('/').filter(|(_, rest)| !rest.contains('/')) else {
        let why = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        return errors.push(Error::invalid(path, name, why));
    };
    if domain.len() > SUBDOMAIN_MAX {
        errors.push(Error::too_long(path, SUBDOMAIN_MAX));
    }
    labels(domain, is_dns1123_label, path, errors);
    if !domain.contains('.') {
        let why = "should be a domain with at least two segments separated by dots";
        errors.push(Error::invalid(path, domain, why));
    }
    labels(rest, is_dns1123_subdomain, path, errors);
    if rest.len() > PATH_MAX {
        errors.push(Error::too_long(path, PATH_MAX));
    }
}

/// The first label that is wrong; what follows would only say the same again.
fn labels(segment: &str, rule: fn(&str) -> Vec<String>, path: &Path<'_>, errors: &mut ErrorList) {
    let wrong = segment.split('.').map(|label| (label, rule(label))).find(|(_, wrong)| !wrong.is_empty());
    for (label, why) in
        wrong.into_iter().flat_map(|(label, wrong)| wrong.into_iter().map(move |w| (label, w)))
    {
        errors.push(Error::invalid(path, segment, format!("validating label {}: {why}", go_quote(label))));
    }
}

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

/// Whoever asks is who authentication says, whatever the request says.
pub(crate) fn stamp_author(request: &mut Object, author: &Author<'_>) {
    let spec = request.entry("spec").or_insert_with(|| json!({}));
    if !spec.is_object() {
        *spec = json!({});
    }
    let Some(spec) = spec.as_object_mut() else { return };
    let mut set =
        |name: &str, value: Value, is_empty: bool| replace(spec, name, (!is_empty).then_some(value));
    set("username", json!(author.name), author.name.is_empty());
    set("uid", json!(author.uid), author.uid.is_empty());
    set("groups", json!(author.groups), author.groups.is_empty());
    set("extra", json!(author.extra), author.extra.is_empty());
}

/// Upstream's populateConditionTimestamps.
pub(crate) fn date_conditions(new: &mut Object, old: Option<&Object>, now: &str) {
    let before = old.and_then(|old| old.get("status")).and_then(|status| status["conditions"].as_array());
    let before = before.map_or(&[][..], Vec::as_slice);
    let conditions = new.get_mut("status").and_then(|status| status.get_mut("conditions"));
    let conditions = conditions.and_then(Value::as_array_mut);
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

fn set_absent(condition: &mut Object, name: &str, value: Value) {
    if !condition.get(name).is_some_and(Value::is_string) {
        condition.insert(name.to_owned(), value);
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
    let (after, before) = (&new["status"]["certificate"], &old["status"]["certificate"]);
    if let Some(certificate) = after.as_str().filter(|one| !one.is_empty() && after != before)
        && let Err(why) = check_certificate(certificate)
    {
        errors.push(Error::invalid(&status.child("certificate"), "<certificate data>", why));
    }
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
    if after != before && before.as_str().is_some_and(|certificate| !certificate.is_empty()) {
        let why = "updates may not modify existing certificate content";
        errors.push(Error::forbidden(&status.child("certificate"), why));
    }
}

/// A chain of certificates in PEM, and nothing else in it.
fn check_certificate(certificate: &str) -> Result<(), String> {
    let pem = BASE64.decode(certificate).unwrap_or_default();
    let mut blocks = 0;
    for block in Pem::iter_from_buffer(&pem).map_while(Result::ok) {
        if block.label != "CERTIFICATE" {
            let label = go_quote(&block.label);
            return Err(format!("only CERTIFICATE PEM blocks are allowed, found {label}"));
        }
        block.parse_x509().map_err(|_| "x509: malformed certificate".to_owned())?;
        blocks += 1;
    }
    if blocks > 0 { Ok(()) } else { Err("must contain one or more CERTIFICATE PEM blocks".to_owned()) }
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

    fn wrong(spec: &Value) -> Vec<String> {
        let mut errors = ErrorList::new();
        validate_create(View::new(&json!({"spec": spec})), &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_new_request_is_held_against_every_rule() {
        let spec = json!({"request": "Zm9yZ2Vk", "signerName": "x.io/y", "usages": ["client auth", "sing", "client auth"],
            "expirationSeconds": 599});
        let found = wrong(&spec);
        let said = |text: &str| assert!(found.iter().any(|one| one.contains(text)), "{text}: {found:?}");
        said("spec.request: Invalid value: \"Zm9yZ2Vk\": PEM block type must be CERTIFICATE REQUEST");
        said("spec.usages[1]: Unsupported value: \"sing\": supported values: \"any\"");
        said("spec.usages[2]: Duplicate value: \"client auth\"");
        said(
            "spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 600 seconds (10 minutes)",
        );
        assert_eq!(found.len(), 4);
        assert!(wrong(&json!({})).contains(&"spec.usages: Required value".to_owned()));
    }

    #[test]
    fn the_name_of_a_signer_is_a_domain_and_a_path() {
        let of_signer = |name: &str| {
            let mut errors = ErrorList::new();
            signer_name(name, &Path::new("spec.signerName"), &mut errors);
            errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
        };
        assert_eq!(of_signer("example.com/mine"), "");
        let form = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        for (name, wrong) in [
            (LEGACY_UNKNOWN, "the legacy signerName is not allowed via this API version"),
            ("mine", form),
            ("a.b/c/d", form),
            ("example/mine", "should be a domain with at least two segments separated by dots"),
            ("example.com/-", "validating label \"-\": a lowercase RFC 1123 subdomain must consist"),
        ] {
            assert!(of_signer(name).contains(wrong), "{name}: {}", of_signer(name));
        }
    }

    #[test]
    fn a_certificate_is_a_certificate() {
        assert_eq!(
            check_certificate("Zg=="),
            Err("must contain one or more CERTIFICATE PEM blocks".to_owned())
        );
        let key = BASE64.encode("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
        assert_eq!(
            check_certificate(&key),
            Err("only CERTIFICATE PEM blocks are allowed, found \"PRIVATE KEY\"".to_owned())
        );
    }

    #[test]
    fn what_a_request_says_of_its_author_does_not_count() {
        let mut request = json!({"spec": {"username": "root", "uid": "0", "groups": ["system:masters"],
            "extra": {"a": ["b"]}}});
        let groups = ["staff".to_owned()];
        let ann = Author { name: "ann", uid: "", groups: &groups, extra: &Default::default() };
        strategy::stamp(requests(), &mut request, &ann);
        assert_eq!(request["spec"], json!({"username": "ann", "groups": ["staff"]}));
    }

    #[test]
    fn conditions_are_dated_and_keep_the_time_of_their_last_change() {
        let old = json!({"status": {"conditions": [{"type": "Approved", "status": "True", "lastTransitionTime": "then"}]}});
        let mut new = json!({"status": {"conditions": [{"type": "Approved", "status": "True"}, {"type": "Failed", "status": "True"}]}});
        strategy::date(requests(), &mut new, Some(&old), "now");
        let conditions = &new["status"]["conditions"];
        assert_eq!(
            (&conditions[0]["lastTransitionTime"], &conditions[0]["lastUpdateTime"]),
            (&json!("then"), &json!("now"))
        );
        assert_eq!(conditions[1]["lastTransitionTime"], "now");
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
        assert!(
            wrong.ends_with("Forbidden: updates may not add a condition of type \"Approved\""),
            "{wrong}"
        );
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
        assert!(wrong.ends_with("Forbidden: updates may not modify existing certificate content"), "{wrong}");
    }
}
