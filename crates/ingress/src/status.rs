//! `status.loadBalancer` of Ingresses: where they are reached.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use client::{Client, Error, Patch, PatchKind, key_of};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::networking::v1::{
    Ingress, IngressLoadBalancerIngress as Reached, IngressPortStatus as PortStatus,
};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::sleep;

/// After a write that failed.
const RETRY: Duration = Duration::from_secs(1);
/// Upstream wants errors of others than itself to be named like this.
const CANNOT_LISTEN: &str = "monopod.io/CannotListen";

/// What is to be written.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted {
    pub(crate) ours: Vec<Arc<Ingress>>,
    pub(crate) reached: Vec<Reached>,
}

/// A port as it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Port {
    pub(crate) number: u16,
    pub(crate) address: Option<IpAddr>,
    pub(crate) is_open: bool,
}

/// Where the node is reached from outside.
pub(crate) fn addresses(node: &Node) -> Vec<IpAddr> {
    let listed = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    let of = |kind: &'static str| {
        let of_kind = listed.clone().filter(move |address| address.type_ == kind);
        of_kind.filter_map(|address| address.address.parse().ok()).collect::<Vec<IpAddr>>()
    };
    let external = of("ExternalIP");
    if external.is_empty() { of("InternalIP") } else { external }
}

/// The addresses with their ports. One that is bound to an address of its own is reached there alone; where
/// no port is open there is no address, as nothing answers.
pub(crate) fn reached(node: &[IpAddr], ports: &[Port]) -> Vec<Reached> {
    if !ports.iter().any(|port| port.is_open) {
        return Vec::new();
    }
    let mut addresses: Vec<IpAddr> = Vec::new();
    for port in ports {
        let own = port.address.as_ref().map_or(node, std::slice::from_ref);
        addresses.extend(own.iter().filter(|one| !addresses.contains(one)).copied().collect::<Vec<_>>());
    }
    let told = |address: IpAddr| {
        let there = ports.iter().filter(|port| port.address.is_none_or(|own| own == address));
        let ports = there.map(|port| PortStatus {
            port: port.number.into(),
            protocol: "TCP".to_owned(),
            error: (!port.is_open).then(|| CANNOT_LISTEN.to_owned()),
        });
        Reached { hostname: None, ip: Some(address.to_string()), ports: Some(ports.collect()) }
    };
    addresses.into_iter().map(told).collect()
}

/// Writes what is wanted, for ever.
pub(crate) async fn write(client: Client, mut wanted: watch::Receiver<Wanted>) {
    loop {
        let now = wanted.borrow_and_update().clone();
        let mut failed = false;
        for ingress in &now.ours {
            if let Err(error) = write_one(&client, ingress, &now.reached).await {
                tracing::warn!(%error, ingress = key_of(&**ingress), "the status is not written");
                failed = true;
            }
        }
        if failed {
            sleep(RETRY).await;
        } else if wanted.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

async fn write_one(client: &Client, ingress: &Ingress, reached: &[Reached]) -> Result<(), Error> {
    let balancer = ingress.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    if balancer.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default() == reached {
        return Ok(());
    }
    let list = if reached.is_empty() { json!(null) } else { json!(reached) };
    let body = json!({"status": {"loadBalancer": {"ingress": list}}});
    let patch = Patch::status(PatchKind::Merge, body);
    let metadata = &ingress.metadata;
    let [namespace, name] =
        [&metadata.namespace, &metadata.name].map(|name| name.as_deref().unwrap_or_default());
    match client.patch::<Ingress>(namespace, name, &patch).await {
        Err(error) if error.is_not_found() => Ok(()),
        other => other.map(drop),
    }
}
