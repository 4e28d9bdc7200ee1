//! What the API says of itself, of nodes and of Pods.
//!
//! Asked with a limit of time, and never again: whoever looks wants to know that there is no answer, soon.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use client::{Client, Error, ListOptions};
use k8s_openapi::api::core::v1::{Node, Pod};

use super::{Check, Line};
use crate::{access, kubeconfig};

/// A daemon on a busy host is slow; one that says nothing for so long hangs.
const PATIENCE: Duration = Duration::from_secs(15);
/// How the state of a Pod begins of which the API says nothing because there is no API.
pub(super) const UNMANAGED: &str = "running, and nobody looks after it";

/// States of Pods in which nothing is wrong: they run, have done their work, or are just starting.
const WELL: [&str; 6] =
    ["Running", "Succeeded", "Completed", "ContainerCreating", "PodInitializing", UNMANAGED];

/// What was answered.
pub(super) struct Answer {
    /// Names of the checks of `/readyz` that fail.
    failing: Vec<String>,
    pub(super) nodes: Vec<Line>,
    pub(super) pods: Vec<Line>,
}

impl Answer {
    /// What `/readyz` says as a line. The reasons are withheld there, as upstream withholds them; the checks of
    /// the host and the node's own condition have them.
    pub(super) fn check(&self) -> Check {
        if self.failing.is_empty() {
            return Check::well("API", "ready");
        }
        let failing = self.failing.join(", ");
        Check::wrong(
            "API",
            format!("not ready: {failing}"),
            format!("the API is not ready ({failing}): what follows, or the daemon's log, says why"),
        )
    }
}

/// Asks for all of it; the reason when there is no answer.
pub(super) fn ask(data_dir: &Path) -> Result<Answer, String> {
    let asked = || -> Result<Answer> {
        // The noted address and an identity of our own: a kubeconfig may be elsewhere, old, or gone.
        let access = access::own(data_dir).or_else(|_| kubeconfig::read(&data_dir.join("kubeconfig")))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let all = async {
            let client = Client::new(Arc::new(client::Https::new(&access)?));
            let failing = failing(&client).await?;
            let nodes = client.list::<Node>("", &ListOptions::default()).await.context("nodes")?;
            let pods = client.list::<Pod>("", &ListOptions::default()).await.context("pods")?;
            let (nodes, pods) = (nodes.items.iter().map(node_line), pods.items.iter().map(pod_line));
            Ok(Answer { failing, nodes: nodes.collect(), pods: pods.collect() })
        };
        runtime.block_on(async {
            let silence = || format!("no answer within {} s", PATIENCE.as_secs());
            tokio::time::timeout(PATIENCE, all).await.with_context(silence)?
        })
    };
    asked().map_err(|err| format!("{err:#}"))
}

/// The checks that fail, by name. No answer at all is an error, and told as such.
async fn failing(client: &Client) -> Result<Vec<String>> {
    match client.raw(http::Method::GET, "/readyz?verbose", "", Bytes::new()).await {
        Ok(_) => Ok(Vec::new()),
        Err(error @ Error::Api(_)) => Ok(names_of_failing(&error.to_string())),
        Err(error) => Err(error).context("health"),
    }
}

/// Of the lines of `/readyz?verbose`: `[-]store failed: reason withheld`.
fn names_of_failing(lines: &str) -> Vec<String> {
    let failing = lines.split("[-]").skip(1).filter_map(|rest| rest.split(' ').next());
    let names: Vec<String> = failing.map(str::to_owned).collect();
    // An answer of another form says no, too.
    if names.is_empty() { vec!["readyz".to_owned()] } else { names }
}

/// One sentence for each node that is not ready and each Pod that does not do what it should.
pub(super) fn problems(nodes: &[Line], pods: &[Line]) -> Vec<String> {
    let not_ready = nodes.iter().filter(|node| node.state != "Ready");
    let not_ready = not_ready.map(|node| format!("node {} is {}", node.name, node.state));
    let failing = pods.iter().filter(|pod| !WELL.contains(&pod.state.as_str()));
    not_ready.chain(failing.map(|pod| format!("pod {}: {}", pod.name, pod.state))).collect()
}

/// With the reason where it has one.
fn node_line(node: &Node) -> Line {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let ready = conditions.iter().find(|condition| condition.type_ == "Ready");
    let why = ready.and_then(|condition| condition.message.as_deref()).filter(|why| !why.is_empty());
    let state = match (ready.map(|condition| condition.status.as_str()), why) {
        (Some("True"), _) => "Ready".to_owned(),
        (_, Some(why)) => format!("NotReady: {why}"),
        (_, None) => "NotReady".to_owned(),
    };
    Line { name: node.metadata.name.clone().unwrap_or_default(), state }
}

/// The waiting reason of a container where there is one, else the phase.
fn pod_line(pod: &Pod) -> Line {
    let status = pod.status.as_ref();
    let containers = status.and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
    let waiting =
        containers.iter().find_map(|container| container.state.as_ref()?.waiting.as_ref()?.reason.clone());
    let phase = status.and_then(|status| status.phase.clone()).unwrap_or_else(|| "Unknown".to_owned());
    let (namespace, name) = (
        pod.metadata.namespace.as_deref().unwrap_or_default(),
        pod.metadata.name.as_deref().unwrap_or_default(),
    );
    Line { name: format!("{namespace}/{name}"), state: waiting.unwrap_or(phase) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_ready_is_named() {
        let lines = "[+]ping ok\n[-]store failed: reason withheld\n[-]data-directory failed: reason withheld\nreadyz check failed\n";
        assert_eq!(names_of_failing(lines), ["store", "data-directory"]);
        assert_eq!(names_of_failing("internal error"), ["readyz"]);
    }

    #[test]
    fn a_pod_that_runs_without_a_daemon_is_no_second_problem() {
        let pod = |state: &str| Line { name: "default/a".to_owned(), state: state.to_owned() };
        assert_eq!(problems(&[], &[pod(UNMANAGED), pod("Running")]), Vec::<String>::new());
        assert_eq!(problems(&[], &[pod("CrashLoopBackOff")]), ["pod default/a: CrashLoopBackOff"]);
    }
}
