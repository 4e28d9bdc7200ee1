//! What a ReplicaSet says of its Pods.

use std::sync::Arc;
use std::time::Duration;

use client::Error;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Wanted, until};
use crate::conditions::{available_from, ready_since};
use crate::pod_control::words;

const FAILURE: &str = "ReplicaFailure";

/// The status after its active Pods were counted; `failed` is what went wrong while they were managed.
pub(super) fn of(
    before: &ReplicaSetStatus,
    wanted: &Wanted<'_>,
    active: &[Arc<Pod>],
    terminating: usize,
    failed: Option<&Error>,
    now: Timestamp,
) -> ReplicaSetStatus {
    let count = |which: &dyn Fn(&Pod) -> bool| number(active.iter().filter(|pod| which(pod)).count());
    let labelled = |pod: &Pod| {
        let labels = pod.metadata.labels.as_ref();
        wanted
            .template_labels()
            .all(|(name, value)| labels.and_then(|labels| labels.get(name)) == Some(value))
    };
    let available = |pod: &Pod| available_from(pod, wanted.min_ready_seconds).is_some_and(|from| from <= now);
    ReplicaSetStatus {
        replicas: number(active.len()),
        fully_labeled_replicas: Some(count(&labelled)),
        ready_replicas: Some(count(&|pod| ready_since(pod).is_some())),
        available_replicas: Some(count(&available)),
        terminating_replicas: Some(number(terminating)),
        observed_generation: Some(wanted.generation),
        conditions: conditions(before, wanted, active.len(), failed, now),
    }
}

fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// A failure that lasts keeps the words and the time of its beginning.
fn conditions(
    before: &ReplicaSetStatus,
    wanted: &Wanted<'_>,
    active: usize,
    failed: Option<&Error>,
    now: Timestamp,
) -> Option<Vec<ReplicaSetCondition>> {
    let mut conditions = before.conditions.clone().unwrap_or_default();
    let known = conditions.iter().any(|condition| condition.type_ == FAILURE);
    match failed {
        None => conditions.retain(|condition| condition.type_ != FAILURE),
        Some(_) if known => {}
        Some(error) => {
            let too_few = active < usize::try_from(wanted.replicas).unwrap_or(0);
            conditions.push(ReplicaSetCondition {
                type_: FAILURE.into(),
                status: "True".into(),
                reason: Some(if too_few { "FailedCreate" } else { "FailedDelete" }.into()),
                message: Some(words(error)),
                last_transition_time: Some(Time(now)),
            });
        }
    }
    (!conditions.is_empty()).then_some(conditions)
}

/// A count that is left out is 0.
pub(super) fn says_the_same(before: &ReplicaSetStatus, after: &ReplicaSetStatus) -> bool {
    let counts = |status: &ReplicaSetStatus| {
        [
            Some(status.replicas),
            status.fully_labeled_replicas,
            status.ready_replicas,
            status.available_replicas,
            status.terminating_replicas,
        ]
        .map(|count| count.unwrap_or(0))
    };
    let conditions = |status: &ReplicaSetStatus| status.conditions.clone().unwrap_or_default();
    counts(before) == counts(after)
        && before.observed_generation == after.observed_generation
        && conditions(before) == conditions(after)
}

/// How long until the next of the Pods has been ready for long enough.
pub(super) fn next_available(
    active: &[Arc<Pod>],
    min_ready_seconds: i32,
    now: Timestamp,
) -> Option<Duration> {
    let times = active.iter().filter_map(|pod| available_from(pod, min_ready_seconds));
    times.filter(|time| *time > now).min().map(|time| until(time, now))
}
