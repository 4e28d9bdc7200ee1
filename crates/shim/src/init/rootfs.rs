//! The container's file tree.
//!
//! Everything that comes from the node is opened first, as detached mounts. Then the root is
//! changed, and only then are the mounts put in place: paths of the image, whose links may point
//! anywhere, are never resolved while anything of the node is below the root.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::FileType;
use sys::mount::{self, Attributes, Depth, Detached, Missing, open_target};
use sys::{Context, Errno, Result};

use super::device;
use crate::protocol::{ContainerSpec, Failure, FailureKind, Mount, MountSource, Propagation, Rootfs};

/// Hidden from ordinary containers (containerd's list).
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Read-only for ordinary containers.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// A tree of cgroups as `sys::cgroup::Hierarchy::views` has it.
type View = (String, &'static str, Vec<String>);

/// Makes the container's file tree and makes it the root. `cgroups`: shown under /sys/fs/cgroup.
/// `procfs`: shown at /proc; `None`: a new one, of this process's own PID namespace.
pub(super) fn build(
    spec: &ContainerSpec,
    directory: &Path,
    cgroups: Option<Vec<View>>,
    procfs: Option<Detached>,
) -> std::result::Result<(), Failure> {
    let sources = open_sources(&spec.mounts)?;
    let devices = device::extra(spec)?;
    mount::make_all_private()?;
    // Older kernels mount an overlay in the tree for an instant: nobody else may see it there.
    let root = open_root(&spec.rootfs)?;
    // Any directory serves as the place to turn from; this one is there.
    root.attach_at(directory)?;
    mount::pivot_into(directory)?;
    mount_kernel(spec, cgroups, procfs)?;
    device::populate(&devices)?;
    device::mount_below(spec.mounts.iter().any(|mount| mount.destination == Path::new("/dev/shm")))?;
    for (mount, source) in spec.mounts.iter().zip(sources) {
        place(mount, source).map_err(|error| mount_failure(mount, &error))?;
    }
    if !spec.security.privileged && !spec.security.unmasked_proc {
        MASKED.iter().try_for_each(|path| mask(Path::new(path)))?;
        READ_ONLY.iter().try_for_each(|path| make_read_only(Path::new(path)))?;
    }
    if !spec.cwd.is_empty() {
        // Made for root, as runc makes it; what is no directory fails at the chdir.
        let _ = open_target(Path::new(&spec.cwd), Missing::MakeDirectory);
    }
    if spec.readonly_rootfs {
        mount::restrict(Path::new("/"), Attributes::READ_ONLY)?;
    }
    Ok(())
}

fn open_root(rootfs: &Rootfs) -> Result<Detached> {
    match rootfs {
        Rootfs::Overlay { lowers, upper, work } => {
            // The kernel's mark that this upper layer was mounted without syncs, left by a creation
            // that failed later. What it warns of, a crash of the machine, no shim survives.
            let mark = work.join("work/incompat/volatile");
            let _ = rustix::fs::unlink(mark.join("dirty"));
            let _ = rustix::fs::rmdir(mark);
            Detached::overlay(lowers, upper, work)
        }
        Rootfs::Directory(path) => Detached::bind(path, Depth::Recursive),
    }
}

fn open_sources(mounts: &[Mount]) -> std::result::Result<Vec<Detached>, Failure> {
    mounts.iter().map(|mount| open_source(mount).map_err(|error| mount_failure(mount, &error))).collect()
}

/// A mount with its attributes, while its peers are still in sight.
fn open_source(mount: &Mount) -> Result<Detached> {
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
    if mount.read_only {
        let depth = if mount.recursive_read_only { Depth::Recursive } else { Depth::This };
        opened.restrict(Attributes::READ_ONLY, depth)?;
    }
    Ok(opened)
}

fn place(mount: &Mount, source: Detached) -> Result<()> {
    let directory = source.is_directory()?;
    let missing = if directory { Missing::MakeDirectory } else { Missing::MakeFile };
    let target = open_target(&mount.destination, missing)?;
    if is_directory(&target)? != directory {
        // The kernel would only call it invalid.
        return Err(sys::Error::new("mount", Errno::NOTDIR));
    }
    source.attach(target.as_fd())
}

/// In runc's words.
fn mount_failure(mount: &Mount, error: &sys::Error) -> Failure {
    let source = match &mount.source {
        MountSource::Bind(path) => path.display().to_string(),
        MountSource::Tmpfs { .. } => "tmpfs".to_owned(),
    };
    let hint = if error.errno == Errno::NOTDIR {
        ": Are you trying to mount a directory onto a file (or vice-versa)? \
         Check if the specified host path exists and is the expected type"
    } else {
        ""
    };
    let destination = mount.destination.display().to_string();
    let message = format!("error mounting {source:?} to rootfs at {destination:?}: {error}{hint}");
    Failure::new(FailureKind::Host, message)
}

/// /proc, /dev (empty), /sys and the cgroups.
fn mount_kernel(spec: &ContainerSpec, cgroups: Option<Vec<View>>, procfs: Option<Detached>) -> Result<()> {
    let quiet = Attributes::NOSUID.and(Attributes::NODEV).and(Attributes::NOEXEC);
    let guarded = if spec.security.privileged { quiet } else { quiet.and(Attributes::READ_ONLY) };
    put("/proc", procfs.map_or_else(|| Detached::new("proc", &[], quiet), Ok)?)?;
    put("/dev", Detached::new("tmpfs", &[("mode", "755"), ("size", "65536k")], Attributes::NOSUID)?)?;
    put("/sys", Detached::new("sysfs", &[], guarded)?)?;
    if let Some(views) = cgroups {
        mount_cgroups(views, guarded)?;
    }
    Ok(())
}

/// The container's own part of the cgroup trees, which its cgroup namespace makes the roots.
fn mount_cgroups(views: Vec<View>, attributes: Attributes) -> Result<()> {
    let root = "/sys/fs/cgroup";
    let several = views.len() > 1;
    if several {
        let writable = Attributes::NOSUID.and(Attributes::NODEV).and(Attributes::NOEXEC);
        put(root, Detached::new("tmpfs", &[("mode", "755")], writable)?)?;
    }
    for (directory, kind, options) in views {
        let options: Vec<(&str, &str)> = options.iter().map(|option| (option.as_str(), "")).collect();
        put(&format!("{root}/{directory}"), Detached::new(kind, &options, attributes)?)?;
    }
    if several {
        mount::restrict(Path::new(root), attributes)?;
    }
    Ok(())
}

fn put(path: &str, mount: Detached) -> Result<()> {
    let target = open_target(Path::new(path), Missing::MakeDirectory)?;
    mount.attach(target.as_fd())
}

/// Covers a path: a directory by an empty read-only one, a file by /dev/null. What is not there
/// needs no cover.
fn mask(path: &Path) -> Result<()> {
    let target = match open_target(path, Missing::Fail) {
        Err(error) if error.errno == Errno::NOENT => return Ok(()),
        other => other?,
    };
    let cover = if is_directory(&target)? {
        Detached::new("tmpfs", &[("size", "0k")], Attributes::READ_ONLY)?
    } else {
        Detached::bind(Path::new("/dev/null"), Depth::This)?
    };
    cover.attach(target.as_fd())
}

fn is_directory(target: &OwnedFd) -> Result<bool> {
    let stat = rustix::fs::fstat(target).attempt(|| "stat a mount's target")?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

fn make_read_only(path: &Path) -> Result<()> {
    let target = match open_target(path, Missing::Fail) {
        Err(error) if error.errno == Errno::NOENT => return Ok(()),
        other => other?,
    };
    let copy = Detached::bind(path, Depth::Recursive)?;
    let quiet = Attributes::NOSUID.and(Attributes::NODEV).and(Attributes::NOEXEC);
    copy.restrict(quiet.and(Attributes::READ_ONLY), Depth::Recursive)?;
    copy.attach(target.as_fd())
}
