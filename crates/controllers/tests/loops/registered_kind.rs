//! A kind that is registered while everything runs: collected with its owner, counted by quota, gone
//! with its namespace.

use api::kinds::Kind;
use http::Method;
use serde_json::{Value, json};

use crate::cluster::Cluster;

const WIDGETS: &str = "/apis/example.com/v1/namespaces/demo/widgets";
const MAPS: &str = "/api/v1/namespaces/demo/configmaps";
const QUOTA: &str = "/api/v1/namespaces/demo/resourcequotas/limit";

fn register(cluster: &Cluster) {
    let widgets = Kind::namespaced("example.com", "v1", "Widget", "widgets", "widget");
    cluster.server.registry().register(vec![widgets]).unwrap();
}

fn widget(name: &str, metadata: Value) -> Value {
    let mut widget =
        json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": metadata, "spec": {"a": 1}});
    widget["metadata"]["name"] = name.into();
    widget
}

fn owned_by(owner: &Value) -> Value {
    let metadata = &owner["metadata"];
    json!({"ownerReferences": [{"apiVersion": owner["apiVersion"], "kind": owner["kind"],
        "name": metadata["name"], "uid": metadata["uid"], "blockOwnerDeletion": true}]})
}

fn used(answer: &Result<Value, client::Error>, count: &str) -> bool {
    answer.as_ref().is_ok_and(|quota| quota["status"]["used"]["count/widgets.example.com"] == count)
}

#[tokio::test]
async fn a_kind_registered_at_run_time_is_collected_counted_and_goes_with_its_namespace() {
    let cluster = Cluster::start().await;
    cluster
        .post(
            "/api/v1/namespaces",
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "demo"}}),
        )
        .await;
    register(&cluster);
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "limit"},
        "spec": {"hard": {"count/widgets.example.com": "3"}}});
    cluster.post("/api/v1/namespaces/demo/resourcequotas", quota).await;
    cluster.until(QUOTA, |answer| used(answer, "0")).await;

    // A chain of owners through it and through a kind that is built in.
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "top"}});
    let top = cluster.post(MAPS, map).await;
    let middle = cluster.post(WIDGETS, widget("middle", owned_by(&top))).await;
    let mut map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": owned_by(&middle)});
    map["metadata"]["name"] = "bottom".into();
    cluster.post(MAPS, map).await;
    cluster.post(WIDGETS, widget("alone", json!({}))).await;
    cluster.until(QUOTA, |answer| used(answer, "2")).await;
    cluster.post(WIDGETS, widget("third", json!({}))).await;
    let exceeded = cluster.ask(Method::POST, WIDGETS, widget("fourth", json!({}))).await.unwrap_err();
    assert!(exceeded.to_string().contains("exceeded quota: limit"), "{exceeded}");
    cluster.ask(Method::DELETE, &format!("{MAPS}/top"), Value::Null).await.unwrap();
    cluster.until_gone(&format!("{WIDGETS}/middle")).await;
    cluster.until_gone(&format!("{MAPS}/bottom")).await;
    // What is gone counts no more.
    cluster.until(QUOTA, |answer| used(answer, "2")).await;

    // What waits for a finalizer of its own holds the namespace.
    let held = widget("held", json!({"finalizers": ["example.com/hold"]}));
    cluster.post(WIDGETS, held).await;
    cluster.ask(Method::DELETE, "/api/v1/namespaces/demo", Value::Null).await.unwrap();
    cluster.until_gone(&format!("{WIDGETS}/alone")).await;
    let names_it = |answer: &Result<Value, client::Error>| {
        answer
            .as_ref()
            .is_ok_and(|namespace| namespace.to_string().contains("widgets.example.com has 1 resource"))
    };
    cluster.until("/api/v1/namespaces/demo", names_it).await;
    let free = json!({"metadata": {"finalizers": null}}).to_string().into_bytes();
    let path = format!("{WIDGETS}/held");
    cluster.client.raw(Method::PATCH, &path, "application/merge-patch+json", free.into()).await.unwrap();
    cluster.until_gone("/api/v1/namespaces/demo").await;

    cluster.server.registry().withdraw("example.com", "widgets");
    let gone = cluster.ask(Method::GET, WIDGETS, Value::Null).await.unwrap_err();
    assert!(gone.is_not_found(), "{gone}");
    cluster.stop().await;
}
