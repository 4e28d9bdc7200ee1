//! Where a Pod may be: which nodes a selector means, and which taints a toleration lets pass.
//!
//! One rule for all who ask: the scheduler before it binds, the node before it runs, the
//! controllers before they evict or bind volumes.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration,
};

/// `nodeSelector` and the required node affinity together.
pub fn matches_node(spec: &PodSpec, node: &Node) -> bool {
    let labels = node.metadata.labels.as_ref();
    let selector = spec.node_selector.iter().flatten();
    let selected = selector.into_iter().all(|(key, value)| labels.and_then(|l| l.get(key)) == Some(value));
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    selected && required.is_none_or(|required| matches_selector(required, node))
}

/// Any term of the selector.
pub fn matches_selector(selector: &NodeSelector, node: &Node) -> bool {
    selector.node_selector_terms.iter().any(|term| matches_term(term, node))
}

/// Every requirement of the term.
pub fn matches_term(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    // A term without any requirement matches nothing.
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let name = BTreeMap::from([("metadata.name".to_owned(), node.metadata.name.clone().unwrap_or_default())]);
    let empty = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&empty);
    expressions.iter().all(|r| matches_requirement(r, labels))
        && fields.iter().all(|r| matches_requirement(r, &name))
}

fn matches_requirement(requirement: &NodeSelectorRequirement, labels: &BTreeMap<String, String>) -> bool {
    let value = labels.get(&requirement.key);
    let values = requirement.values.as_deref().unwrap_or_default();
    let number = |compare: fn(&i64, &i64) -> bool| {
        let have = value.and_then(|value| value.parse::<i64>().ok());
        let bound = values.first().and_then(|value| value.parse::<i64>().ok());
        have.zip(bound).is_some_and(|(have, bound)| compare(&have, &bound))
    };
    match requirement.operator.as_str() {
        "In" => value.is_some_and(|value| values.contains(value)),
        "NotIn" => value.is_none_or(|value| !values.contains(value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => number(i64::gt),
        "Lt" => number(i64::lt),
        _ => false,
    }
}

/// Whether the toleration lets the taint pass.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let set = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let effect = set(&toleration.effect).is_none_or(|effect| effect == taint.effect);
    let key = set(&toleration.key).is_none_or(|key| key == taint.key);
    let value = match toleration.operator.as_deref() {
        Some("Exists") => true,
        None | Some("" | "Equal") => {
            set(&toleration.key).is_some() && set(&toleration.value) == set(&taint.value)
        }
        Some(_) => false,
    };
    effect && key && value
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn toleration(value: Value) -> Toleration {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_toleration_matches_by_key_value_and_effect_and_an_empty_one_by_exists_only() {
        let taint =
            Taint { key: "a".into(), value: Some("1".into()), effect: "NoSchedule".into(), time_added: None };
        let yes = [
            json!({"key": "a", "value": "1"}),
            json!({"key": "a", "operator": "Exists", "effect": "NoSchedule"}),
            json!({"operator": "Exists"}),
        ];
        let no = [
            json!({"key": "a", "value": "2"}),
            json!({"key": "a", "operator": "Exists", "effect": "NoExecute"}),
            json!({"key": "a"}),
            json!({}),
        ];
        for value in yes {
            assert!(tolerates(&toleration(value.clone()), &taint), "{value}");
        }
        for value in no {
            assert!(!tolerates(&toleration(value.clone()), &taint), "{value}");
        }
    }

    #[test]
    fn terms_are_alternatives_and_an_empty_term_matches_nothing() {
        let node: Node =
            serde_json::from_value(json!({"metadata": {"name": "n1", "labels": {"cpu": "8", "zone": "a"}}}))
                .unwrap();
        let check = |terms: Value| {
            let selector = serde_json::from_value(json!({"nodeSelectorTerms": terms})).unwrap();
            matches_selector(&selector, &node)
        };
        assert!(check(
            json!([{}, {"matchExpressions": [{"key": "cpu", "operator": "Gt", "values": ["4"]}]}])
        ));
        assert!(check(
            json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}])
        ));
        assert!(check(
            json!([{"matchExpressions": [{"key": "gone", "operator": "NotIn", "values": ["x"]}]}])
        ));
        assert!(!check(json!([{}])));
        assert!(!check(json!([{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["b"]}]}])));
    }
}
