//! A container: from its first fork to the last byte of its log.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use sys::cgroup::{Group, OomWatch, Version};
use sys::namespace::Namespaces;
use sys::process::{Ending, Forked};

use super::output::Output;
use super::poll::{Interest, Source};
use super::setup::{Asker, Birth, News, Setup, control_pair, duplicate, input_pipe, output_pipe};
use super::{Placement, Shim};
use crate::clock;
use crate::init::{self, Report, Sequence};
use crate::log::{Log, Stream};
use crate::protocol::{
    ContainerSpec, ContainerState, Event, Exit, Failure, FailureKind, PidMode, Reply, ResolvedUser, Status,
};

/// Exit code of a container whose program could not be executed (containerd's).
const START_ERROR: i32 = 128;

#[derive(Debug)]
pub(super) struct Container {
    pub(super) serial: u32,
    pub(super) spec: Box<ContainerSpec>,
    pub(super) state: ContainerState,
    /// Home directory of its user, for further commands.
    pub(super) home: String,
    pub(super) group: Group,
    pub(super) pidfd: OwnedFd,
    pub(super) setup: Option<Setup>,
    /// Standard output and error; with a terminal only the first.
    pub(super) outputs: Vec<Output>,
    /// The shim's end of standard input; with a terminal its master.
    pub(super) stdin: Option<OwnedFd>,
    pub(super) log: Option<Log>,
    oom: Option<OomWatch>,
    oom_kills: u64,
    /// The kernel has given notice, and its counter has not moved yet: looked at until then.
    oom_expected: Option<Instant>,
}

/// Version 1 gives notice before it kills. A kill that does not come by then was averted.
const OOM_PATIENCE: Duration = Duration::from_secs(1);

/// How often the counter is looked at meanwhile; there is no notice of its change.
const OOM_LOOK: Duration = Duration::from_millis(5);

/// The child's streams and the shim's, before there is a container.
struct Streams {
    theirs: Option<[OwnedFd; 3]>,
    stdin: Option<OwnedFd>,
    outputs: Vec<(Stream, OwnedFd)>,
}

impl Streams {
    fn new(spec: &ContainerSpec, null: &OwnedFd) -> Result<Self, Failure> {
        if spec.tty {
            return Ok(Streams { theirs: None, stdin: None, outputs: Vec::new() });
        }
        let (stdin, their_stdin) = if spec.stdin {
            let pipe = input_pipe()?;
            (Some(pipe.ours), pipe.theirs)
        } else {
            (None, duplicate(null)?)
        };
        let (stdout, stderr) = (output_pipe()?, output_pipe()?);
        Ok(Streams {
            theirs: Some([their_stdin, stdout.theirs, stderr.theirs]),
            stdin,
            outputs: vec![(Stream::Stdout, stdout.ours), (Stream::Stderr, stderr.ours)],
        })
    }
}

impl Container {
    pub(super) fn is_running(&self) -> bool {
        self.state.status == Status::Running
    }

    pub(super) fn must_run(&self) -> Result<(), Failure> {
        if self.is_running() {
            return Ok(());
        }
        let message = format!("container not running ({})", self.state.id);
        Err(Failure::new(FailureKind::WrongState, message))
    }

    /// Kills everything in it.
    pub(super) fn kill(&self) {
        let _ = self.group.signal_all(libc::SIGKILL);
        let _ = sys::process::kill_exactly(self.pidfd.as_fd(), libc::SIGKILL);
    }

    /// The terminal's master, if it has one.
    pub(super) fn terminal(&self) -> Option<&OwnedFd> {
        self.stdin.as_ref().filter(|_| self.spec.tty)
    }
}

impl Shim {
    pub(super) fn create(&mut self, spec: Box<ContainerSpec>, asker: Asker) -> Result<(), Failure> {
        self.check(&spec)?;
        let group = self.cgroups.group(&spec.cgroup);
        let made = self.make(spec, &group, asker);
        if made.is_err() {
            // The first error is the one to tell.
            let _ = group.remove();
        }
        made
    }

    fn check(&self, spec: &ContainerSpec) -> Result<(), Failure> {
        let invalid = |message: String| Err(Failure::new(FailureKind::Invalid, message));
        if spec.id.is_empty() || spec.id.contains(['/', '.']) {
            return invalid(format!("container id {:?} is not a name", spec.id));
        }
        if self.containers.iter().any(|container| container.state.id == spec.id) {
            let message = format!("container {:?} already exists", spec.id);
            return Err(Failure::new(FailureKind::AlreadyExists, message));
        }
        if !sys::cgroup::is_path(&spec.cgroup) {
            return invalid(format!("cgroup path {:?} is not a relative path", spec.cgroup));
        }
        Ok(())
    }

    fn make(&mut self, spec: Box<ContainerSpec>, group: &Group, asker: Asker) -> Result<(), Failure> {
        group.create(&spec.resources)?;
        if let Some(rules) = init::device_rules(&spec)? {
            group.allow_devices(&rules)?;
        }
        let log = match &spec.log {
            Some(log) => Some(
                Log::open(log.clone())
                    .map_err(|error| sys::Error::io(format!("open log {}", log.path.display()), &error))?,
            ),
            None => None,
        };
        let streams = Streams::new(&spec, &self.null)?;
        let (ours, theirs) = control_pair()?;
        let serial = self.next_number();
        let (pid, pidfd) = self.fork_container(&spec, group, &theirs, streams.theirs.as_ref())?;
        let mut container = Container {
            serial,
            state: new_state(&spec.id, pid),
            home: String::new(),
            group: group.clone(),
            pidfd,
            setup: Some(Setup::new(&self.poll, serial, ours, asker, birth(&spec.pid))?),
            outputs: Vec::new(),
            stdin: streams.stdin,
            log,
            oom: None,
            oom_kills: 0,
            oom_expected: None,
            spec,
        };
        for (stream, source) in streams.outputs {
            container.outputs.push(Output::new(&self.poll, serial, stream, source)?);
        }
        self.watch_oom(&mut container);
        container.setup.as_mut().map_or(Ok(()), Setup::go)?;
        self.containers.push(container);
        Ok(())
    }

    fn fork_container(
        &mut self,
        spec: &ContainerSpec,
        group: &Group,
        control: &OwnedFd,
        stdio: Option<&[OwnedFd; 3]>,
    ) -> Result<(i32, OwnedFd), Failure> {
        let own = if spec.pid == PidMode::Own { Namespaces::PID } else { Namespaces::NONE };
        let among = self.neighbours(&spec.pid)?;
        let forked = self.fork(own | Namespaces::MOUNT, &Placement::In(group))?;
        match forked {
            Forked::Parent { pid, pidfd } => Ok((pid, pidfd)),
            Forked::Child => {
                let stdio =
                    stdio.map(|[stdin, stdout, stderr]| [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()]);
                let (control, users) = (control.as_fd(), self.users.as_ref());
                let child = init::Child { control, stdio, proof: &self.proof, among, users };
                init::container(&child, spec, &self.directory, &self.cgroups)
            }
        }
    }

    /// Processes that are there already where a container will run.
    fn neighbours(&self, mode: &PidMode) -> Result<Option<init::Neighbours<'_>>, Failure> {
        match mode {
            PidMode::Own | PidMode::Host => Ok(None),
            PidMode::Sandbox => {
                let none = || Failure::new(FailureKind::Invalid, "the sandbox has no shared PID namespace");
                let reaper = self.reaper.as_ref().ok_or_else(none)?;
                let (process, mounts) = (reaper.pidfd.as_fd(), reaper.mounts.as_fd());
                Ok(Some(init::Neighbours { process, mounts }))
            }
            PidMode::Container(id) => {
                let target = self.container(id)?;
                target.must_run()?;
                let process = target.pidfd.as_fd();
                Ok(Some(init::Neighbours { process, mounts: process }))
            }
        }
    }

    fn watch_oom(&self, container: &mut Container) {
        // Without the notice the counter is still read at the end.
        let Ok(watch) = container.group.watch_oom() else { return };
        let interest = if watch.version == Version::V1 { Interest::Read } else { Interest::Change };
        if self.poll.add(&watch.fd, Source::Oom(container.serial), interest).is_ok() {
            container.oom = Some(watch);
        }
    }

    pub(super) fn oom_noticed(&mut self, serial: u32) {
        let Some(container) = self.containers.iter_mut().find(|one| one.serial == serial) else { return };
        let Some(watch) = &container.oom else { return };
        watch.clear();
        container.oom_expected = Some(Instant::now() + OOM_PATIENCE);
        self.look_for_oom_kills(Instant::now());
    }

    /// Tells of kills that notice was given of. Gives how soon to look again.
    pub(super) fn look_for_oom_kills(&mut self, now: Instant) -> Option<Duration> {
        let mut killed = Vec::new();
        for container in &mut self.containers {
            let Some(until) = container.oom_expected else { continue };
            let kills = container.group.oom_kills();
            if kills > container.oom_kills {
                container.oom_kills = kills;
                killed.push(container.state.id.clone());
            }
            if now >= until || killed.last() == Some(&container.state.id) || container.oom.is_none() {
                container.oom_expected = None;
            }
        }
        killed.into_iter().for_each(|id| self.broadcast(&Event::ContainerOom { id }));
        self.containers.iter().any(|container| container.oom_expected.is_some()).then_some(OOM_LOOK)
    }

    pub(super) fn start(&mut self, id: &str, asker: Asker) -> Result<(), Failure> {
        let container = self.container_mut(id)?;
        match &mut container.setup {
            Some(setup) if setup.sequence == Sequence::Prepared => {
                setup.start(asker)?;
                container.state.status = Status::Starting;
                Ok(())
            }
            _ => {
                let message = format!("container {id:?} is {:?}, not Created", container.state.status);
                Err(Failure::new(FailureKind::WrongState, message))
            }
        }
    }

    /// Takes what a child between fork and exec has told.
    pub(super) fn container_setup_ready(&mut self, place: usize) {
        loop {
            let Some(setup) = self.containers.get_mut(place).and_then(|one| one.setup.as_mut()) else {
                return;
            };
            match setup.next() {
                News::Report(Report::Prepared { user, home }, terminal) => {
                    if let Err(failure) = self.prepared(place, user, home, terminal) {
                        return self.setup_failed(place, failure);
                    }
                }
                News::Report(Report::Born, process) => match setup.born(process) {
                    Ok(born) => self.born(place, born),
                    Err(failure) => return self.setup_failed(place, failure),
                },
                News::Report(Report::Failed(failure), _) => return self.setup_failed(place, failure),
                News::Closed if setup.is_born() => return self.started(place),
                News::Closed if setup.sequence == Sequence::Prepared => return self.drop_setup(place),
                News::Closed => {
                    let failure = Failure::new(FailureKind::Host, "container init died");
                    return self.setup_failed(place, failure);
                }
                News::Nothing => return,
            }
        }
    }

    fn prepared(
        &mut self,
        place: usize,
        user: ResolvedUser,
        home: String,
        terminal: Option<OwnedFd>,
    ) -> Result<(), Failure> {
        let poll = &self.poll;
        let container = &mut self.containers[place];
        (container.state.user, container.home) = (user, home);
        container.state.status = Status::Created;
        if let Some(master) = terminal {
            rustix::io::ioctl_fionbio(&master, true).map_err(|errno| sys::Error::new("ioctl", errno))?;
            let source = duplicate(&master)?;
            container.outputs.push(Output::new(poll, container.serial, Stream::Stdout, source)?);
            container.stdin = Some(master);
        }
        let reply = Reply::Created { pid: container.state.pid, user: container.state.user.clone() };
        let asker = container.setup.as_mut().map(|setup| {
            setup.sequence = Sequence::Prepared;
            setup.asker
        });
        self.remember(place);
        if let Some(asker) = asker {
            self.reply(asker, Ok(reply), Vec::new());
        }
        Ok(())
    }

    /// Another child of the shim's is the container from now on.
    fn born(&mut self, place: usize, (pid, pidfd): (i32, OwnedFd)) {
        let container = &mut self.containers[place];
        (container.state.pid, container.pidfd) = (pid, pidfd);
    }

    fn started(&mut self, place: usize) {
        let asker = self.containers[place].setup.as_ref().map(|setup| setup.asker);
        self.drop_setup(place);
        let container = &mut self.containers[place];
        container.state.status = Status::Running;
        container.state.started_at = clock::now();
        let reply = Reply::Started { pid: container.state.pid, started_at: container.state.started_at };
        self.remember(place);
        if let Some(asker) = asker {
            self.reply(asker, Ok(reply), Vec::new());
        }
    }

    fn drop_setup(&mut self, place: usize) {
        if let Some(setup) = self.containers[place].setup.take() {
            setup.end(&self.poll);
        }
    }

    /// A failed creation leaves nothing; a failed start leaves an exited container.
    fn setup_failed(&mut self, place: usize, failure: Failure) {
        let container = &mut self.containers[place];
        let Some(setup) = container.setup.take() else { return };
        let (sequence, asker) = (setup.sequence, setup.asker);
        setup.end(&self.poll);
        // It is ending by itself, unless it was the shim that found the fault. Reaped here, if it
        // was not yet: both outcomes need its end.
        let _ = sys::process::kill_exactly(container.pidfd.as_fd(), libc::SIGKILL);
        let _ = sys::process::wait_exactly(container.pidfd.as_fd());
        if sequence == Sequence::Starting {
            let message = failure.message.clone();
            self.reply(asker, Err(failure), Vec::new());
            let ending = Ending { code: START_ERROR, signal: 0 };
            return self.finish(place, ending, message);
        }
        let container = self.containers.remove(place);
        let _ = container.group.remove();
        self.discard(container);
        self.reply(asker, Err(failure), Vec::new());
    }

    /// Its first process has ended and was reaped.
    pub(super) fn exited(&mut self, place: usize, pid: i32, ending: Ending) {
        // The exec may not have been noticed yet.
        let serial = self.containers[place].serial;
        self.container_setup_ready(place);
        match self.containers.get(place) {
            Some(container) if container.serial == serial && container.state.pid == pid => {}
            // It was the end of a failed setup, or of one that is through.
            _ => return,
        }
        if self.containers[place].setup.as_ref().is_some_and(Setup::is_born) {
            // The one that gave birth to it may hold the socket for a moment yet.
            self.started(place);
        }
        self.drop_setup(place);
        self.finish(place, ending, String::new());
    }

    fn finish(&mut self, place: usize, ending: Ending, start_error: String) {
        let time = clock::now();
        let container = &mut self.containers[place];
        if container.spec.pid != PidMode::Own {
            // With a PID namespace of its own the kernel has done it.
            let _ = container.group.signal_all(libc::SIGKILL);
        }
        for output in &mut container.outputs {
            output.read(&self.poll, &mut self.buffer, &mut container.log, time, true);
            output.end(&self.poll, &mut container.log, time);
        }
        container.stdin = None;
        // Nothing comes any more: those who follow the file see that it is closed.
        container.log = None;
        if let Some(watch) = container.oom.take() {
            self.poll.remove(&watch.fd);
        }
        let oom_killed = container.group.oom_kills() > 0;
        let exit = Exit { code: ending.code, signal: ending.signal, oom_killed, time, start_error };
        container.state.status = Status::Exited;
        container.state.pid = 0;
        container.state.exit = Some(exit.clone());
        let id = container.state.id.clone();
        self.remember(place);
        self.broadcast(&Event::ContainerExited { id, exit });
    }

    pub(super) fn signal(&mut self, id: &str, signal: i32, all: bool) -> Result<(), Failure> {
        let container = self.container(id)?;
        let signalled = match container.state.status {
            Status::Exited => return Ok(()),
            Status::Running if all => return Ok(container.group.signal_all(signal)?),
            Status::Running => sys::process::kill_exactly(container.pidfd.as_fd(), signal),
            // Nothing of the program is there that could handle a gentler one.
            _ => sys::process::kill_exactly(container.pidfd.as_fd(), libc::SIGKILL),
        };
        match signalled {
            Ok(()) | Err(sys::Errno::SRCH) => Ok(()),
            Err(errno) => Err(sys::Error::new(format!("signal {signal} to container {id}"), errno).into()),
        }
    }

    pub(super) fn delete(&mut self, id: &str) -> Result<(), Failure> {
        let Some(place) = self.containers.iter().position(|one| one.state.id == id) else { return Ok(()) };
        match self.containers[place].state.status {
            Status::Exited => {}
            Status::Created => self.end_now(place),
            status => {
                let message = format!("container {id:?} is {status:?}: it must have exited to be deleted");
                return Err(Failure::new(FailureKind::WrongState, message));
            }
        }
        self.containers[place].group.remove()?;
        let container = self.containers.remove(place);
        crate::record::remove(&self.directory, &container.state.id);
        self.discard(container);
        Ok(())
    }

    /// Kills a container and waits for its end, which cannot be held up.
    pub(super) fn end_now(&mut self, place: usize) {
        let serial = self.containers[place].serial;
        // The first process of a PID namespace has ended when all others in it were waited for.
        self.end_execs_of(place);
        // Twice where the first to end has just given birth to the program.
        while let Some(container) = self.containers.get(place).filter(|one| one.serial == serial) {
            if container.state.status == Status::Exited {
                return;
            }
            container.kill();
            let ending = sys::process::wait_exactly(container.pidfd.as_fd()).unwrap_or_default();
            self.exited(place, container.state.pid, ending);
        }
    }

    fn discard(&self, container: Container) {
        if let Some(setup) = container.setup {
            setup.end(&self.poll);
        }
        let mut log = container.log;
        for mut output in container.outputs {
            output.end(&self.poll, &mut log, clock::now());
        }
    }

    pub(super) fn output_ready(&mut self, serial: u32, stream: Stream) {
        let Some(container) = self.containers.iter_mut().find(|one| one.serial == serial) else { return };
        let place = if stream == Stream::Stdout { 0 } else { 1 };
        if let Some(output) = container.outputs.get_mut(place) {
            output.read(&self.poll, &mut self.buffer, &mut container.log, clock::now(), false);
        }
    }
}

fn birth(mode: &PidMode) -> Birth {
    match mode {
        PidMode::Own | PidMode::Host => Birth::Itself,
        PidMode::Sandbox | PidMode::Container(_) => Birth::Awaited,
    }
}

fn new_state(id: &str, pid: i32) -> ContainerState {
    ContainerState {
        id: id.to_owned(),
        status: Status::Creating,
        pid,
        user: ResolvedUser::default(),
        created_at: clock::now(),
        started_at: 0,
        exit: None,
    }
}
