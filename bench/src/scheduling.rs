//! Placing Pods: the decisions alone, and as a client meets them.

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures_util::future::try_join_all;
use http::Method;
use scheduler::{Cluster, Namespaces, NodeInfo, Nodes, Placement, PodInfo, Volumes, place};
use serde_json::{Value, json};

use crate::connection::{Access, Connection};
use crate::instance::Instance;
use crate::process::cpu_seconds;
use crate::report::Report;

const NODES: usize = 1000;
const PODS: usize = 5000;
const WINDOW: Duration = Duration::from_secs(30);
const PATH: &str = "/api/v1/namespaces/default/pods";

/// One of a thousand nodes in ten zones.
fn node(n: usize) -> Value {
    json!({"apiVersion": "v1", "kind": "Node",
        "metadata": {"name": format!("n{n}"), "labels": {"bench": "yes", "kubernetes.io/hostname": format!("n{n}"),
            "topology.kubernetes.io/zone": format!("z{}", n % 10)}},
        "status": {"allocatable": {"cpu": "16", "memory": "64Gi", "pods": "110"}}})
}

/// One of many, a third of which look at other Pods: half of these are spread, the others kept apart.
fn pod(n: usize) -> Value {
    let app = format!("app-{}", n % 50);
    let selector = json!({"matchLabels": {"app": app}});
    let mut spec = json!({"nodeSelector": {"bench": "yes"}, "tolerations": [{"operator": "Exists"}],
        "containers": [{"name": "c", "image": "busybox:1.36",
            "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}}}]});
    match n % 6 {
        0 => {
            spec["topologySpreadConstraints"] = json!([{"maxSkew": 2, "topologyKey": "topology.kubernetes.io/zone",
                "whenUnsatisfiable": "DoNotSchedule", "labelSelector": selector}]);
        }
        3 => {
            spec["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] =
                json!([{"topologyKey": "kubernetes.io/hostname", "labelSelector": selector}]);
        }
        _ => {}
    }
    json!({"apiVersion": "v1", "kind": "Pod", "spec": spec,
        "metadata": {"namespace": "default", "name": format!("p{n}"), "labels": {"app": app, "bench": "placed"}}})
}

pub(crate) async fn measure(report: &mut Report) -> Result<()> {
    decisions(report)?;
    let instance = Instance::start(&[]).await?;
    unschedulable(report, &instance).await?;
    let mut connection = instance.access.connect().await?;
    for n in 0..NODES {
        connection.post("/api/v1/nodes", node(n).to_string()).await?;
    }
    let (start, cpu) = (Instant::now(), cpu_seconds(instance.pid()));
    create(&instance.access, |n| pod(n).to_string()).await?;
    until(
        &mut connection,
        &format!("{PATH}?limit=1&labelSelector=bench%3Dplaced&fieldSelector=spec.nodeName%3D"),
    )
    .await?;
    let cpu = (cpu_seconds(instance.pid()) - cpu) * 1e6 / PODS as f64;
    report.add(
        "scheduling: created by 16 connections and bound",
        "/s",
        vec![PODS as f64 / start.elapsed().as_secs_f64()],
    );
    report.add("scheduling: server CPU of a Pod, created and bound", "us", vec![cpu]);
    instance.end().await
}

/// The decisions, each Pod counted before the next: nothing is written and nobody is told.
fn decisions(report: &mut Report) -> Result<()> {
    let typed = |value| serde_json::from_value(value);
    let nodes: Result<Nodes, serde_json::Error> =
        (0..NODES).map(|n| Ok(NodeInfo::new(Arc::new(typed(node(n))?)))).collect();
    let mut nodes = nodes?;
    let mut pods = Vec::new();
    for n in 0..PODS {
        let mut pod = pod(n);
        pod["metadata"]["uid"] = format!("uid-{n}").into();
        pods.push(Arc::new(serde_json::from_value(pod)?));
    }
    let (namespaces, volumes): (Namespaces, _) = (HashMap::new(), Volumes::default());
    let start = Instant::now();
    for (n, pod) in pods.into_iter().enumerate() {
        let pod = Arc::new(PodInfo::new(pod));
        let cluster = Cluster { nodes: &nodes, namespaces: &namespaces, alike: None };
        match black_box(place(&pod, &volumes, cluster, n)) {
            Placement::Node(index) => nodes.add(index, pod),
            Placement::Unschedulable(failure) => bail!("not placed: {}", failure.message()),
        }
    }
    report.add("scheduling: decisions, 1000 nodes", "/s", vec![PODS as f64 / start.elapsed().as_secs_f64()]);
    Ok(())
}

/// What Pods that fit nowhere cost while others come and go beside them.
async fn unschedulable(report: &mut Report, instance: &Instance) -> Result<()> {
    create(&instance.access, |n| {
        let mut pod = pod(n);
        pod["metadata"]["name"] = format!("u{n}").into();
        pod["metadata"]["labels"]["bench"] = "waiting".into();
        pod["spec"]["nodeSelector"] = json!({"nowhere": "yes"});
        pod.to_string()
    })
    .await?;
    // Conditions and Events of the first attempt are not what is looked for.
    tokio::time::sleep(WINDOW).await;
    let cpu = cpu_seconds(instance.pid());
    // A window of observation, not a wait for a state.
    tokio::time::sleep(WINDOW).await;
    let share = (cpu_seconds(instance.pid()) - cpu) / WINDOW.as_secs_f64() * 100.0;
    report.add("5000 unschedulable pods: CPU, share of one core", "%", vec![share]);
    // A connection that says nothing for so long is closed: this one is new.
    let mut connection = instance.access.connect().await?;
    let label = "?labelSelector=bench%3Dwaiting&gracePeriodSeconds=0";
    connection
        .call(Method::DELETE, &format!("{PATH}{label}"), crate::connection::JSON, bytes::Bytes::new())
        .await?;
    until(&mut connection, &format!("{PATH}?limit=1&labelSelector=bench%3Dwaiting")).await
}

async fn create(access: &Access, object: impl Fn(usize) -> String + Copy) -> Result<()> {
    const CONNECTIONS: usize = 16;
    let each = (0..CONNECTIONS).map(|first| async move {
        let mut connection = access.connect().await?;
        for n in (first..PODS).step_by(CONNECTIONS) {
            connection.post(PATH, object(n)).await?;
        }
        anyhow::Ok(())
    });
    try_join_all(each).await.map(drop)
}

/// Until the list is empty.
async fn until(connection: &mut Connection, path: &str) -> Result<()> {
    loop {
        let list: Value = serde_json::from_slice(&connection.get(path).await?)?;
        if list["items"].as_array().context("a list has items")?.is_empty() {
            return Ok(());
        }
        // Nothing else tells a client that no object is left.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
