//! The objects of Kubernetes and their rules as pure functions.
//!
//! ```text
//! bytes ─ decode ─ defaults ─ strategy (prepare, validate) ─ bytes
//!            └ patch, apply      └ status, table, selector, discovery, openapi
//! ```
//!
//! No input or output, nothing asynchronous, no clock: time is an argument.
//! An object is a `serde_json::Value` between decoding and encoding; kinds whose
//! rules are many (Pods) are read into their k8s-openapi type where the rules are.
//!
//! Start reading at [`kinds`] (the table of kinds) and [`strategy`] (what a kind adds).

pub mod apply;
pub mod bootstrap;
pub mod certificates;
pub mod convert;
pub mod decode;
pub mod defaults;
pub mod discovery;
pub mod field;
mod json;
pub mod kinds;
pub mod limits;
pub mod meta;
pub mod names;
pub mod openapi;
pub mod patch;
pub mod placement;
pub mod protobuf;
pub mod quantity;
pub mod rbac;
pub mod schedule;
pub mod schema;
pub mod selector;
pub mod status;
pub mod strategy;
pub mod table;
pub mod validate;
