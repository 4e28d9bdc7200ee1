//! What there is of a Job: its Pods, counted together with what its status has counted.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::Pod;

use super::backoff::{Failures, finished_at};
use super::indexes::Indexes;
use super::pod::{self, has_failed, has_succeeded, index, is_tracked, uid};
use super::policy::{self, Verdict};
use super::spec::Spec;
use crate::conditions::{is_active, is_terminating, ready_since};

/// What a decision is made of.
#[derive(Debug)]
pub(super) struct View<'a> {
    pub(super) job: &'a Job,
    pub(super) spec: Spec<'a>,
    /// The Pods that belong to the Job, in the order of their indexes and names.
    pub(super) pods: Vec<Arc<Pod>>,
    /// UIDs of Pods that were told to lose the finalizer, whatever the cache shows.
    pub(super) released: HashSet<String>,
    /// Whether all Pods made and deleted are seen as such.
    pub(super) is_settled: bool,
    /// The failures known so far; `None` after a restart.
    pub(super) failures: Option<Failures>,
    pub(super) now: Timestamp,
}

impl<'a> View<'a> {
    pub(super) fn status(&self) -> JobStatus {
        self.job.status.clone().unwrap_or_default()
    }

    /// A Pod whose end the status does not hold yet.
    pub(super) fn is_uncounted(&self, pod: &Pod) -> bool {
        is_tracked(pod) && !self.released.contains(uid(pod))
    }

    /// Pods whose end counts and is in no list of the status.
    fn ended(&'a self, listed: Option<&Vec<String>>, has_ended: impl Fn(&Pod) -> bool) -> Vec<&'a Pod> {
        let listed: HashSet<&str> = listed.into_iter().flatten().map(String::as_str).collect();
        let new = self.pods.iter().map(|pod| &**pod).filter(|pod| {
            self.is_uncounted(pod)
                && !listed.contains(uid(pod))
                && self.spec.takes(index(pod))
                && has_ended(pod)
        });
        new.collect()
    }
}

/// The counts.
#[derive(Debug)]
pub(super) struct Tally<'a> {
    pub(super) active: Vec<&'a Pod>,
    pub(super) ready: i32,
    pub(super) terminating: i32,
    pub(super) succeeded: i32,
    pub(super) failed: i32,
    /// What the status says.
    pub(super) succeeded_before: Indexes,
    pub(super) succeeded_indexes: Indexes,
    /// Only where failures are limited per index.
    pub(super) failed_indexes: Option<Indexes>,
    /// Failed Pods that stay until their replacement has taken over the count of failures.
    pub(super) awaiting_replacement: BTreeMap<i32, &'a Pod>,
    pub(super) failures: Failures,
}

pub(super) fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

impl<'a> Tally<'a> {
    pub(super) fn of(view: &'a View<'_>) -> Self {
        let (spec, status) = (&view.spec, view.status());
        let pods = || view.pods.iter().map(|pod| &**pod);
        let active: Vec<&Pod> = pods().filter(|pod| is_active(pod)).collect();
        let uncounted = status.uncounted_terminated_pods.clone().unwrap_or_default();
        let new_succeeded = view.ended(uncounted.succeeded.as_ref(), has_succeeded);
        let new_failed = view.ended(uncounted.failed.as_ref(), |pod| has_failed(pod, spec));
        let counts = |pod: &&&Pod| policy::judge(spec.failure_policy, pod) != Verdict::Ignore;
        let listed = |list: &Option<Vec<String>>| list.as_ref().map_or(0, |list| number(list.len()));
        let ready = |pod: &&&Pod| ready_since(pod).is_some();
        let mut tally = Self {
            ready: number(active.iter().filter(ready).count()),
            active,
            terminating: number(pods().filter(|pod| is_terminating(pod)).count()),
            succeeded: status.succeeded.unwrap_or(0)
                + number(new_succeeded.len())
                + listed(&uncounted.succeeded),
            failed: status.failed.unwrap_or(0)
                + number(new_failed.iter().filter(counts).count())
                + listed(&uncounted.failed),
            succeeded_before: Indexes::default(),
            succeeded_indexes: Indexes::default(),
            failed_indexes: None,
            awaiting_replacement: BTreeMap::new(),
            failures: failures(view, &new_succeeded, &new_failed),
        };
        if spec.is_indexed {
            tally.count_indexes(view, &status);
        }
        tally
    }

    fn count_indexes(&mut self, view: &'a View<'_>, status: &JobStatus) {
        let spec = &view.spec;
        let completions = spec.completions.unwrap_or(0);
        let parse = |text: &Option<String>| Indexes::parse(text.as_deref().unwrap_or_default(), completions);
        self.succeeded_before = parse(&status.completed_indexes);
        self.succeeded_indexes = self.succeeded_before.clone();
        let valid = |pod: &Pod| index(pod).filter(|index| *index < completions && is_tracked(pod));
        for index in view.pods.iter().filter(|pod| has_succeeded(pod)).filter_map(|pod| valid(pod)) {
            self.succeeded_indexes.insert(index);
        }
        self.succeeded = self.succeeded_indexes.total();
        let Some(limit) = spec.limit_per_index else { return };
        let mut failed = parse(&status.failed_indexes);
        for index in view.pods.iter().filter(|pod| fails_index(pod, spec, limit)).filter_map(|pod| valid(pod))
        {
            failed.insert(index);
        }
        let running: BTreeSet<i32> = self.active.iter().filter_map(|pod| index(pod)).collect();
        let decided =
            |index: i32| self.succeeded_indexes.has(index) || failed.has(index) || running.contains(&index);
        let mut last: BTreeMap<i32, &Pod> = BTreeMap::new();
        for pod in view.ended(None, |pod| has_failed(pod, spec)) {
            let Some(index) = index(pod).filter(|index| !decided(*index)) else { continue };
            let order = |pod: &Pod| (pod::all_failures_before(pod), finished_at(pod));
            if last.get(&index).is_none_or(|other| order(other) <= order(pod)) {
                last.insert(index, pod);
            }
        }
        self.awaiting_replacement = last;
        self.failed_indexes = Some(failed);
    }
}

/// The failures that make the next Pod wait; after a restart what the Pods that are there tell.
fn failures(view: &View<'_>, succeeded: &[&Pod], failed: &[&Pod]) -> Failures {
    if let Some(known) = view.failures {
        return known.with(succeeded, failed);
    }
    let pods = || view.pods.iter().map(|pod| &**pod);
    let succeeded: Vec<&Pod> = pods().filter(|pod| has_succeeded(pod)).collect();
    let failed: Vec<&Pod> = pods().filter(|pod| has_failed(pod, &view.spec)).collect();
    Failures::default().with(&succeeded, &failed)
}

/// Whether the failure of this Pod is the last that its index may have.
fn fails_index(pod: &Pod, spec: &Spec<'_>, limit: i32) -> bool {
    has_failed(pod, spec)
        && match policy::judge(spec.failure_policy, pod) {
            Verdict::FailIndex => true,
            Verdict::Ignore => false,
            Verdict::Count | Verdict::FailJob(_) => pod::failures_before(pod) >= limit,
        }
}
