//! Ingresses: hosts, paths, backends and TLS; and IngressClasses.

use std::net::IpAddr;

use serde_json::Value;

use crate::field::{Error, ErrorList, Path};
use crate::validate::view::View;
use crate::validate::{
    check, dns1123_subdomain, is_dns1035_label, is_valid_port_name, is_valid_port_num,
    is_wildcard_dns1123_subdomain,
};

const SPEC: Path<'static> = Path::new("spec");
/// How an Ingress named its class before there were IngressClasses.
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
// As upstream shows them.
const PATH_TYPES: [&str; 3] = ["Exact", "ImplementationSpecific", "Prefix"];
const INVALID_SEQUENCES: [&str; 5] = ["//", "/./", "/../", "%2f", "%2F"];
const INVALID_SUFFIXES: [&str; 2] = ["/..", "/."];
const ABSOLUTE: &str = "must be an absolute path";

pub(crate) fn validate(new: View<'_>, old: Option<View<'_>>, errors: &mut ErrorList) {
    let spec = new.get("spec");
    let kept = old.map(|old| secret_names(old.get("spec"))).unwrap_or_default();
    if old.is_none() {
        class_of_creation(new, errors);
    }
    let (default, rules) = (spec.get("defaultBackend"), spec.has_items("rules"));
    if !default.is_set() && !rules {
        let words = "either `defaultBackend` or `rules` must be specified";
        errors.push(Error::invalid(&SPEC, spec.get("rules").json(), words));
    }
    if default.is_set() {
        backend(default, &SPEC.child("defaultBackend"), errors);
    }
    let list = SPEC.child("rules");
    for (index, one) in spec.list("rules").enumerate() {
        rule(one, &list.index(index), errors);
    }
    tls(spec, &kept, errors);
    if spec.get("ingressClassName").is_set() {
        dns1123_subdomain(spec.str("ingressClassName"), &SPEC.child("ingressClassName"), errors);
    }
}

/// The annotation is old, and still stands beside the field in many a manifest.
fn class_of_creation(new: View<'_>, errors: &mut ErrorList) {
    let annotation = annotation(new);
    let class = new.at(&["spec", "ingressClassName"]);
    if let Some(annotation) = annotation
        && class.is_set()
        && class.text() != annotation
    {
        let path = Path::new("annotations");
        let words = "must match `ingressClassName` when both are specified";
        errors.push(Error::invalid(&path.child(CLASS_ANNOTATION), annotation, words));
    }
}

fn annotation(ingress: View<'_>) -> Option<&str> {
    let mut annotations = ingress.get("metadata").map("annotations");
    annotations.find(|(key, _)| *key == CLASS_ANNOTATION).map(|(_, value)| value.text())
}

fn rule(rule: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let host = rule.str("host");
    if !host.is_empty() {
        host_name(host, &path.child("host"), errors);
    }
    let http = rule.get("http");
    if !http.is_set() {
        return;
    }
    let http_path = path.child("http");
    let list = http_path.child("paths");
    if !http.has_items("paths") {
        errors.push(Error::required(&list, ""));
    }
    for (index, one) in http.list("paths").enumerate() {
        http_path_rule(one, &list.index(index), errors);
    }
}

fn host_name(host: &str, path: &Path<'_>, errors: &mut ErrorList) {
    if host.parse::<IpAddr>().is_ok() {
        errors.push(Error::invalid(path, host, "must be a DNS name, not an IP address"));
    }
    dns_name(host, path, errors);
}

fn dns_name(host: &str, path: &Path<'_>, errors: &mut ErrorList) {
    if host.contains('*') {
        check(is_wildcard_dns1123_subdomain(host), host, path, errors);
    } else {
        dns1123_subdomain(host, path, errors);
    }
}

fn http_path_rule(rule: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let kind = rule.get("pathType");
    if !kind.is_set() {
        errors.push(Error::required(&path.child("pathType"), "pathType must be specified"));
        return;
    }
    let (text, at) = (rule.str("path"), path.child("path"));
    let is_absolute = text.starts_with('/');
    match kind.text() {
        "Exact" | "Prefix" => {
            if !is_absolute {
                errors.push(Error::invalid(&at, text, ABSOLUTE));
            }
            let within = INVALID_SEQUENCES.iter().filter(|one| text.contains(**one));
            errors.extend(within.map(|one| Error::invalid(&at, text, format!("must not contain '{one}'"))));
            let last = INVALID_SUFFIXES.iter().filter(|one| text.ends_with(**one));
            errors.extend(last.map(|one| Error::invalid(&at, text, format!("cannot end with '{one}'"))));
        }
        "ImplementationSpecific" => {
            if !text.is_empty() && !is_absolute {
                errors.push(Error::invalid(&at, text, ABSOLUTE));
            }
        }
        other => errors.push(Error::not_supported(&path.child("pathType"), other, &PATH_TYPES)),
    }
    backend(rule.get("backend"), &path.child("backend"), errors);
}

fn backend(backend: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let (resource, service) = (backend.get("resource"), backend.get("service"));
    match (resource.is_set(), service.is_set()) {
        (true, true) => {
            errors.push(Error::invalid(path, "", "cannot set both resource and service backends"));
        }
        (true, false) => {
            let at = path.child("resource");
            for name in ["kind", "name"].into_iter().filter(|name| resource.str(name).is_empty()) {
                errors.push(Error::required(&at.child(name), ""));
            }
        }
        (false, true) => service_backend(service, path, errors),
        (false, false) => {
            errors.push(Error::invalid(path, "", "resource or service backend is required"));
        }
    }
}

fn service_backend(service: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let at = path.child("service");
    match service.str("name") {
        "" => errors.push(Error::required(&at.child("name"), "")),
        name => check(is_dns1035_label(name), name, &at.child("name"), errors),
    }
    let port = service.get("port");
    let (name, number) = (port.str("name"), port.int("number"));
    let at = at.child("port");
    match (name.is_empty(), number == 0) {
        (false, false) => errors.push(Error::invalid(path, "", "cannot set both port name & port number")),
        (false, true) => check(is_valid_port_name(name), name, &at.child("name"), errors),
        (true, false) => {
            let wrong = is_valid_port_num(number).into_iter();
            errors.extend(wrong.map(|words| Error::invalid(&at.child("number"), number, words)));
        }
        (true, true) => errors.push(Error::required(path, "port name or number is required")),
    }
}

/// Names that were accepted before there was a rule for them stay accepted.
fn secret_names(spec: View<'_>) -> Vec<&str> {
    spec.list("tls").map(|tls| tls.str("secretName")).collect()
}

fn tls(spec: View<'_>, kept: &[&str], errors: &mut ErrorList) {
    let list = SPEC.child("tls");
    for (index, tls) in spec.list("tls").enumerate() {
        let at = list.index(index);
        let hosts = at.child("hosts");
        for (number, host) in tls.list("hosts").map(View::text).enumerate() {
            dns_name(host, &hosts.index(number), errors);
        }
        let secret = tls.str("secretName");
        if !secret.is_empty() && !kept.contains(&secret) {
            dns1123_subdomain(secret, &at.child("secretName"), errors);
        }
    }
}

/// What is stored and done in an older way; said once, as by upstream.
pub(crate) fn warnings(ingress: &Value, old: Option<&Value>) -> Vec<String> {
    if old.is_some() {
        return Vec::new();
    }
    let ingress = View::new(ingress);
    let is_old = annotation(ingress).is_some() && !ingress.at(&["spec", "ingressClassName"]).is_set();
    let words = || {
        format!("annotation {CLASS_ANNOTATION:?} is deprecated, please use 'spec.ingressClassName' instead")
    };
    is_old.then(words).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn wrong(spec: Value, annotations: Value) -> Vec<String> {
        let ingress = json!({"metadata": {"annotations": annotations}, "spec": spec});
        let mut errors = ErrorList::new();
        validate(View::new(&ingress), None, &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    fn backend(port: Value) -> Value {
        json!({"service": {"name": "web", "port": port}})
    }

    fn path(path: &str, kind: &str) -> Vec<String> {
        let path = json!({"path": path, "pathType": kind, "backend": backend(json!({"number": 80}))});
        wrong(json!({"rules": [{"http": {"paths": [path]}}]}), json!({}))
    }

    #[test]
    fn an_ingress_needs_a_rule_or_a_default_backend() {
        let words = "spec: Invalid value: null: either `defaultBackend` or `rules` must be specified";
        assert_eq!(wrong(json!({}), json!({})), [words]);
        assert!(wrong(json!({"defaultBackend": backend(json!({"name": "http"}))}), json!({})).is_empty());
    }

    #[test]
    fn paths_are_absolute_and_plain() {
        let at = "spec.rules[0].http.paths[0].path: Invalid value: ";
        assert!(path("/a", "Prefix").is_empty() && path("", "ImplementationSpecific").is_empty());
        assert_eq!(path("a", "Exact"), [format!("{at}\"a\": must be an absolute path")]);
        assert_eq!(path("/a//b", "Prefix"), [format!("{at}\"/a//b\": must not contain '//'")]);
        assert_eq!(path("/a/..", "Prefix"), [format!("{at}\"/a/..\": cannot end with '/..'")]);
        assert!(path("/a//b", "ImplementationSpecific").is_empty());
        assert_eq!(
            path("/a", "Regex"),
            [
                r#"spec.rules[0].http.paths[0].pathType: Unsupported value: "Regex": supported values: "Exact", "ImplementationSpecific", "Prefix""#
            ]
        );
    }

    #[test]
    fn a_backend_is_one_port_of_one_service() {
        let of = |backend: Value| wrong(json!({"defaultBackend": backend}), json!({}));
        let at = "spec.defaultBackend";
        assert_eq!(
            of(json!({})),
            [format!("{at}: Invalid value: \"\": resource or service backend is required")]
        );
        assert_eq!(
            of(backend(json!({}))),
            [format!("{at}: Required value: port name or number is required")]
        );
        assert_eq!(
            of(backend(json!({"name": "a", "number": 1}))),
            [format!("{at}: Invalid value: \"\": cannot set both port name & port number")]
        );
        assert_eq!(
            of(backend(json!({"number": 70000}))),
            [format!(
                "{at}.service.port.number: Invalid value: 70000: must be between 1 and 65535, inclusive"
            )]
        );
    }

    #[test]
    fn hosts_are_names() {
        let of = |host: &str| wrong(json!({"rules": [{"host": host}]}), json!({}));
        assert!(of("*.example.com").is_empty() && of("a.example.com").is_empty());
        assert_eq!(
            of("192.0.2.1"),
            ["spec.rules[0].host: Invalid value: \"192.0.2.1\": must be a DNS name, not an IP address"]
        );
        assert_eq!(of("a*.example.com").len(), 1);
        assert_eq!(of("A").len(), 1);
    }

    #[test]
    fn the_old_annotation_is_warned_about_and_must_not_contradict() {
        let old = json!({CLASS_ANNOTATION: "nginx"});
        let spec = json!({"ingressClassName": "monopod", "defaultBackend": backend(json!({"number": 80}))});
        assert_eq!(
            wrong(spec, old.clone()),
            [
                "annotations.kubernetes.io/ingress.class: Invalid value: \"nginx\": must match `ingressClassName` when both are specified"
            ]
        );
        assert_eq!(
            warnings(&json!({"metadata": {"annotations": old}, "spec": {}}), None),
            [
                "annotation \"kubernetes.io/ingress.class\" is deprecated, please use 'spec.ingressClassName' instead"
            ]
        );
    }
}
