//! Requests through an Ingress to a server of this process over kept connections.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::connection::Connection;
use crate::instance::Instance;
use crate::process::cpu_seconds;
use crate::report::{Report, percentile};
use crate::startup::milliseconds;

const CONNECTIONS: usize = 64;
/// What the server answers: as much as a small page.
const BODY: &[u8] = &[b'x'; 1024];
/// Until the table has the Ingress.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) async fn measure(report: &mut Report, seconds: u64) -> Result<()> {
    let instance = Instance::start(&[]).await?;
    let server = TcpListener::bind("0.0.0.0:0").await?;
    let port = server.local_addr()?.port();
    let serving = tokio::spawn(serve(server));
    let mut connection = instance.access.connect().await?;
    apply(&mut connection, port).await?;
    let to = instance.ingress;
    until_served(to).await?;
    let cpu = cpu_seconds(instance.pid());
    let mut clients = JoinSet::new();
    let end = Instant::now() + Duration::from_secs(seconds);
    for _ in 0..CONNECTIONS {
        clients.spawn(ask_on(to, end));
    }
    let mut latencies = Vec::new();
    while let Some(client) = clients.join_next().await {
        latencies.extend(client??);
    }
    let cpu = (cpu_seconds(instance.pid()) - cpu) * 1e6 / latencies.len().max(1) as f64;
    latencies.sort_by(f64::total_cmp);
    let label = |what: &str| format!("ingress, {CONNECTIONS} kept connections: {what}");
    report.add(label("rate"), "/s", vec![latencies.len() as f64 / seconds as f64]);
    report.add(label("server CPU each"), "us", vec![cpu]);
    report.add(label("latency"), "ms", vec![percentile(&latencies, 50.0), percentile(&latencies, 99.0)]);
    serving.abort();
    instance.end().await
}

async fn serve(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let answer = |_: Request<Incoming>| async {
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(BODY))))
        };
        let connection = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service_fn(answer));
        tokio::spawn(connection);
    }
}

/// A Service without a selector, whose one endpoint is the server at the node's own address.
async fn apply(connection: &mut Connection, port: u16) -> Result<()> {
    let nodes: Value = serde_json::from_slice(&connection.get("/api/v1/nodes").await?)?;
    let node = nodes["items"][0]["status"]["addresses"][0]["address"].as_str().context("no address")?;
    let objects = [
        (
            "/api/v1/namespaces/default/services",
            json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}}),
        ),
        (
            "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
            json!({"metadata": {"name": "s", "labels": {"kubernetes.io/service-name": "s"}}, "addressType": "IPv4",
                   "ports": [{"name": "", "port": port}], "endpoints": [{"addresses": [node]}]}),
        ),
        (
            "/apis/networking.k8s.io/v1/namespaces/default/ingresses",
            json!({"metadata": {"name": "s"},
                   "spec": {"defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}}}),
        ),
    ];
    for (path, object) in objects {
        connection.call(Method::POST, path, crate::connection::JSON, object.to_string().into()).await?;
    }
    Ok(())
}

type Sender = hyper::client::conn::http1::SendRequest<Empty<Bytes>>;

async fn connect(to: SocketAddr) -> Result<Sender> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn ask(sender: &mut Sender) -> Result<()> {
    sender.ready().await?;
    let request = Request::get("/").header("host", "bench").body(Empty::new())?;
    let answer = sender.send_request(request).await?;
    ensure!(answer.status().is_success(), "{}", answer.status());
    let body = answer.into_body().collect().await?.to_bytes();
    ensure!(body.len() == BODY.len(), "{} bytes", body.len());
    Ok(())
}

async fn until_served(to: SocketAddr) -> Result<()> {
    let start = Instant::now();
    loop {
        let asked = async { ask(&mut connect(to).await?).await };
        match asked.await {
            Ok(()) => return Ok(()),
            Err(error) => ensure!(start.elapsed() < PATIENCE, "no Ingress at {to}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// One request after another; the latencies in milliseconds.
async fn ask_on(to: SocketAddr, end: Instant) -> Result<Vec<f64>> {
    let (mut sender, mut latencies) = (connect(to).await?, Vec::new());
    while Instant::now() < end {
        let start = Instant::now();
        ask(&mut sender).await?;
        latencies.push(milliseconds(start.elapsed()));
    }
    Ok(latencies)
}
