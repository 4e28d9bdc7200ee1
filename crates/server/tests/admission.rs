//! What stands between a wish and a write: the steps of admission, their order, and what they leave.

#[allow(dead_code, reason = "the other tests use the rest")]
mod cluster;

use cluster::{Answer, Cluster, admin};
use serde_json::{Value, json};
use wire::Identity;

const PODS: &str = "/api/v1/namespaces/default/pods";

fn node(name: &str) -> Identity {
    Identity {
        user: format!("system:node:{name}"),
        groups: vec!["system:nodes".into()],
        certificate_sha256: String::new(),
    }
}

fn pod(name: &str, resources: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "i", "resources": resources}]}})
}

fn message(answer: &Answer) -> &str {
    answer.body["message"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn a_kinds_rules_come_before_limits_and_quotas() {
    let cluster = Cluster::start().await;
    let range = json!({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "l"},
        "spec": {"limits": [{"type": "Container", "max": {"memory": "1Mi"}}]}});
    assert_eq!(cluster.post("/api/v1/namespaces/default/limitranges", &range).await.code, 201);
    let large = json!({"limits": {"memory": "2Mi"}});
    let refused = cluster.post(PODS, &pod("Large", &large)).await;
    assert_eq!(refused.code, 422, "{}", refused.text);
    let refused = cluster.post(PODS, &pod("large", &large)).await;
    let words = "pods \"large\" is forbidden: maximum memory usage per Container is 1Mi, but limit is 2Mi";
    assert_eq!((refused.code, message(&refused)), (403, words));
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"},
        "spec": {"hard": {"pods": "0"}}});
    assert_eq!(cluster.post("/api/v1/namespaces/default/resourcequotas", &quota).await.code, 201);
    let refused = cluster.post(PODS, &pod("large", &large)).await;
    assert_eq!(message(&refused), words, "the quota is asked last");
}

#[tokio::test]
async fn a_service_is_judged_before_it_gets_an_address() {
    let cluster = Cluster::start().await;
    let path = "/api/v1/namespaces/default/services";
    let service = |name: &str, port: u32| {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"clusterIP": "10.43.0.7", "ports": [{"port": port}]}})
    };
    assert_eq!(cluster.post(path, &service("one", 80)).await.code, 201);
    let invalid = cluster.post(path, &service("two", 99_999)).await;
    assert!(message(&invalid).contains("spec.ports[0].port: Invalid value: 99999"), "{}", invalid.text);
    assert!(!message(&invalid).contains("already allocated"), "{}", invalid.text);
    let taken = cluster.post(path, &service("two", 80)).await;
    assert!(message(&taken).contains("provided IP is already allocated"), "{}", taken.text);
}

#[tokio::test]
async fn what_a_quota_gave_comes_back_when_the_write_fails() {
    let cluster = Cluster::start().await;
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"},
        "spec": {"hard": {"services": "5"}}});
    let quotas = "/api/v1/namespaces/default/resourcequotas";
    assert_eq!(cluster.post(quotas, &quota).await.code, 201);
    let mut counted = cluster.get(&format!("{quotas}/q")).await.body;
    counted["status"] = json!({"hard": {"services": "5"}, "used": {"services": "1"}});
    assert_eq!(cluster.put(&format!("{quotas}/q/status"), &counted).await.code, 200);
    let outside = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
        "spec": {"clusterIP": "192.0.2.1", "ports": [{"port": 80}]}});
    assert_eq!(cluster.post("/api/v1/namespaces/default/services", &outside).await.code, 422);
    let after = cluster.get(&format!("{quotas}/q")).await.body;
    assert_eq!(after["status"]["used"]["services"], "1", "{after}");
}

#[tokio::test]
async fn a_node_writes_what_is_its_own_and_nothing_else() {
    let cluster = Cluster::start().await.asked_by(Some(node("one")));
    let own = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "one", "labels": {"kubernetes.io/os": "linux"}}});
    assert_eq!(cluster.post("/api/v1/nodes", &own).await.code, 201);
    let other = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "two"}});
    let refused = cluster.post("/api/v1/nodes", &other).await;
    let words = "nodes \"two\" is forbidden: node \"one\" is not allowed to modify node \"two\"";
    assert_eq!((refused.code, message(&refused)), (403, words));
    let role = json!({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}}});
    let refused = cluster.patch("/api/v1/nodes/one", "merge-patch+json", &role).await;
    let words =
        "nodes \"one\" is forbidden: is not allowed to modify labels: node-role.kubernetes.io/control-plane";
    assert_eq!(message(&refused), words);

    let refused = cluster.post(PODS, &pod("any", &json!({}))).await;
    assert!(message(&refused).contains("node \"one\" can only create mirror pods"), "{}", refused.text);

    let cluster = cluster.asked_by(Some(admin()));
    for (name, place) in [("mine", "one"), ("other", "two")] {
        let mut pod = pod(name, &json!({}));
        pod["spec"]["nodeName"] = place.into();
        assert_eq!(cluster.post(PODS, &pod).await.code, 201);
    }
    let uid = cluster.get(&format!("{PODS}/mine")).await.body["metadata"]["uid"].clone();
    let cluster = cluster.asked_by(Some(node("one")));
    let gone = json!({"gracePeriodSeconds": 0});
    let refused = cluster.delete(&format!("{PODS}/other"), &gone).await;
    let words =
        "pods \"other\" is forbidden: node \"one\" can only delete pods with spec.nodeName set to itself";
    assert_eq!((refused.code, message(&refused)), (403, words));
    let evict = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "other"}});
    let refused = cluster.post(&format!("{PODS}/other/eviction"), &evict).await;
    assert!(message(&refused).contains("node one can only evict pods"), "{}", refused.text);
    let token = |uid: &Value| {
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": [],
            "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "mine", "uid": uid}}})
    };
    let tokens = "/api/v1/namespaces/default/serviceaccounts/default/token";
    assert_eq!(cluster.post(tokens, &token(&uid)).await.code, 201);
    let refused = cluster.post(tokens, &token(&Value::Null)).await;
    assert!(message(&refused).contains("a pod binding without a uid"), "{}", refused.text);
    assert_eq!(cluster.delete(&format!("{PODS}/mine"), &gone).await.code, 200);
}

#[tokio::test]
async fn deletions_and_claims_go_through_the_chain_too() {
    let cluster = Cluster::start().await;
    let refused = cluster.delete("/api/v1/namespaces/default", &Value::Null).await;
    let words = "namespaces \"default\" is forbidden: this namespace may not be deleted";
    assert_eq!((refused.code, message(&refused)), (403, words));
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c"},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "x", "resources": {"requests": {"storage": "1Gi"}}}});
    assert_eq!(cluster.post(claims, &claim).await.code, 201);
    let more = json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}});
    let refused = cluster.patch(&format!("{claims}/c"), "merge-patch+json", &more).await;
    assert_ne!(refused.code, 200, "{}", refused.text);
    let mut bound = cluster.get(&format!("{claims}/c")).await.body;
    bound["spec"]["volumeName"] = "v".into();
    let bound = cluster.put(&format!("{claims}/c"), &bound).await;
    assert_eq!(bound.code, 200, "{}", bound.text);
    let status = json!({"status": {"phase": "Bound"}});
    assert_eq!(cluster.patch(&format!("{claims}/c/status"), "merge-patch+json", &status).await.code, 200);
    let refused = cluster.patch(&format!("{claims}/c"), "merge-patch+json", &more).await;
    assert!(
        message(&refused).contains("only dynamically provisioned pvc can be resized"),
        "{}",
        refused.text
    );
}
