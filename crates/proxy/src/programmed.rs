//! What the node's table leads to now, for those who wait until it no longer leads to a Pod.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use client::{Informer, Pulse};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use tokio::sync::watch;

use crate::policy::Admission;

const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// The controller whose slices follow the Pods. Slices that people write are left out: nobody
/// would take a leaving Pod from them, and the wait would be in vain.
const MANAGER: &str = "endpointslice-controller.k8s.io";

type Slices = Vec<Arc<EndpointSlice>>;

/// The endpoints of the last transaction. Clones share it; [`crate::run`] keeps it.
#[derive(Clone, Debug)]
pub struct Programmed {
    /// The latest value matters, so it is a watch.
    table: watch::Sender<Slices>,
    /// What is known now and will be in a transaction.
    known: Arc<OnceLock<Informer<EndpointSlice>>>,
    admission: Admission,
    pulse: Pulse,
}

impl Default for Programmed {
    fn default() -> Self {
        let (known, admission, pulse) = (Arc::default(), Admission::default(), Pulse::default());
        Programmed { table: watch::Sender::new(Vec::new()), known, admission, pulse }
    }
}

impl Programmed {
    /// Returns when no new connection is led to the Pod of this UID, or after `at_most`.
    /// At once when no Service selects the Pod.
    ///
    /// The last ready Pod of a Service still gets connections while it leaves, as with
    /// kube-proxy: a Pod that answers yet is better than none. It counts as withdrawn as
    /// soon as the table was made in the knowledge that it leaves.
    pub fn withdrawn(&self, uid: &str, at_most: Duration) -> impl Future<Output = ()> + Send + use<> {
        let (mut table, known, uid) = (self.table.subscribe(), self.known.clone(), uid.to_owned());
        async move {
            let gone = |slices: &Slices| !leads_to(slices, &uid) && !is_known(&known, &uid);
            // Every change of what is known is followed by a publication, changed rules or not.
            let waited = tokio::time::timeout(at_most, table.wait_for(gone)).await;
            if waited.is_err() {
                tracing::warn!(uid, ?at_most, "a Pod that leaves is still led to");
            }
        }
    }

    /// Returns when the table knows that the Pod has these addresses, so that its policies hold for it and
    /// it counts as a peer in those of others. At once when there is no policy; after `at_most` it says why not.
    pub fn admitted(
        &self,
        pod: Arc<Pod>,
        addresses: Vec<IpAddr>,
        at_most: Duration,
    ) -> impl Future<Output = Result<(), String>> + Send + use<> {
        self.admission.clone().admitted(pod, addresses, at_most)
    }

    pub(crate) fn admission(&self) -> &Admission {
        &self.admission
    }

    /// Rests while the table is as it should be.
    pub fn pulse(&self) -> &Pulse {
        &self.pulse
    }

    pub(crate) fn follow(&self, slices: Informer<EndpointSlice>) {
        // A second run of the same proxy goes on with the first one's informer.
        let _ = self.known.set(slices);
    }

    pub(crate) fn publish(&self, slices: Slices) {
        self.table.send_replace(slices);
    }
}

fn is_known(known: &OnceLock<Informer<EndpointSlice>>, uid: &str) -> bool {
    known.get().is_some_and(|slices| !slices.filter(|slice| slice_leads_to(slice, uid)).is_empty())
}

fn leads_to(slices: &Slices, uid: &str) -> bool {
    slices.iter().any(|slice| slice_leads_to(slice, uid))
}

fn slice_leads_to(slice: &EndpointSlice, uid: &str) -> bool {
    let manager = slice.metadata.labels.as_ref().and_then(|labels| labels.get(MANAGED_BY));
    manager.is_some_and(|manager| manager == MANAGER)
        && slice.endpoints.iter().flatten().any(|endpoint| {
            let conditions = endpoint.conditions.clone().unwrap_or_default();
            endpoint.target_ref.as_ref().and_then(|target| target.uid.as_deref()) == Some(uid)
                && conditions.ready != Some(false)
                && conditions.terminating != Some(true)
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn slice(manager: &str, uid: &str, ready: bool, terminating: bool) -> Slices {
        let slice = json!({
            "metadata": {"namespace": "a", "labels": {MANAGED_BY: manager}}, "addressType": "IPv4", "ports": [],
            "endpoints": [{"addresses": ["10.42.0.2"], "targetRef": {"uid": uid},
                           "conditions": {"ready": ready, "terminating": terminating}}],
        });
        vec![Arc::new(serde_json::from_value(slice).unwrap())]
    }

    /// How long the wait was, on a clock that only goes on when all wait.
    async fn waited(programmed: &Programmed) -> Duration {
        let start = tokio::time::Instant::now();
        programmed.withdrawn("u", Duration::from_secs(5)).await;
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_no_service_leads_to_is_withdrawn_at_once() {
        let programmed = Programmed::default();
        assert_eq!(waited(&programmed).await, Duration::ZERO);
        programmed.publish(slice(MANAGER, "other", true, false));
        assert_eq!(waited(&programmed).await, Duration::ZERO);
        programmed.publish(slice("me", "u", true, false));
        assert_eq!(waited(&programmed).await, Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_ends_with_the_transaction_that_knows_the_pod_leaves() {
        let programmed = Programmed::default();
        programmed.publish(slice(MANAGER, "u", true, false));
        let other = programmed.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(7)).await;
            other.publish(slice(MANAGER, "u", true, true));
        });
        assert_eq!(waited(&programmed).await, Duration::from_millis(7));
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_is_bounded() {
        let programmed = Programmed::default();
        programmed.publish(slice(MANAGER, "u", true, false));
        assert_eq!(waited(&programmed).await, Duration::from_secs(5));
    }
}
