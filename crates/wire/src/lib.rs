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
//! Start reading at [`Handler`].

mod handler;

pub use handler::{Body, BoxError, Handler, Identity, Request, Response, body_from_stream, empty, full};
