//! The namespaces that the shim holds for its Pod.

use std::os::fd::{AsFd, OwnedFd};

use sys::namespace::{self, Namespaces};
use sys::netlink::{Link, Route, Veth};
use sys::process::{self, Forked, SingleThreaded};
use sys::{Context, Result};

use crate::protocol::{Interface, SandboxNetwork, SandboxSpec};

/// The loopback of a network namespace has this number always.
const LOOPBACK: u32 = 1;

/// PID 1 of a shared PID namespace.
#[derive(Debug)]
pub(crate) struct Reaper {
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
}

/// Leaves the node's namespaces for fresh ones, as the specification says, and sets them up.
pub(crate) fn enter(spec: &SandboxSpec) -> Result<()> {
    // Opened here, it stays a socket of the node's network.
    let node = match &spec.network {
        SandboxNetwork::Own(Some(_)) => Some(Link::open()?),
        _ => None,
    };
    let mut wanted = Namespaces::NONE;
    if spec.network != SandboxNetwork::Host {
        wanted = wanted | Namespaces::NETWORK;
    }
    if spec.ipc {
        wanted = wanted | Namespaces::IPC;
    }
    if spec.hostname.is_some() {
        wanted = wanted | Namespaces::UTS;
    }
    if !wanted.is_empty() {
        namespace::unshare(wanted)?;
    }
    if let Some(name) = &spec.hostname {
        rustix::system::sethostname(name.as_bytes()).attempt(|| format!("set host name {name}"))?;
    }
    if let SandboxNetwork::Own(interface) = &spec.network {
        set_up_network(node.as_ref(), interface.as_ref())?;
    }
    spec.sysctls.iter().try_for_each(|(name, value)| sys::sysctl::set(name, value))
}

fn set_up_network(node: Option<&Link>, interface: Option<&Interface>) -> Result<()> {
    let pod = Link::open()?;
    pod.set_up(LOOPBACK)?;
    let (Some(node), Some(interface)) = (node, interface) else { return Ok(()) };
    let own = namespace::open("/proc/self/ns/net")?;
    let bridge = node.find(&interface.bridge)?;
    node.make_veth(&Veth {
        name: &interface.host_name,
        master: bridge.index,
        peer: &interface.name,
        namespace: own.as_fd(),
        mtu: interface.mtu,
    })?;
    node.set_hairpin(node.find(&interface.host_name)?.index)?;
    let inner = pod.find(&interface.name)?.index;
    pod.add_address(inner, interface.address, interface.prefix)?;
    pod.set_up(inner)?;
    match interface.gateway {
        Some(gateway) => pod.add_route(&Route { to: None, via: Some(gateway), link: inner }),
        None => Ok(()),
    }
}

/// Makes the PID namespace that containers share, with its PID 1.
pub(crate) fn make_reaper(proof: &SingleThreaded) -> Result<Reaper> {
    match process::fork(proof, Namespaces::PID, None)? {
        Forked::Parent { pid, pidfd } => Ok(Reaper { pid, pidfd }),
        Forked::Child => {
            process::set_name(c"monopod-pause");
            let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
            process::close_all_but(&[]);
            process::reset_signals();
            process::live_as_reaper()
        }
    }
}
