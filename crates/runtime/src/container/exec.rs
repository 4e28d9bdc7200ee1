//! Further commands in a container, and the streams of its own process.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use shim::protocol::{ExecSpec, Reply, Request};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::time::{Instant, timeout, timeout_at};

use super::Container;
use crate::clock::random_id;
use crate::interface::{AttachOptions, Error, ExecOptions, ExecOutput, Streams};
use crate::link::{Answer, unexpected};
use crate::sandbox::Sandbox;

/// What `exec_sync` keeps of each stream: what the kubelet shows of a probe's output. The rest is
/// read, so that the command can end, and forgotten at once.
const OUTPUT_MAX: usize = 10 << 10;
const SIGKILL: i32 = 9;
/// How long output is read after the command has ended: something that it left in the
/// background may hold the pipe open for ever.
const DRAIN_MAX: Duration = Duration::from_secs(1);

/// Runs a command in a running container.
pub(crate) async fn exec(
    sandbox: &Sandbox,
    container: &Container,
    options: ExecOptions,
) -> Result<Streams, Error> {
    Ok(begin(sandbox, container, options).await?.streams)
}

struct Begun {
    id: String,
    streams: Streams,
}

async fn begin(sandbox: &Sandbox, container: &Container, options: ExecOptions) -> Result<Begun, Error> {
    if !container.is_running() {
        return Err(Error::NotRunning { id: container.id().to_owned() });
    }
    let id = random_id::<16>()?;
    // Before the request: a short command may end before the reply is seen.
    let exit = sandbox.expect_exec(&id);
    let ExecOptions { command, tty, stdin, stdout, stderr } = options;
    let spec = ExecSpec {
        container: container.id().to_owned(),
        id: id.clone(),
        argv: command,
        env: Vec::new(),
        tty,
        stdin,
        stdout,
        stderr,
    };
    let answer = match sandbox.link()?.call(Request::Exec(Box::new(spec))).await {
        Ok(answer) => answer,
        Err(error) => {
            sandbox.forget_exec(&id);
            return Err(error);
        }
    };
    let Answer { reply: Reply::Exec { .. }, fds } = answer else { return Err(unexpected(&answer.reply)) };
    let mut streams = Streams { stdin: None, stdout: None, stderr: None, terminal: None, exit };
    let mut fds = fds.into_iter();
    if tty {
        spread_terminal(&mut streams, fds.next(), stdin, stdout)?;
    } else {
        streams.stdin = if stdin { fds.next() } else { None };
        streams.stdout = if stdout { fds.next() } else { None };
        streams.stderr = if stderr { fds.next() } else { None };
    }
    Ok(Begun { id, streams })
}

/// One descriptor of the terminal becomes as many as there are users of it.
fn spread_terminal(
    streams: &mut Streams,
    terminal: Option<OwnedFd>,
    stdin: bool,
    stdout: bool,
) -> Result<(), Error> {
    let terminal = terminal.ok_or_else(|| Error::host("failed to exec", "the shim sent no terminal"))?;
    let copy = || terminal.try_clone().map_err(|e| Error::host("failed to exec", e));
    streams.stdin = if stdin { Some(copy()?) } else { None };
    streams.stdout = if stdout { Some(copy()?) } else { None };
    streams.terminal = Some(terminal);
    Ok(())
}

/// Runs a command, waits, and returns what it said.
pub(crate) async fn exec_sync(
    sandbox: &Sandbox,
    container: &Container,
    command: Vec<String>,
    limit: Option<Duration>,
) -> Result<ExecOutput, Error> {
    let shown = command.join(" ");
    let options = ExecOptions { command, tty: false, stdin: false, stdout: true, stderr: true };
    let deadline = limit.map(|limit| Instant::now() + limit);
    let begun = begin(sandbox, container, options).await?;
    let running = collect(begun.streams);
    let Some(deadline) = deadline else { return running.await };
    match timeout_at(deadline, running).await {
        Ok(output) => output,
        Err(_) => {
            // The reader of its output is dropped; what is left is to end the command.
            sandbox.link()?.call(Request::SignalExec { id: begun.id, signal: SIGKILL }).await?;
            Err(Error::DeadlineExceeded { command: shown })
        }
    }
}

async fn collect(streams: Streams) -> Result<ExecOutput, Error> {
    let failed = |e: io::Error| Error::host("failed to read the output of a command", e);
    let stdout = Reader::new(streams.stdout).map_err(failed)?;
    let stderr = Reader::new(streams.stderr).map_err(failed)?;
    let mut output = ExecOutput::default();
    let ended = {
        let reading = async {
            tokio::try_join!(stdout.read_into(&mut output.stdout), stderr.read_into(&mut output.stderr))
        };
        tokio::pin!(reading);
        let mut exit = streams.exit;
        let mut all_read = false;
        // Cancel-safe: `reading` is pinned outside and continues, `exit` keeps its value.
        let ended = loop {
            tokio::select! {
                done = &mut reading, if !all_read => {
                    done.map_err(failed)?;
                    all_read = true;
                }
                code = &mut exit => break code,
            }
        };
        if !all_read {
            // Elapsed: somebody else holds the pipe, and what the command said has been read.
            if let Ok(done) = timeout(DRAIN_MAX, &mut reading).await {
                done.map_err(failed)?;
            }
        }
        ended
    };
    output.exit_code = ended.map_err(|_| Error::host("failed to wait for a command", "the shim is gone"))?;
    Ok(output)
}

/// A pipe's end.
struct Reader(Option<pipe::Receiver>);

impl Reader {
    fn new(fd: Option<OwnedFd>) -> io::Result<Self> {
        fd.map(pipe::Receiver::from_owned_fd_unchecked).transpose().map(Reader)
    }

    async fn read_into(self, into: &mut Vec<u8>) -> io::Result<()> {
        let Some(mut pipe) = self.0 else { return Ok(()) };
        let mut buffer = vec![0; 16 << 10];
        loop {
            let got = pipe.read(&mut buffer).await?;
            if got == 0 {
                return Ok(());
            }
            let room = OUTPUT_MAX.saturating_sub(into.len());
            into.extend_from_slice(&buffer[..got.min(room)]);
        }
    }
}

/// Joins the streams of the container's own process.
pub(crate) async fn attach(
    sandbox: &Sandbox,
    container: &Container,
    options: AttachOptions,
) -> Result<Streams, Error> {
    if !container.is_running() {
        return Err(Error::NotRunning { id: container.id().to_owned() });
    }
    let exit = container.exit_code();
    let AttachOptions { stdin, stdout, stderr } = options;
    let stdin = stdin && container.record.config.stdin;
    let request = Request::Attach { id: container.id().to_owned(), stdin, stdout, stderr };
    let Answer { reply, fds } = sandbox.link()?.call(request).await?;
    let Reply::Attached { tty } = reply else { return Err(unexpected(&reply)) };
    let mut fds = fds.into_iter();
    Ok(Streams {
        stdin: if stdin { fds.next() } else { None },
        stdout: if stdout { fds.next() } else { None },
        stderr: if stderr && !tty { fds.next() } else { None },
        terminal: if tty { fds.next() } else { None },
        exit,
    })
}
