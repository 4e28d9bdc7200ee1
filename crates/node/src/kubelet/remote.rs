//! exec and attach over WebSocket channels, or SPDY for old clients.
//!
//! ```text
//! client ─ channels ─▶ Input ──▶ stdin, window size
//!        ◀─ channels ─ (1|2, bytes) ── stdout, stderr
//!        ◀─ channel 3 ─ Status ── exit code
//! ```

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use runtime::{AttachOptions, Error, ExecOptions, Streams};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::timeout;
use wire::websocket::{self, Frame};
use wire::{Request, Response, spdy};

use super::fds::{End, resize};
use super::{Query, text};
use crate::shared::Shared;

// As every version of the channel protocol numbers them.
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;

/// Parts of output on their way to the client; a slow client holds the container up, as a pipe would.
const OUTPUT_QUEUE: usize = 8;
/// Parts of input on their way to the container.
const INPUT_QUEUE: usize = 8;
/// How long SPDY clients may take to open their streams.
const OPEN_WITHIN: Duration = Duration::from_secs(30);
/// How long output may follow the exit: a child that was left behind may hold the pipe for ever.
const DRAIN_WITHIN: Duration = Duration::from_secs(2);

/// What is to be joined.
enum Job {
    Exec(ExecOptions),
    Attach(AttachOptions),
}

/// What the client sends.
enum Input {
    Bytes(Bytes),
    End,
    Resize(u16, u16),
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Size {
    width: u16,
    height: u16,
}

/// `/exec`.
pub(super) fn exec(node: Arc<Shared>, request: Request, id: String, query: &Query) -> Response {
    let options = ExecOptions {
        command: query.all("command"),
        tty: query.flag(&["tty"]),
        stdin: query.flag(&["input", "stdin"]),
        stdout: query.flag(&["output", "stdout"]),
        stderr: query.flag(&["error", "stderr"]),
    };
    // One stream carries both with a terminal.
    let options = ExecOptions { stderr: options.stderr && !options.tty, ..options };
    let wanted = (options.stdin, options.stdout, options.stderr);
    if wanted == (false, false, false) {
        return text(StatusCode::BAD_REQUEST, "you must specify at least 1 of stdin, stdout, stderr");
    }
    open(Session { node, id, job: Job::Exec(options), wanted }, request)
}

/// `/attach`.
pub(super) fn attach(node: Arc<Shared>, request: Request, id: String, query: &Query) -> Response {
    let options = AttachOptions {
        stdin: query.flag(&["input", "stdin"]),
        stdout: query.flag(&["output", "stdout"]),
        stderr: query.flag(&["error", "stderr"]),
    };
    let wanted = (options.stdin, options.stdout, options.stderr);
    if wanted == (false, false, false) {
        return text(StatusCode::BAD_REQUEST, "you must specify at least 1 of stdin, stdout, stderr");
    }
    open(Session { node, id, job: Job::Attach(options), wanted }, request)
}

/// Answers the upgrade; the session goes on until its connection ends, or the listener.
fn open(session: Session, mut request: Request) -> Response {
    if websocket::is_upgrade(&request) {
        return match websocket::accept(&mut request, websocket::REMOTE_COMMAND) {
            Ok((response, pending)) => {
                pending.sessions().spawn(async move { ended(session.over_websocket(pending).await) });
                response
            }
            Err(refused) => text(refused.status(), refused.to_string()),
        };
    }
    if spdy::is_upgrade(&request) {
        return match spdy::accept(&mut request, spdy::REMOTE_COMMAND) {
            Ok((response, pending)) => {
                pending.sessions().spawn(async move { ended(session.over_spdy(pending).await) });
                response
            }
            Err(refused) => refused,
        };
    }
    text(StatusCode::BAD_REQUEST, "unable to upgrade: missing upgrade headers in request")
}

fn ended(result: io::Result<()>) {
    if let Err(error) = result {
        tracing::debug!(%error, "a session with a container broke");
    }
}

/// One exec or attach.
struct Session {
    node: Arc<Shared>,
    id: String,
    job: Job,
    wanted: (bool, bool, bool),
}

impl Session {
    async fn streams(&self) -> Result<Streams, Error> {
        match &self.job {
            Job::Exec(options) => self.node.runtime.exec(&self.id, options.clone()).await,
            Job::Attach(options) => self.node.runtime.attach(&self.id, *options).await,
        }
    }

    /// Runs to the end; what the error channel is told.
    async fn run(&self, input: mpsc::Receiver<Input>, output: &mpsc::Sender<(u8, Bytes)>) -> Value {
        let streams = match self.streams().await {
            Ok(streams) => streams,
            Err(err) => return self.start_failed(&err),
        };
        match (drive(streams, input, output).await, &self.job) {
            // Whoever attaches watches a process that is not theirs: its exit code is no failure of the attaching.
            (Ok(Some(code)), Job::Exec(_)) if code != 0 => exit_status(code),
            (Ok(_), _) => json!({"metadata": {}, "status": "Success"}),
            (Err(err), _) => internal_error(&format!("error executing command in container: {err}")),
        }
    }

    fn start_failed(&self, err: &Error) -> Value {
        let verb = match self.job {
            Job::Exec(_) => "executing command in",
            Job::Attach(_) => "attaching to",
        };
        let cause = match err {
            // containerd's and runc's words around it, which scripts look for.
            Error::Start { message } => format!(
                "failed to exec in container: failed to start exec {:?}: OCI runtime exec failed: exec failed: \
                 unable to start container process: {message}: unknown",
                random_id()
            ),
            other => other.to_string(),
        };
        // Upstream's API server wraps what the node's status says once more.
        internal_error(&format!("Internal error occurred: error {verb} container: {cause}"))
    }

    async fn over_websocket(self, pending: websocket::Pending) -> io::Result<()> {
        let socket = pending.connect().await?;
        // Before version 4 the error channel carried plain text, and nobody reads a Status there.
        let structured = !matches!(
            socket.protocol(),
            "v3.channel.k8s.io" | "v2.channel.k8s.io" | "channel.k8s.io" | "base64.channel.k8s.io" | ""
        );
        let (mut reader, mut writer) = socket.channels();
        let (to_container, input) = mpsc::channel(INPUT_QUEUE);
        let (output, mut to_client) = mpsc::channel::<(u8, Bytes)>(OUTPUT_QUEUE);
        // The client knows by this that the stream is up.
        writer.send(self.lowest_channel(), b"").await?;
        let receive = async {
            while let Some(Ok(frame)) = reader.next().await {
                let Some(input) = input_of(frame) else { continue };
                if to_container.send(input).await.is_err() {
                    // The container reads no more; the client may still close or ping.
                    continue;
                }
            }
        };
        let send = async {
            while let Some((channel, bytes)) = to_client.recv().await {
                writer.send(channel, &bytes).await?;
            }
            writer.close().await
        };
        let run = async {
            let status = self.run(input, &output).await;
            if let Some(last) = last_words(&status, structured) {
                let _ = output.send((ERROR, last)).await;
            }
            drop(output);
        };
        tokio::select! {
            // The session is over when all is sent; a client that goes away ends it at once.
            ((), sent) = futures_util::future::join(run, send) => sent,
            () = receive => Ok(()),
        }
    }

    fn lowest_channel(&self) -> u8 {
        match self.wanted {
            // Of those that this session has: a client drops what comes on a channel it did not ask for.
            (_, true, _) => STDOUT,
            (_, false, true) => STDERR,
            _ => ERROR,
        }
    }

    async fn over_spdy(self, pending: spdy::Pending) -> io::Result<()> {
        // As with channels: a Status since version 4, text before.
        let structured = pending.protocol().starts_with("v4") || pending.protocol().starts_with("v5");
        let (mut session, connection) = spdy::serve(pending.connect().await?);
        let talk = async {
            let mut streams = self.open_streams(&mut session).await?;
            let (to_container, input) = mpsc::channel(INPUT_QUEUE);
            let (output, mut to_client) = mpsc::channel::<(u8, Bytes)>(OUTPUT_QUEUE);
            let stdin = streams.remove(&STDIN).map(|stream| stream.reader);
            let sizes = streams.remove(&RESIZE).map(|stream| stream.reader);
            let mut writers: HashMap<u8, _> =
                streams.into_iter().map(|(channel, stream)| (channel, stream.writer)).collect();
            let receive = futures_util::future::join(
                read_stdin(stdin, &to_container),
                read_sizes(sizes, &to_container),
            );
            let send = async {
                while let Some((channel, bytes)) = to_client.recv().await {
                    if let Some(writer) = writers.get_mut(&channel) {
                        writer.send(bytes).await?;
                    }
                }
                for writer in writers.values_mut() {
                    writer.finish().await?;
                }
                io::Result::Ok(())
            };
            let run = async {
                let status = self.run(input, &output).await;
                if let Some(last) = last_words(&status, structured) {
                    let _ = output.send((ERROR, last)).await;
                }
                drop(output);
            };
            let work = futures_util::future::join(run, send);
            tokio::pin!(work, receive);
            tokio::select! {
                ((), sent) = &mut work => sent,
                // No more input is no end: output may follow.
                _ = &mut receive => work.await.1,
            }
        };
        tokio::select! {
            done = talk => done,
            broken = connection => broken,
        }
    }

    /// Waits for the streams that the client must open.
    async fn open_streams(&self, session: &mut spdy::Session) -> io::Result<HashMap<u8, spdy::Stream>> {
        let (stdin, stdout, stderr) = self.wanted;
        let tty = matches!(&self.job, Job::Exec(options) if options.tty);
        // The error stream is always there, and a terminal has one for the sizes of its window.
        let expected = 1 + [stdin, stdout, stderr, tty].into_iter().filter(|wanted| *wanted).count();
        let mut streams = HashMap::new();
        let open = async {
            while streams.len() < expected {
                let Some(stream) = session.accept().await else { break };
                let channel = match stream.headers.get("streamtype") {
                    Some("stdin") => STDIN,
                    Some("stdout") => STDOUT,
                    Some("stderr") => STDERR,
                    Some("error") => ERROR,
                    Some("resize") => RESIZE,
                    _ => {
                        // Refused and not ignored: the client waits for an answer to each stream it opens.
                        stream.refuse().await?;
                        continue;
                    }
                };
                stream.reply().await?;
                streams.insert(channel, stream);
            }
            io::Result::Ok(())
        };
        match timeout(OPEN_WITHIN, open).await {
            Ok(done) => done.map(|()| streams),
            Err(_) => {
                Err(io::Error::new(io::ErrorKind::TimedOut, "timed out waiting for client to create streams"))
            }
        }
    }
}

fn input_of(frame: Frame) -> Option<Input> {
    match frame {
        Frame::Data { channel: STDIN, bytes } => Some(Input::Bytes(bytes)),
        Frame::Close { channel: STDIN } => Some(Input::End),
        Frame::Data { channel: RESIZE, bytes } => size_of(&bytes),
        Frame::Data { .. } | Frame::Close { .. } => None,
    }
}

fn size_of(json: &[u8]) -> Option<Input> {
    serde_json::from_slice::<Size>(json).ok().map(|size| Input::Resize(size.width, size.height))
}

async fn read_stdin(reader: Option<spdy::StreamReader>, to_container: &mpsc::Sender<Input>) {
    let Some(mut reader) = reader else { return };
    while let Some(Ok(bytes)) = reader.next().await {
        if to_container.send(Input::Bytes(bytes)).await.is_err() {
            return;
        }
    }
    let _ = to_container.send(Input::End).await;
}

async fn read_sizes(reader: Option<spdy::StreamReader>, to_container: &mpsc::Sender<Input>) {
    let Some(mut reader) = reader else { return };
    while let Some(Ok(bytes)) = reader.next().await {
        if let Some(size) = size_of(&bytes) {
            let _ = to_container.send(size).await;
        }
    }
}

/// Moves bytes until the process has ended and its output is out. `None`: nobody knows its code.
async fn drive(
    streams: Streams,
    input: mpsc::Receiver<Input>,
    output: &mpsc::Sender<(u8, Bytes)>,
) -> io::Result<Option<i32>> {
    let Streams { stdin, stdout, stderr, terminal, exit } = streams;
    let end = |fd: Option<std::os::fd::OwnedFd>| fd.map(End::new).transpose();
    let (stdin, stdout, stderr) = (end(stdin)?, end(stdout)?, end(stderr)?);
    let feed = feed(stdin, terminal, input);
    let drain = futures_util::future::join(copy(stdout, STDOUT, output), copy(stderr, STDERR, output));
    tokio::pin!(feed, drain, exit);
    let mut drained = false;
    let mut fed = false;
    let code = loop {
        tokio::select! {
            code = &mut exit => break code.ok(),
            _ = &mut drain, if !drained => drained = true,
            () = &mut feed, if !fed => fed = true,
        }
    };
    if !drained {
        let _ = timeout(DRAIN_WITHIN, drain).await;
    }
    Ok(code)
}

/// Writes input; the end of input closes stdin.
async fn feed(
    mut stdin: Option<End>,
    terminal: Option<std::os::fd::OwnedFd>,
    mut input: mpsc::Receiver<Input>,
) {
    while let Some(next) = input.recv().await {
        match (next, &stdin) {
            (Input::Bytes(bytes), Some(end)) => {
                if end.write_all(&bytes).await.is_err() {
                    stdin = None;
                }
            }
            (Input::End, _) => stdin = None,
            (Input::Resize(width, height), _) => {
                let resized = terminal.as_ref().map(|terminal| resize(terminal, width, height));
                if let Some(Err(error)) = resized {
                    tracing::debug!(%error, "a terminal keeps its size");
                }
            }
            (Input::Bytes(_), None) => {}
        }
    }
}

async fn copy(from: Option<End>, channel: u8, output: &mpsc::Sender<(u8, Bytes)>) {
    let Some(from) = from else { return };
    while let Ok(bytes) = from.read().await {
        if bytes.is_empty() || output.send((channel, bytes)).await.is_err() {
            return;
        }
    }
}

/// What goes on the error channel: a Status since v4, before that the text of a failure.
fn last_words(status: &Value, structured: bool) -> Option<Bytes> {
    if structured {
        return Some(status.to_string().into());
    }
    status["message"].as_str().map(|message| message.to_string().into())
}

fn exit_status(code: i32) -> Value {
    json!({
        "metadata": {},
        "status": "Failure",
        "message": format!("command terminated with non-zero exit code: exit status {code}"),
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
    })
}

fn internal_error(cause: &str) -> Value {
    json!({
        "metadata": {},
        "status": "Failure",
        "message": format!("Internal error occurred: {cause}"),
        "reason": "InternalError",
        "details": {"causes": [{"message": cause}]},
        "code": 500,
    })
}

/// 64 hexadecimal digits, as containerd names an exec.
fn random_id() -> String {
    let mut bytes = [0_u8; 32];
    // Without randomness the name is all zeros, which harms nobody.
    let _ = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
