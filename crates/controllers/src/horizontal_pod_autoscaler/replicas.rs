//! How many replicas a resource metric asks for: upstream's replica calculator.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::quantity::Quantity;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod, PodStatus};

/// Upstream's `--horizontal-pod-autoscaler-cpu-initialization-period`.
const CPU_INITIALIZATION: SignedDuration = SignedDuration::from_mins(5);
/// Upstream's `--horizontal-pod-autoscaler-initial-readiness-delay`.
const INITIAL_READINESS_DELAY: SignedDuration = SignedDuration::from_secs(30);
/// Upstream's `--horizontal-pod-autoscaler-tolerance`.
const TOLERANCE: f64 = 0.1;

/// What a Pod used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sample {
    /// Thousandths of the resource.
    pub(super) milli: i64,
    pub(super) time: Timestamp,
    pub(super) window: SignedDuration,
}

/// What is measured of Pods, and what they are to use.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) resource: &'a str,
    /// One container, or all of them.
    pub(super) container: Option<&'a str>,
    pub(super) target: Target,
    pub(super) tolerance: Tolerance,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Target {
    /// Percent of what the Pods ask for.
    Utilization(i32),
    /// Thousandths on average.
    Average(i64),
}

/// Within which nothing is changed, as parts of the target.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Tolerance {
    pub(super) up: f64,
    pub(super) down: f64,
}

impl Default for Tolerance {
    fn default() -> Self {
        Self { up: TOLERANCE, down: TOLERANCE }
    }
}

impl Tolerance {
    fn covers(self, ratio: f64) -> bool {
        (1.0 - self.down..=1.0 + self.up).contains(&ratio)
    }
}

/// A proposal, and what it comes from.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Proposal {
    pub(super) replicas: i32,
    /// Percent, where the target is such.
    pub(super) utilization: Option<i32>,
    /// Thousandths on average.
    pub(super) average: i64,
}

/// By the names of Pods.
pub(super) type Samples = BTreeMap<String, Sample>;

/// Proposes a number of replicas; an error in upstream's words.
pub(super) fn propose(
    current: i32,
    pods: &[Arc<Pod>],
    samples: Samples,
    wanted: Wanted<'_>,
    now: Timestamp,
) -> Result<Proposal, String> {
    if pods.is_empty() {
        return Err("no pods returned by selector while calculating replica count".to_owned());
    }
    let groups = Groups::of(pods, &samples, wanted.resource, now);
    let requests = match wanted.target {
        Target::Utilization(_) => requests(pods, wanted)?,
        Target::Average(_) => BTreeMap::new(),
    };
    let mut used: BTreeMap<&str, i64> =
        samples.iter().map(|(name, sample)| (name.as_str(), sample.milli)).collect();
    used.retain(|name, _| !groups.ignored.contains(name) && !groups.unready.contains(name));
    if used.is_empty() {
        return Err("did not receive metrics for any ready pods".to_owned());
    }
    let first = Ratio::of(&used, &requests, wanted.target)?;
    let proposal = |replicas| Proposal { replicas, utilization: first.utilization, average: first.average };
    let adds_unready = !groups.unready.is_empty() && first.ratio > 1.0;
    if !adds_unready && groups.missing.is_empty() {
        let unchanged = wanted.tolerance.covers(first.ratio);
        return Ok(proposal(if unchanged { current } else { times(first.ratio, groups.ready) }));
    }
    // Those of which nothing is known are taken for what changes least.
    for name in &groups.missing {
        let assumed = match wanted.target {
            _ if first.ratio > 1.0 => 0,
            Target::Utilization(percent) if first.ratio < 1.0 => {
                let requested = requests.get(name).copied().unwrap_or_default();
                requested.saturating_mul(percent.max(100).into()) / 100
            }
            Target::Average(milli) if first.ratio < 1.0 => milli,
            Target::Utilization(_) => continue,
            Target::Average(_) => 0,
        };
        used.insert(*name, assumed);
    }
    if adds_unready {
        used.extend(groups.unready.iter().map(|name| (*name, 0)));
    }
    let again = Ratio::of(&used, &requests, wanted.target)?.ratio;
    let turns = (first.ratio < 1.0 && again > 1.0) || (first.ratio > 1.0 && again < 1.0);
    if wanted.tolerance.covers(again) || turns {
        return Ok(proposal(current));
    }
    let replicas = times(again, used.len());
    let contradicts = (again < 1.0 && replicas > current) || (again > 1.0 && replicas < current);
    Ok(proposal(if contradicts { current } else { replicas }))
}

fn times(ratio: f64, pods: usize) -> i32 {
    (ratio * pods as f64).ceil() as i32
}

/// Pods by what can be said of them.
#[derive(Debug, Default, PartialEq, Eq)]
struct Groups<'a> {
    ready: usize,
    unready: BTreeSet<&'a str>,
    missing: BTreeSet<&'a str>,
    ignored: BTreeSet<&'a str>,
}

impl<'a> Groups<'a> {
    fn of(pods: &'a [Arc<Pod>], samples: &Samples, resource: &str, now: Timestamp) -> Self {
        let mut groups = Self::default();
        for pod in pods {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            let status = pod.status.as_ref();
            let phase = status.and_then(|status| status.phase.as_deref()).unwrap_or_default();
            if pod.metadata.deletion_timestamp.is_some() || phase == "Failed" {
                groups.ignored.insert(name);
            } else if phase == "Pending" {
                groups.unready.insert(name);
            } else if let Some(sample) = samples.get(name) {
                if resource == "cpu" && status.is_none_or(|status| is_starting(status, sample, now)) {
                    groups.unready.insert(name);
                } else {
                    groups.ready += 1;
                }
            } else {
                groups.missing.insert(name);
            }
        }
        groups
    }
}

/// What a Pod uses while it starts says nothing of what it will use.
fn is_starting(status: &PodStatus, sample: &Sample, now: Timestamp) -> bool {
    let ready = status.conditions.iter().flatten().find(|condition| condition.type_ == "Ready");
    let (Some(ready), Some(started)) = (ready, status.start_time.as_ref()) else { return true };
    let changed = ready.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    let is_unready = ready.status == "False";
    if now.duration_since(started.0) < CPU_INITIALIZATION {
        is_unready || sample.time.duration_since(changed) < sample.window
    } else {
        is_unready && changed.duration_since(started.0) < INITIAL_READINESS_DELAY
    }
}

/// What each Pod asks for.
fn requests<'a>(pods: &'a [Arc<Pod>], wanted: Wanted<'_>) -> Result<BTreeMap<&'a str, i64>, String> {
    let each = pods.iter().map(|pod| {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        Ok((
            name,
            request(pod, wanted).map_err(|container| {
                format!("missing request for {} in container {container} of Pod {name}", wanted.resource)
            })?,
        ))
    });
    each.collect()
}

/// What a Pod asks for, or the container that does not say.
fn request<'a>(pod: &'a Pod, wanted: Wanted<'_>) -> Result<i64, &'a str> {
    let Some(spec) = &pod.spec else { return Ok(0) };
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let all = spec.containers.iter().chain(sidecars);
    let counted = all.filter(|one| wanted.container.is_none_or(|name| one.name == name));
    let each = counted.map(|one| request_of(one, wanted.resource).ok_or(one.name.as_str()));
    each.reduce(|sum, one| Ok(sum?.saturating_add(one?))).unwrap_or(Ok(0))
}

fn request_of(container: &Container, resource: &str) -> Option<i64> {
    let requests = container.resources.as_ref()?.requests.as_ref()?;
    requests.get(resource)?.0.parse::<Quantity>().ok().map(|quantity| quantity.milli_value())
}

/// Whoever asks for more than there can be gets no more than that.
fn sum<'a>(amounts: impl Iterator<Item = &'a i64>) -> i64 {
    amounts.fold(0, |sum, amount| sum.saturating_add(*amount))
}

/// How much is used of what is to be used.
struct Ratio {
    ratio: f64,
    utilization: Option<i32>,
    average: i64,
}

impl Ratio {
    fn of(
        used: &BTreeMap<&str, i64>,
        requests: &BTreeMap<&str, i64>,
        target: Target,
    ) -> Result<Self, String> {
        let percent = match target {
            Target::Average(milli) => {
                let average = sum(used.values()) / i64::try_from(used.len()).unwrap_or(1).max(1);
                return Ok(Self { ratio: average as f64 / milli as f64, utilization: None, average });
            }
            Target::Utilization(percent) => percent,
        };
        let known: Vec<(i64, i64)> =
            used.iter().filter_map(|(name, used)| Some((*used, *requests.get(name)?))).collect();
        let total = sum(known.iter().map(|(used, _)| used));
        let requested = sum(known.iter().map(|(_, requested)| requested));
        if requested == 0 {
            return Err("no metrics returned matched known pods".to_owned());
        }
        let utilization = i32::try_from(total.saturating_mul(100) / requested).unwrap_or(i32::MAX);
        Ok(Self {
            ratio: f64::from(utilization) / f64::from(percent),
            utilization: Some(utilization),
            average: total / i64::try_from(known.len()).unwrap_or(1).max(1),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn now() -> Timestamp {
        "2027-01-15T09:00:00Z".parse().unwrap()
    }

    /// A Pod that has been ready for an hour.
    fn pod(name: &str, phase: &str, ready: &str) -> Arc<Pod> {
        let long_ago = "2027-01-15T08:00:00Z";
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": name},
                "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "100m"}}}]},
                "status": {"phase": phase, "startTime": long_ago,
                    "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": long_ago}]},
            }))
            .unwrap(),
        )
    }

    fn samples(used: &[(&str, i64)]) -> Samples {
        let sample = |milli| Sample { milli, time: now(), window: SignedDuration::from_secs(15) };
        used.iter().map(|(name, milli)| ((*name).to_owned(), sample(*milli))).collect()
    }

    fn cpu(target: Target) -> Wanted<'static> {
        Wanted { resource: "cpu", container: None, target, tolerance: Tolerance::default() }
    }

    fn half() -> Wanted<'static> {
        cpu(Target::Utilization(50))
    }

    #[test]
    fn pods_that_use_twice_their_part_are_doubled() {
        let pods = [pod("a", "Running", "True"), pod("b", "Running", "True")];
        let proposal = propose(2, &pods, samples(&[("a", 120), ("b", 80)]), half(), now()).unwrap();
        assert_eq!(proposal, Proposal { replicas: 4, utilization: Some(100), average: 100 });
        let plain =
            propose(2, &pods, samples(&[("a", 120), ("b", 80)]), cpu(Target::Average(25)), now()).unwrap();
        assert_eq!(plain, Proposal { replicas: 8, utilization: None, average: 100 });
    }

    #[test]
    fn within_the_tolerance_nothing_changes() {
        let pods = [pod("a", "Running", "True")];
        assert_eq!(propose(3, &pods, samples(&[("a", 54)]), half(), now()).unwrap().replicas, 3);
        let narrow = Wanted { tolerance: Tolerance { up: 0.01, down: 0.01 }, ..half() };
        assert_eq!(propose(1, &pods, samples(&[("a", 54)]), narrow, now()).unwrap().replicas, 2);
    }

    #[test]
    fn pods_of_which_nothing_is_known_soften_the_change() {
        let pods = [pod("a", "Running", "True"), pod("b", "Running", "True")];
        let up = propose(2, &pods, samples(&[("a", 150)]), half(), now()).unwrap();
        assert_eq!(up.replicas, 3, "the other counts as idle: 75 percent of two");
        let down = propose(2, &pods, samples(&[("a", 10)]), half(), now()).unwrap();
        assert_eq!(down.replicas, 2, "the other counts as busy, which would turn the direction");
        let pending = [pod("a", "Running", "True"), pod("b", "Pending", "False")];
        let up = propose(2, &pending, samples(&[("a", 150)]), half(), now()).unwrap();
        assert_eq!(up.replicas, 3, "one that starts counts as idle");
    }

    #[test]
    fn what_cannot_be_computed_is_said_in_the_words_of_upstream() {
        let say = |pods: &[Arc<Pod>], used: &[(&str, i64)]| {
            propose(1, pods, samples(used), half(), now()).unwrap_err()
        };
        assert_eq!(say(&[], &[]), "no pods returned by selector while calculating replica count");
        let pods = [pod("a", "Running", "True")];
        assert_eq!(say(&pods, &[]), "did not receive metrics for any ready pods");
        assert_eq!(say(&pods, &[("b", 1)]), "no metrics returned matched known pods");
        let mut silent = Pod::clone(&pods[0]);
        silent.spec.as_mut().unwrap().containers[0].resources = None;
        assert_eq!(say(&[Arc::new(silent)], &[("a", 1)]), "missing request for cpu in container c of Pod a");
    }

    proptest! {
        /// Against the plain rule that holds where everything is known: more use never gives fewer replicas.
        #[test]
        fn more_use_never_asks_for_fewer(used in prop::collection::vec(0i64..400, 1..12), more in 1i64..200, known in 1usize..12) {
            let pods: Vec<_> = (0..used.len()).map(|i| pod(&format!("p{i}"), "Running", "True")).collect();
            let of = |extra: i64| -> Samples {
                let sample = |milli| Sample { milli, time: now(), window: SignedDuration::from_secs(15) };
                used.iter().take(known).enumerate().map(|(i, milli)| (format!("p{i}"), sample(milli + extra))).collect()
            };
            let current = i32::try_from(used.len()).unwrap();
            let (less, greater) = (propose(current, &pods, of(0), half(), now()).unwrap(), propose(current, &pods, of(more), half(), now()).unwrap());
            prop_assert!(less.replicas <= greater.replicas, "{less:?} {greater:?}");
        }
    }
}
