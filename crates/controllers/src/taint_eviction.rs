//! Pods leave nodes whose NoExecute taints they do not tolerate (any longer).

use std::sync::Arc;
use std::time::Duration;

use api::placement::tolerates;
use client::events::{EventType, Recorder};
use client::{Change, Client, DeleteOptions, Error, Informer, Patch, PatchKind, index, key_of};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use serde_json::json;
use tokio::task::JoinSet;

use crate::conditions::disruption_target;
use crate::context::{Context, say, split, unless_gone};
use crate::controller::Controller;
use crate::workqueue::Next;

struct TaintEviction {
    client: Client,
    recorder: Recorder,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
}

pub(crate) fn spawn(context: &Context, tasks: &mut JoinSet<()>) {
    let this = TaintEviction {
        client: context.client.clone(),
        recorder: context.recorder("taint-eviction-controller", tasks),
        pods: context.informers.of(),
        nodes: context.informers.of(),
    };
    let pods = this.pods.clone();
    let controller = Controller::new("taint-eviction")
        .watches(&this.pods, |change| match change {
            Change::Added(pod) => vec![key_of(&**pod)],
            Change::Modified { old, new } if old.spec != new.spec => vec![key_of(&**new)],
            Change::Modified { .. } | Change::Deleted(_) => Vec::new(),
        })
        .watches(&this.nodes, move |change| {
            let (old, new) = match change {
                Change::Added(node) => (Vec::new(), node),
                Change::Modified { old, new } => (executing(old), new),
                Change::Deleted(_) => return Vec::new(),
            };
            if old == executing(new) {
                return Vec::new();
            }
            let name = new.metadata.name.as_deref().unwrap_or_default();
            pods.by_index(index::PODS_BY_NODE, name).iter().map(|pod| key_of(&**pod)).collect()
        });
    let this = Arc::new(this);
    controller.run(tasks, context.shutdown.clone(), move |key| {
        let this = this.clone();
        async move { this.sync(&key).await }
    });
}

fn executing(node: &Node) -> Vec<Taint> {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    taints.iter().filter(|taint| taint.effect == "NoExecute").cloned().collect()
}

fn on_node(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

impl TaintEviction {
    async fn sync(&self, key: &str) -> Result<Next, Error> {
        let (namespace, name) = split(key);
        let Some(pod) = self.pods.get(namespace, name) else { return Ok(Next::Done) };
        let Some(node) = on_node(&pod).and_then(|node| self.nodes.get("", node)) else {
            return Ok(Next::Done);
        };
        if pod.metadata.deletion_timestamp.is_some() {
            return Ok(Next::Done);
        }
        let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
        match stay(&executing(&node), tolerations, Timestamp::now()) {
            Stay::Forever => Ok(Next::Done),
            Stay::For(time) => Ok(Next::After(time)),
            Stay::NoLonger => self.evict(&pod).await.map(|()| Next::Done),
        }
    }

    async fn evict(&self, pod: &Pod) -> Result<(), Error> {
        let key = key_of(pod);
        let (namespace, name) = split(&key);
        say(
            &self.recorder,
            pod,
            EventType::Normal,
            "TaintManagerEviction",
            format!("Marking for deletion Pod {key}"),
        );
        let text = "Taint manager: deleting due to NoExecute taint";
        let condition = disruption_target(pod, "DeletionByTaintManager", text, Timestamp::now());
        let patch = Patch::status(PatchKind::Strategic, json!({"status": {"conditions": [condition]}}));
        unless_gone(self.client.patch::<Pod>(namespace, name, &patch).await)?;
        let options = DeleteOptions::of_uid(pod.metadata.uid.as_deref().unwrap_or_default());
        unless_gone(self.client.delete::<Pod>(namespace, name, &options).await)
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Stay {
    Forever,
    For(Duration),
    NoLonger,
}

/// How long a Pod may stay beside these taints.
fn stay(taints: &[Taint], tolerations: &[Toleration], now: Timestamp) -> Stay {
    let mut shortest: Option<SignedDuration> = None;
    for taint in taints {
        let matching: Vec<&Toleration> =
            tolerations.iter().filter(|toleration| tolerates(toleration, taint)).collect();
        if matching.is_empty() {
            return Stay::NoLonger;
        }
        let Some(seconds) = matching.iter().filter_map(|toleration| toleration.toleration_seconds).min()
        else {
            continue;
        };
        let since = taint.time_added.as_ref().map_or(now, |time| time.0);
        let left = SignedDuration::from_secs(seconds.max(0)) - now.duration_since(since);
        shortest = Some(shortest.map_or(left, |shortest| shortest.min(left)));
    }
    match shortest.map(|left| Duration::try_from(left).unwrap_or_default()) {
        None => Stay::Forever,
        Some(Duration::ZERO) => Stay::NoLonger,
        Some(left) => Stay::For(left),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_stays_as_long_as_its_shortest_toleration_says() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let taint: Taint = serde_json::from_value(
            json!({"key": "a", "effect": "NoExecute", "timeAdded": "1970-01-01T00:01:40Z"}),
        )
        .unwrap();
        let tolerate = |seconds: Option<i64>| Toleration {
            key: Some("a".into()),
            operator: Some("Exists".into()),
            toleration_seconds: seconds,
            ..Toleration::default()
        };
        assert_eq!(stay(&[], &[], at(0)), Stay::Forever);
        let taints = [taint];
        assert_eq!(stay(&taints, &[], at(100)), Stay::NoLonger);
        assert_eq!(stay(&taints, &[tolerate(None)], at(100)), Stay::Forever);
        assert_eq!(
            stay(&taints, &[tolerate(Some(300)), tolerate(Some(30))], at(110)),
            Stay::For(Duration::from_secs(20))
        );
        assert_eq!(stay(&taints, &[tolerate(Some(30))], at(130)), Stay::NoLonger);
        assert_eq!(stay(&taints, &[tolerate(Some(0))], at(100)), Stay::NoLonger);
    }
}
