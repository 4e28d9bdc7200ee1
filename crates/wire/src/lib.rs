//! Listeners, TLS, tunnels and graceful drain: bytes in, bytes out.
//!
//! ```text
//! socket ─ TLS ─ HTTP/1.1 | HTTP/2 ─ Handler ─ Response
//!                      └ upgrade ─ WebSocket channels | SPDY/3.1 streams
//! ```
//!
//! Every room that answers HTTP implements [`Handler`]; who calls it (a TLS
//! listener, another room in the same process, a test) makes no difference to
//! it. This crate does not know what it carries: no Kubernetes kind is named here.
//!
//! A listener is never full of silent clients (`connections.rs`), an answer never overtakes its
//! request (`rest.rs`), and a client that does not read is cut (`kept.rs`).
//!
//! Tasks: [`serve`] owns one task per connection, in its own set, and drains
//! them when its token is cancelled; the handler that takes an upgraded connection
//! over goes on in the listener's [`Sessions`], which are cut then, with the futures
//! that drive [`spdy`] sessions. [`pki::ServingCertificate::keep_fresh`] is run by
//! whoever listens.
//!
//! Start reading at [`Handler`], then `serve.rs`.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "a test owns what it starts"))]

mod connections;
mod handler;
mod kept;
pub mod pki;
mod rest;
mod serve;
mod sessions;
pub mod spdy;
pub mod websocket;

pub use handler::{Body, BoxError, Handler, Identity, Request, Response, body_from_stream, empty, full};
pub use serve::{Drained, Limits, Peer, serve, serve_with};
pub use sessions::{Sessions, Takeover};
