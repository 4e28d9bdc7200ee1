//! What becomes of dependents when their owners are deleted, as upstream's garbage collector is asked for it.

use http::Method;
use serde_json::{Value, json};

use crate::cluster::Cluster;

const CONTROLLERS: &str = "/api/v1/namespaces/default/replicationcontrollers";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const SETS: &str = "/apis/apps/v1/namespaces/default/replicasets";
const PODS: &str = "/api/v1/namespaces/default/pods";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn template() -> Value {
    json!({"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

fn controller(name: &str, template: Value) -> Value {
    json!({"metadata": {"name": name}, "spec": {"replicas": 2, "selector": {"app": "x"}, "template": template}})
}

async fn items(cluster: &Cluster, path: &str) -> Vec<Value> {
    let mut list = cluster.ask(Method::GET, path, Value::Null).await.unwrap();
    list["items"].as_array_mut().map(std::mem::take).unwrap_or_default()
}

fn counts(wanted: usize) -> impl Fn(&Result<Value, client::Error>) -> bool {
    move |answer| answer.as_ref().unwrap()["items"].as_array().unwrap().len() == wanted
}

async fn delete(cluster: &Cluster, path: &str, policy: &str) {
    cluster.ask(Method::DELETE, path, json!({"propagationPolicy": policy})).await.unwrap();
}

/// A ReplicationController with its two Pods.
async fn with_pods(template: Value) -> Cluster {
    let cluster = Cluster::start().await;
    cluster.until("/api/v1/namespaces/default/serviceaccounts/default", Result::is_ok).await;
    cluster.post(CONTROLLERS, controller("x", template)).await;
    cluster.until(PODS, counts(2)).await;
    cluster
}

#[tokio::test]
async fn the_pods_of_a_controller_go_after_it_in_the_background() {
    let cluster = with_pods(template()).await;
    delete(&cluster, &format!("{CONTROLLERS}/x"), "Background").await;
    cluster.until_gone(&format!("{CONTROLLERS}/x")).await;
    cluster.until(PODS, counts(0)).await;
    cluster.stop().await;
}

#[tokio::test]
async fn the_pods_of_a_controller_stay_as_orphans_when_they_are_to() {
    let cluster = with_pods(template()).await;
    delete(&cluster, &format!("{CONTROLLERS}/x"), "Orphan").await;
    cluster.until_gone(&format!("{CONTROLLERS}/x")).await;
    let pods = items(&cluster, PODS).await;
    assert_eq!(pods.len(), 2);
    for pod in pods {
        assert!(
            pod["metadata"]["ownerReferences"].is_null() && pod["metadata"]["deletionTimestamp"].is_null()
        );
    }
    cluster.stop().await;
}

#[tokio::test]
async fn a_controller_stays_until_its_pods_are_gone_when_it_is_deleted_in_the_foreground() {
    let mut held = template();
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    let cluster = with_pods(held).await;
    let path = format!("{CONTROLLERS}/x");
    delete(&cluster, &path, "Foreground").await;
    let going = |answer: &Result<Value, client::Error>| {
        let pods = answer.as_ref().unwrap()["items"].as_array().unwrap();
        pods.len() == 2 && pods.iter().all(|pod| pod["metadata"]["deletionTimestamp"].is_string())
    };
    cluster.until(PODS, going).await;
    for pod in items(&cluster, PODS).await {
        let owner = cluster.ask(Method::GET, &path, Value::Null).await.unwrap();
        assert_eq!(owner["metadata"]["finalizers"], json!(["foregroundDeletion"]));
        let pod = format!("{PODS}/{}", pod["metadata"]["name"].as_str().unwrap());
        cluster.ask(Method::PATCH, &pod, json!({"metadata": {"finalizers": null}})).await.unwrap();
    }
    cluster.until_gone(&path).await;
    assert!(items(&cluster, PODS).await.is_empty(), "none was made in their place");
    cluster.stop().await;
}

#[tokio::test]
async fn a_dependent_of_two_owners_stays_with_the_one_that_does_not_go() {
    let mut held = template();
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    let cluster = with_pods(held).await;
    let mut other = controller("stays", template());
    other["spec"]["replicas"] = 0.into();
    other["spec"]["selector"] = json!({"app": "other"});
    other["spec"]["template"]["metadata"]["labels"] = json!({"app": "other"});
    let other = cluster.post(CONTROLLERS, other).await;
    let pods = items(&cluster, PODS).await;
    let path = |pod: &Value| format!("{PODS}/{}", pod["metadata"]["name"].as_str().unwrap());
    let (shared, alone) = (path(&pods[0]), path(&pods[1]));
    let mut owners = pods[0]["metadata"]["ownerReferences"].as_array().unwrap().clone();
    owners.push(json!({"apiVersion": "v1", "kind": "ReplicationController", "name": "stays",
        "uid": other["metadata"]["uid"]}));
    cluster.ask(Method::PATCH, &shared, json!({"metadata": {"ownerReferences": owners}})).await.unwrap();
    delete(&cluster, &format!("{CONTROLLERS}/x"), "Foreground").await;
    let going = |answer: &Result<Value, client::Error>| {
        answer.as_ref().unwrap()["metadata"]["deletionTimestamp"].is_string()
    };
    cluster.until(&alone, going).await;
    let let_go = |answer: &Result<Value, client::Error>| {
        let owners = &answer.as_ref().unwrap()["metadata"]["ownerReferences"];
        owners.as_array().is_some_and(|owners| owners.len() == 1 && owners[0]["name"] == "stays")
    };
    cluster.until(&shared, let_go).await;
    cluster.ask(Method::PATCH, &alone, json!({"metadata": {"finalizers": null}})).await.unwrap();
    cluster.until_gone(&format!("{CONTROLLERS}/x")).await;
    let shared = cluster.ask(Method::GET, &shared, Value::Null).await.unwrap();
    assert!(shared["metadata"]["deletionTimestamp"].is_null());
    cluster.stop().await;
}

#[tokio::test]
async fn a_circle_of_owners_goes_as_a_whole() {
    let cluster = Cluster::start().await;
    let names = ["a", "b", "c"];
    let mut uids = Vec::new();
    for name in names {
        let map = cluster.post(MAPS, json!({"metadata": {"name": name}})).await;
        uids.push(map["metadata"]["uid"].clone());
    }
    for (at, name) in names.iter().enumerate() {
        let before = (at + 2) % 3;
        let owners = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": names[before],
            "uid": uids[before], "controller": true, "blockOwnerDeletion": true}]);
        let body = json!({"metadata": {"ownerReferences": owners}});
        cluster.ask(Method::PATCH, &format!("{MAPS}/{name}"), body).await.unwrap();
    }
    delete(&cluster, &format!("{MAPS}/a"), "Foreground").await;
    for name in names {
        cluster.until_gone(&format!("{MAPS}/{name}")).await;
    }
    cluster.stop().await;
}

#[tokio::test]
async fn the_sets_of_a_deployment_go_after_it_or_stay_as_orphans() {
    let cluster = Cluster::start().await;
    let deployment = |name: &str| {
        json!({"metadata": {"name": name}, "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "x"}},
            "template": template()}})
    };
    let path = format!("{DEPLOYMENTS}/x");
    for policy in ["Orphan", "Background"] {
        cluster.post(DEPLOYMENTS, deployment("x")).await;
        let owned = |answer: &Result<Value, client::Error>| {
            let sets = answer.as_ref().unwrap()["items"].as_array().unwrap();
            sets.len() == 1 && sets[0]["metadata"]["ownerReferences"].is_array()
        };
        // What was left as an orphan is adopted by the next of the name.
        cluster.until(SETS, owned).await;
        delete(&cluster, &path, policy).await;
        cluster.until_gone(&path).await;
        if policy == "Background" {
            cluster.until(SETS, counts(0)).await;
        } else {
            let sets = items(&cluster, SETS).await;
            assert!(sets.len() == 1 && sets[0]["metadata"]["ownerReferences"].is_null());
        }
    }
    cluster.stop().await;
}
