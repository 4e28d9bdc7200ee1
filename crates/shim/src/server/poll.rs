//! What the shim waits for.

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use sys::{Context, Result};

use crate::log::Stream;

/// Where an event comes from. Numbers are the shim's own, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Somebody connects.
    Listener,
    /// A signal: children have ended, something in the sandbox directory was removed.
    Signals,
    /// A daemon's connection.
    Connection(u32),
    /// A child between fork and exec, of a container or an exec.
    Setup(u32),
    /// What a container writes.
    Output(u32, Stream),
    /// A reader of what a container writes has room again.
    Reader(u32),
    /// A container has run out of memory.
    Oom(u32),
}

impl Source {
    fn encode(self) -> u64 {
        let (kind, number) = match self {
            Source::Listener => (0, 0),
            Source::Signals => (1, 0),
            Source::Connection(number) => (2, number),
            Source::Setup(number) => (3, number),
            Source::Output(number, Stream::Stdout) => (4, number),
            Source::Output(number, Stream::Stderr) => (5, number),
            Source::Reader(number) => (6, number),
            Source::Oom(number) => (7, number),
        };
        kind << 32 | u64::from(number)
    }

    fn decode(value: u64) -> Option<Self> {
        let number = u32::try_from(value & 0xffff_ffff).ok()?;
        Some(match value >> 32 {
            0 => Source::Listener,
            1 => Source::Signals,
            2 => Source::Connection(number),
            3 => Source::Setup(number),
            4 => Source::Output(number, Stream::Stdout),
            5 => Source::Output(number, Stream::Stderr),
            6 => Source::Reader(number),
            7 => Source::Oom(number),
            _ => return None,
        })
    }
}

/// What is waited for at a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interest {
    /// Something to read.
    Read,
    /// Something to read, or room to write.
    ReadWrite,
    /// Room to write.
    Write,
    /// A change of a cgroup file, told once.
    Change,
    /// Only its end.
    Nothing,
}

impl Interest {
    fn flags(self) -> EventFlags {
        match self {
            Interest::Read => EventFlags::IN,
            Interest::ReadWrite => EventFlags::IN | EventFlags::OUT,
            Interest::Write => EventFlags::OUT,
            Interest::Change => EventFlags::PRI | EventFlags::ET,
            Interest::Nothing => EventFlags::empty(),
        }
    }
}

/// All sources. A closed descriptor leaves by itself, unless a child has a copy of it: so each
/// source is removed by name before it is closed.
#[derive(Debug)]
pub(super) struct Poll(OwnedFd);

/// Events taken at once.
const EVENTS_MAX: usize = 16;

impl Poll {
    pub(super) fn new() -> Result<Self> {
        epoll::create(epoll::CreateFlags::CLOEXEC).attempt(|| "make an epoll descriptor").map(Poll)
    }

    pub(super) fn add(&self, fd: impl AsFd, source: Source, interest: Interest) -> Result<()> {
        let data = EventData::new_u64(source.encode());
        epoll::add(&self.0, fd, data, interest.flags()).attempt(|| "add to epoll")
    }

    pub(super) fn change(&self, fd: impl AsFd, source: Source, interest: Interest) {
        let data = EventData::new_u64(source.encode());
        // Fails only for what is not in the set, and then there is nothing to change.
        let _ = epoll::modify(&self.0, fd, data, interest.flags());
    }

    pub(super) fn remove(&self, fd: impl AsFd) {
        let _ = epoll::delete(&self.0, fd);
    }

    /// Waits, at most until `milliseconds` have passed, and gives what happened.
    pub(super) fn wait(&self, milliseconds: Option<u64>) -> Result<Vec<Source>> {
        let timeout = milliseconds.map(|ms| Timespec {
            tv_sec: i64::try_from(ms / 1000).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(ms % 1000 * 1_000_000).unwrap_or(0),
        });
        let none = epoll::Event { flags: EventFlags::empty(), data: EventData::new_u64(0) };
        let mut events = [none; EVENTS_MAX];
        let ready = rustix::io::retry_on_intr(|| epoll::wait(&self.0, &mut events[..], timeout.as_ref()))
            .attempt(|| "epoll_wait")?;
        Ok(events[..ready].iter().filter_map(|event| Source::decode(event.data.u64())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_survive_the_kernel() {
        let sources = [
            Source::Listener,
            Source::Signals,
            Source::Connection(1),
            Source::Setup(u32::MAX),
            Source::Output(2, Stream::Stdout),
            Source::Output(2, Stream::Stderr),
            Source::Reader(3),
            Source::Oom(4),
        ];
        for source in sources {
            assert_eq!(Source::decode(source.encode()), Some(source));
        }
        assert_eq!(Source::decode(99 << 32), None);
    }
}
