//! Carrying out probes: one task for each probe of a running container.

pub(crate) mod counts;
pub(crate) mod grpc;
pub(crate) mod http;
mod tls;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use runtime::{Error, Runtime};
use tokio::net::TcpStream;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use crate::pod::probe::Outcome;

/// Output of a probe that is kept.
pub(crate) const OUTPUT_MAX: usize = 10 * 1024;

/// What a probe or hook is aimed at.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) id: String,
    pub(crate) pod_ip: Option<IpAddr>,
    pub(crate) container: Container,
}

/// Runs the probe for ever from `delay` on, telling each outcome. Ends when `tell` says nobody listens.
pub(crate) async fn run<F, R>(target: Target, probe: Probe, delay: Duration, mut tell: F)
where
    F: FnMut(Outcome) -> R,
    R: Future<Output = bool>,
{
    let seconds = |value: Option<i32>, default: u64| {
        value.and_then(|value| u64::try_from(value).ok()).unwrap_or(default)
    };
    let first = Instant::now() + delay;
    let mut ticks = interval_at(first, Duration::from_secs(seconds(probe.period_seconds, 10).max(1)));
    // A slow probe is followed by a full pause, not by a burst.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let at_most = Duration::from_secs(seconds(probe.timeout_seconds, 1).max(1));
    loop {
        ticks.tick().await;
        if !tell(once(&target, &probe, at_most).await).await {
            return;
        }
    }
}

/// Runs the probe once.
pub(crate) async fn once(target: &Target, probe: &Probe, at_most: Duration) -> Outcome {
    if let Some(exec) = &probe.exec {
        return exec_probe(target, exec.command.clone().unwrap_or_default(), at_most).await;
    }
    if let Some(get) = &probe.http_get {
        return match http::Get::of_action(get, target) {
            Ok(get) => http_probe(&get, at_most).await,
            Err(message) => Outcome::Error(message),
        };
    }
    if let Some(socket) = &probe.tcp_socket {
        return match port(&socket.port, &target.container) {
            Ok(port) => tcp_probe(&host(socket.host.as_deref(), target.pod_ip), port, at_most).await,
            Err(message) => Outcome::Error(message),
        };
    }
    if let Some(action) = &probe.grpc {
        let service = action.service.clone().unwrap_or_default();
        let port = u16::try_from(action.port).unwrap_or_default();
        return grpc::probe(&host(None, target.pod_ip), port, &service, at_most).await;
    }
    Outcome::Error(format!("missing probe handler for {}", target.container.name))
}

async fn exec_probe(target: &Target, command: Vec<String>, at_most: Duration) -> Outcome {
    let shown = command.join(" ");
    match target.runtime.exec_sync(&target.id, command, Some(at_most)).await {
        Ok(output) => {
            let mut text = output.stdout;
            text.extend(output.stderr);
            text.truncate(OUTPUT_MAX);
            let text = String::from_utf8_lossy(&text).into_owned();
            if output.exit_code == 0 { Outcome::Success } else { Outcome::Failure(text) }
        }
        Err(Error::DeadlineExceeded { .. }) => {
            let seconds = at_most.as_secs();
            Outcome::Failure(format!("command timed out: {shown:?} timed out after {seconds}s"))
        }
        // A command that cannot be executed has failed; a runtime that cannot try says nothing.
        Err(Error::Start { message }) => Outcome::Failure(message),
        Err(err) => Outcome::Error(err.to_string()),
    }
}

async fn http_probe(get: &http::Get, at_most: Duration) -> Outcome {
    match http::fetch(get, at_most).await {
        Ok(answer) if (200..400).contains(&answer.status) => match answer.left_host {
            true => {
                Outcome::Warning("Probe terminated redirects, Response body: ".to_string() + &answer.body)
            }
            false => Outcome::Success,
        },
        Ok(answer) => Outcome::Failure(format!("HTTP probe failed with statuscode: {}", answer.status)),
        Err(err) => Outcome::Failure(err.to_string()),
    }
}

async fn tcp_probe(host: &str, port: u16, at_most: Duration) -> Outcome {
    match timeout(at_most, TcpStream::connect((host, port))).await {
        Ok(Ok(_)) => Outcome::Success,
        Ok(Err(err)) => Outcome::Failure(dial_error(host, port, &err)),
        Err(_) => Outcome::Failure(format!("dial tcp {}: i/o timeout", authority(host, port))),
    }
}

/// A connection error in Go's words.
pub(crate) fn dial_error(host: &str, port: u16, err: &std::io::Error) -> String {
    let cause = match err.kind() {
        std::io::ErrorKind::ConnectionRefused => "connect: connection refused".into(),
        std::io::ErrorKind::HostUnreachable => "connect: no route to host".into(),
        std::io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".into(),
        _ => err.to_string(),
    };
    format!("dial tcp {}: {cause}", authority(host, port))
}

/// `host:port`, IPv6 in brackets.
pub(crate) fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// The host of an action, or the Pod's address.
pub(crate) fn host(named: Option<&str>, pod_ip: Option<IpAddr>) -> String {
    match named.filter(|host| !host.is_empty()) {
        Some(host) => host.into(),
        None => pod_ip.map(|ip| ip.to_string()).unwrap_or_default(),
    }
}

/// A number, or the name of one of the container's ports.
pub(crate) fn port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let ports = container.ports.iter().flatten();
            let named =
                ports.clone().find(|port| port.name.as_deref() == Some(name)).map(|port| port.container_port);
            match named.or(name.parse().ok()) {
                Some(number) => Some(number),
                None => {
                    return Err(format!("couldn't find port: {name:?} in container {:?}", container.name));
                }
            }
        }
    };
    let valid = number.and_then(|number| u16::try_from(number).ok()).filter(|port| *port > 0);
    valid.ok_or_else(|| format!("invalid port number: {}", number.unwrap_or_default()))
}
