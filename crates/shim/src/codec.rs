//! Frames to bytes and back.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use serde::Deserialize;

use crate::protocol::{FRAME_MAX, Message, VERSION};

/// A message cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// Longer than [`FRAME_MAX`].
    #[error("frame of {0} bytes is longer than {FRAME_MAX}")]
    TooLong(usize),
    /// Not JSON.
    #[error("frame is not JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// A message that this version does not know; the connection is good nevertheless.
#[derive(Debug, thiserror::Error)]
#[error("not known in version {VERSION} of the protocol: {why}")]
pub struct Unreadable {
    /// What it was.
    pub what: Envelope,
    /// What is not known about it.
    pub why: String,
}

/// How a message is addressed, whatever is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Envelope {
    /// A request of this number, which waits for a reply.
    Request(u64),
    /// The reply to the request of this number.
    Reply(u64),
    /// Something that nobody waits for.
    Unasked,
}

/// The same in JSON.
#[derive(Deserialize)]
enum Addressed {
    Request { id: u64 },
    Reply { id: u64 },
}

impl Unreadable {
    fn new(json: &[u8], error: &serde_json::Error) -> Result<Self, CodecError> {
        // What is no JSON at all does not come from a later version.
        let _: serde::de::IgnoredAny = serde_json::from_slice(json)?;
        let what = match serde_json::from_slice(json) {
            Ok(Addressed::Request { id }) => Envelope::Request(id),
            Ok(Addressed::Reply { id }) => Envelope::Reply(id),
            Err(_) => Envelope::Unasked,
        };
        Ok(Unreadable { what, why: error.to_string() })
    }
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

    /// The next whole message, if there is one; one of another version may be unreadable.
    ///
    /// # Errors
    /// The peer does not speak this protocol; the connection is of no use any more.
    pub fn next_message(&mut self) -> Result<Option<Result<Message, Unreadable>>, CodecError> {
        let Some(prefix) = self.bytes.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_be_bytes(*prefix) as usize;
        if length > FRAME_MAX {
            return Err(CodecError::TooLong(length));
        }
        let Some(json) = self.bytes.get(4..4 + length) else { return Ok(None) };
        let message = match serde_json::from_slice(json) {
            Ok(message) => Ok(message),
            Err(error) => Err(Unreadable::new(json, &error)?),
        };
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
                    seen.push(message.unwrap());
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

    fn read(json: &str) -> Result<Message, Unreadable> {
        let mut decoder = Decoder::default();
        decoder.push(&u32::try_from(json.len()).unwrap().to_be_bytes());
        decoder.push(json.as_bytes());
        let message = decoder.next_message().unwrap().unwrap();
        assert!(decoder.next_message().unwrap().is_none(), "the frame is taken");
        message
    }

    #[test]
    fn what_is_no_json_ends_the_connection() {
        let mut decoder = Decoder::default();
        decoder.push(&[0, 0, 0, 2]);
        decoder.push(b"{]");
        assert!(matches!(decoder.next_message(), Err(CodecError::Json(_))));
    }

    #[test]
    fn a_message_of_a_later_version_is_told_by_its_address() {
        for (json, what) in [
            (r#"{"Request":{"id":9,"request":"Dance"}}"#, Envelope::Request(9)),
            (r#"{"Request":{"id":9,"request":{"Dance":{"step":[1]}},"more":1}}"#, Envelope::Request(9)),
            (r#"{"Request":{"id":9,"request":{"Start":{"name":"a"}}}}"#, Envelope::Request(9)),
            (r#"{"Reply":{"id":8,"result":{"Ok":"Danced"}}}"#, Envelope::Reply(8)),
            (r#"{"Event":{"Danced":{}}}"#, Envelope::Unasked),
            (r#"{"Music":3}"#, Envelope::Unasked),
            ("{}", Envelope::Unasked),
        ] {
            assert_eq!(read(json).unwrap_err().what, what, "{json}");
        }
    }

    #[test]
    fn what_a_later_version_adds_to_a_message_is_passed_over() {
        let request = read(r#"{"Request":{"id":1,"request":{"Start":{"id":"a","how":"softly"}},"at":5}}"#);
        let expected = Message::Request { id: 1, request: Request::Start { id: "a".into() } };
        assert_eq!(request.unwrap(), expected);
        let reply = read(r#"{"Reply":{"id":1,"result":{"Err":{"kind":"OutOfTune","message":"no"}}}}"#);
        let result = Err(Failure { kind: FailureKind::Unknown, message: "no".into() });
        assert_eq!(reply.unwrap(), Message::Reply { id: 1, result });
    }

    #[test]
    fn replies_survive_the_trip() {
        let reply = Message::Reply { id: 1, result: Ok(Reply::Done) };
        let mut decoder = Decoder::default();
        decoder.push(&encode(&reply).unwrap());
        assert_eq!(decoder.next_message().unwrap().unwrap().unwrap(), reply);
    }
}
