//! A Pod's port, and the connections to it that are kept.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use wire::{Body, BoxError, Request, Response};

use crate::Served;

/// A Pod that does not answer a SYN by then is taken for gone.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// A connection that nobody has used for so long is closed.
const IDLE_AT_MOST: Duration = Duration::from_secs(60);
/// Connections that wait for the next request, for each Pod.
const IDLE_MAX: usize = 256;

/// Where an endpoint is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct To {
    /// Address and port.
    pub address: SocketAddr,
    /// UID of the Pod behind it; empty where a slice names none.
    pub pod: String,
    /// Whether HTTP/2 without TLS is spoken there.
    pub h2c: bool,
}

/// All endpoints that a table leads to, from one table to the next.
#[derive(Debug, Default)]
pub struct Endpoints {
    known: BTreeMap<To, Arc<Endpoint>>,
    used: BTreeSet<To>,
}

impl Endpoints {
    /// A new table begins.
    pub(crate) fn begin(&mut self) {
        self.used.clear();
    }

    pub(crate) fn of(&mut self, to: To) -> Arc<Endpoint> {
        self.used.insert(to.clone());
        self.known.entry(to).or_insert_with_key(|to| Arc::new(Endpoint::new(to.clone()))).clone()
    }

    /// Those that the new table no longer leads to.
    pub fn take_unused(&mut self) -> Vec<Arc<Endpoint>> {
        let used = &self.used;
        let unused = self.known.extract_if(.., |to, _| !used.contains(to));
        unused.map(|(_, endpoint)| endpoint).collect()
    }

    /// Closes connections that have been idle for long.
    pub(crate) fn prune(&self, now: Instant) {
        self.known.values().for_each(|endpoint| endpoint.prune(now));
    }
}

type Http1 = http1::SendRequest<Body>;
type Http2 = http2::SendRequest<Body>;

struct Idle {
    sender: Http1,
    since: Instant,
}

/// A Pod's port.
pub struct Endpoint {
    to: To,
    /// No table leads here any more.
    closed: AtomicBool,
    /// Requests whose answer has not begun.
    unanswered: AtomicUsize,
    answered: Notify,
    /// Held to put one in or take one out.
    idle: Mutex<Vec<Idle>>,
    /// One for all requests.
    multiplexed: tokio::sync::Mutex<Option<Http2>>,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("to", &self.to).finish_non_exhaustive()
    }
}

/// A request that has chosen an endpoint, until its answer has begun.
#[derive(Debug)]
pub(crate) struct Unanswered(Arc<Endpoint>);

impl Drop for Unanswered {
    fn drop(&mut self) {
        if self.0.unanswered.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.answered.notify_waiters();
        }
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Nothing of the request was sent: here it is.
    Unsent(Box<Request>, BoxError),
    /// Some of it may have been.
    Lost {
        error: hyper::Error,
        /// The connection had been used before: its other end may have closed it at that moment.
        kept: bool,
    },
}

impl Endpoint {
    fn new(to: To) -> Self {
        Endpoint {
            to,
            closed: AtomicBool::new(false),
            unanswered: AtomicUsize::new(0),
            answered: Notify::new(),
            idle: Mutex::default(),
            multiplexed: tokio::sync::Mutex::default(),
        }
    }

    pub(crate) fn to(&self) -> &To {
        &self.to
    }

    /// Chooses this one; `None` when the table that led here is no longer the one that counts.
    ///
    /// Counted first and looked at afterwards, while [`Endpoint::close`] is before a look at the count: of a
    /// request and the end of the endpoint one sees the other.
    pub(crate) fn enter(self: &Arc<Self>) -> Option<Unanswered> {
        self.unanswered.fetch_add(1, Ordering::SeqCst);
        let entered = Unanswered(self.clone());
        (!self.closed.load(Ordering::SeqCst)).then_some(entered)
    }

    /// Nobody chooses it from now on, and what is idle is closed.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.idle().clear();
    }

    pub(crate) fn is_quiet(&self) -> bool {
        self.unanswered.load(Ordering::SeqCst) == 0
    }

    /// Returns when no request waits for its answer to begin. Cancel-safe.
    pub(crate) async fn quiet(&self) {
        loop {
            let mut answered = std::pin::pin!(self.answered.notified());
            answered.as_mut().enable();
            if self.is_quiet() {
                return;
            }
            answered.await;
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn prune(&self, now: Instant) {
        self.idle().retain(|idle| !idle.sender.is_closed() && now - idle.since < IDLE_AT_MOST);
    }

    /// The one used last: the others may become old.
    fn take_idle(&self) -> Option<Http1> {
        let mut idle = self.idle();
        idle.retain(|idle| !idle.sender.is_closed());
        let at = idle.iter().rposition(|idle| idle.sender.is_ready())?;
        Some(idle.remove(at).sender)
    }

    fn put_idle(&self, sender: Http1) {
        let mut idle = self.idle();
        if !self.closed.load(Ordering::SeqCst) && idle.len() < IDLE_MAX && !sender.is_closed() {
            idle.push(Idle { sender, since: Instant::now() });
        }
    }

    /// Sends a request and waits for the head of the answer.
    pub(crate) async fn send(
        self: &Arc<Self>,
        request: Request,
        served: &Served,
    ) -> Result<Response, Failure> {
        if self.to.h2c {
            return self.send_http2(request, served).await;
        }
        let mut request = request;
        while let Some(sender) = self.take_idle() {
            match self.exchange(sender, request, true).await {
                Err(Failure::Unsent(back, _)) => request = *back,
                other => return other,
            }
        }
        match connect(self.to.address, served, http1_over).await {
            Ok(sender) => self.exchange(sender, request, false).await,
            Err(error) => Err(Failure::Unsent(Box::new(request), error)),
        }
    }

    async fn exchange(
        self: &Arc<Self>,
        mut sender: Http1,
        request: Request,
        kept: bool,
    ) -> Result<Response, Failure> {
        match sender.try_send_request(request).await {
            Ok(response) => Ok(response.map(|body| {
                let mut body = Returning { body, back: Some((sender, self.clone())) };
                body.give_back();
                body.boxed_unsync()
            })),
            Err(error) => Err(failure(error, kept)),
        }
    }

    async fn send_http2(&self, request: Request, served: &Served) -> Result<Response, Failure> {
        let mut slot = self.multiplexed.lock().await;
        let open = slot.as_ref().filter(|sender| !sender.is_closed()).cloned();
        let kept = open.is_some();
        let mut sender = match open {
            Some(open) => open,
            None => match connect(self.to.address, served, http2_over).await {
                Ok(sender) => slot.insert(sender).clone(),
                Err(error) => return Err(Failure::Unsent(Box::new(request), error)),
            },
        };
        drop(slot);
        let sent = sender.try_send_request(request).await;
        sent.map(|response| response.map(|body| body.map_err(Into::into).boxed_unsync()))
            .map_err(|error| failure(error, kept))
    }
}

fn failure(mut error: hyper::client::conn::TrySendError<Request>, kept: bool) -> Failure {
    match error.take_message() {
        Some(request) => Failure::Unsent(Box::new(request), error.into_error().into()),
        None => Failure::Lost { error: error.into_error(), kept },
    }
}

async fn connect<S, F>(
    address: SocketAddr,
    served: &Served,
    speak: impl FnOnce(TcpStream, Served) -> F,
) -> Result<S, BoxError>
where
    F: Future<Output = hyper::Result<S>>,
{
    let stream = timeout(CONNECT_WITHIN, TcpStream::connect(address)).await;
    let stream = stream.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    stream.set_nodelay(true)?;
    Ok(speak(stream, served.clone()).await?)
}

async fn http1_over(stream: TcpStream, served: Served) -> hyper::Result<Http1> {
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    served.drive(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a connection to a Pod ended");
        }
    });
    Ok(sender)
}

async fn http2_over(stream: TcpStream, served: Served) -> hyper::Result<Http2> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.timer(TokioTimer::new()).adaptive_window(true);
    let (sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
    served.drive(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to a Pod ended");
        }
    });
    Ok(sender)
}

/// The body of an answer, at whose end the connection is free for the next request. Who drops it before that
/// drops the connection with it.
struct Returning {
    body: Incoming,
    back: Option<(Http1, Arc<Endpoint>)>,
}

impl Returning {
    fn give_back(&mut self) {
        if self.body.is_end_stream()
            && let Some((sender, endpoint)) = self.back.take()
        {
            endpoint.put_idle(sender);
        }
    }
}

impl http_body::Body for Returning {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            Some(Err(_)) => self.back = None,
            None => {
                if let Some((sender, endpoint)) = self.back.take() {
                    endpoint.put_idle(sender);
                }
            }
            Some(Ok(_)) => self.give_back(),
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
