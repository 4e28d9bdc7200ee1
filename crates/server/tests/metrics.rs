//! `metrics.k8s.io`, measured by nodes made for the tests.

#[allow(dead_code, reason = "the other tests use the rest")]
mod cluster;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cluster::Cluster;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use server::Nodes;
use wire::{Handler, Request, Response};

const PODS: &str = "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods";
const NODES: &str = "/apis/metrics.k8s.io/v1beta1/nodes";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";

/// The node `n1`, which uses half a processor and on which the Pod of this uid uses a quarter.
#[derive(Default)]
struct Measured {
    asked: AtomicU64,
    uid: std::sync::OnceLock<String>,
}

struct Node(Arc<Measured>);

impl Nodes for Node {
    fn handler(&self, node: &str) -> Option<Arc<dyn Handler>> {
        (node == "n1").then(|| Arc::new(Kubelet(Arc::clone(&self.0))) as Arc<dyn Handler>)
    }
}

struct Kubelet(Arc<Measured>);

impl Handler for Kubelet {
    fn handle(&self, request: Request) -> BoxFuture<'static, Response> {
        assert_eq!(request.uri(), "/stats/summary?only_cpu_and_memory=true");
        let asked = self.0.asked.fetch_add(1, Ordering::AcqRel);
        // Each question comes four seconds after the last one, by the node's clock.
        let time = jiff::Timestamp::from_second(1_800_000_000 + 4 * i64::try_from(asked).unwrap()).unwrap();
        let counted = |cpu: u64| {
            json!({"name": "c", "cpu": {"time": time, "usageCoreNanoSeconds": cpu},
                "memory": {"time": time, "workingSetBytes": 5 << 20}})
        };
        let uid = self.0.uid.get();
        let summary = json!({
            "node": counted(asked * 2_000_000_000),
            "pods": [{"podRef": {"uid": uid}, "containers": [counted(asked * 1_000_000_000)]}],
        });
        std::future::ready(Response::new(wire::full(summary.to_string()))).boxed()
    }
}

async fn cluster() -> (Cluster, Arc<Measured>) {
    let measured = Arc::new(Measured::default());
    let cluster = Cluster::with_nodes(Arc::new(Node(Arc::clone(&measured)))).await;
    for name in ["n1", "n2"] {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
        assert_eq!(cluster.post("/api/v1/nodes", &node).await.code, 201);
    }
    for (name, node) in [("web", "n1"), ("other", "n2")] {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
            "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]}});
        let made = cluster.post("/api/v1/namespaces/default/pods", &pod).await;
        assert_eq!(made.code, 201, "{}", made.text);
        if name == "web" {
            measured.uid.set(made.body["metadata"]["uid"].as_str().unwrap().to_owned()).unwrap();
        }
    }
    (cluster, measured)
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|one| one["metadata"]["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn nodes_are_asked_twice_for_the_first_question_and_not_for_the_next() {
    let (cluster, measured) = cluster().await;
    let pods = cluster.get(PODS).await;
    assert_eq!((pods.code, names(&pods.body)), (200, vec!["web"]), "{}", pods.text);
    assert_eq!((&pods.body["kind"], &pods.body["metadata"]), (&json!("PodMetricsList"), &json!({})));
    let web = &pods.body["items"][0];
    assert_eq!(web["containers"], json!([{"name": "c", "usage": {"cpu": "250m", "memory": "5Mi"}}]));
    assert_eq!((&web["window"], &web["timestamp"]), (&json!("4s"), &json!("2027-01-15T08:00:04Z")));
    assert_eq!(web["metadata"]["labels"], json!({"app": "web"}));
    assert_eq!(measured.asked.load(Ordering::Acquire), 2);

    let nodes = cluster.get(NODES).await;
    assert_eq!(names(&nodes.body), ["n1"], "a node that does not answer is left out");
    assert_eq!(nodes.body["items"][0]["usage"], json!({"cpu": "500m", "memory": "5Mi"}));
    assert_eq!(names(&cluster.get(&format!("{PODS}?labelSelector=app%3Dother")).await.body), [""; 0]);
    assert_eq!(measured.asked.load(Ordering::Acquire), 2, "what was just measured is told again");
}

#[tokio::test]
async fn what_is_not_measured_is_not_found_in_the_words_of_metrics_server() {
    let (cluster, _) = cluster().await;
    for (path, words) in [
        (format!("{PODS}/other"), "podmetrics.metrics.k8s.io \"default/other\" not found"),
        (format!("{PODS}/nosuch"), "pods \"default/nosuch\" not found"),
        (format!("{NODES}/n2"), "nodemetrics.metrics.k8s.io \"n2\" not found"),
        (format!("{NODES}/nosuch"), "nodes \"nosuch\" not found"),
    ] {
        let answer = cluster.get(&path).await;
        assert_eq!((answer.code, &answer.body["message"]), (404, &json!(words)));
    }
    let web = cluster.get(&format!("{PODS}/web")).await;
    assert_eq!((web.code, &web.body["kind"]), (200, &json!("PodMetrics")), "{}", web.text);
    let table = cluster.get_as(NODES, TABLE).await;
    assert_eq!(table.body["rows"][0]["cells"], json!(["n1", "500m", "5Mi", "4s"]), "{}", table.text);
    let made = cluster.post(PODS, &web.body).await;
    assert_eq!(made.code, 405, "{}", made.text);
    let group = cluster.get("/apis/metrics.k8s.io/v1beta1").await;
    let resources = group.body["resources"].as_array().unwrap().len();
    assert_eq!((group.code, resources), (200, 2), "{}", group.text);
    assert_eq!(cluster.get("/openapi/v3/apis/metrics.k8s.io/v1beta1").await.code, 200);
}
