//! Ingresses become answers: HTTP and HTTPS by host and path, straight to the Pods of a Service.
//!
//! ```text
//! Ingresses, IngressClasses, Services, ─ watch ─► build() ─► Table ─ swapped as a whole ─┐
//! EndpointSlices, Secrets                                                                ▼
//! client ─ HTTP/1.1 | TLS by server name, HTTP/2 ─► host, path ─► Upstream ─► Endpoint ─► Pod
//! ```
//!
//! Tasks: [`run`] is one loop. It reads its caches, builds the whole table as a value, swaps it, tells
//! what is wrong by Events and the status of each Ingress, and listens as long as there is an Ingress to listen
//! for. Requests are answered in the listeners' own tasks; each connection to a Pod has one, owned by [`Served`].
//!
//! A Pod that leaves is told to end only when no request that chose it still waits for the head of its answer
//! ([`Served::withdrawn`]): a program that ends may close a connection on which a request is under way.
//!
//! Not here: how a connection is accepted, bounded and drained (`wire`), and what may be written into an
//! Ingress (`api`).
//!
//! Start reading at [`build`], then `forward.rs`.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "a test owns what it starts"))]

mod build;
mod certificate;
mod class;
mod endpoint;
mod forward;
mod headers;
mod run;
mod served;
mod status;
mod table;

pub use build::{Finding, World, build};
pub use class::{CLASS, CONTROLLER};
pub use endpoint::{Endpoint, Endpoints, To};
pub use run::{Config, run};
pub use served::Served;
pub use table::{Matched, Table, Upstream};
