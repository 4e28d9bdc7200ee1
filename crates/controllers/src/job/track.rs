//! What a Job's status says, so that each Pod's end is counted exactly once whatever is interrupted.
//!
//! ```text
//! the Pod's UID into uncountedTerminatedPods ─► its finalizer away ─► UID out, counter up
//! ```
//!
//! A Pod with the finalizer and not in the list is not counted; one in the list is, once the
//! finalizer is gone. Each arrow is one write, and the first and the third are made with the
//! version that was read.

use std::collections::HashSet;

use k8s_openapi::api::batch::v1::{JobCondition, JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::decide::{Action, FAILURE_TARGET, Plan, SUCCESS_CRITERIA_MET, condition, find, is_complete};
use super::indexes::Indexes;
use super::pod::{has_failed, has_succeeded, index, uid};
use super::policy::{self, Verdict};
use super::tally::{View, number};

/// Upstream's MaxUncountedPods: their UIDs stay below 20 KB.
const UNCOUNTED_MAX: usize = 500;

/// What became of an action.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) created: i32,
    pub(super) deleted: i32,
    pub(super) deleted_ready: i32,
}

/// Suspended or taken up again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    Suspended,
    Resumed,
}

/// What to write first, and what may follow once it is written.
#[derive(Debug)]
pub(super) struct Record<'a> {
    pub(super) status: JobStatus,
    pub(super) turn: Option<Turn>,
    /// Pods whose finalizer may go.
    pub(super) release: Vec<&'a Pod>,
    /// UIDs of the Pods that have it.
    tracked: HashSet<String>,
    /// Complete or Failed, when all is counted.
    end: Option<JobCondition>,
    /// Whether there was more to count than one status takes.
    is_partial: bool,
}

pub(super) fn record<'a>(view: &'a View<'_>, plan: &Plan<'a>, outcome: Outcome) -> Record<'a> {
    let mut status = view.status();
    let uncounted = status.uncounted_terminated_pods.get_or_insert_default();
    uncounted.succeeded.get_or_insert_default();
    uncounted.failed.get_or_insert_default();
    if status.start_time.is_none() && !view.spec.is_suspended {
        status.start_time = Some(Time(view.now));
    }
    let active = number(plan.tally.active.len()) + outcome.created - outcome.deleted;
    let (end, turn) = end(view, plan, outcome, active, &mut status);
    status.active = Some(active);
    status.ready = Some(plan.tally.ready - outcome.deleted_ready);
    status.terminating = Some(plan.tally.terminating + outcome.deleted);
    let tracked =
        view.pods.iter().filter(|pod| view.is_uncounted(pod)).map(|pod| uid(pod).to_owned()).collect();
    let mut record = Record { status, turn, release: Vec::new(), tracked, end, is_partial: false };
    count_gone(&mut record.status, &record.tracked);
    record.list_ended(view, plan);
    record.note_end(view);
    record
}

/// Why the Job ends, if all that it did is known; and whether it was suspended or resumed.
fn end(
    view: &View<'_>,
    plan: &Plan<'_>,
    outcome: Outcome,
    active: i32,
    status: &mut JobStatus,
) -> (Option<JobCondition>, Option<Turn>) {
    match &plan.action {
        // Pods that are still to be deleted or seen would be forgotten.
        Action::End(pods) => {
            let is_known = outcome.deleted == number(pods.len()) && view.is_settled;
            (plan.end.clone().filter(|_| is_known), None)
        }
        _ if is_complete(view, &plan.tally, active) => {
            let message = "Reached expected number of succeeded pods";
            (Some(condition(SUCCESS_CRITERIA_MET, "CompletionsReached", message, view.now)), None)
        }
        Action::Wait => (None, None),
        Action::Keep | Action::Remove(_) | Action::Create(_) => (None, turn(view, status)),
    }
}

/// Writes the condition Suspended. A Job that was never suspended does not have it.
fn turn(view: &View<'_>, status: &mut JobStatus) -> Option<Turn> {
    let conditions = status.conditions.get_or_insert_default();
    let known = conditions.iter_mut().find(|condition| condition.type_ == "Suspended");
    let (reason, message) = if view.spec.is_suspended {
        ("JobSuspended", "Job suspended")
    } else {
        ("JobResumed", "Job resumed")
    };
    let mut new = condition("Suspended", reason, message, view.now);
    if !view.spec.is_suspended {
        "False".clone_into(&mut new.status);
    }
    match known {
        Some(known) if known.status == new.status => return None,
        Some(known) => *known = new,
        None if view.spec.is_suspended => conditions.push(new),
        None => return None,
    }
    if view.spec.is_suspended {
        return Some(Turn::Suspended);
    }
    // The deadline counts the time that the Job is active without a break.
    status.start_time = Some(Time(view.now));
    Some(Turn::Resumed)
}

/// Counts the listed Pods that have no finalizer any more.
fn count_gone(status: &mut JobStatus, tracked: &HashSet<String>) {
    let Some(uncounted) = &mut status.uncounted_terminated_pods else { return };
    let count = |list: &mut Option<Vec<String>>, counter: &mut Option<i32>| {
        let Some(list) = list else { return };
        let before = list.len();
        list.retain(|uid| tracked.contains(uid));
        let gone = number(before - list.len());
        if gone > 0 {
            *counter = Some(counter.unwrap_or(0).saturating_add(gone));
        }
    };
    count(&mut uncounted.succeeded, &mut status.succeeded);
    count(&mut uncounted.failed, &mut status.failed);
}

fn listed(list: &Option<Vec<String>>, pod: &Pod) -> bool {
    list.as_ref().is_some_and(|list| list.iter().any(|one| one == uid(pod)))
}

impl<'a> Record<'a> {
    /// Lists the Pods that have ended, as many as fit.
    fn list_ended(&mut self, view: &'a View<'_>, plan: &Plan<'a>) {
        let UncountedTerminatedPods { mut succeeded, mut failed } =
            self.status.uncounted_terminated_pods.take().unwrap_or_default();
        let mut indexes = Vec::new();
        for pod in view.pods.iter().map(|pod| &**pod).filter(|pod| view.is_uncounted(pod)) {
            if !self.may_release(view, plan, pod) {
                continue;
            }
            self.release.push(pod);
            if listed(&failed, pod) || listed(&succeeded, pod) || !view.spec.takes(index(pod)) {
                continue;
            }
            if has_succeeded(pod) {
                match index(pod).filter(|_| view.spec.is_indexed) {
                    // The index itself says that it is counted.
                    Some(index) if plan.tally.succeeded_before.has(index) => {}
                    Some(index) => indexes.push(index),
                    None => succeeded.get_or_insert_default().push(uid(pod).to_owned()),
                }
            } else if self.is_failure(view, pod)
                && policy::judge(view.spec.failure_policy, pod) != Verdict::Ignore
            {
                failed.get_or_insert_default().push(uid(pod).to_owned());
            }
            let full = |list: &Option<Vec<String>>| list.as_ref().map_or(0, Vec::len);
            if indexes.len() + full(&succeeded) + full(&failed) >= UNCOUNTED_MAX {
                self.is_partial = true;
                break;
            }
        }
        self.status.uncounted_terminated_pods = Some(UncountedTerminatedPods { succeeded, failed });
        if view.spec.is_indexed {
            self.write_indexes(plan, indexes);
        }
    }

    fn write_indexes(&mut self, plan: &Plan<'_>, new: Vec<i32>) {
        let mut succeeded = plan.tally.succeeded_before.clone();
        succeeded.extend(&new.into_iter().collect::<Indexes>());
        self.status.succeeded = Some(succeeded.total());
        self.status.completed_indexes = Some(succeeded.to_string());
        self.status.failed_indexes = plan.tally.failed_indexes.as_ref().map(ToString::to_string);
    }

    fn may_release(&self, view: &View<'_>, plan: &Plan<'_>, pod: &Pod) -> bool {
        let awaits_replacement = || {
            let awaiting = index(pod).and_then(|index| plan.tally.awaiting_replacement.get(&index));
            awaiting.is_some_and(|awaiting| uid(awaiting) == uid(pod))
        };
        view.job.metadata.deletion_timestamp.is_some()
            || self.end.is_some()
            || has_succeeded(pod)
            || has_failed(pod, &view.spec) && !awaits_replacement()
    }

    /// Whoever is deleted with a Job that has failed, has failed.
    fn is_failure(&self, view: &View<'_>, pod: &Pod) -> bool {
        has_failed(pod, &view.spec) || self.end.as_ref().is_some_and(|end| end.type_ != SUCCESS_CRITERIA_MET)
    }

    /// What ends the Job is written before the finalizers go: nobody could tell it afterwards.
    fn note_end(&mut self, view: &View<'_>) {
        let Some(end) = &mut self.end else { return };
        let kind = match end.type_.as_str() {
            SUCCESS_CRITERIA_MET => "Complete",
            FAILURE_TARGET => "Failed",
            _ => return,
        };
        if find(&self.status, &end.type_).is_none() {
            self.status.conditions.get_or_insert_default().push(end.clone());
        }
        let words = |text: &Option<String>| text.clone().unwrap_or_default();
        *end = condition(kind, &words(&end.reason), &words(&end.message), view.now);
    }

    /// The status once these Pods have lost their finalizer, and what ended the Job if it has ended now.
    pub(super) fn settle(
        &mut self,
        released: impl IntoIterator<Item = String>,
        written: JobStatus,
    ) -> (JobStatus, Option<JobCondition>) {
        for uid in released {
            self.tracked.remove(&uid);
        }
        let mut status = written;
        count_gone(&mut status, &self.tracked);
        let uncounted = status.uncounted_terminated_pods.as_ref();
        let is_open = uncounted
            .is_some_and(|lists| lists.succeeded.iter().chain(&lists.failed).any(|list| !list.is_empty()));
        if is_open || self.is_partial || status.terminating.unwrap_or(0) > 0 {
            return (status, None);
        }
        let Some(end) = self.end.clone() else { return (status, None) };
        status.conditions.get_or_insert_default().push(end.clone());
        if end.type_ == "Complete" {
            status.completion_time.clone_from(&end.last_transition_time);
        }
        (status, Some(end))
    }
}

/// Whether two statuses say the same: nothing and zero are alike.
pub(super) fn same(one: &JobStatus, two: &JobStatus) -> bool {
    normal(one) == normal(two)
}

fn normal(status: &JobStatus) -> JobStatus {
    let mut status = status.clone();
    for count in [&mut status.active, &mut status.failed, &mut status.succeeded] {
        *count = count.filter(|count| *count != 0);
    }
    let none = |list: &mut Option<Vec<String>>| *list = list.take().filter(|list| !list.is_empty());
    let uncounted = status.uncounted_terminated_pods.get_or_insert_default();
    none(&mut uncounted.succeeded);
    none(&mut uncounted.failed);
    status.conditions = status.conditions.take().filter(|list| !list.is_empty());
    status.completed_indexes = status.completed_indexes.take().filter(|text| !text.is_empty());
    status
}

/// The status as it is written: lists and counts that say nothing are left out.
pub(super) fn written(status: &JobStatus) -> JobStatus {
    normal(status)
}
