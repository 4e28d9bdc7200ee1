//! Namespaces: leaving the old, joining others'.

use std::ops::BitOr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::thread::{LinkNameSpaceType, ThreadNameSpaceType, UnshareFlags};

use crate::{Context, Errno, Error, Result};

pub mod user;

/// A set of kinds of namespaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Namespaces(u32);

impl Namespaces {
    /// None.
    pub const NONE: Namespaces = Namespaces(0);
    /// Mounts.
    pub const MOUNT: Namespaces = Namespaces(0x0002_0000);
    /// View of the cgroup trees.
    pub const CGROUP: Namespaces = Namespaces(0x0200_0000);
    /// Host name.
    pub const UTS: Namespaces = Namespaces(0x0400_0000);
    /// SysV objects and POSIX queues.
    pub const IPC: Namespaces = Namespaces(0x0800_0000);
    /// Users and groups.
    pub(crate) const USER: Namespaces = Namespaces(0x1000_0000);
    /// Process ids; for children, not for the caller.
    pub const PID: Namespaces = Namespaces(0x2000_0000);
    /// Network.
    pub const NETWORK: Namespaces = Namespaces(0x4000_0000);

    pub(crate) fn bits(self) -> u64 {
        self.0.into()
    }

    /// Nothing in the set.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl BitOr for Namespaces {
    type Output = Namespaces;

    fn bitor(self, other: Namespaces) -> Namespaces {
        Namespaces(self.0 | other.0)
    }
}

/// Puts the calling thread in fresh namespaces.
///
/// # Errors
/// No permission, or too many namespaces.
pub fn unshare(namespaces: Namespaces) -> Result<()> {
    let flags = UnshareFlags::from_bits_retain(namespaces.0);
    // SAFETY: only kinds of namespaces can be in the set, never CLONE_FILES, so no descriptor
    // changes its meaning for other threads.
    unsafe { rustix::thread::unshare_unsafe(flags) }.attempt(|| "unshare")
}

/// Moves the calling thread (for PID: its children) into namespaces of a process.
///
/// # Errors
/// No permission, or the process is gone.
pub fn enter_of_process(pidfd: BorrowedFd<'_>, namespaces: Namespaces) -> Result<()> {
    let kinds = ThreadNameSpaceType::from_bits_retain(namespaces.0);
    rustix::thread::move_into_thread_name_spaces(pidfd, kinds).attempt(|| "setns")
}

/// Moves the calling thread (for PID: its children) into an opened namespace.
///
/// # Errors
/// No permission.
pub fn enter(namespace: BorrowedFd<'_>) -> Result<()> {
    rustix::thread::move_into_link_name_space(namespace, None).attempt(|| "setns")
}

/// Runs a function among the mounts of another namespace, given by its file or by a process in it,
/// and comes back. The working directory and the root are this namespace's afterwards.
///
/// # Errors
/// It cannot be joined, or the function fails.
pub fn among_mounts<T>(there: BorrowedFd<'_>, run: impl FnOnce() -> Result<T>) -> Result<T> {
    let here = open("/proc/self/ns/mnt")?;
    rustix::thread::move_into_link_name_space(there, Some(LinkNameSpaceType::Mount))
        .attempt(|| "join mount namespace")?;
    let result = run();
    enter(here.as_fd())?;
    result
}

/// Opens a namespace file, such as `/proc/<pid>/ns/net`.
///
/// # Errors
/// It is not there.
pub fn open(path: impl AsRef<Path>) -> Result<OwnedFd> {
    let path = path.as_ref();
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).on("open", path)
}

/// Runs a function in a network namespace, on a thread of its own that ends with it. Sockets
/// made there stay in that namespace wherever they are used later.
///
/// # Errors
/// The namespace cannot be joined, or no thread be made.
pub fn inside_network<T: Send>(namespace: impl AsFd, run: impl FnOnce() -> T + Send) -> Result<T> {
    let namespace = namespace.as_fd();
    std::thread::scope(|scope| {
        let inside = move || {
            rustix::thread::move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network))
                .attempt(|| "join network namespace")?;
            Ok(run())
        };
        let thread = std::thread::Builder::new()
            .stack_size(256 << 10)
            .spawn_scoped(scope, inside)
            .attempt(|| "start a thread")?;
        thread.join().unwrap_or_else(|_| Err(Error::new("run in network namespace", Errno::IO)))
    })
}
