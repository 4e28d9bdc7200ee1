//! The environment of a container.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    ConfigMap, ConfigMapKeySelector, Container, EnvVar, EnvVarSource, Pod, Secret, SecretKeySelector,
};

use super::expand::expand;
use super::fields::{self, Facts};

/// The ConfigMaps and Secrets of the Pod's namespace that it names, by name.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// ConfigMaps.
    pub config_maps: HashMap<String, Arc<ConfigMap>>,
    /// Secrets.
    pub secrets: HashMap<String, Arc<Secret>>,
}

/// Makes the environment in upstream's order: envFrom, env, then Services that nothing
/// overrides. The error is the text of `CreateContainerConfigError`.
pub fn environment(
    pod: &Pod,
    container: &Container,
    facts: &Facts,
    sources: &Sources,
    services: &BTreeMap<String, String>,
) -> Result<Vec<(String, String)>, String> {
    let mut known: HashMap<String, String> = HashMap::new();
    let mut list = Vec::new();
    for (name, value) in imported(container, sources)? {
        known.insert(name.clone(), value.clone());
        list.push((name, value));
    }
    for variable in container.env.iter().flatten() {
        let value = match &variable.value_from {
            Some(source) => referenced(pod, container, facts, sources, source)?,
            None => {
                let lookup = |name: &str| known.get(name).or_else(|| services.get(name)).cloned();
                Some(expand(variable.value.as_deref().unwrap_or_default(), lookup))
            }
        };
        // An optional reference to nothing sets nothing.
        let Some(value) = value else { continue };
        known.insert(variable.name.clone(), value.clone());
        list.retain(|(name, _)| *name != variable.name);
        list.push((variable.name.clone(), value));
    }
    let rest = services.iter().filter(|(name, _)| !known.contains_key(*name));
    list.extend(rest.map(|(name, value)| (name.clone(), value.clone())));
    Ok(list)
}

/// All keys of the sources of `envFrom`; later sources win.
fn imported(container: &Container, sources: &Sources) -> Result<BTreeMap<String, String>, String> {
    let mut all = BTreeMap::new();
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        if let Some(reference) = &from.config_map_ref {
            let optional = reference.optional == Some(true);
            if let Some(map) = found("configmap", &sources.config_maps, &reference.name, optional)? {
                let data = map.data.iter().flatten().map(|(key, value)| (key.clone(), value.clone()));
                take(&mut all, prefix, data);
            }
        }
        if let Some(reference) = &from.secret_ref {
            let optional = reference.optional == Some(true);
            if let Some(secret) = found("secret", &sources.secrets, &reference.name, optional)? {
                let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
                take(
                    &mut all,
                    prefix,
                    secret.data.iter().flatten().map(|(key, value)| (key.clone(), text(&value.0))),
                );
            }
        }
    }
    Ok(all)
}

fn take(all: &mut BTreeMap<String, String>, prefix: &str, data: impl Iterator<Item = (String, String)>) {
    let named = data.map(|(key, value)| (format!("{prefix}{key}"), value));
    all.extend(named.filter(|(name, _)| !name.contains('=')));
}

fn found<'a, T>(
    kind: &str,
    all: &'a HashMap<String, Arc<T>>,
    name: &str,
    optional: bool,
) -> Result<Option<&'a Arc<T>>, String> {
    match all.get(name) {
        None if optional => Ok(None),
        None => Err(format!("{kind} {name:?} not found")),
        some => Ok(some),
    }
}

fn referenced(
    pod: &Pod,
    container: &Container,
    facts: &Facts,
    sources: &Sources,
    source: &EnvVarSource,
) -> Result<Option<String>, String> {
    if let Some(reference) = &source.field_ref {
        return fields::field(pod, facts, &reference.field_path).map(Some);
    }
    if let Some(selector) = &source.resource_field_ref {
        return fields::resource(pod, &container.name, facts, selector).map(Some);
    }
    if let Some(selector) = &source.config_map_key_ref {
        return config_map_key(pod, sources, selector);
    }
    if let Some(selector) = &source.secret_key_ref {
        return secret_key(pod, sources, selector);
    }
    Ok(Some(String::new()))
}

fn config_map_key(
    pod: &Pod,
    sources: &Sources,
    selector: &ConfigMapKeySelector,
) -> Result<Option<String>, String> {
    let optional = selector.optional == Some(true);
    let Some(map) = found("configmap", &sources.config_maps, &selector.name, optional)? else {
        return Ok(None);
    };
    match map.data.as_ref().and_then(|data| data.get(&selector.key)) {
        Some(value) => Ok(Some(value.clone())),
        None if optional => Ok(None),
        None => Err(missing_key("ConfigMap", pod, &selector.key, &selector.name)),
    }
}

fn secret_key(pod: &Pod, sources: &Sources, selector: &SecretKeySelector) -> Result<Option<String>, String> {
    let optional = selector.optional == Some(true);
    let Some(secret) = found("secret", &sources.secrets, &selector.name, optional)? else { return Ok(None) };
    match secret.data.as_ref().and_then(|data| data.get(&selector.key)) {
        Some(value) => Ok(Some(String::from_utf8_lossy(&value.0).into_owned())),
        None if optional => Ok(None),
        None => Err(missing_key("Secret", pod, &selector.key, &selector.name)),
    }
}

fn missing_key(kind: &str, pod: &Pod, key: &str, name: &str) -> String {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    format!("couldn't find key {key} in {kind} {namespace}/{name}")
}

/// Names of the ConfigMaps and of the Secrets that a container's environment uses.
pub fn names(container: &Container) -> (Vec<String>, Vec<String>) {
    let (mut maps, mut secrets) = (Vec::new(), Vec::new());
    for from in container.env_from.iter().flatten() {
        maps.extend(from.config_map_ref.iter().map(|reference| reference.name.clone()));
        secrets.extend(from.secret_ref.iter().map(|reference| reference.name.clone()));
    }
    let valued = |variable: &EnvVar| variable.value_from.clone();
    for source in container.env.iter().flatten().filter_map(valued) {
        maps.extend(source.config_map_key_ref.map(|selector| selector.name));
        secrets.extend(source.secret_key_ref.map(|selector| selector.name));
    }
    (maps, secrets)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources() -> Sources {
        let map: ConfigMap =
            serde_json::from_value(serde_json::json!({"data": {"k1": "j", "k3": "v3"}})).unwrap();
        let secret: Secret =
            serde_json::from_value(serde_json::json!({"data": {"pass": "aHVudGVyMg=="}})).unwrap();
        Sources {
            config_maps: HashMap::from([("lit".to_string(), Arc::new(map))]),
            secrets: HashMap::from([("sec".to_string(), Arc::new(secret))]),
        }
    }

    fn make(container: serde_json::Value) -> Result<Vec<(String, String)>, String> {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p", "namespace": "ns", "labels": {"app": "web"}},
            "spec": {"containers": [container]}
        }))
        .unwrap();
        let facts = Facts { pod_ips: vec!["10.0.0.2".parse().unwrap()], ..Facts::default() };
        let services = BTreeMap::from([("SVC_HOST".to_string(), "10.1.1.1".to_string())]);
        let container = &pod.spec.as_ref().unwrap().containers[0];
        environment(&pod, container, &facts, &sources(), &services)
    }

    #[test]
    fn values_refer_to_what_came_before_and_to_services() {
        let list = make(serde_json::json!({
            "name": "c",
            "envFrom": [{"configMapRef": {"name": "lit"}}, {"secretRef": {"name": "sec"}, "prefix": "S_"}],
            "env": [
                {"name": "A", "value": "$(S_pass)-$(LATER)"},
                {"name": "LATER", "value": "x"},
                {"name": "URL", "value": "http://$(SVC_HOST)/$(A)"},
                {"name": "k1", "value": "own"},
                {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
                {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "requests.cpu", "divisor": "1m"}}},
            ],
            "resources": {"requests": {"cpu": "10m"}}
        }))
        .unwrap();
        let text: Vec<String> = list.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(
            text,
            [
                "S_pass=hunter2",
                "k3=v3",
                "A=hunter2-$(LATER)",
                "LATER=x",
                "URL=http://10.1.1.1/hunter2-$(LATER)",
                "k1=own",
                "APP=web",
                "IP=10.0.0.2",
                "CPU=10",
                "SVC_HOST=10.1.1.1"
            ]
        );
    }

    #[test]
    fn what_is_missing_is_an_error_unless_it_is_optional() {
        let env =
            |source| make(serde_json::json!({"name": "c", "env": [{"name": "A", "valueFrom": source}]}));
        let map = |name: &str, key: &str, optional: bool| {
            env(serde_json::json!({"configMapKeyRef": {"name": name, "key": key, "optional": optional}}))
        };
        assert_eq!(map("nosuch", "k", false).unwrap_err(), "configmap \"nosuch\" not found");
        assert_eq!(map("lit", "k9", false).unwrap_err(), "couldn't find key k9 in ConfigMap ns/lit");
        assert_eq!(map("lit", "k9", true).unwrap().len(), 1, "only the Service is left");
    }
}
