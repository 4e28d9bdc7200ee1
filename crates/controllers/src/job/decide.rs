//! What is to be done for a Job: whether it has ended, else which Pods are too many or missing.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{JobCondition, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::backoff::{Failures, finished_at};
use super::indexes::Indexes;
use super::pod::{self, index};
use super::policy::{self, Verdict};
use super::tally::{Tally, View, number};
use crate::conditions::{is_terminating, ready_since};

/// Pods made or deleted at a time: upstream's MaxPodCreateDeletePerSync.
const CHANGED_MAX: usize = 500;

pub(super) const SUCCESS_CRITERIA_MET: &str = "SuccessCriteriaMet";
pub(super) const FAILURE_TARGET: &str = "FailureTarget";

/// What to do with Pods.
#[derive(Debug)]
pub(super) enum Action<'a> {
    /// Nothing is decided: there are Pods to be seen first, or the Job is being deleted.
    Wait,
    /// There are as many as there should be.
    Keep,
    /// They are too many, and their end does not count.
    Remove(Vec<&'a Pod>),
    /// The Job has ended: these go, and count.
    End(Vec<&'a Pod>),
    Create(Vec<NewPod<'a>>),
}

/// A Pod that is missing.
#[derive(Debug)]
pub(super) struct NewPod<'a> {
    pub(super) index: Option<i32>,
    /// Whose count of failures it takes over.
    pub(super) replaced: Option<&'a Pod>,
}

#[derive(Debug)]
pub(super) struct Plan<'a> {
    pub(super) tally: Tally<'a>,
    /// Why the Job ends: SuccessCriteriaMet, FailureTarget, or Failed when that was written before.
    pub(super) end: Option<JobCondition>,
    pub(super) action: Action<'a>,
    /// When to look again though nothing changes.
    pub(super) again: Option<SignedDuration>,
}

pub(super) fn condition(kind: &str, reason: &str, message: &str, now: Timestamp) -> JobCondition {
    let words = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    JobCondition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        reason: words(reason),
        message: words(message),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    }
}

pub(super) fn find<'a>(status: &'a JobStatus, kind: &str) -> Option<&'a JobCondition> {
    status.conditions.iter().flatten().find(|condition| condition.type_ == kind && condition.status == "True")
}

/// Complete or Failed: nothing changes any more.
pub(super) fn is_finished(status: &JobStatus) -> bool {
    find(status, "Complete").is_some() || find(status, "Failed").is_some()
}

pub(super) fn decide<'a>(view: &'a View<'_>) -> Plan<'a> {
    let tally = Tally::of(view);
    let end = end(view, &tally);
    let deadline = deadline_left(view).filter(|_| end.is_none() && !view.spec.is_suspended);
    let (action, pause) = match &end {
        Some(_) => (Action::End(tally.active.clone()), None),
        None if view.is_settled && view.job.metadata.deletion_timestamp.is_none() => manage(view, &tally),
        None => (Action::Wait, None),
    };
    let again = deadline.into_iter().chain(pause).min();
    Plan { tally, end, action, again }
}

/// Time until `activeDeadlineSeconds` have passed.
fn deadline_left(view: &View<'_>) -> Option<SignedDuration> {
    let started = view.status().start_time.map_or(view.now, |time| time.0);
    let deadline = SignedDuration::from_secs(view.spec.deadline_seconds?);
    Some(deadline.saturating_sub(view.now.duration_since(started)))
}

/// Upstream's order: what was decided before, the failure policy, limits, deadline, indexes, success policy.
fn end(view: &View<'_>, tally: &Tally<'_>) -> Option<JobCondition> {
    let (spec, status, now) = (&view.spec, view.status(), view.now);
    if let Some(met) = find(&status, SUCCESS_CRITERIA_MET) {
        return Some(met.clone());
    }
    if let Some(target) = find(&status, FAILURE_TARGET) {
        let words = |text: &Option<String>| text.clone().unwrap_or_default();
        return Some(condition("Failed", &words(&target.reason), &words(&target.message), now));
    }
    let fail = |reason: &str, message: &str| Some(condition(FAILURE_TARGET, reason, message, now));
    let failed = view.pods.iter().filter(|pod| pod::has_failed(pod, spec));
    for pod in failed {
        if let Verdict::FailJob(message) = policy::judge(spec.failure_policy, pod) {
            return fail("PodFailurePolicy", &message);
        }
    }
    if tally.failed > spec.backoff_limit || too_many_restarts(view) {
        return fail("BackoffLimitExceeded", "Job has reached the specified backoff limit");
    }
    let started = status.start_time.is_some() && !spec.is_suspended;
    if started && deadline_left(view).is_some_and(|left| left <= SignedDuration::ZERO) {
        return fail("DeadlineExceeded", "Job was active longer than specified deadline");
    }
    if let Some(failed) = &tally.failed_indexes {
        if spec.failed_indexes_max.is_some_and(|max| failed.total() > max) {
            let message = "Job has exceeded the specified maximal number of failed indexes";
            return fail("MaxFailedIndexesExceeded", message);
        }
        let done = failed.total().saturating_add(tally.succeeded);
        if !failed.is_empty() && done >= spec.completions.unwrap_or(0) {
            return fail("FailedIndexes", "Job has failed indexes");
        }
    }
    let completions = spec.completions.filter(|_| spec.is_indexed)?;
    let message = policy::succeeded(spec.success_policy, completions, &tally.succeeded_indexes)?;
    Some(condition(SUCCESS_CRITERIA_MET, "SuccessPolicy", &message, now))
}

/// Restarts inside of Pods count like Pods where containers are started again.
fn too_many_restarts(view: &View<'_>) -> bool {
    if !view.spec.restarts_containers {
        return false;
    }
    let running = view.pods.iter().filter(|pod| matches!(pod::phase(pod), "Running" | "Pending"));
    let statuses = running
        .filter_map(|pod| pod.status.as_ref())
        .flat_map(|status| status.init_container_statuses.iter().chain(&status.container_statuses).flatten());
    let restarts = statuses.fold(0_i32, |sum, status| sum.saturating_add(status.restart_count));
    match view.spec.backoff_limit {
        0 => restarts > 0,
        limit => restarts >= limit,
    }
}

/// Whether nothing more has to run, with so many Pods still active.
pub(super) fn is_complete(view: &View<'_>, tally: &Tally<'_>, active: i32) -> bool {
    active == 0
        && match view.spec.completions {
            None => tally.succeeded > 0,
            Some(completions) => tally.succeeded >= completions,
        }
}

/// Pods too many, else missing: never both at once.
fn manage<'a>(view: &'a View<'_>, tally: &Tally<'a>) -> (Action<'a>, Option<SignedDuration>) {
    let (spec, active) = (&view.spec, number(tally.active.len()));
    let wanted = match spec.completions {
        _ if spec.is_suspended => 0,
        // Once one has succeeded the others finish their work and none is added.
        None if tally.succeeded > 0 => active,
        None => spec.parallelism,
        Some(completions) => (completions - tally.succeeded).min(spec.parallelism).max(0),
    };
    let surplus = usize::try_from(active - wanted).unwrap_or(0);
    let mut remove = to_remove(view, tally, surplus);
    if !spec.is_suspended {
        remove.truncate(CHANGED_MAX);
    }
    if !remove.is_empty() {
        return (Action::Remove(remove), None);
    }
    let ending = if spec.replaces_only_failed { tally.terminating } else { 0 };
    let missing = usize::try_from(wanted - ending - active).unwrap_or(0).min(CHANGED_MAX);
    if missing == 0 {
        return (Action::Keep, None);
    }
    if spec.limit_per_index.is_some() {
        return create_indexes(view, tally, missing);
    }
    let pause = tally.failures.pause(view.now);
    if pause > SignedDuration::ZERO {
        return (Action::Keep, Some(pause));
    }
    let new = |index| NewPod { index, replaced: None };
    let pods = if spec.is_indexed {
        pending(view, tally, missing).into_iter().map(|index| new(Some(index))).collect()
    } else {
        (0..missing).map(|_| new(None)).collect()
    };
    (Action::Create(pods), None)
}

/// Where each index has its own limit it has its own pause.
fn create_indexes<'a>(
    view: &'a View<'_>,
    tally: &Tally<'a>,
    missing: usize,
) -> (Action<'a>, Option<SignedDuration>) {
    let (mut pods, mut again) = (Vec::new(), None::<SignedDuration>);
    for index in pending(view, tally, missing) {
        let replaced = tally.awaiting_replacement.get(&index).copied();
        let pause = replaced.map_or(SignedDuration::ZERO, |pod| {
            let failures = u32::try_from(pod::all_failures_before(pod)).unwrap_or(0).saturating_add(1);
            Failures::of(failures, finished_at(pod).unwrap_or(view.now)).pause(view.now)
        });
        if pause > SignedDuration::ZERO {
            again = Some(again.map_or(pause, |soonest| soonest.min(pause)));
        } else {
            pods.push(NewPod { index: Some(index), replaced });
        }
    }
    if pods.is_empty() { (Action::Keep, again) } else { (Action::Create(pods), again) }
}

/// The first indexes that neither have ended nor run.
fn pending(view: &View<'_>, tally: &Tally<'_>, count: usize) -> Vec<i32> {
    let mut taken: Indexes = tally.active.iter().filter_map(|pod| index(pod)).collect();
    taken.extend(&tally.succeeded_indexes);
    if let Some(failed) = &tally.failed_indexes {
        taken.extend(failed);
    }
    if view.spec.replaces_only_failed {
        taken.extend(
            &view.pods.iter().filter(|pod| is_terminating(pod)).filter_map(|pod| index(pod)).collect(),
        );
    }
    taken.first_missing(count, view.spec.completions.unwrap_or(0))
}

/// Active Pods to delete: all but one of an index and those of none, then those that have got least far.
fn to_remove<'a>(view: &View<'_>, tally: &Tally<'a>, at_least: usize) -> Vec<&'a Pod> {
    let (mut remove, mut left) = (Vec::new(), Vec::new());
    if view.spec.is_indexed {
        let mut by_index: BTreeMap<i32, Vec<&Pod>> = BTreeMap::new();
        for pod in &tally.active {
            match index(pod).filter(|index| view.spec.takes(Some(*index))) {
                Some(index) => by_index.entry(index).or_default().push(pod),
                None => remove.push(*pod),
            }
        }
        for mut pods in by_index.into_values() {
            pods.sort_by_key(|pod| progress(pod));
            left.extend(pods.pop());
            remove.extend(pods);
        }
    } else {
        left.clone_from(&tally.active);
    }
    left.sort_by_key(|pod| progress(pod));
    let more = at_least.saturating_sub(remove.len());
    remove.extend(left.into_iter().take(more));
    remove
}

/// Upstream's ActivePods: bound after unbound, running after pending, ready after not, long after short.
fn progress(pod: &Pod) -> impl Ord {
    let is_bound =
        pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).is_some_and(|node| !node.is_empty());
    let phase = match pod::phase(pod) {
        "Running" => 2,
        "Unknown" => 1,
        _ => 0,
    };
    let ready_since = ready_since(pod);
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let restarts = statuses.map(|status| status.restart_count).max().unwrap_or(0);
    let created = pod.metadata.creation_timestamp.as_ref().map(|at| Reverse(at.0));
    (
        is_bound,
        phase,
        ready_since.is_some(),
        Reverse(ready_since),
        Reverse(restarts),
        created,
        pod.metadata.name.clone(),
    )
}
