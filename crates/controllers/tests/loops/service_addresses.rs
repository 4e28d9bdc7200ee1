//! The addresses of Services as objects, and the ranges that they come from.

use http::Method;
use serde_json::{Value, json};

use crate::cluster::Cluster;

const SERVICES: &str = "/api/v1/namespaces/default/services";
const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";
const RANGES: &str = "/apis/networking.k8s.io/v1/servicecidrs";

async fn service(cluster: &Cluster, name: &str, ip: &str) -> Result<Value, client::Error> {
    let body = json!({"metadata": {"name": name}, "spec": {"clusterIP": ip, "ports": [{"port": 80}]}});
    cluster.ask(Method::POST, SERVICES, body).await
}

async fn until_parent(cluster: &Cluster, address: &str, service: &str) {
    let is_parent = |answer: &Result<Value, client::Error>| {
        answer.as_ref().is_ok_and(|found| found["spec"]["parentRef"]["name"] == service)
    };
    cluster.until(&format!("{ADDRESSES}/{address}"), is_parent).await;
}

async fn until_ready(cluster: &Cluster, range: &str, status: &str) {
    let has = |answer: &Result<Value, client::Error>| {
        answer.as_ref().is_ok_and(|found| found["status"]["conditions"][0]["status"] == status)
    };
    cluster.until(&format!("{RANGES}/{range}"), has).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_address_of_a_service_is_an_object_for_as_long_as_the_service_has_it() {
    let mut cluster = Cluster::start().await;
    until_parent(&cluster, "10.43.0.1", "kubernetes").await;
    service(&cluster, "web", "10.43.7.7").await.unwrap();
    until_parent(&cluster, "10.43.7.7", "web").await;
    // Whoever takes it away, gets it back.
    let path = format!("{ADDRESSES}/10.43.7.7");
    let before = cluster.ask(Method::GET, &path, Value::Null).await.unwrap();
    assert_eq!(before["metadata"]["labels"]["ipaddress.kubernetes.io/ip-family"], "IPv4");
    cluster.ask(Method::DELETE, &path, Value::Null).await.unwrap();
    let is_another = |answer: &Result<Value, client::Error>| {
        answer.as_ref().is_ok_and(|now| now["metadata"]["uid"] != before["metadata"]["uid"])
    };
    cluster.until(&path, is_another).await;
    // What somebody else keeps is given to nobody, nor the other way round.
    let keep = |ip: &str| json!({"metadata": {"name": ip}, "spec": {"parentRef": {"group": "example.com", "resource": "things", "name": "x"}}});
    cluster.post(ADDRESSES, keep("10.43.7.8")).await;
    let refused = service(&cluster, "late", "10.43.7.8").await.unwrap_err();
    assert!(refused.to_string().contains("provided IP is already allocated"), "{refused}");
    let taken = cluster.ask(Method::POST, ADDRESSES, keep("10.43.7.7")).await.unwrap_err();
    assert!(taken.is_already_exists(), "{taken}");
    // An address is free with its Service, whatever still shows it.
    cluster.ask(Method::DELETE, &format!("{SERVICES}/web"), Value::Null).await.unwrap();
    service(&cluster, "next", "10.43.7.7").await.unwrap();
    until_parent(&cluster, "10.43.7.7", "next").await;
    cluster.restart_controllers().await;
    cluster.ask(Method::DELETE, &format!("{SERVICES}/next"), Value::Null).await.unwrap();
    cluster.until_gone(&path).await;
    let kept = cluster.ask(Method::GET, &format!("{ADDRESSES}/10.43.7.8"), Value::Null).await;
    assert!(kept.is_ok(), "somebody else's stays");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_gives_addresses_until_it_goes_and_goes_after_the_last_of_them() {
    let cluster = Cluster::start().await;
    until_ready(&cluster, "kubernetes", "True").await;
    let refused = service(&cluster, "early", "10.77.0.5").await.unwrap_err();
    assert!(refused.to_string().contains("the provided network does not match the current range"));
    let more = json!({"metadata": {"name": "more"}, "spec": {"cidrs": ["10.77.0.0/24"]}});
    cluster.post(RANGES, more).await;
    service(&cluster, "web", "10.77.0.5").await.unwrap();
    until_parent(&cluster, "10.77.0.5", "web").await;
    until_ready(&cluster, "more", "True").await;
    let path = format!("{RANGES}/more");
    let guarded = cluster.ask(Method::GET, &path, Value::Null).await.unwrap();
    assert_eq!(guarded["metadata"]["finalizers"], json!(["networking.k8s.io/service-cidr-finalizer"]));
    cluster.ask(Method::DELETE, &path, Value::Null).await.unwrap();
    until_ready(&cluster, "more", "False").await;
    let refused = service(&cluster, "late", "10.77.0.6").await.unwrap_err();
    assert!(refused.to_string().contains("the provided network does not match the current range"));
    cluster.ask(Method::DELETE, &format!("{SERVICES}/web"), Value::Null).await.unwrap();
    cluster.until_gone(&path).await;
    cluster.until_gone(&format!("{ADDRESSES}/10.77.0.5")).await;
    // One that another holds has nothing to wait for.
    let inner = json!({"metadata": {"name": "inner"}, "spec": {"cidrs": ["10.43.9.0/24"]}});
    cluster.post(RANGES, inner).await;
    service(&cluster, "inner", "10.43.9.9").await.unwrap();
    until_ready(&cluster, "inner", "True").await;
    cluster.ask(Method::DELETE, &format!("{RANGES}/inner"), Value::Null).await.unwrap();
    cluster.until_gone(&format!("{RANGES}/inner")).await;
    cluster.stop().await;
}
