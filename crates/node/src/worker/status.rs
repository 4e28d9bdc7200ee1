//! Writing the status: one patch at a time, changes meanwhile are merged into the next.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use client::{DeleteOptions, Patch, PatchKind, Retry};
use futures_util::FutureExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde_json::{Map, Value, json};

use super::{Message, PodWorker};
use crate::pod::event::Event;
use crate::pod::spec;
use crate::pod::state::Stage;
use crate::pod::status::{is_own, status};
use crate::pod::timeline::Entry;

/// Pause after a patch that failed for no fault of its own.
const PAUSE: Duration = Duration::from_secs(1);

/// What the API has and what it should have.
#[derive(Debug)]
pub(super) struct Writer {
    /// Last status the API is known to have.
    written: PodStatus,
    /// Status on its way, and the UID of the object that it is for.
    in_flight: Option<(String, PodStatus)>,
    /// Newest status.
    wanted: PodStatus,
    /// A pause goes on.
    waiting: bool,
    /// Delete the object as soon as its status is written.
    delete: bool,
    /// UID of the object that has the status. `None`: there is none yet.
    shown_by: Option<String>,
}

impl Writer {
    pub(super) fn new(pod: &Pod) -> Self {
        let written = pod.status.clone().unwrap_or_default();
        // A static Pod is in the API only by another.
        let shown_by = pod.metadata.uid.clone().filter(|_| !spec::is_static(pod));
        Self { wanted: written.clone(), written, in_flight: None, waiting: false, delete: false, shown_by }
    }

    /// From now on another object has the status.
    pub(super) fn show_by(&mut self, mirror: &Pod) {
        self.written = mirror.status.clone().unwrap_or_default();
        self.shown_by.clone_from(&mirror.metadata.uid);
    }

    pub(super) fn retry(&mut self) {
        self.waiting = false;
    }

    /// The last status goes first: who waits for the Pod's end sees how it ended.
    pub(super) fn delete_when_written(&mut self) {
        self.delete = true;
    }
}

impl PodWorker {
    /// Makes the status of the state, and begins to write it if it is new.
    pub(super) fn publish(&mut self) {
        if !self.state.observed {
            // What would be told is that nothing runs, which nobody knows yet.
            return;
        }
        let new = status(&self.state, &self.writer.wanted, &self.node.config.node_ips, Timestamp::now());
        if new != self.writer.wanted || self.state.is_terminated() {
            self.note_ready(&new);
            self.show(&new);
            self.writer.wanted = new;
        }
        if self.writer.in_flight.is_some() || self.writer.waiting || self.state.removed_from_api {
            return;
        }
        let Some(uid) = self.writer.shown_by.clone() else { return };
        if let Some(patch) = patch(&uid, &self.writer.written, &self.writer.wanted) {
            self.write(uid, patch);
        } else if std::mem::take(&mut self.writer.delete) {
            self.delete_object();
        }
    }

    /// Says in the timeline when the Pod becomes ready, or is so no more.
    fn note_ready(&self, new: &PodStatus) {
        let of = |status: &PodStatus| {
            let condition = status.conditions.iter().flatten().find(|one| one.type_ == "Ready")?;
            Some((condition.status == "True", condition.message.clone().unwrap_or_default()))
        };
        let (old, new) = (of(&self.writer.wanted), of(new));
        let was = old.is_some_and(|(ready, _)| ready);
        let Some((ready, cause)) = new.filter(|(ready, _)| *ready != was) else { return };
        let what = if ready { "Ready" } else { "NotReady" }.to_owned();
        let entry = Entry { at: Timestamp::now(), what, container: String::new(), cause, took_ms: None };
        self.node.timelines.note(&self.state.pod, entry);
    }

    fn write(&mut self, uid: String, patch: Value) {
        self.writer.in_flight = Some((uid, self.writer.wanted.clone()));
        let (node, pod, outbox) = (Arc::clone(&self.node), Arc::clone(&self.state.pod), self.outbox.clone());
        self.tasks.spawn(async move {
            let (namespace, name) = spec::name(&pod);
            let patch = Patch::status(PatchKind::Strategic, patch);
            let written = AssertUnwindSafe(node.client.patch::<Pod>(namespace, name, &patch));
            let message = match written.catch_unwind().await {
                Ok(result) => Message::StatusWritten(result.map(drop)),
                Err(_) => Message::StatusLost,
            };
            let _ = outbox.send(message).await;
        });
    }

    pub(super) fn status_written(&mut self, result: Result<(), client::Error>) {
        let Some((uid, sent)) = self.writer.in_flight.take() else { return };
        if self.writer.shown_by.as_ref() != Some(&uid) {
            // Another shows the Pod meanwhile, and has its own.
            return;
        }
        match result {
            Ok(()) => self.writer.written = sent,
            // Gone, or replaced by another of the same name: the watch tells which.
            Err(err) if err.is_not_found() || err.is_conflict() => self.writer.written = sent,
            Err(error) => {
                tracing::warn!(pod = %spec::full_name(&self.state.pod), %error, "the status could not be written");
                self.write_later();
            }
        }
    }

    /// Nobody knows what came of the patch.
    pub(super) fn status_lost(&mut self) {
        tracing::error!(pod = %spec::full_name(&self.state.pod), "the task that writes the status panicked");
        self.writer.in_flight = None;
        self.write_later();
    }

    fn write_later(&mut self) {
        self.writer.waiting = true;
        let outbox = self.outbox.clone();
        self.tasks.spawn(async move {
            tokio::time::sleep(PAUSE).await;
            let _ = outbox.send(Message::StatusRetry).await;
        });
    }

    fn delete_object(&mut self) {
        debug_assert!(matches!(self.state.stage, Stage::Deleting { .. } | Stage::Gone));
        let (node, pod) = (Arc::clone(&self.node), Arc::clone(&self.state.pod));
        let lost = Event::ObjectDeleted(Err(Retry::WaitForChange));
        self.spawn(lost, async move {
            let (namespace, name) = spec::name(&pod);
            let uid = pod.metadata.uid.as_deref().unwrap_or_default();
            let options = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::of_uid(uid) };
            let result = node.client.delete::<Pod>(namespace, name, &options).await;
            // A conflict is the UID: this object is gone already.
            let gone = |err: &client::Error| err.is_not_found() || err.is_conflict();
            Event::ObjectDeleted(result.or_else(|err| {
                if gone(&err) {
                    return Ok(());
                }
                tracing::warn!(error = %err, namespace, name, "the API does not delete a Pod that has gone; asking again");
                Err(err.retry())
            }))
        });
    }
}

/// A strategic merge patch from one status to the other, for the object of this UID; `None`: no difference.
/// Conditions of others are left to them.
fn patch(uid: &str, old: &PodStatus, new: &PodStatus) -> Option<Value> {
    let (Ok(Value::Object(old)), Ok(Value::Object(new))) =
        (serde_json::to_value(old), serde_json::to_value(new))
    else {
        return None;
    };
    let mut changes = Map::new();
    for (key, value) in &new {
        let before = old.get(key).unwrap_or(&Value::Null);
        if before == value {
            continue;
        }
        match key.as_str() {
            "conditions" => changes.extend(conditions(before, value)),
            "podIPs" | "hostIPs" => drop(changes.insert(key.clone(), addresses(before, value))),
            _ => drop(changes.insert(key.clone(), difference(before, value))),
        }
    }
    let removed = old.keys().filter(|key| !new.contains_key(*key));
    changes.extend(removed.map(|key| (key.clone(), Value::Null)));
    (!changes.is_empty()).then(|| json!({"metadata": {"uid": uid}, "status": changes}))
}

/// Our conditions that differ or are gone, and the order of all.
fn conditions(old: &Value, new: &Value) -> Map<String, Value> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let (before, after) = (list(old), list(new));
    let ours = |condition: &&Value| {
        let text = |name: &str| condition[name].as_str().unwrap_or_default();
        is_own(text("type"), text("reason"))
    };
    let mut changed = Vec::new();
    for condition in after.iter().filter(ours) {
        match before.iter().find(|one| one["type"] == condition["type"]) {
            Some(same) if same == condition => {}
            Some(other) => changed.push(keep_type(difference(other, condition), condition)),
            None => changed.push(condition.clone()),
        }
    }
    let gone = before.iter().filter(ours).filter(|old| !after.iter().any(|one| one["type"] == old["type"]));
    changed.extend(gone.map(|one| json!({"$patch": "delete", "type": one["type"]})));
    let mut out = Map::new();
    if !changed.is_empty() {
        let order: Vec<Value> = after.iter().map(|condition| json!({"type": condition["type"]})).collect();
        out.insert("$setElementOrder/conditions".into(), order.into());
        out.insert("conditions".into(), changed.into());
    }
    out
}

/// The merge key stays in the patch.
fn keep_type(mut patch: Value, condition: &Value) -> Value {
    patch["type"] = condition["type"].clone();
    patch
}

/// A list merged by address: new ones are added, old ones deleted.
fn addresses(old: &Value, new: &Value) -> Value {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let (before, after) = (list(old), list(new));
    let gone = before.iter().filter(|ip| !after.contains(ip));
    let deleted = gone.map(|ip| json!({"$patch": "delete", "ip": ip["ip"]}));
    after.iter().cloned().chain(deleted).collect()
}

/// Objects by key, with nulls for what is gone; everything else whole.
fn difference(old: &Value, new: &Value) -> Value {
    let (Value::Object(before), Value::Object(after)) = (old, new) else { return new.clone() };
    let mut out = Map::new();
    for (key, value) in after {
        match before.get(key) {
            Some(same) if same == value => {}
            Some(other) => drop(out.insert(key.clone(), difference(other, value))),
            None => drop(out.insert(key.clone(), value.clone())),
        }
    }
    out.extend(before.keys().filter(|key| !after.contains_key(*key)).map(|key| (key.clone(), Value::Null)));
    Value::Object(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status_of(json: Value) -> PodStatus {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_patch_names_only_what_has_changed_and_leaves_other_conditions_alone() {
        let old = status_of(json!({
            "phase": "Pending", "reason": "x",
            "conditions": [{"type": "Theirs", "status": "True"}, {"type": "Ready", "status": "False", "reason": "R"},
                {"type": "PodScheduled", "status": "True"}],
        }));
        let new = status_of(json!({
            "phase": "Running",
            "conditions": [{"type": "Theirs", "status": "False"}, {"type": "Ready", "status": "True"},
                {"type": "PodScheduled", "status": "True"}],
            "podIPs": [{"ip": "10.0.0.2"}],
        }));
        assert_eq!(
            patch("u", &old, &new).unwrap(),
            json!({"metadata": {"uid": "u"}, "status": {
                "phase": "Running", "reason": null, "podIPs": [{"ip": "10.0.0.2"}],
                "$setElementOrder/conditions": [{"type": "Theirs"}, {"type": "Ready"}, {"type": "PodScheduled"}],
                "conditions": [{"type": "Ready", "status": "True", "reason": null}],
            }})
        );
        assert_eq!(patch("u", &new, &new), None);
    }

    /// The API merges these lists by address and allows one of each family: what is not deleted stays
    /// beside the new one, and no status could be written any more.
    #[test]
    fn a_node_that_got_another_address_takes_the_old_one_out_of_its_pods() {
        let with = |address: &str| {
            let list = json!([{"ip": address}]);
            status_of(json!({"hostIP": address, "hostIPs": list, "podIPs": list}))
        };
        let merged = json!([{"ip": "10.0.0.2"}, {"$patch": "delete", "ip": "10.0.0.1"}]);
        assert_eq!(
            patch("u", &with("10.0.0.1"), &with("10.0.0.2")).unwrap()["status"],
            json!({"hostIP": "10.0.0.2", "hostIPs": merged, "podIPs": merged})
        );
    }
}
