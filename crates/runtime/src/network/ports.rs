//! Our nftables tables: what leaves the Pod network, and ports of the node that lead to Pods; and, where
//! frames enter the bridge, who may send them.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use sys::netlink::conntrack::{self, Transport, Which};
use sys::netlink::{Link, mac_of};

use super::Subnet;
use crate::config::Config;
use crate::interface::PortMapping;
use crate::layout::Layout;

/// All that the table depends on.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub(crate) name: String,
    pub(crate) bridge: String,
    /// How the names of the Pods' links on the node begin, all of which are ports of the bridge.
    pub(crate) links: String,
    /// Addresses of this node's Pods.
    pub(crate) pods: Subnet,
    /// Addresses of the Pods of all nodes: reached without masquerading.
    pub(crate) cluster: Subnet,
}

impl Table {
    /// The table of an instance.
    pub(crate) fn of(config: &Config, layout: &Layout) -> Self {
        Table {
            name: layout.ports_table(),
            bridge: layout.bridge(),
            links: layout.veth_prefix(),
            pods: config.pod_cidr,
            cluster: config.cluster_cidr,
        }
    }
}

/// The host ports of one sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostPorts {
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) mappings: Vec<PortMapping>,
}

impl HostPorts {
    /// The one that packets of IPv4 are led to; the node has no rules of IPv6 yet.
    fn address(&self) -> Option<Ipv4Addr> {
        self.addresses.iter().find_map(|address| match address {
            IpAddr::V4(v4) => Some(*v4),
            IpAddr::V6(_) => None,
        })
    }
}

/// The script that replaces the table, in one transaction, by what it should be.
pub(crate) fn ruleset(table: &Table, ports: &[HostPorts]) -> String {
    let Table { name, bridge, pods, cluster, .. } = table;
    let mut lead = String::new();
    let mut hairpin = String::new();
    for port in ports {
        let Some(address) = port.address() else { continue };
        for rule in port.mappings.iter().filter_map(|mapping| lead_rule(address, mapping)) {
            let _ = writeln!(lead, "    {rule}");
        }
        if !port.mappings.is_empty() {
            let _ = writeln!(hairpin, "    ip saddr {address} ip daddr {address} masquerade");
        }
    }
    // `table …` before `delete` makes the first run not fail. The guard is the price of
    // route_localnet, which 127.0.0.1:<host port> needs: without it a Pod could reach what
    // listens on the node's loopback only. It runs before conntrack translates replies back.
    // From Pod to Pod the way leads back out of the bridge, of which the kernel tells the sender
    // as long as the parameter that all links share says so, whatever the bridge's own is.
    format!(
        "table ip {name}\n\
         delete table ip {name}\n\
         table ip {name} {{\n  \
           chain guard {{\n    type filter hook prerouting priority raw; policy accept;\n    \
             iifname \"{bridge}\" ip daddr 127.0.0.0/8 drop\n  }}\n  \
           chain redirects {{\n    type filter hook output priority raw; policy accept;\n    \
             oifname \"{bridge}\" icmp type redirect drop\n  }}\n  \
           chain lead {{\n{lead}  }}\n  \
           chain arriving {{\n    type nat hook prerouting priority dstnat; policy accept;\n    \
             fib daddr type local jump lead\n  }}\n  \
           chain local {{\n    type nat hook output priority -100; policy accept;\n    \
             fib daddr type local jump lead\n  }}\n  \
           chain leaving {{\n    type nat hook postrouting priority srcnat; policy accept;\n{hairpin}    \
             ip saddr 127.0.0.0/8 oifname \"{bridge}\" masquerade\n    \
             ip saddr {pods} ip daddr != {cluster} ip daddr != 224.0.0.0/4 oifname != \"{bridge}\" masquerade\n  }}\n\
         }}\n"
    )
}

/// The script that replaces the table of the bridge: a Pod sends with its own address or not at all.
///
/// A Pod may have NET_RAW and NET_ADMIN, and then puts any sender into a packet. Which address belongs to
/// which station is known beforehand (`mac_of`), and that a port is one station's is the bridge's part, so
/// the table is the same for all Pods and none is started more slowly for it. It looks at frames where they
/// enter the bridge: those for another Pod's station would never come to the IP layer, where NetworkPolicies
/// are. Nobody has to send such frames (a Pod's only way is the gateway), so nobody may.
pub(crate) fn senders(table: &Table) -> String {
    let Table { name, links, pods, .. } = table;
    let mac = |address: Ipv4Addr| mac_of(address.into()).map(|byte| format!("{byte:02x}")).join(":");
    let gateway = mac(pods.gateway());
    let stations: Vec<String> = pods.addresses().map(|one| format!("{} . {one}", mac(one))).collect();
    // Before the translation that `br_netfilter` may do at this place.
    format!(
        "table bridge {name}\n\
         delete table bridge {name}\n\
         table bridge {name} {{\n  \
           set stations {{\n    type ether_addr . ipv4_addr\n    elements = {{ {} }}\n  }}\n  \
           chain senders {{\n    type filter hook prerouting priority -300; policy accept;\n    \
             iifname != \"{links}*\" accept\n    \
             ether type ip ether daddr != {gateway} drop\n    \
             ether saddr . ip saddr @stations accept\n    \
             ether saddr . arp saddr ip @stations accept\n    \
             drop\n  }}\n\
         }}\n",
        stations.join(", ")
    )
}

/// None where the port was asked for on an address that packets of IPv4 do not have.
fn lead_rule(address: Ipv4Addr, mapping: &PortMapping) -> Option<String> {
    let PortMapping { protocol, container_port, host_port, host_ip } = mapping;
    let protocol = match protocol.as_str() {
        "UDP" => "udp",
        "SCTP" => "sctp",
        _ => "tcp",
    };
    let on = match host_ip.parse::<IpAddr>() {
        Ok(IpAddr::V6(_)) => return None,
        Ok(IpAddr::V4(ip)) if !ip.is_unspecified() => format!("ip daddr {ip} "),
        Ok(IpAddr::V4(_)) | Err(_) => String::new(),
    };
    Some(format!("{on}{protocol} dport {host_port} dnat to {address}:{container_port}"))
}

/// Forgets the flows to these ports of the node but those that go to one of `to`, and open connections of TCP.
/// Blocks.
pub(crate) fn forget_flows(to: &[IpAddr], mappings: &[PortMapping]) -> sys::Result<()> {
    let own: Vec<IpAddr> = Link::open()?.addresses()?.into_iter().map(|(_, address, _)| address).collect();
    let forgotten = conntrack::forget(Which::All, |flow| {
        let (address, port) = flow.original.destination;
        let protocol = match flow.transport {
            Transport::Udp => "UDP",
            Transport::IdleTcp => "TCP",
            Transport::OpenTcp => return false,
        };
        let meant = |mapping: &PortMapping| mapping.protocol == protocol && mapping.host_port == port;
        // All of 127.0.0.0/8 is the node's.
        let ours = own.contains(&address) || address.is_loopback();
        ours && mappings.iter().any(meant) && !to.contains(&flow.reply.source.0)
    })?;
    if forgotten > 0 {
        tracing::debug!(forgotten, "forgot flows to host ports");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_one_transaction() {
        let table = Table {
            name: "monopod-0123abcd-ports".into(),
            bridge: "mp0123abcd".into(),
            links: "v0123abcd".into(),
            pods: "10.42.0.0/24".parse().unwrap(),
            cluster: "10.42.0.0/16".parse().unwrap(),
        };
        let mapping = |protocol: &str, host_ip: &str| PortMapping {
            protocol: protocol.into(),
            container_port: 80,
            host_port: 8080,
            host_ip: host_ip.into(),
        };
        let ports = [HostPorts {
            addresses: vec!["fd00::5".parse().unwrap(), "10.42.0.5".parse().unwrap()],
            mappings: vec![
                mapping("TCP", ""),
                mapping("UDP", "192.0.2.1"),
                mapping("SCTP", "0.0.0.0"),
                // Only on addresses of IPv6, so on none of IPv4.
                mapping("TCP", "::1"),
                mapping("TCP", "::"),
            ],
        }];
        let expected = r#"table ip monopod-0123abcd-ports
delete table ip monopod-0123abcd-ports
table ip monopod-0123abcd-ports {
  chain guard {
    type filter hook prerouting priority raw; policy accept;
    iifname "mp0123abcd" ip daddr 127.0.0.0/8 drop
  }
  chain redirects {
    type filter hook output priority raw; policy accept;
    oifname "mp0123abcd" icmp type redirect drop
  }
  chain lead {
    tcp dport 8080 dnat to 10.42.0.5:80
    ip daddr 192.0.2.1 udp dport 8080 dnat to 10.42.0.5:80
    sctp dport 8080 dnat to 10.42.0.5:80
  }
  chain arriving {
    type nat hook prerouting priority dstnat; policy accept;
    fib daddr type local jump lead
  }
  chain local {
    type nat hook output priority -100; policy accept;
    fib daddr type local jump lead
  }
  chain leaving {
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr 10.42.0.5 ip daddr 10.42.0.5 masquerade
    ip saddr 127.0.0.0/8 oifname "mp0123abcd" masquerade
    ip saddr 10.42.0.0/24 ip daddr != 10.42.0.0/16 ip daddr != 224.0.0.0/4 oifname != "mp0123abcd" masquerade
  }
}
"#;
        assert_eq!(ruleset(&table, &ports), expected);
    }

    #[test]
    fn each_address_belongs_to_one_station() {
        let table = Table {
            name: "monopod-0123abcd-ports".into(),
            bridge: "mp0123abcd".into(),
            links: "v0123abcd".into(),
            pods: "10.42.0.8/29".parse().unwrap(),
            cluster: "10.42.0.0/16".parse().unwrap(),
        };
        let expected = r#"table bridge monopod-0123abcd-ports
delete table bridge monopod-0123abcd-ports
table bridge monopod-0123abcd-ports {
  set stations {
    type ether_addr . ipv4_addr
    elements = { 0a:58:0a:2a:00:0a . 10.42.0.10, 0a:58:0a:2a:00:0b . 10.42.0.11, 0a:58:0a:2a:00:0c . 10.42.0.12, 0a:58:0a:2a:00:0d . 10.42.0.13, 0a:58:0a:2a:00:0e . 10.42.0.14 }
  }
  chain senders {
    type filter hook prerouting priority -300; policy accept;
    iifname != "v0123abcd*" accept
    ether type ip ether daddr != 0a:58:0a:2a:00:09 drop
    ether saddr . ip saddr @stations accept
    ether saddr . arp saddr ip @stations accept
    drop
  }
}
"#;
        assert_eq!(senders(&table), expected);
    }
}
