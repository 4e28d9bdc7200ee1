//! Pods that are about to start: their containers wait here until the rules know their addresses.
//!
//! A Pod's address is known to its node first, and to everybody else only when its status has been written.
//! So the node tells it here, and is answered when a transaction has had it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use client::Informer;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use tokio::sync::{Notify, watch};

use super::Addressed;

/// Whose addresses the rules know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Known {
    /// Not known yet: nothing has been programmed.
    #[default]
    Nobody,
    /// There is no policy, so that it is all one.
    NoPolicy,
    /// Those of these Pods, by UID.
    Pods(Arc<HashMap<String, Vec<IpAddr>>>),
}

/// What node and proxy tell each other. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Admission {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    announced: Mutex<Announced>,
    news: Notify,
    /// The latest value matters, so it is a watch.
    known: watch::Sender<Known>,
    policies: OnceLock<Informer<NetworkPolicy>>,
    pods: OnceLock<Informer<Pod>>,
}

#[derive(Debug, Default)]
struct Announced {
    /// By UID, as long as the status does not say it.
    pods: HashMap<String, Addressed>,
    changed: bool,
    /// When so many are there, those that are known otherwise by now are dropped.
    prune_at: usize,
}

/// So many are kept without a look at them.
const KEPT: usize = 64;

impl Admission {
    /// Returns when the rules know that the Pod has these addresses, or says after `at_most` that they do not.
    pub(crate) async fn admitted(
        self,
        pod: Arc<Pod>,
        mut addresses: Vec<IpAddr>,
        at_most: Duration,
    ) -> Result<(), String> {
        addresses.sort_unstable();
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        self.announce(Addressed { pod, addresses: addresses.clone() });
        let mut known = self.shared.known.subscribe();
        let has = |known: &Known| match known {
            Known::Nobody => false,
            // One that came since has not been programmed.
            Known::NoPolicy => self.shared.policies.get().is_some_and(|policies| policies.list().is_empty()),
            Known::Pods(pods) => pods.get(&uid) == Some(&addresses),
        };
        let waited = tokio::time::timeout(at_most, known.wait_for(has)).await;
        waited.map(drop).map_err(|_| format!("its network policies are not programmed after {at_most:?}"))
    }

    fn announce(&self, pod: Addressed) {
        let uid = pod.pod.metadata.uid.clone().unwrap_or_default();
        let mut announced = self.lock();
        if announced.pods.len() >= announced.prune_at {
            announced.pods.retain(|_, pod| !self.is_said_by_status(pod));
            announced.prune_at = announced.pods.len() * 2 + KEPT;
        }
        announced.pods.insert(uid, pod);
        announced.changed = true;
        drop(announced);
        self.shared.news.notify_one();
    }

    /// Also true of a Pod that is gone.
    fn is_said_by_status(&self, announced: &Addressed) -> bool {
        let metadata = &announced.pod.metadata;
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let Some(pods) = self.shared.pods.get() else { return false };
        let current = pods.get(&text(&metadata.namespace), &text(&metadata.name));
        current.filter(|pod| pod.metadata.uid == metadata.uid).is_none_or(|pod| {
            let mut addresses = super::feed::addresses_of(&pod);
            addresses.sort_unstable();
            super::feed::is_finished(&pod) || addresses == announced.addresses
        })
    }

    /// The Pods whose status does not say their addresses yet.
    pub(crate) fn announced(&self) -> Vec<Addressed> {
        let mut announced = self.lock();
        announced.pods.retain(|_, pod| !self.is_said_by_status(pod));
        announced.changed = false;
        announced.pods.values().cloned().collect()
    }

    pub(crate) fn is_announced(&self, uid: &str) -> bool {
        self.lock().pods.contains_key(uid)
    }

    /// Whether Pods were announced since [`Self::announced`].
    pub(crate) fn has_news(&self) -> bool {
        self.lock().changed
    }

    /// Returns when a Pod is announced. Cancel-safe: what nobody has waited for is kept.
    pub(crate) async fn news(&self) {
        self.shared.news.notified().await;
    }

    pub(crate) fn follow(&self, policies: Informer<NetworkPolicy>, pods: Informer<Pod>) {
        // A second run of the same proxy goes on with the first one's informers.
        let _ = self.shared.policies.set(policies);
        let _ = self.shared.pods.set(pods);
    }

    pub(crate) fn publish(&self, known: Known) {
        self.shared.known.send_if_modified(|before| {
            let changed = *before != known || known == Known::NoPolicy;
            *before = known;
            changed
        });
    }

    fn lock(&self) -> MutexGuard<'_, Announced> {
        self.shared.announced.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(uid: &str) -> Arc<Pod> {
        Arc::new(
            serde_json::from_value(json!({"metadata": {"namespace": "a", "name": uid, "uid": uid}})).unwrap(),
        )
    }

    fn address() -> Vec<IpAddr> {
        vec!["10.42.0.9".parse().unwrap()]
    }

    fn known(uid: &str, addresses: Vec<IpAddr>) -> Known {
        Known::Pods(Arc::new(HashMap::from([(uid.to_owned(), addresses)])))
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_waits_until_the_rules_have_its_address() {
        let admission = Admission::default();
        let wait = || admission.clone().admitted(pod("u"), address(), Duration::from_secs(5));
        let said = wait().await.expect_err("nobody has programmed anything");
        assert!(said.contains("not programmed"), "{said}");
        assert!(admission.has_news() && admission.is_announced("u"));
        assert_eq!(admission.announced().len(), 1);
        assert!(!admission.has_news());
        admission.publish(known("other", address()));
        assert!(wait().await.is_err());
        admission.publish(known("u", vec!["10.42.0.8".parse().unwrap()]));
        assert!(wait().await.is_err(), "an address of before");
        let waiting = tokio::spawn(wait());
        admission.publish(known("u", address()));
        waiting.await.unwrap().expect("programmed");
    }
}
