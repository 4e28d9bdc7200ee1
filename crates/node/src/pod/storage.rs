//! What a Pod may write on the node's disk, and what is said when it has written more.

use std::collections::BTreeMap;

use api::quantity::Quantity as Amount;
use k8s_openapi::api::core::v1::{Container, Pod, Volume};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use runtime::DiskUse;

use super::qos;
use super::spec::spec;

const STORAGE: &str = "ephemeral-storage";

/// What is on the disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// By container name: what it has written to its root, and its logs.
    pub containers: BTreeMap<String, DiskUse>,
    /// By volume name: scratch space and files of ConfigMaps.
    pub volumes: BTreeMap<String, DiskUse>,
}

impl Used {
    /// All of it.
    pub fn total(&self) -> DiskUse {
        let mut sum = DiskUse::default();
        self.containers.values().chain(self.volumes.values()).for_each(|one| sum.add(*one));
        sum
    }
}

/// Whether anything of the Pod's has a limit on the disk: of others nothing is measured.
pub fn is_limited(pod: &Pod) -> bool {
    containers(pod).any(|container| limit(container).is_some())
        || volumes(pod).any(|volume| size_limit(volume).is_some())
}

/// Volumes whose contents lie on the node's disk and go with the Pod.
pub fn volumes(pod: &Pod) -> impl Iterator<Item = &Volume> {
    let on_disk = |volume: &&Volume| {
        let scratch = volume.empty_dir.as_ref();
        volume.config_map.is_some()
            || scratch.is_some_and(|scratch| scratch.medium.as_deref().unwrap_or_default().is_empty())
    };
    spec(pod).volumes.iter().flatten().filter(on_disk)
}

/// Under which plugin's name such a volume lies.
pub fn plugin(volume: &Volume) -> &'static str {
    if volume.empty_dir.is_some() { "kubernetes.io/empty-dir" } else { "kubernetes.io/projected" }
}

/// Init containers, sidecars, mains.
pub fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    spec(pod).init_containers.iter().flatten().chain(&spec(pod).containers)
}

fn limit(container: &Container) -> Option<&Quantity> {
    container.resources.as_ref()?.limits.as_ref()?.get(STORAGE)
}

fn size_limit(volume: &Volume) -> Option<&Quantity> {
    let limit = volume.empty_dir.as_ref()?.size_limit.as_ref();
    // Zero is no limit (upstream's rule).
    limit.filter(|limit| bytes(limit) > 0)
}

fn bytes(quantity: &Quantity) -> u64 {
    let amount = quantity.0.parse::<Amount>().map_or(0, |amount| amount.value());
    u64::try_from(amount).unwrap_or(0)
}

/// Why the Pod has to go, in upstream's words: first a volume, then the Pod as a whole, then a container.
pub fn excess(pod: &Pod, used: &Used) -> Option<String> {
    let volume = volumes(pod).find_map(|volume| {
        let limit = size_limit(volume)?;
        let exceeds = used.volumes.get(&volume.name).is_some_and(|used| used.bytes > bytes(limit));
        exceeds
            .then(|| format!("Usage of EmptyDir volume {:?} exceeds the limit {:?}. ", volume.name, limit.0))
    });
    volume.or_else(|| excess_of_pod(pod, used)).or_else(|| excess_of_container(pod, used))
}

fn excess_of_pod(pod: &Pod, used: &Used) -> Option<String> {
    let limits = qos::limits(spec(pod));
    let limit = limits.get(STORAGE)?;
    (used.total().bytes > bytes(limit)).then(|| {
        format!("Pod ephemeral local storage usage exceeds the total limit of containers {}. ", limit.0)
    })
}

fn excess_of_container(pod: &Pod, used: &Used) -> Option<String> {
    containers(pod).find_map(|container| {
        let (name, limit) = (&container.name, limit(container)?);
        let exceeds = used.containers.get(name).is_some_and(|used| used.bytes > bytes(limit));
        exceeds
            .then(|| format!("Container {name} exceeded its local ephemeral storage limit {:?}. ", limit.0))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod() -> Pod {
        let container = |name: &str, limit: &str| json!({"name": name, "resources": {"limits": {"ephemeral-storage": limit}}});
        serde_json::from_value(json!({"spec": {
            "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}, {"name": "free", "emptyDir": {}},
                {"name": "ram", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}, {"name": "map", "configMap": {"name": "m"}}],
            "containers": [container("a", "2Mi"), container("b", "4Mi")],
        }}))
        .unwrap()
    }

    fn used(containers: &[(&str, u64)], volumes: &[(&str, u64)]) -> Used {
        let size = |kib: u64| DiskUse { bytes: kib << 10, inodes: 1 };
        let map =
            |all: &[(&str, u64)]| all.iter().map(|(name, kib)| ((*name).to_owned(), size(*kib))).collect();
        Used { containers: map(containers), volumes: map(volumes) }
    }

    #[test]
    fn who_writes_too_much_is_named_in_upstreams_words() {
        let told = |containers, volumes| excess(&pod(), &used(containers, volumes));
        assert_eq!(told(&[("a", 2048), ("b", 3072)], &[("v", 1024)]), None, "all that is allowed");
        assert_eq!(
            told(&[], &[("v", 1025)]).unwrap(),
            "Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". "
        );
        assert_eq!(
            told(&[("a", 2049)], &[]).unwrap(),
            "Container a exceeded its local ephemeral storage limit \"2Mi\". "
        );
        let total = "Pod ephemeral local storage usage exceeds the total limit of containers 6Mi. ";
        assert_eq!(told(&[("a", 1024), ("b", 1024)], &[("free", 4097)]).unwrap(), total);
        assert_eq!(
            told(&[("a", 2049)], &[("map", 4096)]).unwrap(),
            total,
            "the Pod comes before its containers"
        );
    }

    #[test]
    fn only_pods_with_limits_on_the_disk_are_measured() {
        let limited =
            |spec: serde_json::Value| is_limited(&serde_json::from_value(json!({"spec": spec})).unwrap());
        assert!(is_limited(&pod()));
        assert!(!limited(json!({"containers": [{"name": "c", "resources": {"limits": {"memory": "1Mi"}}}],
            "volumes": [{"name": "v", "emptyDir": {}}, {"name": "w", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}]})));
        assert!(limited(
            json!({"containers": [], "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}]})
        ));
        assert!(!limited(
            json!({"containers": [], "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "0"}}]})
        ));
        assert_eq!(
            volumes(&pod()).map(|volume| volume.name.clone()).collect::<Vec<_>>(),
            ["v", "free", "map"]
        );
    }
}
