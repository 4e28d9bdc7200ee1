//! What a controller has written and its informer does not show yet. Who counts its Pods before they are
//! all in sight makes them twice.
//!
//! Upstream counted events for this until it began to compare versions: an answer says which version the
//! write got, and an informer that has come as far has seen it. Nothing here waits or times out: the change
//! that brings the informer there is the one that brings the key back.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use client::{Informer, Object};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

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

/// The newest version of what a controller has changed of what it owns, by the owner's key.
#[derive(Debug, Default)]
pub(crate) struct Written(Mutex<HashMap<String, u64>>);

impl Written {
    pub(crate) fn note(&self, key: &str, metadata: &ObjectMeta) {
        let version = metadata.resource_version.as_deref().and_then(|version| version.parse().ok());
        let mut newest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = newest.entry(key.to_owned()).or_default();
        *newest = version.unwrap_or(0).max(*newest);
    }

    /// Whether the informer shows all of it. Where it does not, the change that it lacks brings the key back.
    pub(crate) fn is_seen<K: Object>(&self, key: &str, informer: &Informer<K>) -> bool {
        let mut newest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = newest.get(key).is_none_or(|newest| informer.revision() >= *newest);
        if seen {
            newest.remove(key);
        }
        seen
    }
}
