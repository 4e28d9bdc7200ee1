//! SPDY/3.1, server side: what port-forward speaks inside a WebSocket, and what
//! old clients speak for exec and attach.
//!
//! ```text
//! io ─► read loop ─► codec ─┬─ SYN_STREAM ─► Session::accept ─► Stream
//!                           └─ DATA, RST ──► StreamReader
//! io ◄─ write loop ◄─ codec ◄─ replies, pings, window updates, StreamWriter
//! ```
//!
//! [`serve`] returns a session and the future that drives it; who takes the
//! connection over owns both. The peer of all this is Go's spdystream, which
//! ignores windows: it is slowed down by not reading, and its own windows are
//! honoured only after it has shown that it keeps some.

mod codec;
mod dictionary;
mod stream;
mod upgrade;

pub use codec::{Decoder, Encoder, Error, Flag, Frame, Headers, ResetStatus};
pub use stream::{Session, Stream, StreamReader, StreamWriter, serve};
pub use upgrade::{PORT_FORWARD, Pending, REMOTE_COMMAND, accept, is_upgrade};
