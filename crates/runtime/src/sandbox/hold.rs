//! Staying in touch with a shim for as long as it lives.
//!
//! ```text
//!            ┌──────────────────────────────┐
//!            v                              │ its process lives
//! connect, greet, take over what it says ──> read ── lost ── its process has ended ──> closed
//! ```
//!
//! A connection may end without the shim: it closes one that is not read from, and either end may
//! find the other hard to understand. So an end of the connection is no end of the sandbox; only
//! that of the process is, which its descriptor tells. A shim that does not answer, or not in a
//! version that is spoken here, holds its Pod as well as any.

use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use shim::protocol::{OLDEST, Reply, Request, VERSION};
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use super::Sandbox;
use crate::interface::Error;
use crate::link::{GreetError, Link, unexpected};
use crate::peer::Peer;

/// Between two tries to connect.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// How long the last words of a dead shim are read; they are in the socket already.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Holds on to the shim of a sandbox until it is dead. `started`: the connection of a shim that was
/// just started, which is greeted elsewhere.
pub(crate) async fn hold(sandbox: &Arc<Sandbox>, started: Option<Arc<Link>>) {
    if let Some(link) = started {
        read(sandbox, &link).await;
        sandbox.lose_connection();
    }
    let mut pause = PAUSE_MIN;
    while let Some(link) = connect(sandbox, &mut pause).await {
        match greet_and_read(sandbox, &link).await {
            Ok(()) => pause = PAUSE_MIN,
            Err(GreetError::Failed(error)) => tracing::debug!(%error, "a shim could not be greeted"),
            Err(GreetError::Foreign { version, oldest }) => {
                tracing::error!(
                    pod = %sandbox.pod_uid(),
                    "a shim speaks versions {oldest} to {version}, this program {OLDEST} to {VERSION}: \
                     its Pod runs on, but cannot be managed"
                );
                sandbox.trust_records();
                sandbox.peer_ended().await;
            }
        }
        sandbox.lose_connection();
    }
    sandbox.close();
}

/// `Ok` when the connection has served and is lost.
async fn greet_and_read(sandbox: &Arc<Sandbox>, link: &Arc<Link>) -> Result<(), GreetError> {
    let reading = read(sandbox, link);
    tokio::pin!(reading);
    // Cancel-safe: `reading` is pinned outside and goes on; a greeting is of no use when it has ended.
    tokio::select! {
        greeted = greet(sandbox, link) => greeted?,
        () = &mut reading => return Err(GreetError::Failed(Error::host("failed to talk to the shim", "it hung up"))),
    }
    reading.await;
    Ok(())
}

async fn greet(sandbox: &Arc<Sandbox>, link: &Arc<Link>) -> Result<(), GreetError> {
    link.hello().await?;
    let (containers, execs) = match link.call(Request::Subscribe).await?.reply {
        Reply::State { containers, execs } => (containers, execs),
        other => return Err(unexpected(&other).into()),
    };
    for id in sandbox.observe(&containers, &execs) {
        // Its creation was never answered: nobody will ask for it.
        if let Err(error) = link.call(Request::Delete { id }).await {
            tracing::debug!(%error, "cannot delete a container that nobody knows");
        }
    }
    sandbox.attach(link.clone());
    sandbox.become_ready();
    Ok(())
}

/// Reads until the connection is lost.
async fn read(sandbox: &Arc<Sandbox>, link: &Arc<Link>) {
    let reading = link.read(sandbox.as_ref());
    tokio::pin!(reading);
    // Cancel-safe: `reading` is pinned outside and goes on, `peer_ended` only looks.
    tokio::select! {
        () = &mut reading => return,
        () = sandbox.peer_ended() => {}
    }
    let _ = timeout(LAST_WORDS, reading).await;
    link.close();
}

/// What became of an attempt.
enum Reached {
    Connected(Arc<Link>, Peer),
    /// Nobody listens there.
    Nobody,
    /// It says nothing about the shim: its queue is full, we have no descriptors left.
    NotNow(io::Error),
}

/// A connection to the sandbox's shim; `None` when that is dead.
async fn connect(sandbox: &Sandbox, pause: &mut Duration) -> Option<Arc<Link>> {
    loop {
        match reach(&sandbox.directory).await {
            Reached::Connected(link, peer) => return sandbox.meet(peer).then_some(link),
            Reached::Nobody if sandbox.peer().is_none() => return None,
            Reached::Nobody => {}
            Reached::NotNow(error) => {
                tracing::warn!(%error, pod = %sandbox.pod_uid(), "cannot connect to a shim now");
            }
        }
        // Cancel-safe: both only wait.
        tokio::select! {
            () = sandbox.peer_ended() => return None,
            () = sleep(*pause) => *pause = (*pause * 2).min(PAUSE_MAX),
        }
    }
}

/// A Unix socket's path is limited to 107 bytes and a data directory is not: the way leads over the
/// open directory.
async fn reach(directory: &Path) -> Reached {
    let opened = match std::fs::File::open(directory) {
        Ok(opened) => opened,
        Err(error) => return not_reached(error),
    };
    let path = format!("/proc/self/fd/{}/{}", opened.as_raw_fd(), shim::client::SOCKET);
    let stream = match UnixStream::connect(path).await {
        Ok(stream) => stream,
        Err(error) => return not_reached(error),
    };
    match Peer::of_socket(&stream) {
        Ok(peer) => Reached::Connected(Link::new(stream), peer),
        // It ended in this moment.
        Err(error) if error.raw_os_error() == Some(SRCH) => Reached::Nobody,
        Err(error) => Reached::NotNow(error),
    }
}

/// No such process.
const SRCH: i32 = sys::Errno::SRCH.raw_os_error();

fn not_reached(error: io::Error) -> Reached {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Reached::Nobody,
        _ => Reached::NotNow(error),
    }
}
