//! The few messages of rtnetlink that a Pod's network needs, and of netfilter's tables ([`TableWatch`],
//! [`conntrack`]).
//!
//! A [`Link`] socket belongs to the network namespace of the thread that opened it, wherever it
//! is used later. So a process opens one, leaves for a new namespace, and can still
//! make a veth pair between the two: the far end straight in its place, with its final name.
//! Moving an end afterwards costs 15 to 50 ms of the kernel's time.

pub mod batch;
pub mod conntrack;
mod message;
mod routes;
mod tables;

use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;
use rustix::net::SocketFlags;

use crate::{Context, Error, Result};
use message::{
    ACK, Builder, CREATE, DUMP, EXCL, REPLACE, Socket, address_of, family, next_attribute, octets, u16_at,
    u32_at,
};

const NEWLINK: u16 = 16;
const DELLINK: u16 = 17;
const GETLINK: u16 = 18;
const SETLINK: u16 = 19;
const NEWADDR: u16 = 20;
const GETADDR: u16 = 22;
const NEWROUTE: u16 = 24;
const DELROUTE: u16 = 25;
const NEWNEIGH: u16 = 28;
const DELNEIGH: u16 = 29;
const GETNEIGH: u16 = 30;

const NESTED: u16 = 0x8000;

const IFF_UP: u32 = 1;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_PROTINFO: u16 = 12;
const IFLA_LINKINFO: u16 = 18;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BRPORT_LEARNING: u16 = 8;
const IFLA_BRPORT_UNICAST_FLOOD: u16 = 9;
const IFLA_BRPORT_LOCKED: u16 = 39;
const IFLA_INET_CONF: u16 = 1;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const IN6_ADDR_GEN_MODE_NONE: u8 = 1;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_NOARP: u16 = 0x40;
const NUD_PERMANENT: u16 = 0x80;
const NTF_MASTER: u8 = 0x04;
const FAMILY_INET: u16 = 2;
const FAMILY_BRIDGE: u8 = 7;
const FAMILY_INET6: u16 = 10;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
const IFA_F_NODAD: u32 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;

pub use routes::RouteWatch;
pub use tables::{Heard, TableWatch};

/// A link-layer address.
pub type Mac = [u8; 6];

/// The link-layer address that belongs to a network address: whoever takes the address after
/// another is found where the other was, whatever neighbours remember. Locally administered.
pub fn mac_of(address: IpAddr) -> Mac {
    let bytes = octets(address);
    let mut mac = [0x0a, 0x58, 0, 0, 0, 0];
    mac[2..].copy_from_slice(&bytes[bytes.len() - 4..]);
    mac
}

/// Parameters of IPv4 that a link has for itself (`net.ipv4.conf.<link>.…`), by their numbers in
/// messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Ipv4Parameter {
    /// Believes who says that there is a shorter way.
    AcceptRedirects = 4,
    /// Tells senders that there is a shorter way.
    SendRedirects = 6,
    /// Takes packets only from where their senders are reached.
    ReversePathFilter = 8,
    /// Takes packets that say which way they want to go.
    AcceptSourceRoute = 9,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkInfo {
    /// Number in its namespace.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Administratively up.
    pub up: bool,
    /// Number of the bridge that it is a port of; 0: none.
    pub master: u32,
    /// Largest packet.
    pub mtu: u32,
    /// Link-layer address.
    pub mac: Vec<u8>,
}

/// A veth pair to be made: one end here, the other in another namespace.
#[derive(Clone, Copy, Debug)]
pub struct Veth<'a> {
    /// Name of the end here, at most 15 bytes.
    pub name: &'a str,
    /// Number of the bridge here that it becomes a port of; 0: none.
    pub master: u32,
    /// Name of the other end.
    pub peer: &'a str,
    /// Network namespace of the other end.
    pub namespace: BorrowedFd<'a>,
    /// Link-layer address of the other end.
    pub peer_mac: Mac,
    /// Largest packet of both; 0: the kernel's default.
    pub mtu: u32,
}

/// A route.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// Destination and length of its prefix; `None`: everywhere.
    pub to: Option<(IpAddr, u8)>,
    /// Next hop; `None`: directly on the link.
    pub via: Option<IpAddr>,
    /// Number of the link.
    pub link: u32,
}

/// A socket for links, addresses and routes of the network namespace that it was opened in.
#[derive(Debug)]
pub struct Link(Socket);

impl Link {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// Too many open files.
    pub fn open() -> Result<Self> {
        Socket::open(None, SocketFlags::empty()).map(Link)
    }

    /// Makes a bridge; one that exists is fine. Gives its number. A new one is down, so that it hears
    /// nothing before its parameters are set.
    ///
    /// # Errors
    /// No permission, or the name belongs to something else.
    pub fn make_bridge(&self, name: &str) -> Result<u32> {
        let request = Builder::new(NEWLINK, ACK | CREATE | EXCL)
            .link(0, 0, 0, 0)
            .name(IFLA_IFNAME, name)
            .nest(IFLA_LINKINFO, |info| info.name(IFLA_INFO_KIND, "bridge"));
        match self.0.ask(request) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno).attempt(|| format!("make bridge {name}")),
        }
        Ok(self.find(name)?.index)
    }

    /// Makes a veth pair, the end here up and a port of its bridge, the other in its namespace.
    ///
    /// # Errors
    /// A name is taken or too long, or the bridge is gone.
    pub fn make_veth(&self, veth: &Veth<'_>) -> Result<()> {
        let namespace = veth.namespace.as_raw_fd().cast_unsigned();
        let request = Builder::new(NEWLINK, ACK | CREATE | EXCL)
            .link(0, 0, IFF_UP, IFF_UP)
            .name(IFLA_IFNAME, veth.name)
            .number_unless_0(IFLA_MTU, veth.mtu)
            .number_unless_0(IFLA_MASTER, veth.master)
            .nest(IFLA_LINKINFO, |info| {
                info.name(IFLA_INFO_KIND, "veth").nest(IFLA_INFO_DATA, |data| {
                    data.nest(VETH_INFO_PEER, |peer| {
                        peer.link(0, 0, 0, 0)
                            .name(IFLA_IFNAME, veth.peer)
                            .number_unless_0(IFLA_MTU, veth.mtu)
                            .attribute(IFLA_ADDRESS, &veth.peer_mac)
                            .number(IFLA_NET_NS_FD, namespace)
                    })
                })
            });
        self.0.ask(request).attempt(|| format!("make veth {}", veth.name))
    }

    /// Makes a port of a bridge lead to one station, whose link-layer address is told and not learnt:
    /// frames with a forged sender take nobody's place, and frames for nobody do not come by. From Linux
    /// 5.16 on, where a port can be locked, frames of any other sender than the station are dropped; a
    /// kernel of before does not know the option and passes over it.
    ///
    /// The bridge may also send a frame back out of the port that it came in by, which it does where
    /// bridged packets meet the rules of IP (`br_netfilter`) and a Pod reaches itself through a Service.
    ///
    /// # Errors
    /// The link is not a port of a bridge.
    pub fn lead_port_to(&self, port: u32, station: Mac) -> Result<()> {
        let request = Builder::new(SETLINK, ACK).link(FAMILY_BRIDGE, port, 0, 0).nest(
            IFLA_PROTINFO | NESTED,
            |options| {
                options
                    .attribute(IFLA_BRPORT_MODE, &[1])
                    .attribute(IFLA_BRPORT_LEARNING, &[0])
                    .attribute(IFLA_BRPORT_UNICAST_FLOOD, &[0])
                    .attribute(IFLA_BRPORT_LOCKED, &[1])
            },
        );
        self.0.ask(request).attempt(|| format!("set up bridge port {port}"))?;
        let request = Builder::new(NEWNEIGH, ACK | CREATE | REPLACE)
            .header(&neighbour_header(FAMILY_BRIDGE, port, NUD_NOARP, NTF_MASTER))
            .attribute(NDA_LLADDR, &station);
        self.0.ask(request).attempt(|| format!("lead bridge port {port} to its station"))
    }

    /// Keeps a link from giving itself an IPv6 address: it is a port, and those of its bridge count.
    /// Fine where there is no IPv6.
    ///
    /// # Errors
    /// It is gone.
    pub fn set_no_ipv6_address(&self, index: u32) -> Result<()> {
        let request = Builder::new(SETLINK, ACK).link(0, index, 0, 0).nest(IFLA_AF_SPEC, |families| {
            families.nest(FAMILY_INET6, |inet6| {
                inet6.attribute(IFLA_INET6_ADDR_GEN_MODE, &[IN6_ADDR_GEN_MODE_NONE])
            })
        });
        match self.0.ask(request) {
            Ok(()) | Err(Errno::AFNOSUPPORT) => Ok(()),
            Err(errno) => Err(errno).attempt(|| format!("keep link {index} from an IPv6 address")),
        }
    }

    /// Sets parameters of a link, all at once.
    ///
    /// # Errors
    /// It is gone.
    pub fn set_ipv4(&self, index: u32, parameters: &[(Ipv4Parameter, u32)]) -> Result<()> {
        let request = Builder::new(SETLINK, ACK).link(0, index, 0, 0).nest(IFLA_AF_SPEC, |families| {
            families.nest(FAMILY_INET, |inet| {
                inet.nest(IFLA_INET_CONF, |all| {
                    parameters.iter().fold(all, |all, (name, value)| all.number(*name as u16, *value))
                })
            })
        });
        self.0.ask(request).attempt(|| format!("set parameters of link {index}"))
    }

    /// Says for good which link-layer address a neighbour has: nobody is asked, and nobody is believed
    /// who says otherwise. One that is there is replaced.
    ///
    /// # Errors
    /// The link is gone.
    pub fn set_neighbour(&self, link: u32, address: IpAddr, mac: Mac) -> Result<()> {
        let request = Builder::new(NEWNEIGH, ACK | CREATE | REPLACE)
            .header(&neighbour_header(family(address), link, NUD_PERMANENT, 0))
            .attribute(NDA_DST, &octets(address))
            .attribute(NDA_LLADDR, &mac);
        self.0.ask(request).attempt(|| format!("set neighbour {address}"))
    }

    /// Forgets what [`Link::set_neighbour`] said. One that is not there is fine.
    ///
    /// # Errors
    /// The link is gone.
    pub fn remove_neighbour(&self, link: u32, address: IpAddr) -> Result<()> {
        let request = Builder::new(DELNEIGH, ACK)
            .header(&neighbour_header(family(address), link, 0, 0))
            .attribute(NDA_DST, &octets(address));
        match self.0.ask(request) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno).attempt(|| format!("remove neighbour {address}")),
        }
    }

    /// The neighbours of a link that were set for good.
    ///
    /// # Errors
    /// None in practice.
    pub fn neighbours(&self, link: u32) -> Result<Vec<IpAddr>> {
        let mut found = Vec::new();
        let request = Builder::new(GETNEIGH, DUMP).header(&neighbour_header(0, 0, 0, 0));
        self.0
            .talk(request, |kind, body| {
                let ours = kind == NEWNEIGH
                    && u32_at(body, 4) == Some(link)
                    && u16_at(body, 8).is_some_and(|state| state & NUD_PERMANENT != 0);
                found.extend(ours.then(|| destination(body)).flatten());
            })
            .attempt(|| "list neighbours")?;
        Ok(found)
    }

    /// Makes a link a port of a bridge; one that is already is fine.
    ///
    /// # Errors
    /// One of them is gone.
    pub fn set_master(&self, index: u32, bridge: u32) -> Result<()> {
        let request = Builder::new(SETLINK, ACK).link(0, index, 0, 0).number(IFLA_MASTER, bridge);
        self.0.ask(request).attempt(|| format!("make link {index} a port of {bridge}"))
    }

    /// Sets a link up.
    ///
    /// # Errors
    /// It is gone.
    pub fn set_up(&self, index: u32) -> Result<()> {
        let request = Builder::new(SETLINK, ACK).link(0, index, IFF_UP, IFF_UP);
        self.0.ask(request).attempt(|| format!("set link {index} up"))
    }

    /// Gives a link a fixed link-layer address. A bridge takes the lowest of its ports' unless
    /// it has its own, and a change cuts its connections.
    ///
    /// # Errors
    /// It is gone or has no such addresses.
    pub fn set_mac(&self, index: u32, mac: Mac) -> Result<()> {
        let request = Builder::new(SETLINK, ACK).link(0, index, 0, 0).attribute(IFLA_ADDRESS, &mac);
        self.0.ask(request).attempt(|| format!("set address of link {index}"))
    }

    /// Removes a link and, of a veth pair, its peer. One that is gone is fine.
    ///
    /// # Errors
    /// No permission.
    pub fn remove(&self, name: &str) -> Result<()> {
        let request = Builder::new(DELLINK, ACK).link(0, 0, 0, 0).name(IFLA_IFNAME, name);
        match self.0.ask(request) {
            Ok(()) | Err(Errno::NODEV) => Ok(()),
            Err(errno) => Err(errno).attempt(|| format!("remove link {name}")),
        }
    }

    /// The link of a name.
    ///
    /// # Errors
    /// `NODEV`: there is none.
    pub fn find(&self, name: &str) -> Result<LinkInfo> {
        let attempt = || format!("find link {name}");
        let request = Builder::new(GETLINK, 0).link(0, 0, 0, 0).name(IFLA_IFNAME, name);
        let mut found = None;
        self.0
            .talk(request, |kind, body| {
                if kind == NEWLINK {
                    found = parse_link(body);
                }
            })
            .attempt(attempt)?;
        found.ok_or_else(|| Error::new(attempt(), Errno::NODEV))
    }

    /// All links.
    ///
    /// # Errors
    /// None in practice.
    pub fn list(&self) -> Result<Vec<LinkInfo>> {
        let mut links = Vec::new();
        self.0
            .talk(Builder::new(GETLINK, DUMP).link(0, 0, 0, 0), |kind, body| {
                if kind == NEWLINK {
                    links.extend(parse_link(body));
                }
            })
            .attempt(|| "list links")?;
        Ok(links)
    }

    /// Gives a link an address; one that it has already is fine.
    ///
    /// # Errors
    /// The link is gone.
    pub fn add_address(&self, link: u32, address: IpAddr, prefix: u8) -> Result<()> {
        let bytes = octets(address);
        let mut request = Builder::new(NEWADDR, ACK | CREATE | REPLACE);
        request = request.header(&[family(address), prefix, 0, 0]).header(&link.to_ne_bytes());
        request = request.attribute(IFA_LOCAL, &bytes).attribute(IFA_ADDRESS, &bytes);
        request = match address {
            IpAddr::V4(v4) if prefix < 31 => {
                let broadcast = v4.to_bits() | u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
                request.attribute(IFA_BROADCAST, &broadcast.to_be_bytes())
            }
            // Asking the link for duplicates takes a second, and we give out addresses.
            IpAddr::V6(_) => request.number(IFA_FLAGS, IFA_F_NODAD),
            IpAddr::V4(_) => request,
        };
        self.0.ask(request).attempt(|| format!("add address {address}/{prefix}"))
    }

    /// All addresses: number of the link, address, length of its prefix.
    ///
    /// # Errors
    /// None in practice.
    pub fn addresses(&self) -> Result<Vec<(u32, IpAddr, u8)>> {
        let request = Builder::new(GETADDR, DUMP).header(&[0; 8]);
        let mut found = Vec::new();
        self.0
            .talk(request, |kind, body| {
                if kind == NEWADDR {
                    found.extend(parse_address(body));
                }
            })
            .attempt(|| "list addresses")?;
        Ok(found)
    }

    /// Adds a route; one to the same destination is replaced.
    ///
    /// # Errors
    /// The next hop cannot be reached or the link is down.
    pub fn add_route(&self, route: &Route) -> Result<()> {
        let request = routing(NEWROUTE, ACK | CREATE | REPLACE, route);
        self.0.ask(request).attempt(|| format!("add route via {:?}", route.via))
    }

    /// Removes a route. One that is not there is fine.
    ///
    /// # Errors
    /// The link is gone.
    pub fn remove_route(&self, route: &Route) -> Result<()> {
        match self.0.ask(routing(DELROUTE, ACK, route)) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(errno) => Err(errno).attempt(|| format!("remove route to {:?}", route.to)),
        }
    }
}

fn routing(kind: u16, flags: u16, route: &Route) -> Builder {
    const TABLE_MAIN: u8 = 254;
    const PROTOCOL_STATIC: u8 = 4;
    const SCOPE_LINK: u8 = 253;
    const UNICAST: u8 = 1;
    let sample = route.via.or(route.to.map(|(address, _)| address)).unwrap_or(IpAddr::from([0, 0, 0, 0]));
    let prefix = route.to.map_or(0, |(_, prefix)| prefix);
    let scope = if route.via.is_none() { SCOPE_LINK } else { 0 };
    let mut request = Builder::new(kind, flags)
        .header(&[family(sample), prefix, 0, 0, TABLE_MAIN, PROTOCOL_STATIC, scope, UNICAST])
        .header(&[0; 4]);
    if let Some((to, _)) = route.to {
        request = request.attribute(RTA_DST, &octets(to));
    }
    if let Some(via) = route.via {
        request = request.attribute(RTA_GATEWAY, &octets(via));
    }
    request.number(RTA_OIF, route.link)
}

/// `struct ndmsg`
fn neighbour_header(family: u8, link: u32, state: u16, flags: u8) -> [u8; 12] {
    let mut header = [0; 12];
    header[0] = family;
    header[4..8].copy_from_slice(&link.to_ne_bytes());
    header[8..10].copy_from_slice(&state.to_ne_bytes());
    header[10] = flags;
    header
}

/// The network address of a neighbour.
fn destination(body: &[u8]) -> Option<IpAddr> {
    let mut rest = body.get(12..)?;
    while let Some((kind, value)) = next_attribute(&mut rest) {
        if kind == NDA_DST {
            return address_of(value);
        }
    }
    None
}

fn parse_link(body: &[u8]) -> Option<LinkInfo> {
    let mut link = LinkInfo {
        index: u32_at(body, 4)?,
        name: String::new(),
        up: u32_at(body, 8)? & IFF_UP != 0,
        master: 0,
        mtu: 0,
        mac: Vec::new(),
    };
    let mut rest = body.get(16..)?;
    while let Some((kind, value)) = next_attribute(&mut rest) {
        match kind {
            IFLA_IFNAME => {
                link.name = String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned();
            }
            IFLA_MASTER => link.master = u32_at(value, 0)?,
            IFLA_MTU => link.mtu = u32_at(value, 0)?,
            IFLA_ADDRESS => link.mac = value.to_vec(),
            _ => {}
        }
    }
    Some(link)
}

fn parse_address(body: &[u8]) -> Option<(u32, IpAddr, u8)> {
    let (prefix, link) = (*body.get(1)?, u32_at(body, 4)?);
    let mut rest = body.get(8..)?;
    let mut found = None;
    while let Some((kind, value)) = next_attribute(&mut rest) {
        // Local wins: of a point-to-point link the other is the peer's.
        if kind == IFA_LOCAL || (kind == IFA_ADDRESS && found.is_none()) {
            found = address_of(value);
        }
    }
    Some((link, found?, prefix))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::namespace::{self, Namespaces};

    #[test]
    fn loopback_is_found_and_a_missing_link_is_not() {
        let link = Link::open().unwrap();
        let lo = link.find("lo").unwrap();
        assert_eq!((lo.index, lo.name.as_str()), (1, "lo"));
        assert_eq!(link.find("no-such-link").unwrap_err().errno, Errno::NODEV);
        assert!(link.list().unwrap().iter().any(|one| one.name == "lo"));
    }

    /// All in two namespaces of a thread's own: nothing of the machine is touched.
    #[test]
    fn a_pod_network_is_made_in_one_piece() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        std::thread::spawn(|| {
            namespace::unshare(Namespaces::NETWORK).unwrap();
            let node = Link::open().unwrap();
            let bridge = node.make_bridge("br-test").unwrap();
            assert_eq!(node.make_bridge("br-test").unwrap(), bridge, "a second time it is found");
            let gateway: IpAddr = [10, 9, 0, 1].into();
            node.add_address(bridge, gateway, 24).unwrap();
            node.set_up(bridge).unwrap();
            namespace::unshare(Namespaces::NETWORK).unwrap();
            let own = namespace::open("/proc/thread-self/ns/net").unwrap();
            let (address, peer_mac) = (IpAddr::from([10, 9, 0, 2]), mac_of([10, 9, 0, 2].into()));
            let (name, peer, namespace) = ("veth-test", "eth0", own.as_fd());
            let veth = Veth { name, master: bridge, peer, namespace, peer_mac, mtu: 1400 };
            node.make_veth(&veth).unwrap();
            let outer = node.find("veth-test").unwrap();
            assert_eq!((outer.up, outer.master, outer.mtu), (true, bridge, 1400));
            node.lead_port_to(outer.index, peer_mac).unwrap();
            node.set_no_ipv6_address(outer.index).unwrap();
            node.set_neighbour(bridge, address, peer_mac).unwrap();
            assert_eq!(node.neighbours(bridge).unwrap(), [address]);
            node.remove_neighbour(bridge, address).unwrap();
            node.remove_neighbour(bridge, address).unwrap();
            assert_eq!(node.neighbours(bridge).unwrap(), [] as [IpAddr; 0]);
            let pod = Link::open().unwrap();
            let eth0 = pod.find("eth0").unwrap();
            assert_eq!(eth0.mac, [0x0a, 0x58, 10, 9, 0, 2]);
            pod.set_ipv4(
                eth0.index,
                &[(Ipv4Parameter::SendRedirects, 0), (Ipv4Parameter::AcceptSourceRoute, 0)],
            )
            .unwrap();
            assert_eq!(crate::sysctl::get("net.ipv4.conf.eth0.send_redirects").unwrap(), "0");
            assert_eq!(crate::sysctl::get("net.ipv4.conf.lo.send_redirects").unwrap(), "1", "no other's");
            pod.set_up(1).unwrap();
            pod.add_address(eth0.index, address, 32).unwrap();
            pod.set_up(eth0.index).unwrap();
            pod.add_route(&Route { to: Some((gateway, 32)), via: None, link: eth0.index }).unwrap();
            pod.add_route(&Route { to: None, via: Some(gateway), link: eth0.index }).unwrap();
            let more = Route { to: Some(([10, 77, 0, 0].into(), 16)), via: None, link: eth0.index };
            pod.add_route(&more).unwrap();
            pod.remove_route(&more).unwrap();
            pod.remove_route(&more).unwrap();
            assert!(pod.addresses().unwrap().contains(&(eth0.index, address, 32)));
            node.remove("veth-test").unwrap();
            node.remove("veth-test").unwrap();
            assert_eq!(pod.find("eth0").unwrap_err().errno, Errno::NODEV);
        })
        .join()
        .unwrap();
    }
}
