//! The process of a shim, known by a descriptor: never mistaken for one that got its number.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::Child;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// How often a process is looked at that cannot be waited for (the daemon has no descriptor left).
const LOOK: Duration = Duration::from_secs(1);

const KILL: i32 = 9;

/// A shim's process.
#[derive(Debug)]
pub(crate) struct Peer {
    pid: i32,
    process: OwnedFd,
}

impl Peer {
    /// A shim that was started and not waited for.
    pub(crate) fn of_child(child: &Child) -> io::Result<Self> {
        Self::of(i32::try_from(child.id()).unwrap_or_default())
    }

    /// The one that listens at the other end of a connection. It must answer on it afterwards: then
    /// it lived when its descriptor was opened, and the number was its own.
    pub(crate) fn of_socket(socket: impl AsFd) -> io::Result<Self> {
        Self::of(rustix::net::sockopt::socket_peercred(socket)?.pid.as_raw_nonzero().get())
    }

    fn of(pid: i32) -> io::Result<Self> {
        let process = sys::process::open_pidfd(pid).map_err(|error| io::Error::from(error.errno))?;
        Ok(Peer { pid, process })
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    pub(crate) fn process(&self) -> BorrowedFd<'_> {
        self.process.as_fd()
    }

    pub(crate) fn kill(&self) -> io::Result<()> {
        Ok(sys::process::kill_exactly(self.process.as_fd(), KILL)?)
    }

    pub(crate) fn has_ended(&self) -> bool {
        let mut fds = [PollFd::new(&self.process, PollFlags::IN)];
        matches!(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(1))
    }

    /// Waits for its end.
    pub(crate) async fn ended(&self) {
        if let Ok(process) = self.process.try_clone().and_then(waited_for) {
            let _ = process.readable().await;
        }
        while !self.has_ended() {
            tokio::time::sleep(LOOK).await;
        }
    }
}

#[expect(
    deprecated,
    reason = "its replacement is unsafe for types whose descriptor may change; an OwnedFd's never does"
)]
fn waited_for(process: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(process, Interest::READABLE)
}
