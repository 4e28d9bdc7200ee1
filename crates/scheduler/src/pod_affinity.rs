//! InterPodAffinity: near the Pods that a Pod names, and apart from those that it, or they, name.

use std::collections::HashMap;

use crate::terms::{Namespaces, Term};
use crate::{NodeInfo, Nodes, PodInfo, Reason};

/// An existing Pod's required affinity to the Pod weighs this much when nodes are scored.
const HARD_WEIGHT: i64 = 1;

type Places<'a> = HashMap<&'a str, i64>;

/// How many Pods that matter are in which place, before any node is looked at.
#[derive(Debug, Clone)]
pub(crate) struct PodAffinity<'a> {
    pod: &'a PodInfo,
    namespaces: &'a Namespaces,
    /// Per term of the Pod's affinity: Pods that match all of them.
    near: Vec<Places<'a>>,
    /// Per term of its anti-affinity: Pods that match it.
    apart: Vec<Places<'a>>,
    /// By key: Pods whose anti-affinity means this one. Few keys and many places: a node is asked once for each key.
    repelled: HashMap<&'a str, Places<'a>>,
}

impl<'a> PodAffinity<'a> {
    pub(crate) fn new(pod: &'a PodInfo, nodes: &'a Nodes, namespaces: &'a Namespaces) -> Self {
        let mut counted = Self {
            pod,
            namespaces,
            near: vec![Places::new(); pod.terms.near.len()],
            apart: vec![Places::new(); pod.terms.apart.len()],
            repelled: HashMap::new(),
        };
        let named = !pod.terms.near.is_empty() || !pod.terms.apart.is_empty();
        nodes.speaking_and(named).for_each(|group| counted.count(group.pod, group.at()));
        counted
    }

    /// A Pod comes to a node, or (`by` is negative) leaves it.
    pub(crate) fn moved(&mut self, other: &'a PodInfo, node: &'a NodeInfo, by: i64) {
        self.count(other, std::iter::once((node, by)));
    }

    /// So many Pods like this one come to these nodes.
    fn count(&mut self, other: &'a PodInfo, at: impl Iterator<Item = (&'a NodeInfo, i64)> + Clone) {
        let terms = &self.pod.terms;
        for term in &other.terms.apart {
            if term.matches(self.pod, self.namespaces) {
                tally(self.repelled.entry(&term.topology_key).or_default(), term, at.clone());
            }
        }
        let matches = |term: &Term| term.matches(other, self.namespaces);
        if !terms.near.is_empty() && terms.near.iter().all(matches) {
            for (term, places) in terms.near.iter().zip(&mut self.near) {
                tally(places, term, at.clone());
            }
        }
        for (term, places) in terms.apart.iter().zip(&mut self.apart).filter(|(term, _)| matches(term)) {
            tally(places, term, at.clone());
        }
    }

    pub(crate) fn check(&self, node: &NodeInfo) -> Option<Reason> {
        if !self.is_near(node) {
            return Some(Reason::PodAffinity);
        }
        let in_place = |(term, places): (&Term, &Places<'_>)| {
            node.label(&term.topology_key).is_some_and(|value| places.contains_key(value))
        };
        if self.pod.terms.apart.iter().zip(&self.apart).any(in_place) {
            return Some(Reason::PodAntiAffinity);
        }
        let mut repelled = self.repelled.iter();
        let is_here = |(key, places): (&&str, &Places<'_>)| {
            node.label(key).is_some_and(|value| places.contains_key(value))
        };
        repelled.any(is_here).then_some(Reason::ExistingAntiAffinity)
    }

    fn is_near(&self, node: &NodeInfo) -> bool {
        let terms = &self.pod.terms.near;
        let mut all = true;
        for (term, places) in terms.iter().zip(&self.near) {
            let Some(value) = node.label(&term.topology_key) else { return false };
            all &= places.contains_key(value);
        }
        // The first of a group that wants to be together may go anywhere.
        all || (self.near.iter().all(HashMap::is_empty)
            && terms.iter().all(|term| term.matches(self.pod, self.namespaces)))
    }
}

fn tally<'a>(places: &mut Places<'a>, term: &Term, at: impl Iterator<Item = (&'a NodeInfo, i64)>) {
    for (node, by) in at {
        if let Some(value) = node.label(&term.topology_key) {
            add(places, value, by);
        }
    }
}

/// What is nought is not kept: a key says that somebody is there.
fn add<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, i64>, key: K, by: i64) {
    use std::collections::hash_map::Entry;
    match counts.entry(key) {
        Entry::Occupied(mut known) => {
            *known.get_mut() += by;
            if *known.get() == 0 {
                known.remove();
            }
        }
        Entry::Vacant(new) => drop(new.insert(by)),
    }
}

/// How much each of these nodes attracts the Pod, from 0 to 100; `None` where nobody says anything.
pub(crate) fn scores(
    pod: &PodInfo,
    feasible: &[&NodeInfo],
    nodes: &Nodes,
    namespaces: &Namespaces,
) -> Option<Vec<i64>> {
    let mut weights = HashMap::<(&str, &str), i64>::new();
    for group in nodes.speaking_and(!pod.terms.preferred.is_empty()) {
        let other = group.pod;
        let mine = pod.terms.preferred.iter().filter(|(_, term)| term.matches(other, namespaces));
        let hard = other.terms.near.iter().map(|term| (HARD_WEIGHT, term));
        let soft = other.terms.preferred.iter().map(|(weight, term)| (*weight, term));
        let theirs = hard.chain(soft).filter(|(_, term)| term.matches(pod, namespaces));
        for (weight, term) in mine.map(|(weight, term)| (*weight, term)).chain(theirs) {
            for (node, count) in group.at() {
                if let Some(value) = node.label(&term.topology_key) {
                    *weights.entry((&term.topology_key, value)).or_default() += weight * count;
                }
            }
        }
    }
    if weights.is_empty() {
        return None;
    }
    let mut by_key = HashMap::<&str, Places<'_>>::new();
    for ((key, value), weight) in weights {
        by_key.entry(key).or_default().insert(value, weight);
    }
    let at = |node: &NodeInfo| -> i64 {
        let places = by_key.iter().filter_map(|(key, places)| places.get(node.label(key)?));
        places.sum()
    };
    let raw: Vec<i64> = feasible.iter().map(|node| at(node)).collect();
    let (least, most) = (raw.iter().min().copied()?, raw.iter().max().copied()?);
    let range = most - least;
    // Whole hundredths, as upstream rounds them.
    Some(raw.into_iter().map(|value| if range > 0 { 100 * (value - least) / range } else { 0 }).collect())
}
