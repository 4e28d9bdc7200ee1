//! The birth of a program among processes of others.
//!
//! ```text
//! child, unseen                        program, seen by its neighbours
//!  │ mounts, user, capabilities, filter
//!  │ fork, beside itself ──────────────> waits
//!  │ Born (with its descriptor) ─> shim
//!  │ the word ─────────────────────────> session, exec
//!  │ ends
//! ```
//!
//! A process with `SYS_PTRACE` reads and changes every process that it can see, whatever that one
//! may do and however it guards itself. So what joins a PID namespace with others in it does all
//! its work outside, where they have no number for it, and is born there only when nothing is
//! left that the container does not have itself: no capability, no descriptor, no mount.

use rustix::pipe::PipeFlags;
use sys::Context;
use sys::process::{self, BESIDE, Forked};
use sys::seccomp::Program;

use super::{Child, Report, report};
use crate::protocol::Failure;

/// Goes on as the program-to-be, a child of the shim's in the other namespace; what called it
/// ends. With a terminal as standard input that one becomes its own.
pub(super) fn be_born(child: &Child<'_>) -> Result<(), Failure> {
    let (word, sayer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).attempt(|| "make a pipe")?;
    match process::fork_beside(child.proof)? {
        Forked::Parent { pidfd, .. } => {
            // The shim must know it before it can end, or its end would be nobody's.
            report(child, &Report::Born, Some(&pidfd));
            let _ = rustix::io::write(&sayer, b"b");
            process::exit_now(0)
        }
        Forked::Child => {
            drop(sayer);
            let heard = rustix::io::retry_on_intr(|| rustix::io::read(&word, &mut [0; 1]));
            if heard != Ok(1) {
                process::exit_now(1);
            }
            rustix::process::setsid().attempt(|| "setsid")?;
            if child.stdio.is_none() {
                process::take_terminal(rustix::stdio::stdin())?;
            }
            Ok(())
        }
    }
}

/// Whether a filter lets a birth happen. One that does not is put on after it, which without
/// `SYS_ADMIN` needs `no_new_privs`.
pub(super) fn is_possible_under(filter: &Program) -> bool {
    let calls = ["read", "close", "setsid", "ioctl", "prctl", "execve"];
    filter.permits("clone", [BESIDE, 0, 0, 0, 0, 0]) && calls.iter().all(|name| filter.permits(name, [0; 6]))
}
