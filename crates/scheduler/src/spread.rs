//! PodTopologySpread: Pods that are alike, evenly over places.

use std::collections::{HashMap, HashSet};

use crate::affinity::tolerates;
use crate::terms::Constraint;
use crate::{NodeInfo, PodInfo, Reason};

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
    pub(crate) fn new(pod: &'a PodInfo, nodes: &'a [NodeInfo]) -> Self {
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
                    *counted.places.entry(value).or_default() += alike(counted.constraint, pod, node);
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

fn alike(constraint: &Constraint, pod: &PodInfo, node: &NodeInfo) -> i64 {
    i64::try_from(node.pods.iter().filter(|other| constraint.counts(other, pod)).count()).unwrap_or(i64::MAX)
}

/// How empty of Pods that are alike each of these nodes' places is, from 0 to 100; `None` where the Pod
/// does not care. `every_key`: a node without one of the keys is not wanted at all.
#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "counts of Pods")]
pub(crate) fn scores(
    pod: &PodInfo,
    constraints: &[Constraint],
    every_key: bool,
    feasible: &[&NodeInfo],
    nodes: &[NodeInfo],
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
        let mut counts = HashMap::<&str, i64>::new();
        let counted = nodes.iter().filter(|node| !by_host && wanted(node));
        for node in counted {
            if let Some(value) = place(constraint, pod, node).filter(|value| places.contains(value)) {
                *counts.entry(value).or_default() += alike(constraint, pod, node);
            }
        }
        for (total, node) in totals.iter_mut().zip(feasible) {
            let Some(value) = node.label(&constraint.topology_key) else { continue };
            let count =
                if by_host { alike(constraint, pod, node) } else { counts.get(value).copied().unwrap_or(0) };
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
