//! The shim's loop: it waits, takes what has happened, and waits again. Nothing in it blocks but
//! for moments (the end of a killed process, a file).

mod connection;
mod container;
mod exec;
mod output;
mod poll;
mod requests;
mod setup;

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use sys::cgroup::{Group, Hierarchy};
use sys::namespace::Namespaces;
use sys::process::{self, Forked, SingleThreaded};
use sys::{Context, Errno, Result};

use crate::client::SOCKET;
use crate::protocol::{Event, Failure, FailureKind, Message, Reply, VERSION};
use crate::sandbox::Reaper;
use crate::users::Users;
use connection::{Connection, Fate};
use container::Container;
use exec::Exec;
use poll::{Interest, Poll, Source};
use setup::Asker;

/// Largest read at once, from containers and daemons.
const BUFFER: usize = 16 << 10;

/// How often the socket is looked for where the kernel does not tell of its removal.
const SOCKET_LOOK: Duration = Duration::from_secs(30);

/// Daemons that may wait to be accepted.
const BACKLOG: i32 = 16;

/// One sandbox's shim.
#[derive(Debug)]
pub(crate) struct Shim {
    proof: SingleThreaded,
    directory: PathBuf,
    cgroups: Hierarchy,
    poll: Poll,
    listener: OwnedFd,
    signals: OwnedFd,
    /// The sandbox directory, from which the kernel tells of removals; `None`: it does not.
    watched: Option<OwnedFd>,
    reaper: Option<Reaper>,
    users: Option<Users>,
    connections: Vec<Connection>,
    containers: Vec<Container>,
    execs: Vec<Exec>,
    last_number: u32,
    buffer: Vec<u8>,
    /// For streams that nobody has.
    null: OwnedFd,
    /// The loop ends.
    over: bool,
}

/// The cgroup of a child.
enum Placement<'a> {
    In(&'a Group),
    /// Where a process of the group is.
    Beside(&'a Group, i32),
}

impl Placement<'_> {
    fn open_for_clone(&self) -> Result<Option<OwnedFd>> {
        match self {
            Placement::In(group) => group.open_for_clone(),
            Placement::Beside(group, first) => group.open_for_clone_beside(*first),
        }
    }

    fn attach(&self, pid: i32) -> Result<()> {
        match self {
            Placement::In(group) => group.attach(pid),
            Placement::Beside(group, first) => group.attach_beside(pid, *first),
        }
    }
}

impl Shim {
    /// Everything the loop needs; the sandbox's namespaces are entered already.
    pub(crate) fn new(
        proof: SingleThreaded,
        directory: &Path,
        cgroups: Hierarchy,
        (reaper, users): (Option<Reaper>, Option<Users>),
        signals: OwnedFd,
    ) -> Result<Self> {
        let poll = Poll::new()?;
        let listener = listen(directory)?;
        poll.add(&listener, Source::Listener, Interest::Read)?;
        poll.add(&signals, Source::Signals, Interest::Read)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(directory, flags, Mode::empty()).on("open", directory)?;
        let watched = process::tell_of_removals(opened.as_fd()).is_ok().then_some(opened);
        Ok(Shim {
            proof,
            directory: directory.to_path_buf(),
            cgroups,
            poll,
            listener,
            signals,
            watched,
            reaper,
            users,
            connections: Vec::new(),
            containers: Vec::new(),
            execs: Vec::new(),
            last_number: 0,
            buffer: vec![0; BUFFER],
            null: sys::mount::null_device()?,
            over: false,
        })
    }

    /// Process id of the shared namespace's PID 1.
    pub(crate) fn reaper_pid(&self) -> Option<i32> {
        self.reaper.as_ref().map(|reaper| reaper.pid)
    }

    /// Takes over the start connection, whose first request was answered already.
    pub(crate) fn adopt(&mut self, socket: OwnedFd) -> Result<()> {
        let number = self.accept(socket)?;
        if let Some(connection) = self.connections.iter_mut().find(|one| one.number == number) {
            // It has started this very program.
            connection.version = Some(VERSION);
        }
        Ok(())
    }

    /// Runs until the sandbox is shut down.
    ///
    /// # Errors
    /// The kernel refuses to wait; there is no going on then.
    pub(crate) fn run(&mut self) -> Result<()> {
        // It may have been disowned between the making of the socket and that of its watch.
        self.look_for_socket();
        while !self.over {
            let patience = self.expire();
            for source in self.poll.wait(patience)? {
                self.happened(source);
            }
            if self.watched.is_none() {
                self.look_for_socket();
            }
        }
        Ok(())
    }

    fn happened(&mut self, source: Source) {
        match source {
            Source::Listener => self.accept_all(),
            Source::Signals => self.signalled(),
            Source::Connection(number) => self.connection_ready(number),
            Source::Setup(number) => self.setup_ready(number),
            Source::Output(number, stream) => self.output_ready(number, stream),
            Source::Reader(number) => self.reader_ready(number),
            Source::Oom(number) => self.oom_noticed(number),
        }
    }

    /// Does what is due by time: lets go of attached readers that have stopped reading, looks at
    /// counters without notice. Gives how long to wait at most.
    fn expire(&mut self) -> Option<u64> {
        let now = Instant::now();
        let look = self.look_for_oom_kills(now);
        let outputs = self.containers.iter_mut().flat_map(|container| &mut container.outputs);
        let socket = self.watched.is_none().then_some(SOCKET_LOOK);
        let next = outputs.filter_map(|output| output.expire(&self.poll, now)).chain(look).chain(socket);
        let next = next.min()?;
        // Rounded up, so that the patience has ended when the wait has.
        Some(u64::try_from(next.as_millis()).unwrap_or(u64::MAX).saturating_add(1))
    }

    fn next_number(&mut self) -> u32 {
        self.last_number += 1;
        self.last_number
    }

    fn accept_all(&mut self) {
        while let Ok(socket) = rustix::net::accept_with(&self.listener, SocketFlags::CLOEXEC) {
            // A daemon that cannot be served sees its connection closed.
            let _ = self.accept(socket);
        }
    }

    fn accept(&mut self, socket: OwnedFd) -> Result<u32> {
        let number = self.next_number();
        let connection = Connection::new(number, socket).attempt(|| "accept a connection")?;
        self.poll.add(connection.fd(), Source::Connection(number), Interest::Read)?;
        self.connections.push(connection);
        Ok(number)
    }

    fn connection_ready(&mut self, number: u32) {
        let Some(place) = self.connections.iter().position(|one| one.number == number) else { return };
        let connection = &mut self.connections[place];
        let fate = match connection.flush() {
            Fate::Keep => connection.read(&mut self.buffer),
            Fate::Close => Fate::Close,
        };
        if fate == Fate::Close {
            return self.close(number);
        }
        self.serve(number);
        self.wait_for(number);
    }

    /// Answers what has arrived whole.
    fn serve(&mut self, number: u32) {
        loop {
            let Some(connection) = self.connections.iter_mut().find(|one| one.number == number) else {
                return;
            };
            match connection.next_message() {
                Ok(Some(Ok(Message::Request { id, request }))) => {
                    self.answer(Asker { connection: number, request: id }, request);
                }
                Ok(Some(Err(unreadable))) => self.answer_unreadable(number, &unreadable),
                Ok(None) => return,
                // Not the protocol, or a message that only the shim sends.
                Ok(Some(Ok(_))) | Err(_) => return self.close(number),
            }
        }
    }

    fn wait_for(&self, number: u32) {
        if let Some(connection) = self.connections.iter().find(|one| one.number == number) {
            let interest = if connection.is_writing() { Interest::ReadWrite } else { Interest::Read };
            self.poll.change(connection.fd(), Source::Connection(number), interest);
        }
    }

    fn close(&mut self, number: u32) {
        if let Some(place) = self.connections.iter().position(|one| one.number == number) {
            self.poll.remove(self.connections.swap_remove(place).fd());
        }
    }

    /// Answers a request; a daemon that is gone needs no answer.
    fn reply(&mut self, asker: Asker, mut result: std::result::Result<Reply, Failure>, fds: Vec<OwnedFd>) {
        let connection = self.connections.iter().find(|one| one.number == asker.connection);
        if let (Some(1), Err(failure)) = (connection.and_then(|one| one.version), &mut result)
            && failure.kind == FailureKind::Unsupported
        {
            // Version 1 has no such kind.
            failure.kind = FailureKind::Invalid;
        }
        let message = Message::Reply { id: asker.request, result };
        self.send(asker.connection, &message, fds);
    }

    fn send(&mut self, number: u32, message: &Message, fds: Vec<OwnedFd>) {
        let Some(connection) = self.connections.iter_mut().find(|one| one.number == number) else { return };
        match connection.send(message, fds) {
            Fate::Close => self.close(number),
            Fate::Keep => self.wait_for(number),
        }
    }

    fn broadcast(&mut self, event: &Event) {
        let message = Message::Event(event.clone());
        let subscribed: Vec<u32> =
            self.connections.iter().filter(|one| one.subscribed).map(|one| one.number).collect();
        for number in subscribed {
            self.send(number, &message, Vec::new());
        }
    }

    fn signalled(&mut self) {
        let mut removed = false;
        while let Some(signal) = process::next_signal(self.signals.as_fd()) {
            removed |= signal == libc::SIGIO;
        }
        self.reap();
        if removed {
            self.look_for_socket();
        }
    }

    /// Takes the ends of all children that have ended.
    fn reap(&mut self) {
        while let Some(pid) = process::next_ended() {
            // It may be a program whose birth was told and not heard of yet. Only then is it waited
            // for: its number is its own as long as it was not.
            self.hear_of_births();
            let Ok(ending) = process::wait(pid) else { continue };
            if let Some(place) = self.containers.iter().position(|one| one.state.pid == pid) {
                self.exited(place, pid, ending);
            } else if let Some(place) = self.execs.iter().position(|one| one.state.pid == pid) {
                self.exec_exited(place, pid, ending);
            }
            // Others are orphans of containers, and what has given birth to a program; they are only
            // to be reaped.
        }
    }

    fn hear_of_births(&mut self) {
        let containers = self.containers.iter().filter(|one| one.setup.is_some()).map(|one| one.serial);
        let execs = self.execs.iter().filter(|one| one.setup.is_some()).map(|one| one.serial);
        let under_way: Vec<u32> = containers.chain(execs).collect();
        under_way.into_iter().for_each(|number| self.setup_ready(number));
    }

    fn setup_ready(&mut self, number: u32) {
        if let Some(place) = self.containers.iter().position(|one| one.serial == number) {
            self.container_setup_ready(place);
        } else if let Some(place) = self.execs.iter().position(|one| one.serial == number) {
            self.exec_setup_ready(place);
        }
    }

    fn reader_ready(&mut self, number: u32) {
        let outputs = self.containers.iter_mut().flat_map(|container| &mut container.outputs);
        for output in outputs {
            if output.reader_ready(&self.poll, number) {
                return;
            }
        }
    }

    /// Writes a container's state to its file. A full disk is no reason to stop: a living shim
    /// is asked, not read.
    fn remember(&self, place: usize) {
        let _ = crate::record::write(&self.directory, &self.containers[place].state);
    }

    fn place(&self, id: &str) -> std::result::Result<usize, Failure> {
        let found = self.containers.iter().position(|container| container.state.id == id);
        found.ok_or_else(|| Failure::not_found("container", id))
    }

    fn container(&self, id: &str) -> std::result::Result<&Container, Failure> {
        self.place(id).map(|place| &self.containers[place])
    }

    fn container_mut(&mut self, id: &str) -> std::result::Result<&mut Container, Failure> {
        self.place(id).map(|place| &mut self.containers[place])
    }

    /// Makes a child in a cgroup. In the child it returns `Child`.
    fn fork(&self, fresh: Namespaces, place: &Placement<'_>) -> Result<Forked> {
        let into = place.open_for_clone()?;
        let forked = process::fork(&self.proof, fresh, into.as_ref().map(AsFd::as_fd))?;
        if let Forked::Parent { pid, pidfd } = &forked
            && into.is_none()
            && let Err(error) = place.attach(*pid)
        {
            let _ = process::kill_exactly(pidfd.as_fd(), libc::SIGKILL);
            let _ = process::wait_exactly(pidfd.as_fd());
            return Err(error);
        }
        Ok(forked)
    }

    /// Makes a child beside a process of a group: in the group, or, where that one has groups with
    /// controllers of its own below and so takes no processes, where that process is.
    fn fork_beside(&self, group: &Group, first: i32) -> Result<Forked> {
        match self.fork(Namespaces::NONE, &Placement::In(group)) {
            Err(error) if error.errno == Errno::BUSY => {
                self.fork(Namespaces::NONE, &Placement::Beside(group, first))
            }
            other => other,
        }
    }

    fn look_for_socket(&mut self) {
        // Without its socket nobody can reach it. (The end of the directory itself is never told:
        // the socket keeps it.)
        if !self.over && !self.directory.join(SOCKET).exists() {
            self.end_everything();
        }
    }

    /// Kills what runs, removes the containers' cgroups, and lets the loop end.
    fn end_everything(&mut self) {
        // All at once, then one after the other: their ends overlap.
        self.containers.iter().filter(|container| container.is_running()).for_each(Container::kill);
        for place in (0..self.containers.len()).rev() {
            self.end_now(place);
            if let Some(container) = self.containers.get(place) {
                let _ = container.group.remove();
            }
        }
        if let Some(reaper) = self.reaper.take() {
            let _ = process::kill_exactly(reaper.pidfd.as_fd(), libc::SIGKILL);
            let _ = process::wait_exactly(reaper.pidfd.as_fd());
        }
        let _ = rustix::fs::unlink(self.directory.join(SOCKET));
        self.over = true;
    }
}

/// The socket in the sandbox directory. The address of a socket holds 107 bytes, a path may be
/// longer: so the directory is named by its descriptor.
fn listen(directory: &Path) -> Result<OwnedFd> {
    let path = directory.join(SOCKET);
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .attempt(|| "make a socket")?;
    match rustix::fs::unlink(&path) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno).on("remove", &path),
    }
    let opened = crate::client::open_directory(directory).on("open", directory)?;
    let address = SocketAddrUnix::new(crate::client::short_path(&opened)).on("listen on", &path)?;
    rustix::net::bind(&socket, &address).on("listen on", &path)?;
    // Only root may speak to it.
    rustix::fs::chmod(&path, rustix::fs::Mode::from_raw_mode(0o600)).on("chmod", &path)?;
    rustix::net::listen(&socket, BACKLOG).on("listen on", &path)?;
    Ok(socket)
}
