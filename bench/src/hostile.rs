//! What clients that mean harm cost: the memory of the daemon, and the time of a neighbour.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use http::Method;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::connection::{Access, Connection, JSON};
use crate::instance::Instance;
use crate::process::pss;
use crate::report::{Report, percentile};
use crate::startup::milliseconds;

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
/// Between two requests of the neighbour: it uses the API, it does not load it.
const PAUSE: Duration = Duration::from_millis(5);

/// A neighbour alone, then beside each kind of flood.
pub(crate) async fn measure(report: &mut Report, connections: usize, seconds: u64) -> Result<()> {
    let instance = Instance::start(&[]).await?;
    let before = pss(instance.pid());
    let duration = Duration::from_secs(seconds);
    let mut most = before;
    for flood in [Flood::Nothing, Flood::Silent, Flood::Handshakes, Flood::Broken] {
        let stop = Arc::new(AtomicBool::new(false));
        let mut running = flood.begin(&instance.access, connections, &stop);
        // On a thread of its own: a flood must not delay the neighbour in its own process.
        let (access, pid) = (instance.access.clone(), instance.pid());
        let asking = tokio::task::spawn_blocking(move || {
            let own = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            own.block_on(neighbour(&access, pid, duration))
        });
        let (latencies, memory) = asking.await??;
        most = most.max(memory);
        stop.store(true, Ordering::Relaxed);
        while let Some(ended) = running.join_next().await {
            ended?;
        }
        report.add(
            format!("neighbour beside {}", flood.name()),
            "ms",
            vec![percentile(&latencies, 50.0), percentile(&latencies, 99.0)],
        );
    }
    report.add("floods: memory beyond idle", "MiB", vec![(most - before) as f64 / (1 << 20) as f64]);
    instance.end().await
}

/// Asks for one object after another; the latencies, sorted, and the daemon's largest memory.
async fn neighbour(access: &Access, pid: u32, duration: Duration) -> Result<(Vec<f64>, u64)> {
    let mut connection = access.connect().await?;
    let (start, mut latencies, mut most) = (Instant::now(), Vec::new(), 0);
    while start.elapsed() < duration {
        let before = Instant::now();
        connection.get(&format!("{CONFIG_MAPS}/kube-root-ca.crt")).await?;
        latencies.push(milliseconds(before.elapsed()));
        if latencies.len() % 50 == 0 {
            most = pss(pid).max(most);
        }
        tokio::time::sleep(PAUSE).await;
    }
    latencies.sort_by(f64::total_cmp);
    Ok((latencies, most))
}

#[derive(Debug, Clone, Copy)]
enum Flood {
    Nothing,
    Silent,
    Handshakes,
    Broken,
}

impl Flood {
    fn name(self) -> &'static str {
        match self {
            Flood::Nothing => "nobody",
            Flood::Silent => "silent connections",
            Flood::Handshakes => "connections that come and go",
            Flood::Broken => "broken requests",
        }
    }

    fn begin(self, access: &Access, connections: usize, stop: &Arc<AtomicBool>) -> JoinSet<()> {
        let mut running = JoinSet::new();
        let workers = match self {
            Flood::Nothing => 0,
            Flood::Silent => 1,
            Flood::Handshakes => 16,
            Flood::Broken => 32,
        };
        for worker in 0..workers {
            let (access, stop) = (access.clone(), Arc::clone(stop));
            running.spawn(async move {
                match self {
                    Flood::Nothing => {}
                    Flood::Silent => silent(&access, connections, &stop).await,
                    Flood::Handshakes => handshakes(&access, &stop).await,
                    Flood::Broken => broken(&access, worker, &stop).await,
                }
            });
        }
        running
    }
}

/// Opens so many connections and says nothing on them.
async fn silent(access: &Access, count: usize, stop: &AtomicBool) {
    let mut open = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        if open.len() < count
            && let Ok(socket) = TcpStream::connect(access.address()).await
        {
            open.push(socket);
        } else {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Connects, asks once, and goes, over and over.
async fn handshakes(access: &Access, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        // One that is refused is part of the flood.
        if let Ok(mut connection) = access.connect().await {
            let _ = connection.get("/version").await;
        }
    }
}

/// Sends one broken body after another.
async fn broken(access: &Access, worker: usize, stop: &AtomicBool) {
    let deep = Bytes::from(["[".repeat(100_000), "]".repeat(100_000)].concat());
    let large = Bytes::from(vec![b'x'; 2 << 20]);
    let fields = Bytes::from([&b"k8s\0"[..], &[8, 1].repeat(200_000)].concat());
    let bodies = [
        (JSON, deep.clone()),
        ("application/yaml", deep),
        (JSON, large),
        ("application/vnd.kubernetes.protobuf", fields),
    ];
    let mut connection: Option<Connection> = None;
    for n in worker.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let (kind, body) = &bodies[n % bodies.len()];
        if connection.is_none() {
            connection = access.connect().await.ok();
        }
        let Some(open) = connection.as_mut() else { continue };
        let answered = open.open(Method::POST, CONFIG_MAPS, kind, body.clone()).await;
        let read = match answered {
            Ok(answer) => http_body_util::BodyExt::collect(answer.into_body()).await.is_ok(),
            Err(_) => false,
        };
        if !read {
            connection = None;
        }
    }
}
