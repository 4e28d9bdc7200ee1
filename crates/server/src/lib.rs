//! The API server: everything `kubectl` and the other rooms talk to.
//!
//! ```text
//! request ─ path ─ auth ─┬─ get, list, watch ──────────────── store (memory)
//!                        ├─ create, update, patch, delete ─── decode ─ default ─ admit ─ validate ─ store
//!                        ├─ log, exec, attach, … ──────────── the node's handler
//!                        └─ discovery, health, openapi
//! ```
//!
//! One generic path serves every kind, driven by `api::resource`; what a kind
//! adds is in `api::strategy`. Objects leave as the bytes they were stored as.
//!
//! It does not run controllers, does not know nodes other than by HTTP, and opens
//! no socket: it is a [`wire::Handler`].
//!
//! Start reading at [`Config`].

pub mod auth;
mod config;

pub use config::{Config, Nodes};
