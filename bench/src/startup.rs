//! From exec to an answering API, a Ready node, a Running Pod; and the same after `kill -9`.

use std::time::Duration;

use anyhow::Result;

use crate::instance::Instance;
use crate::pods::{create, wait_running};
use crate::report::Report;

/// Starts `rounds` empty instances, and each once more after a crash.
pub(crate) async fn measure(report: &mut Report, rounds: usize) -> Result<()> {
    report.add("program on disk", "MiB", vec![crate::instance::program_size()?]);
    let (mut api, mut ready, mut pod, mut again) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let instance = Instance::start(&["busybox.tar"]).await?;
        api.push(milliseconds(instance.api_after));
        ready.push(milliseconds(instance.ready_after));
        create(&mut instance.access.connect().await?, "first").await?;
        wait_running(&instance.access, &["first".to_owned()]).await?;
        pod.push(milliseconds(instance.elapsed()));
        let instance = instance.crash_and_restart().await?;
        again.push(milliseconds(instance.ready_after));
        instance.end().await?;
    }
    report.add("start: exec to API answering", "ms", api);
    report.add("start: exec to node Ready", "ms", ready);
    report.add("start: exec to first Pod Running", "ms", pod);
    report.add("restart after kill -9: exec to node Ready", "ms", again);
    Ok(())
}

/// As a figure.
pub(crate) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
