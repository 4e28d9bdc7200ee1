//! The namespaces that the shim holds for its Pod.

use std::os::fd::{AsFd, OwnedFd};

use sys::namespace::{self, Namespaces};
use sys::netlink::Link;
use sys::process::SingleThreaded;
use sys::{Context, Errno, Error, Result};

use crate::network;
use crate::protocol::{SandboxNetwork, SandboxSpec};
use crate::users::Users;

/// PID 1 of a shared PID namespace.
#[derive(Debug)]
pub(crate) struct Reaper {
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    /// A mount namespace without processes, whose /proc shows that PID namespace.
    pub(crate) mounts: OwnedFd,
}

/// Leaves the node's namespaces for fresh ones, as the specification says, and sets them up. The shim
/// itself stays in the node's user namespace; gives that of the Pod if it has one.
pub(crate) fn enter(proof: &SingleThreaded, spec: &SandboxSpec) -> Result<Option<Users>> {
    // Opened here, it stays a socket of the node's network.
    let node = match &spec.network {
        SandboxNetwork::Own(Some(_)) => Some(Link::open()?),
        _ => None,
    };
    let users = spec.users.map(Users::make).transpose()?;
    match (&users, wanted(spec)) {
        (_, Namespaces::NONE) => {}
        (None, wanted) => namespace::unshare(wanted)?,
        (Some(users), wanted) => users.unshare(proof, wanted)?,
    }
    if let Some(name) = &spec.hostname {
        rustix::system::sethostname(name.as_bytes()).attempt(|| format!("set host name {name}"))?;
    }
    if let SandboxNetwork::Own(interface) = &spec.network {
        network::set_up(node.as_ref(), interface.as_ref())?;
    }
    spec.sysctls.iter().try_for_each(|(name, value)| set_sysctl(users.as_ref(), name, value))?;
    Ok(users)
}

fn wanted(spec: &SandboxSpec) -> Namespaces {
    let kinds = [
        (spec.network != SandboxNetwork::Host, Namespaces::NETWORK),
        (spec.ipc, Namespaces::IPC),
        (spec.hostname.is_some(), Namespaces::UTS),
    ];
    kinds.into_iter().filter(|(wanted, _)| *wanted).fold(Namespaces::NONE, |all, (_, one)| all | one)
}

fn set_sysctl(users: Option<&Users>, name: &str, value: &str) -> Result<()> {
    let set = || sys::sysctl::set(name, value);
    match (set(), users) {
        // Later kernels let those of IPC be set by the root of their namespace alone.
        (Err(Error { errno: Errno::ACCESS | Errno::PERM, .. }), Some(users)) => {
            namespace::user::acting_as(users.range().first, set)
        }
        (done, _) => done,
    }
}

impl Users {
    /// Moves the shim into fresh namespaces that belong to the Pod's user namespace. Whoever makes a
    /// namespace gives it its owner: so it is a child that goes where the shim could not come back from.
    fn unshare(&self, proof: &SingleThreaded, wanted: Namespaces) -> Result<()> {
        use sys::process::{self, Forked};
        let (ours, theirs) = sys::socket::packet_pair().attempt(|| "make a socket for a child")?;
        match process::fork(proof, Namespaces::NONE, None)? {
            Forked::Child => {
                process::close_all_but(&[theirs.as_fd(), self.namespace()]);
                let made = namespace::user::enter_as_root(self.namespace())
                    .and_then(|()| namespace::unshare(wanted));
                let words = made.map_or_else(|error| error.to_string(), |()| DONE.to_owned());
                let _ = sys::socket::send(&theirs, words.as_bytes(), &[]);
                // What it has made lasts as long as it does: until the shim has it, or is gone.
                let _ = sys::socket::receive(&theirs, &mut [0; 1], &mut Vec::new());
                process::exit_now(0)
            }
            Forked::Parent { pidfd, .. } => {
                drop(theirs);
                let joined = hear(&ours).and_then(|()| namespace::enter_of_process(pidfd.as_fd(), wanted));
                let _ = process::kill_exactly(pidfd.as_fd(), libc::SIGKILL);
                let _ = process::wait_exactly(pidfd.as_fd());
                joined
            }
        }
    }
}

/// A child's word that its namespaces are there.
const DONE: &str = "done";

fn hear(child: &OwnedFd) -> Result<()> {
    let mut words = [0; 512];
    let length = sys::socket::receive(child, &mut words, &mut Vec::new()).attempt(|| "hear from a child")?;
    match String::from_utf8_lossy(&words[..length]).as_ref() {
        DONE => Ok(()),
        words => {
            Err(Error::new(format!("make the namespaces of a Pod with own users: {words}"), Errno::CHILD))
        }
    }
}
