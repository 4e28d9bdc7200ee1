//! Roles that take in others by a label.

use http::Method;
use serde_json::{Value, json};

use crate::cluster::Cluster;

const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles";

fn boats(verb: &str) -> Value {
    json!({"verbs": [verb], "apiGroups": ["example.com"], "resources": ["boats"]})
}

fn has(answer: &Result<Value, client::Error>, rule: &Value) -> bool {
    let rules = answer.as_ref().ok().and_then(|role| role["rules"].as_array());
    rules.is_some_and(|rules| rules.contains(rule))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_goes_into_every_greater_role_and_out_of_it_again() {
    let mut cluster = Cluster::start().await;
    let label = "rbac.authorization.k8s.io/aggregate-to-view";
    let role = json!({"metadata": {"name": "boats", "labels": {label: "true"}}, "rules": [boats("get")]});
    cluster.post(ROLES, role).await;
    for name in ["view", "edit", "admin"] {
        cluster.until(&format!("{ROLES}/{name}"), |role| has(role, &boats("get"))).await;
    }
    let own = json!({"metadata": {"name": "own"}, "rules": [boats("delete")],
        "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {label: "true"}}]}});
    cluster.post(ROLES, own).await;
    let replaced =
        |role: &Result<Value, client::Error>| has(role, &boats("get")) && !has(role, &boats("delete"));
    cluster.until(&format!("{ROLES}/own"), replaced).await;
    // Changed while nobody looked.
    cluster.restart_controllers().await;
    let changed = json!({"rules": [boats("watch")]});
    cluster.ask(Method::PATCH, &format!("{ROLES}/boats"), changed).await.unwrap();
    cluster
        .until(&format!("{ROLES}/admin"), |role| has(role, &boats("watch")) && !has(role, &boats("get")))
        .await;
    cluster.ask(Method::DELETE, &format!("{ROLES}/boats"), Value::Null).await.unwrap();
    cluster.until(&format!("{ROLES}/admin"), |role| !has(role, &boats("watch"))).await;
    cluster.stop().await;
}
