//! PodTopologySpread: Pods that are alike, evenly over places.

use std::collections::{HashMap, HashSet};

use crate::affinity::tolerates;
use crate::nodes::Group;
use crate::terms::Constraint;
use crate::{NodeInfo, Nodes, PodInfo, Reason};

const HOSTNAME: &str = "kubernetes.io/hostname";

/// How many Pods that are alike each place has, per demanded constraint.
#[derive(Debug, Clone)]
pub(crate) struct Spread<'a> {
    pod: &'a PodInfo,
    constraints: Vec<Counted<'a>>,
}

#[derive(Debug, Clone)]
struct Counted<'a> {
    constraint: &'a Constraint,
    places: HashMap<&'a str, i64>,
    /// In the emptiest place.
    least: i64,
    /// 1 when the Pod itself will count.
    own: i64,
}

impl Counted<'_> {
    fn settle(&mut self) {
        let domains = i64::try_from(self.places.len()).unwrap_or(i64::MAX);
        let least = self.places.values().copied().min().unwrap_or_default();
        // Too few places: what is missing counts as empty ones.
        self.least = if domains < self.constraint.min_domains { 0 } else { least };
    }
}

impl<'a> Spread<'a> {
    pub(crate) fn new(pod: &'a PodInfo, nodes: &'a Nodes) -> Self {
        let demanded = pod.spread.iter().filter(|constraint| constraint.demanded);
        let counted = demanded.map(|constraint| Counted {
            constraint,
            places: HashMap::new(),
            least: 0,
            own: i64::from(constraint.chosen.matches(pod)),
        });
        let mut spread = Self { pod, constraints: counted.collect() };
        if spread.constraints.is_empty() {
            return spread;
        }
        for node in nodes.iter().filter(|node| has_keys(node, &pod.spread, true)) {
            for counted in &mut spread.constraints {
                if let Some(value) = place(counted.constraint, pod, node) {
                    counted.places.entry(value).or_default();
                }
            }
        }
        for counted in &mut spread.constraints {
            for (node, count) in alike(counted.constraint, pod, nodes) {
                let value =
                    place(counted.constraint, pod, node).filter(|_| has_keys(node, &pod.spread, true));
                if let Some(value) = value {
                    *counted.places.entry(value).or_default() += count;
                }
            }
        }
        spread.constraints.iter_mut().for_each(Counted::settle);
        spread
    }

    /// A Pod comes to a node, or (`by` is negative) leaves it.
    pub(crate) fn moved(&mut self, other: &PodInfo, node: &'a NodeInfo, by: i64) {
        let pod = self.pod;
        if self.constraints.is_empty() || !has_keys(node, &pod.spread, true) {
            return;
        }
        for counted in &mut self.constraints {
            if counted.constraint.counts(other, pod)
                && let Some(value) = place(counted.constraint, pod, node)
            {
                *counted.places.entry(value).or_default() += by;
                counted.settle();
            }
        }
    }

    pub(crate) fn check(&self, node: &NodeInfo) -> Option<Reason> {
        for counted in &self.constraints {
            let Some(value) = node.label(&counted.constraint.topology_key) else {
                return Some(Reason::SpreadLabel);
            };
            let here = counted.places.get(value).copied().unwrap_or_default();
            if here + counted.own - counted.least > counted.constraint.max_skew {
                return Some(Reason::Spread);
            }
        }
        None
    }
}

fn has_keys(node: &NodeInfo, constraints: &[Constraint], demanded: bool) -> bool {
    let mut relevant = constraints.iter().filter(|constraint| constraint.demanded == demanded);
    relevant.all(|constraint| node.label(&constraint.topology_key).is_some())
}

/// The place that the node is in, if the constraint looks at the node.
fn place<'a>(constraint: &Constraint, pod: &PodInfo, node: &'a NodeInfo) -> Option<&'a str> {
    let spec = pod.spec();
    if constraint.honor_affinity && !api::placement::matches_node(spec, &node.node) {
        return None;
    }
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let repels = || {
        let mut hard = node.taints().iter().filter(|taint| taint.effect != "PreferNoSchedule");
        hard.any(|taint| !tolerates(tolerations, taint))
    };
    if constraint.honor_taints && repels() {
        return None;
    }
    node.label(&constraint.topology_key)
}

/// Where Pods are that count, and how many; a node may come several times.
fn alike<'a>(
    constraint: &Constraint,
    pod: &PodInfo,
    nodes: &'a Nodes,
) -> impl Iterator<Item = (&'a NodeInfo, i64)> {
    nodes.groups().filter(|group| constraint.counts(group.pod, pod)).flat_map(Group::at)
}

/// How empty of Pods that are alike each of these nodes' places is, from 0 to 100; `None` where the Pod
/// does not care. `every_key`: a node without one of the keys is not wanted at all.
#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "counts of Pods")]
pub(crate) fn scores(
    pod: &PodInfo,
    constraints: &[Constraint],
    every_key: bool,
    feasible: &[&NodeInfo],
    nodes: &Nodes,
) -> Option<Vec<i64>> {
    if constraints.iter().all(|constraint| constraint.demanded) {
        return None;
    }
    let wanted = |node: &NodeInfo| !every_key || has_keys(node, constraints, false);
    let mut totals = vec![0.0; feasible.len()];
    for constraint in constraints.iter().filter(|constraint| !constraint.demanded) {
        let candidates = feasible.iter().filter(|node| wanted(node));
        let places: HashSet<&str> =
            candidates.clone().filter_map(|node| node.label(&constraint.topology_key)).collect();
        let by_host = constraint.topology_key == HOSTNAME;
        let size = if by_host { candidates.count() } else { places.len() };
        // Places are as rough as there are few of them.
        let weight = (size as f64 + 2.0).ln();
        // On hosts each node is its own place, whatever it is called.
        let mut counts = HashMap::<&str, i64>::new();
        for (node, count) in alike(constraint, pod, nodes) {
            let value = if by_host {
                Some(node.name())
            } else {
                let value = place(constraint, pod, node).filter(|value| places.contains(value));
                value.filter(|_| wanted(node))
            };
            if let Some(value) = value {
                *counts.entry(value).or_default() += count;
            }
        }
        for (total, node) in totals.iter_mut().zip(feasible) {
            let Some(value) = node.label(&constraint.topology_key) else { continue };
            let count = counts.get(if by_host { node.name() } else { value }).copied().unwrap_or(0);
            *total += count as f64 * weight + (constraint.max_skew - 1) as f64;
        }
    }
    let raw: Vec<Option<i64>> =
        totals.iter().zip(feasible).map(|(total, node)| wanted(node).then(|| total.round() as i64)).collect();
    let known = raw.iter().copied().flatten();
    let (least, most) = (known.clone().min().unwrap_or(0), known.max().unwrap_or(0));
    let score = |raw: i64| if most == 0 { 100 } else { 100 * (most + least - raw) / most };
    Some(raw.into_iter().map(|raw| raw.map_or(0, score)).collect())
}
