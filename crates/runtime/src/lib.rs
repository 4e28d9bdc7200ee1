//! Images, snapshots, sandboxes with their network, containers, logs, exec.
//!
//! ```text
//!  node ──Runtime──► Native ──┬── image      store on disk, registries, archives
//!                             ├── sandbox ──► one shim a Pod (a process; it writes the logs)
//!                             │     └── container
//!                             └── network    bridge, addresses, host ports
//! ```
//!
//! The interface is [`Runtime`], in the words of the Container Runtime Interface (CRI v1):
//! a Pod is a *sandbox*, its containers belong to it. [`Runtime`] knows nothing of
//! Kubernetes objects; the node room translates.
//!
//! Tasks: one for each sandbox reads its shim's socket and publishes what happens to
//! [`Runtime::events`]; one for each pull under way. Nothing polls.
//!
//! What is on disk is a cache of what the shims and the kernel say: [`Native::open`] asks them.
//! This crate starts no container again, decides nothing about health, and never talks to the
//! API server.
//!
//! Start reading at [`Runtime`], then [`Native`].

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "a test owns what it starts"))]

mod audit;
mod clock;
mod config;
mod container;
mod events;
pub mod failpoint;
pub mod image;
mod interface;
mod layout;
mod link;
mod native;
mod network;
mod peer;
#[cfg(test)]
mod recorded;
mod sandbox;
mod threads;
mod traces;
mod usage;

pub use config::{Config, Reserved};
pub use interface::*;
pub use native::Native;
pub use network::{Subnet, range_taken};
pub use threads::on_own_thread;
pub use traces::{Names, Recorded, names, recorded, sweep};
pub use usage::{
    Collected, Collection, ContainerStats, Counters, DiskUse, Measured, MemoryUse, PodsMemory, Traffic,
};
