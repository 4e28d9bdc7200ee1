//! The stream of changes that the server sends.

use bytes::{Buf, Bytes, BytesMut};
use http_body_util::BodyExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{Error, TransportError, Unreadable};

/// One change.
#[derive(Debug)]
pub enum WatchEvent<K> {
    /// The object is new, or newly selected.
    Added(K),
    /// The object changed.
    Modified(K),
    /// The object is gone, or no longer selected; this was its last state.
    Deleted(K),
    /// Nothing happened up to this version.
    Bookmark {
        /// Where to go on from.
        resource_version: String,
        /// All objects that existed at the start have been sent.
        initial_events_end: bool,
    },
}

/// How an object is decoded.
pub(crate) type Read<K> = fn(&[u8]) -> Result<K, serde_json::Error>;

/// A running watch. Dropping it ends it.
pub struct Watch<K> {
    path: String,
    body: wire::Body,
    received: BytesMut,
    read: Read<K>,
}

impl<K> std::fmt::Debug for Watch<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("path", &self.path).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
struct Bookmark {
    metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
}

impl<K> Watch<K> {
    pub(crate) fn new(path: String, body: wire::Body, read: Read<K>) -> Self {
        Self { path, body, received: BytesMut::new(), read }
    }

    /// The next change; `None` when the server ended the watch in order. After
    /// [`Error::Unreadable`] the watch goes on. Cancel-safe: bytes that were received stay here.
    pub async fn next(&mut self) -> Option<Result<WatchEvent<K>, Error>> {
        loop {
            if let Some(end) = self.received.iter().position(|&byte| byte == b'\n') {
                let line = self.received.split_to(end + 1);
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                return Some(self.decode(&line));
            }
            match self.body.frame().await? {
                Ok(frame) => self.receive(frame.into_data().unwrap_or_default()),
                Err(source) => return Some(Err(self.broken(source))),
            }
        }
    }

    fn receive(&mut self, data: Bytes) {
        // In one process a frame is exactly one line: this is its only copy.
        self.received.extend_from_slice(data.chunk());
    }

    fn decode(&self, line: &[u8]) -> Result<WatchEvent<K>, Error> {
        let decode = |source| Error::Decode { path: self.path.clone(), source };
        let event: Line<'_> = serde_json::from_slice(line).map_err(decode)?;
        let object = event.object.get();
        let read = || {
            (self.read)(object.as_bytes()).map_err(|source| {
                let object = Unreadable { deleted: event.kind == "DELETED", ..Unreadable::of(object) };
                Error::Unreadable { object: Box::new(object), source }
            })
        };
        match event.kind {
            "ADDED" => Ok(WatchEvent::Added(read()?)),
            "MODIFIED" => Ok(WatchEvent::Modified(read()?)),
            "DELETED" => Ok(WatchEvent::Deleted(read()?)),
            "BOOKMARK" => {
                let metadata = serde_json::from_str::<Bookmark>(object).map_err(decode)?.metadata;
                let initial_events_end =
                    metadata.annotations.is_some_and(|a| a.contains_key("k8s.io/initial-events-end"));
                let resource_version = metadata.resource_version.unwrap_or_default();
                Ok(WatchEvent::Bookmark { resource_version, initial_events_end })
            }
            _ => {
                let status = serde_json::from_str::<Status>(object).map_err(decode)?;
                Err(Error::Api(Box::new(status)))
            }
        }
    }

    fn broken(&self, source: wire::BoxError) -> Error {
        let source = TransportError::Broken(source);
        Error::Transport { method: http::Method::GET, path: self.path.clone(), source }
    }
}
