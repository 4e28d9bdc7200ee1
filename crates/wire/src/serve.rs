//! Accepting connections and handing their requests to a [`Handler`].

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::EXPECT;
use http::{StatusCode, Version};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::{CancellationToken, PollSemaphore};

use crate::connections::{Answering, Connection, Connections, Place};
use crate::kept::Kept;
use crate::rest::lend;
use crate::sessions::{Sessions, Takeover};
use crate::{Body, BoxError, Handler, Identity, Response, pki};

/// Bounds that keep a slow or hostile client from costing more than it should.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections open at once; one more takes the place of the longest idle one.
    pub connections_max: usize,
    /// Time for the TLS handshake.
    pub handshake_timeout: Duration,
    /// Time for all headers of an HTTP/1 request.
    pub header_timeout: Duration,
    /// Time that open connections get after `shutdown` before they are cut.
    pub drain_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 2_048,
            handshake_timeout: Duration::from_secs(10),
            // The API server's ReadHeaderTimeout.
            header_timeout: Duration::from_secs(32),
            drain_timeout: Duration::from_secs(5),
        }
    }
}

/// The other end of the connection a request came by; in its extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

/// How a listener ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Connections that had to be cut after the drain timeout.
    pub late: usize,
}

/// HTTP/1 buffers grow to this at most; they start at 8 KiB.
const HTTP1_BUFFER_MAX: usize = 64 * 1024;
/// HTTP/2 windows: big enough for one list in flight on a local link, small
/// enough that a thousand idle clients hold no memory for them.
const HTTP2_STREAM_WINDOW: u32 = 128 * 1024;
const HTTP2_CONNECTION_WINDOW: u32 = 256 * 1024;
const HTTP2_STREAMS_MAX: u32 = 250;
/// Handshakes that are computed at once.
const HANDSHAKES: usize = 1;
/// How long a client that is replaced has to read that it is.
const GOODBYE: Duration = Duration::from_secs(1);
/// The server asks an idle HTTP/2 client whether it still lives, as Go's does.
const HTTP2_KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Serves `handler` on `listener` until `shutdown`, with the default [`Limits`].
/// Without `tls` the connections are plain HTTP/1.1.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    handler: Arc<dyn Handler>,
    shutdown: CancellationToken,
) -> Drained {
    serve_with(Limits::default(), listener, tls, handler, shutdown).await
}

/// [`serve`] with limits of the caller's.
pub async fn serve_with(
    limits: Limits,
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    handler: Arc<dyn Handler>,
    shutdown: CancellationToken,
) -> Drained {
    let places = Connections::new(limits.connections_max);
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    let sessions = Sessions::default();
    let tls = tls.map(TlsAcceptor::from);
    let shared = Arc::new(Shared { tls, handler, limits, handshakes, sessions, shutdown });
    let mut connections = JoinSet::new();
    while let Some((stream, peer)) = shared.shutdown.run_until_cancelled(accept(&listener)).await {
        let Some(place) = places.enter() else {
            tracing::debug!(%peer, "all connections are in use");
            continue;
        };
        connections.spawn(one(shared.clone(), stream, peer, place));
        // Finished tasks are collected as we go; nobody waits for their result.
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    let drained = drain(connections, shared.limits.drain_timeout).await;
    shared.sessions.end().await;
    drained
}

/// One connection, from its first byte until it ends or is replaced.
async fn one(shared: Arc<Shared>, stream: TcpStream, peer: SocketAddr, place: Place) {
    let connection = place.0.clone();
    // Watch events are small writes that must leave at once.
    let _ = stream.set_nodelay(true);
    // Nothing is made for a client before it has said something; most that flood never do.
    let silent = timeout(shared.limits.handshake_timeout, stream.readable());
    tokio::select! {
        heard = silent => if !matches!(heard, Ok(Ok(()))) { return },
        () = connection.replaced.cancelled() => return,
        () = shared.shutdown.cancelled() => {}
    }
    // Boxed, so that those that never come here stay small.
    Box::pin(shared.connection(Kept::new(stream, place), peer, &connection)).await;
}

async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => return (stream, peer),
            // A client that left before it was accepted is no reason to wait;
            // running out of descriptors is, and has no event to wait for.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => {}
            Err(error) => {
                tracing::warn!(%error, "failed to accept a connection");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn drain(mut connections: JoinSet<()>, deadline: Duration) -> Drained {
    let finished = timeout(deadline, async { while connections.join_next().await.is_some() {} }).await;
    let late = if finished.is_ok() { 0 } else { connections.len() };
    connections.shutdown().await;
    Drained { late }
}

struct Shared {
    tls: Option<TlsAcceptor>,
    handler: Arc<dyn Handler>,
    limits: Limits,
    handshakes: Arc<Semaphore>,
    sessions: Sessions,
    shutdown: CancellationToken,
}

impl Shared {
    async fn connection(&self, stream: Kept, peer: SocketAddr, place: &Arc<Connection>) {
        let Some(tls) = &self.tls else {
            return self.http1(stream, peer, None, place).await;
        };
        let shaken = timeout(self.limits.handshake_timeout, self.in_turn(tls.accept(stream)));
        let stream = match place.replaced.run_until_cancelled(shaken).await {
            Some(Ok(Ok(stream))) => stream,
            Some(Ok(Err(error))) => return tracing::debug!(%peer, %error, "TLS handshake error"),
            Some(Err(_)) => return tracing::debug!(%peer, "TLS handshake timed out"),
            None => return,
        };
        let session = stream.get_ref().1;
        let identity = session.peer_certificates().and_then(|chain| chain.first()).and_then(pki::identity);
        if identity.is_some() {
            place.certify();
        }
        // The negotiated protocol says which of the two machines to run, so no
        // connection carries the state of both.
        if session.alpn_protocol() == Some(b"h2") {
            // Boxed: an HTTP/1 connection does not pay for HTTP/2's state.
            Box::pin(self.http2(stream, peer, identity, place)).await;
        } else {
            self.http1(stream, peer, identity, place).await;
        }
    }

    /// Polls the handshakes of all connections one after another. The arithmetic of one takes
    /// as long as twenty requests; a thousand that come at once must not stand in line before
    /// those that were there already. Waiting for the client is no part of a turn.
    async fn in_turn<T>(&self, handshake: impl Future<Output = T>) -> T {
        let mut handshake = pin!(handshake);
        let mut turns = PollSemaphore::new(self.handshakes.clone());
        poll_fn(|cx| {
            let _turn = ready!(turns.poll_acquire(cx));
            handshake.as_mut().poll(cx)
        })
        .await
    }

    async fn http1<S>(&self, stream: S, peer: SocketAddr, identity: Option<Identity>, place: &Arc<Connection>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.header_timeout)
            .max_buf_size(HTTP1_BUFFER_MAX);
        let service = service_fn(|request| {
            let request = self.offer_takeover(request);
            answer(&self.handler, request, peer, identity.clone(), place)
        });
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service).with_upgrades());
        // Cancel-safe: polling the connection again continues it.
        tokio::select! {
            result = connection.as_mut() => return report(result, peer),
            () = self.shutdown.cancelled() => connection.as_mut().graceful_shutdown(),
            // Between requests there is nobody to be told.
            () = place.replaced.cancelled() => return,
        }
        report(connection.await, peer);
    }

    /// An upgraded connection stays this listener's.
    fn offer_takeover(&self, mut request: http::Request<Incoming>) -> http::Request<Incoming> {
        if let Some(upgrade) = request.extensions_mut().remove::<OnUpgrade>() {
            request.extensions_mut().insert(Takeover::new(upgrade, self.sessions.clone()));
        }
        request
    }

    async fn http2<S>(&self, stream: S, peer: SocketAddr, identity: Option<Identity>, place: &Arc<Connection>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(HTTP2_STREAM_WINDOW)
            .initial_connection_window_size(HTTP2_CONNECTION_WINDOW)
            .max_concurrent_streams(HTTP2_STREAMS_MAX)
            .keep_alive_interval(HTTP2_KEEP_ALIVE);
        let (handler, own) = (self.handler.clone(), place.clone());
        let service = service_fn(move |request| answer(&handler, request, peer, identity.clone(), &own));
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        // Cancel-safe: polling the connection again continues it.
        tokio::select! {
            result = connection.as_mut() => return report(result, peer),
            () = self.shutdown.cancelled() => connection.as_mut().graceful_shutdown(),
            () = place.replaced.cancelled() => {
                // A GOAWAY tells the client that what it sends now was not looked at.
                connection.as_mut().graceful_shutdown();
                let _ = timeout(GOODBYE, connection).await;
                return;
            }
        }
        report(connection.await, peer);
    }
}

fn answer(
    handler: &Arc<dyn Handler>,
    request: http::Request<Incoming>,
    peer: SocketAddr,
    identity: Option<Identity>,
    place: &Arc<Connection>,
) -> impl Future<Output = Result<Response, Infallible>> + use<> {
    let (connection, answering) = (place.clone(), place.answer());
    let (head, body) = request.into_parts();
    let (body, rest) = lend(body);
    let mut request = http::Request::from_parts(head, body.map_err(Into::into).boxed_unsync());
    request.extensions_mut().insert(Peer(peer));
    if let Some(identity) = identity {
        request.extensions_mut().insert(identity);
    }
    // Whoever waits to be told to go on has not sent anything, and is told the answer instead.
    let waits = request.headers().contains_key(EXPECT) && request.version() < Version::HTTP_2;
    let answered = handler.handle(request);
    async move {
        let response = answered.await;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            connection.take_over();
            return Ok(response);
        }
        // An answer of unknown length is a stream: the connection is in use until its end. A
        // client that is slow to end what it sends does not keep its place by that.
        let response = if response.body().size_hint().exact().is_none() {
            response.map(|body| Body::new(Lasting { body, _answering: answering }))
        } else {
            drop(answering);
            response
        };
        if !waits {
            rest.drain().await;
        }
        Ok(response)
    }
}

/// The body of an answer that lasts.
struct Lasting {
    body: Body,
    _answering: Answering,
}

impl http_body::Body for Lasting {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn report(result: hyper::Result<()>, peer: SocketAddr) {
    if let Err(error) = result {
        tracing::debug!(%peer, %error, "connection ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{Authority, ServingCertificate};
    use futures_util::FutureExt;
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    struct WhoAmI;

    impl Handler for WhoAmI {
        fn handle(&self, request: crate::Request) -> futures_util::future::BoxFuture<'static, Response> {
            async move {
                let who = request
                    .extensions()
                    .get::<Identity>()
                    .map_or("anonymous".to_owned(), |i| format!("{i:?}"));
                http::Response::new(crate::full(who))
            }
            .boxed()
        }
    }

    struct Cluster {
        authority: Arc<Authority>,
        address: SocketAddr,
        shutdown: CancellationToken,
        server: tokio::task::JoinHandle<Drained>,
        _dir: tempfile::TempDir,
    }

    async fn start(limits: Limits) -> Cluster {
        let dir = tempfile::tempdir().unwrap();
        let now = jiff::Timestamp::now();
        let authority = Arc::new(Authority::open(dir.path(), "monopod-ca", now).unwrap());
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let certificate = ServingCertificate::issue(authority.clone(), "server", names, now).unwrap();
        let tls = authority.server_config(certificate).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let server =
            tokio::spawn(serve_with(limits, listener, Some(tls), Arc::new(WhoAmI), shutdown.clone()));
        Cluster { authority, address, shutdown, server, _dir: dir }
    }

    async fn ask(cluster: &Cluster, client: Option<&pki::Issued>) -> io::Result<String> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(cluster.authority.certificate_der().clone()).unwrap();
        let builder =
            rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots);
        let config = match client {
            None => builder.with_no_client_auth(),
            Some(issued) => builder
                .with_client_auth_cert(
                    vec![CertificateDer::from_pem_slice(issued.certificate_pem.as_bytes()).unwrap()],
                    PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap(),
                )
                .unwrap(),
        };
        let tcp = TcpStream::connect(cluster.address).await?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let mut tls = connector.connect(ServerName::try_from("localhost").unwrap(), tcp).await?;
        tls.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await?;
        let mut answer = String::new();
        tls.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    #[tokio::test]
    async fn a_client_is_known_by_its_certificate_and_anonymous_without() {
        let cluster = start(Limits::default()).await;
        let client = cluster
            .authority
            .issue_client("admin", &["system:masters".into()], jiff::Timestamp::now())
            .unwrap();
        assert!(ask(&cluster, Some(&client)).await.unwrap().ends_with("admin [\"system:masters\"]"));
        assert!(ask(&cluster, None).await.unwrap().ends_with("anonymous"));
    }

    #[tokio::test]
    async fn a_certificate_of_another_authority_is_refused() {
        let cluster = start(Limits::default()).await;
        let dir = tempfile::tempdir().unwrap();
        let other = Authority::open(dir.path(), "monopod-ca", jiff::Timestamp::now()).unwrap();
        let client = other.issue_client("admin", &["system:masters".into()], jiff::Timestamp::now()).unwrap();
        assert!(ask(&cluster, Some(&client)).await.is_err());
    }

    #[tokio::test]
    async fn an_idle_connection_does_not_delay_the_drain_and_a_silent_one_is_cut() {
        let limits = Limits { drain_timeout: Duration::from_millis(100), ..Limits::default() };
        let cluster = start(limits).await;
        // Never sends its hello: only the deadline ends it.
        let _silent = TcpStream::connect(cluster.address).await.unwrap();
        ask(&cluster, None).await.unwrap();
        cluster.shutdown.cancel();
        assert_eq!(cluster.server.await.unwrap(), Drained { late: 1 });
    }
}
