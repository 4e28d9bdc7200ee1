//! What a Pod's claims mean for the choice of a node.

use std::sync::Arc;

use client::index::claims_of;
use client::key;
use k8s_openapi::api::core::v1::{NodeSelector, PersistentVolume, PersistentVolumeClaim, PodSpec};
use k8s_openapi::api::storage::v1::StorageClass;

use crate::PodInfo;

/// The answer of the API to a few questions about claims, taken before placing.
#[derive(Debug, Clone, Default)]
pub struct Volumes {
    /// Affinities of the volumes that the Pod's claims are bound to.
    pub bound: Vec<NodeSelector>,
    /// Per unbound claim that only existing volumes can serve: the affinities
    /// of those that would do (`None`: usable everywhere).
    pub choices: Vec<Vec<Option<NodeSelector>>>,
    /// Claims that are bound when a node has been chosen.
    pub waiting: Vec<String>,
    /// Keys of claims that only one Pod may use.
    pub alone: Vec<String>,
    /// Why the Pod cannot be placed anywhere.
    pub rejected: Option<String>,
}

/// Where claims, volumes and classes are looked up.
pub(crate) trait Lookup {
    fn claim(&self, namespace: &str, name: &str) -> Option<Arc<PersistentVolumeClaim>>;
    fn volume(&self, name: &str) -> Option<Arc<PersistentVolume>>;
    fn volumes(&self) -> Vec<Arc<PersistentVolume>>;
    fn class(&self, name: &str) -> Option<Arc<StorageClass>>;
}

/// A class with this provisioner has only the volumes that somebody made.
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

/// The access mode of claims that only one Pod may use.
const ONE_POD: &str = "ReadWriteOncePod";

impl Volumes {
    /// How many of the claims that only one Pod may use another Pod has.
    pub(crate) fn taken_by(&self, other: &PodInfo) -> i64 {
        if self.alone.is_empty() {
            return 0;
        }
        let claims = claims_of(&other.pod);
        let taken = self.alone.iter().filter(|claim| claims.contains(claim)).count();
        i64::try_from(taken).unwrap_or(i64::MAX)
    }

    /// Looks up all claims of a Pod.
    pub(crate) fn of(pod: &str, namespace: &str, spec: &PodSpec, lookup: &dyn Lookup) -> Self {
        let mut volumes = Self::default();
        for volume in spec.volumes.iter().flatten() {
            let claim = match (&volume.persistent_volume_claim, &volume.ephemeral) {
                (Some(source), _) => source.claim_name.clone(),
                (None, Some(_)) => format!("{pod}-{}", volume.name),
                (None, None) => continue,
            };
            if let Err(reason) = volumes.add(namespace, &claim, lookup) {
                volumes.rejected = Some(reason);
                return volumes;
            }
        }
        volumes
    }

    fn add(&mut self, namespace: &str, name: &str, lookup: &dyn Lookup) -> Result<(), String> {
        let not_found = || format!("persistentvolumeclaim \"{name}\" not found");
        let claim = lookup.claim(namespace, name).ok_or_else(not_found)?;
        if claim.metadata.deletion_timestamp.is_some() {
            return Err(format!("persistentvolumeclaim \"{name}\" is being deleted"));
        }
        if claim.spec.iter().flat_map(|spec| spec.access_modes.iter().flatten()).any(|mode| mode == ONE_POD) {
            self.alone.push(key(namespace, name));
        }
        let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
        if phase == Some("Lost") {
            let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default();
            return Err(format!(
                "persistentvolumeclaim \"{name}\" bound to non-existent persistentvolume \"{volume}\""
            ));
        }
        match claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).filter(|name| !name.is_empty())
        {
            Some(volume) => {
                let volume = lookup.volume(volume);
                self.bound.extend(volume.as_deref().and_then(affinity));
                Ok(())
            }
            None => self.add_unbound(&claim, name, lookup),
        }
    }

    fn add_unbound(
        &mut self,
        claim: &PersistentVolumeClaim,
        name: &str,
        lookup: &dyn Lookup,
    ) -> Result<(), String> {
        let class =
            claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref()).unwrap_or_default();
        let class = lookup.class(class);
        let mode = class.as_ref().and_then(|class| class.volume_binding_mode.as_deref());
        if mode != Some("WaitForFirstConsumer") {
            return Err("pod has unbound immediate PersistentVolumeClaims".to_owned());
        }
        if class.is_some_and(|class| class.provisioner == NO_PROVISIONER) {
            let all = lookup.volumes();
            let usable = all.iter().filter(|volume| serves(volume, claim));
            self.choices.push(usable.map(|volume| affinity(volume)).collect());
        }
        self.waiting.push(name.to_owned());
        Ok(())
    }
}

fn affinity(volume: &PersistentVolume) -> Option<NodeSelector> {
    volume.spec.as_ref()?.node_affinity.as_ref()?.required.clone()
}

fn serves(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
    let (Some(volume), Some(claim)) = (&volume.spec, &claim.spec) else { return false };
    let modes = claim.access_modes.iter().flatten();
    phase == Some("Available")
        && volume.storage_class_name == claim.storage_class_name
        && modes.into_iter().all(|mode| volume.access_modes.iter().flatten().any(|have| have == mode))
}
