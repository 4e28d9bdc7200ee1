//! Talks to the API server: typed requests, watches, and caches kept current.
//!
//! ```text
//! room ─ Client ─ Transport ─┬─ InProcess: the server's Handler, no socket
//!        Informers  Recorder └─ Https: TLS, HTTP/2, one connection
//! ```
//!
//! Tasks (each in the `JoinSet` of the room that starts it): [`Informers`] read
//! lists and watches and publish objects with their changes, one set for all rooms
//! of a process; a [`events::Recorder`] reads what rooms report and writes Events;
//! an [`Https`] transport drives its connection.
//!
//! This crate decides nothing about the objects it carries, and does not know
//! the server: a room that acts on objects cannot tell which transport it has.
//!
//! Start reading at [`Client`], then `informer/mod.rs`.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "a test owns what it starts"))]

mod client;
mod error;
pub mod events;
mod https;
mod informer;
pub mod kubeconfig;
mod lean;
mod pulse;
pub mod tasks;
mod transport;
mod watch;

pub use client::{
    Client, DeleteOptions, List, ListOptions, Object, Patch, PatchKind, Propagation, object_path,
};
pub use error::{Error, Retry, Unreadable};
pub use https::{Credential, Https, HttpsConfig};
pub use informer::{Change, Changes, Index, Informer, Informers, Part, index, key, key_of};
pub use pulse::Pulse;
pub use transport::{InProcess, Transport, TransportError};
pub use watch::{Watch, WatchEvent};
