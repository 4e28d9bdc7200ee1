//! A bound claim that asks for more than it has: its volume grows, then the claim says so.
//!
//! A directory has as much room as the disk that it is on, so nothing else is to be done on the node. The words
//! and the order of the writes are the external resizer's.

use client::events::EventType;
use client::{Error, Patch, PatchKind};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::decide::{bytes, capacity, storage_request};
use super::{PROVISIONED_BY, PROVISIONER, Volumes, claim};
use crate::context::{say, unless_gone};

const RESIZING: &str = "Resizing";

/// The next write of an expansion. Whoever is interrupted between two goes on with the one that is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Somebody else's volumes are grown by somebody else.
    Leave,
    /// The claim says that it is being done.
    Mark,
    /// The volume says how much it has.
    Grow,
    /// The claim has what it asked for.
    Finish,
}

/// What is to be done for a bound claim; nothing, if it has what it asks for.
fn step(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Option<Step> {
    let status = claim.status.as_ref();
    let has = status.and_then(|status| status.capacity.as_ref()).and_then(|list| list.get("storage"));
    // A claim that was just bound does not say yet what it has.
    let has = bytes(Some(has?.0.as_str()));
    let wanted = bytes(storage_request(claim));
    let is_marked = conditions(claim).iter().any(|condition| condition.type_ == RESIZING);
    match () {
        // It was asked for more, and the wish was taken back.
        () if wanted <= has => is_marked.then_some(Step::Finish),
        () if !is_ours(volume) => Some(Step::Leave),
        () if !is_marked => Some(Step::Mark),
        () if capacity(volume) < wanted => Some(Step::Grow),
        () => Some(Step::Finish),
    }
}

fn is_ours(volume: &PersistentVolume) -> bool {
    let annotations = volume.metadata.annotations.as_ref();
    annotations.and_then(|all| all.get(PROVISIONED_BY)).is_some_and(|by| by == PROVISIONER)
}

fn conditions(claim: &PersistentVolumeClaim) -> &[PersistentVolumeClaimCondition] {
    claim.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default()
}

/// Makes one step; the changed object comes back by the watch and brings the next.
pub(super) async fn expand(
    this: &Volumes,
    claim: &PersistentVolumeClaim,
    volume: &PersistentVolume,
) -> Result<(), Error> {
    let Some(step) = step(claim, volume) else { return Ok(()) };
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    match step {
        Step::Leave => {
            let message = "Ignoring the PVC: didn't find a plugin capable of expanding the volume; waiting for an \
                external controller to process this PVC.";
            say(&this.expander, claim, EventType::Normal, "ExternalExpanding", message.to_owned());
            Ok(())
        }
        Step::Mark => {
            claim::patch_status(this, claim, marked(claim, jiff::Timestamp::now())).await?;
            let message = format!("External resizer is resizing volume {name}");
            say(&this.resizer, claim, EventType::Normal, RESIZING, message);
            Ok(())
        }
        Step::Grow => {
            let body = json!({"metadata": {"resourceVersion": volume.metadata.resource_version},
                "spec": {"capacity": {"storage": storage_request(claim)}}});
            let patch = Patch::new(PatchKind::Merge, body);
            unless_gone(this.client.patch::<PersistentVolume>("", name, &patch).await)
        }
        Step::Finish => {
            claim::patch_status(this, claim, finished(claim, volume)).await?;
            let message = "Resize volume succeeded".to_owned();
            say(&this.resizer, claim, EventType::Normal, "VolumeResizeSuccessful", message);
            Ok(())
        }
    }
}

/// The status of a claim whose volume is about to grow.
fn marked(claim: &PersistentVolumeClaim, now: jiff::Timestamp) -> Value {
    let mut all = conditions(claim).to_vec();
    all.push(PersistentVolumeClaimCondition {
        type_: RESIZING.to_owned(),
        status: "True".to_owned(),
        last_transition_time: Some(Time(now)),
        ..PersistentVolumeClaimCondition::default()
    });
    json!({"conditions": all, "allocatedResources": {"storage": storage_request(claim)},
        "allocatedResourceStatuses": {"storage": "ControllerResizeInProgress"}})
}

/// The status of a claim that has what it asked for.
fn finished(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Value {
    let others: Vec<_> = conditions(claim).iter().filter(|condition| condition.type_ != RESIZING).collect();
    let capacity = volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref());
    json!({"capacity": capacity, "conditions": others, "allocatedResourceStatuses": null})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(wanted: &str, has: &str, resizing: bool) -> PersistentVolumeClaim {
        let conditions = if resizing { json!([{"type": RESIZING, "status": "True"}]) } else { json!([]) };
        serde_json::from_value(json!({"metadata": {"name": "data"}, "spec": {"volumeName": "v",
            "resources": {"requests": {"storage": wanted}}},
            "status": {"phase": "Bound", "capacity": {"storage": has}, "conditions": conditions}}))
        .unwrap()
    }

    fn volume(size: &str, by: &str) -> PersistentVolume {
        serde_json::from_value(json!({"metadata": {"name": "v", "annotations": {PROVISIONED_BY: by}},
            "spec": {"capacity": {"storage": size}}}))
        .unwrap()
    }

    #[test]
    fn an_expansion_goes_on_with_the_write_that_is_missing() {
        let of = |claim: PersistentVolumeClaim, size: &str| step(&claim, &volume(size, PROVISIONER));
        assert_eq!(of(claim("1Gi", "1Gi", false), "1Gi"), None);
        assert_eq!(of(claim("1Gi", "2Gi", false), "2Gi"), None, "more than it asked for");
        assert_eq!(of(claim("2Gi", "1Gi", false), "1Gi"), Some(Step::Mark));
        assert_eq!(of(claim("2Gi", "1Gi", true), "1Gi"), Some(Step::Grow));
        assert_eq!(of(claim("2Gi", "1Gi", true), "2Gi"), Some(Step::Finish));
        assert_eq!(of(claim("1Gi", "1Gi", true), "2Gi"), Some(Step::Finish), "the wish was taken back");
        let foreign = volume("1Gi", "csi.example.com");
        assert_eq!(step(&claim("2Gi", "1Gi", false), &foreign), Some(Step::Leave));
    }

    #[test]
    fn a_claim_says_that_it_grows_and_what_it_has_then() {
        let now = "2027-01-15T08:00:00Z".parse().unwrap();
        let growing = marked(&claim("2Gi", "1Gi", false), now);
        assert_eq!(growing["conditions"][0]["type"], RESIZING);
        assert_eq!(growing["allocatedResourceStatuses"]["storage"], "ControllerResizeInProgress");
        let done = finished(&claim("2Gi", "1Gi", true), &volume("2Gi", PROVISIONER));
        assert_eq!((&done["capacity"]["storage"], &done["conditions"]), (&json!("2Gi"), &json!([])));
    }
}
