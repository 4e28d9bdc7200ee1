//! The node agent: runs the Pods that are bound to this node.
//!
//! ```text
//!                 watch                        Event                    Action
//! API ──Pods, ConfigMaps, Secrets──▶ worker ──────────▶ pod::step ────────────────▶ task
//!  ▲                                 (one a Pod)  ▲                                  │
//!  └────── status patches ◀───────────────┘       └────── results, exits, probes ◀───┘
//! ```
//!
//! Tasks: one worker for each Pod UID (`worker`), fed by the Pod watch, the runtime's
//! events and, every few minutes, a look at all that the runtime has; one task for the Node
//! object and one for its Lease (`object`); one reads the static Pods of the node's own files and one shows
//! them in the API (`manifests`); one writes down what happened to each Pod (`timeline`). A worker's own tasks (mounts, starts, hooks, probes)
//! live in its `JoinSet` and end with it. A worker that panics is begun anew.
//!
//! What this crate does not do: it does not place Pods, does not know how containers are
//! made ([`runtime`] does), and does not answer to users: the server hands requests for
//! logs and exec to its handler.
//!
//! Start reading at [`pod`].

mod clock;
mod config;
pub mod container;
mod credentials;
pub mod eviction;
mod hooks;
mod host;
mod kubelet;
mod logs;
mod manifests;
mod node;
mod object;
pub mod pod;
mod probing;
mod shared;
mod sizes;
mod termination;
mod threads;
pub mod timeline;
mod users;
pub mod volumes;
mod worker;

pub use config::{Config, ConfirmEndpoints, ConfirmPolicies, NotReady, Pulses};
pub use node::Node;
pub use pod::admit::allowed_sysctls;
