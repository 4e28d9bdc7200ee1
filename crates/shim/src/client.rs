//! The daemon's side for code that may block: starts a shim, talks to one. The runtime's own
//! asynchronous side uses [`crate::codec`] directly; the order of calls is the same.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::codec::{CodecError, Decoder, Envelope, encode};
use crate::protocol::{Event, Failure, Message, Reply, Request, VERSION};

/// Name of the shim's socket in the sandbox directory.
pub const SOCKET: &str = "shim.sock";

/// Name of the file in the sandbox directory that gets the shim's own last words.
pub const LOG: &str = "shim.log";

/// A request was not answered, or with a failure.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The shim said no.
    #[error(transparent)]
    Refused(#[from] Failure),
    /// The connection is gone.
    #[error("shim connection: {0}")]
    Io(#[from] io::Error),
    /// The shim speaks something else.
    #[error("shim connection: {0}")]
    Codec(#[from] CodecError),
    /// The shim answered something that does not belong to the request.
    #[error("shim connection: unexpected message {0}")]
    Unexpected(String),
}

/// The program that shims are made of. A container can come by its file (`/proc/self/exe` of what
/// becomes a process of it): as root it could then write to it, or change its mode. So shims are
/// started from it by way of a mount that lets nobody do that.
#[derive(Debug)]
pub struct Executable(OwnedFd);

impl Executable {
    /// The program at a path.
    ///
    /// # Errors
    /// It is not there, or no permission to mount.
    pub fn guarded(path: &Path) -> io::Result<Self> {
        let opened = sys::mount::read_only_file(path);
        opened.map(Executable).map_err(|error| io::Error::new(io::Error::from(error.errno).kind(), error))
    }
}

/// Starts `executable shim DIRECTORY` with one end of a socket as its standard input and gives
/// the other: the start connection, on which [`Request::Open`] must come first. The child must
/// be waited for while its starter lives (it ends after `Shutdown`).
///
/// # Errors
/// The program cannot be started.
pub fn launch(executable: &Executable, directory: &Path) -> io::Result<(Child, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    // The child looks the descriptor up among its own, before it is closed by the exec.
    #[expect(
        clippy::disallowed_methods,
        reason = "it outlives its starter and is spoken with, which no run to the end does"
    )]
    let child = Command::new(format!("/proc/self/fd/{}", executable.0.as_raw_fd()))
        .arg0("monopod")
        .arg("shim")
        .arg(directory)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    // Before anything is asked of it, so before it has any container.
    sys::limits::restore_descriptors(&child).map_err(|error| io::Error::from(error.errno))?;
    Ok((child, ours))
}

/// A sandbox directory, to be named by its descriptor.
pub(crate) fn open_directory(directory: &Path) -> Result<OwnedFd, sys::Errno> {
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    rustix::fs::open(directory, flags, rustix::fs::Mode::empty())
}

/// The socket's path by way of its opened directory: it fits an address however long the
/// directory's own path is.
pub(crate) fn short_path(directory: &OwnedFd) -> String {
    format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd())
}

/// A connection to a shim.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    decoder: Decoder,
    events: VecDeque<Event>,
    last_id: u64,
}

impl Connection {
    /// Over the start connection that [`launch`] gave.
    pub fn new(stream: UnixStream) -> Self {
        Connection { stream, decoder: Decoder::default(), events: VecDeque::new(), last_id: 0 }
    }

    /// To the running shim of a sandbox directory.
    ///
    /// # Errors
    /// No shim listens there (`ConnectionRefused`, `NotFound`), or it speaks another version.
    pub fn connect(directory: &Path) -> Result<Self, ClientError> {
        let opened = open_directory(directory).map_err(io::Error::from)?;
        let mut connection = Connection::new(UnixStream::connect(short_path(&opened))?);
        connection.call(Request::Hello { version: VERSION })?;
        Ok(connection)
    }

    /// Sends a request and waits for its reply; events that come meanwhile are kept.
    ///
    /// # Errors
    /// The shim refused, or the connection is gone.
    pub fn call(&mut self, request: Request) -> Result<Reply, ClientError> {
        self.last_id += 1;
        let wanted = self.last_id;
        let frame = encode(&Message::Request { id: wanted, request })?;
        let mut rest = &frame[..];
        while !rest.is_empty() {
            rest = &rest[sys::socket::send(&self.stream, rest, &[]).map_err(io::Error::from)?..];
        }
        loop {
            match self.receive()? {
                Message::Event(event) => self.events.push_back(event),
                Message::Reply { id, result } if id == wanted => return Ok(result?),
                other => return Err(ClientError::Unexpected(format!("{other:?}"))),
            }
        }
    }

    /// The next event; waits for it.
    ///
    /// # Errors
    /// The connection is gone, or its read timeout (see [`Connection::stream`]) has passed.
    pub fn event(&mut self) -> Result<Event, ClientError> {
        if let Some(event) = self.events.pop_front() {
            return Ok(event);
        }
        match self.receive()? {
            Message::Event(event) => Ok(event),
            other => Err(ClientError::Unexpected(format!("{other:?}"))),
        }
    }

    /// The oldest descriptor that came with a reply and was not taken yet.
    pub fn take_fd(&mut self) -> Option<OwnedFd> {
        self.decoder.take_fd()
    }

    /// The socket.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    fn receive(&mut self) -> Result<Message, ClientError> {
        let mut bytes = [0; 4096];
        let mut fds = Vec::new();
        loop {
            match self.decoder.next_message()? {
                Some(Ok(message)) => return Ok(message),
                Some(Err(unreadable)) if unreadable.what == Envelope::Unasked => continue,
                Some(Err(unreadable)) => return Err(ClientError::Unexpected(unreadable.to_string())),
                None => {}
            }
            let got =
                sys::socket::receive(self.stream.as_fd(), &mut bytes, &mut fds).map_err(io::Error::from)?;
            if got == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            self.decoder.push(&bytes[..got]);
            self.decoder.push_fds(fds.drain(..));
        }
    }
}
