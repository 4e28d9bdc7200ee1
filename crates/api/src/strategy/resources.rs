//! Arithmetic over the resources of a Pod: what it asks for in total, and its class of service.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::quantity::Quantity;
use crate::validate::view::View;

/// Amounts by resource name.
pub type Amounts = BTreeMap<String, Quantity>;

/// Reads a resource list; amounts that are no quantities are left out (decoding has refused them).
pub(crate) fn amounts(holder: View<'_>, name: &str) -> Amounts {
    let entries = holder.map(name);
    entries
        .filter_map(|(key, value)| Some((key.to_owned(), Quantity::from_json(value.value()?).ok()?)))
        .collect()
}

/// Adds amounts by name.
pub fn add(total: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        total.entry(name.clone()).and_modify(|sum| sum.add(amount)).or_insert_with(|| amount.clone());
    }
}

/// Raises amounts to at least those of `other`.
pub fn max(total: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        match total.get_mut(name) {
            Some(known) if *known >= *amount => {}
            Some(known) => *known = amount.clone(),
            None => drop(total.insert(name.clone(), amount.clone())),
        }
    }
}

/// Whether an init container is a sidecar.
pub(crate) fn is_sidecar(container: View<'_>) -> bool {
    container.str("restartPolicy") == "Always"
}

/// What all containers of a Pod's `spec` request together (`AggregateContainerRequests`).
///
/// Sidecars count for the whole life; an ordinary init container counts with the sidecars started before it.
pub fn container_requests(spec: &Value) -> Amounts {
    aggregate(View::new(spec), "requests")
}

/// What all containers of a Pod's `spec` are limited to together (`AggregateContainerLimits`).
pub fn container_limits(spec: &Value) -> Amounts {
    aggregate(View::new(spec), "limits")
}

fn aggregate(spec: View<'_>, which: &str) -> Amounts {
    let mut total = Amounts::new();
    for container in spec.list("containers") {
        add(&mut total, &amounts(container.get("resources"), which));
    }
    let (mut sidecars, mut highest) = (Amounts::new(), Amounts::new());
    for container in spec.list("initContainers") {
        let mut own = amounts(container.get("resources"), which);
        if is_sidecar(container) {
            add(&mut total, &own);
            add(&mut sidecars, &own);
            own = sidecars.clone();
        } else {
            add(&mut own, &sidecars);
        }
        max(&mut highest, &own);
    }
    max(&mut total, &highest);
    total
}

/// What a Pod requests: Pod-level amounts where given, the containers' else, and the overhead.
pub fn pod_requests(spec: &Value) -> Amounts {
    pod_total(View::new(spec), "requests")
}

/// What a Pod is limited to; the overhead is added to limits that are set.
pub fn pod_limits(spec: &Value) -> Amounts {
    pod_total(View::new(spec), "limits")
}

fn pod_total(spec: View<'_>, which: &str) -> Amounts {
    let mut total = aggregate(spec, which);
    for (name, amount) in amounts(spec.get("resources"), which) {
        total.insert(name, amount);
    }
    let mut overhead = amounts(spec, "overhead");
    if which == "limits" {
        overhead.retain(|name, _| total.contains_key(name));
    }
    add(&mut total, &overhead);
    total
}

/// The class of service of a Pod's `spec`: `Guaranteed`, `Burstable` or `BestEffort` (`ComputePodQOS`).
pub fn qos_class(spec: &Value) -> &'static str {
    let spec = View::new(spec);
    let pod_level = spec.get("resources");
    let (mut requests, mut limits) = (Amounts::new(), Amounts::new());
    let mut complete = true;
    let mut count = |resources: View<'_>| {
        add(&mut requests, &computed(resources, "requests"));
        let own = computed(resources, "limits");
        complete &= own.len() == 2;
        add(&mut limits, &own);
    };
    if pod_level.has_items("requests") || pod_level.has_items("limits") {
        count(pod_level);
    } else {
        spec.list("containers").chain(spec.list("initContainers")).for_each(|c| count(c.get("resources")));
    }
    match (requests.is_empty() && limits.is_empty(), complete && requests == limits) {
        (true, _) => "BestEffort",
        (false, true) => "Guaranteed",
        (false, false) => "Burstable",
    }
}

/// The amounts that decide the class: cpu and memory above zero.
fn computed(resources: View<'_>, which: &str) -> Amounts {
    let mut all = amounts(resources, which);
    all.retain(|name, amount| matches!(name.as_str(), "cpu" | "memory") && amount.sign() > 0);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn sidecars_count_for_life_and_init_containers_only_at_their_turn() {
        let spec = json!({
            "containers": [{"resources": {"requests": {"cpu": "100m"}}}, {"resources": {"requests": {"cpu": "200m"}}}],
            "initContainers": [
                {"restartPolicy": "Always", "resources": {"requests": {"cpu": "50m"}}},
                {"resources": {"requests": {"cpu": "1"}}},
                {"restartPolicy": "Always", "resources": {"requests": {"cpu": "50m"}}}],
            "overhead": {"cpu": "10m"}
        });
        assert_eq!(container_requests(&spec)["cpu"].to_string(), "1050m");
        assert_eq!(pod_requests(&spec)["cpu"].to_string(), "1060m");
    }

    #[test]
    fn the_class_of_service_follows_requests_and_limits() {
        let spec = |resources: Value| json!({"containers": [{"resources": resources}]});
        assert_eq!(qos_class(&spec(json!({}))), "BestEffort");
        assert_eq!(qos_class(&spec(json!({"requests": {"cpu": "1"}}))), "Burstable");
        let both = json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1000m", "memory": "1024Mi"}});
        assert_eq!(qos_class(&spec(both)), "Guaranteed");
        let uneven =
            json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "1Gi"}});
        assert_eq!(qos_class(&spec(uneven)), "Burstable");
        assert_eq!(qos_class(&spec(json!({"limits": {"example.com/gpu": "1"}}))), "BestEffort");
    }
}
