//! Throughput and latency of single operations over kept connections.

use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use futures_util::future::try_join_all;
use http::Method;
use serde_json::json;

use crate::Options;
use crate::connection::{Access, Connection, JSON};
use crate::instance::Instance;
use crate::process::cpu_seconds;
use crate::report::{Report, percentile};
use crate::startup::milliseconds;
use crate::watch;

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

/// An operation by name; `n` makes names unique.
#[derive(Debug, Clone, Copy)]
enum Operation {
    GetPod,
    CreateConfigMap,
    PatchConfigMap,
    ListPods,
    TableOfPods,
}

/// An instance without a node's work: the Pods here are never scheduled.
pub(crate) async fn measure(report: &mut Report, options: &Options) -> Result<()> {
    let instance = Instance::start(&[]).await?;
    if options.wants("api") {
        prepare(&instance.access).await?;
        let duration = Duration::from_secs(options.api_seconds);
        for (operation, name) in [
            (Operation::GetPod, "GET a Pod"),
            (Operation::CreateConfigMap, "CREATE a ConfigMap of 1 KiB, durable"),
            (Operation::PatchConfigMap, "merge PATCH of a ConfigMap, durable"),
            (Operation::ListPods, "LIST 1000 Pods"),
            (Operation::TableOfPods, "Table of 500 Pods, gzip"),
        ] {
            for connections in [1, 16, 64] {
                run(report, &instance, operation, name, connections, duration).await?;
            }
        }
    }
    if options.wants("watch") {
        watch::measure(report, &instance.access, options.watchers).await?;
    }
    instance.end().await
}

async fn prepare(access: &Access) -> Result<()> {
    let mut connection = access.connect().await?;
    for n in 0..1000 {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": format!("listed-{n}"), "labels": {"app": "listed"}, "annotations": {"padding": "x".repeat(2000)}},
            "spec": {"schedulerName": "nobody", "containers": [{"name": "c", "image": "busybox:1.36", "command": ["sleep", "1"]}]},
        });
        connection.post(PODS, pod.to_string()).await?;
    }
    for n in 0..64 {
        connection.post(CONFIG_MAPS, config_map(&format!("patched-{n}"))).await?;
    }
    Ok(())
}

fn config_map(name: &str) -> String {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": "v".repeat(1024)}}).to_string()
}

async fn run(
    report: &mut Report,
    instance: &Instance,
    operation: Operation,
    name: &str,
    connections: usize,
    duration: Duration,
) -> Result<()> {
    let access = &instance.access;
    let mut open = Vec::new();
    for _ in 0..connections {
        open.push(access.connect().await?);
    }
    let cpu = cpu_seconds(instance.pid());
    let start = Instant::now();
    let tasks = open
        .into_iter()
        .enumerate()
        .map(|(who, connection)| tokio::spawn(repeat(connection, operation, who, duration)));
    let mut latencies: Vec<f64> = Vec::new();
    for result in try_join_all(tasks).await? {
        latencies.extend(result?);
    }
    let seconds = start.elapsed().as_secs_f64();
    let cpu = (cpu_seconds(instance.pid()) - cpu) * 1e6 / latencies.len().max(1) as f64;
    latencies.sort_by(f64::total_cmp);
    let label = |what: &str| format!("{name}, {connections} conn: {what}");
    report.add(label("rate"), "/s", vec![latencies.len() as f64 / seconds]);
    report.add(label("server CPU each"), "us", vec![cpu]);
    report.add(label("latency"), "ms", vec![percentile(&latencies, 50.0), percentile(&latencies, 99.0)]);
    Ok(())
}

async fn repeat(
    mut connection: Connection,
    operation: Operation,
    who: usize,
    duration: Duration,
) -> Result<Vec<f64>> {
    let (start, mut latencies, mut n) = (Instant::now(), Vec::new(), 0u64);
    while start.elapsed() < duration {
        let before = Instant::now();
        once(&mut connection, operation, who, n).await?;
        latencies.push(milliseconds(before.elapsed()));
        n += 1;
    }
    Ok(latencies)
}

async fn once(connection: &mut Connection, operation: Operation, who: usize, n: u64) -> Result<Bytes> {
    static RUN: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    match operation {
        Operation::GetPod => connection.get(&format!("{PODS}/listed-{}", n % 1000)).await,
        Operation::ListPods => connection.get(PODS).await,
        Operation::TableOfPods => connection.get_table(&format!("{PODS}?limit=500")).await,
        Operation::CreateConfigMap => {
            let unique = RUN.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            connection.post(CONFIG_MAPS, config_map(&format!("made-{unique}"))).await
        }
        Operation::PatchConfigMap => {
            let body = json!({"data": {"n": n.to_string()}}).to_string();
            let path = format!("{CONFIG_MAPS}/patched-{who}");
            connection.call(Method::PATCH, &path, "application/merge-patch+json", body.into()).await
        }
    }
}

/// Creates one ConfigMap; used by the watch benchmark.
pub(crate) async fn create_config_map(connection: &mut Connection, name: &str) -> Result<()> {
    connection.call(Method::POST, CONFIG_MAPS, JSON, config_map(name).into()).await.map(drop)
}
