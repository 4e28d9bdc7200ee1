//! How long after a write was answered the last of many watchers has seen it.

use std::time::Instant;

use anyhow::{Context, Result};
use tokio::sync::mpsc;

use crate::api::create_config_map;
use crate::connection::{Access, Lines};
use crate::report::Report;
use crate::startup::milliseconds;

const EVENTS: usize = 200;

/// Opens the watchers, then creates objects one by one.
pub(crate) async fn measure(report: &mut Report, access: &Access, watchers: usize) -> Result<()> {
    let (seen, mut arrivals) = mpsc::channel::<Instant>(watchers * 2);
    let mut connection = access.connect().await?;
    let list: serde_json::Value =
        serde_json::from_slice(&connection.get("/api/v1/configmaps?limit=1").await?)?;
    let version =
        list["metadata"]["resourceVersion"].as_str().context("a list has a resourceVersion")?.to_owned();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..watchers {
        let mut lines =
            Lines::watch(access, &format!("/api/v1/configmaps?watch=1&resourceVersion={version}")).await?;
        let seen = seen.clone();
        tasks.spawn(async move {
            while lines.next().await.is_some() {
                if seen.send(Instant::now()).await.is_err() {
                    break;
                }
            }
        });
    }
    let mut delays = Vec::new();
    for n in 0..EVENTS {
        create_config_map(&mut connection, &format!("watched-{n}")).await?;
        let answered = Instant::now();
        let mut last = answered;
        for _ in 0..watchers {
            last = last.max(arrivals.recv().await.context("a watcher ended")?);
        }
        delays.push(milliseconds(last.saturating_duration_since(answered)));
    }
    report.add(format!("watch: answer to last of {watchers} watchers"), "ms", delays);
    Ok(())
}
