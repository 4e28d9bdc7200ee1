//! StatefulSets over Pods that a test makes ready.

use http::Method;
use serde_json::{Value, json};

use crate::cluster::Cluster;

const SETS: &str = "/apis/apps/v1/namespaces/default/statefulsets";
const WEB: &str = "/apis/apps/v1/namespaces/default/statefulsets/web";
const PODS: &str = "/api/v1/namespaces/default/pods";
const CLAIMS: &str = "/api/v1/namespaces/default/persistentvolumeclaims";

fn set() -> Value {
    json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "web"}, "spec": {
        "replicas": 2, "serviceName": "web", "selector": {"matchLabels": {"app": "web"}},
        "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Mi"}}}}],
        "template": {"metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "c", "image": "first",
                "volumeMounts": [{"name": "data", "mountPath": "/data"}]}]}},
    }})
}

fn is_there(answer: &Result<Value, client::Error>) -> bool {
    answer.is_ok()
}

async fn phase(cluster: &Cluster, pod: &str, phase: &str) {
    let ready = if phase == "Running" { "True" } else { "False" };
    let status = json!({"status": {"phase": phase, "conditions":
        [{"type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
    cluster.ask(Method::PATCH, &format!("{PODS}/{pod}/status"), status).await.unwrap();
}

async fn pod(cluster: &Cluster, name: &str) -> Value {
    cluster.ask(Method::GET, &format!("{PODS}/{name}"), Value::Null).await.unwrap()
}

/// Until the set has seen so many ready Pods.
async fn until_ready(cluster: &Cluster, count: i64) {
    cluster
        .until(WEB, |answer| answer.as_ref().is_ok_and(|web| web["status"]["readyReplicas"] == count))
        .await;
}

#[tokio::test]
async fn pods_come_one_after_the_other_also_when_the_controllers_are_started_again() {
    let mut cluster = Cluster::start().await;
    cluster.post(SETS, set()).await;
    cluster.until(&format!("{PODS}/web-0"), is_there).await;
    assert!(cluster.ask(Method::GET, &format!("{CLAIMS}/data-web-0"), Value::Null).await.is_ok());
    cluster.restart_controllers().await;
    cluster.until(WEB, |answer| answer.as_ref().is_ok_and(|web| web["status"]["replicas"] == 1)).await;
    assert!(cluster.ask(Method::GET, &format!("{PODS}/web-1"), Value::Null).await.is_err());
    phase(&cluster, "web-0", "Running").await;
    cluster.until(&format!("{PODS}/web-1"), is_there).await;
    phase(&cluster, "web-1", "Running").await;
    until_ready(&cluster, 2).await;
    let web = cluster.ask(Method::GET, WEB, Value::Null).await.unwrap();
    assert_eq!(web["status"]["currentRevision"], web["status"]["updateRevision"]);
    assert_eq!(web["status"]["availableReplicas"], 2);

    // What has ended is made anew, also when it ended well.
    let first = pod(&cluster, "web-0").await["metadata"]["uid"].clone();
    phase(&cluster, "web-0", "Succeeded").await;
    let again = |answer: &Result<Value, client::Error>| {
        answer.as_ref().is_ok_and(|pod| pod["metadata"]["uid"] != first)
    };
    cluster.until(&format!("{PODS}/web-0"), again).await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_pod_of_its_name_is_adopted_and_one_of_another_is_not() {
    let cluster = Cluster::start().await;
    for name in ["web-0", "web-x"] {
        let pod = json!({"metadata": {"name": name, "labels": {"app": "web"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}});
        cluster.post(PODS, pod).await;
    }
    cluster.post(SETS, set()).await;
    let adopted = |answer: &Result<Value, client::Error>| {
        answer.as_ref().is_ok_and(|pod| pod["metadata"]["ownerReferences"][0]["kind"] == "StatefulSet")
    };
    cluster.until(&format!("{PODS}/web-0"), adopted).await;
    phase(&cluster, "web-0", "Running").await;
    let labelled = |answer: &Result<Value, client::Error>| {
        answer
            .as_ref()
            .is_ok_and(|pod| pod["metadata"]["labels"]["statefulset.kubernetes.io/pod-name"] == "web-0")
    };
    cluster.until(&format!("{PODS}/web-0"), labelled).await;
    assert_eq!(pod(&cluster, "web-x").await["metadata"]["ownerReferences"], Value::Null);
    // Labels that no longer match are a release.
    let other = json!({"metadata": {"labels": {"app": "other"}}});
    cluster.ask(Method::PATCH, &format!("{PODS}/web-0"), other).await.unwrap();
    let released = |answer: &Result<Value, client::Error>| {
        answer.as_ref().is_ok_and(|pod| pod["metadata"]["ownerReferences"] == Value::Null)
    };
    cluster.until(&format!("{PODS}/web-0"), released).await;
    cluster.stop().await;
}

async fn scale(cluster: &Cluster, replicas: i64) {
    cluster.ask(Method::PATCH, WEB, json!({"spec": {"replicas": replicas}})).await.unwrap();
    let seen = |answer: &Result<Value, client::Error>| {
        answer.as_ref().is_ok_and(|web| web["status"]["observedGeneration"] == web["metadata"]["generation"])
    };
    cluster.until(WEB, seen).await;
}

async fn names(cluster: &Cluster) -> Vec<String> {
    let list = cluster.ask(Method::GET, PODS, Value::Null).await.unwrap();
    let pods = list["items"].as_array().unwrap().iter();
    pods.map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_pod_that_is_not_ready_halts_scaling_either_way_and_one_that_failed_is_made_again() {
    let cluster = Cluster::start().await;
    cluster.post(SETS, set()).await;
    for name in ["web-0", "web-1"] {
        cluster.until(&format!("{PODS}/{name}"), is_there).await;
        phase(&cluster, name, "Running").await;
    }
    until_ready(&cluster, 2).await;
    let unready = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
    cluster.ask(Method::PATCH, &format!("{PODS}/web-0/status"), unready).await.unwrap();
    until_ready(&cluster, 1).await;
    scale(&cluster, 3).await;
    assert_eq!(names(&cluster).await, ["web-0", "web-1"], "nothing is added while one is not ready");
    scale(&cluster, 1).await;
    assert_eq!(names(&cluster).await, ["web-0", "web-1"], "and nothing taken away");
    phase(&cluster, "web-0", "Running").await;
    cluster.until_gone(&format!("{PODS}/web-1")).await;

    let evicted = pod(&cluster, "web-0").await["metadata"]["uid"].clone();
    phase(&cluster, "web-0", "Failed").await;
    let again = |answer: &Result<Value, client::Error>| {
        answer.as_ref().is_ok_and(|pod| pod["metadata"]["uid"] != evicted)
    };
    cluster.until(&format!("{PODS}/web-0"), again).await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_parallel_set_waits_for_no_pod_on_its_way_up_and_down() {
    let cluster = Cluster::start().await;
    let mut parallel = set();
    parallel["spec"]["podManagementPolicy"] = "Parallel".into();
    cluster.post(SETS, parallel).await;
    let count = |wanted: usize| {
        move |answer: &Result<Value, client::Error>| {
            answer.as_ref().unwrap()["items"].as_array().unwrap().len() == wanted
        }
    };
    cluster.until(PODS, count(2)).await;
    scale(&cluster, 4).await;
    cluster.until(PODS, count(4)).await;
    scale(&cluster, 0).await;
    cluster.until(PODS, count(0)).await;
    cluster.stop().await;
}
