//! Which of the nodes that fit is best: the default plugins with their weights.

use crate::affinity::{preference, tolerates};
use crate::cycle::Cluster;
use crate::terms::Constraint;
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
    let spread = match cluster.alike.filter(|_| pod.spread.is_empty()) {
        Some(alike) => spread::scores(pod, &Constraint::defaults(alike), false, &nodes, cluster.nodes),
        None => spread::scores(pod, &pod.spread, true, &nodes, cluster.nodes),
    };
    let near = pod_affinity::scores(pod, &nodes, cluster.nodes, cluster.namespaces);
    let images = wanted_images(pod, cluster.nodes);
    let at = |scores: &Option<Vec<i64>>, index: usize| scores.as_ref().map_or(0, |scores| scores[index]);
    let mut scores = Vec::with_capacity(nodes.len());
    for (index, node) in nodes.iter().enumerate() {
        scores.push(
            least_allocated(pod, node)
                + balanced(pod, node)
                + image_locality(pod, node, &images)
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
        // What the node has none of is no part of the mean.
        let score = || if taken > capacity { 0 } else { (capacity - taken) * SCORE_MAX / capacity };
        (capacity > 0).then(score)
    };
    let cpu = free(node.scored.milli_cpu + pod.scored.milli_cpu, node.allocatable.milli_cpu);
    let memory = free(node.scored.memory + pod.scored.memory, node.allocatable.memory);
    match (cpu, memory) {
        (Some(cpu), Some(memory)) => (cpu + memory) / 2,
        (one, other) => one.or(other).unwrap_or_default(),
    }
}

/// Of two resources, the standard deviation is half their difference. A Pod that asks for nothing has no
/// say: all of its kind would go to the node that happens to be in balance.
#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "a score between 0 and 100")]
fn balanced(pod: &PodInfo, node: &NodeInfo) -> i64 {
    if pod.requests.milli_cpu == 0 && pod.requests.memory == 0 {
        return 0;
    }
    let used = |taken: i64, capacity: i64| (capacity > 0).then(|| (taken as f64 / capacity as f64).min(1.0));
    let cpu = used(node.requested.milli_cpu + pod.requests.milli_cpu, node.allocatable.milli_cpu);
    let memory = used(node.requested.memory + pod.requests.memory, node.allocatable.memory);
    let deviation = cpu.zip(memory).map_or(0.0, |(cpu, memory)| (cpu - memory).abs() / 2.0);
    ((1.0 - deviation) * SCORE_MAX as f64) as i64
}

/// An image that the Pod needs: its name, and the part of all nodes that have it.
type Wanted = (String, f64);

#[expect(clippy::cast_precision_loss, reason = "numbers of nodes")]
fn wanted_images(pod: &PodInfo, nodes: &[NodeInfo]) -> Vec<Wanted> {
    let spec = pod.spec();
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let spread = |image: &str| {
        let name = with_tag(image);
        let having = nodes.iter().filter(|node| node.images.contains_key(&name)).count();
        (having > 0).then(|| (name, having as f64 / nodes.len() as f64))
    };
    containers.filter_map(|container| spread(container.image.as_deref()?)).collect()
}

/// As nodes list it: without a tag or digest, `latest` is meant.
pub(crate) fn with_tag(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains(':') { image.to_owned() } else { format!("{image}:latest") }
}

/// How much of the Pod's images is already here; an image that few nodes have counts for less, so that
/// not all Pods of a kind go to the first node that has it.
#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "sizes of images")]
fn image_locality(pod: &PodInfo, node: &NodeInfo, wanted: &[Wanted]) -> i64 {
    if wanted.is_empty() {
        return 0;
    }
    let here = wanted.iter().filter_map(|(name, part)| Some((*node.images.get(name)? as f64 * part) as i64));
    let size: i64 = here.sum();
    let spec = pod.spec();
    let containers = spec.containers.len() + spec.init_containers.as_ref().map_or(0, Vec::len);
    let most = IMAGE_MAX * i64::try_from(containers.max(1)).unwrap_or(1);
    (size.clamp(IMAGE_MIN, most) - IMAGE_MIN) * SCORE_MAX / (most - IMAGE_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::tests::{asking, cluster, node, pod};
    use api::selector::LabelSelector;
    use serde_json::json;

    #[test]
    fn a_pod_without_requests_does_not_care_for_balance() {
        let nodes = [node("even", json!({})), node("odd", json!({}))];
        let mut odd = nodes[1].clone();
        odd.add(pod("other", asking("1")));
        assert_eq!(balanced(&pod("p", json!({})), &odd), 0);
        assert_eq!(balanced(&pod("p", asking("1")), &nodes[0]), 75);
        assert_eq!(balanced(&pod("p", asking("1")), &odd), 50);
    }

    #[test]
    fn an_image_counts_by_its_size_and_by_how_many_nodes_have_it() {
        let with = json!({"status": {"images": [{"names": ["docker.io/i:latest", "i:latest"],
            "sizeBytes": 1_000_000_000}]}});
        let nodes = [node("with", with), node("without", json!({}))];
        let pod = pod("p", json!({}));
        let wanted = wanted_images(&pod, &nodes);
        assert_eq!(wanted, [("i:latest".to_owned(), 0.5)]);
        let half = (500_000_000 - IMAGE_MIN) * 100 / (IMAGE_MAX - IMAGE_MIN);
        assert_eq!(image_locality(&pod, &nodes[0], &wanted), half);
        assert_eq!(image_locality(&pod, &nodes[1], &wanted), 0);
        let scores = scores(&pod, cluster(&nodes), &[0, 1]);
        assert_eq!(scores[0] - scores[1], half);
    }

    #[test]
    fn a_registry_with_a_port_is_no_tag() {
        assert_eq!(with_tag("r:5000/a"), "r:5000/a:latest");
        assert_eq!(with_tag("r:5000/a:1"), "r:5000/a:1");
        assert_eq!(with_tag("a@sha256:00"), "a@sha256:00");
    }

    #[test]
    fn pods_that_would_rather_be_spread_or_together_are_where_there_is_a_choice() {
        let labelled = |name: &str, app: &str| {
            let pod = json!({"metadata": {"namespace": "default", "name": name, "uid": name,
                "labels": {"app": app}}, "spec": {"containers": []}});
            std::sync::Arc::new(PodInfo::new(std::sync::Arc::new(serde_json::from_value(pod).unwrap())))
        };
        let mut nodes = ["n0", "n1", "n2"].map(|name| node(name, json!({})));
        nodes[0].add(labelled("a", "a"));
        nodes[1].add(labelled("b", "b"));
        let selector = |app: &str| json!({"matchLabels": {"app": app}});
        let scores = |spec| {
            let scores = scores(&pod("p", spec), cluster(&nodes), &[0, 1, 2]);
            [scores[0] - scores[2], scores[1] - scores[2]]
        };
        // Beside what the Pods there take of the node.
        let taken = scores(json!({}));
        let alike = LabelSelector::parse("app=a").unwrap();
        let by_default = Cluster { alike: Some(&alike), ..cluster(&nodes) };
        let by_default = super::scores(&pod("p", json!({})), by_default, &[0, 1, 2]);
        assert_eq!(
            by_default[0] - by_default[2],
            taken[0] - 100,
            "half as strong as a skew of one that is asked for"
        );
        let spread = json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey":
            "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": selector("a")}]});
        // `p` itself is in the default namespace, and so are they.
        assert_eq!(scores(spread), [taken[0] - 200, taken[1]]);
        let term = |app: &str| {
            json!([{"weight": 1, "podAffinityTerm":
            {"topologyKey": "kubernetes.io/hostname", "labelSelector": selector(app)}}])
        };
        let near = json!({"affinity": {
            "podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": term("a")},
            "podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": term("b")}}});
        assert_eq!(scores(near), [taken[0] + 100, taken[1] - 100]);
    }
}
