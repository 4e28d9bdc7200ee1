//! Who owns the claims of a StatefulSet's Pods: persistentVolumeClaimRetentionPolicy by owner references.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use crate::ownership::controller_reference;

/// Where a Pod stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Its ordinal is one of those wanted.
    Wanted,
    /// It is to go.
    Condemned,
}

/// What the owners of a claim should be instead.
#[derive(Debug, PartialEq)]
pub(super) struct Owners {
    pub(super) references: Vec<OwnerReference>,
    /// Somebody else controls the claim, and the policy is not followed.
    pub(super) conflicting: bool,
}

struct Policy {
    when_deleted: bool,
    when_scaled: bool,
}

fn policy(set: &StatefulSet) -> Policy {
    let policy = set.spec.as_ref().and_then(|spec| spec.persistent_volume_claim_retention_policy.clone());
    let policy = policy.unwrap_or_default();
    let deletes = |what: Option<String>| what.as_deref() == Some("Delete");
    Policy { when_deleted: deletes(policy.when_deleted), when_scaled: deletes(policy.when_scaled) }
}

fn means(reference: &OwnerReference, wanted: &OwnerReference) -> bool {
    (&reference.api_version, &reference.kind, &reference.name)
        == (&wanted.api_version, &wanted.kind, &wanted.name)
}

/// The owners that a claim has from its birth on.
pub(super) fn at_birth(set: &StatefulSet) -> Option<Vec<OwnerReference>> {
    policy(set).when_deleted.then(|| vec![controller_reference(set)])
}

/// A claim that goes with a Pod of this name, which is not the Pod that is about to be made.
pub(super) fn is_stale(set: &StatefulSet, new: &Pod, claim: &PersistentVolumeClaim) -> bool {
    let pod = controller_reference(new);
    policy(set).when_scaled
        && claim.metadata.owner_references.iter().flatten().any(|reference| means(reference, &pod))
}

/// Upstream's isClaimOwnerUpToDate and updateClaimOwnerRefForSetAndPod. `None`: they are as they should
/// be, or not ours to change.
pub(super) fn owners(
    set: &StatefulSet,
    pod: &Pod,
    place: Place,
    claim: &PersistentVolumeClaim,
) -> Option<Owners> {
    let policy = policy(set);
    let (of_set, of_pod) = (controller_reference(set), controller_reference(pod));
    let references = claim.metadata.owner_references.clone().unwrap_or_default();
    let ours = |reference: &OwnerReference| means(reference, &of_set) || means(reference, &of_pod);
    let stale = |wanted: &OwnerReference| {
        references.iter().any(|reference| means(reference, wanted) && reference.uid != wanted.uid)
    };
    // It belongs to one that had this name before: the garbage collector's business.
    if stale(&of_set) || stale(&of_pod) {
        return None;
    }
    let foreign: Vec<OwnerReference> = references.iter().filter(|one| !ours(one)).cloned().collect();
    let conflicting = (policy.when_deleted || policy.when_scaled)
        && foreign.iter().any(|reference| reference.controller == Some(true));
    let mut wanted = foreign;
    let condemned = policy.when_scaled && place == Place::Condemned;
    if !conflicting && condemned {
        wanted.push(of_pod);
    } else if !conflicting && policy.when_deleted {
        wanted.push(of_set);
    }
    let same = wanted.len() == references.len()
        && references.iter().all(|reference| {
            wanted.iter().any(|one| one.uid == reference.uid && one.controller == reference.controller)
        });
    (!same).then_some(Owners { references: wanted, conflicting })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn set(deleted: &str, scaled: &str) -> StatefulSet {
        serde_json::from_value(
            json!({"metadata": {"name": "web", "uid": "s"}, "spec": {"selector": {}, "template": {},
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": deleted, "whenScaled": scaled}}}),
        )
        .unwrap()
    }

    fn pod() -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "web-0", "uid": "p"}})).unwrap()
    }

    fn claim(owners: &[(&str, &str, &str)]) -> PersistentVolumeClaim {
        let owner = |(kind, name, uid): &(&str, &str, &str)| -> Value {
            let version = if *kind == "StatefulSet" { "apps/v1" } else { "v1" };
            json!({"apiVersion": version, "kind": kind, "name": name, "uid": uid, "controller": true})
        };
        let owners: Vec<Value> = owners.iter().map(owner).collect();
        serde_json::from_value(json!({"metadata": {"name": "data-web-0", "ownerReferences": owners}}))
            .unwrap()
    }

    #[test]
    fn each_policy_has_its_owners() {
        let (of_set, of_pod) = (("StatefulSet", "web", "s"), ("Pod", "web-0", "p"));
        for (deleted, scaled, place, wanted) in [
            ("Retain", "Retain", Place::Wanted, None),
            ("Retain", "Retain", Place::Condemned, None),
            ("Delete", "Retain", Place::Wanted, Some("s")),
            ("Delete", "Retain", Place::Condemned, Some("s")),
            ("Retain", "Delete", Place::Wanted, None),
            ("Retain", "Delete", Place::Condemned, Some("p")),
            ("Delete", "Delete", Place::Wanted, Some("s")),
            ("Delete", "Delete", Place::Condemned, Some("p")),
        ] {
            for before in [vec![], vec![of_set], vec![of_pod], vec![of_set, of_pod]] {
                let before: Vec<&str> = before.iter().map(|owner| owner.2).collect();
                let claim = claim(
                    &[of_set, of_pod]
                        .into_iter()
                        .filter(|owner| before.contains(&owner.2))
                        .collect::<Vec<_>>(),
                );
                let after = owners(&set(deleted, scaled), &pod(), place, &claim);
                let uids = after
                    .map(|owners| owners.references.into_iter().map(|owner| owner.uid).collect::<Vec<_>>());
                let wanted: Vec<String> = wanted.into_iter().map(str::to_owned).collect();
                let expected = (before != wanted).then_some(wanted);
                assert_eq!(uids, expected, "{deleted} {scaled} {place:?} {before:?}");
            }
        }
    }

    #[test]
    fn the_claim_of_another_is_left_alone() {
        let delete = set("Delete", "Delete");
        assert_eq!(owners(&delete, &pod(), Place::Wanted, &claim(&[("StatefulSet", "web", "old")])), None);
        assert_eq!(owners(&delete, &pod(), Place::Wanted, &claim(&[("Job", "other", "j")])), None);
        let both = claim(&[("Job", "other", "j"), ("StatefulSet", "web", "s")]);
        let changed = owners(&delete, &pod(), Place::Wanted, &both).unwrap();
        assert_eq!((changed.references.len(), changed.conflicting), (1, true));
    }

    #[test]
    fn a_claim_that_goes_with_its_pod_is_not_given_to_the_next() {
        let mut new = pod();
        new.metadata.uid = None;
        let going = claim(&[("Pod", "web-0", "p")]);
        assert!(is_stale(&set("Retain", "Delete"), &new, &going));
        assert!(!is_stale(&set("Retain", "Retain"), &new, &going));
        assert!(!is_stale(&set("Retain", "Delete"), &new, &claim(&[])));
    }
}
