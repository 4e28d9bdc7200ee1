//! Mounts by descriptor: made detached, given their attributes, then put in place, so that no
//! half-made mount is ever visible.

use std::ffi::CString;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat, openat2};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
    mount_change, mount_move, move_mount, open_tree, unmount,
};

use crate::{Context, Error, Result};

mod later;
pub mod layers;
mod views;

/// A mount that is not in the file tree yet; gone if it is dropped.
#[derive(Debug)]
pub struct Detached {
    mount: OwnedFd,
    /// What this kernel can only do to a mount in the tree.
    later: later::Later,
}

/// How mounts made later travel between this mount and its peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// Not at all.
    Private,
    /// From the peers to here.
    Slave,
    /// Both ways.
    Shared,
}

/// What a mount does not let happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes(u64);

impl Attributes {
    /// Everything may happen.
    pub const NONE: Attributes = Attributes(0);
    /// No writes.
    pub const READ_ONLY: Attributes = Attributes(1);
    /// No set-user-id.
    pub const NOSUID: Attributes = Attributes(2);
    /// No devices.
    pub const NODEV: Attributes = Attributes(4);
    /// No programs.
    pub const NOEXEC: Attributes = Attributes(8);

    /// Both.
    #[must_use]
    pub const fn and(self, other: Attributes) -> Attributes {
        Attributes(self.0 | other.0)
    }
}

/// One mount or everything below it too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// The mount only.
    This,
    /// Sub-mounts too.
    Recursive,
}

#[repr(C)]
#[derive(Default)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

fn mount_setattr(mount: BorrowedFd<'_>, depth: Depth, attributes: &MountAttributes) -> Result<()> {
    const AT_RECURSIVE: libc::c_int = 0x8000;
    let recursive = if depth == Depth::Recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty C string, and the structure lives across the call with its
    // exact size passed; the kernel only reads both.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | recursive,
            std::ptr::from_ref(attributes),
            size_of::<MountAttributes>(),
        )
    };
    crate::process::check(answer).attempt(|| "mount_setattr").map(drop)
}

impl Detached {
    /// A copy of what is mounted at a path, as a bind mount has it.
    ///
    /// # Errors
    /// There is nothing at that path.
    pub fn bind(path: &Path, depth: Depth) -> Result<Self> {
        let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        if depth == Depth::Recursive {
            flags |= OpenTreeFlags::AT_RECURSIVE;
        }
        open_tree(CWD, path, flags).on("bind", path).map(Detached::from)
    }

    /// A copy of the mount that a file was opened on, with that file as its root.
    ///
    /// # Errors
    /// The mount is not one of this mount namespace.
    pub fn bind_opened(file: BorrowedFd<'_>) -> Result<Self> {
        let flags =
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        open_tree(file, "", flags).attempt(|| "bind an opened file").map(Detached::from)
    }

    /// A fresh file system of a kind (`proc`, `sysfs`, `tmpfs`, `mqueue`, `devpts`, `cgroup2`);
    /// options without a value are flags.
    ///
    /// # Errors
    /// The kernel does not know the kind or an option, or forbids it here.
    pub fn new(kind: &str, options: &[(&str, &str)], attributes: Attributes) -> Result<Self> {
        let attempt = || format!("mount {kind}");
        let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).attempt(attempt)?;
        for (key, value) in options {
            let set = if value.is_empty() {
                fsconfig_set_flag(context.as_fd(), *key)
            } else {
                fsconfig_set_string(context.as_fd(), *key, *value)
            };
            set.attempt(|| format!("mount {kind}: option {key}={value}"))?;
        }
        fsconfig_create(context.as_fd()).attempt(attempt)?;
        let flags = MountAttrFlags::from_bits_retain(u32::try_from(attributes.0).unwrap_or(0));
        fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, flags).attempt(attempt).map(Detached::from)
    }

    /// An overlay; `lowers` from the top. `volatile`: nothing of it is ever synced, which makes
    /// its end cheap; its work directory cannot be used again.
    ///
    /// Layers are given one by one, so neither their number nor the length of their names is
    /// limited by a page. A kernel that cannot is asked in its own form, for which the overlay lies
    /// on `work` for an instant: have a mount namespace of one's own, with private mounts.
    ///
    /// # Errors
    /// A directory is missing, or the file system below cannot hold an upper layer.
    pub fn overlay(lowers: &[PathBuf], upper: &Path, work: &Path) -> Result<Self> {
        let by_parts = if takes_parts(&kernel_release()) {
            overlay_by_parts(lowers, upper, work)
        } else {
            Err(Errno::INVAL)
        };
        let made = by_parts.or_else(|errno| match errno {
            Errno::INVAL => overlay_by_one_option(lowers, upper, work),
            other => Err(other),
        });
        made.map(Detached::from)
            .attempt(|| format!("mount overlay of {} layers on {}", lowers.len(), upper.display()))
    }

    /// Adds attributes.
    ///
    /// # Errors
    /// A sub-mount cannot have them.
    pub fn restrict(&self, attributes: Attributes, depth: Depth) -> Result<()> {
        let set = MountAttributes { set: attributes.0, ..Default::default() };
        self.later.unless(mount_setattr(self.mount.as_fd(), depth, &set), |later| {
            later.attributes = Some((attributes, depth));
        })
    }

    /// Sets how later mounts travel, for all of the tree.
    ///
    /// # Errors
    /// None in practice.
    pub fn propagate(&self, propagation: Propagation) -> Result<()> {
        let flag = match propagation {
            Propagation::Private => libc::MS_PRIVATE,
            Propagation::Slave => libc::MS_SLAVE,
            Propagation::Shared => libc::MS_SHARED,
        };
        let set = MountAttributes { propagation: flag, ..Default::default() };
        self.later.unless(mount_setattr(self.mount.as_fd(), Depth::Recursive, &set), |later| {
            later.propagation = Some(propagation);
        })
    }

    /// Puts the mount in place, on an opened file or directory.
    ///
    /// # Errors
    /// A directory is to be mounted on a file or the other way round.
    pub fn attach(self, target: BorrowedFd<'_>) -> Result<()> {
        self.attach_and_keep(target).map(drop)
    }

    /// Puts the mount in place as [`Detached::attach`] does, and gives its root: a way to it that
    /// leads through no path.
    ///
    /// # Errors
    /// As [`Detached::attach`].
    pub fn attach_and_keep(self, target: BorrowedFd<'_>) -> Result<OwnedFd> {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(self.mount.as_fd(), "", target, "", flags).attempt(|| "move_mount")?;
        self.later.apply(&self.mount)?;
        Ok(self.mount)
    }

    /// Puts the mount in place, on a path that is trusted.
    ///
    /// # Errors
    /// As [`Detached::attach`].
    pub fn attach_at(self, path: &Path) -> Result<()> {
        move_mount(self.mount.as_fd(), "", CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .on("mount on", path)?;
        self.later.apply(&self.mount)
    }

    /// True when the root of the mount is a directory.
    ///
    /// # Errors
    /// None in practice.
    pub fn is_directory(&self) -> Result<bool> {
        let stat = fstat(&self.mount).attempt(|| "stat a mount")?;
        Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
    }
}

impl From<OwnedFd> for Detached {
    fn from(mount: OwnedFd) -> Self {
        Detached { mount, later: later::Later::default() }
    }
}

/// What an overlay has beside its layers, whatever the kernel was built to do by default: no hard
/// links known across layers (an upper layer would be bound to the first lower ones it was used
/// with), and no marks of the layers believed that could lead to other files than those they name.
const OVERLAY_OPTIONS: [(&str, &str); 3] =
    [("index", "off"), ("metacopy", "off"), ("redirect_dir", "nofollow")];

fn kernel_release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// Kernels before 6.5 take any part of an overlay, say at the creation that it is invalid, as they
/// say of a wrong layer, and write a line into the kernel's log: they are not asked. One that is
/// asked and cannot is asked again in the old form.
fn takes_parts(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= (6, 5),
        _ => true,
    }
}

fn overlay_by_parts(lowers: &[PathBuf], upper: &Path, work: &Path) -> std::result::Result<OwnedFd, Errno> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let fs = context.as_fd();
    lowers.iter().try_for_each(|lower| fsconfig_set_string(fs, "lowerdir+", lower.as_path()))?;
    fsconfig_set_string(fs, "upperdir", upper)?;
    fsconfig_set_string(fs, "workdir", work)?;
    OVERLAY_OPTIONS.iter().try_for_each(|(key, value)| fsconfig_set_string(fs, *key, *value))?;
    fsconfig_set_flag(fs, "volatile")?;
    fsconfig_create(fs)?;
    fsmount(fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}

/// All options are one page, and a value given by `fsconfig` has at most 256 bytes there: so it is
/// the call `mount`, and each directory has the short name of a descriptor. Such a name needs no
/// escape, and the container does not see where the node keeps its layers.
fn overlay_by_one_option(
    lowers: &[PathBuf],
    upper: &Path,
    work: &Path,
) -> std::result::Result<OwnedFd, Errno> {
    let open = |path: &Path| {
        rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
    };
    let layers = lowers.iter().map(|lower| open(lower)).collect::<std::result::Result<Vec<_>, _>>()?;
    let (upper, work_opened) = (open(upper)?, open(work)?);
    let options = one_option(&layers, &upper, &work_opened);
    if options.as_bytes_with_nul().len() > layers::PAGE {
        return Err(Errno::TOOBIG);
    }
    rustix::mount::mount("overlay", work, "overlay", MountFlags::empty(), options.as_c_str())?;
    let copy = open_tree(CWD, work, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC);
    unmount(work, UnmountFlags::DETACH)?;
    copy
}

fn one_option(lowers: &[OwnedFd], upper: &OwnedFd, work: &OwnedFd) -> CString {
    let name = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
    let layers: Vec<String> = lowers.iter().map(name).collect();
    let mut options =
        format!("lowerdir={},upperdir={},workdir={},volatile", layers.join(":"), name(upper), name(work));
    for (key, value) in OVERLAY_OPTIONS {
        options += &format!(",{key}={value}");
    }
    CString::new(options).expect("made of names and numbers")
}

impl AsFd for Detached {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.mount.as_fd()
    }
}

/// Cuts the ties of all mounts of this mount namespace to others: what is mounted from now on
/// stays here, and what others mount does not arrive.
///
/// # Errors
/// No permission.
pub fn make_all_private() -> Result<()> {
    let flags = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", flags).attempt(|| "make mounts private")
}

/// Makes `root`, a mount point, the root of this mount namespace and drops all others.
///
/// # Errors
/// `root` is not a mount point.
pub fn pivot_into(root: &Path) -> Result<()> {
    rustix::process::chdir(root).on("chdir to", root)?;
    // With both arguments the same the old root lies on top of the new one at "/", and can be
    // taken off without a directory for it inside the image (runc does the same).
    match rustix::process::pivot_root(".", ".") {
        Ok(()) => unmount(".", UnmountFlags::DETACH).attempt(|| "unmount the old root")?,
        // The kernel's first root (an initramfs) cannot be left so: the new one is moved over it.
        Err(Errno::INVAL) => {
            mount_move(".", "/").on("move to /", root)?;
            rustix::process::chroot(".").on("chroot to", root)?;
        }
        Err(errno) => return Err(errno).on("pivot_root to", root),
    }
    rustix::process::chdir("/").attempt(|| "chdir to /")
}

/// Adds attributes to what is mounted at a path.
///
/// # Errors
/// Nothing is mounted there.
pub fn restrict(path: &Path, attributes: Attributes) -> Result<()> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let opened = rustix::fs::open(path, flags, Mode::empty()).on("open", path)?;
    restrict_opened(&opened, attributes)
}

/// Adds attributes to a mount that is open at its root.
///
/// # Errors
/// It is no root of a mount.
pub fn restrict_opened(mount: &OwnedFd, attributes: Attributes) -> Result<()> {
    let set = MountAttributes { set: attributes.0, ..Default::default() };
    match mount_setattr(mount.as_fd(), Depth::This, &set) {
        Err(error) if error.errno == Errno::NOSYS => later::restrict_in_place(mount, attributes, Depth::This),
        done => done,
    }
}

/// Unmounts, at once for the file tree, when unused for the kernel. Nothing mounted is fine.
///
/// # Errors
/// No permission.
pub fn detach(path: &Path) -> Result<()> {
    match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno).on("unmount", path),
    }
}

/// What should be at a mount's target when it is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// An error.
    Fail,
    /// An empty file.
    MakeFile,
    /// A directory.
    MakeDirectory,
}

/// Opens a path as seen from the root of this process, to mount on. What is missing is made.
/// Symbolic links stay inside the root, and magic ones (`/proc/*/fd`, `/proc/*/root`), which
/// could lead out of it, are refused.
///
/// # Errors
/// It is not there and may not be made, or leads through a magic link.
pub fn open_target(path: &Path, missing: Missing) -> Result<OwnedFd> {
    match open_inside(path) {
        Err(Errno::NOENT) if missing != Missing::Fail => {}
        other => return other.on("open", path),
    }
    make_missing(path, missing, 0)?;
    open_inside(path).on("open", path)
}

fn open_inside(path: &Path) -> std::result::Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    rustix::io::retry_on_intr(|| openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS))
}

/// How many links that point to nothing are followed for one target.
const LINKS_MAX: u32 = 16;

/// Makes the directories above, then the last part. What a symbolic link points to is made when
/// it is missing (images link /etc/resolv.conf into /run); the root is ours, so no link leads out.
fn make_missing(path: &Path, missing: Missing, links: u32) -> Result<()> {
    let mut at = open_inside(Path::new("/")).on("open", "/")?;
    let mut done = PathBuf::from("/");
    let mut parts = path.components().filter(|part| !matches!(part, Component::RootDir)).peekable();
    while let Some(part) = parts.next() {
        let name = part.as_os_str();
        let made = if parts.peek().is_none() && missing == Missing::MakeFile {
            make_file(&at, name).map(|()| None)
        } else {
            make_directory(&at, name).map(Some)
        };
        match made {
            Ok(Some(next)) => at = next,
            Ok(None) => return Ok(()),
            Err(errno @ (Errno::NOENT | Errno::LOOP)) => {
                let Ok(link) = rustix::fs::readlinkat(&at, name, Vec::new()) else {
                    return Err(errno).on("open", path);
                };
                if links == LINKS_MAX {
                    return Err(Errno::LOOP).on("open", path);
                }
                let mut target = done.join(std::ffi::OsStr::from_bytes(link.as_bytes()));
                target.extend(parts);
                return make_missing(&target, missing, links + 1);
            }
            Err(errno) => return Err(errno).on("make", path),
        }
        done.push(name);
    }
    Ok(())
}

fn make_file(at: &OwnedFd, name: &std::ffi::OsStr) -> std::result::Result<(), Errno> {
    let flags = OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::openat(at, name, flags, Mode::from_raw_mode(0o644)).map(drop)
}

fn make_directory(at: &OwnedFd, name: &std::ffi::OsStr) -> std::result::Result<OwnedFd, Errno> {
    match mkdirat(at, name, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::DIRECTORY;
    openat2(at, name, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS)
}

/// Makes a device node of that name in an opened directory.
///
/// # Errors
/// It exists, or no permission.
pub fn make_device(
    directory: BorrowedFd<'_>,
    name: impl AsRef<Path>,
    kind: FileType,
    mode: u32,
    device: u64,
) -> Result<()> {
    let (name, mode) = (name.as_ref(), Mode::from_raw_mode(mode));
    rustix::fs::mknodat(directory, name, kind, mode, device).on("mknod", name)
}

/// A file by way of a mount of its own that lets nobody change it: neither its content nor its
/// mode, whoever has it. Its pages in memory are those of the file.
///
/// # Errors
/// It is not there, or no permission.
pub fn read_only_file(path: &Path) -> Result<OwnedFd> {
    let copy = Detached::bind(path, Depth::This)?;
    let read_only = MountAttributes { set: Attributes::READ_ONLY.0, ..Default::default() };
    match mount_setattr(copy.mount.as_fd(), Depth::This, &read_only) {
        Ok(()) => Ok(copy.mount),
        Err(error) if error.errno == Errno::NOSYS => read_only_file_elsewhere(path),
        Err(error) => Err(error),
    }
}

/// Before Linux 5.12 a mount must be in a file tree to become read-only: that of a thread, which
/// goes with it. What was opened on the mount keeps it.
fn read_only_file_elsewhere(path: &Path) -> Result<OwnedFd> {
    use rustix::mount::{MountFlags, mount_bind, mount_remount};
    let open = || {
        crate::namespace::unshare(crate::namespace::Namespaces::MOUNT)?;
        make_all_private()?;
        // Where it really is: /proc/self is the process, and a link to it no place for a mount.
        let path = std::fs::canonicalize(path).on("find", path)?;
        mount_bind(&path, &path).on("bind", &path)?;
        mount_remount(&path, MountFlags::BIND | MountFlags::RDONLY, c"").on("remount", &path)?;
        rustix::fs::open(&path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).on("open", &path)
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(256 << 10).spawn_scoped(scope, open);
        let ended = thread.attempt(|| "start a thread")?.join();
        ended.unwrap_or_else(|_| Err(Error::new("open a file read-only", Errno::IO)))
    })
}

/// A null device that nobody else has: whoever has it open as root changes its mode for himself
/// alone. Where no node can be made it is the one at /dev/null.
///
/// # Errors
/// There is none there either.
pub fn null_device() -> Result<OwnedFd> {
    own_null_device().or_else(|_| {
        rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).on("open", "/dev/null")
    })
}

fn own_null_device() -> Result<OwnedFd> {
    let options = [("size", "4k"), ("nr_inodes", "2"), ("mode", "500")];
    let place = Detached::new("tmpfs", &options, Attributes::NOSUID.and(Attributes::NOEXEC))?;
    let (kind, device) = (FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    let attempt = || "make a null device";
    rustix::fs::mknodat(&place.mount, "null", kind, Mode::from_raw_mode(0o666), device).attempt(attempt)?;
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    // The file keeps what it is on when the mount goes.
    rustix::fs::openat(&place.mount, "null", flags, Mode::empty()).attempt(attempt)
}

/// A path as the kernel takes it.
///
/// # Errors
/// There is a zero byte in it.
pub fn c_path(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| Error::new(format!("use {path:?}"), Errno::INVAL))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Form = fn(&[PathBuf], &Path, &Path) -> std::result::Result<OwnedFd, Errno>;

    /// Mounts an overlay of layers with one file each in a mount namespace of its own, and returns
    /// the names of the files seen in it and what was written to the upper layer.
    fn overlay_of(layers: &[&str], form: Form) -> (usize, Vec<String>) {
        let home = tempfile::tempdir().unwrap();
        let base = home.path().to_path_buf();
        let lowers: Vec<PathBuf> = layers.iter().map(|name| base.join("layers").join(name)).collect();
        for (number, lower) in lowers.iter().enumerate() {
            std::fs::create_dir_all(lower).unwrap();
            std::fs::write(lower.join(format!("file-{number}")), "").unwrap();
        }
        for name in ["upper", "work", "root"] {
            std::fs::create_dir(base.join(name)).unwrap();
        }
        // A namespace is a thread's own, and ends with it.
        std::thread::spawn(move || {
            crate::namespace::unshare(crate::namespace::Namespaces::MOUNT).unwrap();
            make_all_private().unwrap();
            let mount = Detached::from(form(&lowers, &base.join("upper"), &base.join("work")).unwrap());
            assert!(!is_mounted(&base.join("work")), "nothing stays on the work directory");
            mount.attach_at(&base.join("root")).unwrap();
            let seen = std::fs::read_dir(base.join("root")).unwrap().count();
            std::fs::write(base.join("root/new"), "").unwrap();
            let written = std::fs::read_dir(base.join("upper")).unwrap();
            (seen, written.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect())
        })
        .join()
        .unwrap()
    }

    fn is_mounted(path: &Path) -> bool {
        let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        mounts.lines().any(|line| line.split(' ').nth(4) == path.to_str())
    }

    fn root() -> bool {
        let root = rustix::process::geteuid().is_root();
        if !root {
            eprintln!("skipped: needs root");
        }
        root
    }

    /// Longer in all than a page, with what old kernels split options and layers at in some names.
    fn many_layers() -> Vec<String> {
        (0..120).map(|number| format!("a:b,c\\d-{number}-{}", "e".repeat(100))).collect()
    }

    #[test]
    fn kernels_that_take_all_layers_in_one_option_mount_more_than_a_page_of_names() {
        if !root() {
            return;
        }
        let layers = many_layers();
        let layers: Vec<&str> = layers.iter().map(String::as_str).collect();
        assert_eq!(overlay_of(&layers, overlay_by_one_option), (120, vec!["new".to_owned()]));
        assert_eq!(overlay_of(&["one"], overlay_by_one_option).0, 1);
    }

    #[test]
    fn any_kernel_mounts_more_than_a_page_of_names() {
        if !root() {
            return;
        }
        let layers = many_layers();
        let layers: Vec<&str> = layers.iter().map(String::as_str).collect();
        let form: Form = |lowers, upper, work| {
            Detached::overlay(lowers, upper, work).map(|made| made.mount).map_err(|e| e.errno)
        };
        assert_eq!(overlay_of(&layers, form), (120, vec!["new".to_owned()]));
    }

    #[test]
    fn kernels_before_6_5_are_asked_in_their_own_form_at_once() {
        let asked = ["5.10.0-46-cloud-amd64", "6.1.0-57", "6.4", "6.5.0", "6.12.117+deb13", "7.0-rc1", "odd"];
        assert_eq!(asked.map(takes_parts), [false, false, false, true, true, true, true]);
    }

    #[test]
    fn layers_that_do_not_fit_into_a_page_even_so_are_an_error() {
        let home = tempfile::tempdir().unwrap();
        let lowers = vec![home.path().to_path_buf(); 400];
        let made = overlay_by_one_option(&lowers, home.path(), home.path());
        assert_eq!(made.unwrap_err(), Errno::TOOBIG);
    }

    #[test]
    fn missing_targets_are_made_and_found() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("a/b/file");
        open_target(&file, Missing::MakeFile).unwrap();
        assert!(file.is_file());
        open_target(&home.path().join("x/y"), Missing::MakeDirectory).unwrap();
        assert!(home.path().join("x/y").is_dir());
        let error = open_target(&home.path().join("z"), Missing::Fail).unwrap_err();
        assert_eq!(error.errno, Errno::NOENT);
    }

    #[test]
    fn the_target_of_a_dangling_link_is_made() {
        let home = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("run/deep/file", home.path().join("link")).unwrap();
        open_target(&home.path().join("link"), Missing::MakeFile).unwrap();
        assert!(home.path().join("run/deep/file").is_file());
        std::os::unix::fs::symlink("self", home.path().join("self")).unwrap();
        let error = open_target(&home.path().join("self"), Missing::MakeFile).unwrap_err();
        assert_eq!(error.errno, Errno::LOOP);
    }

    #[test]
    fn a_file_behind_a_read_only_mount_of_its_own_cannot_be_changed_by_any_way() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("program");
        std::fs::write(&path, "content").unwrap();
        for opened in [read_only_file(&path).unwrap(), read_only_file_elsewhere(&path).unwrap()] {
            let link = format!("/proc/self/fd/{}", opened.as_raw_fd());
            assert_eq!(std::fs::read_to_string(&link).unwrap(), "content");
            let mode = rustix::fs::chmod(&link, Mode::from_raw_mode(0o777));
            assert_eq!(mode, Err(Errno::ROFS));
            let written = rustix::fs::open(&link, OFlags::WRONLY, Mode::empty());
            assert_eq!(written.unwrap_err(), Errno::ROFS);
        }
        std::fs::write(&path, "new").unwrap();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(home.path().to_str().unwrap()));
    }

    #[test]
    fn magic_links_do_not_lead_out() {
        let error = open_target(Path::new("/proc/self/root/tmp"), Missing::Fail).unwrap_err();
        assert_eq!(error.errno, Errno::LOOP);
    }
}
