//! What runs and what is wrong, in one screen.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use client::{Client, ListOptions};
use k8s_openapi::api::core::v1::{Node, Pod};
use serde::Serialize;

use crate::cli::Output;
use crate::instance::{self, canonical};
use crate::{kubeconfig, say};

/// The screen as data.
#[derive(Debug, Serialize)]
struct Status {
    data_dir: String,
    instance: String,
    /// Process id of the daemon; absent when it does not run.
    #[serde(skip_serializing_if = "Option::is_none")]
    daemon: Option<u32>,
    /// Address of the API; absent when the daemon does not run.
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<String>,
    nodes: Vec<Line>,
    pods: Vec<Line>,
    images: usize,
    /// One sentence for each thing that is not as it should be.
    problems: Vec<String>,
}

/// An object and how it is.
#[derive(Debug, Serialize)]
struct Line {
    name: String,
    state: String,
}

/// States of Pods in which nothing is wrong: they run, have done their work, or are just starting.
const WELL: [&str; 5] = ["Running", "Succeeded", "Completed", "ContainerCreating", "PodInitializing"];

/// Prints the instance's state; fails when something is wrong, for scripts that ask no more.
pub(crate) fn run(data_dir: &Path, output: Output) -> Result<()> {
    let data_dir = canonical(data_dir);
    let mut status = Status {
        data_dir: data_dir.display().to_string(),
        instance: instance::id(&data_dir),
        daemon: None,
        server: None,
        nodes: Vec::new(),
        pods: Vec::new(),
        images: images(&data_dir),
        problems: Vec::new(),
    };
    // To look must not make anything of an instance that never was.
    if data_dir.join("state").exists() {
        status.daemon = instance::running(&data_dir.join("state"))?;
    }
    if status.daemon.is_none() {
        status.problems.push("the daemon does not run; start it with `monopod up`".to_owned());
    // An API that does not answer is a line of the screen, not its end: the rest may say why.
    } else if let Err(err) = ask(&data_dir, &mut status) {
        status.problems.push(format!("the API does not answer: {err:#}"));
    }
    match output {
        Output::Json => say(&serde_json::to_string_pretty(&status)?),
        Output::Text => say(&screen(&status)),
    }?;
    // The exit code is for scripts, the text for people; both say it.
    match status.problems.len() {
        0 => Ok(()),
        1 => bail!("1 thing is wrong"),
        several => bail!("{several} things are wrong"),
    }
}

fn images(data_dir: &Path) -> usize {
    // From the file: it is known whether the daemon runs or not.
    let index = std::fs::read(data_dir.join("images/index.json")).unwrap_or_default();
    let index: serde_json::Value = serde_json::from_slice(&index).unwrap_or_default();
    index["images"].as_array().map_or(0, Vec::len)
}

/// Asks the API for nodes and Pods.
fn ask(data_dir: &Path, status: &mut Status) -> Result<()> {
    let access = kubeconfig::read(&data_dir.join("kubeconfig"))?;
    status.server = Some(format!("https://{}", access.server));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = Client::new(Arc::new(client::Https::new(&access)?));
        let nodes = client.list::<Node>("", &ListOptions::default()).await.context("nodes")?;
        let pods = client.list::<Pod>("", &ListOptions::default()).await.context("pods")?;
        status.nodes = nodes.items.iter().map(node_line).collect();
        status.pods = pods.items.iter().map(pod_line).collect();
        Ok::<_, anyhow::Error>(())
    })?;
    let not_ready = status
        .nodes
        .iter()
        .filter(|node| node.state != "Ready")
        .map(|node| format!("node {} is {}", node.name, node.state));
    let failing = status.pods.iter().filter(|pod| !WELL.contains(&pod.state.as_str()));
    let problems: Vec<String> =
        not_ready.chain(failing.map(|pod| format!("pod {}: {}", pod.name, pod.state))).collect();
    status.problems.extend(problems);
    Ok(())
}

fn node_line(node: &Node) -> Line {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let ready = conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    let state = if ready { "Ready" } else { "NotReady" };
    Line { name: node.metadata.name.clone().unwrap_or_default(), state: state.to_owned() }
}

/// The waiting reason of a container where there is one, else the phase.
fn pod_line(pod: &Pod) -> Line {
    let status = pod.status.as_ref();
    let containers = status.and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
    // While a container waits to be started again the phase is still Running.
    let waiting =
        containers.iter().find_map(|container| container.state.as_ref()?.waiting.as_ref()?.reason.clone());
    let phase = status.and_then(|status| status.phase.clone()).unwrap_or_else(|| "Unknown".to_owned());
    let (namespace, name) = (
        pod.metadata.namespace.as_deref().unwrap_or_default(),
        pod.metadata.name.as_deref().unwrap_or_default(),
    );
    Line { name: format!("{namespace}/{name}"), state: waiting.unwrap_or(phase) }
}

fn screen(status: &Status) -> String {
    let mut lines = vec![format!("data directory  {} (instance {})", status.data_dir, status.instance)];
    lines.push(match status.daemon {
        Some(pid) => format!("daemon          process {pid}"),
        None => "daemon          not running".to_owned(),
    });
    lines.extend(status.server.iter().map(|server| format!("API             {server}")));
    lines.extend(status.nodes.iter().map(|node| format!("node            {} {}", node.name, node.state)));
    lines.push(format!("images          {}", status.images));
    lines.push(format!("pods            {}", status.pods.len()));
    lines.extend(status.pods.iter().map(|pod| format!("  {:<50} {}", pod.name, pod.state)));
    lines.push(if status.problems.is_empty() { "nothing is wrong".to_owned() } else { "wrong:".to_owned() });
    lines.extend(status.problems.iter().map(|problem| format!("  {problem}")));
    lines.join("\n")
}
