//! What a container writes: to its log, and to those attached.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::pipe::PipeFlags;
use sys::Errno;

use super::poll::{Interest, Poll, Source};
use crate::log::{Lines, Log, Stream};
use crate::protocol::Nanoseconds;

/// An attached reader that takes nothing for so long is let go: a container must not hang on
/// somebody's terminal that was stopped.
const PATIENCE: Duration = Duration::from_secs(10);

/// The most that is read from one container before the others get their turn.
const TURN: usize = 256 << 10;

/// One attached reader.
#[derive(Debug)]
struct Reader {
    number: u32,
    pipe: OwnedFd,
    /// What it did not take yet.
    waiting: Vec<u8>,
    since: Instant,
}

/// The most that is read at a process's end. More can only come from one that outlives it.
const LAST: usize = 16 << 20;

/// What became of the stream after reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// More may come.
    Open,
    /// All that was ever written has been read.
    Ended,
}

/// One stream of a container.
#[derive(Debug)]
pub(super) struct Output {
    stream: Stream,
    /// The shim's end; `None` when it has ended.
    source: Option<OwnedFd>,
    /// The source is waited for. While a reader holds it up it is not: its end could not be
    /// taken and would be told again and again.
    waited_for: bool,
    serial: u32,
    lines: Lines,
    readers: Vec<Reader>,
}

impl Output {
    /// Begins to wait for what is written to `source`, which must not block.
    pub(super) fn new(poll: &Poll, serial: u32, stream: Stream, source: OwnedFd) -> sys::Result<Self> {
        poll.add(&source, Source::Output(serial, stream), Interest::Read)?;
        Ok(Output {
            stream,
            source: Some(source),
            waited_for: true,
            serial,
            lines: Lines::default(),
            readers: Vec::new(),
        })
    }

    /// A new reader's end of a pipe; it gets what is written from now on.
    pub(super) fn attach(&mut self, poll: &Poll, number: u32) -> Result<OwnedFd, Errno> {
        let (theirs, ours) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // Larger is better, but a user may have used up his share of pipe memory.
        let _ = rustix::pipe::fcntl_setpipe_size(&ours, 256 << 10);
        // Its end (the reader has gone) is always told.
        let added = poll.add(&ours, Source::Reader(number), Interest::Nothing);
        added.map_err(|error| error.errno)?;
        if self.source.is_some() {
            self.readers.push(Reader { number, pipe: ours, waiting: Vec::new(), since: Instant::now() });
        }
        Ok(theirs)
    }

    /// Reads what there is, a turn's worth, or, at the end of the process, all of it.
    pub(super) fn read(
        &mut self,
        poll: &Poll,
        buffer: &mut [u8],
        log: &mut Option<Log>,
        time: Nanoseconds,
        all: bool,
    ) -> State {
        let mut taken = 0;
        while if all { taken < LAST } else { taken < TURN && !self.is_held() } {
            let Some(source) = &self.source else { return State::Ended };
            match rustix::io::retry_on_intr(|| rustix::io::read(source, &mut *buffer)) {
                Ok(0) | Err(Errno::IO) => {
                    // A terminal whose other end is closed answers EIO.
                    self.end(poll, log, time);
                    return State::Ended;
                }
                Ok(length) => {
                    taken += length;
                    self.distribute(poll, &buffer[..length], log, time);
                }
                Err(Errno::AGAIN) => break,
                Err(_) => {
                    self.end(poll, log, time);
                    return State::Ended;
                }
            }
        }
        if let Some(log) = log {
            log.flush();
        }
        self.wait_unless_held(poll);
        State::Open
    }

    fn distribute(&mut self, poll: &Poll, bytes: &[u8], log: &mut Option<Log>, time: Nanoseconds) {
        if let Some(log) = log {
            let stream = self.stream;
            self.lines.push(bytes, |piece, full| log.record(time, stream, piece, full));
        }
        self.readers.retain_mut(|reader| reader.offer(poll, bytes));
    }

    /// True while a reader must take something before more is read.
    fn is_held(&self) -> bool {
        self.readers.iter().any(|reader| !reader.waiting.is_empty())
    }

    fn wait_unless_held(&mut self, poll: &Poll) {
        let wanted = !self.is_held();
        let Some(source) = self.source.as_ref().filter(|_| wanted != self.waited_for) else { return };
        if wanted {
            // The descriptor was in the set before: nothing new can be wrong with it.
            let _ = poll.add(source, Source::Output(self.serial, self.stream), Interest::Read);
        } else {
            poll.remove(source);
        }
        self.waited_for = wanted;
    }

    /// A reader has room, or is gone. False: not one of this stream's.
    pub(super) fn reader_ready(&mut self, poll: &Poll, number: u32) -> bool {
        let Some(place) = self.readers.iter().position(|reader| reader.number == number) else {
            return false;
        };
        let reader = &mut self.readers[place];
        let keep = !reader.waiting.is_empty() && reader.offer(poll, &[]);
        if !keep {
            // Nothing waited and yet there was an event: it has hung up.
            poll.remove(&self.readers.swap_remove(place).pipe);
        }
        self.go_on(poll);
        true
    }

    fn go_on(&mut self, poll: &Poll) {
        if self.source.is_none() {
            // After the end only those stay that have something to take yet.
            self.readers.retain(|reader| !reader.waiting.is_empty());
        }
        self.wait_unless_held(poll);
    }

    /// Lets go of readers that have taken nothing for too long. Gives the time until the next
    /// one's patience ends.
    pub(super) fn expire(&mut self, poll: &Poll, now: Instant) -> Option<Duration> {
        let lost = |reader: &Reader| {
            !reader.waiting.is_empty() && now.saturating_duration_since(reader.since) >= PATIENCE
        };
        if self.readers.iter().any(lost) {
            self.readers.retain(|reader| !lost(reader));
            self.go_on(poll);
        }
        let held = self.readers.iter().filter(|reader| !reader.waiting.is_empty());
        held.map(|reader| PATIENCE.saturating_sub(now.saturating_duration_since(reader.since))).min()
    }

    /// Ends the stream: no more is read, the last line is logged, readers get the end when they
    /// have taken what waits for them.
    pub(super) fn end(&mut self, poll: &Poll, log: &mut Option<Log>, time: Nanoseconds) {
        if let Some(source) = self.source.take() {
            poll.remove(&source);
        }
        if let Some(log) = log {
            let stream = self.stream;
            self.lines.finish(|piece, full| log.record(time, stream, piece, full));
            log.flush();
        }
        self.readers.retain(|reader| !reader.waiting.is_empty());
    }
}

impl Reader {
    /// Gives it bytes after what waits already. False: it is gone.
    fn offer(&mut self, poll: &Poll, bytes: &[u8]) -> bool {
        self.waiting.extend_from_slice(bytes);
        let before = self.waiting.len();
        let mut taken = 0;
        while taken < before {
            match rustix::io::retry_on_intr(|| rustix::io::write(&self.pipe, &self.waiting[taken..])) {
                Ok(length) => taken += length,
                Err(Errno::AGAIN) => break,
                Err(_) => return false,
            }
        }
        self.waiting.drain(..taken);
        if taken > 0 {
            self.since = Instant::now();
        }
        if self.waiting.is_empty() {
            self.waiting = Vec::new();
        }
        let interest = if self.waiting.is_empty() { Interest::Nothing } else { Interest::Write };
        poll.change(&self.pipe, Source::Reader(self.number), interest);
        true
    }
}
