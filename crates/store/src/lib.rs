//! A revisioned key space: get, range, compare-and-put, watch from a revision.
//!
//! ```text
//! put, delete ─► queue ─► committer ─► one fdatasync of the log for all that queued
//!                            └─ then ─► memory: ordered index + bounded history ─► watchers
//! get, range ◄───────────────────────── memory, never the disk
//! ```
//!
//! One thread runs as long as the store is open: the committer. It reads the
//! queue, gathers what has queued into one commit, and publishes it, in
//! order, to the memory that every read and every watch is served from. There is
//! no task for each watcher: a watcher reads the history itself when it is woken.
//!
//! The file is a picture of all keys and a log of what was written since, each frame with its checksums
//! ([`backup`], [`restore`] and [`repair`] work on it from outside). What it holds after a crash, a full
//! disk, a failed sync or rot is said by the fault model at the head of the tests.
//!
//! This crate knows nothing of what the values mean beyond the [`Stamp`] it was
//! given to write revisions into them.
//!
//! Start reading at [`Store`]; the engine is [`Embedded`].

mod committer;
mod counted;
mod disk;
mod embedded;
mod frame;
#[doc(hidden)]
pub mod fuzzing;
mod health;
mod interface;
mod maintenance;
mod memory;
mod migrate;
#[cfg(test)]
mod tests;

pub use counted::write_metrics;
pub use embedded::{Embedded, OpenError};
pub use frame::{Damage, HeaderError};
pub use interface::{
    Answer, Delete, Durability, Entry, Error, Event, EventKind, Expect, Page, Put, Range, Stamp, Store, Watch,
};
pub use maintenance::{Damaged, Inspected, Repaired, Restored, backup, inspect, repair, restore};
pub use memory::History;
