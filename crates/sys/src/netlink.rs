//! The few messages of rtnetlink that a Pod's network needs.
//!
//! A [`Link`] socket belongs to the network namespace of the thread that opened it, wherever it
//! is used later. So a process opens one, leaves for a new namespace, and can still
//! make a veth pair between the two: the far end straight in its place, with its final name.
//! Moving an end afterwards costs 15 to 50 ms of the kernel's time.

use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};

use crate::{Context, Error, Result};

const NEWLINK: u16 = 16;
const DELLINK: u16 = 17;
const GETLINK: u16 = 18;
const SETLINK: u16 = 19;
const NEWADDR: u16 = 20;
const GETADDR: u16 = 22;
const NEWROUTE: u16 = 24;

const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const EXCL: u16 = 0x200;
const CREATE: u16 = 0x400;
const REPLACE: u16 = 0x100;
const DUMP: u16 = 0x300;
const NESTED: u16 = 0x8000;

const MESSAGE_ERROR: u16 = 2;
const MESSAGE_DONE: u16 = 3;

const IFF_UP: u32 = 1;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_PROTINFO: u16 = 12;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFLA_BRPORT_MODE: u16 = 4;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
const IFA_F_NODAD: u32 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;

/// Room for one answer: the kernel never makes a part of a dump larger than this.
const ANSWER_MAX: usize = 32 << 10;

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

/// A message under construction.
struct Builder(Vec<u8>);

impl Builder {
    fn new(kind: u16, flags: u16) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend([0; 4]);
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((REQUEST | flags).to_ne_bytes());
        bytes.extend([0; 8]);
        Builder(bytes)
    }

    /// `struct ifinfomsg`
    fn link(mut self, family: u8, index: u32, flags: u32, mask: u32) -> Self {
        self.0.extend([family, 0, 0, 0]);
        for word in [index, flags, mask] {
            self.0.extend(word.to_ne_bytes());
        }
        self
    }

    fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn number(self, kind: u16, value: u32) -> Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    fn number_unless_0(self, kind: u16, value: u32) -> Self {
        if value == 0 { self } else { self.number(kind, value) }
    }

    fn name(self, kind: u16, name: &str) -> Self {
        let mut bytes = name.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes)
    }

    /// An attribute that holds others.
    fn nest(mut self, kind: u16, inner: impl FnOnce(Self) -> Self) -> Self {
        let start = self.0.len();
        self = inner(self.attribute(kind, &[]));
        let length = u16::try_from(self.0.len() - start).unwrap_or(u16::MAX);
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }

    fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0
    }
}

/// A socket for links, addresses and routes of the network namespace that it was opened in.
#[derive(Debug)]
pub struct Link(OwnedFd);

impl Link {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// Too many open files.
    pub fn open() -> Result<Self> {
        // Without a protocol the family gives rtnetlink, its number 0.
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None);
        socket.attempt(|| "open a netlink socket").map(Link)
    }

    /// Makes a bridge and sets it up; one that exists is fine. Gives its number.
    ///
    /// # Errors
    /// No permission, or the name belongs to something else.
    pub fn make_bridge(&self, name: &str) -> Result<u32> {
        let request = Builder::new(NEWLINK, ACK | CREATE | EXCL)
            .link(0, 0, IFF_UP, IFF_UP)
            .name(IFLA_IFNAME, name)
            .nest(IFLA_LINKINFO, |info| info.name(IFLA_INFO_KIND, "bridge"));
        match self.ask(request) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno).attempt(|| format!("make bridge {name}")),
        }
        let link = self.find(name)?;
        if !link.up {
            self.set_up(link.index)?;
        }
        Ok(link.index)
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
                            .number(IFLA_NET_NS_FD, namespace)
                    })
                })
            });
        self.ask(request).attempt(|| format!("make veth {}", veth.name))
    }

    /// Lets a bridge send frames back out of the port that they came in by: a Pod reaches itself
    /// through a Service or a port of the node.
    ///
    /// # Errors
    /// The link is not a port of a bridge.
    pub fn set_hairpin(&self, index: u32) -> Result<()> {
        let request = Builder::new(SETLINK, ACK)
            .link(u8::try_from(libc::AF_BRIDGE).unwrap_or(7), index, 0, 0)
            .nest(IFLA_PROTINFO | NESTED, |port| port.attribute(IFLA_BRPORT_MODE, &[1]));
        self.ask(request).attempt(|| format!("set hairpin of link {index}"))
    }

    /// Sets a link up.
    ///
    /// # Errors
    /// It is gone.
    pub fn set_up(&self, index: u32) -> Result<()> {
        let request = Builder::new(SETLINK, ACK).link(0, index, IFF_UP, IFF_UP);
        self.ask(request).attempt(|| format!("set link {index} up"))
    }

    /// Gives a link a fixed link-layer address. A bridge takes the lowest of its ports' unless
    /// it has its own, and a change cuts its connections.
    ///
    /// # Errors
    /// It is gone or has no such addresses.
    pub fn set_mac(&self, index: u32, mac: [u8; 6]) -> Result<()> {
        let request = Builder::new(SETLINK, ACK).link(0, index, 0, 0).attribute(IFLA_ADDRESS, &mac);
        self.ask(request).attempt(|| format!("set address of link {index}"))
    }

    /// Removes a link and, of a veth pair, its peer. One that is gone is fine.
    ///
    /// # Errors
    /// No permission.
    pub fn remove(&self, name: &str) -> Result<()> {
        let request = Builder::new(DELLINK, ACK).link(0, 0, 0, 0).name(IFLA_IFNAME, name);
        match self.ask(request) {
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
        self.talk(request, |kind, body| {
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
        self.talk(Builder::new(GETLINK, DUMP).link(0, 0, 0, 0), |kind, body| {
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
        request.0.extend([family(address), prefix, 0, 0]);
        request.0.extend(link.to_ne_bytes());
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
        self.ask(request).attempt(|| format!("add address {address}/{prefix}"))
    }

    /// All addresses: number of the link, address, length of its prefix.
    ///
    /// # Errors
    /// None in practice.
    pub fn addresses(&self) -> Result<Vec<(u32, IpAddr, u8)>> {
        let mut request = Builder::new(GETADDR, DUMP);
        request.0.extend([0; 8]);
        let mut found = Vec::new();
        self.talk(request, |kind, body| {
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
        const TABLE_MAIN: u8 = 254;
        const PROTOCOL_STATIC: u8 = 4;
        const SCOPE_LINK: u8 = 253;
        const UNICAST: u8 = 1;
        let sample = route.via.or(route.to.map(|(address, _)| address)).unwrap_or(IpAddr::from([0, 0, 0, 0]));
        let prefix = route.to.map_or(0, |(_, prefix)| prefix);
        let scope = if route.via.is_none() { SCOPE_LINK } else { 0 };
        let mut request = Builder::new(NEWROUTE, ACK | CREATE | REPLACE);
        request.0.extend([family(sample), prefix, 0, 0, TABLE_MAIN, PROTOCOL_STATIC, scope, UNICAST]);
        request.0.extend([0; 4]);
        if let Some((to, _)) = route.to {
            request = request.attribute(RTA_DST, &octets(to));
        }
        if let Some(via) = route.via {
            request = request.attribute(RTA_GATEWAY, &octets(via));
        }
        request = request.number(RTA_OIF, route.link);
        self.ask(request).attempt(|| format!("add route via {:?}", route.via))
    }

    /// Sends a request that is answered by yes or no.
    fn ask(&self, request: Builder) -> std::result::Result<(), Errno> {
        self.talk(request, |_, _| {})
    }

    /// Sends a request and shows each message of the answer.
    fn talk(&self, request: Builder, mut see: impl FnMut(u16, &[u8])) -> std::result::Result<(), Errno> {
        let kernel = SocketAddrNetlink::new(0, 0);
        sendto(self.0.as_fd(), &request.finish(), SendFlags::empty(), &kernel)?;
        let mut bytes = vec![0; ANSWER_MAX];
        loop {
            let got = rustix::io::retry_on_intr(|| recv(self.0.as_fd(), &mut bytes[..], RecvFlags::empty()))?;
            let mut rest = &bytes[..got.0];
            while let Some(message) = next_message(&mut rest) {
                match message.kind {
                    MESSAGE_DONE => return Ok(()),
                    MESSAGE_ERROR => return error_of(message.body),
                    kind => see(kind, message.body),
                }
                // A single answer without ACK has no end mark.
                if !message.multiple && request_is_single(message.kind) {
                    return Ok(());
                }
            }
        }
    }
}

/// A GETLINK by name is answered by one NEWLINK.
fn request_is_single(kind: u16) -> bool {
    kind == NEWLINK
}

struct Message<'a> {
    kind: u16,
    multiple: bool,
    body: &'a [u8],
}

/// Takes a message off the front.
fn next_message<'a>(rest: &mut &'a [u8]) -> Option<Message<'a>> {
    let length = u32_at(rest, 0)? as usize;
    let message = rest.get(..length).filter(|message| message.len() >= 16)?;
    let (kind, flags) = (u16_at(message, 4)?, u16_at(message, 6)?);
    *rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    Some(Message { kind, multiple: flags & 2 != 0, body: &message[16..] })
}

/// The body of an error message begins with the negative error number; 0 is an acknowledgement.
fn error_of(body: &[u8]) -> std::result::Result<(), Errno> {
    match u32_at(body, 0).unwrap_or(0).cast_signed() {
        0 => Ok(()),
        negative => Err(Errno::from_raw_os_error(-negative)),
    }
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

fn next_attribute<'a>(rest: &mut &'a [u8]) -> Option<(u16, &'a [u8])> {
    let length = usize::from(u16_at(rest, 0)?);
    let value = rest.get(4..length)?;
    let kind = u16_at(rest, 2)? & 0x3fff;
    *rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    Some((kind, value))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|chunk| u32::from_ne_bytes(*chunk))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|chunk| u16::from_ne_bytes(*chunk))
}

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { 2 } else { 10 }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn address_of(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => bytes.first_chunk::<4>().map(|four| IpAddr::from(*four)),
        16 => bytes.first_chunk::<16>().map(|sixteen| IpAddr::from(*sixteen)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
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
            namespace::unshare(Namespaces::NETWORK).unwrap();
            let own = namespace::open("/proc/thread-self/ns/net").unwrap();
            let veth =
                Veth { name: "veth-test", master: bridge, peer: "eth0", namespace: own.as_fd(), mtu: 1400 };
            node.make_veth(&veth).unwrap();
            let outer = node.find("veth-test").unwrap();
            assert_eq!((outer.up, outer.master, outer.mtu), (true, bridge, 1400));
            node.set_hairpin(outer.index).unwrap();
            let pod = Link::open().unwrap();
            let eth0 = pod.find("eth0").unwrap();
            pod.set_up(1).unwrap();
            pod.add_address(eth0.index, [10, 9, 0, 2].into(), 24).unwrap();
            pod.set_up(eth0.index).unwrap();
            pod.add_route(&Route { to: None, via: Some(gateway), link: eth0.index }).unwrap();
            assert!(pod.addresses().unwrap().contains(&(eth0.index, [10, 9, 0, 2].into(), 24)));
            node.remove("veth-test").unwrap();
            node.remove("veth-test").unwrap();
            assert_eq!(pod.find("eth0").unwrap_err().errno, Errno::NODEV);
        })
        .join()
        .unwrap();
    }
}
