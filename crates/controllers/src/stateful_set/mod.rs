//! StatefulSets: Pods that keep their names, their order and their volumes.
//!
//! ```text
//! set, Pods ─► history.rs: which template ─► decide: steps, status ─► act: claims, Pods, events
//! ```

mod act;
mod decide;
mod identity;
#[cfg(test)]
mod model;
mod retention;

use std::sync::Arc;

use api::selector::LabelSelector;
use client::events::Recorder;
use client::{Change, Client, Error, Informer, Patch, PatchKind, key_of};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::context::{Context, split, unless_gone};
use crate::controller::Controller;
use crate::expectations::Expectations;
use crate::history::{self, History, Naming};
use crate::ownership::{claimed_where, concerned};
use crate::workqueue::Next;
use decide::{Revision, View, decide, revisions_of};

struct StatefulSets {
    client: Client,
    recorder: Recorder,
    sets: Informer<StatefulSet>,
    pods: Informer<Pod>,
    claims: Informer<PersistentVolumeClaim>,
    history: History,
    expectations: Expectations,
}

pub(crate) fn spawn(context: &Context, tasks: &mut JoinSet<()>) {
    let informers = &context.informers;
    let history = History {
        client: context.client.clone(),
        revisions: informers.of::<ControllerRevision>(),
        naming: Naming { hash_label: "controller.kubernetes.io/hash" },
    };
    let this = StatefulSets {
        client: context.client.clone(),
        recorder: context.recorder("statefulset-controller", tasks),
        sets: informers.of(),
        pods: informers.of(),
        claims: informers.of(),
        history,
        expectations: Expectations::default(),
    };
    let (of_pods, of_claims) = (this.sets.clone(), this.sets.clone());
    let controller = Controller::new("statefulset")
        .watches(&this.sets, |change| match change {
            Change::Added(set) | Change::Modified { new: set, .. } => vec![key_of(&**set)],
            Change::Deleted(_) => Vec::new(),
        })
        .watches(&this.pods, move |change| {
            concerned(change, &of_pods, |set, pod: &Pod| identity::ordinal_of(set, pod).is_some())
        })
        // A name is free again for a claim that is wanted.
        .watches(&this.claims, move |change| match change {
            Change::Deleted(claim) => sets_with_claim(&of_claims, &claim.metadata),
            Change::Added(_) | Change::Modified { .. } => Vec::new(),
        })
        .reads(&this.history.revisions);
    let this = Arc::new(this);
    controller.run(tasks, context.shutdown.clone(), move |key| {
        let this = this.clone();
        async move { this.sync(&key).await }
    });
}

fn sets_with_claim(sets: &Informer<StatefulSet>, claim: &ObjectMeta) -> Vec<String> {
    let name = claim.name.as_deref().unwrap_or_default();
    let named =
        sets.filter(|set| set.metadata.namespace == claim.namespace && identity::names_claim(set, name));
    named.iter().map(|set| key_of(&**set)).collect()
}

impl StatefulSets {
    async fn sync(&self, key: &str) -> Result<Next, Error> {
        let (namespace, name) = split(key);
        let Some(set) = self.sets.get(namespace, name) else {
            self.expectations.forget(key);
            return Ok(Next::Done);
        };
        let Some(spec) = &set.spec else { return Ok(Next::Done) };
        let Ok(selector) = LabelSelector::from_meta(Some(&spec.selector)) else { return Ok(Next::Done) };
        let all_seen = self.expectations.are_met(key, namespace, &self.pods);
        let revisions = self.history.of(&*set, &selector).await?;
        let fits = |pod: &Pod| identity::ordinal_of(&set, pod).is_some();
        let pods = claimed_where(&self.client, &*set, &selector, &self.pods, fits).await?;
        let mut collisions = set.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0);
        let update = self.history.update(&*set, &spec.template, &revisions, &mut collisions).await?;
        let current = current(&set, &revisions).unwrap_or_else(|| update.clone());
        let (current, update) = (named(&current)?, named(&update)?);
        let view = View {
            set: &set,
            current: &current,
            update: &update,
            collisions,
            pods: &pods,
            claim: &|name| self.claims.get(namespace, name),
            now: Timestamp::now(),
        };
        let decision = decide(&view);
        let steps = if all_seen { decision.steps } else { Vec::new() };
        let acted = self.act(&set, steps, decision.parallel).await;
        self.publish(&set, &decision.status).await?;
        acted?;
        let mut live = revisions_of(&pods);
        live.extend([current.name, update.name]);
        self.history.truncate(&revisions, &live, spec.revision_history_limit.unwrap_or(10)).await?;
        Ok(decision.again.map_or(Next::Done, Next::After))
    }

    async fn publish(&self, set: &StatefulSet, status: &StatefulSetStatus) -> Result<(), Error> {
        if set.status.as_ref().is_some_and(|known| without_zeros(known) == without_zeros(status)) {
            return Ok(());
        }
        // With its version: the conditions are written as a whole, and others' must not be lost to an older view.
        let version = &set.metadata.resource_version;
        let mut body = json!({"metadata": {"resourceVersion": version}, "status": without_zeros(status)});
        // What a merge patch does not name stays: a count that has become zero is taken away.
        for name in ["readyReplicas", "currentReplicas", "updatedReplicas"] {
            body["status"].as_object_mut().into_iter().for_each(|status| {
                status.entry(name).or_insert(Value::Null);
            });
        }
        let key = key_of(set);
        let (namespace, name) = split(&key);
        let patch = Patch::status(PatchKind::Merge, body);
        unless_gone(self.client.patch::<StatefulSet>(namespace, name, &patch).await)
    }
}

/// The API leaves these out when they are zero.
fn without_zeros(status: &StatefulSetStatus) -> StatefulSetStatus {
    let counts = |count: Option<i32>| count.filter(|count| *count != 0);
    StatefulSetStatus {
        ready_replicas: counts(status.ready_replicas),
        current_replicas: counts(status.current_replicas),
        updated_replicas: counts(status.updated_replicas),
        ..status.clone()
    }
}

fn current(set: &StatefulSet, revisions: &[Arc<ControllerRevision>]) -> Option<Arc<ControllerRevision>> {
    let name = set.status.as_ref().and_then(|status| status.current_revision.as_ref())?;
    revisions.iter().find(|revision| revision.metadata.name.as_ref() == Some(name)).cloned()
}

fn named(revision: &ControllerRevision) -> Result<Revision, Error> {
    let name = revision.metadata.name.clone().unwrap_or_default();
    Ok(Revision { name, template: history::template(revision)? })
}
