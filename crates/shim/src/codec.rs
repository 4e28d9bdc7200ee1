//! Frames to bytes and back.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use crate::protocol::{FRAME_MAX, Message};

/// A message cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// Longer than [`FRAME_MAX`].
    #[error("frame of {0} bytes is longer than {FRAME_MAX}")]
    TooLong(usize),
    /// Not the JSON of a message of this version.
    #[error("frame is not a message of this version: {0}")]
    Json(#[from] serde_json::Error),
}

/// The bytes of a frame.
///
/// # Errors
/// The message is longer than [`FRAME_MAX`].
pub fn encode(message: &Message) -> Result<Vec<u8>, CodecError> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, message)?;
    let length = frame.len() - 4;
    match u32::try_from(length) {
        Ok(prefix) if length <= FRAME_MAX => frame[..4].copy_from_slice(&prefix.to_be_bytes()),
        _ => return Err(CodecError::TooLong(length)),
    }
    Ok(frame)
}

/// Puts frames together from what a socket gives. Descriptors wait in order of arrival until
/// the reply that they belong to asks for them.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
    fds: VecDeque<OwnedFd>,
}

impl Decoder {
    /// Adds what a read gave.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Adds descriptors that came with a read.
    pub fn push_fds(&mut self, fds: impl IntoIterator<Item = OwnedFd>) {
        self.fds.extend(fds);
    }

    /// The oldest waiting descriptor.
    pub fn take_fd(&mut self) -> Option<OwnedFd> {
        self.fds.pop_front()
    }

    /// The next whole message, if there is one.
    ///
    /// # Errors
    /// The peer does not speak this protocol; the connection is of no use any more.
    pub fn next_message(&mut self) -> Result<Option<Message>, CodecError> {
        let Some(prefix) = self.bytes.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_be_bytes(*prefix) as usize;
        if length > FRAME_MAX {
            return Err(CodecError::TooLong(length));
        }
        let Some(json) = self.bytes.get(4..4 + length) else { return Ok(None) };
        let message = serde_json::from_slice(json)?;
        self.bytes.drain(..4 + length);
        if self.bytes.is_empty() {
            // A long specification must not stay in a small process.
            self.bytes = Vec::new();
        }
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Failure, FailureKind, Reply, Request};

    #[test]
    fn a_message_split_anywhere_is_put_together() {
        let one = Message::Request { id: 7, request: Request::Start { id: "a".into() } };
        let two = Message::Reply {
            id: 7,
            result: Err(Failure { kind: FailureKind::NotFound, message: "no \"x\"".into() }),
        };
        let mut stream = encode(&one).unwrap();
        stream.extend(encode(&two).unwrap());
        for cut in 0..stream.len() {
            let mut decoder = Decoder::default();
            let mut seen = Vec::new();
            for part in [&stream[..cut], &stream[cut..]] {
                decoder.push(part);
                while let Some(message) = decoder.next_message().unwrap() {
                    seen.push(message);
                }
            }
            assert_eq!(seen, [one.clone(), two.clone()], "cut at {cut}");
        }
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_it_is_read() {
        let mut decoder = Decoder::default();
        decoder.push(&u32::MAX.to_be_bytes());
        assert!(matches!(decoder.next_message(), Err(CodecError::TooLong(_))));
    }

    #[test]
    fn what_is_not_a_message_is_an_error() {
        let mut decoder = Decoder::default();
        decoder.push(&[0, 0, 0, 2]);
        decoder.push(b"{}");
        assert!(matches!(decoder.next_message(), Err(CodecError::Json(_))));
    }

    #[test]
    fn replies_survive_the_trip() {
        let reply = Message::Reply { id: 1, result: Ok(Reply::Done) };
        let mut decoder = Decoder::default();
        decoder.push(&encode(&reply).unwrap());
        assert_eq!(decoder.next_message().unwrap(), Some(reply));
    }
}
