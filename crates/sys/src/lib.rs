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

pub mod cgroup;
mod error;
pub mod socket;

pub use error::{Context, Error, Result, errno_words};
pub use rustix::io::Errno;
