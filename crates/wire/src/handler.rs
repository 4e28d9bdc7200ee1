//! The one interface between those who speak HTTP and those who answer.

use std::fmt;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{Stream, TryStreamExt};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};

/// Any error of a body that is still being read or written.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A body of any origin: a socket, a buffer, a stream of watch events.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// A request as handlers see it. Its extensions carry [`Identity`] and, for a
/// request that came over a socket, what an upgrade needs to take it over.
pub type Request = http::Request<Body>;

/// What a handler answers. An upgrade is answered with 101, after which the
/// handler's session ([`crate::Sessions`]) takes the connection over.
pub type Response = http::Response<Body>;

/// Answers requests. Errors are responses: a handler has no other way to fail.
pub trait Handler: Send + Sync + 'static {
    /// Called for each request, concurrently. Dropping the future abandons the
    /// request: the client has gone away.
    fn handle(&self, request: Request) -> BoxFuture<'static, Response>;
}

impl<F> Handler for F
where
    F: Fn(Request) -> BoxFuture<'static, Response> + Send + Sync + 'static,
{
    fn handle(&self, request: Request) -> BoxFuture<'static, Response> {
        self(request)
    }
}

/// Who the transport says is asking: from a client certificate, or because the
/// caller is a room of this process. Absent when the transport knows nobody.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// The user name: a certificate's common name.
    pub user: String,
    /// The groups: a certificate's organisations.
    pub groups: Vec<String>,
    /// SHA-256 of the certificate in hexadecimal, empty inside the process.
    pub certificate_sha256: String,
}

impl Identity {
    /// Whether a room of this process asks: nobody else comes without a certificate.
    pub fn is_inside(&self) -> bool {
        self.certificate_sha256.is_empty()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.user, self.groups)
    }
}

/// A body with nothing in it.
pub fn empty() -> Body {
    full(Bytes::new())
}

/// A body of known bytes.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body that ends when the stream does.
pub fn body_from_stream<S>(stream: S) -> Body
where
    S: Stream<Item = Result<Bytes, BoxError>> + Send + 'static,
{
    StreamBody::new(stream.map_ok(Frame::data)).boxed_unsync()
}
