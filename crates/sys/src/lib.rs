//! Every Linux call of the project behind typed functions; the only crate with `unsafe`.
//!
//! ```text
//!   runtime, proxy, node ──┐
//!                          ├──> sys ──> rustix / libc ──> kernel
//!   shim ──────────────────┘
//! ```
//!
//! No tasks and no state live here: each function makes a few system calls and returns. It never
//! decides what a container should look like (that is `shim`) nor what a Pod needs (`runtime`).
//! Functions take and return owned descriptors, never raw numbers.
//!
//! Start reading at [`cgroup`], the largest part, or at [`process`] for how children are made.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "a test owns what it starts"))]

// The modules with unsafe code, all of them.
#[allow(unsafe_code)]
mod bpf;
#[allow(unsafe_code)]
pub mod mount;
#[allow(unsafe_code)]
pub mod namespace;
#[allow(unsafe_code)]
pub mod process;
#[allow(unsafe_code)]
pub mod seccomp;

pub mod beneath;
pub mod capability;
pub mod cgroup;
pub mod command;
pub mod disk;
mod error;
pub mod limits;
pub mod netlink;
pub mod pty;
pub mod socket;
pub mod sysctl;
pub mod user;

pub use command::run;
pub use error::{Context, Error, Result, errno_words};
pub use rustix::io::Errno;
