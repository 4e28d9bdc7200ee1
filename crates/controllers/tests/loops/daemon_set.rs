//! DaemonSets over nodes that are objects only.

use http::Method;
use serde_json::{Value, json};

use crate::cluster::Cluster;

const SETS: &str = "/apis/apps/v1/namespaces/default/daemonsets";
const PODS: &str = "/api/v1/namespaces/default/pods";

fn pods(list: &Result<Value, client::Error>) -> &Vec<Value> {
    list.as_ref().unwrap()["items"].as_array().unwrap()
}

#[tokio::test]
async fn a_daemon_pod_that_failed_is_made_again() {
    let cluster = Cluster::start().await;
    cluster.until("/api/v1/namespaces/default/serviceaccounts/default", Result::is_ok).await;
    cluster.post("/api/v1/nodes", json!({"metadata": {"name": "n"}})).await;
    let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    cluster.ask(Method::PATCH, "/api/v1/nodes/n/status", ready).await.unwrap();
    let template = json!({"metadata": {"labels": {"app": "agent"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let set = json!({"metadata": {"name": "agent"},
        "spec": {"selector": {"matchLabels": {"app": "agent"}}, "template": template}});
    cluster.post(SETS, set).await;
    cluster.until(PODS, |list| pods(list).len() == 1).await;
    let list = cluster.ask(Method::GET, PODS, Value::Null).await;
    let (first, uid) =
        (pods(&list)[0]["metadata"]["name"].clone(), pods(&list)[0]["metadata"]["uid"].clone());
    let path = format!("{PODS}/{}/status", first.as_str().unwrap());
    cluster.ask(Method::PATCH, &path, json!({"status": {"phase": "Failed"}})).await.unwrap();
    cluster.until(PODS, |list| pods(list).len() == 1 && pods(list)[0]["metadata"]["uid"] != uid).await;
    cluster.stop().await;
}
