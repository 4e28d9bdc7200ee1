//! Which Pods belong together, for they are spread by default: those of the same Services and owner.

use api::selector::{LabelSelector, Requirement};
use client::{Informer, Informers};
use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{ReplicationController, Service};

use crate::PodInfo;

/// Where Services and owners are looked up.
#[derive(Clone)]
pub(crate) struct Workloads {
    services: Informer<Service>,
    controllers: Informer<ReplicationController>,
    replica_sets: Informer<ReplicaSet>,
    stateful_sets: Informer<StatefulSet>,
}

impl Workloads {
    pub(crate) fn new(informers: &Informers) -> Self {
        Self {
            services: informers.of(),
            controllers: informers.of(),
            replica_sets: informers.of(),
            stateful_sets: informers.of(),
        }
    }

    pub(crate) async fn synced(&self) {
        self.services.synced().await;
        self.controllers.synced().await;
        self.replica_sets.synced().await;
        self.stateful_sets.synced().await;
    }

    /// The Pods of all Services that mean this one, as far as its owner means them, too; `None` when it
    /// has neither.
    pub(crate) fn alike(&self, pod: &PodInfo) -> Option<LabelSelector> {
        if !pod.spread.is_empty() {
            return None;
        }
        let services = self.services.filter(|service| selects(service, pod));
        let selectors = services.iter().filter_map(|service| service.spec.as_ref()?.selector.as_ref());
        let pairs = selectors.flatten().map(|(key, value)| (key.as_str(), value.as_str()));
        let mut all: Vec<Requirement> = LabelSelector::from_pairs(pairs).requirements().to_vec();
        all.extend(self.owner(pod).into_iter().flat_map(|owner| owner.requirements().to_vec()));
        (!all.is_empty()).then(|| LabelSelector::from_requirements(all))
    }

    fn owner(&self, pod: &PodInfo) -> Option<LabelSelector> {
        let owners = pod.pod.metadata.owner_references.iter().flatten();
        let owner = owners.into_iter().find(|owner| owner.controller == Some(true))?;
        let (group, _) = owner.api_version.rsplit_once('/').unwrap_or_default();
        match (group, owner.kind.as_str()) {
            ("apps", "ReplicaSet") => {
                let set = self.replica_sets.get(pod.namespace(), &owner.name)?;
                LabelSelector::from_meta(Some(&set.spec.as_ref()?.selector)).ok()
            }
            ("apps", "StatefulSet") => {
                let set = self.stateful_sets.get(pod.namespace(), &owner.name)?;
                LabelSelector::from_meta(Some(&set.spec.as_ref()?.selector)).ok()
            }
            ("", "ReplicationController") => {
                let controller = self.controllers.get(pod.namespace(), &owner.name)?;
                let pairs = controller.spec.as_ref()?.selector.as_ref()?;
                Some(LabelSelector::from_pairs(pairs.iter().map(|(k, v)| (k.as_str(), v.as_str()))))
            }
            _ => None,
        }
    }
}

/// A Service without a selector selects nobody.
fn selects(service: &Service, pod: &PodInfo) -> bool {
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    service.metadata.namespace.as_deref() == Some(pod.namespace())
        && selector.is_some_and(|selector| {
            !selector.is_empty() && selector.iter().all(|(key, value)| pod.labels().get(key) == Some(value))
        })
}
