//! HorizontalPodAutoscalers over Deployments of which nothing is measured.

use http::Method;
use serde_json::{Value, json};

use crate::cluster::Cluster;

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const AUTOSCALERS: &str = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
const EVENTS: &str = "/api/v1/namespaces/default/events";

fn autoscaler(name: &str, target: &str) -> Value {
    json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": name},
        "spec": {"minReplicas": 1, "maxReplicas": 5,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": target}}})
}

/// Whether a condition has this status and reason, and these words.
fn says(answer: &Result<Value, client::Error>, kind: &str, status: &str, reason: &str, words: &str) -> bool {
    let conditions = answer.as_ref().ok().and_then(|one| one["status"]["conditions"].as_array());
    conditions.into_iter().flatten().any(|condition| {
        let is = |field: &str, wanted: &str| condition[field] == wanted;
        is("type", kind)
            && is("status", status)
            && is("reason", reason)
            && condition["message"].as_str().is_some_and(|message| message.contains(words))
    })
}

async fn until_scaled(cluster: &Cluster, replicas: i64) {
    let path = format!("{DEPLOYMENTS}/web");
    cluster.until(&path, |web| web.as_ref().is_ok_and(|web| web["spec"]["replicas"] == replicas)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_autoscaler_keeps_its_bounds_and_says_what_it_cannot_read() {
    let mut cluster = Cluster::start().await;
    cluster.post(AUTOSCALERS, autoscaler("web", "web")).await;
    let path = format!("{AUTOSCALERS}/web");
    let missing = "unable to get the target's current scale: deployments.apps \"web\" not found";
    cluster.until(&path, |one| says(one, "AbleToScale", "False", "FailedGetScale", missing)).await;
    cluster
        .post(
            DEPLOYMENTS,
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {
                "replicas": 2, "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}},
                    "spec": {"containers": [{"name": "c", "image": "i"}]}}}}),
        )
        .await;
    let bounds = async |min: i32, max: i32| {
        let body = json!({"spec": {"minReplicas": min, "maxReplicas": max}});
        while let Err(error) = cluster.ask(Method::PATCH, &path, body.clone()).await {
            assert!(error.is_conflict(), "{error}");
        }
    };
    // Each change is looked at when it is made, not at the next round.
    bounds(3, 5).await;
    until_scaled(&cluster, 3).await;
    cluster
        .until(&path, |one| {
            says(one, "AbleToScale", "True", "SucceededRescale", "update the target scale to 3")
        })
        .await;
    let told = "New size: 3; reason: Current number of replicas below Spec.MinReplicas";
    let heard = |events: &Result<Value, client::Error>| {
        let events = events.as_ref().ok().and_then(|list| list["items"].as_array());
        events.into_iter().flatten().any(|event| {
            event["reason"] == "SuccessfulRescale"
                && event["message"] == told
                && event["involvedObject"]["name"] == "web"
        })
    };
    cluster.until(EVENTS, heard).await;
    bounds(1, 2).await;
    until_scaled(&cluster, 2).await;
    bounds(1, 4).await;
    let unread = "the HPA was unable to compute the replica count: failed to get cpu utilization: unable to get \
        metrics for resource cpu: no metrics returned from resource metrics API";
    cluster.until(&path, |one| says(one, "ScalingActive", "False", "FailedGetResourceMetric", unread)).await;
    // With nothing remembered it goes on; a second autoscaler of the same Pods is named.
    cluster.restart_controllers().await;
    cluster.post(AUTOSCALERS, autoscaler("another", "web")).await;
    let another = format!("{AUTOSCALERS}/another");
    let both = "pods by selector app=web are controlled by multiple HPAs: [{another default} {web default}]";
    cluster.until(&another, |one| says(one, "ScalingActive", "False", "AmbiguousSelector", both)).await;
    until_scaled(&cluster, 2).await;
    cluster.stop().await;
}
