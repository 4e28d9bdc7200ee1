//! The daemon's end of a shim's socket, on tokio.
//!
//! One task reads: it hands each reply to the caller that waits for it and each event to
//! [`Listener`]. Callers write. When the socket closes, every caller gets an error and the
//! listener learns that the shim is gone.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use shim::codec::{Decoder, encode};
use shim::protocol::{Event, Failure, FailureKind, Message, Reply, Request, VERSION};
use tokio::io::Interest;
use tokio::net::UnixStream as AsyncStream;
use tokio::sync::oneshot;

use crate::interface::Error;

/// Most messages have some hundred bytes, and there is one buffer per Pod.
const READ_BUFFER: usize = 4 << 10;

/// Who wants to know what a shim says unasked.
pub(crate) trait Listener: Send + Sync + 'static {
    /// Something happened in the sandbox. Called in the order of the shim's messages, and
    /// before any reply that came after it is given to its caller.
    fn event(&self, event: Event);
    /// The connection is gone. Called once, last.
    fn closed(&self);
}

/// A reply with the descriptors that came with it.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) reply: Reply,
    pub(crate) fds: Vec<OwnedFd>,
}

type Waiter = oneshot::Sender<Result<Answer, Failure>>;

/// Which descriptors a reply brings.
#[derive(Clone, Copy, Debug)]
enum Wanted {
    Nothing,
    Exec { count: usize },
    Attach { stdin: bool, stdout: bool, stderr: bool },
}

impl Wanted {
    fn of(request: &Request) -> Self {
        let count = |flags: [bool; 3]| flags.into_iter().filter(|f| *f).count();
        match request {
            Request::Exec(spec) if spec.tty => Wanted::Exec { count: 1 },
            Request::Exec(spec) => Wanted::Exec { count: count([spec.stdin, spec.stdout, spec.stderr]) },
            Request::Attach { stdin, stdout, stderr, .. } => {
                Wanted::Attach { stdin: *stdin, stdout: *stdout, stderr: *stderr }
            }
            _ => Wanted::Nothing,
        }
    }

    fn count(self, reply: &Reply) -> usize {
        match (self, reply) {
            (Wanted::Exec { count }, Reply::Exec { .. }) => count,
            (Wanted::Attach { stdin, stdout, stderr }, Reply::Attached { tty }) => {
                usize::from(stdin) + usize::from(stdout) + usize::from(stderr && !tty) + usize::from(*tty)
            }
            _ => 0,
        }
    }
}

/// A connection to a shim.
pub(crate) struct Link {
    socket: AsyncStream,
    /// Held while a frame is written: frames of two callers must not mix.
    writing: tokio::sync::Mutex<()>,
    waiting: Mutex<Option<HashMap<u64, (Wanted, Waiter)>>>,
    last_id: AtomicU64,
}

impl Link {
    /// Takes over a socket. `read` must run for anything to be answered.
    pub(crate) fn new(stream: UnixStream) -> io::Result<Arc<Self>> {
        stream.set_nonblocking(true)?;
        Ok(Arc::new(Link {
            socket: AsyncStream::from_std(stream)?,
            writing: tokio::sync::Mutex::new(()),
            waiting: Mutex::new(Some(HashMap::new())),
            last_id: AtomicU64::new(0),
        }))
    }

    /// Connects to the shim of a sandbox directory. A Unix socket's path is limited to 107 bytes
    /// and a data directory is not: the way leads over the open directory.
    pub(crate) fn connect(directory: &Path) -> io::Result<UnixStream> {
        use std::os::fd::AsRawFd;
        let opened = std::fs::File::open(directory)?;
        UnixStream::connect(format!("/proc/self/fd/{}/{}", opened.as_raw_fd(), shim::client::SOCKET))
    }

    /// Says hello on a connection to a running shim. Returns the shim's process id.
    pub(crate) async fn hello(&self) -> Result<i32, Error> {
        self.greet(Request::Hello { version: VERSION }).await
    }

    /// Sends `Open` or `Hello`.
    pub(crate) async fn greet(&self, request: Request) -> Result<i32, Error> {
        match self.call(request).await?.reply {
            Reply::Hello { pid, .. } => Ok(pid),
            other => Err(unexpected(&other)),
        }
    }

    /// Sends a request and waits for its answer; the shim's refusal is an error in its words.
    pub(crate) async fn call(&self, request: Request) -> Result<Answer, Error> {
        self.ask(request).await?.map_err(|failure| refused(&failure))
    }

    /// Sends a request and waits for its answer, the shim's refusal included.
    pub(crate) async fn ask(&self, request: Request) -> Result<Result<Answer, Failure>, Error> {
        let (sender, receiver) = oneshot::channel();
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        let wanted = Wanted::of(&request);
        let frame = encode(&Message::Request { id, request })
            .map_err(|e| Error::host("failed to write to the shim", e))?;
        match self.waiting.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            Some(waiting) => waiting.insert(id, (wanted, sender)),
            None => return Err(gone()),
        };
        if let Err(error) = self.write(&frame).await {
            self.forget(id);
            return Err(Error::host("failed to write to the shim", error));
        }
        receiver.await.map_err(|_| gone())
    }

    fn forget(&self, id: u64) {
        if let Some(waiting) = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            waiting.remove(&id);
        }
    }

    async fn write(&self, frame: &[u8]) -> io::Result<()> {
        let _turn = self.writing.lock().await;
        let mut rest = frame;
        while !rest.is_empty() {
            let send = || sys::socket::send(&self.socket, rest, &[]).map_err(io::Error::from);
            let sent = self.socket.async_io(Interest::WRITABLE, send).await?;
            rest = &rest[sent..];
        }
        Ok(())
    }

    /// Reads until the socket closes. The caller owns the task.
    pub(crate) async fn read(&self, listener: &dyn Listener) {
        let mut decoder = Decoder::default();
        if let Err(error) = self.read_messages(&mut decoder, listener).await {
            tracing::warn!(%error, "connection to a shim broke");
        }
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
        listener.closed();
    }

    async fn read_messages(&self, decoder: &mut Decoder, listener: &dyn Listener) -> io::Result<()> {
        let mut buffer = vec![0; READ_BUFFER];
        loop {
            let mut fds = Vec::new();
            let receive =
                || sys::socket::receive(&self.socket, &mut buffer, &mut fds).map_err(io::Error::from);
            let got = self.socket.async_io(Interest::READABLE, receive).await?;
            if got == 0 {
                return Ok(());
            }
            decoder.push(&buffer[..got]);
            decoder.push_fds(fds);
            while let Some(message) = decoder.next_message().map_err(io::Error::other)? {
                self.dispatch(message, decoder, listener);
            }
        }
    }

    fn dispatch(&self, message: Message, decoder: &mut Decoder, listener: &dyn Listener) {
        let (id, result) = match message {
            Message::Event(event) => return listener.event(event),
            Message::Reply { id, result } => (id, result),
            Message::Request { .. } => {
                tracing::warn!("a shim sent a request");
                return;
            }
        };
        let waiter = match self.waiting.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            Some(waiting) => waiting.remove(&id),
            None => None,
        };
        let Some((wanted, waiter)) = waiter else { return };
        let answer = result.map(|reply| {
            let fds = (0..wanted.count(&reply)).filter_map(|_| decoder.take_fd()).collect();
            Answer { reply, fds }
        });
        // A caller that has given up drops what came, descriptors included.
        let _ = waiter.send(answer);
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").finish_non_exhaustive()
    }
}

fn gone() -> Error {
    Error::host("failed to talk to the shim", "the shim is gone")
}

/// A reply that does not belong to its request.
pub(crate) fn unexpected(reply: &Reply) -> Error {
    Error::host("failed to understand the shim", format!("unexpected reply {reply:?}"))
}

/// A refusal as the interface's error.
pub(crate) fn refused(failure: &Failure) -> Error {
    match failure.kind {
        FailureKind::StartError | FailureKind::Invalid => Error::Start { message: failure.message.clone() },
        _ => Error::host("failed in the sandbox", &failure.message),
    }
}
