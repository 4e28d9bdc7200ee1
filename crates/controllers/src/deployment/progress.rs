//! What a Deployment says of itself: counts, and the conditions Available, Progressing and ReplicaFailure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::sizes::Bounds;

const AVAILABLE: &str = "Available";
pub(super) const PROGRESSING: &str = "Progressing";
const FAILURE: &str = "ReplicaFailure";
/// The reason of a Deployment that has reached its template.
const COMPLETE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";

pub(super) fn status_of(set: &ReplicaSet) -> k8s_openapi::api::apps::v1::ReplicaSetStatus {
    set.status.clone().unwrap_or_default()
}

/// How large a ReplicaSet is to be.
pub(super) fn size(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

/// No deadline is the same as the largest number.
pub(super) fn deadline(deployment: &Deployment) -> Option<SignedDuration> {
    let seconds = deployment.spec.as_ref()?.progress_deadline_seconds?;
    (seconds != i32::MAX).then(|| SignedDuration::from_secs(seconds.into()))
}

pub(super) fn condition<'a>(status: &'a DeploymentStatus, kind: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.iter().flatten().find(|condition| condition.type_ == kind)
}

pub(super) fn new_condition(
    kind: &str,
    status: &str,
    reason: &str,
    message: impl Into<String>,
    now: Timestamp,
) -> DeploymentCondition {
    DeploymentCondition {
        type_: kind.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_update_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    }
}

/// One that says what is known already is not news; the last to change stands last.
pub(super) fn set_condition(status: &mut DeploymentStatus, mut new: DeploymentCondition) {
    let conditions = status.conditions.get_or_insert_default();
    if let Some(old) = conditions.iter().find(|condition| condition.type_ == new.type_) {
        if old.status == new.status && old.reason == new.reason {
            return;
        }
        if old.status == new.status {
            new.last_transition_time = old.last_transition_time.clone();
        }
    }
    conditions.retain(|condition| condition.type_ != new.type_);
    conditions.push(new);
}

fn remove_condition(status: &mut DeploymentStatus, kind: &str) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|condition| condition.type_ != kind);
    }
}

/// What the ReplicaSets have, counted.
pub(super) fn counted(
    deployment: &Deployment,
    new: Option<&ReplicaSet>,
    old: &[ReplicaSet],
    now: Timestamp,
) -> DeploymentStatus {
    let sum = |count: &dyn Fn(&k8s_openapi::api::apps::v1::ReplicaSetStatus) -> Option<i32>| {
        old.iter().chain(new).filter_map(|set| count(&status_of(set))).sum::<i32>()
    };
    let available = sum(&|set| set.available_replicas);
    let wished: i32 = old.iter().chain(new).map(size).sum();
    let before = deployment.status.as_ref();
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: Some(sum(&|set| Some(set.replicas))),
        updated_replicas: Some(new.map_or(0, |set| status_of(set).replicas)),
        ready_replicas: Some(sum(&|set| set.ready_replicas)),
        available_replicas: Some(available),
        unavailable_replicas: Some((wished - available).max(0)),
        terminating_replicas: Some(sum(&|set| set.terminating_replicas)),
        collision_count: before.and_then(|status| status.collision_count),
        conditions: before.and_then(|status| status.conditions.clone()),
    };
    let bounds = Bounds::of(deployment);
    let condition = if available >= bounds.replicas - bounds.unavailable {
        let text = "Deployment has minimum availability.";
        new_condition(AVAILABLE, "True", "MinimumReplicasAvailable", text, now)
    } else {
        let text = "Deployment does not have minimum availability.";
        new_condition(AVAILABLE, "False", "MinimumReplicasUnavailable", text, now)
    };
    set_condition(&mut status, condition);
    status
}

/// The same, with what can be said of a rollout: whether it goes on, has ended or has taken too long.
pub(super) fn rolled(
    deployment: &Deployment,
    new: Option<&ReplicaSet>,
    old: &[ReplicaSet],
    now: Timestamp,
) -> DeploymentStatus {
    let mut status = counted(deployment, new, old, now);
    let before = deployment.status.clone().unwrap_or_default();
    let known = condition(&before, PROGRESSING).cloned();
    let was_complete = status.replicas == status.updated_replicas
        && known.as_ref().and_then(|condition| condition.reason.as_deref()) == Some(COMPLETE);
    if deadline(deployment).is_none() {
        remove_condition(&mut status, PROGRESSING);
    } else if !was_complete {
        let of = |verb: &str| match new.and_then(|set| set.metadata.name.as_deref()) {
            Some(name) => format!("ReplicaSet {name:?} {verb}"),
            None => {
                format!("Deployment {:?} {verb}", deployment.metadata.name.as_deref().unwrap_or_default())
            }
        };
        if is_complete(deployment, &status) {
            let text = of("has successfully progressed.");
            set_condition(&mut status, new_condition(PROGRESSING, "True", COMPLETE, text, now));
        } else if progresses(&before, &status) {
            let text = of("is progressing.");
            let mut condition = new_condition(PROGRESSING, "True", "ReplicaSetUpdated", text, now);
            if let Some(known) = known.filter(|known| known.status == "True") {
                condition.last_transition_time = known.last_transition_time;
            }
            // Also without another reason: its time is what the deadline counts from.
            remove_condition(&mut status, PROGRESSING);
            set_condition(&mut status, condition);
        } else if is_late(deployment, known.as_ref(), now) {
            let text = of("has timed out progressing.");
            set_condition(&mut status, new_condition(PROGRESSING, "False", TIMED_OUT, text, now));
        }
    }
    match failure(new, old) {
        Some(condition) => set_condition(&mut status, condition),
        None => remove_condition(&mut status, FAILURE),
    }
    status
}

/// A count that is left out is 0.
pub(super) fn says_the_same(before: &DeploymentStatus, after: &DeploymentStatus) -> bool {
    let counts = |status: &DeploymentStatus| {
        [
            status.replicas,
            status.updated_replicas,
            status.ready_replicas,
            status.available_replicas,
            status.unavailable_replicas,
            status.terminating_replicas,
            status.collision_count,
        ]
        .map(|count| count.unwrap_or(0))
    };
    let conditions = |status: &DeploymentStatus| status.conditions.clone().unwrap_or_default();
    counts(before) == counts(after)
        && before.observed_generation == after.observed_generation
        && conditions(before) == conditions(after)
}

/// The failure of the new ReplicaSet, or of one of the old.
fn failure(new: Option<&ReplicaSet>, old: &[ReplicaSet]) -> Option<DeploymentCondition> {
    let conditions = new.into_iter().chain(old).flat_map(|set| status_of(set).conditions.unwrap_or_default());
    let failed = conditions.into_iter().find(|condition| condition.type_ == FAILURE)?;
    Some(DeploymentCondition {
        type_: failed.type_,
        status: failed.status,
        reason: failed.reason,
        message: failed.message,
        last_update_time: failed.last_transition_time.clone(),
        last_transition_time: failed.last_transition_time,
    })
}

/// All Pods are of the new template and available.
pub(super) fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let replicas = Some(Bounds::of(deployment).replicas);
    status.updated_replicas == replicas
        && status.replicas == replicas
        && status.available_replicas == replicas
        && status.observed_generation >= deployment.metadata.generation
}

fn progresses(before: &DeploymentStatus, now: &DeploymentStatus) -> bool {
    let old = |status: &DeploymentStatus| status.replicas.unwrap_or(0) - status.updated_replicas.unwrap_or(0);
    let more =
        |count: fn(&DeploymentStatus) -> Option<i32>| count(now).unwrap_or(0) > count(before).unwrap_or(0);
    more(|status| status.updated_replicas)
        || old(now) < old(before)
        || more(|status| status.ready_replicas)
        || more(|status| status.available_replicas)
}

/// When the rollout that `known` tells of will have taken too long.
fn due(deployment: &Deployment, known: &DeploymentCondition) -> Option<Timestamp> {
    known.last_update_time.as_ref()?.0.checked_add(deadline(deployment)?).ok()
}

fn is_late(deployment: &Deployment, known: Option<&DeploymentCondition>, now: Timestamp) -> bool {
    let Some(known) = known else { return false };
    match known.reason.as_deref() {
        Some(COMPLETE) => false,
        Some(TIMED_OUT) => true,
        _ => due(deployment, known).is_some_and(|due| due < now),
    }
}

/// When to look again whether it has taken too long: nothing changes by that alone.
pub(super) fn look_again(
    deployment: &Deployment,
    status: &DeploymentStatus,
    now: Timestamp,
) -> Option<Duration> {
    let known = condition(status, PROGRESSING)?;
    if is_complete(deployment, status)
        || matches!(known.reason.as_deref(), Some(COMPLETE | TIMED_OUT | PAUSED))
    {
        return None;
    }
    let left = now.duration_until(due(deployment, known)?).max(SignedDuration::ZERO);
    // A second more, so that it is late then.
    Duration::try_from(left).ok().map(|left| left + Duration::from_secs(1))
}

/// A pause does not count against the deadline. What to say when it begins or ends, if that is news.
pub(super) fn pause(deployment: &Deployment, now: Timestamp) -> Option<DeploymentCondition> {
    deadline(deployment)?;
    let status = deployment.status.clone().unwrap_or_default();
    let reason = condition(&status, PROGRESSING).and_then(|condition| condition.reason.as_deref());
    if reason == Some(TIMED_OUT) {
        return None;
    }
    match (super::is_paused(deployment), reason == Some(PAUSED)) {
        (true, false) => Some(new_condition(PROGRESSING, "Unknown", PAUSED, "Deployment is paused", now)),
        (false, true) => {
            Some(new_condition(PROGRESSING, "Unknown", "DeploymentResumed", "Deployment is resumed", now))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set(replicas: i32, available: i32) -> ReplicaSet {
        serde_json::from_value(json!({
            "metadata": {"name": "web-1"}, "status": {"replicas": replicas, "readyReplicas": available,
                "availableReplicas": available},
        }))
        .unwrap()
    }

    fn deployment() -> Deployment {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "generation": 1},
            "spec": {"replicas": 2, "progressDeadlineSeconds": 60, "selector": {}, "template": {},
                "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}},
        }))
        .unwrap()
    }

    #[test]
    fn a_rollout_progresses_then_is_complete_and_too_late_without_progress() {
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut web = deployment();
        let at = |web: &mut Deployment, seconds: i64, new: ReplicaSet| {
            let now = start + SignedDuration::from_secs(seconds);
            let status = rolled(web, Some(&new), &[], now);
            let again = look_again(web, &status, now).map(|left| left.as_secs());
            web.status = Some(status.clone());
            let told = condition(&status, PROGRESSING).cloned().unwrap();
            (told.status, told.reason.unwrap(), told.message.unwrap(), again)
        };
        let told = |status: &str, reason: &str, text: &str, again| {
            (status.to_owned(), reason.to_owned(), format!("ReplicaSet \"web-1\" {text}"), again)
        };
        let goes_on = |again| told("True", "ReplicaSetUpdated", "is progressing.", Some(again));
        assert_eq!(at(&mut web, 0, set(1, 0)), goes_on(61));
        assert_eq!(at(&mut web, 50, set(2, 1)), goes_on(61), "progress moves the deadline");
        assert_eq!(at(&mut web, 100, set(2, 1)), goes_on(11));
        let late = told("False", TIMED_OUT, "has timed out progressing.", None);
        assert_eq!(at(&mut web, 111, set(2, 1)), late);
        let complete = told("True", COMPLETE, "has successfully progressed.", None);
        assert_eq!(at(&mut web, 200, set(2, 2)), complete);
        assert_eq!(at(&mut web, 900, set(2, 1)), complete, "a Pod that fails later is no rollout");
        let conditions = web.status.unwrap().conditions.unwrap();
        let kinds: Vec<_> = conditions.iter().map(|c| (c.type_.as_str(), c.status.as_str())).collect();
        assert_eq!(kinds, [(PROGRESSING, "True"), (AVAILABLE, "False")]);
    }

    #[test]
    fn a_pause_stops_the_clock() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut web = deployment();
        assert_eq!(pause(&web, now), None);
        web.spec.as_mut().unwrap().paused = Some(true);
        let paused = pause(&web, now).unwrap();
        assert_eq!(paused.reason.as_deref(), Some(PAUSED));
        let status = web.status.get_or_insert_default();
        set_condition(status, paused);
        assert_eq!(look_again(&web, &web.status.clone().unwrap(), now), None);
        assert_eq!(pause(&web, now), None, "it is no news");
        web.spec.as_mut().unwrap().paused = None;
        assert_eq!(pause(&web, now).unwrap().reason.as_deref(), Some("DeploymentResumed"));
    }
}
