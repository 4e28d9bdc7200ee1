//! Defaults of Pods and of the Pod templates in other kinds.

use serde_json::{Value, json};

use super::{Object, child, ensure, fill_from, items, resource_list, set, set_zero, text, volume};

/// The lists of containers in a Pod's spec.
const CONTAINERS: [&str; 3] = ["containers", "initContainers", "ephemeralContainers"];

/// A Pod: the template's defaults, and those that only a real Pod gets.
pub(crate) fn pod(pod: &mut Object) {
    let spec = ensure(pod, "spec");
    pod_spec(spec);
    for list in ["containers", "initContainers"] {
        for container in items(spec, list) {
            fill_from(ensure(container, "resources"), "requests", "limits");
        }
    }
    pod_level_requests(spec);
    set(spec, "enableServiceLinks", true);
    if spec.get("hostNetwork").and_then(Value::as_bool) == Some(true) {
        host_network_ports(spec);
    }
    ensure(pod, "status");
}

/// The `template` field of a workload, or of a PodTemplate.
pub(crate) fn pod_template(holder: &mut Object) {
    let template = ensure(holder, "template");
    ensure(template, "metadata");
    pod_spec(ensure(template, "spec"));
}

fn pod_spec(spec: &mut Object) {
    set_zero(spec, "dnsPolicy", "ClusterFirst");
    set_zero(spec, "restartPolicy", "Always");
    set(spec, "securityContext", json!({}));
    set(spec, "terminationGracePeriodSeconds", 30);
    set_zero(spec, "schedulerName", "default-scheduler");
    // The deprecated alias is kept in step with the name, which wins.
    let account =
        [text(spec, "serviceAccountName"), text(spec, "serviceAccount")].into_iter().find(|n| !n.is_empty());
    if let Some(account) = account.map(str::to_owned) {
        spec.insert("serviceAccountName".to_owned(), account.clone().into());
        spec.insert("serviceAccount".to_owned(), account.into());
    }
    for volume in items(spec, "volumes") {
        volume::volume(volume);
    }
    for list in CONTAINERS {
        items(spec, list).for_each(container);
    }
    resource_list(spec, "overhead");
    if let Some(resources) = child(spec, "resources") {
        resource_list(resources, "limits");
        resource_list(resources, "requests");
    }
}

fn container(container: &mut Object) {
    let policy = pull_policy(text(container, "image"));
    set_zero(container, "imagePullPolicy", policy);
    set_zero(container, "terminationMessagePath", "/dev/termination-log");
    set_zero(container, "terminationMessagePolicy", "File");
    for port in items(container, "ports") {
        set_zero(port, "protocol", "TCP");
    }
    for variable in items(container, "env") {
        if let Some(source) = child(variable, "valueFrom") {
            variable_source(source);
        }
    }
    let resources = ensure(container, "resources");
    resource_list(resources, "limits");
    resource_list(resources, "requests");
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = child(container, name) {
            self::probe(probe);
        }
    }
    let Some(lifecycle) = child(container, "lifecycle") else { return };
    for hook in ["postStart", "preStop"] {
        if let Some(get) = child(lifecycle, hook).and_then(|hook| child(hook, "httpGet")) {
            http_get(get);
        }
    }
}

fn variable_source(source: &mut Object) {
    if let Some(field) = child(source, "fieldRef") {
        set_zero(field, "apiVersion", "v1");
    }
    if let Some(resource) = child(source, "resourceFieldRef") {
        divisor(resource);
    }
    if let Some(file) = child(source, "fileKeyRef") {
        set(file, "optional", false);
    }
}

/// The divisor is a quantity without pointer: Go writes its zero.
pub(super) fn divisor(resource: &mut Object) {
    set(resource, "divisor", "0");
}

fn probe(probe: &mut Object) {
    set_zero(probe, "timeoutSeconds", 1);
    set_zero(probe, "periodSeconds", 10);
    set_zero(probe, "successThreshold", 1);
    set_zero(probe, "failureThreshold", 3);
    if let Some(get) = child(probe, "httpGet") {
        http_get(get);
    }
    if let Some(grpc) = child(probe, "grpc") {
        set(grpc, "service", "");
    }
}

fn http_get(get: &mut Object) {
    set_zero(get, "path", "/");
    set_zero(get, "scheme", "HTTP");
}

/// `Always` for the tag `latest`, said or implied; a digest or another tag needs no second look, and what
/// names no image has no tag.
pub(super) fn pull_policy(image: &str) -> &'static str {
    let (named, digest) = image.split_once('@').map_or((image, None), |(name, digest)| (name, Some(digest)));
    let last = named.rfind('/').map_or(0, |slash| slash + 1);
    let tagged = named[last..].split_once(':');
    let name = &named[..tagged.map_or(named.len(), |(name, _)| last + name.len())];
    match (tagged, digest) {
        _ if !is_image_name(name) => "IfNotPresent",
        (Some((_, "latest")), _) => "Always",
        (Some(_), _) | (None, Some(_)) => "IfNotPresent",
        (None, None) => "Always",
    }
}

/// A path of lowercase components, behind the host of a registry perhaps: distribution's grammar of names.
fn is_image_name(name: &str) -> bool {
    let (host, path) = name.split_once('/').unwrap_or(("", name));
    let is_host = host.contains(['.', ':']) || host == "localhost" || host != host.to_lowercase();
    let path = if is_host { path } else { name };
    let is_host = !is_host || is_image_host(host);
    // What names no registry and no owner is a repository of `library`.
    let length = path.len() + if name.contains('/') { 0 } else { "library/".len() };
    is_host && length <= IMAGE_PATH_MAX && path.split('/').all(is_image_component)
}

/// The longest path of a repository (distribution's `RepositoryNameTotalLengthMax`).
const IMAGE_PATH_MAX: usize = 255;

/// Labels of letters, digits and inner dashes between dots, or an address in brackets, with a port perhaps.
fn is_image_host(host: &str) -> bool {
    let is_port = |port: &str| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    let (name, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => return !address.is_empty() && port.strip_prefix(':').is_none_or(is_port),
        None => host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port))),
    };
    let is_label = |label: &str| {
        let plain = |b: u8| b.is_ascii_alphanumeric();
        label.bytes().all(|b| plain(b) || b == b'-')
            && label.bytes().next().is_some_and(plain)
            && label.bytes().last().is_some_and(plain)
    };
    name.split('.').all(is_label) && port.is_none_or(is_port)
}

/// Letters and digits, with one dot, one or two underscores, or any number of dashes between them.
fn is_image_component(component: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let separators = component.split(is_plain).filter(|between| !between.is_empty());
    let mut separators =
        separators.map(|between| matches!(between, "." | "_" | "__") || between.chars().all(|c| c == '-'));
    component.starts_with(is_plain) && component.ends_with(is_plain) && separators.all(|fits| fits)
}

fn host_network_ports(spec: &mut Object) {
    for list in ["containers", "initContainers"] {
        for port in items(spec, list).flat_map(|container| items(container, "ports")) {
            let number = port.get("containerPort").cloned().unwrap_or_default();
            set_zero(port, "hostPort", number);
        }
    }
}

/// Pod-level requests follow the containers' sums where there are any, else the Pod-level limits.
fn pod_level_requests(spec: &mut Object) {
    let limits = child(spec, "resources").and_then(|r| child(r, "limits")).map(|limits| limits.clone());
    let Some(limits) = limits.filter(|limits| !limits.is_empty()) else { return };
    let mut requests = crate::strategy::resources::container_requests(&Value::Object(spec.clone()));
    requests.retain(|name, _| matches!(name.as_str(), "cpu" | "memory"));
    let resources = ensure(spec, "resources");
    let target = ensure(resources, "requests");
    for (name, amount) in requests {
        target.entry(name).or_insert_with(|| Value::String(amount.to_string()));
    }
    for (name, limit) in limits.into_iter().filter(|(name, _)| is_pod_level(name)) {
        target.entry(name).or_insert(limit);
    }
}

/// Whether a resource may be given for the Pod as a whole.
fn is_pod_level(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || name.starts_with("hugepages-")
}

#[cfg(test)]
mod tests {
    use super::super::tests::defaulted;
    use super::*;

    #[test]
    fn a_bare_pod_gets_every_default_of_upstream() {
        let pod = defaulted(json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [
            {"name": "c", "image": "busybox", "ports": [{"containerPort": 80}], "readinessProbe": {"httpGet": {"port": 80}},
             "env": [{"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}],
            "volumes": [{"name": "e"}, {"name": "h", "hostPath": {"path": "/x"}}]}}));
        assert_eq!(
            pod["spec"],
            json!({
                "containers": [{"name": "c", "image": "busybox", "imagePullPolicy": "Always",
                    "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File", "resources": {},
                    "ports": [{"containerPort": 80, "protocol": "TCP"}],
                    "env": [{"name": "N", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}}],
                    "readinessProbe": {"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, "timeoutSeconds": 1,
                        "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}}],
                "volumes": [{"name": "e", "emptyDir": {}}, {"name": "h", "hostPath": {"path": "/x", "type": ""}}],
                "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "securityContext": {},
                "terminationGracePeriodSeconds": 30, "schedulerName": "default-scheduler", "enableServiceLinks": true
            })
        );
    }

    #[test]
    fn requests_come_from_limits_in_pods_and_are_rounded_to_milli() {
        let pod = defaulted(json!({"kind": "Pod", "spec": {"containers": [{"name": "c", "image": "a:1",
            "resources": {"limits": {"cpu": "0.0005", "memory": "1024Mi"}, "requests": {"memory": 1024}}}]}}));
        let resources = &pod["spec"]["containers"][0]["resources"];
        assert_eq!(resources["limits"], json!({"cpu": "1m", "memory": "1Gi"}));
        assert_eq!(resources["requests"], json!({"cpu": "1m", "memory": "1024"}));
    }

    #[test]
    fn the_tag_decides_when_to_pull() {
        for (image, policy) in [
            ("busybox", "Always"),
            ("busybox:latest", "Always"),
            ("busybox:1.36", "IfNotPresent"),
            ("host:5000/busybox", "Always"),
            ("host:5000/busybox:1", "IfNotPresent"),
            ("busybox@sha256:abc", "IfNotPresent"),
            ("busybox:latest@sha256:abc", "Always"),
            ("Host/busybox", "Always"),
            ("library/busy__box--x.y", "Always"),
            ("", "IfNotPresent"),
            ("Busybox", "IfNotPresent"),
            ("-x", "IfNotPresent"),
            ("../up", "IfNotPresent"),
            ("registry.example.com:5000/up", "Always"),
            ("registry.example.com:x/up", "IfNotPresent"),
            ("a b", "IfNotPresent"),
            ("a..b", "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }

    #[test]
    fn pod_level_requests_follow_containers_and_then_limits() {
        let pod =
            defaulted(json!({"kind": "Pod", "spec": {"resources": {"limits": {"cpu": "2", "memory": "1Gi"}},
            "containers": [{"name": "a", "image": "x:1", "resources": {"requests": {"cpu": "300m"}}},
                           {"name": "b", "image": "x:1", "resources": {"requests": {"cpu": "200m"}}}]}}));
        assert_eq!(pod["spec"]["resources"]["requests"], json!({"cpu": "500m", "memory": "1Gi"}));
    }
}
