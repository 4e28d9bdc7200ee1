//! What policies depend on, as it changes.
//!
//! Pods change all the time, and most of it says nothing about who may reach them. So they are looked at only
//! while there is a policy, and policies are compiled anew only for what they ask about.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use client::{Change, Changes, Informer, Informers};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;

use super::{Addressed, Admission, Dns, Known, Objects, Policies, compile};

/// The policies, compiled as often as needed.
pub(crate) struct Feed {
    informers: Informers,
    policies: Informer<NetworkPolicy>,
    policy_changes: Changes<NetworkPolicy>,
    /// Only while there are policies.
    subjects: Option<Subjects>,
    admission: Admission,
    dirty: bool,
    compiled: Arc<Policies>,
    known: Known,
}

/// Those whom policies are about.
struct Subjects {
    pods: Informer<Pod>,
    namespaces: Informer<Namespace>,
    pod_changes: Changes<Pod>,
    namespace_changes: Changes<Namespace>,
}

impl Feed {
    pub(crate) fn new(informers: Informers, admission: Admission) -> Self {
        let policies: Informer<NetworkPolicy> = informers.of();
        admission.follow(policies.clone(), informers.of());
        Self {
            policy_changes: policies.subscribe(),
            informers,
            policies,
            subjects: None,
            admission,
            dirty: true,
            compiled: Arc::default(),
            known: Known::Nobody,
        }
    }

    /// Returns once all is known that there is. Cancel-safe.
    pub(crate) async fn synced(&mut self) {
        self.policies.synced().await;
        if self.policies.list().is_empty() {
            return;
        }
        if self.subjects.is_none() {
            self.subjects = Some(Subjects::of(&self.informers));
            self.dirty = true;
        }
        if let Some(subjects) = &self.subjects {
            subjects.pods.synced().await;
            subjects.namespaces.synced().await;
        }
    }

    /// The policies as they are now, and whose addresses are in them.
    pub(crate) fn compiled(&mut self, node: &str, dns: Option<Dns>) -> (Arc<Policies>, Known) {
        self.drain();
        let policies = self.policies.list();
        match &self.subjects {
            Some(subjects) if !policies.is_empty() => {
                if std::mem::take(&mut self.dirty) {
                    let pods = addressed(subjects.pods.list(), self.admission.announced());
                    let namespaces = subjects.namespaces.list();
                    let objects =
                        Objects { policies: &policies, pods: &pods, namespaces: &namespaces, node, dns };
                    self.compiled = Arc::new(compile(&objects));
                    self.known = Known::Pods(Arc::new(by_uid(&pods)));
                }
            }
            // A policy that came since the question is the reason for the next turn.
            _ if !policies.is_empty() => self.dirty = true,
            _ => {
                (self.subjects, self.dirty) = (None, true);
                (self.compiled, self.known) = (Arc::default(), Known::NoPolicy);
            }
        }
        (self.compiled.clone(), self.known.clone())
    }

    fn drain(&mut self) {
        while self.policy_changes.try_next().is_some() {
            self.dirty = true;
        }
        self.dirty |= self.admission.has_news();
        if let Some(subjects) = &mut self.subjects {
            while let Some(change) = subjects.pod_changes.try_next() {
                self.dirty |= concerns(&change, &self.admission);
            }
            while let Some(change) = subjects.namespace_changes.try_next() {
                self.dirty |= relabels(&change);
            }
        }
    }

    /// Returns when something has changed that matters; false when nothing will any more. Cancel-safe: what
    /// is taken is noted before anything else is waited for.
    pub(crate) async fn changed(&mut self) -> bool {
        loop {
            let Some(subjects) = &mut self.subjects else {
                let more = self.policy_changes.next().await.is_some();
                self.dirty = true;
                return more;
            };
            // Each arm is cancel-safe: a change that is not taken stays in its channel.
            let (more, matters) = tokio::select! {
                change = self.policy_changes.next() => (change.is_some(), true),
                change = subjects.pod_changes.next() => {
                    (change.is_some(), change.is_none_or(|change| concerns(&change, &self.admission)))
                }
                change = subjects.namespace_changes.next() => {
                    (change.is_some(), change.is_none_or(|change| relabels(&change)))
                }
                () = self.admission.news() => (true, self.admission.has_news()),
            };
            if matters {
                self.dirty = true;
                return more;
            }
        }
    }
}

impl Subjects {
    fn of(informers: &Informers) -> Self {
        let (pods, namespaces) = (informers.of::<Pod>(), informers.of::<Namespace>());
        Self { pod_changes: pods.subscribe(), namespace_changes: namespaces.subscribe(), pods, namespaces }
    }
}

/// The addresses that its status says a Pod has. One on the node's network has none of its own.
pub(super) fn addresses_of(pod: &Pod) -> Vec<IpAddr> {
    let on_host = pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true));
    let listed = pod.status.iter().flat_map(|status| status.pod_ips.iter().flatten());
    listed.filter(|_| !on_host).filter_map(|ip| ip.ip.parse().ok()).collect()
}

/// Whether its address may be another's by now.
pub(super) fn is_finished(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Each address is one Pod's: the one that was announced with it, else the youngest. The end of a Pod may be
/// known here later than the beginning of the one that got its address.
fn addressed(mut pods: Vec<Arc<Pod>>, announced: Vec<Addressed>) -> Vec<Addressed> {
    let mut owners: HashMap<IpAddr, Arc<Pod>> = HashMap::new();
    pods.sort_by(|a, b| {
        let age = |pod: &Pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
        age(a).cmp(&age(b)).then_with(|| a.metadata.uid.cmp(&b.metadata.uid))
    });
    for pod in pods.iter().filter(|pod| !is_finished(pod)) {
        owners.extend(addresses_of(pod).into_iter().map(|address| (address, pod.clone())));
    }
    for Addressed { pod, addresses } in announced {
        // As it is by now: its labels may have changed since.
        let current = pods.iter().find(|current| current.metadata.uid == pod.metadata.uid).unwrap_or(&pod);
        owners.extend(addresses.into_iter().map(|address| (address, current.clone())));
    }
    let mut by_pod: BTreeMap<Option<String>, Addressed> = BTreeMap::new();
    for (address, pod) in owners {
        let new = || Addressed { pod: pod.clone(), addresses: Vec::new() };
        by_pod.entry(pod.metadata.uid.clone()).or_insert_with(new).addresses.push(address);
    }
    let mut all: Vec<Addressed> = by_pod.into_values().collect();
    all.iter_mut().for_each(|one| one.addresses.sort_unstable());
    all
}

fn by_uid(pods: &[Addressed]) -> HashMap<String, Vec<IpAddr>> {
    let of = |pod: &Addressed| (pod.pod.metadata.uid.clone().unwrap_or_default(), pod.addresses.clone());
    pods.iter().map(of).collect()
}

/// Whether a Pod differs in what policies ask about. One without an address is nobody to them.
fn concerns(change: &Change<Pod>, admission: &Admission) -> bool {
    let facts = |pod: &Pod| {
        let announced = admission.is_announced(pod.metadata.uid.as_deref().unwrap_or_default());
        let addresses = if is_finished(pod) { Vec::new() } else { addresses_of(pod) };
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
        (announced || !addresses.is_empty()).then(|| (addresses, pod.metadata.labels.clone(), node))
    };
    match change {
        Change::Modified { old, new } => facts(old) != facts(new),
        Change::Added(pod) | Change::Deleted(pod) => facts(pod).is_some(),
    }
}

fn relabels(change: &Change<Namespace>) -> bool {
    match change {
        Change::Modified { old, new } => old.metadata.labels != new.metadata.labels,
        Change::Added(_) | Change::Deleted(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(uid: &str, created: &str, status: Value) -> Arc<Pod> {
        let pod = json!({"metadata": {"namespace": "a", "name": uid, "uid": uid, "creationTimestamp": created},
                         "spec": {"containers": []}, "status": status});
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn at(phase: &str, address: &str) -> Value {
        json!({"phase": phase, "podIPs": [{"ip": address}]})
    }

    fn owners(pods: &[Arc<Pod>], announced: Vec<Addressed>) -> Vec<(String, String)> {
        let all = addressed(pods.to_vec(), announced).into_iter();
        let uid = |pod: &Pod| pod.metadata.uid.clone().unwrap_or_default();
        all.map(|one| (uid(&one.pod), format!("{:?}", one.addresses))).collect()
    }

    #[test]
    fn an_address_is_the_one_pods_that_has_it_now() {
        let (early, late) = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
        let old = pod("old", early, at("Running", "10.42.0.2"));
        let new = pod("new", late, at("Running", "10.42.0.2"));
        assert_eq!(owners(&[new.clone(), old.clone()], vec![]), [("new".into(), "[10.42.0.2]".into())]);
        let ended = pod("new", late, at("Succeeded", "10.42.0.2"));
        assert_eq!(owners(&[ended, old.clone()], vec![]), [("old".into(), "[10.42.0.2]".into())]);
        let told = Addressed { pod: old.clone(), addresses: vec!["10.42.0.2".parse().unwrap()] };
        assert_eq!(owners(&[new, old], vec![told]), [("old".into(), "[10.42.0.2]".into())]);
    }

    #[test]
    fn only_changes_that_policies_ask_about_matter() {
        let admission = Admission::default();
        let none = pod("u", "2026-01-01T00:00:00Z", json!({"phase": "Pending"}));
        let runs = pod("u", "2026-01-01T00:00:00Z", at("Running", "10.42.0.2"));
        let changed = |old: &Arc<Pod>, new: &Arc<Pod>| {
            concerns(&Change::Modified { old: old.clone(), new: new.clone() }, &admission)
        };
        assert!(!concerns(&Change::Added(none.clone()), &admission));
        assert!(
            changed(&none, &runs)
                && changed(&runs, &pod("u", "2026-01-01T00:00:00Z", at("Failed", "10.42.0.2")))
        );
        let mut ready = Pod::clone(&runs);
        ready.status.get_or_insert_default().message = Some("other".into());
        assert!(!changed(&runs, &Arc::new(ready)));
        let mut relabelled = Pod::clone(&runs);
        relabelled.metadata.labels = Some([("a".to_owned(), "b".to_owned())].into());
        assert!(changed(&runs, &Arc::new(relabelled)));
    }
}
