//! What ties a ReplicaSet to a template of its Deployment: the hash in its name and labels, and the revision
//! that `kubectl rollout history` shows.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;

use crate::history::safe_encode;

pub(super) const HASH: &str = "pod-template-hash";
pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MOST: &str = "deployment.kubernetes.io/max-replicas";
/// Annotations of a Deployment that its ReplicaSets do not get.
const OWN: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    HISTORY,
    DESIRED,
    MOST,
    "deprecated.deployment.rollback.to",
];
/// The list of former revisions grows to this many bytes at most.
const HISTORY_MAX: usize = 2_000;

pub(super) type Annotations = BTreeMap<String, String>;

/// The hash of a template; another count of collisions makes another hash of the same template.
pub(super) fn hash(template: &PodTemplateSpec, collisions: i32) -> String {
    // FNV-1a over the template's JSON: its maps are sorted, so equal templates are equal bytes.
    let mut hash: u32 = 0x811c_9dc5;
    let json = serde_json::to_vec(template).unwrap_or_default();
    let collisions = if collisions > 0 { collisions.to_le_bytes().to_vec() } else { Vec::new() };
    for byte in json.into_iter().chain(collisions) {
        hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    }
    safe_encode(&hash.to_string())
}

/// Whether a ReplicaSet is made from this very template.
pub(super) fn is_of(set: &ReplicaSet, template: &PodTemplateSpec) -> bool {
    let own = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
    own.is_some_and(|own| without_hash(own) == without_hash(template))
}

fn without_hash(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    let metadata = template.metadata.get_or_insert_default();
    let labels = metadata.labels.get_or_insert_default();
    labels.remove(HASH);
    template
}

pub(super) fn annotation<'a>(annotations: Option<&'a Annotations>, name: &str) -> Option<&'a str> {
    annotations?.get(name).map(String::as_str)
}

/// The revision of a ReplicaSet, 0 without one.
pub(super) fn revision(set: &ReplicaSet) -> i64 {
    let text = annotation(set.metadata.annotations.as_ref(), REVISION);
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

pub(super) fn next_revision(old: &[ReplicaSet]) -> i64 {
    old.iter().map(revision).max().unwrap_or(0) + 1
}

/// Gives the new ReplicaSet the Deployment's annotations and its revision; true when it changes one. The
/// revision of one that is rolled back to goes into its history.
pub(super) fn annotate(set: &mut ReplicaSet, deployment: &Deployment, revision: i64) -> bool {
    let mut annotations = set.metadata.annotations.clone().unwrap_or_default();
    let given = deployment.metadata.annotations.iter().flatten();
    annotations.extend(
        given
            .filter(|(name, _)| !OWN.contains(&name.as_str()))
            .map(|(name, value)| (name.clone(), value.clone())),
    );
    let before = annotations.get(REVISION).cloned().unwrap_or_default();
    if before.parse::<i64>().unwrap_or(0) < revision {
        annotations.insert(REVISION.to_owned(), revision.to_string());
        if !before.is_empty() {
            let history = annotations.entry(HISTORY.to_owned()).or_default();
            *history = longer(history, &before);
        }
    }
    let changed =
        set.metadata.annotations.as_ref().map_or(!annotations.is_empty(), |old| *old != annotations);
    set.metadata.annotations = Some(annotations);
    changed
}

/// The eldest revisions leave when the list becomes too long.
fn longer(history: &str, revision: &str) -> String {
    if history.is_empty() {
        return revision.to_owned();
    }
    let mut rest = history;
    while rest.len() + 1 + revision.len() > HISTORY_MAX {
        rest = rest.split_once(',').map_or("", |(_, rest)| rest);
    }
    if rest.is_empty() { revision.to_owned() } else { format!("{rest},{revision}") }
}

/// Notes on a ReplicaSet how large the Deployment is and may become: a later change of size is shared in
/// proportion to that. True when it changes something.
pub(super) fn note_size(set: &mut ReplicaSet, desired: i32, most: i32) -> bool {
    let annotations = set.metadata.annotations.get_or_insert_default();
    let mut put = |name: &str, value: i32| {
        let value = value.to_string();
        annotations.insert(name.to_owned(), value.clone()) != Some(value)
    };
    let desired = put(DESIRED, desired);
    put(MOST, most) || desired
}

fn number(set: &ReplicaSet, name: &str) -> Option<i32> {
    annotation(set.metadata.annotations.as_ref(), name)?.parse().ok()
}

/// How large the Deployment was when the ReplicaSet was sized last.
pub(super) fn desired(set: &ReplicaSet) -> Option<i32> {
    number(set, DESIRED)
}

/// How large it might have become then.
pub(super) fn most(set: &ReplicaSet) -> Option<i32> {
    number(set, MOST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn template(image: &str) -> PodTemplateSpec {
        serde_json::from_value(json!({
            "metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]},
        }))
        .unwrap()
    }

    #[test]
    fn a_hash_tells_templates_and_collisions_apart_and_has_no_vowels() {
        let one = hash(&template("a"), 0);
        assert_eq!(one, hash(&template("a"), 0));
        assert_ne!(one, hash(&template("b"), 0));
        assert_ne!(one, hash(&template("a"), 1));
        assert!(one.len() <= 10 && one.bytes().all(|b| b"bcdfghjklmnpqrstvwxz2456789".contains(&b)));
    }

    #[test]
    fn a_set_is_of_its_template_whatever_its_hash() {
        let mut set = ReplicaSet::default();
        let mut own = template("a");
        own.metadata.get_or_insert_default().labels.get_or_insert_default().insert(HASH.into(), "x".into());
        set.spec.get_or_insert_default().template = Some(own);
        assert!(is_of(&set, &template("a")));
        assert!(!is_of(&set, &template("b")));
    }

    #[test]
    fn a_set_that_is_rolled_back_to_remembers_its_revisions() {
        let mut set = ReplicaSet::default();
        let deployment: Deployment = serde_json::from_value(json!({"metadata": {"annotations": {
            "kubernetes.io/change-cause": "why", REVISION: "7",
        }}}))
        .unwrap();
        for revision in [1, 3, 5] {
            assert!(annotate(&mut set, &deployment, revision));
        }
        assert!(!annotate(&mut set, &deployment, 5), "nothing changes");
        let annotations = set.metadata.annotations.unwrap();
        let wanted = [("kubernetes.io/change-cause", "why"), (HISTORY, "1,3"), (REVISION, "5")];
        assert!(wanted.iter().all(|(name, value)| annotations[*name] == *value), "{annotations:?}");
        assert_eq!(longer(&"1,".repeat(1000), "2").len(), HISTORY_MAX);
    }
}
