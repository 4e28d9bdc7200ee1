//! Ports of the node that a Pod wants: against other Pods', and against who listens on the host.

use std::net::{IpAddr, Ipv4Addr};

use k8s_openapi::api::core::v1::Pod;

use super::{Host, Reason, Refusal, refuse};
use crate::pod::spec::spec;

/// Upstream's words for a Pod whose ports are taken.
const TAKEN: &str = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";

/// A socket of the host that takes what comes to a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// TCP, UDP or SCTP.
    pub protocol: &'static str,
    /// Unspecified: all addresses. A socket for both families has the IPv6 one.
    pub ip: IpAddr,
    /// Its port.
    pub port: u16,
}

struct HostPort {
    ip: IpAddr,
    protocol: String,
    port: i32,
}

impl HostPort {
    /// As the kernel has it for two sockets: the same port on addresses that overlap. All addresses of
    /// IPv6 are those of IPv4 too.
    fn conflicts(&self, protocol: &str, ip: IpAddr, port: i32) -> bool {
        let covers = |all: IpAddr, one: IpAddr| all.is_unspecified() && (all.is_ipv6() || one.is_ipv4());
        let overlap = self.ip == ip || covers(self.ip, ip) || covers(ip, self.ip);
        self.port == port && self.protocol == protocol && overlap
    }
}

/// Checks the Pod's ports.
pub(super) fn check(pod: &Pod, others: &[&Pod], host: &Host) -> Result<(), Refusal> {
    let wanted = host_ports(pod);
    let taken: Vec<HostPort> = others.iter().flat_map(|other| host_ports(other)).collect();
    let clashes =
        |port: &HostPort| taken.iter().any(|other| port.conflicts(&other.protocol, other.ip, other.port));
    if wanted.iter().any(clashes) {
        return refuse(Reason::NodePorts, TAKEN);
    }
    let own_network = spec(pod).host_network == Some(true);
    match wanted.iter().find(|port| host.listens(port, own_network)) {
        Some(HostPort { port, protocol, .. }) => {
            refuse(Reason::NodePorts, format!("{TAKEN}: port {port}/{protocol} is in use on the host"))
        }
        None => Ok(()),
    }
}

/// Whether a Pod wants any port of the node: only then is the host looked at.
pub fn wants_ports(pod: &Pod) -> bool {
    !host_ports(pod).is_empty()
}

impl Host {
    /// Whether leading the port to the Pod would take it from somebody who listens on the host.
    ///
    /// A Pod on the host's own network binds its ports itself, so the kernel keeps them from it as long
    /// as they are taken; only what never comes free, the daemon's own port, is refused at once.
    /// The daemon's servers on the bridge's address are reached through their Services, which are led
    /// to before any port of the node: a port of all addresses takes nothing from them.
    fn listens(&self, wanted: &HostPort, own_network: bool) -> bool {
        self.listeners.iter().any(|listener| {
            let counts = match own_network {
                true => listener.port == self.own_port,
                false => !self.is_on_bridge(listener.ip) || wanted.ip == listener.ip,
            };
            counts && wanted.conflicts(listener.protocol, listener.ip, listener.port.into())
        })
    }

    fn is_on_bridge(&self, ip: IpAddr) -> bool {
        self.bridge_ip == Some(ip)
    }
}

fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let containers = spec(pod).init_containers.iter().flatten().chain(&spec(pod).containers);
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            Some(HostPort {
                ip: address(port.host_ip.as_deref().unwrap_or_default()),
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
                port: port.host_port.filter(|port| *port > 0)?,
            })
        })
        .collect()
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(host_ip: &str, protocol: &str, port: i32, host_network: bool) -> Pod {
        let port = json!({"containerPort": 80, "hostPort": port, "hostIP": host_ip, "protocol": protocol});
        let spec = json!({"hostNetwork": host_network, "containers": [{"name": "c", "ports": [port]}]});
        serde_json::from_value(json!({ "spec": spec })).unwrap()
    }

    fn host(listeners: &[(&'static str, &str, u16)]) -> Host {
        let listener = |&(protocol, ip, port): &(&'static str, &str, u16)| Listener {
            protocol,
            ip: ip.parse().unwrap(),
            port,
        };
        Host {
            listeners: listeners.iter().map(listener).collect(),
            own_port: 6443,
            bridge_ip: Some("10.42.0.1".parse().unwrap()),
            ..Host::default()
        }
    }

    #[test]
    fn a_port_that_somebody_listens_on_is_not_led_to_a_pod() {
        let host = host(&[
            ("TCP", "127.0.0.1", 6443),
            ("TCP", "::", 22),
            ("UDP", "127.0.0.53", 53),
            ("UDP", "10.42.0.1", 5353),
            ("TCP", "::1", 25),
        ]);
        let refused =
            |ip: &str, protocol: &str, port| check(&pod(ip, protocol, port, false), &[], &host).err();
        let why = refused("", "TCP", 6443).expect("the API's own port");
        assert_eq!(why.reason, Reason::NodePorts);
        assert_eq!(why.message, format!("{TAKEN}: port 6443/TCP is in use on the host"));
        assert!(refused("127.0.0.1", "TCP", 22).is_some(), "a socket of both families listens there");
        assert!(refused("", "UDP", 53).is_some());
        assert!(refused("192.0.2.1", "UDP", 53).is_none(), "another address");
        assert!(refused("", "TCP", 53).is_none(), "another protocol");
        assert!(refused("", "UDP", 5353).is_none(), "the bridge is reached through its Services");
        assert!(refused("10.42.0.1", "UDP", 5353).is_some(), "but not when it is named");
        assert!(refused("", "TCP", 25).is_none(), "ports of IPv4 take nothing from an address of IPv6");
        assert!(refused("", "SCTP", 22).is_none() && refused("", "TCP", 23).is_none());
    }

    #[test]
    fn a_pod_on_the_hosts_network_is_refused_the_daemons_port_alone() {
        let host = host(&[("TCP", "127.0.0.1", 6443), ("TCP", "0.0.0.0", 9100)]);
        assert!(check(&pod("", "TCP", 6443, true), &[], &host).is_err());
        assert!(check(&pod("", "TCP", 9100, true), &[], &host).is_ok(), "it may be its own old process");
    }

    #[test]
    fn the_port_of_another_pod_is_taken_where_addresses_overlap() {
        let other = pod("127.0.0.1", "TCP", 80, false);
        let refused = |ip: &str| check(&pod(ip, "TCP", 80, false), &[&other], &Host::default()).err();
        assert_eq!(refused("0.0.0.0").map(|why| why.message).as_deref(), Some(TAKEN));
        assert!(refused("127.0.0.1").is_some() && refused("192.0.2.1").is_none());
    }
}
