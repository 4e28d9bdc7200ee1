//! The container's file tree.
//!
//! In an order that nothing in an image or a volume can influence:
//!
//! ```text
//! 1  the Pod's mounts are opened, detached      while the node's paths are in sight
//! 2  the root is changed                        from here on a link leads to the container's own
//! 3  /proc, /dev, /sys on real directories      the image may have no link there
//! 4  devices, covers, read-only parts           by the descriptors of 3
//! 5  the Pod's mounts                           each target opened, judged, and mounted on
//! ```
//!
//! Other containers of the Pod may be at work in its volumes meanwhile. They meet step 5 alone, and
//! there each path is looked up once.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::FileType;
use rustix::process::{Gid, Uid};
use sys::beneath::Directory;
use sys::mount::{self, Attributes, Depth, Detached, Missing, open_target};
use sys::{Context, Errno, Result};

use super::device;
use super::kernel::{Covers, Kernel, Touched, View};
use crate::protocol::{ContainerSpec, Failure, FailureKind, Mount, MountSource, Propagation, Rootfs};
use crate::users::Users;

/// What a container sees beside its files.
pub(super) struct Around<'a> {
    /// Shown under /sys/fs/cgroup.
    pub(super) cgroups: Option<Vec<View>>,
    /// Shown at /proc; `None`: a new one, of this process's own PID namespace.
    pub(super) procfs: Option<Detached>,
    /// To whom all of it belongs; `None`: to the node's users.
    pub(super) users: Option<&'a Users>,
}

/// Makes the container's file tree and makes it the root.
/// Gives the container's /dev, which a mount of the Pod's may have covered since.
pub(super) fn build(
    spec: &ContainerSpec,
    directory: &Path,
    around: Around<'_>,
) -> std::result::Result<Directory, Failure> {
    let Around { cgroups, procfs, users } = around;
    let privileged = spec.security.privileged;
    let sources = open_sources(&spec.mounts, users)?;
    let devices = device::extra(spec, users)?;
    mount::make_all_private()?;
    // Older kernels mount an overlay in the tree for an instant: nobody else may see it there.
    let root = open_root(&spec.rootfs, users)?;
    users.map_or(Ok(()), Users::make_files)?;
    // Any directory serves as the place to turn from; this one is there.
    root.attach_at(directory)?;
    mount::pivot_into(directory)?;
    let kernel =
        Kernel::mount(if privileged { Attributes::NONE } else { Attributes::READ_ONLY }, cgroups, procfs)?;
    device::populate(&kernel.dev, &devices)?;
    let ipc_comes_from_mounts = spec.mounts.iter().any(|mount| mount.destination == Path::new("/dev/shm"));
    device::mount_below(&kernel.dev, ipc_comes_from_mounts, users)?;
    let guarded = !privileged && !spec.security.unmasked_proc;
    let covers = guarded.then(|| Covers::open(&kernel)).transpose()?;
    if let Some(covers) = &covers {
        covers.put(&kernel)?;
    }
    let mut touched = Vec::new();
    for (mount, source) in spec.mounts.iter().zip(sources) {
        touched.push(place(mount, source, &kernel)?);
    }
    if let Some(covers) = &covers {
        covers.put_again(&kernel, &touched)?;
    }
    if !spec.cwd.is_empty() {
        // Made for root, as runc makes it; what is no directory fails at the chdir.
        let _ = open_target(Path::new(&spec.cwd), Missing::MakeDirectory);
    }
    if spec.readonly_rootfs {
        mount::restrict(Path::new("/"), Attributes::READ_ONLY)?;
    }
    Ok(kernel.dev)
}

fn open_root(rootfs: &Rootfs, users: Option<&Users>) -> Result<Detached> {
    match rootfs {
        Rootfs::Overlay { lowers, upper, work } => {
            // The kernel's mark that this upper layer was mounted without syncs, left by a creation
            // that failed later. What it warns of, a crash of the machine, no shim survives.
            let mark = work.join("work/incompat/volatile");
            let _ = rustix::fs::unlink(mark.join("dirty"));
            let _ = rustix::fs::rmdir(mark);
            if let Some(users) = users {
                // The layers are of all Pods, and shown as this one's. What it writes is its own on the disk.
                mount::layers::map(lowers, users.namespace())?;
                let root = users.outside(0);
                let (uid, gid) = (Uid::from_raw(root), Gid::from_raw(root));
                rustix::fs::chown(upper, Some(uid), Some(gid)).on("chown", upper)?;
            }
            Detached::overlay(lowers, upper, work)
        }
        Rootfs::Directory(path) => {
            let root = Detached::bind(path, Depth::Recursive)?;
            users.map_or(Ok(()), |users| root.map_ids(users.namespace()))?;
            Ok(root)
        }
    }
}

fn open_sources(mounts: &[Mount], users: Option<&Users>) -> std::result::Result<Vec<Detached>, Failure> {
    let open = |mount| open_source(mount, users).map_err(|error| mount_failure(mount, &error));
    mounts.iter().map(open).collect()
}

/// A mount with its attributes, while its peers are still in sight.
fn open_source(mount: &Mount, users: Option<&Users>) -> Result<Detached> {
    let opened = match &mount.source {
        MountSource::Bind(path) => {
            let opened = Detached::bind(path, Depth::Recursive)?;
            opened.propagate(match mount.propagation {
                Propagation::Private => mount::Propagation::Private,
                Propagation::HostToContainer => mount::Propagation::Slave,
                Propagation::Bidirectional => mount::Propagation::Shared,
            })?;
            opened
        }
        MountSource::Tmpfs { size, mode } => {
            let (size, mode) = (size.to_string(), format!("{mode:o}"));
            let mut options = vec![("mode", mode.as_str())];
            if size != "0" {
                options.push(("size", size.as_str()));
            }
            Detached::new("tmpfs", &options, Attributes::NOSUID.and(Attributes::NODEV))?
        }
    };
    if let Some(users) = users.filter(|_| !mount.mapped) {
        opened.map_ids(users.namespace())?;
    }
    if mount.read_only {
        let depth = if mount.recursive_read_only { Depth::Recursive } else { Depth::This };
        opened.restrict(Attributes::READ_ONLY, depth)?;
    }
    Ok(opened)
}

fn place(mount: &Mount, source: Detached, kernel: &Kernel) -> std::result::Result<Touched, Failure> {
    let failed = |error: sys::Error| mount_failure(mount, &error);
    let target = target(mount, &source).map_err(failed)?;
    let touched = kernel.judge(&mount.destination, &target, &source)?;
    source.attach(target.as_fd()).map_err(failed)?;
    Ok(touched)
}

/// What the mount will lie on, opened. What is judged of it holds for the mount: no name is
/// looked up again.
fn target(mount: &Mount, source: &Detached) -> Result<OwnedFd> {
    let directory = source.is_directory()?;
    let missing = if directory { Missing::MakeDirectory } else { Missing::MakeFile };
    let target = open_target(&mount.destination, missing)?;
    if is_directory(&target)? != directory {
        // The kernel would only call it invalid.
        return Err(sys::Error::new("mount", Errno::NOTDIR));
    }
    Ok(target)
}

fn is_directory(target: &OwnedFd) -> Result<bool> {
    let stat = rustix::fs::fstat(target).attempt(|| "stat a mount's target")?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

/// In runc's words.
fn mount_failure(mount: &Mount, error: &sys::Error) -> Failure {
    let source = match &mount.source {
        MountSource::Bind(path) => path.display().to_string(),
        MountSource::Tmpfs { .. } => "tmpfs".to_owned(),
    };
    let hint = if error.attempt.contains("IDMAP") {
        " (maybe the filesystem used doesn't support idmap mounts on this kernel?)"
    } else if error.errno == Errno::NOTDIR {
        ": Are you trying to mount a directory onto a file (or vice-versa)? \
         Check if the specified host path exists and is the expected type"
    } else {
        ""
    };
    let destination = mount.destination.display().to_string();
    let message = format!("error mounting {source:?} to rootfs at {destination:?}: {error}{hint}");
    Failure::new(FailureKind::Host, message)
}
