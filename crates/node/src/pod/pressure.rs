//! Who has to go when the node runs short of something.

use std::cmp::Reverse;

use api::quantity::Quantity as Amount;
use k8s_openapi::api::core::v1::Pod;
use runtime::DiskUse;

use super::qos;
use super::spec::{is_critical, spec};
use super::storage;
use crate::eviction::threshold::{Resource, binary};

/// A Pod with what it uses now.
#[derive(Clone, Debug)]
pub struct Candidate<'a> {
    /// The Pod, with what was granted to it.
    pub pod: &'a Pod,
    /// Its running containers.
    pub containers: Vec<ContainerUse>,
    /// What it has written on the scarce disk, volumes included, if it is a disk that is scarce.
    pub disk: DiskUse,
}

/// What one container uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerUse {
    /// Its name.
    pub name: String,
    /// Working set, bytes.
    pub memory: u64,
    /// Processes.
    pub processes: u64,
    /// Bytes of its root and its logs, if that was measured.
    pub disk: Option<u64>,
}

impl Candidate<'_> {
    fn used(&self, resource: Resource) -> u64 {
        match resource {
            Resource::Memory => self.containers.iter().map(|one| one.memory).sum(),
            Resource::EphemeralStorage => self.disk.bytes,
            Resource::Inodes => self.disk.inodes,
            Resource::Pids => self.containers.iter().map(|one| one.processes).sum(),
        }
    }

    /// Nobody can ask for files or processes.
    fn requested(&self, resource: Resource) -> u64 {
        bytes(qos::requests(spec(self.pod)).get(resource.word()).map(|amount| amount.0.as_str()))
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
/// exceeds its request by more. Pods without requests always exceed them, Guaranteed ones hardly ever. Of
/// processes nobody has a request: importance alone counts, then who has most.
pub fn first<'a>(candidates: &'a [Candidate<'a>], scarce: Resource) -> Option<&'a Candidate<'a>> {
    let evictable = candidates.iter().filter(|one| !is_critical(one.pod));
    evictable.min_by_key(|one| {
        let (used, requested) = (one.used(scarce), one.requested(scarce));
        let above = i128::from(used) - i128::from(requested);
        (scarce != Resource::Pids && used <= requested, one.priority(), Reverse(above))
    })
}

/// What the Pod is told, in upstream's words; `threshold` and `available` as they are shown.
pub fn message(candidate: &Candidate<'_>, scarce: Resource, threshold: &str, available: &str) -> String {
    let word = scarce.word();
    let mut text = format!(
        "The node was low on resource: {word}. Threshold quantity: {threshold}, available: {available}. "
    );
    let mut blame = |kind: &str, name: &str, used: u64, request: &str| {
        let used = binary(used);
        text += &format!(
            "{kind} {name} was using {used}, request is {request}, has larger consumption of {word}. "
        );
    };
    let of_pod = spec(candidate.pod).resources.as_ref().and_then(|resources| resources.requests.as_ref());
    if let Some(request) =
        of_pod.and_then(|requests| requests.get(word)).filter(|_| scarce == Resource::Memory)
    {
        let name = candidate.pod.metadata.name.as_deref().unwrap_or_default();
        blame("Pod", name, candidate.used(scarce), &request.0);
    }
    for container in storage::containers(candidate.pod) {
        let used = candidate.containers.iter().find(|one| one.name == container.name);
        let used = used.and_then(|one| match scarce {
            Resource::Memory => Some(one.memory),
            Resource::EphemeralStorage => one.disk,
            Resource::Inodes | Resource::Pids => None,
        });
        let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        let request =
            requests.and_then(|requests| requests.get(word)).map_or("0", |amount| amount.0.as_str());
        if let Some(used) = used.filter(|used| *used > bytes(Some(request))) {
            blame("Container", &container.name, used, request);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, priority: i32, request: Option<&str>, limit: Option<&str>) -> Pod {
        let mut resources = json!({});
        let amounts = |size: &str| json!({"cpu": "1", "memory": size, "ephemeral-storage": size});
        if let Some(request) = request {
            resources["requests"] = amounts(request);
        }
        if let Some(limit) = limit {
            resources["limits"] = amounts(limit);
        }
        let spec = json!({"priority": priority, "containers": [{"name": "c", "resources": resources}]});
        serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap()
    }

    fn candidate(pod: &Pod, amount: u64) -> Candidate<'_> {
        let one = ContainerUse {
            name: "c".into(),
            memory: amount << 20,
            processes: amount,
            disk: Some(amount << 20),
        };
        Candidate { pod, containers: vec![one], disk: DiskUse { bytes: amount << 20, inodes: amount } }
    }

    /// Names in the order in which they would go.
    fn order(pods: &[(Pod, u64)], scarce: Resource) -> Vec<String> {
        let mut left: Vec<Candidate<'_>> = pods.iter().map(|(pod, amount)| candidate(pod, *amount)).collect();
        let mut names = Vec::new();
        while let Some(name) = first(&left, scarce).and_then(|one| one.pod.metadata.name.clone()) {
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
        for scarce in [Resource::Memory, Resource::EphemeralStorage] {
            assert_eq!(order(&pods, scarce), ["best-effort", "greedy", "small", "guaranteed", "modest"]);
        }
    }

    #[test]
    fn the_less_important_go_before_the_important_and_the_critical_never() {
        let pods = [
            (pod("critical", 2_000_000_000, None, None), 900),
            (pod("important", 1000, None, None), 500),
            (pod("plain", 0, None, None), 10),
            (pod("within", -5, Some("100Mi"), None), 50),
        ];
        assert_eq!(order(&pods, Resource::Memory), ["plain", "important", "within"]);
        // Nobody asks for processes: what is asked for of memory protects nobody from going for them.
        assert_eq!(order(&pods, Resource::Pids), ["within", "plain", "important"]);
    }

    #[test]
    fn who_has_most_files_or_processes_goes_whatever_it_asked_for() {
        let pods = [
            (pod("guaranteed", 0, Some("100Mi"), Some("100Mi")), 7),
            (pod("bomb", 0, Some("100Mi"), None), 900),
        ];
        for scarce in [Resource::Inodes, Resource::Pids] {
            assert_eq!(order(&pods, scarce), ["bomb", "guaranteed"]);
        }
    }

    #[test]
    fn the_message_is_upstreams_and_names_who_uses_more_than_he_asked_for() {
        let greedy = pod("greedy", 0, Some("1Mi"), None);
        let told = |amount, scarce: Resource| {
            message(&candidate(&greedy, amount), scarce, "100Mi", &scarce.shown(1023 << 10))
        };
        assert_eq!(
            told(2, Resource::Memory),
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 1023Ki. Container c was using 2Mi, request is 1Mi, has larger consumption of memory. "
        );
        assert!(told(3, Resource::EphemeralStorage).ends_with(
            "available: 1023Ki. Container c was using 3Mi, request is 1Mi, has larger consumption of ephemeral-storage. "
        ));
        assert!(told(1, Resource::Memory).ends_with("Threshold quantity: 100Mi, available: 1023Ki. "));
        assert!(told(9, Resource::Pids).ends_with("Threshold quantity: 100Mi, available: 1047552. "));
    }

    #[test]
    fn a_pod_with_a_request_as_a_whole_is_named_as_a_whole() {
        let mut whole = pod("whole", 0, None, None);
        let resources = serde_json::from_value(json!({"requests": {"memory": "1Mi"}})).unwrap();
        whole.spec.as_mut().unwrap().resources = Some(resources);
        let told = message(&candidate(&whole, 2), Resource::Memory, "1", "0");
        assert!(
            told.ends_with(
                "available: 0. Pod whole was using 2Mi, request is 1Mi, has larger consumption of memory. Container c was using 2Mi, request is 0, has larger consumption of memory. "
            ),
            "{told}"
        );
    }
}
