//! PodDisruptionBudgets over the Pods of a ReplicaSet, and who asks for an eviction.

use http::Method;
use serde_json::{Value, json};

use crate::cluster::Cluster;

const SETS: &str = "/apis/apps/v1/namespaces/default/replicasets";
const BUDGETS: &str = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
const PODS: &str = "/api/v1/namespaces/default/pods";

/// Three Pods of a set, all ready.
async fn three_pods() -> (Cluster, Vec<String>) {
    let cluster = Cluster::start().await;
    cluster.until("/api/v1/namespaces/default/serviceaccounts/default", Result::is_ok).await;
    let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let set = json!({"metadata": {"name": "web"}, "spec": {"replicas": 3, "template": template,
        "selector": {"matchLabels": {"app": "web"}}}});
    cluster.post(SETS, set).await;
    let three =
        |pods: &Result<Value, client::Error>| pods.as_ref().unwrap()["items"].as_array().unwrap().len() == 3;
    cluster.until(PODS, three).await;
    let list = cluster.ask(Method::GET, PODS, Value::Null).await.unwrap();
    let pods = list["items"].as_array().unwrap().iter();
    let pods: Vec<String> =
        pods.map(|pod| format!("{PODS}/{}", pod["metadata"]["name"].as_str().unwrap())).collect();
    let ready = json!({"status": {"phase": "Running", "conditions":
        [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
    for pod in &pods {
        cluster.ask(Method::PATCH, &format!("{pod}/status"), ready.clone()).await.unwrap();
    }
    (cluster, pods)
}

async fn evict(cluster: &Cluster, pod: &str) -> Result<Value, client::Error> {
    let name = pod.rsplit('/').next().unwrap();
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
    cluster.ask(Method::POST, &format!("{pod}/eviction"), eviction).await
}

#[tokio::test]
async fn an_eviction_is_refused_until_the_budget_is_changed_to_allow_it() {
    let (cluster, pods) = three_pods().await;
    let budget = json!({"metadata": {"name": "web"}, "spec": {"minAvailable": 3,
        "selector": {"matchLabels": {"app": "web"}}}});
    cluster.post(BUDGETS, budget).await;
    let path = format!("{BUDGETS}/web");
    let allows = |wanted: i64| {
        move |budget: &Result<Value, client::Error>| {
            let budget = budget.as_ref().unwrap();
            let status = &budget["status"];
            status["observedGeneration"] == budget["metadata"]["generation"]
                && status["disruptionsAllowed"] == wanted
                && status["currentHealthy"] == 3
        }
    };
    cluster.until(&path, allows(0)).await;
    let refused = evict(&cluster, &pods[0]).await.unwrap_err();
    assert_eq!(refused.code(), 429, "{refused}");
    let told = refused.status().and_then(|status| status.message.clone());
    assert_eq!(told.as_deref(), Some("Cannot evict pod as it would violate the pod's disruption budget."));
    cluster.ask(Method::PATCH, &path, json!({"spec": {"minAvailable": 2}})).await.unwrap();
    cluster.until(&path, allows(1)).await;
    evict(&cluster, &pods[0]).await.unwrap();
    cluster.until_gone(&pods[0]).await;
    // The one in its place is not ready: nobody else may go.
    let spent =
        |budget: &Result<Value, client::Error>| budget.as_ref().unwrap()["status"]["currentHealthy"] == 2;
    cluster.until(&path, spent).await;
    assert_eq!(evict(&cluster, &pods[1]).await.unwrap_err().code(), 429);
    cluster.ask(Method::DELETE, &path, Value::Null).await.unwrap();
    evict(&cluster, &pods[1]).await.unwrap();
    cluster.stop().await;
}
