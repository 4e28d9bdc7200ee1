//! The API server: everything `kubectl` and the other rooms talk to.
//!
//! ```text
//! request ─ path ─ auth ─┬─ get, list, watch ──────────────── store (memory)
//!                        ├─ create, update, patch, delete ─── decode ─ default ─ mutate ─ validate ─ store
//!                        ├─ log, exec, attach, … ──────────── the node's handler
//!                        └─ discovery, health, openapi
//! ```
//!
//! One generic path serves every kind, driven by `api::resource`; what a kind
//! adds is in `api::strategy`. Objects leave as the bytes they were stored as.
//!
//! One task runs as long as the [`Server`] lives: `expiry` removes Events after their
//! hour. Each write is a task of its own, so that it ends even when its client has gone.
//! Watches have no tasks; their connections poll them.
//!
//! What clients hold at once is bounded in `inflight`; health checks have names in `health`,
//! and more are given with [`Config`].
//!
//! It does not run controllers, does not know nodes other than by HTTP, and opens
//! no socket: it is a [`wire::Handler`].
//!
//! Start reading at [`Server`], in `server.rs`.

mod admission;
pub mod auth;
mod bootstrap;
mod call;
mod config;
mod decoded;
mod delete;
mod expiry;
#[doc(hidden)]
pub mod fuzzing;
mod health;
mod inflight;
mod info;
mod list;
mod lookup;
mod materialized;
mod metrics;
mod negotiate;
mod object;
mod patch;
mod path;
mod pieces;
mod query;
mod registry;
mod requests;
mod respond;
mod server;
mod service;
mod socket;
mod state;
mod subresource;
mod view;
mod watch;
mod write;

pub use auth::audit::{Audit, Policy, PolicyError, Rotation};
pub use config::{Config, Nodes};
pub use health::Check;
pub use inflight::Limits;
pub use object::stamp;
pub use registry::Registry;
pub use server::{Server, StartError};
