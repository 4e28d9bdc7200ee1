//! Addresses that Services claim from outside the cluster, and which of them they may not have.
//!
//! Anybody who may write a Service may name any address as its external one. What is the cluster's or is
//! served by the node itself stays so: otherwise a Service takes the API or the names away from everybody.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use sys::netlink::{Link, Route};
use sys::socket::Transport;

use crate::{Instance, Match, Protocol, Range};

/// What serves on the node without us.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Host {
    /// The addresses of its links.
    pub addresses: Vec<IpAddr>,
    /// Who listens; an unspecified address is all of them.
    pub listeners: Vec<(Transport, SocketAddr)>,
}

impl Host {
    /// Looks, but only if a Service claims an address at all. What cannot be read counts as nothing.
    pub(crate) fn look(services: &[Arc<Service>]) -> Self {
        let claims = |service: &Arc<Service>| {
            let balanced = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
            let spec = service.spec.as_ref();
            spec.is_some_and(|spec| spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty()))
                || balanced.is_some_and(|balancer| balancer.ingress.is_some())
        };
        if !services.iter().any(claims) {
            return Host::default();
        }
        let listed = Link::open().and_then(|links| links.addresses());
        Host {
            addresses: listed.unwrap_or_default().into_iter().map(|(_, address, _)| address).collect(),
            listeners: sys::socket::listeners().unwrap_or_default(),
        }
    }

    fn serves(&self, address: IpAddr, protocol: Protocol, port: u16) -> bool {
        let transport = match protocol {
            Protocol::Tcp => Transport::Tcp,
            Protocol::Udp => Transport::Udp,
            Protocol::Sctp => return false,
        };
        let hears = |at: IpAddr| at == address || (at.is_unspecified() && self.addresses.contains(&address));
        self.listeners.iter().any(|(by, at)| *by == transport && at.port() == port && hears(at.ip()))
    }
}

/// Makes the routes to these ranges of Services, and removes those that are not among them any more. What is
/// there already, a daemon of before may have made.
pub(crate) fn route(link: &str, before: &[Range], wanted: &[Range]) -> sys::Result<()> {
    let links = Link::open()?;
    let link = links.find(link)?.index;
    let to = |range: &Range| Route { to: Some(range.prefix()), via: None, link };
    before
        .iter()
        .filter(|range| !wanted.contains(range))
        .try_for_each(|gone| links.remove_route(&to(gone)))?;
    wanted.iter().try_for_each(|range| links.add_route(&to(range)))
}

/// An address that a Service claims and does not get.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    /// The Service.
    pub service: Arc<Service>,
    /// The address.
    pub address: IpAddr,
    /// Why not, for the Event.
    pub reason: String,
}

pub(crate) fn refusal(
    service: &Arc<Service>,
    matched: Match,
    instance: &Instance,
    host: &Host,
) -> Option<Refusal> {
    let Match::Address(address, protocol, port) = matched else { return None };
    let among = |ranges: &[Range]| ranges.iter().find(|range| range.contains(address)).copied();
    let reason = if let Some(range) = among(&instance.service_cidrs) {
        format!("external address {address} is ignored: it is of the range of cluster IPs, {range}")
    } else if let Some(range) = among(&instance.pod_cidrs) {
        format!("external address {address} is ignored: it is of the range of Pods, {range}")
    } else if host.serves(address, protocol, port) {
        format!("external address {address} is ignored for port {port}: a program of the node listens there")
    } else if address.is_loopback() || address.is_unspecified() {
        format!("external address {address} is ignored: it is every node's own")
    } else {
        return None;
    };
    Some(Refusal { service: service.clone(), address, reason })
}
