//! Pods: one after another, many at once, and what they cost while they run.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::Options;
use crate::connection::{Access, Connection, Lines};
use crate::instance::Instance;
use crate::report::Report;
use crate::startup::milliseconds;
use crate::steady;

const PODS: &str = "/api/v1/namespaces/default/pods";
/// Nothing measured here takes longer unless something is wrong.
const PATIENCE: Duration = Duration::from_secs(120);

/// One instance for everything about Pods, so that idle figures come before loaded ones.
pub(crate) async fn measure(report: &mut Report, options: &Options) -> Result<()> {
    let instance = Instance::start(&["busybox.tar"]).await?;
    let mut idle = None;
    if options.wants("steady") {
        idle = Some(steady::idle(report, &instance, options.idle_seconds).await?);
    }
    if options.wants("pods") {
        in_sequence(report, &instance.access, options.sequence).await?;
    }
    if options.wants("burst") || options.wants("steady") {
        at_once(report, &instance, options, idle).await?;
    }
    instance.end().await
}

async fn in_sequence(report: &mut Report, access: &Access, count: usize) -> Result<()> {
    let mut connection = access.connect().await?;
    let (mut starts, mut ends) = (Vec::new(), Vec::new());
    for n in 0..count {
        let name = format!("one-{n}");
        let mut events =
            Lines::watch(access, &format!("{PODS}?watch=1&fieldSelector=metadata.name={name}")).await?;
        let start = Instant::now();
        create(&mut connection, &name).await?;
        until(&mut events, |kind, pod| kind != "DELETED" && is_running(pod)).await?;
        starts.push(milliseconds(start.elapsed()));
        until_trapping(&mut connection, &name).await?;
        let start = Instant::now();
        connection.delete(&format!("{PODS}/{name}")).await?;
        until(&mut events, |kind, _| kind == "DELETED").await?;
        ends.push(milliseconds(start.elapsed()));
    }
    report.add("pod: create to Running, one by one", "ms", starts);
    report.add("pod: delete to gone, one by one", "ms", ends);
    Ok(())
}

async fn at_once(
    report: &mut Report,
    instance: &Instance,
    options: &Options,
    idle: Option<f64>,
) -> Result<()> {
    let names: Vec<String> = (0..options.burst).map(|n| format!("many-{n}")).collect();
    let mut connection = instance.access.connect().await?;
    let start = Instant::now();
    let waiting = wait_running(&instance.access, &names);
    let creating = async {
        for name in &names {
            create(&mut connection, name).await?;
        }
        Ok::<_, anyhow::Error>(())
    };
    tokio::try_join!(creating, waiting)?;
    report.add(
        format!("pods: {} at once, all Running", names.len()),
        "s",
        vec![start.elapsed().as_secs_f64()],
    );
    if let Some(idle) = idle {
        steady::loaded(report, instance, names.len(), idle)?;
    }
    for name in &names {
        until_trapping(&mut connection, name).await?;
    }
    let mut events = Lines::watch(&instance.access, &format!("{PODS}?watch=1")).await?;
    let start = Instant::now();
    for name in &names {
        connection.delete(&format!("{PODS}/{name}")).await?;
    }
    let mut left: BTreeSet<&str> = names.iter().map(String::as_str).collect();
    until(&mut events, |kind, pod| {
        if kind == "DELETED" {
            left.remove(pod["metadata"]["name"].as_str().unwrap_or_default());
        }
        left.is_empty()
    })
    .await?;
    report.add(
        format!("pods: {} deleted at once, all gone", names.len()),
        "s",
        vec![start.elapsed().as_secs_f64()],
    );
    Ok(())
}

/// Waits until the program has set its trap: a PID 1 without a handler does not hear TERM, and
/// the Pod would take its whole grace period.
async fn until_trapping(connection: &mut Connection, name: &str) -> Result<()> {
    let path = format!("{PODS}/{name}/log");
    let begun = Instant::now();
    while connection.get(&path).await?.is_empty() {
        ensure!(begun.elapsed() < PATIENCE, "{name} says nothing");
    }
    Ok(())
}

/// Creates a Pod that answers TERM at once, so that the figures are ours and not its own.
pub(crate) async fn create(connection: &mut Connection, name: &str) -> Result<()> {
    let script = "trap 'exit 0' TERM; echo ready; while :; do sleep 3600 & wait $!; done";
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "busybox:1.36", "imagePullPolicy": "Never", "command": ["sh", "-c", script]}]},
    });
    connection.post(PODS, pod.to_string()).await.map(drop)
}

/// Returns when each of the Pods has been seen Running.
pub(crate) async fn wait_running(access: &Access, names: &[String]) -> Result<()> {
    let mut waiting: BTreeSet<&str> = names.iter().map(String::as_str).collect();
    let mut events = Lines::watch(access, &format!("{PODS}?watch=1")).await?;
    until(&mut events, |_, pod| {
        if is_running(pod) {
            waiting.remove(pod["metadata"]["name"].as_str().unwrap_or_default());
        }
        waiting.is_empty()
    })
    .await
}

fn is_running(pod: &Value) -> bool {
    pod["status"]["phase"] == "Running"
}

/// Reads events until one satisfies.
async fn until(events: &mut Lines, mut enough: impl FnMut(&str, &Value) -> bool) -> Result<()> {
    let reading = async {
        while let Some(line) = events.next().await {
            let event: Value = serde_json::from_slice(&line)?;
            if enough(event["type"].as_str().unwrap_or_default(), &event["object"]) {
                return Ok(());
            }
        }
        bail!("the watch ended")
    };
    tokio::time::timeout(PATIENCE, reading).await.context("timed out waiting for Pods")?
}
