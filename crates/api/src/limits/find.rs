//! Finding in an object what a row of the table is about.

use serde_json::Value;

use crate::validate::parse_cidr_sloppy;
use crate::validate::view::View;

const POD_SECURITY: &str = "pod-security.kubernetes.io/";
/// Handlers of RuntimeClasses that mean an ordinary container.
pub const RUNTIME_HANDLERS: [&str; 2] = ["monopod", "runc"];
/// The class whose Ingresses are served by this program.
const INGRESS_CLASS: &str = "monopod";
/// What the annotations of the ingress controllers that most manifests are written for begin with.
const FOREIGN_INGRESS: [&str; 8] = [
    "nginx.ingress.kubernetes.io/",
    "traefik.ingress.kubernetes.io/",
    "alb.ingress.kubernetes.io/",
    "haproxy-ingress.github.io/",
    "haproxy.org/",
    "ingress.kubernetes.io/",
    "konghq.com/",
    "nginx.org/",
];

/// The places to which a path like `spec.ports[*].name` leads in an object, where something is. With
/// `=value` at its end only that value counts.
pub(super) fn at(object: &Value, path: &str) -> Vec<String> {
    let (path, wanted) = path.split_once('=').map_or((path, None), |(path, value)| (path, Some(value)));
    let counts = |value: &Value| match (wanted, value) {
        (Some(wanted), Value::Bool(value)) => value.to_string() == wanted,
        (Some(wanted), value) => value.as_str() == Some(wanted),
        (None, Value::Array(list)) => !list.is_empty(),
        (None, Value::String(text)) => !text.is_empty(),
        (None, value) => !value.is_null(),
    };
    let found = places(object, path).into_iter().filter(|(_, value)| counts(value));
    found.map(|(place, _)| place).collect()
}

/// The values at a path, each with its own path. Containers stand in three lists: `spec.*[*]` is all of them.
fn places<'a>(object: &'a Value, path: &str) -> Vec<(String, &'a Value)> {
    let mut found = vec![(String::new(), object)];
    for step in path.split('.') {
        let (name, each) = step.strip_suffix("[*]").map_or((step, false), |name| (name, true));
        let names: &[&str] =
            if name == "*" { &["initContainers", "containers", "ephemeralContainers"] } else { &[name] };
        found = found.into_iter().flat_map(|place| walk(place, names, each)).collect();
    }
    found
}

fn walk<'a>((place, value): (String, &'a Value), names: &[&str], each: bool) -> Vec<(String, &'a Value)> {
    let mut found = Vec::new();
    for name in names {
        let Some(next) = value.get(name) else { continue };
        let below = if place.is_empty() { (*name).to_owned() } else { format!("{place}.{name}") };
        match next.as_array().filter(|_| each) {
            Some(list) => {
                found.extend(list.iter().enumerate().map(|(index, item)| (format!("{below}[{index}]"), item)))
            }
            None if each => {}
            None => found.push((below, next)),
        }
    }
    found
}

/// Labels of Pod Security Admission that would keep Pods out.
pub(super) fn enforced_pod_security(namespace: &Value) -> Vec<String> {
    pod_security(namespace, &["enforce"])
}

/// Labels of Pod Security Admission that would only say something.
pub(super) fn told_pod_security(namespace: &Value) -> Vec<String> {
    pod_security(namespace, &["warn", "audit"])
}

/// Services get addresses of IPv4, from ranges in which there is some choice.
pub(super) fn ranges_that_give_nothing(service_cidr: &Value) -> Vec<String> {
    let gives = |range: &str| {
        parse_cidr_sloppy(range).is_some_and(|(address, bits)| address.is_ipv4() && (8..=30).contains(&bits))
    };
    let ranges = View::new(service_cidr).get("spec").list("cidrs").enumerate();
    let nothing = ranges.filter(|(_, range)| !gives(range.text()));
    nothing.map(|(index, _)| format!("spec.cidrs[{index}]")).collect()
}

fn pod_security(namespace: &Value, modes: &[&str]) -> Vec<String> {
    let labels = View::new(namespace).get("metadata");
    let restricts = |(key, value): &(&str, View<'_>)| {
        let mode = key.strip_prefix(POD_SECURITY);
        mode.is_some_and(|mode| modes.contains(&mode)) && value.text() != "privileged"
    };
    labels.map("labels").filter(restricts).map(|(key, _)| format!("metadata.labels[{key}]")).collect()
}

/// Profiles, also of the beta annotation, that would confine.
pub(super) fn apparmor(pod: &Value) -> Vec<String> {
    let own = places(pod, "spec.*[*].securityContext.appArmorProfile.type");
    let all = places(pod, "spec.securityContext.appArmorProfile.type").into_iter().chain(own);
    let mut found = kept(all, |profile| profile != "Unconfined");
    let annotations = View::new(pod).get("metadata").map("annotations");
    let beta = annotations.filter(|(key, value)| {
        key.starts_with("container.apparmor.security.beta.kubernetes.io/")
            && !matches!(value.text(), "unconfined" | "")
    });
    found.extend(beta.map(|(key, _)| format!("metadata.annotations[{key}]")));
    found
}

fn kept<'a>(
    places: impl IntoIterator<Item = (String, &'a Value)>,
    wanted: impl Fn(&Value) -> bool,
) -> Vec<String> {
    places.into_iter().filter(|(_, value)| wanted(value)).map(|(place, _)| place).collect()
}

/// Labels of SELinux that would confine: not `spc_t`, the type of what is not confined.
pub(super) fn selinux(pod: &Value) -> Vec<String> {
    let own = places(pod, "spec.*[*].securityContext.seLinuxOptions");
    let all = places(pod, "spec.securityContext.seLinuxOptions").into_iter().chain(own);
    kept(all, |options| options["type"] != "spc_t" && options.as_object().is_some_and(|map| !map.is_empty()))
}

/// Resources that only a device plug-in could offer.
pub(super) fn extended_resources(pod: &Value) -> Vec<String> {
    limits_of(pod, |name| name.contains('/') && !name.contains("kubernetes.io/"))
}

/// Limits of huge pages.
pub(super) fn huge_page_limits(pod: &Value) -> Vec<String> {
    limits_of(pod, |name| name.starts_with("hugepages-"))
}

fn limits_of(pod: &Value, wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let limits = places(pod, "spec.*[*].resources.limits").into_iter();
    let named = limits.flat_map(|(place, limits)| {
        let names = limits.as_object().into_iter().flat_map(|map| map.keys()).map(String::as_str);
        names.filter(|name| wanted(name)).map(|name| format!("{place}[{name}]")).collect::<Vec<_>>()
    });
    named.collect()
}

/// A block device that is to be made. One of an administrator is named, or bound when it comes.
pub(super) fn block_without_volume(claim: &Value) -> Vec<String> {
    let spec = View::new(claim).get("spec");
    let wanted = spec.str("volumeMode") == "Block" && spec.str("volumeName").is_empty();
    if wanted { vec!["spec.volumeMode".to_owned()] } else { Vec::new() }
}

/// Whether an Ingress is of the class that is built in.
fn is_served(ingress: View<'_>) -> bool {
    let mut annotations = ingress.get("metadata").map("annotations");
    let class = ingress.at(&["spec", "ingressClassName"]);
    let old = annotations.find(|(key, _)| *key == "kubernetes.io/ingress.class");
    class.text() == INGRESS_CLASS
        || !class.is_set() && old.is_none_or(|(_, value)| value.text() == INGRESS_CLASS)
}

/// Annotations that other ingress controllers act on.
pub(super) fn foreign_ingress_annotations(ingress: &Value) -> Vec<String> {
    let ingress = View::new(ingress);
    let foreign = |key: &str| FOREIGN_INGRESS.iter().any(|prefix| key.starts_with(prefix));
    let keys = ingress.get("metadata").map("annotations").map(|(key, _)| key);
    let found = keys.filter(|key| is_served(ingress) && foreign(key));
    found.map(|key| format!("metadata.annotations[{key}]")).collect()
}

/// Backends that are no Services.
pub(super) fn resource_backends(ingress: &Value) -> Vec<String> {
    let paths = ["spec.defaultBackend.resource", "spec.rules[*].http.paths[*].backend.resource"];
    let found = paths.iter().flat_map(|path| at(ingress, path));
    found.filter(|_| is_served(View::new(ingress))).collect()
}

/// A handler that no runtime of this program answers to.
pub(super) fn foreign_handler(class: &Value) -> Vec<String> {
    let known = RUNTIME_HANDLERS.contains(&View::new(class).str("handler"));
    if known { Vec::new() } else { vec!["handler".to_owned()] }
}
