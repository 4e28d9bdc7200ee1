//! How long a failed Pod's replacement waits: ten seconds, then twice as long after
//! each further failure, up to six minutes. A success begins anew.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;

/// Upstream's DefaultJobPodFailureBackOff and MaxJobPodFailureBackOff.
const PAUSE_MIN: SignedDuration = SignedDuration::from_secs(10);
const PAUSE_MAX: SignedDuration = SignedDuration::from_secs(360);

/// The failures of a Job since its last success.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Failures {
    count: u32,
    last: Option<Timestamp>,
}

impl Failures {
    /// `count` failures, the last of which was then.
    pub(super) fn of(count: u32, last: Timestamp) -> Self {
        Self { count, last: Some(last) }
    }

    /// With Pods that have ended since.
    pub(super) fn with(self, succeeded: &[&Pod], failed: &[&Pod]) -> Self {
        let success = succeeded.iter().filter_map(|pod| finished_at(pod)).max();
        let before = if succeeded.is_empty() { self } else { Self::default() };
        let since: Vec<_> = failed
            .iter()
            .filter_map(|pod| finished_at(pod))
            .filter(|at| succeeded.is_empty() || success.is_none_or(|success| *at > success))
            .collect();
        let count = before.count.saturating_add(u32::try_from(since.len()).unwrap_or(u32::MAX));
        Self { count, last: since.into_iter().max().or(before.last) }
    }

    /// How long the next Pod has to wait yet.
    pub(super) fn pause(self, now: Timestamp) -> SignedDuration {
        let (Some(last), Some(doublings)) = (self.last, self.count.checked_sub(1)) else {
            return SignedDuration::ZERO;
        };
        let pause = PAUSE_MIN.saturating_mul(1 << doublings.min(6)).min(PAUSE_MAX);
        (pause - now.duration_since(last)).max(SignedDuration::ZERO)
    }
}

/// When a Pod ended: its last container, else when it was no longer ready, else when it was deleted.
pub(super) fn finished_at(pod: &Pod) -> Option<Timestamp> {
    let metadata = &pod.metadata;
    let deleted = || {
        let grace = metadata.deletion_grace_period_seconds.unwrap_or(0);
        metadata
            .deletion_timestamp
            .as_ref()
            .map(|at| at.0.saturating_sub(SignedDuration::from_secs(grace)).unwrap_or(at.0))
    };
    let created = || metadata.creation_timestamp.as_ref().map(|at| at.0);
    containers_finished(pod).or_else(|| unready_since(pod)).or_else(deleted).or_else(created)
}

fn containers_finished(pod: &Pod) -> Option<Timestamp> {
    let statuses = pod.status.as_ref()?.container_statuses.as_deref()?;
    let mut last = None;
    for status in statuses {
        let at = status.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref()?.0;
        last = last.max(Some(at));
    }
    last
}

fn unready_since(pod: &Pod) -> Option<Timestamp> {
    let conditions = pod.status.as_ref()?.conditions.as_deref()?;
    let ready = conditions.iter().find(|one| one.type_ == "Ready" && one.status == "False")?;
    ready.last_transition_time.as_ref().map(|at| at.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn ended(second: i64) -> Pod {
        let state = json!({"terminated": {"exitCode": 1, "finishedAt": at(second).to_string()}});
        let status = json!({"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state});
        serde_json::from_value(json!({"status": {"containerStatuses": [status]}})).unwrap()
    }

    #[test]
    fn each_failure_doubles_the_pause_up_to_six_minutes() {
        let pauses: Vec<i64> =
            (0..9).map(|count| Failures::of(count, at(100)).pause(at(100)).as_secs()).collect();
        assert_eq!(pauses, [0, 10, 20, 40, 80, 160, 320, 360, 360]);
        assert_eq!(Failures::of(u32::MAX, at(100)).pause(at(400)).as_secs(), 60);
        assert_eq!(Failures::of(1, at(100)).pause(at(500)), SignedDuration::ZERO);
    }

    #[test]
    fn a_success_forgets_the_failures_before_it() {
        let (early, middle, late) = (ended(10), ended(20), ended(30));
        let twice = Failures::default().with(&[], &[&early]).with(&[], &[&late]);
        assert_eq!(twice, Failures::of(2, at(30)));
        assert_eq!(twice.with(&[], &[]), twice);
        assert_eq!(twice.with(&[&middle], &[]), Failures::default());
        assert_eq!(twice.with(&[&middle], &[&early, &late]), Failures::of(1, at(30)));
    }

    #[test]
    fn a_pod_without_ended_containers_ended_when_it_was_unready_or_deleted() {
        let created = json!({"metadata": {"creationTimestamp": at(1).to_string()}});
        let mut pod: Pod = serde_json::from_value(created).unwrap();
        assert_eq!(finished_at(&pod), Some(at(1)));
        pod.metadata = serde_json::from_value(
            json!({"deletionTimestamp": at(50).to_string(), "deletionGracePeriodSeconds": 30}),
        )
        .unwrap();
        assert_eq!(finished_at(&pod), Some(at(20)));
        let unready = json!({"conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": at(15).to_string()}]});
        pod.status = Some(serde_json::from_value(unready).unwrap());
        assert_eq!(finished_at(&pod), Some(at(15)));
    }
}
