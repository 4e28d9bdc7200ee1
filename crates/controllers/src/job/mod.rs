//! Runs the Pods of a Job until as many as wanted have succeeded, or too many have failed.
//!
//! ```text
//! Pods, status ─► tally ─► decide ─► Pods made or deleted ─► track: list, release, count
//! ```
//!
//! Start reading at `decide.rs`, then `track.rs`.

mod backoff;
mod decide;
mod indexes;
mod memory;
mod pod;
mod policy;
mod spec;
mod tally;
mod track;

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use api::selector::LabelSelector;
use client::events::EventType;
use client::{Change, Error, Informer, Patch, PatchKind, index, key_of};
use futures_util::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use tokio::task::JoinSet;

use crate::conditions::ready_since;
use crate::context::{Context, say, split, unless_gone, version};
use crate::controller::Controller;
use crate::expectations::Expectations;
use crate::ownership::{self, concerned, controller_of};
use crate::pod_control::PodControl;
use crate::workqueue::Next;
use decide::{Action, NewPod, Plan, decide, find, is_finished};
use memory::Memory;
use pod::{FINALIZER, is_tracked, uid};
use spec::Spec;
use tally::{View, number};
use track::{Outcome, Record, Turn, record, same};

/// Who acts on Jobs that name nobody.
const CONTROLLER: &str = "kubernetes.io/job-controller";
/// Begins the key of a Pod that may have lost its Job. No namespace is named so.
const ORPHAN: &str = "orphan:";

struct Jobs {
    control: PodControl,
    expectations: Expectations,
    jobs: Informer<Job>,
    pods: Informer<Pod>,
    memories: Mutex<HashMap<String, Memory>>,
}

pub(crate) fn spawn(context: &Context, tasks: &mut JoinSet<()>) {
    let this = Arc::new(Jobs {
        control: PodControl {
            client: context.client.clone(),
            recorder: context.recorder("job-controller", tasks),
        },
        expectations: Expectations::default(),
        jobs: context.informers.of(),
        pods: context.informers.of(),
        memories: Mutex::default(),
    });
    let (of_jobs, of_pods) = (this.clone(), this.clone());
    let controller = Controller::new("job")
        .watches(&this.jobs, move |change| of_jobs.job_changed(change))
        .watches(&this.pods, move |change| of_pods.pod_changed(change));
    controller.run(tasks, context.shutdown.clone(), move |key| {
        let this = this.clone();
        async move {
            match key.strip_prefix(ORPHAN) {
                Some(pod) => this.let_go(pod).await,
                None => this.sync(&key).await,
            }
        }
    });
}

/// The condition by which a Job has ended: Complete or Failed.
pub(crate) fn end_of(job: &Job) -> Option<&JobCondition> {
    let status = job.status.as_ref()?;
    find(status, "Complete").or_else(|| find(status, "Failed"))
}

fn status(job: &Job) -> JobStatus {
    job.status.clone().unwrap_or_default()
}

/// Whether another controller was asked to run it.
fn is_foreign(job: &Job) -> bool {
    let managed_by = job.spec.as_ref().and_then(|spec| spec.managed_by.as_deref());
    managed_by.is_some_and(|name| name != CONTROLLER)
}

impl Jobs {
    fn job_changed(&self, change: &Change<Job>) -> Vec<String> {
        let job = change.object();
        let own = key_of(&**job);
        let uid = job.metadata.uid.as_deref().unwrap_or_default();
        let is_gone = matches!(change, Change::Deleted(_));
        if is_gone {
            self.memories().remove(uid);
            self.expectations.forget(&own);
        }
        if !is_gone && !is_finished(&status(job)) {
            return vec![own];
        }
        let tracked = self.pods.by_index(index::by_owner(), uid).into_iter().filter(|pod| is_tracked(pod));
        tracked.map(|pod| format!("{ORPHAN}{}", key_of(&*pod))).collect()
    }

    fn pod_changed(&self, change: &Change<Pod>) -> Vec<String> {
        let pod = change.object();
        let mut keys = concerned(change, &self.jobs, |job, pod: &Pod| {
            selector(job).is_some_and(|selector| selector.matches(&pod.metadata.labels))
        });
        if is_tracked(pod) && self.job_of(pod).is_none_or(|job| is_finished(&status(&job))) {
            keys.push(format!("{ORPHAN}{}", key_of(&**pod)));
        }
        keys
    }

    /// The Job that controls a Pod, as the cache knows it.
    fn job_of(&self, pod: &Pod) -> Option<Arc<Job>> {
        let owner = controller_of(&pod.metadata).filter(|owner| is_job(owner))?;
        let job = self.jobs.get(pod.metadata.namespace.as_deref()?, &owner.name)?;
        (job.metadata.uid.as_ref() == Some(&owner.uid)).then_some(job)
    }

    fn memories(&self) -> MutexGuard<'_, HashMap<String, Memory>> {
        self.memories.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn remember<T>(&self, job: &Job, change: impl FnOnce(&mut Memory) -> T) -> T {
        let uid = job.metadata.uid.clone().unwrap_or_default();
        change(self.memories().entry(uid).or_default())
    }

    async fn sync(&self, key: &str) -> Result<Next, Error> {
        let (namespace, name) = split(key);
        let Some(job) = self.jobs.get(namespace, name).filter(|job| !is_foreign(job)) else {
            return Ok(Next::Done);
        };
        if is_finished(&status(&job)) {
            self.memories().remove(job.metadata.uid.as_deref().unwrap_or_default());
            return Ok(Next::Done);
        }
        // The change that brings it up to date comes with this key.
        if self.remember(&job, |memory| memory.is_behind(version(&job.metadata))) {
            return Ok(Next::Done);
        }
        let (Some(spec), Some(selector)) = (Spec::of(&job), selector(&job)) else { return Ok(Next::Done) };
        let is_settled = self.expectations.are_met(key, namespace, &self.pods);
        let mut pods = ownership::held(&self.control.client, &*job, &selector, &self.pods, FINALIZER).await?;
        pods.sort_by_key(|pod| (pod::index(pod), pod.metadata.name.clone()));
        let (released, failures) = self.remember(&job, |memory| {
            memory.compare(&pods);
            (memory.released.clone(), memory.failures)
        });
        let now = Timestamp::now();
        let view = View { job: &job, spec, pods, released, is_settled, failures, now };
        let plan = decide(&view);
        let (outcome, done) = self.act(&view, &plan).await;
        self.track(&view, &plan, outcome).await?;
        done?;
        let again = plan.again.and_then(|pause| Duration::try_from(pause).ok());
        Ok(again.map_or(Next::Done, Next::After))
    }

    async fn act(&self, view: &View<'_>, plan: &Plan<'_>) -> (Outcome, Result<(), Error>) {
        match &plan.action {
            Action::Wait | Action::Keep => (Outcome::default(), Ok(())),
            Action::End(pods) => self.delete(view.job, pods, Tracking::Kept).await,
            Action::Remove(pods) => self.delete(view.job, pods, Tracking::Ended).await,
            Action::Create(pods) => self.create(view, pods).await,
        }
    }

    /// One, then twice as many each time: where one cannot be made the others cannot either. A Job that waits for
    /// its Pods to go gets no others in their place.
    async fn create(&self, view: &View<'_>, pods: &[NewPod<'_>]) -> (Outcome, Result<(), Error>) {
        let (mut outcome, mut rest, mut size) = (Outcome::default(), pods, 1);
        match ownership::stays::<Job>(&self.control.client, &view.job.metadata).await {
            Ok(true) => {}
            gone => return (outcome, gone.map(drop)),
        }
        while !rest.is_empty() {
            let (batch, later) = rest.split_at(rest.len().min(size));
            let made = join_all(batch.iter().map(|pod| self.create_one(view, pod))).await;
            outcome.created += number(made.iter().filter(|one| one.is_ok()).count());
            if let Some(error) = made.into_iter().find_map(Result::err) {
                // Where the namespace goes, all that follow would fail as well.
                let done = if error.is_namespace_terminating() { Ok(()) } else { Err(error) };
                return (outcome, done);
            }
            (rest, size) = (later, size * 2);
        }
        (outcome, Ok(()))
    }

    async fn create_one(&self, view: &View<'_>, pod: &NewPod<'_>) -> Result<(), Error> {
        let template = pod::template(view.job, &view.spec, pod.index, pod.replaced);
        let made = self.control.create(view.job, &template).await?;
        self.expectations.created(&key_of(view.job), &made);
        Ok(())
    }

    async fn delete(&self, job: &Job, pods: &[&Pod], tracking: Tracking) -> (Outcome, Result<(), Error>) {
        let deleted = join_all(pods.iter().map(|pod| self.delete_one(job, pod, tracking))).await;
        let (mut outcome, mut done) = (Outcome::default(), Ok(()));
        for (pod, result) in pods.iter().zip(deleted) {
            if let Err(error) = result {
                done = Err(error);
                continue;
            }
            outcome.deleted += 1;
            outcome.deleted_ready += i32::from(ready_since(pod).is_some());
        }
        (outcome, done)
    }

    async fn delete_one(&self, job: &Job, pod: &Pod, tracking: Tracking) -> Result<(), Error> {
        if tracking == Tracking::Ended {
            self.release(job, pod).await?;
        }
        if self.control.delete(job, pod).await? {
            self.expectations.deleted(&key_of(job), pod);
        }
        Ok(())
    }

    /// Takes the finalizer away. From now on the Pod is counted, whatever the cache shows.
    async fn release(&self, job: &Job, pod: &Pod) -> Result<(), Error> {
        self.remember(job, |memory| memory.released.insert(uid(pod).to_owned()));
        let released = self.strip(pod).await;
        if released.is_err() {
            self.remember(job, |memory| memory.released.remove(uid(pod)));
        }
        released
    }

    /// A Pod that is gone has lost it as well; the UID keeps another Pod of the name safe.
    async fn strip(&self, pod: &Pod) -> Result<(), Error> {
        let metadata = json!({"uid": uid(pod), "$deleteFromPrimitiveList/finalizers": [FINALIZER]});
        let patch = Patch::new(PatchKind::Strategic, json!({ "metadata": metadata }));
        let (namespace, name) = (&pod.metadata.namespace, pod.metadata.name.as_deref().unwrap_or_default());
        unless_gone(
            self.control.client.patch::<Pod>(namespace.as_deref().unwrap_or_default(), name, &patch).await,
        )
    }

    async fn track(&self, view: &View<'_>, plan: &Plan<'_>, outcome: Outcome) -> Result<(), Error> {
        let mut record = record(view, plan, outcome);
        let mut job = view.job.clone();
        if !same(&record.status, &view.status()) {
            job = self.write(&job, &record.status).await?;
            self.remember(&job, |memory| memory.failures = Some(plan.tally.failures));
        }
        match record.turn {
            Some(Turn::Suspended) => {
                say(&self.control.recorder, &job, EventType::Normal, "Suspended", "Job suspended".to_owned());
            }
            Some(Turn::Resumed) => {
                say(&self.control.recorder, &job, EventType::Normal, "Resumed", "Job resumed".to_owned());
            }
            None => {}
        }
        let (released, done) = self.release_all(&job, &record).await;
        let (status, end) = record.settle(released, job.status.clone().unwrap_or_default());
        if !same(&status, &job.status.clone().unwrap_or_default()) {
            self.write(&job, &status).await?;
        }
        if let Some(end) = end {
            self.tell_end(&job, &end);
        }
        done
    }

    async fn release_all(&self, job: &Job, record: &Record<'_>) -> (HashSet<String>, Result<(), Error>) {
        let results = join_all(record.release.iter().map(|pod| self.release(job, pod))).await;
        let (mut released, mut done) = (HashSet::new(), Ok(()));
        for (pod, result) in record.release.iter().zip(results) {
            match result {
                Ok(()) => drop(released.insert(uid(pod).to_owned())),
                Err(error) => done = Err(error),
            }
        }
        (released, done)
    }

    async fn write(&self, job: &Job, status: &JobStatus) -> Result<Job, Error> {
        let changed = Job { status: Some(track::written(status)), ..job.clone() };
        let written = self.control.client.replace_status(&changed).await?;
        self.remember(&written, |memory| memory.writes(version(&written.metadata)));
        Ok(written)
    }

    fn tell_end(&self, job: &Job, end: &JobCondition) {
        let say = |kind, reason: &str, message: &str| {
            say(&self.control.recorder, job, kind, reason, message.to_owned())
        };
        let words = |text: &'_ Option<String>| text.clone().unwrap_or_default();
        if end.type_ != "Complete" {
            say(EventType::Warning, &words(&end.reason), &words(&end.message));
            return;
        }
        let completions = job.spec.as_ref().and_then(|spec| spec.completions);
        let succeeded = job.status.as_ref().and_then(|status| status.succeeded).unwrap_or(0);
        if completions.is_some_and(|completions| succeeded > completions) {
            let message = "Too many succeeded pods running after completion count reached";
            say(EventType::Warning, "TooManySucceededPods", message);
        }
        say(EventType::Normal, "Completed", "Job completed");
    }

    /// Takes the finalizer from a Pod that no Job will count.
    async fn let_go(&self, key: &str) -> Result<Next, Error> {
        let (namespace, name) = split(key);
        let Some(pod) = self.pods.get(namespace, name).filter(|pod| is_tracked(pod)) else {
            return Ok(Next::Done);
        };
        if let Some(owner) = controller_of(&pod.metadata) {
            if !is_job(owner) {
                return Ok(Next::Done);
            }
            // The server has the last word: the cache may not know the Job yet.
            match self.control.client.get::<Job>(namespace, &owner.name).await {
                Ok(job) if job.metadata.uid.as_ref() == Some(&owner.uid) => {
                    if is_foreign(&job) || !is_finished(&status(&job)) {
                        return Ok(Next::Done);
                    }
                }
                Err(error) if !error.is_not_found() => return Err(error),
                Ok(_) | Err(_) => {}
            }
        }
        self.strip(&pod).await?;
        Ok(Next::Done)
    }
}

/// Whether a Pod that is deleted still counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tracking {
    Kept,
    Ended,
}

fn is_job(owner: &k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference) -> bool {
    owner.api_version == "batch/v1" && owner.kind == "Job"
}

fn selector(job: &Job) -> Option<LabelSelector> {
    let selector = job.spec.as_ref()?.selector.as_ref();
    selector?;
    LabelSelector::from_meta(selector).ok()
}
