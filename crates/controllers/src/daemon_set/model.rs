//! A cluster of values: nodes that come and go, Pods that fail, rollouts on the way. No node has more Pods
//! than it may, no rollout takes more away than it may, and everything converges.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::decide::{View, decide, status};
use super::place::{node_of, template};
use crate::conditions::{is_finished, ready_since};
use crate::history::revision_of;

#[derive(Debug, Clone)]
enum Step {
    /// Reconcile, and stop after so many writes.
    Reconcile(usize),
    SetTemplate(u8),
    SetTaint(usize, bool),
    Ready(usize),
    Unready(usize),
    Fail(usize),
    Gone(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        5 => (0..6_usize).prop_map(Step::Reconcile),
        1 => (0..3_u8).prop_map(Step::SetTemplate),
        1 => (0..4_usize, any::<bool>()).prop_map(|(node, set)| Step::SetTaint(node, set)),
        4 => (0..8_usize).prop_map(Step::Ready),
        1 => (0..8_usize).prop_map(Step::Unready),
        1 => (0..8_usize).prop_map(Step::Fail),
        3 => (0..8_usize).prop_map(Step::Gone),
    ];
    proptest::collection::vec(step, 1..60)
}

struct Cluster {
    set: DaemonSet,
    hash: String,
    nodes: Vec<Arc<Node>>,
    pods: BTreeMap<String, Arc<Pod>>,
    made: u32,
    surge: i32,
    unavailable: i32,
}

fn node(number: usize, tainted: bool) -> Arc<Node> {
    let taints: Value = if tainted { json!([{"key": "a", "effect": "NoExecute"}]) } else { json!([]) };
    let node = json!({"metadata": {"name": format!("n{number}")}, "spec": {"taints": taints}});
    Arc::new(serde_json::from_value(node).unwrap())
}

fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

fn serves(pod: &Pod) -> bool {
    ready_since(pod).is_some() && !is_terminating(pod)
}

impl Cluster {
    fn new(surge: i32, unavailable: i32) -> Self {
        let rolling = json!({"maxSurge": surge, "maxUnavailable": unavailable});
        let set = json!({"metadata": {"name": "agent", "namespace": "a", "uid": "u", "generation": 1},
            "spec": {"selector": {}, "template": {"spec": {"containers": []}},
                "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": rolling}}});
        let set = serde_json::from_value(set).unwrap();
        let nodes = (0..4).map(|number| node(number, false)).collect();
        Self { set, hash: "0".into(), nodes, pods: BTreeMap::new(), made: 0, surge, unavailable }
    }

    fn view<R>(&self, with: impl FnOnce(&View<'_>) -> R) -> R {
        let pods: Vec<Arc<Pod>> = self.pods.values().cloned().collect();
        with(&View {
            set: &self.set,
            hash: &self.hash,
            collisions: 0,
            nodes: &self.nodes,
            pods: &pods,
            patience: &|_| None,
            now: Timestamp::UNIX_EPOCH,
        })
    }

    /// Whether there was nothing to do.
    fn reconcile(&mut self, writes: usize) -> bool {
        let decision = self.view(decide);
        let serving = |cluster: &Self| cluster.pods.values().filter(|pod| serves(pod)).count();
        let before = serving(self);
        let idle = decision.create.is_empty() && decision.delete.is_empty();
        let rolling = !decision.delete.is_empty() && decision.create.is_empty();
        let mut left = writes;
        for node in decision.create {
            if left > 0 {
                left -= 1;
                self.create(&node);
            }
        }
        let mut moved_away = 0;
        for (pod, _) in decision.delete {
            if left > 0 {
                left -= 1;
                let tainted = self.nodes.iter().any(|node| {
                    node.metadata.name.as_deref() == node_of(&pod)
                        && node.spec.as_ref().unwrap().taints != Some(vec![])
                });
                moved_away += usize::from(tainted);
                let name = pod.metadata.name.clone().unwrap();
                self.change(&name, |pod| pod.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH)));
            }
        }
        if rolling && self.surge == 0 {
            let taken = before - serving(self);
            assert!(
                taken <= usize::try_from(self.unavailable).unwrap() + moved_away,
                "{taken} were taken away"
            );
        }
        idle
    }

    fn create(&mut self, node: &str) {
        self.made += 1;
        let template = template(&self.set, &self.hash, node);
        let name = format!("agent-{:04}", self.made);
        let mut pod = Pod { metadata: template.metadata.unwrap(), spec: template.spec, status: None };
        pod.metadata.name = Some(name.clone());
        self.pods.insert(name, Arc::new(pod));
        let staying =
            |pod: &&Arc<Pod>| !is_terminating(pod) && !is_finished(pod) && node_of(pod) == Some(node);
        let beside = self.pods.values().filter(staying).count();
        assert!(beside <= 1 + usize::from(self.surge > 0), "{beside} on {node}");
    }

    fn change(&mut self, name: &str, change: impl FnOnce(&mut Pod)) {
        if let Some(pod) = self.pods.get_mut(name) {
            let mut changed = (**pod).clone();
            change(&mut changed);
            *pod = Arc::new(changed);
        }
    }

    fn become_phase(&mut self, name: &str, phase: &str, ready: &str) {
        let status = json!({"phase": phase, "conditions": [{"type": "Ready", "status": ready}]});
        self.change(name, |pod| {
            if !is_finished(pod) {
                pod.status = Some(serde_json::from_value(status).unwrap());
            }
        });
    }

    fn end(&mut self, name: &str) {
        if self.pods.get(name).is_some_and(|pod| is_terminating(pod)) {
            self.pods.remove(name);
        }
    }

    fn take(&mut self, step: &Step) {
        let at = |cluster: &Self, index: usize| cluster.pods.keys().nth(index).cloned().unwrap_or_default();
        match *step {
            Step::Reconcile(writes) => drop(self.reconcile(writes)),
            Step::SetTemplate(number) => self.hash = number.to_string(),
            Step::SetTaint(number, set) => self.nodes[number] = node(number, set),
            Step::Ready(index) => self.become_phase(&at(self, index), "Running", "True"),
            Step::Unready(index) => self.become_phase(&at(self, index), "Running", "False"),
            Step::Fail(index) => self.become_phase(&at(self, index), "Failed", "False"),
            Step::Gone(index) => self.end(&at(self, index)),
        }
    }

    fn settle(&mut self) {
        for _ in 0..100 {
            let idle = self.reconcile(usize::MAX);
            let names: Vec<String> = self.pods.keys().cloned().collect();
            let before = self.pods.clone();
            for name in names {
                self.end(&name);
                self.become_phase(&name, "Running", "True");
            }
            if idle && before == self.pods {
                return;
            }
        }
        panic!("it does not settle: {:?}", self.pods.keys());
    }

    fn check_settled(&self) {
        let wanted: Vec<&str> = self
            .nodes
            .iter()
            .filter(|node| node.spec.as_ref().unwrap().taints == Some(vec![]))
            .filter_map(|node| node.metadata.name.as_deref())
            .collect();
        let mut on: Vec<&str> = self.pods.values().filter_map(|pod| node_of(pod)).collect();
        on.sort_unstable();
        assert_eq!(on, wanted);
        assert!(self.pods.values().all(|pod| revision_of(pod) == self.hash && serves(pod)));
        let status = self.view(|view| status(view, true));
        let count = i32::try_from(wanted.len()).unwrap();
        assert_eq!((status.desired_number_scheduled, status.number_ready), (count, count));
        assert_eq!((status.number_unavailable, status.number_misscheduled), (None, 0));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn each_node_gets_its_pod_and_rollouts_end(
        steps in steps(), (surge, unavailable) in prop_oneof![Just((0, 1)), Just((0, 2)), Just((1, 0)), Just((2, 0))],
    ) {
        let mut cluster = Cluster::new(surge, unavailable);
        for step in &steps {
            cluster.take(step);
        }
        cluster.settle();
        cluster.check_settled();
    }
}
