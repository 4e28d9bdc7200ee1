//! DaemonSets: one Pod for each node that a template means.
//!
//! ```text
//! set, nodes, Pods ─► history.rs: which template ─► decide: nodes that get one, Pods that go ─► act
//! ```

mod backoff;
mod decide;
#[cfg(test)]
mod model;
mod place;

use std::collections::BTreeSet;
use std::sync::Arc;

use api::selector::LabelSelector;
use client::events::EventType;
use client::{Change, Error, Informer, Patch, PatchKind, key_of};
use futures_util::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use self::backoff::Backoff;
use self::decide::{Decision, Ended, View, decide, status};
use crate::context::{Context, say, split, unless_gone};
use crate::controller::Controller;
use crate::expectations::Expectations;
use crate::history::{History, Naming, REVISION_LABEL, revision_of};
use crate::ownership::{claimed, concerned};
use crate::pod_control::PodControl;
use crate::workqueue::Next;

/// Pods that are made or deleted in one round: upstream's BurstReplicas.
const BURST: usize = 250;

struct DaemonSets {
    control: PodControl,
    sets: Informer<DaemonSet>,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    history: History,
    expectations: Expectations,
    backoff: Backoff,
}

pub(crate) fn spawn(context: &Context, tasks: &mut JoinSet<()>) {
    let (informers, client) = (&context.informers, context.client.clone());
    let history = History {
        client: client.clone(),
        revisions: informers.of::<ControllerRevision>(),
        naming: Naming { hash_label: REVISION_LABEL },
    };
    let this = DaemonSets {
        control: PodControl { client, recorder: context.recorder("daemonset-controller", tasks) },
        sets: informers.of(),
        pods: informers.of(),
        nodes: informers.of(),
        history,
        expectations: Expectations::default(),
        backoff: Backoff::default(),
    };
    let (of_pods, of_nodes) = (this.sets.clone(), this.sets.clone());
    let controller = Controller::new("daemonset")
        .watches(&this.sets, |change| vec![key_of(&**change.object())])
        .watches(&this.pods, move |change| {
            concerned(change, &of_pods, |set, pod: &Pod| {
                selector(set).is_some_and(|selector| selector.matches(&pod.metadata.labels))
            })
        })
        .watches(&this.nodes, move |change| {
            if let Change::Modified { old, new } = change
                && old.metadata.labels == new.metadata.labels
                && old.spec == new.spec
            {
                return Vec::new();
            }
            of_nodes.list().iter().map(|set| key_of(&**set)).collect()
        })
        .reads(&this.history.revisions);
    let this = Arc::new(this);
    controller.run(tasks, context.shutdown.clone(), move |key| {
        let this = this.clone();
        async move { this.sync(&key).await }
    });
}

fn selector(set: &DaemonSet) -> Option<LabelSelector> {
    LabelSelector::from_meta(Some(&set.spec.as_ref()?.selector)).ok()
}

impl DaemonSets {
    async fn sync(&self, key: &str) -> Result<Next, Error> {
        let (namespace, name) = split(key);
        let Some(set) = self.sets.get(namespace, name) else {
            self.expectations.forget(key);
            return Ok(Next::Done);
        };
        // Its revisions may be gone already: nothing can be said of its Pods any more.
        if set.metadata.deletion_timestamp.is_some() {
            return Ok(Next::Done);
        }
        let (Some(spec), Some(selector)) = (&set.spec, selector(&set)) else { return Ok(Next::Done) };
        let all_seen = self.expectations.are_met(key, namespace, &self.pods);
        let revisions = self.history.of(&*set, &selector).await?;
        let mut collisions = set.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0);
        let current = self.history.update(&*set, &spec.template, &revisions, &mut collisions).await?;
        let pods = claimed(&self.control.client, &*set, &selector, &self.pods).await?;
        let hash = hash_of(&current);
        let (nodes, patience) = (self.nodes.list(), |node: &str| self.backoff.left(&backoff_key(&set, node)));
        let now = Timestamp::now();
        let view =
            View { set: &set, hash: &hash, collisions, nodes: &nodes, pods: &pods, patience: &patience, now };
        let decision = if all_seen { decide(&view) } else { Decision::default() };
        let again = decision.again;
        let acted = self.act(&set, &hash, decision).await;
        self.publish(&set, &status(&view, all_seen)).await?;
        acted?;
        let of_pods: BTreeSet<&str> = pods.iter().map(|pod| revision_of(pod)).collect();
        let live = revisions.iter().chain([&current]).filter(|one| of_pods.contains(hash_of(one).as_str()));
        let live = live.chain([&current]).filter_map(|one| one.metadata.name.clone()).collect();
        self.history.truncate(&revisions, &live, spec.revision_history_limit.unwrap_or(10)).await?;
        Ok(again.map_or(Next::Done, Next::After))
    }

    async fn act(&self, set: &DaemonSet, hash: &str, decision: Decision) -> Result<(), Error> {
        let key = key_of(set);
        let templates: Vec<_> =
            decision.create.iter().take(BURST).map(|node| place::template(set, hash, node)).collect();
        let made = |pod: &Pod| self.expectations.created(&key, pod);
        let created = self.control.create_each(set, templates, made).await;
        let deleted = join_all(decision.delete.into_iter().take(BURST).map(|(pod, ended)| {
            let key = &key;
            async move {
                self.tell(set, &pod, ended);
                if self.control.delete(set, &pod).await? {
                    self.expectations.deleted(key, &pod);
                }
                Ok(())
            }
        }));
        let deleted: Result<(), Error> = deleted.await.into_iter().collect();
        created.and(deleted)
    }

    fn tell(&self, set: &DaemonSet, pod: &Pod, ended: Option<Ended>) {
        let (key, recorder) = (key_of(pod), &self.control.recorder);
        match ended {
            None => {}
            Some(Ended::Failed { node }) => {
                self.backoff.failed(&backoff_key(set, &node));
                let text = format!("Found failed daemon pod {key} on node {node}, will try to kill it");
                say(recorder, set, EventType::Warning, "FailedDaemonPod", text);
            }
            Some(Ended::Succeeded { node }) => {
                let text = format!("Found succeeded daemon pod {key} on node {node}, will try to delete it");
                say(recorder, set, EventType::Normal, "SucceededDaemonPod", text);
            }
        }
    }

    async fn publish(&self, set: &DaemonSet, status: &DaemonSetStatus) -> Result<(), Error> {
        if set.status.as_ref() == Some(status) {
            return Ok(());
        }
        // With its version: the conditions are written as a whole, and others' must not be lost to an older view.
        let mut body =
            json!({"metadata": {"resourceVersion": set.metadata.resource_version}, "status": status});
        // What a merge patch does not name stays: a count that has become zero is taken away.
        for name in ["numberAvailable", "numberUnavailable", "updatedNumberScheduled"] {
            body["status"].as_object_mut().into_iter().for_each(|status| {
                status.entry(name).or_insert(Value::Null);
            });
        }
        let key = key_of(set);
        let (namespace, name) = split(&key);
        let patch = Patch::status(PatchKind::Merge, body);
        unless_gone(self.control.client.patch::<DaemonSet>(namespace, name, &patch).await)
    }
}

fn hash_of(revision: &ControllerRevision) -> String {
    let labels = revision.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(REVISION_LABEL)).cloned().unwrap_or_default()
}

/// A new generation begins anew.
fn backoff_key(set: &DaemonSet, node: &str) -> String {
    let observed = set.status.as_ref().and_then(|status| status.observed_generation).unwrap_or(0);
    format!("{}/{observed}/{node}", set.metadata.uid.as_deref().unwrap_or_default())
}
