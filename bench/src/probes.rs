//! A storm of probes: a thousand, each every second.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::instance::Instance;
use crate::pods::wait_running;
use crate::process::cpu_seconds;
use crate::report::Report;

/// Two probes of each of this many containers of this many Pods are a thousand.
const PODS: usize = 25;
const CONTAINERS: usize = 20;
/// After the starts, for as long as readiness is still being written.
const SETTLES: Duration = Duration::from_secs(15);
const WINDOW: Duration = Duration::from_secs(20);
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// The CPU that they cost the daemon, and how many are answered.
pub(crate) async fn measure(report: &mut Report) -> Result<()> {
    let instance = Instance::start(&["busybox.tar"]).await?;
    // One server for all, here: what the probes reach is not what is measured.
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let (port, answered) = (listener.local_addr()?.port(), Arc::new(AtomicU64::new(0)));
    let serving = tokio::spawn(serve(listener, Arc::clone(&answered)));
    let names: Vec<String> = (0..PODS).map(|n| format!("probed-{n}")).collect();
    let mut connection = instance.access.connect().await?;
    for name in &names {
        connection.post("/api/v1/namespaces/default/pods", pod(name, port)).await?;
    }
    wait_running(&instance.access, &names).await?;
    // Windows of observation, not waits for a state.
    tokio::time::sleep(SETTLES).await;
    let (cpu, before) = (cpu_seconds(instance.pid()), answered.load(Ordering::Relaxed));
    tokio::time::sleep(WINDOW).await;
    let seconds = WINDOW.as_secs_f64();
    let share = (cpu_seconds(instance.pid()) - cpu) / seconds * 100.0;
    let rate = (answered.load(Ordering::Relaxed) - before) as f64 / seconds;
    report.add("1000 probes a second: CPU, share of one core", "%", vec![share]);
    report.add("1000 probes a second: answered", "1/s", vec![rate]);
    serving.abort();
    instance.end().await
}

async fn serve(listener: TcpListener, answered: Arc<AtomicU64>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let answered = Arc::clone(&answered);
        tokio::spawn(async move {
            let mut request = [0; 1024];
            if stream.read(&mut request).await.is_ok() && stream.write_all(ANSWER).await.is_ok() {
                answered.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
}

fn pod(name: &str, port: u16) -> String {
    let probe = json!({"httpGet": {"host": "127.0.0.1", "port": port, "path": "/"}, "periodSeconds": 1, "timeoutSeconds": 5});
    let container = |n: usize| {
        json!({"name": format!("c{n}"), "image": "busybox:1.36", "command": ["sleep", "3600"],
            "readinessProbe": probe, "livenessProbe": probe})
    };
    let containers: Vec<_> = (0..CONTAINERS).map(container).collect();
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": containers}})
    .to_string()
}
