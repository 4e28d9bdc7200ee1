//! What a controller has written and its informer does not show yet. Who counts its Pods before they are
//! all in sight makes them twice.
//!
//! Upstream counted events for this until it began to compare versions: an answer says which version the
//! write got, and an informer that has come as far has seen it. Nothing here waits or times out: the change
//! that brings the informer there is the one that brings the key back.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use client::Informer;
use k8s_openapi::api::core::v1::Pod;

#[derive(Debug, Default)]
pub(crate) struct Expectations {
    of_keys: Mutex<HashMap<String, Expected>>,
}

#[derive(Debug, Default)]
struct Expected {
    /// The newest version of what was created.
    created: u64,
    /// Name and uid of what was deleted: the answer has no version of the end.
    deleted: Vec<(String, String)>,
}

impl Expectations {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Expected>> {
        self.of_keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn created(&self, key: &str, pod: &Pod) {
        let version = pod.metadata.resource_version.as_deref().and_then(|version| version.parse().ok());
        let mut all = self.lock();
        let expected = all.entry(key.to_owned()).or_default();
        expected.created = expected.created.max(version.unwrap_or(0));
    }

    pub(crate) fn deleted(&self, key: &str, pod: &Pod) {
        let gone =
            (pod.metadata.name.clone().unwrap_or_default(), pod.metadata.uid.clone().unwrap_or_default());
        self.lock().entry(key.to_owned()).or_default().deleted.push(gone);
    }

    /// Whether all that was written for the key can be seen.
    pub(crate) fn are_met(&self, key: &str, namespace: &str, pods: &Informer<Pod>) -> bool {
        let mut all = self.lock();
        let Some(expected) = all.get_mut(key) else { return true };
        expected.deleted.retain(|(name, uid)| {
            pods.get(namespace, name).is_some_and(|pod| {
                pod.metadata.uid.as_deref() == Some(uid) && pod.metadata.deletion_timestamp.is_none()
            })
        });
        let met = expected.deleted.is_empty() && pods.revision() >= expected.created;
        if met {
            all.remove(key);
        }
        met
    }

    /// The owner is gone.
    pub(crate) fn forget(&self, key: &str) {
        self.lock().remove(key);
    }
}
