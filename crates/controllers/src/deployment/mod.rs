//! A Deployment leads from one ReplicaSet to the next.
//!
//! ```text
//! changes of Deployments, their ReplicaSets, the Pods of those that are recreated
//!   └► sync: which ReplicaSets are its own
//!        ├─ paused, or its size changed ─► resize: in proportion
//!        ├─ RollingUpdate ─► roll: the new one up, the old ones down, within bounds
//!        └─ Recreate ─► all old Pods gone, then the new one up
//!      report: status, conditions, progress
//! ```
//!
//! One call makes one step; what the step changes brings the key back. [`sizes`] is the arithmetic,
//! [`revision`] what ties a ReplicaSet to a template, [`progress`] what the status says.

mod progress;
mod revision;
mod rollout;
mod sizes;

use std::sync::Arc;

use api::selector::LabelSelector;
use client::events::{EventType, Recorder};
use client::{Client, Error, Informer, index, key_of};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use tokio::task::JoinSet;

use self::rollout::Rollout;
use crate::conditions::is_finished;
use crate::context::{Context, say, split, unless_gone};
use crate::controller::Controller;
use crate::expectations::Written;
use crate::ownership::{self, concerned, controller_of, owner_key};
use crate::workqueue::Next;

const NAME: &str = "deployment-controller";

struct Deployments {
    client: Client,
    recorder: Recorder,
    deployments: Informer<Deployment>,
    sets: Informer<ReplicaSet>,
    pods: Informer<Pod>,
    /// ReplicaSets that were made or sized. Who adds them up before they are all in sight allows too much.
    written: Written,
}

pub(crate) fn spawn(context: &Context, tasks: &mut JoinSet<()>) {
    let this = Arc::new(Deployments {
        client: context.client.clone(),
        recorder: context.recorder(NAME, tasks),
        deployments: context.informers.of(),
        sets: context.informers.of(),
        pods: context.informers.of(),
        written: Written::default(),
    });
    let (owners, of_pod) = (this.deployments.clone(), this.clone());
    let controller = Controller::new(NAME)
        .watches(&this.deployments, |change| vec![key_of(&**change.object())])
        .watches(&this.sets, move |change| {
            concerned(change, &owners, |deployment, set: &ReplicaSet| {
                selector(deployment).is_ok_and(|selector| selector.matches(&set.metadata.labels))
            })
        })
        .watches(&this.pods, move |change| of_pod.waiting_for(change.object()).into_iter().collect());
    controller.run(tasks, context.shutdown.clone(), move |key| {
        let this = this.clone();
        async move { this.sync(&key).await }
    });
}

fn recreates(deployment: &Deployment) -> bool {
    let strategy = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref());
    strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate")
}

fn is_paused(deployment: &Deployment) -> bool {
    deployment.spec.as_ref().and_then(|spec| spec.paused) == Some(true)
}

impl Deployments {
    /// A Deployment that is recreated waits for the last of its old Pods.
    fn waiting_for(&self, pod: &Pod) -> Option<String> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let set = controller_of(&pod.metadata).filter(|owner| owner.kind == "ReplicaSet")?;
        let key = owner_key::<Deployment>(&self.sets.get(namespace, &set.name)?.metadata)?;
        let (namespace, name) = split(&key);
        self.deployments.get(namespace, name).filter(|deployment| recreates(deployment)).map(|_| key)
    }

    async fn sync(&self, key: &str) -> Result<Next, Error> {
        let (namespace, name) = split(key);
        let Some(deployment) = self.deployments.get(namespace, name) else { return Ok(Next::Done) };
        if !self.written.is_seen(key, &self.sets) {
            return Ok(Next::Done);
        }
        let Ok(selector) = selector(&deployment) else { return Ok(Next::Done) };
        if selector.is_everything() {
            return self.refuse(&deployment).await;
        }
        let sets = ownership::claimed(&self.client, &*deployment, &selector, &self.sets).await?;
        let sets = sets.iter().map(|set| (**set).clone()).collect();
        let mut rollout = Rollout::new(self, (*deployment).clone(), sets);
        if deployment.metadata.deletion_timestamp.is_some() {
            return rollout.report_counts().await;
        }
        rollout.note_pause().await?;
        if is_paused(&deployment) || rollout.changes_size() {
            return rollout.resize().await;
        }
        if recreates(&deployment) { rollout.recreate().await } else { rollout.roll().await }
    }

    async fn refuse(&self, deployment: &Deployment) -> Result<Next, Error> {
        let text = "This deployment is selecting all pods. A non-empty selector is required.".to_owned();
        say(&self.recorder, deployment, EventType::Warning, "SelectingAll", text);
        let mut changed = deployment.clone();
        let status = changed.status.get_or_insert_default();
        if status.observed_generation < deployment.metadata.generation {
            status.observed_generation = deployment.metadata.generation;
            unless_gone(self.client.replace_status(&changed).await)?;
        }
        Ok(Next::Done)
    }

    /// Whether a Pod of one of these ReplicaSets may still run.
    fn may_run(&self, sets: &[ReplicaSet]) -> bool {
        let uids = sets.iter().filter_map(|set| set.metadata.uid.as_deref());
        let mut pods = uids.flat_map(|uid| self.pods.by_index(index::by_owner(), uid));
        pods.any(|pod| !is_finished(&pod))
    }
}

fn selector(deployment: &Deployment) -> Result<LabelSelector, api::selector::ParseError> {
    LabelSelector::from_meta(deployment.spec.as_ref().map(|spec| &spec.selector))
}
