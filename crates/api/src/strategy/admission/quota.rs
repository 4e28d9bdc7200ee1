//! ResourceQuotas: what an object counts for, and whether it still fits.

use serde_json::{Map, Value, json};

use crate::kinds::{Kind, Kinds};
use crate::quantity::{Format, Quantity};
use crate::strategy::resources::{Amounts, add, amounts, pod_limits, pod_requests, qos_class};
use crate::validate::view::View;

/// What an object adds to the usage of its namespace, by the names that quotas use.
pub fn usage(resource: &Kind, object: &Value) -> Amounts {
    let mut total = Amounts::new();
    let group = if resource.group.is_empty() { String::new() } else { format!(".{}", resource.group) };
    total.insert(format!("count/{}{group}", resource.plural), one());
    (resource.rules.counting.usage)(resource, object, &mut total);
    total
}

/// By scope, operator and values of a selector, and object.
type InScope = fn(&str, &str, &[&str], &Value) -> bool;

/// What the objects of a kind count for in quotas, besides `count/<plural>.<group>`: one of upstream's
/// evaluators.
#[derive(Clone, Copy)]
pub(crate) struct Counting {
    /// Whether creating one is counted at all.
    is_counted: bool,
    /// Adds what an object uses.
    usage: fn(&Kind, &Value, &mut Amounts),
    /// Whether objects add to what a quota calls so.
    concerns: fn(&Kind, &str) -> bool,
    /// The subresources by which the amounts of an object can change, the object itself being the empty one.
    changed_by: &'static [&'static str],
    /// Whether an object is in a scope. Quotas with scopes count nothing of kinds that have none.
    in_scope: Option<InScope>,
    /// What an object leaves unsaid although the quota needs it.
    missing: fn(&Value, &Value) -> Option<String>,
}

impl Counting {
    pub(crate) const fn default() -> Self {
        Self {
            is_counted: true,
            usage: |_, _, _| {},
            concerns: |_, _| false,
            changed_by: &[],
            in_scope: None,
            missing: |_, _| None,
        }
    }
}

/// Upstream's quota never counts Events, which come and go without anybody's doing.
pub(crate) const NEVER: Counting = Counting { is_counted: false, ..Counting::default() };

/// Of those that had a name in quotas before `count/` came.
pub(crate) const BY_PLURAL: Counting = Counting {
    usage: |kind, _, total| {
        total.insert(kind.plural.to_string(), one());
    },
    concerns: |kind, name| name == kind.plural,
    ..Counting::default()
};

pub(crate) const PODS: Counting = Counting {
    usage: |_, object, total| pod(object, total),
    concerns: |_, name| {
        let prefixed = ["requests.", "limits.", "hugepages-"].iter().any(|prefix| name.starts_with(prefix));
        matches!(name, "pods" | "cpu" | "memory" | "ephemeral-storage") || (prefixed && !is_storage(name))
    },
    changed_by: &["resize"],
    in_scope: Some(in_scope),
    missing: missing_of_pod,
    ..Counting::default()
};

pub(crate) const SERVICES: Counting = Counting {
    usage: |_, object, total| service(object, total),
    concerns: |_, name| matches!(name, "services" | "services.nodeports" | "services.loadbalancers"),
    changed_by: &[""],
    ..Counting::default()
};

pub(crate) const CLAIMS: Counting = Counting {
    usage: |_, object, total| claim(object, total),
    concerns: |_, name| name == "persistentvolumeclaims" || is_storage(name),
    changed_by: &[""],
    ..Counting::default()
};

/// Whether a write is counted: a new object, or a change through one of its subresources.
pub fn is_counted(resource: &Kind, subresource: &str, is_new: bool) -> bool {
    let counting = &resource.rules.counting;
    resource.namespaced && counting.is_counted && (is_new || counting.changed_by.contains(&subresource))
}

fn one() -> Quantity {
    Quantity::from_value(1, Format::DecimalSi)
}

/// A Pod counts until it has ended; its amounts under their old and new names.
fn pod(object: &Value, total: &mut Amounts) {
    if matches!(View::new(object).get("status").str("phase"), "Failed" | "Succeeded") {
        return;
    }
    total.insert("pods".to_owned(), one());
    let spec = object.get("spec").cloned().unwrap_or_default();
    for (name, amount) in pod_requests(&spec) {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-") {
            total.insert(name.clone(), amount.clone());
        }
        total.insert(format!("requests.{name}"), amount);
    }
    for (name, amount) in pod_limits(&spec) {
        total.insert(format!("limits.{name}"), amount);
    }
}

fn service(object: &Value, total: &mut Amounts) {
    let spec = View::new(object).get("spec");
    let count = |n: usize| Quantity::from_value(n as i64, Format::DecimalSi);
    total.insert("services".to_owned(), count(1));
    let ports = spec.list("ports").len();
    let balancer = spec.str("type") == "LoadBalancer";
    let node_ports = match spec.str("type") {
        "NodePort" => ports,
        "LoadBalancer" if spec.opt_flag("allocateLoadBalancerNodePorts") != Some(false) => ports,
        "LoadBalancer" => spec.list("ports").filter(|port| port.int("nodePort") != 0).count(),
        _ => 0,
    };
    total.insert("services.nodeports".to_owned(), count(node_ports));
    total.insert("services.loadbalancers".to_owned(), count(usize::from(balancer)));
}

fn claim(object: &Value, total: &mut Amounts) {
    let spec = View::new(object).get("spec");
    total.insert("persistentvolumeclaims".to_owned(), one());
    let storage = amounts(spec.get("resources"), "requests").remove("storage");
    let class = spec.str("storageClassName");
    if !class.is_empty() {
        total.insert(format!("{class}.storageclass.storage.k8s.io/persistentvolumeclaims"), one());
    }
    if let Some(storage) = storage {
        if !class.is_empty() {
            total.insert(format!("{class}.storageclass.storage.k8s.io/requests.storage"), storage.clone());
        }
        total.insert("requests.storage".to_owned(), storage);
    }
}

/// Whether objects of a kind add to what a quota calls `name`.
pub fn concerns(resource: &Kind, name: &str) -> bool {
    if let Some(counted) = name.strip_prefix("count/") {
        let (plural, group) = counted.split_once('.').unwrap_or((counted, ""));
        return (plural, group) == (&*resource.plural, &*resource.group);
    }
    (resource.rules.counting.concerns)(resource, name)
}

fn is_storage(name: &str) -> bool {
    name == "requests.storage" || name.contains(".storageclass.storage.k8s.io/")
}

/// The status of a quota: what it allows, and what `objects` of the kinds it concerns use.
pub fn status<'a>(
    kinds: &Kinds,
    quota: &Value,
    objects: impl IntoIterator<Item = (&'a Kind, &'a Value)>,
) -> Value {
    let hard = amounts(View::new(quota).get("spec"), "hard");
    let known = |name: &str| kinds.all().iter().any(|kind| concerns(kind, name));
    let mut used: Amounts =
        hard.keys().filter(|name| known(name)).map(|name| (name.clone(), Quantity::default())).collect();
    for (resource, object) in objects {
        if applies(quota, resource, object) {
            let mut counted = usage(resource, object);
            counted.retain(|name, _| used.contains_key(name));
            add(&mut used, &counted);
        }
    }
    json!({ "hard": shown(&hard), "used": shown(&used) })
}

/// Amounts as objects carry them.
pub fn shown(amounts: &Amounts) -> Value {
    amounts
        .iter()
        .map(|(name, amount)| (name.clone(), amount.to_string().into()))
        .collect::<Map<_, _>>()
        .into()
}

/// What an update adds to the usage; what it gives back is negative.
pub fn difference(new: &Amounts, old: &Amounts) -> Amounts {
    let mut more = new.clone();
    for (name, amount) in old {
        more.entry(name.clone()).or_default().sub(amount);
    }
    more.retain(|_, amount| !amount.is_zero());
    more
}

/// Whether a quota counts this object: its scopes choose among Pods.
pub fn applies(quota: &Value, resource: &Kind, object: &Value) -> bool {
    let spec = View::new(quota).get("spec");
    let Some(in_scope) = resource.rules.counting.in_scope else {
        return !spec.has_items("scopes") && !spec.get("scopeSelector").is_set();
    };
    let scopes = spec.list("scopes").all(|scope| in_scope(scope.text(), "Exists", &[], object));
    let selector = spec.get("scopeSelector");
    scopes
        && selector.list("matchExpressions").all(|one| {
            let values: Vec<&str> = one.list("values").map(View::text).collect();
            in_scope(one.str("scopeName"), one.str("operator"), &values, object)
        })
}

fn in_scope(scope: &str, operator: &str, values: &[&str], pod: &Value) -> bool {
    let spec = View::new(pod).get("spec");
    let best_effort = || qos_class(pod.get("spec").unwrap_or(&Value::Null)) == "BestEffort";
    match scope {
        "Terminating" => spec.get("activeDeadlineSeconds").is_set(),
        "NotTerminating" => !spec.get("activeDeadlineSeconds").is_set(),
        "BestEffort" => best_effort(),
        "NotBestEffort" => !best_effort(),
        "PriorityClass" => {
            let class = spec.str("priorityClassName");
            match operator {
                "In" => values.contains(&class),
                "NotIn" => !values.contains(&class),
                "DoesNotExist" => class.is_empty(),
                _ => !class.is_empty(),
            }
        }
        "CrossNamespacePodAffinity" => ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
            let rules = spec.get("affinity").get(kind);
            let required = rules.list("requiredDuringSchedulingIgnoredDuringExecution");
            let preferred = rules.list("preferredDuringSchedulingIgnoredDuringExecution");
            let mut terms = required.chain(preferred.map(|one| one.get("podAffinityTerm")));
            terms.any(|term| term.has_items("namespaces") || term.get("namespaceSelector").is_set())
        }),
        _ => false,
    }
}

/// Takes `delta` into a quota: the new usage of what the quota limits, or why it does not fit.
///
/// `delta` is [`usage`] of a new object, or what an update adds. The words are those of a 403 answer.
pub fn charge(quota: &Value, delta: &Amounts) -> Result<Amounts, String> {
    let (view, status) = (View::new(quota), View::new(quota).get("status"));
    let name = view.get("metadata").str("name");
    let hard = match status.has_items("hard") {
        true => amounts(status, "hard"),
        false => amounts(view.get("spec"), "hard"),
    };
    let mut used = amounts(status, "used");
    used.retain(|resource, _| hard.contains_key(resource));
    let mut charged = delta.clone();
    charged.retain(|resource, amount| hard.contains_key(resource) && !amount.is_zero());
    let before = used.clone();
    add(&mut used, &charged);
    let over: Vec<&str> = charged
        .iter()
        .filter(|(r, amount)| amount.sign() > 0 && used[*r] > hard[*r])
        .map(|(r, _)| r.as_str())
        .collect();
    if over.is_empty() {
        return Ok(used);
    }
    let told = |list: &Amounts| -> String {
        let zero = Quantity::default();
        let parts: Vec<String> =
            over.iter().map(|r| format!("{r}={}", list.get(*r).unwrap_or(&zero))).collect();
        parts.join(",")
    };
    Err(format!(
        "exceeded quota: {name}, requested: {}, used: {}, limited: {}",
        told(&charged),
        told(&before),
        told(&hard)
    ))
}

/// What an object leaves unsaid although the quota needs it, in the words of a 403 answer.
pub fn missing(resource: &Kind, quota: &Value, object: &Value) -> Option<String> {
    (resource.rules.counting.missing)(quota, object)
}

/// A quota on cpu or memory asks every container to say how much it wants.
fn missing_of_pod(quota: &Value, pod: &Value) -> Option<String> {
    let hard = amounts(View::new(quota).get("spec"), "hard");
    let spec = View::new(pod).get("spec");
    let mut parts = Vec::new();
    for resource in hard.keys() {
        let (list, name) = match resource.split_once('.') {
            Some(("limits", name)) => ("limits", name),
            Some(("requests", name)) => ("requests", name),
            _ => ("requests", resource.as_str()),
        };
        if !matches!(name, "cpu" | "memory") || spec.get("resources").get(list).get(name).is_set() {
            continue;
        }
        let containers = spec.list("containers").chain(spec.list("initContainers"));
        let silent: Vec<&str> = containers
            .filter(|container| !container.get("resources").get(list).get(name).is_set())
            .map(|container| container.str("name"))
            .collect();
        if !silent.is_empty() {
            parts.push(format!("{resource} for: {}", silent.join(",")));
        }
    }
    let name = View::new(quota).get("metadata").str("name");
    (!parts.is_empty()).then(|| format!("failed quota: {name}: must specify {}", parts.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::{built_in, by_kind};

    #[test]
    fn the_status_counts_what_the_quota_names() {
        let quota = json!({"spec": {"hard": {"configmaps": "2", "count/deployments.apps": "3", "requests.memory": "1Gi", "pods": "1"}}});
        let (maps, pods) = (by_kind("v1", "ConfigMap").expect("known"), by_kind("v1", "Pod").expect("known"));
        let pod = json!({"spec": {"containers": [{"resources": {"requests": {"memory": "64Mi"}}}]}});
        let map = json!({});
        let objects: [(&Kind, _); 3] = [(maps, &map), (maps, &map), (pods, &pod)];
        let counted = status(built_in(), &quota, objects);
        assert_eq!(
            counted["used"],
            json!({"configmaps": "2", "count/deployments.apps": "0", "requests.memory": "64Mi", "pods": "1"})
        );
        assert_eq!(counted["hard"], quota["spec"]["hard"]);
    }

    #[test]
    fn an_update_counts_its_difference() {
        let services = by_kind("v1", "Service").expect("known");
        let of = |kind: &str| usage(services, &json!({"spec": {"type": kind, "ports": [{"port": 1}]}}));
        let more = difference(&of("NodePort"), &of("ClusterIP"));
        assert_eq!(shown(&more), json!({"services.nodeports": "1"}));
        assert_eq!(
            shown(&difference(&of("ClusterIP"), &of("NodePort"))),
            json!({"services.nodeports": "-1"})
        );
    }

    #[test]
    fn an_object_too_many_is_refused_with_the_sums() {
        let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"configmaps": "2", "pods": "1"}},
            "status": {"hard": {"configmaps": "2", "pods": "1"}, "used": {"configmaps": "2", "pods": "0"}}});
        let maps = by_kind("v1", "ConfigMap").expect("known");
        assert_eq!(
            charge(&quota, &usage(maps, &json!({}))),
            Err("exceeded quota: q, requested: configmaps=1, used: configmaps=2, limited: configmaps=2"
                .to_owned())
        );
        let pods = by_kind("v1", "Pod").expect("known");
        let used = charge(&quota, &usage(pods, &json!({"spec": {}}))).expect("fits");
        assert_eq!(used["pods"].to_string(), "1");
    }

    #[test]
    fn a_quota_on_memory_asks_containers_for_theirs() {
        let quota =
            json!({"metadata": {"name": "q"}, "spec": {"hard": {"limits.memory": "1Gi", "cpu": "1"}}});
        let pod = json!({"spec": {"containers": [{"name": "a"}, {"name": "b", "resources": {"limits": {"memory": "1Mi"}}}]}});
        assert_eq!(
            missing(by_kind("v1", "Pod").expect("known"), &quota, &pod),
            Some("failed quota: q: must specify cpu for: a,b; limits.memory for: a".to_owned())
        );
    }

    #[test]
    fn scopes_choose_among_pods() {
        let quota = json!({"spec": {"scopes": ["BestEffort", "NotTerminating"]}});
        let pods = by_kind("v1", "Pod").expect("known");
        assert!(applies(&quota, pods, &json!({"spec": {"containers": [{}]}})));
        assert!(!applies(&quota, pods, &json!({"spec": {"activeDeadlineSeconds": 5}})));
        assert!(!applies(&quota, by_kind("v1", "Secret").expect("known"), &json!({})));
    }
}
