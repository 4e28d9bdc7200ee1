//! What to do about the Pods of a DaemonSet: upstream's manage and rollingUpdate as a function of what there is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::place::{Fit, fit, is_updated, node_of};
use crate::conditions::{available_from, is_finished, phase, ready_since};
use crate::intstr::{Round, scaled};

/// What there is.
pub(super) struct View<'a> {
    pub(super) set: &'a DaemonSet,
    pub(super) hash: &'a str,
    pub(super) collisions: i32,
    pub(super) nodes: &'a [Arc<Node>],
    pub(super) pods: &'a [Arc<Pod>],
    /// How long the failed Pod of a node stays before it is replaced.
    pub(super) patience: &'a (dyn Fn(&str) -> Option<Duration> + Sync),
    pub(super) now: Timestamp,
}

/// Why a Pod goes, where that is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ended {
    Failed { node: String },
    Succeeded { node: String },
}

/// What follows.
#[derive(Debug, Default)]
pub(super) struct Decision {
    /// The nodes that get a Pod.
    pub(super) create: Vec<String>,
    pub(super) delete: Vec<(Arc<Pod>, Option<Ended>)>,
    /// When something changes by time alone.
    pub(super) again: Option<Duration>,
}

/// The new and the old Pod of a node.
type Pair<'a> = (Option<&'a Arc<Pod>>, Option<&'a Arc<Pod>>);

struct Plan<'a> {
    view: &'a View<'a>,
    fits: BTreeMap<&'a str, Fit>,
    /// The Pods of each node that has some, the oldest first; those that are gone but for their object
    /// are left out.
    on_nodes: BTreeMap<&'a str, Vec<&'a Arc<Pod>>>,
    max_surge: usize,
    max_unavailable: usize,
}

fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

pub(super) fn decide(view: &View<'_>) -> Decision {
    let plan = Plan::new(view);
    let mut decision = Decision::default();
    for (node, fit) in &plan.fits {
        plan.node(node, *fit, &mut decision);
    }
    plan.unscheduled(&mut decision);
    let strategy = view.set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
    let rolling = strategy.and_then(|strategy| strategy.type_.as_deref()) != Some("OnDelete");
    // One after the other: who replaces Pods while others are missing counts wrongly.
    if rolling && decision.create.is_empty() && decision.delete.is_empty() {
        if plan.max_surge == 0 { plan.roll(&mut decision) } else { plan.surge(&mut decision) }
    }
    decision.again = decision.again.into_iter().chain(plan.next_available()).min();
    decision
}

impl<'a> Plan<'a> {
    fn new(view: &'a View<'a>) -> Self {
        let mut on_nodes: BTreeMap<&str, Vec<&Arc<Pod>>> = BTreeMap::new();
        for pod in view.pods.iter().filter(|pod| !(is_finished(pod) && is_terminating(pod))) {
            if let Some(node) = node_of(pod) {
                on_nodes.entry(node).or_default().push(pod);
            }
        }
        on_nodes.values_mut().for_each(|pods| pods.sort_by_key(|pod| age(pod)));
        let named = view.nodes.iter().filter_map(|node| Some((node.metadata.name.as_deref()?, node)));
        let fits: BTreeMap<&str, Fit> = named.map(|(name, node)| (name, fit(view.set, node))).collect();
        let desired = fits.values().filter(|fit| **fit == Fit::Run).count();
        let strategy = view.set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let share = |value: Option<&IntOrString>, default: i32| {
            let total = i32::try_from(desired).unwrap_or(i32::MAX);
            let number = value.map_or(default, |value| scaled(value, total, Round::Up));
            usize::try_from(number).unwrap_or(0)
        };
        let max_surge = share(rolling.and_then(|one| one.max_surge.as_ref()), 0);
        let max_unavailable = share(rolling.and_then(|one| one.max_unavailable.as_ref()), 1);
        let stuck = max_surge == 0 && max_unavailable == 0;
        Self { view, fits, on_nodes, max_surge, max_unavailable: if stuck { 1 } else { max_unavailable } }
    }

    fn on(&self, node: &str) -> &[&'a Arc<Pod>] {
        self.on_nodes.get(node).map(Vec::as_slice).unwrap_or_default()
    }

    fn available_from(&self, pod: &Pod) -> Option<Timestamp> {
        let spec = self.view.set.spec.as_ref();
        available_from(pod, spec.and_then(|spec| spec.min_ready_seconds).unwrap_or(0))
    }

    fn is_available(&self, pod: &Pod) -> bool {
        self.available_from(pod).is_some_and(|from| from <= self.view.now)
    }

    fn is_new(&self, pod: &Pod) -> bool {
        is_updated(self.view.set, self.view.hash, pod)
    }

    fn next_available(&self) -> Option<Duration> {
        let pods = self.on_nodes.values().flatten();
        let later = pods.filter_map(|pod| self.available_from(pod)).filter(|from| *from > self.view.now);
        let left = Duration::try_from(self.view.now.duration_until(later.min()?)).unwrap_or_default();
        // Not below a millisecond: what is due now would spin.
        Some(left.max(Duration::from_millis(1)))
    }

    /// Upstream's podsShouldBeOnNode.
    fn node(&self, node: &str, fit: Fit, decision: &mut Decision) {
        let pods = self.on(node);
        if fit == Fit::Leave {
            let going = pods.iter().filter(|pod| !is_terminating(pod));
            decision.delete.extend(going.map(|pod| ((*pod).clone(), None)));
            return;
        }
        if pods.is_empty() {
            if fit == Fit::Run {
                decision.create.push(node.to_owned());
            }
            return;
        }
        let mut running = Vec::new();
        for pod in pods.iter().filter(|pod| !is_terminating(pod)) {
            let ended = match phase(pod) {
                "Failed" => Ended::Failed { node: node.to_owned() },
                "Succeeded" => Ended::Succeeded { node: node.to_owned() },
                _ => {
                    running.push(*pod);
                    continue;
                }
            };
            let patience = (self.view.patience)(node).filter(|_| matches!(ended, Ended::Failed { .. }));
            match patience {
                Some(left) => decision.again = decision.again.into_iter().chain([left]).min(),
                None => decision.delete.push(((*pod).clone(), Some(ended))),
            }
        }
        if self.max_surge == 0 {
            decision.delete.extend(running.into_iter().skip(1).map(|pod| (pod.clone(), None)));
        } else if running.is_empty() && fit == Fit::Run {
            decision.create.push(node.to_owned());
        } else {
            self.prune(&running, decision);
        }
    }

    /// With surge there may be two: an old one that serves, and the new one until it does.
    fn prune(&self, running: &[&Arc<Pod>], decision: &mut Decision) {
        let (new, old): (Vec<&Arc<Pod>>, Vec<&Arc<Pod>>) = running.iter().partition(|pod| self.is_new(pod));
        let more = new.iter().skip(1).chain(old.iter().skip(1));
        decision.delete.extend(more.map(|pod| ((*pod).clone(), None)));
        if let (Some(new), Some(old)) = (new.first(), old.first())
            && (ready_since(old).is_none() || self.is_available(new))
        {
            decision.delete.push(((*old).clone(), None));
        }
    }

    /// Pods for nodes that are gone are never placed, and nobody else would delete them.
    fn unscheduled(&self, decision: &mut Decision) {
        let gone = self.on_nodes.iter().filter(|(node, _)| !self.fits.contains_key(*node));
        let waiting = gone.flat_map(|(_, pods)| pods).filter(|pod| {
            let placed = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
            placed.unwrap_or_default().is_empty() && !is_terminating(pod)
        });
        decision.delete.extend(waiting.map(|pod| ((*pod).clone(), None)));
    }

    /// The new and the old Pod of a node; `None` when there are more than that.
    fn pair(&self, node: &str) -> Option<Pair<'a>> {
        let staying = self.on(node).iter().copied().filter(|pod| !is_terminating(pod));
        let (new, old): (Vec<&'a Arc<Pod>>, Vec<&'a Arc<Pod>>) = staying.partition(|pod| self.is_new(pod));
        (new.len() <= 1 && old.len() <= 1).then(|| (new.first().copied(), old.first().copied()))
    }

    /// All nodes that have a Pod or should have one.
    fn nodes(&self) -> BTreeSet<&'a str> {
        let wanting = self.fits.iter().filter(|(_, fit)| **fit == Fit::Run).map(|(node, _)| *node);
        wanting.chain(self.on_nodes.keys().copied()).collect()
    }

    /// Old Pods go as far as maxUnavailable lets them; those that do not serve cost nothing.
    fn roll(&self, decision: &mut Decision) {
        let (mut unavailable, mut candidates) = (0_usize, Vec::new());
        for node in self.nodes() {
            match self.pair(node) {
                Some((Some(new), None)) => unavailable += usize::from(!self.is_available(new)),
                Some((None, Some(old))) if self.is_available(old) => candidates.push(old),
                Some((None, Some(old))) => {
                    decision.delete.push((old.clone(), None));
                    unavailable += 1;
                }
                None | Some((None, None) | (Some(_), Some(_))) => unavailable += 1,
            }
        }
        let left = self.max_unavailable.saturating_sub(unavailable);
        decision.delete.extend(candidates.into_iter().take(left).map(|pod| (pod.clone(), None)));
    }

    /// New Pods come beside as many old ones as maxSurge says, and at once where the old one does not serve.
    fn surge(&self, decision: &mut Decision) {
        let (mut surging, mut available) = (0_usize, 0_usize);
        let (mut candidates, mut leaving) = (Vec::new(), Vec::new());
        for node in self.nodes() {
            let Some((new, old)) = self.pair(node) else {
                surging += 1;
                continue;
            };
            available += usize::from(old.or(new).is_some_and(|pod| self.is_available(pod)));
            let Some(old) = old else { continue };
            let runs = self.fits.get(node) == Some(&Fit::Run);
            match new {
                Some(new) if self.is_available(new) => decision.delete.push((old.clone(), None)),
                Some(_) => surging += 1,
                None if self.is_available(old) && runs => candidates.push(node),
                None if self.is_available(old) => leaving.push(old),
                None if runs => decision.create.push(node.to_owned()),
                None => decision.delete.push((old.clone(), None)),
            }
        }
        let left = self.max_surge.saturating_sub(surging);
        decision.create.extend(candidates.into_iter().take(left).map(str::to_owned));
        // Where it should not be any more it serves until all serve where they should be.
        let desired = self.fits.values().filter(|fit| **fit == Fit::Run).count();
        let spare = available.saturating_sub(desired);
        decision.delete.extend(leaving.into_iter().take(spare).map(|pod| (pod.clone(), None)));
    }
}

/// Placed ones first, then the oldest.
fn age(pod: &Pod) -> (bool, Option<Timestamp>, Option<String>) {
    let placed = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
    let since = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    (placed.is_empty(), since, pod.metadata.name.clone())
}

/// `seen`: the set was acted on as it is now.
pub(super) fn status(view: &View<'_>, seen: bool) -> DaemonSetStatus {
    let plan = Plan::new(view);
    let before = view.set.status.as_ref();
    let observed = before.and_then(|status| status.observed_generation);
    let mut status = DaemonSetStatus {
        observed_generation: if seen { view.set.metadata.generation } else { observed },
        collision_count: (view.collisions > 0).then_some(view.collisions),
        conditions: before.and_then(|status| status.conditions.clone()),
        ..DaemonSetStatus::default()
    };
    let (mut available, mut updated) = (0, 0);
    for (node, fit) in &plan.fits {
        let first = plan.on(node).first();
        if *fit != Fit::Run {
            status.number_misscheduled += i32::from(first.is_some());
            continue;
        }
        status.desired_number_scheduled += 1;
        let Some(pod) = first else { continue };
        status.current_number_scheduled += 1;
        status.number_ready += i32::from(ready_since(pod).is_some());
        available += i32::from(plan.is_available(pod));
        updated += i32::from(plan.is_new(pod));
    }
    let counted = |count: i32| (count != 0).then_some(count);
    status.number_available = counted(available);
    status.updated_number_scheduled = counted(updated);
    status.number_unavailable = counted(status.desired_number_scheduled - available);
    status
}
