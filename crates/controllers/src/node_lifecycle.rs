//! What nodes say about themselves, or fail to say, becomes taints.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use client::events::{EventType, Recorder};
use client::{Client, Error, Informer, Part, Patch, PatchKind, index};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::conditions::status_of;
use crate::context::{Context, say, unless_gone};
use crate::controller::Controller;
use crate::workqueue::Next;

/// `--node-monitor-grace-period`.
const GRACE_PERIOD: Duration = Duration::from_secs(50);
/// Conditions that become Unknown when a node falls silent.
const CONDITIONS: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
const PREFIX: &str = "node.kubernetes.io/";
/// The taints that are ours to put and to take away.
const OWNED: [&str; 7] = [
    "not-ready",
    "unreachable",
    "memory-pressure",
    "disk-pressure",
    "pid-pressure",
    "network-unavailable",
    "unschedulable",
];

/// When each node's heartbeat was last seen to change, by our own clock: the
/// clocks of nodes are not to be trusted.
type Heartbeats = Mutex<HashMap<String, (Option<Timestamp>, Instant)>>;

struct NodeLifecycle {
    client: Client,
    recorder: Recorder,
    nodes: Informer<Node>,
    leases: Informer<Lease>,
    pods: Informer<Pod>,
    heartbeats: Heartbeats,
}

pub(crate) fn spawn(context: &Context, tasks: &mut JoinSet<()>) {
    let this = NodeLifecycle {
        client: context.client.clone(),
        recorder: context.recorder("node-controller", tasks),
        nodes: context.informers.of(),
        leases: context.informers.part(Part::namespace("kube-node-lease")),
        pods: context.informers.of(),
        heartbeats: Heartbeats::default(),
    };
    let controller = Controller::new("node-lifecycle")
        .watches(&this.nodes, |change| change.object().metadata.name.iter().cloned().collect())
        .watches(&this.leases, |change| change.object().metadata.name.iter().cloned().collect())
        .reads(&this.pods);
    let this = Arc::new(this);
    controller.run(tasks, context.shutdown.clone(), move |name| {
        let this = this.clone();
        async move { this.sync(&name).await }
    });
}

impl NodeLifecycle {
    async fn sync(&self, name: &str) -> Result<Next, Error> {
        let Some(node) = self.nodes.get("", name) else {
            lock(&self.heartbeats).remove(name);
            return Ok(Next::Done);
        };
        let silent_for = self.silence(&node, name);
        if silent_for >= GRACE_PERIOD && condition(&node, "Ready") != "Unknown" {
            let status = unknown(&node, Timestamp::now());
            let patch = Patch::status(PatchKind::Strategic, json!({"status": {"conditions": status}}));
            // The changed node comes back by the watch and gets its taints then.
            self.client.patch::<Node>("", name, &patch).await?;
            return Ok(Next::Done);
        }
        self.taint(&node, name).await?;
        if condition(&node, "Ready") != "True" {
            self.mark_pods_not_ready(name).await?;
        }
        Ok(Next::After(GRACE_PERIOD.saturating_sub(silent_for).max(Duration::from_secs(1))))
    }

    /// How long neither the lease nor the node's own conditions have moved.
    fn silence(&self, node: &Node, name: &str) -> Duration {
        let lease = self.leases.get("kube-node-lease", name);
        let renewed = lease.and_then(|lease| lease.spec.as_ref()?.renew_time.as_ref().map(|time| time.0));
        let conditions =
            node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        let posted =
            conditions.iter().filter_map(|c| c.last_heartbeat_time.as_ref().map(|time| time.0)).max();
        let newest = renewed.max(posted);
        let mut heartbeats = lock(&self.heartbeats);
        let known = heartbeats.entry(name.to_owned()).or_insert((newest, Instant::now()));
        if known.0 != newest {
            *known = (newest, Instant::now());
        }
        known.1.elapsed()
    }

    async fn taint(&self, node: &Node, name: &str) -> Result<(), Error> {
        let known = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
        let wanted = taints(node, known, Timestamp::now());
        if wanted == known {
            return Ok(());
        }
        // With its version: taints that somebody else just set must not be lost.
        let body = json!({"metadata": {"resourceVersion": node.metadata.resource_version}, "spec": {"taints": wanted}});
        unless_gone(self.client.patch::<Node>("", name, &Patch::new(PatchKind::Merge, body)).await)
    }

    /// Services must not send anything to Pods on a node that may be gone.
    async fn mark_pods_not_ready(&self, node: &str) -> Result<(), Error> {
        let here = self.pods.by_index(index::PODS_BY_NODE, node);
        for pod in here.iter().filter(|pod| status_of(pod, "Ready") == "True") {
            let metadata = &pod.metadata;
            let (namespace, name) = (metadata.namespace.as_deref(), metadata.name.as_deref());
            let condition =
                json!({"type": "Ready", "status": "False", "lastTransitionTime": Time(Timestamp::now())});
            let body = json!({"metadata": {"uid": metadata.uid}, "status": {"conditions": [condition]}});
            say(&self.recorder, &**pod, EventType::Warning, "NodeNotReady", "Node is not ready".to_owned());
            let patch = Patch::status(PatchKind::Strategic, body);
            let patched = self
                .client
                .patch::<Pod>(namespace.unwrap_or_default(), name.unwrap_or_default(), &patch)
                .await;
            unless_gone(patched)?;
        }
        Ok(())
    }
}

fn lock(heartbeats: &Heartbeats) -> std::sync::MutexGuard<'_, HashMap<String, (Option<Timestamp>, Instant)>> {
    heartbeats.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn condition<'a>(node: &'a Node, kind: &str) -> &'a str {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions
        .iter()
        .find(|condition| condition.type_ == kind)
        .map_or("", |condition| condition.status.as_str())
}

fn unknown(node: &Node, now: Timestamp) -> Vec<NodeCondition> {
    let known = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let built = CONDITIONS.iter().map(|kind| {
        let before = known.iter().find(|condition| condition.type_ == *kind);
        let (reason, message) = match before {
            Some(_) => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
            None => ("NodeStatusNeverUpdated", "Kubelet never posted node status."),
        };
        NodeCondition {
            type_: (*kind).to_owned(),
            status: "Unknown".to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_heartbeat_time: before.and_then(|condition| condition.last_heartbeat_time.clone()),
            last_transition_time: Some(Time(now)),
        }
    });
    built.collect()
}

/// The taints that the node should have: those of others as they are, ours by
/// its conditions. Those that stay keep their place and time.
fn taints(node: &Node, known: &[Taint], now: Timestamp) -> Vec<Taint> {
    let mut wanted = Vec::new();
    let mut want = |key: &str, effect: &str| wanted.push((format!("{PREFIX}{key}"), effect.to_owned()));
    match condition(node, "Ready") {
        "True" => {}
        "Unknown" => {
            want("unreachable", "NoSchedule");
            want("unreachable", "NoExecute");
        }
        _ => {
            want("not-ready", "NoSchedule");
            want("not-ready", "NoExecute");
        }
    }
    for (kind, key) in [
        ("MemoryPressure", "memory-pressure"),
        ("DiskPressure", "disk-pressure"),
        ("PIDPressure", "pid-pressure"),
        ("NetworkUnavailable", "network-unavailable"),
    ] {
        if condition(node, kind) == "True" {
            want(key, "NoSchedule");
        }
    }
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
        want("unschedulable", "NoSchedule");
    }
    let is_ours = |taint: &Taint| taint.key.strip_prefix(PREFIX).is_some_and(|key| OWNED.contains(&key));
    let same = |taint: &Taint, (key, effect): &(String, String)| taint.key == *key && taint.effect == *effect;
    let stays = |taint: &&Taint| !is_ours(taint) || wanted.iter().any(|one| same(taint, one));
    let mut result: Vec<Taint> = known.iter().filter(stays).cloned().collect();
    for one in wanted {
        if !result.iter().any(|taint| same(taint, &one)) {
            let (key, effect) = one;
            result.push(Taint { key, effect, value: None, time_added: Some(Time(now)) });
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(ready: &str, unschedulable: bool) -> Node {
        serde_json::from_value(json!({"metadata": {"name": "n1"}, "spec": {"unschedulable": unschedulable},
            "status": {"conditions": [{"type": "Ready", "status": ready}]}}))
        .unwrap()
    }

    fn names(taints: &[Taint]) -> Vec<String> {
        taints.iter().map(|taint| format!("{}:{}", taint.key, taint.effect)).collect()
    }

    #[test]
    fn taints_follow_the_conditions_and_those_of_others_stay() {
        let foreign = Taint { key: "gpu".into(), effect: "NoSchedule".into(), ..Taint::default() };
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let silent = taints(&node("Unknown", true), &[foreign], now);
        assert_eq!(
            names(&silent),
            [
                "gpu:NoSchedule",
                "node.kubernetes.io/unreachable:NoSchedule",
                "node.kubernetes.io/unreachable:NoExecute",
                "node.kubernetes.io/unschedulable:NoSchedule",
            ]
        );
        assert_eq!(names(&taints(&node("True", false), &silent, now)), ["gpu:NoSchedule"]);
        assert_eq!(taints(&node("Unknown", true), &silent, now + Duration::from_secs(9)), silent);
    }

    #[test]
    fn a_node_that_never_spoke_is_said_to_have_never_spoken() {
        let conditions = unknown(&node("True", false), Timestamp::from_second(1_800_000_000).unwrap());
        let reasons: Vec<_> = conditions.iter().map(|c| c.reason.as_deref().unwrap()).collect();
        assert_eq!(reasons[..2], ["NodeStatusUnknown", "NodeStatusNeverUpdated"]);
    }
}
