//! Who the Pods of a StatefulSet are: names, ordinals, labels, claims.

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume,
};

use crate::history::REVISION_LABEL;
use crate::pod_control;

pub(super) const POD_NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";
pub(super) const POD_INDEX_LABEL: &str = "apps.kubernetes.io/pod-index";

pub(super) fn name_of(set: &StatefulSet) -> &str {
    set.metadata.name.as_deref().unwrap_or_default()
}

pub(super) fn pod_name(set: &StatefulSet, ordinal: i64) -> String {
    format!("{}-{ordinal}", name_of(set))
}

/// The ordinal in a name `<set>-<ordinal>`, written as the set would write it.
fn ordinal_in(set: &str, name: &str) -> Option<i64> {
    let digits = name.strip_prefix(set)?.strip_prefix('-')?;
    let ordinal = digits.parse::<i32>().ok()?;
    (ordinal.to_string() == digits).then_some(i64::from(ordinal))
}

/// The ordinal of a Pod, when its name is one of the set's.
pub(super) fn ordinal_of(set: &StatefulSet, pod: &Pod) -> Option<i64> {
    ordinal_in(name_of(set), pod.metadata.name.as_deref()?)
}

/// Whether a claim has the name of one that the set makes.
pub(super) fn names_claim(set: &StatefulSet, claim: &str) -> bool {
    templates(set.spec.as_ref()).iter().any(|template| {
        let prefix = template.metadata.name.as_deref().unwrap_or_default();
        let rest = claim.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('-'));
        rest.is_some_and(|rest| ordinal_in(name_of(set), rest).is_some())
    })
}

fn templates(spec: Option<&StatefulSetSpec>) -> &[PersistentVolumeClaim] {
    spec.and_then(|spec| spec.volume_claim_templates.as_deref()).unwrap_or_default()
}

fn claim_name(set: &StatefulSet, template: &PersistentVolumeClaim, ordinal: i64) -> String {
    let template = template.metadata.name.as_deref().unwrap_or_default();
    format!("{template}-{}-{ordinal}", name_of(set))
}

/// The claims of a Pod, by the order of their templates.
pub(super) fn claims(set: &StatefulSet, ordinal: i64) -> Vec<PersistentVolumeClaim> {
    let selector = set.spec.as_ref().and_then(|spec| spec.selector.match_labels.clone());
    let made = templates(set.spec.as_ref()).iter().map(|template| {
        let mut claim = template.clone();
        claim.metadata.name = Some(claim_name(set, template, ordinal));
        claim.metadata.namespace = set.metadata.namespace.clone();
        claim.metadata.labels.get_or_insert_default().extend(selector.clone().unwrap_or_default());
        claim.status = None;
        claim
    });
    made.collect()
}

/// The names of the claims of a Pod.
pub(super) fn claim_names(set: &StatefulSet, ordinal: i64) -> Vec<String> {
    templates(set.spec.as_ref()).iter().map(|template| claim_name(set, template, ordinal)).collect()
}

/// The Pod with this ordinal, from a revision's template.
pub(super) fn new_pod(set: &StatefulSet, ordinal: i64, revision: &str, template: &PodTemplateSpec) -> Pod {
    let mut pod = pod_control::pod(set, template);
    let name = pod_name(set, ordinal);
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(POD_NAME_LABEL.to_owned(), name.clone());
    labels.insert(POD_INDEX_LABEL.to_owned(), ordinal.to_string());
    labels.insert(REVISION_LABEL.to_owned(), revision.to_owned());
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(name.clone());
    spec.subdomain = set.spec.as_ref().and_then(|spec| spec.service_name.clone());
    let mut volumes: Vec<Volume> = templates(set.spec.as_ref())
        .iter()
        .map(|template| Volume {
            name: template.metadata.name.clone().unwrap_or_default(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim_name(set, template, ordinal),
                read_only: None,
            }),
            ..Volume::default()
        })
        .collect();
    // A claim takes the place of a volume of the template that has its name.
    let own = spec.volumes.take().unwrap_or_default();
    let kept = own.into_iter().filter(|volume| !volumes.iter().any(|claim| claim.name == volume.name));
    let kept: Vec<Volume> = kept.collect();
    volumes.extend(kept);
    spec.volumes = (!volumes.is_empty()).then_some(volumes);
    pod.metadata.name = Some(name);
    pod
}

/// Upstream's identityMatches.
pub(super) fn is_labelled(pod: &Pod) -> bool {
    let label = pod.metadata.labels.as_ref().and_then(|labels| labels.get(POD_NAME_LABEL));
    label.is_some() && label == pod.metadata.name.as_ref()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set() -> StatefulSet {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "a", "uid": "u"},
            "spec": {"serviceName": "front", "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [],
                    "volumes": [{"name": "data", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}]}},
                "volumeClaimTemplates": [{"metadata": {"name": "data", "labels": {"tier": "db"}},
                    "spec": {}, "status": {"phase": "Pending"}}]}}))
        .unwrap()
    }

    #[test]
    fn ordinals_are_read_from_names_as_the_set_writes_them() {
        let ordinal = |name: &str| {
            let pod = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
            ordinal_of(&set(), &pod)
        };
        assert_eq!(ordinal("web-0"), Some(0));
        assert_eq!(ordinal("web-12"), Some(12));
        for foreign in ["web", "web-", "web-01", "web-x", "other-1", "web-1-2", "web-99999999999", "web-+1"] {
            assert_eq!(ordinal(foreign), None, "{foreign}");
        }
        assert!(names_claim(&set(), "data-web-3"));
        assert!(!names_claim(&set(), "data-web"));
        assert!(!names_claim(&set(), "logs-web-3"));
    }

    #[test]
    fn a_pod_has_the_name_the_labels_and_the_claims_of_its_ordinal() {
        let set = set();
        let template = set.spec.as_ref().unwrap().template.clone();
        let pod = serde_json::to_value(new_pod(&set, 2, "web-abc", &template)).unwrap();
        assert_eq!(
            pod["metadata"]["labels"],
            json!({"app": "web", "statefulset.kubernetes.io/pod-name": "web-2",
                "apps.kubernetes.io/pod-index": "2", "controller-revision-hash": "web-abc"})
        );
        assert_eq!(pod["metadata"]["name"], "web-2");
        assert_eq!(pod["metadata"]["ownerReferences"][0]["controller"], true);
        assert_eq!((&pod["spec"]["hostname"], &pod["spec"]["subdomain"]), (&"web-2".into(), &"front".into()));
        assert_eq!(
            pod["spec"]["volumes"],
            json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data-web-2"}},
                {"name": "tmp", "emptyDir": {}}])
        );
        let claim = serde_json::to_value(&claims(&set, 2)[0]).unwrap();
        assert_eq!(claim["metadata"]["name"], "data-web-2");
        assert_eq!(claim["metadata"]["labels"], json!({"app": "web", "tier": "db"}));
        assert!(claim.get("status").is_none());
    }
}
