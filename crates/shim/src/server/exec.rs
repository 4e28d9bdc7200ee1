//! Further commands in containers, and joining a container's own streams.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use sys::process::{Ending, Forked};

use super::Shim;
use super::container::Container;
use super::setup::{Asker, Birth, News, Setup, control_pair, duplicate, input_pipe, output_pipe};
use crate::clock;
use crate::init::{self, Report, Sequence};
use crate::protocol::{Event, ExecSpec, ExecState, Failure, FailureKind, Reply};

/// A further command.
#[derive(Debug)]
pub(super) struct Exec {
    pub(super) serial: u32,
    pub(super) state: ExecState,
    pub(super) setup: Option<Setup>,
    pidfd: OwnedFd,
    /// The daemon's ends of its streams, until it is told.
    streams: Vec<OwnedFd>,
}

/// The child's streams, and the daemon's in the order of the protocol.
#[derive(Default)]
struct Streams {
    theirs: Vec<OwnedFd>,
    daemons: Vec<OwnedFd>,
}

impl Streams {
    fn new(spec: &ExecSpec, null: &OwnedFd) -> Result<Self, Failure> {
        let mut streams = Streams::default();
        if spec.tty {
            return Ok(streams);
        }
        for (wanted, pipe) in [
            (spec.stdin, input_pipe as fn() -> Result<_, Failure>),
            (spec.stdout, output_pipe),
            (spec.stderr, output_pipe),
        ] {
            if wanted {
                let pipe = pipe()?;
                streams.theirs.push(pipe.theirs);
                streams.daemons.push(pipe.ours);
            } else {
                streams.theirs.push(duplicate(null)?);
            }
        }
        Ok(streams)
    }
}

impl Shim {
    pub(super) fn exec(&mut self, spec: &ExecSpec, asker: Asker) -> Result<(), Failure> {
        self.container(&spec.container)?.must_run()?;
        if self.execs.iter().any(|exec| exec.state.id == spec.id) {
            let message = format!("exec {:?} already exists", spec.id);
            return Err(Failure::new(FailureKind::AlreadyExists, message));
        }
        let streams = Streams::new(spec, &self.null)?;
        let (ours, theirs) = control_pair()?;
        let serial = self.next_number();
        let (pid, pidfd) = self.fork_exec(spec, &theirs, &streams.theirs)?;
        let mut setup = Setup::new(&self.poll, serial, ours, asker, Birth::Awaited)?;
        setup.go()?;
        let state = ExecState { id: spec.id.clone(), container: spec.container.clone(), pid };
        self.execs.push(Exec { serial, state, setup: Some(setup), pidfd, streams: streams.daemons });
        Ok(())
    }

    fn fork_exec(
        &mut self,
        spec: &ExecSpec,
        control: &OwnedFd,
        stdio: &[OwnedFd],
    ) -> Result<(i32, OwnedFd), Failure> {
        let container = self.container(&spec.container)?;
        match self.fork_beside(&container.group, container.state.pid)? {
            Forked::Parent { pid, pidfd } => Ok((pid, pidfd)),
            Forked::Child => {
                let stdio = match stdio {
                    [stdin, stdout, stderr] => Some([stdin.as_fd(), stdout.as_fd(), stderr.as_fd()]),
                    _ => None,
                };
                self.become_exec(spec, control, stdio)
            }
        }
    }

    /// In the child.
    fn become_exec(&self, spec: &ExecSpec, control: &OwnedFd, stdio: Option<[BorrowedFd<'_>; 3]>) -> ! {
        let Ok(container) = self.container(&spec.container) else { sys::process::exit_now(1) };
        let process = container.pidfd.as_fd();
        let inside = init::Inside {
            spec: &container.spec,
            user: &container.state.user,
            home: &container.home,
            process,
        };
        let among = Some(init::Neighbours { process, mounts: process });
        let (control, users) = (control.as_fd(), self.users.as_ref());
        init::exec(&init::Child { control, stdio, proof: &self.proof, among, users }, &inside, spec)
    }

    /// Takes what a child between fork and exec has told.
    pub(super) fn exec_setup_ready(&mut self, place: usize) {
        loop {
            let Some(exec) = self.execs.get_mut(place) else { return };
            let Some(setup) = &mut exec.setup else { return };
            match setup.next() {
                News::Report(Report::Prepared { .. }, terminal) => {
                    setup.sequence = Sequence::Starting;
                    if let Some(master) = terminal {
                        let _ = sys::socket::set_nonblocking(&master, true);
                        exec.streams = vec![master];
                    }
                }
                News::Report(Report::Born, process) => match setup.born(process) {
                    Ok((pid, pidfd)) => (exec.state.pid, exec.pidfd) = (pid, pidfd),
                    Err(failure) => return self.exec_failed(place, failure),
                },
                News::Report(Report::Failed(failure), _) => return self.exec_failed(place, failure),
                News::Closed if setup.is_born() => return self.exec_started(place),
                News::Closed => {
                    return self.exec_failed(place, Failure::new(FailureKind::Host, "exec init died"));
                }
                News::Nothing => return,
            }
        }
    }

    fn exec_started(&mut self, place: usize) {
        let exec = &mut self.execs[place];
        let Some(setup) = exec.setup.take() else { return };
        let asker = setup.asker;
        setup.end(&self.poll);
        let (reply, streams) = (Reply::Exec { pid: exec.state.pid }, std::mem::take(&mut exec.streams));
        self.reply(asker, Ok(reply), streams);
    }

    fn exec_failed(&mut self, place: usize, failure: Failure) {
        let exec = self.execs.remove(place);
        let _ = sys::process::kill_exactly(exec.pidfd.as_fd(), libc::SIGKILL);
        let _ = sys::process::wait_exactly(exec.pidfd.as_fd());
        if let Some(setup) = exec.setup {
            let asker = setup.asker;
            setup.end(&self.poll);
            self.reply(asker, Err(failure), Vec::new());
        }
    }

    /// Its process has ended and was reaped.
    pub(super) fn exec_exited(&mut self, place: usize, pid: i32, ending: Ending) {
        let serial = self.execs[place].serial;
        self.exec_setup_ready(place);
        if self.execs.get(place).is_none_or(|exec| exec.serial != serial || exec.state.pid != pid) {
            // It was the end of a failed setup, or of one that is through.
            return;
        }
        if self.execs[place].setup.as_ref().is_some_and(Setup::is_born) {
            // The one that gave birth to it may hold the socket for a moment yet.
            self.exec_started(place);
        }
        let ExecState { id, container, .. } = self.execs.remove(place).state;
        self.broadcast(&Event::ExecExited { id, container, code: ending.code, time: clock::now() });
    }

    /// Kills the commands in a container and takes their ends.
    pub(super) fn end_execs_of(&mut self, place: usize) {
        let container = self.containers[place].state.id.clone();
        while let Some(place) = self.execs.iter().position(|exec| exec.state.container == container) {
            let ExecState { pid, .. } = self.execs[place].state;
            let serial = self.execs[place].serial;
            let _ = sys::process::kill_exactly(self.execs[place].pidfd.as_fd(), libc::SIGKILL);
            let ending = sys::process::wait_exactly(self.execs[place].pidfd.as_fd());
            self.exec_exited(place, pid, ending.unwrap_or_default());
            // It had just given birth to its program: that one is next. Otherwise it is gone.
            debug_assert!(
                self.execs.get(place).is_none_or(|one| one.serial != serial || one.state.pid != pid)
            );
        }
    }

    pub(super) fn signal_exec(&self, id: &str, signal: i32) -> Result<(), Failure> {
        let Some(exec) = self.execs.iter().find(|exec| exec.state.id == id) else { return Ok(()) };
        match sys::process::kill_exactly(exec.pidfd.as_fd(), signal) {
            Ok(()) | Err(sys::Errno::SRCH) => Ok(()),
            Err(errno) => Err(sys::Error::new(format!("signal {signal} to exec {id}"), errno).into()),
        }
    }

    /// The descriptors for an attached daemon, in the order of the protocol.
    pub(super) fn attach(
        &mut self,
        id: &str,
        [stdin, stdout, stderr]: [bool; 3],
    ) -> Result<(Reply, Vec<OwnedFd>), Failure> {
        let numbers = [self.next_number(), self.next_number()];
        let place = self.place(id)?;
        let container = &mut self.containers[place];
        if !matches!(container.state.status, crate::protocol::Status::Created) {
            container.must_run()?;
        }
        let tty = container.spec.tty;
        let mut fds = Vec::new();
        if stdin {
            fds.push(attach_stdin(container, &self.null)?);
        }
        for (index, (wanted, number)) in [stdout, stderr && !tty].into_iter().zip(numbers).enumerate() {
            if let (true, Some(output)) = (wanted, container.outputs.get_mut(index)) {
                let attached = output.attach(&self.poll, number);
                fds.push(attached.map_err(|errno| sys::Error::new(format!("attach to {id}"), errno))?);
            }
        }
        if let Some(master) = container.terminal() {
            fds.push(duplicate(master)?);
        }
        Ok((Reply::Attached { tty }, fds))
    }
}

/// A descriptor to feed standard input. A container without one swallows what comes, as
/// containerd has it.
fn attach_stdin(container: &mut Container, null: &OwnedFd) -> Result<OwnedFd, Failure> {
    let Some(stdin) = &container.stdin else { return duplicate(null) };
    let theirs = duplicate(stdin)?;
    if container.spec.stdin_once && !container.spec.tty {
        // The attached daemon's is now the only one: when it closes, the input has ended.
        container.stdin = None;
    }
    Ok(theirs)
}
