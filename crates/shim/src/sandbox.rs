//! The namespaces that the shim holds for its Pod.

use std::os::fd::OwnedFd;

use sys::namespace::{self, Namespaces};
use sys::netlink::Link;
use sys::{Context, Result};

use crate::network;
use crate::protocol::{SandboxNetwork, SandboxSpec};

/// PID 1 of a shared PID namespace.
#[derive(Debug)]
pub(crate) struct Reaper {
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    /// A mount namespace without processes, whose /proc shows that PID namespace.
    pub(crate) mounts: OwnedFd,
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
        network::set_up(node.as_ref(), interface.as_ref())?;
    }
    spec.sysctls.iter().try_for_each(|(name, value)| sys::sysctl::set(name, value))
}
