//! PID 1 of a PID namespace that containers share.
//!
//! All containers of the Pod see it, and one with `SYS_PTRACE` is its master: it can look through
//! its root directory and make it run anything. So there is nothing behind it: an empty root, a
//! user of no rights, no capabilities, no system calls but waiting, and no time to compute.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::Mode;
use rustix::process::{Gid, Resource, Signal, Uid};
use sys::capability::Capabilities;
use sys::mount::{self, Attributes, Detached};
use sys::namespace::{self, Namespaces};
use sys::process::{self, Forked, SingleThreaded};
use sys::seccomp::{self, Profile};
use sys::{Context, Errno, Error, Result};

use crate::sandbox::Reaper;

/// User and group of upstream's pause image.
const NOBODY: u32 = 65_535;

/// Seconds of computing after which the kernel ends it, and with it the Pod. It needs none: the
/// kernel reaps by itself where nobody wants to know.
const SECONDS_MAX: u64 = 10;

/// Makes the PID namespace with its PID 1. `directory`: any that is there, to turn the root from.
pub(crate) fn make(proof: &SingleThreaded, directory: &Path) -> Result<Reaper> {
    let (ours, theirs) = sys::socket::packet_pair().attempt(|| "make a socket for the reaper")?;
    match process::fork(proof, Namespaces::PID | Namespaces::MOUNT, None)? {
        Forked::Parent { pid, pidfd } => {
            drop(theirs);
            let mounts = receive_mounts(&ours);
            if mounts.is_err() {
                let _ = process::kill_exactly(pidfd.as_fd(), libc::SIGKILL);
                let _ = process::wait_exactly(pidfd.as_fd());
            }
            Ok(Reaper { pid, pidfd, mounts: mounts? })
        }
        Forked::Child => {
            process::set_name(c"monopod-pause");
            process::close_all_but(&[theirs.as_fd()]);
            let Err(error) = live(theirs.as_fd(), directory);
            let _ = sys::socket::send(&theirs, error.to_string().as_bytes(), &[]);
            process::exit_now(1)
        }
    }
}

/// A mount namespace, or what the child could not do.
fn receive_mounts(control: &OwnedFd) -> Result<OwnedFd> {
    let (mut words, mut fds) = ([0; 512], Vec::new());
    let length = sys::socket::receive(control, &mut words, &mut fds).attempt(|| "hear from the reaper")?;
    fds.pop().ok_or_else(|| {
        let words = String::from_utf8_lossy(&words[..length]).into_owned();
        Error::new(format!("make the reaper of a shared PID namespace: {words}"), Errno::CHILD)
    })
}

/// In the child; returns only when something cannot be had.
fn live(control: BorrowedFd<'_>, directory: &Path) -> Result<std::convert::Infallible> {
    // While nobody else is in the namespace.
    let mounts = make_root(directory)?;
    sys::socket::send(control, b"m", &[mounts.as_fd()]).attempt(|| "hand over the mounts")?;
    drop(mounts);
    namespace::unshare(Namespaces::MOUNT)?;
    mount::detach(Path::new("/proc"))?;
    // An older kernel (5.12) has no such call; the file system has no room for a file either.
    let _ = mount::restrict(Path::new("/"), Attributes::READ_ONLY);
    become_nobody()?;
    process::reset_signals();
    process::ignore_children();
    process::close_all_but(&[]);
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).attempt(|| "set death signal")?;
    rustix::thread::set_no_new_privs(true).attempt(|| "set no_new_privs")?;
    seccomp::install(
        &Profile::waiting()
            .compile(Capabilities::NONE)
            .map_err(|error| Error::new(format!("make the reaper's filter: {error}"), Errno::INVAL))?,
    )?;
    process::wait_for_ever()
}

/// A root with nothing but /proc in it. Gives its mount namespace, for [`Reaper::mounts`].
fn make_root(directory: &Path) -> Result<OwnedFd> {
    let quiet = Attributes::NOSUID.and(Attributes::NODEV).and(Attributes::NOEXEC);
    let small = [("size", "4k"), ("nr_inodes", "2"), ("mode", "555")];
    mount::make_all_private()?;
    Detached::new("tmpfs", &small, quiet)?.attach_at(directory)?;
    mount::pivot_into(directory)?;
    rustix::fs::mkdir("/proc", Mode::from_raw_mode(0o555)).on("mkdir", Path::new("/proc"))?;
    Detached::new("proc", &[], quiet)?.attach_at(Path::new("/proc"))?;
    namespace::open("/proc/self/ns/mnt")
}

fn become_nobody() -> Result<()> {
    sys::limits::set(Resource::Cpu, SECONDS_MAX, SECONDS_MAX)?;
    Capabilities::NONE.bound()?;
    rustix::thread::set_thread_groups(&[]).attempt(|| "setgroups")?;
    let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    rustix::thread::set_thread_res_gid(gid, gid, gid).attempt(|| "setgid")?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).attempt(|| "setuid")?;
    Capabilities::NONE.apply()?;
    process::forbid_inspection();
    Ok(())
}
