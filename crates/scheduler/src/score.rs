//! Which of the nodes that fit is best: the default plugins with their weights.

use std::collections::HashSet;

use crate::affinity::{preference, tolerates};
use crate::cycle::Cluster;
use crate::{NodeInfo, PodInfo, pod_affinity, spread};

const SCORE_MAX: i64 = 100;
const TAINT_WEIGHT: i64 = 3;
const AFFINITY_WEIGHT: i64 = 2;
const SPREAD_WEIGHT: i64 = 2;
const POD_AFFINITY_WEIGHT: i64 = 2;
/// An image smaller than this is no reason to prefer a node.
const IMAGE_MIN: i64 = 23 * 1024 * 1024;
const IMAGE_MAX: i64 = 1000 * 1024 * 1024;

/// The score of each feasible node, in their order.
pub(crate) fn scores(pod: &PodInfo, cluster: Cluster<'_>, feasible: &[usize]) -> Vec<i64> {
    let nodes: Vec<&NodeInfo> = feasible.iter().map(|&index| &cluster.nodes[index]).collect();
    let preferred = normalised(nodes.iter().map(|node| preference(pod.spec(), &node.node)).collect());
    let repelled = normalised(nodes.iter().map(|node| soft_taints(pod, node)).collect());
    let spread = spread::scores(pod, &pod.spread, true, &nodes, cluster.nodes);
    let near = pod_affinity::scores(pod, &nodes, cluster.nodes, cluster.namespaces);
    let at = |scores: &Option<Vec<i64>>, index: usize| scores.as_ref().map_or(0, |scores| scores[index]);
    let mut scores = Vec::with_capacity(nodes.len());
    for (index, node) in nodes.iter().enumerate() {
        scores.push(
            least_allocated(pod, node)
                + balanced(pod, node)
                + image_locality(pod, node, nodes.len())
                + (SCORE_MAX - at(&repelled, index)) * TAINT_WEIGHT
                + at(&preferred, index) * AFFINITY_WEIGHT
                + at(&spread, index) * SPREAD_WEIGHT
                + at(&near, index) * POD_AFFINITY_WEIGHT,
        );
    }
    scores
}

/// Scaled so that the largest is 100; `None` when all are nothing.
fn normalised(values: Vec<i64>) -> Option<Vec<i64>> {
    let largest = values.iter().copied().max().filter(|largest| *largest > 0)?;
    Some(values.into_iter().map(|value| value * SCORE_MAX / largest).collect())
}

fn soft_taints(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let tolerations = pod.spec().tolerations.as_deref().unwrap_or_default();
    let soft = node.taints().iter().filter(|taint| taint.effect == "PreferNoSchedule");
    i64::try_from(soft.filter(|taint| !tolerates(tolerations, taint)).count()).unwrap_or(i64::MAX)
}

fn least_allocated(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let free = |taken: i64, capacity: i64| {
        if capacity <= 0 || taken > capacity { 0 } else { (capacity - taken) * SCORE_MAX / capacity }
    };
    let cpu = free(node.scored.milli_cpu + pod.scored.milli_cpu, node.allocatable.milli_cpu);
    let memory = free(node.scored.memory + pod.scored.memory, node.allocatable.memory);
    (cpu + memory) / 2
}

/// Of two resources, the standard deviation is half their difference.
#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "a score between 0 and 100")]
fn balanced(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let used = |taken: i64, capacity: i64| {
        if capacity <= 0 { 1.0 } else { (taken as f64 / capacity as f64).min(1.0) }
    };
    let cpu = used(node.requested.milli_cpu + pod.requests.milli_cpu, node.allocatable.milli_cpu);
    let memory = used(node.requested.memory + pod.requests.memory, node.allocatable.memory);
    ((1.0 - (cpu - memory).abs() / 2.0) * SCORE_MAX as f64) as i64
}

/// The part of the Pod's images that is already here. Upstream also weighs by
/// how many nodes have an image; with the nodes at hand that is this one.
fn image_locality(pod: &PodInfo, node: &NodeInfo, nodes: usize) -> i64 {
    // Where there is no choice, nothing needs to be looked up.
    if nodes < 2 {
        return 0;
    }
    let containers = &pod.spec().containers;
    let wanted: HashSet<&str> =
        containers.iter().filter_map(|container| container.image.as_deref()).collect();
    let images = node.node.status.as_ref().and_then(|status| status.images.as_deref()).unwrap_or_default();
    let here =
        images.iter().filter(|image| image.names.iter().flatten().any(|name| wanted.contains(name.as_str())));
    let size: i64 = here.map(|image| image.size_bytes.unwrap_or_default()).sum();
    let most = IMAGE_MAX * i64::try_from(containers.len().max(1)).unwrap_or(1);
    (size.clamp(IMAGE_MIN, most) - IMAGE_MIN) * SCORE_MAX / (most - IMAGE_MIN)
}
