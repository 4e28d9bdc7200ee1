//! Mounts that show other than what is: files as those of other users, and the processes of others.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use super::{Depth, Detached, MountAttributes, mount_setattr};
use crate::{Context, Error, Result};

/// Number of the root directory of each procfs.
const PROC_ROOT: u64 = 1;

impl Detached {
    /// A copy of the procfs at /proc of this mount namespace, without what covers parts of it.
    ///
    /// # Errors
    /// Something else is there.
    pub fn proc_from_here() -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = openat2(CWD, "/proc", flags, Mode::empty(), ResolveFlags::NO_SYMLINKS);
        let opened = opened.on("open", "/proc")?;
        let kind = rustix::fs::fstatfs(&opened).on("look at", "/proc")?.f_type;
        let root = fstat(&opened).on("look at", "/proc")?.st_ino == PROC_ROOT;
        if !root || kind != rustix::fs::PROC_SUPER_MAGIC {
            return Err(Error::new("find a procfs at /proc", Errno::NODEV));
        }
        match Self::bind_opened(opened.as_fd()) {
            // In the mounts of a user namespace what covers parts of it cannot be left out.
            Err(error) if error.errno == Errno::INVAL => Self::bind_opened_with_all(opened.as_fd()),
            copy => copy,
        }
    }

    fn bind_opened_with_all(file: BorrowedFd<'_>) -> Result<Self> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH
            | OpenTreeFlags::AT_RECURSIVE;
        open_tree(file, "", flags).attempt(|| "bind an opened tree").map(Detached::from)
    }

    /// Shows the owners of files as a user namespace has them: what belongs to 0 belongs to its root.
    /// Sub-mounts stay as they are.
    ///
    /// # Errors
    /// The file system cannot on this kernel, or the mount has been mapped already.
    pub fn map_ids(&self, namespace: BorrowedFd<'_>) -> Result<()> {
        const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
        let user_namespace = u64::from(namespace.as_raw_fd().cast_unsigned());
        let set = MountAttributes { set: MOUNT_ATTR_IDMAP, user_namespace, ..Default::default() };
        mount_setattr(self.mount.as_fd(), Depth::This, &set)
            .map_err(|error| Error::new("failed to set MOUNT_ATTR_IDMAP", error.errno))
    }
}
