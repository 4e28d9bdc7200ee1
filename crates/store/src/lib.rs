//! A revisioned key space: get, range, compare-and-put, watch from a revision.
//!
//! ```text
//! put, delete ─► queue ─► committer ─► one durable transaction (redb)
//!                            └─ then ─► memory: ordered index + bounded history ─► watchers
//! get, range ◄───────────────────────── memory, never the disk
//! ```
//!
//! One thread runs as long as the store is open: the committer. It reads the
//! queue, gathers what has queued into one transaction, and publishes it, in
//! order, to the memory that every read and every watch is served from. There is
//! no task for each watcher: a watcher reads the history itself when it is woken.
//!
//! This crate knows nothing of what the values mean beyond the [`Stamp`] it was
//! given to write revisions into them.
//!
//! Start reading at [`Store`]; the engine is [`Embedded`].

mod committer;
mod disk;
mod embedded;
mod interface;
mod memory;
#[cfg(test)]
mod tests;

pub use embedded::{Embedded, OpenError};
pub use interface::{
    Answer, Delete, Durability, Entry, Error, Event, EventKind, Expect, Page, Put, Range, Stamp, Store, Watch,
};
pub use memory::History;
