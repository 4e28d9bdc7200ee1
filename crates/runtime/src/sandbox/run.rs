//! Making a sandbox: address, files, cgroup, shim, ports.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::Child;
use std::sync::Arc;

use rustix::mount::{MountFlags, mount};
use shim::protocol::{Interface, Request, SandboxNetwork, SandboxSpec, VERSION};
use sys::cgroup::Level;

use tokio::net::UnixStream;

use super::{Sandbox, SandboxRecord, record_file};
use crate::clock::{now, random_id};
use crate::container::spec::resources;
use crate::failpoint::{self, Place};
use crate::interface::{DnsConfig, Error, IdRange, NamespaceMode, SandboxConfig, SandboxStatus};
use crate::layout::{failed, remove_directory, write_json};
use crate::link::Link;
use crate::native::Inner;
use crate::peer::Peer;

/// What containerd gives every Pod: 64 MiB.
const SHM_OPTIONS: &std::ffi::CStr = c"mode=1777,size=65536k";

/// Makes the sandbox, or returns the one that runs.
pub(crate) async fn run(inner: &Arc<Inner>, config: SandboxConfig) -> Result<SandboxStatus, Error> {
    if let Some(existing) = inner.sandbox_of(&config.pod) {
        if existing.is_ready() {
            return Ok(existing.status());
        }
        super::remove::remove(inner, &existing).await?;
    }
    for dead in inner.dead_sandboxes_of(&config.pod) {
        // Nobody stops one whose shim has died: its ports would still lead there.
        super::remove::stop(inner, &dead).await?;
    }
    let record = reserve(inner, config)?;
    let directory = inner.layout.sandbox(&record.config.pod);
    let sandbox = Sandbox::new(record, directory, inner.events.clone());
    match bring_up(inner, &sandbox).await {
        Ok(()) => {
            inner.add(sandbox.clone());
            Ok(sandbox.status())
        }
        Err(error) => {
            // The error that led here is the one to tell.
            if let Err(error) = super::remove::abandon(inner, &sandbox).await {
                tracing::warn!(%error, "cannot remove a sandbox that was not made");
            }
            Err(error)
        }
    }
}

fn reserve(inner: &Inner, config: SandboxConfig) -> Result<SandboxRecord, Error> {
    let addresses = match config.network {
        NamespaceMode::Node => Vec::new(),
        _ => vec![inner.addresses.take().map(IpAddr::V4).ok_or_else(|| {
            let subnet = inner.addresses.subnet();
            Error::host("failed to allocate an address", format!("no free address in {subnet}"))
        })?],
    };
    Ok(SandboxRecord { id: random_id::<32>()?, config, addresses, released: false, created_at: now() })
}

async fn bring_up(inner: &Arc<Inner>, sandbox: &Arc<Sandbox>) -> Result<(), Error> {
    let (child, stream) = {
        let (inner, sandbox) = (inner.clone(), sandbox.clone());
        tokio::task::spawn_blocking(move || prepare(&inner, &sandbox)).await
    }
    .map_err(|e| Error::host("failed to make the sandbox", e))??;
    let failed = |e: std::io::Error| Error::host("failed to talk to the shim", e);
    sandbox.meet(Peer::of_child(&child).map_err(failed)?);
    stream.set_nonblocking(true).map_err(failed)?;
    let link = Link::new(UnixStream::from_std(stream).map_err(failed)?);
    sandbox.attach(link.clone());
    let moved = move_shim(inner, sandbox, child.id());
    inner.listen(sandbox.clone(), Some(link.clone()), Some(child));
    let (greeted, moved) = tokio::join!(link.greet(Request::Open(spec(inner, sandbox))), moved);
    greeted.map_err(Error::from)?;
    moved?;
    failpoint::pass(Place::ShimGreeted);
    link.call(Request::Subscribe).await?;
    inner.set_ports(sandbox).await?;
    failpoint::pass(Place::HostPortsSet);
    sandbox.become_ready();
    Ok(())
}

/// The shim moves itself where it forks before it answers (the child must be born in its group).
fn moves_itself(sandbox: &Sandbox) -> bool {
    sandbox.record.config.pid == NamespaceMode::Pod
}

/// Moves the shim into the group of the shims while it makes its namespaces: the kernel lets
/// whoever moves a process wait for an RCU grace period (some 7 ms), and moves that follow
/// closely (the container's) for none.
fn move_shim(
    inner: &Arc<Inner>,
    sandbox: &Sandbox,
    pid: u32,
) -> impl Future<Output = Result<(), Error>> + use<> {
    let (inner, needed) = (inner.clone(), !moves_itself(sandbox));
    let task = needed.then(|| {
        tokio::task::spawn_blocking(move || {
            let group = inner.hierarchy.group(&inner.layout.shim_cgroup());
            group.attach(i32::try_from(pid).unwrap_or_default())
        })
    });
    async move {
        let failed = "failed to move the shim into its cgroup";
        match task {
            Some(task) => task.await.map_err(|e| Error::host(failed, e))?.map_err(|e| Error::host(failed, e)),
            None => Ok(()),
        }
    }
}

/// Files, cgroup, and the shim's process: everything before the first message.
fn prepare(inner: &Inner, sandbox: &Sandbox) -> Result<(Child, std::os::unix::net::UnixStream), Error> {
    let directory = &sandbox.directory;
    // Left by one that was killed in the middle: nothing of it is running, or it would be known.
    remove_directory(directory)?;
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(directory).map_err(failed("make directory", directory))?;
    failpoint::pass(Place::SandboxDirectoryMade);
    write_json(&record_file(directory), &sandbox.record)?;
    failpoint::pass(Place::SandboxRecorded);
    write_files(sandbox)?;
    if sandbox.record.config.ipc != NamespaceMode::Node {
        mount_shm(&directory.join("shm"))?;
    }
    failpoint::pass(Place::SharedMemoryMounted);
    make_cgroup(inner, &sandbox.record.config)?;
    failpoint::pass(Place::PodCgroupMade);
    let shim = shim::client::launch(&inner.executable, directory);
    failpoint::pass(Place::ShimLaunched);
    shim.map_err(|e| Error::host("failed to start the shim", e))
}

fn write_files(sandbox: &Sandbox) -> Result<(), Error> {
    let write = |name: &str, content: &[u8]| {
        let path = sandbox.directory.join(name);
        fs::write(&path, content).map_err(failed("write", &path))
    };
    write("hostname", format!("{}\n", sandbox.hostname()).as_bytes())?;
    match &sandbox.record.config.dns {
        Some(dns) => write("resolv.conf", resolv_conf(dns).as_bytes()),
        // A node without the file has no resolver; neither has the Pod.
        None => write("resolv.conf", &fs::read("/etc/resolv.conf").unwrap_or_default()),
    }
}

/// The order of lines is containerd's.
fn resolv_conf(dns: &DnsConfig) -> String {
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text += &format!("search {}\n", dns.searches.join(" "));
    }
    for server in &dns.servers {
        text += &format!("nameserver {server}\n");
    }
    if !dns.options.is_empty() {
        text += &format!("options {}\n", dns.options.join(" "));
    }
    text
}

/// Shared by the Pod's containers, so it cannot be a mount of one of them.
fn mount_shm(path: &Path) -> Result<(), Error> {
    fs::create_dir(path).map_err(failed("make directory", path))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("shm", path, "tmpfs", flags, SHM_OPTIONS).map_err(failed("mount tmpfs on", path))
}

fn make_cgroup(inner: &Inner, config: &SandboxConfig) -> Result<(), Error> {
    inner.branches.pod_came(config);
    let mut resources = sys::cgroup::Resources { level: Level::Pod, ..resources(&config.resources) };
    if resources.pids_limit == 0 {
        resources.pids_limit = inner.config.pod_max_pids.unwrap_or_else(|| inner.branches.pids_of_a_pod());
    }
    let group = inner.hierarchy.group(&inner.pod_cgroup(config));
    group.create(&resources).map_err(|e| Error::host("failed to make a cgroup", e))
}

fn spec(inner: &Inner, sandbox: &Sandbox) -> SandboxSpec {
    let SandboxRecord { id, config, .. } = &sandbox.record;
    let network = interface_of(inner, sandbox)
        .map_or(SandboxNetwork::Host, |interface| SandboxNetwork::Own(Some(interface)));
    SandboxSpec {
        version: VERSION,
        id: id.clone(),
        ipc: config.ipc != NamespaceMode::Node,
        hostname: sandbox.has_own_network().then(|| config.hostname.clone()),
        shared_pid: config.pid == NamespaceMode::Pod,
        sysctls: sysctls(config),
        cgroup: moves_itself(sandbox).then(|| inner.layout.shim_cgroup()),
        users: config.users,
        network,
    }
}

/// The sandbox's interface; none with the node's network.
pub(crate) fn interface_of(inner: &Inner, sandbox: &Sandbox) -> Option<Interface> {
    let address = *sandbox.record.addresses.first()?;
    Some(Interface {
        name: "eth0".into(),
        host_name: inner.layout.veth(sandbox.id()),
        bridge: inner.bridge.link_name().into(),
        address,
        // Nothing but the gateway is on the link: see the shim's network.
        prefix: if address.is_ipv4() { 32 } else { 128 },
        gateway: Some(IpAddr::V4(inner.addresses.subnet().gateway())),
        mtu: 0,
    })
}

/// Groups whose members may ping without a capability.
const PING_GROUPS: &str = "net.ipv4.ping_group_range";

/// A range of the Pod's groups as the node counts them. One that ends before it begins is nobody, as before.
fn on_the_node(users: IdRange, range: &str) -> Option<String> {
    let numbers: Result<Vec<u32>, _> = range.split_ascii_whitespace().map(str::parse).collect();
    let [low, high] = numbers.ok()?[..] else { return None };
    if low > high {
        return Some("1 0".into());
    }
    let high = high.min(users.length.saturating_sub(1));
    Some(format!("{} {}", users.outside(low)?, users.outside(high)?))
}

/// Asked for ones win over containerd's defaults (unprivileged ports and ping).
fn sysctls(config: &SandboxConfig) -> Vec<(String, String)> {
    let mut all = config.sysctls.clone();
    if let (Some(users), Some(value)) = (config.users, all.get_mut(PING_GROUPS)) {
        // The shim writes it, and its groups are the node's; what is no range the kernel refuses.
        *value = on_the_node(users, value).unwrap_or_else(|| value.clone());
    }
    if config.network != NamespaceMode::Node {
        for (name, value) in [("net.ipv4.ip_unprivileged_port_start", "0"), (PING_GROUPS, "0 2147483647")] {
            all.entry(name.into()).or_insert_with(|| value.into());
        }
    }
    all.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_that_may_ping_are_those_of_the_pod() {
        let users = IdRange { first: 131_072, length: 65_536 };
        let shown = |range: &str| on_the_node(users, range);
        assert_eq!(shown("0 10").as_deref(), Some("131072 131082"));
        assert_eq!(shown("0\t2147483647").as_deref(), Some("131072 196607"));
        assert_eq!(shown("1 0").as_deref(), Some("1 0"));
        assert_eq!((shown("all"), shown("70000 70001"), shown("1 2 3")), (None, None, None));
    }

    #[test]
    fn resolv_conf_is_written_in_containerds_order() {
        let list = |text: &str| text.split(' ').map(str::to_owned).collect();
        let dns = DnsConfig {
            servers: list("10.43.0.10 1.1.1.1"),
            searches: list("a.b b"),
            options: list("ndots:5"),
        };
        let expected = "search a.b b\nnameserver 10.43.0.10\nnameserver 1.1.1.1\noptions ndots:5\n";
        assert_eq!(resolv_conf(&dns), expected);
        assert_eq!(resolv_conf(&DnsConfig::default()), "");
    }
}
