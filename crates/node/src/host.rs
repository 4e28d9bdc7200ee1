//! What the host can enforce, who listens on it, and what is used of it.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use crate::Config;
use crate::pod::admit::{Host, Listener, wants_ports};
use crate::pod::spec::spec;
use crate::users::Ranges;

/// proc(5): a TCP socket that listens, and an unconnected UDP socket, which takes what comes.
const TCP_LISTEN: &str = "0A";
const UDP_UNCONNECTED: &str = "07";
/// The same of SCTP, which counts in decimal.
const SCTP_LISTENING: &str = "10";

/// Looks at the host; at its sockets only when it is to be known who has which port, quick enough to do at once.
/// User namespaces are tried when a Pod wants one: what is in the way may have been put right since.
pub(crate) fn look(config: &Config, pod: &Pod) -> Host {
    let says_yes = |path: &str| fs::read_to_string(path).is_ok_and(|text| text.starts_with('Y'));
    Host {
        pressures: Default::default(),
        allowed_sysctls: config.allowed_sysctls.clone(),
        apparmor: says_yes("/sys/module/apparmor/parameters/enabled"),
        selinux: fs::exists("/sys/fs/selinux/enforce").unwrap_or(false),
        no_users: (spec(pod).host_users == Some(false)).then(|| try_users(config).err()).flatten(),
        listeners: if wants_ports(pod) { listeners() } else { Vec::new() },
        own_port: config.kubelet_port,
        bridge_ip: config.pod_cidr.as_deref().and_then(bridge),
    }
}

fn try_users(config: &Config) -> Result<(), String> {
    let range = Ranges::of_host(config.default_users, config.max_pods)?.any();
    sys::namespace::user::probe(range, &config.pods_directory).map_err(|err| err.to_string())
}

/// The first address of the node's range of Pods.
fn bridge(pod_cidr: &str) -> Option<IpAddr> {
    let network: Ipv4Addr = pod_cidr.split('/').next()?.parse().ok()?;
    Some(Ipv4Addr::from_bits(network.to_bits().checked_add(1)?).into())
}

fn listeners() -> Vec<Listener> {
    let read = |file: &str| fs::read_to_string(format!("/proc/self/net/{file}")).unwrap_or_default();
    let mut all = Vec::new();
    for (file, protocol, state) in [
        ("tcp", "TCP", TCP_LISTEN),
        ("tcp6", "TCP", TCP_LISTEN),
        ("udp", "UDP", UDP_UNCONNECTED),
        ("udp6", "UDP", UDP_UNCONNECTED),
    ] {
        all.extend(sockets(&read(file), protocol, state));
    }
    all.extend(sctp(&read("sctp/eps")));
    all
}

/// Lines of /proc/net/tcp and its like: `0: 0100007F:192B 00000000:0000 0A …`.
fn sockets(table: &str, protocol: &'static str, state: &str) -> Vec<Listener> {
    let socket = |line: &str| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (ip, port) = fields.next()?.split_once(':')?;
        // The far end comes between.
        fields.nth(1).filter(|found| *found == state)?;
        Some(Listener { protocol, ip: address(ip)?, port: u16::from_str_radix(port, 16).ok()? })
    };
    table.lines().skip(1).filter_map(socket).collect()
}

/// Words of 32 bits, each in the order of this machine's memory.
fn address(text: &str) -> Option<IpAddr> {
    let word = |at: usize| u32::from_str_radix(text.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    match text.len() {
        8 => Some(IpAddr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for (part, at) in bytes.chunks_mut(4).zip([0, 8, 16, 24]) {
                part.copy_from_slice(&word(at)?);
            }
            Some(Ipv6Addr::from(bytes).to_canonical())
        }
        _ => None,
    }
}

/// Lines of /proc/net/sctp/eps: `endpoint socket style state bucket port uid inode addresses`.
fn sctp(table: &str) -> Vec<Listener> {
    let endpoint = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let port = fields.get(5)?.parse().ok()?;
        let listening = fields.get(3) == Some(&SCTP_LISTENING);
        let addresses = fields.get(8..).filter(|_| listening)?;
        let parsed = addresses.iter().filter_map(|text| text.parse::<IpAddr>().ok());
        Some(parsed.map(|ip| Listener { protocol: "SCTP", ip, port }).collect::<Vec<_>>())
    };
    table.lines().skip(1).filter_map(endpoint).flatten().collect()
}

/// What is used of the whole host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostUse {
    /// When it was started.
    pub(crate) booted: Timestamp,
    /// CPU time since then, of all processors.
    pub(crate) cpu_nanoseconds: u64,
    /// Memory that cannot be taken back easily: all but what is free and inactive file pages.
    pub(crate) memory_working_set: u64,
    /// The rest of the memory.
    pub(crate) memory_available: u64,
}

/// What is used of the host; `None` where proc(5) does not say.
pub(crate) fn used() -> Option<HostUse> {
    host_use(&fs::read_to_string("/proc/stat").ok()?, &fs::read_to_string("/proc/meminfo").ok()?)
}

/// The clock tick of proc(5), the same on all architectures this is built for.
const NANOSECONDS_PER_TICK: u64 = 10_000_000;

fn host_use(stat: &str, meminfo: &str) -> Option<HostUse> {
    let fields = |name: &str| {
        let line = stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        Some(line.split_ascii_whitespace().map_while(|field| field.parse::<u64>().ok()).collect::<Vec<_>>())
    };
    // user, nice, system, idle, iowait, irq, softirq, steal; what guests use is in the first two.
    let ticks: u64 = match *fields("cpu")?.get(..8)? {
        [user, nice, system, _, _, irq, softirq, steal] => user + nice + system + irq + softirq + steal,
        _ => return None,
    };
    let kibibytes = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_ascii_whitespace().next()?.parse::<u64>().ok()
    };
    let total = kibibytes("MemTotal")?;
    let working_set = total.saturating_sub(kibibytes("MemFree")? + kibibytes("Inactive(file)")?);
    Some(HostUse {
        booted: Timestamp::from_second(i64::try_from(*fields("btime")?.first()?).ok()?).ok()?,
        cpu_nanoseconds: ticks.checked_mul(NANOSECONDS_PER_TICK)?,
        memory_working_set: working_set.checked_mul(1024)?,
        memory_available: (total - working_set).checked_mul(1024)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(listeners: &[Listener]) -> Vec<String> {
        listeners.iter().map(|one| format!("{} {} {}", one.protocol, one.ip, one.port)).collect()
    }

    #[test]
    fn only_sockets_that_listen_are_read_from_proc() {
        let tcp = "  sl  local_address rem_address   st tx_queue rx_queue tr\n   \
            0: 0100007F:192B 00000000:0000 0A 00000000:00000000 00:00000000\n   \
            1: 0100007F:192B 0100007F:C350 01 00000000:00000000 00:00000000\n";
        let tcp6 = "  sl  local_address                         remote_address                        st\n   \
            0: 00000000000000000000000000000000:0016 00000000000000000000000000000000:0000 0A 0\n   \
            1: 0000000000000000FFFF00000100007F:0050 00000000000000000000000000000000:0000 0A 0\n";
        assert_eq!(shown(&sockets(tcp, "TCP", TCP_LISTEN)), ["TCP 127.0.0.1 6443"]);
        assert_eq!(shown(&sockets(tcp6, "TCP", TCP_LISTEN)), ["TCP :: 22", "TCP 127.0.0.1 80"]);
        let eps = " ENDPT     SOCK   STY SST HBKT LPORT   UID INODE LADDRS\n\
            ffff ffff 2   10  29   36412  0   1234 127.0.0.1 192.0.2.1\n\
            ffff ffff 2   7   29   36413  0   1235 127.0.0.1\n";
        assert_eq!(shown(&sctp(eps)), ["SCTP 127.0.0.1 36412", "SCTP 192.0.2.1 36412"]);
    }

    #[test]
    fn a_socket_of_this_process_is_found() {
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = std::net::UdpSocket::bind("[::1]:0").unwrap();
        let found = listeners();
        for (protocol, address) in [("TCP", tcp.local_addr().unwrap()), ("UDP", udp.local_addr().unwrap())] {
            let wanted = Listener { protocol, ip: address.ip(), port: address.port() };
            assert!(found.contains(&wanted), "{wanted:?} is not in {found:?}");
        }
    }

    #[test]
    fn idle_processors_and_pages_that_can_be_dropped_are_not_used() {
        let stat = "cpu  100 20 30 4000 500 6 7 8 90 10\ncpu0 1 2 3 4 5 6 7 8 9 10\nbtime 1800000000\n";
        let meminfo = "MemTotal:       1000 kB\nMemFree:         300 kB\nInactive:        500 kB\nInactive(file):  200 kB\n";
        let used = host_use(stat, meminfo).unwrap();
        assert_eq!(used.cpu_nanoseconds, 171 * NANOSECONDS_PER_TICK);
        assert_eq!((used.memory_working_set, used.memory_available), (500 * 1024, 500 * 1024));
        assert_eq!(used.booted.to_string(), "2027-01-15T08:00:00Z");
        assert_eq!(host_use("cpu  1 2\n", meminfo), None);
        assert!(super::used().is_some(), "this machine says it");
    }

    #[test]
    fn the_bridge_has_the_first_address_of_the_range() {
        assert_eq!(bridge("10.42.0.0/24"), Some("10.42.0.1".parse().unwrap()));
        assert_eq!(bridge("nonsense"), None);
    }
}
