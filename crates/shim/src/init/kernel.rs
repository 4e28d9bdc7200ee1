//! What the kernel shows a container: /proc, /dev, /sys with the cgroups, and what of it is
//! covered. All of it is put in place while nothing of the Pod's is, and from then on reached by
//! the descriptors of these mounts, never again by a path.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{FileType, FsWord, OFlags, PROC_SUPER_MAGIC, Stat, fstat, fstatfs, major, minor};
use sys::beneath::{Directory, Links, Mounts};
use sys::mount::{self, Attributes, Depth, Detached};
use sys::{Context, Errno, Error, Result};

use crate::protocol::{Failure, FailureKind};

const SYSFS_MAGIC: FsWord = 0x6265_6572;
/// The inode of the root of each procfs.
const PROC_ROOT: u64 = 1;
const PLACE: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const QUIET: Attributes = Attributes::NOSUID.and(Attributes::NODEV).and(Attributes::NOEXEC);

/// Hidden from ordinary containers (containerd's list).
const PROC_MASKED: [&str; 10] = [
    "acpi",
    "asound",
    "interrupts",
    "kcore",
    "keys",
    "latency_stats",
    "sched_debug",
    "scsi",
    "timer_list",
    "timer_stats",
];
const SYS_MASKED: [&str; 2] = ["devices/virtual/powercap", "firmware"];

/// Read-only for ordinary containers.
const PROC_READ_ONLY: [&str; 5] = ["bus", "fs", "irq", "sys", "sysrq-trigger"];

/// Files of procfs that a Pod may mount something on: what lxcfs emulates (runc's list).
const PROC_EMULATED: [&str; 10] = [
    "cpuinfo",
    "diskstats",
    "meminfo",
    "stat",
    "swaps",
    "uptime",
    "loadavg",
    "slabinfo",
    "sys/kernel/ns_last_pid",
    "sys/crypto/fips_enabled",
];

/// A tree of cgroups as `sys::cgroup::Hierarchy::views` has it.
pub(super) type View = (String, &'static str, Vec<String>);

/// The mounts of the kernel's own file systems, each opened at its root.
#[derive(Debug)]
pub(super) struct Kernel {
    root: Directory,
    proc: Directory,
    pub(super) dev: Directory,
    sys: Directory,
}

impl Kernel {
    /// Mounts them. The root is the container's already, and nothing is mounted in it.
    pub(super) fn mount(
        attributes: Attributes,
        cgroups: Option<Vec<View>>,
        procfs: Option<Detached>,
    ) -> std::result::Result<Self, Failure> {
        let root = Directory::open(Path::new("/"))?;
        let guarded = QUIET.and(attributes);
        let procfs = procfs.map_or_else(|| Detached::new("proc", &[], QUIET), Ok)?;
        let proc = put(&root, "proc", "proc", procfs)?;
        let options = [("mode", "755"), ("size", "65536k")];
        let dev = put(&root, "dev", "tmpfs", Detached::new("tmpfs", &options, Attributes::NOSUID)?)?;
        let sys = put(&root, "sys", "sysfs", Detached::new("sysfs", &[], guarded)?)?;
        if let Some(views) = cgroups {
            mount_cgroups(&sys, views, guarded)?;
        }
        Ok(Kernel { root, proc, dev, sys })
    }

    /// Whether a Pod's mount may be put on this target, and what that changes.
    pub(super) fn judge(
        &self,
        destination: &Path,
        target: &OwnedFd,
        source: &Detached,
    ) -> std::result::Result<Touched, Failure> {
        let refused = |why: &str| {
            let message =
                format!("{:?} cannot be mounted because it is {why}", destination.display().to_string());
            Err(Failure::new(FailureKind::Invalid, message))
        };
        let stat = fstat(target).attempt(|| "stat a mount's target")?;
        if is_same(&stat, &self.root.stat()?) {
            return refused("the root of the container");
        }
        let proc = self.proc.stat()?;
        if is_same(&stat, &proc) {
            let of_source = fstat(source).attempt(|| "stat a mount")?;
            let is_proc = kind(source.as_fd())? == PROC_SUPER_MAGIC && of_source.st_ino == PROC_ROOT;
            return if is_proc { Ok(Touched::Proc) } else { refused("not of type proc") };
        }
        // What is covered there is of another file system by now.
        if stat.st_dev == proc.st_dev || is_named_below_proc(destination) {
            return if self.is_emulated(&stat) { Ok(Touched::Nothing) } else { refused("inside /proc") };
        }
        Ok(if stat.st_dev == self.sys.stat()?.st_dev { Touched::Sys } else { Touched::Nothing })
    }

    fn is_emulated(&self, target: &Stat) -> bool {
        PROC_EMULATED.iter().any(|path| {
            let found = self.proc.lookup(path, PLACE, Links::Refused, Mounts::Cross);
            found.and_then(fstat).is_ok_and(|stat| is_same(&stat, target))
        })
    }
}

fn is_named_below_proc(destination: &Path) -> bool {
    let mut parts = destination.components().filter(|part| matches!(part, Component::Normal(_)));
    let plain = destination.components().all(|part| part != Component::ParentDir);
    plain && parts.next() == Some(Component::Normal("proc".as_ref()))
}

/// Which of the kernel's file systems a Pod's mount has come to lie on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Touched {
    Nothing,
    /// A procfs of the Pod's (the node's) lies on /proc.
    Proc,
    /// Something lies on /sys or below.
    Sys,
}

/// Puts a mount on a directory of that name, which is made when it is missing. What else an image
/// may have there, a link before all, is refused in runc's words: what would be mounted through it
/// is not where it is looked for afterwards.
fn put(at: &Directory, name: &str, kind: &str, mount: Detached) -> std::result::Result<Directory, Failure> {
    let path = at.path().join(name);
    let target = at.make_directory(name, 0o755).map_err(|error| match error.errno {
        Errno::LOOP | Errno::NOTDIR => Failure::new(
            FailureKind::Invalid,
            format!(
                "error mounting {kind:?} to rootfs at {:?}: filesystem {kind:?} must be mounted on ordinary directory",
                path.display().to_string()
            ),
        ),
        _ => error.into(),
    })?;
    Ok(Directory::of(mount.attach_and_keep(target.as_fd())?, path))
}

/// The container's own part of the cgroup trees, which its cgroup namespace makes the roots.
fn mount_cgroups(
    sys: &Directory,
    views: Vec<View>,
    attributes: Attributes,
) -> std::result::Result<(), Failure> {
    let target = sys.directory("fs/cgroup")?;
    let mut tmpfs = None;
    // The trees of version 1 lie beside each other, the one of version 2 is all there is.
    if views.iter().any(|(directory, ..)| !directory.is_empty()) {
        let made = Detached::new("tmpfs", &[("mode", "755")], QUIET)?.attach_and_keep(target.as_fd())?;
        tmpfs = Some(Directory::of(made, target.path()));
    }
    for (directory, kind, options) in views {
        let options: Vec<(&str, &str)> = options.iter().map(|option| (option.as_str(), "")).collect();
        let view = Detached::new(kind, &options, attributes)?;
        match &tmpfs {
            Some(tmpfs) => drop(put(tmpfs, &directory, kind, view)?),
            None => view.attach(target.as_fd())?,
        }
    }
    if let Some(tmpfs) = tmpfs {
        mount::restrict_opened(&tmpfs.into(), attributes)?;
    }
    Ok(())
}

/// Covers for what an ordinary container must not see or change.
#[derive(Debug)]
pub(super) struct Covers {
    /// The /dev/null that was made here a moment ago.
    null: OwnedFd,
}

impl Covers {
    /// Opens them, before anything of the Pod's is mounted.
    pub(super) fn open(kernel: &Kernel) -> Result<Self> {
        let null = kernel.dev.lookup("null", PLACE, Links::Refused, Mounts::Stay).on("open", "/dev/null")?;
        let stat = fstat(&null).on("stat", "/dev/null")?;
        let character = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
        if !character || (major(stat.st_rdev), minor(stat.st_rdev)) != (1, 3) {
            return Err(Error::new("cover with /dev/null", Errno::NODEV));
        }
        Ok(Covers { null })
    }

    /// Covers /proc and /sys, before anything of the Pod's is mounted.
    pub(super) fn put(&self, kernel: &Kernel) -> Result<()> {
        self.put_on_proc(&kernel.proc)?;
        self.put_on_sys(&kernel.sys)
    }

    /// Covers anew what mounts of the Pod's have brought.
    pub(super) fn put_again(&self, kernel: &Kernel, touched: &[Touched]) -> Result<()> {
        let flags = PLACE.union(OFlags::DIRECTORY);
        let find = |name: &str| {
            let found = kernel.root.lookup(name, flags, Links::Refused, Mounts::Cross);
            Ok(Directory::of(found.on("open", Path::new("/").join(name))?, Path::new("/").join(name)))
        };
        if touched.contains(&Touched::Proc) {
            self.put_on_proc(&find("proc")?)?;
        }
        if touched.contains(&Touched::Sys) {
            let sys = find("sys")?;
            for path in SYS_MASKED {
                match self.mask(&sys, path) {
                    // The Pod's own directory there has nothing to hide.
                    Err(error) if matches!(error.errno, Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                    other => other?,
                }
            }
        }
        Ok(())
    }

    /// Read-only first: what is covered then cannot have been changed by what was still writable.
    fn put_on_proc(&self, proc: &Directory) -> Result<()> {
        expect(proc, PROC_SUPER_MAGIC)?;
        for path in PROC_READ_ONLY {
            let Some(target) = find(proc, path)? else { continue };
            let copy = Detached::bind_opened(target.as_fd())?;
            copy.restrict(QUIET.and(Attributes::READ_ONLY), Depth::Recursive)?;
            copy.attach(target.as_fd())?;
        }
        PROC_MASKED.iter().try_for_each(|path| self.mask(proc, path))
    }

    fn put_on_sys(&self, sys: &Directory) -> Result<()> {
        expect(sys, SYSFS_MAGIC)?;
        SYS_MASKED.iter().try_for_each(|path| self.mask(sys, path))
    }

    /// Covers a path: a directory by an empty read-only one, a file by /dev/null.
    fn mask(&self, root: &Directory, path: &str) -> Result<()> {
        let Some(target) = find(root, path)? else { return Ok(()) };
        let stat = fstat(&target).on("stat", root.path().join(path))?;
        let cover = if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            Detached::new("tmpfs", &[("size", "0k")], Attributes::READ_ONLY)?
        } else {
            Detached::bind_opened(self.null.as_fd())?
        };
        cover.attach(target.as_fd())
    }
}

/// What is below a file system of the kernel's. Not every kernel has everything; the directories
/// above are there in each, and one that is not is an error: nothing is left open unseen.
fn find(root: &Directory, path: &str) -> Result<Option<OwnedFd>> {
    let (above, name) = path.rsplit_once('/').unwrap_or((".", path));
    let flags = PLACE.union(OFlags::DIRECTORY);
    let above =
        root.lookup(above, flags, Links::Refused, Mounts::Cross).on("open", root.path().join(above))?;
    let above = Directory::of(above, root.path());
    match above.lookup(name, PLACE, Links::Refused, Mounts::Cross) {
        Err(Errno::NOENT) => Ok(None),
        other => other.on("open", root.path().join(path)).map(Some),
    }
}

fn expect(root: &Directory, wanted: FsWord) -> Result<()> {
    if kind(root.as_fd())? == wanted { Ok(()) } else { Err(Errno::NODEV).on("cover", root.path()) }
}

fn kind(fd: BorrowedFd<'_>) -> Result<FsWord> {
    Ok(fstatfs(fd).attempt(|| "look at a file system")?.f_type)
}

fn is_same(one: &Stat, other: &Stat) -> bool {
    (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
}
