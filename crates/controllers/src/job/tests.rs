//! A Job against a world that lags, conflicts and crashes: the counts must come out as if nothing happened.
//!
//! Fault model: the caches of Pods and of the Job are refreshed at any time and independently; a
//! reconciliation stops after any of its writes; the process forgets its memory; Pods end or are deleted
//! at any time; the Job is suspended and resumed. Writes of status are made with the version that was read.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::decide::{Action, Plan, decide, find, is_finished};
use super::memory::Memory;
use super::pod::{self, FINALIZER, is_tracked, uid};
use super::spec::Spec;
use super::tally::{View, number};
use super::track::{Outcome, record, same, written};
use crate::conditions::is_active;
use crate::pod_control;

#[derive(Debug, Clone)]
enum Step {
    /// Reconciles, and stops after so many writes.
    Sync(usize),
    Succeed(usize),
    Fail(usize),
    Delete(usize),
    SeePods,
    SeeJob,
    Forget,
    Suspend(bool),
    Wait(i64),
}

/// The interruption of a reconciliation: a crash or a conflict.
struct Stopped;

struct World {
    job: Job,
    version: u64,
    pods: HashMap<String, Pod>,
    made: usize,
    /// The caches.
    seen_job: (Job, u64),
    seen_pods: Vec<Arc<Pod>>,
    memory: Memory,
    /// Whether all Pods made and deleted are seen: Expectations has tests of its own.
    is_settled: bool,
    now: Timestamp,
    writes_left: usize,
    /// UIDs of all Pods that have ended, by how.
    succeeded: HashSet<String>,
    failed: HashSet<String>,
}

fn job(spec: Value) -> Job {
    serde_json::from_value(json!({"metadata": {"name": "j", "namespace": "n", "uid": "u"}, "spec": spec}))
        .unwrap()
}

impl World {
    fn new(job: Job) -> Self {
        Self {
            seen_job: (job.clone(), 0),
            job,
            version: 0,
            pods: HashMap::new(),
            made: 0,
            seen_pods: Vec::new(),
            memory: Memory::default(),
            is_settled: true,
            now: Timestamp::UNIX_EPOCH,
            writes_left: 0,
            succeeded: HashSet::new(),
            failed: HashSet::new(),
        }
    }

    fn write(&mut self) -> Result<(), Stopped> {
        self.writes_left = self.writes_left.checked_sub(1).ok_or(Stopped)?;
        Ok(())
    }

    fn see_pods(&mut self) {
        self.is_settled = true;
        self.seen_pods = self.pods.values().cloned().map(Arc::new).collect();
        self.seen_pods.sort_by_key(|pod| pod.metadata.uid.clone());
    }

    /// A deleted Pod goes when nothing holds it.
    fn sweep(&mut self) {
        self.pods.retain(|_, pod| pod.metadata.deletion_timestamp.is_none() || is_tracked(pod));
    }

    fn active(&self) -> usize {
        self.pods.values().filter(|pod| is_active(pod)).count()
    }

    fn end(&mut self, at: usize, phase: &str) {
        let mut running: Vec<String> =
            self.pods.values().filter(|pod| is_active(pod)).map(|pod| uid(pod).to_owned()).collect();
        running.sort();
        if running.is_empty() {
            return;
        }
        let uid = running[at % running.len()].clone();
        let now = self.now.to_string();
        let pod = self.pods.get_mut(&uid).unwrap();
        // One that was let go on its way to deletion is not counted, as upstream.
        let counts = is_tracked(pod);
        if phase == "Deleted" {
            pod.metadata.deletion_timestamp = Some(serde_json::from_value(json!(now)).unwrap());
            self.failed.extend(counts.then_some(uid));
        } else {
            let state = json!({"terminated": {"exitCode": 1, "finishedAt": now}});
            let container = json!({"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state});
            pod.status = Some(
                serde_json::from_value(json!({"phase": phase, "containerStatuses": [container]})).unwrap(),
            );
            let ended = if phase == "Succeeded" { &mut self.succeeded } else { &mut self.failed };
            ended.extend(counts.then_some(uid));
        }
    }

    fn replace_status(&mut self, version: u64, status: &JobStatus) -> Result<u64, Stopped> {
        self.write()?;
        if version != self.version {
            return Err(Stopped);
        }
        self.job.status = Some(written(status));
        self.version += 1;
        self.memory.writes(self.version);
        Ok(self.version)
    }

    fn release(&mut self, uid: &str) -> Result<(), Stopped> {
        self.memory.released.insert(uid.to_owned());
        if let Err(stopped) = self.write() {
            self.memory.released.remove(uid);
            return Err(stopped);
        }
        if let Some(pod) = self.pods.get_mut(uid) {
            pod.metadata.finalizers = None;
        }
        self.sweep();
        Ok(())
    }

    fn delete(&mut self, uid: &str, counts: bool) -> Result<(), Stopped> {
        if !counts {
            self.release(uid)?;
            // It may have ended meanwhile: then nobody counts it, as upstream.
            self.succeeded.remove(uid);
            self.failed.remove(uid);
        }
        self.write()?;
        let now = self.now.to_string();
        if let Some(pod) = self.pods.get_mut(uid) {
            if counts && is_active(pod) && is_tracked(pod) {
                self.failed.insert(uid.to_owned());
            }
            pod.metadata.deletion_timestamp = Some(serde_json::from_value(json!(now)).unwrap());
            self.is_settled = false;
        }
        self.sweep();
        Ok(())
    }

    fn act(&mut self, view: &View<'_>, plan: &Plan<'_>) -> Result<Outcome, Stopped> {
        let mut outcome = Outcome::default();
        match &plan.action {
            Action::Wait | Action::Keep => {}
            Action::Remove(pods) | Action::End(pods) => {
                for pod in pods {
                    self.delete(uid(pod), matches!(plan.action, Action::End(_)))?;
                    outcome.deleted += 1;
                }
            }
            Action::Create(pods) => {
                for new in pods {
                    self.write()?;
                    let template = pod::template(view.job, &view.spec, new.index, new.replaced);
                    let mut pod = pod_control::pod(view.job, &template);
                    let uid = format!("{:04}", self.made);
                    self.made += 1;
                    pod.metadata.uid = Some(uid.clone());
                    pod.metadata.namespace = view.job.metadata.namespace.clone();
                    self.is_settled = false;
                    self.pods.insert(uid, pod);
                    outcome.created += 1;
                }
            }
        }
        Ok(outcome)
    }

    fn sync(&mut self) -> Result<(), Stopped> {
        let ((job, version), pods) = (self.seen_job.clone(), self.seen_pods.clone());
        if is_finished(&job.status.clone().unwrap_or_default()) || self.memory.is_behind(version) {
            return Ok(());
        }
        self.memory.compare(&pods);
        let is_settled = self.is_settled;
        let (released, failures) = (self.memory.released.clone(), self.memory.failures);
        let spec = Spec::of(&job).unwrap();
        let view = View { job: &job, spec, pods, released, is_settled, failures, now: self.now };
        let plan = decide(&view);
        let outcome = self.act(&view, &plan)?;
        let mut record = record(&view, &plan, outcome);
        let (mut status, mut version) = (view.status(), version);
        if !same(&record.status, &status) {
            version = self.replace_status(version, &record.status)?;
            status = written(&record.status);
            self.memory.failures = Some(plan.tally.failures);
        }
        let release: Vec<String> = record.release.iter().map(|pod| uid(pod).to_owned()).collect();
        for uid in &release {
            self.release(uid)?;
        }
        let (settled, _) = record.settle(release, status.clone());
        if !same(&settled, &status) {
            self.replace_status(version, &settled)?;
        }
        Ok(())
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Sync(writes) => {
                self.writes_left = *writes;
                let _ = self.sync();
            }
            Step::Succeed(at) => self.end(*at, "Succeeded"),
            Step::Fail(at) => self.end(*at, "Failed"),
            Step::Delete(at) => self.end(*at, "Deleted"),
            Step::SeePods => self.see_pods(),
            Step::SeeJob => self.seen_job = (self.job.clone(), self.version),
            Step::Forget => {
                // A new process lists everything before it begins.
                self.memory = Memory::default();
                self.see_pods();
                self.step(&Step::SeeJob);
            }
            Step::Suspend(suspend) => {
                if !is_finished(&self.status()) {
                    self.job.spec.as_mut().unwrap().suspend = Some(*suspend);
                    self.version += 1;
                }
            }
            Step::Wait(seconds) => self.now += SignedDuration::from_secs(*seconds),
        }
    }

    fn status(&self) -> JobStatus {
        self.job.status.clone().unwrap_or_default()
    }

    /// Lets everything become known and all Pods succeed.
    fn finish(&mut self) {
        self.step(&Step::Suspend(false));
        for _ in 0..200 {
            for step in
                [Step::SeePods, Step::SeeJob, Step::Sync(usize::MAX), Step::Wait(400), Step::Succeed(0)]
            {
                self.step(&step);
            }
            if is_finished(&self.status()) {
                return;
            }
        }
        panic!("the Job does not end: {:?}", self.status());
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => prop_oneof![3 => Just(usize::MAX), 2 => 0..8_usize].prop_map(Step::Sync),
        2 => (0..5_usize).prop_map(Step::Succeed),
        1 => (0..5_usize).prop_map(Step::Fail),
        1 => (0..5_usize).prop_map(Step::Delete),
        5 => Just(Step::SeePods),
        5 => Just(Step::SeeJob),
        1 => Just(Step::Forget),
        1 => any::<bool>().prop_map(Step::Suspend),
        2 => (0..400_i64).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 0..80)
}

fn spec(indexed: bool, completions: i32, parallelism: i32, extra: Value) -> Value {
    let mode = if indexed { "Indexed" } else { "NonIndexed" };
    let template = json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}});
    let mut spec = json!({"completionMode": mode, "completions": completions, "parallelism": parallelism,
        "backoffLimit": 1000, "template": template, "podReplacementPolicy": "TerminatingOrFailed"});
    spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    spec
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn each_pod_is_counted_once_whatever_is_interrupted(
        steps in steps(), completions in 1..6, parallelism in 1..5, indexed in any::<bool>(),
    ) {
        let mut world = World::new(job(spec(indexed, completions, parallelism, json!({}))));
        for step in &steps {
            world.step(step);
            prop_assert!(world.active() <= usize::try_from(parallelism).unwrap(), "{} Pods run", world.active());
        }
        world.finish();
        let status = world.status();
        prop_assert!(find(&status, "Complete").is_some());
        prop_assert!(find(&status, "SuccessCriteriaMet").is_some());
        prop_assert!(world.pods.values().all(|pod| !is_tracked(pod)), "a Pod is held for ever");
        if indexed {
            prop_assert_eq!(status.succeeded, Some(completions));
        } else {
            prop_assert_eq!(status.succeeded.unwrap_or(0), number(world.succeeded.len()));
        }
        prop_assert_eq!(status.failed.unwrap_or(0), number(world.failed.len()));
        prop_assert_eq!(status.active.unwrap_or(0), 0);
    }

    #[test]
    fn an_index_fails_after_its_own_limit_and_no_other(
        steps in steps(), completions in 1..4, limit in 0..3,
    ) {
        let mut world = World::new(job(spec(true, completions, 3, json!({"backoffLimitPerIndex": limit}))));
        for step in &steps {
            world.step(step);
        }
        world.finish();
        let status = world.status();
        let failed = status.failed_indexes.clone().unwrap_or_default();
        prop_assert_eq!(failed.is_empty(), find(&status, "Complete").is_some());
        let by_index = |text: &str| super::indexes::Indexes::parse(text, completions).total();
        let done = by_index(status.completed_indexes.as_deref().unwrap_or_default()) + by_index(&failed);
        prop_assert_eq!(done, completions);
        prop_assert!(world.pods.values().all(|pod| !is_tracked(pod)));
    }
}

/// The first FailureTarget of a Job all of whose Pods fail, or end otherwise as `phase` says.
fn fate(extra: Value, steps: &[Step]) -> (JobStatus, usize) {
    let indexed = extra.get("completionMode").is_some();
    let mut world = World::new(job(spec(indexed, 4, 2, extra)));
    for step in steps {
        for step in [Step::SeePods, Step::SeeJob, Step::Sync(usize::MAX), step.clone()] {
            world.step(&step);
        }
    }
    for _ in 0..4 {
        for step in [Step::SeePods, Step::SeeJob, Step::Sync(usize::MAX)] {
            world.step(&step);
        }
    }
    (world.status(), world.made)
}

fn words(status: &JobStatus, kind: &str) -> String {
    let condition = find(status, kind);
    condition.map_or_else(String::new, |one| {
        format!(
            "{}: {}",
            one.reason.as_deref().unwrap_or_default(),
            one.message.as_deref().unwrap_or_default()
        )
    })
}

#[test]
fn a_job_fails_in_upstreams_words() {
    let fail = [Step::Fail(0), Step::Fail(0)];
    let (status, _) = fate(json!({"backoffLimit": 1}), &fail);
    let limit = "BackoffLimitExceeded: Job has reached the specified backoff limit";
    assert_eq!((words(&status, "FailureTarget").as_str(), words(&status, "Failed").as_str()), (limit, limit));
    assert_eq!(status.failed, Some(2));

    let (status, _) = fate(json!({"activeDeadlineSeconds": 60}), &[Step::Wait(61)]);
    assert_eq!(words(&status, "Failed"), "DeadlineExceeded: Job was active longer than specified deadline");
    assert_eq!(status.failed, Some(2), "what ran has failed");

    let rule = json!([{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [1]}}]);
    let (status, _) = fate(json!({"podFailurePolicy": {"rules": rule}}), &[Step::Fail(0)]);
    let told = words(&status, "Failed");
    assert!(told.starts_with("PodFailurePolicy: Container c for pod n/"), "{told}");
    assert!(told.ends_with("failed with exit code 1 matching FailJob rule at index 0"), "{told}");

    let indexed = json!({"completionMode": "Indexed", "backoffLimitPerIndex": 0, "maxFailedIndexes": 1});
    let (status, _) = fate(indexed, &fail);
    let told = words(&status, "Failed");
    assert_eq!(
        told,
        "MaxFailedIndexesExceeded: Job has exceeded the specified maximal number of failed indexes"
    );
}

#[test]
fn an_ignored_failure_does_not_count() {
    let rule = json!([{"action": "Ignore", "onExitCodes": {"operator": "In", "values": [1]}}]);
    let (status, made) = fate(
        json!({"backoffLimit": 0, "podFailurePolicy": {"rules": rule}}),
        &[Step::Fail(0), Step::Wait(20)],
    );
    assert_eq!((status.failed, status.active, made), (None, Some(2), 3));
    assert!(!is_finished(&status));
}

#[test]
fn a_replacement_waits_for_the_pause_after_a_failure() {
    let (status, made) = fate(json!({}), &[Step::Fail(0), Step::Wait(9)]);
    assert_eq!((status.active, made), (Some(1), 2));
    let (status, made) = fate(json!({}), &[Step::Fail(0), Step::Wait(10)]);
    assert_eq!((status.active, made), (Some(2), 3));
}

#[test]
fn a_success_policy_ends_the_job_while_others_run() {
    let policy =
        json!({"completionMode": "Indexed", "successPolicy": {"rules": [{"succeededIndexes": "0"}]}});
    let (status, _) = fate(policy, &[Step::Succeed(0)]);
    assert_eq!(words(&status, "Complete"), "SuccessPolicy: Matched rules at index 0");
    assert_eq!((status.completed_indexes.as_deref(), status.active, status.failed), (Some("0"), None, None));
}

#[test]
fn a_suspended_job_has_no_pods_and_begins_anew() {
    let (status, _) = fate(json!({}), &[Step::Wait(5), Step::Suspend(true), Step::Wait(5)]);
    assert_eq!((words(&status, "Suspended").as_str(), status.active), ("JobSuspended: Job suspended", None));
    let steps = [Step::Suspend(true), Step::Wait(100), Step::Suspend(false)];
    let (status, made) = fate(json!({}), &steps);
    let suspended = &status.conditions.unwrap()[0];
    assert_eq!(
        (suspended.status.as_str(), suspended.reason.as_deref(), made),
        ("False", Some("JobResumed"), 4)
    );
    assert_eq!(status.start_time.unwrap().0.as_second(), 100);
}

#[test]
fn an_indexed_pod_knows_its_index() {
    let job = job(spec(true, 3, 3, json!({})));
    let template = pod::template(&job, &Spec::of(&job).unwrap(), Some(2), None);
    let made = serde_json::to_value(pod_control::pod(&job, &template)).unwrap();
    let index = "batch.kubernetes.io/job-completion-index";
    assert_eq!(
        (&made["metadata"]["labels"][index], &made["metadata"]["annotations"][index]),
        (&json!("2"), &json!("2"))
    );
    assert_eq!(
        (&made["metadata"]["generateName"], &made["spec"]["hostname"]),
        (&json!("j-2-"), &json!("j-2"))
    );
    assert_eq!(made["metadata"]["finalizers"], json!([FINALIZER]));
    let variable = json!([{"name": "JOB_COMPLETION_INDEX", "valueFrom": {"fieldRef": {"fieldPath": format!("metadata.labels['{index}']")}}}]);
    assert_eq!(made["spec"]["containers"][0]["env"], variable);
}
