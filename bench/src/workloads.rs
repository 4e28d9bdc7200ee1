//! Deployments: from the request until all is as it says, Pods for real.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use http::Method;
use serde_json::{Value, json};

use crate::connection::{Access, Connection, Lines};
use crate::instance::Instance;
use crate::report::Report;
use crate::startup::milliseconds;

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
/// Nothing measured here takes longer unless something is wrong.
const PATIENCE: Duration = Duration::from_secs(120);
/// Rollouts that the median is of.
const ROLLOUTS: usize = 5;

pub(crate) async fn measure(report: &mut Report, replicas: usize) -> Result<()> {
    let instance = Instance::start(&["busybox.tar"]).await?;
    let mut connection = instance.access.connect().await?;
    let whole = deploy(&instance.access, &mut connection, "large", replicas).await?;
    let name = format!("deployment: {replicas} Pods created to available");
    report.add(name, "s", vec![whole.as_secs_f64()]);
    connection.delete(&format!("{DEPLOYMENTS}/large")).await?;

    deploy(&instance.access, &mut connection, "small", 4).await?;
    let mut rollouts = Vec::new();
    for round in 0..ROLLOUTS {
        let mut events = watch(&instance.access, "small").await?;
        let start = Instant::now();
        let changed =
            json!({"spec": {"template": {"metadata": {"annotations": {"round": round.to_string()}}}}});
        let path = format!("{DEPLOYMENTS}/small");
        let kind = "application/merge-patch+json";
        let changed = connection.call(Method::PATCH, &path, kind, changed.to_string().into()).await?;
        until_complete(&mut events, 4, generation(&serde_json::from_slice(&changed)?)).await?;
        rollouts.push(milliseconds(start.elapsed()));
    }
    report.add("deployment: rollout of 4 Pods", "ms", rollouts);
    instance.end().await
}

/// Creates a Deployment and waits until all its Pods are available.
async fn deploy(
    access: &Access,
    connection: &mut Connection,
    name: &str,
    replicas: usize,
) -> Result<Duration> {
    let script = "trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done";
    let labels = json!({"app": name});
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": {
            "metadata": {"labels": labels},
            "spec": {"containers": [{"name": "c", "image": "busybox:1.36", "imagePullPolicy": "Never", "command": ["sh", "-c", script]}]},
        }},
    });
    let mut events = watch(access, name).await?;
    let start = Instant::now();
    connection.post(DEPLOYMENTS, deployment.to_string()).await?;
    until_complete(&mut events, replicas, 1).await?;
    Ok(start.elapsed())
}

async fn watch(access: &Access, name: &str) -> Result<Lines> {
    Lines::watch(access, &format!("{DEPLOYMENTS}?watch=1&fieldSelector=metadata.name={name}")).await
}

fn generation(deployment: &Value) -> i64 {
    deployment["metadata"]["generation"].as_i64().unwrap_or(0)
}

/// As `kubectl rollout status` decides it.
async fn until_complete(events: &mut Lines, replicas: usize, wanted: i64) -> Result<()> {
    let reading = async {
        while let Some(line) = events.next().await {
            let event: Value = serde_json::from_slice(&line)?;
            let status = &event["object"]["status"];
            let all = |count: &str| status[count].as_u64() == u64::try_from(replicas).ok();
            if status["observedGeneration"].as_i64() >= Some(wanted)
                && ["replicas", "updatedReplicas", "availableReplicas"].into_iter().all(all)
            {
                return Ok(());
            }
        }
        bail!("the watch ended")
    };
    tokio::time::timeout(PATIENCE, reading).await.context("timed out waiting for a Deployment")?
}
