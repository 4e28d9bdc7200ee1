//! The volumes of a Pod, under `<pods>/<uid>/volumes/<plugin>/<name>`.
//!
//! ```text
//! spec.volumes ─ plan ─▶ Source ─ mount ─▶ directory ─ sub_path ─▶ Mount of a container
//!                           ▲
//!        ConfigMap, Secret, token, claim: read by the worker before
//! ```
//!
//! Files of ConfigMaps, Secrets and the like are replaced all at once ([`atomic`]), so
//! that a container never sees half of an update.

pub mod atomic;
pub mod file;
pub mod host_path;
pub mod mounts;
pub mod ownership;
pub mod payload;
pub mod plan;
pub mod sub_path;

pub use mounts::{HostMounts, Mounts};
pub use plan::{Needs, Plan, Source, plan};

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;

use crate::pod::spec::spec;
use atomic::Files;
use ownership::{Access, ChangePolicy};
use sys::beneath::Directory;

/// Directories of one Pod on the node.
#[derive(Clone, Debug)]
pub struct PodDirectory {
    root: PathBuf,
}

impl PodDirectory {
    /// `<pods>/<uid>`.
    pub fn new(pods: &Path, uid: &str) -> Self {
        Self { root: pods.join(uid) }
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What was granted to the Pod, if that is not what it was made with.
    pub fn allocation(&self) -> PathBuf {
        self.root.join("allocation.json")
    }

    /// Where a volume lives.
    pub fn volume(&self, plugin: &str, name: &str) -> PathBuf {
        self.root.join("volumes").join(plugin.replace('/', "~")).join(name)
    }

    /// Where a sub-path of a volume is bound for one mount of one container.
    pub fn sub_path(&self, volume: &str, container: &str, index: usize) -> PathBuf {
        self.root.join("volume-subpaths").join(volume).join(container).join(index.to_string())
    }

    /// /etc/hosts of the Pod.
    pub fn hosts(&self) -> PathBuf {
        self.root.join("etc-hosts")
    }

    /// Where a container leaves its termination message.
    pub fn termination_log(&self, container: &str, attempt: u32) -> PathBuf {
        self.root.join("containers").join(container).join(format!("{attempt}.termination"))
    }
}

/// Puts one volume in place; safe to do again. The error follows
/// `MountVolume.SetUp failed for volume "x" : `.
pub fn mount(
    mounts: &dyn Mounts,
    directory: &PodDirectory,
    pod: &Pod,
    plan: &Plan,
    files: Option<&Files>,
    stamp: &str,
) -> Result<(), String> {
    let path = directory.volume(plan.source.plugin(), &plan.name);
    let context = spec(pod).security_context.as_ref();
    let group = context.and_then(|context| context.fs_group);
    let policy = match context.and_then(|context| context.fs_group_change_policy.as_deref()) {
        Some("OnRootMismatch") => ChangePolicy::OnRootMismatch,
        _ => ChangePolicy::Always,
    };
    let own = |path: &Path, policy| {
        Directory::open(path).and_then(|root| ownership::apply(&root, group, Access::ReadWrite, policy))
    };
    let failed = |what: &str, err: &dyn std::fmt::Display| format!("{what} {}: {err}", path.display());
    match &plan.source {
        Source::EmptyDir { memory, size } => {
            make_empty_dir(mounts, &path, *memory, *size)?;
            // It was given away when it was made; what is in it since is the containers'.
            own(&path, ChangePolicy::OnRootMismatch).map_err(|err| failed("failed to set ownership of", &err))
        }
        Source::HugePages { page, size } => {
            make_huge_pages(mounts, &path, *page, *size)?;
            own(&path, ChangePolicy::OnRootMismatch).map_err(|err| failed("failed to set ownership of", &err))
        }
        Source::Block { path } => host_path::check(path, "BlockDevice"),
        Source::HostPath { path, kind } => host_path::check(path, kind),
        Source::Claimed { path, .. } if !path.is_dir() => {
            Err(format!("path {:?} does not exist", path.display().to_string()))
        }
        Source::Claimed { path, grouped: true, .. } if !plan.read_only => {
            own(path, policy).map_err(|err| failed("failed to set ownership of", &err))
        }
        Source::Claimed { .. } => Ok(()),
        // Who mounts it sees to it: others need not wait for an image that does not come.
        Source::Image { .. } => Ok(()),
        Source::Files { memory } => {
            let files = files.ok_or("its contents were not read")?;
            if *memory {
                make_empty_dir(mounts, &path, true, None)?;
            } else {
                fs::create_dir_all(&path).map_err(|err| failed("failed to create", &err))?;
            }
            let own =
                |root: &Directory| ownership::apply(root, group, Access::ReadOnly, ChangePolicy::Always);
            atomic::write(&path, files, stamp, own).map(drop).map_err(|err| failed("failed to write", &err))
        }
        Source::Unsupported { plugin } => {
            Err(format!("volume plugin {plugin:?} is not supported by this node"))
        }
    }
}

fn make_empty_dir(mounts: &dyn Mounts, path: &Path, memory: bool, size: Option<u64>) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt;
    let fresh = !path.exists();
    fs::create_dir_all(path).map_err(|err| format!("failed to create {}: {err}", path.display()))?;
    let mounting = memory && !mounts.is_mounted(path);
    if mounting {
        mounts
            .tmpfs(path, size)
            .map_err(|err| format!("failed to mount tmpfs on {}: {err}", path.display()))?;
    }
    if fresh || mounting {
        // The umask of the daemon must not narrow it: containers run as anybody.
        let open = fs::Permissions::from_mode(0o777);
        fs::set_permissions(path, open).map_err(|err| format!("failed to open {}: {err}", path.display()))?;
    }
    Ok(())
}

fn make_huge_pages(
    mounts: &dyn Mounts,
    path: &Path,
    page: Option<u64>,
    size: Option<u64>,
) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt;
    fs::create_dir_all(path).map_err(|err| format!("failed to create {}: {err}", path.display()))?;
    if mounts.is_mounted(path) {
        return Ok(());
    }
    let failed = |err| format!("failed to mount hugetlbfs on {}: {err}", path.display());
    mounts.hugetlbfs(path, page, size).map_err(failed)?;
    let open = fs::Permissions::from_mode(0o777);
    fs::set_permissions(path, open).map_err(|err| format!("failed to open {}: {err}", path.display()))
}

/// The path of a mounted volume on the node.
pub fn path_of(directory: &PodDirectory, plan: &Plan) -> PathBuf {
    match &plan.source {
        Source::HostPath { path, .. } | Source::Claimed { path, .. } | Source::Block { path } => path.clone(),
        source => directory.volume(source.plugin(), &plan.name),
    }
}

/// Unmounts everything below the Pod's directory and removes the volumes.
pub fn unmount_all(mounts: &dyn Mounts, directory: &PodDirectory) -> Result<(), String> {
    mounts
        .unmount_below(directory.root())
        .map_err(|err| format!("failed to unmount below {}: {err}", directory.root().display()))?;
    for part in ["volume-subpaths", "volumes"] {
        remove(&directory.root().join(part))?;
    }
    Ok(())
}

/// Removes the whole directory of a Pod; nothing may be mounted in it.
pub fn remove_directory(mounts: &dyn Mounts, directory: &PodDirectory) -> Result<(), String> {
    unmount_all(mounts, directory)?;
    remove(directory.root())
}

fn remove(path: &Path) -> Result<(), String> {
    sys::beneath::remove_tree(path).map_err(|err| format!("failed to remove {}: {err}", path.display()))
}

/// Plans by volume name.
pub type Plans = BTreeMap<String, Plan>;
