//! What an instance costs while nothing happens.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::instance::Instance;
use crate::process::{cpu_seconds, pss, written};
use crate::report::Report;

const MIB: f64 = (1 << 20) as f64;
/// What follows a start (first renewals, Events made durable) is not idleness.
const SETTLES: Duration = Duration::from_secs(10);

/// Memory, CPU and writing of an instance without Pods. Answers the memory, MiB.
pub(crate) async fn idle(report: &mut Report, instance: &Instance, seconds: u64) -> Result<f64> {
    let pid = instance.pid();
    tokio::time::sleep(SETTLES).await;
    let (cpu, bytes) = (cpu_seconds(pid), written(pid));
    // A window of observation, not a wait for a state.
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let memory = pss(pid) as f64 / MIB;
    report.add("idle: memory of everything (PSS)", "MiB", vec![memory]);
    report.add("idle: CPU, share of one core", "%", vec![(cpu_seconds(pid) - cpu) / seconds as f64 * 100.0]);
    report.add(
        format!("idle: written to disk in {seconds} s"),
        "KiB",
        vec![(written(pid) - bytes) as f64 / 1024.0],
    );
    Ok(memory)
}

/// Memory with Pods: the daemon, and each Pod's shim. `idle` is what it was without, MiB.
pub(crate) fn loaded(report: &mut Report, instance: &Instance, pods: usize, idle: f64) -> Result<()> {
    let daemon = pss(instance.pid()) as f64 / MIB;
    let shims: Vec<f64> = instance.shims().into_iter().map(|pid| pss(pid) as f64 / MIB).collect();
    ensure!(shims.len() == pods, "{} shims were found for {pods} Pods", shims.len());
    let everything = daemon + shims.iter().sum::<f64>();
    report.add(format!("{pods} pods: memory of everything (PSS)"), "MiB", vec![everything]);
    report.add(
        format!("{pods} pods: share of a Pod (PSS)"),
        "MiB",
        vec![(everything - idle) / pods.max(1) as f64],
    );
    report.add(format!("{pods} pods: memory of the daemon (PSS)"), "MiB", vec![daemon]);
    report.add(format!("{pods} pods: memory of a shim (PSS)"), "MiB", shims);
    Ok(())
}
