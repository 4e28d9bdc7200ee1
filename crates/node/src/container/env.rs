//! The environment of a container.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    ConfigMap, ConfigMapKeySelector, Container, EnvVar, EnvVarSource, FileKeySelector, Pod, Secret,
    SecretKeySelector,
};

use super::env_file;
use super::expand::{Budget, TooLong, expand};
use super::fields::{self, Facts};

/// The ConfigMaps and Secrets of the Pod's namespace that it names, by name.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// ConfigMaps.
    pub config_maps: HashMap<String, Arc<ConfigMap>>,
    /// Secrets.
    pub secrets: HashMap<String, Arc<Secret>>,
    /// Files in its volumes, by volume and path: the text, `None` where there is no such file, or why it cannot
    /// be read.
    pub files: HashMap<(String, String), Result<Option<String>, String>>,
}

/// The variables so far, in their order, within what a program may be started with.
#[derive(Default)]
struct Variables {
    /// A variable that is set again leaves a gap and comes last.
    list: Vec<Option<(String, String)>>,
    places: HashMap<String, usize>,
    budget: Budget,
}

impl Variables {
    fn get(&self, name: &str) -> Option<&str> {
        let place = *self.places.get(name)?;
        self.list[place].as_ref().map(|(_, value)| value.as_str())
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), TooLong> {
        self.budget.variable(name, value)?;
        if let Some(before) = self.places.insert(name.to_owned(), self.list.len()) {
            self.list[before] = None;
        }
        self.list.push(Some((name.to_owned(), value.to_owned())));
        Ok(())
    }
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
    let mut known = Variables::default();
    let imported = imported(container, sources)?;
    imported.iter().try_for_each(|(name, value)| known.set(name, value)).map_err(too_long)?;
    for variable in container.env.iter().flatten() {
        let value = match &variable.value_from {
            Some(source) => referenced(pod, container, facts, sources, source)?,
            None => {
                let lookup = |name: &str| known.get(name).or_else(|| services.get(name).map(String::as_str));
                Some(expand(variable.value.as_deref().unwrap_or_default(), lookup).map_err(too_long)?)
            }
        };
        // An optional reference to nothing sets nothing.
        let Some(value) = value else { continue };
        known.set(&variable.name, &value).map_err(too_long)?;
    }
    for (name, value) in services {
        if known.get(name).is_none() {
            known.set(name, value).map_err(too_long)?;
        }
    }
    Ok(known.list.into_iter().flatten().collect())
}

fn too_long(error: TooLong) -> String {
    format!("failed to make the environment: {error}")
}

/// All keys of the sources of `envFrom`; later sources win.
fn imported(container: &Container, sources: &Sources) -> Result<BTreeMap<String, String>, String> {
    let mut all = BTreeMap::new();
    // One source may be named any number of times, each with another prefix.
    let mut budget = Budget::default();
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        if let Some(reference) = &from.config_map_ref {
            let optional = reference.optional == Some(true);
            if let Some(map) = found("configmap", &sources.config_maps, &reference.name, optional)? {
                let data = map.data.iter().flatten().map(|(key, value)| (key, Cow::from(value)));
                take(&mut all, &mut budget, prefix, data).map_err(too_long)?;
            }
        }
        if let Some(reference) = &from.secret_ref {
            let optional = reference.optional == Some(true);
            if let Some(secret) = found("secret", &sources.secrets, &reference.name, optional)? {
                let data = secret.data.iter().flatten();
                let data = data.map(|(key, value)| (key, String::from_utf8_lossy(&value.0)));
                take(&mut all, &mut budget, prefix, data).map_err(too_long)?;
            }
        }
    }
    Ok(all)
}

fn take<'a>(
    all: &mut BTreeMap<String, String>,
    budget: &mut Budget,
    prefix: &str,
    data: impl Iterator<Item = (&'a String, Cow<'a, str>)>,
) -> Result<(), TooLong> {
    for (key, value) in data {
        let name = format!("{prefix}{key}");
        if !name.contains('=') {
            budget.variable(&name, &value)?;
            all.insert(name, value.into_owned());
        }
    }
    Ok(())
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
    if let Some(selector) = &source.file_key_ref {
        return file_key(sources, selector);
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

fn file_key(sources: &Sources, selector: &FileKeySelector) -> Result<Option<String>, String> {
    let optional = selector.optional == Some(true);
    let wrong = |why: &str| format!("couldn't parse env file: {why}");
    let place = (selector.volume_name.clone(), selector.path.clone());
    let text = match sources.files.get(&place) {
        Some(Ok(Some(text))) => text,
        Some(Err(why)) => return Err(wrong(why)),
        Some(Ok(None)) | None if optional => return Ok(None),
        Some(Ok(None)) | None => {
            return Err(wrong(&format!(
                "file {:?} not found in volume {:?}",
                selector.path, selector.volume_name
            )));
        }
    };
    match env_file::value(text, &selector.key).map_err(|why| wrong(&why))? {
        Some(value) => Ok(Some(value.to_owned())),
        None if optional => Ok(None),
        None => {
            Err(format!("environment variable key {:?} not found in file {:?}", selector.key, selector.path))
        }
    }
}

/// Files in volumes that a container's environment uses: volume and path.
pub fn files(container: &Container) -> Vec<(String, String)> {
    let sources = container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref());
    let selectors = sources.filter_map(|source| source.file_key_ref.as_ref());
    let mut all: Vec<_> =
        selectors.map(|selector| (selector.volume_name.clone(), selector.path.clone())).collect();
    all.sort();
    all.dedup();
    all
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
            files: HashMap::from([
                (("v".into(), "a.env".into()), Ok(Some("A='from file'\n".into()))),
                (("v".into(), "none.env".into()), Ok(None)),
                (("v".into(), "dir".into()), Err("it is no file".into())),
            ]),
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

    #[test]
    fn variables_that_double_end_where_the_kernel_would() {
        let doubling: Vec<_> = std::iter::once(serde_json::json!({"name": "A0", "value": "0123456789"}))
            .chain((1..64).map(|i| {
                let value = format!("$(A{0})$(A{0})", i - 1);
                serde_json::json!({"name": format!("A{i}"), "value": value})
            }))
            .collect();
        let error = make(serde_json::json!({"name": "c", "env": doubling})).unwrap_err();
        assert_eq!(error, "failed to make the environment: argument list too long");
        // Each within the limit of one string, together too much.
        let long = "x".repeat(100_000);
        let many: Vec<_> = std::iter::once(serde_json::json!({"name": "LONG", "value": long}))
            .chain((0..100).map(|i| serde_json::json!({"name": format!("B{i}"), "value": "$(LONG)"})))
            .collect();
        let error = make(serde_json::json!({"name": "c", "env": many})).unwrap_err();
        assert_eq!(error, "failed to make the environment: argument list too long");
    }

    #[test]
    fn a_source_that_is_imported_without_end_is_bounded() {
        let map: ConfigMap =
            serde_json::from_value(serde_json::json!({"data": {"k": "x".repeat(100_000)}})).unwrap();
        let sources = Sources {
            config_maps: HashMap::from([("big".to_string(), Arc::new(map))]),
            ..Sources::default()
        };
        let from = |i: u32| serde_json::json!({"prefix": format!("P{i}_"), "configMapRef": {"name": "big"}});
        let container = |count| -> Container {
            let list: Vec<_> = (0..count).map(from).collect();
            serde_json::from_value(serde_json::json!({"name": "c", "envFrom": list})).unwrap()
        };
        assert_eq!(imported(&container(10), &sources).map(|all| all.len()), Ok(10));
        assert!(imported(&container(100), &sources).unwrap_err().contains("argument list too long"));
    }

    #[test]
    fn a_variable_comes_from_a_file_and_may_be_left_out() {
        let of = |path: &str, key: &str, optional: bool| {
            let selector =
                serde_json::json!({"volumeName": "v", "path": path, "key": key, "optional": optional});
            let env = serde_json::json!([{"name": "X", "valueFrom": {"fileKeyRef": selector}}]);
            make(serde_json::json!({"name": "c", "env": env}))
                .map(|all| all.into_iter().find(|(name, _)| name == "X").map(|(_, value)| value))
        };
        assert_eq!(of("a.env", "A", false), Ok(Some("from file".into())));
        assert_eq!(of("a.env", "B", true), Ok(None));
        assert_eq!(of("none.env", "A", true), Ok(None));
        let said = "environment variable key \"B\" not found in file \"a.env\"";
        assert_eq!(of("a.env", "B", false), Err(said.into()));
        let said = "couldn't parse env file: file \"none.env\" not found in volume \"v\"";
        assert_eq!(of("none.env", "A", false), Err(said.into()));
        assert_eq!(of("dir", "A", true), Err("couldn't parse env file: it is no file".into()));
    }
}
