//! Which request is done where.

use std::os::fd::OwnedFd;

use super::Shim;
use super::setup::Asker;
use crate::codec::{Envelope, Unreadable};
use crate::protocol::{Failure, FailureKind, OLDEST, Reply, Request, VERSION, common_version};

/// What becomes of a request.
enum Answer {
    /// Done, with this reply.
    Now(Reply, Vec<OwnedFd>),
    /// The reply comes when a child has got so far.
    Later,
}

fn done(result: Result<(), Failure>) -> Result<Answer, Failure> {
    result.map(|()| Answer::Now(Reply::Done, Vec::new()))
}

fn later(result: Result<(), Failure>) -> Result<Answer, Failure> {
    result.map(|()| Answer::Later)
}

impl Shim {
    /// Does a request, and answers it now or arranges for it.
    pub(super) fn answer(&mut self, asker: Asker, request: Request) {
        match self.perform(asker, request) {
            Ok(Answer::Now(reply, fds)) => self.reply(asker, Ok(reply), fds),
            Ok(Answer::Later) => {}
            Err(failure) => self.reply(asker, Err(failure), Vec::new()),
        }
    }

    /// Says that a request of a later version is none of this one; all else of that kind waits
    /// for no answer.
    pub(super) fn answer_unreadable(&mut self, connection: u32, unreadable: &Unreadable) {
        if let Envelope::Request(request) = unreadable.what {
            let failure = Failure::new(FailureKind::Unsupported, unreadable.to_string());
            self.reply(Asker { connection, request }, Err(failure), Vec::new());
        }
    }

    fn perform(&mut self, asker: Asker, request: Request) -> Result<Answer, Failure> {
        self.check_greeting(asker, &request)?;
        match request {
            Request::Open(_) => Err(Failure::new(FailureKind::Invalid, "the sandbox is open already")),
            Request::Hello { version } => self.greet(asker, version),
            Request::Subscribe => {
                self.subscribe(asker);
                Ok(Answer::Now(self.state(), Vec::new()))
            }
            Request::State => Ok(Answer::Now(self.state(), Vec::new())),
            Request::Create(spec) => later(self.create(spec, asker)),
            Request::Start { id } => later(self.start(&id, asker)),
            Request::Signal { id, signal, all } => done(self.signal(&id, signal, all)),
            Request::Exec(spec) => later(self.exec(&spec, asker)),
            Request::SignalExec { id, signal } => done(self.signal_exec(&id, signal)),
            Request::Attach { id, stdin, stdout, stderr } => {
                self.attach(&id, [stdin, stdout, stderr]).map(|(reply, fds)| Answer::Now(reply, fds))
            }
            Request::Resize { id, columns, rows } => done(self.resize(&id, columns, rows)),
            Request::CloseStdin { id } => done(self.close_stdin(&id)),
            Request::Update { id, resources } => {
                done(self.container(&id).and_then(|container| Ok(container.group.update(&resources)?)))
            }
            Request::ReopenLog { id } => done(self.reopen_log(&id)),
            Request::Delete { id } => done(self.delete(&id)),
            Request::Shutdown => {
                self.end_everything();
                Ok(Answer::Now(Reply::Done, Vec::new()))
            }
        }
    }

    fn greet(&mut self, asker: Asker, version: u32) -> Result<Answer, Failure> {
        // A daemon says the latest version that it speaks, and judges by the answer whether the
        // shim's oldest is too new for it.
        let spoken = common_version(version, 1).ok_or_else(|| {
            let message = format!("this shim speaks versions {OLDEST} to {VERSION}, not {version}");
            Failure::new(FailureKind::Unsupported, message)
        })?;
        if let Some(connection) = self.connections.iter_mut().find(|one| one.number == asker.connection) {
            connection.version = Some(spoken);
        }
        Ok(Answer::Now(self.hello(), Vec::new()))
    }

    fn check_greeting(&self, asker: Asker, request: &Request) -> Result<(), Failure> {
        let connection = self.connections.iter().find(|one| one.number == asker.connection);
        let greeted = connection.is_some_and(|connection| connection.version.is_some());
        let message = "the first request of a connection is Hello";
        if greeted || matches!(request, Request::Hello { .. }) {
            Ok(())
        } else {
            Err(Failure::new(FailureKind::Invalid, message))
        }
    }

    /// What a new connection is told.
    pub(crate) fn hello(&self) -> Reply {
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        Reply::Hello { version: VERSION, pid, pause_pid: self.reaper_pid(), oldest: OLDEST }
    }

    fn subscribe(&mut self, asker: Asker) {
        if let Some(connection) = self.connections.iter_mut().find(|one| one.number == asker.connection) {
            connection.subscribed = true;
        }
    }

    fn state(&self) -> Reply {
        Reply::State {
            containers: self.containers.iter().map(|container| container.state.clone()).collect(),
            execs: self.execs.iter().map(|exec| exec.state.clone()).collect(),
        }
    }

    fn resize(&self, id: &str, columns: u16, rows: u16) -> Result<(), Failure> {
        match self.container(id)?.terminal() {
            Some(terminal) => Ok(sys::pty::resize(terminal, columns, rows)?),
            None => Err(Failure::new(FailureKind::WrongState, format!("container {id:?} has no terminal"))),
        }
    }

    fn close_stdin(&mut self, id: &str) -> Result<(), Failure> {
        let container = self.container_mut(id)?;
        if !container.spec.tty {
            container.stdin = None;
        }
        Ok(())
    }

    fn reopen_log(&mut self, id: &str) -> Result<(), Failure> {
        let container = self.container_mut(id)?;
        let Some(log) = &mut container.log else { return Ok(()) };
        Ok(log.reopen().map_err(|error| sys::Error::io(format!("open the log of {id}"), &error))?)
    }
}
