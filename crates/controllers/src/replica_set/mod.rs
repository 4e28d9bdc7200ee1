//! As many Pods as a ReplicaSet or a ReplicationController says, made from its template.
//!
//! ```text
//! changes of the owner and its Pods ─► sync ─┬─ ownership: which Pods are its own
//!                                            ├─ manage: create, or delete by rank
//!                                            └─ status: what was counted
//! ```
//!
//! The rules of both kinds are one; [`ReplicaOwner`] is what they differ in.

mod owner;
mod rank;
mod status;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use api::selector::LabelSelector;
use client::{Error, Informer, index, key_of};
use futures_util::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec, ReplicationController};
use tokio::task::JoinSet;

use self::owner::ReplicaOwner;
use crate::conditions::{is_active, is_terminating};
use crate::context::{Context, split, unless_gone};
use crate::controller::Controller;
use crate::expectations::Expectations;
use crate::ownership::{self, concerned, controller_of};
use crate::pod_control::PodControl;
use crate::workqueue::Next;

/// Pods that are made or deleted in one go.
const BURST: usize = 500;

pub(crate) fn spawn(context: &Context, tasks: &mut JoinSet<()>) {
    begin::<ReplicaSet>(context, tasks, "replicaset-controller");
    begin::<ReplicationController>(context, tasks, "replication-controller");
}

fn begin<O: ReplicaOwner>(context: &Context, tasks: &mut JoinSet<()>, name: &'static str) {
    let client = context.client.clone();
    let this = Replicas::<O> {
        control: PodControl { client, recorder: context.recorder(name, tasks) },
        owners: context.informers.of(),
        pods: context.informers.of(),
        expectations: Expectations::default(),
    };
    let owners = this.owners.clone();
    let controller = Controller::new(name)
        .watches(&this.owners, |change| vec![key_of(&**change.object())])
        .watches(&this.pods, move |change| {
            concerned(change, &owners, |owner, pod: &Pod| {
                owner.selector().is_ok_and(|selector| selector.matches(&pod.metadata.labels))
            })
        });
    let this = Arc::new(this);
    controller.run(tasks, context.shutdown.clone(), move |key| {
        let this = this.clone();
        async move { this.sync(&key).await }
    });
}

struct Replicas<O> {
    control: PodControl,
    owners: Informer<O>,
    pods: Informer<Pod>,
    expectations: Expectations,
}

impl<O: ReplicaOwner> Replicas<O> {
    async fn sync(&self, key: &str) -> Result<Next, Error> {
        let (namespace, name) = split(key);
        let Some(owner) = self.owners.get(namespace, name) else {
            self.expectations.forget(key);
            return Ok(Next::Done);
        };
        let Ok(selector) = owner.selector() else { return Ok(Next::Done) };
        let all_seen = self.expectations.are_met(key, namespace, &self.pods);
        let pods = ownership::claimed(&self.control.client, &*owner, &selector, &self.pods).await?;
        let active: Vec<Arc<Pod>> = pods.iter().filter(|pod| is_active(pod)).cloned().collect();
        let managed = if all_seen && owner.metadata().deletion_timestamp.is_none() {
            self.manage(key, &owner, &active).await
        } else {
            Ok(())
        };
        let now = Timestamp::now();
        let wanted = owner.wanted();
        let terminating = pods.iter().filter(|pod| is_terminating(pod)).count();
        let status = status::of(&owner.status(), &wanted, &active, terminating, managed.as_ref().err(), now);
        if !status::says_the_same(&owner.status(), &status) {
            unless_gone(self.control.client.replace_status(&owner.with_status(status)).await)?;
        }
        managed?;
        Ok(status::next_available(&active, wanted.min_ready_seconds, now).map_or(Next::Done, Next::After))
    }

    async fn manage(&self, key: &str, owner: &O, active: &[Arc<Pod>]) -> Result<(), Error> {
        let wanted = owner.wanted();
        let replicas = usize::try_from(wanted.replicas).unwrap_or(0);
        if active.len() < replicas {
            let Some(template) = wanted.template else { return Ok(()) };
            let missing = vec![template; (replicas - active.len()).min(BURST)];
            let made = |pod: &Pod| self.expectations.created(key, pod);
            return self.control.create_each(owner, missing, made).await;
        }
        let surplus = (active.len() - replicas).min(BURST);
        if surplus == 0 {
            return Ok(());
        }
        let leaving = rank::first_to_go(active, &self.beside(owner), surplus, Timestamp::now());
        let deleted = join_all(leaving.iter().map(|pod| async {
            if self.control.delete(owner, pod).await? {
                self.expectations.deleted(key, pod);
            }
            Ok(())
        }));
        deleted.await.into_iter().collect()
    }

    /// How many active Pods of the same workload each node has: those of all ReplicaSets that have the
    /// owner's owner.
    fn beside(&self, owner: &O) -> HashMap<String, usize> {
        let above = controller_of(owner.metadata()).map(|above| above.uid.as_str());
        let family = match above {
            Some(above) => self.owners.by_index(index::by_owner(), above),
            None => Vec::new(),
        };
        let own = owner.metadata().uid.iter().map(String::as_str);
        let uids: BTreeSet<&str> =
            family.iter().filter_map(|set| set.metadata().uid.as_deref()).chain(own).collect();
        let mut on_nodes = HashMap::new();
        for pod in uids.into_iter().flat_map(|uid| self.pods.by_index(index::by_owner(), uid)) {
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
            if let Some(node) = node.filter(|_| is_active(&pod)) {
                *on_nodes.entry(node).or_default() += 1;
            }
        }
        on_nodes
    }
}

/// What an owner says of its Pods.
struct Wanted<'a> {
    replicas: i32,
    min_ready_seconds: i32,
    template: Option<&'a PodTemplateSpec>,
    generation: i64,
}

/// The selector of an object that has none selects nothing.
type Selector = Result<LabelSelector, api::selector::ParseError>;

impl Wanted<'_> {
    fn template_labels(&self) -> impl Iterator<Item = (&String, &String)> {
        let metadata = self.template.and_then(|template| template.metadata.as_ref());
        metadata.and_then(|metadata| metadata.labels.as_ref()).into_iter().flatten()
    }
}

/// A time from now, not below a millisecond: a key that is due now would spin.
fn until(time: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_until(time)).unwrap_or_default().max(Duration::from_millis(1))
}
