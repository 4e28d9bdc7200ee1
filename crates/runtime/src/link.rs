//! The daemon's end of a shim's socket, on tokio.
//!
//! One task reads: it hands each reply to the caller that waits for it and each event to
//! [`Listener`]. Callers write. When the socket closes, every caller gets an error; what that
//! means for the shim is for `sandbox::hold` to find out.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use shim::codec::{Decoder, Envelope, Unreadable, encode};
use shim::protocol::{Event, Failure, FailureKind, Message, OLDEST, Reply, Request, VERSION, common_version};
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
    /// What both ends speak; the oldest until they have said it.
    version: AtomicU32,
}

/// A shim was not greeted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GreetError {
    /// It speaks no version that is spoken here.
    #[error("the shim speaks versions {oldest} to {version} of the protocol")]
    Foreign {
        /// Its latest.
        version: u32,
        /// Its oldest.
        oldest: u32,
    },
    /// It did not answer, or with a failure.
    #[error(transparent)]
    Failed(#[from] Error),
}

impl Link {
    /// Takes over a socket. `read` must run for anything to be answered.
    pub(crate) fn new(socket: AsyncStream) -> Arc<Self> {
        Arc::new(Link {
            socket,
            writing: tokio::sync::Mutex::new(()),
            waiting: Mutex::new(Some(HashMap::new())),
            last_id: AtomicU64::new(0),
            version: AtomicU32::new(OLDEST),
        })
    }

    /// Says hello on a connection to a running shim.
    pub(crate) async fn hello(&self) -> Result<(), GreetError> {
        self.greet(Request::Hello { version: VERSION }).await
    }

    /// Sends `Open` or `Hello`, and agrees on a version.
    pub(crate) async fn greet(&self, request: Request) -> Result<(), GreetError> {
        let (version, oldest) = match self.ask(request).await? {
            Ok(Answer { reply: Reply::Hello { version, oldest, .. }, .. }) => (version, oldest),
            Ok(other) => return Err(unexpected(&other.reply).into()),
            // Later than all of ours; how late it does not say.
            Err(failure) if failure.kind == FailureKind::Unsupported => (u32::MAX, VERSION + 1),
            Err(failure) => return Err(refused(&failure).into()),
        };
        let common = common_version(version, oldest).ok_or(GreetError::Foreign { version, oldest })?;
        self.version.store(common, Ordering::Relaxed);
        Ok(())
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
        let spoken = self.version.load(Ordering::Relaxed);
        if request.since() > spoken {
            let why = format!("it was started by an earlier release, and speaks version {spoken}");
            return Err(Error::host("the shim of this Pod cannot do that", why));
        }
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
        self.close();
    }

    /// Answers all who wait with an error, and those who come.
    pub(crate) fn close(&self) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
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
                match message {
                    Ok(message) => self.dispatch(message, decoder, listener),
                    Err(unreadable) => self.pass_over(&unreadable),
                }
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
        let Some((wanted, waiter)) = self.waiter(id) else { return };
        let answer = result.map(|reply| {
            let fds = (0..wanted.count(&reply)).filter_map(|_| decoder.take_fd()).collect();
            Answer { reply, fds }
        });
        // A caller that has given up drops what came, descriptors included.
        let _ = waiter.send(answer);
    }

    fn waiter(&self, id: u64) -> Option<(Wanted, Waiter)> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).as_mut()?.remove(&id)
    }

    /// What a shim of a later release says beyond what is known here.
    fn pass_over(&self, unreadable: &Unreadable) {
        tracing::debug!(%unreadable, "a shim said something");
        if let Envelope::Reply(id) = unreadable.what
            && let Some((_, waiter)) = self.waiter(id)
        {
            let failure = Failure { kind: FailureKind::Unknown, message: unreadable.to_string() };
            let _ = waiter.send(Err(failure));
        }
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").finish_non_exhaustive()
    }
}

impl From<GreetError> for Error {
    fn from(error: GreetError) -> Self {
        match error {
            GreetError::Failed(error) => error,
            foreign @ GreetError::Foreign { .. } => Error::host("failed to talk to the shim", foreign),
        }
    }
}

fn gone() -> Error {
    Error::host("failed to talk to the shim", "the connection was lost")
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

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[derive(Default)]
    struct Heard(Mutex<Vec<Event>>);

    impl Listener for Heard {
        fn event(&self, event: Event) {
            self.0.lock().unwrap().push(event);
        }
    }

    fn frame(json: &str) -> Vec<u8> {
        let prefix = u32::try_from(json.len()).unwrap().to_be_bytes();
        [&prefix[..], json.as_bytes()].concat()
    }

    /// A shim that answers each request with the next of these groups of texts.
    async fn against<T>(answers: &[&[&str]], talk: impl AsyncFnOnce(&Link) -> T) -> (T, Vec<Event>) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (ours, theirs) = UnixStream::pair().unwrap();
        for end in [&ours, &theirs] {
            end.set_nonblocking(true).unwrap();
        }
        let link = Link::new(AsyncStream::from_std(ours).unwrap());
        let mut shim = AsyncStream::from_std(theirs).unwrap();
        let answers: Vec<Vec<u8>> =
            answers.iter().map(|group| group.iter().flat_map(|json| frame(json)).collect()).collect();
        let serving = async move {
            for answer in answers {
                let mut prefix = [0; 4];
                shim.read_exact(&mut prefix).await.unwrap();
                let mut request = vec![0; u32::from_be_bytes(prefix) as usize];
                shim.read_exact(&mut request).await.unwrap();
                shim.write_all(&answer).await.unwrap();
            }
            std::future::pending::<()>().await
        };
        let heard = Heard::default();
        let result = tokio::select! {
            result = talk(&link) => result,
            () = link.read(&heard) => panic!("the connection has ended"),
            () = serving => unreachable!(),
        };
        let heard = heard.0.into_inner().unwrap();
        (result, heard)
    }

    fn recorded(what: &str) -> String {
        let all = include_str!("../../shim/testdata/protocol-1");
        all.lines().find(|line| line.contains(what)).unwrap().to_owned()
    }

    #[tokio::test]
    async fn a_shim_of_the_release_before_is_understood() {
        // Recorded with the numbers that these requests get.
        let (hello, state) = (recorded("\"pause_pid\""), recorded("\"execs\""));
        let exited = recorded("\"ContainerExited\"");
        let (answers, heard) = against(&[&[&hello], &[&exited, &state]], async |link| {
            link.hello().await.unwrap();
            link.call(Request::Subscribe).await.unwrap().reply
        })
        .await;
        let Reply::State { containers, execs } = answers else { panic!("{answers:?}") };
        assert_eq!((containers.len(), execs.len()), (5, 1));
        assert!(matches!(&heard[..], [Event::ContainerExited { exit, .. }] if exit.code == 137), "{heard:?}");
    }

    #[tokio::test]
    async fn what_a_later_shim_says_is_passed_over_and_the_connection_goes_on() {
        let hello = r#"{"Reply":{"id":1,"result":{"Ok":{"Hello":{"version":9,"oldest":1,"pid":7,"pause_pid":null,"mood":"good"}}}}}"#;
        let odd = r#"{"Reply":{"id":2,"result":{"Ok":{"Danced":{"steps":3}}}}}"#;
        let done = r#"{"Reply":{"id":3,"result":{"Ok":"Done"}}}"#;
        let (reply, _) = against(&[&[hello], &[odd], &[done]], async |link| {
            link.hello().await.unwrap();
            let error = link.call(Request::State).await.unwrap_err().to_string();
            assert!(error.contains("not known in version"), "{error}");
            link.call(Request::Delete { id: "c".into() }).await.unwrap().reply
        })
        .await;
        assert_eq!(reply, Reply::Done);
    }

    #[tokio::test]
    async fn a_shim_that_has_forgotten_our_versions_is_told_apart_from_one_that_fails() {
        let hello = format!(
            r#"{{"Reply":{{"id":1,"result":{{"Ok":{{"Hello":{{"version":99,"oldest":{},"pid":7,"pause_pid":null}}}}}}}}}}"#,
            VERSION + 1
        );
        let (greeted, _) = against(&[&[&hello]], async |link| link.hello().await).await;
        assert!(matches!(greeted, Err(GreetError::Foreign { version: 99, .. })), "{greeted:?}");
        let refusal = r#"{"Reply":{"id":1,"result":{"Err":{"kind":"Unsupported","message":"no"}}}}"#;
        let (greeted, _) = against(&[&[refusal]], async |link| link.hello().await).await;
        assert!(matches!(greeted, Err(GreetError::Foreign { .. })), "{greeted:?}");
        let failure = r#"{"Reply":{"id":1,"result":{"Err":{"kind":"Host","message":"no"}}}}"#;
        let (greeted, _) = against(&[&[failure]], async |link| link.hello().await).await;
        assert!(matches!(greeted, Err(GreetError::Failed(_))), "{greeted:?}");
    }
}
