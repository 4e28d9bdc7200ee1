//! What a Pod asks of a node, by the formula of `component-helpers/resource`.

use std::collections::BTreeMap;

use api::quantity::Quantity;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

/// Amounts of resources.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    /// Thousandths of a core.
    pub milli_cpu: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes.
    pub ephemeral_storage: i64,
    /// Everything else by its name: huge pages in bytes, devices by count.
    pub scalar: BTreeMap<String, i64>,
}

/// A port of the node that a Pod wants for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// The address, `0.0.0.0` for all.
    pub ip: String,
    /// TCP, UDP or SCTP.
    pub protocol: String,
    /// The port.
    pub port: i32,
}

impl HostPort {
    /// The same port of the same protocol, on addresses that overlap.
    pub fn conflicts(&self, other: &Self) -> bool {
        let any = |port: &Self| port.ip == "0.0.0.0" || port.ip == "::";
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || any(self) || any(other))
    }
}

type ResourceList = BTreeMap<String, Text>;

impl Resources {
    /// A list of the API; what cannot be parsed counts as nothing, since the
    /// server refuses it.
    pub fn from_list(list: &ResourceList) -> Self {
        let mut resources = Self::default();
        for (name, text) in list {
            let Ok(quantity) = text.0.parse::<Quantity>() else { continue };
            match name.as_str() {
                "cpu" => resources.milli_cpu = quantity.milli_value(),
                "memory" => resources.memory = quantity.value(),
                "ephemeral-storage" => resources.ephemeral_storage = quantity.value(),
                // Counted for itself, not as an amount.
                "pods" => {}
                _ => drop(resources.scalar.insert(name.clone(), quantity.value())),
            }
        }
        resources
    }

    /// Adds each amount.
    pub fn add(&mut self, other: &Self) {
        self.combine(other, i64::saturating_add);
    }

    /// Takes each amount away.
    pub fn subtract(&mut self, other: &Self) {
        self.combine(other, i64::saturating_sub);
    }

    /// Whether any amount is larger than the other's.
    pub(crate) fn exceeds(&self, other: &Self) -> bool {
        let mut most = other.clone();
        most.maximum(self);
        // A name with nothing of it is no difference.
        most.scalar.retain(|name, amount| *amount != 0 || other.scalar.contains_key(name));
        most != *other
    }

    /// Keeps the larger of each amount.
    fn maximum(&mut self, other: &Self) {
        self.combine(other, i64::max);
    }

    fn combine(&mut self, other: &Self, with: impl Fn(i64, i64) -> i64) {
        self.milli_cpu = with(self.milli_cpu, other.milli_cpu);
        self.memory = with(self.memory, other.memory);
        self.ephemeral_storage = with(self.ephemeral_storage, other.ephemeral_storage);
        for (name, amount) in &other.scalar {
            let mine = self.scalar.entry(name.clone()).or_default();
            *mine = with(*mine, *amount);
        }
    }
}

/// A container without a request counts for this much when nodes are scored,
/// so that many such Pods do not all go to one node.
const DEFAULT_MILLI_CPU: i64 = 100;
const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;

/// What the Pod's containers need at the same time, at most.
pub(crate) fn requests(spec: &PodSpec) -> Resources {
    total(spec, &requested)
}

/// [`requests`], with defaults where a container asks for nothing.
pub(crate) fn requests_for_scoring(spec: &PodSpec) -> Resources {
    total(spec, &|container| {
        let mut resources = requested(container);
        let asks = |name: &str| {
            let requests = container.resources.as_ref().and_then(|r| r.requests.as_ref());
            requests.is_some_and(|requests| requests.contains_key(name))
        };
        if !asks("cpu") {
            resources.milli_cpu = DEFAULT_MILLI_CPU;
        }
        if !asks("memory") {
            resources.memory = DEFAULT_MEMORY;
        }
        resources
    })
}

/// What a Pod needs at most, whatever becomes of a resize: the most of what it wishes, what its node has set apart
/// and what its containers have. A wish that its node can never grant does not count (upstream's rule).
pub(crate) fn requests_of(pod: &Pod) -> Resources {
    let Some(spec) = &pod.spec else { return Resources::default() };
    let Some(status) = pod.status.as_ref().filter(|status| status.container_statuses.is_some()) else {
        return requests(spec);
    };
    let infeasible = status
        .conditions
        .iter()
        .flatten()
        .any(|one| one.type_ == "PodResizePending" && one.reason.as_deref() == Some("Infeasible"));
    total(spec, &|container| {
        let all = [&status.container_statuses, &status.init_container_statuses];
        let known = all.into_iter().flatten().flatten().find(|one| one.name == container.name);
        let actual = known.and_then(|one| one.resources.as_ref()?.requests.as_ref());
        let set_apart = known.and_then(|one| one.allocated_resources.as_ref());
        let mut most = Resources::default();
        for list in actual.into_iter().chain(set_apart) {
            most.maximum(&Resources::from_list(list));
        }
        if !infeasible || actual.is_none() && set_apart.is_none() {
            most.maximum(&requested(container));
        }
        most
    })
}

fn requested(container: &Container) -> Resources {
    let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    requests.map(Resources::from_list).unwrap_or_default()
}

fn total(spec: &PodSpec, of: &dyn Fn(&Container) -> Resources) -> Resources {
    let mut total = Resources::default();
    for container in &spec.containers {
        total.add(&of(container));
    }
    total_with_init(&mut total, spec, of);
    if let Some(pod_level) = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()) {
        let resources = Resources::from_list(pod_level);
        // A request of the whole Pod replaces the sum, for what it names.
        if pod_level.contains_key("cpu") {
            total.milli_cpu = resources.milli_cpu;
        }
        if pod_level.contains_key("memory") {
            total.memory = resources.memory;
        }
    }
    if let Some(overhead) = &spec.overhead {
        total.add(&Resources::from_list(overhead));
    }
    total
}

/// Init containers run one after another, beside the sidecars before them.
fn total_with_init(total: &mut Resources, spec: &PodSpec, of: &dyn Fn(&Container) -> Resources) {
    let mut sidecars = Resources::default();
    let mut peak = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        let request = of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            total.add(&request);
            sidecars.add(&request);
            peak.maximum(&sidecars);
        } else {
            let mut at_once = sidecars.clone();
            at_once.add(&request);
            peak.maximum(&at_once);
        }
    }
    total.maximum(&peak);
}

/// The host ports of all containers.
pub(crate) fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let sidecars =
        spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    let wanted = ports.filter_map(|port| {
        let number = port.host_port.filter(|port| *port > 0)?;
        Some(HostPort {
            ip: port.host_ip.clone().filter(|ip| !ip.is_empty()).unwrap_or_else(|| "0.0.0.0".to_owned()),
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            port: number,
        })
    });
    wanted.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn cpu(spec: serde_json::Value) -> i64 {
        requests(&serde_json::from_value(spec).unwrap()).milli_cpu
    }

    fn container(cpu: &str) -> serde_json::Value {
        json!({"name": "c", "resources": {"requests": {"cpu": cpu}}})
    }

    #[test]
    fn the_largest_init_container_counts_beside_the_sidecars_before_it() {
        let mut sidecar = container("200m");
        sidecar["restartPolicy"] = "Always".into();
        let spec = json!({"containers": [container("300m")], "initContainers": [sidecar, container("1")]});
        assert_eq!(cpu(spec), 1200);
        let mut sidecar = container("200m");
        sidecar["restartPolicy"] = "Always".into();
        let spec = json!({"containers": [container("300m")], "initContainers": [container("100m"), sidecar]});
        assert_eq!(cpu(spec), 500);
    }

    #[test]
    fn a_request_of_the_whole_pod_replaces_the_sum_and_overhead_is_added() {
        let spec = json!({"containers": [container("300m")], "resources": {"requests": {"cpu": "1"}},
                          "overhead": {"cpu": "50m"}});
        assert_eq!(cpu(spec), 1050);
    }

    #[test]
    fn during_a_resize_the_most_of_wished_set_apart_and_actual_counts() {
        let cpu = |wished: &str, set_apart: &str, actual: &str, reason: &str| {
            let status = json!({"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                "allocatedResources": {"cpu": set_apart}, "resources": {"requests": {"cpu": actual}}});
            let condition = json!({"type": "PodResizePending", "status": "True", "reason": reason});
            let pod = json!({"spec": {"containers": [container(wished)]},
                "status": {"containerStatuses": [status], "conditions": [condition]}});
            requests_of(&serde_json::from_value(pod).unwrap()).milli_cpu
        };
        assert_eq!(cpu("3", "1", "2", "Deferred"), 3000);
        assert_eq!(cpu("1", "3", "2", "Deferred"), 3000);
        assert_eq!(cpu("1", "2", "3", "Deferred"), 3000, "it still has it");
        assert_eq!(cpu("9", "1", "2", "Infeasible"), 2000, "it never gets it");
        let new = json!({"spec": {"containers": [container("1")]}});
        assert_eq!(requests_of(&serde_json::from_value(new).unwrap()).milli_cpu, 1000);
    }

    #[test]
    fn containers_without_requests_count_something_when_scored() {
        let spec = serde_json::from_value(json!({"containers": [{"name": "a"}, {"name": "b"}]})).unwrap();
        assert_eq!(requests(&spec), Resources::default());
        assert_eq!(requests_for_scoring(&spec).milli_cpu, 200);
    }
}
