//! Static Pods: by their files, with the API and without.

use super::*;

fn manifest(image: &str) -> String {
    let spec = plain().to_string().replace("busybox:1.36", image);
    format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: web}}\nspec: {spec}\n")
}

const STATIC: &str = "web-n1";

/// The mirror runs, and is another than before; its UID and the id of its container.
async fn shown(cluster: &Cluster, before: &str) -> (String, String) {
    let running = |pod: &Value| pod["status"]["containerStatuses"][0]["state"]["running"].is_object();
    let other =
        |pod: &Value| pod["metadata"]["uid"] != before && pod["metadata"]["deletionTimestamp"].is_null();
    let pod = cluster.until(STATIC, |pod| pod.is_some_and(|pod| running(pod) && other(pod))).await.unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (text(&pod["metadata"]["uid"]), text(&pod["status"]["containerStatuses"][0]["containerID"]))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_static_pod_follows_its_file_and_nobody_else() {
    let mut cluster = Cluster::start().await;
    cluster.node.take().unwrap().shutdown().await;
    let directory = cluster.directory.path().join("manifests");
    std::fs::create_dir(&directory).unwrap();
    let file = directory.join("web.yaml");
    std::fs::write(&file, manifest("busybox:1.36")).unwrap();
    cluster.manifests = Some(directory);
    cluster.start_node().await;
    let (mirror, container) = shown(&cluster, "").await;
    let pod = cluster.pods.get(NAMESPACE, STATIC).unwrap();
    let annotations = pod.metadata.annotations.clone().unwrap();
    assert_eq!(annotations["kubernetes.io/config.source"], "file");
    assert_eq!(annotations["kubernetes.io/config.mirror"], annotations["kubernetes.io/config.hash"]);
    assert!(annotations["kubernetes.io/config.seen"].parse::<jiff::Timestamp>().is_ok());
    let owner = &pod.metadata.owner_references.as_ref().unwrap()[0];
    assert_eq!((owner.kind.as_str(), owner.name.as_str(), owner.controller), ("Node", NAME, Some(true)));

    // Who deletes what shows it deletes only that.
    cluster.admin.delete::<Pod>(NAMESPACE, STATIC, &DeleteOptions::default()).await.unwrap();
    let (other, same) = shown(&cluster, &mirror).await;
    assert_eq!(container, same);

    // Nor does the end of the node's agent touch it.
    cluster.node.take().unwrap().shutdown().await;
    cluster.start_node().await;
    assert_eq!(shown(&cluster, "").await, (other.clone(), container.clone()));

    // Another content: the old one ends, and another begins.
    cluster.runtime.add_image("busybox:2");
    std::fs::write(&file, manifest("busybox:2")).unwrap();
    let (last, changed) = shown(&cluster, &other).await;
    assert_ne!(container, changed);
    assert_eq!(cluster.runtime.count().0, 1);
    assert_ne!(last, other);

    std::fs::remove_file(&file).unwrap();
    cluster.until(STATIC, |pod| pod.is_none()).await;
    assert_eq!(cluster.runtime.count().0, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_static_pod_begins_while_the_api_is_away_and_is_shown_when_it_is_back() {
    let mut cluster = Cluster::start().await;
    cluster.node.take().unwrap().shutdown().await;
    let directory = cluster.directory.path().join("manifests");
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("web.yaml"), manifest("busybox:1.36")).unwrap();
    cluster.manifests = Some(directory);
    cluster.away.send_replace(true);
    cluster.begin_node();
    within(async {
        while cluster.called("start c/0") == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert!(cluster.pods.get(NAMESPACE, STATIC).is_none());
    cluster.away.send_replace(false);
    shown(&cluster, "").await;
    assert_eq!(cluster.called("start c/0"), 1);
}

/// Anybody may write annotations: they make nobody critical, and nobody a Pod of a file.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_of_the_api_cannot_claim_to_come_from_a_file() {
    let cluster = Cluster::start().await;
    let mut spec = plain();
    spec["nodeName"] = NAME.into();
    let annotations = json!({"kubernetes.io/config.source": "file"});
    let pod = json!({"metadata": {"name": "web", "annotations": annotations}, "spec": spec});
    cluster.admin.create(NAMESPACE, &serde_json::from_value::<Pod>(pod).unwrap()).await.unwrap();
    cluster.running("web").await;
    let options = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
    cluster.admin.delete::<Pod>(NAMESPACE, "web", &options).await.unwrap();
    cluster.until("web", |pod| pod.is_none()).await;
    within(async {
        while cluster.runtime.count().0 > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}
