//! A cluster of values: random changes from outside, caches that lag, rounds that end at any write. What a
//! StatefulSet promises holds after each step, and everything converges once the changes end.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::decide::{Action, Decision, Revision, View, decide};
use super::identity::{ordinal_of, pod_name};
use crate::conditions::phase;
use crate::history::revision_of;

#[derive(Debug, Clone)]
enum Step {
    /// Reconcile, on a cache that lags by so many writes, and stop after so many writes.
    Reconcile {
        lag: usize,
        writes: usize,
    },
    Scale(i32),
    SetTemplate(u8),
    SetPartition(i32),
    /// What the node does to the Pod at an index.
    Ready(usize),
    Unready(usize),
    Fail(usize),
    Gone(usize),
    /// Somebody deletes a Pod.
    Delete(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..4_usize, 0..6_usize).prop_map(|(lag, writes)| Step::Reconcile { lag, writes }),
        1 => (0..5).prop_map(Step::Scale),
        1 => (0..3_u8).prop_map(Step::SetTemplate),
        1 => (0..4).prop_map(Step::SetPartition),
        4 => (0..8_usize).prop_map(Step::Ready),
        1 => (0..8_usize).prop_map(Step::Unready),
        1 => (0..8_usize).prop_map(Step::Fail),
        3 => (0..8_usize).prop_map(Step::Gone),
        1 => (0..8_usize).prop_map(Step::Delete),
    ];
    proptest::collection::vec(step, 1..80)
}

type Pods = BTreeMap<String, Arc<Pod>>;
type Claims = BTreeMap<String, Arc<PersistentVolumeClaim>>;

struct Cluster {
    set: StatefulSet,
    pods: Pods,
    claims: Claims,
    /// The Pods as they were, newest last: what a cache may still show.
    past: Vec<Pods>,
    uids: u32,
    ordered: bool,
}

fn revision(image: &str) -> Revision {
    let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}});
    Revision { name: format!("web-{image}"), template: serde_json::from_value(template).unwrap() }
}

impl Cluster {
    fn new(ordered: bool, max_unavailable: Option<i32>) -> Self {
        let policy = if ordered { "OrderedReady" } else { "Parallel" };
        let set: StatefulSet = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "a", "uid": "set", "generation": 1},
            "spec": {"serviceName": "web", "replicas": 3, "podManagementPolicy": policy,
                "ordinals": {"start": 1}, "selector": {"matchLabels": {"app": "web"}},
                "updateStrategy": {"type": "RollingUpdate",
                    "rollingUpdate": {"partition": 0, "maxUnavailable": max_unavailable}},
                "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}],
                "template": revision("0").template}}))
        .unwrap();
        let (pods, claims) = (Pods::new(), Claims::new());
        let mut cluster = Self { set, pods, claims, past: Vec::new(), uids: 0, ordered };
        cluster.set_template(0);
        cluster
    }

    fn spec(&mut self) -> &mut k8s_openapi::api::apps::v1::StatefulSetSpec {
        self.set.spec.as_mut().unwrap()
    }

    fn set_template(&mut self, number: u8) {
        self.spec().template = revision(&number.to_string()).template;
    }

    fn update(&self) -> Revision {
        let template = &self.set.spec.as_ref().unwrap().template;
        revision(template.spec.as_ref().unwrap().containers[0].image.as_deref().unwrap())
    }

    fn current(&self) -> Revision {
        let name = self.set.status.as_ref().and_then(|status| status.current_revision.clone());
        name.map_or_else(|| self.update(), |name| revision(name.trim_start_matches("web-")))
    }

    fn decide(&self, cached: &Pods) -> Decision {
        let pods: Vec<Arc<Pod>> = cached.values().cloned().collect();
        decide(&View {
            set: &self.set,
            current: &self.current(),
            update: &self.update(),
            collisions: 0,
            pods: &pods,
            claim: &|name| self.claims.get(name).cloned(),
            now: Timestamp::UNIX_EPOCH,
        })
    }

    /// Before any change of the Pods.
    fn remember(&mut self) {
        self.past.push(self.pods.clone());
    }

    /// One round; `writes` is where the daemon dies.
    fn reconcile(&mut self, lag: usize, writes: usize) -> bool {
        let cached = if lag == 0 || self.past.len() < lag {
            self.pods.clone()
        } else {
            self.past[self.past.len() - lag].clone()
        };
        let decision = self.decide(&cached);
        let actions: Vec<Action> = decision.steps.into_iter().flatten().collect();
        let (idle, died) = (actions.is_empty(), actions.len() > writes);
        for action in actions.into_iter().take(writes) {
            if !self.write(action, lag == 0) {
                return false;
            }
        }
        if died {
            return false;
        }
        let settled = self.set.status.as_ref() == Some(&decision.status);
        self.set.status = Some(decision.status);
        idle && settled
    }

    /// As the server would; `false`: refused.
    fn write(&mut self, action: Action, fresh: bool) -> bool {
        match action {
            Action::CreateClaim { claim, .. } => {
                self.claims.entry(claim.metadata.name.clone().unwrap()).or_insert_with(|| Arc::new(*claim));
            }
            Action::CreatePod(pod) => return self.create(*pod, fresh),
            Action::DeletePod(pod) => {
                let name = pod.metadata.name.clone().unwrap();
                if self.pods.get(&name).is_some_and(|there| there.metadata.uid == pod.metadata.uid) {
                    self.delete(&name);
                }
            }
            Action::AwaitClaim { .. } | Action::LabelPod(_) | Action::SetOwners { .. } => {
                panic!("nothing here asks for it: {action:?}")
            }
        }
        true
    }

    fn create(&mut self, mut pod: Pod, fresh: bool) -> bool {
        let name = pod.metadata.name.clone().unwrap();
        if self.pods.contains_key(&name) {
            return false;
        }
        let ordinal = ordinal_of(&self.set, &pod).unwrap();
        assert!(self.claims.contains_key(&format!("data-{name}")), "{name} has its claim before it is there");
        // A cache that lags may show one that was there.
        if self.ordered && fresh {
            for below in 1..ordinal {
                assert!(self.pods.contains_key(&pod_name(&self.set, below)), "{name} before {below}");
            }
        }
        self.remember();
        self.uids += 1;
        pod.metadata.uid = Some(self.uids.to_string());
        pod.status = Some(serde_json::from_value(json!({"phase": "Pending"})).unwrap());
        self.pods.insert(name, Arc::new(pod));
        true
    }

    fn change(&mut self, name: &str, change: impl FnOnce(&mut Pod)) {
        if let Some(pod) = self.pods.get(name) {
            let mut pod = (**pod).clone();
            change(&mut pod);
            self.remember();
            self.pods.insert(name.to_owned(), Arc::new(pod));
        }
    }

    fn delete(&mut self, name: &str) {
        self.change(name, |pod| pod.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH)));
    }

    fn become_phase(&mut self, name: &str, phase_now: &str, ready: &str) {
        let status: Value = json!({"phase": phase_now, "conditions": [{"type": "Ready", "status": ready}]});
        self.change(name, |pod| {
            if !matches!(phase(pod), "Failed") {
                pod.status = Some(serde_json::from_value(status).unwrap());
            }
        });
    }

    fn end(&mut self, name: &str) {
        if self.pods.get(name).is_some_and(|pod| is_terminating(pod)) {
            self.remember();
            self.pods.remove(name);
        }
    }

    fn take(&mut self, step: &Step) {
        let at = |cluster: &Self, index: usize| cluster.pods.keys().nth(index).cloned().unwrap_or_default();
        match *step {
            Step::Reconcile { lag, writes } => drop(self.reconcile(lag, writes)),
            Step::Scale(replicas) => self.spec().replicas = Some(replicas),
            Step::SetTemplate(number) => self.set_template(number),
            Step::SetPartition(partition) => {
                let strategy = self.spec().update_strategy.as_mut().unwrap();
                strategy.rolling_update.as_mut().unwrap().partition = Some(partition);
            }
            Step::Ready(index) => self.become_phase(&at(self, index), "Running", "True"),
            Step::Unready(index) => self.become_phase(&at(self, index), "Running", "False"),
            Step::Fail(index) => self.become_phase(&at(self, index), "Failed", "False"),
            Step::Gone(index) => self.end(&at(self, index)),
            Step::Delete(index) => self.delete(&at(self, index)),
        }
    }

    /// The node does its work, and the controller sees everything.
    fn settle(&mut self) {
        for _ in 0..200 {
            let settled = self.reconcile(0, usize::MAX);
            let names: Vec<String> = self.pods.keys().cloned().collect();
            let before = self.past.len();
            for name in names {
                self.end(&name);
                let waits = |pod: &Arc<Pod>| phase(pod) != "Failed" && !ready(pod) && !is_terminating(pod);
                if self.pods.get(&name).is_some_and(waits) {
                    self.become_phase(&name, "Running", "True");
                }
            }
            if settled && self.past.len() == before {
                return;
            }
        }
        panic!("it does not settle: {:?} {:?}", self.set.status, self.pods.keys());
    }

    fn check_settled(&self) {
        let spec = self.set.spec.as_ref().unwrap();
        let replicas = spec.replicas.unwrap();
        let wanted: Vec<String> = (1..=replicas).map(|ordinal| format!("web-{ordinal}")).collect();
        assert_eq!(self.pods.keys().cloned().collect::<Vec<_>>(), wanted);
        let rolling = spec.update_strategy.as_ref().unwrap().rolling_update.as_ref().unwrap();
        let partition = i64::from(rolling.partition.unwrap());
        for pod in self.pods.values() {
            assert!(ready(pod) && !is_terminating(pod));
            if ordinal_of(&self.set, pod).unwrap() > partition {
                assert_eq!(revision_of(pod), self.update().name);
            }
        }
        let status: &StatefulSetStatus = self.set.status.as_ref().unwrap();
        assert_eq!((status.replicas, status.ready_replicas), (replicas, Some(replicas)));
        if partition == 0 {
            assert_eq!(
                (status.updated_replicas, &status.current_revision),
                (Some(replicas), &status.update_revision)
            );
        }
    }
}

fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

fn ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    { conditions }.any(|one| one.type_ == "Ready" && one.status == "True")
}

/// With a fresh cache: how many Pods that serve are taken away in one round, and may be.
fn check_round(cluster: &Cluster) {
    let serving = |pod: &Pod| phase(pod) == "Running" && ready(pod) && !is_terminating(pod);
    let decision = cluster.decide(&cluster.pods);
    let deleted = decision.steps.iter().flatten().filter_map(|action| match action {
        Action::DeletePod(pod) => Some(pod.clone()),
        _ => None,
    });
    let deleted: Vec<Arc<Pod>> = deleted.collect();
    let made =
        decision.steps.iter().flatten().filter(|action| matches!(action, Action::CreatePod(_))).count();
    if cluster.ordered {
        assert!(deleted.len() <= 1 || made == 0);
        assert!(made <= 1, "one after the other");
    }
    let spec = cluster.set.spec.as_ref().unwrap();
    let replicas = i64::from(spec.replicas.unwrap());
    let wanted = |pod: &Pod| (1..=replicas).contains(&ordinal_of(&cluster.set, pod).unwrap());
    let up = cluster.pods.values().filter(|pod| wanted(pod) && serving(pod)).count();
    let down = deleted.iter().filter(|pod| wanted(pod) && serving(pod)).count();
    let rolling = spec.update_strategy.as_ref().unwrap().rolling_update.as_ref().unwrap();
    let allowed = match &rolling.max_unavailable {
        Some(k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::Int(number)) => *number,
        _ => 1,
    };
    if down > 0 {
        let left = replicas - i64::try_from(up - down).unwrap();
        assert!(left <= i64::from(allowed), "{left} of {replicas} would not serve");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_set_keeps_its_promises_and_converges(
        steps in steps(), ordered: bool, max_unavailable in proptest::option::of(1..3_i32),
    ) {
        let mut cluster = Cluster::new(ordered, max_unavailable);
        for step in &steps {
            check_round(&cluster);
            cluster.take(step);
        }
        cluster.settle();
        cluster.check_settled();
    }
}
