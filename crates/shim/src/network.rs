//! The Pod's interface: one end of a veth pair, made from within the Pod's new network namespace.
//!
//! ```text
//!  Pod: eth0 10.42.0.7/32, gateway's neighbour told ── veth ── port, Pod's station told ── bridge: node
//! ```
//!
//! The address has no network on its link, only a route to the gateway. So all that a Pod sends passes the
//! node's IP layer, also to a Pod of the same node, and the node sees both directions of what it has
//! translated for a Service. Crossing the bridge from Pod to Pod, answers would go by below it, but where
//! `br_netfilter` is loaded.
//!
//! Who is where is told on both sides and never asked or learnt: a Pod may send any frame (it holds
//! NET_RAW), and nobody believes it.

use std::net::IpAddr;
use std::os::fd::AsFd;

use sys::netlink::{Ipv4Parameter, Link, LinkInfo, Route, Veth, mac_of};
use sys::{Errno, Error, Result, namespace};

use crate::protocol::Interface;

/// The loopback of a network namespace has this number always.
const LOOPBACK: u32 = 1;

/// The gateway knows the ways; nobody else may show one.
const POD_PARAMETERS: [(Ipv4Parameter, u32); 3] = [
    (Ipv4Parameter::AcceptRedirects, 0),
    (Ipv4Parameter::SendRedirects, 0),
    (Ipv4Parameter::AcceptSourceRoute, 0),
];

/// Sets the loopback up and makes the interface; `node` is a socket of the node's namespace. Also for the
/// daemon, from a thread in the Pod's namespace, when somebody has taken the interface away.
///
/// # Errors
/// The bridge is gone, or a name is taken.
pub fn set_up(node: Option<&Link>, interface: Option<&Interface>) -> Result<()> {
    let pod = Link::open()?;
    pod.set_up(LOOPBACK)?;
    let (Some(node), Some(interface)) = (node, interface) else { return Ok(()) };
    let bridge = node.find(&interface.bridge)?;
    make_pair(node, interface, &bridge)?;
    let inner = pod.find(&interface.name)?.index;
    refuse_ipv6(&interface.name)?;
    pod.set_ipv4(inner, &POD_PARAMETERS)?;
    pod.add_address(inner, interface.address, interface.prefix)?;
    pod.set_up(inner)?;
    match interface.gateway {
        Some(gateway) => add_routes(&pod, inner, interface, gateway, &bridge),
        None => Ok(()),
    }
}

/// The pair, its end on the node a port that leads to the Pod only.
fn make_pair(node: &Link, interface: &Interface, bridge: &LinkInfo) -> Result<()> {
    let own = namespace::open("/proc/thread-self/ns/net")?;
    let mac = mac_of(interface.address);
    node.make_veth(&Veth {
        name: &interface.host_name,
        master: bridge.index,
        peer: &interface.name,
        namespace: own.as_fd(),
        peer_mac: mac,
        mtu: interface.mtu,
    })?;
    let port = node.find(&interface.host_name)?.index;
    node.set_no_ipv6_address(port)?;
    node.lead_port_to(port, mac)?;
    node.set_neighbour(bridge.index, interface.address, mac)
}

fn add_routes(
    pod: &Link,
    inner: u32,
    interface: &Interface,
    gateway: IpAddr,
    bridge: &LinkInfo,
) -> Result<()> {
    if let Some(mac) = bridge.mac.first_chunk() {
        pod.set_neighbour(inner, gateway, *mac)?;
    }
    let whole = if gateway.is_ipv4() { 32 } else { 128 };
    if interface.prefix == whole {
        pod.add_route(&Route { to: Some((gateway, whole)), via: None, link: inner })?;
    }
    pod.add_route(&Route { to: None, via: Some(gateway), link: inner })
}

/// The interface has no IPv6 address of ours, so it takes none from anybody who announces a router.
fn refuse_ipv6(name: &str) -> Result<()> {
    for (parameter, value) in [("accept_ra", "0"), ("disable_ipv6", "1")] {
        match sys::sysctl::set(&format!("net/ipv6/conf/{name}/{parameter}"), value) {
            Ok(()) | Err(Error { errno: Errno::NOENT, .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
