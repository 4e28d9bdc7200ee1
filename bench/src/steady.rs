//! What an instance costs while nothing happens.

use std::time::Duration;

use anyhow::Result;

use crate::instance::Instance;
use crate::process::{cpu_seconds, pss, written};
use crate::report::Report;

const MIB: f64 = (1 << 20) as f64;

/// Memory, CPU and writing of an instance without Pods.
pub(crate) async fn idle(report: &mut Report, instance: &Instance, seconds: u64) -> Result<()> {
    let pid = instance.pid();
    let (cpu, bytes) = (cpu_seconds(pid), written(pid));
    // A window of observation, not a wait for a state.
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    report.add("idle: memory of everything (PSS)", "MiB", vec![pss(pid) as f64 / MIB]);
    report.add("idle: CPU, share of one core", "%", vec![(cpu_seconds(pid) - cpu) / seconds as f64 * 100.0]);
    report.add(
        format!("idle: written to disk in {seconds} s"),
        "KiB",
        vec![(written(pid) - bytes) as f64 / 1024.0],
    );
    Ok(())
}

/// Memory with Pods: the daemon, and each Pod's shim.
pub(crate) fn loaded(report: &mut Report, instance: &Instance, pods: usize) {
    let daemon = pss(instance.pid()) as f64 / MIB;
    let shims: Vec<f64> = instance.shims().into_iter().map(|pid| pss(pid) as f64 / MIB).collect();
    report.add(
        format!("{pods} pods: memory of everything (PSS)"),
        "MiB",
        vec![daemon + shims.iter().sum::<f64>()],
    );
    report.add(format!("{pods} pods: memory of the daemon (PSS)"), "MiB", vec![daemon]);
    report.add(format!("{pods} pods: memory of a shim (PSS)"), "MiB", shims);
}
