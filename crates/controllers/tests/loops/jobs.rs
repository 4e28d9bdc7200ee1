//! Jobs over Pods that a test lets succeed and fail.

use client::{ListOptions, WatchEvent};
use http::Method;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::cluster::Cluster;

const JOBS: &str = "/apis/batch/v1/namespaces/default/jobs";
const JOB: &str = "/apis/batch/v1/namespaces/default/jobs/j";
const PODS: &str = "/api/v1/namespaces/default/pods";
const INDEX: &str = "batch.kubernetes.io/job-completion-index";

type Answer = Result<Value, client::Error>;

async fn post(cluster: &Cluster, fields: Value) -> Value {
    let mut spec = json!({"template": {"spec": {"restartPolicy": "Never",
        "containers": [{"name": "c", "image": "i"}]}}});
    for (name, value) in fields.as_object().unwrap() {
        spec[name] = value.clone();
    }
    cluster
        .post(JOBS, json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j"}, "spec": spec}))
        .await
}

/// The Pods that have not ended, once there are so many.
async fn running(cluster: &Cluster, count: usize) -> Vec<Value> {
    let alive = |answer: &Answer| -> Vec<Value> {
        let pods = answer.as_ref().unwrap()["items"].as_array().unwrap();
        let ended = |pod: &Value| matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        pods.iter().filter(|pod| !ended(pod)).cloned().collect()
    };
    cluster.until(PODS, |answer| alive(answer).len() == count).await;
    alive(&cluster.ask(Method::GET, PODS, Value::Null).await)
}

/// The Pod ends, its container with this code.
async fn end(cluster: &Cluster, pod: &Value, code: i32) {
    let phase = if code == 0 { "Succeeded" } else { "Failed" };
    let container = json!({"name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"terminated": {"exitCode": code, "finishedAt": "2026-01-01T00:00:00Z"}}});
    let status = json!({"status": {"phase": phase, "containerStatuses": [container]}});
    let path = format!("{PODS}/{}/status", pod["metadata"]["name"].as_str().unwrap());
    cluster.ask(Method::PATCH, &path, status).await.unwrap();
}

fn of_index<'a>(pods: &'a [Value], index: &str) -> &'a Value {
    pods.iter().find(|pod| pod["metadata"]["annotations"][INDEX] == index).unwrap()
}

/// The Job's end and why, once it has come.
async fn ended(cluster: &Cluster) -> (Value, String) {
    let why = |answer: &Answer| -> Option<String> {
        let conditions = answer.as_ref().unwrap()["status"]["conditions"].as_array()?.clone();
        let end = conditions.iter().find(|one| one["type"] == "Complete" || one["type"] == "Failed")?;
        Some(format!("{} {}", end["type"].as_str()?, end["reason"].as_str()?))
    };
    cluster.until(JOB, |answer| why(answer).is_some()).await;
    let answer = cluster.ask(Method::GET, JOB, Value::Null).await;
    let why = why(&answer).unwrap();
    (answer.unwrap()["status"].take(), why)
}

#[tokio::test]
async fn an_orphan_that_it_selects_is_adopted_and_a_pod_that_it_does_not_is_released() {
    let cluster = Cluster::start().await;
    post(&cluster, json!({})).await;
    let pod = running(&cluster, 1).await.remove(0);
    let path = format!("{PODS}/{}", pod["metadata"]["name"].as_str().unwrap());
    let owned = |answer: &Answer| answer.as_ref().unwrap()["metadata"]["ownerReferences"][0]["name"] == "j";
    assert!(owned(&Ok(pod.clone())));
    cluster.ask(Method::PATCH, &path, json!({"metadata": {"ownerReferences": null}})).await.unwrap();
    cluster.until(&path, owned).await;
    let adopted = cluster.ask(Method::GET, &path, Value::Null).await.unwrap();
    assert_eq!(adopted["metadata"]["uid"], pod["metadata"]["uid"], "it is the same Pod");

    cluster.ask(Method::PATCH, &path, json!({"metadata": {"labels": null}})).await.unwrap();
    let free = |answer: &Answer| {
        let metadata = &answer.as_ref().unwrap()["metadata"];
        metadata["ownerReferences"].is_null() && metadata["finalizers"].is_null()
    };
    cluster.until(&path, free).await;
    assert_eq!(running(&cluster, 2).await.len(), 2, "another was made in its place");
    cluster.stop().await;
}

#[tokio::test]
async fn an_index_whose_failure_the_policy_calls_final_is_not_tried_again() {
    let cluster = Cluster::start().await;
    let policy =
        json!({"rules": [{"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [42]}}]});
    post(
        &cluster,
        json!({"completionMode": "Indexed", "completions": 2, "parallelism": 2,
        "backoffLimitPerIndex": 5, "podFailurePolicy": policy}),
    )
    .await;
    let pods = running(&cluster, 2).await;
    end(&cluster, of_index(&pods, "0"), 42).await;
    cluster.until(JOB, |job| job.as_ref().unwrap()["status"]["failedIndexes"] == "0").await;
    end(&cluster, of_index(&pods, "1"), 0).await;
    let (status, why) = ended(&cluster).await;
    assert_eq!(why, "Failed FailedIndexes");
    assert_eq!((&status["completedIndexes"], &status["failed"]), (&json!("1"), &json!(1)));
    cluster.stop().await;
}

#[tokio::test]
async fn a_job_ends_with_more_failed_indexes_than_it_allows() {
    let cluster = Cluster::start().await;
    post(
        &cluster,
        json!({"completionMode": "Indexed", "completions": 4, "parallelism": 3,
        "backoffLimitPerIndex": 0, "maxFailedIndexes": 1}),
    )
    .await;
    let pods = running(&cluster, 3).await;
    end(&cluster, of_index(&pods, "0"), 1).await;
    // One may fail: another index begins.
    let pods = running(&cluster, 3).await;
    assert_eq!(of_index(&pods, "3")["metadata"]["annotations"][INDEX], "3");
    end(&cluster, of_index(&pods, "2"), 1).await;
    let (status, why) = ended(&cluster).await;
    assert_eq!((why.as_str(), &status["failedIndexes"]), ("Failed MaxFailedIndexesExceeded", &json!("0,2")));
    assert!(running(&cluster, 0).await.is_empty(), "those that ran are ended");
    cluster.stop().await;
}

/// The controller hears late that the Job goes, and of its Pod at once.
#[tokio::test]
async fn a_job_that_waits_for_its_pods_to_go_gets_no_others() {
    let cluster = Cluster::start().await;
    let job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "goes"}, "spec": {
        "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}});
    cluster.post(JOBS, job).await;
    let path = format!("{JOBS}/goes");
    cluster.until(&path, |job| job.as_ref().unwrap()["status"]["active"] == 1).await;
    let pods = cluster.ask(Method::GET, PODS, Value::Null).await.unwrap();
    let version = pods["metadata"]["resourceVersion"].as_str().unwrap();
    let mut later = cluster.client.watch::<Pod>("default", &ListOptions::default(), version).await.unwrap();
    // A controller waits for what it has written itself before it does more.
    let known = cluster.ask(Method::GET, &path, Value::Null).await.unwrap();
    cluster.gate.until_heard(known["metadata"]["resourceVersion"].as_str().unwrap()).await;
    cluster.gate.close("jobs");
    cluster.ask(Method::DELETE, &path, json!({"propagationPolicy": "Foreground"})).await.unwrap();
    let pod = format!("{PODS}/{}", pods["items"][0]["metadata"]["name"].as_str().unwrap());
    cluster.ask(Method::DELETE, &pod, Value::Null).await.unwrap();
    // It asks whether the Job stays, or makes a Pod at once.
    let asks = format!("GET {path}");
    cluster.gate.until_asked(|asked| asked == asks || asked == format!("POST {PODS}")).await;
    cluster.gate.open();
    cluster.until_gone(&path).await;
    cluster.until_gone(&pod).await;
    let last =
        json!({"metadata": {"name": "the-end"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    cluster.post(PODS, last).await;
    while let Some(event) = later.next().await {
        if let WatchEvent::Added(pod) = event.unwrap() {
            assert_eq!(pod.metadata.name.as_deref(), Some("the-end"), "a Pod was made for a Job that goes");
            break;
        }
    }
    cluster.stop().await;
}
