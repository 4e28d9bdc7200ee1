//! How long objects last: what their deletion waits for, and when their writes must be durable.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::Kind;

/// How long Events are kept: upstream's `--event-ttl`.
pub(super) const EVENTS_KEPT: Lifetime =
    Lifetime { kept: SignedDuration::from_hours(1), last_seen: event_last_seen };
/// How late Events may be made durable.
pub(super) const EVENTS_WITHIN: Duration = Duration::from_secs(1);
/// How late the renewal of a Lease may be made durable: all who watch Leases go
/// by when they saw it change, so a renewal that a crash forgets is not missed, and
/// a node that only renews writes next to nothing to its disk.
pub(super) const RENEWALS_WITHIN: Duration = Duration::from_secs(300);

/// What a deletion waits for, besides the finalizers in the metadata.
#[derive(Debug, Clone, Copy)]
pub enum Deletion {
    /// Nothing.
    AtOnce,
    /// So many seconds, by the object and what was asked for.
    Graceful(fn(&Value, Option<i64>) -> i64),
    /// That somebody empties it, and takes the finalizers out of its spec.
    Emptied,
}

/// How long objects are kept that nobody deletes.
#[derive(Debug, Clone, Copy)]
pub struct Lifetime {
    /// So long after they were last seen.
    pub kept: SignedDuration,
    /// When an object was last seen; one that does not say stays.
    pub last_seen: fn(&Value) -> Option<Timestamp>,
}

/// When a write must be durable.
#[derive(Debug, Clone, Copy)]
pub enum Durability {
    /// Before it is answered.
    Now,
    /// So much later.
    Within(Duration),
    /// So much later if between the old object and the new one there is no news.
    Renewals(Duration, fn(&Value, &Value) -> bool),
}

/// How a kind says so.
impl Kind {
    pub(super) const fn deletes(mut self, how: Deletion) -> Self {
        self.deletion = how;
        self
    }

    pub(super) const fn answers_deletion_with_object(mut self) -> Self {
        self.deletion_answers_object = true;
        self
    }

    pub(super) const fn orphans_by_default(mut self) -> Self {
        self.orphans_by_default = true;
        self
    }

    pub(super) const fn warns_of_orphans(mut self, words: &'static str) -> Self {
        self.orphan_warning = Some(words);
        self
    }

    pub(super) const fn written_within(mut self, time: Duration) -> Self {
        self.durability = Durability::Within(time);
        self
    }

    pub(super) const fn kept_for(mut self, lifetime: Lifetime) -> Self {
        self.lifetime = Some(lifetime);
        self
    }

    pub(super) const fn renewed_by(mut self, is_renewal: fn(&Value, &Value) -> bool) -> Self {
        self.durability = Durability::Renewals(RENEWALS_WITHIN, is_renewal);
        self
    }
}

/// Upstream's podStrategy.CheckGracefulDelete.
pub(super) fn grace_of_pod(pod: &Value, asked: Option<i64>) -> i64 {
    let unscheduled = pod["spec"]["nodeName"].as_str().unwrap_or_default().is_empty();
    let finished = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    let seconds = asked.or_else(|| pod["spec"]["terminationGracePeriodSeconds"].as_i64()).unwrap_or(0);
    match seconds {
        _ if unscheduled || finished => 0,
        seconds if seconds < 0 => 1,
        seconds => seconds,
    }
}

/// The last time of those that an Event says of itself: one that is seen again is written again.
fn event_last_seen(event: &Value) -> Option<Timestamp> {
    let times = [
        &event["metadata"]["creationTimestamp"],
        &event["lastTimestamp"],
        &event["series"]["lastObservedTime"],
    ];
    times.into_iter().filter_map(|time| time.as_str()?.parse().ok()).max()
}

/// Whether a Lease changes in nothing but the time of its renewal.
pub(super) fn is_renewal_of_lease(old: &Value, new: &Value) -> bool {
    let kept = |lease: &Value| {
        let mut spec = lease["spec"].clone();
        if let Some(spec) = spec.as_object_mut() {
            spec.remove("renewTime");
        }
        spec
    };
    kept(old) == kept(new) && old["metadata"]["ownerReferences"] == new["metadata"]["ownerReferences"]
}

/// Whether a Node changes in nothing but the times at which its conditions were looked at:
/// what a quiet kubelet reports every five minutes.
pub(super) fn is_heartbeat_of_node(old: &Value, new: &Value) -> bool {
    let kept = |node: &Value| {
        let mut status = node["status"].clone();
        for condition in status["conditions"].as_array_mut().into_iter().flatten() {
            condition.as_object_mut().map(|condition| condition.remove("lastHeartbeatTime"));
        }
        let mut metadata = node["metadata"].clone();
        for field in ["managedFields", "resourceVersion"] {
            metadata.as_object_mut().map(|metadata| metadata.remove(field));
        }
        (metadata, node["spec"].clone(), status)
    };
    kept(old) == kept(new)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_the_renewal_of_a_lease_may_be_lazy() {
        let lease = |holder: &str, time: &str| json!({"metadata": {"name": "a", "managedFields": [time]}, "spec": {"holderIdentity": holder, "renewTime": time}});
        assert!(is_renewal_of_lease(&lease("me", "1"), &lease("me", "2")));
        assert!(!is_renewal_of_lease(&lease("me", "1"), &lease("you", "1")));
    }

    #[test]
    fn only_the_heartbeat_of_a_node_may_be_lazy() {
        let node = |ready: &str, time: &str, version: &str| {
            json!({"metadata": {"name": "a", "resourceVersion": version, "managedFields": [time]},
            "status": {"conditions": [{"type": "Ready", "status": ready, "lastHeartbeatTime": time}]}})
        };
        assert!(is_heartbeat_of_node(&node("True", "1", "1"), &node("True", "2", "")));
        assert!(!is_heartbeat_of_node(&node("True", "1", "1"), &node("False", "2", "1")));
        let cordoned = json!({"metadata": {"name": "a"}, "spec": {"unschedulable": true}, "status": node("True", "1", "1")["status"]});
        assert!(!is_heartbeat_of_node(&node("True", "1", "1"), &cordoned));
    }
}
