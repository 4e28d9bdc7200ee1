//! Admission that needs other objects but no input or output: the server looks them up and hands them in.
//!
//! Each function is a half of one of upstream's plug-ins; the server's chain says in which order they run.
//! An error is the reason of a 403 answer, in the words of the plug-in. [`limits`] is LimitRanger, [`quota`]
//! the arithmetic of ResourceQuota, and the functions of this module are ServiceAccount, Priority,
//! DefaultTolerationSeconds and RuntimeClass.

pub mod limits;
pub mod quota;
pub mod references;

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::validate::view::View;

type Object = Map<String, Value>;

/// Where the token of the account appears in a container.
const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const TOKEN_VOLUME: &str = "kube-api-access-";
/// An hour and a bit, so that the node can tell its own tokens from those users ask for.
const TOKEN_SECONDS: i64 = 3607;

/// The account a Pod runs as.
pub fn account_name(pod: &Value) -> &str {
    match View::new(pod).get("spec").str("serviceAccountName") {
        "" => "default",
        name => name,
    }
}

fn is_mirror(pod: &Value) -> bool {
    View::new(pod).at(&["metadata", "annotations", "kubernetes.io/config.mirror"]).is_set()
}

fn spec_of(pod: &mut Value) -> Option<&mut Object> {
    pod.get_mut("spec").and_then(Value::as_object_mut)
}

/// ServiceAccount: the account, its token and its secrets for pulling. `account` is the one that
/// [`account_name`] names, `None` when there is none; `suffix` makes the name of the token's volume.
pub fn service_account(pod: &mut Value, account: Option<&Value>, suffix: &str) -> Result<(), String> {
    if is_mirror(pod) {
        return mirror(pod);
    }
    let name = account_name(pod).to_owned();
    let namespace = View::new(pod).get("metadata").str("namespace").to_owned();
    let Some(account) = account.map(View::new) else {
        return Err(format!(
            "error looking up service account {namespace}/{name}: serviceaccount \"{name}\" not found"
        ));
    };
    let Some(spec) = spec_of(pod) else { return Ok(()) };
    spec.insert("serviceAccountName".to_owned(), name.clone().into());
    spec.insert("serviceAccount".to_owned(), name.into());
    let own = spec.get("automountServiceAccountToken").and_then(Value::as_bool);
    if own.or(account.opt_flag("automountServiceAccountToken")).unwrap_or(true) {
        mount_token(spec, suffix);
    }
    let bare = spec.get("imagePullSecrets").and_then(Value::as_array).is_none_or(Vec::is_empty);
    if bare && account.has_items("imagePullSecrets") {
        spec.insert("imagePullSecrets".to_owned(), account.get("imagePullSecrets").json());
    }
    Ok(())
}

/// A node's own Pods cannot reach into the API for accounts and secrets.
fn mirror(pod: &Value) -> Result<(), String> {
    let spec = View::new(pod).get("spec");
    if !spec.str("serviceAccountName").is_empty() {
        return Err("a mirror pod may not reference service accounts".to_owned());
    }
    if references::names(pod, references::Referent::Secret) {
        return Err("a mirror pod may not reference secrets".to_owned());
    }
    let token = |source: View<'_>| source.get("serviceAccountToken").is_set();
    if spec.list("volumes").any(|volume| volume.get("projected").list("sources").any(token)) {
        return Err("a mirror pod may not use service account token volume projections".to_owned());
    }
    Ok(())
}

/// Mounts the account's token in every container that has nothing of its own there.
fn mount_token(spec: &mut Object, suffix: &str) {
    let volumes = spec.get("volumes").and_then(Value::as_array);
    let known = volumes.into_iter().flatten().map(View::new).find_map(|volume| {
        (volume.get("projected").is_set() && volume.str("name").starts_with(TOKEN_VOLUME))
            .then(|| volume.str("name"))
    });
    let known = known.map(str::to_owned);
    let name = known.clone().unwrap_or_else(|| format!("{TOKEN_VOLUME}{suffix}"));
    let mut mounted = false;
    for list in ["initContainers", "containers"] {
        let containers = spec.get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten().filter_map(Value::as_object_mut) {
            let mounts = container.entry("volumeMounts").or_insert_with(|| json!([]));
            let Some(mounts) = mounts.as_array_mut() else { continue };
            if mounts.iter().any(|mount| mount["mountPath"] == TOKEN_PATH) {
                continue;
            }
            mounts.push(json!({"name": name, "readOnly": true, "mountPath": TOKEN_PATH}));
            mounted = true;
        }
    }
    if mounted && known.is_none() {
        let volumes = spec.entry("volumes").or_insert_with(|| json!([]));
        if let Some(list) = volumes.as_array_mut() {
            list.push(token_volume(&name));
        }
    }
}

fn token_volume(name: &str) -> Value {
    json!({"name": name, "projected": {"defaultMode": 0o644, "sources": [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": TOKEN_SECONDS}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [
            {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]}})
}

/// Priority: resolves the class to a number; users may name classes, not numbers.
pub fn priority(pod: &mut Value, classes: &[Arc<Value>]) -> Result<(), String> {
    let Some(spec) = spec_of(pod) else { return Ok(()) };
    let named = spec.get("priorityClassName").and_then(Value::as_str).unwrap_or("").to_owned();
    let class = if named.is_empty() {
        // Of several defaults the lowest counts, as upstream decides it.
        let defaults =
            classes.iter().map(|class| View::new(class)).filter(|class| class.flag("globalDefault"));
        defaults.min_by_key(|class| class.int("value"))
    } else {
        let class = classes
            .iter()
            .map(|class| View::new(class))
            .find(|class| class.get("metadata").str("name") == named);
        Some(class.ok_or_else(|| format!("no PriorityClass with name {named} was found"))?)
    };
    let value = class.map_or(0, |class| class.int("value"));
    let policy = class.map_or("", |class| class.str("preemptionPolicy"));
    let policy = if policy.is_empty() { "PreemptLowerPriority" } else { policy };
    if let Some(given) = spec.get("priority").and_then(Value::as_i64).filter(|given| *given != value) {
        return Err(format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name"
        ));
    }
    if let Some(given) = spec.get("preemptionPolicy").and_then(Value::as_str).filter(|given| *given != policy)
    {
        return Err(format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
        ));
    }
    if let Some(class) = class {
        spec.insert("priorityClassName".to_owned(), class.get("metadata").str("name").into());
    }
    spec.insert("priority".to_owned(), value.into());
    spec.insert("preemptionPolicy".to_owned(), policy.into());
    Ok(())
}

/// Priority, of a Pod that is changed: leaving out what was computed once does not take it away.
pub fn keep_priority(pod: &mut Value, old: &Value) {
    let Some(spec) = spec_of(pod) else { return };
    for name in ["priority", "preemptionPolicy"] {
        if let (None, Some(value)) = (spec.get(name), old["spec"].get(name)) {
            spec.insert(name.to_owned(), value.clone());
        }
    }
}

/// DefaultTolerationSeconds: five minutes of patience with a node that is lost, unless the Pod says
/// otherwise. On a change too: so a toleration of the server's own may be replaced, not taken away.
pub fn tolerate_lost_nodes(pod: &mut Value) {
    let Some(spec) = spec_of(pod) else { return };
    let list = spec.entry("tolerations").or_insert_with(|| json!([]));
    let Some(tolerations) = list.as_array_mut() else { return };
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerated = tolerations
            .iter()
            .map(View::new)
            .any(|one| ["", key].contains(&one.str("key")) && matches!(one.str("effect"), "" | "NoExecute"));
        if !tolerated {
            tolerations.push(
                json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}),
            );
        }
    }
}

/// RuntimeClass, after the Pod's own rules: an overhead is the class's, never the user's.
pub fn overhead_has_class(pod: &Value) -> Result<(), String> {
    let spec = View::new(pod).get("spec");
    match spec.str("runtimeClassName").is_empty() && spec.has_items("overhead") {
        true => {
            Err("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"
                .to_owned())
        }
        false => Ok(()),
    }
}

/// RuntimeClass: the overhead, node selector and tolerations that belong to the class which the Pod names;
/// `class` is `None` when there is none of this name.
pub fn runtime_class(pod: &mut Value, class: Option<&Value>) -> Result<(), String> {
    let Some(spec) = spec_of(pod) else { return Ok(()) };
    let named = spec.get("runtimeClassName").and_then(Value::as_str).unwrap_or("").to_owned();
    if named.is_empty() {
        return Ok(());
    }
    let Some(class) = class.map(View::new) else {
        return Err(format!("pod rejected: RuntimeClass \"{named}\" not found"));
    };
    let overhead = class.at(&["overhead", "podFixed"]);
    let given = spec.get("overhead").cloned().unwrap_or_else(|| json!({}));
    if overhead.is_set() {
        if given.as_object().is_some_and(|list| !list.is_empty()) && Some(&given) != overhead.value() {
            return Err(
                "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead".to_owned()
            );
        }
        spec.insert("overhead".to_owned(), overhead.json());
    }
    let scheduling = class.get("scheduling");
    let selector = spec.entry("nodeSelector").or_insert_with(|| json!({}));
    for (key, value) in scheduling.map("nodeSelector") {
        if selector.get(key).is_some_and(|own| Some(own) != value.value()) {
            let own = selector[key].as_str().unwrap_or("");
            return Err(format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {own}",
                value.text()
            ));
        }
        selector[key] = value.json();
    }
    if selector.as_object().is_some_and(Map::is_empty) {
        spec.remove("nodeSelector");
    }
    let tolerations = spec.entry("tolerations").or_insert_with(|| json!([]));
    if let Some(list) = tolerations.as_array_mut() {
        for toleration in scheduling.list("tolerations").map(View::json) {
            if !list.contains(&toleration) {
                list.push(toleration);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(spec: Value) -> Value {
        json!({"metadata": {"name": "p", "namespace": "n"}, "spec": spec})
    }

    /// The spec that ServiceAccount makes of a Pod.
    fn with_account(spec: Value, account: Option<&Value>) -> Result<Value, String> {
        let mut pod = pod(spec);
        service_account(&mut pod, account, "abcde").map(|()| pod["spec"].take())
    }

    /// The spec that Priority makes of a Pod.
    fn with_priority(spec: Value, classes: &[Value]) -> Result<Value, String> {
        let mut pod = pod(spec);
        let classes: Vec<_> = classes.iter().cloned().map(Arc::new).collect();
        priority(&mut pod, &classes).map(|()| pod["spec"].take())
    }

    fn toleration_keys(pod: &Value) -> Vec<&str> {
        View::new(pod).get("spec").list("tolerations").map(|one| one.str("key")).collect()
    }

    #[test]
    fn a_pod_gets_account_token_priority_and_patience() {
        let account = json!({"imagePullSecrets": [{"name": "reg"}]});
        let spec = with_account(json!({"containers": [{"name": "c"}]}), Some(&account)).expect("admitted");
        assert_eq!(spec["serviceAccountName"], "default");
        assert_eq!(spec["serviceAccount"], "default");
        assert_eq!(spec["imagePullSecrets"], json!([{"name": "reg"}]));
        assert_eq!(spec["volumes"][0]["name"], "kube-api-access-abcde");
        assert_eq!(
            spec["volumes"][0]["projected"]["sources"][0]["serviceAccountToken"]["expirationSeconds"],
            3607
        );
        assert_eq!(
            spec["containers"][0]["volumeMounts"],
            json!([{"name": "kube-api-access-abcde", "readOnly": true, "mountPath": TOKEN_PATH}])
        );
        let spec = with_priority(json!({}), &[]).expect("admitted");
        assert_eq!(
            (&spec["priority"], &spec["preemptionPolicy"]),
            (&json!(0), &json!("PreemptLowerPriority"))
        );
        let mut patient = pod(json!({}));
        tolerate_lost_nodes(&mut patient);
        assert_eq!(
            toleration_keys(&patient),
            ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"]
        );
    }

    #[test]
    fn no_token_is_mounted_where_pod_or_account_refuses_it() {
        let account = json!({"automountServiceAccountToken": false});
        let spec = with_account(json!({"containers": [{"name": "c"}]}), Some(&account)).expect("admitted");
        assert_eq!(spec["volumes"], Value::Null);
        let spec = json!({"automountServiceAccountToken": true, "containers": [{"name": "c"}]});
        assert!(with_account(spec, Some(&account)).expect("admitted")["volumes"].is_array());
    }

    #[test]
    fn a_missing_account_or_class_refuses_the_pod() {
        assert_eq!(
            with_account(json!({"serviceAccountName": "x"}), None),
            Err("error looking up service account n/x: serviceaccount \"x\" not found".to_owned())
        );
        assert_eq!(
            with_priority(json!({"priorityClassName": "top"}), &[]),
            Err("no PriorityClass with name top was found".to_owned())
        );
        assert_eq!(
            runtime_class(&mut pod(json!({"runtimeClassName": "gvisor"})), None),
            Err("pod rejected: RuntimeClass \"gvisor\" not found".to_owned())
        );
    }

    #[test]
    fn an_overhead_needs_its_class() {
        let overhead = json!({"cpu": "1"});
        assert_eq!(
            overhead_has_class(&pod(json!({"overhead": overhead}))),
            Err("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"
                .to_owned())
        );
        let class = json!({"overhead": {"podFixed": overhead}});
        let mut named = pod(json!({"runtimeClassName": "gvisor"}));
        runtime_class(&mut named, Some(&class)).expect("admitted");
        assert_eq!(named["spec"]["overhead"], overhead);
        assert_eq!(overhead_has_class(&named), Ok(()));
    }

    #[test]
    fn a_mirror_pod_reaches_for_nothing_of_the_api() {
        let mirrored = |spec: Value| {
            let mut pod = pod(spec);
            pod["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
            service_account(&mut pod, None, "abcde").map(|()| pod["spec"].take())
        };
        assert_eq!(mirrored(json!({"volumes": []})), Ok(json!({"volumes": []})));
        let token =
            json!({"volumes": [{"projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]});
        for (spec, why) in [
            (json!({"serviceAccountName": "x"}), "a mirror pod may not reference service accounts"),
            (json!({"imagePullSecrets": [{"name": "x"}]}), "a mirror pod may not reference secrets"),
            (token, "a mirror pod may not use service account token volume projections"),
        ] {
            assert_eq!(mirrored(spec), Err(why.to_owned()));
        }
    }

    #[test]
    fn a_toleration_of_the_server_may_be_replaced_and_comes_back() {
        let old = json!({"spec": {"priority": 0, "preemptionPolicy": "PreemptLowerPriority"}});
        let mut new = json!({"spec": {"tolerations": [{"key": "mine", "operator": "Exists"}]}});
        keep_priority(&mut new, &old);
        tolerate_lost_nodes(&mut new);
        assert_eq!(
            toleration_keys(&new),
            ["mine", "node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"]
        );
        assert_eq!(new["spec"]["preemptionPolicy"], "PreemptLowerPriority");
    }

    #[test]
    fn the_class_gives_the_priority_and_users_may_not() {
        let classes = [
            json!({"metadata": {"name": "high"}, "value": 1000, "preemptionPolicy": "Never"}),
            json!({"metadata": {"name": "usual"}, "value": 5, "globalDefault": true}),
        ];
        let spec = with_priority(json!({"priorityClassName": "high"}), &classes).expect("admitted");
        assert_eq!((&spec["priority"], &spec["preemptionPolicy"]), (&json!(1000), &json!("Never")));
        let spec = with_priority(json!({}), &classes).expect("admitted");
        assert_eq!((&spec["priority"], &spec["priorityClassName"]), (&json!(5), &json!("usual")));
        assert!(with_priority(json!({"priority": 7}), &classes).is_err());
    }
}
