//! The shim's side of a child between fork and exec.

use std::os::fd::{AsFd, OwnedFd};

use rustix::pipe::PipeFlags;
use sys::{Context, Errno};

use super::poll::{Interest, Poll, Source};
use crate::init::{REPORT_MAX, Report, START, Sequence};
use crate::protocol::{Failure, FailureKind};

/// Which request of which connection waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asker {
    pub(super) connection: u32,
    pub(super) request: u64,
}

/// Which process becomes the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Birth {
    /// The child itself.
    Itself,
    /// One that the child makes at the end and tells of.
    Awaited,
    /// That one; it has been told of.
    Told,
}

/// A child that is not its program yet.
#[derive(Debug)]
pub(super) struct Setup {
    control: OwnedFd,
    pub(super) sequence: Sequence,
    pub(super) asker: Asker,
    birth: Birth,
}

/// What the child has told.
#[derive(Debug)]
pub(super) enum News {
    Report(Report, Option<OwnedFd>),
    /// The socket is closed: by the exec, or by the child's death.
    Closed,
    /// Nothing more for now.
    Nothing,
}

impl Setup {
    pub(super) fn new(
        poll: &Poll,
        number: u32,
        control: OwnedFd,
        asker: Asker,
        birth: Birth,
    ) -> Result<Self, Failure> {
        poll.add(&control, Source::Setup(number), Interest::Read)?;
        Ok(Setup { control, sequence: Sequence::Forked, asker, birth })
    }

    /// The process that the child says is the program from now on. The container may speak on
    /// this socket by then (it sees that process): so it is believed once, and only that one is
    /// a child of the shim's.
    pub(super) fn born(&mut self, process: Option<OwnedFd>) -> Result<(i32, OwnedFd), Failure> {
        let expected = self.birth == Birth::Awaited && self.sequence == Sequence::Starting;
        let born = process.filter(|_| expected).and_then(|process| {
            let pid = sys::process::number_of_child(process.as_fd())?;
            Some((pid, process))
        });
        self.birth = Birth::Told;
        born.ok_or_else(|| Failure::new(FailureKind::Host, "container init died as it became the program"))
    }

    /// Whoever holds the other end of the socket is the program, so that its closing is an exec.
    pub(super) fn is_born(&self) -> bool {
        self.sequence == Sequence::Starting && self.birth != Birth::Awaited
    }

    /// Says the word that lets the child prepare itself.
    pub(super) fn go(&mut self) -> Result<(), Failure> {
        assert_eq!(self.sequence, Sequence::Forked, "the first word is said once");
        self.say(crate::init::GO)?;
        self.sequence = Sequence::Preparing;
        Ok(())
    }

    /// Says the word that makes the child execute its program.
    pub(super) fn start(&mut self, asker: Asker) -> Result<(), Failure> {
        assert_eq!(self.sequence, Sequence::Prepared, "only a created container is started");
        self.say(START)?;
        (self.sequence, self.asker) = (Sequence::Starting, asker);
        Ok(())
    }

    fn say(&self, word: &[u8]) -> Result<(), Failure> {
        let said = sys::socket::send(&self.control, word, &[]).attempt(|| "speak to container init");
        Ok(said.map(drop)?)
    }

    pub(super) fn next(&mut self) -> News {
        let mut bytes = [0; REPORT_MAX];
        let mut fds = Vec::new();
        match sys::socket::receive(&self.control, &mut bytes, &mut fds) {
            Ok(0) => News::Closed,
            Ok(length) => match serde_json::from_slice(&bytes[..length]) {
                Ok(report) => News::Report(report, fds.pop()),
                Err(error) => {
                    let message = format!("container init said something unreadable: {error}");
                    News::Report(Report::Failed(Failure::new(FailureKind::Host, message)), None)
                }
            },
            Err(Errno::AGAIN) => News::Nothing,
            Err(_) => News::Closed,
        }
    }

    pub(super) fn end(self, poll: &Poll) {
        poll.remove(&self.control);
    }
}

/// Both ends of the socket between shim and child; the shim's does not block.
pub(super) fn control_pair() -> Result<(OwnedFd, OwnedFd), Failure> {
    let (ours, theirs) = sys::socket::packet_pair().attempt(|| "make a socket for container init")?;
    sys::socket::set_nonblocking(&ours, true).attempt(|| "make a socket for container init")?;
    Ok((ours, theirs))
}

/// A pipe whose end for the shim or a daemon does not block.
#[derive(Debug)]
pub(super) struct Pipe {
    pub(super) ours: OwnedFd,
    pub(super) theirs: OwnedFd,
}

/// For the child to read from.
pub(super) fn input_pipe() -> Result<Pipe, Failure> {
    let (theirs, ours) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).attempt(|| "make a pipe")?;
    sys::socket::set_nonblocking(&ours, true).attempt(|| "make a pipe")?;
    Ok(Pipe { ours, theirs })
}

/// For the child to write to.
pub(super) fn output_pipe() -> Result<Pipe, Failure> {
    let (ours, theirs) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).attempt(|| "make a pipe")?;
    sys::socket::set_nonblocking(&ours, true).attempt(|| "make a pipe")?;
    Ok(Pipe { ours, theirs })
}

/// Another descriptor of the same file, close-on-exec.
pub(super) fn duplicate(fd: impl AsFd) -> Result<OwnedFd, Failure> {
    Ok(rustix::io::fcntl_dupfd_cloexec(fd, 3).attempt(|| "duplicate a descriptor")?)
}
