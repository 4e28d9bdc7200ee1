//! The Service `kube-system/kube-dns`, whose address is the one that Pods ask.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use client::{Client, Error};
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio_util::sync::CancellationToken;

const NAMESPACE: &str = "kube-system";
/// The name by which every cluster knows its DNS, whatever serves it.
const NAME: &str = "kube-dns";
const PORT: i32 = 53;
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// Where the server listens.
#[derive(Clone, Copy, Debug)]
pub struct Listening {
    /// For packets.
    pub udp: SocketAddr,
    /// For connections.
    pub tcp: SocketAddr,
}

/// Writes the Service and the EndpointSlice that lead `address` to the server, and returns.
/// A Service that has a selector is somebody else's DNS: it is left alone.
pub async fn publish(client: Client, address: Ipv4Addr, listening: Listening, shutdown: CancellationToken) {
    let mut backoff = BACKOFF_MIN;
    let written = async {
        while let Err(error) = write(&client, address, listening).await {
            tracing::warn!(%error, %address, retry = ?backoff, "the Service of the cluster's DNS cannot be written");
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    };
    // Cancel-safe: a write that began is carried out or not, and is tried again at the next start.
    shutdown.run_until_cancelled(written).await;
}

async fn write(client: &Client, address: Ipv4Addr, listening: Listening) -> Result<(), Error> {
    let service = match client.get::<Service>(NAMESPACE, NAME).await {
        Err(error) if error.is_not_found() => client.create(NAMESPACE, &service(address)).await?,
        other => other?,
    };
    let selector = service.spec.and_then(|spec| spec.selector);
    if selector.is_some_and(|selector| !selector.is_empty()) {
        return Ok(());
    }
    let wanted = slice(listening);
    match client.get::<EndpointSlice>(NAMESPACE, NAME).await {
        Err(error) if error.is_not_found() => client.create(NAMESPACE, &wanted).await.map(drop),
        Ok(old) if old.endpoints == wanted.endpoints && old.ports == wanted.ports => Ok(()),
        Ok(old) => client.replace(&EndpointSlice { metadata: old.metadata, ..wanted }).await.map(drop),
        Err(error) => Err(error),
    }
}

fn metadata(labels: &[(&str, &str)]) -> ObjectMeta {
    let labels: BTreeMap<String, String> =
        labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    ObjectMeta {
        name: Some(NAME.to_owned()),
        namespace: Some(NAMESPACE.to_owned()),
        labels: Some(labels),
        ..ObjectMeta::default()
    }
}

/// Without the label `kubernetes.io/cluster-service`: `kubectl cluster-info` would promise a
/// way through the API server to what is no Pod.
fn service(address: Ipv4Addr) -> Service {
    let port = |name: &str, protocol: &str| ServicePort {
        name: Some(name.to_owned()),
        port: PORT,
        protocol: Some(protocol.to_owned()),
        target_port: Some(IntOrString::Int(PORT)),
        ..ServicePort::default()
    };
    Service {
        metadata: metadata(&[("k8s-app", NAME)]),
        spec: Some(ServiceSpec {
            cluster_ip: Some(address.to_string()),
            ports: Some(vec![port("dns", "UDP"), port("dns-tcp", "TCP")]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

fn slice(listening: Listening) -> EndpointSlice {
    let port = |name: &str, protocol: &str, at: SocketAddr| EndpointPort {
        name: Some(name.to_owned()),
        port: Some(i32::from(at.port())),
        protocol: Some(protocol.to_owned()),
        app_protocol: None,
    };
    EndpointSlice {
        metadata: metadata(&[("kubernetes.io/service-name", NAME), ("k8s-app", NAME)]),
        address_type: "IPv4".to_owned(),
        endpoints: Some(vec![Endpoint {
            addresses: vec![listening.udp.ip().to_string()],
            conditions: Some(EndpointConditions { ready: Some(true), ..EndpointConditions::default() }),
            ..Endpoint::default()
        }]),
        ports: Some(vec![port("dns", "UDP", listening.udp), port("dns-tcp", "TCP", listening.tcp)]),
    }
}
