//! What Pods use, read from `metrics.k8s.io`; and the words for metrics that nobody serves.

use std::collections::BTreeMap;

use api::quantity::Quantity;
use client::{Client, Error};
use http::Method;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::MetricSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde::Deserialize;
use serde_json::Value;

use super::replicas::{Sample, Samples};

#[derive(Debug, Deserialize)]
struct PodMetricsList {
    items: Vec<PodMetrics>,
}

#[derive(Debug, Deserialize)]
pub(super) struct PodMetrics {
    metadata: Name,
    timestamp: Timestamp,
    window: String,
    containers: Vec<ContainerMetrics>,
}

#[derive(Debug, Deserialize)]
struct Name {
    name: String,
}

#[derive(Debug, Deserialize)]
struct ContainerMetrics {
    name: String,
    usage: BTreeMap<String, Value>,
}

/// Reads what the Pods of a selector use; an error in upstream's words.
pub(super) async fn read(
    client: &Client,
    namespace: &str,
    selector: &str,
) -> Result<Vec<PodMetrics>, String> {
    let failed = |error: Error| format!("unable to fetch metrics from resource metrics API: {error}");
    let mut query = String::new();
    // Labels are made of few characters; those of the syntax are escaped.
    for byte in selector.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' => query.push(char::from(byte)),
            byte => query.push_str(&format!("%{byte:02X}")),
        }
    }
    let path = format!("/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods?labelSelector={query}");
    let body = client.raw(Method::GET, &path, "", Default::default()).await.map_err(failed)?;
    let list: Result<PodMetricsList, _> = serde_json::from_slice(&body);
    let list = list.map_err(|source| failed(Error::Decode { path, source }))?;
    if list.items.is_empty() {
        return Err("no metrics returned from resource metrics API".to_owned());
    }
    Ok(list.items)
}

/// What is used of one resource, by each Pod or by one container of each.
pub(super) fn samples(
    metrics: &[PodMetrics],
    namespace: &str,
    resource: &str,
    container: Option<&str>,
) -> Result<Samples, String> {
    let mut samples = Samples::new();
    for pod in metrics {
        let name = &pod.metadata.name;
        let mut counted =
            pod.containers.iter().filter(|one| container.is_none_or(|wanted| one.name == wanted)).peekable();
        if let (Some(container), None) = (container, counted.peek()) {
            return Err(format!("container {container} not present in metrics for pod {namespace}/{name}"));
        }
        let used =
            |one: &ContainerMetrics| Some(Quantity::from_json(one.usage.get(resource)?).ok()?.milli_value());
        // One that does not say is as good as not measured.
        let Some(milli) = counted.map(used).sum::<Option<i64>>() else { continue };
        let window = pod.window.parse().unwrap_or(SignedDuration::ZERO);
        samples.insert(name.clone(), Sample { milli, time: pod.timestamp, window });
    }
    Ok(samples)
}

/// Why a metric that is not of a resource cannot be read: the reason, the cause, and what failed by it.
pub(super) fn unserved(spec: &MetricSpec, namespace: &str) -> (&'static str, String, String) {
    const CUSTOM: &str = "unable to fetch metrics from custom metrics API: no custom metrics API (custom.metrics.k8s.io) registered";
    const EXTERNAL: &str = "unable to fetch metrics from external metrics API: no external metrics API (external.metrics.k8s.io) registered";
    if let Some(pods) = &spec.pods {
        let cause = format!("unable to get metric {}: {CUSTOM}", pods.metric.name);
        let failed = format!("failed to get pods metric value: {cause}");
        ("FailedGetPodsMetric", cause, failed)
    } else if let Some(object) = &spec.object {
        let (metric, described) = (&object.metric.name, &object.described_object);
        let cause = format!(
            "unable to get metric {metric}: {} on {namespace} {}/{CUSTOM}",
            described.kind, described.name
        );
        let failed = format!("failed to get object metric value: {cause}");
        ("FailedGetObjectMetric", cause, failed)
    } else if let Some(external) = &spec.external {
        let (metric, selector) = (&external.metric.name, go_selector(external.metric.selector.as_ref()));
        let cause = format!("unable to get external metric {namespace}/{metric}/{selector}: {EXTERNAL}");
        let failed = format!("failed to get {metric} external metric value: {cause}");
        ("FailedGetExternalMetric", cause, failed)
    } else {
        let cause = format!("unknown metric source type {:?}", spec.type_);
        ("InvalidMetricSourceType", cause.clone(), cause)
    }
}

/// A selector as Go prints it.
fn go_selector(selector: Option<&LabelSelector>) -> String {
    let Some(selector) = selector else { return "nil".to_owned() };
    let labels = selector.match_labels.iter().flatten().map(|(name, value)| format!("{name}: {value},"));
    let labels: String = labels.collect();
    let terms = selector.match_expressions.iter().flatten().map(|term| {
        let values = term.values.as_deref().unwrap_or_default().join(" ");
        format!("LabelSelectorRequirement{{Key:{},Operator:{},Values:[{values}],}},", term.key, term.operator)
    });
    let terms: String = terms.collect();
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{labels}}},MatchExpressions:[]LabelSelectorRequirement{{{terms}}},}}"
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn metrics() -> Vec<PodMetrics> {
        serde_json::from_value(json!([{
            "metadata": {"name": "web"}, "timestamp": "2027-01-15T08:00:00Z", "window": "15.5s",
            "containers": [
                {"name": "a", "usage": {"cpu": "1500000n", "memory": "1Mi"}},
                {"name": "b", "usage": {"cpu": "10m"}},
            ],
        }]))
        .unwrap()
    }

    #[test]
    fn containers_are_added_up_and_a_pod_of_which_one_is_unknown_is_missing() {
        let cpu = samples(&metrics(), "n", "cpu", None).unwrap();
        assert_eq!((cpu["web"].milli, cpu["web"].window), (12, SignedDuration::from_millis(15_500)));
        assert!(samples(&metrics(), "n", "memory", None).unwrap().is_empty());
        assert_eq!(samples(&metrics(), "n", "memory", Some("a")).unwrap()["web"].milli, 1_048_576_000);
        let missing = samples(&metrics(), "n", "cpu", Some("c")).unwrap_err();
        assert_eq!(missing, "container c not present in metrics for pod n/web");
    }

    #[test]
    fn metrics_that_nobody_serves_are_named() {
        let spec: MetricSpec = serde_json::from_value(json!({"type": "External", "external": {
            "metric": {"name": "queue", "selector": {"matchLabels": {"q": "a"}}}, "target": {"type": "Value", "value": "1"}}}))
        .unwrap();
        let (reason, cause, _) = unserved(&spec, "n");
        assert_eq!(reason, "FailedGetExternalMetric");
        assert_eq!(
            cause,
            "unable to get external metric n/queue/&LabelSelector{MatchLabels:map[string]string{q: a,},MatchExpressions:[]LabelSelectorRequirement{},}: unable to fetch metrics from external metrics API: no external metrics API (external.metrics.k8s.io) registered"
        );
    }
}
