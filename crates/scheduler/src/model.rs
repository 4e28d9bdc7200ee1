//! The rules for Pods among Pods, once more: slowly, as the API's documentation says them, from the
//! objects themselves. What the scheduler counts must say the same, on any small cluster.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::selector::LabelSelector;
use k8s_openapi::api::core::v1::{PodAffinityTerm, TopologySpreadConstraint};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::cycle::{Cluster, Cycle};
use crate::place::tests::{cluster, node};
use crate::{Namespaces, NodeInfo, PodInfo, Reason, Volumes};

const KEYS: [&str; 2] = ["kubernetes.io/hostname", "zone"];

fn labels() -> impl Strategy<Value = Value> {
    (prop::option::of(0..2_u8), prop::option::of(0..2_u8)).prop_map(|(app, tier)| {
        let mut labels = json!({});
        if let Some(app) = app {
            labels["app"] = format!("a{app}").into();
        }
        if let Some(tier) = tier {
            labels["tier"] = format!("t{tier}").into();
        }
        labels
    })
}

fn selector() -> impl Strategy<Value = Value> {
    prop_oneof![
        3 => labels().prop_map(|labels| json!({"matchLabels": labels})),
        1 => Just(json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["a0"]}]})),
        1 => Just(Value::Null),
    ]
}

fn term() -> impl Strategy<Value = Value> {
    let namespaces = prop_oneof![
        3 => Just(json!({})),
        1 => Just(json!({"namespaces": ["n1"]})),
        1 => Just(json!({"namespaceSelector": {"matchLabels": {"team": "x"}}})),
        1 => Just(json!({"namespaceSelector": {}})),
    ];
    (selector(), 0..KEYS.len(), namespaces).prop_map(|(selector, key, mut term)| {
        term["topologyKey"] = KEYS[key].into();
        term["labelSelector"] = selector;
        term
    })
}

fn constraint() -> impl Strategy<Value = Value> {
    let policy = || prop::option::of(prop::sample::select(vec!["Honor", "Ignore"]));
    (selector(), 0..KEYS.len(), 1..3_i32, prop::option::of(1..4_i32), policy(), policy()).prop_map(
        |(selector, key, skew, domains, affinity, taints)| {
            json!({"topologyKey": KEYS[key], "labelSelector": selector, "maxSkew": skew,
                "whenUnsatisfiable": "DoNotSchedule", "minDomains": domains,
                "nodeAffinityPolicy": affinity, "nodeTaintsPolicy": taints})
        },
    )
}

fn some_pod() -> impl Strategy<Value = Value> {
    let rare = |terms| prop::collection::vec(terms, 0..2);
    (labels(), 0..3_u8, rare(term()), rare(term()), prop::collection::vec(constraint(), 0..2), any::<bool>())
        .prop_map(|(labels, namespace, near, apart, spread, picky)| {
            let required = |terms| json!({"requiredDuringSchedulingIgnoredDuringExecution": terms});
            json!({"metadata": {"namespace": format!("n{namespace}"), "labels": labels},
                "spec": {"containers": [], "topologySpreadConstraints": spread,
                    "nodeSelector": if picky { json!({"disk": "ssd"}) } else { json!({}) },
                    "affinity": {"podAffinity": required(near), "podAntiAffinity": required(apart)}}})
        })
}

pub(crate) fn info(mut pod: Value, name: &str) -> Arc<PodInfo> {
    pod["metadata"]["name"] = name.into();
    pod["metadata"]["uid"] = name.into();
    Arc::new(PodInfo::new(Arc::new(serde_json::from_value(pod).unwrap())))
}

/// Its zone, whether it has the disk, whether it is tainted, its Pods.
pub(crate) type SomeNode = (Option<u8>, bool, bool, Vec<Value>);

/// Where something changes, and which Pod comes there; without one, the first leaves, or else the node.
pub(crate) type SomeChange = (prop::sample::Index, Option<Value>);

pub(crate) fn changes() -> impl Strategy<Value = (Vec<SomeNode>, Value, SomeChange)> {
    let change = (any::<prop::sample::Index>(), prop::option::of(some_pod()));
    (prop::collection::vec(some_node(), 1..6), some_pod(), change)
}

/// Nodes in and out of two zones, with and without the disk, tainted or not.
fn some_node() -> impl Strategy<Value = SomeNode> {
    let pods = prop::collection::vec(some_pod(), 0..4);
    (prop::option::weighted(0.8, 0..2_u8), any::<bool>(), prop::bool::weighted(0.2), pods)
}

pub(crate) fn build(nodes: Vec<SomeNode>) -> Vec<NodeInfo> {
    let build = |(index, (zone, ssd, tainted, pods)): (usize, SomeNode)| {
        let mut change = json!({"metadata": {"labels": {}}, "spec": {}});
        if let Some(zone) = zone {
            change["metadata"]["labels"]["zone"] = format!("z{zone}").into();
        }
        if ssd {
            change["metadata"]["labels"]["disk"] = "ssd".into();
        }
        if tainted {
            change["spec"]["taints"] = json!([{"key": "k", "effect": "NoSchedule"}]);
        }
        let mut node = node(&format!("host-{index}"), change);
        for (n, pod) in pods.into_iter().enumerate() {
            node.add(info(pod, &format!("pod-{index}-{n}")));
        }
        node
    };
    nodes.into_iter().enumerate().map(build).collect()
}

pub(crate) fn namespaces() -> Namespaces {
    let team = |team: &str| BTreeMap::from([("team".to_owned(), team.to_owned())]);
    Namespaces::from([("n0".into(), team("x")), ("n1".into(), team("y")), ("n2".into(), team("x"))])
}

fn same_place(key: &str, one: &NodeInfo, other: &NodeInfo) -> bool {
    one.label(key).is_some() && one.label(key) == other.label(key)
}

fn means(term: &PodAffinityTerm, owner: &PodInfo, other: &PodInfo) -> bool {
    let named = term.namespaces.as_deref().unwrap_or_default();
    let own = named.is_empty() && term.namespace_selector.is_none() && owner.namespace() == other.namespace();
    let selector = LabelSelector::from_meta(term.namespace_selector.as_ref()).unwrap();
    let selected = selector.matches(&namespaces()[other.namespace()]);
    let here = own || named.iter().any(|name| name == other.namespace()) || selected;
    here && LabelSelector::from_meta(term.label_selector.as_ref()).unwrap().matches(other.labels())
}

fn near(pod: &PodInfo) -> Vec<PodAffinityTerm> {
    let rules = pod.spec().affinity.as_ref().and_then(|affinity| affinity.pod_affinity.clone());
    rules.and_then(|rules| rules.required_during_scheduling_ignored_during_execution).unwrap_or_default()
}

fn apart(pod: &PodInfo) -> Vec<PodAffinityTerm> {
    let rules = pod.spec().affinity.as_ref().and_then(|affinity| affinity.pod_anti_affinity.clone());
    rules.and_then(|rules| rules.required_during_scheduling_ignored_during_execution).unwrap_or_default()
}

fn wanted_near(pod: &PodInfo, at: &NodeInfo, nodes: &[NodeInfo]) -> bool {
    let terms = near(pod);
    let partners = |place: &dyn Fn(&NodeInfo) -> bool| {
        let there = nodes.iter().filter(|node| place(node)).flat_map(|node| &node.pods);
        there.filter(|other| terms.iter().all(|term| means(term, pod, other))).count()
    };
    let labelled = terms.iter().all(|term| at.label(&term.topology_key).is_some());
    let together = terms.iter().all(|term| partners(&|node| same_place(&term.topology_key, at, node)) > 0);
    let anywhere = partners(&|node| terms.iter().any(|term| node.label(&term.topology_key).is_some()));
    let first = anywhere == 0 && terms.iter().all(|term| means(term, pod, pod));
    labelled && (together || first)
}

fn kept_apart(pod: &PodInfo, at: &NodeInfo, nodes: &[NodeInfo]) -> (bool, bool) {
    let (mut mine, mut theirs) = (true, true);
    for node in nodes {
        for other in &node.pods {
            let here = |term: &PodAffinityTerm| same_place(&term.topology_key, at, node);
            mine &= !apart(pod).iter().any(|term| here(term) && means(term, pod, other));
            theirs &= !apart(other).iter().any(|term| here(term) && means(term, other, pod));
        }
    }
    (mine, theirs)
}

/// The node's place would not have too many more than the emptiest that the Pod may be in.
fn spread_evenly(
    constraint: &TopologySpreadConstraint,
    pod: &PodInfo,
    at: &NodeInfo,
    nodes: &[NodeInfo],
    keys: &[String],
) -> bool {
    let selector = LabelSelector::from_meta(constraint.label_selector.as_ref()).unwrap();
    let counted = |node: &&NodeInfo| {
        keys.iter().all(|key| node.label(key).is_some())
            && (constraint.node_affinity_policy.as_deref() == Some("Ignore")
                || api::placement::matches_node(pod.spec(), &node.node))
            && (constraint.node_taints_policy.as_deref() != Some("Honor") || node.taints().is_empty())
    };
    let mut places = BTreeMap::<&str, i32>::new();
    for node in nodes.iter().filter(counted) {
        let alike = node.pods.iter().filter(|other| other.namespace() == pod.namespace());
        let alike = alike.filter(|other| selector.matches(other.labels())).count();
        *places.entry(node.label(&constraint.topology_key).unwrap()).or_default() +=
            i32::try_from(alike).unwrap();
    }
    let enough = places.len() >= usize::try_from(constraint.min_domains.unwrap_or(1)).unwrap();
    let least = places.values().copied().min().filter(|_| enough).unwrap_or(0);
    let Some(place) = at.label(&constraint.topology_key) else { return false };
    let here = places.get(place).copied().unwrap_or(0) + i32::from(selector.matches(pod.labels()));
    here - least <= constraint.max_skew
}

/// The first reason why not, in the order of the plugins.
fn slowly(pod: &PodInfo, at: &NodeInfo, nodes: &[NodeInfo]) -> Option<Reason> {
    let constraints = pod.spec().topology_spread_constraints.clone().unwrap_or_default();
    let keys: Vec<String> = constraints.iter().map(|constraint| constraint.topology_key.clone()).collect();
    for constraint in &constraints {
        if at.label(&constraint.topology_key).is_none() {
            return Some(Reason::SpreadLabel);
        }
        if !spread_evenly(constraint, pod, at, nodes, &keys) {
            return Some(Reason::Spread);
        }
    }
    if !wanted_near(pod, at, nodes) {
        return Some(Reason::PodAffinity);
    }
    match kept_apart(pod, at, nodes) {
        (false, _) => Some(Reason::PodAntiAffinity),
        (_, false) => Some(Reason::ExistingAntiAffinity),
        (true, true) => None,
    }
}

fn pass_own(pod: &PodInfo, node: &NodeInfo) -> bool {
    crate::filter::check(pod, node).is_empty()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn counted_once_and_looked_at_again_and_again_say_the_same(
        nodes in prop::collection::vec(some_node(), 1..6),
        pod in some_pod(),
    ) {
        let (nodes, namespaces, volumes) = (build(nodes), namespaces(), Volumes::default());
        let pod = info(pod, "incoming");
        let cycle = Cycle::new(&pod, &volumes, Cluster { namespaces: &namespaces, ..cluster(&nodes) });
        for node in nodes.iter().filter(|node| pass_own(&pod, node)) {
            let expected: Vec<Reason> = slowly(&pod, node, &nodes).into_iter().collect();
            prop_assert_eq!(cycle.check(node), expected, "on {}", node.name());
        }
    }

    #[test]
    fn a_pod_that_leaves_or_comes_is_counted_as_if_it_had_never_been_or_always_been_there(
        nodes in prop::collection::vec(some_node(), 1..5),
        pod in some_pod(),
        from in any::<prop::sample::Index>(),
    ) {
        let (nodes, namespaces, volumes) = (build(nodes), namespaces(), Volumes::default());
        let pod = info(pod, "incoming");
        let whole = Cluster { namespaces: &namespaces, ..cluster(&nodes) };
        let node = &nodes[from.index(nodes.len())];
        let mut cycle = Cycle::new(&pod, &volumes, whole);
        let mut without = nodes.clone();
        for other in &node.pods {
            cycle.moved(other, node, -1);
            without.iter_mut().for_each(|node| drop(node.remove(other.uid())));
        }
        let fresh = Cycle::new(&pod, &volumes, Cluster { namespaces: &namespaces, ..cluster(&without) });
        for node in &without {
            prop_assert_eq!(cycle.check(node), fresh.check(node), "without, on {}", node.name());
        }
        for other in &node.pods {
            cycle.moved(other, node, 1);
        }
        let fresh = Cycle::new(&pod, &volumes, whole);
        for node in &nodes {
            prop_assert_eq!(cycle.check(node), fresh.check(node), "again, on {}", node.name());
        }
    }
}
