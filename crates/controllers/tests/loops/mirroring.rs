//! Endpoints that somebody writes by hand.

use http::Method;
use serde_json::{Value, json};

use crate::cluster::Cluster;

const SERVICES: &str = "/api/v1/namespaces/default/services";
const ENDPOINTS: &str = "/api/v1/namespaces/default/endpoints";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?labelSelector=\
    endpointslice.kubernetes.io%2Fmanaged-by%3Dendpointslicemirroring-controller.k8s.io";

fn addresses(answer: &Result<Value, client::Error>) -> Vec<&str> {
    let slices = answer.as_ref().ok().and_then(|list| list["items"].as_array());
    let endpoints = slices.into_iter().flatten().filter_map(|slice| slice["endpoints"].as_array()).flatten();
    endpoints.filter_map(|endpoint| endpoint["addresses"][0].as_str()).collect()
}

async fn until_listed(cluster: &Cluster, wanted: &[&str]) {
    cluster.until(SLICES, |answer| addresses(answer) == wanted).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_of_a_service_without_a_selector_are_mirrored() {
    let mut cluster = Cluster::start().await;
    let subset = |ip: &str| json!([{"addresses": [{"ip": ip}], "ports": [{"port": 5432}]}]);
    cluster.post(ENDPOINTS, json!({"metadata": {"name": "db"}, "subsets": subset("192.0.2.1")})).await;
    cluster.post(SERVICES, json!({"metadata": {"name": "db"}, "spec": {"ports": [{"port": 5432}]}})).await;
    until_listed(&cluster, &["192.0.2.1"]).await;
    cluster.restart_controllers().await;
    let path = format!("{ENDPOINTS}/db");
    cluster.ask(Method::PATCH, &path, json!({"subsets": subset("192.0.2.2")})).await.unwrap();
    until_listed(&cluster, &["192.0.2.2"]).await;
    let skip =
        |value: &str| json!({"metadata": {"labels": {"endpointslice.kubernetes.io/skip-mirror": value}}});
    cluster.ask(Method::PATCH, &path, skip("true")).await.unwrap();
    until_listed(&cluster, &[]).await;
    cluster.ask(Method::PATCH, &path, skip("false")).await.unwrap();
    until_listed(&cluster, &["192.0.2.2"]).await;
    // With a selector the Pods count, of which there are none.
    let select = json!({"spec": {"selector": {"app": "db"}}});
    cluster.ask(Method::PATCH, &format!("{SERVICES}/db"), select).await.unwrap();
    until_listed(&cluster, &[]).await;
    cluster.stop().await;
}
