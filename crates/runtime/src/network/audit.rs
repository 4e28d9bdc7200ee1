//! What the node's network should be like, compared with what it is like: others restart network services,
//! flush addresses and load sysctl files.
//!
//! ```text
//! netlink's word ─┐
//! a slow clock ───┴─ look ─ nothing is missing: done
//!                      └─── make what is missing ─ told by a log line and an Event
//! ```

use std::net::IpAddr;
use std::os::fd::OwnedFd;

use shim::protocol::Interface;
use sys::netlink::{Link, LinkInfo, mac_of};

use super::Subnet;
use super::bridge::Bridge;
use crate::interface::Error;

/// A sandbox as the bridge knows it.
#[derive(Debug)]
pub(crate) struct Station {
    /// The Pod, `namespace/name`.
    pub(crate) pod: String,
    /// What its shim was asked to make.
    pub(crate) interface: Interface,
    /// Its shim's process.
    pub(crate) shim: i32,
}

/// Looks at everything, makes what is missing, and names it. Blocks.
pub(crate) fn audit(
    bridge: &Bridge,
    services: Option<Subnet>,
    stations: &[Station],
) -> Result<Vec<String>, Error> {
    let failed = |e: sys::Error| Error::host("failed to look at the network", e);
    let links = Link::open().map_err(failed)?;
    let mut mended = bridge.wrong(&links).map_err(failed)?;
    if !mended.is_empty() {
        bridge.ensure()?;
    }
    if let Some(services) = services
        && !has_route(&routes(), bridge.link_name(), services)
    {
        bridge.route_services(services)?;
        mended.push(format!("the route to Services {services}"));
    }
    let hub = links.find(bridge.link_name()).map_err(failed)?;
    let all = links.list().map_err(failed)?;
    let known = links.neighbours(hub.index).map_err(failed)?;
    for station in stations {
        let port = all.iter().find(|link| link.name == station.interface.host_name);
        let knows = known.contains(&station.interface.address);
        match attach(&links, &hub, port, knows, station) {
            Ok(Some(what)) => mended.push(what),
            Ok(None) => {}
            // One Pod that cannot be helped, or is just ending, is no reason to leave the others.
            Err(error) => tracing::warn!(%error, pod = station.pod, "cannot mend the network of a Pod"),
        }
    }
    Ok(mended)
}

/// Makes the link of a Pod what it was made; says what was missing.
fn attach(
    links: &Link,
    hub: &LinkInfo,
    port: Option<&LinkInfo>,
    knows: bool,
    station: &Station,
) -> sys::Result<Option<String>> {
    let Station { pod, interface, shim } = station;
    let mac = mac_of(interface.address);
    match port {
        Some(port) if port.master == hub.index && port.up && knows => Ok(None),
        Some(port) => {
            links.set_master(port.index, hub.index)?;
            links.set_up(port.index)?;
            links.lead_port_to(port.index, mac)?;
            links.set_neighbour(hub.index, interface.address, mac)?;
            Ok(Some(format!("the way to Pod {pod} ({})", interface.address)))
        }
        None => {
            let namespace: OwnedFd = sys::namespace::open(format!("/proc/{shim}/ns/net"))?;
            sys::namespace::inside_network(namespace, || {
                shim::set_up_network(Some(links), Some(interface))
            })??;
            Ok(Some(format!("the link of Pod {pod} ({})", interface.address)))
        }
    }
}

/// The kernel's routing table of this process.
fn routes() -> String {
    std::fs::read_to_string("/proc/self/net/route").unwrap_or_default()
}

/// Lines of proc(5) net/route: link, destination and, as the eighth, the mask, hexadecimal and little-endian.
fn has_route(table: &str, link: &str, to: Subnet) -> bool {
    let wanted = (to.network().to_bits().swap_bytes(), to.prefix());
    table.lines().skip(1).any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let hexadecimal = |at: usize| u32::from_str_radix(fields.get(at)?, 16).ok();
        let found = hexadecimal(1).zip(hexadecimal(7));
        let found = found.map(|(to, mask)| (to, u8::try_from(mask.count_ones()).unwrap_or(0)));
        fields.first() == Some(&link) && found == Some(wanted)
    })
}

/// Whether an address is one of a link, as a network of its own.
pub(super) fn has_address(links: &Link, index: u32, address: IpAddr, prefix: u8) -> sys::Result<bool> {
    Ok(links.addresses()?.contains(&(index, address, prefix)))
}

#[cfg(test)]
mod tests {
    use super::has_route;

    #[test]
    fn a_route_is_found_in_the_kernels_table() {
        let table = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n\
                     mp1\t00002B0A\t0\t1\t0\t0\t0\t0000FFFF\n";
        let services = "10.43.0.0/16".parse().unwrap();
        assert!(has_route(table, "mp1", services));
        assert!(!has_route(table, "mp2", services), "another's");
        assert!(!has_route(table, "mp1", "10.43.0.0/24".parse().unwrap()));
        assert!(!has_route("Iface\n", "mp1", services));
    }
}
