//! Who has to go when the node runs short of memory.

use std::cmp::Reverse;

use api::quantity::Quantity as Amount;
use k8s_openapi::api::core::v1::Pod;

use super::qos;
use super::spec::spec;

/// Priorities from here on are critical: such Pods stay.
pub(super) const CRITICAL_PRIORITY: i32 = 2_000_000_000;

/// A Pod with what its containers use of the memory now.
#[derive(Clone, Debug)]
pub struct Candidate<'a> {
    /// The Pod, with what was granted to it.
    pub pod: &'a Pod,
    /// Name and working set of each running container, bytes.
    pub containers: Vec<(String, u64)>,
}

impl Candidate<'_> {
    fn used(&self) -> u64 {
        self.containers.iter().map(|(_, used)| used).sum()
    }

    fn requested(&self) -> u64 {
        bytes(qos::requests(spec(self.pod)).get("memory").map(|amount| amount.0.as_str()))
    }

    fn priority(&self) -> i32 {
        spec(self.pod).priority.unwrap_or_default()
    }
}

fn bytes(amount: Option<&str>) -> u64 {
    let amount = amount.and_then(|amount| amount.parse::<Amount>().ok()).map_or(0, |amount| amount.value());
    u64::try_from(amount).unwrap_or(0)
}

/// The first to go: one that uses more than it has asked for, then the less important, then the one that
/// exceeds its request by more. Pods without requests always exceed them, Guaranteed ones hardly ever.
pub fn first<'a>(candidates: &'a [Candidate<'a>]) -> Option<&'a Candidate<'a>> {
    let evictable = candidates.iter().filter(|one| one.priority() < CRITICAL_PRIORITY);
    evictable.min_by_key(|one| {
        let (used, requested) = (one.used(), one.requested());
        let above = i128::from(used) - i128::from(requested);
        (used <= requested, one.priority(), Reverse(above))
    })
}

/// What the Pod is told, in upstream's words.
pub fn message(candidate: &Candidate<'_>, threshold: u64, available: u64) -> String {
    let mut text = format!(
        "The node was low on resource: memory. Threshold quantity: {}, available: {}. ",
        shown(threshold),
        kibibytes(available)
    );
    let containers =
        spec(candidate.pod).init_containers.iter().flatten().chain(&spec(candidate.pod).containers);
    for container in containers {
        let used = candidate.containers.iter().find(|(name, _)| *name == container.name);
        let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        let request =
            requests.and_then(|requests| requests.get("memory")).map_or("0", |amount| amount.0.as_str());
        if let Some((name, used)) = used.filter(|(_, used)| *used > bytes(Some(request))) {
            text += &format!(
                "Container {name} was using {}, request is {request}, has larger consumption of memory. ",
                kibibytes(*used)
            );
        }
    }
    text
}

/// As quantities of measured bytes are shown: whole kibibytes where they are, else bytes.
fn kibibytes(bytes: u64) -> String {
    if bytes > 0 && bytes.is_multiple_of(1024) { format!("{}Ki", bytes / 1024) } else { bytes.to_string() }
}

/// As a threshold was written.
fn shown(bytes: u64) -> String {
    if bytes > 0 && bytes.is_multiple_of(1 << 20) { format!("{}Mi", bytes >> 20) } else { kibibytes(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, priority: i32, request: Option<&str>, limit: Option<&str>) -> Pod {
        let mut resources = json!({});
        if let Some(request) = request {
            resources["requests"] = json!({"cpu": "1", "memory": request});
        }
        if let Some(limit) = limit {
            resources["limits"] = json!({"cpu": "1", "memory": limit});
        }
        let spec = json!({"priority": priority, "containers": [{"name": "c", "resources": resources}]});
        serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap()
    }

    /// Names in the order in which they would go.
    fn order(pods: &[(Pod, u64)]) -> Vec<String> {
        let mut left: Vec<Candidate<'_>> = pods
            .iter()
            .map(|(pod, mebibytes)| Candidate { pod, containers: vec![("c".into(), mebibytes << 20)] })
            .collect();
        let mut names = Vec::new();
        while let Some(name) = first(&left).and_then(|one| one.pod.metadata.name.clone()) {
            left.retain(|one| one.pod.metadata.name.as_ref() != Some(&name));
            names.push(name);
        }
        names
    }

    #[test]
    fn best_effort_goes_first_then_who_exceeds_his_request_and_guaranteed_last() {
        let pods = [
            (pod("guaranteed", 0, Some("100Mi"), Some("100Mi")), 100),
            (pod("modest", 0, Some("100Mi"), None), 50),
            (pod("greedy", 0, Some("100Mi"), None), 300),
            (pod("best-effort", 0, None, None), 250),
            (pod("small", 0, None, None), 1),
        ];
        assert_eq!(order(&pods), ["best-effort", "greedy", "small", "guaranteed", "modest"]);
    }

    #[test]
    fn the_less_important_go_before_the_important_and_the_critical_never() {
        let pods = [
            (pod("critical", 2_000_000_000, None, None), 900),
            (pod("important", 1000, None, None), 500),
            (pod("plain", 0, None, None), 10),
            (pod("within", -5, Some("100Mi"), None), 50),
        ];
        assert_eq!(order(&pods), ["plain", "important", "within"]);
    }

    #[test]
    fn the_message_is_upstreams_and_names_who_uses_more_than_he_asked_for() {
        let greedy = pod("greedy", 0, Some("1Mi"), None);
        let candidate = Candidate { pod: &greedy, containers: vec![("c".into(), 2 << 20)] };
        assert_eq!(
            message(&candidate, 100 << 20, 1023 << 10),
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 1023Ki. Container c was using 2048Ki, request is 1Mi, has larger consumption of memory. "
        );
        let modest = Candidate { pod: &greedy, containers: vec![("c".into(), 1 << 20)] };
        assert!(message(&modest, 1, 0).ends_with("Threshold quantity: 1, available: 0. "));
    }
}
