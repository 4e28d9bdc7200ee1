//! What the node has set apart for a Pod: cpu and memory as they were last granted.
//!
//! The spec says what is wished. Until the node has found room for a wish, and kept that on its disk, everything
//! here goes by what was granted before: starts, cgroups, the downward API, the room for others.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::quantity::Quantity as Amount;
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde::{Deserialize, Serialize};

use super::spec::spec;

/// What a resize may change.
pub(super) const RESIZABLE: [&str; 2] = ["cpu", "memory"];

type List = BTreeMap<String, Quantity>;

/// The resources of the whole Pod and of each container that can be resized.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Allocation {
    /// `spec.resources`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pod: Option<ResourceRequirements>,
    /// By container name.
    containers: BTreeMap<String, ResourceRequirements>,
}

impl Allocation {
    /// What a Pod asks for.
    pub fn of(pod: &Pod) -> Self {
        let containers = resizable(spec(pod))
            .map(|container| (container.name.clone(), container.resources.clone().unwrap_or_default()));
        Self { pod: spec(pod).resources.clone(), containers: containers.collect() }
    }

    /// What the status tells of a Pod that was never resized, so that nothing is kept of it: what its containers
    /// run with. The spec may have been changed while this node was away.
    pub fn reported(pod: &Pod) -> Self {
        let mut allocation = Self::of(pod);
        for (name, resources) in &mut allocation.containers {
            if let Some(known) = status_of(pod, name).and_then(|status| status.resources.as_ref()) {
                for (list, known) in
                    [(&mut resources.requests, &known.requests), (&mut resources.limits, &known.limits)]
                {
                    *list = replaced(list.take(), known.as_ref());
                }
            }
        }
        allocation
    }

    /// The Pod with these resources instead of those of its spec.
    pub fn given_to(&self, pod: &Arc<Pod>) -> Arc<Pod> {
        if self.matches(&Self::of(pod)) {
            return Arc::clone(pod);
        }
        let mut given = Pod::clone(pod);
        if let Some(spec) = &mut given.spec {
            spec.resources.clone_from(&self.pod);
            let init = spec.init_containers.iter_mut().flatten();
            for container in init.chain(&mut spec.containers) {
                if let Some(resources) = self.containers.get(&container.name) {
                    container.resources = Some(resources.clone());
                }
            }
        }
        Arc::new(given)
    }

    /// Whether both are the same amounts, however they are written.
    pub fn matches(&self, other: &Self) -> bool {
        let none = ResourceRequirements::default();
        let of = |one: &Option<ResourceRequirements>| one.clone().unwrap_or_default();
        same(&of(&self.pod), &of(&other.pod))
            && self.containers.len() == other.containers.len()
            && self
                .containers
                .iter()
                .all(|(name, own)| same(own, other.containers.get(name).unwrap_or(&none)))
    }

    /// What one container has; `None`: it cannot be resized.
    pub fn of_container(&self, name: &str) -> Option<&ResourceRequirements> {
        self.containers.get(name)
    }
}

/// Main containers and sidecars.
fn resizable(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    let sidecar = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    spec.init_containers.iter().flatten().filter(sidecar).chain(&spec.containers)
}

fn status_of<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let all = [&status.init_container_statuses, &status.container_statuses];
    all.into_iter().flatten().flatten().find(|one| one.name == name)
}

/// `list` with cpu and memory as in `known`.
fn replaced(list: Option<List>, known: Option<&List>) -> Option<List> {
    let mut list = list.unwrap_or_default();
    for name in RESIZABLE {
        match known.and_then(|known| known.get(name)) {
            Some(amount) => drop(list.insert(name.into(), amount.clone())),
            None => drop(list.remove(name)),
        }
    }
    (!list.is_empty()).then_some(list)
}

/// Whether cpu and memory are the same in both.
pub(super) fn same(a: &ResourceRequirements, b: &ResourceRequirements) -> bool {
    RESIZABLE.iter().all(|name| !differs(a, b, name))
}

/// Whether the request or the limit of one resource is another.
pub(super) fn differs(a: &ResourceRequirements, b: &ResourceRequirements, name: &str) -> bool {
    let amount = |list: &Option<List>| -> Option<Amount> { list.as_ref()?.get(name)?.0.parse().ok() };
    amount(&a.requests) != amount(&b.requests) || amount(&a.limits) != amount(&b.limits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(cpu: &str, status: serde_json::Value) -> Arc<Pod> {
        let container = |name: &str| json!({"name": name, "resources": {"requests": {"cpu": cpu, "ephemeral-storage": "1Mi"}}});
        let mut sidecar = container("side");
        sidecar["restartPolicy"] = "Always".into();
        Arc::new(
            serde_json::from_value(json!({
                "spec": {"initContainers": [container("init"), sidecar], "containers": [container("c")]},
                "status": status,
            }))
            .unwrap(),
        )
    }

    #[test]
    fn a_pod_goes_by_what_was_granted_and_not_by_what_it_wishes() {
        let before = Allocation::of(&pod("100m", json!({})));
        let wish = pod("200m", json!({}));
        let given = before.given_to(&wish);
        let cpu = |container: &Container| {
            container.resources.as_ref().unwrap().requests.as_ref().unwrap()["cpu"].0.clone()
        };
        let init = spec(&given).init_containers.as_ref().unwrap();
        assert_eq!(
            [cpu(&spec(&given).containers[0]), cpu(&init[1]), cpu(&init[0])],
            ["100m", "100m", "200m"]
        );
        assert!(before.matches(&Allocation::of(&pod("0.1", json!({})))), "the same amount in other words");
        assert!(!before.matches(&Allocation::of(&wish)));
        assert!(Arc::ptr_eq(&Allocation::of(&wish).given_to(&wish), &wish), "nothing is copied in vain");
    }

    #[test]
    fn of_a_pod_that_was_resized_while_the_node_was_away_the_status_knows_what_it_has() {
        let status = json!({"containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 0,
            "resources": {"requests": {"cpu": "100m", "ephemeral-storage": "9Mi"}, "limits": {"memory": "5Mi"}}}]});
        let known = Allocation::reported(&pod("300m", status));
        let own = known.of_container("c").unwrap();
        assert_eq!(own.requests.as_ref().unwrap()["cpu"].0, "100m");
        assert_eq!(own.requests.as_ref().unwrap()["ephemeral-storage"].0, "1Mi", "the spec's");
        assert_eq!(own.limits.as_ref().unwrap()["memory"].0, "5Mi");
        let side = known.of_container("side").unwrap();
        assert_eq!(side.requests.as_ref().unwrap()["cpu"].0, "300m", "nothing is known of it");
        assert_eq!(known.of_container("init"), None);
    }
}
