//! What the node's table leads to now, for those who wait until it no longer leads to a Pod.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use client::index::{selects, service_of};
use client::{Informer, Pulse, key_of};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::policy::Admission;

const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// The controller whose slices follow the Pods. Slices that people write are left out: nobody
/// would take a leaving Pod from them, and the wait would be in vain.
const MANAGER: &str = "endpointslice-controller.k8s.io";

/// What a transaction was made of.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) services: Vec<Arc<Service>>,
    pub(crate) slices: Vec<Arc<EndpointSlice>>,
}

/// The longest wait of a Pod that leaves, once the table follows what is known.
const CONFIRMED_AT_MOST: Duration = Duration::from_secs(5);

/// What the kernel has.
#[derive(Debug)]
enum Made {
    /// What a daemon before this one has programmed; it still leads to Pods.
    Before,
    /// The same, and it could not be changed.
    Failed,
    /// What this one has programmed.
    Table(Table),
}

/// The endpoints of the last transaction. Clones share it; [`crate::run`] keeps it.
#[derive(Clone, Debug)]
pub struct Programmed {
    /// The latest value matters, so it is a watch.
    table: watch::Sender<Made>,
    /// What is known now and will be in a transaction.
    known: Arc<OnceLock<Informer<EndpointSlice>>>,
    admission: Admission,
    pulse: Pulse,
}

impl Default for Programmed {
    fn default() -> Self {
        let (known, admission, pulse) = (Arc::default(), Admission::default(), Pulse::default());
        Programmed { table: watch::Sender::new(Made::Before), known, admission, pulse }
    }
}

impl Programmed {
    /// Returns when no new connection is led to the Pod, or after some seconds; `at_most` is the longest time
    /// that there is. At once when no Service selects the Pod.
    ///
    /// The seconds begin with the first table of this daemon: until then the one before, which may have been
    /// killed, leads to the Pod, and a busy machine takes its time to read all Services anew.
    ///
    /// The last ready Pod of a Service still gets connections while it leaves, as with
    /// kube-proxy: a Pod that answers yet is better than none. It counts as withdrawn as
    /// soon as the table was made in the knowledge that it leaves.
    pub fn withdrawn(&self, pod: &Pod, at_most: Duration) -> impl Future<Output = ()> + Send + use<> {
        let (mut table, known, mut leaving) = (self.table.subscribe(), self.known.clone(), Leaving::new(pod));
        async move {
            let until = Instant::now() + at_most;
            let begun = table.wait_for(|made| !matches!(made, Made::Before));
            let _ = timeout_at(until, begun).await;
            let until = until.min(Instant::now() + CONFIRMED_AT_MOST);
            let gone = |made: &Made| match made {
                Made::Before | Made::Failed => false,
                Made::Table(table) => leaving.is_told(table) && !is_known(&known, &leaving.uid),
            };
            // Every change of what is known is followed by a publication, changed rules or not.
            let is_gone = timeout_at(until, table.wait_for(gone)).await.is_ok();
            if !is_gone {
                tracing::warn!(uid = leaving.uid, "a Pod that leaves is still led to");
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

    pub(crate) fn publish(&self, table: Table) {
        self.table.send_replace(Made::Table(table));
    }

    /// Nobody has to wait for the first table as long as there may be time.
    pub(crate) fn fails(&self) {
        self.table.send_if_modified(|made| {
            let is_first = matches!(made, Made::Before);
            if is_first {
                *made = Made::Failed;
            }
            is_first
        });
    }
}

fn is_known(known: &OnceLock<Informer<EndpointSlice>>, uid: &str) -> bool {
    known.get().is_some_and(|slices| !slices.filter(|slice| slice_leads_to(slice, uid)).is_empty())
}

/// A Pod on its way out, and what the tables have said of it.
#[derive(Debug)]
struct Leaving {
    pod: Pod,
    uid: String,
    /// The Services that have listed it.
    listed: BTreeSet<String>,
}

impl Leaving {
    fn new(pod: &Pod) -> Self {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        Leaving { pod: pod.clone(), uid, listed: BTreeSet::new() }
    }

    /// Whether this table leads nobody to the Pod, and none that follows will.
    ///
    /// What is not listed may be about to be: a Pod that is deleted in the moment in which it became ready
    /// is in no slice yet, and would be in the next one after its program was told to end. So whoever is
    /// deleted must have been listed as leaving, by each Service that selects it, or not be listed any more.
    fn is_told(&mut self, table: &Table) -> bool {
        let selecting =
            table.services.iter().filter(|service| selects(service, &self.pod) && has_slices(service));
        let mut untold: BTreeSet<String> = selecting.map(|service| key_of(&**service)).collect();
        let (mut is_led_to, mut stays) = (false, false);
        for slice in table.slices.iter().filter(|slice| is_managed(slice)) {
            let (Some(service), Some(leaves)) = (service_of(slice), leaves(slice, &self.uid)) else {
                continue;
            };
            is_led_to |= slice_leads_to(slice, &self.uid);
            stays |= !leaves && untold.contains(&service);
            if leaves {
                untold.remove(&service);
            }
            self.listed.insert(service);
        }
        let is_deleted = self.pod.metadata.deletion_timestamp.is_some();
        !is_led_to && (!is_deleted || !stays && untold.is_subset(&self.listed))
    }
}

/// Whether the controller lists the Pods that the Service selects.
fn has_slices(service: &Service) -> bool {
    let type_ = service.spec.as_ref().and_then(|spec| spec.type_.as_deref());
    type_ != Some("ExternalName") && service.metadata.deletion_timestamp.is_none()
}

/// Whether a slice that lists the Pod says that it leaves.
fn leaves(slice: &EndpointSlice, uid: &str) -> Option<bool> {
    let mut endpoints = slice.endpoints.iter().flatten();
    let endpoint = endpoints.find(|endpoint| {
        endpoint.target_ref.as_ref().and_then(|target| target.uid.as_deref()) == Some(uid)
    })?;
    Some(endpoint.conditions.as_ref().and_then(|conditions| conditions.terminating) == Some(true))
}

fn is_managed(slice: &EndpointSlice) -> bool {
    let manager = slice.metadata.labels.as_ref().and_then(|labels| labels.get(MANAGED_BY));
    manager.is_some_and(|manager| manager == MANAGER)
}

fn slice_leads_to(slice: &EndpointSlice, uid: &str) -> bool {
    is_managed(slice)
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

    fn slice(manager: &str, uid: &str, ready: bool, terminating: bool) -> Table {
        let slice = json!({
            "metadata": {"namespace": "a", "labels": {MANAGED_BY: manager, "kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "ports": [],
            "endpoints": [{"addresses": ["10.42.0.2"], "targetRef": {"uid": uid},
                           "conditions": {"ready": ready, "terminating": terminating}}],
        });
        Table { services: Vec::new(), slices: vec![Arc::new(serde_json::from_value(slice).unwrap())] }
    }

    /// The same, where the Service of the slice is known to select the Pod.
    fn selected(table: Table) -> Table {
        let service =
            json!({"metadata": {"namespace": "a", "name": "web"}, "spec": {"selector": {"app": "web"}}});
        Table { services: vec![Arc::new(serde_json::from_value(service).unwrap())], ..table }
    }

    fn pod() -> Pod {
        let pod = json!({"metadata": {"namespace": "a", "name": "p", "uid": "u", "labels": {"app": "web"},
                                      "deletionTimestamp": "2027-01-15T08:00:00Z"}});
        serde_json::from_value(pod).unwrap()
    }

    /// How long the wait was, on a clock that only goes on when all wait.
    async fn waited(programmed: &Programmed) -> Duration {
        let start = tokio::time::Instant::now();
        programmed.withdrawn(&pod(), Duration::from_secs(15)).await;
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_no_service_leads_to_is_withdrawn_at_once() {
        let programmed = Programmed::default();
        assert_eq!(waited(&programmed).await, Duration::from_secs(15), "nobody knows yet");
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

    #[tokio::test(start_paused = true)]
    async fn the_seconds_begin_with_the_first_table() {
        let programmed = Programmed::default();
        let other = programmed.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(9)).await;
            other.publish(slice(MANAGER, "u", true, false));
            tokio::time::sleep(Duration::from_secs(4)).await;
            other.publish(slice(MANAGER, "u", true, true));
        });
        assert_eq!(waited(&programmed).await, Duration::from_secs(13));
        let failing = Programmed::default();
        failing.fails();
        assert_eq!(waited(&failing).await, Duration::from_secs(5), "there may never be one");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_no_slice_lists_yet_is_not_withdrawn_before_one_says_that_it_leaves() {
        let programmed = Programmed::default();
        let tables = [
            slice(MANAGER, "other", true, false),
            slice(MANAGER, "u", false, false),
            slice(MANAGER, "u", true, false),
            slice(MANAGER, "u", false, true),
        ];
        let other = programmed.clone();
        tokio::spawn(async move {
            for table in tables {
                other.publish(selected(table));
                tokio::time::sleep(Duration::from_millis(7)).await;
            }
        });
        tokio::task::yield_now().await;
        assert_eq!(waited(&programmed).await, Duration::from_millis(21));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_is_listed_no_more_is_withdrawn() {
        let programmed = Programmed::default();
        programmed.publish(selected(slice(MANAGER, "u", false, false)));
        let other = programmed.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(7)).await;
            other.publish(selected(slice(MANAGER, "other", true, false)));
        });
        assert_eq!(waited(&programmed).await, Duration::from_millis(7));
    }

    #[test]
    fn a_pod_that_ends_without_being_deleted_is_only_not_to_be_led_to() {
        let mut stays = pod();
        stays.metadata.deletion_timestamp = None;
        let mut leaving = Leaving::new(&stays);
        assert!(leaving.is_told(&selected(slice(MANAGER, "u", false, false))));
        assert!(!leaving.is_told(&selected(slice(MANAGER, "u", true, false))));
        assert!(leaving.is_told(&selected(slice(MANAGER, "other", true, false))));
    }
}
