//! What to do about the Pods of a StatefulSet: upstream's updateStatefulSet as a function of what there is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::identity::{claim_names, claims, is_labelled, new_pod, ordinal_of};
use super::retention::{Owners, Place, at_birth, is_stale, owners};
use crate::conditions::{available_from, is_finished, phase};
use crate::history::revision_of;
use crate::intstr::{Round, scaled};

/// Pods that are made in one round at most: upstream's largest batch.
const CREATED_MAX: usize = 500;

/// A revision with its template.
#[derive(Debug, Clone)]
pub(super) struct Revision {
    pub(super) name: String,
    pub(super) template: PodTemplateSpec,
}

/// What there is.
pub(super) struct View<'a> {
    pub(super) set: &'a StatefulSet,
    pub(super) current: &'a Revision,
    pub(super) update: &'a Revision,
    pub(super) collisions: i32,
    /// The Pods that the set controls.
    pub(super) pods: &'a [Arc<Pod>],
    pub(super) claim: &'a (dyn Fn(&str) -> Option<Arc<PersistentVolumeClaim>> + Sync),
    pub(super) now: Timestamp,
}

/// One write.
#[derive(Debug)]
pub(super) enum Action {
    CreateClaim {
        claim: Box<PersistentVolumeClaim>,
        pod: String,
    },
    CreatePod(Box<Pod>),
    /// The Pod cannot be made before this claim is gone.
    AwaitClaim {
        claim: String,
        pod: String,
    },
    DeletePod(Arc<Pod>),
    LabelPod(Arc<Pod>),
    SetOwners {
        claim: Arc<PersistentVolumeClaim>,
        owners: Owners,
    },
}

/// What follows.
pub(super) struct Decision {
    /// Each is done in order, and given up when one of its writes fails; the steps of a Parallel set do
    /// not wait for each other.
    pub(super) steps: Vec<Vec<Action>>,
    pub(super) parallel: bool,
    pub(super) status: StatefulSetStatus,
    /// When something changes by time alone.
    pub(super) again: Option<Duration>,
}

pub(super) fn decide(view: &View<'_>) -> Decision {
    let plan = Plan::new(view);
    let mut status = plan.status();
    let mut again = plan.next_available();
    let mut steps = Vec::new();
    if view.set.metadata.deletion_timestamp.is_none() {
        let created = plan.all(&mut steps, &mut status);
        if created >= CREATED_MAX {
            again = Some(Duration::ZERO);
        }
    }
    complete(&plan, &mut status);
    Decision { steps, parallel: !plan.ordered, status, again }
}

fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// May the set go on to what comes next?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Go {
    On,
    No,
}

struct Plan<'a> {
    view: &'a View<'a>,
    /// OrderedReady: one after the other.
    ordered: bool,
    start: i64,
    count: i64,
    min_ready_seconds: i32,
    /// Pods whose ordinals are wanted, and those whose are not.
    wanted: BTreeMap<i64, Arc<Pod>>,
    condemned: BTreeMap<i64, Arc<Pod>>,
}

impl<'a> Plan<'a> {
    fn new(view: &'a View<'a>) -> Self {
        let spec = view.set.spec.as_ref();
        let start = spec.and_then(|spec| spec.ordinals.as_ref()).and_then(|ordinals| ordinals.start);
        let start = i64::from(start.unwrap_or(0));
        let count = i64::from(spec.and_then(|spec| spec.replicas).unwrap_or(1).max(0));
        let all = view.pods.iter().filter_map(|pod| Some((ordinal_of(view.set, pod)?, pod.clone())));
        let (wanted, condemned) =
            all.partition(|(ordinal, _)| (start..start.saturating_add(count)).contains(ordinal));
        let policy = spec.and_then(|spec| spec.pod_management_policy.as_deref());
        let min_ready_seconds = spec.and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
        let ordered = policy != Some("Parallel");
        Self { view, ordered, start, count, min_ready_seconds, wanted, condemned }
    }

    fn spec(&self) -> Option<&StatefulSetSpec> {
        self.view.set.spec.as_ref()
    }

    /// Since when it counts as available, or from when on; `None` while it is not ready.
    fn available_from(&self, pod: &Pod) -> Option<Timestamp> {
        available_from(pod, self.min_ready_seconds).filter(|_| phase(pod) == "Running")
    }

    fn is_available(&self, pod: &Pod) -> bool {
        self.available_from(pod).is_some_and(|from| from <= self.view.now)
    }

    fn serves(&self, pod: &Pod) -> bool {
        self.is_available(pod) && !is_terminating(pod)
    }

    fn pods(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.wanted.values().chain(self.condemned.values())
    }

    fn next_available(&self) -> Option<Duration> {
        let now = self.view.now;
        let next = self.pods().filter_map(|pod| self.available_from(pod)).filter(|from| *from > now).min()?;
        // Not below a millisecond: what is due now would spin.
        Some(Duration::try_from(now.duration_until(next)).unwrap_or_default().max(Duration::from_millis(1)))
    }

    fn is_updated(&self, pod: &Pod) -> bool {
        revision_of(pod) == self.view.update.name
    }

    /// Fills `steps`, and returns how many Pods are to be made.
    fn all(&self, steps: &mut Vec<Vec<Action>>, status: &mut StatefulSetStatus) -> usize {
        let (go, created) = self.replicas(steps);
        if go == Go::No {
            return created;
        }
        for pod in self.condemned.values().rev() {
            let owned = self.own_claims(pod, Place::Condemned);
            if !owned.is_empty() {
                steps.push(owned);
            }
        }
        if self.condemn(steps) == Go::On && created < CREATED_MAX {
            self.roll(steps, status);
        }
        created
    }

    /// The wanted Pods by their ordinals: missing ones are made, broken ones replaced.
    fn replicas(&self, steps: &mut Vec<Vec<Action>>) -> (Go, usize) {
        let mut created = 0;
        for ordinal in self.start..self.start.saturating_add(self.count) {
            let (step, go) = match self.wanted.get(&ordinal) {
                Some(pod) => self.replica(ordinal, pod),
                None => {
                    created += 1;
                    (self.make(ordinal), if self.ordered { Go::No } else { Go::On })
                }
            };
            if !step.is_empty() {
                steps.push(step);
            }
            if go == Go::No {
                return (Go::No, created);
            }
            if created >= CREATED_MAX {
                break;
            }
        }
        (Go::On, created)
    }

    fn replica(&self, ordinal: i64, pod: &Arc<Pod>) -> (Vec<Action>, Go) {
        let wait = if self.ordered { Go::No } else { Go::On };
        if is_finished(pod) {
            let gone = if is_terminating(pod) { Vec::new() } else { vec![Action::DeletePod(pod.clone())] };
            return (gone, wait);
        }
        let mut step = Vec::new();
        if phase(pod) == "Pending" {
            // Its claims may have been deleted while it waited for them.
            let (mut missing, awaited) = self.missing_claims(ordinal);
            missing.extend(awaited);
            step.extend(missing);
        }
        if self.ordered && !self.serves(pod) {
            return (step, Go::No);
        }
        if !is_labelled(pod) && !is_terminating(pod) {
            step.push(Action::LabelPod(pod.clone()));
        }
        step.extend(self.own_claims(pod, Place::Wanted));
        (step, Go::On)
    }

    fn make(&self, ordinal: i64) -> Vec<Action> {
        let revision = self.revision_for(ordinal);
        let pod = new_pod(self.view.set, ordinal, &revision.name, &revision.template);
        let known = claim_names(self.view.set, ordinal);
        let known: Vec<_> = known.iter().filter_map(|name| (self.view.claim)(name)).collect();
        if known.iter().any(|claim| is_stale(self.view.set, &pod, claim)) {
            return Vec::new();
        }
        let (mut step, awaited) = self.missing_claims(ordinal);
        step.push(awaited.unwrap_or_else(|| Action::CreatePod(Box::new(pod))));
        step
    }

    /// Below the partition, what is made anew is made as it was.
    fn revision_for(&self, ordinal: i64) -> &'a Revision {
        let strategy = self.spec().and_then(|spec| spec.update_strategy.as_ref());
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let is_rolling = strategy.and_then(|strategy| strategy.type_.as_deref()) != Some("OnDelete");
        let kept = match rolling {
            Some(rolling) => i64::from(rolling.partition.unwrap_or(0)),
            None if is_rolling => {
                let status = self.view.set.status.as_ref();
                i64::from(status.and_then(|status| status.current_replicas).unwrap_or(0))
            }
            None => 0,
        };
        if ordinal < self.start.saturating_add(kept) { self.view.current } else { self.view.update }
    }

    /// What makes the claims that a Pod lacks, and what to wait for when one of them is on its way out.
    fn missing_claims(&self, ordinal: i64) -> (Vec<Action>, Option<Action>) {
        let (mut missing, mut awaited) = (Vec::new(), None);
        let pod = || super::identity::pod_name(self.view.set, ordinal);
        for mut claim in claims(self.view.set, ordinal) {
            let name = claim.metadata.name.clone().unwrap_or_default();
            match (self.view.claim)(&name) {
                Some(known) if known.metadata.deletion_timestamp.is_some() => {
                    awaited = Some(Action::AwaitClaim { claim: name, pod: pod() });
                }
                Some(_) => {}
                None => {
                    claim.metadata.owner_references = at_birth(self.view.set);
                    missing.push(Action::CreateClaim { claim: Box::new(claim), pod: pod() });
                }
            }
        }
        (missing, awaited)
    }

    fn own_claims(&self, pod: &Pod, place: Place) -> Vec<Action> {
        let Some(ordinal) = ordinal_of(self.view.set, pod) else { return Vec::new() };
        let known =
            claim_names(self.view.set, ordinal).into_iter().filter_map(|name| (self.view.claim)(&name));
        let changed = known.filter_map(|claim| {
            let owners = owners(self.view.set, pod, place, &claim)?;
            Some(Action::SetOwners { claim, owners })
        });
        changed.collect()
    }

    /// Pods beyond the wanted ordinals go, the highest first.
    fn condemn(&self, steps: &mut Vec<Vec<Action>>) -> Go {
        let first_unavailable = self.first_unavailable();
        let mut deleted = false;
        for (ordinal, pod) in self.condemned.iter().rev() {
            let blocked = !self.is_available(pod) && first_unavailable != Some(*ordinal);
            if self.ordered && (is_terminating(pod) || blocked) {
                return Go::No;
            }
            if is_terminating(pod) {
                continue;
            }
            steps.push(vec![Action::DeletePod(pod.clone())]);
            deleted = true;
            if self.ordered {
                return Go::No;
            }
        }
        if deleted { Go::No } else { Go::On }
    }

    fn first_unavailable(&self) -> Option<i64> {
        let mut wanted = self.start..self.start.saturating_add(self.count);
        let missing = wanted.find(|ordinal| self.wanted.get(ordinal).is_none_or(|pod| !self.serves(pod)));
        missing
            .or_else(|| self.condemned.iter().find(|(_, pod)| !self.serves(pod)).map(|(ordinal, _)| *ordinal))
    }

    /// Pods of older revisions are deleted from the highest ordinal down to the partition, so that never
    /// more than maxUnavailable do not serve. One that serves nobody anyway may go as soon as fewer than
    /// that above it do not, or a broken rollout could never be mended by the next.
    fn roll(&self, steps: &mut Vec<Vec<Action>>, status: &mut StatefulSetStatus) {
        let strategy = self.spec().and_then(|spec| spec.update_strategy.as_ref());
        if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete") {
            return;
        }
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let partition = rolling.and_then(|rolling| rolling.partition).unwrap_or(0);
        let budget = max_unavailable(rolling.and_then(|one| one.max_unavailable.as_ref()), self.count);
        let serving = self.wanted.values().filter(|pod| self.serves(pod)).count();
        let mut unavailable = self.count - i64::try_from(serving).unwrap_or(i64::MAX);
        let (mut above, mut next) = (0, self.start.saturating_add(self.count));
        let lowest = self.start.saturating_add(i64::from(partition));
        for (ordinal, pod) in self.wanted.iter().rev().take_while(|(ordinal, _)| **ordinal >= lowest) {
            above += next - ordinal - 1;
            next = *ordinal;
            let serves = self.serves(pod);
            let may_go = if serves { unavailable < budget } else { above < budget };
            if !self.is_updated(pod) && !is_terminating(pod) && may_go {
                steps.push(vec![Action::DeletePod(pod.clone())]);
                unavailable += i64::from(serves);
                above += 1;
                status.current_replicas = status.current_replicas.map(|count| (count - 1).max(0));
            } else if !serves {
                above += 1;
            }
        }
    }

    fn status(&self) -> StatefulSetStatus {
        let count = |counts: &dyn Fn(&Pod) -> bool| {
            i32::try_from(self.pods().filter(|pod| counts(pod)).count()).unwrap_or(i32::MAX)
        };
        let of = |revision: &str| count(&|pod| !is_terminating(pod) && revision_of(pod) == revision);
        StatefulSetStatus {
            observed_generation: self.view.set.metadata.generation,
            replicas: count(&|_| true),
            ready_replicas: Some(count(&|pod| self.available_from(pod).is_some())),
            available_replicas: Some(count(&|pod| self.is_available(pod))),
            current_replicas: Some(of(&self.view.current.name)),
            updated_replicas: Some(of(&self.view.update.name)),
            current_revision: Some(self.view.current.name.clone()),
            update_revision: Some(self.view.update.name.clone()),
            collision_count: Some(self.view.collisions),
            conditions: self.view.set.status.as_ref().and_then(|status| status.conditions.clone()),
        }
    }
}

/// When all Pods are of the new revision, it is the current one.
fn complete(plan: &Plan<'_>, status: &mut StatefulSetStatus) {
    let strategy = plan.spec().and_then(|spec| spec.update_strategy.as_ref());
    let rolling = strategy.and_then(|strategy| strategy.type_.as_deref()) != Some("OnDelete");
    let all = [Some(status.replicas), status.updated_replicas, status.ready_replicas];
    if rolling && all.iter().all(|count| count.map(i64::from) == Some(plan.count)) {
        status.current_replicas = status.updated_replicas;
        status.current_revision = status.update_revision.clone();
    }
}

/// At least one; a share is rounded down.
fn max_unavailable(value: Option<&IntOrString>, count: i64) -> i64 {
    let total = i32::try_from(count).unwrap_or(i32::MAX);
    value.map_or(1, |value| scaled(value, total, Round::Down)).max(1).into()
}

/// The revisions that Pods are of.
pub(super) fn revisions_of(pods: &[Arc<Pod>]) -> BTreeSet<String> {
    pods.iter().map(|pod| revision_of(pod).to_owned()).collect()
}
