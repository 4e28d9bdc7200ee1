//! The parent of one Pod's containers: it holds their namespaces and standard streams, reaps
//! them, writes their logs, remembers their exit codes, and outlives the daemon.
//!
//! ```text
//!  daemon ──shim.sock──> shim ──fork──> init of a container ──exec──> program
//!                         │ └─fork──> reaper, PID 1 of a shared PID namespace
//!                         └──> log files, <id>.state
//! ```
//!
//! One process with one thread and one loop (`server`): it waits for daemons, for children, for
//! what containers write, and acts at once. It is the same executable as the daemon, started with
//! the word `shim`, and must stay near 1 MB: no async runtime, no large buffers.
//!
//! It knows nothing of Kubernetes objects, images or HTTP, never starts a container again, and
//! decides nothing: limits, users and mounts are told to it.
//!
//! Start reading at [`protocol`], then `server`; what happens between fork and exec is in `init`.

pub mod client;
mod clock;
pub mod codec;
mod entry;
mod failure;
mod init;
mod log;
mod network;
pub mod protocol;
mod reaper;
mod record;
mod sandbox;
mod server;
mod users;

pub use entry::main;
pub use network::set_up as set_up_network;
pub use record::read_all as read_states;
