//! The child between fork and exec: it turns itself into the container.
//!
//! ```text
//! shim                                 child
//!  │ fork ──────────────────────────────> waits
//!  │ into its cgroup, limits
//!  │ Go ────────────────────────────────> mounts, devices, user ...
//!  │ <──────────────────── Prepared{user} (with the terminal)
//!  │ Start ─────────────────────────────> filter, capabilities, user, exec
//!  │ <───────────── end of the socket     (the exec has closed it)
//!  │ <── or Failed, at any point
//! ```
//!
//! What runs among processes that are there already is born among them at the very end (`birth`).
//!
//! The child is a copy of a process with one thread, so it may run any code; it ends by exec or
//! by [`sys::process::exit_now`], never by returning.

mod birth;
mod device;
mod finish;
mod kernel;
mod lookup;
mod rootfs;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sys::beneath::Directory;
use sys::cgroup::Hierarchy;
use sys::mount::Detached;
use sys::namespace::Namespaces;
use sys::process::{self, SingleThreaded};

use crate::protocol::{ContainerSpec, ExecSpec, Failure, FailureKind, ResolvedUser};
use crate::users::{Mounts, Users};
pub(crate) use device::rules as device_rules;
use finish::Identity;

/// What the child tells the shim. A terminal's master comes along with `Prepared`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// Everything is in place.
    Prepared {
        /// Who the program will run as.
        user: ResolvedUser,
        /// That user's home directory.
        home: String,
    },
    /// From now on another child of the shim's is the program; its descriptor comes along.
    Born,
    /// It cannot be done; the child ends.
    Failed(Failure),
}

/// The shim's word to the child: it is in its cgroup.
pub(crate) const GO: &[u8] = b"g";
/// The shim's word to the child: execute.
pub(crate) const START: &[u8] = b"s";
/// Longest report: a socket of packets needs room for a whole one.
pub(crate) const REPORT_MAX: usize = 16 << 10;

/// Which of the words have been said, checked on both sides: the order is part of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sequence {
    /// Made; waits for `GO`.
    Forked,
    /// Prepares itself.
    Preparing,
    /// Waits for `START`.
    Prepared,
    /// Was told to execute.
    Starting,
}

/// The child's ends of what connects it with the shim.
pub(crate) struct Child<'a> {
    /// Packets to and from the shim.
    pub(crate) control: BorrowedFd<'a>,
    /// Standard input, output and error; `None`: a terminal is made.
    pub(crate) stdio: Option<[BorrowedFd<'a>; 3]>,
    /// That it may fork.
    pub(crate) proof: &'a SingleThreaded,
    /// Processes that the program runs among; `None`: it has a PID namespace of its own, or the
    /// node's.
    pub(crate) among: Option<Neighbours<'a>>,
    /// Who the program's users are; `None`: the node's.
    pub(crate) users: Option<&'a Users>,
}

/// Processes of others in one PID namespace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Neighbours<'a> {
    /// One of them.
    pub(crate) process: BorrowedFd<'a>,
    /// A mount namespace, or a process in one, whose /proc shows them.
    pub(crate) mounts: BorrowedFd<'a>,
}

impl Neighbours<'_> {
    /// The /proc of a container among them. Only a process that they see could mount a new one.
    fn procfs(&self) -> sys::Result<Detached> {
        sys::namespace::among_mounts(self.mounts, Detached::proc_from_here)
    }
}

/// Becomes a container's first process.
pub(crate) fn container(child: &Child<'_>, spec: &ContainerSpec, directory: &Path, cgroups: &Hierarchy) -> ! {
    run(child, || {
        process::set_name(c"monopod-init");
        sys::limits::set_oom_score_adj(spec.oom_score_adj)?;
        // Without them the container sees the node's paths; all else works.
        let own_view = sys::namespace::unshare(Namespaces::CGROUP).is_ok();
        let filter = finish::filter(&spec.security)?;
        let procfs = child.among.map(|neighbours| neighbours.procfs()).transpose()?;
        let views = own_view.then(|| cgroups.views(&spec.cgroup));
        let dev =
            rootfs::build(spec, directory, rootfs::Around { cgroups: views, procfs, users: child.users })?;
        if let Some(neighbours) = child.among {
            sys::namespace::enter_of_process(neighbours.process, Namespaces::PID)?;
        }
        let terminal = standard_streams(child, spec.tty, Some(&dev))?;
        // No working directory leads through what was needed to build the root.
        drop(dev);
        let (user, home) = finish::resolve_user(&spec.user)?;
        child.users.map_or(Ok(()), |users| users.must_have(&user))?;
        report(child, &Report::Prepared { user: user.clone(), home: home.clone() }, terminal.as_ref());
        drop(terminal);
        wait_for(child, START);
        finish::execute(
            child,
            &Identity {
                user: &user,
                security: &spec.security,
                filter: filter.as_ref(),
                environment: environment(&spec.env, &home, &[], spec.tty),
                argv: &spec.argv,
                cwd: &spec.cwd,
                rlimits: &spec.rlimits,
                mounts: Mounts::Built,
            },
        )
    })
}

/// A container that a further command is run in.
pub(crate) struct Inside<'a> {
    pub(crate) spec: &'a ContainerSpec,
    pub(crate) user: &'a ResolvedUser,
    pub(crate) home: &'a str,
    /// Its first process.
    pub(crate) process: BorrowedFd<'a>,
}

/// Becomes a further command in a container.
pub(crate) fn exec(child: &Child<'_>, inside: &Inside<'_>, exec: &ExecSpec) -> ! {
    run(child, || {
        process::set_name(c"monopod-exec");
        sys::limits::set_oom_score_adj(inside.spec.oom_score_adj)?;
        let filter = finish::filter(&inside.spec.security)?;
        let namespaces = Namespaces::MOUNT | Namespaces::CGROUP | Namespaces::PID;
        sys::namespace::enter_of_process(inside.process, namespaces)?;
        let terminal = standard_streams(child, exec.tty, None)?;
        let user = inside.user;
        report(child, &Report::Prepared { user: user.clone(), home: String::new() }, terminal.as_ref());
        drop(terminal);
        finish::execute(
            child,
            &Identity {
                user,
                security: &inside.spec.security,
                filter: filter.as_ref(),
                environment: environment(&inside.spec.env, inside.home, &exec.env, exec.tty),
                argv: &exec.argv,
                cwd: &inside.spec.cwd,
                rlimits: &inside.spec.rlimits,
                mounts: Mounts::Joined,
            },
        )
    })
}

/// The frame around both: waits for the word, reports a failure, and never returns.
fn run(child: &Child<'_>, work: impl FnOnce() -> Result<(), Failure>) -> ! {
    let done = catch_unwind(AssertUnwindSafe(|| {
        let mut kept = vec![child.control];
        kept.extend(child.stdio.iter().flatten());
        kept.extend(child.users.map(Users::namespace));
        kept.extend(child.among.iter().flat_map(|neighbours| [neighbours.process, neighbours.mounts]));
        process::close_all_but(&kept);
        wait_for(child, GO);
        rustix::process::umask(rustix::fs::Mode::empty());
        rustix::process::setsid().map_err(|errno| sys::Error::new("setsid", errno))?;
        work()
    }));
    let failure = match done {
        Ok(Err(failure)) => failure,
        _ => Failure::new(FailureKind::Host, "container init stopped unexpectedly"),
    };
    report(child, &Report::Failed(failure), None);
    process::exit_now(1)
}

/// Waits for a word of the shim. Without the shim there is nothing to live for.
fn wait_for(child: &Child<'_>, word: &[u8]) {
    let mut byte = [0; 1];
    match sys::socket::receive(child.control, &mut byte, &mut Vec::new()) {
        Ok(1) if byte == word => {}
        _ => process::exit_now(1),
    }
}

fn report(child: &Child<'_>, report: &Report, terminal: Option<&OwnedFd>) {
    let fds: Vec<BorrowedFd<'_>> = terminal.iter().map(|fd| fd.as_fd()).collect();
    let sent =
        serde_json::to_vec(report).is_ok_and(|bytes| sys::socket::send(child.control, &bytes, &fds).is_ok());
    if !sent {
        process::exit_now(1);
    }
}

/// Puts pipes or a new terminal at 0, 1 and 2. Gives a terminal's master; a container's terminal
/// is its console too, in the /dev that was made for it.
fn standard_streams(
    child: &Child<'_>,
    tty: bool,
    dev: Option<&Directory>,
) -> Result<Option<OwnedFd>, Failure> {
    if let (Some([stdin, stdout, stderr]), false) = (&child.stdio, tty) {
        process::set_standard_streams(*stdin, *stdout, *stderr)?;
        return Ok(None);
    }
    let terminal = sys::pty::open()?;
    let slave = terminal.slave.as_fd();
    process::set_standard_streams(slave, slave, slave)?;
    if child.among.is_none() {
        process::take_terminal(slave)?;
    }
    if let Some(dev) = dev {
        // By descriptor: a mount of the Pod's may have put anything at these paths.
        let target = dev.make_file("console", 0o600)?;
        Detached::bind_opened(slave)?.attach(target.as_fd())?;
    }
    Ok(Some(terminal.master))
}

/// `PATH` for images that set none (containerd's).
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The program's environment: defaults, then the container's, then the command's; of a name given
/// several times the last counts.
fn environment(container: &[String], home: &str, more: &[String], tty: bool) -> Vec<String> {
    let mut defaults = vec![PATH.to_owned(), format!("HOME={home}")];
    if tty {
        defaults.push("TERM=xterm".to_owned());
    }
    let mut chosen: Vec<String> = Vec::new();
    let name = |variable: &str| variable.split('=').next().unwrap_or(variable).to_owned();
    for variable in defaults.iter().chain(container).chain(more) {
        match chosen.iter().position(|known| name(known) == name(variable)) {
            Some(place) => chosen[place].clone_from(variable),
            None => chosen.push(variable.clone()),
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_variables_win_and_defaults_fill_in() {
        let list = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect::<Vec<_>>();
        let got = environment(&list(&["A=1", "HOME=/x", "A=2"]), "/root", &list(&["B=3"]), true);
        assert_eq!(got, [PATH, "HOME=/x", "TERM=xterm", "A=2", "B=3"]);
        let got = environment(&list(&["PATH=/bin"]), "/", &[], false);
        assert_eq!(got, ["PATH=/bin", "HOME=/"]);
    }
}
