//! Which nodes a DaemonSet means, and the Pod for each of them.

use api::placement::{matches_node, tolerates};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{
    Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, PodTemplateSpec, Toleration,
};

use crate::history::REVISION_LABEL;

const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";
const GENERATION_LABEL: &str = "pod-template-generation";
const NODE_NAME: &str = "metadata.name";

/// What daemons bear of a node: they are what makes it ready again.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];

/// What a set wants of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    /// A Pod of it should be there.
    Run,
    /// One that is there may stay.
    Stay,
    Leave,
}

/// Upstream's NodeShouldRunDaemonPod.
pub(super) fn fit(set: &DaemonSet, node: &Node) -> Fit {
    let Some(spec) = set.spec.as_ref().and_then(|spec| spec.template.spec.as_ref()) else {
        return Fit::Leave;
    };
    let named = spec.node_name.as_ref().filter(|name| !name.is_empty());
    let elsewhere = named.is_some_and(|name| Some(name) != node.metadata.name.as_ref());
    if elsewhere || !matches_node(spec, node) {
        return Fit::Leave;
    }
    let tolerations = tolerations(spec);
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let untolerated = |effect: &str| {
        taints
            .iter()
            .any(|taint| taint.effect == effect && !tolerations.iter().any(|one| tolerates(one, taint)))
    };
    match (untolerated("NoExecute"), untolerated("NoSchedule")) {
        (true, _) => Fit::Leave,
        (false, true) => Fit::Stay,
        (false, false) => Fit::Run,
    }
}

fn tolerations(spec: &PodSpec) -> Vec<Toleration> {
    let mut tolerations = spec.tolerations.clone().unwrap_or_default();
    let host = ("node.kubernetes.io/network-unavailable", "NoSchedule");
    let network = spec.host_network.unwrap_or(false).then_some(host);
    for (key, effect) in TOLERATED.into_iter().chain(network) {
        let added = Toleration {
            key: Some(key.to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some(effect.to_owned()),
            ..Toleration::default()
        };
        let same = |one: &&mut Toleration| {
            let value = one.value.as_deref().unwrap_or_default();
            (&one.key, &one.operator, &one.effect, value) == (&added.key, &added.operator, &added.effect, "")
        };
        match tolerations.iter_mut().find(same) {
            // One that ends after some seconds would not do.
            Some(known) => *known = added,
            None => tolerations.push(added),
        }
    }
    tolerations
}

/// The generation of the template, as the first releases of DaemonSets counted it.
pub(super) fn template_generation(set: &DaemonSet) -> Option<&str> {
    set.metadata.annotations.as_ref()?.get(TEMPLATE_GENERATION).map(String::as_str)
}

/// The template of the Pod for a node.
pub(super) fn template(set: &DaemonSet, hash: &str, node: &str) -> PodTemplateSpec {
    let mut template = set.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    if let Some(generation) = template_generation(set) {
        labels.insert(GENERATION_LABEL.to_owned(), generation.to_owned());
    }
    labels.insert(REVISION_LABEL.to_owned(), hash.to_owned());
    let spec = template.spec.get_or_insert_default();
    spec.tolerations = Some(tolerations(spec));
    let affinity = spec.affinity.get_or_insert_default().node_affinity.get_or_insert_default();
    // Its node was chosen by the terms that this replaces.
    affinity.required_during_scheduling_ignored_during_execution = Some(NodeSelector {
        node_selector_terms: vec![NodeSelectorTerm {
            match_fields: Some(vec![NodeSelectorRequirement {
                key: NODE_NAME.to_owned(),
                operator: "In".to_owned(),
                values: Some(vec![node.to_owned()]),
            }]),
            match_expressions: None,
        }],
    });
    template
}

/// The node that a Pod is on, or is for.
pub(super) fn node_of(pod: &Pod) -> Option<&str> {
    let spec = pod.spec.as_ref()?;
    if let Some(node) = spec.node_name.as_deref().filter(|node| !node.is_empty()) {
        return Some(node);
    }
    let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let terms = affinity.required_during_scheduling_ignored_during_execution.iter();
    let fields = terms.flat_map(|required| &required.node_selector_terms);
    fields.flat_map(|term| term.match_fields.iter().flatten()).find_map(|field| {
        let values = field.values.as_deref().unwrap_or_default();
        (field.key == NODE_NAME && field.operator == "In" && values.len() == 1).then(|| values[0].as_str())
    })
}

/// Upstream's IsPodUpdated.
pub(super) fn is_updated(set: &DaemonSet, hash: &str, pod: &Pod) -> bool {
    let label = |name: &str| pod.metadata.labels.as_ref().and_then(|labels| labels.get(name));
    let generation = template_generation(set);
    label(REVISION_LABEL).is_some_and(|own| own == hash)
        || generation.is_some() && label(GENERATION_LABEL).map(String::as_str) == generation
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn set(spec: Value) -> DaemonSet {
        serde_json::from_value(
            json!({"metadata": {"name": "agent", "annotations": {TEMPLATE_GENERATION: "3"}},
            "spec": {"selector": {}, "template": {"metadata": {"labels": {"app": "agent"}}, "spec": spec}}}),
        )
        .unwrap()
    }

    fn node(taints: Value) -> Node {
        serde_json::from_value(
            json!({"metadata": {"name": "n1", "labels": {"disk": "ssd"}}, "spec": {"taints": taints}}),
        )
        .unwrap()
    }

    #[test]
    fn a_node_is_meant_by_name_labels_and_taints() {
        let plain = || json!({"containers": []});
        let taint = |key: &str, effect: &str| json!([{"key": key, "effect": effect}]);
        assert_eq!(fit(&set(plain()), &node(json!([]))), Fit::Run);
        assert_eq!(fit(&set(plain()), &node(taint("a", "NoSchedule"))), Fit::Stay);
        assert_eq!(fit(&set(plain()), &node(taint("a", "NoExecute"))), Fit::Leave);
        assert_eq!(fit(&set(plain()), &node(taint("a", "PreferNoSchedule"))), Fit::Run);
        assert_eq!(fit(&set(plain()), &node(taint("node.kubernetes.io/not-ready", "NoExecute"))), Fit::Run);
        assert_eq!(
            fit(&set(plain()), &node(taint("node.kubernetes.io/unschedulable", "NoSchedule"))),
            Fit::Run
        );
        let network = taint("node.kubernetes.io/network-unavailable", "NoSchedule");
        assert_eq!(fit(&set(plain()), &node(network.clone())), Fit::Stay);
        assert_eq!(fit(&set(json!({"containers": [], "hostNetwork": true})), &node(network)), Fit::Run);
        let selecting = |value: &str| set(json!({"containers": [], "nodeSelector": {"disk": value}}));
        assert_eq!(fit(&selecting("ssd"), &node(json!([]))), Fit::Run);
        assert_eq!(fit(&selecting("hdd"), &node(json!([]))), Fit::Leave);
        assert_eq!(fit(&set(json!({"containers": [], "nodeName": "n2"})), &node(json!([]))), Fit::Leave);
    }

    #[test]
    fn a_pod_is_for_its_node_and_bears_what_daemons_bear() {
        let set = set(json!({"containers": [], "tolerations": [
            {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}]}));
        let template = template(&set, "abc", "n1");
        let pod = Pod { metadata: template.metadata.unwrap(), spec: template.spec, status: None };
        assert_eq!(node_of(&pod), Some("n1"));
        let tolerations = pod.spec.as_ref().unwrap().tolerations.as_ref().unwrap();
        assert_eq!((tolerations.len(), tolerations[0].toleration_seconds), (6, None));
        assert!(is_updated(&set, "abc", &pod) && is_updated(&set, "other", &pod));
        let mut later = set;
        later.metadata.annotations.as_mut().unwrap().insert(TEMPLATE_GENERATION.into(), "4".into());
        assert!(is_updated(&later, "abc", &pod) && !is_updated(&later, "other", &pod));
    }
}
