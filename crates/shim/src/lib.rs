//! The parent of one Pod's containers: it holds their namespaces and standard streams, reaps
//! them, writes their logs, remembers their exit codes, and outlives the daemon.
//!
//! ```text
//!  daemon ──shim.sock──> shim ──fork──> init of a container ──exec──> program
//!                         │ └─fork──> reaper, PID 1 of a shared PID namespace
//!                         └──> log files, <id>.state
//! ```
//!
//! One process, one thread, no async: it must stay near 1 MB.
//!
//! It knows nothing of Kubernetes objects, images or HTTP, and starts nothing again.
//!
//! Start reading at [`protocol`].

pub mod client;
pub mod codec;
pub mod protocol;
