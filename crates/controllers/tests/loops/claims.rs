//! Claims that grow, and that stay while somebody uses them.

use http::Method;
use serde_json::{Value, json};

use crate::cluster::Cluster;

const CLAIMS: &str = "/api/v1/namespaces/default/persistentvolumeclaims";
const PODS: &str = "/api/v1/namespaces/default/pods";
const EVENTS: &str = "/api/v1/namespaces/default/events";

async fn bound_claim(cluster: &Cluster) -> String {
    cluster.post("/api/v1/nodes", json!({"metadata": {"name": "n1"}})).await;
    let class = json!({"metadata": {"name": "soon"}, "provisioner": "monopod.io/local",
        "volumeBindingMode": "Immediate", "allowVolumeExpansion": true});
    cluster.post("/apis/storage.k8s.io/v1/storageclasses", class).await;
    let claim = json!({"metadata": {"name": "data"}, "spec": {"storageClassName": "soon",
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    cluster.post(CLAIMS, claim).await;
    let path = format!("{CLAIMS}/data");
    cluster.until(&path, |claim| has(claim, "1Gi")).await;
    path
}

fn has(claim: &Result<Value, client::Error>, size: &str) -> bool {
    claim.as_ref().is_ok_and(|claim| {
        claim["status"]["phase"] == "Bound" && claim["status"]["capacity"]["storage"] == size
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_grows_and_says_when_it_has_grown() {
    let mut cluster = Cluster::start().await;
    let path = bound_claim(&cluster).await;
    let wish = |size: &str| json!({"spec": {"resources": {"requests": {"storage": size}}}});
    for size in ["2Gi", "3Gi"] {
        // What the last ones had left to tell went with them.
        cluster.restart_controllers().await;
        cluster.ask(Method::PATCH, &path, wish(size)).await.unwrap();
        cluster
            .until(&path, |claim| {
                let quiet =
                    |claim: &Value| claim["status"]["conditions"].as_array().is_none_or(Vec::is_empty);
                has(claim, size) && claim.as_ref().is_ok_and(quiet)
            })
            .await;
    }
    let claim = cluster.ask(Method::GET, &path, Value::Null).await.unwrap();
    assert_eq!(claim["status"]["allocatedResources"]["storage"], "3Gi");
    assert_eq!(claim["status"]["allocatedResourceStatuses"], Value::Null);
    let volume = format!("/api/v1/persistentvolumes/{}", claim["spec"]["volumeName"].as_str().unwrap());
    let volume = cluster.ask(Method::GET, &volume, Value::Null).await.unwrap();
    assert_eq!(volume["spec"]["capacity"]["storage"], "3Gi");
    for (reason, message) in [
        (
            "Resizing",
            format!("External resizer is resizing volume {}", volume["metadata"]["name"].as_str().unwrap()),
        ),
        ("VolumeResizeSuccessful", "Resize volume succeeded".to_owned()),
    ] {
        let told = |events: &Result<Value, client::Error>| {
            let events = events.as_ref().ok().and_then(|list| list["items"].as_array());
            events
                .into_iter()
                .flatten()
                .any(|one| one["reason"] == reason && one["message"] == message.as_str())
        };
        cluster.until(EVENTS, told).await;
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_stays_until_the_last_pod_with_a_node_is_deleted() {
    let cluster = Cluster::start().await;
    let path = bound_claim(&cluster).await;
    // Taken away by hand, the finalizer comes back.
    let none = json!({"metadata": {"finalizers": null}});
    cluster.ask(Method::PATCH, &path, none).await.unwrap();
    let protected = |claim: &Result<Value, client::Error>| {
        claim
            .as_ref()
            .is_ok_and(|claim| claim["metadata"]["finalizers"] == json!(["kubernetes.io/pvc-protection"]))
    };
    cluster.until(&path, protected).await;
    let pod = json!({"metadata": {"name": "user"}, "spec": {"nodeName": "n1", "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "c", "image": "i"}],
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}});
    cluster.post(PODS, pod).await;
    let ended = json!({"status": {"phase": "Succeeded"}});
    cluster.ask(Method::PATCH, &format!("{PODS}/user/status"), ended).await.unwrap();
    cluster.ask(Method::DELETE, &path, Value::Null).await.unwrap();
    // A claim that nobody uses goes at once; the other was looked at before it.
    let other = json!({"metadata": {"name": "other"}, "spec": {"storageClassName": "none",
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    cluster.post(CLAIMS, other).await;
    cluster.ask(Method::DELETE, &format!("{CLAIMS}/other"), Value::Null).await.unwrap();
    cluster.until_gone(&format!("{CLAIMS}/other")).await;
    let kept = cluster.ask(Method::GET, &path, Value::Null).await;
    assert!(protected(&kept), "{kept:?}");
    cluster.ask(Method::DELETE, &format!("{PODS}/user"), Value::Null).await.unwrap();
    cluster.until_gone(&path).await;
    cluster.stop().await;
}
