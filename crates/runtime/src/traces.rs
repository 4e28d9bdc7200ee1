//! What there is of an instance, told and removed without its runtime: for those who look while the daemon
//! is dead, and for what is left when the files are gone that a runtime goes by.

use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::interface::{Error, PodIdentity};
use crate::layout::{Layout, read_json};
use crate::network::bridge::Bridge;
use crate::network::ports::Table;
use crate::sandbox::{SandboxRecord, record_file};

/// A sandbox as it stands on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// The Pod.
    pub pod: PodIdentity,
    /// The sandbox's directory, by which its shim is known.
    pub directory: PathBuf,
    /// It was taken down in order; no shim is left.
    pub ended: bool,
}

/// The sandboxes on disk, in the order of their Pods' names. Those that do not say what they are are left out.
pub fn recorded(data_dir: &Path) -> Vec<Recorded> {
    let of = |directory: PathBuf| {
        let record: SandboxRecord = read_json(&record_file(&directory))?;
        Some(Recorded { pod: record.config.pod, directory, ended: record.released })
    };
    let mut all: Vec<_> = Layout::new(data_dir, "").sandboxes_on_disk().into_iter().filter_map(of).collect();
    all.sort_by(|a, b| {
        (&a.pod.namespace, &a.pod.name, a.pod.attempt).cmp(&(&b.pod.namespace, &b.pod.name, b.pod.attempt))
    });
    all
}

/// The names in the kernel that a running instance has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// The bridge.
    pub bridge: String,
    /// The nftables table of host ports.
    pub table: String,
    /// The root of its cgroups.
    pub cgroup: String,
}

/// How an instance's parts in the kernel are called.
pub fn names(instance: &str) -> Names {
    let layout = Layout::new(Path::new(""), instance);
    Names { bridge: layout.bridge(), table: layout.ports_table(), cgroup: layout.cgroup_root() }
}

/// Removes what is in the kernel of an instance and names it: every process in its cgroups, its links and
/// tables. No file is needed for it, and none is written. Blocks.
///
/// # Errors
/// A process does not end, or what is there cannot be looked at.
pub fn sweep(config: &Config) -> Result<Vec<String>, Error> {
    let layout = Layout::new(&config.data_dir, &config.instance);
    let mut removed = Vec::new();
    let hierarchy = sys::cgroup::Hierarchy::detect().map_err(|e| Error::host("failed to find cgroups", e))?;
    let group = hierarchy.group(&layout.cgroup_root());
    if group.exists() {
        group.remove().map_err(|e| Error::host("failed to remove a cgroup", e))?;
        removed.push(format!("cgroup {} and all that ran in it", layout.cgroup_root()));
    }
    let links = sys::netlink::Link::open().map_err(|e| Error::host("failed to look at links", e))?;
    let prefix = layout.veth_prefix();
    let all = links.list().map_err(|e| Error::host("failed to list links", e))?;
    for link in all.into_iter().filter(|link| link.name.starts_with(&prefix)) {
        links.remove(&link.name).map_err(|e| Error::host("failed to remove a link", e))?;
    }
    removed.extend(Bridge::new(Table::of(config, &layout), Path::new("/run")).remove());
    Ok(removed)
}
