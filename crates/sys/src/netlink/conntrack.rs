//! Connections that the kernel tracks, to forget those that lead to nobody.
//!
//! Where a connection goes is decided by its first packet. Of TCP a new connection decides anew, but its first
//! packet is repeated, and the same ports come again within minutes: what nobody has answered, and what has
//! ended, is remembered that long, and new connections follow its way. UDP has no connections at all: while a
//! sender goes on, its packets follow the first.

use std::net::IpAddr;

use rustix::io::Errno;
use rustix::net::{SocketFlags, netlink};

use super::message::{ACK, Builder, DUMP, Socket, address_of, family, next_attribute, octets, u16_at};
use crate::{Context, Error, Result};

/// The kernel's module that lists connections and forgets them. The kernel loads it when it is asked to,
/// where it has it and may.
pub const MODULE: &str = "nf_conntrack_netlink";

const SUBSYSTEM: u16 = 1 << 8;
const NEW: u16 = SUBSYSTEM;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;

const NESTED: u16 = 0x8000;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const PROTOCOL_INFO: u16 = 4;
const ID: u16 = 12;
const FILTER: u16 = 25;
const FILTER_REPLY: u16 = 2;
/// `CTA_FILTER_F_CTA_IP_SRC`
const BY_SOURCE: u32 = 1;
const INFO_TCP: u16 = 1;
const TCP_STATE: u16 = 1;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const V4_SOURCE: u16 = 1;
const V4_DESTINATION: u16 = 2;
const V6_SOURCE: u16 = 3;
const V6_DESTINATION: u16 = 4;
const PROTOCOL_NUMBER: u16 = 1;
const SOURCE_PORT: u16 = 2;
const DESTINATION_PORT: u16 = 3;
const UDP: u8 = 17;
const TCP: u8 = 6;
/// `TCP_CONNTRACK_SYN_SENT`, `TCP_CONNTRACK_TIME_WAIT` and `TCP_CONNTRACK_CLOSE`
const SYN_SENT: u8 = 1;
const TIME_WAIT: u8 = 7;
const CLOSE: u8 = 8;

/// Busy Services leave thousands of connections to a Pod, and each answer takes its turn. All these may be
/// refused, and their refusals must fit into the socket.
const FORGOTTEN_AT_ONCE: usize = 64;

/// Addresses and ports of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple {
    /// Who sends.
    pub source: (IpAddr, u16),
    /// Who receives.
    pub destination: (IpAddr, u16),
}

/// What of the packets' protocol matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// UDP.
    Udp,
    /// A connection of TCP that nobody has answered, or that has ended: there is nothing in it to lose.
    IdleTcp,
    /// Another connection of TCP.
    OpenTcp,
}

/// A flow of packets, as the kernel tracks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Of which protocol.
    pub transport: Transport,
    /// As the sender sends.
    pub original: Tuple,
    /// As the answers are expected: their source is where the packets really go.
    pub reply: Tuple,
    /// The kernel's number of the entry.
    id: u32,
}

impl Flow {
    /// A flow with no entry in the kernel, for those who decide about flows.
    pub fn new(transport: Transport, original: Tuple, reply: Tuple) -> Self {
        Flow { transport, original, reply, id: 0 }
    }

    /// Whether its destination was translated.
    pub fn is_led(&self) -> bool {
        self.reply.source != self.original.destination
    }
}

/// Which flows are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Which {
    /// All.
    All,
    /// Those that really go to this address. From Linux 5.8 on the kernel leaves out the others, which may be
    /// many.
    To(IpAddr),
}

/// Forgets the flows for which `stale` says so, and says how many. Their next packets are led anew.
///
/// # Errors
/// The kernel cannot list connections: see [`lacks_module`].
pub fn forget(which: Which, stale: impl Fn(&Flow) -> bool) -> Result<usize> {
    let socket = Socket::open(Some(netlink::NETFILTER), SocketFlags::empty())?;
    let mut found = Vec::new();
    let meant = |flow: &Flow| match which {
        Which::All => true,
        // Older kernels pass over the filter.
        Which::To(address) => flow.reply.source.0 == address,
    };
    let request = match which {
        Which::All => Builder::new(GET, DUMP).header(&[0; 4]),
        Which::To(address) => dump_of(address),
    };
    socket
        .talk(request, |kind, body| {
            if kind == NEW {
                found.extend(parse(body).filter(|flow| meant(flow) && stale(flow)));
            }
        })
        .attempt(|| "list tracked connections")?;
    let mut failed = None;
    for some in found.chunks(FORGOTTEN_AT_ONCE) {
        let refused = |errno| {
            // It ended by itself.
            if errno != Errno::NOENT {
                failed = Some(errno);
            }
        };
        socket
            .ask_all(some.iter().map(deletion).collect(), refused)
            .attempt(|| "forget tracked connections")?;
    }
    if let Some(errno) = failed {
        return Err(errno).attempt(|| "forget a tracked connection");
    }
    Ok(found.len())
}

/// Whether [`forget`] failed because the kernel has no [`MODULE`]: nobody takes the request then, which is
/// told from no wrong one.
pub fn lacks_module(error: &Error) -> bool {
    error.errno == Errno::INVAL
}

/// A dump of the flows whose answers come from an address.
fn dump_of(address: IpAddr) -> Builder {
    let from = if address.is_ipv4() { V4_SOURCE } else { V6_SOURCE };
    Builder::new(GET, DUMP)
        .header(&[family(address), 0, 0, 0])
        .nest(TUPLE_REPLY | NESTED, |tuple| {
            tuple.nest(TUPLE_IP | NESTED, |ip| ip.attribute(from, &octets(address)))
        })
        .nest(FILTER | NESTED, |filter| filter.number(FILTER_REPLY, BY_SOURCE))
}

fn deletion(flow: &Flow) -> Builder {
    let Tuple { source, destination } = flow.original;
    let (from, to) =
        if source.0.is_ipv4() { (V4_SOURCE, V4_DESTINATION) } else { (V6_SOURCE, V6_DESTINATION) };
    let protocol = match flow.transport {
        Transport::Udp => UDP,
        Transport::IdleTcp | Transport::OpenTcp => TCP,
    };
    Builder::new(DELETE, ACK)
        .header(&[family(source.0), 0, 0, 0])
        .nest(TUPLE_ORIGINAL | NESTED, |tuple| {
            tuple
                .nest(TUPLE_IP | NESTED, |ip| {
                    ip.attribute(from, &octets(source.0)).attribute(to, &octets(destination.0))
                })
                .nest(TUPLE_PROTOCOL | NESTED, |ports| {
                    ports
                        .attribute(PROTOCOL_NUMBER, &[protocol])
                        .attribute(SOURCE_PORT, &source.1.to_be_bytes())
                        .attribute(DESTINATION_PORT, &destination.1.to_be_bytes())
                })
        })
        .attribute(ID, &flow.id.to_be_bytes())
}

/// A flow of UDP or TCP; `None` for anything else.
fn parse(body: &[u8]) -> Option<Flow> {
    let (mut original, mut reply, mut id, mut state) = (None, None, None, None);
    for_each(body.get(4..)?, |kind, value| match kind {
        TUPLE_ORIGINAL => original = parse_tuple(value),
        TUPLE_REPLY => reply = parse_tuple(value),
        PROTOCOL_INFO => state = tcp_state(value),
        ID => id = value.first_chunk().map(|chunk| u32::from_be_bytes(*chunk)),
        _ => {}
    });
    let (protocol, original) = original?;
    let transport = match (protocol, state) {
        (UDP, _) => Transport::Udp,
        (TCP, Some(SYN_SENT | TIME_WAIT | CLOSE)) => Transport::IdleTcp,
        (TCP, _) => Transport::OpenTcp,
        _ => return None,
    };
    Some(Flow { transport, original, reply: reply?.1, id: id? })
}

fn tcp_state(info: &[u8]) -> Option<u8> {
    let mut state = None;
    for_each(info, |kind, value| {
        if kind == INFO_TCP {
            for_each(value, |kind, value| {
                if kind == TCP_STATE {
                    state = value.first().copied();
                }
            });
        }
    });
    state
}

/// Its protocol too.
fn parse_tuple(tuple: &[u8]) -> Option<(u8, Tuple)> {
    let (mut addresses, mut ports, mut protocol) = ((None, None), (None, None), None);
    for_each(tuple, |kind, value| match kind {
        TUPLE_IP => for_each(value, |kind, value| match kind {
            V4_SOURCE | V6_SOURCE => addresses.0 = address_of(value),
            V4_DESTINATION | V6_DESTINATION => addresses.1 = address_of(value),
            _ => {}
        }),
        TUPLE_PROTOCOL => for_each(value, |kind, value| match kind {
            PROTOCOL_NUMBER => protocol = value.first().copied(),
            SOURCE_PORT => ports.0 = u16_at(value, 0).map(u16::from_be),
            DESTINATION_PORT => ports.1 = u16_at(value, 0).map(u16::from_be),
            _ => {}
        }),
        _ => {}
    });
    Some((protocol?, Tuple { source: (addresses.0?, ports.0?), destination: (addresses.1?, ports.1?) }))
}

fn for_each(mut attributes: &[u8], mut see: impl FnMut(u16, &[u8])) {
    while let Some((kind, value)) = next_attribute(&mut attributes) {
        see(kind, value);
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::Duration;

    use super::*;
    use crate::namespace::{self, Namespaces};
    use crate::netlink::Link;

    const RULES: &str = "table ip t\ndelete table ip t\ntable ip t {\n  chain c {\n    \
        type nat hook output priority -100; policy accept;\n    \
        udp dport 53 dnat to 127.0.0.1:PORT\n  }\n}\n";

    fn lead_to(port: u16) {
        let script = RULES.replace("PORT", &port.to_string());
        crate::command::run("nft", &["-f", "-"], script.as_bytes()).unwrap();
    }

    /// One sender goes on while the place behind its destination changes.
    #[test]
    fn a_flow_that_is_forgotten_is_led_anew() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        std::thread::spawn(|| {
            namespace::unshare(Namespaces::NETWORK).unwrap();
            Link::open().unwrap().set_up(1).unwrap();
            let servers = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
            let ports = [0, 1].map(|n: usize| servers[n].local_addr().unwrap().port());
            servers.iter().for_each(|s| s.set_read_timeout(Some(Duration::from_secs(5))).unwrap());
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            let mut bytes = [0; 8];
            lead_to(ports[0]);
            client.send_to(b"1", "127.0.0.2:53").unwrap();
            assert_eq!(servers[0].recv(&mut bytes).unwrap(), 1);
            lead_to(ports[1]);
            client.send_to(b"22", "127.0.0.2:53").unwrap();
            assert_eq!(servers[0].recv(&mut bytes).unwrap(), 2, "it follows the first packet");
            let to_first = |flow: &Flow| flow.is_led() && flow.reply.source.1 == ports[0];
            assert_eq!(forget(Which::All, to_first).unwrap(), 1);
            assert_eq!(forget(Which::All, to_first).unwrap(), 0);
            client.send_to(b"333", "127.0.0.2:53").unwrap();
            assert_eq!(servers[1].recv(&mut bytes).unwrap(), 3);
        })
        .join()
        .unwrap();
    }

    const SYN_RULES: &str = "table ip t\ndelete table ip t\ntable ip t {\n  chain c {\n    \
        type nat hook output priority -100; policy accept;\n    \
        tcp dport 80 dnat to 127.0.0.1:PORT\n  }\n  \
        chain silent {\n    type filter hook input priority 0; policy accept;\n    \
        tcp dport SILENT drop\n  }\n}\n";

    /// Who answers nobody, and then another is in its place: the same connection reaches that one.
    #[test]
    fn a_connection_that_nobody_has_answered_is_led_anew() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        std::thread::spawn(|| {
            namespace::unshare(Namespaces::NETWORK).unwrap();
            Link::open().unwrap().set_up(1).unwrap();
            let servers = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
            let [gone, new] = [0, 1].map(|n: usize| servers[n].local_addr().unwrap().port());
            let lead = |port: u16| {
                let script =
                    SYN_RULES.replace("PORT", &port.to_string()).replace("SILENT", &gone.to_string());
                crate::command::run("nft", &["-f", "-"], script.as_bytes()).unwrap();
            };
            lead(gone);
            let there = Which::To("127.0.0.1".parse().unwrap());
            let unanswered =
                |flow: &Flow| flow.transport == Transport::IdleTcp && flow.reply.source.1 == gone;
            // The first packet is dropped, and repeated each second.
            let address = "127.0.0.2:80".parse().unwrap();
            let client = std::thread::spawn(move || {
                std::net::TcpStream::connect_timeout(&address, Duration::from_secs(30))
            });
            let seen = || {
                let seen = std::cell::Cell::new(false);
                let look = |flow: &Flow| {
                    seen.set(seen.get() || unanswered(flow));
                    false
                };
                forget(there, look).unwrap();
                seen.get()
            };
            let start = std::time::Instant::now();
            while !seen() {
                assert!(start.elapsed() < Duration::from_secs(20), "no such flow");
                std::thread::yield_now();
            }
            lead(new);
            assert_eq!(forget(Which::To("127.0.0.9".parse().unwrap()), unanswered).unwrap(), 0);
            assert_eq!(forget(there, unanswered).unwrap(), 1);
            servers[1].accept().unwrap();
            client.join().unwrap().unwrap();
        })
        .join()
        .unwrap();
    }
}
