//! A daemon's connection.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use sys::Errno;

use crate::codec::{CodecError, Decoder, Unreadable, encode};
use crate::protocol::Message;

/// A daemon that does not read is cut off when this much waits for it: it connects again and
/// asks for the state.
const BACKLOG_MAX: usize = 4 << 20;

/// What is to be done with a connection after an attempt to read or write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Keep,
    Close,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) number: u32,
    socket: OwnedFd,
    decoder: Decoder,
    waiting: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
    /// How much of the first waiting frame is gone.
    sent: usize,
    /// Wants events.
    pub(super) subscribed: bool,
    /// The version that is spoken on it; `None`: it has not said hello.
    pub(super) version: Option<u32>,
}

impl Connection {
    pub(super) fn new(number: u32, socket: OwnedFd) -> Result<Self, Errno> {
        sys::socket::set_nonblocking(&socket, true)?;
        Ok(Connection {
            number,
            socket,
            decoder: Decoder::default(),
            waiting: VecDeque::new(),
            sent: 0,
            subscribed: false,
            version: None,
        })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// True while frames wait for room.
    pub(super) fn is_writing(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Reads what is there.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Fate {
        match sys::socket::receive(&self.socket, buffer, &mut Vec::new()) {
            Ok(0) => Fate::Close,
            Ok(length) => {
                self.decoder.push(&buffer[..length]);
                Fate::Keep
            }
            Err(Errno::AGAIN) => Fate::Keep,
            Err(_) => Fate::Close,
        }
    }

    pub(super) fn next_message(&mut self) -> Result<Option<Result<Message, Unreadable>>, CodecError> {
        self.decoder.next_message()
    }

    /// Sends a message as far as there is room, the rest when there is.
    pub(super) fn send(&mut self, message: &Message, fds: Vec<OwnedFd>) -> Fate {
        let Ok(frame) = encode(message) else { return Fate::Close };
        self.waiting.push_back((frame, fds));
        let waiting: usize = self.waiting.iter().map(|(frame, _)| frame.len()).sum();
        if waiting > BACKLOG_MAX {
            return Fate::Close;
        }
        self.flush()
    }

    /// Sends what waits.
    pub(super) fn flush(&mut self) -> Fate {
        while let Some((frame, fds)) = self.waiting.front_mut() {
            let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
            match sys::socket::send(&self.socket, &frame[self.sent..], &borrowed) {
                Ok(taken) => {
                    self.sent += taken;
                    fds.clear();
                    if self.sent == frame.len() {
                        self.waiting.pop_front();
                        self.sent = 0;
                    }
                }
                Err(Errno::AGAIN) => return Fate::Keep,
                Err(_) => return Fate::Close,
            }
        }
        Fate::Keep
    }
}
