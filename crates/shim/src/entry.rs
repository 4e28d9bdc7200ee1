//! The shim's own begin and end.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use sys::cgroup::{Hierarchy, Resources};
use sys::process::{self, SingleThreaded};
use sys::{Context, Errno};

use crate::client::LOG;
use crate::codec::{Decoder, encode};
use crate::protocol::{Failure, FailureKind, Message, Reply, Request, SandboxSpec};
use crate::sandbox;
use crate::server::Shim;

/// How unlikely the kernel shall kill a shim for memory.
const OOM_SCORE_ADJ: i32 = -998;

/// Runs the shim of one sandbox and never returns. `arguments` are those behind the word
/// `shim`: the sandbox directory. Standard input is the start connection. Call it before
/// anything makes a thread.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ! {
    let mut arguments = arguments.into_iter();
    let (Some(directory), None) = (arguments.next(), arguments.next()) else { process::exit_now(2) };
    let directory = PathBuf::from(directory);
    tell_panics(&directory);
    let code = match run(&directory) {
        Ok(()) => 0,
        Err(failure) => {
            last_words(&directory, &failure);
            1
        }
    };
    process::exit_now(code)
}

/// A panic is a fault of ours; its words must not go where nobody reads.
fn tell_panics(directory: &Path) {
    let directory = directory.to_path_buf();
    std::panic::set_hook(Box::new(move |panic| {
        last_words(&directory, &Failure::new(FailureKind::Host, panic.to_string()));
    }));
}

/// A shim has no terminal and no daemon that reads what it prints.
fn last_words(directory: &Path, failure: &Failure) {
    let file = OpenOptions::new().create(true).append(true).open(directory.join(LOG));
    if let Ok(mut file) = file {
        let _ = writeln!(file, "{} {failure}", crate::clock::Rfc3339(crate::clock::now()));
    }
}

fn run(directory: &Path) -> Result<(), Failure> {
    let proof = SingleThreaded::prove()?;
    process::set_name(c"monopod-shim");
    // Nor are its children: what becomes a container's process must not be looked into by others
    // of the Pod while it may still do more than they.
    process::forbid_inspection();
    let start = take_start_connection()?;
    // Not of the daemon's session: its terminal's signals are not ours. A shim started by hand
    // as the leader of a group is one already.
    let _ = rustix::process::setsid();
    process::become_subreaper()?;
    // As containerd's shim: the one process that must not die for its Pod's appetite.
    sys::limits::set_oom_score_adj(OOM_SCORE_ADJ)?;
    let (id, spec) = receive_open(&start)?;
    match open(proof, directory, &spec) {
        Ok(mut shim) => {
            answer(&start, id, Ok(shim.hello()))?;
            shim.adopt(start)?;
            Ok(shim.run()?)
        }
        Err(failure) => {
            answer(&start, id, Err(failure.clone()))?;
            Err(failure)
        }
    }
}

/// The start connection is standard input; what programs inherit instead is /dev/null.
fn take_start_connection() -> Result<OwnedFd, Failure> {
    let start =
        rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3).attempt(|| "take standard input")?;
    let null = rustix::fs::open("/dev/null", rustix::fs::OFlags::RDWR, rustix::fs::Mode::empty());
    let null = null.on("open", "/dev/null")?;
    process::set_standard_streams(null.as_fd(), null.as_fd(), null.as_fd())?;
    Ok(start)
}

/// The first request, which must say what sandbox to make.
fn receive_open(start: &OwnedFd) -> Result<(u64, SandboxSpec), Failure> {
    let mut decoder = Decoder::default();
    let mut bytes = [0; 4096];
    loop {
        let message = decoder.next_message().map_err(|error| invalid(error.to_string()))?;
        match message {
            Some(Ok(Message::Request { id, request: Request::Open(spec) })) => return Ok((id, spec)),
            Some(_) => return Err(invalid("the first request must be Open")),
            None => {}
        }
        let length = sys::socket::receive(start, &mut bytes, &mut Vec::new())
            .attempt(|| "read the start connection")?;
        if length == 0 {
            return Err(invalid("the start connection was closed before Open"));
        }
        decoder.push(&bytes[..length]);
    }
}

fn invalid(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Invalid, message)
}

fn answer(start: &OwnedFd, id: u64, result: Result<Reply, Failure>) -> Result<(), Failure> {
    let frame = encode(&Message::Reply { id, result }).map_err(|error| invalid(error.to_string()))?;
    match sys::socket::send(start, &frame, &[]) {
        // A daemon that died meanwhile finds the sandbox by its directory.
        Ok(_) | Err(Errno::PIPE) => Ok(()),
        Err(errno) => Err(sys::Error::new("answer the daemon", errno).into()),
    }
}

/// Makes the sandbox: the shim's own cgroup, its namespaces, the shared PID 1, its socket.
fn open(proof: SingleThreaded, directory: &Path, spec: &SandboxSpec) -> Result<Shim, Failure> {
    let cgroups = Hierarchy::detect()?;
    if let Some(path) = &spec.cgroup {
        if !sys::cgroup::is_path(path) {
            return Err(invalid(format!("cgroup path {path:?} is not a relative path")));
        }
        let group = cgroups.group(path);
        group.create(&Resources::default())?;
        group.attach(rustix::process::getpid().as_raw_nonzero().get())?;
    }
    let users = sandbox::enter(&proof, spec)?;
    let reaper = if spec.shared_pid { Some(crate::reaper::make(&proof, directory)?) } else { None };
    // Only the first two are acted on. The others end a process that does not expect them; a shim
    // ends when its sandbox does.
    let signals = [libc::SIGCHLD, libc::SIGIO, libc::SIGTERM, libc::SIGINT, libc::SIGHUP];
    let signals = process::signal_descriptor(&signals)?;
    Ok(Shim::new(proof, directory, cgroups, (reaper, users), signals)?)
}
