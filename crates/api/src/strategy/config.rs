//! ConfigMaps and Secrets.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::prepare;
use crate::field::{Error, ErrorList, Path};
use crate::kinds::{Kind, Object};
use crate::validate::meta::{immutable, same};
use crate::validate::view::View;
use crate::validate::{check, is_config_map_key};

/// The most bytes that the values of one object may have together (`MaxSecretSize`).
const SIZE_MAX: usize = 1024 * 1024;

const DATA: Path<'static> = Path::new("data");

/// The number of bytes that a base64 text stands for.
fn decoded_len(text: &str) -> usize {
    let padding = text.bytes().rev().take_while(|b| *b == b'=').count();
    (text.len() / 4 * 3).saturating_sub(padding)
}

fn keys(
    map: View<'_>,
    name: &str,
    size: fn(&str) -> usize,
    path: &Path<'_>,
    errors: &mut ErrorList,
) -> usize {
    let mut total = 0;
    for (key, value) in map.map(name) {
        check(is_config_map_key(key), key, &path.key(key), errors);
        total += size(value.text());
    }
    total
}

/// What `immutable: true` forbids from then on.
fn frozen(new: View<'_>, old: View<'_>, fields: &[&str], errors: &mut ErrorList) {
    if !old.flag("immutable") {
        return;
    }
    let words = "field is immutable when `immutable` is set";
    if !new.flag("immutable") {
        errors.push(Error::forbidden(&Path::new("immutable"), words));
    }
    for name in fields {
        if !same(new.get(name).value(), old.get(name).value()) {
            errors.push(Error::forbidden(&Path::new(name), words));
        }
    }
}

/// What no program could serve TLS with. Whether a key belongs to its certificate is not looked at here: that
/// takes cryptography, and the program that serves says it.
pub(crate) fn secret_warnings(secret: &Value, _: Option<&Value>) -> Vec<String> {
    let secret = View::new(secret);
    if secret.str("type") != "kubernetes.io/tls" {
        return Vec::new();
    }
    let blocks = |name: &str| {
        let bytes = STANDARD.decode(secret.get("data").str(name)).unwrap_or_default();
        pem_types(&String::from_utf8_lossy(&bytes))
    };
    no_certificate(&blocks("tls.crt")).or_else(|| no_key(&blocks("tls.key"))).into_iter().collect()
}

/// The texts are those of Go's `tls.X509KeyPair`.
fn no_certificate(types: &[String]) -> Option<String> {
    match types {
        [] => Some("tls: failed to find any PEM data in certificate input".to_owned()),
        types if types.iter().any(|one| one == "CERTIFICATE") => None,
        [only] if only.ends_with("PRIVATE KEY") => Some(
            "tls: failed to find certificate PEM data in certificate input, but did find a private key; \
             PEM inputs may have been switched"
                .to_owned(),
        ),
        types => Some(format!(
            "tls: failed to find \"CERTIFICATE\" PEM block in certificate input after skipping PEM blocks of the \
             following types: [{}]",
            types.join(" ")
        )),
    }
}

fn no_key(types: &[String]) -> Option<String> {
    let is_key = |one: &String| one == "PRIVATE KEY" || one.ends_with(" PRIVATE KEY");
    match types {
        [] => Some("tls: failed to find any PEM data in key input".to_owned()),
        types if types.iter().any(is_key) => None,
        [only] if only == "CERTIFICATE" => {
            Some("tls: found a certificate rather than a key in the PEM for the private key".to_owned())
        }
        types => Some(format!(
            "tls: failed to find PEM block with type ending in \"PRIVATE KEY\" in key input after skipping PEM \
             blocks of the following types: [{}]",
            types.join(" ")
        )),
    }
}

/// The types of the blocks of a PEM text (RFC 7468) that have their end.
fn pem_types(text: &str) -> Vec<String> {
    let label = |line: &str, word: &str| {
        Some(line.trim().strip_prefix(word)?.strip_suffix("-----")?.to_owned())
            .filter(|label| !label.is_empty())
    };
    let mut types = Vec::new();
    let mut begun = None;
    for line in text.lines() {
        if let Some(begins) = label(line, "-----BEGIN ") {
            begun = Some(begins);
        } else if let Some(ends) = label(line, "-----END ")
            && begun.take().as_ref() == Some(&ends)
        {
            types.push(ends);
        }
    }
    types
}

/// The annotation that limited which Secrets Pods of an account may mount.
const MOUNTABLE: &str = "kubernetes.io/enforce-mountable-secrets";

/// Said when the annotation is new.
pub(crate) fn account_warnings(account: &Value, old: Option<&Value>) -> Vec<String> {
    let has = |account: &Value| View::new(account).at(&["metadata", "annotations", MOUNTABLE]).is_set();
    let is_new = has(account) && !old.is_some_and(has);
    let words = "deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets";
    is_new.then(|| format!("metadata.annotations[{MOUNTABLE}]: {words}")).into_iter().collect()
}

pub(crate) fn config_map(new: View<'_>, old: Option<View<'_>>, errors: &mut ErrorList) {
    if let Some(old) = old {
        frozen(new, old, &["data", "binaryData"], errors);
    }
    for (key, _) in new.map("data").filter(|(key, _)| new.get("binaryData").get(key).is_set()) {
        errors.push(Error::invalid(&DATA.key(key), key, "duplicate of key present in binaryData"));
    }
    let texts = keys(new, "data", str::len, &DATA, errors);
    let bytes = keys(new, "binaryData", decoded_len, &Path::new("binaryData"), errors);
    if texts + bytes > SIZE_MAX {
        errors.push(Error::too_long(&Path::new(""), SIZE_MAX));
    }
}

pub(crate) fn secret(new: View<'_>, old: Option<View<'_>>, errors: &mut ErrorList) {
    if let Some(old) = old {
        immutable(new.get("type"), old.get("type"), &Path::new("type"), errors);
        frozen(new, old, &["data"], errors);
    }
    if keys(new, "data", decoded_len, &DATA, errors) > SIZE_MAX {
        errors.push(Error::too_long(&DATA, SIZE_MAX));
    }
    secret_type(new, errors);
}

/// The keys that the type of a Secret asks for.
fn secret_type(secret: View<'_>, errors: &mut ErrorList) {
    let data = secret.get("data");
    let mut required = |key: &str| errors.push(Error::required(&DATA.key(key), ""));
    match secret.str("type") {
        "kubernetes.io/service-account-token" => {
            let key = "kubernetes.io/service-account.name";
            if secret.at(&["metadata", "annotations", key]).text().is_empty() {
                let annotations = Path::new("metadata.annotations");
                errors.push(Error::required(&annotations.key(key), ""));
            }
        }
        "kubernetes.io/dockercfg" => registry_login(data, ".dockercfg", errors),
        "kubernetes.io/dockerconfigjson" => registry_login(data, ".dockerconfigjson", errors),
        "kubernetes.io/basic-auth" if !data.get("username").is_set() && !data.get("password").is_set() => {
            required("username");
            required("password");
        }
        "kubernetes.io/ssh-auth" if data.str("ssh-privatekey").is_empty() => required("ssh-privatekey"),
        "kubernetes.io/tls" => {
            ["tls.crt", "tls.key"].into_iter().filter(|key| !data.get(key).is_set()).for_each(required)
        }
        _ => {}
    }
}

/// A login for registries must be a JSON object.
fn registry_login(data: View<'_>, key: &str, errors: &mut ErrorList) {
    let path = DATA.key(key);
    if !data.get(key).is_set() {
        errors.push(Error::required(&path, ""));
        return;
    }
    let bytes = STANDARD.decode(data.str(key)).unwrap_or_default();
    if let Some(why) = not_an_object(&bytes) {
        errors.push(Error::invalid(&path, "<secret contents redacted>", why));
    }
}

/// Why Go's JSON reader would not take the bytes for an object; never the bytes themselves.
fn not_an_object(bytes: &[u8]) -> Option<String> {
    match serde_json::from_slice::<Value>(bytes) {
        Ok(Value::Object(_) | Value::Null) => None,
        Ok(other) => {
            let kind = match other {
                Value::String(_) => "string",
                Value::Array(_) => "array",
                Value::Bool(_) => "bool",
                _ => "number",
            };
            Some(format!("json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}"))
        }
        Err(error) if error.is_eof() => Some("unexpected end of JSON input".to_owned()),
        Err(error) => {
            let found = bytes
                .iter()
                .copied()
                .filter(|b| !b.is_ascii_whitespace())
                .nth(error.column().saturating_sub(1));
            let found = found.or(bytes.first().copied()).unwrap_or(b' ') as char;
            Some(format!("invalid character {found:?} looking for beginning of value"))
        }
    }
}

/// Of the Secrets of an account only the names are kept: upstream's cleanSecretReferences.
pub(crate) fn prepare_account(account: &mut Object) {
    let secrets = account.get_mut("secrets").and_then(Value::as_array_mut);
    for secret in secrets.into_iter().flatten().filter_map(Value::as_object_mut) {
        secret.retain(|field, _| field == "name");
    }
}

pub(crate) fn prepare_account_update(kind: &Kind, part: Option<&str>, new: &mut Object, old: &Object) {
    prepare::update(kind, part, new, old);
    prepare_account(new);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::by_kind;
    use crate::strategy::{validate_create, validate_update};
    use serde_json::json;

    fn created(mut object: Value) -> String {
        object["metadata"] = json!({"name": "a", "namespace": "n"});
        let kind = object["kind"].as_str().unwrap_or("").to_owned();
        validate_create(by_kind("v1", &kind).expect("known"), &object).to_string()
    }

    #[test]
    fn secrets_have_the_keys_of_their_type() {
        let tls = json!({"kind": "Secret", "type": "kubernetes.io/tls", "data": {"a": "Yg=="}});
        assert_eq!(created(tls), "[data[tls.crt]: Required value, data[tls.key]: Required value]");
        let ssh = json!({"kind": "Secret", "type": "kubernetes.io/ssh-auth"});
        assert_eq!(created(ssh), "data[ssh-privatekey]: Required value");
        let login = json!({"kind": "Secret", "type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": "WzFd"}});
        assert_eq!(
            created(login),
            "data[.dockerconfigjson]: Invalid value: \"<secret contents redacted>\": json: cannot unmarshal array into Go value of type map[string]interface {}"
        );
        assert_eq!(created(json!({"kind": "Secret", "type": "example.com/mine"})), "");
    }

    #[test]
    fn keys_and_sizes_of_config_maps_are_bounded() {
        assert_eq!(created(json!({"kind": "ConfigMap", "data": {"a": "x".repeat(SIZE_MAX)}})), "");
        assert_eq!(
            created(json!({"kind": "ConfigMap", "data": {"a": "x".repeat(SIZE_MAX + 1)}})),
            ": Too long: may not be more than 1048576 bytes"
        );
        assert_eq!(
            created(json!({"kind": "ConfigMap", "data": {"a b": ""}})),
            "data[a b]: Invalid value: \"a b\": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
        );
        assert_eq!(
            created(json!({"kind": "ConfigMap", "data": {"a": ""}, "binaryData": {"a": ""}})),
            "data[a]: Invalid value: \"a\": duplicate of key present in binaryData"
        );
    }

    #[test]
    fn an_immutable_config_map_stays_as_it_is() {
        let metadata = json!({"name": "imm", "namespace": "n", "resourceVersion": "1"});
        let old = json!({"metadata": metadata, "immutable": true, "data": {"k": "v"}});
        let mut new = old.clone();
        new["data"]["k"] = json!("w");
        let resource = by_kind("v1", "ConfigMap").expect("known");
        assert_eq!(
            validate_update(resource, None, &new, &old).to_string(),
            "data: Forbidden: field is immutable when `immutable` is set"
        );
    }

    #[test]
    fn a_secret_that_nobody_could_serve_with_is_warned_about() {
        let block = |kind: &str| format!("-----BEGIN {kind}-----\nMA==\n-----END {kind}-----\n");
        let said = |certificate: &str, key: &str| {
            let data = json!({"tls.crt": STANDARD.encode(certificate), "tls.key": STANDARD.encode(key)});
            secret_warnings(&json!({"type": "kubernetes.io/tls", "data": data}), None).join("|")
        };
        let (certificate, key) = (block("CERTIFICATE"), block("EC PRIVATE KEY"));
        assert_eq!(said(&certificate, &key), "");
        assert_eq!(said("", ""), "tls: failed to find any PEM data in certificate input");
        assert!(said(&key, &certificate).ends_with("PEM inputs may have been switched"));
        assert_eq!(said(&certificate, "x"), "tls: failed to find any PEM data in key input");
        let swapped = "tls: found a certificate rather than a key in the PEM for the private key";
        assert_eq!(said(&certificate, &certificate), swapped);
        assert!(said(&block("A"), &key).ends_with("of the following types: [A]"));
        assert!(secret_warnings(&json!({"type": "Opaque"}), None).is_empty());
    }

    #[test]
    fn an_annotation_that_nobody_should_begin_with_is_warned_about_once() {
        let account =
            json!({"metadata": {"annotations": {"kubernetes.io/enforce-mountable-secrets": "true"}}});
        assert_eq!(account_warnings(&account, None).len(), 1);
        assert_eq!(account_warnings(&account, Some(&json!({}))).len(), 1);
        assert!(account_warnings(&account, Some(&account)).is_empty());
        assert!(account_warnings(&json!({}), None).is_empty());
    }
}
