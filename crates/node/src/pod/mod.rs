//! The life of one Pod as a pure machine.
//!
//! ```text
//!            VolumesMounted   SandboxReady      init ... mains
//! Admitted ───────────────▶ ─────────────▶ Active ──────────┐ finished, deleted, evicted, too old
//!     │ refused                                             ▼
//!     ▼                              Terminating: endpoints, preStop, TERM, KILL, sidecars last
//!  Terminated ◀──── sandbox stopped, volumes unmounted ─────┘
//!     │ deleted
//!     ▼
//!  Removing ──▶ Deleting ──▶ Gone
//! ```
//!
//! A Pod begins unobserved: what the runtime has of it comes as one event
//! ([`observe`]), and nothing is done before. The same event comes again after lost events, after
//! a task that failed, and from a slow audit.
//!
//! [`step`](step::step) takes the state, one event and the time, and returns what is to be done.
//! Whoever carries the actions out sends their results back as events. Nothing here
//! reads a clock, a file or the network.
//!
//! Start reading at [`state::PodState`], then [`step`].

pub mod admit;
pub mod allocation;
pub mod backoff;
pub mod clock;
pub mod event;
pub mod observe;
pub mod policy;
pub mod pressure;
pub mod probe;
pub mod qos;
pub mod resize;
pub mod restart_all;
pub mod spec;
pub mod start;
pub mod state;
pub mod status;
pub mod step;
pub mod stop;
pub mod storage;
pub mod timeline;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;
